"""Parts of a job on file: what is finished of it, so that a job that was stopped goes on from there.

A part is a tree of arrays with attributes, in a file of its own that is whole or not there. Its digest is over its
arrays, its attributes, its name and the job's own digest: a damaged file, one that was put in another's place and one
of another job are no parts, and what they should hold is computed again.
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileError, InputError
from . import schema
from .arrays import read_arrays, write_arrays

_FORMAT = "meanfield part 1"


@dataclass(frozen=True, eq=False)
class Part:
    """arrays : nested mappings of arrays of numbers; attributes : name -> text or number"""

    arrays: Mapping[str, Any]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Parts:
    """Where the parts of one job are kept.

    folder : this job's alone; made with its first part
    job : digest of all that its numbers follow from
    """

    folder: Path
    job: str

    def path(self, name: str) -> Path:
        """Of the file of a part; `name` may have slashes."""
        return self.folder / f"{name}.h5"


def parts_of(folder: str | Path, identity: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Parts:
    """The place in `folder` for the parts of the job that `identity` (plain data) and `arrays` say all about.

    Jobs that differ in either have different places.
    """
    job = schema.digest({**arrays, "identity": json.dumps(identity, sort_keys=True, allow_nan=False)})
    return Parts(Path(folder) / job[:16], job)


def settled(part: Part) -> Part:
    """A part as it will be read again: its arrays in C order, on whose layout sums depend in the last bit."""
    return Part(_settled(part.arrays), dict(part.attributes))


def _settled(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _settled(value) if isinstance(value, Mapping) else np.array(value, order="C", copy=None)
        for name, value in tree.items()
    }


def write_part(parts: Parts, name: str, part: Part) -> None:
    """Write a part, whole or not at all.

    Raises FileError if it cannot be written.
    """
    path = parts.path(name)
    own = {"format": _FORMAT, "job": parts.job, "name": name, "digest": _digest(parts, name, part)}
    attributes = {f"part_{key}": value for key, value in own.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, part.arrays, {**part.attributes, **attributes})
    except OSError as problem:
        reason = problem.strerror or problem
        raise FileError(problem.errno or 5, f"{path} could not be written ({reason})") from problem


def read_part(parts: Parts, name: str) -> Part | None:
    """A part as it was written; None where there is none.

    Raises InputError where there is a file that is not this part of this job, whole.
    """
    path = parts.path(name)
    if not path.exists():
        return None
    arrays, attributes = read_arrays(path)
    own = {key: attributes.pop(f"part_{key}", None) for key in ("format", "job", "name", "digest")}
    part = Part(arrays, attributes)
    if own != {"format": _FORMAT, "job": parts.job, "name": name, "digest": _digest(parts, name, part)}:
        raise InputError(
            f"{path} is damaged, or of another job or place: its contents do not have the digest of {name!r} of this "
            "job; needed: the file as it was written."
        )
    return part


def discard_parts(parts: Parts) -> None:
    """Remove what is kept of this job, and the folder around it if that holds no other's."""
    with suppress(FileNotFoundError):
        shutil.rmtree(parts.folder)
    with suppress(OSError):  # another job's parts are in it
        parts.folder.parent.rmdir()


def _digest(parts: Parts, name: str, part: Part) -> str:
    attributes = {f"@{key}": value for key, value in part.attributes.items()}
    return schema.digest({**_flat(part.arrays, ""), **attributes, "job": parts.job, "name": name})


def _flat(tree: Mapping[str, Any], path: str) -> dict[str, Any]:
    found = {}
    for name, value in tree.items():
        found |= _flat(value, f"{path}/{name}") if isinstance(value, Mapping) else {f"{path}/{name}": value}
    return found
