"""The compiled vocabulary of the CPU engine against 40 digits, and the polynomials under it against their fit."""

import importlib.util
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from mpmath import mp, mpf
from numba import njit

from meanfield import vocabulary
from meanfield.activations import ACTIVATIONS
from meanfield.engines import coefficients
from meanfield.engines.cpu_loops import LOOP  # under which a vocabulary function must stay accurate
from meanfield.engines.cpu_single import in_own_type


@cache
def compiled(function):
    """`function` in a compiled loop over arrays, as the engine calls it."""

    @njit(**LOOP)
    def drive(z, out):
        for i in range(z.size):
            out[i] = function(z[i])

    def on_array(z):
        out = np.empty_like(z)
        drive(z, out)
        return out

    return on_array


@cache
def compiled_pair(function):
    @njit(**LOOP)
    def drive(left, right, out):
        for i in range(left.size):
            out[i] = function(left[i], right[i])

    def on_arrays(left, right):
        out = np.empty_like(left)
        drive(left, right, out)
        return out

    return on_arrays


def around(*places):
    """The ten neighbours of each place on either side, where a branch may change."""
    return np.concatenate([p + np.spacing(p) * np.arange(-10, 11) for p in map(float, places)])


def arguments(low, high, smallest, seams=()):
    """Dense and random over [low, high], log-uniform of both signs down to `smallest`, and the seams."""
    rng = np.random.default_rng(1)
    tiny = 10.0 ** rng.uniform(math.log10(smallest), 0.0, 500)
    parts = np.linspace(low, high, 1001), rng.uniform(low, high, 1000), rng.uniform(-1, 1, 1000), tiny, -tiny
    z = np.concatenate([*parts, around(*seams)] if seams else parts)
    return z[(z >= low) & (z <= high) & (z != 0)]


# Function, its exact value, arguments. exp keeps away from the ends of the range, which have their own test.
EXACT = {
    "exp": (mp.exp, arguments(-707.9, 708.9, 1e-300, (-0.34657359, 0.34657359, 1.0397208))),
    "log1p": (mp.log1p, arguments(-1 + 2**-53, 1e3, 1e-300, (-0.2928932188, 0.4142135624, 1.8284271247))),
    "log1p, large": (mp.log1p, 10.0 ** np.linspace(3, 308, 500)),
    "tanh": (mp.tanh, arguments(-25.0, 25.0, 1e-300, (0.17328679, 0.45, 9.01, 10.0, 19.0615, 20.0))),
    "erf": (mp.erf, arguments(-7.0, 7.0, 1e-300, (0.9, -0.9, 3.92, 4.0, 5.9, 5.95))),
    "arcsin": (mp.asin, arguments(-1.0, 1.0, 1e-300, (-1.0, -0.5, 0.5, 1.0))),
    "arccos": (mp.acos, arguments(-1.0, 1.0, 1e-300, (-1.0, -0.5, 0.5, 1.0))),
    "arccos, near 1": (mp.acos, 1 - 10.0 ** np.linspace(-16, -1, 500)),
    "sqrt": (mp.sqrt, np.abs(arguments(-1e4, 1e4, 1e-300))),
    "sin": (mp.sin, arguments(-100.0, 100.0, 1e-300)),
    "cos": (mp.cos, arguments(-100.0, 100.0, 1e-300)),
    "absolute": (abs, arguments(-1e4, 1e4, 1e-300)),
}
TOLERANCE = {"float64": 1e-15, "float32": 3e-7}


def function_called(name):
    return getattr(vocabulary, name.split(",")[0])


def worst_error(function, exact, z, dtype):
    """Largest relative error of the compiled function where the exact value is a normal number of the dtype."""
    z = np.unique(z.astype(dtype))
    got = compiled(function)(z)
    assert got.dtype == dtype
    limits = np.finfo(dtype)
    worst = mpf(0)
    with mp.workdps(40):
        for at, value in zip(z.tolist(), got.tolist(), strict=True):
            wanted = exact(mpf(at))
            if limits.tiny <= abs(wanted) <= limits.max:
                worst = max(worst, abs(mpf(value) - wanted) / abs(wanted))
    return float(worst)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", EXACT)
def test_relative_error(name, dtype):
    exact, z = EXACT[name]
    if dtype == "float32":
        z = z[np.abs(z) < np.finfo(np.float32).max]
        z = z[z.astype(np.float32) > -1] if name == "log1p" else z
    assert worst_error(function_called(name), exact, z, dtype) <= TOLERANCE[dtype]


@pytest.mark.parametrize(("dtype", "slip"), [("float64", 3e-15), ("float32", 1e-6)])
def test_a_small_relative_slip_is_caught(dtype, slip):
    @njit
    def slipped(z):
        return vocabulary.tanh(z) * (1.0 + slip)

    assert worst_error(slipped, *EXACT["tanh"], dtype) > TOLERANCE[dtype]


def test_exp_up_to_the_ends_of_its_range():
    """Up to overflow at log(max) = 709.78, and down to the smallest normal number at -708.396."""
    rng = np.random.default_rng(2)
    z = np.concatenate([rng.uniform(709.0, 709.7827, 300), rng.uniform(-708.3964, -708.0, 300)])
    assert worst_error(vocabulary.exp, mp.exp, z, "float64") <= TOLERANCE["float64"]


@pytest.mark.parametrize(("dtype", "low", "high"), [("float64", -745.2, -708.3), ("float32", -104.1, -87.3)])
def test_exp_below_the_normal_numbers(dtype, low, high):
    """Gradual underflow: off by one subnormal number, or by the relative tolerance where that is more."""
    z = np.linspace(low, high, 1000).astype(dtype)
    got = compiled(vocabulary.exp)(z)
    step = mpf(float(np.finfo(dtype).smallest_subnormal))
    with mp.workdps(40):
        for at, value in zip(z.tolist(), got.tolist(), strict=True):
            wanted = mp.exp(mpf(at))
            assert abs(mpf(value) - wanted) <= max(step, TOLERANCE[dtype] * wanted)


@pytest.mark.parametrize(
    ("dtype", "over", "under"),
    [("float64", (709.783, 710.0, 1e4, 1e308), (-745.2, -1e308)), ("float32", (88.73, 89, 1e4, 3e38), (-104, -3e38))],
)
def test_exp_beyond_the_ends_of_its_range(dtype, over, under):
    exp = compiled(vocabulary.exp)
    assert np.all(exp(np.array(over, dtype)) == np.inf)
    assert np.all(exp(np.array(under, dtype)) == 0)


# Monotone, from one floating-point number to the next

CLUSTER = 4096


def falls(function, dtype, low, high, seams, sign=1):
    """How often sign * function, compiled, falls: within runs of consecutive numbers, and from one run to the next."""
    rng = np.random.default_rng(4)
    places = np.concatenate([rng.uniform(low, high, 100), rng.uniform(-1, 1, 100), 10.0 ** rng.uniform(-8, 0, 50)])
    middle = np.unique(np.concatenate([places, seams]).clip(low, high).astype(dtype))
    middle = middle[middle != 0]
    integer = np.dtype(dtype).str.replace("f", "i")
    runs = (middle.view(integer)[:, None] + np.arange(-CLUSTER // 2, CLUSTER // 2, dtype=integer)).view(dtype)
    z = np.unique(runs)
    return np.count_nonzero(np.diff(sign * compiled(function)(z)) < 0)


STEPS_OF_EXP = np.arange(-20.5, 20, 1) * math.log(2)  # where its reduced argument jumps
MONOTONE = {
    "exp": (-80.0, 80.0, 2 * STEPS_OF_EXP),
    "log1p": (-0.999, 1e3, np.sqrt(2.0) ** np.arange(-9, 10, 2) - 1),
    "tanh": (-20.0, 20.0, (0.45, -0.45, *STEPS_OF_EXP)),
    "erf": (-6.0, 6.0, (0.9, -0.9, 4.0, 5.95, *(np.sqrt(np.abs(2 * STEPS_OF_EXP))))),
    "arcsin": (-1.0, 1.0, (-1.0, -0.5, 0.5, 1.0)),
    "arccos": (-1.0, 1.0, (-1.0, -0.5, 0.5, 1.0), -1),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", MONOTONE)
def test_monotone(name, dtype):
    assert falls(function_called(name), dtype, *MONOTONE[name]) == 0


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_function_that_falls_by_rounding_is_caught(dtype):
    @njit
    def rising(z):  # but its denominator, rounded, rises in larger steps than its numerator
        return abs(z) / (abs(z) + type(z)(2))

    assert falls(rising, dtype, 0.1, 20.0, (1.0,)) > 0


# Limits and definitions of IEEE 754: at NaN, +inf, -inf, +0, -0.
NAN, INF = math.nan, math.inf
SPECIAL = (NAN, INF, -INF, 0.0, -0.0)
AT_SPECIAL = {
    "exp": (NAN, INF, 0.0, 1.0, 1.0),
    "log1p": (NAN, INF, NAN, 0.0, 0.0),
    "tanh": (NAN, 1.0, -1.0, 0.0, -0.0),
    "erf": (NAN, 1.0, -1.0, 0.0, -0.0),
    "arcsin": (NAN, NAN, NAN, 0.0, -0.0),
    "arccos": (NAN, NAN, NAN, math.pi / 2, math.pi / 2),
    "sqrt": (NAN, INF, NAN, 0.0, -0.0),
    "sin": (NAN, NAN, NAN, 0.0, -0.0),
    "cos": (NAN, NAN, NAN, 1.0, 1.0),
    "absolute": (NAN, INF, INF, 0.0, 0.0),
}
ODD = ("tanh", "erf", "arcsin", "sin")


def assert_same(got, wanted):
    """Equal as numbers, NaN where NaN; zeros with the same sign."""
    np.testing.assert_array_equal(got, wanted)
    zero = np.asarray(wanted) == 0
    np.testing.assert_array_equal(np.signbit(got)[zero], np.signbit(wanted)[zero])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", AT_SPECIAL)
def test_nan_infinity_and_zero(name, dtype):
    # Nine copies, so that the vector body of the loop meets them as well as its tail.
    z, wanted = (np.tile(np.array(each, dtype), 9) for each in (SPECIAL, AT_SPECIAL[name]))
    got = compiled(function_called(name))(z)
    if name == "log1p":  # its zero at -0 may have either sign
        got = np.where(got == 0, np.abs(got), got)
    assert_same(got, wanted)
    with np.errstate(invalid="ignore"):
        assert_same(np.abs(got), np.abs(function_called(name)(z)))  # NumPy's meaning agrees


def test_log1p_at_and_below_its_pole():
    got = compiled(vocabulary.log1p)(np.array([-1.0, -1.0 - 2**-52, -2.0, -1e308]))
    np.testing.assert_array_equal(got, [-INF, NAN, NAN, NAN])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("name", "ends"), [("arcsin", (-math.pi / 2, math.pi / 2)), ("arccos", (math.pi, 0.0))])
def test_arcs_at_and_beyond_their_ends(name, ends, dtype):
    beyond = np.nextafter(np.array(1, dtype), np.array(2, dtype))
    got = compiled(function_called(name))(np.tile(np.array([-1, 1, beyond, -beyond, 2, -1e30], dtype), 9))
    assert_same(got, np.tile(np.array([*ends, NAN, NAN, NAN, NAN], dtype), 9))


@pytest.mark.parametrize("name", ODD)
def test_odd_functions_are_odd_in_bits(name):
    z = np.random.default_rng(3).uniform(0, 30, 1000) ** 3 / 900
    function = compiled(function_called(name))
    assert_same(function(-z), -function(z))


def test_a_lost_sign_of_zero_is_caught():
    with pytest.raises(AssertionError):
        assert_same(np.array([0.0]), np.array([-0.0]))


PAIRS = tuple((left, right) for left in (NAN, -INF, -1.5, 0.0, 2.0, INF) for right in (NAN, -INF, -1.5, 0.0, 2.0, INF))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("name", "larger"), [("maximum", True), ("minimum", False)])
def test_maximum_and_minimum(name, larger, dtype):
    """The extreme of two numbers; NaN if either is NaN."""
    wanted = [NAN if NAN in pair or any(map(math.isnan, pair)) else sorted(pair)[larger] for pair in PAIRS]
    left, right = np.array(PAIRS, dtype).T.copy()
    function = getattr(vocabulary, name)
    np.testing.assert_array_equal(compiled_pair(function)(left, right), np.array(wanted, dtype))
    np.testing.assert_array_equal(function(left, right), np.array(wanted, dtype))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_where(dtype):
    """`yes` or `no` untouched, NaN and infinity included: the branch not taken leaves no trace. NaN > 0 is false."""

    def choose(z, other):
        return vocabulary.where(z > 0.0, z, other)

    left, right = np.array(PAIRS, dtype).T.copy()
    wanted = np.array([z if z > 0 else other for z, other in PAIRS], dtype)
    np.testing.assert_array_equal(compiled_pair(njit(choose))(left, right), wanted)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(choose(left, right), wanted)


# Formulas in the type of their argument


@cache
def compiled_formula(phi):
    @njit(**LOOP)
    def drive(z, value, slope):
        for i in range(z.size):
            value[i], slope[i] = phi(z[i])

    return drive


def run_formula(phi, z):
    value, slope = np.empty_like(z), np.empty_like(z)
    compiled_formula(phi)(z, value, slope)
    return value, slope


def arithmetic(phi, dtype):
    """The LLVM code of a loop over the formula, as optimised."""
    run_formula(phi, np.ones(4, dtype))
    signatures = compiled_formula(phi).inspect_llvm()
    return next(code for arguments, code in signatures.items() if arguments[0].dtype.name == dtype)


def spelled_out(z):
    """Every operator, with integers, literals, constants and a branch-free choice of them."""
    total = 2 * z - 1
    total += z / 3
    low = vocabulary.where(z > 0.5, 1, vocabulary.minimum(0.25, -z))
    value = abs(-total) ** 2 + 0.5 ** (+z) + low * vocabulary.sqrt(2.0 + z)
    return value, vocabulary.where(z != 1.0, math.pi, 0)


def over_numpy(z):
    """NumPy's names in place of the vocabulary's."""
    value = np.tanh(z) + np.log1p(np.abs(z)) + np.sin(z) * np.cos(z)
    bounded = np.minimum(0.5 * z, 1.0)
    value += np.arcsin(bounded) * np.arccos(bounded)
    return value + np.where(z > 0.0, np.maximum(z, 2.0), 1.0), np.exp(z) + np.sqrt(np.minimum(np.absolute(z), 2.0))


def arcs(z):
    bounded = vocabulary.minimum(0.5 * z, 1.0)
    return vocabulary.arcsin(bounded), vocabulary.arccos(bounded)


USERS = {"arcs": arcs, "spelled out": spelled_out, "over NumPy": over_numpy}
FORMULAS = {**{name: each.formula for name, each in ACTIVATIONS.items()}, **USERS}


@cache
def shielded(formula):
    return in_own_type(formula)


@pytest.mark.parametrize("name", [*ACTIVATIONS, "arcs"])
def test_a_float32_formula_has_no_float64_arithmetic(name):
    code = arithmetic(shielded(FORMULAS[name]), "float32")
    assert " x float>" in code  # it runs on vectors
    assert " double" not in code
    assert " x double>" in arithmetic(shielded(FORMULAS[name]), "float64")


@pytest.mark.parametrize("name", ["softplus", "softplus-geiger"])
def test_a_formula_that_widens_is_caught(name):
    assert " double" in arithmetic(njit(FORMULAS[name]), "float32")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_agree_with_numpy(name, dtype):
    z = np.random.default_rng(5).uniform(-1.9, 6, 500).astype(dtype)
    wanted = [np.broadcast_to(each, z.shape) for each in FORMULAS[name](z.astype(float))]
    for got, each in zip(run_formula(shielded(FORMULAS[name]), z), wanted, strict=True):
        np.testing.assert_allclose(got, each, rtol=10 * TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])


# The polynomials


@cache
def fits():
    path = Path(__file__).resolve().parent.parent / "docs" / "fit_elementary.py"
    spec = importlib.util.spec_from_file_location("fit_elementary", path)
    module = importlib.util.module_from_spec(spec)
    with mp.workdps(mp.dps):  # the module sets the digits of mpmath as a whole
        spec.loader.exec_module(module)
    return module


@cache
def fitted(name):
    with mp.workdps(40):
        return fits().shipped(name)


NAMES = [name for name in vars(coefficients) if name.isupper()]


def test_every_fit_is_shipped_and_no_other():
    assert list(fits().FITS) == NAMES


@pytest.mark.filterwarnings("ignore:Descending:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_coefficients_are_what_the_fit_gives(name):
    wanted, error = fitted(name)
    assert getattr(coefficients, name) == tuple(wanted)
    assert error < (2**-24 if name.startswith("SINGLE") else 2**-53)


@pytest.mark.filterwarnings("ignore:Descending:DeprecationWarning")
def test_a_changed_coefficient_is_caught():
    wanted, _ = fitted("LOG_REST")
    assert coefficients.LOG_REST != (*wanted[:-1], math.nextafter(wanted[-1], 0.0))
