"""Analysis of runs from what they kept: what the time loop recorded, closed forms, and reasons for the rest."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import meanfield as mf
from meanfield import Network, Population, Scaling, analysis, initial, limits, plots, population, problems, simulate
from meanfield import open as open_run
from meanfield.activations import Activation
from meanfield.analysis import analyse, compare
from meanfield.cli import app
from meanfield.errors import FormatError, InputError
from meanfield.identities import energy_balance
from meanfield.output import Output
from meanfield.transport import sliced_w2, w2, w2_bounds

TIMES = np.linspace(0.0, 4.0, 21)
RECORDS = ["risk", "test_risk", "kernel_drift", "displacement"]
PROBLEM = problems.teacher_student(dim=3, n=30, n_test=20, seed=1)
START = initial.gaussian(24, 3, seed=2)


def run(alpha=0.7, start=START, problem=PROBLEM, network=None, **options):
    network = Network("tanh", Scaling(alpha)) if network is None else network
    return simulate(network, problem, start, TIMES, **{"record": RECORDS, "rtol": 1e-8, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def on_file(folder):
    return run(out=folder / "all.h5")


@pytest.fixture(scope="module")
def found(on_file):
    return analyse(on_file)


# One run


@pytest.mark.parametrize("name", RECORDS)
def test_what_the_run_recorded(on_file, found, name):
    """Risks, kernel drift and displacement from the file's particles: those recorded on the way, to 1e-12 of them."""
    assert found.times == pytest.approx(TIMES, abs=0.0)
    assert found.series[name] == pytest.approx(on_file.records[name], rel=1e-12, abs=1e-14)


def test_a_run_in_memory_is_its_file(found):
    """The same series from a Run: 1e-12."""
    again = analyse(run())
    assert again.series.keys() == found.series.keys() and again.skipped == found.skipped == {}
    for name, values in again.series.items():
        assert values == pytest.approx(found.series[name], rel=1e-12, abs=1e-12), name


def test_shuffled_frames_are_caught():
    """Planted: with two frames of particles exchanged, drift and displacement leave the recorded ones by over 1e-3."""
    right = run()
    order = np.arange(len(TIMES))
    order[[5, 15]] = 15, 5
    wrong = analyse(replace(right, particles=right.particles[order]))
    for name in ("kernel_drift", "displacement"):
        assert np.abs(wrong.series[name] - right.records[name]).max() > 1e-3
    assert np.abs(wrong.series["energy_residual"]).max() > 100 * np.abs(analyse(right).series["energy_residual"]).max()


def test_w2_is_that_of_the_particles(on_file, found):
    """Each entry is transport.w2 of that frame and the start, and at most the displacement."""
    expected = [w2(each, START) for each in on_file.particles]
    assert found.series["w2"] == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert (found.series["w2"] <= found.series["displacement"] * (1 + 1e-12)).all()
    assert found.remarks["w2"].startswith("exact")


def bilinear(path):
    """A Gauss-Hermite cloud of 25 on the bilinear neuron; what is known of it in closed form (F50): s and the limit."""
    problem, network, times = problems.bilinear(), Network("linear"), np.linspace(0.0, 1.0, 41)
    rule = initial.gauss_hermite(initial.GaussianLaw(1), 5)
    rest = {"masses": rule.masses, "rtol": 1e-10, "atol": 1e-12}
    done = simulate(network, problem, rule.nodes, times, **rest, out=path)
    exact = limits.exact.bilinear(network, problem, times)
    s = 0.5 * np.arcsinh(exact.predictions[:, int(np.argmax(problem.inputs[:, 0]))])  # f(1) = alpha sinh 2s
    return done, exact, s


def test_the_bilinear_neuron(tmp_path):
    """theta_t = exp(s J) theta_0, a symmetric positive map and so optimal: W2 = displacement = the closed form, 1e-7.

    Kernel drift |cosh 2s - 1|, and the change of R, to 1e-7 too; its integral by the spline of 41 frames to 2e-6.
    """
    done, exact, s = bilinear(tmp_path / "run.h5")
    seen = analyse(done, frames=41)
    closed = np.sqrt((np.exp(s) - 1.0) ** 2 + (np.exp(-s) - 1.0) ** 2)
    assert closed[-1] > 0.3
    assert seen.series["w2"] == pytest.approx(closed, abs=1e-7)
    assert seen.series["displacement"] == pytest.approx(closed, abs=1e-7)
    assert seen.series["kernel_drift"] == pytest.approx(np.cosh(2 * s) - 1.0, abs=1e-7)
    risks = (done.problem.targets - exact.predictions) ** 2 @ done.problem.weights
    assert seen.series["energy_change"] == pytest.approx(risks - risks[0], abs=1e-7)
    assert seen.series["energy_integral"] == pytest.approx(risks - risks[0], abs=2e-6)


def test_balance_is_that_of_all_frames(on_file):
    """Fewer frames are asked for; the integral is still that of identities.energy_balance over all: 1e-14."""
    few, whole = analyse(on_file, frames=6), energy_balance(run())
    at = np.searchsorted(TIMES, few.times)
    assert len(few.times) == 6 and few.times[0] == 0.0 and few.times[-1] == TIMES[-1]
    assert few.series["energy_residual"] == pytest.approx(whole.residual[at], abs=1e-14)
    assert "21 of 21 frames" in few.remarks["energy"]


def test_energy_balance_takes_a_file(on_file, folder):
    """identities.energy_balance of a Trajectory is that of the run, 1e-14; of a slice of them it is refused."""
    assert energy_balance(on_file).residual == pytest.approx(energy_balance(run()).residual, abs=1e-14)
    with pytest.raises(InputError, match="needed: all, keep='all'"):
        energy_balance(run(out=folder / "some.h5", keep=slice(0, 12)))


@pytest.mark.parametrize(
    "options",
    [{"ridge": 0.1}, {"momentum": 0.2}, {"scheme": "euler", "dt": 0.1, "temperature": 0.01}],
    ids=["ridge", "momentum", "temperature"],
)
def test_another_flow_has_no_balance(folder, options):
    """The file remembers what the flow had beside the risk, and the balance is left out with its name."""
    name = list(options)[-1]
    seen = analyse(run(out=folder / f"{name}.h5", record=[], **options), frames=3)
    assert "energy_residual" not in seen.series and name in seen.skipped["energy_residual"]
    assert "displacement" in seen.series


def test_budgets(on_file):
    """A kernel takes 4 N n^2 flops: with room for the start's and five more there are five; with one none, and why."""
    each = 4.0 * len(START) * len(PROBLEM.inputs) ** 2
    some, none = analyse(on_file, max_flops=6.5 * each), analyse(on_file, max_flops=1.5 * each)
    there = np.isfinite(some.series["kernel_drift"])
    assert there.sum() == 5 and there[[0, -1]].all()
    assert some.series["kernel_drift"][there] == pytest.approx(on_file.records["kernel_drift"][there], rel=1e-12)
    assert "max_flops" in some.remarks["kernel_drift"] and "max_flops" in none.skipped["kernel_drift"]
    assert "max_flops" in none.skipped["energy_residual"]
    assert "max_bytes" in analyse(on_file, max_bytes=1000.0, frames=2).skipped["kernel_drift"]
    assert some.to_dict()["series"]["kernel_drift"].count(None) == 16


def test_tiers(on_file, monkeypatch):
    """Above the sizes for exact W2: its bounds, around it; above those, slices. Each as `transport` has it."""
    exact, last = analyse(on_file, frames=2).series["w2"][-1], on_file.particles[-1]
    monkeypatch.setattr(analysis, "EXACT", 10)
    bounded = analyse(on_file, frames=2)
    low, high = (bounded.series[f"w2_{end}"][-1] for end in ("lower", "upper"))
    assert low <= exact * (1 + 1e-12) and exact <= high * (1 + 1e-12)
    expected = w2_bounds(START, last)
    assert low == pytest.approx(expected.lower, rel=1e-12) and high <= expected.upper * (1 + 1e-12)
    assert "w2" not in bounded.series and "between its bounds" in bounded.remarks["w2"]
    monkeypatch.setattr(analysis, "BOUNDS", 10)
    sliced, expected = analyse(on_file, frames=2, projections=50, seed=3), sliced_w2(START, last, directions=50, seed=3)
    assert sliced.series["sliced_w2"][-1] == pytest.approx(expected.value, rel=1e-12)
    assert sliced.series["sliced_w2_error"][-1] == pytest.approx(expected.error, rel=1e-12)
    assert sliced.series["sliced_w2"][-1] <= exact and "sliced_w2_floor" in sliced.series


def test_the_floor_is_that_of_independent_samples():
    """W2 of two halves of a Gaussian cloud of 200, against W2 of fresh samples of 100: five of their deviations."""
    start = initial.gaussian(200, 3, seed=5)
    done = simulate(Network("tanh"), PROBLEM, start, [0.0, 0.1])
    floors = [w2(*np.split(initial.gaussian(200, 3, seed=100 + seed), 2)) for seed in range(20)]
    found = analyse(done).series["w2_floor"][0]
    assert abs(found - np.mean(floors)) < 5.0 * np.std(floors, ddof=1)


# What was kept


def test_last_particles_alone(folder):
    """A file has the start: drift and displacement at the end, no balance. A Run has not, and says so."""
    options = {"keep": "last"}
    done = run(out=folder / "last.h5", **options)
    seen = analyse(done)
    for name in ("kernel_drift", "displacement"):
        assert seen.series[name][-1] == pytest.approx(done.records[name][-1], rel=1e-12)
        assert np.isnan(seen.series[name][:-1]).all()
    assert seen.series["risk"] == pytest.approx(done.records["risk"], rel=1e-12)
    assert "keep='all'" in seen.skipped["energy_residual"]
    bare = analyse(run(**options))
    assert bare.skipped.keys() == {"displacement", "w2", "kernel_drift", "energy_residual"}
    assert "not its start" in bare.skipped["displacement"]


def test_a_slice_of_the_particles(folder, on_file):
    """Every other particle: displacement and W2 are those rows', from a file or not; kernel and balance need all."""
    rows = slice(1, None, 2)
    done = run(out=folder / "slice.h5", keep=rows)
    moved = np.sqrt(((on_file.particles[:][:, rows] - START[rows]) ** 2).sum(axis=2).mean(axis=1))
    for seen in (analyse(done), analyse(run(keep=rows))):
        assert seen.series["displacement"] == pytest.approx(moved, rel=1e-12, abs=1e-14)
        assert seen.series["w2"][-1] == pytest.approx(w2(on_file.particles[-1][rows], START[rows]), rel=1e-12)
        assert seen.skipped.keys() == {"kernel_drift", "energy_residual"}
        assert "12 particles" in seen.remarks["displacement, w2, kernel_drift"]


def test_a_run_whose_first_frame_is_not_the_start():
    """In memory everything is since the first frame, and says so; there is no balance."""
    whole = run()
    late = replace(whole, times=TIMES[5:], particles=whole.particles[5:], predictions=whole.predictions[5:])
    seen = analyse(late)
    moved = np.sqrt(((whole.particles[5:] - whole.particles[5]) ** 2).sum(axis=2).mean(axis=1))
    assert seen.series["displacement"] == pytest.approx(moved, rel=1e-12, abs=1e-14)
    assert "since t = 1," in seen.remarks["displacement, w2, kernel_drift"]
    assert "t = 1" in seen.skipped["energy_residual"]


def test_a_slice_in_memory_with_masses_of_its_own():
    """Which masses are those of the kept rows is not known: left out, with the reason."""
    masses = np.arange(1.0, 25.0)
    seen = analyse(run(masses=masses, keep=slice(0, 5)))
    assert "masses" in seen.skipped["displacement"] and "displacement" not in seen.series


def test_float32_on_file(folder):
    """Particles kept in float32: drift and displacement to 1e-5."""
    done = run(out=Output(folder / "single.h5", save_dtype="float32"))
    seen = analyse(done)
    for name in ("kernel_drift", "displacement"):
        assert seen.series[name] == pytest.approx(done.records[name], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("shift", [0.0, "initial"])
def test_a_population(folder, shift):
    """Risk in closed form as recorded, 1e-10; with the last particles alone at the probes, which it says."""
    problem = Population(population.teacher(3, 2, seed=1), probes=30)
    network, record = Network("erf", Scaling(1.0, shift=shift)), ["risk", "kernel_drift"]
    options = {"problem": problem, "network": network, "record": record}
    done = run(out=folder / f"population-{shift}.h5", **options)
    seen = analyse(done)
    for name in record:
        assert seen.series[name] == pytest.approx(done.records[name], rel=1e-10, abs=1e-14)
    assert np.abs(seen.series["energy_residual"]).max() < 1e-4 * abs(seen.series["energy_change"][-1])
    assert "test_risk" in seen.skipped
    probes = analyse(run(keep="last", **options))
    assert "30 probes" in probes.remarks["risk"]
    misfit = problem.targets - done.predictions[:]
    assert probes.series["risk"] == pytest.approx((misfit**2).mean(axis=1), rel=1e-12)


def _cubic(z):
    return z - z**3 / 9.0, 1.0 - z**2 / 3.0


def test_an_activation_of_ones_own(folder):
    """A file has its name alone: what needs it is left out with that reason, and comes when it is handed in."""
    own = Activation("cubic-of-mine", _cubic)
    done = run(out=folder / "own.h5", network=Network(own), start=0.5 * START, engine="reference", rtol=1e-6)
    bare, given = open_run(done.path), open_run(done.path, activation=own)
    seen = analyse(bare)
    assert seen.skipped.keys() == {"kernel_drift", "energy_residual"}
    assert "cubic-of-mine" in seen.skipped["kernel_drift"] and "activation=" in seen.skipped["kernel_drift"]
    for name in ("risk", "test_risk", "displacement"):
        assert seen.series[name] == pytest.approx(done.records[name], rel=1e-12, abs=1e-14)
    two = analyse(given, frames=2, max_flops=1e6)  # which is too little for the balance: less to compile
    assert two.series["kernel_drift"][-1] == pytest.approx(done.records["kernel_drift"][-1], rel=1e-12)


def test_a_loss_of_ones_own(folder):
    """Without it there is no balance; risk and kernel are there."""
    quartic = mf.losses.Loss("quartic", lambda f, y: (f - y) ** 4, lambda f, y: -4.0 * (f - y) ** 3)
    problem = mf.Problem(PROBLEM.inputs, PROBLEM.targets, loss=quartic)
    done = run(out=folder / "loss.h5", problem=problem, record=["risk", "kernel_drift"])
    seen = analyse(open_run(done.path))
    assert "quartic" in seen.skipped["energy_residual"] and seen.skipped.keys() == {"energy_residual", "test_risk"}
    for name in ("risk", "kernel_drift"):
        assert seen.series[name] == pytest.approx(done.records[name], rel=1e-12, abs=1e-14)


def test_frame_by_frame(on_file, monkeypatch):
    """No more than one frame of the file's particles is asked for at a time."""
    from meanfield.trajectories import frames

    asked, read = [], frames.Frames.__getitem__

    def reading(self, index):
        found = read(self, index)
        asked.append(found.size)
        return found

    monkeypatch.setattr(frames.Frames, "__getitem__", reading)
    analyse(on_file)
    assert max(asked) == START.size and len(asked) > 3 * len(TIMES)


# Two runs


def test_two_runs_from_one_start(on_file, folder):
    """W2 and coupling distance at each time, of the particles themselves; predictions and risks of both."""
    other = run(alpha=1.5, out=folder / "other.h5")
    seen = analyse(on_file, other=other).between
    a, b = on_file.particles[:], other.particles[:]
    moved = np.sqrt(((a - b) ** 2).sum(axis=2).mean(axis=1))
    assert seen.series["coupling_distance"] == pytest.approx(moved, rel=1e-12)
    assert seen.series["w2"] == pytest.approx([w2(*pair) for pair in zip(a, b, strict=True)], rel=1e-12, abs=1e-12)
    assert (seen.series["w2"] <= seen.series["coupling_distance"] * (1 + 1e-12)).all()
    apart = {"": (on_file.predictions[:], other.predictions[:]),
             "test_": (on_file.test_predictions[:], other.test_predictions[:])}  # fmt: skip
    for prefix, (first, second) in apart.items():
        expected = np.sqrt(((first - second) ** 2).mean(axis=1))
        assert seen.series[f"{prefix}prediction_difference"] == pytest.approx(expected, rel=1e-12)
    assert seen.series["risk"] == pytest.approx(on_file.records["risk"], rel=1e-12)
    assert seen.series["other_risk"] == pytest.approx(other.records["risk"], rel=1e-12)


def test_a_run_and_itself(on_file):
    """Distance 0 in every sense; the floor is not 0."""
    seen = compare(on_file, run())
    for name in ("w2", "coupling_distance", "prediction_difference", "test_prediction_difference"):
        assert np.abs(seen.series[name]).max() < 1e-12
    assert seen.series["w2_floor"].min() > 0.1


def test_two_starts(on_file):
    """Other particles, or another number of them: W2 with its floor, and why there is no coupling distance."""
    for start in (initial.gaussian(24, 3, seed=9), initial.gaussian(30, 3, seed=8)):
        other = run(start=start)
        seen = compare(on_file, other)
        assert "coupling_distance" not in seen.series and seen.skipped["coupling_distance"]
        assert seen.series["w2"][-1] == pytest.approx(w2(on_file.particles[-1], other.particles[-1]), rel=1e-12)
        assert 0.5 < seen.series["w2"][0] / seen.series["w2_floor"][0] < 1.5  # two samples of one law


def test_times_in_common(on_file):
    """Every other time of the other run, and one more of its own: those in common alone; none at all is refused."""
    times = [*TIMES[::2], 5.3]
    other = simulate(Network("tanh"), PROBLEM, START, times)
    assert compare(on_file, other).times == pytest.approx(TIMES[::2], abs=0.0)
    with pytest.raises(InputError, match="no time in common; needed: frames at the same flow times"):
        compare(on_file, simulate(Network("tanh"), PROBLEM, START, [0.03, 0.05]))


def test_other_inputs_and_other_dimensions(on_file):
    """Predictors are compared at the same inputs alone; particles of another dimension are refused."""
    other = run(problem=problems.teacher_student(dim=3, n=30, n_test=20, seed=4))
    assert compare(on_file, other).skipped.keys() == {"prediction_difference", "test_prediction_difference"}
    wide = problems.teacher_student(dim=4, n=30, n_test=20, seed=4)
    with pytest.raises(InputError, match="4 and 5 components"):
        compare(on_file, run(problem=wide, start=initial.gaussian(24, 4, seed=2)))


# How it is said


def test_text_and_data(found):
    """The table has a column for each series; the data go through JSON and back."""
    lines = found.table(5).splitlines()
    assert lines[2].split() == ["t", *found.series] and len([each for each in lines[3:8] if each.strip()]) == 5
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["series"]["risk"] == pytest.approx(found.series["risk"], abs=0.0) and data["between"] is None


def test_figures(on_file, found, folder):
    """PNGs of one run, and of two; a panel for each thing, its axes named; what is left out is said in its panel."""
    last = run(out=folder / "drawn.h5", keep="last")
    both = plots.analysis(found, analyse(last, other=on_file))
    assert [len(plots.analysis(found).axes), len(both.axes)] == [4, 6]
    assert all(axes.get_xlabel() == "flow time t" and axes.get_ylabel() for axes in both.axes)
    said = [text.get_text() for axes in plots.analysis(analyse(last)).axes for text in axes.texts]
    assert len(said) == 1 and said[0].startswith("left out: the balance")
    plots.save(both, folder / "drawn.png")
    assert (folder / "drawn.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: analyse("run.h5"), "needed: a Run, of `simulate`, or a Trajectory, of `open`"),
        (lambda t: analyse(replace(run(), times=np.empty(0))), "holds no frame; needed: one at least"),
        (lambda t: compare(t, t, projections=1), "projections is 1; needed: a whole number of at least 2"),
        (lambda t: analyse(t, frames=1), "frames is 1; needed: a whole number of at least 2"),
        (lambda t: analyse(t, max_flops=0), "max_flops is 0; needed: a finite number above 0"),
        (lambda t: analyse(t, other=3), "run is 3; needed: a Run"),
        (lambda t: plots.analysis(), "0 analyses to plot; needed: one to 6"),
    ],
)
def test_refused(on_file, call, message):
    with pytest.raises(InputError, match=message):
        call(on_file)


def test_a_damaged_row_is_no_reason_but_an_error(folder):
    """One byte of one frame flipped: FormatError, not a series that is left out."""
    done = run(out=folder / "damaged.h5")
    row = done.particles[7].tobytes()
    done.close()
    data = done.path.read_bytes()
    assert data.count(row) == 1
    where = data.index(row) + 100
    done.path.write_bytes(data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :])
    with open_run(done.path) as opened, pytest.raises(FormatError, match="row 7"):
        analyse(opened)


# The command


def command(*arguments):
    """What a command printed, in this process."""
    done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command(tmp_path):
    """Two runs made by `meanfield run` from an example, made smaller, and analysed from their folders alone."""
    config, figure = tmp_path / "run.toml", tmp_path / "analysis.png"
    config.write_text(command("run", "--example", "teacher-student"))
    small = ("start.n_particles=40", "problem.n=50", "run.times={ end = 2.0, frames = 9 }")
    for name, alpha in (("one", 1.0), ("two", 3.0)):
        fields = [part for each in (*small, f"network.scaling.alpha={alpha}") for part in ("--set", each)]
        command("run", config, "--out", tmp_path / name, *fields)
    config.unlink()
    folders = tmp_path / "one", tmp_path / "two"
    one, two = json.loads(command("analyse", *folders, "--frames", 5, "--out", figure, "--json"))
    assert figure.read_bytes().startswith(b"\x89PNG") and (one["label"], one["between"]) == ("one", None)
    with open_run(folders[0]) as first, open_run(folders[1]) as second:
        expected = analyse(second, other=first, frames=5).to_dict()
        assert two["series"] == expected["series"] and two["between"]["series"] == expected["between"]["series"]
        assert one["series"]["risk"] == pytest.approx(first.records["risk"][[0, 2, 4, 6, 8]], rel=1e-12)
    with pytest.raises(InputError, match="is there already; choose another name with --out, or --force"):
        command("analyse", folders[0], "--out", figure)
    table = command("analyse", folders[0], "--out", figure, "--force")
    assert "kernel_drift" in table and f"wrote {figure}" in table


def test_the_command_refuses(tmp_path):
    """No such file, a figure of no format, no such folder, too many runs: one error, nothing written."""
    missing = tmp_path / "none.h5"
    for arguments, message in (
        ([missing, "--out", tmp_path / "figure.png"], "none.h5"),
        ([missing, "--out", tmp_path / "figure.text"], "needed: a suffix of"),
        ([missing, "--out", tmp_path / "none" / "figure.png"], "there is no folder"),
        ([missing] * 7, "7 runs; needed: at most 6"),
    ):
        with pytest.raises(InputError, match=message):
            command("analyse", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_exit_code(tmp_path):
    """2 for bad input, as of the other commands; one line on standard error."""
    variables = {**os.environ, "PYTHONPATH": str(Path(mf.__file__).parent.parent)}
    whole = [sys.executable, "-m", "meanfield", "analyse", str(tmp_path / "none.h5"), "--out", str(tmp_path / "a.png")]
    done = subprocess.run(whole, capture_output=True, text=True, env=variables, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("meanfield: ") and done.stderr.count("\n") == 1
