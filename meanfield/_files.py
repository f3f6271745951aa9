"""Files that are either whole or not there: written beside their place, synced, then moved into it."""

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

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
    finally:
        temporary.unlink(missing_ok=True)
        _temporaries.discard(temporary)
