"""A tree of named arrays as a plain HDF5 file: groups, datasets, attributes, nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .._files import write_atomically


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
