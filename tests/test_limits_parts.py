"""The main job in parts: stopped anywhere and gone on from there, it gives the bits of a job that never stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import replace

import h5py
import numpy as np
import pytest

from meanfield import Scaling, _files, simulate
from meanfield.errors import FileError, InputError
from meanfield.experiments import limits as job
from meanfield.trajectories import Part, discard_parts, parts_of, read_arrays, read_part, write_arrays, write_part

# Float32, so that the float64 runs beside it are parts as well.
SETTINGS = job.Settings(
    problem="teacher-student", widths=(8, 16), seeds=3, t_end=0.5, n_times=4, dtype="float32", coupling_widths_to=8,
    w2_widths_to=8,
)  # fmt: skip
RUNS = 2 * 2 * 3 + 2  # of `simulate`: scalings, widths, seeds, and two in float64; those of the limit are not counted
PARTS = 2 + RUNS + 2 * 2 + 3  # the limits, runs, residual as a state, W2


class Stopped(Exception):
    """What stands for the end of a process."""


def flat(tree, path=""):
    """path -> array"""
    found = {}
    for name, value in tree.items():
        found |= flat(value, f"{path}/{name}") if isinstance(value, dict) else {f"{path}/{name}": np.asarray(value)}
    return found


def numbers(report):
    """A report without what two jobs never share."""
    own = ("timings", "date", "parts")
    return json.dumps({name: value for name, value in report.items() if name not in own})


def different(one, two):
    """Names of arrays whose bits, types or shapes differ, and "report"."""
    left, right = flat(one.arrays), flat(two.arrays)
    assert left.keys() == right.keys()
    names = [
        name
        for name in left
        if (left[name].dtype, left[name].shape) != (right[name].dtype, right[name].shape)
        or left[name].tobytes() != right[name].tobytes()
    ]
    alike = numbers(one.report) == numbers(two.report) and one.attributes == two.attributes
    return names if alike else [*names, "report"]


@pytest.fixture(scope="module")
def whole():
    """The job without a stop, and without files."""
    return job.run(SETTINGS)


def counted(monkeypatch):
    """Calls of `simulate` for networks, from now on."""
    calls, plain = [], job.simulate

    def count(*arguments, **options):
        calls.append(arguments)
        return plain(*arguments, **options)

    monkeypatch.setattr(job, "simulate", count)
    return calls


def stop_after(monkeypatch, number):
    """Let the job end, from outside, when so many parts are written."""
    left, lock = [number], threading.Lock()  # runs are in several threads

    def write(*arguments):
        with lock:
            if not left[0]:
                raise Stopped
            left[0] -= 1
            write_part(*arguments)

    monkeypatch.setattr(job, "write_part", write)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, whole):
    """A folder with the parts of a job that was stopped twice, and how many they are."""
    work = tmp_path_factory.mktemp("stopped") / "work"
    with pytest.MonkeyPatch.context() as patch:
        for number in (4, 9):  # among the runs, both times
            stop_after(patch, number)
            with pytest.raises(Stopped):
                job.run(SETTINGS, work=work)
    return work


def copied(stopped, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(stopped, work)
    (place,) = work.iterdir()
    return work, place


def test_a_job_that_was_stopped_twice_gives_the_same_bits(stopped, whole, tmp_path, monkeypatch):
    """No array, no number of the report differs by a bit, and what was finished is not run again."""
    work, place = copied(stopped, tmp_path)
    finished = list(place.rglob("*.h5"))
    assert len(finished) == 13
    runs = len([each for each in finished if each.parts[-3] in ("mf", "ntk")])
    calls, told = counted(monkeypatch), []
    again = job.run(SETTINGS, work=work, tell=told.append)
    assert different(again, whole) == []
    assert len(calls) == RUNS - runs < RUNS
    assert told == [f"going on from 13 of {PARTS} parts in {work}"]
    assert again.report["parts"] == {"all": PARTS, "found": 13} and whole.report["parts"]["found"] == 0
    # All are there now: nothing is run, and nothing differs. `fresh` runs everything.
    calls.clear()
    assert different(job.run(SETTINGS, work=work), whole) == [] and calls == []
    assert job.run(SETTINGS, work=work, fresh=True).report["parts"]["found"] == 0 and len(calls) == RUNS
    discard_parts(again.parts)
    assert not work.exists()


def seed_two_for_seed_one(place):
    shutil.copy(place / "runs/ntk/N=16/seed=2.h5", place / "runs/ntk/N=16/seed=1.h5")


def flipped(place):
    path = place / "limits/mean_field.h5"
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        content[file["test_predictions"].id.get_offset() + 100] ^= 1
    path.write_bytes(content)


def cut(place):
    path = place / "runs/mf/N=16/seed=0.h5"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [seed_two_for_seed_one, flipped, cut])
def test_a_part_that_is_wrong_is_run_again(stopped, whole, tmp_path, harm):
    """Another seed's part in its place, one bit, a cut file: told, and the numbers are right all the same."""
    work, place = copied(stopped, tmp_path)
    harm(place)
    told = []
    again = job.run(SETTINGS, work=work, tell=told.append)
    assert different(again, whole) == []
    (words,) = told
    assert "from 12 of" in words and words.endswith("; 1 more, damaged or out of place, are run again")


def test_without_digests_a_wrong_part_would_pass(stopped, whole, tmp_path, monkeypatch):
    """Planted: a reader that trusts what it finds takes seed 2's run for seed 1's, and the comparison above sees it."""
    work, place = copied(stopped, tmp_path)
    seed_two_for_seed_one(place)

    def trust(parts, name):
        if not parts.path(name).exists():
            return None
        arrays, attributes = read_arrays(parts.path(name))
        return Part(arrays, {key: value for key, value in attributes.items() if not key.startswith("part_")})

    monkeypatch.setattr(job, "read_part", trust)
    found = different(job.run(SETTINGS, work=work), whole)
    assert "/predictions/final_test_ntk" in found and "report" in found


def test_other_settings_have_other_places(stopped, tmp_path):
    """No field of the settings, no version and no data point can change and leave the place as it is."""
    others = (
        {"seed": 1}, {"t_end": 0.6}, {"widths": (8, 17)}, {"seeds": 4}, {"activation": "tanh"}, {"n_times": 5},
        {"rtol": 1e-6}, {"dtype": "float64"}, {"engine": "reference"}, {"w2_seeds": 4}, {"w2_widths_to": 9},
        {"coupling_widths_to": 9}, {"problem": "bilinear", "activation": "linear"},
    )  # fmt: skip
    places = []
    for each in ({}, *others):
        sweep = job._Sweep(replace(SETTINGS, **each))
        told = []
        sweep.keep(stopped, False, told.append)
        assert sweep.parts is not None
        places.append(sweep.parts.job)
        assert (len(sweep.done) == 13) == (each == {}), each
        if each:
            assert told == [
                f"{stopped} holds parts of other settings or versions only; they are left as they are, and not used"
            ]
    assert len(set(places)) == len(places)
    data, identity = {"inputs": np.arange(3.0)}, {"versions": {"numpy": "2.0"}}
    plain = parts_of(tmp_path, identity, data)
    assert plain == parts_of(tmp_path, identity, data)
    assert plain.job != parts_of(tmp_path, {"versions": {"numpy": "2.1"}}, data).job
    assert plain.job != parts_of(tmp_path, identity, {"inputs": np.nextafter(data["inputs"], 9.0)}).job


def test_a_part_comes_back_as_it_was(tmp_path):
    """Arrays and attributes, of its own name and job only; discarding leaves another job's."""
    mine, other = (parts_of(tmp_path / "work", {"job": name}, {}) for name in ("a", "b"))
    part = Part({"x": {"y": np.arange(3)}, "z": np.array(2.5), "none": {}}, {"rule": "Sobol", "n": 3, "alpha": 0.1})
    write_part(mine, "runs/one", part)
    back = read_part(mine, "runs/one")
    assert back is not None and back.attributes == part.attributes
    assert flat(back.arrays).keys() == flat(part.arrays).keys() and back.arrays["x"]["y"].dtype == np.arange(3).dtype
    assert read_part(mine, "runs/two") is None
    write_part(other, "runs/one", part)
    shutil.copy(other.path("runs/one"), mine.path("runs/one"))
    with pytest.raises(InputError, match=r"is damaged, or of another job or place: .* digest of 'runs/one'"):
        read_part(mine, "runs/one")
    discard_parts(mine)
    assert [each.name for each in (tmp_path / "work").iterdir()] == [other.folder.name]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="could not be written"):
        write_part(parts_of(tmp_path / "file", {}, {}), "one", part)


def test_an_array_at_two_places_is_stored_once(tmp_path):
    """Hard links to one array, where two equal arrays take their room twice; attributes of groups."""
    times = np.arange(1e4)
    tree = {"a": {"time": times, "deep": {"time": times}}, "b": {"value": np.ones(2)}}
    write_arrays(tmp_path / "once.h5", tree, {"schema": "x/1", "a/deep@N": 64, "b@alpha": 0.5})
    write_arrays(tmp_path / "twice.h5", tree | {"a": {"time": times, "deep": {"time": times.copy()}}}, {})
    sizes = [(tmp_path / name).stat().st_size for name in ("once.h5", "twice.h5")]
    assert sizes[0] < sizes[1] - 0.9 * times.nbytes
    with h5py.File(tmp_path / "once.h5") as file:
        assert file["a/time"] == file["a/deep/time"] and file["a/deep"].attrs["N"] == 64
    found, attributes = read_arrays(tmp_path / "once.h5")
    assert attributes == {"schema": "x/1", "a/deep@N": 64, "b@alpha": 0.5}
    np.testing.assert_array_equal(found["a"]["deep"]["time"], times)


@pytest.mark.parametrize("guarded", [True, False])
def test_parts_of_several_threads_have_the_mode_of_ordinary_files(tmp_path, monkeypatch, guarded):
    """The process's mask is read by setting it: two threads in turn; or, planted, at once, which leaves another one."""
    plain, both = os.umask, threading.Barrier(2)
    before = plain(0o027)

    def slow(mask):
        found = plain(mask)
        if mask == 0:  # wait here for the other thread, which the guard keeps out
            with suppress(threading.BrokenBarrierError):
                both.wait(0.2)
        return found

    monkeypatch.setattr(_files.os, "umask", slow)
    if not guarded:
        monkeypatch.setattr(_files, "_masking", nullcontext())
    try:
        threads = [
            threading.Thread(target=_files.write_atomically, args=(tmp_path / name, lambda to: to.write_text("")))
            for name in "ab"
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        assert (modes == {0o640}) == guarded
    finally:
        plain(before)


def test_each_run_has_its_group(whole, tmp_path):
    """/runs against the arrays over all runs, and one of them against the flow integrated here once more."""
    path = tmp_path / "limits.h5"
    write_arrays(path, whole.arrays, whole.attributes)
    with h5py.File(path) as file:
        kinds = {"mf", "ntk", "coupled_mf", "coupled_ntk", "float64_mf", "float64_ntk"}
        assert set(file["runs"]) == kinds
        for regime, alpha in (("mf", lambda width: 1.0), ("ntk", np.sqrt)):
            for w, width in enumerate(SETTINGS.widths):
                for s in range(SETTINGS.seeds):
                    group = file[f"runs/{regime}/N={width}/seed={s}"]
                    assert (group.attrs["N"], group.attrs["seed"]) == (width, s)
                    assert group.attrs["alpha"] == alpha(width)
                    seen = group["observables"]
                    for name in job.CURVES:
                        assert seen[name]["time"] == file["times"]  # the same dataset
                        np.testing.assert_array_equal(seen[name]["value"], file[f"curves/{regime}/{name}"][s, w])
                    final = file[f"predictions/final_test_{regime}"][s, w]
                    np.testing.assert_array_equal(seen["test_predictions/value"][0], final)
                    assert seen["test_predictions/time"][()] == [SETTINGS.t_end]
                    step = seen["risk/step"][()]
                    assert step[0] == 0 and (np.diff(step) > 0).all() and step[-1] == group.attrs["steps"]
                    drift = group[f"measured/kernel_drift_{regime}"][()]
                    assert drift == file[f"quantities/kernel_drift_{regime}/per_seed"][s, w]
        assert file["runs/mf/N=8/seed=2/measured/w2"][()] == file["quantities/w2/per_seed"][2, 0]
        assert "w2" not in file["runs/ntk/N=8/seed=2/measured"]
        start = job._Sweep(SETTINGS).starts[1][:16]
        options = {"rtol": SETTINGS.rtol, "atol": 0.01 * SETTINGS.rtol, "dtype": "float32"}
        network = SETTINGS.network(Scaling.ntk(16))
        run = simulate(network, whole.problem, start, [0.2 * 0.5, 0.5], **options)
        group = file["runs/ntk/N=16/seed=1"]
        # Other times to land on, so other steps: equal within ten tolerances, and another seed is far from that.
        others = file["runs/ntk/N=16/seed=0/observables/test_predictions/value"][0]
        errors = [
            np.abs(run.test_predictions[-1] - values).max()
            for values in (group["observables/test_predictions/value"][0], others)
        ]
        assert errors[0] < 10 * SETTINGS.rtol < 1e-2 < errors[1]
        assert run.frame_steps[-1] == run.steps and len(run.frame_steps) == len(run.times)


def begin(out):
    """The command, as a user starts it."""
    arguments = ("--problem", "teacher-student", "--widths", "32,64,128", "--seeds", "4", "--t-end", "10")
    command = [sys.executable, "-m", "meanfield", "limits", *arguments, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_and_started_again(tmp_path):
    """SIGINT, then SIGKILL, then to the end: the bits of a job in this process, and nothing left but the results."""
    out, number = tmp_path / "out", 0
    work = out / ".limits-parts"
    for kill in (signal.SIGINT, signal.SIGKILL):
        process, before = begin(out), number
        while (number := len(list(work.rglob("[!.]*.h5")))) < before + 4:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(kill)
        _, words = process.communicate(timeout=60)
        number = len(list(work.rglob("[!.]*.h5")))
        assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[kill], words
        assert [each.name for each in out.iterdir()] == [".limits-parts"]
        if kill == signal.SIGINT:
            goes_on = f"meanfield: the same command goes on from what is finished, in {work}.\n"
            assert words == f"meanfield: stopped by SIGINT.\n{goes_on}"
            assert not list(work.rglob(".*.h5"))  # nothing half written
        else:
            assert words.startswith(f"meanfield: going on from {before} of ")
    process = begin(out)
    table, words = process.communicate(timeout=120)
    assert process.returncode == 0, words
    assert words.startswith(f"meanfield: going on from {number} of ") and len(words.splitlines()) == 1
    assert "s for the last " in table
    assert {each.name for each in out.iterdir()} == {"limits.png", "limits.h5", "limits.json"}
    whole = job.run(job.Settings(problem="teacher-student", widths=(32, 64, 128), seeds=4, t_end=10.0))
    report = json.loads((out / "limits.json").read_text())
    assert numbers(report) == numbers(json.loads(json.dumps(whole.report)))
    arrays, attributes = read_arrays(out / "limits.h5")
    wanted = flat(whole.arrays)
    assert flat(arrays).keys() == wanted.keys()
    for name, values in flat(arrays).items():
        assert values.tobytes() == wanted[name].tobytes(), name
    assert whole.attributes.items() <= attributes.items()
