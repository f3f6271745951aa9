"""Files that are either whole or not there: written beside their place, synced, then moved into it."""

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from . import _memory
from .errors import FileError

ROOM = 256 * 1024  # bytes that a file may take beside its data
# What `link` says on file systems that have no hard links (vfat, some shares), or no more of them.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_temporaries: set[Path] = set()
_masking = threading.Lock()


def discard_temporaries() -> None:
    """Remove what is half written; for a process about to end at once."""
    for temporary in tuple(_temporaries):
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file in the folder of `path`, then move it to `path` in one step.

    On any failure the temporary file goes and `path` is as it was.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    _temporaries.add(temporary)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files only their owner can read; give this one what an ordinary new file gets.
        with _masking:  # the mask is the process's: two threads here at once would leave it at 0
            mask = os.umask(0)
            os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        _temporaries.discard(temporary)


def _sync_folder(folder):
    """Its new names outlast a power failure from here on, where the system can promise that of a folder."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_or_copy(path: Path, other: Path) -> None:
    """Let `other` be the file at `path`, too: by a hard link, or as a copy where there are none.

    At no moment is `path` gone, or `other` half there. Raises OSError where neither can be made.
    """
    beside = path.with_name(path.name + ".link")
    beside.unlink(missing_ok=True)
    try:
        os.link(path, beside)
    except OSError as problem:
        if problem.errno not in _NO_LINKS:
            raise
        write_atomically(other, lambda temporary: shutil.copyfile(path, temporary))
    else:
        os.replace(beside, other)


def refuse_full(folder: Path, needed: float, path: Path, remedy: str = "Make room, or write it elsewhere") -> None:
    """FileError unless the disk of `folder` has `needed` bytes for `path`, before HDF5 meets its end.

    HDF5 does not survive a full disk: the process ends by a signal when the file is closed (h5py#914).
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as problem:
        raise FileError(problem.errno or 5, f"{path} cannot be written ({problem.strerror})") from problem
    if free < needed:
        raise FileError(
            errno.ENOSPC,
            f"{path}: {_memory.size(needed)} are needed on its disk, {_memory.size(free)} are free. {remedy}",
        )


def failure(path: Path, problem: Exception) -> FileError:
    """That `path` could not be written, in one line: HDF5 says more, and some of it as a RuntimeError."""
    number = getattr(problem, "errno", None)
    said = os.strerror(number) if number else " ".join(str(problem).split())[:200]
    return FileError(number or errno.EIO, f"{path} could not be written ({said})")
