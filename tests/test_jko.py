"""Minimising movements: each step is the minimum it should be, and the steps follow the flow to order 1."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import minimize, root

import meanfield as mf
from meanfield import fields, jko
from meanfield.errors import ConvergenceError, DivergenceError, InputError
from meanfield.fields import DataField
from meanfield.integrators import MinimisingMovement

ALPHA, DIM, N = 1.3, 2, 48
NETWORK = mf.Network("tanh", mf.Scaling(ALPHA))
PROBLEM = mf.problems.teacher_student(dim=DIM, n=20, n_test=1, seed=1)
START = mf.initial.gaussian(N, DIM, seed=2)
TAUS = np.array([0.4, 0.2, 0.1, 0.05, 0.025])


def step(tau, count=1, start=START, network=NETWORK, problem=PROBLEM, **options):
    """Particles after so many minimising movements."""
    run = mf.simulate(network, problem, start, [count * tau], scheme="jko", dt=tau, **options)
    assert (run.scheme, run.steps, run.rejected) == ("jko", count, 0)
    return run.particles[0]


# The problem once more, in NumPy


def output(theta):
    return ALPHA * np.mean(theta[:, :1] * np.tanh(theta[:, 1:] @ PROBLEM.inputs.T), axis=0)


def risk(theta):
    return np.mean((PROBLEM.targets - output(theta)) ** 2)


def velocity(theta):
    """-(N / 2 alpha^2) dR/dtheta."""
    units = np.tanh(theta[:, 1:] @ PROBLEM.inputs.T)
    pull = (PROBLEM.targets - output(theta)) / (ALPHA * len(PROBLEM.targets))
    return np.column_stack([units @ pull, (theta[:, :1] * (1.0 - units**2) * pull) @ PROBLEM.inputs])


def coupling(theta, other):
    return np.sqrt(np.mean(np.sum((theta - other) ** 2, axis=1)))


def printed(tau, factor):
    """argmin factor R + W2^2 / (2 tau) over N points, by SciPy with the gradient written out."""

    def cost(flat):
        theta = flat.reshape(START.shape)
        value = factor * risk(theta) + coupling(theta, START) ** 2 / (2 * tau)
        gradient = -factor * 2 * ALPHA**2 / N * velocity(theta) + (theta - START) / (N * tau)
        return N * tau * value, N * tau * gradient.ravel()

    options = {"gtol": 1e-9, "ftol": 0.0, "maxiter": 1000}
    return minimize(cost, START.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(START.shape)


def implicit(tau):
    """theta' = theta + tau v(theta'), by MINPACK's hybrid method with a Jacobian of differences."""
    found = root(lambda x: x - START.ravel() - tau * velocity(x.reshape(START.shape)).ravel(), START.ravel(), tol=1e-13)
    return found.x.reshape(START.shape)


# A step


@pytest.mark.parametrize("tau", TAUS)
def test_the_implicit_equation(tau):
    """By another solver, on another velocity, to 1e-8; and the equation itself to 1e-10 of a step."""
    found = step(tau)
    np.testing.assert_allclose(found, implicit(tau), rtol=0, atol=1e-8)
    assert np.abs(found - START - tau * velocity(found)).max() < 2e-10 * tau * np.abs(velocity(START)).max()


@pytest.mark.parametrize("tau", [0.1, 3.0])
def test_it_is_the_minimum_of_half_the_risk(tau):
    """R / (2 alpha^2) + W2^2 / (2 tau), to 1e-6: where the energy's rounding lets a minimiser see."""
    np.testing.assert_allclose(step(tau), printed(tau, 0.5 / ALPHA**2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tau", TAUS)
def test_w2_is_the_coupling_distance(tau):
    """No other pairing of the atoms of two consecutive steps costs less: exact W2, by POT, to 1e-6."""
    run = mf.simulate(NETWORK, PROBLEM, START, tau * np.arange(4), scheme="jko", dt=tau)
    for before, after in itertools.pairwise(run.particles):
        assert mf.transport.w2(before, after) == pytest.approx(coupling(before, after), rel=1e-6)


def test_other_pairings_can_cost_less():
    """Where the same atoms are numbered in another order they do: the test above could fail."""
    shuffled = np.random.default_rng(1).permutation(step(0.1))
    assert mf.transport.w2(START, shuffled) < 0.5 * coupling(START, shuffled)


def order(distances, taus=TAUS):
    return np.polyfit(np.log(taus), np.log(distances), 1)[0]


def order_against_euler(one):
    return order([coupling(one(tau), START + tau * velocity(START)) for tau in TAUS])


def test_a_step_is_euler_s_to_second_order():
    """F39: theta + tau v(theta') and theta + tau v(theta) differ by tau^2 v' v."""
    assert abs(order_against_euler(step) - 2.0) < 0.1


def test_a_step_is_the_flow_s_to_second_order():
    def exact(tau):
        return mf.simulate(NETWORK, PROBLEM, START, [tau], rtol=1e-11, atol=1e-13).particles[0]

    assert abs(order([coupling(step(tau), exact(tau)) for tau in TAUS]) - 2.0) < 0.1


@pytest.mark.parametrize("factor", [1.0 / ALPHA**2, 0.5, 1.0], ids=["R/alpha^2", "R/2", "R"])
def test_a_wrong_factor_is_caught(factor):
    """R + W2^2 / (2 tau) as it is printed runs 2 alpha^2 times too fast: it parts from Euler's step to first order."""
    assert abs(order_against_euler(lambda tau: printed(tau, factor)) - 1.0) < 0.3
    assert np.abs(step(0.1) - printed(0.1, factor)).max() > 1e-3


# Along a run


def test_global_error_of_order_one():
    """F39: against the flow at t = 1.2."""
    exact = mf.simulate(NETWORK, PROBLEM, START, [1.2], rtol=1e-11, atol=1e-13).particles[0]
    errors = [coupling(step(tau, round(1.2 / tau)), exact) for tau in TAUS]
    assert abs(order(errors) - 1.0) < 0.1


def whitened():
    """A cloud whose mean squares are 1 and mean product 0: the bilinear flow of N(0, I_2) itself, at finite N."""
    cloud = mf.initial.gaussian(32, 1, seed=3)
    return cloud @ np.linalg.inv(np.linalg.cholesky(cloud.T @ cloud / len(cloud))).T


def test_the_bilinear_neuron_in_closed_form():
    """Order 1 to theta_t = exp(s J) theta_0, and a step is not the flow."""
    network, problem, start = mf.Network("linear", mf.Scaling(0.7)), mf.problems.bilinear(1.5), whitened()
    exact = mf.limits.exact.bilinear(network, problem, [1.0], tracers=start).tracers[0]
    taus = np.array([0.1, 0.05, 0.025, 0.0125])
    errors = [coupling(step(tau, round(1 / tau), start, network, problem), exact) for tau in taus]
    assert abs(order(errors, taus) - 1.0) < 0.1 and errors[0] > 1e-3


def dissipation(particles, tau, energy):
    """energy' + W2^2 / (2 tau) - energy of every step."""
    pairs = itertools.pairwise(particles)
    return np.array([energy(new) + mf.transport.w2(old, new) ** 2 / (2 * tau) - energy(old) for old, new in pairs])


@pytest.mark.parametrize("tau", [*TAUS, 5.0, 100.0])
def test_the_energy_pays_for_the_distance(tau):
    """R' / (2 alpha^2) + W2^2 / (2 tau) <= R / (2 alpha^2) at every step, whatever tau."""
    run = mf.simulate(NETWORK, PROBLEM, START, tau * np.arange(5), scheme="jko", dt=tau)
    assert (dissipation(run.particles, tau, lambda theta: risk(theta) / (2 * ALPHA**2)) < 1e-12).all()


def test_where_euler_diverges_the_energy_falls():
    """The bilinear neuron at dt = 50, some fifty times beyond what Euler is stable for."""
    network, problem, start = mf.Network("linear"), mf.problems.bilinear(), whitened()
    times = 50.0 * np.arange(1, 40)
    with pytest.raises(DivergenceError):
        mf.simulate(network, problem, start, times, scheme="euler", dt=50.0)
    run = mf.simulate(network, problem, start, [0.0, *times[:4]], scheme="jko", dt=50.0)

    def half_risk(theta):
        return 0.5 * (1.0 - np.mean(theta[:, 0] * theta[:, 1])) ** 2

    assert (dissipation(run.particles, 50.0, half_risk) < 1e-12).all()
    assert half_risk(run.particles[-1]) < 1e-3 * half_risk(start)


def test_explicit_steps_do_not_pay():
    """Euler's step at the same tau ends above: the inequality could fail."""
    euler = [START]
    for _ in range(4):
        euler.append(euler[-1] + 5.0 * velocity(euler[-1]))
    assert dissipation(euler, 5.0, lambda theta: risk(theta) / (2 * ALPHA**2)).max() > 1e-3


# Other problems, engines, limits


def test_of_another_loss_with_a_ridge():
    """E l / alpha^2 + (lambda/2) int |theta|^2 for the logistic loss: the implicit equation, by hand."""
    problem = mf.Problem(PROBLEM.inputs, np.sign(PROBLEM.targets), loss="logistic")
    tau, ridge = 0.5, 0.2
    found = step(tau, problem=problem, ridge=ridge)
    units = np.tanh(found[:, 1:] @ problem.inputs.T)
    pull = problem.targets / (1.0 + np.exp(problem.targets * output(found))) / (ALPHA * len(problem.targets))
    down = np.column_stack([units @ pull, (found[:, :1] * (1.0 - units**2) * pull) @ problem.inputs]) - ridge * found
    np.testing.assert_allclose(found, START + tau * down, rtol=0, atol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["data", "population"])
def test_the_velocity_is_minus_the_gradient_of_the_energy(kind, ridge):
    """m_i v_i against central differences of `energy` along a random direction, to 1e-8."""
    problem = PROBLEM if kind == "data" else mf.Population(mf.population.teacher(DIM), "erf", probes=5)
    network = mf.Network("tanh" if kind == "data" else "erf", mf.Scaling(ALPHA, shift="initial"))
    make = DataField if kind == "data" else mf.population.PopulationField
    field = make(network, problem, START, None, "cpu", "float64", ridge)
    there = START + 0.3
    direction, h = np.random.default_rng(4).standard_normal(START.shape), 1e-5
    slope = np.diff([field.energy(field.state(there + s * direction)) for s in (-h, h)])[0] / (2 * h)
    moves = field.engine.unpack(field.velocity(field.state(there))[0], N)
    assert slope == pytest.approx(-np.sum(moves * direction) / N, rel=1e-8)


def test_on_the_population_risk():
    """Order 1 to its flow."""
    problem, network = mf.Population(mf.population.teacher(DIM), "erf", probes=5), mf.Network("erf")
    exact = mf.simulate(network, problem, START, [1.0], rtol=1e-10, atol=1e-12).particles[0]
    taus = np.array([0.2, 0.1, 0.05])
    errors = [coupling(step(tau, round(1 / tau), START, network, problem), exact) for tau in taus]
    assert abs(order(errors, taus) - 1.0) < 0.1


def test_the_engines_agree():
    """To the tolerance of the steps: 1e-10 of each."""
    cpu, reference = (step(0.4, 3, engine=engine) for engine in ("cpu", "reference"))
    np.testing.assert_allclose(cpu, reference, rtol=0, atol=1e-9)


def test_requested_times_and_the_start():
    run = mf.simulate(NETWORK, PROBLEM, START, [0.0, 0.3, 0.35], scheme="jko", dt=0.1, record=["risk"])
    np.testing.assert_array_equal(run.particles[0], START)
    assert run.steps == 4 and (np.diff(run.records["risk"]) < 0).all()
    np.testing.assert_array_equal(run.particles[1], step(0.3 / 3, 3))


def test_a_minimum_that_is_not_found_says_what_was_reached():
    with pytest.raises(ConvergenceError, match=r"movement after t = 0 is known to .*; needed .*Use a smaller dt than"):
        step(1e7)


def test_a_velocity_that_is_not_the_gradient_is_caught():
    """Uphill: where its implicit equation holds the energy is no lower, and no step is better than a wrong one."""
    field = DataField(NETWORK, PROBLEM, START, engine="reference")
    factors = {"velocity": 1.0}

    def velocity_of(state, out):
        return (factors["velocity"] * field.velocity(state)[0],)

    (moved,) = jko.step(field, velocity_of, field.state(START), 5.0, 1e-10, 0.0)
    np.testing.assert_allclose(moved, step(5.0), rtol=0, atol=1e-8)
    factors["velocity"] = -1.0
    with pytest.raises(ConvergenceError, match="Use a smaller dt than 5"):
        jko.step(field, velocity_of, field.state(START), 5.0, 1e-10, 0.0)


def test_the_energy_is_written_once():
    """What the free energy of a run without noise is made of."""
    field = DataField(NETWORK, PROBLEM, START, ridge=0.3)
    wanted = risk(START) / (2 * ALPHA**2) + 0.15 * np.mean(np.sum(START**2, axis=1))
    assert field.energy(field.state(START)) == pytest.approx(wanted, rel=1e-13)
    assert fields.energy(2.0, 3.0, 2.0, 0.5) == 0.5 + 0.75


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dt": None}, r"scheme 'jko' has fixed steps: needed dt, its tau"),
        ({"dt": 0.0}, r"dt is 0\.0; needed: a finite number above 0"),
        ({"masses": np.arange(1.0, 1.0 + N)}, r"scheme 'jko' with masses from .* to .*; needed: equal ones"),
        ({"dtype": "float32"}, r"scheme 'jko' with dtype 'float32'; needed: 'float64'"),
        (
            {"network": mf.Network("tanh", mf.Scaling(mobility_a=0.5))},
            r"'jko' with mobilities 0\.5 and 1; needed: both",
        ),
        ({"momentum": 1.0}, "scheme 'jko' follows a gradient; momentum needs a Runge-Kutta scheme"),
        ({"batches": mf.batches.minibatch(5)}, "batches need scheme='euler' with dt; given: 'jko'"),
        ({"temperature": 0.1}, "temperature needs scheme='euler' with dt"),
    ],
)
def test_what_does_not_fit(options, message):
    options = {"dt": 0.1, "network": NETWORK, **options}
    with pytest.raises(InputError, match=message):
        mf.simulate(problem=PROBLEM, start=START, times=[1.0], scheme="jko", **options)


def test_tolerance_and_coupled_runs():
    with pytest.raises(InputError, match=r"tolerance is 0\.0; needed: a finite number above 0"):
        MinimisingMovement(tolerance=0.0)
    with pytest.raises(InputError, match="scheme 'jko' moves particles alone"):
        mf.simulate_coupled(NETWORK, PROBLEM, START, [1.0], scheme="jko", dt=0.1)
    loose = (
        step(0.4)
        - mf.simulate(NETWORK, PROBLEM, START, [0.4], scheme=MinimisingMovement(tolerance=1e-2), dt=0.4).particles[0]
    )
    assert 1e-9 < np.abs(loose).max() < 1e-2 * 0.4 * math.sqrt(N)
