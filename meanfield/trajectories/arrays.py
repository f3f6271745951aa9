"""A tree of named arrays as a plain HDF5 file: groups, datasets, attributes, nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .. import _memory
from .._files import write_atomically
from ..errors import InputError
from . import safety


def write_arrays(path: str | Path, tree: Mapping[str, Any], attributes: Mapping[str, str | float | int]) -> None:
    """Write nested mappings of arrays atomically; mappings become groups, arrays datasets.

    Text attributes are stored with fixed length: no variable-length data, which readers can be made to hang on.
    """

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w", libver=("earliest", "v108")) as file:
            for name, value in attributes.items():
                file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
            _fill(file, tree)

    write_atomically(Path(path), write)


def _fill(group: h5py.Group, tree: Mapping[str, Any]) -> None:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            _fill(group.create_group(name), value)
        else:
            group.create_dataset(name, data=np.asarray(value))


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
        attributes = safety.attributes(entries["/"], f"{path}: /")
        return _read(file), {name: _plain(value) for name, value in attributes.items()}


def _read(group: h5py.Group) -> dict[str, Any]:
    return {name: _read(entry) if isinstance(entry, h5py.Group) else entry[()] for name, entry in group.items()}


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item() if np.ndim(value) == 0 else value
