"""The CPU engine's bodies for the names of `vocabulary`: branch-free, so that LLVM runs them on vectors.

Numba from PyPI calls libm one element at a time for exp, tanh, arcsin and the like, which costs five to ten times
as much. These are correct to a few units in the last place in float64 and in float32, each computed in its own type;
they are monotone, propagate NaN and are right at +-infinity. No reassociation is allowed inside them: it would undo
the compensated steps.
"""

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from .. import vocabulary
from . import coefficients as fits
from .cpu_bits import binades, copysign, exponential, polynomial, square_root
from .cpu_single import EXACT, SINGLE, plain, single

_inline: Any = njit(**EXACT)

# log 2, its high part short enough that its product with an exponent is exact
_LOG2 = {"float64": (0.6931471803691238, 1.9082149292705877e-10), "float32": (0.693359375, -2.12194440e-4)}
# pi / 2 to more digits than the type has: the nearest number, and what is left
_QUARTER = {
    "float64": (1.5707963267948966, 6.123233995736766e-17),
    "float32": (1.5707963705062866, -4.371139000186241e-08),
}


def _make_exp(dtype):
    wide = dtype == "float64"
    high, low = _LOG2[dtype]
    per_step = 1 / (high + low)
    least, most = (-746.0, 710.0) if wide else (-104.0, 89.0)
    rest = polynomial(fits.EXPM1_REST if wide else fits.SINGLE_EXPM1_REST)

    @_inline
    def grown(x):
        """e^x as two factors, the second a power of two."""
        n, power = exponential(x * per_step)
        r = (x - n * high) - n * low
        return 1.0 + (r + r * r * rest(r)), power

    @_inline
    def exp(x):
        # NaN fails both comparisons and stays.
        x = least if x < least else x
        fraction, power = grown(0.5 * (most if x > most else x))
        root = fraction * power
        # The square of e^(x/2), which neither overflows nor vanishes before e^x does.
        return root * root

    return grown, exp


def _make_tanh(grown, dtype):
    wide = dtype == "float64"
    most = 20.0 if wide else 10.0
    rest = polynomial(fits.TANH_REST if wide else fits.SINGLE_TANH_REST)

    @_inline
    def tanh(x):
        y = abs(x)
        square = x * x
        # Each side is a sum with one large exact term, so that rounding keeps it monotone.
        near = y + y * (square * rest(square))
        fraction, power = grown(2.0 * (most if y > most else y))
        far = 1.0 - 2.0 / (1.0 + fraction * power)
        return copysign(near if y < 0.45 else far, x)

    return tanh


def _make_erf(exp, dtype):
    wide = dtype == "float64"
    most = 5.95 if wide else 4.0
    excess = polynomial(fits.ERF_EXCESS if wide else fits.SINGLE_ERF_EXCESS)
    scaled = polynomial(fits.ERFC_FOLDED if wide else fits.SINGLE_ERFC_SHIFTED)

    @_inline
    def erf(x):
        y = abs(x)
        near = y + y * excess(x * x)
        y = most if y > most else y
        # e^(-x^2) and not e^(-y^2): a formula that needs it for the slope shares it.
        far = 1.0 - exp(-x * x) * scaled((y - 3.0) / (y + 3.0) if wide else y - 2.5)
        return copysign(near if y < 0.9 else far, x)

    return erf


def _make_log1p(dtype):
    log2 = sum(_LOG2[dtype])
    wide = dtype == "float64"
    rest = polynomial(fits.LOG_REST if wide else fits.SINGLE_LOG1P_REST)

    @_inline
    def log1p(x):
        # 1 + x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)): f from x itself has not lost what 1 + x rounds off.
        k, scaled, twice_scale = binades(1.0 + x, x)
        f = scaled + (0.5 * twice_scale - 1.0)
        if wide:
            # log(1 + f) = log((1 + s) / (1 - s)) = 2s + s^3 rest(s^2), and 2s = f - s f with f free of rounding.
            s = f / (2.0 + f)
            value = k * log2 + (f - s * (f - s * s * rest(s * s)))
        else:
            value = k * log2 + (f + f * f * rest(f))
        value = value if x < math.inf else x
        return value if x > -1.0 else (-math.inf if x == -1.0 else math.nan)

    return log1p


def _make_arcs(dtype):
    high, low = _QUARTER[dtype]
    rest = polynomial(fits.ARCSIN_REST if dtype == "float64" else fits.SINGLE_ARCSIN_REST)

    @_inline
    def reduced(x):
        """y, arcsin(y) - y and whether y is x; else arccos|x| = 2 arcsin(y), NaN from the root beyond 1."""
        near = abs(x) <= 0.5
        square = x * x if near else 0.5 - 0.5 * abs(x)  # the latter exact
        root = square_root(square)
        y = x if near else root
        return y, y * (square * rest(square)), near

    @_inline
    def arcsin(x):
        y, excess, near = reduced(abs(x))
        # From one x to the next y moves by its last place at least, which the small excess cannot undo: monotone.
        return copysign(y + excess if near else (high - 2.0 * y) + (low - 2.0 * excess), x)

    @_inline
    def arccos(x):
        y, excess, near = reduced(x)
        rest_of_quarter = high - (y + (excess - low))
        far = 2.0 * (y + excess) if x > 0.0 else 2.0 * rest_of_quarter
        return rest_of_quarter if near else far

    return arcsin, arccos


@_inline
def _maximum(z, other):
    return z if (z >= other or z != z) else other


@_inline
def _minimum(z, other):
    return z if (z <= other or z != z) else other


@_inline
def _where(condition, yes, no):
    return yes if condition else no


def _attach(function, wide, narrow):
    """The bodies of a vocabulary function: `wide` at float64, `narrow` at SINGLE, which serves float32 as well."""

    @overload(function, jit_options=EXACT)
    def choose(z):
        if z == SINGLE:
            return lambda z: narrow(z)
        if z == types.float32:
            return lambda z: plain(narrow(single(z)), z)
        return (lambda z: wide(z * 1.0)) if isinstance(z, types.Float | types.Integer) else None


def _attach_native(function, native):
    @overload(function, jit_options=EXACT)
    def choose(z):
        if z == SINGLE:
            return lambda z: single(native(plain(z, z)))
        return (lambda z: native(z)) if isinstance(z, types.Float | types.Integer) else None


def _attach_numpy(function, numpy_function):
    """NumPy's own name for a vocabulary function, at SINGLE: for formulas that do not import the vocabulary."""

    @overload(numpy_function, jit_options=EXACT)
    def choose(*arguments):
        return (lambda *arguments: function(*arguments)) if SINGLE in arguments else None


(_grown, _exp), (_single_grown, _single_exp) = _make_exp("float64"), _make_exp("float32")
_attach(vocabulary.exp, _exp, _single_exp)
_attach(vocabulary.tanh, _make_tanh(_grown, "float64"), _make_tanh(_single_grown, "float32"))
_attach(vocabulary.erf, _make_erf(_exp, "float64"), _make_erf(_single_exp, "float32"))
_attach(vocabulary.log1p, _make_log1p("float64"), _make_log1p("float32"))
(_arcsin, _arccos), (_single_arcsin, _single_arccos) = _make_arcs("float64"), _make_arcs("float32")
_attach(vocabulary.arcsin, _arcsin, _single_arcsin)
_attach(vocabulary.arccos, _arccos, _single_arccos)
for _name, _native in {"sqrt": math.sqrt, "sin": math.sin, "cos": math.cos, "absolute": abs}.items():
    _attach_native(getattr(vocabulary, _name), _native)
for _name in "exp tanh log1p arcsin arccos sqrt sin cos absolute maximum minimum where".split():
    _attach_numpy(getattr(vocabulary, _name), getattr(np, _name))


@overload(vocabulary.maximum, jit_options=EXACT)
def _overload_maximum(z, other):
    return lambda z, other: _maximum(z, other)


@overload(vocabulary.minimum, jit_options=EXACT)
def _overload_minimum(z, other):
    return lambda z, other: _minimum(z, other)


@overload(vocabulary.where, jit_options=EXACT)
def _overload_where(condition, yes, no):
    return lambda condition, yes, no: _where(condition, yes, no)
