"""Bodies of exp, tanh, erf, log1p, arcsin and arccos, branch-free, for an engine's vocabulary.

Correct to a few units in the last place in float64 and in float32, each computed in its own type; monotone; they
propagate NaN and are right at +-infinity. An engine supplies the steps under them that read or write bits, and how a
function is compiled. No reassociation is allowed inside: it would undo the compensated steps.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from . import coefficients as fits


class Steps(NamedTuple):
    """What an engine supplies.

    polynomial : ascending coefficients -> (x -> its value)
    where : (condition, yes, no)
    copysign : the size of one number with the sign of the other
    square_root : NaN below 0
    exponential : x -> n, 2^n, with n the integer nearest to x
    binades : (u, x) -> k, 2^-k x, 2^(1-k), where 2^-k u is in [sqrt(1/2), sqrt(2))
    compiled : a function of scalars, for the engine's compiler
    """

    polynomial: Callable
    where: Any
    copysign: Any
    square_root: Any
    exponential: Any
    binades: Any
    compiled: Callable


# log 2, its high part short enough that its product with an exponent is exact
_LOG2 = {"float64": (0.6931471803691238, 1.9082149292705877e-10), "float32": (0.693359375, -2.12194440e-4)}
# pi / 2 to more digits than the type has: the nearest number, and what is left
_QUARTER = {
    "float64": (1.5707963267948966, 6.123233995736766e-17),
    "float32": (1.5707963705062866, -4.371139000186241e-08),
}


def build(dtype: str, steps: Steps) -> dict[str, Any]:
    """The functions by NumPy's names, for float64 or float32."""
    grown, exp = _make_exp(dtype, steps)
    arcsin, arccos = _make_arcs(dtype, steps)
    return {
        "exp": exp,
        "tanh": _make_tanh(grown, dtype, steps),
        "erf": _make_erf(exp, dtype, steps),
        "log1p": _make_log1p(dtype, steps),
        "arcsin": arcsin,
        "arccos": arccos,
    }


def _make_exp(dtype, steps):
    wide = dtype == "float64"
    high, low = _LOG2[dtype]
    per_step = 1 / (high + low)
    least, most = (-746.0, 710.0) if wide else (-104.0, 89.0)
    rest = steps.polynomial(fits.EXPM1_REST if wide else fits.SINGLE_EXPM1_REST)
    where, exponential = steps.where, steps.exponential

    @steps.compiled
    def grown(x):
        """e^x as two factors, the second a power of two."""
        n, power = exponential(x * per_step)
        r = (x - n * high) - n * low
        return 1.0 + (r + r * r * rest(r)), power

    @steps.compiled
    def exp(x):
        # NaN fails both comparisons and stays.
        x = where(x < least, least, x)
        fraction, power = grown(0.5 * where(x > most, most, x))
        root = fraction * power
        # The square of e^(x/2), which neither overflows nor vanishes before e^x does.
        return root * root

    return grown, exp


def _make_tanh(grown, dtype, steps):
    wide = dtype == "float64"
    most = 20.0 if wide else 10.0
    rest = steps.polynomial(fits.TANH_REST if wide else fits.SINGLE_TANH_REST)
    where, copysign = steps.where, steps.copysign

    @steps.compiled
    def tanh(x):
        y = abs(x)
        square = x * x
        # Each side is a sum with one large exact term, so that rounding keeps it monotone.
        near = y + y * (square * rest(square))
        fraction, power = grown(2.0 * where(y > most, most, y))
        far = 1.0 - 2.0 / (1.0 + fraction * power)
        return copysign(where(y < 0.45, near, far), x)

    return tanh


def _make_erf(exp, dtype, steps):
    wide = dtype == "float64"
    most = 5.95 if wide else 4.0
    excess = steps.polynomial(fits.ERF_EXCESS if wide else fits.SINGLE_ERF_EXCESS)
    scaled = steps.polynomial(fits.ERFC_FOLDED if wide else fits.SINGLE_ERFC_SHIFTED)
    where, copysign = steps.where, steps.copysign

    @steps.compiled
    def erf(x):
        y = abs(x)
        near = y + y * excess(x * x)
        y = where(y > most, most, y)
        # e^(-x^2) and not e^(-y^2): a formula that needs it for the slope shares it.
        far = 1.0 - exp(-x * x) * scaled((y - 3.0) / (y + 3.0) if wide else y - 2.5)
        return copysign(where(y < 0.9, near, far), x)

    return erf


def _make_log1p(dtype, steps):
    log2 = sum(_LOG2[dtype])
    wide = dtype == "float64"
    rest = steps.polynomial(fits.LOG_REST if wide else fits.SINGLE_LOG1P_REST)
    where, binades = steps.where, steps.binades

    @steps.compiled
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
        value = where(x < math.inf, value, x)
        return where(x > -1.0, value, where(x == -1.0, -math.inf, math.nan))

    return log1p


def _make_arcs(dtype, steps):
    high, low = _QUARTER[dtype]
    rest = steps.polynomial(fits.ARCSIN_REST if dtype == "float64" else fits.SINGLE_ARCSIN_REST)
    where, copysign, square_root = steps.where, steps.copysign, steps.square_root

    @steps.compiled
    def reduced(x):
        """y, arcsin(y) - y and whether y is x; else arccos|x| = 2 arcsin(y), NaN from the root beyond 1."""
        near = abs(x) <= 0.5
        square = where(near, x * x, 0.5 - 0.5 * abs(x))  # the latter exact
        root = square_root(square)
        y = where(near, x, root)
        return y, y * (square * rest(square)), near

    @steps.compiled
    def arcsin(x):
        y, excess, near = reduced(abs(x))
        # From one x to the next y moves by its last place at least, which the small excess cannot undo: monotone.
        return copysign(where(near, y + excess, (high - 2.0 * y) + (low - 2.0 * excess)), x)

    @steps.compiled
    def arccos(x):
        y, excess, near = reduced(x)
        rest_of_quarter = high - (y + (excess - low))
        far = where(x > 0.0, 2.0 * (y + excess), 2.0 * rest_of_quarter)
        return where(near, rest_of_quarter, far)

    return arcsin, arccos
