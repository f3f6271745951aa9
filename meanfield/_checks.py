"""Checks at the public door: arrays, numbers and names, each refused in one sentence."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .errors import InputError


def find(table: Mapping[str, Any], name: Any, kind: str) -> Any:
    """The entry of `table` called `name`; anything that is no string passes through as it is."""
    if not isinstance(name, str):
        return name
    if name in table:
        return table[name]
    near = nearest(name, table)
    hint = f" Did you mean {near!r}?" if near else ""
    raise InputError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(sorted(table))}.")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` may be a slip of."""
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def array(values: Any, what: str, ndim: int, needs: str, *, allow_empty: bool = False) -> np.ndarray:
    """`values` as a float64 array of `ndim` axes, finite and (unless allowed) not empty."""
    try:
        if np.iscomplexobj(values):
            raise TypeError("they are complex")
        result = np.array(values, dtype=np.float64)  # a copy: what is checked here must not change later
    except (TypeError, ValueError) as problem:
        raise InputError(f"{what} cannot be read as numbers ({problem}); needed: {needs}.") from None
    if result.ndim != ndim:
        raise InputError(f"{what} has shape {result.shape}; needed: {needs}.")
    if result.size == 0 and not allow_empty:
        raise InputError(f"{what} is empty, shape {result.shape}; needed: {needs}.")
    if not np.isfinite(result).all():
        bad = np.argwhere(~np.isfinite(result))[0]
        raise InputError(
            f"{what} holds {result[tuple(bad)]} at index {tuple(int(i) for i in bad)}; "
            f"needed: finite numbers. Remove or replace such entries."
        )
    return result


def instance(value: Any, kind: type, what: str, needs: str) -> None:
    """Refuse a `value` that is not of type `kind`."""
    if not isinstance(value, kind):
        raise InputError(f"{what} is {value!r}; needed: {needs}.")


def number(value: Any, what: str, *, above: float = -math.inf, least: float = -math.inf) -> float:
    """`value` as a finite float above `above` and at least `least`."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{what} is {value!r}; needed: a number.") from None
    if not math.isfinite(result) or result <= above or result < least:
        bound = f" above {above:g}" if above > -math.inf else f" of at least {least:g}" if least > -math.inf else ""
        raise InputError(f"{what} is {value!r}; needed: a finite number{bound}.")
    return result


def count(value: Any, what: str, *, least: int = 1) -> int:
    """`value` as an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{what} is {value!r}; needed: a whole number of at least {least}.")
    return int(value)


def generator(seed: Any) -> np.random.Generator:
    """NumPy's generator for a seed: a whole number of at least 0, or a sequence of them."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise InputError(f"seed is {seed!r}; needed: a whole number of at least 0, or a sequence of them.") from None


def masses(values: Any, size: int, what: str) -> np.ndarray:
    """Non-negative masses of `size` atoms, scaled to sum to one; uniform when None.

    Those that do up to rounding stay as they are, bit for bit: scaled twice is scaled once.
    """
    if values is None:
        return np.full(size, 1.0 / size)
    result = array(values, what, 1, f"{size} non-negative numbers with a positive sum")
    if len(result) != size:
        raise InputError(f"{what} has {len(result)} entries; needed: {size}, one for each point.")
    if result.min() < 0 or not result.max() > 0:
        raise InputError(
            f"{what} has minimum {result.min():g} and sum {result.sum():g}; needed: non-negative with a positive sum."
        )
    with np.errstate(over="ignore"):
        if abs(result.sum() - 1.0) < 64 * np.finfo(np.float64).eps:
            return result
    result = result / result.max()  # so that the sum cannot overflow
    return result / result.sum()


def times(values: Any, what: str = "times") -> np.ndarray:
    """Flow times: finite, not negative, strictly increasing."""
    result = array(values, what, 1, "a list of flow times such as [0, 1, 5]")
    if result[0] < 0:
        raise InputError(f"{what} start at {result[0]:g}; needed: flow times of at least 0 (the flow starts at t = 0).")
    if (np.diff(result) <= 0).any():
        where = int(np.argmax(np.diff(result) <= 0))
        raise InputError(
            f"{what} go from {result[where]:g} to {result[where + 1]:g} at index {where + 1}; "
            "needed: strictly increasing. Sort them and drop repeats."
        )
    return result


def particles(values: Any, dim: int | None = None, bias: bool = False) -> np.ndarray:
    """Particles (N, 1 + d), and for inputs of dimension `dim` exactly 1 + dim columns; one more with a bias."""
    result = array(values, "particles", 2, "an array (N, 1 + d), row i = (a_i, w_i)")
    if result.shape[1] < 2:
        raise InputError("particles have 1 column; needed: at least 2: a, then w. See initial.gaussian.")
    if dim is not None and result.shape[1] != 1 + dim + bias:
        raise InputError(
            f"particles have {result.shape[1]} columns, but inputs of dimension {dim}{' and a bias' if bias else ''} "
            f"need {1 + dim + bias}: a, {'w, then b' if bias else 'then w'}. See initial.gaussian."
        )
    return result
