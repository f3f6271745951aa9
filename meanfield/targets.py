"""Targets of known polynomial degree or low dimension, on the sphere or on Gaussian inputs.

Each builder returns a `Problem` whose target has E f*^2 = 1 over the law of the inputs, exactly, so that an error is a
share: 1 is that of f = 0. The laws: x uniform on the sphere of radius sqrt(d), or x ~ N(0, I_d).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln

from . import _checks, _memory
from .errors import InputError
from .overlaps import sphere_factor
from .problems import Problem


def on_sphere(rng: np.random.Generator, number: int, dim: int, radius: float) -> np.ndarray:
    """Points uniform on the sphere of a radius in R^dim, (number, dim)."""
    directions = rng.standard_normal((number, dim))
    return directions * (radius / np.linalg.norm(directions, axis=1, keepdims=True))


def _fits(number, dim):
    needed = {"points": 8.0 * 3 * number * dim}
    _memory.check(needed, f"a sample of {number} inputs of dimension {dim}", "Use fewer", adjustable=False)


def _sizes(dim, n, n_test):
    sizes = _checks.count(dim, "dim"), _checks.count(n, "n"), _checks.count(n_test, "n_test")
    _fits(sizes[1] + sizes[2], sizes[0])
    return sizes


def _split(inputs, targets, n, name):
    return Problem(inputs[:n], targets[:n], test_inputs=inputs[n:], test_targets=targets[n:], name=name)


def monomials(inputs: np.ndarray, degrees: Sequence[int]) -> np.ndarray:
    """f_l(x) = c_l x_1 x_2 ... x_l for each degree l, E f_l^2 = 1 on the sphere of radius sqrt(d): (n, degrees).

    A product of different coordinates is harmonic, so f_l is of degree l and of no lower one. Isserlis: the mean of its
    square is 1 for N(0, I_d), and on the sphere `overlaps.sphere_factor(2 l, d)`. Raises InputError unless 1 <= l <= d.
    """
    dim = inputs.shape[1]
    for degree in degrees:
        if _checks.count(degree, "a degree") > dim:
            raise InputError(f"degree {degree} with inputs of dimension {dim}; needed: at most the dimension.")
    columns = [inputs[:, :degree].prod(axis=1) / math.sqrt(sphere_factor(2 * degree, dim)) for degree in degrees]
    return np.column_stack(columns)


def staircase(
    dim: int = 20, n: int = 8000, n_test: int = 4000, degrees: Sequence[int] = (1, 2, 3), seed: int = 0
) -> Problem:
    """The polynomial staircase f* ~ sum_l f_l, f_l ~ x_1 ... x_l, equal shares in each degree; x on the sphere.

    Ghorbani, Mei, Misiakiewicz & Montanari (arXiv 1904.12191): random features of d^l units learn the degrees up to l,
    neural tangent features of d^l units those up to l + 1.

    Raises InputError on degrees that repeat or exceed `dim`.
    """
    dim, n, n_test = _sizes(dim, n, n_test)
    if len(set(degrees)) != len(degrees) or not degrees:
        raise InputError(f"degrees are {tuple(degrees)}; needed: one or more, each once.")
    inputs = on_sphere(_checks.generator(seed), n + n_test, dim, math.sqrt(dim))
    targets = monomials(inputs, degrees).sum(axis=1) / math.sqrt(len(degrees))
    return _split(inputs, targets, n, "staircase")


def single_neuron(dim: int = 20, n: int = 8000, n_test: int = 4000, threshold: float = 0.0, seed: int = 0) -> Problem:
    """One relu neuron, f* ~ max(v . x - threshold, 0), v uniform on the unit sphere; x on the sphere of radius sqrt(d).

    A network learns it; linear models of N units in d dimensions do not, unless N grows faster than any power of d:
    Yehudai & Shamir (arXiv 1904.00687); for neural tangents Ghorbani et al. (arXiv 1904.12191).

    Raises InputError unless d >= 2 and the threshold is below sqrt(d), where the neuron is silent.
    """
    dim, n, n_test = _sizes(dim, n, n_test)
    threshold = _checks.number(threshold, "threshold")
    if dim < 2 or threshold >= math.sqrt(dim):
        raise InputError(f"threshold is {threshold:g} and dim {dim}; needed: dim >= 2 and a threshold below sqrt(dim).")
    rng = _checks.generator(seed)
    direction = on_sphere(rng, 1, dim, 1.0)[0]
    inputs = on_sphere(rng, n + n_test, dim, math.sqrt(dim))
    values = np.maximum(inputs @ direction - threshold, 0.0)
    return _split(inputs, values / math.sqrt(neuron_mean_square(dim, threshold)), n, "single neuron")


def neuron_mean_square(dim: int, threshold: float) -> float:
    """E max(v . x - threshold, 0)^2, |v| = 1, x uniform on the sphere of radius sqrt(d): to rounding.

    v . x = sqrt(d) cos h, h of density ~ sin^(d-2) h: Gauss-Legendre up to the kink, where the integrand is entire.
    """
    points, weights = np.polynomial.legendre.leggauss(64 + 2 * dim)
    half = 0.5 * math.acos(max(threshold / math.sqrt(dim), -1.0))
    angles = half * (1.0 + points)
    density = np.exp((dim - 2) * np.log(np.sin(angles)) - betaln(0.5, (dim - 1) / 2))
    return float(half * weights @ (density * (math.sqrt(dim) * np.cos(angles) - threshold) ** 2))


NOISE_RADII = {
    "generator": lambda dim, signal_dim: math.sqrt(dim),
    "printed": lambda dim, signal_dim: math.sqrt(signal_dim),
}


def spiked(
    dim: int = 40,
    signal_dim: int = 2,
    n: int = 600,
    n_test: int = 2000,
    spike: float = 1.0,
    noise: str = "generator",
    seed: int = 0,
) -> Problem:
    """Spiked covariates: a target of the first d_0 coordinates z, the other d - d_0 are noise.

    Ghorbani, Mei, Misiakiewicz & Montanari (arXiv 2006.13409): z uniform on the sphere of radius r sqrt(d_0), the rest
    on a sphere of the noise radius. With d_0 = d^eta and r = d^(kappa/2) the signal radius is d^((eta + kappa)/2).

        f* ~ sum_k f_k,   f_k ~ sum_i b_ki z_i z_(i+1) ... z_(i+k-1),   k = 2, 3, 4 as far as k <= d_0,

    with b_ki exponential of mean 1 and equal shares in each degree. The form is that of the authors' generator, which
    normalises by the sample.

    Parameters
    ----------
    spike : float
        r: 1 where every coordinate has the same size; the larger, the lower the effective dimension.
    noise : "generator" or "printed"
        Noise radius: sqrt(d), as in the authors' generator, or sqrt(d_0), as some accounts print it
        (docs/notation, trap 6).

    Raises InputError unless 2 <= d_0 < d.
    """
    dim, n, n_test = _sizes(dim, n, n_test)
    signal_dim = _checks.count(signal_dim, "signal_dim", least=2)
    if signal_dim >= dim:
        raise InputError(f"signal_dim is {signal_dim} and dim {dim}; needed: signal_dim < dim.")
    radius = _checks.number(spike, "spike", above=0.0) * math.sqrt(signal_dim)
    noise_radius = _checks.find(NOISE_RADII, str(noise), "noise radius")(dim, signal_dim)
    rng = _checks.generator(seed)
    signal = on_sphere(rng, n + n_test, signal_dim, radius)
    inputs = np.column_stack([signal, on_sphere(rng, n + n_test, dim - signal_dim, noise_radius)])
    unit, terms = signal / spike, []
    for degree in range(2, min(4, signal_dim) + 1):
        heights = rng.exponential(size=signal_dim - degree + 1)
        windows = np.lib.stride_tricks.sliding_window_view(unit, degree, axis=1).prod(axis=2)
        # Different products are orthogonal, each of mean square `sphere_factor`.
        terms.append(windows @ heights / math.sqrt(sphere_factor(2 * degree, signal_dim) * (heights @ heights)))
    return _split(inputs, sum(terms) / math.sqrt(len(terms)), n, "spiked covariates")


def three_spin(dim: int = 4, n: int = 300, n_test: int = 1000, seed: int = 0) -> Problem:
    """The 3-spin function f* = sum_pqr J_pqr x_p x_q x_r, J_pqr independent N(0, 1), scaled; x on the sphere.

    Rotskoff & Vanden-Eijnden (arXiv 1805.00915), section on the spherical p-spin; they divide by d instead. E f*^2 = 1
    by Isserlis' theorem: with J symmetrised and t_r = sum_p J_ppr it is 6 |J|^2 + 9 |t|^2, times the sphere's factor.

    Cost: O(n d^3).
    """
    dim, n, n_test = _sizes(dim, n, n_test)
    rng = _checks.generator(seed)
    couplings = rng.standard_normal((dim, dim, dim))
    inputs = on_sphere(rng, n + n_test, dim, math.sqrt(dim))
    return _split(inputs, cubic(couplings, inputs) / math.sqrt(cubic_mean_square(couplings)), n, "3-spin")


def cubic(couplings: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """sum_pqr J_pqr x_p x_q x_r at each input, (n,); J (d, d, d), not necessarily symmetric."""
    values, step = np.empty(len(inputs)), max(1, 2**22 // inputs.shape[1] ** 2)
    for first in range(0, len(inputs), step):
        rows = inputs[first : first + step]
        once = np.tensordot(rows, couplings, axes=1)  # (rows, d, d)
        values[first : first + step] = np.einsum("kqr,kq,kr->k", once, rows, rows, optimize=True)
    return values


def cubic_mean_square(couplings: np.ndarray) -> float:
    """E (sum_pqr J_pqr x_p x_q x_r)^2 over the sphere of radius sqrt(d), in closed form."""
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    symmetric = np.mean([couplings.transpose(order) for order in orders], axis=0)
    trace = np.einsum("ppr->r", symmetric)
    return sphere_factor(6, len(couplings)) * float(6.0 * (symmetric**2).sum() + 9.0 * trace @ trace)


def goe(dim: int, seed: int | Sequence[int] = 0) -> np.ndarray:
    """A symmetric Gaussian matrix B with 2 |B|^2 = 1, isotropic among all symmetric ones: E (x'Bx - tr B)^2 = 1."""
    square = _checks.generator(seed).standard_normal((_checks.count(dim, "dim"), dim))
    symmetric = square + square.T
    return symmetric / (math.sqrt(2.0) * np.linalg.norm(symmetric))


def quadratic(
    dim: int = 20, n: int = 8000, n_test: int = 4000, matrix: ArrayLike | None = None, seed: int = 0
) -> Problem:
    """f* = x'Bx - tr B, x ~ N(0, I_d): the target of Ghorbani et al. (arXiv 1906.08899; 1904.12191 cites it).

    matrix : (d, d) symmetric; default `goe(dim, seed)`. A given one is not normalised: E f*^2 = 2 |B|^2.

    What models of N units and a constant make of it is known exactly: `quadratics`, offset=True.
    """
    dim, n, n_test = _sizes(dim, n, n_test)
    form = goe(dim, seed) if matrix is None else symmetric_matrix(matrix)
    if len(form) != dim:
        raise InputError(f"matrix has shape {form.shape} and dim is {dim}; needed: ({dim}, {dim}).")
    inputs = _checks.generator([seed, 1]).standard_normal((n + n_test, dim))
    return _split(inputs, quadratic_form(form, inputs) - np.trace(form), n, "quadratic")


def quadratic_form(matrix: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """x'Bx at each input, (n,)."""
    return np.einsum("kp,kp->k", inputs @ matrix, inputs)


def symmetric_matrix(values: ArrayLike, what: str = "matrix") -> np.ndarray:
    """`values` as a symmetric matrix (d, d); InputError if it is not."""
    matrix = _checks.array(values, what, 2, "a symmetric matrix (d, d)")
    if matrix.shape[0] != matrix.shape[1] or np.abs(matrix - matrix.T).max() > 1e-12 * np.abs(matrix).max():
        raise InputError(
            f"{what} of shape {matrix.shape} is not symmetric; needed: (B + B') / 2, which has the same x'Bx."
        )
    return matrix
