"""What a kernel on data says: regression and classification with it, the speed at which it learns, its alignment.

A kernel is an array (n, n) over the training inputs, from `tangent.kernel`, `tangent.infinite` or elsewhere. With data
weights P = diag(p), 1/n each by default, everything follows from S = P^(1/2) K P^(1/2) = V diag(lambda) V': the lambda
are the rates at which the residual of the frozen-kernel flow decays, those of K over n for equal weights.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator

from . import _checks, krylov
from .errors import InputError, KernelError

_NEGATIVE = 1e-10  # of the largest eigenvalue: what passes for rounding of a kernel


def modes(kernel: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rates lambda (n,), ascending, and modes V (n, n) of S = P^(1/2) K P^(1/2); V[:, i] belongs to rate i.

    weights : (n,), optional
        p_k >= 0; default 1/n.

    Raises
    ------
    InputError
        If the kernel is not square or not symmetric.
    KernelError
        If an eigenvalue is below -1e-10 of the largest: it is no kernel, or too inaccurate. Others below 0 count as 0.

    Cost: O(n^3) time, O(n^2) memory.
    """
    kernel = _square(kernel)
    root = np.sqrt(_checks.masses(weights, len(kernel), "weights"))
    rates, vectors = eigh(root[:, None] * kernel * root)
    if rates[0] < -_NEGATIVE * max(rates[-1], 0.0):
        raise _error(
            rates,
            f"the kernel has eigenvalues from {rates[0]:.3e} to {rates[-1]:.3e}; needed: none negative. "
            "Compute it in float64, from more particles or more accurate quadrature",
        )
    return np.maximum(rates, 0.0), vectors


@dataclass(frozen=True, eq=False, repr=False)
class Regression:
    """A function F(x) = sum_k K(x, x_k) c_k fitted to targets.

    coefficients, predictions : c and F at the training inputs, (n,), or (n, c) for c columns of targets
    test_predictions : (m,) or (m, c); m = 0 without `cross`
    rank : of the kernel, eigenvalues above n roundings of the largest; of an operator those that were seen apart
    condition : number of the matrix that was solved with, S + ridge; of an operator estimated from below
    ridge : as given
    """

    coefficients: np.ndarray
    predictions: np.ndarray
    test_predictions: np.ndarray
    rank: int
    condition: float
    ridge: float

    def __repr__(self) -> str:
        size = len(self.coefficients)
        return f"Regression(n={size}, rank={self.rank}, condition={self.condition:.3g}, ridge={self.ridge:g})"


def regression(
    kernel: np.ndarray | LinearOperator,
    targets: np.ndarray,
    *,
    ridge: float = 0.0,
    cross: np.ndarray | LinearOperator | None = None,
    weights: np.ndarray | None = None,
) -> Regression:
    """Kernel regression: the F that minimises sum_k p_k (y_k - F(x_k))^2 + ridge |F|_K^2, |F|_K^2 = c' K c.

        F(x) = K(x, X) c,   c = P^(1/2) (P^(1/2) K P^(1/2) + ridge)^(-1) P^(1/2) y

    and for equal weights c = (K + n ridge)^(-1) y. Without a ridge F goes through the data, with the least norm: where
    the frozen-kernel flow from F = 0 ends. The ridge is that of `simulate` in the limit alpha -> infinity.

    Parameters
    ----------
    kernel : (n, n)
        An array, or for large n an operator such as `tangent.operator`: conjugate gradients, each column to a residual
        of 1e-12 of the targets, so that c is good to about 1e-12 times the condition number.
    targets : (n,), or (n, c): each column by itself
    ridge : float >= 0
    cross : (m, n), optional
        K between the points to predict at and the training inputs.
    weights : (n,), optional
        Default 1/n. Points of weight 0 have no coefficient.

    Raises
    ------
    InputError
        If shapes do not fit, or the kernel is not symmetric.
    KernelError
        If the kernel is indefinite, or without a ridge singular: its rank and condition number, and what to do. Of an
        operator, if 2,000 products do not suffice.

    Cost: O(n^3) for the eigen-decomposition; of an operator some (condition number)^(1/2) products a column.
    """
    kernel, ridge = _square_or_operator(kernel), _checks.number(ridge, "ridge", least=0.0)
    size = kernel.shape[0]
    targets = _targets(targets, size)
    weights = _checks.masses(weights, size, "weights")
    cross = _cross(cross, size)
    seen = weights > 0.0
    if isinstance(kernel, LinearOperator):
        coefficients, rank, condition = _by_products(kernel, targets, ridge, np.sqrt(weights))
        return Regression(
            coefficients, _applied(kernel, coefficients), _applied(cross, coefficients), rank, condition, ridge
        )
    root = np.sqrt(weights[seen])
    rates, vectors = modes(kernel[np.ix_(seen, seen)], weights[seen])
    solved = rates + ridge
    if not solved[0] > len(solved) * np.finfo(float).eps * solved[-1]:
        raise _error(
            solved,
            f"the kernel{f' plus ridge {ridge:g}' if ridge else ''} is singular: eigenvalues from {solved[0]:.3e} to "
            f"{solved[-1]:.3e}; needed: all above rounding. Drop repeated inputs, or give a ridge, of "
            f"{1e-8 * (solved[-1] or 1.0):.0e} perhaps",
        )
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        inverse = root[:, None] * (vectors / solved) @ vectors.T * root
        coefficients = np.zeros_like(targets)
        coefficients[seen] = inverse @ targets[seen]
    if not np.isfinite(coefficients).all():
        raise InputError(
            f"the coefficients overflow: eigenvalues from {solved[0]:.3e}, targets to {np.abs(targets).max():.3e}. "
            "Scale the kernel or the targets."
        )
    condition = float(solved[-1] / solved[0])
    return Regression(
        coefficients, _applied(kernel, coefficients), _applied(cross, coefficients), _rank(rates), condition, ridge
    )


def _by_products(kernel, targets, ridge, root):
    """c = P^(1/2) (P^(1/2) K P^(1/2) + ridge)^(-1) P^(1/2) y of each column; rank and condition number as seen."""

    def multiply(vector):
        return root[seen] * (kernel @ _at(seen, root[seen] * vector))[seen] + ridge * vector

    seen = root > 0.0
    columns = targets.reshape(len(targets), -1)
    solved = [krylov.solve(multiply, (root * column)[seen]) for column in columns.T]
    coefficients = np.column_stack([_at(seen, root[seen] * found) for found, _ in solved]).reshape(targets.shape)
    ritz = [values for _, values in solved if len(values)]
    condition = max((float(values[-1] / values[0]) for values in ritz), default=1.0)
    return coefficients, max((min(_rank(values - ridge), int(seen.sum())) for values in ritz), default=0), condition


def _applied(array_or_operator, coefficients) -> np.ndarray:
    return np.asarray(array_or_operator @ coefficients)


def _at(seen, values):
    """These values where `seen`, elsewhere 0."""
    spread = np.zeros(len(seen))
    spread[seen] = values
    return spread


@dataclass(frozen=True, eq=False, repr=False)
class Classification:
    """Classes told from a kernel by regression on one-hot targets.

    classes : (c,)
    labels : (m,), of the test inputs, the class of the largest prediction
    accuracy : share of the test labels that are right; NaN if they were not given
    train_accuracy : share of the training labels
    regression : the fit; its test_predictions (m, c) are the scores
    """

    classes: np.ndarray
    labels: np.ndarray
    accuracy: float
    train_accuracy: float
    regression: Regression

    def __repr__(self) -> str:
        return (
            f"Classification({len(self.classes)} classes, accuracy={self.accuracy:.4f}, "
            f"train_accuracy={self.train_accuracy:.4f}, {self.regression})"
        )


def classify(
    kernel: np.ndarray | LinearOperator,
    labels: np.ndarray,
    cross: np.ndarray | LinearOperator,
    test_labels: np.ndarray | None = None,
    *,
    ridge: float = 0.0,
) -> Classification:
    """Classification by kernel regression on one-hot targets: the class of the largest of K(x, X) K^(-1) Y.

    Y_kj = 1 where input k is of class j, 0 elsewhere. Arora et al. (arXiv 1904.11955), section 6, without their
    centring of Y; the course report's table takes 300 samples, 30 a class.

    Parameters
    ----------
    kernel, cross : (n, n), (m, n)
        Of the training inputs, and of the test inputs with them; arrays or operators, as in `regression`.
    labels, test_labels : (n,), and (m,) if known
        Classes, of any type that sorts.
    ridge : as in `regression`

    Raises
    ------
    InputError
        If shapes do not fit, a label is NaN, or there is one class only.
    KernelError
        As `regression`.
    """
    kernel = _square_or_operator(kernel)
    labels = np.asarray(labels)
    if labels.shape != kernel.shape[:1]:
        raise InputError(f"labels have shape {labels.shape}; needed: {kernel.shape[:1]}, one for each training input.")
    if (labels != labels).any():
        raise InputError(
            f"labels hold NaN at index {int(np.argmax(labels != labels))}; needed: a class for each input."
        )
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"labels are all {classes[0]}; needed: two classes or more.")
    fitted = regression(kernel, np.eye(len(classes))[numbers], ridge=ridge, cross=cross)
    told, again = (classes[each.argmax(axis=1)] for each in (fitted.test_predictions, fitted.predictions))
    accuracy = float("nan")
    if test_labels is not None:
        test_labels = np.asarray(test_labels)
        if test_labels.shape != told.shape:
            raise InputError(f"test_labels have shape {test_labels.shape}; needed: {told.shape}, as `cross`.")
        accuracy = float(np.mean(told == test_labels))
    return Classification(classes, told, accuracy, float(np.mean(again == labels)), fitted)


def spectrum(
    kernel: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(rates lambda_i, shares (v_i . P^(1/2) y)^2): how much of the targets lies along which mode, each (n,).

    The shares sum to sum_k p_k y_k^2. For equal weights lambda_i is an eigenvalue of K over n, and a share
    (v_i . y)^2 / n.
    """
    rates, vectors = modes(kernel, weights)
    targets = _targets(targets, len(rates), columns=False)
    return rates, (vectors.T @ (np.sqrt(_checks.masses(weights, len(rates), "weights")) * targets)) ** 2


def decay(kernel: np.ndarray, targets: np.ndarray, times: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Risk along the frozen-kernel flow from F = 0, R(t) = sum_i (v_i . P^(1/2) y)^2 e^(-2 lambda_i t): (T,).

    For equal weights 1/n of sum_i (v_i . y)^2 e^(-2 eig_i t / n), eig_i those of K: Golikov (seminar slides); Arora,
    Du, Hu, Li & Wang (arXiv 1901.08584), Theorem 4.1. Times are flow times.
    """
    rates, shares = spectrum(kernel, targets, weights)
    return np.exp(-2.0 * np.outer(_checks.times(times), rates)) @ shares


def envelope(
    kernel: np.ndarray, targets: np.ndarray, times: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """R(0) e^(-2 lambda_min t), which `decay` never exceeds: (T,). Du, Zhai, Poczos & Singh (arXiv 1810.02054).

    lambda_min t is eig_min(K) t / n for equal weights. Of a singular kernel it stays at R(0).
    """
    rates, shares = spectrum(kernel, targets, weights)
    return shares.sum() * np.exp(-2.0 * rates[0] * _checks.times(times))


def complexity(kernel: np.ndarray, targets: np.ndarray) -> float:
    """sqrt(2 y' K^(-1) y / n): what bounds the generalisation error of learning these targets with this kernel.

    Arora, Du, Hu, Li & Wang (arXiv 1901.08584), Theorem 5.1, with K the Gram matrix of the inner layer. Raises
    KernelError where K is singular: the targets may be out of its reach.
    """
    kernel, size = _scaled(_square(kernel))
    targets, largest = _scaled(_targets(targets, len(kernel), columns=False))
    try:
        fitted = regression(kernel, targets)
    except KernelError as singular:
        raise KernelError(
            f"the kernel is singular or indefinite, of rank {singular.rank} of {len(targets)} and condition number "
            f"{singular.condition:.1e}: it has no complexity; needed: inputs that differ, and a kernel of full rank.",
            rank=singular.rank,
            condition=singular.condition,
        ) from None
    return float(np.sqrt(2.0 * np.mean(targets * fitted.coefficients)) * (largest / np.sqrt(size)))


def alignment(kernel: np.ndarray, targets: np.ndarray) -> float:
    """y' K y / (|K| |y|^2), Frobenius norm: 1 for K proportional to y y', and |y|^2 = n for labels of +-1.

    Cristianini, Shawe-Taylor, Elisseeff & Kandola (2001). Raises InputError where K or y vanishes.
    """
    kernel, _ = _scaled(_square(kernel))
    targets, _ = _scaled(_targets(targets, len(kernel), columns=False))
    size = np.linalg.norm(kernel) * (targets @ targets)
    if size == 0.0:
        raise InputError("the kernel or the targets are all zero, so an alignment has no meaning.")
    return float(targets @ kernel @ targets / size)


def _scaled(array):
    """Over its largest entry, and that: squares and inverses of any finite numbers then neither over- nor underflow."""
    largest = float(np.abs(array).max()) or 1.0
    return array / largest, largest


def _rank(rates):
    return int(np.count_nonzero(np.abs(rates) > len(rates) * np.finfo(float).eps * np.abs(rates).max()))


def _error(eigenvalues, message):
    """KernelError with the rank and the condition number of these eigenvalues."""
    sizes = np.abs(eigenvalues)
    rank, condition = _rank(eigenvalues), float(sizes.max() / sizes.min()) if sizes.min() > 0.0 else float("inf")
    stated = f" (rank {rank} of {len(sizes)}, condition number {condition:.1e})."
    return KernelError(message + stated, rank=rank, condition=condition)


def _square_or_operator(kernel):
    if not isinstance(kernel, LinearOperator):
        return _square(kernel)
    _as_many_columns(kernel)
    return kernel


def _as_many_columns(kernel):
    if kernel.shape[0] != kernel.shape[1]:
        raise InputError(f"kernel has shape {kernel.shape}; needed: as many rows as columns, of the training inputs.")


def _square(kernel):
    kernel = _checks.array(kernel, "kernel", 2, "a symmetric array (n, n)")
    _as_many_columns(kernel)
    if not np.allclose(kernel, kernel.T, rtol=0, atol=1e-10 * np.abs(kernel).max()):
        raise InputError("kernel is not symmetric; needed: K(x_i, x_j) = K(x_j, x_i).")
    return kernel


def _targets(targets, size, columns=True):
    ndim = np.ndim(targets) if columns and np.ndim(targets) == 2 else 1
    targets = _checks.array(targets, "targets", ndim, f"an array ({size},)" + (f" or ({size}, c)" if columns else ""))
    if len(targets) != size:
        raise InputError(f"targets have {len(targets)} rows; needed: {size}, one for each row of the kernel.")
    return targets


def _cross(cross, size):
    if cross is None:
        return np.zeros((0, size))
    if not isinstance(cross, LinearOperator):
        cross = _checks.array(cross, "cross", 2, f"an array (m, {size})")
    if cross.shape[1] != size:
        raise InputError(f"cross has shape {cross.shape}; needed: (m, {size}), a column for each training input.")
    return cross
