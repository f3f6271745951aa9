"""The mark that a killed live run leaves: its file says that somebody still writes it, and HDF5 refuses to open it.

A file with readers beside the writer has a superblock of version 3: signature (8 bytes), version, sizes of offsets and
of lengths, flags; then base address, extension, end of file and root, 8 bytes each, and a checksum. HDF5 File Format
Specification 3.0, section II.A. Its own `h5clear` does the same as `clear_mark`.
"""

import os
from pathlib import Path

_SIGNATURE, _SIZE = b"\x89HDF\r\n\x1a\n", 48
_FLAGS, _END = 11, slice(28, 36)
_WORD = 0xFFFFFFFF


def clear_mark(path: Path) -> None:
    """Take the mark of a writer from a file that nobody writes: whoever calls holds the lock of the run.

    What is no file of version 3 or is damaged is left as it is. The end of the file becomes the one it has, so that
    nothing is written over what the writer had appended last.
    """
    try:
        with path.open("rb+") as file:
            block = bytearray(file.read(_SIZE))
            if len(block) < _SIZE or block[:8] != _SIGNATURE or block[8] != 3 or not block[_FLAGS]:
                return
            if checksum(block[:-4]) != int.from_bytes(block[-4:], "little"):
                return
            block[_FLAGS] = 0
            size = max(os.fstat(file.fileno()).st_size, int.from_bytes(block[_END], "little"))
            block[_END] = size.to_bytes(8, "little")
            block[-4:] = checksum(block[:-4]).to_bytes(4, "little")
            file.seek(0)
            file.write(block)
            file.truncate(size)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # the reader says it better
        return


def is_live(path: Path) -> bool:
    """Whether a file is one that others may read while it is written: its superblock has version 3."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8] == 3


def checksum(data: bytes | bytearray) -> int:
    """Jenkins' lookup3 (hashlittle, initial value 0) of a number of bytes that 4 divides."""
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    state = [(0xDEADBEEF + len(data)) & _WORD] * 3
    while len(words) > 3:
        state = _mixed([(each + word) & _WORD for each, word in zip(state, words, strict=False)])
        words = words[3:]
    words += [0] * (3 - len(words))
    return _final([(each + word) & _WORD for each, word in zip(state, words, strict=True)])


def _mixed(state):
    for i, turn in enumerate((4, 6, 8, 16, 19, 4)):
        a, b, c = i % 3, (i + 1) % 3, (i + 2) % 3
        state[a] = ((state[a] - state[c]) & _WORD) ^ _turned(state[c], turn)
        state[c] = (state[c] + state[b]) & _WORD
    return state


def _final(state):
    for i, turn in enumerate((14, 11, 25, 16, 4, 14, 24)):
        to, by = (i + 2) % 3, (i + 1) % 3
        state[to] = ((state[to] ^ state[by]) - _turned(state[by], turn)) & _WORD
    return state[2]


def _turned(word, by):
    return ((word << by) | (word >> (32 - by))) & _WORD
