"""Files of results. The only importer of h5py."""

from .arrays import read_arrays, write_arrays
from .kernels import StoredKernel, read_kernel, write_kernel

__all__ = ["StoredKernel", "read_arrays", "read_kernel", "write_arrays", "write_kernel"]
