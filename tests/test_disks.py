"""Disks that are full, folders without hard links, power that fails: what `_files` promises to those who write."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from run_files import write
from test_reader import torn

import meanfield as mf
from meanfield import _files, trajectories
from meanfield.errors import FileError, FormatError
from meanfield.trajectories import arrays, inspection, reader, settings
from meanfield.trajectories.checkpoint import read_checkpoint, write_checkpoint
from meanfield.trajectories.export import _size as size_of_export

NUMBERS = {
    "run": "a", "versions": {}, "resumed": 0, "changes": {}, "seconds": 0.0, "event": 0, "now": 0.0, "stopped_by": None,
    "evaluations": 0, "schedule": {"accepted": 0, "rejected": 0}, "counts": {},
}  # fmt: skip


@pytest.fixture
def disk(tmp_path):
    """A tmpfs of 1 MiB, for whoever may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as problem:
        pytest.skip(f"no small disk: {problem}")
    if done.returncode:
        pytest.skip(f"no small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, capture_output=True)


WRITERS = {
    "write_arrays": "trajectories.write_arrays(disk / 'out.h5', {f'a{k}': np.ones(200) for k in range(1000)}, {})",
    "export": "trajectories.export(disk.parent / 'run.h5', disk / 'out.h5')",
    "write_arrays, one": "trajectories.write_arrays(disk / 'out.h5', {'a': np.ones(2**18)}, {})",
    "write_checkpoint": "checkpoint.write_checkpoint(disk / 'out.h5', {'state_0': np.ones(2**18)}, {})",
}


def child(disk, does, before=""):
    """Exit status and last line of a process that writes to the disk: 28 where a FileError says that it is full."""
    body = f"""
        import sys, pathlib, numpy as np
        from meanfield import _files, trajectories
        from meanfield.errors import FileError
        from meanfield.trajectories import arrays, checkpoint
        disk = pathlib.Path({str(disk)!r})
        {before}
        try:
            {does}
        except FileError as problem:
            print(problem)
            sys.exit(problem.errno)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(body)], capture_output=True, text=True, timeout=100)
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_error_and_leaves_what_was_there(name, disk):
    """1.5 to 2 MiB into 1: FileError 28 that names the file; it is as it was, with nothing half written beside it."""
    write(disk.parent / "run.h5", n_particles=20_000, velocities=False)
    (disk / "out.h5").write_bytes(b"before")
    code, said = child(disk, WRITERS[name])
    assert code == errno.ENOSPC and "out.h5" in said and "\n" not in said, said
    assert (disk / "out.h5").read_bytes() == b"before" and {each.name for each in disk.iterdir()} <= {
        "out.h5", "out.h5.prev",
    }  # fmt: skip


def test_hdf5_does_not_survive_a_full_disk(disk):
    """Without the look at the disk the same process ends by a signal: the test above can fail."""
    code, _ = child(disk, WRITERS["write_arrays"], "arrays.refuse_full = lambda *rest: None")
    assert code < 0, code


def test_the_room_asked_for_is_enough_and_not_much_more(tmp_path):
    """The size of what is written is below the bound, and above half of it where the data are large."""
    rng = np.random.default_rng(0)
    for n, depth in ((0, 1), (3, 300), (10**5, 3)):
        tree = {f"a{i}": {"x": rng.standard_normal(n), "y": np.arange(n)} for i in range(depth)}
        tree["again"] = {"x": tree["a0"]["x"]}
        trajectories.write_arrays(tmp_path / "a.h5", tree, {"say": "x" * 100})
        bound = arrays._size(tree, set()) + arrays._ENTRY + _files.ROOM
        size = (tmp_path / "a.h5").stat().st_size
        assert size <= bound and (n < 1000 or size > bound / 2), (n, depth, size, bound)
    for n, frames in ((3, 2000), (40_000, 3)):
        write(tmp_path / "run.h5", times=np.linspace(0, 1, frames), n_particles=n, velocities=False)
        trajectories.export(tmp_path / "run.h5", tmp_path / "out.h5")
        with reader.open(tmp_path / "run.h5") as run:
            bound = size_of_export(run)
        size = (tmp_path / "out.h5").stat().st_size
        assert size <= bound and (n < 1000 or size > bound / 2), (n, frames, size, bound)


def no_links(number):
    def link(*rest, **named):
        raise OSError(number, os.strerror(number))

    return link


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_checkpoint_needs_no_hard_links(number, tmp_path, monkeypatch):
    """Where there are none, .prev is the last but one all the same, and a file that is repaired is kept."""
    monkeypatch.setattr(os, "link", no_links(number))
    path = tmp_path / "run.ckpt"
    plan = {"plan_times": np.zeros(1), "plan_frames": np.ones(1, bool), "plan_records": np.ones(1, bool)}
    for k in range(3):
        write_checkpoint(path, plan | {"state_0": np.full(2, float(k))}, NUMBERS)
    assert {each.name for each in tmp_path.iterdir()} == {"run.ckpt", "run.ckpt.prev"}
    path.write_bytes(b"")
    assert read_checkpoint(path)[0]["state_0"].tolist() == [1.0, 1.0]
    torn(tmp_path / "run.h5", "aborted")
    before = (tmp_path / "run.h5").read_bytes()
    assert inspection.repair(tmp_path / "run.h5") == 2
    assert (tmp_path / "run.h5.torn").read_bytes() == before


def test_another_failure_of_a_link_is_told(tmp_path, monkeypatch):
    """It is not taken for the lack of links."""
    write_checkpoint(tmp_path / "run.ckpt", {}, {})
    monkeypatch.setattr(os, "link", no_links(errno.EIO))
    with pytest.raises(FileError, match=r"run\.ckpt could not be written"):
        write_checkpoint(tmp_path / "run.ckpt", {}, {})


def test_the_folder_is_synced_after_the_file_is_in_its_place(tmp_path, monkeypatch):
    """The order: the file's data, its name, the folder."""
    done, fsync, replace = [], os.fsync, os.replace

    def sync(handle):
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name if Path("/proc/self/fd").exists() else "")
        fsync(handle)

    def move(*rest):
        done.append("replace")
        replace(*rest)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", move)
    _files.write_atomically(tmp_path / "a", lambda path: path.write_text("a"))
    assert done[1:] == ["replace", tmp_path.name] and done[0] != tmp_path.name


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch):
    """As on shares, and on systems that open no folders."""
    monkeypatch.setattr(os, "open", lambda *rest, real=os.open: real(*rest) if not Path(rest[0]).is_dir() else 1 / 0)
    with pytest.raises(ZeroDivisionError):  # it is tried
        _files.write_atomically(tmp_path / "a", lambda path: path.write_text("a"))

    def refuses(path, *rest, real=os.open):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "no")
        return real(path, *rest)

    monkeypatch.setattr(os, "open", refuses)
    _files.write_atomically(tmp_path / "b", lambda path: path.write_text("b"))
    assert (tmp_path / "b").read_text() == "b"


LABELS = {
    "big-endian": (np.array([3, 1, 3, 2], ">i4"), [3, 1, 3, 2]),
    "booleans": (np.array([True, False, True, True]), [1, 0, 1, 1]),
    "words": (np.array(["cat", "ant", "cat", "bee"]), [2, 0, 2, 1]),
    "bytes": (np.array([b"cat", b"ant", b"cat", b"bee"]), [2, 0, 2, 1]),
    "objects": (np.array(["cat", 3, "cat", None], object), [2, 0, 2, 1]),
    "big-endian floats": (np.array([0.5, -1.0, 0.5, 2.0], ">f8"), [0.5, -1.0, 0.5, 2.0]),
    "long floats": (np.array([0.5, -1.0, 0.5, 2.0], np.longdouble), [0.5, -1.0, 0.5, 2.0]),
    "half floats": (np.array([0.5, -1.0, 0.5, 2.0], np.half), [0.5, -1.0, 0.5, 2.0]),
}  # fmt: skip


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_type(kind, tmp_path):
    """A run with them is written, read strictly and extended; the file holds them, words by their place in the
    alphabet ("3" < "None" < "cat"), in little-endian numbers."""
    labels, there = LABELS[kind]
    rng = np.random.default_rng(0)
    problem = mf.Problem(rng.standard_normal((4, 2)), rng.standard_normal(4), labels=labels)
    start = mf.initial.gaussian(4, 2, seed=1)
    mf.simulate(mf.Network("tanh"), problem, start, [0.0, 0.1], out=tmp_path / "run.h5", engine="reference")
    mf.resume(tmp_path / "run.h5", end=0.2)
    with reader.open(tmp_path / "run.h5") as run:
        run.check()
        found = run.problem.labels
    assert found.tolist() == there and found.dtype.byteorder in "=|<"


@pytest.mark.parametrize("odd", [{"scheme": 5}, {"record": 3}, {"stop": [7]}, {"batches": {}}, {"keep": [1, 2, 3, 4]}])
def test_changes_that_no_one_made_are_a_damaged_file(odd):
    """A checkpoint's changes take the place of a run's settings: of any other kind they are one typed error."""
    run = {"scheme": "dopri5", "record": ["risk"], "stop": [], "batches": None, "keep": "all"}
    assert settings.arguments({"run": run}, {}) == run
    with pytest.raises(FormatError, match=r"the settings of the run cannot be used|the run has|needed"):
        settings.arguments({"run": run | odd}, {})
