"""Linear networks in closed moments: against the bilinear closed form, finite networks as simulated, and Langevin runs.

All data here but the bilinear neuron's are correlated and far from Gaussian: the moments know of them what f knows.
"""

import warnings

import numpy as np
import pytest
from scipy.optimize import brentq

import meanfield as mf
from meanfield import fit
from meanfield.errors import ConvergenceError, InputError
from meanfield.limits import exact

ALPHAS = pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 10.0])


@pytest.fixture(autouse=True)
def no_warning_leaks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def neuron(alpha, beta=1.0, **options):
    return mf.Network("linear", mf.Scaling(alpha, **options)), mf.problems.bilinear(beta)


@ALPHAS
@pytest.mark.parametrize("beta", [1.0, -2.0])
def test_the_bilinear_closed_form(alpha, beta):
    """f, tracers and S = [[ch 2s, sh 2s], [sh 2s, ch 2s]], to 1e-11 of the largest."""
    (network, task), cloud = neuron(alpha, beta), np.random.default_rng(1).standard_normal((5, 2))
    times = np.linspace(0.0, 4.0, 7) / np.hypot(1.0, beta / alpha)
    found = exact.linear(network, task, mf.GaussianLaw(1), times, tracers=cloud)
    wanted = exact.bilinear(network, task, times, tracers=cloud)
    assert np.abs(found.predictions - wanted.predictions).max() < 1e-11
    assert np.abs(found.test_predictions - wanted.test_predictions).max() < 1e-11
    assert np.abs(found.tracers - wanted.tracers).max() < 1e-11 * np.abs(wanted.tracers).max()
    s = exact.bilinear_angle(times, alpha, beta)
    carried = exact.moments(network, task, mf.GaussianLaw(1), times)
    for at, (ch, sh) in zip(carried, zip(np.cosh(2 * s), np.sinh(2 * s), strict=True), strict=True):
        assert np.abs(at - [[ch, sh], [sh, ch]]).max() < 1e-11 * carried.max()
    assert (found.rule, found.n_nodes) == ("closed moments", 0) and not found.error.any()


def test_a_law_whose_output_weights_have_a_mean():
    """E a^2 = mean^2 + variance: as a rule with these moments moves, to 1e-11."""
    law, task = mf.GaussianLaw(DIM, 0.5, 1.3, 0.7), data()
    nodes, masses = mf.initial.gauss_hermite(law, 2)
    of_law, of_rule = (
        exact.moments(mf.Network("linear"), task, start, TIMES, masses=each)
        for start, each in ((law, None), (nodes, masses))
    )
    np.testing.assert_allclose(of_law, of_rule, rtol=1e-11, atol=1e-11)


# Finite networks

DIM, N = 3, 20
START = np.random.default_rng(5).standard_normal((N, 1 + DIM)) + 0.3
MASSES = np.random.default_rng(6).dirichlet(np.full(N, 4.0))
TIMES = [0.0, 0.4, 1.5, 4.0]


def data():
    """Twelve points of unequal weights: cubes and exponentials of mixed uniforms; targets that no linear f meets."""
    rng = np.random.default_rng(4)
    u = rng.uniform(-1.0, 1.0, (17, DIM)) @ rng.standard_normal((DIM, DIM))
    inputs = np.c_[u[:, 0] ** 3, np.exp(u[:, 1]) - 1.0, u[:, 2] + 0.5 * u[:, 0]]
    targets = np.sin(3.0 * u[:, 0]) + u[:, 1]
    return mf.Problem(
        inputs[:12], targets[:12], rng.dirichlet(np.full(12, 3.0)), test_inputs=inputs[12:], test_targets=targets[12:]
    )


SETTINGS = {
    "mobilities": (mf.Scaling(0.7, mobility_a=0.6, mobility_w=1.4), 0.0, 0.0),
    "ridge": (mf.Scaling(0.7, mobility_a=0.8, mobility_w=0.8), 0.3, 0.0),
    "shift": (mf.Scaling(2.0, shift="initial", input_scale=0.5), 0.0, 0.0),
    "partial-shift": (mf.Scaling(0.3, shift=-0.4), 0.1, 0.0),
    "frozen-w": (mf.Scaling(0.7, mobility_w=0.0), 0.0, 0.0),
    "frozen-a": (mf.Scaling(0.7, mobility_a=0.0), 0.0, 0.0),
    "bias": (mf.Scaling(0.7, mobility_a=0.6, mobility_w=1.4), 0.0, 0.8),
}
EVERY = pytest.mark.parametrize("setting", SETTINGS)


def distance_from_the_run(setting, weighting=MASSES, problem=None, **wrong):
    """Largest difference of predictions, particles and second moments between the moments and a simulated network."""
    scaling, ridge, bias = SETTINGS[setting]
    network, problem = mf.Network("linear", scaling, bias), data() if problem is None else problem
    cloud = np.c_[START, START[:, 1] - START[:, 2]] if bias else START
    run = mf.simulate(
        network, problem, cloud, TIMES, masses=weighting, rtol=1e-11, atol=1e-13, ridge=ridge, engine="reference"
    )
    options = {"masses": weighting, "ridge": ridge, **wrong}
    found = exact.linear(network, problem, cloud, TIMES, tracers=cloud, **options)
    moments = exact.moments(network, problem, cloud, TIMES, **options)
    wanted = np.einsum("i,tij,tik->tjk", run.masses, run.particles, run.particles)
    return max(
        np.abs(one - other).max()
        for one, other in (
            (found.predictions, run.predictions),
            (found.test_predictions, run.test_predictions),
            (found.tracers, run.particles),
            (moments, wanted),
        )
        if one.size
    )


@EVERY
def test_a_finite_network_is_followed(setting):
    """Twenty particles of unequal masses, dopri5 at rtol 1e-11: to 1e-9."""
    assert distance_from_the_run(setting) < 1e-9


def test_uniform_masses_and_a_population():
    """Also the population's risk: E x x^T = I and E y x = sum_j b_j v_j, on the sphere as for N(0, I)."""
    assert distance_from_the_run("mobilities", None) < 1e-9
    for law in ("gaussian", "sphere"):
        problem = mf.Population(mf.population.teacher(DIM, 2), "linear", inputs=law, probes=5)
        assert distance_from_the_run("mobilities", problem=problem) < 1e-9


def without_mobilities(pull, scaling, state):
    moved = np.empty_like(state)
    moved[:, 0], moved[:, 1:] = pull @ state[:, 1:], pull[:, None] * state[:, :1]
    return moved


def transposed(pull, scaling, state):
    swapped = mf.Scaling(scaling.alpha, scaling.mobility_w, scaling.mobility_a)
    return driven(pull, swapped, state)


def with_alpha_twice(pull, scaling, state):
    return driven(pull / scaling.alpha, scaling, state)


driven = exact._driven


@pytest.mark.parametrize("wrong", [without_mobilities, transposed, with_alpha_twice])
def test_a_wrong_matrix_is_caught(wrong, monkeypatch):
    monkeypatch.setattr(exact, "_driven", wrong)
    assert distance_from_the_run("mobilities") > 1e-2


@pytest.mark.parametrize("wrong", [{"ridge": 0.303}, {"masses": None}])
def test_a_wrong_ridge_or_masses_are_caught(wrong):
    assert distance_from_the_run("ridge", **wrong) > 1e-4


def test_two_laws_of_equal_moments():
    """A Gaussian law, its moments and a cloud with them: one predictor, to 1e-11; another law has another."""
    network, problem, law = mf.Network("linear", mf.Scaling(0.7)), data(), mf.GaussianLaw(DIM, 0.8, 1.2)
    axes = np.sqrt(1 + DIM) * np.diag(law.scales)
    cloud = np.concatenate([axes, -axes])
    wanted = exact.linear(network, problem, law, TIMES).predictions
    for start in (exact.SecondMoments(np.diag(law.scales**2)), cloud):
        assert np.abs(exact.linear(network, problem, start, TIMES).predictions - wanted).max() < 1e-11
    other = exact.linear(network, problem, mf.GaussianLaw(DIM, 0.9, 1.2), TIMES).predictions
    assert np.abs(other - wanted).max() > 1e-3


def test_the_law_by_quadrature():
    """`limits.mean_field` on Gauss and Hermite's nodes, exact for second moments: f to 1e-9."""
    network, problem, law = (
        mf.Network("linear", mf.Scaling(0.7, shift="initial")),
        data(),
        mf.GaussianLaw(DIM, 0.8, 1.2),
    )
    options = {"rule": "gauss-hermite", "n_nodes": 16, "engine": "reference", "rtol": 1e-11, "atol": 1e-13}
    found = mf.limits.mean_field(network, problem, law, TIMES, **options)
    assert np.abs(exact.linear(network, problem, law, TIMES).predictions - found.predictions).max() < 1e-9


def test_times_asked_for_do_not_matter():
    """The same state at t = 4 by way of other times, and without t = 0: to 1e-11."""
    network, problem = mf.Network("linear", mf.Scaling(0.7, shift=0.5)), data()
    one, other = (exact.linear(network, problem, START, times) for times in ([4.0], np.linspace(0.0, 4.0, 41)))
    assert np.abs(one.predictions[-1] - other.predictions[-1]).max() < 1e-11


# Noise

ALPHA, BETA, RIDGE, TAU = 0.8, 1.3, 0.4, 0.3
NETWORK, TASK = neuron(ALPHA, BETA)


def stationary(alpha, beta, ridge, tau):
    """(P, Q), the variances along (1, 1) and (1, -1) over sqrt 2: P' = 2 (c - lambda) P + 2 tau, and -c for Q, at rest.

    c = (beta - alpha (P - Q) / 2) / alpha has one root between -lambda and lambda.
    """

    def along(c):
        return tau / (ridge - c), tau / (ridge + c)

    def excess(c):
        p, q = along(c)
        return (beta - alpha * (p - q) / 2.0) / alpha - c

    edge = ridge * (1.0 - 1e-12)
    return along(brentq(excess, -edge, edge, xtol=1e-16, rtol=1e-15))


@pytest.mark.parametrize("alpha", [0.1, 0.8, 5.0])
@pytest.mark.parametrize("tau", [0.02, 0.3])
def test_stationary_state(alpha, tau):
    """S at late times, to 1e-9 of it; the bilinear limit has its f."""
    network, task = neuron(alpha, BETA)
    p, q = stationary(alpha, BETA, RIDGE, tau)
    options = {"temperature": tau, "ridge": RIDGE}
    (late,) = exact.moments(network, task, mf.GaussianLaw(1), [200.0], **options)
    wanted = np.array([[p + q, p - q], [p - q, p + q]]) / 2.0
    assert np.abs(late - wanted).max() < 1e-9 * p
    assert exact.bilinear(network, task, [200.0], **options).predictions[0, 0] == pytest.approx(
        alpha * (p - q) / 2.0, abs=1e-9
    )
    off = exact.moments(network, task, mf.GaussianLaw(1), [200.0], temperature=1.001 * tau, ridge=RIDGE)[0]
    assert np.abs(off - wanted).max() > 1e-6 * p, "a temperature that is off by a thousandth is seen"


def squares(network, problem, number, seed, time, dt, law, **options):
    """Second moments of a cloud of Langevin particles."""
    start = mf.initial.gaussian(number, law.dim, seed=seed, sigma_a=law.sigma_a, sigma_w=law.sigma_w)
    given = {"scheme": "euler", "dt": dt, "noise_seed": seed, "keep": "last", **options}
    (particles,) = mf.simulate(network, problem, start, [time], **given).particles
    return particles.T @ particles / number


def test_langevin_particles():
    """Thirty clouds of 500 in three dimensions, dt = 0.01: the mean of each moment within five standard errors."""
    network, problem, law = mf.Network("linear", mf.Scaling(0.7)), data(), mf.GaussianLaw(DIM, 0.8, 1.2)
    given = {"temperature": TAU, "ridge": RIDGE}
    found = np.array([squares(network, problem, 500, seed, 1.0, 0.01, law, **given) for seed in range(30)])
    error = found.std(axis=0, ddof=1) / np.sqrt(30)
    (wanted,) = exact.moments(network, problem, law, [1.0], **given)
    assert (np.abs(found.mean(axis=0) - wanted) / error).max() < 5.0
    (cold,) = exact.moments(network, problem, law, [1.0], temperature=0.8 * TAU, ridge=RIDGE)
    assert (np.abs(found.mean(axis=0) - cold) / error).max() > 5.0


def test_fluctuations_fall_like_one_over_the_root_of_n():
    """|S_N - S| of the bilinear neuron, thirty seeds: slope -1/2 in its interval; not so to another temperature's S."""
    widths, law, given = [32, 64, 128, 256, 512, 1024], mf.GaussianLaw(1), {"temperature": TAU, "ridge": RIDGE}
    (wanted,) = exact.moments(NETWORK, TASK, law, [1.5], **given)
    found = np.array(
        [[squares(NETWORK, TASK, each, seed, 1.5, 0.02, law, **given) for each in widths] for seed in range(30)]
    )
    interval = fit.power_law(widths, np.linalg.norm(found - wanted, axis=(2, 3))).interval
    assert fit.contains(interval, -0.5) and fit.verdict(interval, -0.5) == "agrees"
    (cold,) = exact.moments(NETWORK, TASK, law, [1.5], temperature=0.5 * TAU, ridge=RIDGE)
    assert fit.verdict(fit.power_law(widths, np.linalg.norm(found - cold, axis=(2, 3))).interval, -0.5) == "differs"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: exact.linear(mf.Network("erf"), TASK, mf.GaussianLaw(1), [1.0]),
            InputError, "activation 'erf' with loss 'squared'; needed: 'linear' with 'squared'",
        ),
        (
            lambda: exact.linear(NETWORK, mf.Problem([[1.0]], [1.0], loss="hinge"), mf.GaussianLaw(1), [1.0]),
            InputError, "'linear' with loss 'hinge'",
        ),
        (lambda: exact.linear(NETWORK, TASK, mf.GaussianLaw(2), [1.0]), InputError, "needed: a GaussianLaw of dim 1"),
        (lambda: exact.linear(NETWORK, TASK, np.ones((3, 4)), [1.0]), InputError, "particles have 4 columns"),
        (
            lambda: exact.linear(NETWORK, TASK, exact.SecondMoments(np.eye(3)), [1.0]),
            InputError, r"second moments of shape \(3, 3\); needed: \(2, 2\)",
        ),
        (lambda: exact.SecondMoments(np.array([[1.0, 2.0], [0.0, 1.0]])), InputError, "needed: a symmetric array"),
        (lambda: exact.SecondMoments(np.array([[1.0, 2.0], [2.0, 1.0]])), InputError, "have the eigenvalue -1; needed"),
        (
            lambda: exact.moments(NETWORK, TASK, mf.GaussianLaw(1), [1.0], masses=[1.0]),
            InputError, "masses with GaussianLaw; needed: particles",
        ),
        (
            lambda: exact.linear(NETWORK, TASK, mf.GaussianLaw(1), [1.0], temperature=0.1, tracers=np.ones((1, 2))),
            InputError, r"tracers at temperature 0\.1, where paths are random",
        ),
        (
            lambda: exact.bilinear(NETWORK, TASK, [1.0], temperature=-0.1),
            InputError, r"temperature is -0\.1; needed: a finite number of at least 0",
        ),
        (
            lambda: exact.moments(neuron(1.0, mobility_a=0.5)[0], TASK, mf.GaussianLaw(1), [1.0], temperature=0.1),
            InputError, r"mobilities 0\.5 and 1; needed: both 1",
        ),
        (
            lambda: exact.moments(neuron(1.0, mobility_a=0.5)[0], TASK, mf.GaussianLaw(1), [1.0], ridge=0.1),
            InputError, r"mobilities 0\.5 and 1; needed: equal ones",
        ),
        (
            lambda: exact.moments(NETWORK, TASK, np.full((2, 2), 1e100), [1.0]),
            ConvergenceError, r"could be integrated to t = 0 only .* needed: t = 1\. They were up to 1\.0e\+200",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()
