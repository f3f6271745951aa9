"""Exact population errors of models with phi(z) = z^2 for the target f* = x'Bx on inputs x ~ N(0, I_d): no sample.

Every model is a quadratic form x'Cx with C in some set, with or without a constant beside it. Isserlis:

    E (x'Bx - x'Cx)^2 = 2 |B - C|^2 + tr(B - C)^2,   and with the best constant   2 |B - C|^2   (Frobenius norm).

Random features f = sum_i a_i (w_i . x)^2 have C in the span of the w_i w_i'; neural tangents f = sum_i (b_i . x)
2 w_i . x have all C with P C P = 0, P the projector on what is orthogonal to every w_i; networks have all C of rank N.
Ghorbani, Mei, Misiakiewicz & Montanari, Limitations of lazy training (arXiv 1906.08899), on the quadratic model;
for B isotropic (`targets.goe`) and D = d (d + 1) / 2 the mean shares are exactly

    random features 1 - N / D,   neural tangent k (k + 1) / (d (d + 1)), k = d - N, which tends to (1 - N/d)^2.

The constant is that of `linearised.fit(..., constant=True)`. The target of `targets.quadratic` is x'Bx - tr B: with a
constant its errors are these, offset=True. Without one they are those of x'Bx, offset=False, only where tr B = 0.

Errors are in units of f*^2; divide by `size` for a share.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigvalsh, lstsq, svd

from . import _checks
from .errors import InputError
from .targets import symmetric_matrix


def size(matrix: ArrayLike, offset: bool = True) -> float:
    """E f*^2, with `offset` its variance: the error of the model without a unit."""
    matrix = symmetric_matrix(matrix)
    return _square(matrix, offset)


def _square(difference, offset):
    return 2.0 * float((difference**2).sum()) + (0.0 if offset else float(np.trace(difference)) ** 2)


def _given(matrix, weights):
    matrix = symmetric_matrix(matrix)
    weights = _checks.array(weights, "weights", 2, "an array (N, d), a row for each unit")
    if weights.shape[1] != len(matrix):
        raise InputError(f"weights have {weights.shape[1]} columns for a matrix {matrix.shape}; needed: {len(matrix)}.")
    return matrix, weights


def random_features_error(matrix: ArrayLike, weights: ArrayLike, offset: bool = True) -> float:
    """min over a of E (x'Bx - sum_i a_i (w_i . x)^2 - c)^2; c free with `offset`, else 0.

    Least squares among symmetric matrices as vectors of length D = d (d + 1) / 2. Where weights repeat, or N > D, the
    rank counts.

    Parameters
    ----------
    matrix : (d, d) symmetric
    weights : (N, d)

    Raises InputError on shapes that do not fit. Cost: O(min(N, D)^2 max(N, D)).
    """
    matrix, weights = _given(matrix, weights)
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    units = weights / np.where(norms > 0, norms, 1.0)  # a unit's length changes no span
    columns = np.array([_vector(np.outer(w, w), offset) for w in units]).T
    target = _vector(matrix, offset)
    solution: Any = lstsq(columns, target)
    rest = target - columns @ solution[0]
    return float(rest @ rest)


def _vector(matrix, offset):
    """Symmetric matrices as vectors whose square is the error they stand for."""
    rows, columns = np.triu_indices(len(matrix))
    scaled = np.where(rows == columns, np.sqrt(2.0), 2.0) * matrix[rows, columns]
    return scaled if offset else np.r_[scaled, np.trace(matrix)]


def neural_tangent_error(matrix: ArrayLike, weights: ArrayLike, offset: bool = True) -> float:
    """min over b of E (x'Bx - sum_i (b_i . x) 2 w_i . x - c)^2; c free with `offset`, else 0.

    With r = rank of the weights it is 2 |PBP|^2, and without the constant 2 tr(PBP)^2 / (r + 2) more: the block that is
    free takes a multiple of the identity that balances the mean.

    Arguments and errors as for `random_features_error`. Cost: O(N d min(N, d) + d^3).
    """
    matrix, weights = _given(matrix, weights)
    _, values, rows = svd(weights, full_matrices=True)
    rank = int((values > max(weights.shape) * np.finfo(float).eps * values[0]).sum()) if values[0] > 0 else 0
    outside = rows[rank:]
    block = outside @ matrix @ outside.T
    return _square(block, True) + (0.0 if offset else 2.0 * float(np.trace(block)) ** 2 / (rank + 2))


def network_error(matrix: ArrayLike, n_units: int) -> float:
    """min over networks of N units and a constant: 2 sum_(i > N) lambda_i^2, eigenvalues of B by falling |lambda_i|.

    Eckart & Young: the best C of rank N. The heights a_i may have either sign. Cost: O(d^3).
    """
    values = np.sort(np.abs(eigvalsh(symmetric_matrix(matrix))))[::-1]
    return 2.0 * float((values[_checks.count(n_units, "n_units", least=0) :] ** 2).sum())


def mean_shares(dim: int, n_units: int) -> tuple[float, float]:
    """Mean shares of random features and of neural tangents over isotropic B, with a constant, N distinct units.

    With D = d (d + 1) / 2 dimensions of symmetric matrices, of which the models reach N, and all but those of a
    symmetric matrix of size k = d - N:   1 - N / D   and   k (k + 1) / (d (d + 1)).
    """
    dim, n_units = _checks.count(dim, "dim"), _checks.count(n_units, "n_units", least=0)
    everything, rest = dim * (dim + 1), max(dim - n_units, 0)
    return max(1.0 - 2 * n_units / everything, 0.0), rest * (rest + 1) / everything
