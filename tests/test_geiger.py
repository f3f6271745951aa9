"""Geiger's step rule: its two conditions, its law of steps, its distance from the flow, and their classification."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
from scipy.integrate import solve_ivp

import meanfield as mf
from meanfield import integrators, losses, stopping
from meanfield.engines import host
from meanfield.errors import ConvergenceError, DivergenceError, InputError, StepLimitError
from meanfield.fields import DataField
from meanfield.integrators import Geiger, GeigerSteps, StateLost

NETWORK, ALPHA = mf.Network("tanh", mf.Scaling(0.8)), 0.8
PROBLEM = mf.problems.teacher_student(dim=2, n=15, n_test=1, seed=1)
START = mf.initial.gaussian(20, 2, seed=2)


def followed(rule, times=(1.5,), engine="cpu", dtype="float64", most=100_000):
    """Times and particles after every accepted step, the start first; and the schedule."""
    field = DataField(NETWORK, PROBLEM, START, None, engine, dtype)
    schedule, state, now = GeigerSteps(rule, lambda: field, most), field.state(START), 0.0
    ends, states = [0.0], [START]

    def on_step(time, state):
        ends.append(time)
        states.append(field.particles(state))

    for time in times:
        state, now = schedule.advance(field.velocity, field.algebra, state, now, time, on_step), time
    return ends, states, schedule


# The conditions, by the oracle


def changes(states):
    """max_k |F' - F| and |g' - g|^2 / (|g'| |g|) of every step, g by the oracle: (steps, 2)."""
    tanh, masses = oracle.ACTIVATIONS["tanh"], np.full(len(START), 1 / len(START))
    outputs = [oracle.predict(tanh, each, masses, PROBLEM.inputs, ALPHA) for each in states]
    rest = PROBLEM.inputs, PROBLEM.targets, PROBLEM.weights, ALPHA
    gradients = [oracle.velocity(tanh, each, masses, *rest) for each in states]
    moved = [np.abs(after - before).max() for before, after in itertools.pairwise(outputs)]
    turned = [
        np.sum((after - before) ** 2) / (np.linalg.norm(after) * np.linalg.norm(before))
        for before, after in itertools.pairwise(gradients)
    ]
    return np.column_stack([moved, turned])


RULES = pytest.mark.parametrize(
    "rule", [Geiger(), Geiger(gradient_change=1e-2, first=10.0), Geiger(output_change=2e-3)], ids=str
)


@RULES
@pytest.mark.parametrize("engine", mf.engines.ENGINES)
def test_both_conditions_hold_on_every_step(rule, engine):
    """And once grown a step is not much smaller than they ask for: one of them is beyond 0.4 of its bound."""
    _, states, _ = followed(rule, engine=engine)
    found = changes(states) / (rule.output_change, rule.gradient_change)
    assert (found < 1.0).all() and len(found) >= 10
    assert found[-5:-1].max() > 0.4


def test_the_second_condition_ignored_is_caught(monkeypatch):
    monkeypatch.setattr(integrators, "_relative_change", lambda *_: 0.0)
    _, states, _ = followed(Geiger())
    assert changes(states)[:, 0].max() < 0.1 and changes(states)[:, 1].max() > 1e-4


def test_the_first_condition_ignored_is_caught():
    _, states, _ = followed(Geiger(output_change=1e9))
    assert changes(states)[:, 0].max() > 2e-3 and changes(states)[:, 1].max() < 1e-4


def test_in_single_precision():
    """The same rule to float32's rounding of a gradient: 1e-6 beside changes of 1e-2."""
    _, states, _ = followed(Geiger(), dtype="float32")
    found = changes(states)
    assert found[:, 0].max() < 0.1 and found[:, 1].max() < 1.01e-4
    _, double, _ = followed(Geiger())
    assert abs(len(states) - len(double)) <= 2
    np.testing.assert_allclose(states[-1], double[-1], atol=1e-3)


# The law of steps, natively


def native(rule, times, grow=1.1, shrink=10.0):
    """The rule in NumPy: times and particles after every accepted step, and how many were taken back."""
    inputs, targets, share = PROBLEM.inputs, PROBLEM.targets, 1.0 / len(PROBLEM.targets)

    def output(theta):
        return ALPHA * np.mean(theta[:, :1] * np.tanh(theta[:, 1:] @ inputs.T), axis=0)

    def descent(theta):
        units = np.tanh(theta[:, 1:] @ inputs.T)
        pull = share * (targets - output(theta)) / ALPHA
        return np.column_stack([units @ pull, (theta[:, :1] * (1.0 - units**2) * pull) @ inputs])

    theta, now, h, back = START, 0.0, rule.first, 0
    ends, states = [0.0], [theta]
    for target in times:
        while now < target:
            taken = min(h, target - now)
            new = theta + taken * descent(theta)
            moved, g, turned = np.abs(output(new) - output(theta)).max(), descent(theta), descent(new)
            change = np.sum((turned - g) ** 2) / np.sqrt(np.sum(turned**2) * np.sum(g**2))
            if moved >= rule.output_change or change >= rule.gradient_change:
                h, back = taken / shrink, back + 1
                continue
            if taken == h and moved < rule.output_change / 2 and change < rule.gradient_change / 2:
                h *= grow
            theta, now = new, now + taken
            ends.append(now)
            states.append(theta)
    return ends, states, back


@pytest.mark.parametrize("rule", [Geiger(first=30.0), Geiger(0.05, 1e-3, first=1e-3)], ids=str)
def test_the_sequence_of_steps(rule):
    """Times and particles of every step to 1e-12; two requested times, the first of which cuts a step short."""
    times = (0.51, 2.0)
    ends, states, schedule = followed(rule, times)
    wanted_ends, wanted, back = native(rule, times)
    assert (len(ends), schedule.rejected) == (len(wanted_ends), back) and set(times) <= set(ends)
    np.testing.assert_allclose(ends, wanted_ends, rtol=0, atol=1e-12)
    np.testing.assert_allclose(states, wanted, rtol=0, atol=1e-12)
    sizes = np.diff(ends)
    assert np.isclose(sizes[1:] / sizes[:-1], 1.1).sum() > 2


def test_another_law_is_caught():
    for other in ({"grow": 1.2}, {"shrink": 5.0}):
        ends, _, _ = native(Geiger(first=30.0), (2.0,), **other)
        wanted, _, _ = followed(Geiger(first=30.0), (2.0,))
        assert len(ends) != len(wanted) or np.abs(np.subtract(ends, wanted)).max() > 1e-3


def test_requested_times_leave_the_rule_s_step_alone():
    """A cluster of 20 times costs a step for each and a few more; not a new growth from 1e-7, a hundred and more."""
    _, _, plain = followed(Geiger())
    ends, _, cut = followed(Geiger(), (*(0.7 + 1e-7 * np.arange(20)), 1.5))
    assert cut.accepted <= plain.accepted + 20 + 3
    assert {0.7, 1.5} <= set(ends)


# How far from the flow


def sqrt_law(run):
    """Slope of log(error at t = 1.5) in log(gradient_change), and the largest error / sqrt(gradient_change)."""
    exact = mf.simulate(NETWORK, PROBLEM, START, [1.5], rtol=1e-10, atol=1e-12).particles[0]
    bounds = np.array([1e-3, 1e-4, 1e-5, 1e-6])
    errors = np.array([np.abs(run(Geiger(gradient_change=each)) - exact).max() for each in bounds])
    return np.polyfit(np.log(bounds), np.log(errors), 1)[0], (errors / np.sqrt(bounds)).max()


def run_of(rule):
    return mf.simulate(NETWORK, PROBLEM, START, [1.5], scheme=rule).particles[0]


def test_the_error_falls_like_the_root_of_the_bound():
    """A step turns the gradient by sqrt(gradient_change) of itself, and Euler's error is of the order of a step."""
    slope, factor = sqrt_law(run_of)
    assert abs(slope - 0.5) < 0.1 and factor < 1.0


def test_a_rule_that_does_not_look_at_the_gradient_does_not_converge(monkeypatch):
    monkeypatch.setattr(integrators, "_relative_change", lambda *_: 0.0)
    assert abs(sqrt_law(run_of)[0]) < 0.1


# Softplus of beta = 5 and the soft hinge of beta = 20 (their setting), against a stiff solver


def classification():
    inputs = np.random.default_rng(5).standard_normal((12, 2))
    return mf.Problem(inputs, np.sign(inputs[:, 0] + 0.5 * inputs[:, 1]), loss="soft-hinge")


WIDTH, ALPHA_G = 16, 0.5
PAPER = mf.Network("softplus-geiger", mf.Scaling.geiger(ALPHA_G, WIDTH, 2))
HIDDEN = mf.initial.gaussian(WIDTH, 2, seed=6)


def stiff(times, beta=20.0, prefactor=1.404):
    """Their flow as they write it, W' = -(1/(alpha^2 n)) sum grad l(F), by SciPy's Radau: particles at `times`, and
    when the smallest margin y F reaches 1.
    """
    given, shape = classification(), HIDDEN.shape
    seen, n = given.inputs / math.sqrt(2.0), len(given.targets)

    def units(theta):
        z = 5.0 * theta[:, 1:] @ seen.T
        return prefactor / 5.0 * np.logaddexp(0.0, z), prefactor * 0.5 * (1.0 + np.tanh(z / 2))

    def network(theta):
        return theta[:, 0] @ units(theta)[0] / math.sqrt(WIDTH)

    at_start = network(HIDDEN)

    def motion(t, flat):
        theta = flat.reshape(shape)
        values, slopes = units(theta)
        predictor = ALPHA_G * (network(theta) - at_start)
        pull = given.targets * 0.5 * (1.0 + np.tanh(0.5 * beta * (1.0 - given.targets * predictor)))
        pull = pull / (ALPHA_G * n * math.sqrt(WIDTH))
        return np.column_stack([values @ pull, (theta[:, :1] * slopes * pull) @ seen]).ravel()

    def margin(t, flat):
        return (given.targets * ALPHA_G * (network(flat.reshape(shape)) - at_start)).min() - 1.0

    margin.direction = 1.0
    found = solve_ivp(
        motion, (0.0, times[-1]), HIDDEN.ravel(), "Radau", times, events=margin, rtol=1e-9, atol=1e-11
    )  # fmt: skip
    return found.y.T.reshape(-1, *shape), found.t_events[0]


@pytest.fixture(scope="module")
def solved():
    times = np.array([1.0, 5.0, 40.0])
    return times, *stiff(times)


def test_the_flow_of_the_paper_against_a_stiff_solver(solved):
    """An adaptive run to 1e-7 of it; Geiger's rule to its own sqrt(gradient_change)."""
    times, wanted, _ = solved
    run = mf.simulate(PAPER, classification(), HIDDEN, times, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(run.particles, wanted, rtol=0, atol=1e-7)
    ruled = mf.simulate(PAPER, classification(), HIDDEN, times, scheme="geiger")
    assert ruled.scheme == "geiger" and np.abs(ruled.particles - wanted).max() < math.sqrt(1e-4)


@pytest.mark.parametrize("wrong", [{"beta": 10.0}, {"prefactor": 1.0}], ids=str)
def test_another_hinge_or_unit_is_caught(wrong, solved):
    times, wanted, _ = solved
    assert np.abs(stiff(times, **wrong)[0] - wanted).max() > math.sqrt(1e-4)


def test_training_ends_at_the_margin(solved):
    """At the first step where every y F is 1 or more, within a hundredth of the time at which the flow gets there."""
    options = {"scheme": "geiger", "stop": stopping.margin(1.0)}
    run = mf.simulate(PAPER, classification(), HIDDEN, [1e5], **options)
    margins = run.predictions[-1] * run.problem.targets
    assert run.stopped_by == "margin 1" and 1.0 <= margins.min() < 1.0 + 0.1
    assert run.times[-1] == pytest.approx(solved[2][0], rel=1e-2)


def test_the_hinge_itself_jumps():
    """A pull that drops to 0 turns the gradient at once: no step is small enough, and the message says so."""
    given = classification()
    jumps = mf.Problem(given.inputs, given.targets, loss=losses.hinge)
    with pytest.raises(ConvergenceError, match=r"no step after t = .*a change of the gradient by .*The gradient jumps"):
        mf.simulate(PAPER, jumps, HIDDEN, [1e5], scheme="geiger")


# Ends, limits, refusals


def test_states_that_were_handed_out_stay():
    """The arrays that go round are never those of a requested time, nor those given."""
    field = DataField(NETWORK, PROBLEM, START, engine="reference")
    schedule = GeigerSteps(Geiger(first=50.0), lambda: field, 1000)
    state, now, kept = field.state(START), 0.0, []
    for time in (0.1, 0.11, 0.8, 2.0):
        kept.append((state[0], state[0].copy()))
        state, now = schedule.advance(field.velocity, field.algebra, state, now, time), time
    for array, copy in kept:
        np.testing.assert_array_equal(array, copy)


def toy(velocity, rule, end, y=1.0, most=10_000):
    schedule = GeigerSteps(rule, lambda: SimpleNamespace(predict=lambda state: state[0]), most)
    return schedule.advance(velocity, (host,), (np.full(3, y),), 0.0, end)


def test_a_state_at_rest_stays():
    (y,) = toy(lambda state, out: (0.0 * state[0],), Geiger(), 1e3)
    np.testing.assert_array_equal(y, 1.0)


def test_where_the_flow_ends_the_state_is_lost():
    """y' = 1 up to y = 2, where there is no velocity: the last good state is the one before."""
    with np.errstate(all="ignore"), pytest.raises(StateLost) as caught:
        toy(lambda state, out: (np.where(state[0] < 2.0, 1.0, np.inf),), Geiger(), 5.0)
    assert caught.value.time == pytest.approx(1.0, abs=1e-12) and (caught.value.state[0] < 2.0).all()


def test_a_run_that_diverges_says_so():
    with np.errstate(all="ignore"), pytest.raises(DivergenceError, match="left the finite numbers") as caught:
        mf.simulate(mf.Network("linear"), mf.problems.bilinear(), np.full((2, 2), 1e160), [1.0], scheme="geiger")
    assert caught.value.time == 0.0 and (caught.value.state == 1e160).all()


def test_the_step_budget_counts_what_was_taken_back():
    run = mf.simulate(NETWORK, PROBLEM, START, [1.0], scheme=Geiger(first=100.0))
    assert run.rejected >= 2 and run.evaluations <= 1 + run.steps + run.rejected
    needed = run.steps + run.rejected
    again = mf.simulate(NETWORK, PROBLEM, START, [1.0], scheme=Geiger(first=100.0), max_steps=needed)
    np.testing.assert_array_equal(again.particles, run.particles)
    with pytest.raises(StepLimitError, match=f"{needed - 1} steps were spent"):
        mf.simulate(NETWORK, PROBLEM, START, [1.0], scheme=Geiger(first=100.0), max_steps=needed - 1)


def test_ridge_and_population():
    """Followed like any gradient: within a few sqrt(gradient_change) of the adaptive run."""
    population = mf.Population(mf.population.teacher(2), "erf", probes=20)
    for problem, name, options in ((PROBLEM, "tanh", {"ridge": 0.3}), (population, "erf", {})):
        flow, ruled = (
            mf.simulate(mf.Network(name), problem, START, [2.0], scheme=scheme, **options).particles[0]
            for scheme in ("dopri5", "geiger")
        )
        assert 0.0 < np.abs(ruled - flow).max() < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dt": 0.1}, r"scheme 'geiger' chooses its steps, and dt is 0\.1; needed: none, or Geiger\(first="),
        ({"momentum": 1.0}, "scheme 'geiger' follows a gradient; momentum needs a Runge-Kutta scheme"),
        ({"batches": mf.batches.minibatch(5)}, "batches need scheme='euler' with dt; given: 'geiger'"),
        ({"temperature": 0.1}, "temperature needs scheme='euler' with dt.*'geiger'"),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        mf.simulate(NETWORK, PROBLEM, START, [1.0], scheme="geiger", **options)


def test_a_residual_beside_the_particles_is_refused():
    with pytest.raises(InputError, match="scheme 'geiger' moves particles alone, no residual beside them"):
        mf.simulate_coupled(NETWORK, PROBLEM, START, [1.0], scheme="geiger")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_change": 0.0}, r"output_change is 0\.0; needed: a finite number above 0"),
        ({"gradient_change": -1.0}, r"gradient_change is -1\.0"),
        ({"first": math.nan}, "first is nan"),
    ],
)
def test_a_rule_refuses(given, message):
    with pytest.raises(InputError, match=message):
        Geiger(**given)
