"""The distributional dynamics as a partial differential equation, by finite volumes on a grid of (a, w).

For one input dimension, where mu_t has a density rho on the plane. Nothing here is a particle: it is what particles
and quadrature along characteristics are held against, and it is deterministic where they need noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from .. import _checks, _memory
from ..errors import ConvergenceError, DivergenceError, InputError, StepLimitError
from ..fields import check_temperature, ridge_rate
from ..initial import GaussianLaw
from ..network import Network
from ..population import Population
from ..problems import Problem
from .mean_field import check_law

_DEVIATIONS = 7.0  # of the law, to each side, in the default extent: 5e-12 of the mass is outside
_MARGIN = 0.9  # of the largest step is taken, since velocities grow at times; the whole of it is allowed
_GROWTH = 1.5  # a step is kept until one so much longer would do
_NOTHING = 1e-200  # smaller masses are none: they would underflow, which is slow, and round where positivity is proved
_SIDES = "a low", "a high", "w low", "w high"


@dataclass(frozen=True, eq=False, repr=False)
class GridLimit:
    """The law on the grid along the flow, and its predictor.

    times : (T,)
    predictions, test_predictions : (T, n), (T, m): F = f - s f_0
    edges_a, edges_w : (n_a + 1,), (n_w + 1,): faces of the cells
    masses : (T, n_a, n_w), of the cells: none negative, sum one
    edge_mass : (T,), the mass in the outermost cells
    steps : accepted steps
    """

    network: Network
    problem: Problem
    times: np.ndarray
    predictions: np.ndarray
    test_predictions: np.ndarray
    edges_a: np.ndarray
    edges_w: np.ndarray
    masses: np.ndarray
    edge_mass: np.ndarray
    steps: int

    @property
    def density(self) -> np.ndarray:
        """Averages of rho over the cells, (T, n_a, n_w)."""
        return self.masses / np.outer(np.diff(self.edges_a), np.diff(self.edges_w))

    def marginals(self, index: int = -1) -> tuple[np.ndarray, np.ndarray]:
        """Masses of the cells of a, (n_a,), and of w, (n_w,), at time `index`."""
        return self.masses[index].sum(axis=1), self.masses[index].sum(axis=0)

    def atoms(self, index: int = -1, cut: float = 1e-9) -> tuple[np.ndarray, np.ndarray]:
        """Centres of the cells, (M, 2), and their masses, (M,), at time `index`, for `transport.w2`.

        The lightest cells are left out, together at most `cut` of the mass, and the rest is scaled to sum to one: W2
        moves by at most sqrt(cut) times the diagonal of the grid. An atom stands for a cell that is h_a by h_w:
        second moments are h^2 / 12 above those of rho, and W2 to it is of that order of h at least.

        Raises InputError unless 0 <= cut < 1.
        """
        cut = _checks.number(cut, "cut", least=0.0)
        if cut >= 1.0:
            raise InputError(f"cut is {cut:g}; needed: below 1, the part of the mass that is left out.")
        mass = self.masses[index].ravel()
        order = np.argsort(mass)
        kept = np.sort(order[np.cumsum(mass[order]) > cut])
        a, w = np.meshgrid(_centres(self.edges_a), _centres(self.edges_w), indexing="ij")
        return np.column_stack([a.ravel()[kept], w.ravel()[kept]]), mass[kept] / mass[kept].sum()

    def __repr__(self) -> str:
        n_a, n_w = self.masses.shape[1:]
        return (
            f"GridLimit({self.problem.name!r}, {self.network.activation.name}, t=0..{self.times[-1]:g}, "
            f"{n_a} x {n_w} cells, {_extent(self.edges_a, self.edges_w)}, {self.steps} steps, "
            f"mass at the edge {self.edge_mass.max():.1e})"
        )


def grid(
    network: Network,
    problem: Problem,
    law: GaussianLaw,
    times: Sequence[float] | np.ndarray,
    *,
    cells: int | tuple[int, int] = 256,
    extent: tuple[tuple[float, float], tuple[float, float]] | None = None,
    courant: float = 0.5,
    dt: float | None = None,
    temperature: float = 0.0,
    ridge: float = 0.0,
    tolerance: float = 1e-6,
    max_steps: int = 100_000,
    max_bytes: float | None = None,
    progress: bool = False,
) -> GridLimit:
    """Solve the distributional dynamics for the density rho(a, w) of mu_t on a grid, one input dimension.

        d_t rho = -div(rho v) + tau Laplacian rho,   u = -dl/dF,   F(x) = alpha int a phi(w x) rho - s f_0(x)
        v = (xi_a/alpha sum_k p_k u_k phi(w x_k),   xi_w/alpha a sum_k p_k u_k phi'(w x_k) x_k) - xi lambda (a, w)

    Mei, Misiakiewicz & Montanari (arXiv 1902.06015), eq. (DD); with noise Mei, Montanari & Nguyen (arXiv 1804.06561),
    section 3. Nothing flows through the boundary.

    Transport is by finite volumes: central (Fromm) slopes s in each cell, cut to |s| h <= 2 rho and not otherwise, so
    that smooth extrema stay; upwind fluxes; Heun's method, with the velocity of each stage. A stage is positive: along
    an axis the values at the two faces of a cell, rho +- s h / 2, are not negative and have the sum 2 rho. Hence the
    part of a cell that flows out is at most 2 dt (max|v_a|/h_a + max|v_w|/h_w), and it is not more than there is where

        dt (max|v_a|/h_a + max|v_w|/h_w) <= courant <= 1/2.

    Heun's result is the mean of the start and a second stage. Where that stage breaks the condition, the step is done
    again, shorter. Diffusion is exp(t tau L), L the no-flux difference Laplacian, a doubly stochastic matrix, in half
    steps before and after the transport (Strang). Second order in space and time.

    Parameters
    ----------
    network, problem : inputs of dimension 1
    law : GaussianLaw
        mu_0. Its cells' masses are differences of the Gaussian distribution function.
    times : increasing flow times
    cells : number of cells an axis, or those of (a, w); at least 4
    extent : ((a_low, a_high), (w_low, w_high)), optional
        Default: 7 standard deviations of the law to each side, or of what noise and ridge alone make of it.
    courant : float in (0, 1/2]
    dt : float, optional
        A longest step. Beside the condition above steps are kept below courant h / sigma over the trace of the kernel
        K P plus the ridge, the largest of the two axes: F is then resolved as rho is. (That is for |d u/dF| <= 1; give
        dt for a loss that is steeper.)
    temperature : tau >= 0, as in `simulate`; needs mobilities of 1
    ridge : lambda >= 0, as in `simulate`; needs equal mobilities
    tolerance : float
        The most mass in the outermost cells at any step, and in mu_0 outside of the extent, which is scaled away.
    max_steps, max_bytes, progress : as in `simulate`

    Raises
    ------
    InputError
        On arguments that do not fit, other dimensions and a `Population` too, and an extent that cuts mu_0.
    ConvergenceError
        If more than `tolerance` comes to the boundary: says to which side.
    DivergenceError
        If the velocity is not finite; `state` is the array of masses.
    StepLimitError
        If `max_steps` are spent.

    Cost: O(n_a n_w + (n_a + n_w) n) a step and, with a temperature, n_a n_w (n_a + n_w) multiplications; the number of
    steps grows like 1/h. Memory: 2 T + 16 arrays of n_a n_w, eight of n_w n. 256 x 256 to t = 5: some seconds.
    """
    times = _checks.times(times)
    scaling = _check_setting(network, problem, law)
    temperature, confinement = check_temperature(scaling, temperature), ridge_rate(scaling, ridge)
    courant = _checks.number(courant, "courant", above=0.0)
    if courant > 0.5:
        raise InputError(f"courant is {courant:g}; needed: at most 1/2, up to which no cell becomes negative.")
    longest = np.inf if dt is None else _checks.number(dt, "dt", above=0.0)
    tolerance, max_steps = _checks.number(tolerance, "tolerance", above=0.0), _checks.count(max_steps, "max_steps")
    n_a, n_w = _check_cells(cells)
    _check_memory(n_a, n_w, len(times), len(problem.inputs) + len(problem.test_inputs), temperature, max_bytes)
    bounds = _extent_of(law, times[-1], temperature, confinement) if extent is None else _check_extent(extent)
    (edges_a, mass_a), (edges_w, mass_w) = (
        _axis(each, number, mean, sigma, tolerance, name)
        for each, number, mean, sigma, name in zip(bounds, (n_a, n_w), (law.mean_a, 0.0), law.scales, "aw", strict=True)
    )
    mass = np.outer(mass_a, mass_w)
    field = _Field(network, problem, law, (edges_a, edges_w), mass, temperature, confinement, courant, longest)
    kept, counts, outputs, test_outputs, at_edge = [], [], [], [], []
    with (
        threadpool_limits(1, user_api="blas"),  # its threads, waiting between small products, cost more than they do
        tqdm(total=float(times[-1]), unit="t", disable=None if progress else True, leave=False) as bar,
    ):

        def on_step(now, mass):
            bar.update(now - bar.n)
            return _check_edge(mass, now, tolerance, edges_a, edges_w)

        for target, (reached, steps) in zip(times, _states(field, mass, times, max_steps, on_step), strict=True):
            kept.append(reached)
            counts.append(steps)
            outputs.append(field.output(reached) - field.offset)
            test_outputs.append(field.test_output(reached) - field.test_offset)
            at_edge.append(on_step(float(target), reached))
    return GridLimit(
        network, problem, times, np.array(outputs), np.array(test_outputs), edges_a, edges_w, np.array(kept),
        np.array(at_edge), counts[-1],
    )  # fmt: skip


def _states(field, mass, times, max_steps, on_step):
    """Masses at each of the times, and the number of steps so far."""
    # `owed` is time of diffusion that the mass is behind by: the half steps between two transports are one product.
    now, owed, steps, tried = 0.0, 0.0, 0, 0
    step, size, left = field.drift(mass).step, 0.0, 0
    for target in times.tolist():
        left = 0
        while now < target:
            if not step > 0.0:
                raise DivergenceError(
                    f"the velocity is not finite at step {tried}, after t = {now:g}; check the loss. The last good "
                    "masses are in the error's `state`.",
                    step=tried, time=now, state=mass,
                )  # fmt: skip
            if left == 0:
                left = max(1, int(np.ceil((target - now) / step * (1.0 - 1e-12))))
                size = (target - now) / left
            if tried == max_steps:
                raise StepLimitError(
                    f"{max_steps} steps were spent before t = {target:g}; raise max_steps or dt, use fewer cells or a "
                    "smaller extent."
                )
            tried += 1
            moved, step = field.transported(field.diffused(mass, owed + 0.5 * size), size)
            if moved is None:
                left = 0
                continue
            mass, owed, steps, left = moved, 0.5 * size, steps + 1, left - 1
            now = target if left == 0 else now + size
            on_step(now, mass)
            if not _MARGIN * size <= step <= _GROWTH * size:
                left = 0
        mass, owed = field.diffused(mass, owed), 0.0
        yield mass, steps


class _Drift(NamedTuple):
    """Velocities at the inner faces, (n_a - 1 or 1, n_w) and (n_a, n_w - 1), and what they allow."""

    a: np.ndarray
    w: np.ndarray
    speed: float  # Courant number of a unit of time
    step: float  # the longest step to take


class _Field:
    """What moves cell masses: velocity, predictor and steps, with phi and phi' on the grid."""

    def __init__(self, network, problem, law, edges, mass, temperature, confinement, courant, longest):
        scaling, formula = network.scaling, network.activation.formula
        self.problem, self.alpha = problem, scaling.alpha
        self.mobilities = scaling.mobility_a, scaling.mobility_w
        self.temperature, self.confinement = temperature, confinement
        self.edges, self.centres = edges, (_centres(edges[0]), _centres(edges[1]))
        self.widths = tuple(float(each[1] - each[0]) for each in edges)
        self.courant, self.longest = courant * (1.0 - 1e-12), longest  # room for rounding, where courant is 1/2
        self.spacing = max(h / sigma for h, sigma in zip(self.widths, law.scales, strict=True))
        w, inputs = self.centres[1], network.inputs(problem.inputs[:, 0])
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            self.value, slope = formula(np.outer(w, inputs))
            self.face_slope = formula(np.outer(edges[1][1:-1], inputs))[1] * inputs
            self.squares = np.array([self.value**2, (slope * inputs) ** 2])
            self.units = _at_points(formula, w, inputs)
            self.test_units = _at_points(formula, w, network.inputs(problem.test_inputs[:, 0]))
        for table in (self.face_slope, self.squares, self.units, self.test_units):
            if not np.isfinite(table).all():
                raise InputError(
                    f"activation {network.activation.name!r} or its slope is not finite for w from {edges[1][0]:g} to "
                    f"{edges[1][-1]:g}; needed: an extent and inputs for which they and their squares are."
                )
        self._heat = lru_cache(maxsize=8)(_heat)  # steps are kept, so that few are needed
        self.offset = scaling.offset * self.output(mass)
        self.test_offset = scaling.offset * self.test_output(mass)

    def output(self, mass):
        """f at the training inputs, (n,)."""
        return self.alpha * (self.centres[0] @ mass) @ self.units

    def test_output(self, mass):
        """f at the test inputs, (m,)."""
        return self.alpha * (self.centres[0] @ mass) @ self.test_units

    def drift(self, mass):
        """The velocity where the law is this, and the step that it allows."""
        problem, (edges_a, edges_w), (a, _) = self.problem, self.edges, self.centres
        with np.errstate(over="ignore", invalid="ignore"):  # a step of 0 or NaN is refused
            pull = problem.loss.pull(self.output(mass) - self.offset, problem.targets)
            weights = problem.weights * pull / self.alpha
            in_a = self.mobilities[0] * (self.value @ weights)[None, :]
            in_w = self.mobilities[1] * np.outer(a, self.face_slope @ weights)
        if self.confinement:
            in_a = in_a - self.confinement * edges_a[1:-1, None]
            in_w -= self.confinement * edges_w[1:-1]
        speed = float(np.abs(in_a).max() / self.widths[0] + np.abs(in_w).max() / self.widths[1])
        # the trace of K P, K the tangent kernel, bounds its eigenvalues
        blocks = self.mobilities[0] * mass.sum(axis=0), self.mobilities[1] * (a**2 @ mass)
        trace = sum(each @ table @ problem.weights for each, table in zip(blocks, self.squares, strict=True))
        rate = max(speed / _MARGIN, float(trace + self.confinement) / self.spacing)
        step = self.courant / rate if rate else np.inf
        return _Drift(in_a, in_w, speed, np.minimum(step, self.longest))

    def transported(self, mass, size):
        """The mass after a step of Heun's method, None where a stage breaks the condition; and a step to take next."""
        first = self.drift(mass)
        if not size * first.speed <= self.courant:
            return None, first.step
        once = self.euler(mass, first, size)
        second = self.drift(once)
        step = np.minimum(first.step, second.step)
        if not size * second.speed <= self.courant:
            return None, step
        moved = 0.5 * (mass + self.euler(once, second, size))
        moved[np.abs(moved) < _NOTHING] = 0.0  # were one negative, it would show
        return moved, step

    def diffused(self, mass, t):
        """The mass after diffusion alone for a time t."""
        if self.temperature == 0.0 or t == 0.0:
            return mass
        t = float(f"{t:.12g}")  # steps that differ by rounding share their matrices
        in_a, in_w = (
            self._heat(number, self.temperature * t / h**2) for number, h in zip(mass.shape, self.widths, strict=True)
        )
        moved = in_a @ mass @ in_w.T
        return moved * (
            mass.sum() / moved.sum()
        )  # of columns that sum to one only rounding is left, which would add up

    def euler(self, mass, drift, size):
        """One explicit step: what leaves a cell through a face is what the next one gets."""
        moved = mass.copy()
        # the transposes, so that both axes go through the same lines
        for along, speed, to, h in (
            (mass, drift.a, moved, self.widths[0]),
            (mass.T, drift.w.T, moved.T, self.widths[1]),
        ):
            low, high = _face_values(along)
            crossing = np.where(speed > 0.0, high[:-1], low[1:])
            crossing *= speed * (size / h)
            to[:-1] -= crossing
            to[1:] += crossing
        return moved


def _face_values(mass):
    """A cell's linear reconstruction at its low and its high face on the first axis: Fromm's slope, kept positive."""
    half = np.empty_like(mass)  # of the change across the cell
    np.subtract(mass[2:], mass[:-2], out=half[1:-1])
    np.subtract(mass[1], mass[0], out=half[0])  # beyond the boundary the value of the cell at it
    np.subtract(mass[-1], mass[-2], out=half[-1])
    half *= 0.25
    np.minimum(half, mass, out=half)
    np.maximum(half, -mass, out=half)
    return mass - half, mass + half


def _at_points(formula, centres, inputs):
    """phi(w x) for sums against masses of cells, (n_w, n): with phi'' h^2 / 24 less than at the centre of the cell.

    Its average over a cell is phi at the centre to O(h^4), so that sums of it are integrals of phi against rho and not
    against rho blurred by a cell. (In a, where units are linear, there is nothing to correct.)
    """
    h = centres[1] - centres[0]
    beside = np.r_[centres[0] - h, centres, centres[-1] + h]
    values = formula(np.outer(beside, inputs))[0]
    return values[1:-1] - (values[2:] - 2.0 * values[1:-1] + values[:-2]) / 24.0


def _heat(number, t):
    """exp(t L), L the no-flux second difference on `number` cells: columns of sum one, no entry negative.

    L = 2 (W - 1) with W a step of the random walk that stays where a wall is: exp(t L) is that walk after Poisson(2 t)
    steps, a sum of products that are not negative, which no cancellation spoils; squared for large t.
    """
    halvings = max(0, int(np.ceil(np.log2(2.0 * t))))
    mean = 2.0 * t / 2**halvings
    term = np.exp(-mean) * np.eye(number)
    result = term.copy()
    for count in range(1, 19):  # 1 / 19! is below rounding
        neighbours = np.zeros_like(term)
        neighbours[:-1] += term[1:]
        neighbours[1:] += term[:-1]
        neighbours[0] += term[0]
        neighbours[-1] += term[-1]
        term = (0.5 * mean / count) * neighbours
        result += term
    for _ in range(halvings):
        result = result @ result
    result[result < _NOTHING] = 0.0
    return result / result.sum(axis=0)


def _centres(edges):
    return 0.5 * (edges[1:] + edges[:-1])


def _axis(bounds, number, mean, sigma, tolerance, name):
    """Faces of the cells, and the Gaussian masses between them, to relative accuracy in both tails."""
    edges = np.linspace(bounds[0], bounds[1], number + 1)
    low, high = (edges[:-1] - mean) / sigma, (edges[1:] - mean) / sigma
    outside = float(ndtr(low[0]) + ndtr(-high[-1]))
    if outside > tolerance:
        raise InputError(
            f"extent cuts {outside:.1e} of the law off, with {name} from {bounds[0]:g} to {bounds[1]:g} and sigma "
            f"{sigma:g}; needed: at most tolerance = {tolerance:.1e}. Enlarge it, or leave it out."
        )
    mass = np.where(low + high > 0.0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    return edges, mass / mass.sum()


def _extent_of(law, t, temperature, confinement):
    """Bounds at _DEVIATIONS of the law, or of the Ornstein-Uhlenbeck process that noise and ridge make of it.

    Its mean goes from the law's to 0; its variance sigma^2 e^(-2 lambda t) + tau (1 - e^(-2 lambda t)) / lambda is
    monotone in t.
    """
    time = t if confinement == 0.0 else -np.expm1(-2.0 * confinement * t) / (2.0 * confinement)
    variance = law.scales**2 * np.exp(-2.0 * confinement * t) + 2.0 * temperature * time
    reach = _DEVIATIONS * np.sqrt(np.maximum(law.scales**2, variance))
    mean = np.array([law.mean_a, 0.0])
    return np.column_stack([np.minimum(mean, 0.0) - reach, np.maximum(mean, 0.0) + reach])


def _check_edge(mass, now, tolerance, edges_a, edges_w):
    """The mass in the outermost cells; refused above `tolerance`."""
    at = float(mass[0].sum() + mass[-1].sum() + mass[1:-1, 0].sum() + mass[1:-1, -1].sum())
    if at > tolerance:
        sides = mass[0].sum(), mass[-1].sum(), mass[:, 0].sum(), mass[:, -1].sum()
        raise ConvergenceError(
            f"{at:.1e} of the mass is in the outermost cells at t = {now:g}, most of it on the "
            f"{_SIDES[np.argmax(sides)]} side; needed: at most tolerance = {tolerance:.1e}. Enlarge extent there, now "
            f"{_extent(edges_a, edges_w)}, with as many more cells."
        )
    return at


def _extent(edges_a, edges_w):
    return f"a from {edges_a[0]:g} to {edges_a[-1]:g}, w from {edges_w[0]:g} to {edges_w[-1]:g}"


def _check_setting(network, problem, law):
    _checks.instance(network, Network, "network", "a Network, e.g. Network('tanh')")
    _checks.instance(problem, Problem, "problem", "a Problem(inputs, targets), or one from `problems`")
    if isinstance(problem, Population):
        raise InputError("the grid needs data; a Population has none. Use `simulate`, or a Problem of a sample.")
    if problem.dim != 1:
        raise InputError(
            f"the grid is for inputs of dimension 1, a density in the plane; got {problem.dim}. Use limits.mean_field."
        )
    if network.bias:
        raise InputError(f"the network has bias {network.bias:g}; needed: none, for a density in the plane.")
    check_law(network, problem, law)
    if law.sigma_a == 0.0:
        raise InputError("law has sigma_a = 0 and no density in the plane; needed: sigma_a above 0.")
    return network.scaling


def _check_cells(cells):
    pair = cells if isinstance(cells, tuple | list) else (cells, cells)
    if len(pair) != 2:
        raise InputError(f"cells is {cells!r}; needed: a whole number, or two, of a and of w.")
    return tuple(_checks.count(each, "cells", least=4) for each in pair)


def _check_extent(extent):
    bounds = _checks.array(extent, "extent", 2, "((a_low, a_high), (w_low, w_high))")
    if bounds.shape != (2, 2) or not (bounds[:, 0] < bounds[:, 1]).all():
        raise InputError(f"extent is {extent!r}; needed: ((a_low, a_high), (w_low, w_high)), the low ones first.")
    return bounds


def _check_memory(n_a, n_w, frames, n, temperature, max_bytes):
    needed = {"frames": 2 * 8 * frames * n_a * n_w, "grid": 16 * 8 * n_a * n_w, "activations": 8 * 8 * n_w * n}
    if temperature:
        needed["diffusion"] = 8 * 8 * (n_a**2 + n_w**2)
    _memory.check(needed, f"a grid of {n_a} x {n_w} cells", "Use fewer cells, or fewer times", max_bytes)
