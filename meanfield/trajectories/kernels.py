"""A tangent kernel on file, with the inputs it belongs to: dear to compute, and of no use with other inputs."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import _checks
from ..errors import InputError
from .arrays import read_arrays, write_arrays

_FORMAT = "meanfield kernel 1"


@dataclass(frozen=True, eq=False)
class StoredKernel:
    """kernel (n, n') between inputs (n, d) and other (n', d), and a note of what it is of."""

    kernel: np.ndarray
    inputs: np.ndarray
    other: np.ndarray
    note: str


def write_kernel(
    path: str | Path, kernel: np.ndarray, inputs: np.ndarray, other: np.ndarray | None = None, note: str = ""
) -> None:
    """Write a kernel and its inputs, all float64, with a digest of them.

    Parameters
    ----------
    kernel : (n, n')
    inputs, other : (n, d), and (n', d), by default the same
    note : what it is of, in ASCII: `repr(network)`, say

    Raises InputError where shapes do not fit.
    """
    inputs = _checks.array(inputs, "inputs", 2, "an array (n, d)")
    other = inputs if other is None else _checks.array(other, "other", 2, "an array (n', d)")
    kernel = _checks.array(kernel, "kernel", 2, f"an array {len(inputs), len(other)}")
    arrays = {"kernel": kernel, "inputs": inputs, "other": other}
    _check_shapes(arrays, "these")
    write_arrays(path, arrays, {"format": _FORMAT, "note": note, "digest": _digest(arrays)})


def read_kernel(path: str | Path, inputs: np.ndarray | None = None, *, max_bytes: float | None = None) -> StoredKernel:
    """Read a kernel that `write_kernel` wrote, bit for bit.

    inputs : (n, d), optional
        What it has to be of: other inputs are refused.
    max_bytes : as in `read_arrays`

    Raises
    ------
    InputError
        If the file is missing, damaged, too large, no file of a kernel, or of a kernel of other inputs.
    """
    arrays, attributes = read_arrays(path, max_bytes=max_bytes)
    if attributes.get("format") != _FORMAT or set(arrays) != {"kernel", "inputs", "other"}:
        raise InputError(f"{path} is no {_FORMAT!r}; needed: a file from `write_kernel`.")
    if any(not isinstance(each, np.ndarray) or each.ndim != 2 for each in arrays.values()):
        raise InputError(f"{path} holds something else than matrices; needed: a file from `write_kernel`.")
    if attributes.get("digest") != _digest(arrays):
        raise InputError(f"{path} is damaged: its arrays do not have the digest it states. Compute the kernel again.")
    _check_shapes(arrays, str(path))
    if inputs is not None and not np.array_equal(arrays["inputs"], inputs):
        raise InputError(f"{path} holds the kernel of other inputs; needed: those it was written with.")
    return StoredKernel(**arrays, note=str(attributes.get("note", "")))


def _check_shapes(arrays, where):
    kernel, inputs, other = (arrays[name].shape for name in ("kernel", "inputs", "other"))
    if kernel != (inputs[0], other[0]) or inputs[1] != other[1]:
        raise InputError(f"{where}: kernel {kernel} of inputs {inputs} and {other}; needed: (n, n'), (n, d), (n', d).")


def _digest(arrays):
    """SHA-256 of shapes and bytes."""
    digest = hashlib.sha256()
    for name in ("kernel", "inputs", "other"):
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype.str}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
