"""Normal deviates from counters: a pure function of (seed, step, particle, parameter), the same on every engine.

Philox 4x32-10 (Salmon, Moraes, Dror & Shaw, SC 2011) makes four words of 32 bits from a counter (particle, parameters,
step) and a key (seed); Box and Muller's transform makes four deviates of them. Nothing is stored or advanced, so that
a narrow cloud has the noise of the first particles of a wide one, whatever the engine, the dtype, the threads.

`words` and `reals` are compiled by each engine as they stand; `pair` is a formula over `vocabulary`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _checks
from ..errors import InputError
from ..vocabulary import log1p, sqrt, where

EACH = 4  # deviates of a counter
_LOW, _HALF = np.uint64(2**32 - 1), np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10


def words(c0, c1, c2, c3, k0, k1):
    """Four random words from a counter and a key; each 32 bits in a uint64."""
    for _ in range(_ROUNDS):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (second >> _HALF) ^ c1 ^ k0, second & _LOW, (first >> _HALF) ^ c3 ^ k1, first & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def build_reals(real: Any) -> Callable:
    """(word, word) -> what `pair` takes, of type `real`: v and 1 - v in (0, 1), t in (-1/2, 1/2), quadrant 0 .. 3.

    1 - v and t come from the bits: neither has lost what v rounds off.
    """
    half, part, quarter = real(0.5), real(2.0**-32), real(2.0**-30)
    bits, rest, middle = np.uint64(30), np.uint64(2**30 - 1), np.int64(2**29)

    def reals(one, other):
        v, w = (real(np.int64(one)) + half) * part, (real(np.int64(_LOW - one)) + half) * part
        t = (real(np.int64(other & rest) - middle) + half) * quarter
        return v, w, t, real(np.int64(other >> bits))

    return reals


def pair(v, w, t, quadrant):
    """Two independent N(0, 1) deviates sqrt(-2 log v) (cos h, sin h), h = (quadrant + 1/2 + t) pi / 2, where w = 1 - v.

    Which is (cos h, sin h) turned by pi/4, of the same law.
    """
    near, k = v >= 0.5, 0.0 * v
    for shift in (16, 8, 4, 2, 1, 1):  # v 2^k in [1/2, 1), for v from 2^-33 on
        small = v < 2.0**-shift
        v, k = where(small, v * 2.0**shift, v), where(small, k + shift, k)
    minus_log = k * math.log(2.0) - log1p(where(near, -w, v - 1.0))
    radius = sqrt(2.0 * minus_log)
    x = 0.5 * math.pi * t
    y = x * x
    sine = x + x * y * (
        -1 / 6 + y * (1 / 120 + y * (-1 / 5040 + y * (1 / 362880 + y * (-1 / 39916800 + y * (
            1 / 6227020800 - y / 1307674368000)))))
    )  # fmt: skip
    cosine = (1.0 - 0.5 * y) + y * y * (
        1 / 24 + y * (-1 / 720 + y * (1 / 40320 + y * (-1 / 3628800 + y * (1 / 479001600 + y * (
            -1 / 87178291200 + y / 20922789888000)))))
    )  # fmt: skip
    odd, far = (quadrant == 1.0) | (quadrant == 3.0), quadrant >= 2.0
    across, up = where(odd, -sine, cosine), where(odd, cosine, sine)
    return radius * where(far, -across, across), radius * where(far, -up, up)


def key(seed: int, step: int) -> tuple[int, int, int]:
    """Low and high half of the seed, below 2^64, and the step, below 2^32."""
    seed, step = _checks.count(seed, "seed", least=0), _checks.count(step, "step", least=0)
    for value, what, bits in ((seed, "seed", 64), (step, "step", 32)):
        if value >= 2**bits:
            raise InputError(f"{what} is {value}; needed: below 2^{bits}.")
    return seed & 0xFFFFFFFF, seed >> 32, step
