"""Wasserstein-2 distances between clouds, their sampling floor, and the coupling distance. Only importer of POT.

In tiers, by what they cost: `w2` exact, to some thousand points; `w2_bounds`, a bracket whose upper end is a plan and
whose lower end is of the moments, to millions; `sliced_w2` and `w2_components`, other distances, on lines. Between
Gaussian laws `gaussian_w2` is exact. Each has its floor, `w2_floor`: what it shows between two samples of one law.
"""

import warnings
from collections.abc import Callable, Iterable
from importlib import util
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from . import _checks, initial
from .errors import ConvergenceError, InputError
from .initial import GaussianLaw

_ENTRIES = 2**21  # projections made at once
_STREAM = 0x5732  # keeps the seeds of samples of a law apart from those that a script counts from 0
_MOST_ITERATIONS = 100_000_000  # POT's default, 100,000, stops 10 % too high at N = 4,000 with only a warning


def require() -> None:
    """Raise InputError, with what to do, where POT is not installed."""
    if util.find_spec("ot") is None:
        raise InputError("exact Wasserstein distances need POT, which is not installed; needed: pip install pot.")


def w2(
    a: np.ndarray,
    b: np.ndarray,
    masses_a: np.ndarray | None = None,
    masses_b: np.ndarray | None = None,
    *,
    max_points: int = 6000,
) -> float:
    """Exact Wasserstein-2 distance between two clouds, by the network simplex of POT (Bonneel et al. 2011).

        W2^2 = min over couplings pi of sum_ij pi_ij |a_i - b_j|^2

    Parameters
    ----------
    a, b : (N, D), (M, D)
        Sizes may differ.
    masses_a, masses_b : (N,), (M,), optional
        Scaled to sum to one; default uniform.
    max_points : int
        Largest N or M taken: cost grows like N^3 log N (1 s at 2,000), memory like 16 N M bytes.

    Raises
    ------
    InputError
        On shapes that do not fit, or more points than `max_points`.
    ConvergenceError
        If POT does not certify its plan as optimal.

    At finite N a distance between two samples of one law is not zero: give `w2_floor` beside it.
    """
    a, b = _same_dimension(a, b)
    if max(len(a), len(b)) > max_points:
        raise InputError(
            f"exact W2 of {len(a)} and {len(b)} points is above max_points = {max_points}; "
            "thin the clouds or raise max_points."
        )
    masses_a, masses_b = _checks.masses(masses_a, len(a), "masses_a"), _checks.masses(masses_b, len(b), "masses_b")
    require()
    import ot  # slow to import, and not needed for anything else

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # POT's warning comes again in its log, where it becomes an error
        squared, log = ot.emd2(masses_a, masses_b, cdist(a, b, "sqeuclidean"), numItermax=_MOST_ITERATIONS, log=True)
    if log["warning"] is not None:
        raise ConvergenceError(f"POT did not solve W2 of {len(a)} and {len(b)} points: {log['warning']}")
    return float(np.sqrt(max(float(squared), 0.0)))


class W2Bounds(NamedTuple):
    """lower <= W2 <= upper."""

    lower: float
    upper: float


class Sliced(NamedTuple):
    """A mean over random directions and its Monte Carlo standard error."""

    value: float
    error: float


def w2_bounds(a: np.ndarray, b: np.ndarray, *, block: int = 500) -> W2Bounds:
    """A bracket of the W2 between two clouds of N points of equal mass, for N too large for `w2`.

    Upper end: the cost of a coupling. Both clouds are halved at the median of one coordinate, the one of largest spread
    in b, and the halves again, until at most `block` points are left; those are coupled exactly. Tight for a
    translation, or for maps that act on each coordinate by itself; with one block it is W2.

    Lower end: `gaussian_w2` of the means and covariances, which no coupling of these clouds can beat: Gelbrich (1990).

    Parameters
    ----------
    a, b : (N, D)
    block : int
        Points that are coupled exactly, at least 1.

    Raises
    ------
    InputError
        On clouds of different shapes.

    Cost: O(N block^2 log block) time, 16 block^2 bytes beside the clouds; 1.4 s at N = 20,000 in D = 4.
    """
    a, b = _same_particles(a, b)
    block = _checks.count(block, "block")
    squared, pending = 0.0, [(a, b)]
    while pending:
        left, right = pending.pop()
        if len(left) <= block:
            squared += len(left) / len(a) * w2(left, right, max_points=block) ** 2
            continue
        axis, half = int(np.argmax(right.var(axis=0))), len(left) // 2
        halves = [
            np.split(cloud[np.argpartition(cloud[:, axis], half)], [half])  # the lower half, then the upper
            for cloud in (left, right)
        ]
        pending += zip(*halves, strict=True)
    moments = [(cloud.mean(axis=0), np.cov(cloud.T, bias=True).reshape(a.shape[1], -1)) for cloud in (a, b)]
    upper = float(np.sqrt(squared))
    return W2Bounds(min(gaussian_w2(*moments[0], *moments[1]), upper), upper)  # rounding may cross them


def gaussian_w2(mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray) -> float:
    """W2 between N(mean_a, S) and N(mean_b, T), in closed form.

        W2^2 = |mean_a - mean_b|^2 + tr(S + T - 2 (S^1/2 T S^1/2)^1/2)

    Dowson & Landau (1982), the metric of Bures. For any other two laws with these moments a lower bound of their W2:
    Gelbrich (1990).

    Parameters
    ----------
    mean_a, mean_b : (D,)
    covariance_a, covariance_b : (D, D), symmetric and positive semidefinite

    Raises
    ------
    InputError
        On shapes that do not fit, or a matrix that is no covariance.
    """
    mean_a, mean_b = (_checks.array(mean, "a mean", 1, "a vector (D,)") for mean in (mean_a, mean_b))
    roots = [_square_root(matrix, len(mean_a)) for matrix in (covariance_a, covariance_b)]
    if len(mean_b) != len(mean_a):
        raise InputError(f"the means have {len(mean_a)} and {len(mean_b)} entries; needed: as many.")
    # tr (S^1/2 T S^1/2)^1/2 is the sum of the singular values of S^1/2 T^1/2: no root of a small eigenvalue's rounding.
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    squared = (roots[0] ** 2).sum() + (roots[1] ** 2).sum() - 2.0 * overlap
    return float(np.sqrt(max(squared, 0.0) + ((mean_a - mean_b) ** 2).sum()))


def _square_root(matrix, width):
    """The symmetric root of a covariance."""
    matrix = _checks.array(matrix, "a covariance", 2, f"a matrix ({width}, {width})")
    if matrix.shape != (width, width) or not np.allclose(matrix, matrix.T, rtol=1e-10, atol=0.0):
        raise InputError(f"a covariance has shape {matrix.shape}; needed: ({width}, {width}), and symmetric.")
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < -1e-10 * max(values[-1], 0.0):
        raise InputError(f"a covariance has an eigenvalue {values[0]:g}; needed: none below 0.")
    return vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T


def w2_components(
    a: np.ndarray, b: np.ndarray, masses_a: np.ndarray | None = None, masses_b: np.ndarray | None = None
) -> np.ndarray:
    """W2 between the marginals of two clouds, one for each of the D components: exact, (D,).

        W2^2 = int_0^1 (Q_a(s) - Q_b(s))^2 ds,   Q the quantile functions, which are steps

    Arguments and errors as for `w2`. The sum of the squares is at most W2^2. Cost O((N + M) log(N + M) D).
    """
    a, b = _same_dimension(a, b)
    masses_a, masses_b = _checks.masses(masses_a, len(a), "masses_a"), _checks.masses(masses_b, len(b), "masses_b")
    return np.sqrt(_on_lines(a, b, masses_a, masses_b))


def sliced_w2(
    a: np.ndarray,
    b: np.ndarray,
    masses_a: np.ndarray | None = None,
    masses_b: np.ndarray | None = None,
    *,
    directions: int = 200,
    seed: int = 0,
) -> Sliced:
    """Sliced Wasserstein-2 distance, by random directions, with its Monte Carlo standard error.

        SW2^2 = E_e W2(e.a, e.b)^2,   e uniform on the unit sphere

    At most W2 / sqrt(D), and D^(-1/2) |s| for a translation by s: Rabin, Peyre, Delon & Bernot (2012). In D = 1 it is
    W2 itself. Its floor falls like N^(-1/2) in any D, where that of W2 falls like N^(-1/D).

    Parameters
    ----------
    a, b, masses_a, masses_b : as for `w2`
    directions : int
        At least 2; the error falls like directions^(-1/2).
    seed : int
        Of the directions.

    Cost: O((N + M) (log(N + M) + D)) for each direction.
    """
    a, b = _same_dimension(a, b)
    masses_a, masses_b = _checks.masses(masses_a, len(a), "masses_a"), _checks.masses(masses_b, len(b), "masses_b")
    directions = _checks.count(directions, "directions", least=2)
    drawn = _checks.generator(seed).standard_normal((directions, a.shape[1]))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    step = max(1, _ENTRIES // max(len(a), len(b)))
    squares = np.concatenate(
        [
            _on_lines(a @ some.T, b @ some.T, masses_a, masses_b)
            for some in np.split(drawn, range(step, directions, step))
        ]
    )
    value = float(np.sqrt(squares.mean()))
    error = squares.std(ddof=1) / np.sqrt(directions)
    return Sliced(value, float(error / (2.0 * value)) if value > 0.0 else 0.0)  # of the root, to first order


def _on_lines(a, b, masses_a, masses_b):
    """Squared W2 of each column of a (N, D) and that of b (M, D): (D,)."""
    if len(a) == len(b) and np.ptp(masses_a) == 0.0 and np.ptp(masses_b) == 0.0:
        return np.mean((np.sort(a, axis=0) - np.sort(b, axis=0)) ** 2, axis=0)
    squares = np.empty(a.shape[1])
    for column in range(a.shape[1]):
        order_a, order_b = np.argsort(a[:, column]), np.argsort(b[:, column])
        until_a, until_b = np.cumsum(masses_a[order_a])[:-1], np.cumsum(masses_b[order_b])[:-1]
        steps = np.sort(np.concatenate([[0.0], until_a, until_b, [1.0]]))  # where either quantile function jumps
        middle = 0.5 * (steps[1:] + steps[:-1])
        quantile_a = a[order_a, column][np.searchsorted(until_a, middle)]
        quantile_b = b[order_b, column][np.searchsorted(until_b, middle)]
        squares[column] = np.diff(steps) @ (quantile_a - quantile_b) ** 2
    return squares


def w2_floor(
    draw: GaussianLaw | Callable[[int, int], np.ndarray],
    n_points: int,
    seeds: Iterable[int],
    distance: Callable[[np.ndarray, np.ndarray], Any] = w2,
) -> np.ndarray:
    """What W2 shows between two independent samples of one law: its sampling floor, one value for each seed.

    Parameters
    ----------
    draw : GaussianLaw, or (n_points, seed) -> (n_points, D)
        An independent sample for every seed. It is called with seeds far from the small ones that a script gives its
        own clouds (below 2^32, two for each of `seeds`, by NumPy's SeedSequence under a key of this function).
    n_points : int
    seeds : iterable of whole numbers
    distance : (a, b) -> number or numbers
        Another distance than `w2`: then the floor of that one; a row of the result for each seed.

    For D >= 3 it falls only like n_points^(-1/D) (Fournier & Guillin 2015), so that exact W2 at finite N mostly
    shows this floor.

    Raises InputError where `draw` or `seeds` is something else.
    """
    sample = _sampler(draw, _checks.count(n_points, "n_points"))
    return np.array([distance(*(sample(each) for each in pair)) for pair in _pairs_of_seeds(seeds)])


class FromLaw(NamedTuple):
    """Distances of a cloud from samples of a law, (S,), and the law's floor at the same size, (S,)."""

    distances: np.ndarray
    floor: np.ndarray


def w2_to_law(
    cloud: np.ndarray,
    draw: GaussianLaw | Callable[[int, int], np.ndarray],
    seeds: Iterable[int],
    distance: Callable[[np.ndarray, np.ndarray], Any] = w2,
) -> FromLaw:
    """Distance of a cloud from a law, the initial one say, by samples of its own size, beside the floor.

    Arguments and errors as for `w2_floor`: the cloud stands where the floor has the first sample of a seed, so that
    both are against the same second samples, and the difference of the two has the samples' noise mostly gone.
    """
    cloud = _checks.array(cloud, "cloud", 2, "an array (points, D)")
    sample, distances, floor = _sampler(draw, len(cloud)), [], []
    for pair in _pairs_of_seeds(seeds):
        first, second = (sample(each) for each in pair)
        distances.append(distance(cloud, second))
        floor.append(distance(first, second))
    return FromLaw(np.array(distances), np.array(floor))


def _pairs_of_seeds(seeds):
    """Two seeds of their own for each of `seeds`."""
    if isinstance(seeds, int | np.integer) or not isinstance(seeds, Iterable):
        raise InputError(f"seeds is {seeds!r}; needed: the seeds, such as range(4).")
    counted = [_checks.count(seed, "a seed", least=0) for seed in seeds]
    words = (np.random.SeedSequence(seed, spawn_key=(_STREAM,)).generate_state(2) for seed in counted)
    return [(int(first), int(second)) for first, second in words]


def _sampler(draw, n_points):
    """seed -> a sample (n_points, D)."""
    if isinstance(draw, GaussianLaw):
        law = draw
        return lambda seed: law.place(_checks.generator(seed).standard_normal((n_points, 1 + law.dim)))
    needs = "a GaussianLaw, or a function draw(n_points, seed), such as lambda n, seed: initial.gaussian(n, dim, seed)"
    if draw is initial.gaussian:
        raise InputError(f"draw is initial.gaussian, whose second argument is the dimension; needed: {needs}.")
    if not callable(draw):
        raise InputError(f"draw is {draw!r}; needed: {needs}.")

    def sample(seed):
        drawn = _checks.array(draw(n_points, seed), "what draw gave", 2, f"an array ({n_points}, D)")
        if len(drawn) != n_points:
            raise InputError(
                f"draw gave {len(drawn)} points; needed: {n_points} as asked for, from draw(n_points, seed)."
            )
        return drawn

    return sample


def interpolate(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """The cloud at `share` of the way along the W2 geodesic from a to b, N points of equal mass each: (N, D).

    Each point of a on the straight line to the one of b that an optimal plan gives it (McCann 1997). Raises InputError
    on different shapes or a share outside of [0, 1]. Cost O(N^3).
    """
    a, b = _same_particles(a, b)
    share = _checks.number(share, "share", least=0.0)
    if share > 1.0:
        raise InputError(f"share is {share:g}; needed: a number from 0 to 1.")
    rows, columns = linear_sum_assignment(cdist(a, b, "sqeuclidean"))
    return (1.0 - share) * a[rows] + share * b[columns]


def coupling_distance(a: np.ndarray, b: np.ndarray, masses: np.ndarray | None = None) -> float:
    """sqrt(sum_i m_i |a_i - b_i|^2): the cost of keeping each particle with its own copy; at least W2.

    Raises InputError where the shapes differ.
    """
    a, b = _same_particles(a, b)
    return float(np.sqrt(_checks.masses(masses, len(a), "masses") @ ((a - b) ** 2).sum(axis=1)))


def _same_dimension(a, b):
    """Two clouds, (N, D) and (M, D)."""
    a, b = (_checks.array(cloud, what, 2, "an array (points, D)") for cloud, what in ((a, "a"), (b, "b")))
    if a.shape[1] != b.shape[1]:
        raise InputError(f"a has points in dimension {a.shape[1]}, b in {b.shape[1]}; needed: the same.")
    return a, b


def _same_particles(a, b):
    """Two clouds of one shape (N, D)."""
    a, b = (_checks.array(cloud, what, 2, "an array (N, D)") for cloud, what in ((a, "a"), (b, "b")))
    if a.shape != b.shape:
        raise InputError(f"a has shape {a.shape}, b {b.shape}; needed: the same particles in both.")
    return a, b
