"""Polynomial degrees: how much of a function, known at a sample of inputs, lies in each.

L2 of the inputs' law splits into orthogonal spaces V_l, polynomials of degree l orthogonal to those of lower degree:
spherical harmonics on the sphere, Hermite polynomials for Gaussian inputs. With the reproducing kernel Z_l of V_l

    E (P_l g)(x)^2 = E g(x) g(x') Z_l(x, x'),   x and x' independent,

so a sum over pairs of different points of a sample estimates the energy of degree l without bias, whatever made g.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from .errors import InputError

_ENTRIES = 2**21  # of the block of pairs formed at a time


def dimension(degree: int, dim: int) -> int:
    """Dimension of the spherical harmonics of degree l in R^d, d >= 2; Z_l(x, x) on the sphere."""
    degree, dim = _checks.count(degree, "degree", least=0), _checks.count(dim, "dim", least=2)
    return comb(dim + degree - 1, degree) - (comb(dim + degree - 3, degree - 2) if degree >= 2 else 0)


def gegenbauer(highest: int, dim: int, cosine: np.ndarray) -> np.ndarray:
    """P_l(t), the Gegenbauer (in d = 3 Legendre) polynomials with P_l(1) = 1, for l = 0..highest: (highest + 1, ...).

    (l + d - 2) P_(l+1) = (2 l + d - 2) t P_l - l P_(l-1). Orthogonal for the law of x_1 on the unit sphere of R^d.
    """
    cosine = np.asarray(cosine, dtype=float)
    found = [np.ones_like(cosine), cosine]
    for degree in range(1, highest):
        following = (2 * degree + dim - 2) * cosine * found[-1] - degree * found[-2]
        found.append(following / (degree + dim - 2))
    return np.array(found[: highest + 1])


def sphere_kernels(left: np.ndarray, right: np.ndarray, highest: int) -> np.ndarray:
    """Z_l(x, x') = dimension(l, d) P_l(cos of their angle) for inputs on spheres about 0: (highest + 1, m, m')."""
    dim = left.shape[1]
    left, right = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (left, right))
    sizes = np.array([dimension(degree, dim) for degree in range(highest + 1)])
    return sizes[:, None, None] * gegenbauer(highest, dim, left @ right.T)


def gaussian_kernels(left: np.ndarray, right: np.ndarray, highest: int) -> np.ndarray:
    """Z_l(x, x') = sum over |k| = l of He_k(x) He_k(x') / k! for x ~ N(0, I_d): (highest + 1, m, m').

    Coefficients of r^l in Mehler's kernel G = (1 - r^2)^(-d/2) exp((r s - r^2 q/2) / (1 - r^2)), s = x . x',
    q = |x|^2 + |x'|^2. From (1 - r^2)^2 G' = (s + (d - q) r + s r^2 - d r^3) G:

        (l + 1) Z_(l+1) = s Z_l + (2 (l - 1) + d - q) Z_(l-1) + s Z_(l-2) - (l - 3 + d) Z_(l-3).
    """
    dim, s = left.shape[1], left @ right.T
    q = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)
    found = [np.ones_like(s)]
    none = np.zeros_like(s)
    for degree in range(highest):
        before, second, third = (found[degree - k] if degree >= k else none for k in (1, 2, 3))
        following = s * found[degree] + (2 * (degree - 1) + dim - q) * before
        found.append((following + s * second - (degree - 3 + dim) * third) / (degree + 1))
    return np.array(found)


LAWS = {"sphere": sphere_kernels, "gaussian": gaussian_kernels}


@dataclass(frozen=True)
class Energies:
    """Energies of a function by polynomial degree.

    degrees : (L,)
    values : (L,) or (L, functions): estimates of E (P_l g)^2, without bias, so that they may be below 0
    errors : the same shape: their standard errors
    total : () or (functions,): mean of g^2 over the sample
    """

    degrees: tuple[int, ...]
    values: np.ndarray
    errors: np.ndarray
    total: np.ndarray


def energies(inputs: ArrayLike, values: ArrayLike, degrees: Sequence[int] = (0, 1, 2, 3), law: str = "sphere"):
    """Energy of a function in each polynomial degree, from its values at a sample of inputs.

        E (P_l g)^2 ~ sum_(k != k') g_k g_k' Z_l(x_k, x_k') / (m (m - 1))

    Parameters
    ----------
    inputs : (m, d), m >= 3, independent, of the law
    values : (m,) or (m, functions): g at the inputs, such as an error f - f*. It must not have been fitted to them.
    degrees : whole numbers of at least 0
    law : "sphere", uniform on a sphere about 0 in d >= 2, of any radius; or "gaussian", N(0, I_d)

    Returns
    -------
    Energies
        The standard error is the jackknife's, on average not too small (Efron & Stein 1981). Where degree l holds
        little it is about 2 sqrt(Z) E g^2 / m, Z the mean of Z_l(x, x): high degrees need a large sample.

    Raises InputError on shapes that do not fit, or inputs on no common sphere with law "sphere".
    Cost: O(m^2 (d + highest degree)), in blocks.
    """
    points = _checks.array(inputs, "inputs", 2, "an array (m, d)")
    given = np.asarray(values)
    functions = _checks.array(
        given[:, None] if given.ndim == 1 else given, "values", 2, "an array (m,) or (m, functions)"
    )
    kernels = _checks.find(LAWS, str(law), "law of inputs")
    wanted = [_checks.count(degree, "a degree", least=0) for degree in degrees]
    m = len(points)
    if len(functions) != m or m < 3 or not wanted:
        raise InputError(
            f"{m} inputs, {len(functions)} values and {len(wanted)} degrees; needed: 3 or more inputs, as many values."
        )
    if kernels is sphere_kernels:
        radii = np.linalg.norm(points, axis=1)
        if points.shape[1] < 2 or np.ptp(radii) > 1e-8 * radii.max():
            raise InputError(
                f"inputs of dimension {points.shape[1]} have norms {radii.min():g} to {radii.max():g}; needed: one "
                "sphere about 0, d >= 2. Or law='gaussian'."
            )
    sums = np.empty((len(wanted), *functions.shape))  # sum over the others of g_k g_k' Z_l
    for first in range(0, m, step := max(1, _ENTRIES // m)):
        rows = slice(first, first + step)
        block = kernels(points[rows], points, max(wanted))[wanted]
        own = np.arange(block.shape[1])
        block[:, own, first + own] = 0.0
        sums[:, rows] = functions[rows] * (block @ functions)
    mean = sums.sum(axis=1) / (m * (m - 1))
    # Without point k the estimate is (m (m-1) mean - 2 sums_k) / ((m-1) (m-2)).
    without = (m * (m - 1) * mean[:, None] - 2.0 * sums) / ((m - 1) * (m - 2))
    errors = np.sqrt((m - 1) / m * ((without - without.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))
    total = (functions**2).mean(axis=0)
    if given.ndim == 1:
        mean, errors, total = mean[:, 0], errors[:, 0], total[0]
    return Energies(tuple(wanted), mean, errors, total)
