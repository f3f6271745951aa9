"""The dictionary of conventions: each constructor against the equations it stands for, written in their own terms."""

import math
import warnings

import numpy as np
import pytest
from scipy.special import expit

from meanfield import Network, Problem, Scaling, initial, simulate
from meanfield.errors import InputError

STEPS, H, DIM = 400, 24, 3


@pytest.fixture(autouse=True)
def no_warning_leaks():
    """What is wrong must be an error; no call in this file may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def task() -> Problem:
    rng = np.random.default_rng(1)
    inputs, tests = rng.standard_normal((10, DIM)), rng.standard_normal((4, DIM))
    return Problem(inputs, np.sign(inputs[:, 0]), test_inputs=tests, test_targets=np.sign(tests[:, 0]))


UNITS = {
    "tanh": (np.tanh, lambda z: 1.0 - np.tanh(z) ** 2),
    "softplus-geiger": (lambda z: 1.404 / 5.0 * np.logaddexp(0.0, 5.0 * z), lambda z: 1.404 * expit(5.0 * z)),
}
SLOPES = {"half-square": lambda f, y: f - y, "square": lambda f, y: 2.0 * (f - y)}  # dl/dF


def geigers_own(unit, loss, alpha, problem, start, dt):
    """Their equations, explicit Euler: F = alpha (f - f_0), f = h^(-1/2) sum_i W_i s(d^(-1/2) w_i . x),

    L = (1 / (alpha^2 n)) sum_k l(F_k, y_k), (W, w)' = -grad L. Final parameters, F at training and at test inputs.
    """
    value, slope = UNITS[unit]
    outer, inner, x, y = start[:, 0].copy(), start[:, 1:].copy(), problem.inputs, problem.targets
    width, n = len(start), len(x)

    def output(points):
        return value(points @ inner.T / np.sqrt(DIM)) @ outer / np.sqrt(width)

    first, first_test = output(x), output(problem.test_inputs)
    for _ in range(STEPS):
        z = x @ inner.T / np.sqrt(DIM)
        in_f = alpha * SLOPES[loss](alpha * (output(x) - first), y) / (alpha**2 * n)  # dL/df
        in_outer = value(z).T @ in_f / np.sqrt(width)
        in_inner = (slope(z) * np.outer(in_f, outer)).T @ x / np.sqrt(width * DIM)
        outer, inner = outer - dt * in_outer, inner - dt * in_inner
    return np.c_[outer, inner], alpha * (output(x) - first), alpha * (output(problem.test_inputs) - first_test)


def ours(unit, scaling, problem, start, native_dt):
    """The same run in flow time, by way of the scaling's own clock."""
    dt = float(scaling.from_native_time(native_dt))
    options = {"scheme": "euler", "dt": dt, "engine": "reference", "keep": "last"}
    run = simulate(Network(unit, scaling), problem, start, scaling.from_native_time([STEPS * native_dt]), **options)
    assert run.steps == STEPS
    return run.particles[-1], run.predictions[-1], run.test_predictions[-1]


def difference(found, expected):
    """Largest over parameters, F and test F, each in units of its largest entry."""
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("alpha", [0.02, 1.0, 50.0])
@pytest.mark.parametrize("loss", SLOPES)
@pytest.mark.parametrize("unit", UNITS)
def test_geiger(unit, loss, alpha):
    """400 Euler steps of Geiger's own equations and of ours, from the same start: equal to 1e-12 relative.

    dt = 0.05 alpha below alpha = 1: there the parameters move by order 1 in a time of order alpha.
    """
    problem, start = task(), initial.gaussian(H, DIM, seed=2)
    dt = 0.05 * min(1.0, alpha)
    expected = geigers_own(unit, loss, alpha, problem, start, dt)
    assert np.abs(expected[1]).max() > 0.1, "nothing was learnt"
    assert difference(ours(unit, Scaling.geiger(alpha, H, DIM, loss), problem, start, dt), expected) < 1e-12


WRONG = {
    "alpha_G": Scaling(1.0, shift="initial", input_scale=1.0 / math.sqrt(DIM)),
    "no shift": Scaling(math.sqrt(H), input_scale=1.0 / math.sqrt(DIM)),
    "inputs as they are": Scaling(math.sqrt(H), shift="initial"),
    "the other loss": Scaling.geiger(1.0, H, DIM, "square"),
    "another width": Scaling.geiger(1.0, H + 1, DIM),
}


@pytest.mark.parametrize("scaling", WRONG.values(), ids=WRONG)
def test_a_wrong_dictionary_is_caught(scaling):
    """The comparison above fails for each slip one could make."""
    problem, start = task(), initial.gaussian(H, DIM, seed=2)
    expected = geigers_own("tanh", "half-square", 1.0, problem, start, 0.05)
    assert difference(ours("tanh", scaling, problem, start, 0.05), expected) > 1e-3


@pytest.mark.parametrize("alpha", [0.1, 3.0])
def test_collapse(alpha):
    """sqrt(h) alpha_G = alpha is all that is left of the two: equal alpha, equal scaling, at every width."""
    scalings = [Scaling.geiger(alpha / math.sqrt(h), h, DIM) for h in (1, 16, 64, 1024)]
    for scaling in scalings:
        assert scaling.alpha == pytest.approx(alpha, rel=1e-15)
    assert scalings[1] == scalings[2] == Scaling(scalings[1].alpha, shift="initial", input_scale=1.0 / math.sqrt(DIM))


def test_collapse_of_runs():
    """A net with every unit twice, at alpha_G / sqrt(2), learns the same function, theirs and ours."""
    problem, start, alpha = task(), initial.gaussian(H, DIM, seed=2), 0.3
    single = geigers_own("tanh", "half-square", alpha, problem, start, 0.05)[1]
    twice = np.r_[start, start]
    double = geigers_own("tanh", "half-square", alpha / math.sqrt(2.0), problem, twice, 0.05)[1]
    assert double == pytest.approx(single, rel=1e-12)
    found = ours("tanh", Scaling.geiger(alpha / math.sqrt(2.0), 2 * H, DIM), problem, twice, 0.05)[1]
    assert found == pytest.approx(single, rel=1e-12)


@pytest.mark.parametrize(("loss", "flow_per_native"), [("half-square", 1.0), ("square", 2.0)])
def test_time_maps(loss, flow_per_native):
    """t = t_G for (F - y)^2 / 2 and 2 t_G for (F - y)^2; there and back is where one was, numbers and arrays alike."""
    scaling = Scaling.geiger(1.0, 4, loss=loss)
    native = np.array([0.0, 0.3, 7.0])
    assert scaling.from_native_time(native) == pytest.approx(flow_per_native * native, rel=1e-15)
    assert scaling.to_native_time(scaling.from_native_time(native)) == pytest.approx(native, rel=1e-15)
    assert scaling.from_native_time(3.0) == pytest.approx(3.0 * flow_per_native, rel=1e-15)
    assert scaling.to_native_time([1.0, 2.0]) == pytest.approx(np.array([1.0, 2.0]) / flow_per_native, rel=1e-15)


def test_mean_field():
    """alpha = 1, no shift, mobilities 1, flow time as it is; and the default of a network."""
    assert Scaling.mean_field() == Scaling() == Scaling(1.0, 1.0, 1.0, None, 1.0, 1.0)
    assert Network("erf").scaling == Scaling.mean_field()


@pytest.mark.parametrize(("n_particles", "c"), [(1, 1.0), (100, 1.0), (64, 0.25), (2, 3.0)])
def test_ntk(n_particles, c):
    """alpha = c sqrt(N), learning f - f_0 unless told otherwise."""
    assert Scaling.ntk(n_particles, c) == Scaling(c * math.sqrt(n_particles), shift="initial")
    assert Scaling.ntk(n_particles, c, shift=None) == Scaling(c * math.sqrt(n_particles))


def test_one_dimension_leaves_inputs_alone():
    """Geiger's d^(-1/2) is 1 where `dim` is not given."""
    assert Scaling.geiger(0.5, 16) == Scaling(2.0, shift="initial")


def test_numbers_are_taken_from_what_holds_one():
    """NumPy numbers and integers become floats, so that equal scalings compare equal."""
    assert Scaling(np.float64(2.0), np.int64(1), 1) == Scaling(2.0)
    assert Scaling.geiger(1, np.int64(4)) == Scaling.geiger(1.0, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Scaling(math.inf), "alpha is inf; needed: a finite number above 0"),
        (lambda: Scaling(math.nan), "alpha is nan; needed: a finite number above 0"),
        (lambda: Scaling(0.0), "alpha is 0.0; needed: a finite number above 0"),
        (lambda: Scaling(-1.0), "alpha is -1.0; needed: a finite number above 0"),
        (lambda: Scaling("one"), "alpha is 'one'; needed: a number"),
        (lambda: Scaling(None), "alpha is None; needed: a number"),
        (lambda: Scaling(mobility_a=-0.1), "mobility_a is -0.1; needed: a finite number of at least 0"),
        (lambda: Scaling(mobility_w=math.nan), "mobility_w is nan; needed: a finite number of at least 0"),
        (lambda: Scaling(input_scale=0.0), "input_scale is 0.0; needed: a finite number above 0"),
        (lambda: Scaling(time_scale=-2.0), "time_scale is -2.0; needed: a finite number above 0"),
        (lambda: Scaling(shift="intial"), r"shift is 'intial'; needed: None or 'initial' \(learn f - f_0\)"),
        (lambda: Scaling.ntk(0), "n_particles is 0; needed: a whole number of at least 1"),
        (lambda: Scaling.ntk(10.0), "n_particles is 10.0; needed: a whole number"),
        (lambda: Scaling.ntk(10, c=0.0), "c is 0.0; needed: a finite number above 0"),
        (lambda: Scaling.ntk(10, shift="first"), "shift is 'first'; needed: None or 'initial'"),
        (lambda: Scaling.geiger(math.inf, 4), "alpha is inf; needed: a finite number above 0"),
        (lambda: Scaling.geiger(0.0, 4), "alpha is 0.0; needed: a finite number above 0"),
        (lambda: Scaling.geiger(1.0, 0), "h is 0; needed: a whole number of at least 1"),
        (lambda: Scaling.geiger(1.0, True), "h is True; needed: a whole number"),
        (lambda: Scaling.geiger(1.0, 4, dim=0), "dim is 0; needed: a whole number of at least 1"),
        (
            lambda: Scaling.geiger(1.0, 4, loss="half-sqare"),
            "unknown loss of geiger 'half-sqare'. Did you mean 'half-squ",
        ),
        (lambda: Scaling.geiger(1.0, 4, loss="hinge"), "unknown loss of geiger 'hinge'. Known: half-square, square"),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()
