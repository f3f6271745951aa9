"""Files: of runs, of kernels, of arrays. The only importer of h5py."""

from .arrays import read_arrays, write_arrays
from .export import export
from .frames import Frames
from .inspection import Report, info, repair, verify
from .kernels import StoredKernel, read_kernel, write_kernel
from .reader import Trajectory, open
from .recording import begin, interrupted, locked

__all__ = [
    "Frames", "Report", "StoredKernel", "Trajectory", "begin", "export", "info", "interrupted", "locked", "open",
    "read_arrays", "read_kernel", "repair", "verify", "write_arrays", "write_kernel",
]  # fmt: skip
