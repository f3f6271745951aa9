"""A tree of named arrays as a plain HDF5 file: groups, datasets, attributes, nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .. import _memory
from .._files import ROOM, failure, refuse_full, write_atomically
from ..errors import InputError
from . import safety

_ENTRY = 4096  # bytes of a group, dataset or attribute beside its data: at most, and more than HDF5 takes


def write_arrays(path: str | Path, tree: Mapping[str, Any], attributes: Mapping[str, str | float | int]) -> None:
    """Write nested mappings of arrays atomically; mappings become groups, arrays datasets.

    attributes : name -> value, of the file; "path@name" -> value, of the group at that path

    An array that stands at several places, the same object, is stored once and has several names (hard links).
    Text attributes are stored with fixed length: no variable-length data, which readers can be made to hang on.

    Raises FileError where there is no room for it, or `path` cannot be written.
    """
    path = Path(path)

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w", libver=("earliest", "v108")) as file:
            _fill(file, tree, {})
            for name, value in attributes.items():
                place, _, own = name.rpartition("@")
                file[place or "/"].attrs[own] = np.bytes_(value.encode()) if isinstance(value, str) else value

    refuse_full(path.parent, _size(tree, set()) + _ENTRY * len(attributes) + ROOM, path)
    try:
        write_atomically(path, write)
    except (OSError, RuntimeError) as problem:
        raise failure(path, problem) from problem


def _size(tree: Mapping[str, Any], counted: set[int]) -> int:
    """Bytes of the file of a tree, at most; an array that has several names counts once."""
    total = 0
    for value in tree.values():
        if isinstance(value, Mapping):
            total += _size(value, counted)
        elif id(value) not in counted:
            counted.add(id(value))
            total += np.asarray(value).nbytes
    return total + _ENTRY * (1 + len(tree))


def _fill(group: h5py.Group, tree: Mapping[str, Any], written: dict[int, tuple[np.ndarray, h5py.Dataset]]) -> None:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            _fill(group.create_group(name), value, written)
        elif id(value) in written:
            group[name] = written[id(value)][1]
        else:
            value = np.asarray(value)
            written[id(value)] = value, group.create_dataset(name, data=value)  # held, so that its id stays its own


def read_arrays(path: str | Path, *, max_bytes: float | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tree, attributes) of a file that `write_arrays` wrote: nested dicts of arrays, and text and numbers.

    max_bytes : most bytes of all arrays together; default 80 % of the free memory

    Raises
    ------
    InputError
        If there is no such file, it is not HDF5 or damaged, holds what `write_arrays` does not write, or declares more
        than `max_bytes`, before anything of that size is allocated.
    """
    path = Path(path)
    safety.check_start(path)
    with safety.reading(path), h5py.File(path, "r") as file:
        entries, _ = safety.walk(file, path)
        if text := [
            name for name, entry in entries.items() if isinstance(entry, h5py.Dataset) and entry.dtype.kind == "S"
        ]:
            raise InputError(f"{path} holds {text[0]!r}, which is neither a group nor an array of numbers.")
        _memory.check(safety.sizes(entries), f"reading {path}", "Read it where there is room", max_bytes)
        return _read(file), _attributes(entries, path)


def _read(group: h5py.Group) -> dict[str, Any]:
    return {name: _read(entry) if isinstance(entry, h5py.Group) else entry[()] for name, entry in group.items()}


def _attributes(entries: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Of every group, as `write_arrays` takes them."""
    found = {}
    for name, entry in entries.items():
        if isinstance(entry, h5py.Group):
            own = safety.attributes(entry, f"{path}: {name}")
            place = "" if name == "/" else f"{name[1:]}@"
            found |= {place + each: _plain(value) for each, value in own.items()}
    return found


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item() if np.ndim(value) == 0 else value
