"""Stopping: a run ends at the first accepted step after which a criterion holds, and says which."""

import numpy as np
import pytest

import meanfield as mf
from meanfield import stopping
from meanfield.errors import InputError
from meanfield.scaling import Scaling

RUNS = pytest.mark.parametrize("simulate", [mf.simulate, mf.simulate_coupled], ids=lambda each: each.__name__)
SCHEMES = pytest.mark.parametrize("scheme", [{"scheme": "rk4", "dt": 0.05}, {"rtol": 1e-6}], ids=["fixed", "adaptive"])


def separable():
    inputs = np.random.default_rng(2).standard_normal((12, 2))
    return mf.Problem(inputs, np.sign(inputs[:, 0]), loss="soft-hinge")


def start():
    return mf.initial.gaussian(60, 2, seed=1)


NETWORK = mf.Network("tanh", Scaling(0.5))


@RUNS
@SCHEMES
def test_margin(simulate, scheme):
    """Reached at the last time and not one step before; the times asked for before that are all there."""
    done = simulate(NETWORK, separable(), start(), np.linspace(0, 400, 401), stop=stopping.margin(1.0), **scheme)
    assert done.stopped_by == "margin 1" and 1 < len(done.times) < 401
    reached = (done.predictions * done.problem.targets).min(axis=1)
    assert reached[-1] >= 1.0 > reached[-2]
    np.testing.assert_array_equal(done.times[:-1], np.arange(len(done.times) - 1))
    assert done.times[-2] < done.times[-1] <= len(done.times) - 1
    assert len(done.particles) == len(done.times) == len(done.residuals)
    assert "stopped by margin 1" in repr(done)
    alone = simulate(NETWORK, separable(), start(), [done.times[-1]], **scheme)
    if "dt" in scheme:  # whose steps depend on the times asked for; in flow time the state is the same
        np.testing.assert_allclose(done.predictions[-1], alone.predictions[-1], atol=1e-6)


@pytest.mark.parametrize(
    ("criterion", "number"),
    [
        (stopping.risk(0.3), lambda run: run.problem.weights @ (run.problem.targets - run.predictions[-1]) ** 2 / 0.3),
        (
            stopping.loss(0.1),
            lambda run: run.problem.weights @ run.problem.loss.value(run.predictions[-1], run.problem.targets) / 0.1,
        ),
    ],
    ids=["risk", "loss"],
)
def test_what_is_small_enough(criterion, number):
    done = mf.simulate(NETWORK, separable(), start(), [0.0, 50.0], scheme="euler", dt=0.01, stop=[criterion])
    assert done.stopped_by == criterion.name and 0.95 < number(done) < 1.0


def test_speed_is_the_norm_of_the_velocity():
    """dR/dt = -2 alpha^2 speed^2 for the square loss, by finite differences; and a run ends where it is small."""
    problem, network = mf.problems.teacher_student(dim=2, n=30, seed=1), mf.Network("tanh", Scaling(0.7))
    times = [0.0, 0.999, 1.0, 1.001]
    run = mf.simulate(network, problem, start(), times, rtol=1e-10, atol=1e-12, record=["risk"])
    looked = []

    def look(at):
        looked.append((at.time, at.speed))
        return False

    mf.simulate(network, problem, start(), [1.0], rtol=1e-10, atol=1e-12, stop=stopping.Criterion("never", look))
    slope = (run.records["risk"][3] - run.records["risk"][1]) / 0.002
    assert looked[-1][0] == 1.0 and slope == pytest.approx(-2 * 0.7**2 * looked[-1][1] ** 2, rel=1e-5)
    done = mf.simulate(network, problem, start(), [1e4], stop=stopping.speed(0.05))
    assert done.stopped_by == "speed below 0.05" and done.times[-1] < 1e4


@RUNS
def test_nothing_is_met(simulate):
    done = simulate(NETWORK, separable(), start(), [0.0, 0.1], stop=[stopping.margin(50.0), stopping.risk(1e-9)])
    assert done.stopped_by == "time" and done.times.tolist() == [0.0, 0.1] and "stopped" not in repr(done)


def test_the_first_of_several():
    done = mf.simulate(
        NETWORK, separable(), start(), [400.0], keep="last", stop=[stopping.margin(5.0), stopping.margin(0.5)]
    )
    assert done.stopped_by == "margin 0.5" and done.particles.shape == (1, 60, 3)


def test_a_criterion_that_looks_too_late_is_caught():
    late = stopping.Criterion("late", lambda look: stopping.margin(1.0).holds(look) and look.time > 300.0)
    done = mf.simulate(NETWORK, separable(), start(), np.linspace(0, 400, 401), rtol=1e-6, stop=late)
    reached = (done.predictions * done.problem.targets).min(axis=1)
    assert not reached[-1] >= 1.0 > reached[-2]


@pytest.mark.parametrize("stop", ["margin", 1.0, stopping.margin, [1.0], [lambda look: True]], ids=str)
def test_what_is_no_criterion(stop):
    with pytest.raises(InputError, match="stop holds"):
        mf.simulate(NETWORK, separable(), start(), [1.0], stop=stop)


def test_a_criterion_needs_a_function():
    with pytest.raises(InputError, match="criterion 'own' holds 5"):
        stopping.Criterion("own", 5)


@pytest.mark.parametrize("keep", [np.arange(3), slice(None, "a"), slice(0, 3, 0), slice(100, 200), 7], ids=str)
def test_what_cannot_be_kept(keep):
    with pytest.raises(InputError, match="keep is"):
        mf.simulate(NETWORK, separable(), start(), [1.0], keep=keep)


def test_labels_are_plus_or_minus_one():
    with pytest.raises(InputError, match=r"targets hold 0 with loss 'hinge'; needed: labels, \+1 or -1"):
        mf.Problem(np.ones((2, 1)), [0.0, 1.0], loss="hinge")
