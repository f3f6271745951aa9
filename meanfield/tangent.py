"""Tangent kernels (NTK): of given particles, and of the law mu_0 itself.

    K(x, x') = sum_i m_i <xi grad s(x; theta_i), grad s(x'; theta_i)>
             = sum_i m_i [ xi_a phi(z_i) phi(z'_i) + xi_w a_i^2 phi'(z_i) phi'(z'_i) x.x' ],   z_i = w_i . x

Without alpha: f moves by dF/dt = K P u in flow time (docs/notation). The first term alone, `layer="output"`, is the
random-feature kernel; the second, "inner", that of the neural tangent features of the inner weights; K is their sum.
"""

from functools import partial

import numpy as np
from scipy.linalg import eigvalsh
from scipy.sparse.linalg import LinearOperator

from . import _checks, _memory, engines, gaussian_means
from .engines import Engine
from .errors import InputError
from .initial import GaussianLaw
from .network import Network
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

    Piecewise linear units: one smooth integral for each pair of knots. Any other activation: Hermite series of phi and
    phi' in each input's own scale, summed by Mehler's formula, the rest known from Parseval's identity, and quadrature
    where x and x' are nearly parallel (`gaussian_means`). Each mean is good to 1e-9 of the root of E phi(z)^2
    E phi(z')^2, or of the slopes', at any norms.

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
        If 65,536 nodes do not resolve phi: a kink or a jump that is no `PiecewiseLinear`'s, or a very large slope.

    Cost: O(n n' d) in closed form, memory about 80 n n' bytes. Otherwise some microseconds an entry and up to 50 MiB
    beside: on one of two shared cores, n = n' = 80 inputs N(0, I_10) take 0.07 s for tanh, 0.09 s for
    `biased_relu`, 0.5 s for `piecewise_linear` with three knots, 1 s for softplus(20); n = 1000 and N(0, I_20) 4 s for
    tanh. The dearest entries are those of nearly parallel, long inputs: 1 ms each for tanh at norm 20.
    """
    if isinstance(law, np.ndarray):
        raise InputError(f"law is an array {law.shape}; needed: a GaussianLaw, or tangent.kernel for particles.")
    _checks.instance(law, GaussianLaw, "law", "a GaussianLaw, e.g. GaussianLaw(dim)")
    inputs, other, _ = _points(network, inputs, other, law=law)
    mobilities = _mobilities(network.scaling, layer)
    entries, sides = len(inputs) * len(other), (len(inputs), len(other))
    here = {"kernel": 8 * entries, "temporaries": 9 * 8 * entries + 3 * 8 * sum(sides) * inputs.shape[1]}
    if not gaussian_means.is_closed(network.activation):
        here["means"] = gaussian_means.bytes_of_a_tile(*sides)
    what = f"an infinite tangent kernel of {len(inputs)} x {len(other)} inputs"
    _memory.check(here, what, "Use fewer inputs, or `tangent.operator`", max_bytes)
    return _of_law(network.activation, mobilities, law, inputs, other)


def _of_law(activation, mobilities, law, seen, other):
    """The kernel of a law between inputs as the units see them."""
    left = law.sigma_w * seen
    values, slopes = gaussian_means.means(activation)(left, left if seen is other else law.sigma_w * other)
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
    of `infinite`, in blocks of 2^21 entries: for n = 1500 inputs N(0, I_20)
    half a second for relu, 7 s for `biased_relu` and 18 s for tanh on one of two shared cores, so that a kernel which
    fits is better formed once.
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
