"""Runs on file that are killed, interrupted, starved of disk: what `test_promises` asserts and `reliability` prints.

    python tests/survival.py PROMISE FOLDER SIZE [SEED]     prints a JSON line: what was counted

Each promise is tried by a process of its own, which imports the package once and forks a child for each run; a child
ends as any interpreter does, so its exit code is real. A child tells each flushed row and each step down a pipe.
"""

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import psutil
from on_file import differing, digests, problem, state

import meanfield as mf
from meanfield import _signals
from meanfield.batches import minibatch
from meanfield.errors import FileError
from meanfield.output import Output
from meanfield.simulation import resume
from meanfield.trajectories.checkpoint import read_checkpoint
from meanfield.trajectories.recording import Recording
from meanfield.trajectories.writer import Writer

N, DIM, ENOSPC_EXIT = 16, 2, 74
NETWORK = mf.Network("tanh", mf.Scaling(1.3))
FEW, MANY = 0.06 * np.arange(61), np.linspace(0.0, 10.0, 301)
EULER = {"scheme": "euler", "dt": 0.01}

# Runs of some tenths of a second: times, arguments of `simulate`, options of `Output`, kind.
RUNS = {
    "many small frames": (MANY, {
        "record": ["risk", "loss", "displacement", "test_risk"], "record_times": np.linspace(0.0, 10.0, 201)}, {}, ""),
    "dopri5": (FEW, {"record": ["risk", "kernel_drift"], "rtol": 1e-10, "atol": 1e-12}, {"velocities": True}, ""),
    "temperature": (FEW, EULER | {"temperature": 0.1, "noise_seed": 3}, {}, ""),
    "minibatch": (FEW, EULER | {"batches": minibatch(5, seed=4)}, {}, ""),
    "coupled": (FEW, {"rtol": 1e-10, "atol": 1e-12}, {}, "coupled"),
    "keep last": (FEW, {"keep": "last", "momentum": 0.2, "record": ["risk"], "rtol": 1e-9}, {}, ""),
    "live": (FEW, {"record": ["risk"], "scheme": "rk4", "dt": 0.013}, {"live": True}, ""),
}  # fmt: skip


def run(name, path, **output):
    """One of RUNS, from its beginning."""
    times, arguments, options, kind = RUNS[name]
    start = mf.initial.gaussian(N, DIM, seed=2)
    out = Output(path, **{"checkpoint_seconds": 0.02} | options | output)
    simulate = mf.simulate_coupled if kind == "coupled" else mf.simulate
    simulate(NETWORK, problem(weights=False), start, times, out=out, **arguments)


def go_on(name, path):
    """As `run`, or the rest of it where it has begun."""
    if path.exists():
        resume(path, checkpoint_seconds=0.02)
    else:
        run(name, path)


# Children

_pipe = None


def say(line):
    if _pipe is not None:
        os.write(_pipe, f"{line}\n".encode())


def _listening():
    """Let rows, steps and signals be told, once they are there."""
    append, after_step, note = Writer.append, Recording.after_step, _signals.Deferred._note

    def appended(self, name, *rest):
        append(self, name, *rest)
        say(f"row {name} {self.counts[name]}")

    def stepped(self, step, *rest):
        say(f"step {step}")
        after_step(self, step, *rest)

    def noted(self, *rest):
        say("signal")
        note(self, *rest)

    Writer.append, Recording.after_step, _signals.Deferred._note = appended, stepped, noted


class Child:
    """A forked process that calls `function`; what it said is in `said`."""

    def __init__(self, log, function, *args, **more):
        global _pipe
        sys.stdout.flush()
        self._end, told = os.pipe()
        self.said, self._rest = [], b""
        self.pid = os.fork()
        if self.pid:
            os.close(told)
            os.set_blocking(self._end, False)
            return
        os.close(self._end)
        _pipe = told
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        try:
            function(*args, **more)
        except FileError as problem:
            say(f"error {problem}")
            sys.exit(ENOSPC_EXIT)
        sys.exit(0)

    def listen(self, seconds=60.0, until=""):
        """Hear what it says for so long, until a line begins with `until`, or it ends; whether it has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                raw = os.read(self._end, 2**16)
            except BlockingIOError:
                time.sleep(0.0005)
                continue
            if not raw:
                return True
            *lines, self._rest = (self._rest + raw).split(b"\n")
            self.said += [line.decode() for line in lines]
            if until and any(line.decode().startswith(until) for line in lines):
                return False
        return False

    def ended(self):
        """Its exit code, as subprocess has it, when all it said is heard."""
        if not self.listen():
            os.kill(self.pid, signal.SIGKILL)
            self.said.append("error: hung for a minute")
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._end)
        return code

    def rows(self):
        """Number of the last row told, by series."""
        found = {}
        for line in self.said:
            if line.startswith("row "):
                _, name, count = line.split()
                found[name] = max(found.get(name, 0), int(count))
        return found

    def steps(self):
        return [int(line.split()[1]) for line in self.said if line.startswith("step ")]


# What a file has to say


def rows(path):
    """Whole rows by series, read by plain h5py; the CRC of each is computed as docs/format.md says."""
    with h5py.File(path, "r", swmr=_is_live(path)) as file:
        described = json.loads(file["parameters/settings"][()])
        records = [each if isinstance(each, str) else each["own"] for each in described["run"]["record"]]
        moving = ["particles/neurons/position", "particles/neurons/velocity"]
        seen = [f"observables/{name}" for name in ("predictions", "test_predictions", "residuals")]
        last = described["run"]["keep"] == "last"
        columns = {"frames": seen if last else moving + seen, "records": [f"observables/{name}" for name in records]}
        columns |= {"last": moving} if last else {}
        found = {}
        for name, paths in columns.items():
            if f"meanfield/integrity/{name}" not in file:
                continue
            crc = file[f"meanfield/integrity/{name}"][()]
            prefix = {"frames": "", "records": "record_", "last": "last_"}[name]
            step, moment = file[f"{prefix}step"], file[f"{prefix}time"]
            values = [file[f"{each}/value"][: len(crc)] for each in paths if f"{each}/value" in file]
            whole = 0
            for i, each in enumerate(crc):
                raw = step[i].tobytes() + moment[i].tobytes() + b"".join(value[i].tobytes() for value in values)
                if zlib.crc32(raw) != each:
                    break
                whole += 1
            found[name] = whole
        return found


def _is_live(path):
    """A file of the layout with readers beside the writer has a superblock of version 3."""
    return path.read_bytes()[8] == 3


def _lost(told, there):
    return sum(max(0, count - there.get(name, 0)) for name, count in told.items())


# Promises: each counts what was tried and what went wrong


def kills(folder, count, rng):
    """P1: a row that was flushed is not lost to SIGKILL."""
    told = lost = unreadable = 0
    for i in range(count):
        path = folder / f"{i}.h5"
        child = Child(folder / "log", run, "many small frames", path, checkpoint_seconds=0.05)
        if not child.listen(until="row"):
            child.listen(rng.uniform(0.0, 0.6))
        os.kill(child.pid, signal.SIGKILL)
        child.ended()
        told += sum(child.rows().values())
        try:
            lost += _lost(child.rows(), rows(path))
        except OSError:
            unreadable += 1
        path.unlink()
    return {"tried": count, "rows told": told, "rows lost": lost, "unreadable": unreadable}


def chains(folder, count, rng):
    """P2: killed and resumed until it ends, a run is the one that was never killed."""
    kinds, killed, ran, different, failed, most = list(RUNS)[1:] + list(RUNS)[:1], 0, 0, [], 0, 0
    for name in kinds:
        run(name, folder / f"{name}.h5")
    while killed < count:
        name = kinds[ran % len(kinds)]
        path, here, patience = folder / f"chain-{ran}.h5", 0, 0.3
        while True:
            child = Child(folder / "log", go_on, name, path)
            over = child.listen(until="step") or child.listen(rng.uniform(0.0, patience))
            if not over:
                os.kill(child.pid, signal.SIGKILL)
                here += 1
            code = child.ended()
            if code == 0:
                break
            if over and code != -signal.SIGKILL:
                failed += 1
                break
            patience *= 1.15  # on a busy machine a checkpoint may take longer than a child lives
        killed, ran, most = killed + here, ran + 1, max(most, here)
        if code or (found := differing(digests(folder / f"{name}.h5"), digests(path))):
            different.append([name, [] if code else found])
    return {
        "tried": killed, "runs": ran, "most kills of one run": most, "failed": failed, "different": len(different),
        "which": different,
    }  # fmt: skip


def signals(folder, count, rng):
    """P17: SIGINT and SIGTERM: a checkpoint within one step, the signal's exit, and the same bits when resumed."""
    whole, wrong_exit, late, different, over = folder / "whole.h5", 0, 0, 0, 0
    run("many small frames", whole)
    for i in range(count):
        path, number = folder / f"{i}.h5", (signal.SIGINT, signal.SIGTERM)[i % 2]
        child = Child(folder / "log", run, "many small frames", path, checkpoint_seconds=1e9)
        child.listen(until="step")
        child.listen(rng.uniform(0.0, 0.4))
        os.kill(child.pid, number)
        wrong_exit += child.ended() != -number
        at = child.said.index("signal") if "signal" in child.said else None
        over += state(path)["status"] == "complete"
        late += at is None or sum(line.startswith("step") for line in child.said[at:]) > 1
        late += read_checkpoint(path.with_suffix(".ckpt"))[1]["schedule"]["accepted"] != child.steps()[-1]
        resume(path)
        different += bool(differing(digests(whole), digests(path)))
        path.unlink()
    return {
        "tried": count, "wrong exit": wrong_exit, "later than one step": late, "over before": over,
        "different": different,
    }  # fmt: skip


def _mount(folder, size):
    """A small disk at `folder`, or the reason why there is none."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as problem:
        return str(problem)
    return done.stderr.strip() if done.returncode else ""


def _remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


def _unmount(folder):
    if _pipe is not None:  # a child on its way out
        return
    gc.collect()  # files that are open there
    subprocess.run(["umount", str(folder)], check=True, capture_output=True)


def big_frames(path, n_particles):
    """A run whose frames fill a disk: 8 (1 + DIM) n_particles bytes each."""
    start = mf.initial.gaussian(n_particles, DIM, seed=2)
    out, times = Output(path, checkpoint_seconds=0.0), np.linspace(0.0, 2.0, 101)
    mf.simulate(NETWORK, problem(), start, times, out=out, record=["risk"], rtol=1e-9)


def full(folder, count, rng):
    """P8: the disk full: a typed error, what was flushed is there, and the same bits after room was made."""
    signals_ = untyped = told = lost = different = 0
    for i in range(count):
        disk, n_particles = folder / f"disk-{i}", (1000, 4000)[i % 2]
        # A MiB has to be free at the beginning; from there to too small for the last frames.
        frames = 101 * 8 * (1 + DIM) * n_particles / 1024
        if why := _mount(disk, f"{int(1200 + rng.uniform(0.0, 0.6) * frames)}k"):
            return {"skipped": why}
        try:
            path, whole = disk / "run.h5", folder / f"whole-{n_particles}.h5"
            if not whole.exists():
                big_frames(whole, n_particles)
            child = Child(folder / "log", big_frames, path, n_particles)
            code = child.ended()
            signals_ += code < 0
            untyped += code != ENOSPC_EXIT or "Errno 28" not in child.said[-1]
            lost += _lost(child.rows(), rows(path))
            told += sum(child.rows().values())
            _remount(disk, "size=256m")
            resume(path)
            different += bool(differing(digests(whole), digests(path)))
        finally:
            _unmount(disk)
    return {
        "tried": count, "ended by a signal": signals_, "other error": untyped, "rows told": told, "rows lost": lost,
        "different": different,
    }  # fmt: skip


def read_only(folder, count, rng):
    """P8: a folder that cannot be written: a typed error, at the beginning of a run and of its rest."""
    disk, untyped = folder / "disk", 0
    if why := _mount(disk, "16m"):
        return {"skipped": why}
    try:
        path = disk / "run.h5"
        child = Child(folder / "log", run, "dopri5", path)
        child.listen(until="row")
        os.kill(child.pid, signal.SIGKILL)
        child.ended()
        _remount(disk, "ro")
        for function, args in ((run, ("dopri5", disk / "other.h5")), (resume, (path,))):
            child = Child(folder / "log", function, *args)
            untyped += child.ended() != ENOSPC_EXIT
        _remount(disk, "rw")
        resume(path)
        run("dopri5", folder / "whole.h5")
        different = bool(differing(digests(folder / "whole.h5"), digests(path)))
    finally:
        _unmount(disk)
    return {"tried": 2, "other error": untyped, "different": int(different)}


def removed(folder, count, rng):
    """P8: the folder removed in mid run: a typed error."""
    untyped = signals_ = 0
    for i in range(count):
        here = folder / f"run-{i}"
        here.mkdir()
        child = Child(folder / "log", run, "many small frames", here / "run.h5", checkpoint_seconds=(0.0, 1e9)[i % 2])
        child.listen(until="row")
        child.listen(rng.uniform(0.0, 0.1))
        while here.exists():  # a temporary file may come while it is emptied
            shutil.rmtree(here, ignore_errors=True)
        code = child.ended()
        signals_ += code < 0
        untyped += code != ENOSPC_EXIT
    return {"tried": count, "ended by a signal": signals_, "other error": untyped}


def memory(folder, frames, rng):
    """Peak memory of a process whose run has so many frames, in bytes; VmHWM, which is of this process alone."""
    start = mf.initial.gaussian(1000, DIM, seed=2)
    times = np.linspace(0.0, 1.0, frames)
    size = times.size * start.nbytes
    mf.simulate(NETWORK, problem(), start, times, out=folder / "run.h5", record=["risk"])
    with open("/proc/self/status") as lines:
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return {"frames": frames, "peak": peak, "bytes of frames": size}


def leak(folder, count, rng):
    """P19: memory after a quarter of so many runs on file in one process, and after all of them."""
    process, seen = psutil.Process(), []
    for i in range(count):
        path = folder / "run.h5"
        mf.simulate(NETWORK, problem(), mf.initial.gaussian(N, DIM, seed=i), [0.0, 0.1, 0.2], record=["risk"],
                    out=Output(path, overwrite=True))  # fmt: skip
        resume(path, times=[0.0, 0.1, 0.2, 0.3])
        if i + 1 in (count // 4, count):
            gc.collect()
            seen.append(process.memory_info().rss)
    return {"tried": count, "first": seen[0], "last": seen[1], "growth": seen[1] / seen[0] - 1.0}


def cost(folder, count, rng):
    """P16: a run on file against the same in memory, N = 1e5, 21 frames, by turns in one process.

    ratios : of wall times; of a busy machine they say little
    shares : wall time inside the sink (rows, checkpoints, progress) over the rest of the run's: load stretches both
    """
    inputs = np.random.default_rng(1).standard_normal((300, 10))
    data = mf.Problem(inputs, np.tanh(inputs[:, 0]) + inputs[:, 1])
    start, times = mf.initial.gaussian(100_000, 10, seed=2), np.linspace(0.0, 12.0, 21)
    spent = [0.0]

    def clocked(method):
        def call(*args):
            began = time.perf_counter()
            try:
                return method(*args)
            finally:
                spent[0] += time.perf_counter() - began

        return call

    for name in ("frame", "record", "after_step"):
        setattr(Recording, name, clocked(getattr(Recording, name)))

    def timed(**where):
        began, spent[0] = time.perf_counter(), 0.0
        mf.simulate(NETWORK, data, start, times, record=["risk"], **where)
        return time.perf_counter() - began, spent[0]

    mf.simulate(NETWORK, data, start, [0.1])  # compiled
    ratios, shares, without = [], [], []
    for i in range(count):
        path = folder / "run.h5"
        on_file = {"out": Output(path, overwrite=True)}
        both = [timed(**each) for each in (({"keep": "last"}, on_file) if i % 2 else (on_file, {"keep": "last"}))]
        (kept, _), (written, inside) = both if i % 2 else both[::-1]
        ratios.append(written / kept)
        shares.append(inside / (written - inside))
        without.append(kept)
        path.unlink()
    return {"tried": count, "ratios": ratios, "shares": shares, "seconds": without}


def faults(folder, count, rng):
    """What must be seen: a child that a signal ended, and a row that was told and is not there."""
    path = folder / "run.h5"
    ended = Child(folder / "log", signal.raise_signal, signal.SIGSEGV).ended()
    child = Child(folder / "log", run, "dopri5", path)
    code = child.ended()
    with h5py.File(path, "r+") as file:
        file["particles/neurons/position/value"][-1, 0, 0] += 1e-9
    return {"ended": ended, "ran": code, "rows lost": _lost(child.rows(), rows(path))}


PROMISES = {
    each.__name__: each for each in (kills, chains, signals, full, read_only, removed, memory, leak, cost, faults)
}  # fmt: skip


def attempt(name, folder, size, seed=0, timeout=3000.0):
    """What a promise counted, in a process of its own."""
    command = [sys.executable, __file__, name, str(folder), str(size), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    _listening()
    what, where, how_many, *chosen = sys.argv[1:]
    print(json.dumps(PROMISES[what](Path(where), int(how_many), random.Random(int(chosen[0]) if chosen else 0))))
