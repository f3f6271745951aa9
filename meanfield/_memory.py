"""Memory: what a computation needs, held against what there is, before anything is allocated."""

from collections.abc import Mapping

import psutil

from . import _checks
from .errors import InputError

_SHARE = 0.8  # of the free memory that a computation may take unless told otherwise


def check(
    needed: Mapping[str, float],
    what: str,
    remedy: str,
    max_bytes: float | None = None,
    free: float | None = None,
    adjustable: bool = True,
) -> None:
    """Refuse a computation whose parts (name -> bytes) sum to more than `max_bytes`; None: 80 % of the free memory.

    free : bytes that are free where the computation is; default those of this machine
    adjustable : whether whoever asked can give another `max_bytes`

    Raises InputError with the parts and the remedy.
    """
    if max_bytes is None:
        limit, meaning = _SHARE * (available() if free is None else free), f"{_SHARE:.0%} of the free memory"
    else:
        limit, meaning = _checks.number(max_bytes, "max_bytes", above=0.0), "max_bytes"
    total = sum(needed.values())
    if total > limit:
        parts = ", ".join(f"{name} {size(number)}" for name, number in needed.items())
        raise InputError(
            f"{what} needs {size(total)} ({parts}), more than {size(limit)}, {meaning}. {remedy}"
            f"{', or raise max_bytes' if adjustable else ''}."
        )


def available() -> float:
    """Free bytes of this machine."""
    return float(psutil.virtual_memory().available)


def size(number: float) -> str:
    """Bytes as text, e.g. '1.5 GiB'."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:,.1f} GiB"
