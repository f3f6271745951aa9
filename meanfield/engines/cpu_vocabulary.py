"""The CPU engine's bodies for the names of `vocabulary`: branch-free, so that LLVM runs them on vectors.

Numba from PyPI calls libm one element at a time for exp, tanh and erf, which costs five to ten times as much.
These are correct to a few units in the last place, propagate NaN and are right at +-infinity. No reassociation
is allowed inside them: it would undo the compensated steps.
"""

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from .. import vocabulary
from .coefficients import ERF_QUOTIENT, ERFC_SCALED, EXPM1_REST, LOG_QUOTIENT

EXACT: Any = {"forceinline": True, "fastmath": {"contract"}, "error_model": "numpy"}
_inline = njit(**EXACT)

_LOG2_HIGH, _LOG2_LOW = 0.6931471803691238, 1.9082149292705877e-10  # of log 2; the high part has 32 bits
_INV_LOG2 = 1.4426950408889634


def _polynomial(coefficients):
    """A compiled polynomial; LLVM unrolls the loop and folds the coefficients into the code."""
    descending = coefficients[::-1]
    degree = len(coefficients) - 1

    @_inline
    def value(x):
        total = descending[0] * x + descending[1]
        for i in range(2, degree + 1):
            total = total * x + descending[i]
        return total

    return value


_expm1_rest = _polynomial(EXPM1_REST)
_log_quotient = _polynomial(LOG_QUOTIENT)
_erf_quotient = _polynomial(ERF_QUOTIENT)
_erfc_scaled = _polynomial(ERFC_SCALED)


@_inline
def _power_of_two(n):
    return np.int64((np.int64(n) + 1023) << 52).view(np.float64)


@_inline
def _exp_parts(x):
    """n and e^r - 1 with x = n log 2 + r, |r| <= log(2) / 2."""
    n = np.floor(x * _INV_LOG2 + 0.5)
    r = (x - n * _LOG2_HIGH) - n * _LOG2_LOW
    return n, r + r * r * _expm1_rest(r)


@_inline
def _exp(x):
    n, tail = _exp_parts(min(max(x, -746.0), 710.0))
    # 2^n in two factors: neither overflows before the product does, nor vanishes before it.
    half = np.floor(0.5 * n)
    return (1.0 + tail) * _power_of_two(half) * _power_of_two(n - half)


@_inline
def _tanh(x):
    # (e^2y - 1) / (e^2y + 1), its numerator without cancellation near 0; tanh rounds to 1 beyond 19.1.
    n, tail = _exp_parts(2.0 * min(abs(x), 20.0))
    scale = _power_of_two(n)
    grown = tail * scale + (scale - 1.0)
    return math.copysign(grown / (grown + 2.0), x)


@_inline
def _erf(x):
    y = min(abs(x), 6.2)
    near = y * _erf_quotient(y * y)
    # e^(-x^2) and not e^(-y^2): a formula that needs it for the slope shares it.
    far = 1.0 - _exp(-x * x) * _erfc_scaled((y - 3.0) / (y + 3.0))
    return math.copysign(near if y < 1.0 else far, x)


@_inline
def _log1p(x):
    u = 1.0 + x
    bits = np.float64(u).view(np.int64) - 0x3FE6A09E667F3BCD  # above sqrt(1/2)
    exponent = bits >> 52
    mantissa = np.int64((bits & 0xFFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD).view(np.float64)  # in [sqrt(1/2), sqrt(2))
    s = (mantissa - 1.0) / (mantissa + 1.0)
    # (x - (u - 1)) / u is what rounding 1 + x has lost.
    low = exponent * _LOG2_LOW + (x - (u - 1.0)) / u
    value = exponent * _LOG2_HIGH + (s * _log_quotient(s * s) + low)
    value = math.inf if x == math.inf else value
    value = -math.inf if x == -1.0 else value
    return math.nan if not x >= -1.0 else value


@_inline
def _maximum(z, other):
    return z if (z >= other or z != z) else other


@_inline
def _minimum(z, other):
    return z if (z <= other or z != z) else other


@_inline
def _where(condition, yes, no):
    return yes if condition else no


def _in_float64(body):
    """The body, computed in float64 and returned in the argument's own type."""
    wide = lambda z: body(np.float64(z))  # noqa: E731  (a fresh function object for each overload)
    narrow = lambda z: np.float32(body(np.float64(z)))  # noqa: E731

    def choose(z):
        return narrow if z == types.float32 else wide if isinstance(z, types.Float | types.Integer) else None

    return choose


_sqrt = _inline(lambda z: math.sqrt(z))
_sin = _inline(lambda z: math.sin(z))
_cos = _inline(lambda z: math.cos(z))
_absolute = _inline(lambda z: abs(z))

for _name, _body in {
    "exp": _exp, "log1p": _log1p, "tanh": _tanh, "erf": _erf, "sqrt": _sqrt, "sin": _sin, "cos": _cos,
    "absolute": _absolute,
}.items():  # fmt: skip
    overload(getattr(vocabulary, _name), jit_options=EXACT)(_in_float64(_body))


@overload(vocabulary.maximum, jit_options=EXACT)
def _overload_maximum(z, other):
    return lambda z, other: _maximum(z, other)


@overload(vocabulary.minimum, jit_options=EXACT)
def _overload_minimum(z, other):
    return lambda z, other: _minimum(z, other)


@overload(vocabulary.where, jit_options=EXACT)
def _overload_where(condition, yes, no):
    return lambda condition, yes, no: _where(condition, yes, no)
