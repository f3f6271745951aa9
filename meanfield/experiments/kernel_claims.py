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


def classification(quick: bool) -> list[Finding]:
    """F32: Fashion-MNIST from 300 images, 30 a class, by K^-1 Y with the infinite relu kernel (theirs is deep)."""
    task = datasets.fashion_mnist(300, 1000, pca=None)
    network, law = Network("relu"), GaussianLaw(task.dim)
    assert task.labels is not None
    found = kernels.classify(
        tangent.infinite(network, law, task.inputs), task.labels,
        tangent.infinite(network, law, task.test_inputs, task.inputs), task.test_labels,
    )  # fmt: skip
    half = 1.96 * np.sqrt(found.accuracy * (1.0 - found.accuracy) / len(task.test_targets))
    return [Finding("test accuracy", found.accuracy, (found.accuracy - half, found.accuracy + half), (0.1, np.inf))]


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
    """F36: sqrt(2 y'K^-1 y / n) is larger for random labels than for those of a teacher."""
    ratios = []
    for seed in range(10 if quick else 40):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((60, 5))
        kernel = tangent.infinite(Network("relu"), GaussianLaw(5), x)
        real, random = np.sign(x[:, 0] + 0.3 * x[:, 1]), rng.choice((-1.0, 1.0), 60)
        ratios.append(kernels.complexity(kernel, random) / kernels.complexity(kernel, real))
    return [mean("random over a teacher's", ratios, (1.0, np.inf))]


def envelope(quick: bool) -> list[Finding]:
    """F37: R(t) <= R(0) e^(-2 lambda_min t / n)."""
    kernel, y = _kernel()
    times = np.linspace(0.0, 50.0, 200)
    ratio = kernels.decay(kernel, y, times) / kernels.envelope(kernel, y, times)
    return [equal("largest of R over its envelope, above 1", float(max(0.0, (ratio - 1.0).max())), 1e-12)]
