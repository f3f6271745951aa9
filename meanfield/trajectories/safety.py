"""What is asked of a file before any of it is read: that all of it stands in the file itself, of known type and size.

HDF5 follows links into other files, takes data from files that a dataset names, looks for filters along a path, and
gives as many bytes as a file claims to hold. So the class of a link is looked at before it is followed, and layout,
type, filters and size of a dataset before its data. Types of variable length are refused: HDF5 can hang on damaged
ones.
"""

import importlib.util
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5l, h5o, h5t  # pyright: ignore[reportAttributeAccessIssue]

from ..errors import FormatError, InputError

OBJECTS, DEPTH = 10_000, 32  # most groups, datasets and attributes of a file; most groups above one another
CHUNK, ATTRIBUTE = 64 * 2**20, 2**16  # most bytes of a chunk, of an attribute
BLOSC2 = 32026  # the one filter that is let through, where hdf5plugin brings it
# What HDF5 notes at dimension scales: of variable length, and never read.
SCALES = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS")
_MAGIC = b"\x89HDF\r\n\x1a\n"
# What h5py raises on damaged files.
_FAILURES = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError, SystemError)
_CLASSES = {
    h5t.COMPOUND: "compound", h5t.VLEN: "of variable length", h5t.REFERENCE: "a reference", h5t.OPAQUE: "opaque",
    h5t.ARRAY: "an array in each entry", h5t.BITFIELD: "a bit field", h5t.TIME: "a time",
}  # fmt: skip


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever HDF5 says of a damaged file, as a FormatError."""
    try:
        yield
    except InputError:
        raise
    except _FAILURES as problem:
        said = " ".join(str(problem).split()) or type(problem).__name__
        raise FormatError(f"{path} cannot be read as HDF5 ({said}); needed: a file as it was written.") from problem


def check_start(path: Path) -> None:
    """FormatError unless the file begins as HDF5 does; InputError where there is none."""
    if not path.is_file():
        raise InputError(f"{path} is not a file; needed: the path of an HDF5 file.")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise FormatError(f"{path} cannot be read as HDF5 (another start); needed: a file as it was written.")


def says_live(path: Path) -> bool:
    """Whether the superblock is of version 3 and says that a process writes the file in the mode SWMR."""
    with path.open("rb") as file:
        start = file.read(12)
    return len(start) == 12 and start[8] == 3 and bool(start[11] & 4)


def walk(file: Any, path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Every group and dataset by its path, a group before what is in it, and where in the file each begins.

    Nothing but hard links is followed. A dataset may have several paths, a group has one. FormatError for other links,
    cycles, too many objects or too deep ones, named types, and datasets that `check_dataset` refuses.
    """
    found: dict[str, Any] = {"/": file["/"]}
    places: dict[str, int] = {}  # of the links, which is not asked of the objects: HDF5 then goes through all of them
    queue, seen = [("", file["/"].id, 0)], set()
    while queue:
        above, group, depth = queue.pop()
        if depth > DEPTH or len(found) + group.get_num_objs() > OBJECTS:
            raise FormatError(f"{path} holds more than {OBJECTS} objects or {DEPTH} levels; needed: a file of results.")
        for name in list(group):
            here, link = f"{above}/{name.decode()}", group.links.get_info(name)
            if link.type != h5l.TYPE_HARD:
                raise FormatError(f"{path}: {here} is a link to somewhere else; needed: all of it in its own place.")
            places[here] = link.u
            entry = h5o.open(group, name)
            if isinstance(entry, h5py.h5g.GroupID):
                if link.u in seen:
                    raise FormatError(f"{path}: the group {here} has a second path; needed: one, without a cycle.")
                seen.add(link.u)
                found[here] = h5py.Group(entry)
                queue.append((here, entry, depth + 1))
            elif isinstance(entry, h5d.DatasetID):
                found[here] = check_dataset(entry, f"{path}: {here}")
            else:
                raise FormatError(f"{path} holds {here!r}, which is neither a group nor an array of numbers.")
    return found, places


def check_dataset(entry: h5d.DatasetID, where: str) -> h5py.Dataset:
    """The dataset, if its data are in this file, of plain type, in chunks that fit, behind no unknown filter."""
    layout = entry.get_create_plist()
    if layout.get_layout() == h5d.VIRTUAL or layout.get_external_count():  # before its shape, which can open files
        raise FormatError(f"{where} has its data in other files; needed: in this one.")
    kind = check_type(entry.get_type(), where)
    shape = entry.shape
    if entry.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        raise FormatError(f"{where} has no shape; needed: an array.")
    for index in range(layout.get_nfilters()):
        _check_filter(layout.get_filter(index)[0], where)
    if layout.get_layout() == h5d.CHUNKED and math.prod(layout.get_chunk()) * kind.itemsize > CHUNK:
        raise FormatError(f"{where} has chunks {layout.get_chunk()}; needed: at most 64 MiB each.")
    if layout.get_layout() == h5d.CONTIGUOUS and math.prod(shape) * kind.itemsize > entry.get_storage_size():
        raise FormatError(f"{where} claims shape {shape} and stores {entry.get_storage_size()} bytes of it.")
    return h5py.Dataset(entry)


def check_type(kind: h5t.TypeID, where: str, needed: str | None = None) -> np.dtype:
    """The type as NumPy's: numbers or text of fixed length, and exactly `needed` where that is given."""
    code = kind.get_class()
    if code in _CLASSES or (code == h5t.STRING and kind.is_variable_str()):
        what = _CLASSES.get(code, "text of variable length")
        raise FormatError(f"{where} is {what}, which is neither a group nor an array of numbers.")
    if kind.get_size() > ATTRIBUTE and code != h5t.STRING:
        raise FormatError(f"{where} has entries of {kind.get_size()} bytes; needed: numbers.")
    found = np.dtype(kind.dtype)
    if found.kind not in "biufS" or h5t.py_create(np.dtype(found.str)) != kind:
        raise FormatError(f"{where} has a type of its own, read as {found}; needed: plain numbers or text.")
    if needed is not None and found != np.dtype(needed):
        raise FormatError(f"{where} has type {found}; needed: {np.dtype(needed)}.")
    return found


def _check_filter(number, where):
    if number != BLOSC2:
        raise FormatError(f"{where} is behind filter {number}; needed: none, or Blosc2.")
    if importlib.util.find_spec("hdf5plugin") is None:
        raise InputError(f"{where} is compressed with Blosc2; needed: pip install 'meanfield[blosc2]'.")
    import hdf5plugin  # noqa: F401  # pyright: ignore[reportMissingImports]


def attributes(entry: h5py.Group | h5py.Dataset, where: str) -> dict[str, Any]:
    """Attributes by name, each of plain type and small; those of dimension scales are left alone, at datasets."""
    found, total = {}, h5a.get_num_attrs(entry.id)
    if total > OBJECTS:
        raise FormatError(f"{where} has {total} attributes; needed: at most {OBJECTS}.")
    for index in range(total):
        one = h5a.open(entry.id, index=index)
        name = one.name.decode()
        if name in SCALES and isinstance(entry, h5py.Dataset):
            continue
        kind = check_type(one.get_type(), f"{where}@{name}")
        if math.prod(one.shape) * kind.itemsize > ATTRIBUTE:
            raise FormatError(f"{where}@{name} is larger than {ATTRIBUTE} bytes; needed: a small attribute.")
        found[name] = entry.attrs[name]
    return found


def sizes(entries: Mapping[str, Any]) -> dict[str, float]:
    """Bytes of every dataset of `walk`, once read."""
    return {
        name: float(math.prod(entry.shape) * entry.dtype.itemsize)
        for name, entry in entries.items()
        if isinstance(entry, h5py.Dataset)
    }
