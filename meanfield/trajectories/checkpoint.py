"""Checkpoints: the state a run goes on from, whole or not there, beside the file of its rows.

A checkpoint is made in memory and moved into place when it is on the disk; the one before stays as `.prev`. Its first
line is the SHA-256 of what follows, a plain HDF5 image: it is held against that before HDF5 sees a byte. That finds
damage. It is no key, so what a checkpoint holds is asked of it as of any file.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .. import _memory
from .._files import failure, link_or_copy, write_atomically
from ..errors import FormatError
from . import safety

_MAGIC = b"meanfield checkpoint 1 "
_HEAD = len(_MAGIC) + 64 + 1  # bytes of the first line
_PLAN = {"plan_times": "<f8", "plan_frames": "?", "plan_records": "?"}
_STATE = re.compile(r"(state|velocity)_(0|[1-9][0-9]{0,3})")
_JSON = 2**20  # most bytes of the numbers; as Python's objects they can take 20 times as many


def write_checkpoint(path: Path, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`; the one that was there becomes `path`.prev.

    arrays : name -> float64; numbers : plain data (JSON holds floats exactly)
    """
    image = BytesIO()
    with h5py.File(image, "w", libver=("earliest", "v108")) as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=value)
        plain = json.dumps(numbers, allow_nan=False).encode()
        file.create_dataset("numbers", data=np.frombuffer(plain, np.uint8))
    raw = image.getvalue()
    head = _MAGIC + hashlib.sha256(raw).hexdigest().encode() + b"\n"
    try:
        if path.exists():
            link_or_copy(path, path.with_name(path.name + ".prev"))
        write_atomically(path, lambda temporary: temporary.write_bytes(head + raw))
    except OSError as problem:
        raise failure(path, problem) from problem


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, numbers) of the last checkpoint, or of the one before where that is damaged, whose place it then takes.

    Raises FormatError where neither is whole, before anything larger than the file is allocated; FileError where the
    place cannot be taken.
    """
    complaints = []
    for each in (path, path.with_name(path.name + ".prev")):
        try:
            found = _read(each)
        except FormatError as problem:
            complaints.append(f"{each.name}: {problem}")
            continue
        if each != path:  # the next checkpoint would put the damaged one in the place of this
            try:
                os.replace(each, path)
            except OSError as problem:
                raise failure(path, problem) from problem
        return found
    raise FormatError(f"no checkpoint to go on from ({'; '.join(complaints)}); needed: {path}, or its .prev, whole.")


def _read(path):
    try:
        with safety.reading(path):
            return _contents(path)
    except ValueError as problem:  # FormatError and InputError are ones
        raise FormatError(f"damaged: {problem}") from problem


def _contents(path):
    if not path.is_file():
        raise FormatError("no file is there")
    needed = {"file": float(path.stat().st_size), "its arrays": float(path.stat().st_size)}
    _memory.check(needed, f"reading {path}", "Go on where there is room", adjustable=False)
    with path.open("rb") as content:
        head = content.read(_HEAD)
        if not head.startswith(_MAGIC) or len(head) < _HEAD:
            raise FormatError("another start")
        raw = content.read()
    if head != _MAGIC + hashlib.sha256(raw).hexdigest().encode() + b"\n":
        raise FormatError("another SHA-256 than its first line says")
    with h5py.File(BytesIO(raw), "r") as opened:
        entries, _ = safety.walk(opened, path)
        del entries["/"]
        _check_arrays({name[1:]: entry for name, entry in entries.items()})
        _memory.check(safety.sizes(entries), f"reading {path}", "Go on where there is room", adjustable=False)
        arrays = {name[1:]: entry[()] for name, entry in entries.items()}
    return arrays, _numbers(arrays.pop("numbers").tobytes(), len(arrays["plan_times"]))


def _check_arrays(entries):
    """FormatError unless these are the datasets that `write_checkpoint` is given, contiguous: as large as the image."""
    states = {name for name in entries if _STATE.fullmatch(name)}
    if missing := {*_PLAN, "numbers", "state_0"} - set(entries):
        raise FormatError(f"no {min(missing)}")
    for name, entry in entries.items():
        if name not in _PLAN and name not in states and name != "numbers":
            raise FormatError(f"{name[:40]!r}, which no checkpoint has")
        if not isinstance(entry, h5py.Dataset):
            raise FormatError(f"{name} is a group")
        kind = np.dtype("|u1" if name == "numbers" else _PLAN.get(name, "<f8"))
        if entry.dtype != kind or entry.chunks is not None or not 1 <= entry.ndim <= (2 if name in states else 1):
            raise FormatError(f"{name} is {entry.dtype} of shape {entry.shape}; needed: {kind}, contiguous")
    for what in ("state", "velocity"):
        own = {name for name in states if name.startswith(what)}
        if own != {f"{what}_{k}" for k in range(len(own))}:
            raise FormatError(f"the arrays of its {what} are not numbered from 0")
    if len({entries[name].shape for name in _PLAN}) > 1 or not entries["plan_times"].size:
        raise FormatError("plan_times, plan_frames and plan_records are not one plan")
    if entries["numbers"].size > _JSON:
        raise FormatError(f"numbers of {entries['numbers'].size} bytes; needed: at most {_JSON}")


def _numbers(raw, events):
    """The numbers, each of its kind; those of the schedule are any plain ones, and say how many steps were taken."""
    numbers = json.loads(raw.decode("ascii"), parse_constant=_no_number)
    if not isinstance(numbers, dict) or set(numbers) != set(_KINDS):
        raise FormatError(f"its numbers are not {', '.join(_KINDS)}")
    for name, (fits, needed) in _KINDS.items():
        if not fits(numbers[name]):
            raise FormatError(f"{name} is {repr(numbers[name])[:40]}; needed: {needed}")
    if numbers["event"] > events:
        raise FormatError(f"event is {numbers['event']}, and its plan has {events} times")
    return numbers


def _no_number(name):
    raise ValueError(f"{name} is no number")


def _count(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _finite(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value):
    return isinstance(value, str)


def _schedule(value):
    def plain(each):
        return each is None or _finite(each) or (isinstance(each, list) and all(map(_finite, each)))

    return _dict_of(plain)(value) and _count(value.get("accepted")) and _count(value.get("rejected"))


def _dict_of(fits):
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


# Name -> what it has to be, by a function and in words.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "run": (_text, "a text"),
    "versions": (_dict_of(_text), "texts by name"),
    "resumed": (_count, "a count"),
    "changes": (_dict_of(lambda value: True), "a dict"),
    "seconds": (_finite, "a number"),
    "event": (_count, "a count"),
    "now": (_finite, "a number"),
    "stopped_by": (lambda value: value is None or _text(value), "a text or null"),
    "evaluations": (_count, "a count"),
    "schedule": (
        _schedule,
        "finite numbers by name, or lists of them, accepted and rejected among them, which are counts",
    ),
    "counts": (_dict_of(_count), "counts by name"),
}
