"""The mean-field limit for two Gaussians, reduced to the law of the radii of the weights.

Inputs x | y ~ N(0, S_y) and weights of a law that no rotation within a block of coordinates changes stay so. A unit
then matters only through a and the radii r_b = |w_b| on the blocks, and the predictor through the radii of x:

    F(x) = alpha int a h(r_1 |x_1|, ..., r_B |x_B|) dmu,   h(t) = E phi(sum_b t_b omega_b),

omega_b the first coordinates of independent uniform points on the unit spheres. By the chain rule the flow is

    da/dt = (xi_a/alpha) E[u h],   dr_b/dt = (xi_w/alpha) a E[u |x_b| dh/dt_b],   u = -dl/dF(F(x), y)

and a weight that reaches r_b = 0 (a unit with a kink at 0 may push it there) stays: by symmetry nothing pulls it in any
direction. Mei, Montanari & Nguyen (arXiv 1804.06561), section 3, who let d go to infinity in h; here d is what it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.special import betainc, gammaln, roots_genlaguerre, roots_hermitenorm, roots_jacobi
from scipy.stats import chi
from tqdm.auto import tqdm

from .. import _checks, _memory
from ..activations import ACTIVATIONS, Activation, PiecewiseLinear
from ..engines import host
from ..errors import ConvergenceError, InputError
from ..initial import GaussianLaw
from ..integrators import StateLost, StepLimitReached, stepper
from ..losses import LOSSES, Loss
from ..network import Network
from ..problems import TwoGaussians

_PANEL = 8  # Gauss points on a piece of the radii's law
_TAIL = 1e-15  # of the radii's law, left out on either side
_LEAST_ANGLES = (
    4  # and the rule's half, to 8; with fewer, and a kink of the units is one of h; the flow would slide along it
)
_ENTRIES = 2**21  # of the arrays over (particles, radii of x, angles) formed at a time


@dataclass(frozen=True, eq=False, repr=False)
class RadialLimit:
    """The predictor of the limit and the law of (a, r_1, ..., r_B).

    times : (T,)
    risks : (T,), E (y - F)^2 over the two Gaussians
    particles : (T, M, 1 + B), rows (a, r_1, ..., r_B); masses : (M,)
    error : (T,)
        Difference of the risk to that with half as many nodes in every rule.
    n_nodes : nodes to a radius
    """

    network: Network
    data: TwoGaussians
    times: np.ndarray
    risks: np.ndarray
    particles: np.ndarray
    masses: np.ndarray
    error: np.ndarray
    n_nodes: int
    rules: "_Rules"

    def predict(self, inputs: np.ndarray, index: int = -1) -> np.ndarray:
        """F at inputs (n, d) at one of the times, (n,)."""
        inputs = _checks.array(inputs, "inputs", 2, f"an array (n, {self.data.dim})")
        if inputs.shape[1] != self.data.dim:
            raise InputError(f"inputs have dimension {inputs.shape[1]}; needed: {self.data.dim}.")
        edges = np.cumsum(self.data.dims)[:-1]
        radii = np.stack([np.linalg.norm(part, axis=1) for part in np.split(inputs, edges, axis=1)], axis=1)
        return self.rules.predict(self.particles[index], self.masses, radii) - self.rules.start(radii)

    def __repr__(self) -> str:
        return (
            f"RadialLimit({self.network.activation.name}, dims={self.data.dims}, t=0..{self.times[-1]:g}, "
            f"{len(self.masses)} nodes, final risk {self.risks[-1]:.6g}, known to {self.error.max():.1e})"
        )


def radial(
    network: Network,
    data: TwoGaussians,
    law: GaussianLaw,
    times: Sequence[float] | np.ndarray,
    *,
    loss: str = "squared",
    n_nodes: int | None = None,
    tolerance: float | None = None,
    max_nodes: int = 512,
    rtol: float = 1e-10,
    atol: float = 1e-12,
    max_steps: int = 100_000,
    progress: bool = False,
) -> RadialLimit:
    """Solve the reduced distributional dynamics of `TwoGaussians` along its characteristics.

    Parameters
    ----------
    network : with alpha = O(1)
        Units without an output weight (a = 1 for ever): `Scaling(mobility_a=0)` and a law of sigma_a = 0, mean_a = 1.
    data : TwoGaussians
        Of one or two blocks, each of two dimensions or more.
    law : GaussianLaw
        mu_0 of (a, w).
    times : increasing flow times (twice the time of Mei, Montanari & Nguyen)
    loss : of `losses`
    n_nodes : int
        Nodes of the law of each radius, rounded up to a multiple of 16: pieces of eight Gauss points each, for the flow
        grows steep between units that escape and units that stay. Default 96, or 16 with two blocks. Radii of x have
        half as many nodes, a a quarter, an angle half but 12 at least.
    tolerance : float, optional
        Double the nodes until the error of the risk is below it.
    max_nodes : int
        Where the doubling stops.
    rtol, atol, max_steps : of dopri5
    progress : bool
        A bar on standard error, if that is a terminal; it begins again with every doubling.

    Raises
    ------
    InputError
        On arguments that do not fit.
    ConvergenceError
        If `tolerance` is not met with `max_nodes`; says what was reached.

    Rules: radii of w composite Gauss and Legendre, radii of x Gauss and Laguerre, a Gauss and Hermite, angles in closed
    form (piecewise linear units and relu, one block) or Gauss and Jacobi.

    Cost: a velocity takes M n values of h, M nodes of the law (n_nodes, squared with two blocks, times n_nodes / 4
    where sigma_a is not 0) and n radii of x (n_nodes, or n_nodes^2 / 2 with two blocks). With one block and a closed
    form a value is two incomplete beta functions, seconds in all; else a sum over all angles. Two blocks: minutes.
    """
    times = _checks.times(times)
    _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
    _checks.instance(data, TwoGaussians, "data", "problems.TwoGaussians, e.g. TwoGaussians.isotropic()")
    if not isinstance(law, GaussianLaw) or law.dim != data.dim:
        raise InputError(f"law is {law!r}; needed: a GaussianLaw of dim {data.dim}, the inputs' dimension.")
    if network.bias:
        raise InputError(f"the network has bias {network.bias:g}; needed: none, for a law of radii.")
    blocks = len(data.dims)
    if blocks > 2 or min(data.dims) < 2:
        raise InputError(f"data has blocks of dimensions {data.dims}; needed: one or two, each of two or more.")
    n_nodes = _checks.count((96 if blocks == 1 else 16) if n_nodes is None else n_nodes, "n_nodes")
    n_nodes = 2 * _PANEL * -(-n_nodes // (2 * _PANEL))
    max_nodes = _checks.count(max_nodes, "max_nodes")
    if tolerance is not None:
        tolerance = _checks.number(tolerance, "tolerance", above=0.0)
    found = _checks.find(LOSSES, loss, "loss")
    _checks.instance(found, Loss, "loss", f"one of {', '.join(LOSSES)} or a losses.Loss")
    solve = partial(_solve, network, data, law, found, times, rtol, atol, max_steps, progress)
    coarse = solve(n_nodes // 2)
    while True:
        rules, particles, risks = solve(n_nodes)
        error = np.abs(risks - coarse[2])
        if tolerance is None or error.max() <= tolerance:
            break
        if 2 * n_nodes > max_nodes:
            raise ConvergenceError(
                f"the radial limit is known to {error.max():.1e} with {n_nodes} nodes to a radius; needed: "
                f"{tolerance:.1e}. Raise max_nodes or the tolerance."
            )
        coarse, n_nodes = (rules, particles, risks), 2 * n_nodes
    return RadialLimit(network, data, times, risks, particles, rules.masses, error, n_nodes, rules)


def _solve(network, data, law, loss, times, rtol, atol, max_steps, progress, n_nodes):
    rules = _Rules(network, data, law, loss, n_nodes)
    schedule = stepper("dopri5", dt=None, rtol=rtol, atol=atol, max_steps=max_steps)
    state, now, kept = (rules.nodes,), 0.0, []
    bar = tqdm(total=float(times[-1]), unit="t", disable=None if progress else True, leave=False)

    def on_step(at, _):
        bar.update(at - bar.n)

    for time in times:
        try:
            state = schedule.advance(rules.velocity, (host,), state, now, time, on_step)
        except (StateLost, StepLimitReached):
            raise ConvergenceError(
                f"the radial limit was not integrated to t = {time:g} within {max_steps} steps of finite numbers; "
                "raise max_steps, or loosen rtol and atol."
            ) from None
        now = time
        kept.append(np.column_stack([state[0][:, 0], np.maximum(state[0][:, 1:], 0.0)]))
    bar.close()
    risks = [rules.risk(particles) for particles in kept]
    return rules, np.array(kept), np.array(risks)


class _Rules:
    """The law of (a, r) and of the radii of x as nodes and masses, and the flow between them."""

    def __init__(self, network, data, law, loss, n_nodes):
        self.network, self.loss = network, loss
        half = n_nodes // 2
        # Half as many nodes must be fewer of every kind, for the error is the difference; from 32 nodes on half it is.
        self.profile = _profile(network.activation, data.dims, max(_LEAST_ANGLES + min(half, 8), half))
        axes = [_heights(law, max(2, n_nodes // 4))] + [_radii(each, law.sigma_w, n_nodes) for each in data.dims]
        size = np.prod([len(points) for points, _ in axes]) * 2 * half ** len(data.dims)
        needed = {"values of h": 8 * (1 + len(data.dims)) * size, "at a time": 8 * 8 * _ENTRIES}
        _memory.check(needed, f"a radial limit of {n_nodes} nodes to a radius", "Use fewer n_nodes", adjustable=False)
        self.nodes, self.masses = _tensor(axes)
        inputs = [_tensor([_chi(each, half, s) for each, s in zip(data.dims, scales, strict=True)])
                  for scales in (data.plus, data.minus)]  # fmt: skip
        self.radii = np.concatenate([points for points, _ in inputs])
        self.weights = np.concatenate([masses for _, masses in inputs]) / 2.0
        self.targets = np.repeat([1.0, -1.0], [len(masses) for _, masses in inputs])
        self.offset = self.start(self.radii)

    def start(self, radii):
        """s f_0 of the predictor F = f - s f_0."""
        factor = self.network.scaling.offset
        return factor * self.predict(self.nodes, self.masses, radii) if factor else 0.0

    def predict(self, particles, masses, radii):
        """f at inputs of these radii, (n,)."""
        total = np.zeros(len(radii))
        for rows in _blocks(len(particles), len(radii) * self.profile.angles):
            values = self.profile(self._arguments(particles[rows], radii))[0]
            total += (masses[rows] * particles[rows, 0]) @ values
        return self.network.scaling.alpha * total

    def risk(self, particles):
        predictions = self.predict(particles, self.masses, self.radii) - self.offset
        return self.weights @ (self.targets - predictions) ** 2

    def velocity(self, state, out=None):
        (particles,), scaling = state, self.network.scaling
        blocks = _blocks(len(particles), len(self.radii) * self.profile.angles)
        parts = [self.profile(self._arguments(particles[rows], self.radii)) for rows in blocks]
        sums = sum((self.masses[rows] * particles[rows, 0]) @ part[0] for rows, part in zip(blocks, parts, strict=True))
        pull = self.loss.pull(scaling.alpha * sums - self.offset, self.targets) * self.weights / scaling.alpha
        moved, seen = np.empty_like(particles), scaling.input_scale * self.radii
        for rows, (values, slopes) in zip(blocks, parts, strict=True):
            moved[rows, 0] = scaling.mobility_a * (values @ pull)
            for block, slope in enumerate(slopes):
                speed = scaling.mobility_w * particles[rows, 0] * (slope @ (pull * seen[:, block]))
                moved[rows, 1 + block] = np.where(particles[rows, 1 + block] > 0.0, speed, 0.0)
        return (moved,)

    def _arguments(self, particles, radii):
        """t_b = r_b |x_b|, each (rows, n)."""
        seen = self.network.scaling.input_scale * radii
        radii_w = np.maximum(particles[:, 1:], 0.0)  # a step may end below 0 by its tolerance
        return [np.multiply.outer(radii_w[:, block], seen[:, block]) for block in range(radii.shape[1])]


def _blocks(rows, width):
    step = max(1, _ENTRIES // width)
    return [slice(first, first + step) for first in range(0, rows, step)]


# Rules


def _tensor(axes):
    """Nodes (M, axes) and masses (M,) of a product of one-dimensional rules."""
    nodes = np.array(list(product(*(points for points, _ in axes))))
    return nodes, np.array(list(product(*(masses for _, masses in axes)))).prod(axis=1)


def _heights(law, order):
    """Of a ~ N(mean_a, sigma_a^2)."""
    if law.sigma_a == 0.0:
        return np.array([law.mean_a]), np.ones(1)
    points, weights = roots_hermitenorm(order)
    return law.mean_a + law.sigma_a * points, weights / weights.sum()


def _radii(dim, scale, n_nodes):
    """Of |w|, w ~ N(0, scale^2 I_dim): composite Gauss and Legendre between the tails."""
    density: Any = chi(dim, scale=scale)
    edges = np.linspace(density.ppf(_TAIL), density.isf(_TAIL), max(1, n_nodes // _PANEL) + 1)
    points, weights = leggauss(_PANEL)
    widths = np.diff(edges)[:, None]
    nodes = (edges[:-1, None] + (points + 1.0) / 2.0 * widths).ravel()
    masses = (weights / 2.0 * widths).ravel() * density.pdf(nodes)
    return nodes, masses / masses.sum()


def _chi(dim, order, scale):
    """Of |x|, x ~ N(0, scale^2 I_dim): |x|^2 / (2 scale^2) has a Gamma law, whose polynomials are Laguerre's."""
    points, weights = roots_genlaguerre(order, dim / 2.0 - 1.0)
    return scale * np.sqrt(2.0 * points), weights / weights.sum()


# The mean of a unit over the directions of its weights


@dataclass(frozen=True)
class _Profile:
    """h and its derivatives: arrays t_1, ..., t_B of one shape -> (h, (dh/dt_1, ..., dh/dt_B))."""

    formula: Callable
    angles: int  # values that it forms for each of the results

    def __call__(self, arguments):
        return self.formula(arguments)


def _profile(activation: Activation, dims, order) -> _Profile:
    if activation == ACTIVATIONS["relu"]:
        activation = PiecewiseLinear("relu", activation.formula)  # its knot at 0, its slope 1
    if isinstance(activation, PiecewiseLinear):
        if len(dims) == 1:
            return _Profile(partial(_by_pieces, activation, dims[0], [(0.0, 1.0)]), 1)
        return _Profile(partial(_by_pieces, activation, dims[0], list(zip(*_sphere(dims[1], order), strict=True))), 1)
    angles, masses = _tensor([_sphere(each, order) for each in dims])
    return _Profile(partial(_by_angles, activation, angles, masses), len(masses))


def _sphere(dim, order):
    """Of the first coordinate of a uniform point on the unit sphere: density ~ (1 - omega^2)^((dim - 3) / 2)."""
    points, weights = roots_jacobi(order, (dim - 3.0) / 2.0, (dim - 3.0) / 2.0)
    return points, weights / weights.sum()


def _by_angles(activation, angles, masses, arguments):
    """By a rule over all the angles; for smooth units."""
    values, slopes = activation.formula(np.stack(arguments, axis=-1) @ angles.T)
    return values @ masses, [slopes @ (masses * angle) for angle in angles.T]


def _by_pieces(activation, dim, outer, arguments):
    """In closed form over the first angle, by the rule `outer` over the second."""
    first, values = arguments[0], np.full_like(arguments[0], activation.left)
    slopes = [np.zeros_like(each) for each in arguments]
    for knot, jump in zip(activation.knots, activation.jumps, strict=True):
        for omega, mass in outer:
            level = knot if len(arguments) == 1 else knot - omega * arguments[1]
            chance, reach = _beyond(dim, first, level)
            values += jump * mass * (first * reach - level * chance)
            slopes[0] += jump * mass * reach
            if len(arguments) == 2:
                slopes[1] += jump * mass * omega * chance
    return values, slopes


def _beyond(dim, t, level):
    """P(t omega > level) and E[omega; t omega > level], omega the first coordinate on the unit sphere, t >= 0.

    With s = level / t in [-1, 1] the first is I(1 - s^2; (dim - 1)/2, 1/2) / 2, I the incomplete beta function, for
    s >= 0, and the second Gamma(dim/2) / (2 sqrt(pi) Gamma((dim + 1)/2)) (1 - s^2)^((dim - 1)/2).
    """
    s = np.clip(level / np.maximum(t, 1e-300), -1.0, 1.0)
    rest = (1.0 - s) * (1.0 + s)
    tail = betainc((dim - 1.0) / 2.0, 0.5, rest) / 2.0
    height = np.exp(gammaln(dim / 2.0) - gammaln((dim + 1.0) / 2.0)) / (2.0 * np.sqrt(np.pi))
    return np.where(s >= 0.0, tail, 1.0 - tail), height * rest ** ((dim - 1.0) / 2.0)
