"""Claims about tangent kernels: frozen at some time, their alignment with the targets, spectra, classification."""

from functools import lru_cache

import numpy as np
from scipy.linalg import expm

from .. import datasets, initial, kernels, limits, tangent
from ..initial import GaussianLaw
from ..network import Network
from ..problems import Problem
from ..scaling import Scaling
from ..simulation import simulate
from .findings import Finding, equal, mean

_TIME = 200.0


@lru_cache(maxsize=4)
def _frozen(quick, scale=10**-0.5):
    """At alpha = 0.1, d = 10, inputs times `scale`, for each seed: test errors of the network and of its kernels at the
    start and at the end, and the alignments of these two.
    """
    rows = []
    for seed in range(3 if quick else 6):
        rng = np.random.default_rng(seed)
        dim, n = 10, 100 if quick else 200
        x = rng.standard_normal((n + 500, dim))
        y = x[:, 0] * x[:, 1] + 0.3 * x[:, 0]
        problem = Problem(x[:n], y[:n], test_inputs=x[n:], test_targets=y[n:])
        network = Network("softplus", Scaling(0.1, shift="initial", input_scale=scale))
        start = initial.gaussian(300, dim, [seed, 1])
        run = simulate(network, problem, start, [_TIME], rtol=1e-4)
        errors = [np.mean((problem.test_targets - run.test_predictions[-1]) ** 2)]
        aligned = []
        for at in (start, run.particles[-1]):
            found = limits.frozen(network, problem, start, [_TIME], at=at)
            errors.append(np.mean((problem.test_targets - found.test_predictions[-1]) ** 2))
            aligned.append(kernels.alignment(tangent.kernel(network, at, problem.inputs), problem.targets))
        rows.append([*errors, *aligned])
    return np.array(rows)


def frozen(quick: bool) -> list[Finding]:
    """F20: in the feature regime the kernel at the end learns what the network does, that at the start does not.

    Inputs over sqrt(d), as in the source; and as they are, where both are trained to the end.
    """
    network, at_start, at_end, *_ = _frozen(quick).T
    plain, plain_start, plain_end, *_ = _frozen(quick, 1.0).T
    return [
        mean("error, end kernel less network", at_end - network, (-0.03, 0.03)),
        mean("start kernel less network", at_start - network, (0.05, np.inf)),
        mean("inputs of norm sqrt(d): end kernel", plain_end - plain, (-0.03, 0.03)),
        mean("their start kernel", plain_start - plain, (0.05, np.inf)).explained(
            differs="with large inputs the start kernel interpolates and does no worse"
        ),
    ]


def aligned(quick: bool) -> list[Finding]:
    """F21: training aligns the Gram matrix with the targets, y'Ky / (|K| |y|^2)."""
    *_, before, after = _frozen(quick).T
    return [mean("alignment, after over before", after / before, (1.0, np.inf))]


LARGE_GAP = 0.05  # of accuracy: what we read "large" in the report's table as


def classification(quick: bool) -> list[Finding]:
    """F32: Fashion-MNIST from draws of 300 images, 30 a class, ten networks of one output by their largest: accuracy of
    relu networks in the feature regime (N = 256, alpha = 0.1), of K^-1 Y with their kernel at the start and with each
    one's at the end, on 30 principal components. The report's networks are deep.
    """
    draws, n = 2 if quick else 4, 300
    task = datasets.fashion_mnist(n * draws, 1000, pca=30)
    assert task.labels is not None and task.test_labels is not None
    network = Network("relu", Scaling(0.1, shift="initial", input_scale=np.sqrt(30.0)))
    scores = np.empty((3, draws, 10, len(task.test_inputs)))
    for draw, digit in np.ndindex(draws, 10):
        rows = slice(n * draw, n * (draw + 1))
        is_it, test = 1.0 * (task.labels[rows] == digit), 1.0 * (task.test_labels == digit)
        problem = Problem(task.inputs[rows], is_it, test_inputs=task.test_inputs, test_targets=test)
        start = initial.gaussian(256, 30, [draw, 1])
        run = simulate(network, problem, start, [10.0], scheme="bosh3", rtol=1e-2, atol=1e-3, keep="last")
        scores[0, draw, digit] = run.test_predictions[-1]
        for row, at in ((1, start), (2, run.particles[-1])):
            kernel = tangent.kernel(network, at, problem.inputs)
            cross = tangent.kernel(network, at, problem.test_inputs, problem.inputs)
            fitted = kernels.regression(kernel, is_it, cross=cross)
            scores[row, draw, digit] = fitted.test_predictions
    trained, lazy, end = np.mean(scores.argmax(axis=2) == task.test_labels, axis=2)
    large = mean("accuracy, network less kernel at the start", trained - lazy, (LARGE_GAP, np.inf))
    return [
        mean("accuracy of the kernel at the start", lazy, (0.5, np.inf)),
        large.explained(differs="the report's networks have three hidden layers or are convolutional, these have one"),
        mean("end kernel less network", end - trained, (-LARGE_GAP, LARGE_GAP)),
    ]


def _kernel():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal(40)
    return tangent.infinite(Network("relu"), GaussianLaw(3), x), y


def spectrum(quick: bool) -> list[Finding]:
    """F35: the risk of the frozen flow is sum_i (y.v_i)^2 e^(-2 lambda_i t / n) / n: against the matrix exponential."""
    kernel, y = _kernel()
    times = np.array([0.0, 0.5, 3.0, 20.0])
    exact = [np.mean((expm(-kernel / 40 * t) @ y) ** 2) for t in times]
    return [
        equal("largest relative difference", float(np.abs(kernels.decay(kernel, y, times) / exact - 1).max()), 1e-9)
    ]


def complexity(quick: bool) -> list[Finding]:
    """F36: sqrt(2 y'K^-1 y / n), K of the inner layer and inputs of norm 1 as in the source, is larger for random
    labels than for those of a teacher.
    """
    ratios = []
    for seed in range(10 if quick else 40):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((60, 5))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        kernel = tangent.infinite(Network("relu"), GaussianLaw(5), x, layer="inner")
        real, random = np.sign(x[:, 0] + 0.3 * x[:, 1]), rng.choice((-1.0, 1.0), 60)
        ratios.append(kernels.complexity(kernel, random) / kernels.complexity(kernel, real))
    return [mean("random over a teacher's", ratios, (1.0, np.inf))]


def envelope(quick: bool) -> list[Finding]:
    """F37: R(t) <= R(0) e^(-2 lambda_min t) for networks in the NTK regime, lambda_min of their kernels at the start
    over n; alpha = 1000, N = 2048, n = 5, d = 10. The targets lie along the slowest mode, for which the two are equal
    when the kernel does not move, and anywhere.
    """
    slowest, anywhere = [], []
    for seed in range(3 if quick else 10):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((5, 10)), rng.standard_normal(5)
        start, network = initial.gaussian(2048, 10, [seed, 1]), Network("relu", Scaling(1e3, shift="initial"))
        kernel = tangent.kernel(network, start, x)
        rates, modes = kernels.modes(kernel)
        times = np.linspace(0.0, 1.0 / rates[0], 6)  # R falls to e^-2 along the slowest mode
        for targets, ratios in ((np.sqrt(5.0) * modes[:, 0], slowest), (y, anywhere)):
            run = simulate(network, Problem(x, targets), start, times, rtol=1e-6, atol=1e-8, record=["risk"])
            ratios.append((run.records["risk"] / kernels.envelope(kernel, targets, times))[1:].max())
    return [
        mean("largest R over its envelope, slowest mode", slowest, 1.0, 0.01),
        mean("anywhere", anywhere, (0.0, 1.0)),
    ]
