"""Fixed steps that are too large: the stability interval of a tableau, and the bound that a divergence names."""

import re

import numpy as np
import oracle
import pytest
from scipy.optimize import brentq

import meanfield as mf
from meanfield import integrators, loop, tangent
from meanfield.engines import host
from meanfield.errors import DivergenceError
from meanfield.integrators import TABLEAUS, Tableau

EVERY = pytest.mark.parametrize("tableau", TABLEAUS.values(), ids=TABLEAUS)
LINEAR = mf.Network("linear")


# The interval


def growth(tableau, x):
    """|R(-x)|: the factor of one step of y' = -y with h = x."""
    ((y,), _) = integrators.step(tableau, lambda state, out: (-state[0],), (host,), (np.ones(1),), x)
    return abs(y[0])


@EVERY
def test_steps_grow_beyond_the_interval_and_nowhere_below(tableau):
    x = tableau.stable_below
    assert all(growth(tableau, each) <= 1.0 + 1e-12 for each in np.linspace(0.0, x, 400))
    assert growth(tableau, x * 1.001) > 1.0 > growth(tableau, x * 0.999)


def test_the_interval_is_a_root_of_the_exponential_series():
    """Of a scheme with as many stages as its order, R is the series to that order: 2, 2, and 2.7853 by root finding."""
    series = lambda x: 1.0 - x + x**2 / 2 - x**3 / 6 + x**4 / 24  # noqa: E731
    assert TABLEAUS["euler"].stable_below == pytest.approx(2.0, rel=1e-14)
    assert TABLEAUS["heun"].stable_below == pytest.approx(2.0, rel=1e-14)
    assert TABLEAUS["rk4"].stable_below == pytest.approx(brentq(lambda x: series(x) - 1.0, 2.0, 3.0), rel=1e-12)
    cubic = brentq(lambda x: 1.0 - x + x**2 / 2 - x**3 / 6 + 1.0, 2.0, 3.0, xtol=1e-14)
    assert TABLEAUS["bosh3"].stable_below == pytest.approx(cubic, rel=1e-12)


def test_an_interval_where_the_series_only_touches_its_bound():
    """Chebyshev's scheme of two stages, R(-x) = T_2(1 - x/4) = 1 - x + x^2/8, touches -1 at 4 and leaves 1 at 8."""
    chebyshev = Tableau("chebyshev", 1, ((), (0.25,)), (0.5, 0.5))
    assert chebyshev.stable_below == pytest.approx(8.0, rel=1e-6)


def test_a_wrong_interval_is_caught():
    """Euler's for that of rk4: it would not be the first place beyond which steps grow."""
    assert growth(TABLEAUS["rk4"], 2.0 * 1.001) < 1.0


# The rate


def test_the_fastest_rate():
    """eig_max(P^1/2 K P^1/2) by the oracle's kernel and `numpy.linalg.eigvals` of K P, with mobilities: to 1e-12."""
    problem, start = weighted(), mf.initial.gaussian(9, 2, seed=3)
    network = mf.Network("tanh", mf.Scaling(1.0, mobility_a=0.5, mobility_w=2.0))
    kernel = oracle.kernel(oracle.ACTIVATIONS["tanh"], start, np.full(9, 1 / 9), problem.inputs, (0.5, 2.0))
    wanted = np.linalg.eigvals(kernel * problem.weights).real.max()
    ours = tangent.fastest(tangent.kernel(network, start, problem.inputs), problem.weights)
    assert ours == pytest.approx(wanted, rel=1e-12)
    assert ours != pytest.approx(np.linalg.eigvalsh(kernel).max() / len(kernel), rel=1e-2), "the weights matter"


def weighted(n=12, uneven=True):
    rng = np.random.default_rng(1)
    inputs, targets = rng.standard_normal((n, 2)), rng.standard_normal(n)
    return mf.Problem(inputs, targets, rng.uniform(0.2, 2.0, n) if uneven else None)


# What a divergence says

NUMBERS = re.compile(
    r"\(dt = (\S+); at t = (\S+) (eig_max\S*|eig_max\(.*\)) = (\S+), stable below ([^\s;]+)"
    r"(; K may have grown since)?\)"
)


def said(network, problem, start, dt, scheme="euler", simulate=mf.simulate, times=(1e5,), **options):
    """(dt, t, what, rate, bound) of the error's message."""
    with np.errstate(all="ignore"), pytest.raises(DivergenceError) as caught:
        simulate(network, problem, start, times, scheme=scheme, dt=dt, **options)
    found = NUMBERS.search(str(caught.value))
    assert found, str(caught.value)
    given, time, what, rate, bound, grown = found.groups()
    assert (float(given) > float(bound)) == (grown is None)
    return float(given), float(time), what, float(rate), float(bound)


def turned(s, size=20):
    """A cloud with second moments exp(2 s J), J = [[0, 1], [1, 0]]: where the bilinear kernel is 2 cosh(2s) x x'."""
    cloud = mf.initial.gaussian(size, 1, seed=3)
    cloud = cloud @ np.linalg.inv(np.linalg.cholesky(cloud.T @ cloud / size)).T
    return np.cosh(s) * cloud + np.sinh(s) * cloud[:, ::-1]


@pytest.mark.parametrize("s", [0.0, 0.6])
@pytest.mark.parametrize("simulate", [mf.simulate, mf.simulate_coupled])
@EVERY
def test_the_bound_of_the_bilinear_neuron(tableau, s, simulate):
    """K = 2 cosh(2s) x x' at x = +-1: eig_max(K)/n = 2 cosh 2s, to the four digits of the message."""
    dt, time, what, rate, bound = said(LINEAR, mf.problems.bilinear(), turned(s), 50.0, tableau.name, simulate)
    assert (dt, time, what) == (50.0, 0.0, "eig_max(K)/n")
    assert rate == pytest.approx(2.0 * np.cosh(2.0 * s), rel=1e-3)
    assert bound == pytest.approx(tableau.stable_below / (2.0 * np.cosh(2.0 * s)), rel=1e-3)


@pytest.mark.parametrize("uneven", [False, True])
def test_the_bound_of_an_independent_kernel(uneven):
    problem, start = weighted(uneven=uneven), mf.initial.gaussian(9, 2, seed=3)
    network = mf.Network("relu", mf.Scaling(0.7, mobility_a=0.5, mobility_w=2.0))
    kernel = oracle.kernel(oracle.ACTIVATIONS["relu"], start, np.full(9, 1 / 9), problem.inputs, (0.5, 2.0))
    root = np.sqrt(problem.weights)
    wanted = np.linalg.eigvalsh(root[:, None] * kernel * root).max()
    _, time, what, rate, bound = said(network, problem, start, 1000.0 / wanted)
    assert time == 0.0 and what == ("eig_max(P^1/2 K P^1/2)" if uneven else "eig_max(K)/n")
    assert rate == pytest.approx(wanted, rel=1e-3) and bound == pytest.approx(2.0 / wanted, rel=1e-3)


def test_a_step_that_was_stable_at_the_start():
    """A cloud near the origin has a small kernel, which grows on the way to y = 30 x: the message says that, too."""
    dt, time, _, rate, bound = said(LINEAR, mf.problems.bilinear(30.0), 1e-3 * turned(0.0), 0.1)
    assert (dt, time) == (0.1, 0.0) and rate == pytest.approx(2e-6, rel=1e-3) and bound == pytest.approx(1e6, rel=1e-3)


# The bound is one: a network so lazy that it is linear in its parameters, whose residual is (I - h K/n)^k of the first


def residual_after(steps, ratio, tableau):
    """Size of the residual over the first one after so many steps of `ratio` times the bound."""
    problem, start = weighted(uneven=False), mf.initial.gaussian(30, 2, seed=4)
    network = mf.Network("tanh", mf.Scaling(1e7, shift="initial"))
    kernel = oracle.kernel(oracle.ACTIVATIONS["tanh"], start, np.full(30, 1 / 30), problem.inputs)
    dt = ratio * tableau.stable_below / (np.linalg.eigvalsh(kernel).max() / len(kernel))
    run = mf.simulate(network, problem, start, [0.0, steps * dt], scheme=tableau.name, dt=dt)
    assert run.steps == steps
    return np.linalg.norm(run.residuals[1]) / np.linalg.norm(run.residuals[0])


@EVERY
def test_below_the_bound_a_run_stays_and_above_it_grows(tableau):
    assert residual_after(150, 0.98, tableau) < 1.0
    with pytest.raises(DivergenceError, match=r"the risk rose from .*; use a smaller dt \(dt = "):
        residual_after(150, 1.02, tableau)


# Where nothing is said, the words of before

WORDS = r"use a smaller dt \(stable below 2 over the fastest rate of the dynamics\), an adaptive scheme"


@pytest.mark.parametrize(
    "options",
    [{"momentum": 1.0}, {"batches": mf.batches.minibatch(2)}],
    ids=["momentum", "batches"],
)
def test_other_dynamics_keep_their_words(options):
    with np.errstate(all="ignore"), pytest.raises(DivergenceError, match=WORDS):
        mf.simulate(LINEAR, mf.problems.bilinear(), turned(0.0), [1e5], scheme="euler", dt=50.0, **options)


@pytest.mark.parametrize(("name", "most"), [("_MOST_INPUTS", 1), ("_MOST_PRODUCTS", 79)])
def test_a_kernel_that_costs_too_much_is_not_formed(name, most, monkeypatch):
    """2 inputs and 20 particles: 2 x 2 x 20 products."""
    monkeypatch.setattr(loop, name, most)
    with np.errstate(all="ignore"), pytest.raises(DivergenceError, match=WORDS):
        mf.simulate(LINEAR, mf.problems.bilinear(), turned(0.0), [1e5], scheme="euler", dt=50.0)


def test_a_ridge_is_part_of_the_rate():
    """A ridge of 200 makes a step of 0.05 unstable: the bound is 2 / (ridge + eig_max(K)/n)."""
    problem = mf.problems.teacher_student(dim=3, n=30, n_test=5, seed=1)
    start = mf.initial.gaussian(20, 3, seed=2)
    kernel = oracle.kernel(oracle.ACTIVATIONS["tanh"], start, np.full(20, 1 / 20), problem.inputs)
    bound = 2.0 / (200.0 + np.linalg.eigvalsh(kernel).max() / 30)
    with (
        np.errstate(all="ignore"),
        pytest.raises(DivergenceError, match=r"K\)/n \+ ridge = 200\.\d, stable below") as raised,
    ):
        mf.simulate(mf.Network("tanh"), problem, start, [100.0], scheme="euler", dt=0.05, ridge=200.0)
    assert float(re.search(r"stable below ([\d.e-]+[\de])", str(raised.value))[1]) == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_units_that_saturate_are_refused_too(name):
    """Ten times the bound: all numbers are finite, but the risk is one that the flow cannot have. Half of it passes."""
    problem = mf.problems.teacher_student(dim=3, n=30, n_test=5, seed=1)
    start = mf.initial.gaussian(20, 3, seed=2)
    network = mf.Network(name)
    bound = 2.0 / mf.tangent.fastest(mf.tangent.kernel(network, start, problem.inputs), problem.weights)
    with pytest.raises(DivergenceError, match=r"the risk rose from .* which the flow cannot.* stable below") as raised:
        mf.simulate(network, problem, start, [100 * bound], scheme="euler", dt=10 * bound)
    assert raised.value.state.shape == (20, 4) and raised.value.time == pytest.approx(100 * bound)
    run = mf.simulate(network, problem, start, [20 * bound], scheme="euler", dt=bound / 2)
    assert run.stopped_by == "time"


def test_adaptive_steps_have_no_bound():
    with np.errstate(all="ignore"), pytest.raises(DivergenceError, match="use smaller tolerances"):
        mf.simulate(LINEAR, mf.problems.bilinear(), np.full((2, 2), 1e160), [1.0])


def test_another_loss_says_nothing():
    """A square loss of one's own, four times as curved: K alone is not its rate."""
    steep = mf.losses.Loss("steep", lambda f, y: 2.0 * (y - f) ** 2, lambda f, y: 4.0 * (y - f))
    problem = mf.Problem(np.array([[1.0], [-1.0]]), np.array([1.0, -1.0]), loss=steep)
    with np.errstate(all="ignore"), pytest.raises(DivergenceError, match=WORDS):
        mf.simulate(LINEAR, problem, turned(0.0), [1e5], scheme="euler", dt=50.0)


def test_the_step_that_was_taken_is_named():
    """Steps of 25 between times 25 apart, whatever dt; and a cut interval is not blamed on dt."""
    dt, *_ = said(LINEAR, mf.problems.bilinear(), turned(0.0), 1e6, times=25.0 * np.arange(1, 50))
    assert dt == 25.0
