"""Runs on file: one that is stopped and resumed, however often, is the run that never stopped, bit for bit."""

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import h5py
import numpy as np
import pytest
from on_file import differing, digests, problem, same, state

import meanfield as mf
from meanfield import stopping, trajectories
from meanfield.batches import BatchField, fresh, minibatch
from meanfield.errors import FormatError, InputError, StepLimitError
from meanfield.integrators import AdaptiveSteps, FixedSteps, Geiger, _Memory
from meanfield.losses import Loss
from meanfield.output import Output
from meanfield.simulation import resume
from meanfield.trajectories.recording import Recording
from meanfield.trajectories.writer import Writer

DIM, N, TIMES = 2, 24, (0.0, 0.3, 1.0, 2.5)
NETWORK = mf.Network("tanh", mf.Scaling(1.3))


class Stopped(Exception):
    """What stops a run in these tests: it is no signal, and nothing is saved because of it."""


def largest_weight(now, first):
    """A record of the user's own."""
    return np.abs(now.particles).max()


def late(look):
    return look.time > 1.2


def draw(rng, size):
    inputs = rng.standard_normal((size, DIM))
    return inputs, np.sin(inputs[:, 0])


OWN_LOSS = Loss(
    "quartic", lambda f, y: 0.25 * (y - f) ** 4, lambda f, y: (y - f) * (y - f) * (y - f), labels=False
)  # fmt: skip
OWN_ACTIVATION = mf.Activation("cubic", lambda z: (z * z * z, 3.0 * z * z))
OWN_STOP = stopping.Criterion("late", late)
STEPS = {"scheme": "euler", "dt": 0.05}


@dataclass(frozen=True)
class Case:
    """Arguments of `simulate`, options of `Output`, and `own`: what has to be handed in again."""

    arguments: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    network: mf.Network = NETWORK
    problem: Any = field(default_factory=problem)
    simulate: Any = mf.simulate
    bias: bool = False
    times: Any = TIMES

    def run(self, path, times=None, **output):
        out = Output(path, **{"checkpoint_seconds": 1e9, **self.output, **output})
        return self.in_memory(times, out=out)

    def in_memory(self, times=None, **more):
        start = mf.initial.gaussian(N, DIM + self.bias, seed=2)
        times = self.times if times is None else times
        given = {"rtol": 1e-12, "atol": 1e-12} | self.arguments | more  # tolerances that make some forty steps
        return self.simulate(self.network, self.problem, start, times, **given)


def _population(seed=3):
    return mf.Population(mf.population.teacher(DIM, 2, seed=1), "erf", probes=9, seed=seed)


PLAIN = problem(weights=False)
CASES = {
    "dopri5": Case({"record": ["risk", "kernel_drift"]}),
    "bosh3": Case({"scheme": "bosh3", "rtol": 1e-6, "atol": 1e-8}),
    "dopri5 in fixed steps": Case({"scheme": "dopri5", "dt": 0.11}),
    "rk4": Case({"scheme": "rk4", "dt": 0.097}),
    "heun": Case({"scheme": "heun", "dt": 0.097}),
    "euler": Case(STEPS),
    "geiger": Case({"scheme": Geiger(output_change=0.05)}, problem=PLAIN),
    "jko": Case({"scheme": "jko", "dt": 0.2}),
    "coupled": Case({"record": ["risk"]}, {"velocities": True}, simulate=mf.simulate_coupled),
    "coupled in float32": Case({"dtype": "float32", "rtol": 1e-6}, simulate=mf.simulate_coupled),
    "momentum": Case({"momentum": 0.3}, {"velocities": True}),
    "temperature": Case(STEPS | {"temperature": 0.1, "noise_seed": 3}),
    "ridge": Case({"ridge": 0.2}),
    "minibatch": Case(STEPS | {"batches": minibatch(5, seed=4)}, problem=PLAIN),
    "fresh": Case(STEPS | {"batches": fresh(draw, 3, seed=4)}, own={"batches": fresh(draw, 3, seed=4)}),
    "population": Case(network=mf.Network("erf", mf.Scaling(1.3, shift=0.5)), problem=_population()),
    "population of a sequence as seed": Case(network=mf.Network("erf"), problem=_population([3, 1])),
    "shift": Case(network=mf.Network("tanh", mf.Scaling(3.0, shift="initial"))),
    "shift and minibatch": Case(
        STEPS | {"batches": minibatch(5)}, network=mf.Network("tanh", mf.Scaling(3.0, shift="initial")), problem=PLAIN
    ),
    "bias": Case(network=mf.Network("tanh", bias=1.0), bias=True),
    "masses": Case({"masses": np.random.default_rng(5).uniform(0.1, 1.0, N)}),
    "mobilities": Case(network=mf.Network("tanh", mf.Scaling(1.3, mobility_a=0.5, mobility_w=2.0))),
    "float32": Case({"dtype": "float32", "rtol": 1e-6}),
    "keep last": Case({"keep": "last", "record": ["risk"]}, {"velocities": True}),
    "keep some": Case({"keep": slice(3, None, np.int64(5))}, {"velocities": True}),
    "save float32": Case({}, {"save_dtype": "float32"}),
    "velocities": Case({"scheme": "rk4", "dt": 0.097}, {"velocities": True}),
    "record times": Case({"record": ["risk", "displacement"], "record_times": np.linspace(0.1, 3.0, 8)}),
    "records of one's own": Case({"record": ["risk", largest_weight]}, own={"record": [largest_weight]}),
    "stop": Case({"stop": stopping.risk(0.4), "record": ["risk"], "keep": "last"}),
    "a stop of one's own": Case({"stop": OWN_STOP}, own={"stop": OWN_STOP}),
    "live": Case({"record": ["risk"]}, {"live": True}),
    "reference": Case({"engine": "reference", "record": ["risk"]}),
    "a loss of one's own": Case(problem=mf.Problem(PLAIN.inputs, PLAIN.targets, loss=OWN_LOSS), own={"loss": OWN_LOSS}),
    "an activation of one's own": Case(
        {"engine": "reference"}, network=mf.Network(OWN_ACTIVATION), own={"activation": OWN_ACTIVATION}
    ),
    "numbers of NumPy": Case({"max_steps": np.int64(5000), "rtol": np.float32(1e-10)}),
}


def stops(patch, after, every=3):
    """Let runs stop after so many steps from where they are, with a checkpoint at steps that `every` divides."""
    left = after

    def after_step(self, step, time, position):
        nonlocal left
        left -= 1
        if step % every == 0:
            self.save(position())
        if left == 0:
            raise Stopped

    patch.setattr(Recording, "after_step", after_step)


def chain(case, path, seed=0, shortest=3, longest=6, every=3):
    """Run a case with stops after `shortest` to `longest` steps, each time resumed; how often that was."""
    rng, count = np.random.default_rng(seed), 0
    while True:
        with pytest.MonkeyPatch.context() as patch:
            stops(patch, int(rng.integers(shortest, longest + 1)), every)
            try:
                if not path.exists():
                    case.run(path)
                else:
                    resume(path, **case.own, checkpoint_seconds=1e9)
                return count
            except Stopped:
                count += 1
                assert state(path)["status"] == "failed"


def cut(case, path, after=4, every=1):
    """A run that was stopped after so many steps, and is still so."""
    with pytest.MonkeyPatch.context() as patch:
        stops(patch, after, every)
        with pytest.raises(Stopped):
            case.run(path)


# Stopped and resumed


@pytest.mark.parametrize("name", CASES)
def test_stopped_and_resumed_is_never_stopped(name, tmp_path):
    """Equal: SHA-256 of every dataset, and the counts of steps and velocities."""
    case, whole, parts = CASES[name], tmp_path / "whole.h5", tmp_path / "parts.h5"
    case.run(whole)
    assert chain(case, parts) >= 2, "stopped too rarely to mean anything"
    same(whole, parts)
    if name == "stop":
        assert state(whole)["stopped_by"] == "risk below 0.4"


def test_the_cadence_of_checkpoints_changes_nothing(tmp_path):
    case = CASES["dopri5"]
    for seconds in (0.0, 0.001, 60.0):
        case.run(tmp_path / f"{seconds}.h5", checkpoint_seconds=seconds)
    same(tmp_path / "0.0.h5", tmp_path / "0.001.h5")
    same(tmp_path / "0.0.h5", tmp_path / "60.0.h5")


def test_on_file_is_in_memory(tmp_path):
    """The file's arrays are those of the run that keeps them in memory: equal bits."""
    case = CASES["dopri5"]
    case.run(tmp_path / "run.h5")
    kept = case.in_memory()
    with h5py.File(tmp_path / "run.h5") as file:
        np.testing.assert_array_equal(file["particles/neurons/position/value"], kept.particles)
        np.testing.assert_array_equal(file["observables/predictions/value"], kept.predictions)
        np.testing.assert_array_equal(file["observables/test_predictions/value"], kept.test_predictions)
        np.testing.assert_array_equal(file["observables/risk/value"], kept.records["risk"])
        np.testing.assert_array_equal(file["time"], kept.times)
    assert state(tmp_path / "run.h5")["evaluations"] == kept.evaluations


@pytest.mark.parametrize("method", ["frame", "record"])
def test_resumed_at_step_0(method, tmp_path, monkeypatch):
    def fail(*_):
        raise Stopped

    case, whole, parts = CASES["dopri5"], tmp_path / "whole.h5", tmp_path / "parts.h5"
    case.run(whole)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Recording, method, fail)
        case.run(parts)
    assert state(parts)["steps"] == 0
    resume(parts)
    same(whole, parts)


@pytest.mark.parametrize("name", ["dopri5", "stop"])
def test_resuming_what_is_over_changes_nothing(name, tmp_path):
    case, path = CASES[name], tmp_path / "run.h5"
    case.run(path)
    before = path.read_bytes(), (tmp_path / "run.ckpt").read_bytes()
    resume(path)
    assert before == (path.read_bytes(), (tmp_path / "run.ckpt").read_bytes())


def test_a_run_killed_before_its_file_was_made_leaves_no_obstacle(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(trajectories.recording.writer, "create", fail)
        CASES["dopri5"].run(tmp_path / "run.h5")
    CASES["dopri5"].run(tmp_path / "run.h5")
    assert state(tmp_path / "run.h5")["status"] == "complete"


# Extended


@pytest.mark.parametrize("name", ["dopri5", "keep last", "rk4", "temperature", "record times", "minibatch"])
def test_extended_is_run_to_the_end_at_once(name, tmp_path):
    case, later = CASES[name], (*TIMES, 3.5, 4.0)
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    case.run(whole, times=later)
    case.run(parts)
    resume(parts, times=later)
    same(whole, parts)


@pytest.mark.parametrize("name", ["dopri5", "keep last"])
def test_extended_while_under_way_and_stopped_again(name, tmp_path):
    """New times are remembered by the resumed run, wherever it stops; also before its first step."""
    case, later = CASES[name], (*TIMES, 3.0)
    case.run(tmp_path / "whole.h5", times=later)
    case.run(parts := tmp_path / "parts.h5")
    for after, every in ((1, 10**6), (2, 1)):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            stops(patch, after, every)
            resume(parts, times=later)
    resume(parts)
    same(tmp_path / "whole.h5", parts)


def test_times_that_begin_otherwise_are_refused(tmp_path):
    cut(CASES["rk4"], path := tmp_path / "run.h5", after=9)  # past 0.3, on its way to 1
    for times in ([0.0, 0.2, 1.0], [0.3, 1.0, 2.0], [0.0, 0.3, 0.9, 2.0]):
        with pytest.raises(InputError, match=r"the run has passed t = .*; needed: times that begin with them"):
            resume(path, times=times)
    resume(path, times=[0.0, 0.3, 1.0, 1.5])
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["time"], [0.0, 0.3, 1.0, 1.5])


def test_a_run_that_met_its_criterion_is_not_extended(tmp_path):
    CASES["stop"].run(tmp_path / "run.h5")
    with pytest.raises(InputError, match=r"the run is over: risk below 0\.4 held at t = .*; start another"):
        resume(tmp_path / "run.h5", times=[*TIMES, 9.0])


# Changed


def test_a_change_is_remembered(tmp_path):
    """Resumed with other tolerances, stopped, resumed without a word: as if it had not stopped, not as before."""
    case, ways = CASES["dopri5"], {}
    for way in ("once", "in parts", "not at all"):
        cut(case, path := tmp_path / f"{way}.h5", after=3)
        if way == "in parts":
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
                stops(patch, 2, every=1)
                resume(path, change={"rtol": 1e-9})
        resume(path, change={"rtol": 1e-9} if way == "once" else None)
        ways[way] = path
    same(ways["once"], ways["in parts"])
    assert "particles/neurons/position/value" in differing(digests(ways["once"]), digests(ways["not at all"]))
    assert state(ways["in parts"])["changes"] == {"rtol": "1e-09"} and state(ways["not at all"])["changes"] == {}


@pytest.mark.parametrize("change", [{"dt": 0.01}, {"scheme": "rk4", "dt": 0.01}, {"scheme": "dopri5", "dt": None}])
@pytest.mark.parametrize("name", ["rk4", "dopri5", "geiger"])
def test_changed_steps_go_on_from_where_the_run_is(name, change, tmp_path):
    """In mid interval. Against one run at tight tolerances: 2e-3 of the predictions' size, the scheme's own error."""
    if name == "geiger":
        change = {"scheme": "rk4", "dt": 0.01} | change
    case = replace(CASES[name], arguments=CASES[name].arguments | {"record": ()})
    cut(case, path := tmp_path / "run.h5", after=8)
    if name != "rk4" and "scheme" not in change:
        change = change | {"scheme": "rk4"}
    resume(path, change=change)
    exact = replace(case, arguments={}).in_memory()
    with h5py.File(path) as file:
        error = np.abs(file["observables/predictions/value"][-1] - exact.predictions[-1]).max()
    assert error < (2e-3 if name != "geiger" else 5e-2) * np.abs(exact.predictions[-1]).max()


def test_more_steps_after_too_few(tmp_path):
    case, path = CASES["dopri5"], tmp_path / "run.h5"
    case.run(tmp_path / "whole.h5")
    short = replace(case, arguments=case.arguments | {"max_steps": 10})
    with pytest.raises(StepLimitError):
        short.run(path)
    with pytest.raises(StepLimitError):
        resume(path)
    resume(path, change={"max_steps": 100_000})
    found = differing(digests(tmp_path / "whole.h5"), digests(path))
    assert found == ["parameters/settings"], "but what it was begun with"


@pytest.mark.parametrize("change", [{"keep": "last"}, {"record": []}, {"coupled": True}, {"steps": 3}])
def test_what_cannot_change_is_refused(change, tmp_path):
    cut(CASES["dopri5"], path := tmp_path / "run.h5")
    with pytest.raises(InputError, match=rf"change holds '{next(iter(change))}'; needed: some of scheme, rtol"):
        resume(path, change=change)


# What no file holds


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("an activation of one's own", r"the run has a activation of its own, 'cubic'.*needed: activation=\.\.\."),
        ("a loss of one's own", r"the run has a loss of its own, 'quartic'.*needed: loss=\.\.\."),
        ("fresh", r"the run has a batches of its own, 'fresh 3'.*needed: batches=\.\.\."),
        ("a stop of one's own", r"the run has a stop of its own, 'late'.*needed: stop=\.\.\."),
        ("records of one's own", r"the run records 'largest_weight'.*needed: record=\[\.\.\.\] with it"),
    ],
)
def test_what_is_ones_own_has_to_be_handed_in_again(name, message, tmp_path):
    cut(CASES[name], path := tmp_path / "run.h5")
    with pytest.raises(InputError, match=message):
        resume(path)


def test_another_of_ones_own_is_refused(tmp_path):
    cut(CASES["fresh"], path := tmp_path / "run.h5")
    with pytest.raises(InputError, match=r"batches is \{'own': 'fresh 2'\}.*needed: the same"):
        resume(path, batches=fresh(draw, 2))


# Locks, runs that are there, damage


def test_a_run_that_another_process_writes_is_refused(tmp_path):
    cut(CASES["dopri5"], path := tmp_path / "run.h5")
    holder = "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1])"
    holder += "; lock.acquire(); print('held', flush=True); sys.stdin.read()"
    held = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "run.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert held.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="is being written by another process; wait for it, or stop it"):
            resume(path)
        with pytest.raises(InputError, match="is being written by another process"):
            CASES["dopri5"].run(path, overwrite=True)
    finally:
        held.kill()
        held.communicate()
    resume(path)
    assert state(path)["status"] == "complete"


def test_a_run_that_is_there_is_replaced_only_when_told_to(tmp_path):
    path, other = tmp_path / "run.h5", replace(CASES["dopri5"], problem=problem(seed=7))
    cut(CASES["dopri5"], path, after=9)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"run\.h5 is there already; choose another path, `resume` it, or replace it"):
        other.run(path)
    assert path.read_bytes() == before
    other.run(path, overwrite=True)
    other.run(tmp_path / "whole.h5")
    same(path, tmp_path / "whole.h5")
    assert not (tmp_path / "run.ckpt.prev").exists() or resume(path)


def damage(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    case, path = CASES["dopri5"], tmp_path / "run.h5"
    case.run(tmp_path / "whole.h5")
    cut(case, path, after=6)
    damage(tmp_path / "run.ckpt")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stops(patch, 2, every=10**6)
        resume(path)
    damage(tmp_path / "run.ckpt")  # the one before is whole again
    resume(path)
    same(tmp_path / "whole.h5", path)


@pytest.mark.parametrize("how", ["damaged", "cut off", "empty", "gone"])
def test_without_a_whole_checkpoint_nothing_goes_on(how, tmp_path):
    cut(CASES["dopri5"], path := tmp_path / "run.h5", after=6)
    before = path.read_bytes()
    for each in (tmp_path / "run.ckpt", tmp_path / "run.ckpt.prev"):
        if how == "damaged":
            damage(each)
        elif how == "gone":
            each.unlink()
        else:
            each.write_bytes(each.read_bytes()[: 100 if how == "cut off" else 0])
    with pytest.raises(
        FormatError, match=r"no checkpoint to go on from \(run\.ckpt: .*; run\.ckpt\.prev: .*\); needed"
    ):
        resume(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [{"arguments": {"rtol": 1e-5}}, {"problem": problem(seed=7)}, {"arguments": {"masses": np.arange(1.0, N + 1)}}],
)
def test_a_checkpoint_of_another_run_is_refused(other, tmp_path):
    case = CASES["bosh3"]
    cut(case, path := tmp_path / "run.h5")
    cut(replace(case, **other | {"arguments": case.arguments | other.get("arguments", {})}), tmp_path / "other.h5")
    (tmp_path / "other.ckpt").replace(tmp_path / "run.ckpt")
    (tmp_path / "run.ckpt.prev").unlink()  # which would be taken
    with pytest.raises(
        FormatError, match=r"run\.ckpt is of another run than .*run\.h5; needed: the checkpoint of this"
    ):
        resume(path)


def test_a_file_that_lost_rows_is_refused(tmp_path):
    case = CASES["dopri5"]
    cut(case, path := tmp_path / "run.h5", after=9)
    with h5py.File(path, "r+") as file:
        count = len(file["time"]) - 1
        growing = ["step", "time", "particles/neurons/position/value", "meanfield/integrity/frames"]
        for name in [*growing, "observables/predictions/value", "observables/test_predictions/value"]:
            file[name].resize(count, axis=0)
    with pytest.raises(FormatError, match="has fewer rows of frames than its checkpoint; it was changed"):
        resume(path)


def test_no_run_there(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.h5 is not a file"):
        resume(tmp_path / "nothing.h5")


# That these tests can fail


def _forget_velocity(patch):
    restore = _Memory.restore
    patch.setattr(_Memory, "restore", lambda self, numbers, velocity: restore(self, numbers, None))


def _forget(kind, *names):
    def wrong(patch):
        kept = tuple(each for each in kind._numbers if each not in names)
        patch.setattr(kind, "_numbers", kept)

    return wrong


def _number_noise_anew(patch):
    kick = FixedSteps.__init__

    def init(self, tableau, dt, max_steps, kicked=None):
        begun = []

        def anew(state, h, number, room):
            begun.append(number)
            return kicked(state, h, number - begun[0], room)

        kick(self, tableau, dt, max_steps, anew)

    patch.setattr(FixedSteps, "__init__", init)


def _begin_batches_again(patch):
    patch.setattr(BatchField, "go_on", lambda self, step: None)


def _keep_rows(patch):
    begin = Writer.begin
    patch.setattr(Writer, "begin", lambda self, counts, now: begin(self, {}, now))


def _round_state(patch):
    of_arrays = mf.simulation.DataField.of_arrays
    patch.setattr(
        mf.simulation.DataField, "of_arrays",
        lambda self, arrays: of_arrays(self, tuple(each.astype(np.float32).astype(float) for each in arrays)),
    )  # fmt: skip


POSITIONS = "particles/neurons/position/value"
WRONG = {
    "the last stage": ("dopri5", _forget_velocity, "evaluations"),  # it costs one velocity, and no bit
    "the history of the controller": ("dopri5", _forget(AdaptiveSteps, "_previous"), POSITIONS),
    "the step size": ("bosh3", _forget(AdaptiveSteps, "_h"), POSITIONS),
    "the place within an interval": ("rk4", _forget(FixedSteps, "_within"), POSITIONS),
    "the number of the noise": ("temperature", _number_noise_anew, POSITIONS),
    "the number of the batch": ("minibatch", _begin_batches_again, POSITIONS),
    "the rows that are to come again": ("rk4", _keep_rows, POSITIONS, 14),
    "the last bits of the state": ("dopri5", _round_state, POSITIONS),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_forgotten_is_seen(what, tmp_path):
    name, forget, where, *after = WRONG[what]
    case, whole, parts = CASES[name], tmp_path / "whole.h5", tmp_path / "parts.h5"
    case.run(whole)
    cut(case, parts, *after or [10], every=4)
    with pytest.MonkeyPatch.context() as patch:
        forget(patch)
        with suppress(FormatError):  # rows that come twice: the reader sees them, too
            resume(parts)
    assert where in differing(digests(whole), digests(parts))


def test_progress_is_lines_of_json(tmp_path):
    CASES["dopri5"].run(tmp_path / "run.h5")
    lines = [json.loads(each) for each in (tmp_path / "run.progress.jsonl").read_text().splitlines()]
    assert lines[-1]["status"] == "complete" and all(each["end"] == TIMES[-1] for each in lines)
    assert [each["time"] for each in lines if "kernel_drift" in each] == list(TIMES)
