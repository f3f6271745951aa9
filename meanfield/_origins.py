"""What an object was made from, so that a file can hold it and another process make it again.

Names are looked up in tables (`ACTIVATIONS`, `LOSSES`, ...); what a function with parameters made (`softplus(5)`,
`stopping.margin(1)`) remembers the function and its arguments. A user's own formula has neither: a file holds its name
alone, and whoever goes on from there hands the formula in again.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from . import _checks
from .errors import InputError

_Made = TypeVar("_Made", bound=Callable[..., Any])


def family(make: _Made) -> _Made:
    """A function whose results remember it and its arguments, where those are plain data: `origin`."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def made(*args, **kwargs):
        result = make(*args, **kwargs)
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        plain = {name: _plain(value) for name, value in given.arguments.items()}
        if all(value is not _OTHER for value in plain.values()):
            object.__setattr__(result, "origin", (make.__name__, plain))  # beside the fields of a frozen dataclass
        return result

    return made  # pyright: ignore[reportReturnType]


_OTHER = object()  # no plain data


def _plain(value):
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        entries = [_plain(each) for each in value]
        return _OTHER if any(each is _OTHER for each in entries) else entries
    return _OTHER


def describe(value: Any, table: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data from which `make` makes `value`: {"name"}, or {"family", "arguments"}; {"own": name} if neither."""
    if table.get(getattr(value, "name", "")) == value:
        return {"name": value.name}
    if hasattr(value, "origin"):
        made_by, arguments = value.origin
        return {"family": made_by, "arguments": arguments}
    return {"own": str(getattr(value, "name", None) or getattr(value, "__name__", None) or repr(value))}


def make(data: Mapping[str, Any], table: Mapping[str, Any], families: Mapping[str, Any], kind: str, given: Any = None):
    """What `describe` described; where that was a user's own, `given`, which must have its name.

    Raises InputError where it is the user's own and not given, or names what this version does not have.
    """
    if given is not None:
        found = _checks.find(table, given, kind)
        if describe(found, table) != dict(data):
            raise InputError(f"{kind} is {describe(found, table)}, the run's {dict(data)}; needed: the same.")
        return found
    if "own" in data:
        raise InputError(
            f"the run has a {kind} of its own, {data['own']!r}, which no file holds; needed: {kind}=..., the same one."
        )
    if "family" in data:
        return _checks.find(families, data["family"], kind)(**data["arguments"])
    return _checks.find(table, data["name"], kind)
