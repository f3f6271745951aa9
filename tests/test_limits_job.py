"""The main job, small: its numbers, its files, its figure, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from meanfield import Scaling, _machine, datasets, fit, initial, plots, problems, simulate, transport
from meanfield._files import write_atomically
from meanfield.cli import table
from meanfield.errors import InputError
from meanfield.experiments import limits as job
from meanfield.experiments.quantities import QUANTITIES, floor_exponent

NAMES = [
    "function_error_mf", "coupling_distance", "w2", "w2_floor", "variance_mf", "variance_ntk",
    "residual_error_ntk_infinite", "residual_error_ntk_own", "kernel_drift_mf", "kernel_drift_ntk",
]  # fmt: skip


def meanfield(*arguments, cwd, timeout=240):
    """The command, as a user runs it."""
    command = [sys.executable, "-m", "meanfield", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def bilinear():
    """The job against a limit in closed form: every error in it is the finite nets' own."""
    return job.run(job.Settings(problem="bilinear", widths=(32, 64, 128, 256), seeds=24, t_end=1.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of the command on the shipped data, small."""
    where = tmp_path_factory.mktemp("job")
    done = meanfield("limits", "--widths", "16,32", "--seeds", 3, "--t-end", 2, cwd=where)
    assert done.returncode == 0, done.stderr
    return where, done


def test_quantities_come_in_their_order(bilinear):
    assert list(bilinear.quantities) == NAMES == [each.name for each in QUANTITIES]


def deviation(row, exponent):
    """Distance of a slope from an exponent in its own standard errors, from the bootstrap interval."""
    low, high = row["slope_ci95"]
    assert high - low < 0.6, "an interval this wide lets any exponent pass"
    return abs(row["slope"] - exponent) / ((high - low) / 3.92)


@pytest.mark.parametrize("name", ["function_error_mf", "coupling_distance", "residual_error_ntk_infinite"])
def test_errors_fall_like_one_over_root_n(bilinear, name):
    """Within three standard errors of -1/2: the law of large numbers, whatever the dynamics."""
    assert deviation(bilinear.quantities[name], -0.5) < 3.0


@pytest.mark.parametrize("name", ["residual_error_ntk_own", "kernel_drift_ntk"])
def test_own_kernel_and_drift_fall_like_one_over_n(bilinear, name):
    assert deviation(bilinear.quantities[name], -1.0) < 3.0


def test_mean_field_drift_is_the_exact_one(bilinear):
    """K_t / K_0 = cosh 2s for the bilinear neuron; s' = 1 - sinh 2s is integrated here once more, by Heun."""
    s, dt = 0.0, 1e-3
    for _ in range(1000):
        slope = 1.0 - np.sinh(2.0 * s)
        s += 0.5 * dt * (slope + 1.0 - np.sinh(2.0 * (s + dt * slope)))
    row = bilinear.quantities["kernel_drift_mf"]
    last = np.array(row["per_seed"])[:, -1]
    standard_error = last.std(ddof=1) / np.sqrt(len(last))
    assert abs(last.mean() - (np.cosh(2.0 * s) - 1.0)) < 5 * standard_error + 2e-3  # 2e-3: 1/N at N = 256


def test_variance_shares_average_to_the_unbiased_variance(bilinear):
    predictions = bilinear.arrays["predictions"]["final_test_mf"]
    wanted = predictions.var(axis=0, ddof=1).mean(axis=1)
    np.testing.assert_allclose(bilinear.quantities["variance_mf"]["mean"], wanted, rtol=1e-12)


def test_coupling_bounds_w2_of_the_same_atoms(bilinear):
    """W2 <= coupling distance + W2 between two samples: the triangle inequality, at the level of means."""
    rows = bilinear.quantities
    # W2(mu_N, fresh) <= C_N + W2(copies, fresh), and copies and fresh are two samples of one law, like the floor's:
    # the last two terms are equal on average only, within five standard errors of their difference.
    copies, floor, own = (np.array(rows[name]["per_seed"]) for name in ("coupling_distance", "w2_floor", "w2"))
    excess = own - copies[: len(own)] - floor
    assert (excess.mean(axis=0) <= 5 * excess.std(axis=0, ddof=1) / np.sqrt(len(excess))).all()


def test_a_wrong_scaling_is_caught(monkeypatch):
    """alpha = 1 where sqrt(N) is meant: the drift no longer falls, and neither law above would hold."""
    monkeypatch.setattr(job.Scaling, "ntk", lambda width: job.Scaling(1.0, shift="initial"))
    wrong = job.run(job.Settings(problem="bilinear", widths=(32, 64, 128, 256), seeds=24, t_end=1.0))
    assert deviation(wrong.quantities["kernel_drift_ntk"], -1.0) > 5.0
    assert wrong.quantities["kernel_drift_ntk"]["verdict"] == "differs"


def test_the_same_settings_give_the_same_numbers(bilinear):
    again = job.run(bilinear.settings)
    for name in NAMES:
        assert again.quantities[name]["per_seed"] == bilinear.quantities[name]["per_seed"], name


def test_repr_says_the_verdicts(bilinear):
    assert "kernel_drift_ntk" in repr(bilinear)


def test_json_is_complete(folder):
    where, _ = folder
    report = json.loads((where / "limits.json").read_text())
    assert list(report["quantities"]) == NAMES
    for name, row in report["quantities"].items():
        assert {"alpha", "widths", "mean", "per_seed", "slope", "slope_ci95", "theory", "verdict"} <= set(row), name
        assert row["widths"] == [16, 32]
        np.testing.assert_allclose(np.mean(row["per_seed"], axis=0), row["mean"], rtol=1e-12)
        law = fit.power_law(row["widths"], row["per_seed"])
        assert row["slope"] == pytest.approx(law.slope) and row["slope_ci95"] == pytest.approx(law.interval)
        assert row["verdict"] in ("agrees", "differs", "cannot tell")
    assert report["config"]["problem"] == "fashion-mnist" and report["problem"]["n"] == 500
    assert report["mean_field"]["n_nodes"] >= 16 * 32 and 0 < report["mean_field"]["error"] < 0.05
    assert 0 < report["coupled"]["largest"] < 1e-4
    assert report["versions"]["meanfield"] and report["timings"]["total"] > 0


def test_table_shows_every_quantity_and_the_remarks(folder):
    _, done = folder
    for name in NAMES:
        assert name in done.stdout
    for remark in ("mean-field limit:", "residual as its own state (RD, seed 0)", "ratio to the floor", "verdict:"):
        assert remark in done.stdout
    assert done.stderr == ""  # no bar where there is no terminal, and no warning


def test_arrays_back_the_numbers(folder):
    """Risks, W2 and errors computed again from limits.h5 alone."""
    where, _ = folder
    report = json.loads((where / "limits.json").read_text())
    with h5py.File(where / "limits.h5") as file:
        assert file.attrs["schema"].decode() == report["schema"]
        assert json.loads(file.attrs["config"].decode()) == report["config"]
        assert file["curves/mf/risk"].shape == (3, 2, len(report["times"]))
        targets, predicted = file["problem/test_targets"][()], file["limits/mf_test_predictions"][()]
        risk = np.mean((targets - predicted) ** 2, axis=1)
        np.testing.assert_allclose(file["curves/mf/test_risk_limit"][()], risk, rtol=1e-12)
        after, before = file["gram_mf/after"][()], file["gram_mf/before"][()]
        drift = np.linalg.norm(after - before) / np.linalg.norm(before)
        assert drift == pytest.approx(report["quantities"]["kernel_drift_mf"]["per_seed"][0][-1], rel=1e-12)
        assert (np.diff(file["curves/mf/risk"][()], axis=2) < 0).all()  # a gradient flow


def test_figure_has_six_panels_with_their_data(bilinear):
    figure = plots.limits(bilinear.report, bilinear.arrays)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 6
    for axes in panels:
        assert axes.get_xlabel()
    shown = {tuple(line.get_ydata()) for line in panels[3].lines}
    for name in ("w2", "w2_floor", "coupling_distance"):
        assert tuple(bilinear.quantities[name]["mean"]) in shown


def test_figure_file_is_a_png(folder):
    where, _ = folder
    assert (where / "limits.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in where.iterdir()} == {"limits.png", "limits.h5", "limits.json"}  # nothing left over


def test_results_are_not_overwritten_without_force(folder):
    where, _ = folder
    before = {path.name: path.read_bytes() for path in where.iterdir()}
    done = meanfield("limits", "--quick", cwd=where)
    assert done.returncode == 2 and "--force" in done.stderr and len(done.stderr.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in where.iterdir()} == before


def test_json_option_prints_the_json(tmp_path):
    arguments = ("--problem", "bilinear", "--widths", "4,8", "--seeds", 2, "--json", "--out", "deep/er")
    done = meanfield("limits", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "deep/er/limits.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--problem", "fashion-minst"), "unknown problem 'fashion-minst'. Did you mean 'fashion-mnist'?"),
        (("--activation", "rellu"), "unknown activation 'rellu'. Did you mean 'relu'?"),
        (("--engine", "gpu"), "unknown engine 'gpu'"),
        (("--dtype", "float16"), "dtype is 'float16'; needed: one of float64, float32"),
        (("--widths", "64,abc"), "--widths is '64,abc'; needed: whole numbers"),
        (("--widths", "64"), "needed: two or more, increasing"),
        (("--widths", "128,64"), "needed: two or more, increasing"),
        (("--widths", "0,64"), "a width is 0; needed: a whole number of at least 1"),
        (("--seeds", "1"), "seeds is 1; needed: a whole number of at least 2"),
        (("--t-end", "-1"), "t_end is -1.0; needed: a finite number above 0"),
        (("--t-end", "nan"), "t_end is nan"),
        (("--problem", "bilinear", "--activation", "relu"), "exact for activation 'linear' only"),
        (("--seeds", "many"), "valid integer"),
        (("--nonsense",), "No such option"),
        (("--out", "a_file"), "--out a_file is a file; needed: a folder"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    (tmp_path / "a_file").write_text("")
    done = meanfield("limits", *arguments, cwd=tmp_path)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert done.stdout == "" and [path.name for path in tmp_path.iterdir()] == ["a_file"]


def test_debug_shows_the_traceback(tmp_path):
    done = meanfield("--debug", "limits", "--seeds", "1", cwd=tmp_path)
    assert "Traceback" in done.stderr and done.returncode != 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_exit_code_74(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    done = meanfield("limits", "--quick", "--out", closed, cwd=tmp_path)
    assert done.returncode == 74 and len(done.stderr.splitlines()) == 1


def test_a_place_that_cannot_be_is_exit_code_74(tmp_path):
    done = meanfield("limits", "--out", "/proc/no/such/place", cwd=tmp_path)
    assert done.returncode == 74 and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("delay", [0.0, 1.0, 2.5])  # in the data, in the compiler, in the flow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_results(tmp_path, number, code, delay):
    folder = tmp_path / "out"  # made just before the run begins
    command = [sys.executable, "-m", "meanfield", "limits", "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not folder.exists():
        time.sleep(0.1)
        assert process.poll() is None
    time.sleep(delay)
    process.send_signal(number)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == code, complaint
    first, *more = complaint.splitlines()
    assert first == f"meanfield: stopped by {signal.Signals(number).name}."
    # Nor the folder, which was made for them; unless something was finished, for the next time.
    assert more or not folder.exists()
    assert not more or [path.name for path in folder.iterdir()] == [".limits-parts"]


def test_a_folder_that_was_there_stays(tmp_path):
    kept = tmp_path / "mine.txt"
    kept.write_text("mine")
    command = [sys.executable, "-m", "meanfield", "limits", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(4.0)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert {path.name for path in tmp_path.iterdir()} - {".limits-parts"} == {"mine.txt"}
    assert kept.read_text() == "mine"


def test_list_and_doctor(tmp_path):
    listed = json.loads(meanfield("list", "--json", cwd=tmp_path).stdout)
    assert {"erf", "relu", "tanh", "softplus", "linear"} <= set(listed["activations"])
    assert set(listed["problems"]) == set(job.PROBLEMS) and set(listed["engines"]) == {"reference", "cpu", "cuda"}
    assert "dopri5" in meanfield("list", cwd=tmp_path).stdout
    doctor = json.loads(meanfield("doctor", "--json", cwd=tmp_path).stdout)
    assert {"python", "numba", "threads", "threading layer", "cuda"} <= set(doctor)


def test_help_and_version(tmp_path):
    assert "limits" in meanfield("--help", cwd=tmp_path).stdout
    assert "--quick" in meanfield("limits", "--help", cwd=tmp_path).stdout
    assert meanfield("--version", cwd=tmp_path).stdout.strip() == _machine.versions()["meanfield"]


def test_settings_refuse_what_does_not_fit():
    with pytest.raises(InputError, match="seeds is 1"):
        job.Settings(seeds=1)
    with pytest.raises(InputError, match="Did you mean 'tanh'"):
        job.Settings(activation="tahn")


def test_a_ladder_that_does_not_fit_the_memory_is_refused_before_any_work():
    with pytest.raises(InputError, match=r"a ladder up to N = 1,000,000,000 with 2 seeds needs .*Use smaller widths"):
        job.run(job.Settings(widths=(64, 10**9), seeds=2))


def test_defaults_are_the_engine_s(monkeypatch):
    """On a device to a million particles in float32; what is given is kept."""
    monkeypatch.setattr(job.engines, "find", lambda engine: engine)
    assert job.Settings().widths == (64, 128, 256, 512, 1024, 2048) and job.Settings().dtype == "float64"
    wide = job.Settings(engine="cuda")
    assert wide.widths[0] == 64 and wide.widths[-1] == 2**20 and wide.dtype == "float32"
    assert job.Settings(engine="cuda", widths=(8, 16), dtype="float64").widths == (8, 16)


def test_float32_has_a_float64_run_beside_it():
    """Its rounding is seen (in float64 it would be zero), and is small beside the errors; float64 needs no such run."""
    few = {"problem": "bilinear", "widths": (16, 32), "seeds": 4, "n_times": 3, "coupling_widths_to": 16}
    narrow = job.run(job.Settings(dtype="float32", **few))
    for regime in ("mf", "ntk"):
        found = narrow.report["precision"][f"float64_differs_{regime}"]
        assert 0 < found["sup_rms"] < 1e-4 and found["share_of_smallest_error"] < 0.01
    assert "float32: a float64 run differs by" in table(narrow.report)
    assert narrow.quantities["coupling_distance"]["widths"] == [16]
    assert job.run(job.Settings(**few)).report["precision"] == {}


def test_w2_is_measured_only_where_asked():
    """A ladder above the largest N of W2 has no W2 rows' slopes, and says it cannot tell."""
    settings = job.Settings(problem="bilinear", widths=(8, 16), seeds=2, w2_widths_to=4)
    row = job.run(settings).quantities["w2"]
    assert row["widths"] == [] and row["slope"] is None and row["verdict"] == "cannot tell"


def test_floor_in_two_dimensions_is_not_one_over_root_n():
    """Two Gaussian samples in the plane: the measured slope is that of log(N)/sqrt(N), and not -1/2."""
    widths = (32, 64, 128, 256, 512, 1024)
    draw = lambda n, seed: np.random.default_rng(seed).standard_normal((n, 2))  # noqa: E731
    floors = np.array([transport.w2_floor(draw, width, range(16)) for width in widths]).T
    law = fit.power_law(widths, floors)
    assert fit.verdict(law.interval, floor_exponent(2, widths)) == "agrees"
    assert law.interval[0] > -0.5


def test_no_two_streams_of_the_job_coincide():
    """Particles, fresh samples, the teacher's data, the quadrature and the bootstrap draw different numbers."""
    problem = problems.teacher_student()
    sweep = job._Sweep(job.Settings(problem="teacher-student", widths=(4, 8), seeds=4))
    drawn = [*sweep.starts, *sweep.fresh, np.random.default_rng(0).standard_normal((8, 6))]
    firsts = [float(each.ravel()[0]) for each in drawn]
    assert len(set(firsts)) == len(firsts)
    assert not np.isin(np.concatenate(sweep.starts), problem.inputs).any()
    old = np.random.default_rng((0, 0, 0)).standard_normal(3)  # what must not be: a tuple of zeros is the seed 0
    np.testing.assert_array_equal(old, np.random.default_rng(0).standard_normal(3))


def test_features_move_in_one_scaling_and_not_in_the_other(folder):
    """The default problem: at t_end = 20 the drift is at least 0.3 at alpha = 1; here one seed, N = 1024."""
    settings = job.Settings()
    start = initial.gaussian(1024, 10, seed=1)
    drifts = {}
    for regime, scaling in (("mf", Scaling.mean_field()), ("ntk", Scaling.ntk(1024))):
        run = simulate(settings.network(scaling), datasets.fashion_mnist(), start, [20.0], record=["kernel_drift"])
        drifts[regime] = run.records["kernel_drift"][-1]
    assert drifts["mf"] > 0.3 and drifts["ntk"] < 0.05


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """Whole or not there: a writer that fails halfway keeps the old bytes and leaves no temporary file."""
    path = tmp_path / "file.txt"
    write_atomically(path, lambda temporary: temporary.write_text("old"))

    def fails(temporary):
        temporary.write_text("half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fails)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"


def test_degenerate_ladders_end_in_cannot_tell(tmp_path):
    """Widths of 1 and a flow of no length have no logarithms: no verdict, and still all three files."""
    for arguments in (("--widths", "1,2", "--seeds", 2), ("--widths", "4,8", "--seeds", 2, "--t-end", "1e-18")):
        out = tmp_path / str(arguments[1])
        done = meanfield("limits", "--problem", "bilinear", *arguments, "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        report = json.loads((out / "limits.json").read_text())
        assert {row["verdict"] for row in report["quantities"].values()} == {"cannot tell"}


def test_few_seeds_give_no_verdict_and_wider_intervals():
    assert fit._percentiles(3)[0] < fit._percentiles(16)[0] < 2.5
    assert fit._percentiles(10**6)[0] == pytest.approx(2.5, rel=1e-4)  # the plain interval for many


def test_a_figure_needs_a_format(tmp_path, bilinear):
    figure = plots.limits(bilinear.report, bilinear.arrays)
    for name in ("figure", "figure.foo"):
        with pytest.raises(InputError, match="needed: a suffix of"):
            plots.save(figure, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    plots.save(figure, tmp_path / "figure.pdf")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
