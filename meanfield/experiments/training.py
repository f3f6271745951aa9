"""Which solution training finds: the scale of the start, the layers that learn, the step of SGD (claims F44 to F46)."""

import math

import numpy as np
from threadpoolctl import threadpool_limits

from .. import batches, initial, stopping, targets
from ..errors import StepLimitError
from ..limits import frozen
from ..network import Network
from ..problems import Problem
from ..scaling import Scaling
from ..simulation import simulate
from .findings import Finding, exponent, mean

TAUS = (0.01, 0.1, 10.0)  # least, middle and largest scale of a start; the middle one is fixed beforehand


def teacher(dim: int, n: int, n_test: int, seed: int, neurons: int = 3) -> Problem:
    """y = sum_j +- max(v_j . x, 0), |v_j| = 1, random signs; x on the unit sphere. Chizat, Oyallon & Bach (2019), 3."""
    rng = np.random.default_rng(seed)
    inputs, directions = targets.on_sphere(rng, n + n_test, dim, 1.0), targets.on_sphere(rng, neurons, dim, 1.0)
    values = np.maximum(inputs @ directions.T, 0.0) @ rng.choice([-1.0, 1.0], neurons)
    return Problem(inputs[:n], values[:n], test_inputs=inputs[n:], test_targets=values[n:], name="teacher")


def scaled(width: int, tau: float) -> Network:
    """The network for F = sum_i b_i max(w_i . x, 0) and theta' = -grad E (y - F)^2 / 2 from weights of std tau.

    A unit is homogeneous of degree 2: theta = tau theta' makes it alpha = m tau^2 with a start of std 1, and flow time
    m tau^2 times theirs. Large tau is lazy (arXiv 1812.07956, section 1.1).
    """
    alpha = width * tau**2
    return Network("relu", Scaling(alpha, time_scale=1.0 / alpha))


def student_error(problem: Problem, tau: float, seed: int, width: int = 50, below: float = 0.01) -> float:
    """E (F - y)^2 / E y^2 on the test inputs when it is `below` on the training inputs; from pairs, so that f_0 = 0.

    Raises StepLimitError where the flow does not get there.

    Cost: the residual relaxes at the least eigenvalues of the tangent kernel where tau is large: thousands of steps.
    """
    network = scaled(width, tau)
    tolerance = 1e-3 / max(1.0, network.scaling.alpha)  # particles move by 1/alpha where alpha is large
    run = simulate(
        network, problem, initial.gaussian(width, problem.dim, [seed, 1], paired=True), [0.0, 1e9], scheme="bosh3",
        rtol=tolerance, atol=tolerance, stop=stopping.risk(below * float(np.mean(problem.targets**2))), keep="last",
    )  # fmt: skip
    return float(np.mean((run.test_predictions[-1] - problem.test_targets) ** 2) / np.mean(problem.test_targets**2))


def scale_of_start(quick: bool) -> list[Finding]:
    """F44: the test loss of a student of m = 50 at both ends of a range of scales, over that at tau = 0.1.

    n = 10 d as theirs, d = 50 for their 100 (30 if quick); to a hundredth of the training loss of F = 0.
    """
    dim, seeds = (30, 6) if quick else (50, 12)
    problems = [teacher(dim, 10 * dim, 2000, seed) for seed in range(seeds)]
    shares = np.array([[student_error(problem, tau, seed) for tau in TAUS] for seed, problem in enumerate(problems)])
    return [
        mean(
            f"d = {dim}: test loss at tau = {TAUS[place]:g} over tau = {TAUS[1]:g}",
            shares[:, place] / shares[:, 1],
            (1, np.inf),
        ).explained(differs=why)
        for place, why in ((2, ""), (0, "trained to a hundredth of the loss, the smallest scale is the best"))
    ]


def clusters(dim: int, n: int, n_test: int, seed: int, side: int = 3) -> Problem:
    """Labels of side^2 clusters in the first two coordinates, half of them -1, at random; noise in the others.

    Discs of radius 1 / (3 side - 1), as far from one another, in a unit square; noise uniform on [-1/2, 1/2].
    Chizat & Bach (arXiv 2002.04486), section 5; their d counts a constant coordinate too. Logistic loss.
    """
    rng, number, gap = np.random.default_rng(seed), n + n_test, 1.0 / (3 * side - 1)
    signs = np.where(rng.permutation(side**2) < side**2 // 2, -1.0, 1.0)
    which, angles, radii = rng.integers(side**2, size=number), 2 * np.pi * rng.random(number), gap * rng.random(number)
    centres = gap * (1 + 3 * np.column_stack((which % side, which // side))) - 0.5
    plane = centres + radii[:, None] * np.column_stack((np.cos(angles), np.sin(angles)))
    inputs, labels = np.column_stack((plane, rng.random((number, dim - 2)) - 0.5)), signs[which]
    return Problem(
        inputs[:n], labels[:n], loss="logistic", test_inputs=inputs[n:], test_targets=labels[n:], name="clusters"
    )


def separated(problem: Problem, start: np.ndarray, both: bool, loss: float | None = None):
    """Particles and predictions at the test inputs, by relu units with biases, alpha = 1, that separate the data.

    Both layers, or the output layer alone from a = 0: a flow with its kernel frozen, a_i = sum_k max(w_i . x_k, 0) g_k
    with the impulses g of `limits.frozen`. Until the mean logistic loss is below `loss`, by default log 2 / n, where
    every input is on its side at the latest; of the output layer at the first such of 3 times a decade.

    Raises StepLimitError where training does not get there.
    """
    network = Network("relu", bias=1.0)
    below = math.log(2.0) / len(problem.targets) if loss is None else loss
    if both:
        run = simulate(
            network, problem, start, [0.0, 1e12], scheme="bosh3", rtol=1e-2, atol=1e-3, keep="last",
            stop=stopping.loss(below),
        )  # fmt: skip
        return run.particles[-1], run.test_predictions[-1]
    start = start * np.r_[0.0, np.ones(start.shape[1] - 1)]
    flow = frozen(network, problem, start, np.geomspace(1e4, 1e9, 16), layer="output", rtol=1e-3, atol=1e-3)
    reached = problem.loss.value(flow.predictions, problem.targets) @ problem.weights < below
    if not reached.any():
        raise StepLimitError(f"the mean loss is not below {below:g} at t = {flow.times[-1]:g}; needed: a larger loss.")
    place = int(np.argmax(reached))
    start[:, 0] = flow.impulses[place] @ np.maximum(network.inputs(problem.inputs) @ start[:, 1:].T, 0.0)
    return start, flow.test_predictions[place]


def f1_margin(particles: np.ndarray, problem: Problem) -> float:
    """min_k y_k f(x_k) / mean_i |a_i| |w_i|, of relu units with biases of their own: w is (w, b) here.

    At most the largest margin in the variation norm F1, which the flow of both layers tends to: Chizat & Bach (arXiv
    2002.04486), theorem 3.
    """
    a, w = particles[:, 0], particles[:, 1:]
    values = np.maximum(Network("relu", bias=1.0).inputs(problem.inputs) @ w.T, 0.0) @ a / len(a)
    return float((problem.targets * values).min() / np.mean(np.abs(a) * np.linalg.norm(w, axis=1)))


def both_layers(quick: bool) -> list[Finding]:
    """F45: test error of the output layer alone less that of both layers, and F1-margins, in d = 4, 14 and 24.

    n = 256 and the range of d as theirs, N = 500 for their 1000 (256 if quick); N(0, 1) start; each seed has labels of
    its own.
    """
    (width, seeds), dims = (256, 4) if quick else (500, 6), (4, 14, 24)
    errors, margins = np.empty((2, seeds, len(dims), 2))
    for seed, place, both in np.ndindex(errors.shape):
        problem = clusters(dims[place], 256, 4000, seed)
        start = initial.gaussian(width, problem.dim + 1, [seed, 1])
        with threadpool_limits(1, user_api="blas"):  # its idle threads would spin on the engine's cores
            particles, tested = separated(problem, start, bool(both))
        errors[seed, place, both] = np.mean(problem.test_targets * tested <= 0.0)
        margins[seed, place, both] = f1_margin(particles, problem)
    gaps, ratios = errors[..., 0] - errors[..., 1], margins[..., 1] / margins[..., 0]
    return [
        *(mean(f"output layer less both, d = {dim}", gaps[:, k], (0.0, np.inf)) for k, dim in enumerate(dims)),
        *(
            mean(f"that at d = {dims[k + 1]} less at {dims[k]}", gaps[:, k + 1] - gaps[:, k], (0.0, np.inf)).explained(
                cannot_tell="seeds, each with labels of its own, differ much"
            )
            for k in range(len(dims) - 1)
        ),
        mean("F1-margin, both over output layer", ratios.mean(axis=1), (1.0, np.inf)),
    ]


def _draw(rng, size):
    inputs = rng.standard_normal((size, 3))
    return inputs, np.tanh(inputs[:, 0]) + 0.5 * np.tanh(inputs[:, 1])


def spread(width: int, dt: float, t_end: float, seed: int, streams: int = 6, size: int = 4) -> float:
    """Rms distance over 200 inputs of two predictors at t_end: SGD from one start on two streams of fresh data.

    Of all pairs of `streams` runs: sqrt 2 times their standard deviation. Tanh units, alpha = 1, `size` new data points
    a step of `dt`, of which t_end is a multiple.
    """
    problem, start = Problem(*_draw(np.random.default_rng(0), 200)), initial.gaussian(width, 3, seed)
    ends = [
        simulate(
            Network("tanh"), problem, start, [0.0, t_end], scheme="euler", dt=dt, keep="last",
            batches=batches.fresh(_draw, size, seed=streams * seed + stream),
        ).predictions[-1]
        for stream in range(streams)
    ]  # fmt: skip
    return math.sqrt(2.0 * np.var(ends, axis=0, ddof=1).mean())


def sgd_noise(quick: bool) -> list[Finding]:
    """F46: SGD with steps gamma N^(beta - 1) of flow time: its noise in F at t = 1 falls like N^((beta - 1)/2).

    De Bortoli, Durmus, Fontaine & Simsekli (arXiv 2007.06352): the limit is deterministic for beta < 1, and keeps the
    noise of the batches for beta = 1. gamma = 1/4; widths are squares, so that t is a multiple of every step.
    """
    widths, seeds = ((16, 64, 144), 12) if quick else ((16, 36, 64, 144, 256), 16)
    found = []
    for beta in (0.0, 0.5, 1.0):
        steps = [0.25 * width ** (beta - 1.0) for width in widths]
        spreads = [
            [spread(width, dt, 1.0, seed) for width, dt in zip(widths, steps, strict=True)] for seed in range(seeds)
        ]
        slope = exponent(f"slope in N, beta = {beta:g}", widths, spreads, (beta - 1.0) / 2.0)
        found.append(slope.explained(cannot_tell="the interval is wider than is asked"))
    return found
