"""Two Gaussians after Mei, Montanari & Nguyen (arXiv 1804.06561): the reduced equation, SGD beside it, a plateau."""

import numpy as np

from .. import batches, initial, limits
from ..activations import piecewise_linear
from ..initial import GaussianLaw
from ..network import Network
from ..problems import TwoGaussians
from ..scaling import Scaling
from ..simulation import simulate
from .findings import Finding, mean

RAMP = piecewise_linear((0.5, 1.5), (-2.5, 7.5))
FAILING = piecewise_linear((0.0, 0.5, 1.5), (-2.5, -4.0, 7.5))  # not monotone
_PLAIN = Scaling(mobility_a=0.0)  # units without an output weight: a = 1 for ever


def law(dim: int, spread: float) -> GaussianLaw:
    """a = 1 and w ~ N(0, spread^2 / dim I)."""
    return GaussianLaw(dim, sigma_a=0.0, mean_a=1.0, sigma_w=spread / np.sqrt(dim))


def isotropic(quick: bool) -> list[Finding]:
    """F41: R(4) for Delta = 0.4 and R(8) for 0.8, d = 40, and how far SGD of step eps with N units is above it."""
    findings, solved, network = [], {}, Network(RAMP, _PLAIN)
    for delta, time, wanted, nodes in ((0.4, 4.0, 0.07293269, 48), (0.8, 8.0, 0.85902758, 64 if quick else 128)):
        found = solved[delta] = limits.radial(
            network, TwoGaussians.isotropic(40, delta), law(40, 0.8), [time], n_nodes=nodes
        )
        value, error = float(found.risks[-1]), float(found.error[-1])
        findings.append(Finding(f"R({time:g}), Delta = {delta:g}", value, (value - error, value + error), wanted, 1e-6))
    above = _above(solved[0.4], network, 0.8, 4.0, range(2 if quick else 4), 10 if quick else 1)
    return [*findings, mean("SGD, N = 400: R(4) less the limit's", above, (0.003, 0.025))]


def _above(limit, network, spread, time, seeds, size):
    """How far the risk of SGD with 400 units at a time is above a limit's, for each seed; `size` data points a step."""
    problem, dim = limit.data.sample(20_000, seed=1), limit.data.dim
    base = (problem.targets - limit.predict(problem.inputs)) ** 2
    above = []
    for seed in seeds:
        start = initial.gaussian(400, dim, seed, sigma_a=0.0, mean_a=1.0, sigma_w=law(dim, spread).sigma_w)
        # theta += 2 eps (y - f) grad with eps = 1e-4 is a step of 2e-4; several data points at as many times that
        run = simulate(network, problem, start, [time], scheme="euler", dt=2e-4 * size, keep="last",
                       batches=batches.fresh(limit.data.draw, size, seed=seed))  # fmt: skip
        # the same inputs in both, so that their scatter cancels
        above.append(float(np.mean((problem.targets - run.predictions[-1]) ** 2 - base)))
    return above


def plateau(quick: bool) -> list[Finding]:
    """F42: units that are not monotone get stuck from small weights (spread 0.1), d = 320, Delta = 0.5, and not from
    larger ones; and the anisotropic law of two radii.
    """
    data, network, times = TwoGaussians.isotropic(320, 0.5), Network(FAILING, _PLAIN), [4.0, 30.0]
    small, large = (
        limits.radial(network, data, law(320, spread), times, n_nodes=32 if quick else 48, rtol=1e-7)
        for spread in (0.1, 0.4)
    )
    ratio = float(small.risks[-1] / large.risks[-1])
    error = ratio * float(small.error[-1] / small.risks[-1] + large.error[-1] / large.risks[-1])
    still = float(1.0 - small.risks[1] / small.risks[0])
    findings = [
        Finding("risk, small over larger start", ratio, (ratio - error, ratio + error), (2.0, np.inf)),
        Finding("relative fall from t = 4 to 30", still, (still, still), (-0.01, 0.01)),
    ]
    return [*findings, two_radii(quick)]


def two_radii(quick: bool) -> Finding:
    """SGD of 400 relu units beside the reduced equation of two radii, d = 20 + 20, Delta = 0.5: by how much R(2)
    is above the limit's, over what R has fallen by then; 5 % at most, of the finite N and step.
    """
    two, network = TwoGaussians.anisotropic(40, 20, 0.5), Network("relu", _PLAIN)
    limit = limits.radial(network, two, law(40, 0.4), [0.0, 2.0], n_nodes=16, rtol=1e-6)
    above = _above(limit, network, 0.4, 2.0, range(2 if quick else 4), 10 if quick else 2)
    fall = float(limit.risks[0] - limit.risks[1])
    return mean("two radii: SGD, N = 400, above R(2) over the fall", np.divide(above, fall), (-0.05, 0.05))
