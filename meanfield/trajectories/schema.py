"""The layout of a run's file as data: what docs/format.md says in words, for the writer and the reader."""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SCHEMA = 1
H5MD, MODULE = (1, 1), (1, 0)  # versions
STATUS = ("running", "complete", "aborted", "failed")
# Attributes that change while a run goes on.
CHANGING = ("/meanfield@state", "/meanfield/integrity@digest")
STATE = 1024  # bytes of the state
CHUNK = 512 * 1024  # bytes of a chunk of particles


@dataclass(frozen=True)
class Column:
    """What a series has for each of its rows, beside step and time.

    path : of the dataset (T, *shape)
    scales : paths of the dimension scales of its other axes
    """

    path: str
    shape: tuple[int, ...] = ()
    dtype: str = "<f8"
    scales: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """Rows that are written together: `<prefix>step`, `<prefix>time`, columns, and a CRC for each row."""

    name: str
    prefix: str
    columns: tuple[Column, ...]

    @property
    def step(self) -> str:
        return f"/{self.prefix}step"

    @property
    def time(self) -> str:
        return f"/{self.prefix}time"

    @property
    def crc(self) -> str:
        return f"/meanfield/integrity/{self.name}"

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all datasets that grow, in the order in which a row is written and summed; the CRC last."""
        return (self.step, self.time, *(each.path for each in self.columns), self.crc)


def series(
    *, particles: int, components: int, n: int, m: int, records: Iterable[str], keep: str, dtype: str,
    velocities: bool, residuals: bool,
) -> tuple[Series, ...]:  # fmt: skip
    """The series of a run: frames, records, and the last particles where only they are kept.

    particles, components : P and D of what is kept
    n, m : inputs and test inputs
    keep : "all" or "last"
    dtype : of the particles on file, "float64" or "float32"
    """
    kind = {"float64": "<f8", "float32": "<f4"}[dtype]
    moving = [
        Column(f"/particles/neurons/{what}/value", (particles, components), kind, ("/particle", "/component"))
        for what in ("position", *(("velocity",) if velocities else ()))
    ]
    seen = [Column("/observables/predictions/value", (n,), scales=("/datum",))]
    if m:
        seen.append(Column("/observables/test_predictions/value", (m,), scales=("/test_datum",)))
    if residuals:
        seen.append(Column("/observables/residuals/value", (n,), scales=("/datum",)))
    recorded = tuple(Column(f"/observables/{name}/value") for name in records)
    frames = seen if keep == "last" else [*moving, *seen]
    found = [Series("frames", "", tuple(frames))]
    if recorded:
        found.append(Series("records", "record_", recorded))
    if keep == "last":
        found.append(Series("last", "last_", tuple(moving)))
    return tuple(found)


def crc(step: int, time: float, rows: Iterable[np.ndarray]) -> int:
    """zlib.crc32 of a row of a series: step, time and columns as they are on file."""
    value = zlib.crc32(np.float64(time).tobytes(), zlib.crc32(np.int64(step).tobytes()))
    for row in rows:
        value = zlib.crc32(np.ascontiguousarray(row).data, value)
    return value


def text(value: str) -> np.ndarray:
    """ASCII of fixed length, as a file holds it."""
    raw = value.encode("ascii", "backslashreplace") or b" "
    return np.array(raw, dtype=f"S{len(raw)}")


def seal(state: Mapping[str, Any]) -> np.ndarray:
    """The attribute `state`: JSON and its CRC, in `STATE` bytes."""
    plain = json.dumps(state, allow_nan=False)
    if len(plain) + 9 > STATE:
        raise ValueError(f"a state of {len(plain)} bytes; needed: at most {STATE - 9}")
    return np.array(f"{plain} {zlib.crc32(plain.encode()):08x}".encode("ascii"), dtype=f"S{STATE}")


def unseal(value: bytes) -> dict[str, Any] | None:
    """What `seal` was given; None where it is damaged."""
    plain, _, check = bytes(value).rpartition(b" ")
    if check != b"%08x" % zlib.crc32(plain):
        return None
    return json.loads(plain)


def digest(parts: Mapping[str, Any]) -> str:
    """SHA-256 of datasets and attributes by their paths: path, type, shape and bytes of each, sorted by path."""
    total = hashlib.sha256()
    for path in sorted(parts):
        value = np.asarray(parts[path])
        total.update(f"{path}\0{value.dtype.str}\0{value.shape}\0".encode())
        total.update(np.ascontiguousarray(value).tobytes())
    return total.hexdigest()


def fixed(file: Any, growing: Iterable[str]) -> dict[str, Any]:
    """What the digest is of: by path, every dataset of an open file that is not in `growing`, every attribute
    (`path@name`) that does not change.

    Dimension scales (`CLASS`, `NAME`, `DIMENSION_LIST`, `REFERENCE_LIST`) are HDF5's own and not in it.
    """
    skip, found = set(growing), {}
    for path, entry in _walk(file):
        for name in entry.attrs:
            if f"{path}@{name}" not in CHANGING and name not in SCALES:
                found[f"{path}@{name}"] = entry.attrs[name]
        if hasattr(entry, "dtype") and path not in skip and not path.endswith(("/step", "/time")):
            found[path] = entry[()]
    return found


SCALES = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS")


def _walk(group: Any, path: str = "/") -> Iterator[tuple[str, Any]]:
    """(path, group or dataset) of everything, a group before what is in it; hard links only are to be there."""
    yield path, group
    for name in sorted(group):
        entry, below = group[name], f"{path.rstrip('/')}/{name}"
        if hasattr(entry, "dtype"):
            yield below, entry
        else:
            yield from _walk(entry, below)
