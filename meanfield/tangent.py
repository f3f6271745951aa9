"""Tangent kernels (NTK): of given particles, and of the law mu_0 itself.

    K(x, x') = sum_i m_i <xi grad s(x; theta_i), grad s(x'; theta_i)>
             = sum_i m_i [ xi_a phi(z_i) phi(z'_i) + xi_w a_i^2 phi'(z_i) phi'(z'_i) x.x' ],   z_i = w_i . x

Without alpha: f moves by dF/dt = K P u in flow time (docs/notation). The first term alone, `layer="output"`, is the
random-feature kernel; the second, "inner", that of the neural tangent features of the inner weights; K is their sum.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.linalg import eigvalsh
from scipy.sparse.linalg import LinearOperator
from scipy.spatial.distance import cdist

from . import _checks, _memory, engines
from .activations import ACTIVATIONS, Activation, Polynomial
from .engines import Engine
from .errors import ConvergenceError, InputError
from .initial import GaussianLaw
from .network import Network
from .overlaps import overlap_of
from .scaling import Scaling

LAYERS = {"both": (1.0, 1.0), "output": (1.0, 0.0), "inner": (0.0, 1.0)}  # which terms of K there are


def kernel(
    network: Network,
    particles: np.ndarray,
    inputs: np.ndarray,
    other: np.ndarray | None = None,
    masses: np.ndarray | None = None,
    *,
    layer: str = "both",
    max_bytes: float | None = None,
    engine: str | Engine = "cpu",
) -> np.ndarray:
    """Tangent kernel of these particles, (n, n') float64.

    Parameters
    ----------
    particles : (N, 1 + d)
    inputs : (n, d)
    other : (n', d), optional
        Default `inputs`: then the kernel is symmetric positive semidefinite.
    masses : (N,), optional
        Default 1/N.
    layer : "both", "output" or "inner"
        Of which weights: all, the a_i (random features), or the w_i (neural tangent); with their mobilities, so that
        the kernels of the two layers add up to that of both.
    max_bytes : float, optional
        Most that the kernel and its temporaries may take; default 80 % of the free memory.
    engine : "cpu", "reference" or an Engine

    Raises
    ------
    InputError
        If shapes do not fit, or the memory does not suffice.

    Cost: 4 N n n' flops in matrix products, over blocks of particles: memory about 40 n n' bytes and 64 MiB.
    """
    if isinstance(particles, GaussianLaw):
        raise InputError(f"particles is {particles!r}; needed: an array (N, 1 + d), or tangent.infinite for a law.")
    inputs, other, particles = _points(network, inputs, other, particles=particles)
    mobility_a, mobility_w = _mobilities(network.scaling, layer)
    masses = _checks.masses(masses, len(particles), "masses")
    engine = engines.find(engine)
    computing = engine.estimate_gram(len(inputs), len(other))
    here = {
        "inputs": 3 * 8 * (len(inputs) + len(other)) * (inputs.shape[1] + 4),
        "kernel": 3 * 8 * len(inputs) * len(other),
    }
    what, free = f"a tangent kernel of {len(inputs)} x {len(other)} inputs", engine.free_memory()
    if free is None:
        _memory.check({**computing, **here}, what, "Use fewer inputs", max_bytes)
    else:
        computing["cloud"] = 8 * particles.size
        _memory.check(computing, f"{what}, on the device,", "Use fewer inputs", max_bytes, free)
        _memory.check(here, what, "Use fewer inputs", max_bytes)
    cloud, packed_masses = engine.pack(particles, "float64"), engine.pack_masses(masses, "float64")
    points = engine.pack_inputs(inputs, "float64")
    points_other = None if other is inputs else engine.pack_inputs(other, "float64")
    in_a, in_w = engine.gram(network.activation, cloud, packed_masses, points, points_other)
    return mobility_a * in_a + mobility_w * in_w * (inputs @ other.T)


def infinite(
    network: Network,
    law: GaussianLaw,
    inputs: np.ndarray,
    other: np.ndarray | None = None,
    *,
    layer: str = "both",
    max_bytes: float | None = None,
) -> np.ndarray:
    """Tangent kernel of the law mu_0, N = infinity: (n, n') float64.

        K(x, x') = xi_a E phi(z) phi(z') + xi_w E a^2 E phi'(z) phi'(z') x.x',   z = w.x, z' = w.x'

    Closed forms: erf (Williams 1997, eq. 10, arcsine), relu (Cho & Saul 2009, arc-cosine of degree 0 and 1), linear,
    and polynomials to degree 4 by Isserlis' theorem (`overlaps`); of phi(z) = z^2, with c = s^2 x.x', p = s^2 |x|^2 and
    q = s^2 |x'|^2 for w ~ N(0, s^2 I),

        E phi phi' = p q + 2 c^2,   E phi'(z) phi'(z') = 4 c.

    Any other activation: Hermite series of phi and phi' in the inputs' own scale, summed by Mehler's formula; the
    remainder is known from Parseval's identity, below 1e-9 of the largest mean of phi phi' over the inputs.

    Parameters
    ----------
    inputs, other : (n, d), and (n', d), by default the same
    layer : "both", "output" or "inner"
        As in `kernel`.
    max_bytes : float, optional
        Most that the kernel and its temporaries may take; default 80 % of the free memory.

    Raises
    ------
    InputError
        If shapes do not fit, or the memory does not suffice.
    ConvergenceError
        If the series does not reach its accuracy (an activation with a jump, or of very large slope).

    Cost: O(n n' d) in closed form. A series takes T terms in 6 T n n' + 10^4 s T (n + n') flops, s = sigma_w max |x|,
    at least 1. T grows with s, the largest norm alone: of tanh 128 at s = 1, 1,024 at 3.3 and 2,048 at 5. At s = 3.3
    and n = 80 it took 0.3 s of a core. Memory about 80 n n' bytes, and for the series 130 s kB and more for each input.
    """
    if isinstance(law, np.ndarray):
        raise InputError(f"law is an array {law.shape}; needed: a GaussianLaw, or tangent.kernel for particles.")
    _checks.instance(law, GaussianLaw, "law", "a GaussianLaw, e.g. GaussianLaw(dim)")
    inputs, other, _ = _points(network, inputs, other, law=law)
    mobilities = _mobilities(network.scaling, layer)
    entries, sides = len(inputs) * len(other), (len(inputs), len(other))
    here = {"kernel": 8 * entries, "temporaries": 9 * 8 * entries + 3 * 8 * sum(sides) * inputs.shape[1]}
    if not _is_closed(network.activation):
        rows = len(inputs) if other is inputs else sum(sides)
        here["series"] = 7 * 8 * rows * 2400  # at the least: seven arrays on the grid of N(0, 1)
    what = f"an infinite tangent kernel of {len(inputs)} x {len(other)} inputs"
    _memory.check(here, what, "Use fewer inputs, or `tangent.operator`", max_bytes)
    return _of_law(network.activation, mobilities, law, inputs, other)


def _of_law(activation, mobilities, law, seen, other):
    """The kernel of a law between inputs as the units see them."""
    values, slopes = _means(activation)(law.sigma_w * seen, law.sigma_w * other)
    return mobilities[0] * values + mobilities[1] * law.second_moment_a * slopes * (seen @ other.T)


_BLOCK_ENTRIES = 2**21  # of a law's kernel at once: with its temporaries 160 MiB


def operator(
    network: Network,
    law_or_particles: GaussianLaw | np.ndarray,
    inputs: np.ndarray,
    other: np.ndarray | None = None,
    masses: np.ndarray | None = None,
    *,
    layer: str = "both",
    engine: str | Engine = "cpu",
) -> LinearOperator:
    """The tangent kernel as a linear map c -> K c that never forms K: shape (n, n'), for large n.

    For particles K c is a derivative of f along a velocity of theirs (VJP, then JVP),

        K c = sum_i m_i <grad s(x; theta_i), v_i>,   v_i = xi sum_l c_l grad s(x'_l; theta_i);

    for a law its rows are computed in blocks, anew for every c.

    Parameters
    ----------
    law_or_particles : GaussianLaw, or (N, 1 + d)
    inputs, other, masses, layer : as in `kernel`
    engine : what computes with the particles, in float64

    Raises
    ------
    InputError
        If shapes do not fit.

    Cost of a product: 4 N (n + n') d flops and as many activations as N (n + n'), O((N + n) d) memory; of a law's that
    of `infinite`, with blocks of 2^21 entries: slow where a series is needed.
    """
    _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
    mobilities = _mobilities(network.scaling, layer)
    if isinstance(law_or_particles, GaussianLaw):
        return _product_of_law(network, law_or_particles, inputs, other, mobilities)
    return _product_of_particles(network, law_or_particles, inputs, other, masses, mobilities, engine)


def _product_of_law(network, law, inputs, other, mobilities):
    left, right, _ = _points(network, inputs, other, law=law)

    def product(left, right, weights):
        rows = max(1, _BLOCK_ENTRIES // len(right))
        blocks = (left[at : at + rows] for at in range(0, len(left), rows))
        products = [_of_law(network.activation, mobilities, law, each, right) @ weights for each in blocks]
        return np.concatenate(products)

    return _Operator((len(left), len(right)), partial(product, left, right), partial(product, right, left))


def _product_of_particles(network, particles: np.ndarray, inputs, other, masses, mobilities, engine):
    seen, seen_other, particles = _points(network, inputs, other, particles=particles)
    engine = engines.find(engine)
    cloud = engine.pack(particles, "float64")
    masses = engine.pack_masses(_checks.masses(masses, len(particles), "masses"), "float64")
    left = engine.pack_inputs(seen, "float64")
    right = left if seen_other is seen else engine.pack_inputs(seen_other, "float64")

    def product(left, right, weights):
        moved = engine.vjp(network.activation, cloud, right, np.ravel(weights), mobilities)
        sums = engine.jvp(network.activation, cloud, moved, masses, left)
        return np.array(engine.unpack_vector(engine.vector(sums)))

    return _Operator((len(seen), len(seen_other)), partial(product, left, right), partial(product, right, left))


class _Operator(LinearOperator):
    """A map and its transpose."""

    def __init__(self, shape, multiply, multiply_transposed):
        super().__init__(np.dtype(np.float64), shape)
        self._multiply, self._multiply_transposed = multiply, multiply_transposed

    def _matvec(self, x):
        return self._multiply(x)

    def _rmatvec(self, x):
        return self._multiply_transposed(x)


def drift(now: np.ndarray, start: np.ndarray) -> float:
    """Relative kernel drift norm(K_t - K_0) / norm(K_0), Frobenius."""
    now, start = (_checks.array(each, what, 2, "a kernel (n, n')") for each, what in ((now, "now"), (start, "start")))
    if now.shape != start.shape:
        raise InputError(f"kernels have shapes {now.shape} and {start.shape}; needed: the same inputs for both.")
    size = np.linalg.norm(start)
    if size == 0:
        raise InputError("the kernel at the start is zero, so a drift relative to it has no meaning.")
    return float(np.linalg.norm(now - start) / size)


def fastest(kernel: np.ndarray, weights: np.ndarray) -> float:
    """eig_max(P^1/2 K P^1/2), P = diag(p): the rate at which the fastest part of a residual decays, dr/dt = -K P r.

    eig_max(K) / n for equal weights. An explicit scheme is stable below `Tableau.stable_below` over it: 2 over it for
    Euler's. Per unit of flow time; cost O(n^3).
    """
    root = np.sqrt(weights)
    scaled, last = root[:, None] * kernel * root, len(kernel) - 1
    return float(eigvalsh(scaled, subset_by_index=(last, last))[0])


def _mobilities(scaling: Scaling, layer: str) -> tuple[float, float]:
    """(xi_a, xi_w), the one that is not of this layer 0."""
    in_a, in_w = _checks.find(LAYERS, str(layer), "layer")
    return in_a * scaling.mobility_a, in_w * scaling.mobility_w


def _points(network, inputs, other, *, particles=None, law=None):
    """Inputs as the units see them, both, and the particles, checked."""
    _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
    inputs = _checks.array(inputs, "inputs", 2, "an array (n, d)")
    other = inputs if other is None else _checks.array(other, "other", 2, "an array (n', d)")
    dim = inputs.shape[1] if law is None else law.dim - bool(network.bias)
    for points, what in ((inputs, "inputs"), (other, "other")):
        if points.shape[1] != dim:
            also = ", the law's without the bias" if law is not None and network.bias else ""
            raise InputError(f"{what} have dimension {points.shape[1]}; needed: {dim}{also}.")
    if particles is not None:
        particles = network.particles(particles, dim)
    seen = network.inputs(inputs)
    return seen, seen if other is inputs else network.inputs(other), particles


# Means of phi(z) phi(z') and phi'(z) phi'(z') over z = g.u, z' = g.v, g ~ N(0, I), for all rows u and v of two arrays:
# Gaussian (z, z') with variances p = |u|^2, q = |v|^2 and covariance c = u.v.


def _covariances(left, right):
    p, q = (np.einsum("ij,ij->i", points, points) for points in (left, right))
    return left @ right.T, p[:, None], q[None, :]


def _is_closed(activation: Activation) -> bool:
    return isinstance(activation, Polynomial) or activation in CLOSED_FORMS


def _means(activation: Activation) -> Callable:
    """(left, right) -> the two means: in closed form where there is one."""
    if isinstance(activation, Polynomial):
        return _overlap_means(activation)
    return CLOSED_FORMS.get(activation) or _hermite_means(activation)


def _overlap_means(activation):
    """Of a closed overlap, E phi phi' and its derivative in c (Price's theorem)."""

    def means(left, right):
        c, p, q = _covariances(left, right)
        values, slopes, _ = overlap_of(activation)(p, c, q)
        return values, slopes

    return means


def _relu_means(left, right):
    left_size, right_size = (np.linalg.norm(points, axis=1, keepdims=True) for points in (left, right))
    left, right = (points / np.where(size > 0, size, 1.0) for points, size in ((left, left_size), (right, right_size)))
    # The angle between unit vectors from both their distances: arccos(u.v) loses half of the digits near 0 and pi,
    # enough to make the kernel of nearly equal inputs indefinite.
    angle = 2.0 * np.arctan2(cdist(left, right), cdist(left, -right))
    values = left_size * right_size.T / (2.0 * np.pi) * (np.sin(angle) + (np.pi - angle) * np.cos(angle))
    return values, (np.pi - angle) / (2.0 * np.pi)


def _linear_means(left, right):
    return left @ right.T, np.ones((len(left), len(right)))


CLOSED_FORMS = {
    ACTIVATIONS["erf"]: _overlap_means(ACTIVATIONS["erf"]),
    ACTIVATIONS["relu"]: _relu_means,
    ACTIVATIONS["linear"]: _linear_means,
}


def _hermite_means(activation, tolerance=1e-9, most_terms=8192):
    """Means by Hermite series: E phi(z) phi(z') = sum_k c_k(p) c_k(q) rho^k, c_k(p) = E phi(sqrt(p) g) h_k(g)."""

    def means(left, right):
        c, p, q = _covariances(left, right)
        p, q = p.ravel(), q.ravel()
        size = np.sqrt(np.outer(p, q))
        rho = np.clip(np.divide(c, size, out=np.zeros_like(c), where=size > 0), -1.0, 1.0)
        distinct, back = np.unique(np.concatenate([p, q]), return_inverse=True)
        of_p, of_q = np.split(back, [len(p)])
        longer = _hermite_coefficients(activation, distinct)
        while True:
            series, lost = next(longer)
            series_p, series_q, lost_p, lost_q = series[:, of_p], series[:, of_q], lost[:, of_p], lost[:, of_q]
            terms = series.shape[2]
            # Cauchy-Schwarz on what the series leave out, relative to the largest mean; all means may vanish.
            remainders = np.sqrt(lost_p.max(axis=1) * lost_q.max(axis=1))
            sizes = (series_p**2).sum(axis=2).max(axis=1)
            remainder = (remainders / np.where(sizes > 0, sizes, 1.0)).max()
            if remainder <= tolerance:
                break
            if terms >= most_terms:
                raise ConvergenceError(
                    f"the infinite kernel of activation {activation.name!r} is known to {remainder:.1e} after {terms} "
                    f"terms; needed {tolerance:.0e}. Use `tangent.kernel` on a large quadrature rule of the law."
                )
        values, slopes = np.zeros((2, len(p), len(q)))
        for k in range(terms - 1, -1, -1):  # Horner in rho
            for total, left, right in ((values, series_p[0], series_q[0]), (slopes, series_p[1], series_q[1])):
                total *= rho
                total += np.outer(left[:, k], right[:, k])
        return values, slopes

    return means


_FIRST_TERMS, _BLOCK_TERMS = 128, 64  # of a series; and how many are taken at once, as one matrix product


def _hermite_coefficients(activation, variances):
    """(coefficients of phi and phi' (2, n, terms), what Parseval says is lost (2, n)), 128 terms, 256, 512, ..."""
    grid, weights = _trapezium(np.sqrt(variances.max()))
    functions = np.array(activation.formula(np.sqrt(variances)[:, None] * grid))  # (2, n, grid)
    before, basis = np.zeros_like(grid), np.sqrt(weights)  # h_k sqrt(w): bounded at any order
    weighted, block = functions * basis, np.empty((_BLOCK_TERMS, len(grid)))
    squares, found, k, terms = (weighted**2).sum(axis=2), [], 0, _FIRST_TERMS
    while True:
        while k < terms:
            for row in block:
                row[:] = basis
                before, basis = basis, (grid * basis - np.sqrt(k) * before) / np.sqrt(k + 1)
                k += 1
            found.append(weighted @ block.T)
        coefficients = np.concatenate(found, axis=2)
        yield coefficients, np.maximum(squares - (coefficients**2).sum(axis=2), 0.0)
        terms *= 2


def _trapezium(largest_scale):
    """Nodes and weights for means over N(0, 1) by the trapezoidal rule, exponentially accurate for analytic phi."""
    spacing = 0.01 / max(1.0, largest_scale)
    grid = np.arange(-12.0, 12.0 + spacing / 2, spacing)
    return grid, spacing * np.exp(-0.5 * grid**2) / np.sqrt(2.0 * np.pi)
