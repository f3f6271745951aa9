"""The strict reader of a run's file: what was written comes back, row by row, and what is damaged does not."""

import json
import shutil
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pytest
from run_files import STATE, TIMES, circles, write
from typer.testing import CliRunner

import meanfield as mf
from meanfield import Network, activations, trajectories
from meanfield.cli import app
from meanfield.errors import FormatError, InputError
from meanfield.trajectories import Frames, schema

POSITION, VELOCITY = "/particles/neurons/position/value", "/particles/neurons/velocity/value"
SEEN = "/observables/{}/value"
KINDS = {
    "plain": {},
    "float32": {"dtype": "float32", "velocities": False},
    "last": {"keep": "last", "residuals": True},
    "slice": {"keep": slice(1, 6, 2), "m": 0, "records": ()},
    "live": {"live": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_comes_back_bit_for_bit(tmp_path, kind):
    """Every array, number and text as it was given to the writer; residuals not stored are y - F, to the bit."""
    written = write(tmp_path / "run.h5", **KINDS[kind])
    rows = written.rows
    with mf.open(tmp_path) as run:
        assert run.path == tmp_path / "run.h5" and not run.torn and run.config == "a = 1\n"
        assert {name: getattr(run, name) for name in STATE} == STATE
        assert np.array_equal(run.times, TIMES) and np.array_equal(run.step_numbers, rows["/step"])
        pairs = {POSITION: run.particles, SEEN.format("predictions"): run.predictions}
        if run.velocities is not None:
            pairs[VELOCITY] = run.velocities
        if KINDS[kind].get("m", 3):
            pairs[SEEN.format("test_predictions")] = run.test_predictions
        else:
            assert run.test_predictions.shape == (9, 0)
        for path, found in pairs.items():
            assert found.dtype == rows[path].dtype and np.array_equal(np.asarray(found), rows[path]), path
        derived = written.problem.targets - rows[SEEN.format("predictions")]
        assert np.array_equal(run.residuals, rows.get(SEEN.format("residuals"), derived))
        assert list(run.records) == list(KINDS[kind].get("records", ("risk", "weight_norm")))
        for name, values in run.records.items():
            assert np.array_equal(values, rows[SEEN.format(name)]) and np.array_equal(run.record_times, TIMES)
        for name in ("start", "start_masses"):
            assert np.array_equal(getattr(run, name), written.arrays[f"/meanfield/{name}"])
        assert np.array_equal(run.kept, written.arrays["/particle"])
        assert np.array_equal(run.masses, run.start_masses[run.kept])
        assert run.settings == json.loads(json.dumps(written.settings))
        assert run.network == written.network and repr(run.problem) == repr(written.problem)
        for name in ("inputs", "targets", "weights", "test_inputs", "test_targets", "labels"):
            assert np.array_equal(getattr(run.problem, name), getattr(written.problem, name)), name
        assert (run.scheme, run.engine, run.dtype) == ("dopri5", "cpu", "float64")
        assert "\n" not in repr(run) and "9 frames" in repr(run) and run._repr_html_().count("<polyline") == 1
        assert run.provenance["versions"]["h5py"] == h5py.__version__


INDICES = [
    3, -1, slice(None), slice(2, 7), slice(7, 1, -2), slice(20, 30), [4, 1, 1], np.arange(9) % 3 == 0, ..., [],
    (slice(1, 8, 3), 2), (slice(None), slice(None, None, -1), 0), (..., -1), (4, ..., slice(2, 0, -1)), (2, 3, 1),
    (slice(3), slice(5, 2), slice(None)),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_slices_are_numpys(tmp_path, index):
    """A slice of the file is that slice of the array, in particles and in what is derived; in shape too."""
    rows = write(tmp_path / "run.h5").rows
    with mf.open(tmp_path) as run:
        expected = rows[POSITION][index]
        assert run.particles[index].shape == expected.shape and np.array_equal(run.particles[index], expected)
        if not isinstance(index, tuple) or len(index) < 3:
            residuals = run.problem.targets - rows[SEEN.format("predictions")]
            assert np.array_equal(run.residuals[index], residuals[index])
        assert len(run.particles) == 9 and [each.shape for each in run.particles] == [(7, 3)] * 9
        assert np.array_equal(2.0 * run.particles - 1.0, 2.0 * rows[POSITION] - 1.0)


@pytest.mark.parametrize(
    ("index", "kind"), [(9, IndexError), ((0, 7), IndexError), ((0, 0, 0, 0), IndexError), ((0, [1]), InputError),
                        (None, IndexError), ((..., ...), IndexError), (np.zeros((2, 2), int), IndexError)],
)  # fmt: skip
def test_indices_that_do_not_fit(tmp_path, index, kind):
    """Each is refused; nothing is guessed."""
    write(tmp_path / "run.h5")
    with mf.open(tmp_path) as run, pytest.raises(kind, match=r"particles|position|index"):
        run.particles[index]


def test_only_what_is_asked_for_is_read(tmp_path):
    """A damaged row is met by whoever reads it and nobody else; the message names file, series and row."""
    rows = write(tmp_path / "run.h5").rows
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        file[POSITION][5, 2, 1] += 1e-9
    with mf.open(tmp_path) as run:
        assert np.array_equal(run.particles[:5], rows[POSITION][:5]) and np.array_equal(
            run.particles[6:, 0], rows[POSITION][6:, 0]
        )
        for read in (lambda: run.particles[5, 0], lambda: run.predictions[3:], lambda: run.check()):
            with pytest.raises(FormatError, match=r"run.h5 is damaged: row 5 of its frames does not have its CRC"):
                read()
        assert np.array_equal(run.records["risk"], rows[SEEN.format("risk")]), "records are another series"


def test_more_than_allowed_is_refused_before_it_is_read(tmp_path):
    """`max_bytes` holds for opening and for each slice."""
    write(tmp_path / "run.h5", n_particles=3000, velocities=False)
    with pytest.raises(InputError, match=r"opening .* needs .*start.*more than 9.766 KiB, max_bytes"):
        mf.open(tmp_path, max_bytes=10_000)
    with mf.open(tmp_path, max_bytes=500_000) as run:
        assert run.particles[3:8].shape == (5, 3000, 3)
        with pytest.raises(InputError, match=r"reading position needs 632.8 KiB .*more than 488.3 KiB, max_bytes"):
            run.particles[:]


def test_what_takes_a_run_takes_a_trajectory(tmp_path):
    """The energy balance of a run on file is that of the same arrays in memory, to the bit; its record is drawn."""
    written = write(tmp_path / "run.h5")
    rows, targets = written.rows, written.problem.targets
    values = [rows[SEEN.format(name)] for name in ("predictions", "test_predictions", "risk", "weight_norm")]
    masses = written.arrays["/meanfield/start_masses"]
    memory = mf.Run(
        written.network, written.problem, TIMES, rows[POSITION], values[0], values[1], targets - values[0], TIMES,
        {"risk": values[2], "weight_norm": values[3]}, masses, "dopri5", "cpu", "float64", "time", 80, 2, 500, 1.5,
    )  # fmt: skip
    with mf.open(tmp_path) as run:
        for name in ("change", "integral"):
            found, expected = (getattr(mf.identities.energy_balance(each), name) for each in (run, memory))
            assert np.array_equal(found, expected), name
        assert run.disagreement == memory.disagreement == 0.0
        drawn = mf.plots.curve(run, "risk").axes[0].lines[0].get_xydata()
        assert np.array_equal(drawn, np.column_stack((TIMES, values[2])))


# Between two frames


def order(tmp_path, spoil=lambda velocity: velocity):
    """Observed order of `at` in the distance of frames, over three halvings, on a flow in closed form."""
    errors = []
    for frames in (5, 9, 17, 33):
        times = np.linspace(0.0, 2.0, frames)
        write(tmp_path / "run.h5", times=times, records=())
        with mf.open(tmp_path) as run:
            between = times[:-1] + 0.37 * np.diff(times)
            exact = circles(between, run.start)[0]
            if spoil:
                run.__class__ = Spoilt
                run.spoil = spoil
            errors.append(max(np.abs(run.at(t) - exact[i]).max() for i, t in enumerate(between)))
    return np.log2(np.array(errors[:-1]) / errors[1:])


class Spoilt(trajectories.Trajectory):
    @property
    def velocities(self):
        return self.spoil(np.asarray(super().velocities))


def test_at_is_of_order_four(tmp_path):
    """Hermite's cubic between frames of u cos t + (1 - u) sin 2t: 4 within 0.25; with velocities 1 % off it is less."""
    assert np.abs(order(tmp_path) - 4.0).max() < 0.25
    assert order(tmp_path, lambda velocity: 1.01 * velocity)[-1] < 2.0


def test_at_a_frame_is_the_frame(tmp_path):
    """To the bit, without velocities too; outside the times, and between frames without velocities, it is refused."""
    rows = write(tmp_path / "run.h5", velocities=False).rows
    with mf.open(tmp_path) as run:
        assert all(np.array_equal(run.at(t), each) for t, each in zip(TIMES, rows[POSITION], strict=True))
        with pytest.raises(
            InputError, match="between two frames; needed: a frame's own time, or a run with velocities"
        ):
            run.at(0.3)
        with pytest.raises(InputError, match=r"t = 1\.1; needed: a time among those kept, t = 0 to 1"):
            run.at(1.1)
    write(tmp_path / "last.h5", keep="last")
    with mf.open(tmp_path / "last.h5") as run:
        assert run.particles.shape == (1, 7, 3) and np.array_equal(run.at(1.0), run.particles[0])
        with pytest.raises(InputError, match="t = 1 to 1"):
            run.at(0.5)


# What a file cannot hold, and what is missing


def test_ones_own_activation_is_handed_in(tmp_path):
    """A file holds the name of a user's own formula: everything but `network` works, and that says what it needs."""
    own = activations.Activation("mine", lambda z: (z * z, 2 * z))
    write(tmp_path / "run.h5", network=Network(own))
    with mf.open(tmp_path) as run:
        assert "mine" in repr(run) and run.particles.shape == (9, 7, 3)
        with pytest.raises(InputError, match=r"activation of its own, 'mine'.*needed: activation="):
            run.network  # noqa: B018
    with mf.open(tmp_path, activation=own) as run:
        assert run.network.activation is own


def test_there_is_no_such_file(tmp_path):
    with pytest.raises(InputError, match=r"run.h5 is not a file"):
        mf.open(tmp_path)
    (tmp_path / "run.h5").write_bytes(b"PK\x03\x04")
    with pytest.raises(FormatError, match="another start"):
        mf.open(tmp_path)
    trajectories.write_arrays(tmp_path / "other.h5", {"a": np.zeros(3)}, {})
    with pytest.raises(FormatError, match="is not the file of a run"):
        mf.open(tmp_path / "other.h5")


# Files that are written, or were


OTHER = """
import sys
import meanfield as mf
try:
    with mf.open(sys.argv[1]) as run:
        print(run.status, run.torn, len(run.times), run.check())
except mf.errors.InputError as problem:
    print(type(problem).__name__, problem)
"""


def elsewhere(path):
    done = subprocess.run(
        [sys.executable, "-c", OTHER, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@pytest.mark.parametrize(("live", "said"), [(False, "InputError .*is being written by another process"),
                                            (True, "running 0 9 {'frames': 9, 'records': 9}")])  # fmt: skip
def test_a_file_while_it_is_written(tmp_path, live, said):
    """Another process is told to wait, or reads what is there if the run is live; a copy of either is a killed run."""
    written, file = write(tmp_path / "run.h5", live=live, close=False)
    found = elsewhere(tmp_path / "run.h5")
    assert np.any([said.split(" .*")[-1] in found]), found
    shutil.copy(tmp_path / "run.h5", tmp_path / "killed.h5")
    file.close(STATE)
    with mf.open(tmp_path / "killed.h5") as run:
        assert run.status == "running" and run.live == live and not run.torn
        assert np.array_equal(run.particles, written.rows[POSITION])
    assert trajectories.repair(tmp_path / "killed.h5") == 0
    assert (tmp_path / "killed.h5.torn").exists() == live, "only a live file needs another to be read plainly"
    with h5py.File(tmp_path / "killed.h5", "r") as plain:
        assert np.array_equal(plain[POSITION], written.rows[POSITION])


def torn(path, status, **options):
    """A run whose last frame has only half of its columns, and one record more than its CRC."""
    written = write(path, state={**STATE, "status": status}, **options)
    with h5py.File(path, "r+") as file:
        for name in ("/step", "/time", POSITION):
            file[name].resize(10, axis=0)
        file["/step"][9], file["/time"][9] = 90, 2.0
        file[SEEN.format("risk")][8] += 1.0
    return written


@pytest.mark.parametrize("status", ["running", "aborted"])
def test_a_torn_tail_is_dropped(tmp_path, status):
    """Half a frame, and a record with another CRC, at the end of a run that was cut off: the rest is read."""
    rows = torn(tmp_path / "run.h5", status).rows
    with mf.open(tmp_path) as run:
        assert run.torn == 2 and "2 torn rows dropped" in repr(run)
        assert np.array_equal(run.particles, rows[POSITION]) and np.array_equal(run.times, TIMES)
        assert np.array_equal(run.records["risk"], rows[SEEN.format("risk")][:8])


def test_a_torn_tail_of_a_finished_run_is_damage(tmp_path):
    """Nobody was cut off there."""
    torn(tmp_path / "run.h5", "complete")
    with pytest.raises(FormatError, match="is complete, and its series have rows of"):
        mf.open(tmp_path)


def test_repair_drops_the_tail_and_changes_nothing_else(tmp_path):
    """Every value, attribute, text and the digest as before, the rows before the tail to the bit, the old file aside;
    a second repair does nothing, and one of a file that is damaged elsewhere is refused and leaves it."""
    path = tmp_path / "run.h5"
    torn(path, "aborted")
    before = path.read_bytes()
    with mf.open(path) as run:
        fixed, state, rows = run.contents.fixed, run.contents.state, list(run.rows())
    assert trajectories.repair(path) == 2
    assert (tmp_path / "run.h5.torn").read_bytes() == before
    with mf.open(path) as run:
        assert not run.torn and run.contents.state == state
        assert set(run.contents.fixed) == set(fixed)
        for name, value in fixed.items():
            assert np.array_equal(run.contents.fixed[name], value), name
        for one, other in zip(run.rows(), rows, strict=True):
            assert one[:3] == other[:3] and all(map(np.array_equal, one[3], other[3]))
    after = path.read_bytes()
    assert trajectories.repair(path) == 0 and path.read_bytes() == after
    torn(tmp_path / "other.h5", "aborted")
    with h5py.File(tmp_path / "other.h5", "r+") as file:
        file[POSITION][2] = 0.0
    before = (tmp_path / "other.h5").read_bytes()
    with pytest.raises(FormatError, match="row 2 of its frames"):
        trajectories.repair(tmp_path / "other.h5")
    assert (tmp_path / "other.h5").read_bytes() == before and len(list(tmp_path.iterdir())) == 3


# The command line


def call(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_commands(tmp_path):
    """verify in a process of its own, info, export: numbers of the file, and a damaged one is an error of bad input."""
    path = tmp_path / "run.h5"
    write(path)
    report = json.loads(call("verify", path, "--json").stdout)
    assert report["rows"] == {"frames": 9, "records": 9} and report["status"] == "complete"
    said = json.loads(call("info", tmp_path, "--json").stdout)
    assert (said["frames"], said["particles"], said["times"]) == (9, 7, [0.0, 1.0])
    assert "9" in call("info", path).stdout and "no row" in call("repair", path).stdout
    with h5py.File(path, "r+") as file:
        file[POSITION][5, 2, 1] += 1e-9
    failed = call("verify", path)
    assert isinstance(failed.exception, FormatError) and "row 5 of its frames" in str(failed.exception)
    assert isinstance(call("verify", tmp_path / "no.h5").exception, InputError)


# Other programs


def needs(name):
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install 'meanfield[test]'")


def test_h5py_reads_it(tmp_path):
    """Without this package: arrays, hard links, dimension scales."""
    rows = write(tmp_path / "run.h5").rows
    with h5py.File(tmp_path / "run.h5", "r") as file:
        value = file[POSITION]
        assert np.array_equal(value, rows[POSITION]) and file["/particles/neurons/position/time"] == file["/time"]
        assert [list(axis.keys()) for axis in value.dims] == [["step"], ["particle"], ["component"]]
        assert file["/h5md"].attrs["version"].tolist() == [1, 1]


def test_xarray_reads_it(tmp_path):
    """Groups as they stand, with named dimensions and no warning; `to_xarray` gives the same arrays, lazily."""
    xarray, _ = needs("xarray"), needs("h5netcdf")
    rows = write(tmp_path / "run.h5").rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xarray.open_dataset(tmp_path / "run.h5", group="/observables/risk", engine="h5netcdf") as found:
            assert found["value"].dims == ("step",), "the name it has in the group"
            assert np.array_equal(found["value"], rows[SEEN.format("risk")])
        with mf.open(tmp_path) as run:
            all_of_it = run.to_xarray()
            assert dict(all_of_it.sizes) == {
                "step": 9,
                "particle": 7,
                "component": 3,
                "datum": 5,
                "test_datum": 3,
                "record_step": 9,
            }
            some = all_of_it["particles"].sel(component="w1").isel(step=slice(2, 5))
            assert np.array_equal(some, rows[POSITION][2:5, :, 1]) and np.array_equal(some["time"], TIMES[2:5])
            assert np.array_equal(all_of_it["residuals"], run.residuals)
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        file[POSITION][5, 2, 1] += 1e-9
    with mf.open(tmp_path) as run:
        lazy = run.to_xarray()["particles"]
        assert np.array_equal(lazy[:5], rows[POSITION][:5])
        with pytest.raises(FormatError, match="row 5"):
            lazy[5].load()


def test_xarray_reads_particles_without_a_warning(tmp_path):
    """The group of the positions alone."""
    xarray, _ = needs("xarray"), needs("h5netcdf")
    rows = write(tmp_path / "run.h5").rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xarray.open_dataset(tmp_path / "run.h5", group="/particles/neurons/position", engine="h5netcdf") as found:
            assert found["value"].dims == ("step", "particle", "component")
            assert np.array_equal(found["value"], rows[POSITION])


def test_xarray_that_is_not_there(tmp_path, monkeypatch):
    """What to install is said."""
    monkeypatch.setitem(sys.modules, "xarray", None)
    write(tmp_path / "run.h5")
    with mf.open(tmp_path) as run, pytest.raises(InputError, match=r"pip install 'meanfield\[xarray\]'"):
        run.to_xarray()


def test_pyh5md_reads_it(tmp_path):
    """H5MD's own reader, in another dimension than 3."""
    pyh5md = needs("pyh5md")
    rows = write(tmp_path / "run.h5", dim=4).rows
    with pyh5md.File(str(tmp_path / "run.h5"), "r") as file:
        group = file.particles_group("neurons")
        position = pyh5md.element(group, "position")
        assert np.array_equal(position.value[:], rows[POSITION]) and np.array_equal(position.time[:], TIMES)
        assert group["box"].attrs["dimension"] == 5


@pytest.mark.parametrize(
    ("dim", "project"), [(2, (0, 1, 2)), (1, (0, 1, 2)), (5, (4, 0)), (5, "pca"), (1, "pca")], ids=str
)
def test_export(tmp_path, dim, project):
    """Columns as chosen, the missing ones 0; of "pca" the squared distances from the mean are kept as far as three
    directions can, which are the largest singular values: to float32."""
    rows = write(tmp_path / "run.h5", dim=dim).rows
    trajectories.export(tmp_path / "run.h5", tmp_path / "out.h5md", project)
    with h5py.File(tmp_path / "out.h5md") as file:
        found = file[POSITION][:]
        assert found.dtype == np.float32 and file["/particles/neurons/box"].attrs["dimension"] == 3
    flat = rows[POSITION].reshape(-1, 1 + dim)
    if project == "pca":
        values = np.linalg.svd(flat - flat.mean(0), compute_uv=False)
        again = np.linalg.svd(found.reshape(-1, 3).astype(float), compute_uv=False)
        size = min(3, 1 + dim)
        assert again[:size] == pytest.approx(values[:size], rel=1e-6) and np.abs(again[size:]).max(initial=0) < 1e-5
        assert np.linalg.svd(flat[:, :3] - flat[:, :3].mean(0), compute_uv=False)[0] <= values[0]
    else:
        chosen = [each for each in project if each <= dim]
        assert np.array_equal(found.reshape(-1, 3)[:, : len(chosen)], flat[:, chosen].astype(np.float32))
        assert not found.reshape(-1, 3)[:, len(chosen) :].any()


@pytest.mark.parametrize("project", ["umap", (0, 0, 1), (0, 9), (), (0, 1, 2, 3), (True,), (0.5,)], ids=str)
def test_projections_that_do_not_fit(tmp_path, project):
    write(tmp_path / "run.h5")
    with pytest.raises(InputError, match="needed: 'pca', or up to three different columns"):
        trajectories.export(tmp_path / "run.h5", tmp_path / "out.h5md", project)
    assert not (tmp_path / "out.h5md").exists()


def test_mdanalysis_reads_the_export(tmp_path):
    """Frame by frame, positions and times; and the file of a run in D = 3 itself."""
    MDAnalysis = needs("MDAnalysis")
    rows = write(tmp_path / "run.h5", dim=2).rows
    trajectories.export(tmp_path / "run.h5", tmp_path / "out.h5md")
    for name in ("out.h5md", "run.h5"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own, of what is missing beside positions
            universe = MDAnalysis.Universe.empty(7, trajectory=True)
            universe.load_new(str(tmp_path / name), format="H5MD", convert_units=False)
        assert len(universe.trajectory) == 9
        for row, frame in enumerate(universe.trajectory):
            assert frame.time == TIMES[row]
            assert np.array_equal(universe.atoms.positions, rows[POSITION][row].astype(np.float32))
        universe.trajectory.close()


def test_compressed_files(tmp_path):
    """With Blosc2: bit for bit, in the process of `verify` too, and a damaged row is seen."""
    needs("hdf5plugin")
    rows = write(tmp_path / "run.h5", compression="blosc2", n_particles=600).rows
    with mf.open(tmp_path) as run:
        assert run.filtered and np.array_equal(run.particles, rows[POSITION])
    assert trajectories.verify(tmp_path / "run.h5", seconds=60).rows["frames"] == 9
    torn(tmp_path / "torn.h5", "aborted", compression="blosc2")
    assert trajectories.repair(tmp_path / "torn.h5") == 2
    with mf.open(tmp_path / "torn.h5") as run:
        assert run.filtered and len(run.times) == 9


def test_a_frame_says_what_it_is(tmp_path):
    write(tmp_path / "run.h5")
    with mf.open(tmp_path) as run:
        assert isinstance(run.particles, Frames) and repr(run.particles) == "Frames(position, (9, 7, 3), float64)"
        assert run.particles.size == 189 and run.particles.ndim == 3
        with pytest.raises(ValueError, match="by a copy"):
            np.asarray(run.particles, copy=False)
        assert {each.name for each in run.contents.series} == {"frames", "records"} and schema.SCHEMA == 1
