"""Claims F44 to F46, small: translations against SciPy, margins against their linear and quadratic programs, SGD."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import eigh
from scipy.optimize import linprog, nnls

import meanfield as mf
from meanfield import initial, tangent
from meanfield.errors import StepLimitError
from meanfield.experiments import training
from meanfield.scaling import Scaling
from meanfield.simulation import simulate

TINY = training.teacher(6, 20, 10, 0)


def native(tau, time, width=8):
    """F = sum_i b_i max(w_i . x, 0) at the test inputs: theta' = -grad E (y - F)^2 / 2 from std tau, by SciPy."""
    start = tau * initial.gaussian(width, TINY.dim, 3)

    def rhs(_, flat):
        b, w = flat[:width], flat[width:].reshape(width, -1)
        z = TINY.inputs @ w.T
        u = TINY.targets - np.maximum(z, 0.0) @ b
        return np.r_[u @ np.maximum(z, 0.0), ((u[:, None] * (z > 0) * b).T @ TINY.inputs).ravel()] / len(u)

    end = solve_ivp(rhs, (0.0, time), np.r_[start[:, 0], start[:, 1:].ravel()], rtol=1e-6, atol=1e-8).y[:, -1]
    return np.maximum(TINY.test_inputs @ end[width:].reshape(width, -1).T, 0.0) @ end[:width]


def translated(network, time):
    start, times = initial.gaussian(8, TINY.dim, 3), [network.scaling.from_native_time(time)]
    return simulate(network, TINY, start, times, rtol=1e-5, atol=1e-7).test_predictions[-1]


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_a_start_of_std_tau_is_one_of_std_1(tau):
    """To 1e-4, ten times the looser integrator's tolerance."""
    wanted = native(tau, 2.0)
    assert np.abs(translated(training.scaled(8, tau), 2.0) - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_a_scale_that_enters_once_is_seen():
    """alpha = m tau for m tau^2, in the factor or in the time."""
    wanted, alpha = native(0.1, 2.0), 8 * 0.1**2
    for wrong in (Scaling(8 * 0.1, time_scale=1.0 / alpha), Scaling(alpha, time_scale=1.0 / (8 * 0.1))):
        assert np.abs(translated(mf.Network("relu", wrong), 2.0) - wanted).max() > 0.05 * np.abs(wanted).max()


def lazy_share(problem, seed, below, width=50):
    """The test share of the flow with the kernel at the start, in closed form, when the training share is `below`."""
    start = initial.gaussian(width, problem.dim, [seed, 1], paired=True)
    network, n = training.scaled(width, 10.0), len(problem.targets)
    kernel = tangent.kernel(network, start, problem.inputs)
    rates, modes = eigh(kernel / n)
    along, power = modes.T @ problem.targets, problem.targets @ problem.targets
    low, high = 0.0, 1e9
    for _ in range(100):
        time = (low + high) / 2
        left = ((np.exp(-rates * time) * along) ** 2).sum() / power
        low, high = (time, high) if left > below else (low, time)
    impulses = modes @ (-np.expm1(-rates * high) / rates * along) / n
    learned = tangent.kernel(network, start, problem.test_inputs, problem.inputs) @ impulses
    return np.mean((learned - problem.test_targets) ** 2) / np.mean(problem.test_targets**2)


def test_the_largest_scale_is_lazy():
    """At tau = 10 the test loss is that of the kernel at the start: 2 %, the size of 1/alpha and of a step at the end.

    At tau = 0.1 it is not.
    """
    problem = training.teacher(12, 60, 500, 1)
    wanted = lazy_share(problem, 0, 0.01)
    assert training.student_error(problem, 10.0, 0) == pytest.approx(wanted, rel=0.02)
    assert training.student_error(problem, 0.1, 0) != pytest.approx(wanted, rel=0.2)


def test_a_teacher_has_unit_neurons():
    """E y^2 over signs is sum_j E max(v_j . x, 0)^2 = 3 / (2 d); 4 standard errors over 200 draws."""
    squares = np.array([np.mean(training.teacher(5, 100, 1, seed).targets ** 2) for seed in range(200)])
    assert abs(squares.mean() - 3 / (2 * 5)) < 4 * squares.std(ddof=1) / math.sqrt(200)


def nearest(plane, labels):
    """Least distance in the plane between points of different labels."""
    gaps = np.linalg.norm(plane[labels > 0][:, None] - plane[labels < 0][None], axis=2)
    return gaps.min()


def test_clusters_are_apart():
    """Different labels are 1/8 apart in the first two coordinates alone, in the unit square; half of nine are -1."""
    problem = training.clusters(5, 2000, 1, 4)
    assert (
        nearest(problem.inputs[:, :2], problem.targets) > 1 / 8 > 0.5 * nearest(problem.inputs[:, :2], problem.targets)
    )
    assert np.abs(problem.inputs).max() <= 0.5
    assert abs(np.mean(problem.targets) - 1 / 9) < 4 / math.sqrt(2000)  # five of nine are +1: the mean is 1/9
    assert nearest(problem.inputs[:, 2:4], problem.targets) < 1 / 8  # the noise does not know the labels


PLANE = training.clusters(2, 40, 200, 1)
SEEN = np.column_stack((PLANE.inputs, np.ones(40)))


def largest_f1_margin(units=2000):
    """max_c min_k y_k sum_j c_j max(w_j . x_k, 0) with sum |c_j| <= 1: a linear program over many unit directions."""
    w = np.random.default_rng(0).standard_normal((units, 3))
    signed = PLANE.targets[:, None] * np.maximum(SEEN @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T, 0.0)
    rows = np.block([[-signed, signed, np.ones((40, 1))], [np.ones((1, 2 * units)), np.zeros((1, 1))]])
    cost = np.r_[np.zeros(2 * units), -1.0]
    bounds = [(0.0, None)] * (2 * units) + [(None, None)]
    return -linprog(cost, A_ub=rows, b_ub=np.r_[np.zeros(40), 1.0], bounds=bounds).fun


def test_both_layers_tend_to_the_largest_margin():
    """The F1-margin of both layers rises with training to 0.7 of the linear program's, and is never above it (2 %: of
    its directions); that of the output layer is below a third of it. A loss where nothing is separated is caught.
    """
    most, start = largest_f1_margin(), initial.gaussian(200, 3, 2)
    found = [training.f1_margin(training.separated(PLANE, start, True, loss)[0], PLANE) for loss in (None, 1e-3, 1e-6)]
    assert found[0] < found[1] < found[2] < 1.02 * most and found[2] > 0.7 * most
    assert training.f1_margin(training.separated(PLANE, start, False)[0], PLANE) < most / 3
    assert training.f1_margin(training.separated(PLANE, start, True, 0.5)[0], PLANE) < 0.0


def test_the_output_layer_tends_to_the_kernel_machine():
    """Its margin over |a|, with log 2 / n of loss, is at most that of the support vector machine (by nnls), and above
    half of it; so is not that of both layers, whose features have moved.
    """
    start = initial.gaussian(200, 3, 2)
    features = np.maximum(SEEN @ start[:, 1:].T, 0.0) * PLANE.targets[:, None] / 200
    # max min (features a) over |a| = 1 is the distance of 0 from the rows' convex hull: nnls with a heavy row of ones.
    weights, _ = nnls(np.vstack((features.T, 1e3 * np.ones(40))), np.r_[np.zeros(200), 1e3])
    most = np.linalg.norm(features.T @ weights / weights.sum())
    a = training.separated(PLANE, start, False)[0][:, 0]
    share = (features @ a).min() / np.linalg.norm(a) / most
    assert 0.5 < share < 1.0 + 1e-3
    a = training.separated(PLANE, start, True)[0][:, 0]
    assert (features @ a).min() / np.linalg.norm(a) / most < 0.5


def test_the_output_layer_is_a_frozen_flow():
    """Its particles and F are those of `simulate` with mobility 0 to the same loss; 2 % of F."""
    start = initial.gaussian(40, 3, 5)
    particles, tested = training.separated(PLANE, start, False, 0.2)
    network = mf.Network("relu", bias=1.0)
    values = np.maximum(network.inputs(PLANE.test_inputs) @ particles[:, 1:].T, 0.0) @ particles[:, 0] / 40
    assert np.abs(values - tested).max() < 1e-8 * np.abs(tested).max()
    still = start * np.r_[0.0, np.ones(3)]
    reached = PLANE.loss.value(np.maximum(SEEN @ particles[:, 1:].T, 0.0) @ particles[:, 0] / 40, PLANE.targets).mean()
    run = simulate(
        mf.Network("relu", Scaling(mobility_w=0.0), bias=1.0), PLANE, still, [0.0, 1e9], rtol=1e-4, atol=1e-6,
        stop=mf.stopping.loss(reached), keep="last",
    )  # fmt: skip
    assert np.abs(run.test_predictions[-1] - tested).max() < 0.02 * np.abs(tested).max()


def test_what_is_not_separable_is_said():
    """Two labels at one input: no training separates them."""
    inputs = np.zeros((2, 2))
    problem = mf.Problem(inputs, np.array([1.0, -1.0]), loss="logistic")
    with pytest.raises(StepLimitError, match="not below"):
        training.separated(problem, initial.gaussian(8, 3, 0), False)


def first_step(width, dt, size):
    """Mean square over the inputs and over pairs of F - F' after one step: 2 dt^2 Var_k[K(x, x_k) u_k] / size."""
    rng = np.random.default_rng(0)
    points, start = training._draw(rng, 200)[0], initial.gaussian(width, 3, 0)
    x, y = training._draw(np.random.default_rng(9), 20_000)
    network = mf.Network("tanh")
    u = y - np.tanh(x @ start[:, 1:].T) @ start[:, 0] / width
    return 2 * dt**2 * np.mean(np.var(tangent.kernel(network, start, points, x) * u, axis=1)) / size


def test_the_noise_of_one_step():
    """The squared spread of 400 streams is the kernel's to 25 %: that of one mode is known to sqrt(2 / 400) = 7 %.

    Twice the data of a step has half of it.
    """
    wanted = first_step(32, 1e-3, 4)
    found = training.spread(32, 1e-3, 1e-3, 0, streams=400) ** 2
    assert found == pytest.approx(wanted, rel=0.25)
    assert training.spread(32, 1e-3, 1e-3, 0, streams=400, size=8) ** 2 != pytest.approx(wanted, rel=0.25)


def slope(beta, power):
    widths = (16, 64)
    spreads = [np.mean([training.spread(w, 0.25 * w**power, 1.0, seed) for seed in range(6)]) for w in widths]
    return abs(np.log(spreads[1] / spreads[0]) / np.log(widths[1] / widths[0]) - (beta - 1.0) / 2.0)


def test_the_noise_follows_the_step():
    """(beta - 1) / 2 to 0.2 from two widths; a step that does not know the width has another law than beta = 0."""
    assert slope(0.0, -1.0) < 0.2 and slope(1.0, 0.0) < 0.2
    assert slope(0.0, 0.0) > 0.3
