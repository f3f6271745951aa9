"""Ridge and noise: closed moments of the bilinear neuron, weak order 1, the law of Ornstein and Uhlenbeck, free energy.

For s = a w x, x = +-1, y = beta x, with A = E a^2 = E w^2, c = E a w and g = (beta - alpha c) / alpha:

    A' = 2 g c - 2 lambda A + 2 tau,   c' = 2 g A - 2 lambda c
"""

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import meanfield as mf
from meanfield import diagnostics
from meanfield.engines import reference
from meanfield.errors import InputError
from meanfield.fields import DataField

ALPHA, BETA, RIDGE, TAU = 0.8, 1.3, 0.4, 0.3
NETWORK, PROBLEM = mf.Network("linear", mf.Scaling(ALPHA)), mf.problems.bilinear(BETA)


def moments(t, tau=TAU, ridge=RIDGE):
    """(A, c) at t from N(0, I), by SciPy's DOP853 to 1e-12."""

    def rhs(_, state):
        square, product = state
        g = (BETA - ALPHA * product) / ALPHA
        return 2 * g * product - 2 * ridge * square + 2 * tau, 2 * g * square - 2 * ridge * product

    return solve_ivp(rhs, (0, t), (1.0, 0.0), "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]


def euler_maruyama(t, steps, tau=TAU, ridge=RIDGE):
    """(A, c) after so many steps of Euler and Maruyama's scheme, N = infinity: its own recursion, without sampling."""
    (square, product), h = (1.0, 0.0), t / steps
    for _ in range(steps):
        g, keep = (BETA - ALPHA * product) / ALPHA, 1 - h * ridge
        square, product = (
            keep**2 * square + 2 * keep * h * g * product + (h * g) ** 2 * square + 2 * tau * h,
            keep**2 * product + 2 * keep * h * g * square + (h * g) ** 2 * product,
        )
    return np.array([square, product])


def simulated(steps, t=1.5, seed=1, n_particles=200_000, engine="cpu", **options):
    """Each of ((a^2 + w^2) / 2, a w) over the particles at t."""
    start = mf.initial.gaussian(n_particles, 1, seed=seed)
    given = {"temperature": TAU, "ridge": RIDGE, "noise_seed": seed, "keep": "last", **options}
    run = mf.simulate(NETWORK, PROBLEM, start, [t], scheme="euler", dt=t / steps, engine=engine, **given)
    a, w = run.particles[-1].T
    return np.array([(a**2 + w**2) / 2, a * w])


def off(samples, wanted):
    """Distance of the means from what is wanted, in the standard errors of an iid sample.

    The interaction, which pulls the product back, makes them smaller.
    """
    return (np.abs(samples.mean(axis=1) - wanted) / (samples.std(axis=1) / np.sqrt(samples.shape[1]))).max()


def test_the_recursion_has_order_one():
    """The weak error halves with the step: slope of its logarithm 1 within 0.05."""
    steps = np.array([40, 80, 160, 320])
    errors = np.array([np.abs(euler_maruyama(1.5, each) - moments(1.5)).max() for each in steps])
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(-1.0, abs=0.05)


@pytest.mark.parametrize("steps", [5, 60])
def test_moments_are_those_of_the_scheme(steps):
    """Within five standard errors at 2e5 particles; with steps of 0.3 the scheme is far from the flow, and it shows."""
    found = simulated(steps)
    assert off(found, euler_maruyama(1.5, steps)) < 5.0
    if steps == 5:
        assert off(found, moments(1.5)) > 5.0


@pytest.mark.parametrize("wrong", [{"temperature": 0.33}, {"ridge": 0.42}])
def test_a_wrong_temperature_or_ridge_is_caught(wrong):
    assert off(simulated(15, **wrong), euler_maruyama(1.5, 15)) > 5.0


def test_engines_agree_on_the_path():
    """The same noise, to rounding: path by path and not in law alone."""
    paths = [simulated(10, n_particles=500, engine=engine) for engine in ("cpu", "reference")]
    np.testing.assert_allclose(paths[0], paths[1], rtol=1e-11, atol=1e-12)


def test_noise_depends_on_the_seed_and_not_on_the_times_asked_for():
    start = mf.initial.gaussian(50, 1, seed=1)

    def final(times, seed):
        options = {"scheme": "euler", "dt": 0.125, "temperature": TAU, "noise_seed": seed}
        return mf.simulate(NETWORK, PROBLEM, start, times, **options).particles[-1]

    np.testing.assert_array_equal(final([1.0], 3), final([0.0, 0.25, 0.5, 1.0], 3))
    assert not np.any(final([1.0], 3) == final([1.0], 4))


def test_ridge_alone_is_in_the_flow():
    """Without noise, by dopri5, against the closed moments of the sample itself: A and c from where it starts."""
    start = mf.initial.gaussian(400, 1, seed=5)
    a, w = start.T

    def rhs(_, state):
        a2, w2, product = state
        g = (BETA - ALPHA * product) / ALPHA
        return (
            2 * g * product - 2 * RIDGE * a2, 2 * g * product - 2 * RIDGE * w2, g * (a2 + w2) - 2 * RIDGE * product,
        )  # fmt: skip

    at_start = [np.mean(a**2), np.mean(w**2), np.mean(a * w)]
    wanted = solve_ivp(rhs, (0, 2), at_start, "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    for simulate in (mf.simulate, mf.simulate_coupled):
        run = simulate(NETWORK, PROBLEM, start, [2.0], rtol=1e-10, atol=1e-12, ridge=RIDGE)
        a, w = run.particles[-1].T
        np.testing.assert_allclose([np.mean(a**2), np.mean(w**2), np.mean(a * w)], wanted, rtol=1e-8)
        assert run.disagreement < 1e-7


def test_velocity_with_a_ridge_is_the_gradient():
    """-(N / 2 alpha^2) d/dtheta [R + lambda alpha^2 mean |theta|^2], by central differences, to 1e-8."""
    problem, network = mf.problems.teacher_student(dim=2, n=9, seed=1), mf.Network("tanh", mf.Scaling(ALPHA))
    start = mf.initial.gaussian(4, 2, seed=2)
    field = DataField(network, problem, start, ridge=RIDGE)

    def objective(particles):
        state = field.state(particles)
        risk = problem.weights @ (problem.targets - field.predict(state)) ** 2
        return risk + RIDGE * ALPHA**2 * (particles**2).sum(axis=1).mean()

    velocity, gradient, h = field.particles(field.velocity(field.state(start))), np.empty_like(start), 1e-5
    for place in np.ndindex(start.shape):
        moved = np.zeros_like(start)
        moved[place] = h
        gradient[place] = (objective(start + moved) - objective(start - moved)) / (2 * h)
    np.testing.assert_allclose(velocity, -len(start) / (2 * ALPHA**2) * gradient, atol=1e-8)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_entropy_of_a_gaussian(dim):
    """Within five of its standard errors, plus the bias of the estimator (below 0.01 at 20 000 points)."""
    spread = np.linspace(0.5, 2.0, 1 + dim)
    particles = np.random.default_rng(dim).standard_normal((20_000, 1 + dim)) * spread
    exact = np.log(spread).sum() + (1 + dim) / 2 * np.log(2 * np.pi * np.e)
    value, error = diagnostics.entropy(particles)
    assert 0 < error < 0.02 * (1 + dim) and abs(value - exact) < 5 * error + 0.01
    assert abs(diagnostics.entropy(1.1 * particles)[0] - exact) > 5 * error, "another law is told apart"


def test_free_energy_goes_down():
    """At a temperature, from a cloud that is too narrow: from time to time, within five of its standard errors."""
    start = 0.5 * mf.initial.gaussian(5000, 1, seed=5)
    options = {"scheme": "euler", "dt": 0.01, "temperature": TAU, "ridge": RIDGE}
    run = mf.simulate(NETWORK, PROBLEM, start, [0.0, 0.2, 0.5, 1.0, 2.0, 4.0], **options)
    found = [diagnostics.free_energy(run, k, temperature=TAU, ridge=RIDGE) for k in range(6)]
    for (before, error), (after, more) in pairwise(found):
        assert after < before + 5 * np.hypot(error, more)
    assert found[-1][0] < found[0][0] - 0.2


def test_free_energy_of_another_loss_and_what_does_not_fit():
    inputs = np.random.default_rng(1).standard_normal((20, 2))
    problem = mf.Problem(inputs, np.sign(inputs[:, 0]), loss="logistic")
    options = {"scheme": "euler", "dt": 0.1, "temperature": 0.05}
    run = mf.simulate(mf.Network("tanh", mf.Scaling(2.0)), problem, mf.initial.gaussian(50, 2), [0.0, 1.0], **options)
    mean_loss = problem.loss.value(run.predictions[0], problem.targets).mean()
    value, _ = diagnostics.free_energy(run, 0, temperature=0.05)
    assert value == pytest.approx(mean_loss / 4 - 0.05 * diagnostics.entropy(run.particles[0])[0], rel=1e-12)
    for given, message in (
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": 0.1, "ridge": float("nan")}, "ridge is nan"),
        ({"temperature": 0.1, "index": 2}, "index is 2"),
    ):
        with pytest.raises(InputError, match=message):
            diagnostics.free_energy(run, **given)
    last = mf.simulate(NETWORK, PROBLEM, mf.initial.gaussian(5, 1), [0.0, 1.0], keep="last")
    with pytest.raises(InputError, match="needed: all, keep='all'"):
        diagnostics.free_energy(last, temperature=0.1)


def test_free_energy_of_a_shifted_population_needs_its_start():
    """Its first part is half the risk in closed form over alpha^2; without t = 0 there is no f_0 to take off."""
    network, problem = (
        mf.Network("erf", mf.Scaling(2.0, shift="initial")),
        mf.Population(mf.population.teacher(2), "erf"),
    )
    start = mf.initial.gaussian(30, 2, seed=1)
    run = mf.simulate(network, problem, start, [0.0, 1.0], record=["risk"])
    for k in range(2):
        value, _ = diagnostics.free_energy(run, k, temperature=0.1)
        wanted = run.records["risk"][k] / 8 - 0.1 * diagnostics.entropy(run.particles[k])[0]
        assert value == pytest.approx(wanted, rel=1e-10)
    late = mf.simulate(network, problem, start, [0.5, 1.0])
    with pytest.raises(InputError, match=r"begins at t = 0\.5; needed: t = 0"):
        diagnostics.free_energy(late, temperature=0.1)


def test_ridge_of_unequal_mobilities():
    slow, same = mf.Network("linear", mf.Scaling(mobility_a=0.5)), mf.Network("linear", mf.Scaling(1.0, 3.0, 3.0))
    with pytest.raises(InputError, match=r"ridge is 0\.1 with mobilities 0\.5 and 1; needed: equal"):
        mf.simulate(slow, PROBLEM, mf.initial.gaussian(5, 1), [1.0], ridge=0.1)
    nothing = mf.problems.bilinear(0.0)
    run = mf.simulate(same, nothing, np.array([[1.0, 0.0]]), [1.0], ridge=0.5, rtol=1e-9)
    assert run.particles[0, 0, 0] == pytest.approx(np.exp(-1.5), rel=1e-7)


def test_noise_on_the_population_risk():
    """The first step's noise is that of the engine: paths with and without temperature differ by it alone."""
    problem = mf.Population(mf.population.teacher(2), "erf")
    start, options = mf.initial.gaussian(20, 2, seed=1), {"scheme": "euler", "dt": 0.1}
    still = mf.simulate(mf.Network("erf"), problem, start, [0.1], **options).particles[0]
    moved = mf.simulate(mf.Network("erf"), problem, start, [0.1], temperature=0.2, noise_seed=3, **options).particles[0]
    noise = reference.noise(start, 3, 0)
    np.testing.assert_allclose(moved - still, np.sqrt(2 * 0.2 * 0.1) * noise, atol=1e-12)


def test_entropy_needs_points_that_differ():
    with pytest.raises(InputError, match="two particles are equal"):
        diagnostics.entropy(np.ones((5, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.1}, "temperature needs scheme='euler' with dt"),
        ({"temperature": 0.1, "scheme": "rk4", "dt": 0.1}, "temperature needs scheme='euler' with dt"),
        ({"temperature": -1.0, "scheme": "euler", "dt": 0.1}, "temperature is -1"),
        ({"ridge": -1.0}, "ridge is -1"),
        ({"noise_seed": -1}, "noise_seed is -1"),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        mf.simulate(NETWORK, PROBLEM, mf.initial.gaussian(5, 1), [1.0], **options)
    slow = mf.Network("linear", mf.Scaling(mobility_a=0.5))
    with pytest.raises(InputError, match=r"mobilities 0\.5 and 1; needed: both 1"):
        mf.simulate(slow, PROBLEM, mf.initial.gaussian(5, 1), [1.0], scheme="euler", dt=0.1, temperature=0.1)
