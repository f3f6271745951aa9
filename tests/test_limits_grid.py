"""The equation on a grid: closed Gaussian laws with and without noise, particles and Langevin particles, positivity."""

import importlib
import warnings

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm

from meanfield import (
    Activation,
    GaussianLaw,
    Network,
    Population,
    Problem,
    Scaling,
    initial,
    limits,
    problems,
    simulate,
    transport,
)
from meanfield.errors import ConvergenceError, DivergenceError, InputError, StepLimitError
from meanfield.limits.exact import bilinear_angle
from meanfield.losses import Loss

module = importlib.import_module("meanfield.limits.grid")  # `limits.grid` is the function
LAW = GaussianLaw(1)


@pytest.fixture(autouse=True)
def no_warning_leaks():
    """What is wrong must be an error; no call in this file may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def gaussian_masses(solved, covariance):
    """Integrals of the centred Gaussian density over the cells, by 5 x 5 Gauss-Legendre points in each."""
    points, weights = np.polynomial.legendre.leggauss(5)

    def within(edges):
        h = edges[1] - edges[0]
        return (0.5 * (edges[1:] + edges[:-1])[:, None] + 0.5 * h * points).ravel(), 0.5 * h * weights

    (a, part_a), (w, part_w) = within(solved.edges_a), within(solved.edges_w)
    inverse = np.linalg.inv(covariance)
    form = inverse[0, 0] * a[:, None] ** 2 + 2.0 * inverse[0, 1] * np.outer(a, w) + inverse[1, 1] * w**2
    density = np.exp(-0.5 * form) / (2.0 * np.pi * np.sqrt(np.linalg.det(covariance)))
    density = density.reshape(len(a) // 5, 5, len(w) // 5, 5)
    return np.einsum("ipjq,p,q->ij", density, part_a, part_w)


def turned(p, q):
    """Covariance of (a, w) with variances p of (a + w) / sqrt 2 and q of (a - w) / sqrt 2."""
    return 0.5 * np.array([[p + q, p - q], [p - q, p + q]])


def distance(solved, covariance, index=-1):
    """L1 distance of the cells' masses from those of the Gaussian."""
    return np.abs(solved.masses[index] - gaussian_masses(solved, covariance)).sum()


def order(errors):
    """Between the two finest of the grids of 64, 128 and 256 cells: upwind slopes add h^3, which the coarsest shows."""
    assert errors[0] > errors[1] > errors[2] > 1e-9, "at rounding the order would mean nothing"
    return np.log2(errors[1] / errors[2])


def upwind(mass):
    """The values at a cell's faces without slopes: the first-order scheme."""
    return mass, mass


def unlimited(mass):
    """Fromm's slopes without the bound that keeps them positive."""
    half = 0.5 * np.gradient(mass, axis=0)
    return mass - half, mass + half


# The exactly solvable law: N(0, [[cosh 2s, sinh 2s], [sinh 2s, cosh 2s]]).

BILINEAR, LINEAR = problems.bilinear(), Network("linear")


@pytest.fixture(scope="module")
def exactly_solvable():
    return [limits.grid(LINEAR, BILINEAR, LAW, [0.0, 0.5, 1.0], cells=n) for n in (64, 128, 256)]


def exact_errors(runs, index):
    angle = float(bilinear_angle(runs[0].times[index]))
    exact = turned(np.exp(2.0 * angle), np.exp(-2.0 * angle))
    outputs = limits.exact.bilinear(LINEAR, BILINEAR, runs[0].times).predictions[index]
    return (
        np.array([distance(each, exact, index) for each in runs]),
        np.array([np.abs(each.predictions[index] - outputs).max() for each in runs]),
    )


@pytest.mark.parametrize("index", [1, 2])
def test_order_two_on_the_exact_law(exactly_solvable, index):
    """Masses in L1, and f, at t = 0.5 and 1: order 2 within 0.1."""
    in_mass, in_f = exact_errors(exactly_solvable, index)
    assert order(in_mass) == pytest.approx(2.0, abs=0.1)
    assert order(in_f) == pytest.approx(2.0, abs=0.1)
    assert in_mass[-1] < 5e-4 and in_f[-1] < 1e-4


def test_without_slopes_the_order_is_one(monkeypatch):
    """The first-order scheme: 1 within 0.2, so the law above would not pass it."""
    monkeypatch.setattr(module, "_face_values", upwind)
    runs = [limits.grid(LINEAR, BILINEAR, LAW, [0.0, 0.5], cells=n) for n in (64, 128, 256)]
    for errors in exact_errors(runs, 1):
        assert order(errors) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_start_is_the_law(exactly_solvable, index):
    """At t = 0 the masses are those of N(0, I): to 1e-11 in L1, each cell to 1e-8 (64 cells: 1e-5, of the quadrature).

    A cell in the corner has 1e-23 of the mass: a difference of distribution functions near one would be zero there.
    """
    start = exactly_solvable[index]
    wanted = gaussian_masses(start, np.eye(2))
    assert np.abs(start.masses[0] - wanted).sum() < 1e-11
    np.testing.assert_allclose(start.masses[0], wanted, rtol=1e-5 if index == 0 else 1e-8)


# Conservation and positivity.

POINTS = np.array([-1.0, -0.4, 0.3, 0.8])
SCALED = Scaling(1.3, mobility_a=0.7, mobility_w=1.4, input_scale=0.9)


def line(loss="squared"):
    """Four inputs of unequal weights."""
    targets = np.sin(2.0 * POINTS) + 0.5 * np.cos(3.0 * POINTS)
    if loss != "squared":
        targets = np.sign(targets)
    tests = np.linspace(-0.9, 0.9, 5)
    return Problem(POINTS[:, None], targets, [1.0, 2.0, 1.0, 2.0], loss, tests[:, None], np.ones(5))


def hard(**options):
    """Cells as wide as two deviations of the law, on which nothing is smooth, and targets far away."""
    task, network = Problem([[-2.0], [0.5], [1.5]], [3.0, -2.0, 4.0]), Network("tanh", Scaling(0.1))
    times, extent = np.linspace(0.0, 2.0, 9), ((-24.0, 24.0), (-24.0, 24.0))
    return limits.grid(network, task, LAW, times, cells=24, extent=extent, tolerance=1.0, **options)


@pytest.mark.parametrize("temperature", [0.0, 0.05])
def test_mass_stays_and_none_is_negative(temperature):
    """The sum of the masses is one to 1e-14; the least is not below zero."""
    solved = hard(temperature=temperature)
    assert solved.steps > 50
    assert np.abs(solved.masses.sum(axis=(1, 2)) - 1.0).max() < 1e-14
    assert solved.masses.min() >= 0.0


def test_unlimited_slopes_are_caught(monkeypatch):
    """Without the bound on the slopes the same run has negative masses."""
    monkeypatch.setattr(module, "_face_values", unlimited)
    solved = hard()
    assert solved.masses.min() < -1e-8
    assert np.abs(solved.masses.sum(axis=(1, 2)) - 1.0).max() < 1e-14


def test_another_form_of_the_equation_is_caught(monkeypatch):
    """d_t rho = -v . grad rho, which is not conservative, loses mass by more than 1e-6."""

    def advected(self, mass, drift, size):
        in_a = np.gradient(mass, self.widths[0], axis=0) * drift.a
        in_w = np.gradient(mass, self.widths[1], axis=1) * np.pad(drift.w, ((0, 0), (0, 1)), "edge")
        return mass - size * (in_a + in_w)

    monkeypatch.setattr(module._Field, "euler", advected)
    solved = limits.grid(Network("tanh"), line(), LAW, [1.0], cells=32)
    assert np.abs(solved.masses.sum() - 1.0) > 1e-6


def rough_step(seed, courant):
    """A stage from masses with spikes and holes, at velocities without any order, at this Courant number."""
    rng = np.random.default_rng(seed)
    edges = np.linspace(-3.0, 3.0, 13), np.linspace(-2.0, 2.0, 9)
    field = module._Field(Network("tanh"), line(), LAW, edges, np.ones((12, 8)), 0.0, 0.0, 0.5, np.inf)
    mass = rng.random((12, 8)) ** 8 * (rng.random((12, 8)) < 0.7)
    in_a, in_w = rng.standard_normal((11, 8)), rng.standard_normal((12, 7))
    speed = np.abs(in_a).max() / field.widths[0] + np.abs(in_w).max() / field.widths[1]
    return mass, field.euler(mass, module._Drift(in_a, in_w, speed, 0.0), courant / speed)


def test_a_stage_is_positive():
    """At the Courant number 1/2, of any non-negative masses and any velocities: 300 of them, none below zero."""
    for seed in range(300):
        mass, moved = rough_step(seed, 0.5 * (1.0 - 1e-12))
        assert moved.min() >= 0.0
        assert moved.sum() == pytest.approx(mass.sum(), rel=1e-14)


def test_a_longer_stage_is_not():
    """At Courant number 1 some cell becomes negative; nor do unlimited slopes keep the law at 1/2."""
    assert min(rough_step(seed, 1.0)[1].min() for seed in range(300)) < 0.0


def test_unlimited_slopes_break_a_stage(monkeypatch):
    monkeypatch.setattr(module, "_face_values", unlimited)
    assert min(rough_step(seed, 0.5)[1].min() for seed in range(300)) < 0.0


# Noise.

NOTHING = Problem([[1.0], [-0.5]], [0.0, 0.0])  # f = 0 stays, since rho is even in a: no force


@pytest.mark.parametrize("t", [0.01, 0.5, 7.0, 300.0])
def test_the_heat_matrix(t):
    """exp(t L) by SciPy's Pade approximant, to 1e-13; columns of sum one to 1e-15, no entry negative."""
    size = 40
    laplacian = np.diag(np.full(size, -2.0)) + np.diag(np.ones(size - 1), 1) + np.diag(np.ones(size - 1), -1)
    laplacian[0, 0] = laplacian[-1, -1] = -1.0
    found = module._heat(size, t)
    assert np.abs(found - expm(t * laplacian)).max() < 1e-13
    assert np.abs(found.sum(axis=0) - 1.0).max() < 1e-15 * np.sqrt(size) and found.min() >= 0.0
    laplacian[0, 0] = -2.0
    assert np.abs(found - expm(t * laplacian)).max() > 1e-6, "a wall that absorbs is told apart"


def spread(solved):
    """Variances of a and w, less the h^2 / 12 of a cell, and E a w."""
    a, w = (0.5 * (edges[1:] + edges[:-1]) for edges in (solved.edges_a, solved.edges_w))
    (in_a, in_w), h = solved.marginals(), (a[1] - a[0], w[1] - w[0])
    return in_a @ a**2 - h[0] ** 2 / 12.0, in_w @ w**2 - h[1] ** 2 / 12.0, a @ solved.masses[-1] @ w


def test_diffusion_alone():
    """N(0, (sigma^2 + 2 tau t) I): order 2 within 0.1; the variance, exact for the difference Laplacian, to 1e-9."""
    errors = []
    for cells in (64, 128, 256):
        solved = limits.grid(Network("tanh"), NOTHING, LAW, [0.5], cells=cells, temperature=0.3)
        errors.append(distance(solved, 1.3 * np.eye(2)))
        assert spread(solved) == pytest.approx((1.3, 1.3, 0.0), abs=1e-9)
    assert order(errors) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(("temperature", "ridge"), [(0.3, 0.2), (0.1, 0.1)])
def test_ornstein_uhlenbeck(temperature, ridge):
    """dtheta = -lambda theta dt + sqrt(2 tau) dB has variance e^(-2 lambda t) + tau (1 - e^(-2 lambda t)) / lambda.

    Order 2 within 0.1. In the second case the law is the stationary one, and stays.
    """
    decay, errors = np.exp(-2.0 * ridge), []
    variance = decay + temperature * (1.0 - decay) / ridge
    options = {"temperature": temperature, "ridge": ridge, "extent": ((-6.0, 6.0), (-6.0, 6.0))}
    for cells in (64, 128, 256):
        solved = limits.grid(Network("erf"), NOTHING, LAW, [1.0], cells=cells, **options)
        errors.append(distance(solved, variance * np.eye(2)))
    assert order(errors) == pytest.approx(2.0, abs=0.1)
    assert errors[-1] < 2e-4
    wrong = np.exp(-2.0 * ridge) + 1.02 * temperature * (1.0 - decay) / ridge
    assert distance(solved, wrong * np.eye(2)) > 5.0 * errors[-1], "2 % more temperature is told apart"


def noisy(t, alpha, beta, temperature, ridge):
    """Variances P, Q of (a +- w) / sqrt 2 of the noisy bilinear law, by DOP853 to 1e-12."""

    def rhs(_, state):
        p, q = state
        c = (beta - alpha * (p - q) / 2.0) / alpha
        return 2.0 * (c - ridge) * p + 2.0 * temperature, -2.0 * (c + ridge) * q + 2.0 * temperature

    return solve_ivp(rhs, (0.0, t), (1.0, 1.0), "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]


def test_the_noisy_bilinear_law():
    """A Gaussian with P' = 2 (c - lambda) P + 2 tau, Q' = -2 (c + lambda) Q + 2 tau: order 2 within 0.1 in L1 and f.

    Ten per cent more temperature is told apart.
    """
    alpha, beta, temperature, ridge, t = 0.9, 1.1, 0.2, 0.1, 0.5
    p, q = noisy(t, alpha, beta, temperature, ridge)
    network, task, in_mass, in_f = Network("linear", Scaling(alpha)), problems.bilinear(beta), [], []
    for cells in (64, 128, 256):
        solved = limits.grid(network, task, LAW, [t], cells=cells, temperature=temperature, ridge=ridge)
        in_mass.append(distance(solved, turned(p, q)))
        in_f.append(abs(solved.predictions[-1, 0] - alpha * (p - q) / 2.0))
    assert order(in_mass) == pytest.approx(2.0, abs=0.1) and order(in_f) == pytest.approx(2.0, abs=0.1)
    assert distance(solved, turned(*noisy(t, alpha, beta, 1.1 * temperature, ridge))) > 5.0 * in_mass[-1]


# Against particles.

TIMES = [0.0, 0.5, 2.0]


@pytest.mark.parametrize(("activation", "loss"), [("tanh", "squared"), ("erf", "squared"), ("tanh", "logistic")])
def test_particles_solve_the_equation(activation, loss):
    """f of 60^2 Gauss-Hermite nodes moved by `simulate`, whose error is below 1e-7: order 2 within 0.1.

    At training and test inputs, with weights, alpha, mobilities and an input scale that are not one. The equation with
    twice the velocity is caught.
    """
    network, law, task = Network(activation, SCALED), GaussianLaw(1, 1.1, 0.8), line(loss)
    nodes, masses = initial.gauss_hermite(law, 60)
    run = simulate(network, task, nodes, TIMES, masses=masses, rtol=1e-9, atol=1e-11, keep="last")
    errors, test_errors = [], []
    for cells in (64, 128, 256):
        solved = limits.grid(network, task, law, TIMES, cells=cells)
        errors.append(np.abs(solved.predictions - run.predictions)[1:].max())
        test_errors.append(np.abs(solved.test_predictions - run.test_predictions)[1:].max())
        assert np.abs(solved.predictions[0]).max() < 1e-14
    assert order(errors) == pytest.approx(2.0, abs=0.1) and order(test_errors) == pytest.approx(2.0, abs=0.1)
    fast = Network(activation, Scaling(1.3, mobility_a=1.4, mobility_w=2.8, input_scale=0.9))
    wrong = limits.grid(fast, task, law, TIMES, cells=64)
    assert np.abs(wrong.predictions - run.predictions).max() > 10.0 * errors[0]


def test_w2_to_the_particles():
    """Two exact distances at t = 0.5 and 2 between the cells and particles that `simulate` moves.

    Particles that start at the centres, with the masses of the cells: no distance at t = 0, later of the order of a
    cell, below 0.4 of its diagonal, falling at least like h^0.7. Gauss-Hermite nodes: at t = 0 the floor of this pair
    of rules, later not above 1.1 of it. Twice the velocity breaks both.
    """
    network, law, task = Network("tanh", SCALED), GaussianLaw(1, 1.1, 0.8), line()
    nodes, node_masses = initial.gauss_hermite(law, 40)
    nodes, node_masses = nodes[node_masses > 1e-9], node_masses[node_masses > 1e-9]
    hermite = simulate(network, task, nodes, TIMES, masses=node_masses, rtol=1e-8)

    def distances(solved, run, masses):
        clouds = [solved.atoms(index, 1e-6) for index in range(3)]
        return [transport.w2(points, run.particles[k], m, masses) for k, (points, m) in enumerate(clouds)]

    own = {}
    for cells in (16, 24, 40):
        solved = limits.grid(network, task, law, TIMES, cells=cells)
        start, masses = solved.atoms(0, 1e-6)
        moved = simulate(network, task, start, TIMES, masses=masses, rtol=1e-8)
        own[cells], other = distances(solved, moved, masses), distances(solved, hermite, node_masses)
        diagonal = np.hypot(np.diff(solved.edges_a)[0], np.diff(solved.edges_w)[0])
        assert own[cells][0] < 1e-6 and max(own[cells]) < 0.4 * diagonal
        assert max(other) < 1.1 * other[0]
    assert (np.log(np.divide(own[16][1:], own[40][1:])) > 0.7 * np.log(40 / 16)).all()
    fast = Network("tanh", Scaling(1.3, mobility_a=1.4, mobility_w=2.8, input_scale=0.9))
    wrong = limits.grid(fast, task, law, TIMES, cells=40)
    assert max(distances(wrong, moved, masses)) > 0.4 * diagonal
    assert max(distances(wrong, hermite, node_masses)) > 1.1 * other[0]


def moments(a, w):
    return np.array([a, w, a * a, w * w, a * w])


def test_langevin_particles():
    """Means of a, w, a^2, w^2 and a w over 4000 noisy particles: within five of their standard errors.

    The step, 0.01, and the grid weigh less than a tenth of a standard error. Half the temperature is told apart.
    """
    network, task, given = Network("tanh"), line(), {"temperature": 0.2, "ridge": 0.1}
    start = initial.gaussian(4000, 1, seed=11)
    run = simulate(network, task, start, [1.0], scheme="euler", dt=0.01, noise_seed=12, keep="last", **given)
    samples = moments(*run.particles[-1].T)
    errors = samples.std(axis=1) / np.sqrt(4000)
    solved = limits.grid(network, task, LAW, [1.0], cells=128, **given)
    points, masses = solved.atoms(cut=0.0)
    assert np.abs((samples.mean(axis=1) - moments(*points.T) @ masses) / errors).max() < 5.0
    cold = limits.grid(network, task, LAW, [1.0], cells=64, temperature=0.1, ridge=0.1)
    points, masses = cold.atoms(cut=0.0)
    assert np.abs((samples.mean(axis=1) - moments(*points.T) @ masses) / errors).max() > 5.0


# Steps, and what is handed back.


@pytest.mark.parametrize("noise", [{}, {"temperature": 0.1, "ridge": 0.3}])
def test_steps(noise):
    """f depends on the times asked for through the step alone: to 1e-4 with 64 cells. Order 2 in it, within 0.1."""
    task, network = line(), Network("tanh")
    alone = limits.grid(network, task, LAW, [0.7], cells=64, **noise)
    among = limits.grid(network, task, LAW, [0.0, 0.01, 0.3, 0.7], cells=64, **noise)
    assert np.abs(alone.predictions[0] - among.predictions[-1]).max() < 1e-4
    fine, *coarser = (limits.grid(network, task, LAW, [0.5], cells=32, dt=0.5 / n, **noise) for n in (320, 40, 20))
    assert [fine.steps, *(each.steps for each in coarser)] == [320, 40, 20]
    errors = [np.abs(each.predictions - fine.predictions).max() for each in coarser]
    assert np.log2(errors[1] / errors[0]) == pytest.approx(2.0, abs=0.1)


def test_a_step_is_done_again_when_the_velocity_grows(monkeypatch):
    """A loss that is concave drives f away, faster and faster: some steps break the condition; positivity stays."""
    outcomes, transported = [], module._Field.transported

    def counted(self, mass, size):
        moved, step = transported(self, mass, size)
        outcomes.append(moved is None)
        return moved, step

    monkeypatch.setattr(module._Field, "transported", counted)
    concave = Loss("concave", lambda f, y: -2.0 * f**2 - y * f, lambda f, y: 4.0 * f + y)
    task = Problem([[1.0], [-1.0]], [0.1, -0.1], loss=concave)
    solved = limits.grid(LINEAR, task, LAW, [0.6], cells=32, tolerance=1.0)
    assert solved.masses.min() >= 0.0 and solved.masses.sum() == pytest.approx(1.0, abs=1e-14)
    assert 0 < sum(outcomes) < solved.steps == len(outcomes) - sum(outcomes)


def test_unequal_cells_and_an_extent_of_ones_own():
    """100 x 140 cells that are not centred: f as on 128 x 128, to 1e-3; masses of the marginals sum to one."""
    extent = ((-7.0, 8.0), (-6.0, 7.0))
    solved = limits.grid(Network("tanh"), line(), LAW, [0.0, 1.0], cells=(100, 140), extent=extent)
    assert solved.masses.shape == solved.density.shape == (2, 100, 140)
    assert (solved.edges_a[0], solved.edges_a[-1], solved.edges_w[0], solved.edges_w[-1]) == (-7.0, 8.0, -6.0, 7.0)
    plain = limits.grid(Network("tanh"), line(), LAW, [0.0, 1.0], cells=128)
    assert np.abs(solved.predictions - plain.predictions).max() < 1e-3
    in_a, in_w = solved.marginals()
    assert in_a.shape == (100,) and in_w.shape == (140,)
    assert in_a.sum() == pytest.approx(1.0, abs=1e-14) and in_w.sum() == pytest.approx(1.0, abs=1e-14)
    area = 15.0 / 100 * 13.0 / 140
    assert solved.density[0].max() == pytest.approx(1.0 / (2.0 * np.pi), rel=1e-2)
    assert solved.density[1].sum() * area == pytest.approx(1.0, abs=1e-13)


def test_atoms_are_the_heaviest_cells():
    """What is left out has at most `cut` of the mass and no cell heavier than one that is kept."""
    solved = limits.grid(Network("tanh"), line(), LAW, [1.0], cells=32)
    points, masses = solved.atoms(cut=1e-3)
    every, all_masses = solved.atoms(cut=0.0)
    assert len(points) < 250 and len(every) == np.count_nonzero(solved.masses[-1])
    assert masses.sum() == pytest.approx(1.0, abs=1e-14)
    left_out = np.sort(all_masses)[: len(every) - len(points)]
    assert left_out.sum() <= 1e-3 and left_out[-1] <= masses.min()
    row, column = 17, 14
    place = 0.5 * (solved.edges_a[row] + solved.edges_a[row + 1]), 0.5 * (solved.edges_w[column : column + 2]).sum()
    found = np.argmin(((every - place) ** 2).sum(axis=1))
    assert all_masses[found] == pytest.approx(solved.masses[-1, row, column], rel=1e-12)


def test_a_start_that_is_subtracted():
    """F = f - s f_0 follows the flow of f with targets y + s f_0, from (1 - s) f_0: to 1e-14.

    f_0 is that of the cells, not zero where the extent is not centred.
    """

    def solve(shift, targets):
        task = Problem(POINTS[:, None], targets, test_inputs=POINTS[:, None], test_targets=targets)
        network, extent = Network("tanh", Scaling(shift=shift)), ((-3.0, 4.0), (-3.0, 4.0))
        return limits.grid(network, task, LAW, [0.0, 0.5], cells=48, extent=extent, tolerance=1e-2)

    targets = np.sin(2.0 * POINTS)
    start = solve(None, targets).predictions[0]
    assert np.abs(start).min() > 1e-6
    for shift, factor in ((0.5, 0.5), ("initial", 1.0), (-1.0, -1.0)):
        shifted, plain = solve(shift, targets), solve(None, targets + factor * start)
        assert np.abs(shifted.predictions - (plain.predictions - factor * start)).max() < 1e-14
        assert np.abs(shifted.test_predictions - shifted.predictions).max() < 1e-15


def test_sums_over_cells_are_integrals():
    """sum_j m_j phi_j for E softplus(2 w) against SciPy's quad: order 4 within 0.2; with phi at the centres order 2."""
    formula = Network("softplus").activation.formula
    normal = np.sqrt(2.0 * np.pi)
    exact = quad(lambda w: formula(2.0 * w)[0] * np.exp(-0.5 * w * w) / normal, -8.0, 8.0, epsabs=1e-13)[0]

    def orders(units):
        errors = []
        for cells in (16, 32):
            edges, masses = module._axis((-8.0, 8.0), cells, 0.0, 1.0, 1e-6, "w")
            errors.append(abs(masses @ units(0.5 * (edges[1:] + edges[:-1]))[:, 0] - exact))
        return np.log2(errors[0] / errors[1])

    two = np.array([2.0])
    assert orders(lambda w: module._at_points(formula, w, two)) == pytest.approx(4.0, abs=0.2)
    assert orders(lambda w: formula(np.outer(w, two))[0]) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(("ridge", "variance"), [(0.0, 1.0 + 2.0 * 0.5 * 3.0), (0.5, 1.0), (0.1, None)])
def test_the_default_extent(ridge, variance):
    """Seven deviations of what noise and ridge make of the law at the last time, where that is wider: to 1e-12."""
    if variance is None:
        variance = np.exp(-0.6) + 0.5 / 0.1 * (1.0 - np.exp(-0.6))
    solved = limits.grid(Network("tanh"), NOTHING, LAW, [3.0], cells=32, temperature=0.5, ridge=ridge)
    for edges in (solved.edges_a, solved.edges_w):
        assert edges[[0, -1]] == pytest.approx(7.0 * np.sqrt(variance) * np.array([-1.0, 1.0]), rel=1e-12)


def test_what_it_says_of_itself():
    solved = limits.grid(Network("tanh"), line(), LAW, [0.5], cells=(16, 20))
    assert repr(solved).startswith(
        "GridLimit('problem', tanh, t=0..0.5, 16 x 20 cells, a from -7 to 7, w from -7 to 7, "
    )


# What is refused.


@pytest.mark.parametrize(
    ("side", "targets", "extent"),
    [
        ("a high", 9.0, ((-6.0, 6.0), (-7.0, 7.0))),
        ("a low", -9.0, ((-6.0, 6.0), (-7.0, 7.0))),
        ("w low", 9.0, ((-12.0, 12.0), (-5.0, 9.0))),
        ("w high", 9.0, ((-12.0, 12.0), (-9.0, 5.0))),
    ],
)
def test_mass_at_the_boundary(side, targets, extent):
    """A unit that never closes, softplus, is pushed out through one side, which the error names."""
    task = Problem([[0.1], [-0.1]], [targets, targets])
    with pytest.raises(
        ConvergenceError, match=rf"outermost cells at t = .*most of it on the {side} side.*-06\. Enlarge"
    ):
        limits.grid(Network("softplus"), task, LAW, [5.0], cells=64, extent=extent)


@pytest.mark.parametrize(("wrong", "bound"), [(np.nan, 0.05), (np.inf, 0.05), (np.nan, -1.0), (np.inf, -1.0)])
def test_a_velocity_that_is_not_finite(wrong, bound):
    """Along the way, or from the start: the error has the masses before it."""
    task = Problem(
        POINTS[:, None], np.sin(2.0 * POINTS),
        loss=Loss("broken", lambda f, y: f, lambda f, y: np.where(np.abs(f) > bound, wrong, y - f)),
    )  # fmt: skip
    with pytest.raises(DivergenceError, match=r"velocity is not finite at step \d+, after .*check the loss") as caught:
        limits.grid(Network("tanh"), task, LAW, [2.0], cells=32)
    assert caught.value.state.shape == (32, 32) and caught.value.state.sum() == pytest.approx(1.0, abs=1e-14)
    assert (caught.value.time > 0.0) == (bound > 0.0)


def test_a_budget_of_steps():
    with pytest.raises(StepLimitError, match="7 steps were spent before t = 2; raise max_steps"):
        limits.grid(Network("tanh"), line(), LAW, [2.0], cells=32, max_steps=7)


def bad(**options):
    given = {"network": Network("tanh"), "problem": line(), "law": LAW, "times": [0.1], "cells": 16, **options}
    return limits.grid(given.pop("network"), given.pop("problem"), given.pop("law"), given.pop("times"), **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "tanh"}, "network is 'tanh'; needed: a Network"),
        ({"problem": 3}, "problem is 3; needed: a Problem"),
        ({"problem": Population([[1.0, 1.0]])}, "grid needs data; a Population has none"),
        ({"problem": problems.teacher_student(2, n=4)}, "dimension 1, a density in the plane; got 2. Use limits.mean_"),
        ({"law": GaussianLaw(2)}, r"law is GaussianLaw\(dim=2.*needed: a GaussianLaw of dim 1"),
        ({"law": np.zeros((3, 2))}, "needed: a GaussianLaw of dim 1"),
        ({"times": [1.0, 0.5]}, "times go from 1 to 0.5"),
        ({"cells": 3}, "cells is 3; needed: a whole number of at least 4"),
        ({"cells": (16, 16, 16)}, r"cells is \(16, 16, 16\); needed: a whole number, or two"),
        ({"extent": (-7.0, 7.0)}, r"extent has shape \(2,\); needed: \(\(a_low"),
        ({"extent": ((7.0, -7.0), (-7.0, 7.0))}, "the low ones first"),
        ({"extent": ((-7.0, 7.0), (-7.0, 2.0))}, "extent cuts 2.3e-02 of the law off, with w from -7 to 2 and sigma 1"),
        ({"courant": 0.6}, "courant is 0.6; needed: at most 1/2, up to which no cell becomes negative"),
        ({"courant": 0.0}, "courant is 0.0; needed: a finite number above 0"),
        ({"dt": 0.0}, "dt is 0.0; needed: a finite number above 0"),
        ({"temperature": -1.0}, "temperature is -1.0; needed: a finite number of at least 0"),
        (
            {"temperature": 1.0, "network": Network("tanh", SCALED)},
            "temperature is 1 with mobilities 0.7 and 1.4; need",
        ),
        ({"ridge": -1.0}, "ridge is -1.0; needed: a finite number of at least 0"),
        ({"ridge": 1.0, "network": Network("tanh", SCALED)}, "ridge is 1 with mobilities 0.7 and 1.4; needed: equal"),
        ({"tolerance": 0.0}, "tolerance is 0.0; needed: a finite number above 0"),
        ({"max_steps": 0}, "max_steps is 0; needed: a whole number of at least 1"),
        ({"max_bytes": 1e3}, r"a grid of 16 x 16 cells needs .*frames .*Use fewer cells.*or raise max_bytes"),
    ],
)
def test_bad_input(options, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        bad(**options)


def test_a_cut_that_leaves_nothing():
    with pytest.raises(InputError, match="cut is 1; needed: below 1"):
        bad().atoms(cut=1.0)


def test_an_activation_that_overflows():
    steep = Activation("steep", lambda z: (1e200 * z**20, 2e201 * z**19))
    with pytest.raises(
        InputError, match="activation 'steep' or its slope is not finite for w from -7 to 7; needed: an"
    ):
        bad(network=Network(steep), problem=Problem([[1e10]], [1.0]))


def test_a_law_whose_output_weights_have_a_mean():
    """Second moments of a law around a = 0.7, with noise and ridge, to those of the closed equations: order 2 within
    0.1, 1e-3 at 256 cells; a law around 0 is caught."""
    law, network, task = GaussianLaw(1, 0.5, 1.0, 0.7), Network("linear"), problems.bilinear()
    options = {"temperature": 0.1, "ridge": 0.2}
    exact = limits.exact.moments(network, task, law, [1.0], **options)[0]

    def moments_on(cells, law=law):
        solved = limits.grid(network, task, law, [1.0], cells=cells, **options)
        a, w = (0.5 * (each[1:] + each[:-1]) for each in (solved.edges_a, solved.edges_w))
        blur = [(each[1] - each[0]) ** 2 / 12.0 for each in (solved.edges_a, solved.edges_w)]
        mass, mixed = solved.masses[-1], a @ solved.masses[-1] @ w
        return np.array([[a**2 @ mass.sum(axis=1) - blur[0], mixed], [mixed, w**2 @ mass.sum(axis=0) - blur[1]]])

    errors = [np.abs(moments_on(cells) - exact).max() for cells in (128, 256)]
    assert errors[1] < 1e-3 and abs(np.log2(errors[0] / errors[1]) - 2.0) < 0.1
    assert np.abs(moments_on(64, LAW) - exact).max() > 0.1
    with pytest.raises(InputError, match="sigma_a = 0 and no density"):
        limits.grid(network, task, GaussianLaw(1, 0.0, 1.0, 1.0), [1.0])
    with pytest.raises(InputError, match="bias 1; needed: none"):
        limits.grid(Network("linear", bias=1.0), task, LAW, [1.0])
