"""What linear models cannot learn and networks can: the comparisons of Ghorbani et al. at a size for one core.

Each function runs one of them over seeds and returns its `Shares`: errors on unseen data over what f = 0, or the best
constant, leaves. Seed s draws the data, the weights and the start of the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _checks, initial, kernels, linearised, projections, quadratics, targets
from ..activations import biased_relu
from ..errors import InputError
from ..initial import GaussianLaw
from ..network import Network
from ..problems import Problem
from ..simulation import simulate
from ..tangent import infinite

_RIDGES = np.r_[0.0, np.logspace(-6, 2, 17)]  # of kernel ridge regression, over the mean eigenvalue


@dataclass(frozen=True, eq=False)
class Shares:
    """What was measured.

    setting : every size and choice
    seeds : (S,)
    widths : name of a model -> the N of its columns
    shares : name -> (S, widths) for a model in `widths`, or "model degree l"; (S,) otherwise
    expected : name -> theory, in the shape of a row, where there is an exact one
    """

    setting: dict[str, Any]
    seeds: tuple[int, ...]
    widths: dict[str, tuple[int, ...]]
    shares: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]


def _seeds(seeds):
    found = tuple(_checks.count(each, "a seed", least=0) for each in seeds)
    if not found:
        raise InputError("no seeds; needed: one or more.")
    return found


def _over_seeds(seeds, measure):
    """name -> (S, ...) from a function seed -> {name: ...}."""
    rows = [measure(seed) for seed in seeds]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def staircase(
    seeds: Sequence[int] = range(4),
    *,
    dim: int = 20,
    n: int = 8000,
    n_test: int = 4000,
    rf_widths: Sequence[int] = (5, 20, 160, 400, 1600),
    nt_widths: Sequence[int] = (5, 20, 160),
    degrees: Sequence[int] = (1, 2, 3),
    threshold: float = 0.5,
    quick: bool = False,
) -> Shares:
    """F28: random features of N ~ d^l units learn the degrees up to l, neural tangents those up to l + 1.

    Units max(w . x - threshold, 0), |w| = 1; smaller widths are a beginning of larger ones; no ridge.

        "rf degree l"            test error of the fit to f_l = `targets.monomials` alone, over the mean of f_l^2
        "rf projected degree l"  what of the error of the fit to sum_l f_l lies in degree l, without bias, over the same

    and "nt" likewise. The second does not hold against degree l the noise that unlearned degrees leave behind.

    quick : two seeds, n = 4000, widths to 400 and 80: about 4 s; about 5 s a seed otherwise, on one core.
    """
    if quick:
        seeds, n, n_test, rf_widths, nt_widths = tuple(seeds)[:2], 4000, 2000, (5, 20, 160, 400), (5, 20, 80)
    seeds, network = _seeds(seeds), Network(biased_relu(threshold))
    widths = {"rf": tuple(rf_widths), "nt": tuple(nt_widths)}
    most = max(max(each, default=1) for each in widths.values())

    def measure(seed):
        problem = targets.staircase(dim, n, n_test, degrees, seed)
        wanted, tests = (targets.monomials(each, degrees) for each in (problem.inputs, problem.test_inputs))
        power, weights = (tests**2).mean(axis=0), linearised.units(most, dim, [seed, 1])
        alone, rests = {}, []
        for kind in widths:
            errors = []
            for width in widths[kind]:
                model = linearised.fit(kind, network, weights[:width], problem, targets=wanted, test_targets=tests)
                errors.append(model.test_error / power)
                rests.append((model(problem.test_inputs) - tests).sum(axis=1))
            alone |= {f"{kind} degree {degree}": np.array(errors)[:, k] for k, degree in enumerate(degrees)}
        split = projections.energies(problem.test_inputs, np.array(rests).T, degrees).values / power[:, None]
        parts = {"rf": split[:, : len(widths["rf"])], "nt": split[:, len(widths["rf"]) :]}
        for kind, part in parts.items():
            alone |= {f"{kind} projected degree {degree}": part[k] for k, degree in enumerate(degrees)}
        return alone

    setting = {"dim": dim, "n": n, "n_test": n_test, "degrees": tuple(degrees), "unit": network.activation.name}
    return Shares(setting, seeds, widths, _over_seeds(seeds, measure), {})


def single_neuron(
    seeds: Sequence[int] = range(4),
    *,
    dim: int = 20,
    n: int = 8000,
    n_test: int = 4000,
    widths: Sequence[int] = (20, 40, 80, 160),
    network_width: int = 160,
    t_end: float = 50.0,
    threshold: float = 0.5,
    quick: bool = False,
) -> Shares:
    """F29: one neuron max(v . x - threshold, 0); linear models of N units are far from it, a network is not.

    "rf" and "nt": units max(w . x - threshold, 0), |w| = 1, no ridge. "nn": relu units with biases of their own,
    alpha = 1, a ~ N(0, 1), (w, b) ~ N(0, I / d), at flow time `t_end` (bosh3, rtol 1e-3). Test errors over the
    variance of the test targets. "nt" has N d parameters: as these come near n, its fit follows the data alone and its
    test error rises. Keep N d well below n.

    quick : two seeds, n = 4000, widths to 80: about 4 s; about 4 s a seed otherwise, on one core.
    """
    if quick:
        seeds, n, n_test, widths = tuple(seeds)[:2], 4000, 2000, (20, 40, 80)
    seeds, fixed = _seeds(seeds), Network(biased_relu(threshold))

    def measure(seed):
        problem = targets.single_neuron(dim, n, n_test, threshold, seed)
        variance, weights = problem.test_targets.var(), linearised.units(max(widths), dim, [seed, 1])
        found = {
            kind: [linearised.fit(kind, fixed, weights[:width], problem).test_error / variance for width in widths]
            for kind in linearised.KINDS
        }
        start = initial.gaussian(network_width, dim + 1, [seed, 2], sigma_w=dim**-0.5)
        run = _trained(Network("relu", bias=1.0), problem, start, [t_end])
        return found | {"nn": ((run.test_predictions[-1] - problem.test_targets) ** 2).mean() / variance}

    setting = {
        "dim": dim, "n": n, "n_test": n_test, "unit": fixed.activation.name, "network_width": network_width,
        "t_end": t_end,
    }  # fmt: skip
    every = {kind: tuple(widths) for kind in linearised.KINDS}
    return Shares(setting, seeds, every, _over_seeds(seeds, measure), {})


def _trained(network, problem, start, times):
    return simulate(network, problem, start, times, scheme="bosh3", rtol=1e-3, atol=1e-4, keep="last")


SPIKED_CASES = {
    "r=1": (1.0, "generator"), "r=2": (2.0, "generator"), "printed radius": (1.0, "printed"),
    "r=2, printed": (2.0, "printed"),
}  # fmt: skip


def spiked(
    seeds: Sequence[int] = range(4),
    *,
    dim: int = 40,
    signal_dim: int = 2,
    n: int = 600,
    n_test: int = 2000,
    network_width: int = 400,
    t_end: float = 200.0,
    quick: bool = False,
) -> Shares:
    """F30: a target of few coordinates; noise in the others hurts the kernel more than the network.

    "krr": ridge regression with the tangent kernel of infinite width, relu, sigma_w^2 = 1/d. "nn": relu, alpha = 1,
    pairs (a, w), (-a, w) of the same law. Ridge and stopping time are the best on `n_test` other inputs, so that
    the test errors (E f*^2 = 1) are not their own choice. Each as "krr, r=1" for every case of `SPIKED_CASES`: spike
    and noise radius as in `targets.spiked`; the last two have the radius of trap 6.

    quick : two seeds, `t_end` at most 50: about 3 s; about 4 s a seed otherwise, on one core.
    """
    if quick:
        seeds, t_end = tuple(seeds)[:2], min(t_end, 50.0)
    seeds, network, law = _seeds(seeds), Network("relu"), GaussianLaw(dim, sigma_w=dim**-0.5)
    times = t_end * np.geomspace(1.0 / 64.0, 1.0, 25)

    def measure(seed):
        found = {}
        for case, (spike, noise) in SPIKED_CASES.items():
            problem = targets.spiked(dim, signal_dim, n, 2 * n_test, spike, noise, seed)
            kernel, cross = (
                infinite(network, law, each, problem.inputs) for each in (problem.inputs, problem.test_inputs)
            )
            start = initial.gaussian(network_width, dim, [seed, 1], sigma_w=law.sigma_w, paired=True)
            found[f"krr, {case}"] = _chosen(_kernel_ridge(kernel, cross, problem.targets), problem)
            found[f"nn, {case}"] = _chosen(_trained(network, problem, start, times).test_predictions, problem)
        return found

    setting = {
        "dim": dim, "signal_dim": signal_dim, "n": n, "n_test": n_test, "network_width": network_width, "t_end": t_end,
    }  # fmt: skip
    return Shares(setting, seeds, {}, _over_seeds(seeds, measure), {})


def _kernel_ridge(kernel, cross, values):
    """Predictions (ridges, m) of kernel ridge regression for each of `_RIDGES`."""
    rates, vectors = kernels.modes(kernel)  # of K / n, once for all ridges
    shifted = rates + _RIDGES[:, None] * rates.mean()
    floor = len(kernel) * np.finfo(float).eps * rates[-1]
    shares = np.divide(vectors.T @ values, len(kernel) * shifted, out=np.zeros_like(shifted), where=shifted > floor)
    return shares @ (cross @ vectors).T


def _chosen(predictions, problem: Problem):
    """Test error on the second half of the test set of the row that is best on the first."""
    errors = (predictions - problem.test_targets) ** 2
    half = errors.shape[1] // 2
    return errors[np.argmin(errors[:, :half].mean(axis=1)), half:].mean()


def quadratic(seeds: Sequence[int] = range(400), *, dim: int = 20, n_units: int = 10, quick: bool = False) -> Shares:
    """F31: exact population errors of N quadratic units for f* = x'Bx, B isotropic Gaussian, x ~ N(0, I_d).

    "rf", "nt" with w uniform on the sphere, and "nn", the best network (`quadratics`): shares of the variance, each
    model with a constant. `expected` holds the exact means of the first two, and (1 - N/d)^2, what the second
    tends to for large d.

    quick : 50 seeds; a few milliseconds a seed.
    """
    seeds = _seeds(tuple(seeds)[:50] if quick else seeds)

    def measure(seed):
        matrix, weights = targets.goe(dim, [seed, 0]), linearised.units(n_units, dim, [seed, 1])
        whole = quadratics.size(matrix)
        return {
            "rf": quadratics.random_features_error(matrix, weights) / whole,
            "nt": quadratics.neural_tangent_error(matrix, weights) / whole,
            "nn": quadratics.network_error(matrix, n_units) / whole,
        }

    shares = _over_seeds(seeds, measure)
    rf, nt = quadratics.mean_shares(dim, n_units)
    expected = {"rf": rf, "nt": nt, "nt, large d": max(1.0 - n_units / dim, 0.0) ** 2}
    setting = {"dim": dim, "n_units": n_units, "matrix": "isotropic Gaussian (targets.goe)"}
    return Shares(setting, seeds, {}, shares, {name: np.array(value) for name, value in expected.items()})
