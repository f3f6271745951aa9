"""Files of results. The only importer of h5py."""

from .arrays import write_arrays

__all__ = ["write_arrays"]
