"""Models linear in their parameters: random features and neural tangents, fitted exactly by ridge regression.

With weights w_i that do not move, i = 1..N,

    "rf"   f(x) = sum_i a_i phi(w_i . x)            N parameters a_i
    "nt"   f(x) = sum_i (b_i . x) phi'(w_i . x)     N d parameters b_i

These are what a network reduces to when only its outer, or only its inner weights make small moves: Ghorbani, Mei,
Misiakiewicz & Montanari (arXiv 1904.12191), section 1, where they have no alpha and no 1/N either. The coefficients c
minimise sum_k p_k (y_k - f(x_k))^2 + ridge |c|^2; with `constant` f has one more, which no ridge holds back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve, get_blas_funcs, get_lapack_funcs, svd

from . import _checks, _memory, tangent
from .errors import InputError
from .network import Network
from .problems import Problem
from .scaling import Scaling
from .targets import on_sphere

_syrk: Any = get_blas_funcs("syrk", dtype=np.float64)
_pocon: Any = get_lapack_funcs("pocon", dtype=np.float64)

_ENTRIES = 2**22  # of the block of features formed at a time
_LEAST_RCOND = 1e-11  # below it a Gram matrix is left for the singular values of the features


@dataclass(frozen=True)
class Kind:
    """A linear model: which part of a unit's gradient its features are, and how many there are for each unit."""

    name: str
    mobilities: tuple[float, float]  # of the tangent kernel whose N-fold is the Gram matrix of the inputs
    on_slope: bool  # features phi'(w_i . x) x_j, rather than phi(w_i . x)

    def width(self, dim: int) -> int:
        """Features of a unit."""
        return dim if self.on_slope else 1


KINDS = {each.name: each for each in (Kind("rf", (1.0, 0.0), False), Kind("nt", (0.0, 1.0), True))}


@dataclass(frozen=True, eq=False, repr=False)
class Linearised:
    """A fitted model; calling it with inputs (m, d) gives predictions (m,), or (m, targets) if there were several.

    weights : (N, d), as the units see the inputs: one column more with a bias
    coefficients : (N,) or (N d,), i-major; one column for each of several targets
    constant : beside the features, a number or (targets,); 0 unless it was asked for
    ridge : as given
    rank : of the weighted feature matrix; less than min(n, parameters) only where it is singular to rounding
    condition : of its Gram matrix, with the ridge; infinite if singular
    train_error, test_error : E (y - f)^2 with the data's weights, and over the test set (NaN without one); numbers, or
        arrays (targets,)
    """

    kind: Kind
    network: Network
    weights: np.ndarray
    coefficients: np.ndarray
    constant: float | np.ndarray
    ridge: float
    rank: int
    condition: float
    train_error: float | np.ndarray
    test_error: float | np.ndarray

    def __call__(self, inputs: ArrayLike) -> np.ndarray:
        points = _checks.array(inputs, "inputs", 2, "an array (m, d)")
        if self.network.seen(points.shape[1]) != self.weights.shape[1]:
            dim = self.weights.shape[1] - bool(self.network.bias)
            raise InputError(f"inputs have {points.shape[1]} columns; needed: {dim}, as the model was fitted to.")
        seen = self.network.inputs(points)
        return _apply(self.kind, self.network, self.weights, seen, self.coefficients) + self.constant

    def __repr__(self) -> str:
        return (
            f"Linearised({self.kind.name!r}, {self.network.activation.name}, N={len(self.weights)}, "
            f"parameters={len(self.coefficients)}, ridge={self.ridge:g}, rank={self.rank}, "
            f"test error {np.mean(self.test_error):.4g})"
        )


def fit(
    kind: str | Kind,
    network: Network,
    weights: ArrayLike,
    problem: Problem,
    ridge: float = 0.0,
    *,
    constant: bool = False,
    targets: ArrayLike | None = None,
    test_targets: ArrayLike | None = None,
    max_bytes: float | None = None,
) -> Linearised:
    """Ridge regression on random features or neural tangent features of these weights.

        min over c, and with `constant` over b, of sum_k p_k (y_k - b - f(x_k))^2 + ridge |c|^2,   else b = 0

    The normal equations of the smaller side, n or the number p of parameters, by Cholesky's factors and one step of
    refinement; where these are near singular, the solution of least norm by singular values, with its rank said.
    (`tangent.kernel` is the Gram matrix of the inputs, up to N.)

    Parameters
    ----------
    kind : "rf" or "nt"
    network : its activation, input scale and bias; alpha and mobilities play no part
    weights : (N, d), or (N, d + 1) with a bias
    problem : with the square loss in mind; its loss is not used
    ridge : float >= 0
    constant : bool
        A constant beside the features: what `quadratics` calls `offset`. For `targets.quadratic`, whose mean is 0 while
        that of the units is not, the exact errors with offset=True are those of constant=True.
    targets, test_targets : (n, m) and (n_test, m), optional
        Several targets at once, in place of the problem's.
    max_bytes : most memory it may take; default 80 % of what is free

    Raises
    ------
    InputError
        On shapes that do not fit, features that are all zero, or a Gram matrix that the memory would not hold, with its
        size.

    Cost: n p min(n, p) + min(n, p)^3 / 3 multiplications; memory 24 min(n, p)^2 bytes and blocks of features.
    """
    model = _kind(kind)
    _checks.instance(network, Network, "network", "a Network, e.g. Network('relu')")
    _checks.instance(problem, Problem, "problem", "a Problem(inputs, targets), or one from `targets`")
    weights = _checks.array(weights, "weights", 2, "an array (N, d), a row for each unit")
    _checks_weights(network, weights, problem.dim)
    ridge = _checks.number(ridge, "ridge", least=0.0)
    several, tests = _columns(problem, targets, test_targets)
    seen, root = network.inputs(problem.inputs), np.sqrt(problem.weights)[:, None]
    n, p = len(seen), len(weights) * model.width(seen.shape[1])
    _memory.check(
        {"Gram matrix": 24.0 * min(n, p) ** 2, "features": 8.0 * max(_ENTRIES, p, seen.size) * 3},
        f"a fit of {p} parameters to {n} inputs, by a matrix {min(n, p)} x {min(n, p)},",
        "Use fewer units or inputs",
        max_bytes,
    )
    if p <= n:
        gram = _gram_of_features(model, network, weights, seen, root)
        if constant:  # less the products of the features' means
            means = _transposed(model, network, weights, seen, root**2)
            gram = gram - means @ means.T
    else:
        gram = root * _gram_of_inputs(model, network, weights, problem.inputs, max_bytes) * root.T
        if constant:  # across `root`, where no right-hand side is, the Gram matrix may be anything that is regular
            across = gram - root @ (root.T @ gram)
            gram = across - (across @ root) @ root.T + (np.trace(gram) / n) * (root @ root.T)
    if not gram.any():
        raise InputError(
            f"the features of all {len(weights)} units vanish at all {n} inputs; needed: units that see them. "
            "Are the weights zero?"
        )
    centre = partial(_centred, problem.weights) if constant else lambda columns: columns
    given, several = several, centre(several)
    solve, rank, condition = _factor(gram, ridge)
    if solve is None:
        coefficients, rank, condition = _by_singular_values(
            model, network, weights, seen, root, root * several, ridge, max_bytes, constant
        )
    elif p <= n:
        pulled = _transposed(model, network, weights, seen, root * (root * several))
        coefficients = solve(pulled)
        rest = root * centre(several - _apply(model, network, weights, seen, coefficients))
        pulled = _transposed(model, network, weights, seen, root * rest)
        coefficients = coefficients + solve(pulled - ridge * coefficients)
    else:
        duals = solve(root * several)
        duals = duals + solve(root * several - gram @ duals - ridge * duals)
        coefficients = _transposed(model, network, weights, seen, root * duals)
        rank -= constant
    several = given
    if targets is None:
        several, tests, coefficients = several[:, 0], tests[:, 0], coefficients[:, 0]
    found = [
        _apply(model, network, weights, each, coefficients) for each in (seen, network.inputs(problem.test_inputs))
    ]
    beside: Any = problem.weights @ (several - found[0]) if constant else 0.0
    found = [each + beside for each in found]
    train = problem.weights @ (several - found[0]) ** 2
    test = ((tests - found[1]) ** 2).mean(axis=0) if len(tests) else np.full(several.shape[1:], np.nan)
    errors = (train, test) if targets is not None else (float(train), float(test))
    return Linearised(model, network, weights, coefficients, beside, ridge, rank, condition, *errors)


def units(n_units: int, dim: int, seed: int | Sequence[int] = 0) -> np.ndarray:
    """Weights uniform on the unit sphere, (N, d): w . x is of order one where |x| = sqrt(d).

    Fewer are the beginning of more, for one seed.
    """
    return on_sphere(_checks.generator(seed), _checks.count(n_units, "n_units"), _checks.count(dim, "dim"), 1.0)


def _kind(kind) -> Kind:
    found: Any = _checks.find(KINDS, kind, "linear model")
    _checks.instance(found, Kind, "kind", f"one of {', '.join(KINDS)}")
    return found


def _checks_weights(network, weights, dim):
    """Refuse weights that are not those of units which see these inputs."""
    needed = network.seen(dim)
    if weights.shape[1] != needed:
        hint = " Of particles (a, w): particles[:, 1:]." if weights.shape[1] == needed + 1 else " See linearised.units."
        raise InputError(
            f"weights have {weights.shape[1]} columns, but inputs of dimension {dim}"
            f"{' and a bias' if network.bias else ''} need {needed}, the w of each unit without its a.{hint}"
        )


def _columns(problem, targets, test_targets):
    """Targets as columns, of the data and of the test set."""
    if targets is None:
        return problem.targets[:, None], problem.test_targets[:, None]
    result = []
    for given, points, what in (
        (targets, problem.inputs, "targets"),
        (test_targets, problem.test_inputs, "test_targets"),
    ):
        needs = f"an array ({len(points)}, m), a column for each target"
        empty = np.empty((0, np.shape(targets)[-1])) if given is None else given
        columns = _checks.array(empty, what, 2, needs, allow_empty=not len(points))
        if len(columns) != len(points) or columns.shape[1] != np.shape(targets)[-1]:
            raise InputError(f"{what} have shape {columns.shape}; needed: {needs}.")
        result.append(columns)
    return result


def _features(kind, network, weights, seen):
    """Features of some units at some inputs as they are seen, (rows, width of `kind` x units)."""
    value, slope = network.activation.formula(seen @ weights.T)
    if not kind.on_slope:
        return value
    return (slope[:, :, None] * seen[:, None, :]).reshape(len(seen), -1)


def _blocks(total, entries_each):
    step = max(1, _ENTRIES // entries_each)
    return (slice(first, first + step) for first in range(0, total, step))


def _apply(kind, network, weights, seen, coefficients):
    """Features times coefficients, (n, ...)."""
    values = np.empty((len(seen), *coefficients.shape[1:]))
    for rows in _blocks(len(seen), len(coefficients)):
        values[rows] = _features(kind, network, weights, seen[rows]) @ coefficients
    return values


def _transposed(kind, network, weights, seen, values):
    """Features transposed times values at the inputs, (parameters, ...)."""
    width = kind.width(seen.shape[1])
    total = np.zeros((len(weights) * width, values.shape[1]))
    for rows in _blocks(len(seen), len(total)):
        total += _features(kind, network, weights, seen[rows]).T @ values[rows]
    return total


def _gram_of_features(kind, network, weights, seen, root):
    """sum_k p_k times the products of features, (parameters, parameters)."""
    p = len(weights) * kind.width(seen.shape[1])
    gram = np.zeros((p, p), order="F")
    for rows in _blocks(len(seen), p):
        weighted = root[rows] * _features(kind, network, weights, seen[rows])
        gram = _syrk(1.0, weighted.T, beta=1.0, c=gram, lower=1, overwrite_c=1)
    return gram + np.tril(gram, -1).T


def _gram_of_inputs(kind, network, weights, inputs, max_bytes):
    """Sums over features of products at two inputs: N times the tangent kernel of units with a_i = 1."""
    mobility_a, mobility_w = kind.mobilities
    scaling = Scaling(mobility_a=mobility_a, mobility_w=mobility_w, input_scale=network.scaling.input_scale)
    cloud = np.column_stack([np.ones(len(weights)), weights])
    same = Network(network.activation, scaling, network.bias)
    return len(weights) * tangent.kernel(same, cloud, inputs, max_bytes=max_bytes)


def _factor(gram, ridge):
    """(right-hand sides -> solutions of (gram + ridge I) c = b, rank, condition number); None first if singular."""
    shifted = gram + ridge * np.eye(len(gram))
    norm = np.abs(shifted).sum(axis=0).max()
    try:
        factor = cho_factor(shifted, lower=True)
    except np.linalg.LinAlgError:
        return None, 0, np.inf
    rcond = _pocon(factor[0], norm, uplo="L")[0]
    if rcond <= _LEAST_RCOND:
        return None, 0, np.inf
    return lambda right: cho_solve(factor, right), len(gram), 1.0 / rcond


def _centred(weights, columns):
    """Less the mean of each column."""
    return columns - weights @ columns


def _by_singular_values(kind, network, weights, seen, root, right, ridge, max_bytes, constant):
    """(coefficients of least norm, rank, condition number) from the features themselves, whose condition number is the
    root of their Gram matrix's.
    """
    n, p = len(seen), len(weights) * kind.width(seen.shape[1])
    _memory.check(
        {"features and their factors": 8.0 * 4 * n * p},
        f"a fit of {p} parameters to {n} inputs, which is singular and needs the whole matrix {n} x {p},",
        "Give a ridge, or use fewer units",
        max_bytes,
    )
    features = root * _features(kind, network, weights, seen)
    if constant:
        features = features - root @ (root.T @ features)
    left, values, rows = svd(features, full_matrices=False)
    kept = values > max(n, p) * np.finfo(float).eps * values[0]
    shares = np.divide(values, values**2 + ridge, out=np.zeros_like(values), where=kept)
    smallest = values[-1] ** 2 + ridge
    condition = (values[0] ** 2 + ridge) / smallest if kept.all() or ridge > 0 else np.inf
    return rows.T @ (shares[:, None] * (left.T @ right)), int(kept.sum()), float(condition)
