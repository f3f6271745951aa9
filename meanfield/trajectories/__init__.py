"""Files: of runs, of kernels, of arrays. The only importer of h5py."""

from .arrays import read_arrays, write_arrays
from .kernels import StoredKernel, read_kernel, write_kernel
from .reader import Trajectory, open
from .recording import begin, interrupted, locked

__all__ = [
    "StoredKernel", "Trajectory", "begin", "interrupted", "locked", "open", "read_arrays", "read_kernel",
    "write_arrays", "write_kernel",
]  # fmt: skip
