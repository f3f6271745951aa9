"""Wasserstein-2 distances between clouds, their sampling floor, and the coupling distance. Only importer of POT."""

import warnings
from collections.abc import Callable, Iterable
from importlib import util

import numpy as np
from scipy.spatial.distance import cdist

from . import _checks
from .errors import ConvergenceError, InputError

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
    a, b = (_checks.array(cloud, what, 2, "an array (points, D)") for cloud, what in ((a, "a"), (b, "b")))
    if a.shape[1] != b.shape[1]:
        raise InputError(f"a has points in dimension {a.shape[1]}, b in {b.shape[1]}; needed: the same.")
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


def w2_floor(draw: Callable[[int, int], np.ndarray], n_points: int, seeds: Iterable[int]) -> np.ndarray:
    """What W2 shows between two independent samples of one law: its sampling floor, one value for each seed.

    Parameters
    ----------
    draw : (n_points, seed) -> (n_points, D)
        An independent sample for every seed. Seed s is used as 2 s and 2 s + 1.
    n_points : int
    seeds : iterable of int

    For D >= 3 it falls only like n_points^(-1/D) (Fournier & Guillin 2015), so that exact W2 at finite N mostly
    shows this floor.
    """
    return np.array([w2(draw(n_points, 2 * seed), draw(n_points, 2 * seed + 1)) for seed in seeds])


def coupling_distance(a: np.ndarray, b: np.ndarray, masses: np.ndarray | None = None) -> float:
    """sqrt(sum_i m_i |a_i - b_i|^2): the cost of keeping each particle with its own copy; at least W2.

    Raises InputError where the shapes differ.
    """
    a, b = (_checks.array(cloud, what, 2, "an array (N, D)") for cloud, what in ((a, "a"), (b, "b")))
    if a.shape != b.shape:
        raise InputError(f"a has shape {a.shape}, b {b.shape}; needed: the same particles in both.")
    return float(np.sqrt(_checks.masses(masses, len(a), "masses") @ ((a - b) ** 2).sum(axis=1)))
