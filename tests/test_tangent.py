"""Tangent kernels: of particles against the sum of gradients, of the law against quadrature of our own."""

import re
import tracemalloc
import warnings
from itertools import pairwise

import numpy as np
import pytest

from meanfield import GaussianLaw, Network, Scaling, gaussian_means, initial, tangent
from meanfield.activations import ACTIVATIONS, polynomial, quadratic
from meanfield.engines import cpu, reference
from meanfield.errors import InputError

QUADRATURE = 1e-8  # of the largest entry; the series promises 1e-10, our own rule below is good to 1e-12

SCALINGS = {
    "plain": Scaling(),
    "mobilities": Scaling(alpha=3.0, mobility_a=0.3, mobility_w=2.5),
    "frozen-a": Scaling(mobility_a=0.0),
    "frozen-w": Scaling(mobility_w=0.0),
    "geiger": Scaling.geiger(0.5, h=64, dim=3),
}
activations = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
scalings = pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)


@pytest.fixture(autouse=True)
def no_warning_leaks():
    """What is wrong must be an error; no call in this file may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def particles(n_particles: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_particles, 1 + dim))


def unlike_inputs() -> np.ndarray:
    """Inputs in dimension 3 of norms 0.1 to 2: random ones, one twice, its opposite, nearly it, orthogonal to it."""
    x = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [1.2, -1.2, 0.9], [0.06, 0.02, -0.08]])
    return np.r_[x, x[:1], -x[:1], 2.0 * x[:1], x[:1] + 1e-4 * x[1:2]]


def unit_inputs() -> np.ndarray:
    """Inputs of norm 1 up to rounding, as data sets often have them; the last is the first's opposite."""
    x = particles(5, 2, 3)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.r_[x, -x[:1]]


def gradients(network: Network, cloud: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """grad_theta of a phi(w . (s x)), (N, n, 1 + d)."""
    x = network.scaling.input_scale * inputs
    value, slope = network.activation.formula(np.einsum("ij,kj->ik", cloud[:, 1:], x))
    return np.concatenate([value[:, :, None], cloud[:, :1, None] * slope[:, :, None] * x], axis=2)


def summed(network, cloud, inputs, other, masses):
    """K = sum_i m_i <xi grad s(x), grad s(x')>, as one einsum over particles and parameters."""
    mobilities = np.r_[network.scaling.mobility_a, np.full(inputs.shape[1], network.scaling.mobility_w)]
    left, right = gradients(network, cloud, inputs), gradients(network, cloud, other)
    return np.einsum("i,ika,ila,a->kl", masses, left, right, mobilities)


@scalings
@activations
def test_kernel_is_the_sum_of_gradients(activation, scaling):
    """K(x, x') = sum_i m_i <xi grad s, grad s'>, with masses and other inputs: to rounding, 1e-13 of the largest."""
    network, cloud, x, other = Network(activation, scaling), particles(40, 3), unlike_inputs(), particles(5, 2, 9)
    masses = np.random.default_rng(1).random(40)
    uniform = np.full(40, 1 / 40)
    for points, weights in ((x, None), (other, None), (other, masses), (None, masses)):
        exact = summed(
            network, cloud, x, x if points is None else points, uniform if weights is None else masses / masses.sum()
        )
        found = tangent.kernel(network, cloud, x, points, weights)
        assert np.abs(found - exact).max() <= 1e-13 * np.abs(exact).max()


@activations
def test_a_frozen_mobility_counts(activation):
    """The comparison above would see swapped mobilities."""
    cloud, x = particles(40, 3), unlike_inputs()
    right = Network(activation, Scaling(mobility_a=0.3, mobility_w=2.5))
    wrong = Network(activation, Scaling(mobility_a=2.5, mobility_w=0.3))
    exact = summed(right, cloud, x, x, np.full(40, 1 / 40))
    assert np.abs(tangent.kernel(wrong, cloud, x) - exact).max() > 1e-2 * np.abs(exact).max()


@pytest.mark.parametrize("engine", [cpu, reference], ids=lambda engine: engine.NAME)
@pytest.mark.parametrize("size", [1, 2**16])
def test_blocks_of_particles_add_up(monkeypatch, engine, size):
    """Blocks of any size give the kernel of all particles at once, to rounding."""
    network, cloud, x = Network("tanh"), particles(300, 3), unlike_inputs()
    others = (None, x[:3])
    whole = [tangent.kernel(network, cloud, x, other, engine=engine) for other in others]
    monkeypatch.setattr(cpu, "_FEATURE_BYTES", size)
    monkeypatch.setattr(reference, "_BLOCK_ENTRIES", size)
    for other, expected in zip(others, whole, strict=True):
        got = tangent.kernel(network, cloud, x, other, engine=engine)
        assert got == pytest.approx(expected, rel=1e-13, abs=1e-14)


@pytest.mark.parametrize("sizes", [(1, 1), (5, 7), (33, 2), (130, 131), (129, 260)])
def test_engines_agree(sizes):
    """At sizes that do not fit the tiles; the square kernel is symmetric to the last bit."""
    rng = np.random.default_rng(sizes)
    network, cloud = Network("erf"), particles(300, 3)
    left, right = (rng.standard_normal((size, 3)) for size in sizes)
    for other in (None, right):
        expected = tangent.kernel(network, cloud, left, other, engine="reference")
        assert tangent.kernel(network, cloud, left, other) == pytest.approx(expected, rel=1e-12, abs=1e-14)
    square = tangent.kernel(network, cloud, left)
    np.testing.assert_array_equal(square, square.T)


def test_masses_are_multiplicities():
    """A particle of mass 2/N is the same particle twice; one of mass 0 is not there: to rounding."""
    network, cloud, x = Network("erf"), particles(6, 3), unlike_inputs()
    weighted = tangent.kernel(network, cloud, x, masses=[2.0, 1.0, 0.0, 1.0, 3.0, 1.0])
    repeated = tangent.kernel(network, np.repeat(cloud, [2, 1, 0, 1, 3, 1], axis=0), x)
    assert weighted == pytest.approx(repeated, rel=1e-13, abs=1e-15)


def means_by_quadrature(activation, x, y):
    """E phi(z) phi(z') and E phi'(z) phi'(z') for z = g . x, z' = g . y, g ~ N(0, I).

    In polar coordinates of the plane of x and y: z = |x| r cos t, z' = |y| r cos(t - angle), weight r e^(-r^2 / 2)
    dr dt / 2 pi. Gauss-Legendre on panels, in t between the lines z = 0 and z' = 0 and finer towards them and towards
    r = 0, so that kinks lie on ends of panels, however sharp.
    """
    size_x, size_y = np.linalg.norm(x), np.linalg.norm(y)
    angle = 0.0
    if size_x > 0 and size_y > 0:
        u, v = x / size_x, y / size_y
        angle = 2.0 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))
    lines = np.unique(np.r_[np.array([-1.5, -0.5, 0.5, 1.5]) * np.pi, angle + np.array([-1.5, -0.5, 0.5]) * np.pi])
    lines = lines[(lines >= -np.pi / 2) & (lines <= 1.5 * np.pi)]  # one turn, starting on a line
    graded = np.r_[0.0, 0.5 ** np.arange(9, 0, -1)]
    graded = np.r_[graded, 1.0 - graded[-2::-1]]
    angles = [low + (high - low) * graded for low, high in pairwise(lines)]
    t, weights_t = legendre_panels(np.concatenate([panel[:-1] for panel in angles] + [lines[-1:]]), 10)
    r, weights_r = legendre_panels(np.r_[0.0, 0.4 * 0.5 ** np.arange(6, 0, -1), np.arange(1, 25) * 0.4], 12)
    weights_r = weights_r * r * np.exp(-0.5 * r**2) / (2.0 * np.pi)
    left = activation.formula(size_x * np.outer(r, np.cos(t)))
    right = activation.formula(size_y * np.outer(r, np.cos(t - angle)))
    return tuple(weights_r @ (a * b) @ weights_t for a, b in zip(left, right, strict=True))


def legendre_panels(edges, order):
    """Nodes and weights of the Gauss-Legendre rule of `order` on each panel."""
    points, weights = np.polynomial.legendre.leggauss(order)
    half = 0.5 * np.diff(edges)[:, None]
    return (0.5 * (edges[1:] + edges[:-1])[:, None] + half * points).ravel(), (half * weights).ravel()


def kernel_by_quadrature(network, law, inputs, other):
    scale = network.scaling
    entries = np.empty((len(inputs), len(other)))
    for k, x in enumerate(scale.input_scale * inputs):
        for m, y in enumerate(scale.input_scale * other):
            if other is inputs and m < k:
                entries[k, m] = entries[m, k]
                continue
            values, slopes = means_by_quadrature(network.activation, law.sigma_w * x, law.sigma_w * y)
            entries[k, m] = scale.mobility_a * values + scale.mobility_w * law.sigma_a**2 * slopes * (x @ y)
    return entries


def error_of_infinite(network, law, inputs, other):
    """Largest difference to the quadrature, of the largest entry."""
    exact = kernel_by_quadrature(network, law, inputs, other)
    return np.abs(tangent.infinite(network, law, inputs, other) - exact).max() / np.abs(exact).max()


@pytest.mark.parametrize("angle", [0.0, 1e-3, 0.4, np.pi / 2, 2.0, np.pi - 1e-3, np.pi])
def test_our_quadrature(angle):
    """The yardstick: E z z' = |x||y| cos angle and (Sheppard) P(z > 0, z' > 0) = (pi - angle) / 2 pi, to 1e-12."""
    x, y = np.array([1.7, 0.0]), 0.4 * np.array([np.cos(angle), np.sin(angle)])
    values, slopes = means_by_quadrature(ACTIVATIONS["linear"], x, y)
    assert values == pytest.approx(x @ y, abs=1e-12)
    assert slopes == pytest.approx(1.0, abs=1e-12)
    assert means_by_quadrature(ACTIVATIONS["relu"], x, y)[1] == pytest.approx(0.5 - angle / (2 * np.pi), abs=1e-12)


@pytest.mark.parametrize("inputs", [unlike_inputs(), unit_inputs()], ids=["unlike", "unit"])
@activations
def test_infinite_kernel(activation, inputs):
    """The kernel of the law is the integral it stands for: every activation, to 1e-8 of the largest entry."""
    network, law = Network(activation), GaussianLaw(inputs.shape[1])
    assert error_of_infinite(network, law, inputs, inputs) < QUADRATURE
    assert np.array_equal(tangent.infinite(network, law, inputs), tangent.infinite(network, law, inputs, inputs))


@scalings
@pytest.mark.parametrize("activation", ["erf", "relu", "linear", "tanh", "softplus-geiger"])
def test_infinite_kernel_of_other_laws(activation, scaling):
    """sigma_a, sigma_w, mobilities, the input scale and other inputs of other norms: to 1e-8 of the largest entry."""
    law = GaussianLaw(3, sigma_a=1.7, sigma_w=0.6)
    inputs = unlike_inputs()
    assert error_of_infinite(Network(activation, scaling), law, inputs[:3], inputs[2:6]) < QUADRATURE


@pytest.mark.parametrize("sigma_w", [0.01, 2.0])
@activations
def test_infinite_kernel_of_extreme_laws(activation, sigma_w):
    """Nearly linear and nearly saturated units: to 1e-8 of the largest entry."""
    inputs = unlike_inputs()[[0, 2, 5]]
    assert error_of_infinite(Network(activation), GaussianLaw(3, sigma_w=sigma_w), inputs, inputs) < QUADRATURE


@activations
def test_very_steep_units(activation):
    """sigma_w = 8 and inputs of norm 2: to 1e-8 of the largest entry."""
    inputs = unlike_inputs()[[2, 5]]
    assert error_of_infinite(Network(activation), GaussianLaw(3, sigma_w=8.0), inputs, inputs) < QUADRATURE


@activations
def test_infinite_kernel_is_a_kernel(activation):
    """Symmetric, and positive semidefinite up to 1e-9 of the largest eigenvalue; repeated inputs included."""
    kernel = tangent.infinite(Network(activation), GaussianLaw(3), unlike_inputs())
    assert np.abs(kernel - kernel.T).max() <= 1e-14 * kernel.max()
    values = np.linalg.eigvalsh(kernel)
    assert values[0] > -1e-9 * values[-1]


@pytest.mark.parametrize(
    "activation",
    [
        *ACTIVATIONS.values(),
    ],
    ids=ACTIVATIONS,
)
def test_infinite_kernel_at_the_origin(activation):
    """At x = 0 every unit is constant: K = xi_a phi(0)^2, to 1e-12."""
    origin = np.zeros((2, 3))
    exact = 0.7 * float(activation.formula(np.zeros(1))[0][0]) ** 2
    network = Network(activation, Scaling(mobility_a=0.7))
    assert tangent.infinite(network, GaussianLaw(3), origin) == pytest.approx(np.full((2, 2), exact), abs=1e-12)


ERF_MEANS = gaussian_means.CLOSED_FORMS[ACTIVATIONS["erf"]]
WRONG = {
    "erf": lambda u, v: (ERF_MEANS(u, v)[0], 1.0 + 0.0 * (u @ v.T)),
    "relu": lambda u, v: (gaussian_means._relu_means(u, v)[0], 0.5 - gaussian_means._relu_means(u, v)[1]),
    "linear": lambda u, v: (2.0 * u @ v.T, np.ones((len(u), len(v)))),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_closed_form_is_caught(monkeypatch, name):
    """The comparison above fails for closed forms with a slip in them."""
    assert {each.name for each in gaussian_means.CLOSED_FORMS} == set(WRONG), "give every closed form a wrong one"
    monkeypatch.setitem(gaussian_means.CLOSED_FORMS, ACTIVATIONS[name], WRONG[name])
    inputs = unit_inputs()
    assert error_of_infinite(Network(name), GaussianLaw(3), inputs, inputs) > 1e-2


N_SAMPLED = 200_000


@activations
def test_sampled_kernel_approaches_the_infinite_one(activation):
    """200,000 iid particles: every entry within five of its own standard errors of the law's kernel."""
    law, network = GaussianLaw(2, sigma_a=0.8, sigma_w=1.3), Network(activation)
    x = np.array([[1.0, 0.0], [0.3, 0.9], [-1.1, 0.4]])
    cloud = initial.gaussian(N_SAMPLED, 2, seed=4, sigma_a=0.8, sigma_w=1.3)
    parts = gradients(network, cloud, x)
    error = np.einsum("ika,ila->ikl", parts, parts).std(axis=0) / np.sqrt(N_SAMPLED)
    infinite = tangent.infinite(network, law, x)
    z = np.abs(tangent.kernel(network, cloud, x) - infinite) / error
    assert z.max() < 5.0
    other_law = tangent.infinite(network, GaussianLaw(2, sigma_a=0.85, sigma_w=1.3), x)
    assert (np.abs(tangent.kernel(network, cloud, x) - other_law) / error).max() > 5.0, "a law 6 % wider is seen"


POLYNOMIALS = (quadratic(), polynomial([0.3, -1.0, 0.5, 0.2, -0.1]), polynomial([0.0, 0.0, 0.0, 1.0], hermite=True))


def layer_by_quadrature(activation, law, inputs, layer):
    """E phi phi' of the output layer's features, E a^2 E phi'(z) phi'(z') x.x' of the inner layer's, mobilities 1."""
    means = np.array(
        [[means_by_quadrature(activation, law.sigma_w * x, law.sigma_w * y) for y in inputs] for x in inputs]
    )
    return means[:, :, 0] if layer == "output" else law.sigma_a**2 * means[:, :, 1] * (inputs @ inputs.T)


@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), *POLYNOMIALS], ids=lambda each: each.name)
def test_each_layer_of_the_infinite_kernel(activation):
    """RF and NT kernels are their integrals: each to 1e-8 of its largest entry; the other layer's is seen."""
    law, x = GaussianLaw(3, sigma_a=1.7, sigma_w=0.6), unlike_inputs()[[0, 2, 3, 5, 6]]
    exact = {layer: layer_by_quadrature(activation, law, x, layer) for layer in ("output", "inner")}
    for layer, kernel in exact.items():
        found = tangent.infinite(Network(activation), law, x, layer=layer)
        assert np.abs(found - kernel).max() < QUADRATURE * np.abs(kernel).max()
    assert np.abs(exact["output"] - exact["inner"]).max() > 1e-2 * np.abs(exact["inner"]).max(), (
        "layers that are swapped"
    )


def test_quadratic_units_in_closed_form():
    """phi = z^2, w ~ N(0, s^2 I): RF = s^4 (|x|^2 |x'|^2 + 2 (x.x')^2), NT = E a^2 4 s^2 (x.x')^2: to 1e-13."""
    law, x = GaussianLaw(3, sigma_a=1.7, sigma_w=0.6), unlike_inputs()
    dots, squares = x @ x.T, (x**2).sum(axis=1)
    found = [tangent.infinite(Network(quadratic()), law, x, layer=layer) for layer in ("output", "inner")]
    assert found[0] == pytest.approx(0.6**4 * (np.outer(squares, squares) + 2.0 * dots**2), rel=1e-13)
    assert found[1] == pytest.approx(1.7**2 * 0.6**2 * 4.0 * dots**2, rel=1e-13, abs=1e-17)


def smooth_means(activation, points):
    return gaussian_means._smooth_means(activation, *gaussian_means._polar(points, points))


@pytest.mark.parametrize(
    "activation", [*POLYNOMIALS, *map(ACTIVATIONS.get, ("erf", "linear"))], ids=lambda each: each.name
)
def test_closed_forms_equal_their_series(activation):
    """Isserlis' theorem and arcsine are what the Hermite series and the quadrature give: to 1e-9 of the largest mean;
    those of another polynomial are not.
    """
    x = unlike_inputs()
    closed, series = gaussian_means.means(activation)(x, x), smooth_means(activation, x)
    for found, exact in zip(series, closed, strict=True):
        assert np.abs(found - exact).max() < 1e-9 * np.abs(exact).max()
    other = smooth_means(polynomial([0.1, 1.1, 0.5, 0.2]), x)
    assert np.abs(other[0] - closed[0]).max() > 1e-2 * np.abs(closed[0]).max()


@scalings
def test_layers_add_up(scaling):
    """K = K_output + K_inner, mobilities and masses included, of a cloud and of the law: to rounding."""
    network, cloud, x = Network("tanh", scaling), particles(40, 3), unlike_inputs()
    masses, law = np.random.default_rng(1).random(40), GaussianLaw(3, sigma_a=0.7)
    for of in (
        lambda layer: tangent.kernel(network, cloud, x, x[:5], masses, layer=layer),
        lambda layer: tangent.infinite(network, law, x, x[:5], layer=layer),
    ):
        whole, output, inner = (of(layer) for layer in tangent.LAYERS)
        assert output + inner == pytest.approx(whole, rel=1e-14, abs=1e-15 * np.abs(whole).max())
    features = network.activation.formula(scaling.input_scale * cloud[:, 1:] @ x.T)[0]
    exact = scaling.mobility_a * features.T @ ((masses / masses.sum())[:, None] * features)
    assert tangent.kernel(network, cloud, x, masses=masses, layer="output") == pytest.approx(
        exact, rel=1e-12, abs=1e-14
    )


@pytest.mark.parametrize("layer", tangent.LAYERS)
@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_the_operator_is_the_kernel(monkeypatch, engine, layer):
    """K c without K, and K' c, of a cloud with masses and of a law in blocks of rows: to 1e-13 of the dense product."""
    monkeypatch.setattr(tangent, "_BLOCK_ENTRIES", 11)
    network = Network("erf", Scaling(alpha=3.0, mobility_a=0.3, mobility_w=2.5, input_scale=0.7), bias=0.5)
    cloud, x, law = particles(40, 4), unlike_inputs(), GaussianLaw(4)
    masses, c = np.random.default_rng(1).random(40), np.random.default_rng(2).standard_normal(8)
    for other in (None, x[:5] + 0.1):
        size = 8 if other is None else 5
        for dense, lazy in (
            (
                tangent.kernel(network, cloud, x, other, masses, layer=layer),
                tangent.operator(network, cloud, x, other, masses, layer=layer, engine=engine),
            ),
            (
                tangent.infinite(network, law, x, other, layer=layer),
                tangent.operator(network, law, x, other, layer=layer),
            ),
        ):
            assert lazy.shape == dense.shape
            scale = 1e-13 * np.abs(dense).max() * 8
            assert np.abs(lazy @ c[:size] - dense @ c[:size]).max() < scale
            assert np.abs(lazy.T @ c - dense.T @ c).max() < scale
    wrong = tangent.operator(network, cloud, x, masses=None, layer=layer)
    exact = tangent.kernel(network, cloud, x, masses=masses, layer=layer) @ c
    assert np.abs(wrong @ c - exact).max() > 1e-3 * np.abs(exact).max(), "forgotten masses are seen"


def traced(act):
    tracemalloc.start()
    act()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_the_operator_of_a_law_never_forms_the_kernel(monkeypatch):
    """1,200 inputs in blocks of 2^16 entries: a product takes less than the kernel, traced; in one block more."""
    x = particles(1200, 1, 5)
    network, law, weights = Network("relu"), GaussianLaw(2), np.ones(1200)
    monkeypatch.setattr(tangent, "_BLOCK_ENTRIES", 2**16)
    lazy = tangent.operator(network, law, x)
    assert traced(lambda: lazy @ weights) < 8 * 1200**2
    monkeypatch.setattr(tangent, "_BLOCK_ENTRIES", 2**30)
    assert traced(lambda: lazy @ weights) > 8 * 1200**2


@pytest.mark.parametrize("activation", [*gaussian_means.CLOSED_FORMS, quadratic()], ids=lambda each: each.name)
def test_the_stated_memory_is_enough(activation):
    """`infinite` in closed form says no less than the most it takes, traced, to 5 %."""
    x, law, network = particles(700, 1, 5) / 4.0, GaussianLaw(2), Network(activation)
    tangent.infinite(network, law, x[:2])
    with pytest.raises(InputError) as refused:
        tangent.infinite(network, law, x, max_bytes=1.0)
    number, unit = re.search(r"needs ([\d.]+) (\w+) \(kernel", str(refused.value)).groups()
    tracemalloc.start()
    tangent.infinite(network, law, x)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1.05 * float(number) * {"MiB": 2**20}[unit]


def test_drift():
    """norm(K - K_0) / norm(K_0): 0 for equal kernels, |c - 1| for c K_0, and by hand."""
    kernel = tangent.kernel(Network("relu"), particles(20, 3), unlike_inputs())
    assert tangent.drift(kernel, kernel) == 0.0
    assert tangent.drift(3.0 * kernel, kernel) == pytest.approx(2.0, rel=1e-14)
    assert tangent.drift([[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 4.0]]) == pytest.approx(0.75, rel=1e-14)
    with pytest.raises(InputError, match=r"kernels have shapes \(8, 8\) and \(2, 8\); needed: the same inputs"):
        tangent.drift(kernel, kernel[:2])


def test_memory_is_refused_before_it_is_taken():
    """Above `max_bytes`, or 80 % of what is free: refused with the sizes, before anything is computed."""
    network, cloud, x = Network("relu"), particles(4, 3), unlike_inputs()
    tangent.kernel(network, cloud, x, x[:2], max_bytes=2**30)
    with pytest.raises(InputError, match=r"of 8 x 2 inputs needs .* \(sums .*\), more than 639 B, max_bytes."):
        tangent.kernel(network, cloud, x, x[:2], max_bytes=639)
    many = np.zeros((4_000_000, 3))
    with pytest.raises(InputError, match=r"of 4000000 x 4000000 inputs needs .* GiB .*, 80% of the free memory"):
        tangent.kernel(network, cloud, many)


NETWORK, CLOUD, INPUTS = Network("erf"), particles(4, 3), unlike_inputs()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tangent.kernel(NETWORK, CLOUD[:, :3], INPUTS), "particles have 3 columns, but inputs of dimension 3"),
        (lambda: tangent.kernel(NETWORK, CLOUD, INPUTS[0]), r"inputs has shape \(3,\); needed: an array \(n, d\)"),
        (lambda: tangent.kernel(NETWORK, CLOUD, INPUTS, INPUTS[:, :2]), "other have dimension 2; needed: 3"),
        (lambda: tangent.kernel(NETWORK, CLOUD, INPUTS, masses=[1.0]), "masses has 1 entries; needed: 4"),
        (lambda: tangent.kernel(NETWORK, np.full((4, 4), np.nan), INPUTS), "particles holds nan"),
        (lambda: tangent.infinite(NETWORK, GaussianLaw(2), INPUTS), "inputs have dimension 3; needed: 2"),
        (lambda: tangent.infinite(NETWORK, GaussianLaw(3), INPUTS, [[1.0]]), "other have dimension 1; needed: 3"),
        (lambda: tangent.infinite(NETWORK, GaussianLaw(3), np.zeros((0, 3))), "inputs is empty"),
        (
            lambda: tangent.kernel(NETWORK, CLOUD, INPUTS, layer="outputs"),
            "unknown layer 'outputs'. Did you mean 'outp",
        ),
        (lambda: tangent.operator(NETWORK, CLOUD[:, :3], INPUTS), "particles have 3 columns"),
        (lambda: tangent.operator("erf", CLOUD, INPUTS), "network is 'erf'; needed: a Network"),
        (
            lambda: tangent.infinite(NETWORK, GaussianLaw(3), np.zeros((4_000_000, 3))),
            r"infinite tangent kernel of 4000000 x 4000000 inputs needs .* GiB .*fewer inputs, or `tangent.operator`",
        ),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()
