"""The mean-field limit from the law: two rules, their error estimates, tracers, and the clouds that approach it."""

import warnings

import numpy as np
import pytest

from meanfield import GaussianLaw, Network, Problem, Scaling, initial, limits, problems, simulate, tangent
from meanfield.errors import ConvergenceError, InputError

STEPS = {"engine": "reference", "scheme": "rk4", "dt": 0.25}
TIMES = np.array([0.0, 1.0, 3.0])
NETWORK = Network("erf")


@pytest.fixture(autouse=True)
def no_warning_leaks():
    """What is wrong must be an error; no call in this file may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def plane() -> Problem:
    return problems.teacher_student(dim=2, n=12, n_test=20, seed=3)


def line(weights=None) -> Problem:
    """Six inputs in [-1, 1], where Gauss-Hermite converges fast."""
    x = np.linspace(-1.0, 1.0, 6)[:, None]
    tests = np.linspace(-0.9, 0.9, 7)[:, None]
    return Problem(
        x, np.sin(2.0 * x[:, 0]) + 0.3, weights, test_inputs=tests, test_targets=np.sin(2.0 * tests[:, 0]) + 0.3
    )


def solve(task, rule, n_nodes, *, network=NETWORK, times=TIMES, **options):
    law = GaussianLaw(task.dim)
    return limits.mean_field(network, task, law, times, rule=rule, n_nodes=n_nodes, **(STEPS | options))


def rms(solved, other):
    """Root mean square over test inputs of the difference of two predictors, (T,)."""
    return np.sqrt(np.mean((solved.test_predictions - other.test_predictions) ** 2, axis=1))


@pytest.fixture(scope="module")
def converged():
    """On the line, 48^2 Gauss-Hermite nodes; their estimate says 1e-6 or better."""
    solved = solve(line(), "gauss-hermite", 48**2)
    assert solved.error.max() < 2e-6
    return solved


def test_against_a_loop_of_our_own():
    """RK4 on Gauss-Hermite nodes, all by hand: weights, masses, mobilities, alpha, input scale; to 1e-12."""
    weights = np.array([1.0, 2.0, 0.0, 1.0, 0.5, 3.0])
    weights /= weights.sum()
    task, order, alpha, scale, speeds = line(weights), 6, 1.7, 0.8, (0.4, 1.6)
    network = Network("tanh", Scaling(alpha, mobility_a=speeds[0], mobility_w=speeds[1], input_scale=scale))
    points, masses = np.polynomial.hermite_e.hermegauss(order)
    a, w = 1.3 * np.repeat(points, order), 0.7 * np.tile(points, order)
    masses = np.outer(masses, masses).ravel() / masses.sum() ** 2
    x = scale * task.inputs[:, 0]

    def velocity(a, w):
        z = np.tanh(np.outer(w, x))
        pull = weights * (task.targets - alpha * (masses * a) @ z) / alpha
        return speeds[0] * z @ pull, speeds[1] * a * ((1.0 - z**2) @ (pull * x))

    for _ in range(4):
        k1 = velocity(a, w)
        k2 = velocity(a + 0.125 * k1[0], w + 0.125 * k1[1])
        k3 = velocity(a + 0.125 * k2[0], w + 0.125 * k2[1])
        k4 = velocity(a + 0.25 * k3[0], w + 0.25 * k3[1])
        a, w = (
            v + 0.25 / 6.0 * (p + 2.0 * q + 2.0 * r + s) for v, p, q, r, s in zip((a, w), k1, k2, k3, k4, strict=True)
        )
    law = GaussianLaw(1, sigma_a=1.3, sigma_w=0.7)
    solved = limits.mean_field(network, task, law, [1.0], rule="gauss-hermite", n_nodes=order**2, **STEPS)
    exact = alpha * (masses * a) @ np.tanh(np.outer(w, x))
    assert solved.predictions[0] == pytest.approx(exact, rel=1e-12)
    assert solved.n_nodes == order**2
    tests = alpha * (masses * a) @ np.tanh(np.outer(w, scale * task.test_inputs[:, 0]))
    assert solved.test_predictions[0] == pytest.approx(tests, rel=1e-12)
    plain = limits.mean_field(Network("tanh"), task, law, [1.0], rule="gauss-hermite", n_nodes=order**2, **STEPS)
    assert np.abs(plain.predictions[0] - exact).max() > 1e-2, "another scaling is seen"


@pytest.mark.parametrize("activation", ["erf", "tanh"])
def test_two_rules_agree(activation):
    """Gauss-Hermite and Sobol differ by less than three times the sum of their own estimates (sup over t).

    Three: twice the nodes are only 26 % more along each of three axes, so the estimate may fall short of the error.
    """
    network = Network(activation)
    hermite = [solve(plane(), "gauss-hermite", order**3, network=network) for order in (8, 14)]
    sobol = [solve(plane(), "sobol", 1024, network=network, seed=seed) for seed in range(3)]
    for left in hermite:
        for right in sobol:
            assert rms(left, right).max() < 3.0 * (left.error.max() + right.error.max())
    assert hermite[1].error.max() < hermite[0].error.max()


def test_another_law_is_seen():
    """The comparison above fails for a law 30 % wider."""
    wide = limits.mean_field(NETWORK, plane(), GaussianLaw(2, sigma_w=1.3), TIMES, rule="sobol", n_nodes=1024, **STEPS)
    right = solve(plane(), "gauss-hermite", 14**3)
    assert rms(wide, right).max() > 3.0 * (wide.error.max() + right.error.max())


def test_sobol_converges_faster_than_a_sample(converged):
    """16 times the nodes: a sample gains 4, scrambled Sobol of a smooth integrand 16 and more; held to 8.

    And the estimate, a difference of two independent errors, is sqrt(2) times the error in root mean square: it lies
    between 0.7 and 2.8 times the error over 12 scrambles.
    """
    errors, estimates = [], []
    for n_nodes in (64, 1024):
        solved = [solve(line(), "sobol", n_nodes, seed=seed) for seed in range(12)]
        errors.append(np.sqrt(np.mean([rms(each, converged) ** 2 for each in solved])))
        estimates.append(np.sqrt(np.mean([each.error**2 for each in solved])))
    assert errors[0] > 8.0 * errors[1]
    for error, estimate in zip(errors, estimates, strict=True):
        assert 0.7 * error < estimate < 2.8 * error


def test_finite_clouds_approach_the_limit(converged):
    """sup_t rms(f_N - f) falls like N^-1/2: between N = 64 and 1024 by a factor 4, to five standard errors, 16 seeds.

    Sixteen seeds pin the exponent to +-0.15 or better.
    """
    logs = []
    for n_particles in (64, 1024):
        runs = [simulate(NETWORK, line(), initial.gaussian(n_particles, 1, seed=s), TIMES, **STEPS) for s in range(16)]
        logs.append([np.log(rms(run, converged).max()) for run in runs])
    exponents = (np.array(logs[1]) - np.array(logs[0])) / np.log(16.0)
    error = exponents.std(ddof=1) / 4.0
    assert error < 0.15
    assert abs(exponents.mean() + 0.5) < 5.0 * error


@pytest.mark.parametrize(("rule", "n_nodes"), [("gauss-hermite", 8**3), ("sobol", 1024)])
def test_the_limit_starts_at_zero(rule, n_nodes):
    """f(x, 0) = E a phi(w . x) = 0: to rounding where the rule is symmetric, else within five times its estimate."""
    solved = solve(plane(), rule, n_nodes, times=[0.0])
    size = np.sqrt(np.mean(solved.test_predictions**2))
    assert size < (1e-15 if rule == "gauss-hermite" else 5.0 * solved.error[0])
    assert np.abs(simulate(NETWORK, plane(), initial.gaussian(n_nodes, 2), [0.0], **STEPS).predictions).max() > 1e-3


TRACERS = np.random.default_rng(8).standard_normal((5, 2))


@pytest.mark.parametrize(("rule", "n_nodes"), [("gauss-hermite", 8**2), ("sobol", 64)])
def test_tracers_change_nothing(rule, n_nodes):
    """Mass zero: with fixed steps f is the same with and without tracers, to 1e-14.

    Adaptive steps hold the error of the tracers too, so that they may choose other steps: the same to 1e-6 at
    rtol 1e-8.
    """
    for options, tolerance in (({}, 1e-14), ({"scheme": "dopri5", "dt": None, "rtol": 1e-8, "atol": 1e-10}, 1e-6)):
        without = solve(line(), rule, n_nodes, **options)
        with_them = solve(line(), rule, n_nodes, tracers=10.0 * TRACERS, **options)
        assert without.tracers.shape[1:] == (0, 2) and with_them.tracers.shape == (3, 5, 2)
        assert with_them.n_nodes == without.n_nodes
        assert np.abs(with_them.predictions - without.predictions).max() < tolerance
        assert np.abs(with_them.test_predictions - without.test_predictions).max() < tolerance


def test_a_tracer_with_mass_is_seen():
    """The law above fails for particles that have a mass."""
    rule = initial.gauss_hermite(GaussianLaw(1), 8)
    start, masses = np.r_[rule.nodes, 10.0 * TRACERS], np.r_[rule.masses, np.full(5, 1e-6)]
    heavy = simulate(NETWORK, line(), start, TIMES, masses=masses, **STEPS)
    assert np.abs(heavy.predictions - solve(line(), "gauss-hermite", 64).predictions).max() > 1e-8


def test_tracers_move_with_the_nodes():
    """A tracer that starts on a node stays on it: to 1e-14; one that starts 1e-6 beside it does not."""
    nodes, masses = initial.sobol(GaussianLaw(1), 64, 2 * 5)  # the main rule of seed 5
    run = simulate(NETWORK, line(), nodes, TIMES, masses=masses, **STEPS)
    carried = solve(line(), "sobol", 64, seed=5, tracers=nodes[:7])
    assert np.array_equal(carried.tracers[0], nodes[:7])
    assert np.abs(carried.tracers - run.particles[:, :7]).max() < 1e-14
    assert np.abs(run.particles[-1] - nodes).max() > 0.1
    beside = solve(line(), "sobol", 64, seed=5, tracers=nodes[:7] + 1e-6)
    assert np.abs(beside.tracers - run.particles[:, :7]).max() > 1e-7


def test_tracers_follow_the_characteristics():
    """theta' = (1/alpha) sum_k p_k u_k grad s(x_k; theta) with the limit's own u: by Simpson's rule, h = 1/64.

    Error of the rule h^5 / 90 times a fourth derivative of order one: 1e-11. Held to 1e-9.
    """
    h = 1.0 / 64.0
    fine = solve(line(), "gauss-hermite", 64, times=[1.0, 1.0 + h, 1.0 + 2.0 * h], tracers=TRACERS, dt=h)
    task, speeds = line(), []
    for predictions, cloud in zip(fine.predictions, fine.tracers, strict=True):
        value, slope = NETWORK.activation.formula(cloud[:, 1:] @ task.inputs.T)
        pull = task.weights * (task.targets - predictions)
        speeds.append(np.c_[value @ pull, cloud[:, 0] * (slope @ (pull * task.inputs[:, 0]))])
    moved = h / 3.0 * (speeds[0] + 4.0 * speeds[1] + speeds[2])
    assert np.abs(fine.tracers[2] - fine.tracers[0] - moved).max() < 1e-9


@pytest.mark.parametrize(("rule", "n_nodes"), [("sobol", 32), ("gauss-hermite", 5**2)])
def test_nodes_are_doubled_until_the_tolerance_is_met(rule, n_nodes):
    """The estimate is below the tolerance at the end, was not at the start, and costs no more than `max_nodes`."""
    coarse = solve(line(), rule, n_nodes)
    asked = 0.2 * coarse.error.max()
    fine = solve(line(), rule, n_nodes, tolerance=asked)
    assert fine.error.max() <= asked < coarse.error.max()
    assert fine.n_nodes >= 2 * coarse.n_nodes
    satisfied = solve(line(), rule, n_nodes, tolerance=coarse.error.max())
    assert np.array_equal(satisfied.predictions, coarse.predictions)


@pytest.mark.parametrize(
    ("rule", "n_nodes", "words"),
    [("sobol", 32, "128 scrambled Sobol nodes"), ("gauss-hermite", 25, r"10\^2 Gauss-Herm")],
)
def test_a_tolerance_out_of_reach(rule, n_nodes, words):
    """At `max_nodes` the doubling ends in an error that says what was reached and with what."""
    message = rf"limit is known to \d\.\de-\d\d with {words}.*; needed: 1\.0e-12\. Raise max_nodes or the tolerance"
    with pytest.raises(ConvergenceError, match=message):
        solve(line(), rule, n_nodes, tolerance=1e-12, max_nodes=4 * n_nodes)


@pytest.mark.parametrize(
    ("activation", "dim", "n_nodes", "words", "size"),
    [
        ("erf", 1, 100, r"10^2 Gauss-Hermite nodes", 100),
        ("erf", 1, 101, r"11^2 Gauss-Hermite nodes", 121),
        ("tanh", 2, 81, "128 scrambled Sobol nodes", 128),
        ("relu", 1, 100, "128 scrambled Sobol nodes", 128),
        ("erf", 4, 64, "64 scrambled Sobol nodes", 64),
    ],
)
def test_the_rule_is_chosen_and_rounded_up(activation, dim, n_nodes, words, size):
    """ "auto": Gauss-Hermite for smooth units and 1 + d <= 4, else Sobol; at least the nodes that were asked for."""
    task = problems.teacher_student(dim, n=4, n_test=4)
    solved = solve(task, "auto", n_nodes, network=Network(activation), times=[0.5])
    assert (solved.rule, solved.n_nodes) == (words, size)


def test_the_scrambles_follow_the_seed():
    """The same seed repeats bit for bit, another one does not."""
    first, again, other = (solve(line(), "sobol", 64, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.predictions, again.predictions)
    assert not np.array_equal(first.predictions, other.predictions)


def test_without_a_test_set():
    """The estimate is then taken at the training inputs."""
    task = line()
    solved = solve(Problem(task.inputs, task.targets), "sobol", 64)
    at_training = Problem(task.inputs, task.targets, test_inputs=task.inputs, test_targets=task.targets)
    assert solved.test_predictions.shape == (3, 0)
    assert solved.error == pytest.approx(solve(at_training, "sobol", 64).error, rel=1e-12)


@pytest.mark.parametrize("order", [200, 400])
def test_rules_of_high_order(order):
    """What doubling the nodes on the line leads to: E a^2 = 1, E w^4 = 3 and E cos a = e^(-1/2), to 1e-12."""
    nodes, masses = initial.gauss_hermite(GaussianLaw(1), order)
    a, w = nodes.T
    for found, exact in ((masses @ a**2, 1.0), (masses @ w**4, 3.0), (masses @ np.cos(a), np.exp(-0.5))):
        assert found == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("rule", ["gauss-hermite", lambda n: initial.gauss_hermite(GaussianLaw(1), n // 4)])
def test_the_exactly_solvable_limit_by_quadrature(alpha, rule):
    """The bilinear neuron at every alpha: predictor and characteristics to 1e-8 of the closed form."""
    task, network = problems.bilinear(), Network("linear", Scaling(alpha))
    times = np.linspace(0.0, 3.0, 4) / np.hypot(1.0, 1.0 / alpha)
    options = {"rule": rule, "n_nodes": 16, "rtol": 1e-11, "atol": 1e-13, "tracers": TRACERS[:, :2]}
    found = limits.mean_field(network, task, GaussianLaw(1), times, **options)
    exact = limits.exact.bilinear(network, task, times, tracers=TRACERS[:, :2])
    np.testing.assert_allclose(found.predictions, exact.predictions, atol=1e-8)
    np.testing.assert_allclose(found.tracers, exact.tracers, rtol=1e-8)
    assert found.error.max() < 1e-10


def test_pairs_have_no_output_at_the_start():
    """Nodes (a, w), (-a, w): f_0 = 0 to rounding, the law's moments, and the same limit as without pairs."""
    nodes, masses = initial.sobol(GaussianLaw(2), 64, 3, paired=True)
    assert np.array_equal(nodes[:32] * [-1, 1, 1], nodes[32:]) and masses.sum() == 1.0
    paired, plain = (solve(plane(), rule, 4096) for rule in ("paired sobol", "sobol"))
    assert np.abs(paired.predictions[0]).max() < 1e-15 < np.abs(plain.predictions[0]).max()
    assert (rms(paired, plain)[1:] < 5.0 * np.hypot(paired.error, plain.error)[1:]).all()
    assert (paired.rule, paired.n_nodes) == ("4096 paired Sobol nodes", 4096)


def test_rules_of_one_s_own():
    """A function of n_nodes is refined to a tolerance; a `Quadrature` is taken as it is, its error unknown."""
    own = lambda n_nodes: initial.gauss_hermite(GaussianLaw(1), int(np.sqrt(n_nodes)))  # noqa: E731
    built_in = solve(line(), "gauss-hermite", 24**2)
    given = solve(line(), own(24**2), 1)
    np.testing.assert_allclose(given.predictions, built_in.predictions, rtol=1e-12, atol=1e-15)
    assert np.isnan(given.error).all() and "not known" in repr(given) and given.rule == "576 given nodes"
    refined = solve(line(), own, 16, tolerance=1e-3)
    assert refined.error.max() < 1e-3 and "of the given rule" in refined.rule
    with pytest.raises(InputError, match="cannot be refined"):
        solve(line(), own(16), 16, tolerance=1e-3)
    pair = solve(line(), tuple(own(16)), 1)
    np.testing.assert_array_equal(pair.predictions, solve(line(), own(16), 1).predictions)
    with pytest.raises(InputError, match="rule gave 16 nodes for 16 and 16 for 32; needed: more"):
        solve(line(), lambda n_nodes: own(16), 16, tolerance=1e-3)
    with pytest.raises(InputError, match=r"mean_field got temperature 0\.1; needed: none"):
        limits.mean_field(NETWORK, line(), LAW, TIMES, temperature=0.1, scheme="euler", dt=0.1)
    with pytest.raises(InputError, match="rule gave int; needed: a Quadrature"):
        solve(line(), lambda n_nodes: n_nodes, 16)
    with pytest.raises(InputError, match="rule is 3; needed: one of auto, sobol"):
        solve(line(), 3, 16)


def test_a_law_whose_output_weights_have_a_mean():
    """Moments of sample and rules are the law's: a mean of 0.7 within five standard errors, by rules to 1e-3; a = 1
    for ever is a law too; pairs have mean 0."""
    law = GaussianLaw(2, sigma_a=0.5, sigma_w=1.3, mean_a=0.7)
    cloud = initial.gaussian(4000, 2, seed=1, sigma_a=0.5, sigma_w=1.3, mean_a=0.7)
    assert abs(cloud[:, 0].mean() - 0.7) < 5 * 0.5 / np.sqrt(4000) < abs(cloud[:, 0].mean() - 0.6)
    for nodes, masses in (initial.gauss_hermite(law, 4), initial.sobol(law, 4096)):
        assert masses @ nodes[:, 0] == pytest.approx(0.7, abs=1e-3)
        assert masses @ nodes[:, 0] ** 2 == pytest.approx(law.second_moment_a, rel=5e-3)
        assert masses @ nodes[:, 1] ** 2 == pytest.approx(1.3**2, rel=5e-3)
    assert (initial.gaussian(5, 2, sigma_a=0.0, mean_a=1.0)[:, 0] == 1.0).all()
    with pytest.raises(InputError, match="sigma_a is 0"):
        GaussianLaw(2, sigma_a=0.0)
    with pytest.raises(InputError, match="mean_a is 1 with paired=True"):
        initial.gaussian(4, 2, paired=True, mean_a=1.0)
    on_a_line, x = GaussianLaw(1, sigma_a=0.5, sigma_w=0.6, mean_a=0.7), np.array([[0.5], [1.0]])
    nodes, masses = initial.gauss_hermite(on_a_line, 40)
    kernel = tangent.kernel(NETWORK, nodes, x, masses=masses)
    np.testing.assert_allclose(tangent.infinite(NETWORK, on_a_line, x), kernel, rtol=1e-6)
    with pytest.raises(InputError, match=r"law has mean_a = 0\.7, so that f_0 is not 0"):
        limits.ntk(NETWORK, plane(), law, [1.0])


LAW = GaussianLaw(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: limits.mean_field(NETWORK, line(), GaussianLaw(2), TIMES), r"law is GaussianLaw\(dim=2.*of dim 1"),
        (lambda: limits.mean_field(NETWORK, line(), TRACERS, TIMES), "needed: a GaussianLaw of dim 1"),
        (
            lambda: limits.mean_field(NETWORK, line(), LAW, TIMES, rule="sobel"),
            "unknown rule 'sobel'. Did you mean 'sob",
        ),
        (lambda: limits.mean_field(NETWORK, line(), LAW, TIMES, n_nodes=0), "n_nodes is 0; needed: a whole number"),
        (lambda: limits.mean_field(NETWORK, line(), LAW, TIMES, n_nodes=64.0), "n_nodes is 64.0; needed: a whole numb"),
        (lambda: limits.mean_field(NETWORK, line(), LAW, TIMES, seed=-1), "seed is -1; needed: a whole number of at l"),
        (lambda: limits.mean_field(NETWORK, line(), LAW, [2.0, 1.0]), "times go from 2 to 1"),
        (lambda: solve(line(), "sobol", 64, tracers=np.zeros((2, 3))), "particles have 3 columns, but inputs of dim"),
        (lambda: solve(line(), "sobol", 64, scheme="rk5"), "unknown scheme 'rk5'"),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("option", ["keep", "masses", "record", "stop", "batches"])
def test_options_that_are_not_the_limit_s(option):
    with pytest.raises(InputError, match=f"mean_field does not take {option}"):
        limits.mean_field(NETWORK, line(), LAW, TIMES, **{option: None})
