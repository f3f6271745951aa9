"""Means over Gaussian pairs: against closed forms, and integrals over one variable at a time by other rules."""

import re
import tracemalloc
import warnings

import numpy as np
import pytest
from scipy.special import ndtr

from meanfield import Activation, GaussianLaw, Network, activations, gaussian_means, tangent
from meanfield.activations import ACTIVATIONS, PiecewiseLinear, piecewise_linear
from meanfield.errors import ConvergenceError, InputError
from meanfield.vocabulary import absolute, where

KINKED = {
    "relu": PiecewiseLinear("relu", ACTIVATIONS["relu"].formula),
    "biased": activations.biased_relu(0.5),
    "biased below": activations.biased_relu(-1.5),
    "not monotone": piecewise_linear((0.0, 0.5, 1.5), (-2.5, -4.0, 7.5)),
}
SMOOTH = {
    **{each.name: each for each in ACTIVATIONS.values() if each.name not in ("relu", "linear")},
    "softplus 20": activations.softplus(20.0),
}


@pytest.fixture(autouse=True)
def no_warning_leaks():
    """What is wrong must be an error; no call in this file may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# |x|, |y| and the angle between them
PAIRS = {
    "apart": (0.1, 12.0, 1.9),
    "small": (0.3, 0.2, 0.4),
    "large": (20.0, 17.0, 0.8),
    "rho = 0.9999": (20.0, 14.0, np.arccos(0.9999)),
    "nearly equal": (20.0, 20.0, 1e-5),
    "nearly opposed": (6.0, 5.0, np.pi - 1e-4),
    "rho = 1": (3.0, 20.0, 0.0),
    "rho = -1": (20.0, 19.0, np.pi),
}
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def panels(edges, order=16):
    """Gauss and Legendre's rule on each panel, for means over N(0, 1)."""
    points, weights = np.polynomial.legendre.leggauss(order)
    edges = np.unique(np.clip(edges, -9.5, 9.5))
    half = 0.5 * np.diff(edges)[:, None]
    nodes = (0.5 * (edges[1:] + edges[:-1])[:, None] + half * points).ravel()
    return nodes, (half * weights).ravel() * np.exp(-0.5 * nodes**2) / np.sqrt(2.0 * np.pi)


def around(centre, width):
    """Edges every unit of a normal variable, and finer towards what happens within `width` of `centre`."""
    steps = width * 2.0 ** np.arange(8)
    return np.r_[np.arange(-9.5, 10.0), centre, centre - steps, centre + steps]


def means_of_unit(activation, middles, spread):
    """E phi(m + s e) and E phi'(m + s e), e ~ N(0, 1), at many m: closed for ramps, else by panels around z = 0."""
    if spread == 0.0:
        return np.array(activation.formula(middles))
    if isinstance(activation, PiecewiseLinear):
        found = np.array([np.full(middles.shape, activation.left), np.zeros(middles.shape)])
        for knot, jump in zip(activation.knots, activation.jumps, strict=True):
            z = (middles - knot) / spread
            density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
            found += jump * np.array([(middles - knot) * ndtr(z) + spread * density, ndtr(z)])
        return found
    rules = [panels(around(-middle / spread, 0.1 / spread)) for middle in middles]
    found = [np.array(activation.formula(m + spread * e)) @ w for m, (e, w) in zip(middles, rules, strict=True)]
    return np.array(found).T


def by_panels(activation, p, q, angle):
    """E phi(u) phi(v) and of the slopes: u = p g, v given g as above, g on panels finer towards all kinks."""
    along, across = q * np.cos(angle), 0.0 if angle in (0.0, np.pi) else q * np.sin(angle)
    edges = [around(0.0, 0.05 / p)]
    for knot in getattr(activation, "knots", (0.0,)):
        edges += [around(knot / p, 1.0), *(around(knot / along, max(w, 1e-9) / abs(along)) for w in (across, 0.05))]
    g, weights = panels(np.concatenate(edges))
    return (np.array(activation.formula(p * g)) * means_of_unit(activation, along * g, across)) @ weights


def error(entries, activation, pair):
    """Largest difference of the two means of a pair, relative to sqrt(E phi(u)^2 E phi(v)^2) and that of the slopes."""
    p, q, angle = pair
    found = np.ravel(entries(activation, np.array([[p]]), np.array([[q]]), np.array([[angle]])))
    size = np.sqrt(by_panels(activation, p, p, 0.0) * by_panels(activation, q, q, 0.0))
    return np.abs((found - by_panels(activation, p, q, angle)) / size).max()


@pairs
@pytest.mark.parametrize("name", KINKED)
def test_ramps(name, pair):
    """Norms 0.1 to 20, rho to 1 - 5e-11 and +-1: to 1e-10 of an entry's own size."""
    assert error(gaussian_means._ramp_means, KINKED[name], pair) < 1e-10


@pairs
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth(name, pair):
    """Norms 0.1 to 20, rho to 1 - 5e-11 and +-1: to 1e-9 of an entry's own size."""
    if name == "softplus 20":
        pair = (0.2 * pair[0], 0.2 * pair[1], pair[2])  # 20 z of up to 80
    assert error(gaussian_means._smooth_means, SMOOTH[name], pair) < 1e-9


def test_wrong_means_are_caught():
    """A knot 1e-6 off, a rule four times too coarse, and an angle 1e-6 off, each by more than 1e-8."""
    off = PiecewiseLinear("off", KINKED["biased"].formula, (0.500001,))
    wrong = {
        "knot": (lambda _, *at: gaussian_means._ramp_means(off, *at), KINKED["biased"]),
        "rule": (
            lambda unit, p, q, angle: gaussian_means._by_quadrature(unit, p[0, 0], q[0, 0], angle[0, 0], 1.4),
            SMOOTH["tanh"],
        ),
        "angle": (lambda unit, p, q, angle: gaussian_means._smooth_means(unit, p, q, angle + 1e-6), SMOOTH["tanh"]),
    }
    for name, (entries, unit) in wrong.items():
        assert error(entries, unit, (5.0, 4.0, 0.3)) > 1e-8, name


@pytest.mark.parametrize("terms", [0, 2048])
def test_series_and_quadrature_agree(monkeypatch, terms):
    """Arcsine (Williams 1997) by either alone, norms to 3 and rho to 0.9: to 1e-10; a series cut at 1e-2 is not it."""
    points = np.random.default_rng(0).standard_normal((6, 3))
    exact = np.array(gaussian_means.CLOSED_FORMS[ACTIVATIONS["erf"]](points, points))
    monkeypatch.setattr(gaussian_means, "_MOST_TERMS", terms)
    monkeypatch.setattr(gaussian_means, "_SERIES_POINTS", 0)
    polar = gaussian_means._polar(points, points)
    found = np.array(gaussian_means._smooth_means(ACTIVATIONS["erf"], *polar))
    loose = np.array(gaussian_means._smooth_means(ACTIVATIONS["erf"], *polar, tolerance=1e-2))
    assert np.abs(found - exact).max() < 1e-10
    assert terms == 0 or 1e-10 < np.abs(loose - exact).max() < 1e-2


@pytest.mark.parametrize("activation", [ACTIVATIONS["tanh"], activations.biased_relu(0.5)], ids=lambda each: each.name)
def test_tiles_add_up(monkeypatch, activation):
    """Tiles of any size and blocks of nodes: one whole to 1e-12; a kernel in tiles is symmetric to the last bit."""
    left, right = (np.random.default_rng(n).standard_normal((n, 3)) for n in (7, 5))
    whole = np.array(gaussian_means.means(activation)(left, right))
    for name, value in (("_TILE", 3), ("_NODES", 50), ("_POINTS", 400)):
        monkeypatch.setattr(gaussian_means, name, value)
    assert np.array(gaussian_means.means(activation)(left, right)) == pytest.approx(whole, abs=1e-12)
    values, slopes = gaussian_means.means(activation)(left, left)
    assert values == pytest.approx(values.T, abs=1e-14) and slopes == pytest.approx(slopes.T, abs=1e-14)


@pytest.mark.parametrize(
    "unit",
    [
        Activation("jump", lambda z: (z + where(z > 0.0, 1.0, 0.0), 1.0 + 0.0 * z)),
        Activation("kink", lambda z: (absolute(z), where(z > 0.0, 1.0, -1.0))),
        Activation("kink off the nodes", lambda z: (absolute(z - 0.3), where(z > 0.3, 1.0, -1.0))),
    ],
    ids=lambda each: each.name,
)
def test_a_kink_that_is_not_told_is_refused(unit):
    """Never a number that is not known: an error with the name, what was reached and what to do."""
    message = (
        rf"'{unit.name}' over N\(0, 1\^2\) still change by \d\.\de-\d\d .* needed 1e-11. If phi or its slope jumps"
    )
    with pytest.raises(ConvergenceError, match=message):
        tangent.infinite(Network(unit), GaussianLaw(2), np.eye(2))


@pytest.mark.parametrize("n", [2, 60, 300])
@pytest.mark.parametrize("activation", [ACTIVATIONS["tanh"], activations.biased_relu(0.5)], ids=lambda each: each.name)
def test_the_stated_memory_is_enough(activation, n):
    """`infinite` says no less than the most it takes, traced; and within 30 MB for 60 inputs."""
    points = 3.0 * np.random.default_rng(0).standard_normal((n, 6))
    network, law = Network(activation), GaussianLaw(6)
    tangent.infinite(network, law, points[:2])
    with pytest.raises(InputError) as refused:
        tangent.infinite(network, law, points, max_bytes=1.0)
    number, unit = re.search(r"needs ([\d.]+) (\w+) \(kernel", str(refused.value)).groups()
    tracemalloc.start()
    tangent.infinite(network, law, points)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stated = float(number) * {"MiB": 2**20}[unit]
    assert most < 1.02 * stated and (n > 60 or stated < 40e6)
