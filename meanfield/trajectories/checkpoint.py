"""Checkpoints: the state a run goes on from, whole or not there, beside the file of its rows.

A checkpoint is made in memory and moved into place when it is on the disk; the one before stays as `.prev`. Its first
line is the SHA-256 of what follows, a plain HDF5 image: it is held against that before HDF5 sees a byte.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .._files import write_atomically
from ..errors import FileError, FormatError

_MAGIC = b"meanfield checkpoint 1 "


def write_checkpoint(path: Path, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`; the one that was there becomes `path`.prev.

    arrays : name -> float64; numbers : plain data (JSON holds floats exactly)
    """
    image = BytesIO()
    with h5py.File(image, "w", libver=("earliest", "v108")) as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=value)
        plain = json.dumps(numbers, allow_nan=False).encode()
        file.create_dataset("numbers", data=np.frombuffer(plain, np.uint8))
    raw = image.getvalue()
    head = _MAGIC + hashlib.sha256(raw).hexdigest().encode() + b"\n"
    try:
        if path.exists():
            previous = path.with_name(path.name + ".prev")
            link = path.with_name(path.name + ".link")
            link.unlink(missing_ok=True)
            os.link(path, link)  # a second name first: at no moment is there none
            os.replace(link, previous)
        write_atomically(path, lambda temporary: temporary.write_bytes(head + raw))
    except OSError as problem:
        raise FileError(problem.errno or 5, f"{path} could not be written ({problem.strerror})") from problem


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, numbers) of the last checkpoint, or of the one before where that is damaged, whose place it then takes.

    Raises FormatError where neither is whole.
    """
    complaints = []
    for each in (path, path.with_name(path.name + ".prev")):
        try:
            found = _read(each)
            if each != path:
                os.replace(each, path)  # the next checkpoint would put the damaged one in the place of this
            return found
        except (OSError, ValueError, KeyError, RuntimeError) as problem:
            complaints.append(f"{each.name}: {problem}")
    raise FormatError(f"no checkpoint to go on from ({'; '.join(complaints)}); needed: {path}, or its .prev, whole.")


def _read(path):
    head, _, raw = path.read_bytes().partition(b"\n")
    if head != _MAGIC + hashlib.sha256(raw).hexdigest().encode():
        raise FormatError("damaged")
    with h5py.File(BytesIO(raw), "r") as opened:
        file: Any = opened
        arrays = {name: file[name][()] for name in file}
    numbers = json.loads(arrays.pop("numbers").tobytes())
    return arrays, numbers
