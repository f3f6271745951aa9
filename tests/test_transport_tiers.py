"""Beside exact W2: brackets, sliced and one-dimensional distances, Gaussians in closed form, distances from a law."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import sqrtm
from scipy.stats import norm

from meanfield.errors import InputError
from meanfield.transport import (
    gaussian_w2,
    interpolate,
    sliced_w2,
    w2,
    w2_bounds,
    w2_components,
    w2_floor,
    w2_to_law,
)

ROUNDING = 1e-12


def cloud(n_points: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_points, dim))


def whitened(n_points: int, dim: int, seed: int) -> np.ndarray:
    """A cloud of mean 0 and covariance I, exactly."""
    z = cloud(n_points, dim, seed)
    z -= z.mean(axis=0)
    return np.linalg.solve(np.linalg.cholesky(z.T @ z / n_points), z.T).T


def positive(dim: int, seed: int) -> np.ndarray:
    root = cloud(dim, dim, seed)
    return root @ root.T + 0.2 * np.eye(dim)


# Gaussian laws


def by_matrix_roots(mean_a, left, mean_b, right) -> float:
    """The formula as it is printed, by SciPy's matrix roots."""
    half = sqrtm(left).real
    return np.sqrt(((mean_a - mean_b) ** 2).sum() + np.trace(left + right - 2.0 * sqrtm(half @ right @ half).real))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_gaussian_w2_against_matrix_roots(dim):
    """Relative 1e-9 against the roots of SciPy (Schur, not eigenvectors)."""
    means, covariances = cloud(2, dim, 1), (positive(dim, 2), positive(dim, 3))
    expected = by_matrix_roots(means[0], covariances[0], means[1], covariances[1])
    assert gaussian_w2(means[0], covariances[0], means[1], covariances[1]) == pytest.approx(expected, rel=1e-9)


def test_gaussian_w2_against_exact_w2():
    """A linear image of a whitened cloud by the optimal map of the two laws: exact W2 is the Bures distance, 1e-10."""
    left, right = positive(3, 6), positive(3, 7)
    half = sqrtm(left).real
    middle, inverse = sqrtm(half @ right @ half).real, np.linalg.inv(half)
    a = whitened(120, 3, 5) @ half
    b = a @ (inverse @ middle @ inverse) + [1.0, 0.0, -2.0]
    assert gaussian_w2([0, 0, 0], left, [1, 0, -2], right) == pytest.approx(w2(a, b), rel=1e-10)


def test_the_distance_of_roots_is_not_that_of_bures():
    """What a formula without the order of the factors would give, |S^1/2 - T^1/2|: for matrices that do not commute
    it is seen, 1 % and more above.
    """
    left, right = positive(3, 6), positive(3, 7)
    wrong = np.linalg.norm(sqrtm(left).real - sqrtm(right).real)
    assert wrong > 1.01 * gaussian_w2(np.zeros(3), left, np.zeros(3), right)


def test_a_degenerate_law():
    """A point and a law: W2^2 = |m|^2 + tr T, exactly the second moment about the point; singular S is no trouble."""
    right = positive(4, 8)
    mean = np.array([1.0, -1.0, 0.0, 2.0])
    expected = np.sqrt(6.0 + np.trace(right))
    assert gaussian_w2(np.zeros(4), np.zeros((4, 4)), mean, right) == pytest.approx(expected, rel=ROUNDING)
    assert gaussian_w2(mean, np.ones((4, 4)), mean, np.ones((4, 4))) == pytest.approx(0.0, abs=1e-7)  # sqrt of rounding


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (np.diag([1.0, -0.1]), "eigenvalue -0.1; needed: none below 0"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "and symmetric"),
        (np.eye(3), r"shape \(3, 3\); needed: \(2, 2\)"),
    ],
)
def test_what_is_no_covariance(covariance, message):
    with pytest.raises(InputError, match=message):
        gaussian_w2(np.zeros(2), covariance, np.zeros(2), np.eye(2))


# Lines and slices


@pytest.mark.parametrize(("n", "m"), [(1, 4), (6, 6), (20, 33)])
def test_components_with_masses(n, m):
    """Each component against exact W2 of that column alone, any masses: relative 1e-9, the network simplex's."""
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((n, 3)), 1.0 + rng.standard_normal((m, 3))
    masses = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    found = w2_components(a, b, *masses)
    expected = [w2(a[:, [k]], b[:, [k]], *masses) for k in range(3)]
    assert found == pytest.approx(expected, rel=1e-9)
    assert (found**2).sum() <= w2(a, b, *masses) ** 2 + ROUNDING


@pytest.mark.parametrize("n", [4, 40])
def test_equal_masses_take_the_same_value(n):
    """The sorted and the general form, which masses equal but for rounding send a cloud through: relative 1e-12."""
    a, b = cloud(n, 2, 1), 1.0 + cloud(n, 2, 2)
    nearly = np.full(n, 1.0 / n)
    nearly[0] *= 1.0 + 1e-15
    assert w2_components(a, b, nearly, nearly) == pytest.approx(w2_components(a, b), rel=1e-11)


def test_masses_handed_to_the_wrong_cloud_are_seen():
    a, b = np.array([[0.0], [1.0]]), np.array([[0.0], [3.0]])
    exact = np.sqrt(0.4 * 9.0 + 0.1 * 4.0)  # keep 1/2, move .4 by 3 and .1 by 2
    assert w2_components(a, b, [0.9, 0.1], [0.5, 0.5])[0] == pytest.approx(exact, rel=ROUNDING)
    assert abs(w2_components(a, b, [0.5, 0.5], [0.9, 0.1])[0] - exact) > 0.1


def test_a_sliced_translation():
    """SW2(a, a + s) = |s| / sqrt(D) within five of its own standard errors, and not |s|."""
    a, shift = cloud(50, 4, 1), np.array([1.0, 2.0, 2.0, 4.0])
    found = sliced_w2(a, a + shift, directions=400, seed=3)
    assert abs(found.value - 2.5) < 5.0 * found.error < 0.5
    assert abs(found.value - 5.0) > 5.0 * found.error


def test_sliced_against_quadrature():
    """D = 2: against the mean over 4,000 equal angles of a one-dimensional distance, five standard errors."""
    a, b = cloud(30, 2, 1), cloud(30, 2, 2) * [2.0, 0.5]

    angles = np.pi * np.arange(4000) / 4000
    e = np.array([np.cos(angles), np.sin(angles)])
    exact = np.sqrt(np.mean((np.sort(a @ e, axis=0) - np.sort(b @ e, axis=0)) ** 2))
    found = sliced_w2(a, b, directions=1000, seed=1)
    assert abs(found.value - exact) < 5.0 * found.error
    assert found.error < 0.02 * exact
    assert found.value <= w2(a, b) / np.sqrt(2.0) + 5.0 * found.error


def test_the_error_of_sliced_is_what_seeds_show():
    """Spread over 60 seeds against the error it names, to 30 % (that of a standard deviation: 9 %)."""
    a, b = cloud(30, 3, 1), 2.0 * cloud(40, 3, 2)
    found = [sliced_w2(a, b, directions=50, seed=seed) for seed in range(60)]
    spread = np.std([each.value for each in found], ddof=1)
    assert np.mean([each.error for each in found]) == pytest.approx(spread, rel=0.3)


def test_a_slice_of_a_line_is_exact():
    a, b = cloud(30, 1, 1), cloud(30, 1, 2)
    found = sliced_w2(a, b, directions=2)
    assert found.value == pytest.approx(w2(a, b), rel=ROUNDING)
    assert found.error < ROUNDING
    with pytest.raises(InputError, match="directions is 1"):
        sliced_w2(a, b, directions=1)


def test_the_floor_of_sliced_falls_in_any_dimension():
    """D = 6, N = 32 to 512: W2's falls by less than 2.5 (16^(1/6) = 1.6), sliced by 16^(1/2) = 4 within [3, 5]."""

    def draw(n_points, seed):
        return cloud(n_points, 6, seed)

    def sliced(a, b):
        return sliced_w2(a, b, directions=60).value

    exact = [w2_floor(draw, n, range(3)).mean() for n in (32, 512)]
    slices = [w2_floor(draw, n, range(10), sliced).mean() for n in (32, 512)]
    assert exact[0] / exact[1] < 2.5
    assert 3.0 < slices[0] / slices[1] < 5.0
    assert w2_floor(draw, 10, range(4), w2_components).shape == (4, 6)


# Brackets


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_bracket_holds_w2(dim, seed):
    """lower <= W2 <= upper for any two clouds, the upper end a coupling: within 25 % here, N = 300 in blocks of 20."""
    a, b = cloud(300, dim, seed), cloud(300, dim, 50 + seed) ** 3 + 0.5
    exact, bounds = w2(a, b), w2_bounds(a, b, block=20)
    assert bounds.lower <= exact + ROUNDING
    assert exact <= bounds.upper + ROUNDING < 1.25 * exact


def test_where_the_bracket_closes():
    """Translations and separate maps of the coordinates in D = 1: upper is exact. One block: upper is W2. 1e-12."""
    a = cloud(257, 3, 1)
    moved = w2_bounds(a, a + np.array([1.0, 2.0, 2.0]), block=16)
    assert moved == pytest.approx((3.0, 3.0), rel=1e-9)
    line, image = a[:, :1], np.exp(cloud(257, 1, 2))
    assert w2_bounds(line, image, block=8).upper == pytest.approx(w2(line, image), rel=ROUNDING)
    b = cloud(257, 3, 2)
    assert w2_bounds(a, b, block=257).upper == pytest.approx(w2(a, b), rel=ROUNDING)


def test_blocks_of_particles_as_they_come_are_worse():
    """What the halving is for: blocks taken in the order of the array cost more, and that is seen."""
    a, b = cloud(600, 2, 1), cloud(600, 2, 2) + 1.0
    batches = zip(np.split(a, 30), np.split(b, 30), strict=True)
    wrong = np.sqrt(np.mean([w2(*each) ** 2 for each in batches]))
    exact, bounds = w2(a, b), w2_bounds(a, b, block=20)
    assert exact <= bounds.upper < 1.05 * exact < 1.1 * exact < wrong


def test_a_bracket_needs_as_many_points():
    with pytest.raises(InputError, match="needed: the same particles in both"):
        w2_bounds(cloud(10, 2, 0), cloud(11, 2, 0))
    with pytest.raises(InputError, match="block is 0"):
        w2_bounds(cloud(10, 2, 0), cloud(10, 2, 1), block=0)


# From a law


def law(n_points, seed):
    return cloud(n_points, 2, seed + 1000)


def test_a_sample_of_the_law_is_at_its_floor():
    """Another sample of the law differs from the floor by less than five standard errors of the difference; one that
    has moved by 1 by far more, and by about 1.
    """
    own = cloud(200, 2, 1)
    found, moved = w2_to_law(own, law, range(12)), w2_to_law(own + np.array([1.0, 0.0]), law, range(12))

    def excess(result):
        difference = result.distances - result.floor
        return difference.mean(), difference.std(ddof=1) / np.sqrt(len(difference))

    mean, error = excess(found)
    assert abs(mean) < 5.0 * error + 0.02  # the one cloud is of a single draw
    mean, error = excess(moved)
    assert mean > 5.0 * error + 0.4  # sqrt(1 + floor^2) - floor = 0.65 for the mean of many clouds
    assert w2_to_law(own, law, [3]).floor == pytest.approx(w2_floor(law, 200, [3]), rel=ROUNDING)


def from_standard_normal(points) -> float:
    """W2 of points on the line and N(0, 1) itself, by quadrature between its quantiles."""
    n, values = len(points), np.sort(points)
    ends = norm.ppf(np.arange(n + 1) / n)
    cells = zip(values, ends[:-1], ends[1:], strict=True)
    return np.sqrt(sum(quad(lambda z, q=q: (q - z) ** 2 * norm.pdf(z), low, high)[0] for q, low, high in cells))


def test_on_a_line_from_a_gaussian():
    """Distances from samples are that of the law itself up to the sample's own: |W2(c, s) - W2(c, law)| <= W2(s, law),
    seed by seed, all three by quadrature or `w2`; for a cloud near the law, its quantiles, and for one that is far.
    """
    middles = norm.ppf((np.arange(100) + 0.5) / 100)[:, None]
    for own in (middles, 2.0 * middles + 1.0):
        drawn = []

        def draw(n_points, seed, into=drawn):
            into.append(cloud(n_points, 1, seed))
            return into[-1]

        found = w2_to_law(own, draw, range(6))
        for second, distance in zip(drawn[1::2], found.distances, strict=True):
            sample = from_standard_normal(second[:, 0])
            assert abs(distance - from_standard_normal(own[:, 0])) <= sample + 1e-9
    assert from_standard_normal(middles[:, 0]) < 0.1


# Geodesics


def test_a_geodesic_has_constant_speed():
    """W2(mu_s, mu_t) = |s - t| W2(a, b) for the interpolation, to 1e-12; for the straight lines of another coupling,
    particles kept in their order, not.
    """
    a, b = cloud(60, 2, 1), 1.0 + 2.0 * cloud(60, 2, 2)
    length = w2(a, b)
    for s, t in ((0.0, 1.0), (0.0, 0.25), (0.25, 0.75), (0.9, 1.0)):
        assert w2(interpolate(a, b, s), interpolate(a, b, t)) == pytest.approx((t - s) * length, rel=ROUNDING)
    assert w2(a, 0.5 * (a + b)) > 0.51 * length or w2(0.5 * (a + b), b) > 0.51 * length
    with pytest.raises(InputError, match=r"share is 1\.5"):
        interpolate(a, b, 1.5)
