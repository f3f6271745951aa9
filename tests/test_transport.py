"""Wasserstein-2 distances against laws, closed forms and two other solvers."""

import warnings

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist

from meanfield import GaussianLaw, initial, transport
from meanfield.errors import ConvergenceError, InputError
from meanfield.transport import coupling_distance, w2, w2_floor, w2_to_law

ROUNDING = 1e-12


@pytest.fixture(autouse=True)
def no_warning_leaks():
    """What is wrong must be an error; no call in this file may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def cloud(n_points: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_points, dim))


def by_assignment(a: np.ndarray, b: np.ndarray) -> float:
    """W2 of two clouds of N equal masses: Birkhoff, an optimal coupling is a permutation."""
    rows, columns = linear_sum_assignment(cdist(a, b, "sqeuclidean"))
    return np.sqrt(np.mean(((a[rows] - b[columns]) ** 2).sum(axis=1)))


def by_linear_program(a: np.ndarray, b: np.ndarray, masses_a: np.ndarray, masses_b: np.ndarray) -> float:
    """W2 as the linear programme it is: plans with the given marginals, (N + M) equalities."""
    rows = np.kron(np.eye(len(a)), np.ones(len(b)))
    columns = np.kron(np.ones(len(a)), np.eye(len(b)))
    solved = linprog(
        cdist(a, b, "sqeuclidean").ravel(), A_eq=np.r_[rows, columns], b_eq=np.r_[masses_a, masses_b], method="highs-ds"
    )
    assert solved.success
    return np.sqrt(solved.fun)


def in_one_dimension(a: np.ndarray, b: np.ndarray) -> float:
    """W2 of N and M equal masses on the line: the distance of the quantile functions, which are steps."""
    n, m = len(a), len(b)
    steps = np.unique(np.r_[np.arange(n + 1) * m, np.arange(m + 1) * n])  # in units of 1 / (N M)
    middle = 0.5 * (steps[1:] + steps[:-1]) / (n * m)
    difference = np.sort(a)[(middle * n).astype(int)] - np.sort(b)[(middle * m).astype(int)]
    return np.sqrt(np.diff(steps) @ difference**2 / (n * m))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_permutation_costs_nothing(dim):
    """W2 of a cloud and itself in another order is 0, exactly."""
    a = cloud(97, dim, 1)
    assert w2(a, np.random.default_rng(2).permutation(a)) == 0.0


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_a_translation_costs_its_length(length):
    """W2(a, a + s) = |s| (the mean moves by s and no plan is cheaper), to rounding relative to |s|."""
    a, direction = cloud(80, 3, 1), np.array([2.0, -1.0, 2.0]) / 3.0
    assert w2(a, a + length * direction) == pytest.approx(length, rel=ROUNDING * max(1.0, 1.0 / length))


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_of_a_convex_function_is_optimal(seed):
    """For A symmetric positive definite x -> A x is an optimal map (Brenier): W2^2 = mean |A x - x|^2, to rounding."""
    a = cloud(150, 3, seed)
    root = np.random.default_rng(100 + seed).standard_normal((3, 3))
    b = a @ (root @ root.T + 0.1 * np.eye(3))
    exact = np.sqrt(np.mean(((b - a) ** 2).sum(axis=1)))
    assert w2(a, np.random.default_rng(seed).permutation(b)) == pytest.approx(exact, rel=ROUNDING)


def test_a_rotation_is_not_optimal():
    """The law above fails for a map that is no gradient: another plan beats a turn by 90 degrees by 10 % or more."""
    a = cloud(150, 2, 0)
    b = a @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    assert w2(a, b) < 0.9 * coupling_distance(a, b)


def test_gaussians():
    """Bures: W2(N(0, S), N(0, T))^2 = tr(S + T - 2 (S^1/2 T S^1/2)^1/2), for clouds whitened to have these moments.

    For clouds a = z S^1/2, b = z M with z of exact covariance I and M = the square of covariances' optimal image,
    the identity coupling is optimal and its cost depends on the second moments alone: to 1e-11.
    """
    z = cloud(120, 3, 5)
    z -= z.mean(axis=0)
    z = np.linalg.solve(np.linalg.cholesky(z.T @ z / len(z)), z.T).T
    assert np.allclose(z.T @ z / len(z), np.eye(3), atol=1e-14)

    def positive(seed):
        root = np.random.default_rng(seed).standard_normal((3, 3))
        return root @ root.T + 0.2 * np.eye(3)

    def square_root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return vectors * np.sqrt(values) @ vectors.T

    left, right = positive(6), positive(7)
    half = square_root(left)
    middle = square_root(half @ right @ half)
    inverse = np.linalg.inv(half)
    a = z @ half
    b = a @ (inverse @ middle @ inverse)  # the optimal map of N(0, left) to N(0, right)
    assert np.allclose(b.T @ b / len(b), right, atol=1e-12)
    bures = np.sqrt(np.trace(left + right - 2.0 * middle))
    assert w2(a, b) == pytest.approx(bures, rel=1e-11)


@pytest.mark.parametrize(("n_points", "dim"), [(1, 2), (2, 1), (7, 3), (60, 2), (200, 3), (200, 6)])
def test_against_assignment(n_points, dim):
    """Equal masses: POT's network simplex and SciPy's assignment give one optimum, relative 1e-12."""
    a, b = cloud(n_points, dim, 1), 0.5 + 2.0 * cloud(n_points, dim, 2)
    assert w2(a, b) == pytest.approx(by_assignment(a, b), rel=ROUNDING)


@pytest.mark.parametrize(("n", "m"), [(1, 5), (4, 6), (40, 64), (33, 100)])
def test_different_sizes_on_the_line(n, m):
    """D = 1: the quantile coupling is optimal, whatever the sizes; relative 1e-12."""
    a, b = cloud(n, 1, 3), 1.0 + cloud(m, 1, 4)
    assert w2(a, b) == pytest.approx(in_one_dimension(a[:, 0], b[:, 0]), rel=ROUNDING)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 5), (8, 6)])
def test_different_masses(n, m, seed):
    """Any masses: equal to the linear programme, relative 1e-9 (what the solver of the programme promises)."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, 2)), rng.standard_normal((m, 2))
    masses_a, masses_b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    masses_b[0] = 0.0 if m > 1 else 1.0  # an atom of mass zero is no atom
    masses_b /= masses_b.sum()
    exact = by_linear_program(a, b, masses_a, masses_b)
    assert w2(a, b, masses_a, masses_b) == pytest.approx(exact, rel=1e-9)
    assert w2(a, b, 7.0 * masses_a, 0.1 * masses_b) == pytest.approx(exact, rel=1e-9)


def test_the_masses_matter():
    """The comparison above would see masses that are ignored, or handed to the wrong cloud."""
    a, b = np.array([[0.0], [1.0]]), np.array([[0.0], [3.0]])
    exact = by_linear_program(a, b, np.array([0.9, 0.1]), np.array([0.5, 0.5]))
    assert exact == pytest.approx(np.sqrt(0.4 * 9.0 + 0.1 * 4.0), rel=1e-9)  # by hand: keep 1/2, move .4 by 3, .1 by 2
    assert abs(w2(a, b) - exact) > 0.1
    assert abs(w2(a, b, [0.5, 0.5], [0.9, 0.1]) - exact) > 0.1


@pytest.mark.parametrize(("n", "m"), [(50, 50), (30, 45)])
def test_symmetry(n, m):
    """W2(a, b) = W2(b, a), relative 1e-12."""
    a, b = cloud(n, 3, 8), cloud(m, 3, 9)
    assert w2(a, b) == pytest.approx(w2(b, a), rel=ROUNDING)


@pytest.mark.parametrize("seed", range(5))
def test_triangle_inequality_and_scaling(seed):
    """W2(a, c) <= W2(a, b) + W2(b, c), and W2(s a, s b) = s W2(a, b) to 1e-12."""
    a, b, c = (cloud(size, 2, 10 * seed + k) for k, size in enumerate((40, 25, 30)))
    assert w2(a, c) <= w2(a, b) + w2(b, c) + ROUNDING
    assert w2(1e3 * a, 1e3 * b) == pytest.approx(1e3 * w2(a, b), rel=ROUNDING)


@pytest.mark.parametrize("seed", range(5))
def test_coupling_distance_is_above_w2(seed):
    """The identity coupling is one of the plans; with masses too. And it is sqrt(sum m |a - b|^2), to rounding."""
    rng = np.random.default_rng(seed)
    a, masses = rng.standard_normal((60, 3)), rng.random(60)
    b = a + 0.5 * rng.standard_normal((60, 3))
    for given, mean in ((None, np.full(60, 1 / 60)), (masses, masses / masses.sum())):
        by_hand = np.sqrt(sum(m * np.dot(x - y, x - y) for m, x, y in zip(mean, a, b, strict=True)))
        assert coupling_distance(a, b, given) == pytest.approx(by_hand, rel=ROUNDING)
        assert w2(a, b, given, given) <= coupling_distance(a, b, given) + ROUNDING


def test_a_coupling_of_other_particles_is_seen():
    """Pairing particles with others' copies costs more: the index matters to the coupling distance, not to W2."""
    a = cloud(60, 2, 0)
    b = a + 0.01
    assert coupling_distance(a, b[::-1]) > 10.0 * coupling_distance(a, b)
    assert w2(a, b[::-1]) == pytest.approx(coupling_distance(a, b), rel=1e-9)


def gaussian(n_points, seed):
    return np.random.default_rng(seed).standard_normal((n_points, 3))


def test_the_floor_falls():
    """In D = 3 W2 between two samples falls about like N^(-1/3): from N = 16 to 256 by a factor 2.5 = 16^(1/3).

    Held to a factor in [1.6, 4], ten seeds.
    """
    small, large = (w2_floor(gaussian, n_points, range(10)) for n_points in (16, 256))
    assert small.shape == large.shape == (10,)
    assert 1.6 < small.mean() / large.mean() < 4.0


def test_the_floor_draws_independent_samples():
    """Neither a pair nor two pairs share a sample, nor one with a script's own clouds of seeds 0, 1, 2, ..."""
    drawn = []

    def draw(n_points, seed):
        drawn.append((n_points, seed))
        return gaussian(n_points, seed)

    floors = w2_floor(draw, 8, [0, 1, 5])
    assert {n_points for n_points, _ in drawn} == {8} and len(drawn) == len(set(drawn)) == 6
    assert min(seed for _, seed in drawn) > 10_000
    assert (floors > 0).all()
    assert w2_floor(lambda n_points, seed: gaussian(n_points, 7), 8, [0, 1]).max() == 0.0  # shared: seen


def test_a_cloud_of_a_small_seed_is_no_sample_of_the_law():
    """Clouds of seeds 0..9 against samples of their law of seeds 0..4: no distance 0, which seeds 2 s + 1 gave."""
    law = GaussianLaw(2)
    for seed in range(10):
        own = initial.gaussian(20, 2, seed)
        assert w2_to_law(own, law, range(5)).distances.min() > 0.1
    assert w2(own, initial.gaussian(20, 2, 9)) == 0.0  # the collision itself


def test_a_law_draws_for_itself():
    """A GaussianLaw is the function that draws it: floor and distances bit for bit."""
    law = GaussianLaw(2, sigma_a=0.5, sigma_w=2.0, mean_a=1.0)

    def draw(n_points, seed):
        return initial.gaussian(n_points, 2, seed, sigma_a=0.5, sigma_w=2.0, mean_a=1.0)

    own = gaussian(30, 1)
    for first, second in zip(w2_to_law(own, law, range(3)), w2_to_law(own, draw, range(3)), strict=True):
        assert np.array_equal(first, second)
    assert np.array_equal(w2_floor(law, 30, range(3)), w2_to_law(own, draw, range(3)).floor)
    assert not np.array_equal(w2_floor(GaussianLaw(2), 30, range(3)), w2_floor(law, 30, range(3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: w2_floor(3, 5, range(2)), r"draw is 3; needed: a GaussianLaw, or a function draw\(n_points, seed\)"),
        (
            lambda: w2_floor(initial.gaussian, 500, range(4)),
            "draw is initial.gaussian, whose second argument is the dim",
        ),
        (lambda: w2_floor(gaussian, 500, 4), r"seeds is 4; needed: the seeds, such as range\(4\)"),
        (lambda: w2_floor(gaussian, 500, [-1]), "a seed is -1; needed: a whole number of at least 0"),
        (lambda: w2_floor(lambda n, seed: np.zeros(n), 5, [0]), r"what draw gave has shape \(5,\); needed: an array"),
        (lambda: w2_floor(lambda n, seed: np.zeros((3, 2)), 5, [0]), "draw gave 3 points; needed: 5 as asked for"),
        (lambda: w2_floor(gaussian, 0, [0]), "n_points is 0; needed: a whole number of at least 1"),
    ],
)
def test_what_draws_no_samples_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_pot_only_warns_of_is_an_error(monkeypatch):
    """A plan that is not certified as optimal is refused, and the refusal carries POT's reason."""
    a, b = cloud(60, 2, 1), cloud(60, 2, 2)
    w2(a, b)
    monkeypatch.setattr(transport, "_MOST_ITERATIONS", 1)
    with pytest.raises(ConvergenceError, match=r"POT did not solve W2 of 60 and 60 points: .*numItermax"):
        w2(a, b)


def test_too_many_points():
    """One point above `max_points` is refused, on either side, with the numbers; at the limit it is not."""
    few, many = cloud(10, 2, 1), cloud(11, 2, 2)
    w2(few, few, max_points=10)
    for pair, sizes in (((few, many), "10 and 11"), ((many, few), "11 and 10")):
        with pytest.raises(InputError, match=rf"exact W2 of {sizes} points is above max_points = 10; thin"):
            w2(*pair, max_points=10)


ONE, TWO = np.zeros((3, 2)), np.zeros((4, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: w2(np.zeros(3), TWO), r"a has shape \(3,\); needed: an array \(points, D\)"),
        (lambda: w2(ONE, np.zeros((0, 2))), r"b is empty, shape \(0, 2\)"),
        (lambda: w2(ONE, [["x", "y"]]), "b cannot be read as numbers"),
        (lambda: w2(ONE, np.zeros((4, 3))), "a has points in dimension 2, b in 3; needed: the same"),
        (lambda: w2(ONE, np.full((4, 2), np.nan)), r"b holds nan at index \(0, 0\)"),
        (lambda: w2(ONE, TWO, masses_a=[1.0, 2.0]), "masses_a has 2 entries; needed: 3"),
        (lambda: w2(ONE, TWO, masses_b=[1.0, -1.0, 1.0, 1.0]), "masses_b has minimum -1"),
        (lambda: w2(ONE, TWO, masses_b=np.zeros(4)), "masses_b has minimum 0 and sum 0"),
        (lambda: w2(ONE, TWO, masses_a=[np.inf, 1.0, 1.0]), r"masses_a holds inf at index \(0,\)"),
        (lambda: coupling_distance(ONE, TWO), r"a has shape \(3, 2\), b \(4, 2\); needed: the same particles"),
        (lambda: coupling_distance(ONE, ONE, [1.0]), "masses has 1 entries; needed: 3"),
        (lambda: coupling_distance(ONE, np.full((3, 2), np.inf)), "b holds inf"),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()


def test_a_wrong_distance_is_caught():
    """The comparison with the assignment sees a distance that is wrong by 1e-10: 100 times its tolerance."""
    a, b = cloud(60, 2, 1), cloud(60, 2, 2)
    assert w2(a, b) * (1.0 + 1e-10) != pytest.approx(by_assignment(a, b), rel=ROUNDING)
    assert w2(a, b, np.r_[1.0 + 1e-6, np.ones(59)]) != pytest.approx(by_assignment(a, b), rel=ROUNDING)
