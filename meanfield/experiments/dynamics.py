"""Claims that hold exactly, or to the order of an integrator: the flow, its residual, its energy, its solvable cases.

Each function takes `quick` and returns findings; the claims are those of `experiments.claims`.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from .. import identities, initial, limits, losses, problems, stopping, tangent, transport
from ..diagnostics import free_energy
from ..fields import DataField
from ..integrators import TABLEAUS, Geiger
from ..network import Network
from ..problems import Problem
from ..scaling import Scaling
from ..simulation import simulate, simulate_coupled
from .findings import Finding, equal, exponent, order


def _small(n=20, n_particles=12):
    problem = problems.teacher_student(dim=3, n=n, n_test=n, seed=1)
    return problem, initial.gaussian(n_particles, 3, seed=2), Network("tanh", Scaling(0.7))


def gradient_flow(quick: bool) -> list[Finding]:
    """F01: the velocity against -(N / 2 alpha^2) dR/dtheta by central differences of fourth order."""
    problem, start, network = _small()
    field = DataField(network, problem, start)

    def risk(particles):
        state = field.state(particles)
        return field.risk(state, field.predict(state))

    gradient, h = np.empty_like(start), 1e-3
    for place in np.ndindex(start.shape):
        values = []
        for k in (-2, -1, 1, 2):
            moved = start.copy()
            moved[place] += k * h
            values.append(risk(moved))
        gradient[place] = (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * h)
    wanted = -len(start) / (2 * network.scaling.alpha**2) * gradient
    velocity = field.particles(field.velocity(field.state(start)))
    return [equal("largest difference", np.abs(velocity - wanted).max() / np.abs(wanted).max(), 1e-8)]


def residual_beside_particles(quick: bool) -> list[Finding]:
    """F02: max_t |u_RD - (y - f)| of the coupled solver over 10 to 160 steps to T = 2."""
    problem, start, network = _small(30, 48)
    counts, findings = (10, 20, 40, 80, 160), []
    for name, wanted in (("euler", 1.0), ("heun", 2.0), ("rk4", 4.0)):
        errors = [
            simulate_coupled(network, problem, start, np.linspace(0, 2, 11), scheme=name, dt=2 / count).disagreement
            for count in counts
        ]
        findings.append(order(f"order of {name}", 2 / np.array(counts), errors, wanted))
    return findings


def weak_form(quick: bool) -> list[Finding]:
    """F03: d/dt int g dmu = int grad g . v dmu along a run, g = a w_1 and |theta|^4."""
    problem, start, network = _small(40, 100)
    run = simulate(network, problem, start, np.linspace(0.0, 3.0, 61), rtol=1e-10, atol=1e-12)

    def product(theta):
        gradient = np.zeros_like(theta)
        gradient[:, 0], gradient[:, 1] = theta[:, 1], theta[:, 0]
        return theta[:, 0] * theta[:, 1], gradient

    def fourth(theta):
        squares = (theta**2).sum(axis=1)
        return squares**2, 4.0 * squares[:, None] * theta

    findings = []
    for name, test_function in (("a w_1", product), ("|theta|^4", fourth)):
        balance = identities.weak_form(run, test_function)
        size = float(np.abs(balance.residual).max() / np.abs(balance.change).max())
        findings.append(equal(f"residual over change, g = {name}", size, 1e-5))
    return findings


def convexity(quick: bool) -> list[Finding]:
    """F05: R is convex along mixtures, by s(1-s) E(f_mu - f_nu)^2 exactly; along W2 geodesics it is not."""
    problem, start, network = _small(40, 50)
    other = initial.gaussian(50, 3, seed=9)
    found, wanted = identities.mixture_gap(network, problem, start, other, 0.3)
    atoms = np.array([[1.0, 1.0]]), np.array([[-1.0, -1.0]])
    gap = identities.geodesic_gap(Network("linear"), problems.bilinear(), *atoms, 0.5)
    return [
        equal("mixtures: relative difference of the gap", abs(found / wanted - 1.0), 1e-12),
        Finding("geodesic: a gap below 0", gap, (gap, gap), (-np.inf, -0.1)),
    ]


def energy_balance(quick: bool) -> list[Finding]:
    """F04: dR/dt = -2 <u, K u> = -2 alpha^2 int v^2 dmu, and R never rises along a run."""
    problem, start, network = _small(60, 200)
    field = DataField(network, problem, start)
    state = field.state(start)
    residual = problem.targets - field.predict(state)
    (velocity,) = field.velocity(state)
    along = -2.0 * problem.weights @ (residual * field.motion(state[0], velocity))
    weighted = problem.weights * residual
    by_kernel = -2.0 * weighted @ tangent.kernel(network, start, problem.inputs) @ weighted
    by_speed = -2.0 * network.scaling.alpha**2 * field.speed(state) ** 2
    run = simulate(network, problem, start, np.linspace(0, 20, 41), record=["risk"])
    return [
        equal("<u, K u>", float(abs(by_kernel / along - 1.0)), 1e-12),
        equal("int v^2", float(abs(by_speed / along - 1.0)), 1e-12),
        equal("largest rise of R", max(0.0, float(np.diff(run.records["risk"]).max())), 0.0),
    ]


def momentum(quick: bool) -> list[Finding]:
    """F24: relative change of the end function by momentum of delay tau: by perturbation proportional to tau, as
    v = -grad + tau d grad/dt + O(tau^2) after a layer of length tau.
    """
    problem, start, network = _small(60, 200)
    plain = simulate(network, problem, start, [5.0], rtol=1e-9, atol=1e-11).predictions[-1]
    delays = np.array([0.1, 0.05, 0.025] if quick else [0.1, 0.05, 0.025, 0.0125])
    changes = []
    for delay in delays:
        run = simulate(network, problem, start, [5.0], rtol=1e-8, atol=1e-10, momentum=float(delay))
        changes.append(float(np.linalg.norm(run.predictions[-1] - plain) / np.linalg.norm(plain)))
    return [order("exponent in tau", delays, changes, 1.0), equal("change at tau = 0.1", changes[0], 0.01)]


def step_rule(quick: bool) -> list[Finding]:
    """F25: distance of Geiger's rule from the flow over the bound eps on the gradient's change: order 1/2."""
    problem, start, network = _small(60, 200)
    exact = simulate(network, problem, start, [4.0], rtol=1e-10, atol=1e-12).predictions[-1]
    bounds = np.array([1e-2, 1e-3, 1e-4] if quick else [1e-2, 1e-3, 1e-4, 1e-5])
    errors = [
        np.abs(
            simulate(network, problem, start, [4.0], scheme=Geiger(gradient_change=eps)).predictions[-1] - exact
        ).max()
        for eps in bounds
    ]
    return [
        order("order in eps", bounds, errors, 0.5, 0.15),
        equal("change of F at eps = 1e-4", errors[2], 0.02),
    ]


def stop_at_margin(quick: bool) -> list[Finding]:
    """F26: softplus (beta 5, times 1.404) and soft hinge (beta 20) to margin 1, against SciPy's Radau."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((12, 2))
    loss = losses.soft_hinge(20.0)
    problem = Problem(x, np.where(x[:, 0] * x[:, 1] > 0, 1.0, -1.0), loss=loss)
    network, start = Network("softplus-geiger", Scaling.geiger(0.1, 30, 2)), initial.gaussian(30, 2, seed=4)
    run = simulate(network, problem, start, [1e4], rtol=1e-8, atol=1e-10, stop=stopping.margin(1.0))
    alpha, scaled = network.scaling.alpha, network.inputs(x)

    def unit(z):
        return 1.404 / 5.0 * np.logaddexp(0.0, 5.0 * z), 1.404 / (1.0 + np.exp(-5.0 * z))

    def output(theta):
        return alpha / 30 * unit(scaled @ theta[:, 1:].T)[0] @ theta[:, 0]

    shift = output(start)

    def flow(_, flat):
        theta = flat.reshape(start.shape)
        value, slope = unit(scaled @ theta[:, 1:].T)
        pull = loss.pull(output(theta) - shift, problem.targets) / (12 * alpha)
        return np.column_stack([pull @ value, (theta[:, 0] * (pull[:, None] * slope)).T @ scaled]).ravel()

    other = solve_ivp(flow, (0.0, run.times[-1]), start.ravel(), method="Radau", rtol=1e-8, atol=1e-10)
    difference = np.abs(output(other.y[:, -1].reshape(start.shape)) - shift - run.predictions[-1]).max()
    least = float((problem.targets * run.predictions[-1]).min())
    return [equal("largest difference of F", difference, 1e-5), Finding("margin", least, (least, least), (1.0, 1.05))]


def minimising_movement(quick: bool) -> list[Finding]:
    """F39: JKO steps with R / (2 alpha^2) + W2^2 / (2 tau), N = 48 atoms: order, and W2 of a step by POT."""
    problem, start, network = _small(30, 48)
    exact = simulate(network, problem, start, [0.8], rtol=1e-10, atol=1e-12).particles[-1]
    taus = np.array([0.4, 0.2, 0.1, 0.05])
    errors, gaps = [], []
    for tau in taus:
        run = simulate(network, problem, start, [0.0, tau, 0.8], scheme="jko", dt=tau)
        errors.append(np.abs(run.particles[-1] - exact).max())
        moved = transport.coupling_distance(run.particles[0], run.particles[1])
        gaps.append(abs(transport.w2(run.particles[0], run.particles[1]) / moved - 1.0))
    return [order("global order", taus, errors, 1.0), equal("W2 of a step, other than the coupling's", max(gaps), 1e-6)]


def langevin(quick: bool) -> list[Finding]:
    """F40: noisy bilinear neuron with ridge: second moments against the closed equations over N; the free energy."""
    network, problem, law = Network("linear"), problems.bilinear(), 1.0
    options: dict[str, Any] = {"temperature": 0.05, "ridge": 0.1}
    exact = limits.exact.moments(network, problem, initial.GaussianLaw(1), [law], **options)[0]
    sizes, seeds = (32, 128, 512), 40
    errors = np.empty((seeds, len(sizes)))
    for place in np.ndindex(errors.shape):
        start = initial.gaussian(sizes[place[1]], 1, seed=[place[0], place[1]])
        run = simulate(
            network, problem, start, [law], scheme="euler", dt=0.01, noise_seed=1000 * place[0] + place[1], **options
        )
        found = run.particles[-1].T @ run.particles[-1] / len(start)
        errors[place] = np.abs(found - exact).mean()
    run = simulate(
        network, problem, initial.gaussian(3200, 1, seed=5), [0.0, 0.3, 0.8], scheme="euler", dt=0.01, **options
    )
    found = [free_energy(run, index, **options) for index in range(3)]
    changes = []
    for k, (before, now) in enumerate(pairwise(found)):
        change, half = now[0] - before[0], 1.96 * float(np.hypot(now[1], before[1]))
        what = f"change of the free energy, {'first' if k == 0 else 'later'}"
        changes.append(Finding(what, change, (change - half, change + half), (-np.inf, 0.0)))
    return [exponent("moments: slope in N", sizes, errors, -0.5), *changes]


def solvable(quick: bool) -> list[Finding]:
    """F50: the bilinear neuron's closed forms against quadrature along characteristics, and their laws in alpha."""
    problem, worst = problems.bilinear(), 0.0
    for alpha in (0.01, 0.1, 1.0, 10.0):
        times = np.linspace(0.0, 3.0, 4) / np.hypot(1.0, 1.0 / alpha)
        found = limits.mean_field(
            Network("linear", Scaling(alpha)),
            problem,
            initial.GaussianLaw(1),
            times,
            n_nodes=16,
            rtol=1e-11,
            atol=1e-13,
        )
        exact = limits.exact.bilinear(Network("linear", Scaling(alpha)), problem, times)
        worst = max(worst, float(np.abs(found.predictions - exact.predictions).max()))
    halves = [_half_time(alpha) / alpha for alpha in (1e-2, 1e-3)]
    growth = halves[1] - halves[0]
    return [
        equal("F by quadrature", worst, 1e-8),
        Finding("t_half / alpha per decade", growth, (growth, growth), np.log(10.0) / 2.0, 0.01),
    ]


def _half_time(alpha):
    """Time at which F = beta (1 - 2^(-1/2)): the risk is half of what it was; by the angle's closed form."""
    times = alpha * np.linspace(0.0, 10.0, 200_001)
    output = alpha * np.sinh(2.0 * limits.exact.bilinear_angle(times, alpha))
    return float(np.interp(1.0 - np.sqrt(0.5), output, times))


def stability(quick: bool) -> list[Finding]:
    """P19: explicit Euler is stable below 2 / eig_max(K/n), and not above: growth of the residual of a lazy network."""
    problem, start, _ = _small(20, 400)
    network = Network("tanh", Scaling(1e6, shift="initial"))
    fastest = tangent.fastest(tangent.kernel(network, start, problem.inputs), problem.weights)
    bound = TABLEAUS["euler"].stable_below / fastest
    last = []
    for factor in (0.98, 1.02):
        dt = factor * bound
        run = simulate(network, problem, start, [200 * dt], scheme="euler", dt=dt)
        last.append(float(np.linalg.norm(run.residuals[-1]) / np.linalg.norm(problem.targets)))
    return [
        equal("residual just below", last[0], 1.0),
        Finding("just above", last[1], (last[1], last[1]), (10.0, np.inf)),
    ]
