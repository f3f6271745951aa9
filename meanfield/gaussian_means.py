"""Means of phi(u) phi(v) and phi'(u) phi'(v) over Gaussian pairs, for all pairs of rows of two arrays.

u = g.x and v = g.y with g ~ N(0, I): variances |x|^2 and |y|^2, correlation rho the cosine of the angle of x and y. By
the first of these that serves:

    polynomials to degree 4      Isserlis' theorem (`overlaps`)
    erf                          arcsine, Williams (1997), eq. 10 (`overlaps`)
    relu, linear                 arc-cosine of degree 0 and 1, Cho & Saul (2009)
    piecewise linear             one integral over angles for each pair of knots (`_ramp_means`)
    any other                    Hermite series, and quadrature where |rho| is near 1 (`_smooth_means`)
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import ndtr

from .activations import ACTIVATIONS, Activation, PiecewiseLinear, Polynomial
from .errors import ConvergenceError
from .overlaps import overlap_of

Means = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # (n, d), (n', d) -> two of (n, n')

_TILE = 256  # rows and columns taken at a time where there is no closed form


def means(activation: Activation) -> Means:
    """(left (n, d), right (n', d)) -> (E phi(u) phi(v), E phi'(u) phi'(v)), each (n, n')."""
    if activation in CLOSED_FORMS:
        return CLOSED_FORMS[activation]
    if isinstance(activation, Polynomial):
        return _overlap_means(activation)
    entries = _ramp_means if isinstance(activation, PiecewiseLinear) else _smooth_means
    return partial(_in_tiles, partial(entries, activation))


def is_closed(activation: Activation) -> bool:
    """Whether the means take a few operations an entry."""
    return activation in CLOSED_FORMS or isinstance(activation, Polynomial)


def bytes_of_a_tile(n: int, other: int) -> int:
    """Most that `means` of (n, d) and (n', d) take beside the results, where not closed."""
    rows, columns = min(n, _TILE), min(other, _TILE)
    series = 8 * (5 * _MOST_TERMS + 4 * _NODES) * (rows + columns) + 8 * _MOST_TERMS * _NODES
    return series + 24 * 8 * rows * columns + 12 * 8 * _POINTS


def _in_tiles(entries, left, right):
    values, slopes = np.empty((2, len(left), len(right)))
    for at in range(0, len(left), _TILE):
        for beside in range(0, len(right), _TILE):
            tile = slice(at, at + _TILE), slice(beside, beside + _TILE)
            if left is right and beside < at:
                values[tile], slopes[tile] = values[tile[::-1]].T, slopes[tile[::-1]].T
            else:
                values[tile], slopes[tile] = entries(*_polar(left[tile[0]], right[tile[1]]))
    return values, slopes


def _polar(left, right):
    """Sizes (n, 1), (1, n') and the angles (n, n') between rows; right angles with a row of size 0.

    The angle between unit vectors from both their distances: arccos(u.v) loses half of the digits near 0 and pi,
    enough to make the kernel of nearly equal inputs indefinite.
    """
    sizes = [np.linalg.norm(points, axis=1, keepdims=True) for points in (left, right)]
    left, right = (points / np.where(size > 0, size, 1.0) for points, size in zip((left, right), sizes, strict=True))
    return sizes[0], sizes[1].T, 2.0 * np.arctan2(cdist(left, right), cdist(left, -right))


# Closed forms


def _overlap_means(activation):
    """Of a closed overlap, E phi phi' and its derivative in c (Price's theorem)."""

    def of(left, right):
        p, q = (np.einsum("ij,ij->i", points, points) for points in (left, right))
        values, slopes, _ = overlap_of(activation)(p[:, None], left @ right.T, q[None, :])
        return values, slopes

    return of


def _relu_means(left, right):
    left_size, right_size, angle = _polar(left, right)
    values = left_size * right_size / (2.0 * np.pi) * (np.sin(angle) + (np.pi - angle) * np.cos(angle))
    return values, (np.pi - angle) / (2.0 * np.pi)


def _linear_means(left, right):
    return left @ right.T, np.ones((len(left), len(right)))


CLOSED_FORMS: dict[Activation, Means] = {
    ACTIVATIONS["erf"]: _overlap_means(ACTIVATIONS["erf"]),
    ACTIVATIONS["relu"]: _relu_means,
    ACTIVATIONS["linear"]: _linear_means,
}


# Piecewise linear units: sums of ramps max(u - s, 0)


def _ramp_means(activation, p, q, angle):
    """Means of phi(z) = left + sum_i jumps_i max(z - knots_i, 0)."""
    p, q = np.maximum(p, 1e-100), np.maximum(q, 1e-100)  # at the origin h = knot / p stands for +-infinity
    values, slopes = np.zeros((2, *angle.shape))
    values += activation.left**2
    ramps = list(zip(activation.knots, activation.jumps, strict=True))
    for knot, jump in ramps:
        values += activation.left * jump * (p * _excess(knot / p) + q * _excess(knot / q))
        for other_knot, other_jump in ramps:
            h, k = np.broadcast_arrays(knot / p, other_knot / q)
            excess, both = _two_ramps(h, k, angle)
            values += jump * other_jump * p * q * excess
            slopes += jump * other_jump * both
    return values, slopes


def _excess(h):
    """E max(g - h, 0), g ~ N(0, 1)."""
    return np.exp(-0.5 * h * h) / np.sqrt(2.0 * np.pi) - h * ndtr(-h)


def _two_ramps(h, k, angle):
    """(E max(g - h, 0) max(g' - k, 0), P(g > h, g' > k)) of standard normal g, g' with correlation rho = cos(angle).

    By d/drho of the first being the second and d/drho of the second their density at (h, k) (Plackett 1954): from
    rho = 0, where both factorise, to rho >= 0 with r = cos x,

        P = Q(h) Q(k) + int_angle^(pi/2) D(x) dx
        E = R(h) R(k) + rho Q(h) Q(k) + int_angle^(pi/2) (rho - cos x) D(x) dx
        D(x) = exp(-(h - k)^2 / (2 sin^2 x) - h k / (1 + cos x)) / 2 pi

    Q = P(g > .), R = `_excess`. For rho < 0 those of (h, -k), the integral with the other sign in P: no entry is a
    difference of larger ones but where g and g' are opposed. D changes on the scale |h - k| near x = 0, so that the
    rule is Gauss and Legendre's in log x, panel by panel.
    """
    sign = np.where(angle <= 0.5 * np.pi, 1.0, -1.0)
    end = np.maximum(np.minimum(angle, np.pi - angle), _LEAST_ANGLE)
    panels = np.ceil(np.log(0.5 * np.pi / end) / np.log(2.0)).astype(int)
    integrals = np.zeros((2, *angle.shape))
    for count in np.unique(panels[panels > 0]):
        rows = np.argwhere(panels == count)
        for at in range(0, len(rows), step := max(1, _POINTS // (count * _ORDER))):
            here = tuple(rows[at : at + step].T)
            integrals[(slice(None), *here)] = _over_angles(h[here], sign[here] * k[here], end[here], count)
    apart = ndtr(-h) * ndtr(-k)
    both = apart + sign * integrals[1]
    return _excess(h) * _excess(k) + sign * np.cos(end) * apart + integrals[0], both


_LEAST_ANGLE = 1e-15
_ORDER = 20  # nodes for a factor of 2 in x: D to rounding


def _over_angles(h, k, end, panels):
    """int_end^(pi/2) of (cos end - cos x) D(x) and of D(x), (2, m)."""
    nodes, weights = np.polynomial.legendre.leggauss(_ORDER)
    nodes = ((np.arange(panels)[:, None] + 0.5 * (nodes + 1.0)) / panels).ravel()
    length = np.log(0.5 * np.pi / end)[:, None]
    x = end[:, None] * np.exp(length * nodes)
    weights = x * length * np.tile(0.5 * weights / panels, panels)
    h, k, end = h[:, None], k[:, None], end[:, None]
    with np.errstate(over="ignore"):  # of (h - k) / x, where the density is 0
        density = np.exp(-0.5 * ((h - k) / np.sin(x)) ** 2 - h * k / (1.0 + np.cos(x)))
    weighted = weights * density / (2.0 * np.pi)
    lifted = 2.0 * np.sin(0.5 * (x + end)) * np.sin(0.5 * (x - end))
    return (lifted * weighted).sum(axis=1), weighted.sum(axis=1)


# Smooth units: Hermite series and quadrature

_MOST_TERMS = 2048  # of a series: 8 times a power of 4
_NODES = 512  # of a rule taken at a time
_POINTS = 2**17  # of a rule in the plane, or over angles for many entries, taken at a time
_SERIES_POINTS = 16  # points in the plane that take the time of a term of one series
_MOST_NODES = 2**16  # of a rule on the line
_REACH = 9.0  # of a normal variable: beyond it lie 2e-19


def _smooth_means(activation, p, q, angle, tolerance=1e-10):
    """E phi(u) phi(v) = sum_k c_k(p) c_k(q) rho^k, c_k(p) = E phi(p g) h_k(g), and of the slopes alike.

    By Cauchy and Schwarz and Parseval's identity the rest of a series is at most
    |rho|^K sqrt((E phi(u)^2 - sum_k<K c_k(p)^2) (...)(q)). Entries whose rest is below `tolerance` of
    sqrt(E phi(u)^2 E phi(v)^2) are done; those left after the last K, or cheaper without more terms, are taken by
    quadrature.
    """
    p, q, rho = p.ravel(), q.ravel(), np.cos(angle)
    distinct, back = np.unique(np.r_[p, q], return_inverse=True)
    rows, columns = back[: len(p)], back[len(p) :]
    length = _resolution(activation, distinct, 0.1 * tolerance)
    values, waiting, terms = np.empty((2, *rho.shape)), np.abs(rho) < 1.0, 8
    points = _points_of(np.maximum.outer(p, q), length) * _points_of(np.minimum.outer(p, q) * np.sin(angle), length)
    while terms < _MOST_TERMS and points[waiting].sum() > 4 * terms * len(distinct) * _SERIES_POINTS:
        terms *= 4
        series, squares = _coefficients(activation, distinct, terms, length)
        lost = np.sqrt(np.maximum(squares - (series**2).sum(axis=1), 0.0))
        sizes, power = np.sqrt(squares), np.abs(rho) ** terms
        done = waiting.copy()
        for rest, size in zip(lost, sizes, strict=True):
            done &= power * np.outer(rest[rows], rest[columns]) <= tolerance * np.outer(size[rows], size[columns])
        values[:, done] = _summed(
            series, rho[done], *(back[done] for back in np.broadcast_arrays(rows[:, None], columns))
        )
        waiting &= ~done
    for at in map(tuple, np.argwhere(waiting | (np.abs(rho) >= 1.0))):
        values[(slice(None), *at)] = _by_quadrature(activation, p[at[0]], q[at[1]], angle[at], length)
    return values[0], values[1]


def _summed(series, rho, rows, columns):
    """sum_k c_k c'_k rho^k of both kinds, (2, m), by Horner's rule."""
    totals = np.zeros((2, len(rho)))
    for at in range(0, len(rho), step := 8192):  # what fits into a cache
        total, here = totals[:, at : at + step], slice(at, at + step)
        for k in range(series.shape[1] - 1, -1, -1):
            total *= rho[here]
            total += series[:, k, rows[here]] * series[:, k, columns[here]]
    return totals


def _coefficients(activation, scales, terms, length):
    """Hermite coefficients of phi and phi' at each scale (2, terms, n), and their mean squares (2, n)."""
    grid, weights = _trapezium(scales.max(), length, frequency=np.sqrt(terms))
    series, squares = np.zeros((2, terms, len(scales))), np.zeros((2, len(scales)))
    for at in range(0, len(grid), _NODES):
        nodes, roots = grid[at : at + _NODES], np.sqrt(weights[at : at + _NODES])
        functions = np.array(activation.formula(np.outer(nodes, scales))) * roots[:, None]
        squares += (functions**2).sum(axis=1)
        basis = np.empty((terms, len(nodes)))
        before, now = np.zeros_like(nodes), roots  # h_k sqrt(w): bounded at any order
        for k in range(terms):
            basis[k] = now
            before, now = now, (nodes * now - np.sqrt(k) * before) / np.sqrt(k + 1)
        series += basis @ functions
    return series, squares


def _by_quadrature(activation, p, q, angle, length):
    """E phi(u) phi(v) and of the slopes, (2,): u = p g, v = q (rho g + sqrt(1 - rho^2) e), trapezoidal in g and e."""
    p, q = max(p, q), min(p, q)  # fewest nodes, and the same for both orders of a pair
    rho, across = np.cos(angle), np.sin(angle)
    grid, weights = _trapezium(p, length, reach=_REACH)
    nodes, shares = _trapezium(q * across, length, reach=_REACH) if abs(rho) < 1.0 else (np.zeros(1), np.ones(1))
    total = np.zeros(2)
    for at in range(0, len(grid), step := max(1, _POINTS // len(nodes))):
        g, w = grid[at : at + step], weights[at : at + step]
        means_of_v = np.array(activation.formula(q * (rho * g[:, None] + across * nodes))) @ shares
        total += (np.array(activation.formula(p * g)) * means_of_v) @ w
    return total


def _points_of(scale, length):
    """About the nodes of `_by_quadrature` in a direction."""
    return 2.0 * _REACH * (2.0 + scale / length)


def _trapezium(scale, length, frequency=0.0, reach=12.0):
    """Nodes and weights for means over N(0, 1) by the trapezoidal rule, exponentially accurate for analytic phi(s g).

    length : of z over which phi is resolved; frequency : of a further factor
    """
    spacing = 1.0 / (2.0 + scale / length + frequency / (2.0 * np.pi))
    grid = spacing * np.arange(-np.ceil(reach / spacing), np.ceil(reach / spacing) + 1.0)
    return grid, spacing * np.exp(-0.5 * grid**2) / np.sqrt(2.0 * np.pi)


def _resolution(activation, scales, tolerance):
    """Length of z at which the moments of phi and phi' over N(0, s^2) are those of a finer and wider rule."""
    tried = scales[np.unique(np.linspace(0, len(scales) - 1, 8).round().astype(int))]
    length, change = 0.5, np.inf
    while True:
        nodes = 24.0 * (2.0 + tried[-1] / (0.7 * length))
        if nodes > _MOST_NODES:
            raise ConvergenceError(
                f"moments of activation {activation.name!r} over N(0, {tried[-1]:.3g}^2) still change by {change:.1e} "
                f"with {_MOST_NODES} nodes; needed {tolerance:.0e}. If phi or its slope jumps, give it as a "
                "`PiecewiseLinear`; else use smaller inputs, or `tangent.kernel` on a large quadrature rule of the law."
            )
        change = max(_change(activation, scale, length) for scale in tried)
        if change <= tolerance:
            return length
        length *= 0.7


def _change(activation, scale, length):
    """Of E phi, E phi^2 and those of phi', relative to the roots of the second moments, from a rule to a finer one."""
    rules = _trapezium(scale, length, reach=_REACH), _trapezium(scale, 0.7 * length)
    coarse, fine = (np.array(activation.formula(scale * grid)) for grid, _ in rules)
    squares = [values**2 @ weights for values, (_, weights) in zip((coarse, fine), rules, strict=True)]
    firsts = [values @ weights for values, (_, weights) in zip((coarse, fine), rules, strict=True)]
    size = np.where(squares[1] > 0, squares[1], 1.0)
    changes = np.abs(np.r_[(squares[1] - squares[0]) / size, (firsts[1] - firsts[0]) / np.sqrt(size)])
    return np.inf if np.isnan(changes).any() else changes.max()
