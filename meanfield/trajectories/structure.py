"""A run's file held against its format (docs/format.md), before any row of it is used.

What the format names is there, of exactly its type and shape, and nothing else is. What does not grow is read here, and
has the digest that the file states.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .. import _memory
from ..errors import FormatError
from . import safety, schema

_DIGEST = "/meanfield/integrity"
_GROUPS = (
    "/", "/h5md", "/h5md/author", "/h5md/creator", "/h5md/modules", "/h5md/modules/meanfield", "/particles",
    "/particles/neurons", "/particles/neurons/box", "/observables", "/parameters", "/meanfield", "/meanfield/problem",
    "/meanfield/integrity",
)  # fmt: skip
_ATTRIBUTES = {
    "/h5md": {"version"}, "/h5md/author": {"name"}, "/h5md/creator": {"name", "version"},
    "/h5md/modules/meanfield": {"version"}, "/particles/neurons/box": {"dimension", "boundary"},
    "/meanfield": {"schema", "state"}, _DIGEST: {"digest"},
}  # fmt: skip
# May be left out.
_OPTIONAL = ("/parameters/config", "/test_datum", *(f"/meanfield/problem/{each}" for each in
             ("test_inputs", "test_targets", "labels", "test_labels", "teacher")))  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """What a file says of itself, all of it checked.

    fixed : by path, everything that does not grow, and by path@name every attribute
    lengths : rows that each series has in all of its datasets
    ragged : whether some dataset of a series has more
    """

    settings: dict[str, Any]
    state: dict[str, Any]
    series: tuple[schema.Series, ...]
    fixed: dict[str, Any]
    lengths: dict[str, int]
    ragged: bool

    def text(self, path: str) -> str:
        """A text of the file; empty where it is not there."""
        return bytes(self.fixed.get(path, b"")).decode("ascii")


def read(file: Any, path: Path, max_bytes: float | None) -> Contents:
    """All that an open file says of itself but its rows. FormatError where it does not follow the format."""
    entries, places = safety.walk(file, path)
    check_schema(entries, path)
    settings = _settings(entries, path, max_bytes)
    series, fixed = _expected(entries, settings, path)
    growing = {each for one in series for each in one.paths}
    links = {f"{_element(column.path)}/{name}": target for one in series for column in one.columns
             for name, target in (("step", one.step), ("time", one.time))}  # fmt: skip
    groups = {*_GROUPS, *(_element(column.path) for one in series for column in one.columns)}
    known = {*fixed, *growing, *links, *groups}
    for name in sorted(known.symmetric_difference(entries)):
        if name not in _OPTIONAL or name in entries:
            raise FormatError(f"{path} {'has no' if name in known else 'holds'} {name}; needed: what its format names.")
    for name, entry in entries.items():
        if isinstance(entry, h5py.Dataset) == (name in groups):
            raise FormatError(f"{path}: {name} is a {type(entry).__name__.lower()}; needed: the other kind.")
    for name, (kind, shape) in fixed.items():
        if name in entries:
            _check(entries[name], f"{path}: {name}", kind, shape)
    for name, target in links.items():
        if places[name] != places[target]:
            raise FormatError(f"{path}: {name} is not {target}; needed: a hard link to it.")
    lengths, ragged = {}, False
    for one in series:
        kinds = ("<i8", "<f8", *(column.dtype for column in one.columns), "<u4")
        shapes = ((), (), *(column.shape for column in one.columns), ())
        rows = [_rows(entries[each], f"{path}: {each}", kind, shape)
                for each, kind, shape in zip(one.paths, kinds, shapes, strict=True)]  # fmt: skip
        lengths[one.name] = min(rows)
        ragged |= min(rows) != max(entries[each].shape[0] for each in one.paths)
    _memory.check({**{name: size for name, size in safety.sizes(entries).items() if name in fixed},
                   "steps and times": 16.0 * sum(lengths.values())},
                  f"opening {path}", "Open it where there is room", max_bytes)  # fmt: skip
    said = _attributes(entries, path)
    values = {name: entries[name][()] for name in fixed if name in entries}
    _check_digest(said, values, path)
    return Contents(settings, _state(said["/meanfield@state"], path), series, {**values, **said}, lengths, ragged)


def check_schema(entries, path):
    """FormatError for another kind of file, or one of a later schema."""
    if "/meanfield" not in entries or "/parameters/settings" not in entries:
        raise FormatError(f"{path} is not the file of a run; needed: one that simulate(..., out=...) wrote.")
    said = safety.attributes(entries["/meanfield"], f"{path}: /meanfield").get("schema")
    if not isinstance(said, np.integer) or said != schema.SCHEMA:
        raise FormatError(f"{path} has schema {said}, this version reads {schema.SCHEMA}; needed: another version.")


def _settings(entries, path, max_bytes):
    entry = entries["/parameters/settings"]
    _check(entry, f"{path}: /parameters/settings", "S", ())
    _memory.check(
        {"settings": 20.0 * entry.dtype.itemsize}, f"opening {path}", "Open it where there is room", max_bytes
    )
    try:
        found = json.loads(bytes(entry[()]).decode("ascii"), parse_constant=_no_number)
        run = found["run"]
        names = _records(run)
        good = isinstance(found["network"], dict) and isinstance(found["problem"], dict)
        good &= all(isinstance(each, str) and each and each not in (".", "..") and "/" not in each for each in names)
        good &= len(set(names)) == len(names)
    except (ValueError, LookupError, TypeError, RecursionError) as problem:
        raise FormatError(f"{path}: its settings cannot be read ({problem}); needed: those of a run.") from None
    if not good:
        raise FormatError(f"{path}: its settings do not say network, problem and records; needed: those of a run.")
    return found


def _no_number(name):
    raise ValueError(f"{name} is no number")


def _records(run):
    return [each if isinstance(each, str) else each["own"] for each in run["record"]]


def _expected(entries, settings, path):
    """The series, and of what does not grow (type, shape) by path; shapes from the datasets that define them."""
    where = "/particles/neurons/position/value"
    defining = {"/particle": 1, "/component": 1, "/meanfield/start": 2, "/meanfield/problem/inputs": 2, where: 3}
    shape = {}
    for name, axes in defining.items():
        entry = entries.get(name)
        if not isinstance(entry, h5py.Dataset) or len(entry.shape) != axes:
            raise FormatError(f"{path} has no {name} of {axes} axes; needed: what its format names.")
        shape[name] = entry.shape
    (kept,), (components,), (particles, _) = shape["/particle"], shape["/component"], shape["/meanfield/start"]
    n, dim = shape["/meanfield/problem/inputs"]
    tests = entries.get("/meanfield/problem/test_inputs")
    m = _length(tests)
    kind = str(entries[where].dtype)
    if kind not in ("float64", "float32"):
        raise FormatError(f"{path}: {where} has type {kind}; needed: float64 or float32.")
    series = schema.series(
        particles=kept, components=components, n=n, m=m, records=_records(settings["run"]),
        keep=settings["run"]["keep"], dtype=kind, velocities="/particles/neurons/velocity" in entries,
        residuals="/observables/residuals" in entries,
    )  # fmt: skip
    problem = "/meanfield/problem/"
    teacher = entries.get(problem + "teacher")
    fixed = {
        "/particle": ("<i8", (kept,)), "/component": ("S16", (components,)), "/datum": ("<i8", (n,)),
        "/test_datum": ("<i8", (m,)), "/particles/neurons/mass": ("<f8", (kept,)),
        "/parameters/settings": ("S", ()), "/parameters/config": ("S", ()), "/meanfield/provenance": ("S", ()),
        "/meanfield/start": ("<f8", (particles, components)), "/meanfield/start_masses": ("<f8", (particles,)),
        problem + "inputs": ("<f8", (n, dim)), problem + "targets": ("<f8", (n,)), problem + "weights": ("<f8", (n,)),
        problem + "test_inputs": ("<f8", (m, dim)), problem + "test_targets": ("<f8", (m,)),
        problem + "labels": ("biuf", (n,)), problem + "test_labels": ("biuf", (m,)),
        problem + "teacher": ("<f8", (_length(teacher), 1 + dim)),
    }  # fmt: skip
    if m and "/test_datum" not in entries:
        raise FormatError(f"{path} has no /test_datum; needed: what its format names.")
    return series, fixed


def _length(entry):
    return entry.shape[0] if isinstance(entry, h5py.Dataset) and entry.shape else 0


def _element(column):
    return column.rpartition("/")[0]


def _check(entry, where, kind, shape):
    """kind : a type, or the letters of those that will do"""
    exact = kind if kind[-1].isdigit() else None
    found = safety.check_type(entry.id.get_type(), where, exact)
    if exact is None and (found.kind not in kind or found.newbyteorder("<") != found):
        raise FormatError(f"{where} has type {found}; needed: little-endian, of kind {' or '.join(kind)}.")
    if entry.shape != shape or entry.chunks:
        raise FormatError(f"{where} has shape {entry.shape}{', in chunks' if entry.chunks else ''}; needed: {shape}.")


def _rows(entry, where, kind, shape):
    """Rows of a dataset that grows: no more than are stored."""
    safety.check_type(entry.id.get_type(), where, kind)
    if len(entry.shape) != 1 + len(shape) or entry.shape[1:] != shape or entry.maxshape != (None, *shape):
        raise FormatError(
            f"{where} has shape {entry.shape} of {entry.maxshape}; needed: {('T', *shape)}, T without end."
        )
    if not entry.chunks:
        raise FormatError(f"{where} has no chunks; needed: a dataset that grows.")
    row = entry.dtype.itemsize * int(np.prod(shape, dtype=object))
    filtered = entry.id.get_create_plist().get_nfilters()
    return entry.shape[0] if filtered or not row else min(entry.shape[0], entry.id.get_storage_size() // row)


def _attributes(entries, path):
    """All attributes but those of dimension scales, by path@name; exactly those of the format."""
    found = {}
    for name, entry in entries.items():
        said = safety.attributes(entry, f"{path}: {name}")
        if set(said) != _ATTRIBUTES.get(name, set()):
            raise FormatError(f"{path}: {name} has the attributes {sorted(said)}; needed: those that its format names.")
        found |= {f"{name}@{key}": value for key, value in said.items()}
    return found


def _check_digest(said: Mapping[str, Any], values: Mapping[str, Any], path: Path) -> None:
    parts = {name: value for name, value in {**values, **said}.items() if name not in schema.CHANGING}
    if bytes(said[f"{_DIGEST}@digest"]).decode("ascii", "replace") != schema.digest(parts):
        raise FormatError(f"{path} is damaged: what does not grow in it does not have the digest it states.")


def _state(value, path):
    try:
        found = schema.unseal(value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("status") not in schema.STATUS:
        raise FormatError(f"{path} is damaged: its state is no JSON with its CRC.")
    return found
