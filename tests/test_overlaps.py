"""Overlaps E[phi(u) phi(v)]: closed forms against quadrature, derivatives, and the pairwise velocity made of them."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import roots_jacobi

from meanfield.activations import ACTIVATIONS, erf, polynomial, quadratic, relu
from meanfield.engines import ENGINES, cpu, reference
from meanfield.errors import InputError
from meanfield.overlaps import HOMOGENEOUS, OVERLAPS, Overlap, overlap_of

POLYNOMIALS = (quadratic(), polynomial([0.3, -0.7, 0.4, 0.2, -0.1]), polynomial([0.0, 0.5, 0.0, 0.3], hermite=True))
CLOSED = {each: overlap_of(each) for each in (*OVERLAPS, *POLYNOMIALS)}
EVERY = pytest.mark.parametrize("activation", CLOSED, ids=lambda each: each.name)
ON_SPHERE = pytest.mark.parametrize("activation", (*HOMOGENEOUS, *POLYNOMIALS), ids=lambda each: each.name)
EVERYWHERE = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)


def triples(seed, size=20):
    """(q, c, p) of correlations between -0.95 and 0.95."""
    rng = np.random.default_rng(seed)
    q, p = rng.uniform(0.2, 3.0, (2, size))
    return q, rng.uniform(-0.95, 0.95, size) * np.sqrt(q * p), p


def radii_of_normals():
    """Rule for the radius of two independent normals, up to 12 standard deviations."""
    nodes, weights = np.polynomial.legendre.leggauss(80)
    radii = 6.0 * (nodes + 1.0)
    return radii, 6.0 * weights * radii * np.exp(-0.5 * radii**2)


def radii_on_the_sphere(dim):
    """Rule for the length of the projection to a plane of x uniform on the sphere of radius sqrt(dim).

    Its square over dim has the density (dim - 2) / 2 (1 - s)^((dim - 4) / 2): Gauss and Jacobi.
    """
    if dim == 2:
        return np.array([math.sqrt(2.0)]), np.array([1.0])
    nodes, weights = roots_jacobi(20, (dim - 4) / 2, 0.0)
    return np.sqrt(dim * (nodes + 1.0) / 2.0), weights / weights.sum()


def by_quadrature(activation, q, c, p, rule):
    """E[phi(u) phi(v)] in polar coordinates of the plane of the two weights, where a kink of relu lies on a ray."""
    corner = math.acos(c / math.sqrt(q * p))
    # u = sqrt(q) r cos t, v = sqrt(p) r cos(t - corner): phi kinks at the zeros of the cosines.
    kinks = sorted(
        {
            angle % (2 * math.pi)
            for angle in (math.pi / 2, 3 * math.pi / 2, corner + math.pi / 2, corner + 3 * math.pi / 2)
        }
    )
    kinks = [0.0, *kinks, 2 * math.pi]
    nodes, weights = np.polynomial.legendre.leggauss(80)
    (radii, radial), total = rule, 0.0
    for low, high in pairwise(kinks):
        t = (low + high) / 2 + (high - low) / 2 * nodes
        u = math.sqrt(q) * np.outer(np.cos(t), radii)
        v = math.sqrt(p) * np.outer(np.cos(t - corner), radii)
        total += (high - low) / 2 * weights @ (activation.formula(u)[0] * activation.formula(v)[0]) @ radial
    return total / (2 * math.pi)


def value_error(activation, overlap, sphere=None):
    triple, rule = triples(1), radii_of_normals() if sphere is None else radii_on_the_sphere(sphere)
    exact = np.array([by_quadrature(activation, *each, rule) for each in zip(*triple, strict=True)])
    return np.abs(overlap(*triple)[0] - exact).max()


@EVERY
def test_value_against_quadrature(activation):
    assert value_error(activation, CLOSED[activation]) < 1e-12


def test_another_activation_s_overlap_is_caught():
    assert value_error(relu, OVERLAPS[erf]) > 1e-2


@ON_SPHERE
@pytest.mark.parametrize("dim", [2, 3, 4, 10])
def test_value_on_the_sphere_against_quadrature(activation, dim):
    assert value_error(activation, overlap_of(activation, sphere=dim), dim) < 1e-11


@pytest.mark.parametrize("activation", POLYNOMIALS, ids=lambda each: each.name)
def test_on_the_sphere_of_the_line(activation):
    """At d = 1 the inputs are +-1, and E phi(w x) phi(v x) is a mean of two numbers: to 1e-14."""
    for w, v in ((0.7, 1.3), (-1.1, 0.4)):
        wanted = np.mean([activation.formula(w * x)[0] * activation.formula(v * x)[0] for x in (-1.0, 1.0)])
        assert overlap_of(activation, sphere=1)(w * w, w * v, v * v)[0] == pytest.approx(wanted, abs=1e-14)


def test_wrong_factors_on_the_sphere_are_caught():
    """Those of another dimension, and the Gaussian's of 1; at a large dimension they are the Gaussian's."""
    quartic = POLYNOMIALS[1]
    assert value_error(quartic, overlap_of(quartic, sphere=4), 3) > 1e-2
    assert value_error(quartic, overlap_of(quartic), 3) > 1e-2
    assert value_error(quartic, overlap_of(quartic, sphere=10**9)) < 1e-6


def test_erf_on_the_sphere_is_refused():
    with pytest.raises(
        InputError, match=r"'erf' has no closed form .* for the sphere; those of relu, linear, and poly"
    ):
        overlap_of(erf, sphere=3)


def derivative_error(overlap, h=1e-5):
    q, c, p = triples(2)
    _, in_c, in_q = overlap(q, c, p)
    along_c = (overlap(q, c + h, p)[0] - overlap(q, c - h, p)[0]) / (2 * h)
    along_q = (overlap(q + h, c, p)[0] - overlap(q - h, c, p)[0]) / (2 * h)
    return max(np.abs(along_c - in_c).max(), np.abs(along_q - in_q).max())


@EVERY
def test_derivatives_against_differences(activation):
    assert derivative_error(CLOSED[activation]) < 1e-8


@ON_SPHERE
def test_derivatives_on_the_sphere_against_differences(activation):
    assert derivative_error(overlap_of(activation, sphere=3)) < 1e-8


def test_a_wrong_derivative_is_caught():
    right = OVERLAPS[erf]
    wrong = Overlap("wrong", right.scale, lambda *given: (*right.formula(*given)[:2], right.formula(*given)[1]))
    assert derivative_error(wrong) > 1e-2


@EVERY
def test_symmetric_and_bounded(activation):
    """O(u, v) = O(v, u), and |O(u, v)|^2 <= O(u, u) O(v, v), with equality at v = u."""
    overlap = CLOSED[activation]
    q, c, p = triples(3)
    np.testing.assert_allclose(overlap(q, c, p)[0], overlap(p, c, q)[0], rtol=1e-13)
    assert (overlap(q, c, p)[0] ** 2 <= overlap(q, q, q)[0] * overlap(p, p, p)[0] * (1 + 1e-12)).all()


def test_relu_at_its_edges():
    """Parallel, opposite and vanishing weights: E relu(u)^2 = q/2, 0 and 0."""
    overlap = OVERLAPS[relu]
    np.testing.assert_allclose(overlap(2.0, 2.0, 2.0), (1.0, 0.5, 0.0), atol=1e-7)
    np.testing.assert_allclose(overlap(2.0, -2.0, 2.0), (0.0, 0.0, 0.0), atol=1e-7)
    assert np.isfinite(overlap(0.0, 0.0, 2.0)).all() and overlap(0.0, 0.0, 2.0)[0] == 0.0


# The pairwise velocity


def population(n_particles, n_atoms, dim, seed=0):
    """Particles (a, w), atoms (b, v) of a target, weights c of all nodes: -a_j/N and b_k."""
    rng = np.random.default_rng([seed, n_particles, n_atoms, dim])
    particles = rng.standard_normal((n_particles, 1 + dim))
    atoms = rng.standard_normal((n_atoms, 1 + dim))
    nodes = np.concatenate([particles[:, 1:], atoms[:, 1:]])
    return particles, atoms, nodes, np.concatenate([-particles[:, 0] / n_particles, atoms[:, 0]])


def population_risk(overlap, particles, atoms):
    """E (f - f*)^2 / 2, f = (1/N) sum_i a_i phi(w_i . x), f* = sum_k b_k phi(v_k . x), x ~ N(0, I): double sums."""
    weights = np.concatenate([particles[:, 0] / len(particles), -atoms[:, 0]])
    vectors = np.concatenate([particles[:, 1:], atoms[:, 1:]])
    total = 0.0
    for c, w in zip(weights, vectors, strict=True):
        for c_other, w_other in zip(weights, vectors, strict=True):
            total += 0.5 * c * c_other * overlap(w @ w, w @ w_other, w_other @ w_other)[0]
    return total


def moved(engine, overlap, particles, nodes, weights, dtype="float64", mobilities=(1.0, 1.0)):
    cloud, packed = engine.pack(particles, dtype), engine.pack_inputs(nodes, dtype)
    return engine.unpack(engine.pairwise(overlap, cloud, packed, weights, mobilities), len(particles))


def slope_error(engine, overlap, h=1e-5, sign=1.0):
    """The velocity against -N times the differences of the risk, relative to its largest entry."""
    particles, atoms, nodes, weights = population(5, 2, 3)
    velocity = sign * moved(engine, overlap, particles, nodes, weights)
    differences = np.zeros_like(particles)
    for place in np.ndindex(particles.shape):
        for step in (h, -h):
            shifted = particles.copy()
            shifted[place] += step
            differences[place] -= len(particles) * population_risk(overlap, shifted, atoms) * math.copysign(1, step)
    return np.abs(velocity - differences / (2 * h)).max() / np.abs(velocity).max()


@EVERYWHERE
@EVERY
def test_the_velocity_goes_down_the_population_risk(engine, activation):
    assert slope_error(engine, CLOSED[activation]) < 1e-6


def test_a_velocity_that_goes_up_is_caught():
    assert slope_error(reference, OVERLAPS[erf], sign=-1.0) > 1.0


@EVERY
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-5)])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (130, 3, 5), (257, 40, 17)])
def test_cpu_against_reference(activation, dtype, tolerance, sizes):
    particles, _, nodes, weights = population(*sizes)
    exact = moved(reference, CLOSED[activation], particles, nodes, weights, mobilities=(0.7, 2.5))
    got = moved(cpu, CLOSED[activation], particles, nodes, weights, dtype, (0.7, 2.5))
    assert np.abs(got - exact).max() <= tolerance * np.abs(exact).max()


def test_a_formula_that_does_not_compile_is_named():
    particles, _, nodes, weights = population(3, 1, 2)
    bad = Overlap("bad", lambda q: q, lambda c, q, s, p, t: (c, q, object()))
    with pytest.raises(InputError, match="'bad' does not compile for engine 'cpu'"):
        moved(cpu, bad, particles, nodes, weights)


def test_repr():
    assert repr(OVERLAPS[ACTIVATIONS["erf"]]) == "Overlap('erf')"


def scaled_relu(size, formula, dtype=np.float32):
    """E[phi phi'] over its value at |w| = 1, times size^-2, at weights of this size."""
    q, c, p = (np.array([each], dtype) for each in (0.9, 0.3, 1.7))
    square = np.array([size], dtype) ** 2
    value, in_c, in_q = formula(q * square, c * square, p * square)
    one = OVERLAPS[relu](q.astype(float), c.astype(float), p.astype(float))
    return [(value / square)[0] / one[0][0], in_c[0] / one[1][0], in_q[0] / one[2][0]]


@pytest.mark.parametrize("size", [1e-15, 1e-12, 1e10, 1e15])
def test_relu_in_float32_at_small_and_large_weights(size):
    np.testing.assert_allclose(scaled_relu(size, OVERLAPS[relu]), 1.0, rtol=1e-5)


def test_products_out_of_order_are_caught():
    def careless(c, q, s, p, t):
        value, in_c, in_q = OVERLAPS[relu].formula(c, q, s, p, t)
        return q * p * (s * t) * (value / (q * s * p * t)), in_c, in_q

    with np.errstate(all="ignore"):
        found = scaled_relu(1e10, Overlap("careless", OVERLAPS[relu].scale, careless))
    assert not np.allclose(found, 1.0, rtol=1e-5)
