"""The frozen-kernel flow against matrix exponentials, a loop of our own, and wide networks."""

import warnings

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from meanfield import GaussianLaw, Network, Problem, Scaling, initial, limits, simulate, tangent
from meanfield.errors import ConvergenceError, InputError
from meanfield.losses import Loss

TIMES = np.array([0.0, 0.1, 1.0, 10.0, 100.0])
LAW = GaussianLaw(2, sigma_a=1.3, sigma_w=0.8)
WEIGHTS = {"uniform": None, "unequal": [1.0, 2.0, 0.5, 3.0, 0.1, 1.0], "some-zero": [1.0, 0.0, 0.5, 3.0, 0.0, 1.0]}
weighted = pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)


@pytest.fixture(autouse=True)
def no_warning_leaks():
    """What is wrong must be an error; no call in this file may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def problem(weights=None, repeated=False) -> Problem:
    """Six training and four test inputs in the plane; with `repeated` three training inputs, each twice."""
    rng = np.random.default_rng(5)
    inputs, tests = rng.standard_normal((6, 2)), rng.standard_normal((4, 2))
    if repeated:
        inputs = np.r_[inputs[:3], inputs[:3]]
    return Problem(inputs, rng.standard_normal(6), weights, test_inputs=tests, test_targets=rng.standard_normal(4))


def by_exponential(train, cross, weights, start, test_start, times):
    """u and test residuals from d/dt (u, v) = -[[K P, 0], [C P, 0]] (u, v): the exponential of one block matrix."""
    n, m = len(start), len(test_start)
    generator = np.zeros((n + m, n + m))
    generator[:n, :n], generator[n:, :n] = -train * weights, -cross * weights
    moved = np.array([expm(generator * t) @ np.r_[start, test_start] for t in times])
    return moved[:, :n], moved[:, n:]


def largest_difference(solved, train, cross, weights, start, test_start):
    """Between a solution and the exponential, in units of the largest start."""
    exact = by_exponential(train, cross, weights, start, test_start, solved.times)
    pairs = zip((solved.residuals, solved.test_residuals), exact, strict=True)
    return max(np.abs(found - right).max() for found, right in pairs) / max(
        np.abs(start).max(), np.abs(test_start).max()
    )


@weighted
@pytest.mark.parametrize("activation", ["erf", "relu", "tanh", "linear"])
def test_law_against_the_exponential(activation, weights):
    """With the infinite kernel u(t) = exp(-K P t) y, test inputs alike: to 1e-12, also where K or P is singular."""
    task, network = problem(weights), Network(activation)
    train = tangent.infinite(network, LAW, task.inputs)
    cross = tangent.infinite(network, LAW, task.test_inputs, task.inputs)
    solved = limits.ntk(network, task, LAW, TIMES)
    right = task.targets, task.test_targets
    assert largest_difference(solved, train, cross, task.weights, *right) < 1e-12
    if weights is not None:
        uniform = np.full(6, 1 / 6)
        assert largest_difference(solved, train, cross, uniform, *right) > 1e-3, "weights that are ignored are seen"


def first_output(network, cloud, masses, inputs):
    """f_0 = alpha sum_i m_i a_i phi(w_i . x), by hand."""
    value, _ = network.activation.formula(cloud[:, 1:] @ inputs.T)
    return network.scaling.alpha * (masses * cloud[:, 0]) @ value


@weighted
@pytest.mark.parametrize("shift", [None, "initial"])
@pytest.mark.parametrize("given", [None, "masses"])
def test_particles_against_the_exponential(given, shift, weights):
    """With the particles' own kernel, u_0 = y - f_0 without a shift and y with one: to 1e-12, train and test."""
    task, network = problem(weights), Network("tanh", Scaling(alpha=2.0, mobility_w=0.7, shift=shift))
    cloud = initial.gaussian(30, 2, seed=1)
    masses = np.random.default_rng(2).random(30) if given else np.ones(30)
    masses = masses / masses.sum()
    start, test_start = task.targets, task.test_targets
    if shift is None:
        start = start - first_output(network, cloud, masses, task.inputs)
        test_start = test_start - first_output(network, cloud, masses, task.test_inputs)
    train = tangent.kernel(network, cloud, task.inputs, masses=masses)
    cross = tangent.kernel(network, cloud, task.test_inputs, task.inputs, masses=masses)
    solved = limits.ntk(network, task, cloud, TIMES, masses=masses if given else None)
    assert largest_difference(solved, train, cross, task.weights, start, test_start) < 1e-12
    assert solved.residuals[0] == pytest.approx(start, rel=1e-14)
    if shift is None:
        wrong = task.targets, task.test_targets
        assert largest_difference(solved, train, cross, task.weights, *wrong) > 1e-3, "a forgotten f_0 is seen"


def test_against_steps_of_our_own():
    """RK4 with the kernel frozen, dt lambda = 0.01: local error (dt lambda)^5 / 120 over 1e3 steps, below 1e-9."""
    task, network = problem(WEIGHTS["unequal"]), Network("tanh", Scaling(shift="initial"))
    cloud = initial.gaussian(30, 2, seed=1)
    train = tangent.kernel(network, cloud, task.inputs)
    cross = tangent.kernel(network, cloud, task.test_inputs, task.inputs)
    dt = 0.01 / np.linalg.eigvals(train * task.weights).real.max()

    def speed(state):
        pull = task.weights * state[:6]
        return np.r_[-train @ pull, -cross @ pull]

    state = np.r_[task.targets, task.test_targets]
    for _ in range(1000):
        k1 = speed(state)
        k2 = speed(state + 0.5 * dt * k1)
        k3 = speed(state + 0.5 * dt * k2)
        k4 = speed(state + dt * k3)
        state = state + dt / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    solved = limits.ntk(network, task, cloud, [1000 * dt])
    assert np.abs(np.r_[solved.residuals[0], solved.test_residuals[0]] - state).max() < 1e-9


def test_nothing_has_moved_at_time_zero():
    """u(0) = u_0, bit for bit: y from a law, whatever the shift, and from particles with the shift."""
    task = problem()
    for start, shift in ((LAW, None), (LAW, "initial"), (initial.gaussian(8, 2), "initial")):
        solved = limits.ntk(Network("erf", Scaling(shift=shift)), task, start, [0.0, 1.0])
        assert np.array_equal(solved.residuals[0], task.targets)
        assert np.array_equal(solved.test_residuals[0], task.test_targets)


@pytest.mark.parametrize("activation", ["erf", "relu"])
def test_repeated_inputs(activation):
    """A singular kernel is no obstacle: to 1e-12 of the exponential, and copies keep their difference for ever."""
    task, network = problem(repeated=True), Network(activation)
    train = tangent.infinite(network, LAW, task.inputs)
    cross = tangent.infinite(network, LAW, task.test_inputs, task.inputs)
    solved = limits.ntk(network, task, LAW, TIMES)
    assert solved.eigenvalues[:3] == pytest.approx(0.0, abs=1e-12)
    assert largest_difference(solved, train, cross, task.weights, task.targets, task.test_targets) < 1e-12
    kept = task.targets[:3] - task.targets[3:]
    assert np.abs(solved.residuals[:, :3] - solved.residuals[:, 3:] - kept).max() < 1e-12


@pytest.mark.parametrize(
    "activation",
    ["erf", "relu"],
)
def test_inputs_repeated_up_to_rounding(activation):
    """Multiples of an input, normalized, differ in the last bit: the kernel is still none with negative eigenvalues."""
    inputs = np.random.default_rng(0).standard_normal((5, 4))
    inputs = np.r_[inputs, 3.0 * inputs]
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    solved = limits.ntk(Network(activation), Problem(inputs, np.ones(10)), GaussianLaw(4), [1.0])
    assert np.abs(solved.residuals[0, :5] - solved.residuals[0, 5:]).max() < 1e-12


def test_late_residual_is_the_projection():
    """Linear units in the plane learn the best linear function: u at late times is least squares' residual, 1e-9."""
    task = problem(WEIGHTS["unequal"])
    solved = limits.ntk(Network("linear"), task, LAW, [1e4])
    root = np.sqrt(task.weights)
    best, *_ = np.linalg.lstsq(root[:, None] * task.inputs, root * task.targets, rcond=None)
    assert solved.residuals[0] == pytest.approx(task.targets - task.inputs @ best, abs=1e-9)
    assert solved.test_residuals[0] == pytest.approx(task.test_targets - task.test_inputs @ best, abs=1e-9)


def test_rates_are_the_eigenvalues():
    """`eigenvalues`: those of K P, ascending, to 1e-12 of the largest; `kernel` is the one that was used."""
    task, network = problem(WEIGHTS["unequal"]), Network("erf")
    solved = limits.ntk(network, task, LAW, [1.0])
    train = tangent.infinite(network, LAW, task.inputs)
    rates = np.sort(np.linalg.eigvals(train * task.weights).real)
    assert np.array_equal(solved.kernel, train)
    assert np.abs(solved.eigenvalues - rates).max() < 1e-12 * rates[-1]


def test_a_known_kernel_is_used():
    """Handing over the kernel changes no bit; handing over twice the kernel doubles the rates."""
    task, network = problem(), Network("erf")
    solved = limits.ntk(network, task, LAW, TIMES)
    again = limits.ntk(network, task, LAW, TIMES, at=LAW, kernel=solved.kernel)
    assert np.array_equal(again.residuals, solved.residuals)
    assert np.array_equal(again.test_residuals, solved.test_residuals)
    doubled = limits.ntk(network, task, LAW, TIMES, at=LAW, kernel=2.0 * solved.kernel)
    assert doubled.eigenvalues == pytest.approx(2.0 * solved.eigenvalues, rel=1e-12)


def test_without_a_test_set():
    """No test inputs: test residuals of shape (T, 0), training residuals as before."""
    task = problem()
    bare = Problem(task.inputs, task.targets)
    solved = limits.ntk(Network("erf"), bare, LAW, TIMES)
    assert solved.test_residuals.shape == (5, 0)
    assert np.array_equal(solved.residuals, limits.ntk(Network("erf"), task, LAW, TIMES).residuals)


def own_kernel_error(n_particles: int, seed: int, alpha: float) -> float:
    """sup over t of the rms distance between the network's residuals and its frozen-kernel flow."""
    task, times = problem(), [0.5, 2.0, 5.0]
    network = Network("erf", Scaling(alpha, shift="initial"))
    cloud = initial.gaussian(n_particles, 2, seed=seed)
    run = simulate(network, task, cloud, times, engine="reference", rtol=1e-8, atol=1e-10, keep="last")
    frozen = limits.ntk(network, task, cloud, times)
    return np.sqrt(np.mean((run.residuals - frozen.residuals) ** 2, axis=1)).max()


def test_wide_networks_approach_their_own_frozen_kernel():
    """alpha = sqrt(N): the distance falls towards 1/N. From N = 32 to 512 the mean of 5 seeds falls by more than 4.

    At alpha = 1 it does not: features move at every width.
    """
    narrow, wide = (np.mean([own_kernel_error(n, seed, np.sqrt(n)) for seed in range(5)]) for n in (32, 512))
    assert narrow > 4.0 * wide
    narrow, wide = (np.mean([own_kernel_error(n, seed, 1.0) for seed in range(5)]) for n in (32, 512))
    assert narrow < 4.0 * wide


# Frozen layers

PRECISE = {"rtol": 1e-11, "atol": 1e-13}
ENGINES = pytest.mark.parametrize("engine", ["cpu", "reference"])
CLOUD = initial.gaussian(9, 2, seed=4)
MASSES = np.random.default_rng(8).dirichlet(np.full(9, 4.0))


def frozen_difference(layer, activation, engine, mobilities):
    """Distance of a run from exp(-K P t), K the moving layer's by hand; and of the frozen layer from its start."""
    task = problem(WEIGHTS["unequal"])
    network = Network(activation, Scaling(0.9, mobility_a=mobilities[0], mobility_w=mobilities[1]))
    run = simulate(network, task, CLOUD, TIMES[:4], masses=MASSES, engine=engine, **PRECISE)
    points = np.r_[task.inputs, task.test_inputs]
    if layer == "first":  # random features: K = xi_a sum_i m_i phi phi'
        features, _ = network.activation.formula(CLOUD[:, 1:] @ points.T)
        kernel = 1.7 * features.T @ (MASSES[:, None] * features)
    else:  # of linear units: K = xi_w sum_i m_i a_i^2 x.x'
        kernel = 1.7 * (MASSES @ CLOUD[:, 0] ** 2) * points @ points.T
    starts = [
        targets - first_output(network, CLOUD, MASSES, inputs)
        for targets, inputs in ((task.targets, task.inputs), (task.test_targets, task.test_inputs))
    ]
    wanted = by_exponential(kernel[:6, :6], kernel[6:, :6], task.weights, *starts, run.times)
    found = run.residuals, task.test_targets - run.test_predictions
    stays = slice(1, None) if layer == "first" else slice(0, 1)
    moved = np.abs(run.particles[:, :, stays] - CLOUD[:, stays]).max()
    return max(np.abs(one - other).max() for one, other in zip(found, wanted, strict=True)), moved


@ENGINES
@pytest.mark.parametrize("activation", ["erf", "relu", "tanh", "linear", "softplus"])
def test_a_frozen_first_layer_is_a_linear_flow(activation, engine):
    """Random features: the whole flow is exp(-K P t) with the a-part of K, to 1e-9; the weights stay, bit for bit."""
    difference, moved = frozen_difference("first", activation, engine, (1.7, 0.0))
    assert difference < 1e-9 and moved == 0.0


@ENGINES
def test_a_frozen_second_layer_of_linear_units_is_a_linear_flow(engine):
    """exp(-K P t) with the w-part of K, which is then constant, to 1e-9; the heights stay, bit for bit."""
    difference, moved = frozen_difference("second", "linear", engine, (0.0, 1.7))
    assert difference < 1e-9 and moved == 0.0


@pytest.mark.parametrize("layer", ["first", "second"])
def test_a_layer_that_is_not_frozen_is_caught(layer):
    difference, moved = frozen_difference(layer, "linear", "reference", (1.7, 0.1) if layer == "first" else (0.1, 1.7))
    assert difference > 1e-3 and moved > 1e-3


@ENGINES
def test_a_frozen_second_layer_against_an_integrator(engine):
    """tanh units, w' = (xi_w / alpha) sum_k p_k u_k a phi'(w.x_k) x_k alone, by DOP853 at rtol 1e-12: to 1e-9."""
    task, network = problem(WEIGHTS["unequal"]), Network("tanh", Scaling(0.9, mobility_a=0.0, mobility_w=1.7))
    a, x = CLOUD[:, 0], task.inputs

    def rates(_, flat):
        units = np.tanh(flat.reshape(9, 2) @ x.T)
        pull = task.weights * (task.targets - 0.9 * (MASSES * a) @ units)
        return (1.7 / 0.9 * (a[:, None] * (1.0 - units**2) * pull) @ x).ravel()

    wanted = solve_ivp(rates, (0.0, 3.0), CLOUD[:, 1:].ravel(), method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    run = simulate(network, task, CLOUD, [3.0], masses=MASSES, engine=engine, **PRECISE)
    assert np.array_equal(run.particles[-1, :, 0], a)
    assert np.abs(run.particles[-1, :, 1:].ravel() - wanted).max() < 1e-9
    assert np.abs(run.particles[-1, :, 1:] - CLOUD[:, 1:]).max() > 0.1


def test_an_indefinite_kernel_is_refused():
    """An eigenvalue below -1e-10 of the largest: an error with both. Down to there it counts as 0."""
    task, network = problem(), Network("erf")
    good = np.diag([3.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    for size in (1e-3, 2e-10):
        with pytest.raises(ConvergenceError, match=r"eigenvalues from -\d\.\d{3}e-\d\d to 5\.000e-01; needed: none"):
            limits.ntk(network, task, LAW, TIMES, at=LAW, kernel=good - np.diag([0, 0, 0, 0, 0, 3.0 * size]))
    with pytest.raises(ConvergenceError, match="needed: none negative"):
        limits.ntk(network, task, LAW, TIMES, at=LAW, kernel=-good)
    rounded = limits.ntk(network, task, LAW, TIMES, at=LAW, kernel=good - np.diag([0, 0, 0, 0, 0, 3e-11]))
    assert rounded.eigenvalues[0] == 0.0
    assert rounded.residuals[:, 5] == pytest.approx(task.targets[5], rel=1e-8)


ABSOLUTE = Loss("absolute", lambda f, y: np.abs(y - f), lambda f, y: np.sign(y - f))
TASK, NETWORK = problem(), Network("erf")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: limits.ntk(NETWORK, Problem(TASK.inputs, TASK.targets, loss=ABSOLUTE), LAW, TIMES),
            "closed form for the squared loss only; the problem's is 'absolute'",
        ),
        (lambda: limits.ntk(NETWORK, TASK, GaussianLaw(3), TIMES), "inputs have dimension 2; needed: 3"),
        (lambda: limits.ntk(NETWORK, TASK, np.zeros((4, 2)), TIMES), "particles have 2 columns, but inputs of dim"),
        (lambda: limits.ntk(NETWORK, TASK, np.zeros(4), TIMES), r"particles has shape \(4,\)"),
        (lambda: limits.ntk(NETWORK, TASK, np.zeros((4, 3)), TIMES, masses=[1.0]), "masses has 1 entries; needed: 4"),
        (lambda: limits.ntk(NETWORK, TASK, LAW, [1.0, 0.5]), "times go from 1 to 0.5 at index 1"),
        (lambda: limits.ntk(NETWORK, TASK, LAW, [-1.0]), "times start at -1"),
        (
            lambda: limits.ntk(NETWORK, TASK, LAW, TIMES, at=LAW, kernel=np.eye(5)),
            r"has shape \(5, 5\); needed: \(6, 6",
        ),
        (lambda: limits.ntk(NETWORK, TASK, LAW, TIMES, at=LAW, kernel=np.full((6, 6), np.nan)), "kernel holds nan"),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()
