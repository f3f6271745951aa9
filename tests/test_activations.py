"""Activations: slope against value, both against the oracle, and a user's own, on every engine."""

import functools
import math

import numpy as np
import oracle
import pytest
from scipy import special

import meanfield as mf
from meanfield import vocabulary
from meanfield.activations import ACTIVATIONS, softplus
from meanfield.engines import ENGINES
from meanfield.errors import InputError

EVERY = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
EVERYWHERE = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)


def value_and_slope(engine, activation, z):
    """phi(z), phi'(z) as the engine computes them: the gradient of units a = 1, w = z at the one input x = 1."""
    cloud = engine.pack(np.stack([np.ones_like(z), z], axis=1), "float64")
    inputs = engine.pack_inputs(np.ones((1, 1)), "float64")
    gradient = engine.vjp(activation, cloud, inputs, np.ones(1), (1.0, 1.0))
    return engine.unpack(gradient, len(z)).T


def slope_error(engine, activation):
    """Largest distance of the slope from a fourth-order central difference of the value, away from a kink at 0."""
    z, h = np.linspace(-7.0, 7.0, 1400), 1e-3  # an even count: the nearest point to 0 is 0.005 away
    value = lambda at: value_and_slope(engine, activation, at)[0]  # noqa: E731
    difference = (8 * (value(z + h) - value(z - h)) - (value(z + 2 * h) - value(z - 2 * h))) / (12 * h)
    return np.abs(value_and_slope(engine, activation, z)[1] - difference).max()


def assert_is(engine, activation, exact):
    """Value and slope are those of a pair of functions of one float."""
    z = np.concatenate([np.linspace(-30.0, 30.0, 601), np.random.default_rng(1).standard_normal(500)])
    for got, function in zip(value_and_slope(engine, activation, z), exact, strict=True):
        # The absolute part is for 1 - tanh^2, which rounds at the size of 1.
        np.testing.assert_allclose(got, [function(each) for each in z.tolist()], rtol=1e-14, atol=5e-16)


@EVERYWHERE
@EVERY
def test_slope_is_the_derivative_of_the_value(activation, engine):
    assert slope_error(engine, activation) < 1e-10


@EVERYWHERE
@EVERY
def test_value_and_slope_are_the_oracle_s(activation, engine):
    assert_is(engine, activation, oracle.ACTIVATIONS[activation.name])


WRONG_SLOPES = {
    "a factor": lambda z: (vocabulary.tanh(z), 1.001 * (1 - vocabulary.tanh(z) ** 2)),
    "a sign": lambda z: (vocabulary.tanh(z), vocabulary.tanh(z) ** 2 - 1),
    "another function's": lambda z: (vocabulary.tanh(z), vocabulary.exp(-z * z)),
}


@pytest.mark.parametrize("formula", WRONG_SLOPES.values(), ids=WRONG_SLOPES)
def test_a_wrong_slope_is_caught(formula):
    wrong = mf.Activation("wrong", formula)
    assert slope_error(ENGINES["reference"], wrong) > 5e-4
    with pytest.raises(AssertionError):
        assert_is(ENGINES["reference"], wrong, oracle.ACTIVATIONS["tanh"])


def test_the_slope_of_relu_at_its_kink_is_the_left_one():
    for engine in ENGINES.values():
        value, slope = value_and_slope(engine, ACTIVATIONS["relu"], np.array([0.0, -0.0, 5e-324]))
        np.testing.assert_array_equal(value, [0.0, 0.0, 5e-324])
        np.testing.assert_array_equal(slope, [0.0, 0.0, 1.0])


# phi and phi' as z -> +infinity and -infinity: (phi - growth z, phi') on either side.
FAR = {
    "relu": ((1.0, 0.0, 1.0), (0.0, 0.0, 0.0)),
    "erf": ((0.0, 1.0, 0.0), (0.0, -1.0, 0.0)),
    "tanh": ((0.0, 1.0, 0.0), (0.0, -1.0, 0.0)),
    "softplus": ((1.0, 0.0, 1.0), (0.0, 0.0, 0.0)),
    "softplus-geiger": ((1.404, 0.0, 1.404), (0.0, 0.0, 0.0)),
    "linear": ((1.0, 0.0, 1.0), (1.0, 0.0, 1.0)),
}


@pytest.mark.filterwarnings("ignore:overflow encountered in multiply")  # of z^2 in e^(-z^2) on arrays
@EVERYWHERE
@EVERY
def test_large_arguments_reach_the_limits_and_stay_finite(activation, engine):
    for sign, (growth, value_left, slope_left) in zip((1.0, -1.0), FAR[activation.name], strict=True):
        z = sign * np.array([160.0, 1e3, 1e6, 1e154, 1e300])
        value, slope = value_and_slope(engine, activation, z)
        assert np.isfinite(value).all() and np.isfinite(slope).all()
        np.testing.assert_allclose(value, growth * z + value_left, rtol=1e-15, atol=1e-60)
        np.testing.assert_allclose(slope, np.full(5, slope_left), rtol=1e-15, atol=1e-60)


@EVERYWHERE
def test_softplus_vanishes_like_e_to_the_z(engine):
    """log(1 + e^z) and its slope e^z / (1 + e^z) keep their relative accuracy where e^z is small."""
    z = np.linspace(-600.0, -40.0, 113)
    for got in value_and_slope(engine, ACTIVATIONS["softplus"], z):
        np.testing.assert_allclose(got, [math.exp(each) for each in z], rtol=1e-14)


def test_softplus_takes_any_beta_and_prefactor():
    """beta sharpens it towards relu, at most log(2) / beta away (at 0); the prefactor multiplies it."""
    reference = ENGINES["reference"]
    for beta, prefactor in ((0.3, 1.0), (40.0, -2.5)):
        assert_is(reference, softplus(beta, prefactor), oracle.softplus(beta, prefactor))
    z = np.linspace(-2.0, 2.0, 401)
    gap = value_and_slope(reference, softplus(40.0), z)[0] - np.maximum(z, 0.0)
    assert gap.argmax() == 200 and math.isclose(gap.max(), math.log(2.0) / 40.0, rel_tol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), r"beta is 0\.0; needed: a finite number above 0"),
        ((-1,), r"beta is -1; needed"),
        ((math.inf,), r"beta is inf; needed"),
        (("5x",), r"beta is '5x'; needed: a number"),
        ((1.0, math.nan), r"prefactor is nan; needed: a finite number"),
    ],
)
def test_softplus_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        softplus(*arguments)


# A user's own


def _swish(z):
    small = vocabulary.exp(-z)
    return z / (1 + small), (1 + (1 + z) * small) / (1 + small) ** 2


SWISH = mf.Activation("swish", _swish)


def logistic(z):
    return 0.5 * (1.0 + math.tanh(0.5 * z))


@EVERYWHERE
def test_a_user_s_own_activation(engine):
    """z logistic(z), with slope logistic(z) (1 + z logistic(-z)): as a function and in a whole run."""
    z = np.linspace(-9.0, 9.0, 181)
    value, slope = value_and_slope(engine, SWISH, z)
    np.testing.assert_allclose(value, [each * logistic(each) for each in z], rtol=1e-12)
    wanted = [logistic(each) * (1.0 + each * logistic(-each)) for each in z]
    np.testing.assert_allclose(slope, wanted, rtol=1e-12, atol=1e-15)
    assert slope_error(engine, SWISH) < 1e-10

    problem = mf.problems.teacher_student(dim=2, n=12, n_test=1, seed=3)
    start = mf.initial.gaussian(20, 2, seed=4)
    run = mf.simulate(mf.Network(SWISH), problem, start, [0.0, 2.0], record=["risk"], engine=engine)
    assert run.records["risk"][1] < run.records["risk"][0]


def test_an_activation_that_does_not_compile_is_named():
    """SciPy's expit is a NumPy function that Numba does not know."""
    expit = mf.Activation("expit", lambda z: (special.expit(z), special.expit(z) * special.expit(-z)))
    message = (
        r"activation 'expit' does not compile for engine 'cpu' .*; needed: arithmetic over "
        r"meanfield\.vocabulary that returns \(value, slope\)\. Engine 'reference' runs any NumPy function"
    )
    with pytest.raises(InputError, match=message):
        value_and_slope(ENGINES["cpu"], expit, np.zeros(1))
    value, slope = value_and_slope(ENGINES["reference"], expit, np.array([0.0, 1.5]))
    np.testing.assert_allclose(value, [0.5, logistic(1.5)], rtol=1e-14)
    np.testing.assert_allclose(slope, [0.25, logistic(1.5) * logistic(-1.5)], rtol=1e-14)


def test_a_formula_without_a_slope_is_named_too():
    with pytest.raises(InputError, match="activation 'odd' does not compile for engine 'cpu'"):
        value_and_slope(ENGINES["cpu"], mf.Activation("odd", lambda z: z), np.zeros(1))


@pytest.mark.parametrize("formula", [None, functools.partial(_swish)], ids=["nothing", "a partial"])
def test_a_formula_that_is_no_function_is_named_too(formula):
    with pytest.raises(InputError, match="activation 'odd'"):
        value_and_slope(ENGINES["cpu"], mf.Activation("odd", formula), np.zeros(1))


def test_reprs_name_the_activation():
    assert repr(ACTIVATIONS["relu"]) == "Activation('relu')"
    assert "5" in repr(softplus(5.0, 1.404)) and "1.404" in repr(softplus(5.0, 1.404))


def test_the_table_is_keyed_by_name():
    assert all(name == each.name for name, each in ACTIVATIONS.items())
    assert set(FAR) == set(oracle.ACTIVATIONS) == set(ACTIVATIONS)


@EVERYWHERE
def test_piecewise_linear_units_interpolate(engine):
    """Two to four points, constant outside: NumPy's interpolation to 1e-13, the slope that of the piece."""
    z = np.linspace(-4.0, 4.0, 401) + 1e-4
    for knots, values in (((0.5, 1.5), (-2.5, 7.5)), ((0, 0.5, 1.5), (-2.5, -4, 7.5)), ((-2, -1, 0, 3), (0, 1, -1, 5))):
        unit = mf.activations.piecewise_linear(knots, values)
        value, slope = value_and_slope(engine, unit, z)
        np.testing.assert_allclose(value, np.interp(z, knots, values), rtol=1e-13, atol=1e-13)
        pieces = np.r_[0.0, np.diff(values) / np.diff(knots), 0.0]
        np.testing.assert_allclose(slope, pieces[np.searchsorted(knots, z)], rtol=1e-13, atol=1e-13)
        assert np.abs(value - np.interp(z, knots, np.add(values, 0.01))).max() > 1e-3
        assert unit is mf.activations.piecewise_linear(knots, values) and repr(unit).startswith("PiecewiseLinear(")


def test_piecewise_linear_refuses():
    for knots, values in (((1.0,), (2.0,)), ((1.0, 0.0), (1.0, 2.0)), ((0.0, 1.0), (1.0,)), (range(5), range(5))):
        with pytest.raises(InputError, match="needed: two to four knots that increase"):
            mf.activations.piecewise_linear(knots, values)


def test_polynomials():
    """Value and slope, in powers and in Hermite polynomials; equal coefficients are one object; degree 4 at most."""
    z = np.linspace(-3, 3, 31)
    value, slope = mf.activations.polynomial([1.0, -2.0, 0.5, 0.25, -0.125]).formula(z)
    np.testing.assert_allclose(value, 1 - 2 * z + z**2 / 2 + z**3 / 4 - z**4 / 8, rtol=1e-13)
    np.testing.assert_allclose(slope, -2 + z + 3 * z**2 / 4 - z**3 / 2, rtol=1e-13, atol=1e-13)
    he = mf.activations.polynomial([0.0, 0.0, 0.0, 0.0, 1.0], hermite=True).formula(z)
    np.testing.assert_allclose(he[0], z**4 - 6 * z**2 + 3, rtol=1e-12, atol=1e-12)
    assert mf.activations.polynomial([0, 0, 1]) is mf.activations.quadratic()
    assert mf.activations.polynomial([0, 1]) != mf.activations.quadratic()
    with pytest.raises(InputError, match="a polynomial of 6 coefficients"):
        mf.activations.polynomial(np.ones(6))
