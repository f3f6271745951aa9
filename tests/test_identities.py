"""Identities of the flow: energy and weak form to the order of the integrator, convexity to rounding."""

import re
from dataclasses import replace

import numpy as np
import pytest

from meanfield import Network, Population, Scaling, initial, limits, population, problems, simulate
from meanfield.errors import InputError
from meanfield.identities import energy_balance, geodesic_gap, mixture_gap, weak_form
from meanfield.losses import LOSSES
from meanfield.problems import Problem

ORDERS = {"euler": 1, "heun": 2, "rk4": 4}


def run(scheme="rk4", steps=40, scaling=None, problem=None, **options):
    """A run recorded at every step: T = 2, N = 24, tanh."""
    problem = problems.teacher_student(dim=3, n=30, n_test=1, seed=1) if problem is None else problem
    network = Network("tanh", Scaling(0.7) if scaling is None else scaling)
    start = initial.gaussian(24, 3, seed=2)
    return simulate(network, problem, start, np.linspace(0.0, 2.0, steps + 1), scheme=scheme, dt=1.0, **options)


def bump(particles):
    """g = exp(-|theta - e|^2 / 2), e = (1, ..., 1), and its gradient."""
    values = np.exp(-0.5 * ((particles - 1.0) ** 2).sum(axis=1))
    return values, -(particles - 1.0) * values[:, None]


def mixed(particles):
    """g = a w_1^2 + sin(w_2) and its gradient: not a function of |theta|."""
    a, first, second = particles[:, 0], particles[:, 1], particles[:, 2]
    gradients = np.zeros_like(particles)
    gradients[:, 0], gradients[:, 1], gradients[:, 2] = first**2, 2.0 * a * first, np.cos(second)
    return a * first**2 + np.sin(second), gradients


def test_functions_have_their_gradients():
    """Central differences, 1e-8: what the weak form is fed is what it says."""
    particles = initial.gaussian(5, 3, seed=1)
    for g in (bump, mixed):
        for column in range(4):
            step = np.zeros(4)
            step[column] = 1e-5
            slope = (g(particles + step)[0] - g(particles - step)[0]) / 2e-5
            assert g(particles)[1][:, column] == pytest.approx(slope, abs=1e-8)


MEASURES = {"energy": energy_balance, "bump": lambda r: weak_form(r, bump), "mixed": lambda r: weak_form(r, mixed)}


def order(measure, scheme, steps=(20, 40, 80, 160)):
    errors = [np.abs(measure(run(scheme, n)).residual).max() for n in steps]
    assert errors[-1] > 1e-13, "at roundoff: the slope would mean nothing"
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize("scheme", ORDERS)
@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_the_residual_falls_by_the_order_of_the_scheme(measure, scheme):
    """20 to 160 steps: the order of the scheme to 0.15, of rk4 to 0.7: errors of the spline, of order 4, join in."""
    assert abs(order(measure, scheme) - ORDERS[scheme]) < (0.7 if scheme == "rk4" else 0.15)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_adaptive_steps(measure):
    """dopri5 at rtol 1e-9, recorded 161 times: 1e-7 of the change or less."""
    found = measure(tight())
    assert np.abs(found.residual).max() < 1e-7 * np.abs(found.change).max()


def tight(**options):
    problem = problems.teacher_student(dim=3, n=30, n_test=1, seed=1)
    times = np.linspace(0.0, 2.0, 161)
    start = initial.gaussian(24, 3, seed=2)
    return simulate(Network("tanh", Scaling(0.7)), problem, start, times, rtol=1e-9, atol=1e-11, **options)


@pytest.mark.parametrize(
    "scaling",
    [Scaling(3.0, 2.0, 0.5), Scaling(0.5, 1.0, 0.0), Scaling(2.0, 0.0, 1.0), Scaling(1.0, shift="initial")],
    ids=["mobilities", "only a", "only w", "f - f_0"],
)
def test_energy_in_other_scalings(scaling):
    """Mobilities, a layer that does not move, a shift: 1e-5 of the fall of R, rk4 with 80 steps."""
    found = energy_balance(run(steps=80, scaling=scaling))
    assert found.change[-1] < -1e-3
    assert np.abs(found.residual).max() < 1e-5 * abs(found.change[-1])


@pytest.mark.parametrize("loss", LOSSES)
def test_energy_of_every_loss(loss):
    """2 E l falls by what is dissipated whatever l: 1e-4 of the fall (kinks of the hinge: 5e-2)."""
    base = problems.teacher_student(dim=3, n=30, n_test=1, seed=1)
    found = energy_balance(run(steps=160, problem=Problem(base.inputs, np.sign(base.targets), loss=loss)))
    assert np.abs(found.residual).max() < (5e-2 if loss == "hinge" else 1e-4) * abs(found.change[-1])


def test_energy_of_a_population():
    """Gaussian inputs and a teacher, R in closed form: 1e-5 of its fall."""
    problem = Population(population.teacher(3, 2, seed=1))
    start = initial.gaussian(24, 3, seed=2)
    found = energy_balance(simulate(Network("erf"), problem, start, np.linspace(0.0, 2.0, 81), scheme="rk4", dt=1.0))
    assert found.change[-1] < -1e-2
    assert np.abs(found.residual).max() < 1e-5 * abs(found.change[-1])


def test_energy_of_the_bilinear_neuron():
    """The change of R itself in closed form: (y - alpha sinh 2s)^2 of the exact limit, a Gauss-Hermite cloud, 1e-6."""
    problem, times = problems.bilinear(), np.linspace(0.0, 1.0, 81)
    network, law = Network("linear"), initial.GaussianLaw(1)
    rule = initial.gauss_hermite(law, 3)
    found = energy_balance(simulate(network, problem, rule.nodes, times, masses=rule.masses, scheme="rk4", dt=1.0))
    exact = limits.exact.bilinear(network, problem, times)
    risks = (problem.targets - exact.predictions) ** 2 @ problem.weights
    assert found.change == pytest.approx(risks - risks[0], abs=1e-6)
    assert found.integral == pytest.approx(risks - risks[0], abs=1e-6)


def test_a_run_that_is_no_gradient_flow_is_caught():
    """With a ridge, or said to be of another alpha, or with particles that went elsewhere: a tenth of the change."""
    ridge = run(ridge=0.5)
    other = replace(run(), network=Network("tanh", Scaling(1.4)))
    moved = run()
    moved = replace(moved, particles=moved.particles * (1.0 + 0.1 * moved.times[:, None, None]))
    for wrong in (ridge, other, moved):
        for measure in MEASURES.values():
            found = measure(wrong)
            assert np.abs(found.residual).max() > 0.1 * np.abs(found.change).max()


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_the_error_of_the_integral(measure):
    """T = 20 at rtol 1e-10, where the residual is the integral's error alone: at 5 to 160 intervals it is below twice
    the estimate, which is below 1,000 times it; with 5 intervals the estimate says that nothing is known.
    """
    problem = problems.teacher_student(dim=3, n=30, n_test=1, seed=1)
    start = initial.gaussian(24, 3, seed=2)
    whole = simulate(Network("tanh"), problem, start, np.linspace(0.0, 20.0, 161), rtol=1e-10, atol=1e-12)
    for step in (32, 16, 8, 4, 2, 1):
        found = measure(replace(whole, times=whole.times[::step], particles=whole.particles[::step]))
        actual, estimated = np.abs(found.residual).max(), found.error.max()
        assert 0.5 * actual < estimated < 1000 * actual
        if step == 32:
            assert estimated > 0.1 * np.abs(found.change).max()
    assert estimated < 1e-2 * np.abs(found.change).max()
    assert re.fullmatch(r"Balance\(161 times to t=20: change \S+, largest residual \S+, .* own \S+\)", repr(found))


def test_a_wrong_gradient_is_caught():
    found = weak_form(run(), lambda particles: (bump(particles)[0], 1.1 * bump(particles)[1]))
    assert np.abs(found.residual).max() > 0.05 * np.abs(found.change).max()


def test_what_a_run_must_have_kept():
    for options in ({"keep": "last"}, {"keep": slice(5)}):
        with pytest.raises(InputError, match="needed: all, keep='all', at four or more times from t = 0"):
            energy_balance(run(**options))
    problem, start = problems.bilinear(), initial.gaussian(4, 1)
    with pytest.raises(InputError, match=r"from t = 0\.1; needed"):
        energy_balance(simulate(Network("linear"), problem, start, [0.1, 0.2, 0.3, 0.4]))
    with pytest.raises(InputError, match="test_function gave shapes"):
        weak_form(run(), lambda particles: (particles[:, 0], particles[:, 0]))


# Convexity


@pytest.mark.parametrize("seed", range(4))
def test_the_gap_of_a_mixture(seed):
    """Three risks and the difference of two functions: one number, absolute 1e-12, any masses and sizes."""
    rng = np.random.default_rng(seed)
    problem = problems.teacher_student(dim=3, n=30, n_test=1, seed=seed)
    problem = Problem(problem.inputs, problem.targets, weights=rng.random(30))
    a, b = initial.gaussian(20, 3, seed=seed), 0.5 + initial.gaussian(33, 3, seed=seed + 10)
    network = Network("tanh", Scaling(1.3, shift="initial" if seed % 2 else None))
    for share in (0.0, 0.3, 1.0):
        short, wanted = mixture_gap(network, problem, a, b, share, rng.random(20), None)
        assert short == pytest.approx(wanted, abs=1e-12)
        assert (wanted > 1e-3) == (share == 0.3)


def test_another_factor_would_be_seen():
    """The tolerance above is far from what s^2, or a half, in place of s (1 - s) would make."""
    problem = problems.teacher_student(dim=3, n=30, n_test=1, seed=1)
    a, b = initial.gaussian(20, 3, seed=1), initial.gaussian(33, 3, seed=2)
    short, wanted = mixture_gap(Network("tanh"), problem, a, b, 0.3)
    assert abs(short - wanted * 0.3 / 0.7) > 1e-3 * wanted
    assert abs(short - 0.5 * wanted) > 1e-3 * wanted


def test_not_convex_along_a_geodesic():
    """One atom each, (1, 1) and (-1, -1): f = x for both and 0 half way, so that with y = beta x the gap at s is
    (1 - beta)^2 - ((1 - 2s)^2 - beta)^2, -beta^2 + (1 - beta)^2 at 1/2; by hand, 1e-12.
    """
    network, a, b = Network("linear"), [[1.0, 1.0]], [[-1.0, -1.0]]
    for beta in (1.0, 0.8, 0.1):
        for share in (0.1, 0.5):
            expected = (1.0 - beta) ** 2 - ((1.0 - 2.0 * share) ** 2 - beta) ** 2
            assert geodesic_gap(network, problems.bilinear(beta), a, b, share) == pytest.approx(expected, abs=1e-12)
    assert geodesic_gap(network, problems.bilinear(1.0), a, b, 0.5) == pytest.approx(-1.0, abs=1e-12)
    assert mixture_gap(network, problems.bilinear(1.0), a, b, 0.5) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_shares_and_populations_are_refused():
    problem = problems.bilinear()
    for gap in (mixture_gap, geodesic_gap):
        with pytest.raises(InputError, match=r"share is 1\.5"):
            gap(Network("linear"), problem, [[1.0, 1.0]], [[1.0, 1.0]], 1.5)
        with pytest.raises(InputError, match="given: a Population"):
            gap(Network("erf"), Population(population.teacher(2)), np.ones((3, 3)), np.ones((3, 3)), 0.5)
