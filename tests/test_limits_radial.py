"""The radial limit of two Gaussians: profile and flow by other quadratures, known risks, particles beside it."""

import re
import sys

import numpy as np
import pytest
from scipy.integrate import dblquad, quad
from scipy.special import gamma

import meanfield as mf
from meanfield import activations, batches, initial, limits
from meanfield.errors import ConvergenceError, InputError
from meanfield.problems import TwoGaussians

RADIAL = sys.modules["meanfield.limits.radial"]
RAMP = activations.piecewise_linear((0.5, 1.5), (-2.5, 7.5))
FAILING = activations.piecewise_linear((0.0, 0.5, 1.5), (-2.5, -4.0, 7.5))
PLAIN = mf.GaussianLaw(40, sigma_a=0.0, mean_a=1.0, sigma_w=0.8 / np.sqrt(40))  # a = 1, after MMN18


def network(activation=RAMP, alpha=1.0, **options):
    return mf.Network(activation, mf.Scaling(alpha, **({"mobility_a": 0.0} | options)))


def density(dim, omega):
    """Of the first coordinate of a uniform point on the unit sphere."""
    height = gamma(dim / 2) / (np.sqrt(np.pi) * gamma((dim - 1) / 2))
    return height * (1 - omega**2) ** ((dim - 3) / 2)


UNITS = {"ramp": RAMP, "failing": FAILING, "relu": activations.relu, "softplus": activations.softplus()}


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("dim", [3, 40])
def test_profile_of_one_block_is_the_mean_over_the_sphere(name, dim):
    """h(t) = E phi(t omega) by adaptive quadrature, to 1e-9; its slope by differences of fourth order, to 1e-8."""
    formula, t, h = UNITS[name].formula, np.array([0.3, 0.9, 2.0, 7.0]), 1e-3
    profile = RADIAL._profile(UNITS[name], (dim,), 40)
    for at in t:
        kinks = [k / at for k in (0.0, 0.5, 1.5) if k < at]
        wanted = quad(lambda s: formula(at * s)[0] * density(dim, s), -1, 1, points=kinks, epsabs=1e-12, limit=200)[0]  # noqa: B023
        assert profile([np.array([at])])[0][0] == pytest.approx(wanted, abs=1e-9)
    values = [profile([t + k * h])[0] for k in (-2, -1, 1, 2)]
    slope = (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * h)
    np.testing.assert_allclose(profile([t])[1][0], slope, atol=2e-8)


@pytest.mark.parametrize("name", ["ramp", "softplus"])
def test_profile_of_two_blocks_is_the_mean_over_two_spheres(name):
    """By adaptive quadrature in two dimensions, to 1e-6 with 40 angles; slopes by differences."""
    formula, dims, (t1, t2), h = UNITS[name].formula, (20, 9), (2.2, 1.4), 1e-4
    profile = RADIAL._profile(UNITS[name], dims, 40)
    wanted = dblquad(
        lambda s, r: formula(t1 * s + t2 * r)[0] * density(dims[0], s) * density(dims[1], r), -1, 1, -1, 1,
        epsabs=1e-8, epsrel=1e-8,
    )[0]  # fmt: skip
    value, slopes = profile([np.array([t1]), np.array([t2])])
    assert value[0] == pytest.approx(wanted, abs=1e-6)
    for block, slope in enumerate(slopes):
        at = np.add.outer(np.array([t1, t2]), np.zeros(2))
        at[block] += np.array([h, -h])
        values = profile(list(at))[0]
        assert slope[0] == pytest.approx((values[0] - values[1]) / (2 * h), abs=1e-6)


@pytest.mark.parametrize(("delta", "time", "risk", "nodes"), [(0.4, 4.0, 0.07293269, 48), (0.8, 8.0, 0.85902758, 128)])
def test_risks_of_another_code(delta, time, risk, nodes):
    """R(4), R(8) of an independent solver of the reduced equation in d = 40, converged to 1e-8: to 1e-6."""
    solved = limits.radial(network(), TwoGaussians.isotropic(40, delta), PLAIN, [time], n_nodes=nodes)
    assert solved.risks[-1] == pytest.approx(risk, abs=1e-6)
    assert solved.error[-1] < 2e-4
    assert re.fullmatch(
        rf"RadialLimit\(piecewise .*, dims=\(40,\), .*final risk {risk:.4f}\d*, known to .*\)", repr(solved)
    )


def polar(dim_rule, angles, shift=0.0):
    """A rule over the plane from one over radii: nodes (M, 2), masses (M,)."""
    radii, masses = dim_rule
    at = 2 * np.pi * (np.arange(angles) + shift) / angles
    nodes = np.stack([np.outer(radii, np.cos(at)).ravel(), np.outer(radii, np.sin(at)).ravel()], axis=1)
    return nodes, np.repeat(masses, angles) / angles


def rayleigh(scale, order=40):
    points, weights = np.polynomial.legendre.leggauss(order)
    radii = (points + 1) * 4.5 * scale
    masses = weights * radii * np.exp(-(radii**2) / (2 * scale**2))
    return radii, masses / masses.sum()


def in_the_plane(net, data, law, times):
    """`limits.mean_field` itself, in d = 2, with rules over radii and angles: exact for polynomials of degree 4."""
    found = [polar(rayleigh(scale), 10) for scale in (data.plus[0], data.minus[0])]
    labels = np.repeat([1.0, -1.0], [len(points) for points, _ in found])
    problem = mf.Problem(np.concatenate([p for p, _ in found]), labels, np.concatenate([m for _, m in found]))
    w, masses = polar(rayleigh(law.sigma_w), 10, 0.3)
    points, weights = np.polynomial.hermite_e.hermegauss(12)
    nodes = np.concatenate([np.c_[np.full(len(w), law.mean_a + law.sigma_a * a), w] for a in points])
    rule = initial.Quadrature(nodes, np.outer(weights / weights.sum(), masses).ravel())
    return limits.mean_field(net, problem, None, times, rule=rule, rtol=1e-10, atol=1e-12)


LAW = mf.GaussianLaw(2, sigma_a=0.5, sigma_w=0.3, mean_a=0.3)


@pytest.mark.parametrize("shift", [None, "initial"])
def test_the_reduction_is_the_limit_in_the_plane(shift):
    """A quartic unit, all of (a, w) moving: risks to 1e-9 and predictions at four deviations and less to 1e-8."""
    quartic = activations.polynomial([0.3, 0.2, 0.25, 0.0, -0.01])
    net = network(quartic, 0.8, mobility_a=0.7, mobility_w=1.3, input_scale=0.9, shift=shift)
    data, times = TwoGaussians((2,), (0.6,), (0.3,)), [0.5, 2.0]
    whole = in_the_plane(net, data, LAW, times)
    assert np.isnan(whole.error).all() and "not known" in repr(whole)
    solved = limits.radial(net, data, LAW, times, n_nodes=48)
    problem = whole.problem
    risks = [problem.weights @ (problem.targets - each) ** 2 for each in whole.predictions]
    np.testing.assert_allclose(solved.risks, risks, rtol=1e-9)
    near = np.linalg.norm(problem.inputs, axis=1) < 2.4
    np.testing.assert_allclose(solved.predict(problem.inputs[near]), whole.predictions[-1][near], atol=1e-8)
    # Another mobility is caught.
    wrong = limits.radial(
        network(quartic, 0.8, mobility_a=0.7, mobility_w=1.29, input_scale=0.9, shift=shift), data, LAW, times,
        n_nodes=48,
    )  # fmt: skip
    assert np.abs(wrong.risks / risks - 1).max() > 1e-6


def test_a_block_may_be_split():
    """12 = 7 + 5 coordinates of the same law: the risk to 2e-5, of two rules (softplus units)."""
    law, net = mf.GaussianLaw(12, sigma_a=0.0, mean_a=1.0, sigma_w=0.4), network("softplus")
    one = limits.radial(net, TwoGaussians((12,), (1.4,), (0.6,)), law, [1.0, 4.0], n_nodes=32)
    two = limits.radial(net, TwoGaussians((7, 5), (1.4, 1.4), (0.6, 0.6)), law, [1.0, 4.0], rtol=1e-8)
    np.testing.assert_allclose(two.risks, one.risks, atol=2e-5)
    other = limits.radial(net, TwoGaussians((7, 5), (1.4, 1.3), (0.6, 0.6)), law, [1.0, 4.0], n_nodes=16, rtol=1e-8)
    assert np.abs(other.risks - one.risks).max() > 1e-3


@pytest.mark.parametrize(
    ("data", "activation"),
    [(TwoGaussians.isotropic(40, 0.4), RAMP), (TwoGaussians.anisotropic(20, 8, 0.6), activations.softplus())],
    ids=["one radius", "two radii"],
)
def test_particles_on_fresh_data_approach_it(data, activation):
    """f_N of 8 clouds of 400 on one pass of batches of 200, dt = 0.02: mean of (f_N - f) y over seeds and inputs
    within five standard errors, E (f_N - f)^2 below 8/N; twice the time is caught."""
    law = mf.GaussianLaw(data.dim, sigma_a=0.0, mean_a=1.0, sigma_w=0.8 / np.sqrt(data.dim))
    net, times = network(activation), [1.0, 2.0]
    solved = limits.radial(net, data, law, times, n_nodes=48 if len(data.dims) == 1 else 16, rtol=1e-7)
    problem = data.sample(2000, seed=3)
    exact, later = solved.predict(problem.inputs, 0), solved.predict(problem.inputs, 1)
    off, squares = [], []
    for seed in range(8):
        start = initial.gaussian(400, data.dim, seed, sigma_a=0.0, mean_a=1.0, sigma_w=law.sigma_w)
        run = mf.simulate(
            net, problem, start, times[:1], scheme="euler", dt=0.02, batches=batches.fresh(data.draw, 200, seed=seed)
        )
        difference = run.predictions[-1] - exact
        off.append([(difference * problem.targets).mean(), ((run.predictions[-1] - later) * problem.targets).mean()])
        squares.append((difference**2).mean())
    mean, error = np.mean(off, axis=0), np.std(off, axis=0, ddof=1) / np.sqrt(8)
    assert abs(mean[0]) < 5 * error[0] < abs(mean[1])
    assert np.mean(squares) < 8 / 400


def test_radii_stop_at_zero():
    """Units with a kink at 0 push small weights to w = 0 in a finite time, where they stay: no radius is negative, and
    the risk is that of particles, to 2 % (a cloud of 200 on 4000 data points); it is 0.7 where radii go on.
    """
    data, law = TwoGaussians.isotropic(40, 0.8), mf.GaussianLaw(40, sigma_a=0.0, mean_a=1.0, sigma_w=0.1 / np.sqrt(40))
    solved = limits.radial(network(FAILING), data, law, [0.05, 0.4], n_nodes=32, rtol=1e-6)
    assert solved.particles[:, :, 1:].min() == 0.0 and solved.error.max() < 0.02
    start = initial.gaussian(200, 40, 1, sigma_a=0.0, mean_a=1.0, sigma_w=law.sigma_w)
    run = mf.simulate(
        network(FAILING), data.sample(4000, seed=2), start, [0.05, 0.4], scheme="euler", dt=1e-3, record=["risk"]
    )
    np.testing.assert_allclose(solved.risks, run.records["risk"], rtol=0.02)


def test_a_tolerance():
    """Met by doubling, or refused with what was reached."""
    data = TwoGaussians.isotropic(40, 0.4)
    solved = limits.radial(network(), data, PLAIN, [2.0], n_nodes=16, tolerance=1e-6)
    assert solved.error.max() < 1e-6 and solved.n_nodes > 16
    with pytest.raises(ConvergenceError, match=r"known to .* with 16 nodes to a radius; needed: 1\.0e-12"):
        limits.radial(network(), data, PLAIN, [2.0], n_nodes=16, tolerance=1e-12, max_nodes=16)
    with pytest.raises(ConvergenceError, match="not integrated to t = 2 within 3 steps"):
        limits.radial(network(), data, PLAIN, [2.0], max_steps=3)


def test_two_gaussians():
    """Labels and second moments of a sample within five standard errors; its two named cases."""
    data = TwoGaussians.anisotropic(5, 2, 0.5)
    assert (data.dims, data.plus, data.minus) == ((2, 3), (1.5, 1.0), (0.5, 1.0)) and data.dim == 5
    problem = data.sample(40_000, 10, seed=1)
    assert (
        set(problem.targets) == {-1.0, 1.0} and abs(problem.targets.sum()) < 5 * 200 and len(problem.test_inputs) == 10
    )
    for label, wanted in ((1.0, [1.5, 1.5, 1, 1, 1]), (-1.0, [0.5, 0.5, 1, 1, 1])):
        chosen = problem.inputs[problem.targets == label]
        ratio = (chosen**2).mean(axis=0) / np.square(wanted)
        assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / len(chosen)) < np.abs(ratio * 1.1 - 1).min()
    assert TwoGaussians.isotropic(40, 0.4).dims == (40,)


def test_what_does_not_fit():
    data = TwoGaussians.isotropic(40, 0.4)
    with pytest.raises(InputError, match="needed: a GaussianLaw of dim 40"):
        limits.radial(network(), data, mf.GaussianLaw(3), [1.0])
    with pytest.raises(InputError, match="needed: one or two, each of two or more"):
        limits.radial(network(), TwoGaussians((1,), (1.0,), (2.0,)), mf.GaussianLaw(1), [1.0])
    with pytest.raises(InputError, match=r"data is 3; needed: problems\.TwoGaussians"):
        limits.radial(network(), 3, PLAIN, [1.0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="bias 1; needed: none"):
        limits.radial(mf.Network(RAMP, bias=1.0), data, PLAIN, [1.0])
    with pytest.raises(InputError, match="delta < 1"):
        TwoGaussians.isotropic(40, 1.0)
    with pytest.raises(InputError, match="signal_dim <= dim"):
        TwoGaussians.anisotropic(4, 5)
    with pytest.raises(InputError, match="one for each block"):
        TwoGaussians((2, 3), (1.0,), (1.0,))
    solved = limits.radial(network(), data, PLAIN, [0.0], n_nodes=8)
    with pytest.raises(InputError, match="inputs have dimension 2; needed: 40"):
        solved.predict(np.ones((3, 2)))
