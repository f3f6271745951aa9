"""Writing a run's file: rows of its series, one after the other, each flushed before the next is asked for.

What a killed process leaves behind is readable, with every flushed row in it: the old layout of HDF5 (bounds "v108")
and a flush for each row. A full disk is met before HDF5 meets it, which it does not survive (h5py#914).
"""

import json
import os
import socket
import subprocess
import sys
import time as clock
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .. import _machine
from .._files import refuse_full, write_atomically
from ..errors import FileError, InputError
from . import schema
from .schema import Series

_ROOM = 256 * 1024  # bytes beside a row: chunks and B-trees
_REMEDY = "What is there is whole; make room, then go on with `meanfield resume`"
_BOUNDS = ("earliest", "v108")
_poisoned: list[h5py.File] = []  # never closed: HDF5 would write again, and crash


def create(
    path: Path,
    series: Sequence[Series],
    arrays: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    *,
    config: str = "",
    live: bool = False,
    compression: str = "none",
) -> None:
    """A file without a row, whole or not there at all.

    arrays : by path, what does not grow
    settings : of the run, plain data
    """
    growing = {path for each in series for path in each.paths}
    filters = filters_of(compression)

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w", libver="latest" if live else _BOUNDS) as opened:
            file: Any = opened  # whose entries have types of their own
            _header(file)
            for name, value in arrays.items():
                file.create_dataset(name, data=value)
            for name in ("/particle", "/component", "/datum", "/test_datum"):
                if name in file:
                    file[name].make_scale(name[1:])
            file["/particles/neurons/mass"].dims[0].attach_scale(file["/particle"])
            for each in series:
                _create_series(file, each, filters)
            box = file.require_group("/particles/neurons/box")
            components = file["/component"].shape[0]
            box.attrs["dimension"] = np.int64(components)
            box.attrs["boundary"] = np.array([b"none"] * components)
            file["/parameters/settings"] = schema.text(json.dumps(settings, allow_nan=False))
            if config:
                file["/parameters/config"] = schema.text(config)
            file["/meanfield/provenance"] = schema.text(json.dumps(_provenance()))
            own = file["/meanfield"]
            own.attrs["schema"] = np.int64(schema.SCHEMA)
            own.attrs["state"] = schema.seal({"status": "running"})
            file["/meanfield/integrity"].attrs["digest"] = schema.text(schema.digest(schema.fixed(file, growing)))

    refuse_full(path.parent, sum(each.nbytes for each in arrays.values()) + 4 * _ROOM, path, _REMEDY)
    try:
        write_atomically(path, write)
    except OSError as problem:
        raise FileError(problem.errno or 5, f"{path} could not be made ({problem})") from problem


def _header(file):
    h5md = file.create_group("h5md")
    h5md.attrs["version"] = np.array(schema.H5MD, np.int32)
    h5md.create_group("author").attrs["name"] = np.bytes_(b"unknown")
    creator = h5md.create_group("creator")
    creator.attrs["name"], creator.attrs["version"] = (
        np.bytes_(b"meanfield"),
        schema.text(_machine.version("meanfield")),
    )
    h5md.create_group("modules/meanfield").attrs["version"] = np.array(schema.MODULE, np.int32)


def _create_series(file, series, filters):
    step = _growing(file, series.step, (), "<i8")
    time = _growing(file, series.time, (), "<f8")
    step.make_scale(series.step[1:])
    time.make_scale(series.time[1:])
    for column in series.columns:
        value = _growing(file, column.path, column.shape, column.dtype, filters if column.shape else {})
        element = value.parent
        element["step"], element["time"] = step, time  # hard links
        for axis, scale in enumerate((series.step, *column.scales)):
            value.dims[axis].attach_scale(file[scale])
    _growing(file, series.crc, (), "<u4")


def _growing(file, path, shape, dtype, filters: Mapping[str, Any] | None = None):
    size = np.dtype(dtype).itemsize
    row = size * int(np.prod(shape))
    if not shape:
        chunk = (1024,)
    elif row >= schema.CHUNK:  # particles in blocks: one of them through all times is read fast
        chunk = (1, max(1, schema.CHUNK // (row // shape[0])), *shape[1:])
    else:
        chunk = (max(1, min(64, schema.CHUNK // 4 // row)), *shape)
    return file.create_dataset(
        path, shape=(0, *shape), maxshape=(None, *shape), dtype=dtype, chunks=chunk, **(filters or {})
    )


def filters_of(compression: str) -> dict[str, Any]:
    """Options of a dataset; InputError where there is no such compression here."""
    if compression == "none":
        return {}
    if compression != "blosc2":
        raise InputError(f"compression is {compression!r}; needed: 'none' or 'blosc2'.")
    try:
        import hdf5plugin  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            "compression 'blosc2' needs hdf5plugin; needed: pip install 'meanfield[blosc2]', or 'none'."
        ) from None
    return dict(hdf5plugin.Blosc2(cname="zstd", clevel=3, filters=hdf5plugin.Blosc2.BITSHUFFLE))


class Writer:
    """An open file of a run, whose series grow.

    counts : rows of each series by its name
    """

    def __init__(self, path: Path, series: Sequence[Series], live: bool = False):
        self.path, self.series, self.live = path, {each.name: each for each in series}, live
        try:
            # One chunk of each dataset stays in memory, the one being filled: HDF5 2 keeps 8 MiB of each otherwise.
            self._file: Any = h5py.File(path, "r+", libver="latest" if live else _BOUNDS, rdcc_nbytes=schema.CHUNK)
        except OSError as problem:
            raise FileError(
                problem.errno or 5, f"{path} cannot be opened to write ({problem}); close what reads it"
            ) from problem
        self.counts = {each.name: len(self._file[each.crc]) for each in series}
        self._sets = {each.name: [self._file[path] for path in each.paths] for each in series}
        self._inode = os.stat(path).st_ino

    def begin(self, counts: Mapping[str, int], state: Mapping[str, Any]) -> None:
        """Keep so many rows of each series; those behind them are dropped. From here on rows may follow."""
        for name, count in counts.items():
            for each in self._sets[name]:
                each.resize(count, axis=0)
            self.counts[name] = count
        self._file["/meanfield"].attrs.modify("state", schema.seal(state))
        self._file.flush()
        if self.live:
            self._file.swmr_mode = True

    def append(self, name: str, step: int, time: float, rows: Sequence[np.ndarray]) -> None:
        """One row of a series: its columns in order. On file when this returns.

        Raises FileError where there is no room for it, or the file has gone, and InputError where a value does not fit,
        before anything is written; the rows before are whole.
        """
        index, sets = self.counts[name], self._sets[name]
        values = [_value(row, each) for row, each in zip(rows, sets[2:-1], strict=True)]
        self.refuse_full(sum(value.nbytes for value in values))
        everything = (np.int64(step), np.float64(time), *values, np.uint32(schema.crc(step, time, values)))
        try:
            for dataset, value in zip(sets, everything, strict=True):
                dataset.resize(index + 1, axis=0)
                dataset[index] = value
            self._file.flush()
        except (OSError, RuntimeError) as problem:
            _poisoned.append(self._file)
            raise FileError(5, f"{self.path}: writing failed ({problem}); the rows before it are there") from problem
        self.counts[name] = index + 1

    def refuse_full(self, size: int) -> None:
        """FileError unless so many bytes fit beside the file, and it still stands where it was made."""
        try:
            there = os.stat(self.path).st_ino == self._inode
        except OSError:
            there = False
        if not there:
            raise FileError(2, f"{self.path} was moved or removed while the run wrote it")
        refuse_full(self.path.parent, size + _ROOM, self.path, _REMEDY)

    def sync(self) -> None:
        """Have all rows on the disk: what a checkpoint counts is there after a power failure, too."""
        os.fsync(self._file.id.get_vfd_handle())

    @property
    def poisoned(self) -> bool:
        """Whether HDF5 failed in the middle of a write. Such a file is never closed."""
        return self._file in _poisoned

    def close(self, state: Mapping[str, Any]) -> None:
        """Write the last state and close."""
        if self.poisoned:
            return
        if self.live:  # no attribute changes in that mode; nor does a reader, who is welcome, let go of its lock
            self._file.close()
            self._file = h5py.File(self.path, "r+", libver="latest", locking=False)
        self._file["/meanfield"].attrs.modify("state", schema.seal(state))
        self._file.close()


def _value(row, dataset):
    """A value as its column has it; InputError where it does not fit."""
    value = np.asarray(row)
    if value.shape != dataset.shape[1:]:
        raise InputError(f"{dataset.name} is to be {value.shape} in a row; needed: {dataset.shape[1:]}, as on file.")
    with np.errstate(over="ignore"):
        stored = value.astype(dataset.dtype)
    if dataset.dtype == np.float32 and (np.isinf(stored) & ~np.isinf(value)).any():
        raise InputError(f"{dataset.name} holds {np.abs(value).max():g}, beyond float32; needed: save_dtype='float64'.")
    return stored


def _provenance():
    threads = os.environ.get("NUMBA_NUM_THREADS") or os.cpu_count()
    return {
        "versions": _machine.versions(), "argv": sys.argv, "git": _commit(), "processor": _machine.processor(),
        "host": sha256(socket.gethostname().encode()).hexdigest()[:16], "threads": str(threads),
        "started": clock.strftime("%Y-%m-%dT%H:%M:%SZ", clock.gmtime()),
    }  # fmt: skip


def _commit():
    """The commit of the working folder, and whether it differs from it; empty outside a repository."""
    try:
        run = [
            subprocess.run(["git", *words], capture_output=True, text=True, timeout=2, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno"))
        ]
    except (OSError, subprocess.SubprocessError):
        return ""
    return run[0] + ("+" if run[1] else "")
