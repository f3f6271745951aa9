"""The mark of a killed live run: cleared as HDF5 itself would, against HDF5's own checksum of its own files."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from meanfield.trajectories.superblock import checksum, clear_mark

MARKED = """
import os, sys, h5py, numpy as np
file = h5py.File(sys.argv[1], "w", libver="latest")
rows = file.create_dataset("rows", data=np.arange(3), maxshape=(None,), chunks=(4,))
file.swmr_mode = True
rows.resize(9, axis=0)
rows[3:] = np.arange(3, 9)
file.flush()
os._exit(0)  # as killed
"""


@pytest.fixture
def marked(tmp_path):
    subprocess.run([sys.executable, "-c", MARKED, str(tmp_path / "run.h5")], check=True)
    return tmp_path / "run.h5"


@pytest.mark.parametrize("entries", [1, 100, 10_000])
def test_checksum_is_hdf5s(entries, tmp_path):
    with h5py.File(tmp_path / "file.h5", "w", libver="latest") as file:
        file["x"] = np.arange(entries)
    block = (tmp_path / "file.h5").read_bytes()[:48]
    assert checksum(block[:44]) == int.from_bytes(block[44:], "little")
    assert checksum(block[:43] + b"\1") != int.from_bytes(block[44:], "little")


def test_a_marked_file_is_opened_again_and_grows(marked):
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(marked, "r")
    clear_mark(marked)
    with h5py.File(marked, "r+", libver="latest") as file:
        np.testing.assert_array_equal(file["rows"], np.arange(9))
        file["rows"].resize(5000, axis=0)
        file["rows"][:] = np.arange(5000)
    with h5py.File(marked, "r") as file:
        np.testing.assert_array_equal(file["rows"], np.arange(5000))


@pytest.mark.parametrize("where", [9, 30, 46])
def test_a_damaged_superblock_is_left_alone(where, marked):
    raw = bytearray(marked.read_bytes())
    raw[where] ^= 4
    marked.write_bytes(raw)
    clear_mark(marked)
    assert marked.read_bytes() == bytes(raw)


def test_what_is_no_live_file_is_left_alone(tmp_path):
    with h5py.File(path := tmp_path / "old.h5", "w", libver=("earliest", "v108")) as file:
        file["x"] = np.arange(4)
    (tmp_path / "text").write_text("no HDF5")
    for each in (path, tmp_path / "text"):
        before = each.read_bytes(), os.stat(each).st_mtime_ns
        clear_mark(each)
        assert before == (each.read_bytes(), os.stat(each).st_mtime_ns)
    clear_mark(tmp_path / "nothing")
