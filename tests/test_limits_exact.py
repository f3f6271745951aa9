"""The exactly solvable limit: its closed forms against other integrators, the quadrature law and finite clouds."""

import warnings

import mpmath
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm
from scipy.optimize import brentq

from meanfield import GaussianLaw, Network, Scaling, initial, limits, problems, simulate, tangent, transport
from meanfield.errors import InputError
from meanfield.limits.exact import bilinear, bilinear_angle

SWAP = np.array([[0.0, 1.0], [1.0, 0.0]])  # J: the generator of the flow of (a, w)
ALPHAS = (0.01, 0.1, 1.0, 10.0)
alphas = pytest.mark.parametrize("alpha", ALPHAS)
betas = pytest.mark.parametrize("beta", [1.0, -2.0, 0.0])


@pytest.fixture(autouse=True)
def no_warning_leaks():
    """What is wrong must be an error; no call in this file may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def linear(alpha: float, **options) -> Network:
    return Network("linear", Scaling(alpha, **options))


def horizon(alpha: float, beta: float) -> np.ndarray:
    """Seven times from 0 to 8 relaxation times 1 / (2 sqrt(1 + (beta / alpha)^2))."""
    return np.linspace(0.0, 4.0, 7) / np.hypot(1.0, beta / alpha)


def angle_by_integration(times, alpha, beta):
    solved = solve_ivp(
        lambda t, s: (beta - alpha * np.sinh(2.0 * s)) / alpha,
        (0.0, times[-1]), [0.0], method="DOP853", t_eval=times, rtol=1e-12, atol=1e-14,
    )  # fmt: skip
    assert solved.success
    return solved.y[0]


@betas
@alphas
def test_angle_against_an_integrator(alpha, beta):
    """s' = (beta - alpha sinh 2s) / alpha from s = 0, by DOP853 at rtol 1e-12: to 1e-10."""
    times = horizon(alpha, beta)
    assert bilinear_angle(times, alpha, beta) == pytest.approx(angle_by_integration(times, alpha, beta), abs=1e-10)


def test_another_law_is_caught():
    """The integrator sees a beta that is 1e-8 off, and time in other units (a factor alpha)."""
    times = horizon(0.1, 1.0)
    found = angle_by_integration(times, 0.1, 1.0)
    assert bilinear_angle(times, 0.1, 1.0 + 1e-8) != pytest.approx(found, abs=1e-10)
    assert bilinear_angle(0.1 * times, 0.1, 1.0) != pytest.approx(found, abs=1e-2)


@pytest.mark.parametrize("beta", [1.0, -2.0, 1e-3, -50.0])
@pytest.mark.parametrize("alpha", [1e-4, 0.01, 1.0, 3.0, 1e4])
def test_angle_in_many_digits(alpha, beta):
    """v = e^(2s) = b + r tanh(r t + artanh((1 - b) / r)), r^2 = b^2 + 1, in 60 digits.

    Relative error below 2e-14, and 2e-17 |b| more for what cancellation may cost where |b| = |beta| / alpha is large.
    """
    times = np.r_[1e-6, horizon(alpha, beta)[1:], 40.0 / np.hypot(1.0, beta / alpha)]
    with mpmath.workdps(60):
        b = mpmath.mpf(beta) / mpmath.mpf(alpha)
        r = mpmath.sqrt(b * b + 1)
        shift = mpmath.atanh(mpmath.mpc((1 - b) / r))
        exact = [float(mpmath.log((b + r * mpmath.tanh(r * mpmath.mpf(t) + shift)).real) / 2) for t in times]
    bound = 2e-14 + 2e-17 * abs(beta / alpha)
    assert bilinear_angle(times, alpha, beta) == pytest.approx(exact, rel=bound, abs=0.0)


@pytest.mark.parametrize("beta", [1.0, -2.0])
@alphas
def test_kernel_at_late_times(alpha, beta):
    """K_inf / K_0 = cosh 2 s_inf = sqrt(1 + (beta / alpha)^2), to 1e-12."""
    late = bilinear_angle(30.0 / np.hypot(1.0, beta / alpha), alpha, beta)
    assert np.cosh(2.0 * late) == pytest.approx(np.sqrt(1.0 + (beta / alpha) ** 2), rel=1e-12)
    assert alpha * np.sinh(2.0 * late) == pytest.approx(beta, rel=1e-12)  # f has reached the target


def half_time(alpha, beta, share):
    """Flow time at which f = share beta."""
    return brentq(lambda t: alpha * np.sinh(2.0 * bilinear_angle(t, alpha, beta)) - share * beta, 0.0, 10.0, xtol=1e-15)


@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("share", [0.5, 1.0 - np.sqrt(0.5)], ids=["half-f", "half-risk"])
def test_half_time_grows_with_the_logarithm(share, beta):
    """f' = (2 / alpha) sqrt(alpha^2 + f^2) (beta - f), so the time to f = c beta is an integral: to 1e-9.

    As alpha -> 0, t / alpha = ln(1 / alpha) / (2 beta) + const: ln(10) / (2 beta) more with each decade, +-.03.
    """
    scaled = []
    for alpha in (1e-4, 1e-3, 1e-2):
        needed, _ = quad(
            lambda f, alpha=alpha: alpha / (2.0 * np.hypot(alpha, f) * (beta - f)),
            0.0, share * beta, points=[alpha, 10.0 * alpha], epsrel=1e-12, epsabs=0.0,
        )  # fmt: skip
        found = half_time(alpha, beta, share)
        assert found == pytest.approx(needed, rel=1e-9)
        scaled.append(found / alpha)
    assert -np.diff(scaled) == pytest.approx(np.log(10.0) / (2.0 * beta), abs=0.03)


def test_half_time_of_wide_scalings_grows_otherwise():
    """Above alpha = beta the logarithm is gone (the kernel is constant): the increment misses by more than .03."""
    increment = half_time(1.0, 1.0, 0.5) / 1.0 - half_time(10.0, 1.0, 0.5) / 10.0
    assert abs(increment - np.log(10.0) / 2.0) > 0.3


@betas
@alphas
def test_tracers_move_by_the_matrix_exponential(alpha, beta):
    """theta_t = exp(s J) theta_0 with s integrated apart, and f = alpha sinh(2s) x: to 1e-9 of the largest entry."""
    times, cloud = horizon(alpha, beta), np.random.default_rng(1).standard_normal((5, 2))
    task = problems.bilinear(beta)
    solved = bilinear(linear(alpha), task, times, tracers=cloud)
    s = angle_by_integration(times, alpha, beta)
    exact = np.array([cloud @ expm(angle * SWAP) for angle in s])
    assert np.abs(solved.tracers - exact).max() < 1e-9 * np.abs(exact).max()
    output = alpha * np.sinh(2.0 * s)[:, None]
    assert solved.predictions == pytest.approx(output * task.inputs[:, 0], abs=1e-9)
    assert solved.test_predictions == pytest.approx(output * task.test_inputs[:, 0], abs=1e-9)
    assert solved.n_nodes == 0 and not solved.error.any()


@alphas
def test_moments_and_kernel_of_the_law(alpha):
    """A rule that is exact for second moments of mu_0 carries those of mu_t = N(0, [[ch 2s, sh 2s], [sh 2s, ch 2s]]).

    With them K = 2 cosh(2s) x x', by `tangent.kernel`: to 1e-12 of the largest.
    """
    times, task, network = horizon(alpha, 1.0), problems.bilinear(1.0), linear(alpha)
    rule = initial.gauss_hermite(GaussianLaw(1), 2)
    solved = bilinear(network, task, times, tracers=rule.nodes)
    for s, tracers in zip(bilinear_angle(times, alpha, 1.0), solved.tracers, strict=True):
        ch, sh = np.cosh(2.0 * s), np.sinh(2.0 * s)
        moments = (rule.masses[:, None] * tracers).T @ tracers
        assert np.abs(moments - [[ch, sh], [sh, ch]]).max() < 1e-12 * ch
        kernel = tangent.kernel(network, tracers, task.inputs, masses=rule.masses)
        assert np.abs(kernel - 2.0 * ch * task.inputs @ task.inputs.T).max() < 1e-12 * 2.0 * ch


@alphas
def test_quadrature_law_agrees(alpha):
    """`limits.mean_field` on Gauss-Hermite nodes against the closed form: f and tracers to 1e-6, at all times."""
    times, task, cloud = horizon(alpha, 1.0), problems.bilinear(1.0), np.random.default_rng(2).standard_normal((3, 2))
    solved = limits.mean_field(
        linear(alpha), task, GaussianLaw(1), times, rule="gauss-hermite", n_nodes=16, tracers=cloud,
        engine="reference", rtol=1e-9, atol=1e-11,
    )  # fmt: skip
    exact = bilinear(linear(alpha), task, times, tracers=cloud)
    assert np.abs(solved.predictions - exact.predictions).max() < 1e-6
    assert np.abs(solved.tracers - exact.tracers).max() < 1e-6 * np.abs(exact.tracers).max()
    other = bilinear(linear(1.01 * alpha), task, times)
    assert np.abs(solved.predictions - other.predictions).max() > 1e-6, "alpha 1 % off is seen"


PRECISE = {"engine": "reference", "rtol": 1e-10, "atol": 1e-13}


@betas
@pytest.mark.parametrize("paired", [True, False])
def test_a_cloud_with_the_moments_of_the_law_follows_it(paired, beta):
    """dtheta_i/dt = (E[u x] / alpha) J theta_i depends on the cloud through f = alpha mean(a w) alone, and
    d/dt mean(a w) = (E[u x] / alpha) mean(a^2 + w^2), which closes on second moments: a finite cloud whose second
    moments are the identity moves as the law does. 64 particles, to 1e-8 (integrator at rtol 1e-10).
    """
    alpha, task = 0.5, problems.bilinear(beta)
    cloud = initial.gaussian(64, 1, seed=3, paired=paired)
    cloud = np.linalg.solve(np.linalg.cholesky(cloud.T @ cloud / 64), cloud.T).T
    assert np.allclose(cloud.T @ cloud / 64, np.eye(2), atol=1e-14)
    times = horizon(alpha, beta)
    run = simulate(linear(alpha), task, cloud, times, **PRECISE)
    exact = bilinear(linear(alpha), task, times, tracers=cloud)
    assert np.abs(run.predictions - exact.predictions).max() < 1e-8
    assert np.abs(run.particles - exact.tracers).max() < 1e-8


def test_a_cloud_with_other_moments_does_not():
    """The law above fails for a sample as it is drawn."""
    task, times = problems.bilinear(1.0), horizon(0.5, 1.0)
    run = simulate(linear(0.5), task, initial.gaussian(64, 1, seed=3), times, **PRECISE)
    assert np.abs(run.predictions - bilinear(linear(0.5), task, times).predictions).max() > 1e-2


N_PAIRED = 2**12


def paired_run(alpha):
    """4,096 paired particles from a Gaussian sample to late times, beta = 1; and kappa = K_0 / 2 of the sample."""
    cloud = initial.gaussian(N_PAIRED, 1, seed=0, paired=True)
    times = np.array([0.5, 2.0, 30.0]) / np.hypot(1.0, 1.0 / alpha)
    run = simulate(
        linear(alpha), problems.bilinear(1.0), cloud, times, record=["kernel_drift"], engine="reference", rtol=1e-9,
        atol=1e-12,
    )  # fmt: skip
    return cloud, run, 0.5 * np.mean((cloud**2).sum(axis=1))


def squared_w2(s):
    """W2(mu_t, mu_0)^2: the flow map exp(s J) is the gradient of a convex function, hence optimal."""
    return (np.exp(s) - 1.0) ** 2 + (np.exp(-s) - 1.0) ** 2


@alphas
def test_paired_particles(alpha):
    """4,096 paired particles: drift of K to 7 % and W2(mu_t, mu_0), as the coupling distance, to 3 % of the law's.

    Sampling enters through kappa = mean(a^2 + w^2) / 2 = 1 +- sqrt(2 / N): drift ~ kappa^-1 .. kappa^-2. With the
    sample's own kappa the flow is s' = (beta - alpha kappa sinh 2s) / alpha, in closed form too: to 1e-6.
    """
    cloud, run, kappa = paired_run(alpha)
    late = bilinear_angle(run.times, alpha, 1.0)
    drift = run.records["kernel_drift"]
    assert drift[-1] == pytest.approx(np.hypot(1.0, 1.0 / alpha) - 1.0, rel=0.07)
    coupling = np.array([transport.coupling_distance(particles, cloud) for particles in run.particles])
    assert coupling == pytest.approx(np.sqrt(squared_w2(late)), rel=0.03)

    own = bilinear_angle(kappa * run.times, kappa * alpha, 1.0)
    assert drift == pytest.approx(np.cosh(2.0 * own) - 1.0, rel=1e-6)
    assert coupling == pytest.approx(np.sqrt(kappa * squared_w2(own)), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_coupling_is_optimal(alpha):
    """exp(s J) is symmetric positive definite, so keeping each particle with its copy is an optimal plan: W2 = C_N."""
    cloud = initial.gaussian(200, 1, seed=1)
    times = horizon(alpha, 1.0)[[2, 6]]
    for carried in bilinear(linear(alpha), problems.bilinear(1.0), times, tracers=cloud).tracers:
        assert transport.w2(cloud, carried) == pytest.approx(transport.coupling_distance(cloud, carried), rel=1e-12)


TIMES, TASK = [0.0, 1.0], problems.bilinear(1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bilinear(Network("tanh"), TASK, TIMES), "Problem.'bilinear'.* and activation 'tanh'; needed: prob"),
        (lambda: bilinear(linear(1.0), problems.teacher_student(1, 4, 4), TIMES), "got Problem.'teacher-student'"),
        (lambda: bilinear(linear(1.0, mobility_a=2.0), TASK, TIMES), "mobilities and input scale 1"),
        (lambda: bilinear(linear(1.0, mobility_w=0.0), TASK, TIMES), "mobilities and input scale 1"),
        (lambda: bilinear(linear(1.0, input_scale=0.5), TASK, TIMES), "Use limits.mean_field otherwise"),
        (lambda: bilinear(linear(1.0), TASK, [1.0, 0.0]), "times go from 1 to 0"),
        (lambda: bilinear(linear(1.0), TASK, TIMES, tracers=np.zeros((2, 3))), "particles have 3 columns, but"),
        (lambda: bilinear_angle(1.0, alpha=0.0), "alpha is 0.0; needed: a finite number above 0"),
        (lambda: bilinear_angle(1.0, beta=np.nan), "beta is nan; needed: a finite number"),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()
