"""Targets of known degree, and the energies of a function by degree, against quadrature, brute force and Funk-Hecke."""

from itertools import product
from math import factorial

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import eval_gegenbauer

import meanfield as mf
from meanfield import activations, linearised, projections, targets
from meanfield.errors import InputError

UNIT = {
    "staircase": lambda **more: targets.staircase(5, **more),
    "single neuron": lambda **more: targets.single_neuron(5, threshold=0.3, **more),
    "spiked": lambda **more: targets.spiked(7, 4, spike=1.7, **more),
    "spiked, printed": lambda **more: targets.spiked(6, 2, noise="printed", **more),
    "3-spin": lambda **more: targets.three_spin(4, **more),
    "quadratic": lambda **more: targets.quadratic(4, **more),
}


@pytest.mark.parametrize("build", UNIT.values(), ids=UNIT)
@pytest.mark.parametrize("seed", [0, 1])
def test_mean_square_is_one(build, seed):
    """E f*^2 = 1: over 40,000 inputs within five standard errors, and 10 % more is not."""
    problem = build(n=40_000, n_test=10, seed=seed)
    squares = problem.targets**2
    error = squares.std() / np.sqrt(len(squares))
    assert abs(squares.mean() - 1.0) < 5 * error
    assert abs(1.1 * squares.mean() - 1.0) > 3 * error


@pytest.mark.parametrize("build", UNIT.values(), ids=UNIT)
def test_test_set_has_the_same_law_and_seeds_differ(build):
    """The same seed gives the same problem; data and test set share the target: moments within five standard errors."""
    once, again, other = (build(n=3000, n_test=3000, seed=seed) for seed in (2, 2, 3))
    np.testing.assert_array_equal(once.inputs, again.inputs)
    np.testing.assert_array_equal(once.test_targets, again.test_targets)
    assert not np.array_equal(once.inputs, other.inputs)
    gap = once.targets**2 - once.test_targets**2
    assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(len(gap))


def test_radii_of_spiked_covariates():
    """Signal radius r sqrt(d_0) = d^((eta + kappa)/2), noise radius sqrt(d) or sqrt(d_0): to rounding."""
    dim, signal_dim, spike = 40, 5, 2.0
    eta, kappa = (np.log(each) / np.log(dim) for each in (signal_dim, spike**2))
    for noise, radius in (("generator", np.sqrt(dim)), ("printed", np.sqrt(signal_dim))):
        problem = targets.spiked(dim, signal_dim, 20, 5, spike, noise)
        signal, rest = problem.inputs[:, :signal_dim], problem.inputs[:, signal_dim:]
        assert np.linalg.norm(signal, axis=1) == pytest.approx(dim ** ((eta + kappa) / 2), rel=1e-12)
        assert np.linalg.norm(rest, axis=1) == pytest.approx(radius, rel=1e-12)


def test_spiked_target_of_two_coordinates():
    """d_0 = 2: f* = sqrt(2) sin 2h at the angle h of the signal, whatever the spike: to rounding."""
    problem = targets.spiked(10, 2, 50, 5, spike=3.0)
    angle = np.arctan2(problem.inputs[:, 1], problem.inputs[:, 0])
    assert problem.targets == pytest.approx(np.sqrt(2) * np.sin(2 * angle), abs=1e-12)


@pytest.mark.parametrize("dim", [2, 3, 20])
@pytest.mark.parametrize("threshold", [-0.7, 0.0, 0.5])
def test_mean_square_of_a_neuron(dim, threshold):
    """Against scipy's quadrature of the density of h, v . x = sqrt(d) cos h, normalised by itself: to 1e-10."""
    kink = np.arccos(threshold / np.sqrt(dim))
    whole = quad(lambda h: np.sin(h) ** (dim - 2), 0, np.pi, epsabs=1e-13)[0]
    part = quad(lambda h: np.sin(h) ** (dim - 2) * (np.sqrt(dim) * np.cos(h) - threshold) ** 2, 0, kink, epsabs=1e-13)
    assert targets.neuron_mean_square(dim, threshold) == pytest.approx(part[0] / whole, rel=1e-10)
    assert targets.neuron_mean_square(dim, threshold) != pytest.approx(part[0] / whole / 1.001, rel=1e-4)


def test_cubic_by_loops_and_its_mean_square_by_moments():
    """The sum over p, q, r as written, to 1e-12; its mean square by moments of products of coordinates, to 1e-12."""
    dim = 3
    couplings = np.random.default_rng(0).standard_normal((dim, dim, dim))
    x = np.random.default_rng(1).standard_normal((4, dim))
    loops = sum(couplings[p, q, r] * x[:, p] * x[:, q] * x[:, r] for p, q, r in product(range(dim), repeat=3))
    assert targets.cubic(couplings, x) == pytest.approx(loops, rel=1e-12)
    total = 0.0
    for index in product(range(dim), repeat=6):
        counts = [index.count(k) for k in range(dim)]
        if all(count % 2 == 0 for count in counts):
            # E prod x_k^(2 b_k) on the sphere of radius sqrt(d): d^3 prod (2 b_k - 1)!! / (d (d + 2) (d + 4))
            doubles = np.prod([np.prod(np.arange(1, count, 2)) for count in counts])
            total += couplings[index[:3]] * couplings[index[3:]] * dim**3 * doubles / (dim * (dim + 2) * (dim + 4))
    assert targets.cubic_mean_square(couplings) == pytest.approx(total, rel=1e-12)
    assert targets.cubic_mean_square(1.01 * couplings) != pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("dim", [3, 6])
def test_gegenbauer(dim):
    """scipy's C_l^(d/2 - 1)(t) over its value at 1, to 1e-12."""
    t = np.linspace(-1, 1, 9)
    for degree, found in enumerate(projections.gegenbauer(6, dim, t)):
        wanted = eval_gegenbauer(degree, dim / 2 - 1, t) / eval_gegenbauer(degree, dim / 2 - 1, 1.0)
        assert found == pytest.approx(wanted, abs=1e-12)


def test_hermite_kernels_by_brute_force():
    """Z_l = sum over |k| = l of He_k(x) He_k(x') / k!, d = 3, to degree 6: to 1e-10 of the largest."""
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    value = np.polynomial.hermite_e.hermeval
    found = projections.gaussian_kernels(left, right, 6)
    for degree in range(7):
        wanted = np.zeros((4, 5))
        for index in product(range(degree + 1), repeat=3):
            if sum(index) == degree:
                sides = [
                    np.prod([value(each[:, j], np.eye(7)[index[j]]) for j in range(3)], axis=0)
                    for each in (left, right)
                ]
                wanted += np.outer(*sides) / np.prod([factorial(k) for k in index])
        assert np.abs(found[degree] - wanted).max() < 1e-10 * np.abs(wanted).max()


@pytest.mark.parametrize("law", projections.LAWS)
def test_kernels_reproduce(law):
    """E_x' Z_k(x, x') Z_l(x', x'') = delta_kl Z_l(x, x''): 40,000 inputs, every entry within six standard errors."""
    rng = np.random.default_rng(3)
    points = targets.on_sphere(rng, 40_004, 3, np.sqrt(3.0)) if law == "sphere" else rng.standard_normal((40_004, 3))
    few, many = points[:4], points[4:]
    kernels = projections.LAWS[law](few, many, 3)
    exact = projections.LAWS[law](few, few, 3)
    for k, m in product(range(4), repeat=2):
        terms = kernels[k][:, None, :] * kernels[m][None, :, :]
        error = terms.std(axis=2) / np.sqrt(terms.shape[2]) + 1e-12
        assert (np.abs(terms.mean(axis=2) - (k == m) * exact[k]) < 6 * error).all()
    assert (np.abs(kernels[2].std(axis=1) ** 2 - 1.3 * np.diag(exact[2])) > 0.1 * np.diag(exact[2])).all()


def within(found, wanted, errors=5.0):
    return (np.abs(found.values - wanted) < errors * found.errors + 1e-12).all()


def test_energies_of_the_staircase():
    """Shares 1/3 in the degrees 1, 2, 3 and none in 0 and 4: within five standard errors; a wrong share is seen."""
    problem = targets.staircase(6, n=10, n_test=3000)
    found = projections.energies(problem.test_inputs, problem.test_targets, range(5))
    right = np.array([0, 1, 1, 1, 0]) / 3
    assert within(found, right) and found.errors.max() < 0.06
    assert not within(found, np.array([0, 2, 0, 1, 0]) / 3)


def test_energies_for_gaussian_inputs():
    """x'Bx - tr B is of degree 2; with a constant and a linear term their shares: within five standard errors."""
    problem = targets.quadratic(5, n=10, n_test=3000)
    values = np.column_stack([problem.test_targets, problem.test_targets + 0.5 + 2.0 * problem.test_inputs[:, 1]])
    found = projections.energies(problem.test_inputs, values, (0, 1, 2, 3), law="gaussian")
    assert within(found, np.array([[0, 0.25], [0, 4.0], [1, 1], [0, 0]]))
    assert not within(found, np.array([[0, 0.25], [1, 4.0], [0, 1], [0, 0]]))


def test_energies_of_random_features_by_funk_hecke():
    """f = sum_i a_i phi(w_i . x): E (P_l f)^2 = dim_l c_l^2 a' P_l(w_i . w_j) a, within five standard errors.

    c_l = E phi(sqrt(d) t) P_l(t) by scipy's quadrature (Funk & Hecke).
    """
    dim, unit = 4, activations.biased_relu(0.5)
    weights, heights = linearised.units(5, dim, 1), np.random.default_rng(2).standard_normal(5)
    points = targets.on_sphere(np.random.default_rng(3), 3000, dim, np.sqrt(dim))
    found = projections.energies(points, unit.formula(points @ weights.T)[0] @ heights, range(4))
    cosines = np.clip(weights @ weights.T, -1, 1)
    whole = quad(lambda h: np.sin(h) ** (dim - 2), 0, np.pi)[0]
    for degree, polynomial in enumerate(projections.gegenbauer(3, dim, cosines)):

        def integrand(h, degree=degree):
            legendre = projections.gegenbauer(3, dim, np.cos(h))[degree]
            return np.sin(h) ** (dim - 2) * max(np.sqrt(dim) * np.cos(h) - 0.5, 0.0) * legendre

        c = quad(integrand, 0, np.arccos(0.5 / np.sqrt(dim)))[0] / whole
        wanted = projections.dimension(degree, dim) * c**2 * heights @ polynomial @ heights
        assert abs(found.values[degree] - wanted) < 5 * found.errors[degree]
        assert abs(2.0 * wanted - found.values[degree]) > 3 * found.errors[degree], "twice as much is seen"


def test_standard_errors():
    """60 samples of 200 inputs: the spread of the estimates is between 0.5 and 1.15 of the mean standard error."""
    values, errors = [], []
    for seed in range(60):
        problem = targets.staircase(4, n=10, n_test=200, seed=seed)
        found = projections.energies(problem.test_inputs, problem.test_targets, (1, 2, 4))
        values.append(found.values)
        errors.append(found.errors)
    ratio = np.std(values, axis=0, ddof=1) / np.sqrt(np.mean(np.square(errors), axis=0))
    assert (ratio > 0.5).all() and (ratio < 1.15).all()


def test_energies_in_blocks(monkeypatch):
    """Blocks of a few inputs add up: to rounding, 1e-12."""
    problem = targets.staircase(4, n=10, n_test=50)
    whole = projections.energies(problem.test_inputs, problem.test_targets)
    monkeypatch.setattr(projections, "_ENTRIES", 170)
    parts = projections.energies(problem.test_inputs, problem.test_targets)
    assert parts.values == pytest.approx(whole.values, abs=1e-12)
    assert parts.errors == pytest.approx(whole.errors, abs=1e-12)


SPHERE = targets.on_sphere(np.random.default_rng(0), 5, 3, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: targets.staircase(2, degrees=(3,)), "degree 3 with inputs of dimension 2; needed: at most the dim"),
        (lambda: targets.staircase(4, degrees=(1, 1)), r"degrees are \(1, 1\); needed: one or more, each once"),
        (lambda: targets.single_neuron(4, threshold=2.0), "threshold is 2 and dim 4; needed: .* below sqrt"),
        (lambda: targets.spiked(4, 4), "signal_dim is 4 and dim 4; needed: signal_dim < dim"),
        (lambda: targets.spiked(4, 1), "signal_dim is 1; needed: a whole number of at least 2"),
        (lambda: targets.spiked(4, 2, noise="sqrt"), "unknown noise radius 'sqrt'.* Known: generator, printed"),
        (lambda: targets.three_spin(0), "dim is 0; needed: a whole number"),
        (lambda: targets.quadratic(3, matrix=np.eye(2)), r"matrix has shape \(2, 2\) and dim is 3"),
        (lambda: targets.quadratic(2, matrix=[[0.0, 1.0], [0.0, 0.0]]), "is not symmetric"),
        (lambda: targets.staircase(1000, n=10**10), "sample of 10000004000 inputs of dimension 1000 needs"),
        (lambda: projections.energies(SPHERE, np.ones(4)), "5 inputs, 4 values and 4 degrees; needed: 3 or more"),
        (
            lambda: projections.energies(2 * np.eye(3) + 1.0 * (np.arange(3) == 0), np.ones(3)),
            "have norms .* one sphere",
        ),
        (lambda: projections.energies(SPHERE, np.ones(5), law="cube"), "unknown law of inputs 'cube'"),
        (lambda: projections.dimension(2, 1), "dim is 1; needed: a whole number of at least 2"),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()


def test_the_3_spin_is_learned():
    """A tanh network of 60 units in d = 3 brings the risk of the 3-spin function well below that of f = 0."""
    problem = targets.three_spin(3, n=80, n_test=80)
    run = mf.simulate(mf.Network("tanh"), problem, mf.initial.gaussian(60, 3, seed=1), [0.0, 30.0], rtol=1e-4)
    assert np.mean(run.residuals[1] ** 2) < 0.3 * np.mean(problem.targets**2)
