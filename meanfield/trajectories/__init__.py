"""Files: of runs, of kernels, of arrays. The only importer of h5py."""

from .arrays import read_arrays, write_arrays
from .export import export
from .frames import Frames
from .inspection import Report, info, repair, verify
from .kernels import StoredKernel, read_kernel, write_kernel
from .parts import Part, Parts, discard_parts, parts_of, read_part, settled, write_part
from .reader import Trajectory, open
from .recording import begin, interrupted, locked

__all__ = [
    "Frames", "Part", "Parts", "Report", "StoredKernel", "Trajectory", "begin", "discard_parts", "export", "info",
    "interrupted", "locked", "open", "parts_of", "read_arrays", "read_kernel", "read_part", "repair", "settled",
    "verify", "write_arrays", "write_kernel", "write_part",
]  # fmt: skip
