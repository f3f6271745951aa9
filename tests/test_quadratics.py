"""Exact errors for quadratic targets: by moments of brute force, by minimisation, by means over isotropic targets."""

import numpy as np
import pytest
from scipy.optimize import minimize

from meanfield import linearised, quadratics, targets
from meanfield.errors import InputError

BOTH = pytest.mark.parametrize("offset", [True, False])
ERRORS = {"rf": quadratics.random_features_error, "nt": quadratics.neural_tangent_error}
KINDS = pytest.mark.parametrize("kind", ERRORS)


def moments(dim):
    """E x_p x_q x_r x_s and E x_p x_q by Gauss-Hermite products, which are exact here."""
    points, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()
    grid = np.array(np.meshgrid(*dim * [points], indexing="ij")).reshape(dim, -1).T
    mass = np.prod(np.array(np.meshgrid(*dim * [weights], indexing="ij")).reshape(dim, -1), axis=0)
    return grid, mass


def by_brute_force(kind, matrix, weights, offset):
    """Weighted least squares of the features' values on an exact rule: no formula for a moment."""
    grid, mass = moments(len(matrix))
    z = grid @ weights.T
    columns = z**2 if kind == "rf" else (2.0 * z[:, :, None] * grid[:, None, :]).reshape(len(grid), -1)
    if offset:
        columns = np.column_stack([columns, np.ones(len(grid))])
    target, root = np.einsum("kp,pq,kq->k", grid, matrix, grid), np.sqrt(mass)
    rest = root * target - (root[:, None] * columns) @ np.linalg.lstsq(root[:, None] * columns, root * target)[0]
    return rest @ rest


@KINDS
@BOTH
@pytest.mark.parametrize(("dim", "n_units"), [(1, 1), (3, 1), (3, 2), (4, 2), (4, 3), (4, 12)])
def test_errors_are_those_of_brute_force_moments(kind, offset, dim, n_units):
    """The same least squares on a product Gauss-Hermite rule, exact for these moments: to 1e-8 of E f*^2."""
    rng = np.random.default_rng([dim, n_units])
    square, weights = rng.standard_normal((dim, dim)), rng.standard_normal((n_units, dim))
    matrix = square + square.T
    wanted = by_brute_force(kind, matrix, weights, offset)
    size = quadratics.size(matrix, offset)
    assert abs(ERRORS[kind](matrix, weights, offset) - wanted) < 1e-8 * size
    if wanted > 1e-3 * size:
        assert abs(ERRORS[kind](1.001 * matrix, weights, offset) - wanted) > 1e-4 * wanted, "0.1 % is seen"


@KINDS
def test_the_constant_matters(kind):
    """The comparison above tells a model with a constant from one without."""
    rng = np.random.default_rng(0)
    matrix, weights = np.diag([1.0, 2.0, 3.0, 4.0]), rng.standard_normal((2, 4))
    assert by_brute_force(kind, matrix, weights, False) > 1.05 * ERRORS[kind](matrix, weights, True)


def test_size_is_the_error_without_units():
    """Weights of zero reach nothing but the constant: to rounding."""
    matrix = targets.goe(4, 1)
    for offset in (True, False):
        for error in ERRORS.values():
            assert error(matrix, np.zeros((2, 4)), offset) == pytest.approx(quadratics.size(matrix, offset), rel=1e-14)
    assert quadratics.network_error(matrix, 0) == pytest.approx(quadratics.size(matrix), rel=1e-14)


@pytest.mark.parametrize("n_units", [1, 2])
def test_networks_by_minimisation(n_units):
    """The best of 12 minimisations over a_i, w_i (BFGS) of E f*^2 for f = sum a_i (w_i . x)^2 + c: 1e-8 relative."""
    matrix, rng = -targets.goe(4, 3), np.random.default_rng(0)  # the largest eigenvalue is negative

    def error(flat):
        a, w = flat[:n_units], flat[n_units:].reshape(n_units, 4)
        return 2.0 * ((matrix - np.einsum("i,ip,iq->pq", a, w, w)) ** 2).sum()

    starts = rng.standard_normal((12, 5 * n_units))
    best = min(minimize(error, start, method="BFGS", options={"gtol": 1e-10}).fun for start in starts)
    assert quadratics.network_error(matrix, n_units) == pytest.approx(best, rel=1e-8)
    kept = np.sort(np.linalg.eigvalsh(matrix))[::-1][n_units:]  # by size with sign, and not by |lambda|
    assert 2.0 * kept @ kept > 1.01 * best


def mean_share(kind, dim, n_units, count=3000, wrong=0):
    """(mean, standard error) of the share over isotropic B, weights fixed, and the expected mean."""
    weights = linearised.units(n_units, dim, 5)
    shares = [
        ERRORS[kind](matrix, weights) / quadratics.size(matrix)
        for matrix in (targets.goe(dim, [seed]) for seed in range(count))
    ]
    expected = dict(zip(ERRORS, quadratics.mean_shares(dim, n_units + wrong), strict=True))[kind]
    return np.mean(shares), np.std(shares) / np.sqrt(count), expected


@KINDS
@pytest.mark.parametrize(("dim", "n_units"), [(5, 2), (6, 4)])
def test_mean_shares(kind, dim, n_units):
    """3000 targets: within five standard errors; the formula for one unit more is further than ten."""
    mean, error, expected = mean_share(kind, dim, n_units, 1000)
    assert abs(mean - expected) < 5 * error
    mean, error, expected = mean_share(kind, dim, n_units, 1000, wrong=1)
    assert abs(mean - expected) > 5 * error


@KINDS
def test_enough_units_reach_everything(kind):
    """d (d + 1) / 2 random features, d neural tangents: 0 to rounding, 1e-20 of a mean square of 1."""
    matrix = targets.goe(5, 0)
    assert ERRORS[kind](matrix, linearised.units({"rf": 15, "nt": 5}[kind], 5, 1)) < 1e-20
    assert ERRORS[kind](matrix, linearised.units({"rf": 14, "nt": 4}[kind], 5, 1)) > 1e-6


def test_turned_problems_have_the_same_error():
    """B -> QBQ', w -> Qw, and longer weights: to 1e-12."""
    rng = np.random.default_rng(0)
    matrix, weights = targets.goe(5, 2), rng.standard_normal((3, 5))
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    for error in ERRORS.values():
        for offset in (True, False):
            once = error(matrix, weights, offset)
            assert error(turn @ matrix @ turn.T, 7.0 * weights @ turn.T, offset) == pytest.approx(once, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quadratics.size([[1.0, 2.0]]), r"matrix of shape \(1, 2\) is not symmetric"),
        (lambda: quadratics.size([[1.0, 2.0], [0.0, 1.0]]), r"needed: \(B \+ B'\) / 2"),
        (lambda: quadratics.random_features_error(np.eye(3), np.ones((2, 2))), r"weights have 2 columns .* needed: 3"),
        (lambda: quadratics.network_error(np.eye(3), -1), "n_units is -1; needed: a whole number"),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()
