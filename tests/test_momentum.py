"""Momentum: against SciPy's integration of the equations written out, its energy, and its limit without delay."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import meanfield as mf
from meanfield.errors import InputError

ALPHA, DELAY = 0.7, 0.5
NETWORK, PROBLEM = mf.Network("tanh", mf.Scaling(ALPHA)), mf.problems.teacher_student(dim=2, n=12, seed=1)


def start(n_particles=8):
    return mf.initial.gaussian(n_particles, 2, seed=2)


def gradient_flow(particles):
    """The velocity of the gradient flow, written out."""
    a, w = np.split(particles, [1], axis=1)
    value = np.tanh(w @ PROBLEM.inputs.T)
    pull = PROBLEM.weights * (PROBLEM.targets - ALPHA * (a * value).mean(axis=0)) / ALPHA
    return np.hstack([(value @ pull)[:, None], (a * (1 - value**2) * pull) @ PROBLEM.inputs])


def exact(t, delay=DELAY):
    """(particles, their velocities) at t, by DOP853 to 1e-12."""
    shape = start().shape

    def rhs(_, flat):
        particles, speed = flat.reshape(2, *shape)
        return np.concatenate([speed.ravel(), ((gradient_flow(particles) - speed) / delay).ravel()])

    at_start = np.concatenate([start().ravel(), np.zeros(start().size)])
    return solve_ivp(rhs, (0, t), at_start, "DOP853", rtol=1e-12, atol=1e-13).y[:, -1].reshape(2, *shape)


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize(
    "scheme", [{"rtol": 1e-9, "atol": 1e-11}, {"scheme": "rk4", "dt": 0.01}], ids=["adaptive", "fixed"]
)
def test_against_scipy(engine, scheme):
    run = mf.simulate(NETWORK, PROBLEM, start(), [1.0, 4.0], momentum=DELAY, engine=engine, **scheme)
    for found, t in zip(run.particles, (1.0, 4.0), strict=True):
        assert np.abs(found - exact(t)[0]).max() < 1e-7


def test_another_delay_is_caught():
    run = mf.simulate(NETWORK, PROBLEM, start(), [4.0], momentum=1.001 * DELAY, rtol=1e-9, atol=1e-11)
    assert np.abs(run.particles[0] - exact(4.0)[0]).max() > 1e-6


def test_energy_falls_at_its_rate():
    """d/dt [R / (2 alpha^2) + (tau / 2) mean |p|^2] = -mean |p|^2, by differences along a run."""
    times = [0.999, 1.0, 1.001]
    run = mf.simulate(NETWORK, PROBLEM, start(), times, momentum=DELAY, rtol=1e-11, atol=1e-13, record=["risk"])
    speeds = [(exact(t)[1] ** 2).sum(axis=1).mean() for t in times]
    energy = run.records["risk"] / (2 * ALPHA**2) + DELAY / 2 * np.array(speeds)
    assert (energy[2] - energy[0]) / 0.002 == pytest.approx(-speeds[1], rel=1e-5)


def test_without_delay_it_is_the_gradient_flow():
    """The distance falls like the delay: order 1 within 0.1."""
    plain = mf.simulate(NETWORK, PROBLEM, start(), [3.0], rtol=1e-10, atol=1e-12).particles[0]
    delays = np.array([0.04, 0.02, 0.01])
    errors = [
        np.abs(mf.simulate(NETWORK, PROBLEM, start(), [3.0], momentum=delay, rtol=1e-8).particles[0] - plain).max()
        for delay in delays
    ]
    assert np.polyfit(np.log(delays), np.log(errors), 1)[0] == pytest.approx(1.0, abs=0.1)


def test_what_does_not_fit():
    with pytest.raises(InputError, match="momentum is -1"):
        mf.simulate(NETWORK, PROBLEM, start(), [1.0], momentum=-1.0)
    with pytest.raises(InputError, match="momentum and a temperature exclude one another"):
        mf.simulate(NETWORK, PROBLEM, start(), [1.0], momentum=1.0, temperature=0.1, scheme="euler", dt=0.1)


def test_speed_is_the_gradient_s_and_not_the_momentum_s():
    """A run that starts at rest is not at the end."""
    run = mf.simulate(NETWORK, PROBLEM, start(), [3.0], momentum=1.0, stop=mf.stopping.speed(0.01))
    assert run.stopped_by == "time"
