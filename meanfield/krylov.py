"""What a linear flow dx/dt = b - S x, x(0) = 0, has reached: x(t) = (1 - e^(-S t)) / S b, by Lanczos, without S.

S is symmetric with no negative eigenvalue, and only its products with vectors are used. The residual b - S x is
e^(-S t) b, so this is the action of the exponential too.
"""

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh_tridiagonal

from .errors import ConvergenceError, InputError


def reached(rates: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(1 - e^(-lambda t)) / lambda, and t where lambda t is small: (T, k) for times (T,) and rates (k,) >= 0."""
    exponents = np.outer(times, rates)
    return np.where(exponents > 1e-12, -np.expm1(-exponents) / np.where(rates > 0, rates, 1.0), times[:, None])


def lanczos(
    multiply: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    times: np.ndarray,
    tolerance: float = 1e-12,
    most: int = 1000,
) -> tuple[np.ndarray, np.ndarray]:
    """(x(t) at all times (T, n), Ritz values (k,)) from k products S v.

    x_k(t) = |b| V (1 - e^(-T t)) / T e_1 with the Lanczos basis V of b, S b, S^2 b, ..., and T = V' S V. It misses the
    equation by delta(t) = |b| beta_k |e_k' (1 - e^(-T t)) / T e_1| along the next basis vector. delta grows with t (the
    entries of e^(-T t) keep their signs, T being tridiagonal), so that the error e of x obeys |e| <= t delta(t) and the
    error S e of the residual |S e| <= 2 delta(t). Saad (SIAM J. Numer. Anal. 29, 1992), for the method.

    Parameters
    ----------
    multiply : v -> S v
    start : b, (n,)
    times : (T,) increasing
    tolerance : of 2 delta at the last time, relative to |b|
    most : most basis vectors

    Raises
    ------
    InputError
        If S shows an eigenvalue below -1e-8 of the largest.
    ConvergenceError
        If `most` vectors do not suffice; with what they reach.

    Cost: k products, O(n k^2) for keeping the basis orthogonal, n k numbers of memory. k is about the square root of
    t times the largest rate, and at most the number of distinct eigenvalues.
    """
    length = float(np.linalg.norm(start))
    if length == 0.0:
        return np.zeros((len(times), len(start))), np.zeros(0)
    most = min(most, len(start))
    basis = np.empty((min(most, 32), len(start)))
    basis[0] = start / length
    diagonal, beside = [], []
    while True:
        size = len(diagonal)
        image = np.asarray(multiply(basis[size]), dtype=np.float64)
        diagonal.append(float(basis[size] @ image))
        for _ in range(2):  # once leaves what rounding made of it
            image = image - basis[: size + 1].T @ (basis[: size + 1] @ image)
        size, following = size + 1, float(np.linalg.norm(image))
        # beyond rounding of the products there is nothing left to span
        spanned = following <= 1e-14 * max(map(abs, [*diagonal, *beside]), default=0.0) or size == len(start)
        if spanned or size == most or size % 8 == 0:
            ritz, vectors = eigh_tridiagonal(diagonal, beside)
            if ritz[0] < -1e-8 * abs(ritz[-1]):  # S has an eigenvalue at least as far below 0
                raise InputError(f"S has an eigenvalue of {ritz[0]:.3e} or below; needed: none negative.")
            coordinates = (reached(np.maximum(ritz, 0.0), times) * vectors[0]) @ vectors.T  # (T, k)
            missed = 0.0 if spanned else 2.0 * following * float(np.abs(coordinates[-1, -1]))
            if missed <= tolerance:
                return length * coordinates @ basis[:size], ritz
            if size == most:
                raise ConvergenceError(
                    f"{size} Lanczos vectors know the residual at t = {times[-1]:g} to {missed:.1e} of its start; "
                    f"needed: {tolerance:.0e}. Allow more vectors, end earlier, or form the kernel (method='dense')."
                )
        if size == len(basis):
            basis = np.concatenate((basis, np.empty((min(size, most - size), len(start)))))
        beside.append(following)
        basis[size] = image / following
