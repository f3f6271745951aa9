"""Initial laws mu_0 of a particle (a, w), as samples and as quadrature rules.

A sample is an array (N, 1 + d); a rule is nodes with masses, for solving a limit from the law itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, roots_hermitenorm

from . import _checks, _memory
from .errors import InputError

_MOST_SOBOL_DIMENSIONS = 21201  # of SciPy's direction numbers


@dataclass(frozen=True)
class GaussianLaw:
    """mu_0 = N(mean_a, sigma_a^2) x N(0, sigma_w^2 I_d).

    dim : d, dimension of the inputs.
    sigma_a, sigma_w : standard deviations; sigma_w is positive, and sigma_a too unless mean_a is not 0.
    mean_a : mean of the output weights
    """

    dim: int
    sigma_a: float = 1.0
    sigma_w: float = 1.0
    mean_a: float = 0.0

    def __post_init__(self):
        _checks.count(self.dim, "dim")
        object.__setattr__(self, "mean_a", _checks.number(self.mean_a, "mean_a"))
        object.__setattr__(self, "sigma_a", _checks.number(self.sigma_a, "sigma_a", least=0.0))
        if self.sigma_a == self.mean_a == 0.0:
            raise InputError("sigma_a is 0 and mean_a too, so that f is 0 for ever; needed: one of them other than 0.")
        object.__setattr__(self, "sigma_w", _checks.number(self.sigma_w, "sigma_w", above=0.0))

    @property
    def second_moment_a(self) -> float:
        """E a^2."""
        return self.sigma_a**2 + self.mean_a**2

    def place(self, standard: np.ndarray) -> np.ndarray:
        """Points (M, 1 + d) of N(0, I) carried to this law."""
        placed = standard * self.scales
        placed[:, 0] += self.mean_a
        return placed

    @property
    def scales(self) -> np.ndarray:
        """Standard deviation of each component of (a, w), (1 + d,)."""
        return np.r_[self.sigma_a, np.full(self.dim, self.sigma_w)]


class Quadrature(NamedTuple):
    """A rule for integrals against mu_0: sum_j masses_j g(nodes_j)."""

    nodes: np.ndarray  # (M, 1 + d)
    masses: np.ndarray  # (M,), summing to one


def gaussian(
    n_particles: int,
    dim: int,
    seed: int | Sequence[int] | np.random.SeedSequence = 0,
    *,
    paired: bool = False,
    sigma_a: float = 1.0,
    sigma_w: float = 1.0,
    mean_a: float = 0.0,
) -> np.ndarray:
    """An iid sample of `GaussianLaw(dim, sigma_a, sigma_w, mean_a)`, (N, 1 + d).

    With the same seed a smaller sample is the beginning of a larger one (not with `paired`).

    Parameters
    ----------
    paired : bool
        Particles in pairs (a, w), (-a, w), so that f_0 = 0 exactly; N must be even.
    """
    n_particles = _checks.count(n_particles, "n_particles")
    law = GaussianLaw(dim, sigma_a, sigma_w, mean_a)
    _pairs(n_particles, law, paired, "n_particles")
    _fits(n_particles, 1 + dim, 2)
    rng = _checks.generator(seed)
    drawn = law.place(rng.standard_normal((n_particles // 2 if paired else n_particles, 1 + dim)))
    return _with_mirror(drawn) if paired else drawn


def _pairs(number, law, paired, what):
    """Refuse pairs (a, w), (-a, w) where they do not fit."""
    if paired and number % 2:
        raise InputError(f"{what} is {number}; needed: an even number for paired=True.")
    if paired and law.mean_a != 0.0:
        raise InputError(f"mean_a is {law.mean_a:g} with paired=True; needed: 0, the mean of a over pairs a, -a.")


def _with_mirror(points):
    return np.concatenate([points, points * np.r_[-1.0, np.ones(points.shape[1] - 1)]])


def _fits(number, width, arrays):
    """Refuse what the memory would not hold, with the arrays that are there while it is made."""
    needed = {"particles": 8 * arrays * number * width}
    _memory.check(needed, f"a cloud of {number:,} particles", "Use fewer particles", adjustable=False)


def sobol(law: GaussianLaw, n_nodes: int, seed: int = 0, *, paired: bool = False) -> Quadrature:
    """Scrambled Sobol points through the inverse Gaussian distribution function; equal masses.

    With `paired` half as many points, each as (a, w) and (-a, w): f_0 = 0 exactly.

    Smooth integrands: root-mean-square error over scrambles about n_nodes^-1 and better, against n_nodes^-1/2
    for a sample. Balanced where n_nodes is a power of two, which is required. Owen (1998); scipy.stats.qmc.
    """
    _checks.instance(law, GaussianLaw, "law", "a GaussianLaw, e.g. GaussianLaw(dim)")
    n_nodes = _checks.count(n_nodes, "n_nodes")
    if 1 + law.dim > _MOST_SOBOL_DIMENSIONS:
        raise InputError(f"law has 1 + d = {1 + law.dim}; needed: at most {_MOST_SOBOL_DIMENSIONS} for Sobol points.")
    if n_nodes & (n_nodes - 1):
        near = 1 << n_nodes.bit_length()
        raise InputError(f"n_nodes is {n_nodes}; needed: a power of two for Sobol points, such as {near}.")
    _pairs(n_nodes, law, paired, "n_nodes")
    _fits(n_nodes, 1 + law.dim, 3)
    from scipy.stats import qmc  # takes longer to import than all the rest

    points = qmc.Sobol(1 + law.dim, scramble=True, rng=_checks.generator(seed))
    uniform = points.random(n_nodes // 2 if paired else n_nodes)
    # A scrambled point may be 0, whose quantile is -infinity: move it to the middle of its cell.
    uniform = np.clip(uniform, 2.0**-33, 1.0 - 2.0**-33)
    nodes = law.place(ndtri(uniform))
    return Quadrature(_with_mirror(nodes) if paired else nodes, np.full(n_nodes, 1.0 / n_nodes))


def gauss_hermite(law: GaussianLaw, order: int) -> Quadrature:
    """Tensor Gauss-Hermite rule with `order` nodes an axis, order^(1 + d) in all.

    Exact for polynomials of degree 2 order - 1 in each component; for 1 + d <= 4 and smooth activations.
    """
    _checks.instance(law, GaussianLaw, "law", "a GaussianLaw, e.g. GaussianLaw(dim)")
    order = _checks.count(order, "order")
    total = order ** (1 + law.dim)
    if total > 2**24:
        raise InputError(f"gauss_hermite of order {order} in {1 + law.dim} dimensions has {total} nodes; use sobol.")
    points, weights = roots_hermitenorm(order)  # NumPy's overflows from order 371
    weights = weights / weights.sum()
    nodes = law.place(np.array(list(product(points, repeat=1 + law.dim))))
    masses = np.array(list(product(weights, repeat=1 + law.dim))).prod(axis=1)
    return Quadrature(nodes, masses)
