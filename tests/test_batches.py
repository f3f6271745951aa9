"""Batches: each step against the update written out, the mean over the draws against the flow, one pass."""

import numpy as np
import pytest

import meanfield as mf
from meanfield import batches
from meanfield.errors import InputError

ALPHA = 0.7
PROBLEM = mf.problems.teacher_student(dim=2, n=30, seed=1)
EULER = {"scheme": "euler", "dt": 0.125}


def network(shift=None):
    return mf.Network("tanh", mf.Scaling(ALPHA, shift=shift))


def start():
    return mf.initial.gaussian(9, 2, seed=2)


def by_hand(source, steps, shift=0.0, dt=0.125):
    """theta_i += dt (1/alpha) mean_k u_k grad s(x_k; theta_i) over the batch of each step."""
    particles = start()
    a_0, w_0 = np.split(particles, [1], axis=1)
    for step in range(steps):
        inputs, targets, _ = source.take(PROBLEM, step)
        a, w = np.split(particles, [1], axis=1)
        value = np.tanh(w @ inputs.T)
        f = ALPHA * ((a * value).mean(axis=0) - shift * (a_0 * np.tanh(w_0 @ inputs.T)).mean(axis=0))
        pull = (targets - f) / (ALPHA * len(targets))
        particles = particles + dt * np.hstack([(value @ pull)[:, None], (a * (1 - value**2) * pull) @ inputs])
    return particles


def teacher(rng, size):
    inputs = rng.standard_normal((size, 2))
    return inputs, np.sin(inputs[:, 0])


SOURCES = pytest.mark.parametrize(
    "source", [batches.minibatch(7, seed=3), batches.fresh(teacher, 5, seed=4), batches.fresh(teacher)], ids=repr
)


@SOURCES
@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("shift", [None, "initial"])
def test_steps_are_those_written_out(source, engine, shift):
    """40 steps, to 1e-12."""
    run = mf.simulate(network(shift), PROBLEM, start(), [2.0, 5.0], batches=source, engine=engine, **EULER)
    wanted = by_hand(source, 40, 1.0 if shift else 0.0)
    assert run.steps == 40 and np.abs(run.particles[-1] - wanted).max() < 1e-12


@pytest.mark.parametrize("kind", ["fresh", "minibatch"])
def test_every_step_has_data_of_its_own(kind):
    """One pass: 60 steps of 5 fresh points are 300 points; minibatches are drawn anew, each point in 7/30 of them.

    Shares within five standard errors of 600 steps; a source that repeats each batch is caught.
    """

    def points(source, steps):
        return np.array([source.take(PROBLEM, step)[0] for step in range(steps)])

    if kind == "fresh":
        source = batches.fresh(lambda rng, size: (rng.standard_normal((size, 2)), rng.standard_normal(size)), 5, seed=1)
        assert len(np.unique(points(source, 60).reshape(-1, 2), axis=0)) == 300
        twice = batches.Batches("twice", lambda problem, step: source.take(problem, step // 2))
        assert len(np.unique(points(twice, 60).reshape(-1, 2), axis=0)) == 150
    else:
        drawn = points(batches.minibatch(7, seed=1), 600)
        assert all(len(np.unique(each, axis=0)) == 7 for each in drawn)
        ordered = np.sort(drawn, axis=1)
        assert (ordered[1:] == ordered[:-1]).all(axis=(1, 2)).sum() <= 1
        shares = [(np.abs(drawn - point).sum(axis=2).min(axis=1) == 0).mean() for point in PROBLEM.inputs]
        assert np.abs(np.array(shares) - 7 / 30).max() < 5 * np.sqrt(7 / 30 * 23 / 30 / 600)


def test_times_between_steps_are_refused():
    with pytest.raises(InputError, match=r"times are no multiples of dt = 0\.125 with batches"):
        mf.simulate(network(), PROBLEM, start(), [0.3], batches=batches.minibatch(5), **EULER)


def test_another_seed_is_another_run():
    runs = [
        mf.simulate(network(), PROBLEM, start(), [5.0], batches=batches.minibatch(7, seed=seed), **EULER).particles
        for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-3


def test_all_the_data_is_gradient_descent():
    whole = mf.simulate(network(), PROBLEM, start(), [5.0], batches=batches.minibatch(30), **EULER)
    plain = mf.simulate(network(), PROBLEM, start(), [5.0], **EULER)
    np.testing.assert_allclose(whole.particles, plain.particles, rtol=1e-12, atol=1e-13)


def test_the_mean_over_draws_is_the_flow():
    """First steps of 400 seeds: their mean within five of its standard errors, and 1.2 times it is not."""
    moved = np.array(
        [
            mf.simulate(
                network(), PROBLEM, start(), [0.125], batches=batches.minibatch(3, seed=seed), **EULER
            ).particles[-1]
            for seed in range(400)
        ]
    ) - start()  # fmt: skip
    plain = mf.simulate(network(), PROBLEM, start(), [0.125], **EULER).particles[-1] - start()
    error = moved.std(axis=0, ddof=1) / 20
    assert (np.abs(moved.mean(axis=0) - plain) / error).max() < 5.0
    assert (np.abs(moved.mean(axis=0) - 1.5 * plain) / error).max() > 5.0


def test_small_steps_approach_the_flow():
    """One pass with smaller steps: the distance to the flow on a large sample falls about as the root of dt."""
    inputs, targets = teacher(np.random.default_rng(7), 20_000)
    flow = mf.simulate(network(), mf.Problem(inputs, targets), start(), [2.0], rtol=1e-8).particles[-1]
    errors = []
    for dt in (0.1, 0.001):
        run = mf.simulate(
            network(), PROBLEM, start(), [2.0], scheme="euler", dt=dt, batches=batches.fresh(teacher, 4, seed=5)
        )
        errors.append(np.sqrt(np.mean((run.particles[-1] - flow) ** 2)))
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": batches.minibatch(31), **EULER}, "minibatches of 31 from 30 data points"),
        ({"batches": batches.minibatch(3)}, "batches need scheme='euler' with dt"),
        (
            {"batches": batches.fresh(lambda rng, size: (np.ones((size, 3)), np.ones(size))), **EULER},
            "a batch has inputs",
        ),
        ({"batches": 7, **EULER}, "batches is 7"),
        ({"batches": batches.fresh(lambda rng, size: 5), **EULER}, "draw gave int"),
        ({"batches": batches.Batches("own", lambda problem, step: (1, 2)), **EULER}, "gave tuple; needed"),
        (
            {"batches": batches.Batches("own", lambda p, k: (p.inputs, p.targets, -np.ones(30))), **EULER},
            "weights of a",
        ),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        mf.simulate(network(), PROBLEM, start(), [1.0], **options)
    with pytest.raises(InputError, match="draw is 5"):
        batches.fresh(5)
    with pytest.raises(InputError, match="size is 0"):
        batches.minibatch(0)


def test_looking_does_not_draw():
    """A criterion that is never met leaves the run as it is, to the last bit."""
    options = {"batches": batches.minibatch(5), **EULER}
    runs = [
        mf.simulate(network(), PROBLEM, start(), [2.0], stop=stop, **options)
        for stop in ((), mf.stopping.speed(1e-30), [mf.stopping.risk(1e-30), mf.stopping.loss(1e-30)])
    ]
    for other in runs[1:]:
        np.testing.assert_array_equal(other.particles, runs[0].particles)
