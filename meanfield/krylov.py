"""What a linear flow dx/dt = b - S x, x(0) = 0, has reached, x(t) = (1 - e^(-S t)) / S b, and where it ends: without S.

S is symmetric with no negative eigenvalue, and only its products with vectors are used: by Lanczos, and for the end
S^(-1) b by conjugate gradients. The residual b - S x is e^(-S t) b, so `lanczos` is the action of the exponential too.
"""

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh_tridiagonal

from .errors import ConvergenceError, InputError, KernelError


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
        If S shows an eigenvalue below -1e-8 of the largest, or a product is not finite.
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
        image = _product(multiply, basis[size])
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


def solve(
    multiply: Callable[[np.ndarray], np.ndarray], right: np.ndarray, tolerance: float = 1e-12, most: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """(x with S x = b, Ritz values (k,) ascending) by conjugate gradients, k products S v.

    Hestenes & Stiefel (1952). The Ritz values are those of the Lanczos matrix of the steps, those that differ: the
    ratio of the last to the first estimates the condition number of S from below.

    Parameters
    ----------
    multiply : v -> S v
    right : b, (n,)
    tolerance : of |b - S x| as the steps carry it, relative to |b|
    most : most products

    Raises
    ------
    InputError
        If a product is not finite.
    KernelError
        If S is seen to have an eigenvalue that is not positive, or `most` products do not suffice: what they reach, and
        the rank and condition number seen.

    Cost: k products; k is about the square root of the condition number times half the logarithm of 2 / tolerance.
    """
    largest = float(np.abs(right).max())
    if largest == 0.0:
        return np.zeros_like(right), np.zeros(0)
    found, rest = np.zeros_like(right), right / largest
    direction, square = rest, float(rest @ rest)
    start, diagonal, beside, carried = square, [], [], 0.0
    for _ in range(most):
        image = _product(multiply, direction)
        curvature = float(direction @ image)
        if not curvature > 0.0:
            message = f"S has v'Sv = {curvature:.3e} for some v; needed: all eigenvalues positive. Give a ridge."
            raise KernelError(message, rank=len(diagonal), condition=np.inf)
        step = square / curvature
        found, rest = found + step * direction, rest - step * image
        following = float(rest @ rest)
        ratio = following / square
        diagonal.append(1.0 / step + carried)
        if following <= tolerance**2 * start:
            return largest * found, _distinct(eigh_tridiagonal(diagonal, beside, eigvals_only=True))
        beside.append(np.sqrt(ratio) / step)
        carried = ratio / step
        direction, square = rest + ratio * direction, following
    ritz = _distinct(eigh_tridiagonal(diagonal, beside[:-1], eigvals_only=True))
    above = int(np.count_nonzero(ritz > len(right) * np.finfo(float).eps * ritz[-1]))
    rank, condition = min(above, len(right)), ritz[-1] / abs(ritz[0])
    raise KernelError(
        f"{most} products leave {np.sqrt(square / start):.1e} of the right-hand side; needed: {tolerance:.0e}. Give a "
        f"ridge, or allow more products (rank {rank} or more, condition number {condition:.1e} or more).",
        rank=rank,
        condition=float(condition),
    )


def _distinct(ritz):
    """Each cluster's last: without orthogonalisation rounding makes copies of Ritz values."""
    return ritz[np.r_[np.diff(ritz) > 1e-8 * ritz[-1], True]]


def _product(multiply, vector):
    image = np.asarray(multiply(vector), dtype=np.float64)
    if image.shape != vector.shape:
        raise InputError(f"a product with S has shape {image.shape}; needed: {vector.shape}.")
    if not np.isfinite(image).all():
        raise InputError("a product with S holds NaN or infinity; needed: finite numbers. Look at the inputs of S.")
    return image
