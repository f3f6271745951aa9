"""The frozen-kernel flow for any loss and kernel: against stiff integrators, roots, exponentials and simulations."""

import warnings

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.special import lambertw

from meanfield import GaussianLaw, Network, Problem, Scaling, initial, limits, simulate, tangent
from meanfield.errors import ConvergenceError, InputError, StepLimitError
from meanfield.losses import LOSSES, Loss, soft_hinge

SMOOTH = [each for each in LOSSES.values() if each.smooth and each.name != "squared"]
UNSAID = Loss("unsaid", LOSSES["hinge"].value, LOSSES["hinge"].pull, labels=True)  # does not say that its pull jumps
HUBER = Loss("huber", lambda f, y: np.hypot(1.0, y - f) - 1.0, lambda f, y: (y - f) / np.hypot(1.0, y - f))
COPIED = Loss("copied", LOSSES["squared"].value, LOSSES["squared"].pull)
LAW, TIMES = GaussianLaw(2, sigma_a=1.3, sigma_w=0.8), np.array([0.0, 0.5, 5.0, 100.0])
CLOUD, OTHER = initial.gaussian(30, 2, seed=1), initial.gaussian(30, 2, seed=2)
MASSES = np.random.default_rng(2).dirichlet(np.full(30, 2.0))
WEIGHTS = [1.0, 2.0, 0.5, 3.0, 0.1, 0.0, 1.0, 1.0]


@pytest.fixture(autouse=True)
def no_warning_leaks():
    """What is wrong must be an error; no call in this file may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def problem(loss="squared", weights=None) -> Problem:
    """Eight training and four test inputs in the plane, labels +-1."""
    rng = np.random.default_rng(5)
    inputs, tests = rng.standard_normal((8, 2)), rng.standard_normal((4, 2))
    labels, test_labels = (np.sign(rng.standard_normal(size)) for size in (8, 4))
    return Problem(inputs, labels, weights, loss=loss, test_inputs=tests, test_targets=test_labels)


def by_integrator(task, train, cross, start, test_start, times):
    """F at training and test inputs from dF/dt = (K, C) P u(F), by LSODA at rtol 1e-12."""
    n, joint = len(start), np.concatenate((train, cross)) * task.weights

    def rates(_, state):
        return joint @ task.loss.pull(state[:n], task.targets)

    given = np.r_[start, test_start]
    solved = solve_ivp(rates, (0.0, times[-1]), given, method="LSODA", rtol=1e-12, atol=1e-13, t_eval=times)
    return solved.y.T[:, :n], solved.y.T[:, n:]


def difference(solved, exact):
    return max(np.abs(a - b).max() for a, b in zip((solved.predictions, solved.test_predictions), exact, strict=True))


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["uniform", "one-zero"])
@pytest.mark.parametrize("loss", [*SMOOTH, soft_hinge(5.0), HUBER], ids=lambda each: each.name)
def test_any_loss_against_a_stiff_integrator(loss, weights):
    """A law's kernel, and a cloud's from its own f_0: F to t = 100 within 1e-7 of LSODA, tests too.

    rtol = 1e-8 of each mode's part. Half of the pull, the square loss, and forgotten weights are seen.
    """
    network, task = Network("relu", Scaling(alpha=2.0)), problem(loss, weights)
    zero = np.zeros(8), np.zeros(4)
    moved = [alpha_f(network, CLOUD, points) for points in (task.inputs, task.test_inputs)]
    for start, (at_start, at_tests), masses in ((LAW, zero, None), (CLOUD, moved, MASSES)):
        train, cross = kernels_of(network, task, start, masses)
        exact = by_integrator(task, train, cross, at_start, at_tests, TIMES)
        solved = limits.frozen(network, task, start, TIMES, masses=masses)
        assert difference(solved, exact) < 1e-7
        halved = limits.frozen(network, task, start, TIMES, masses=masses, kernel=0.5 * train, test_kernel=0.5 * cross)
        assert difference(halved, exact) > 1e-2
    squared = limits.frozen(network, problem("squared", weights), CLOUD, TIMES, masses=MASSES)
    assert difference(squared, exact) > 1e-2
    if weights is not None:
        assert difference(limits.frozen(network, problem(loss), CLOUD, TIMES, masses=MASSES), exact) > 1e-3


def alpha_f(network, cloud, inputs):
    """f = alpha sum_i m_i a_i phi(w_i . x), by hand."""
    return network.scaling.alpha * (MASSES * cloud[:, 0]) @ network.activation.formula(cloud[:, 1:] @ inputs.T)[0]


def kernels_of(network, task, start, masses=None):
    if isinstance(start, GaussianLaw):
        return [tangent.infinite(network, start, each, task.inputs) for each in (task.inputs, task.test_inputs)]
    return [tangent.kernel(network, start, each, task.inputs, masses) for each in (task.inputs, task.test_inputs)]


def test_one_point_by_lambert():
    """Logistic loss at one point, K = k: F + e^F = 1 + k t, F = 1 + k t - W(e^(1 + k t)): to 1e-8; another k is not."""
    task = Problem([[1.0, 0.0]], [1.0], loss="logistic")
    rate = tangent.infinite(Network("erf"), LAW, task.inputs)[0, 0]
    solved = limits.frozen(Network("erf"), task, LAW, TIMES)
    for factor, agrees in ((1.0, True), (1.01, False)):
        exact = 1.0 + factor * rate * TIMES - lambertw(np.exp(1.0 + factor * rate * TIMES)).real
        assert bool(np.abs(solved.predictions[:, 0] - exact).max() < 1e-8) is agrees


def test_the_integrator_agrees_with_the_closed_form():
    """The half-square loss under another name is integrated: 1e-7 of the closed form; at rtol 1e-3 it is not."""
    network = Network("tanh", Scaling(alpha=2.0))
    closed = limits.frozen(network, problem(), CLOUD, TIMES)
    exact = closed.predictions, closed.test_predictions
    assert difference(limits.frozen(network, problem(COPIED), CLOUD, TIMES), exact) < 1e-7
    assert difference(limits.frozen(network, problem(COPIED), CLOUD, TIMES, rtol=1e-3, atol=1e-3), exact) > 1e-7


@pytest.mark.parametrize("at", [1, -1], ids=["during", "end"])
def test_the_kernel_of_any_time_of_a_run(at):
    """F20: the kernel of `run.particles[k]`, from F_0 of the start: the exponential with that kernel, to 1e-11."""
    network, task = Network("tanh", Scaling(alpha=0.3)), problem(weights=WEIGHTS)
    run = simulate(network, task, CLOUD, [0.0, 1.0, 10.0], masses=MASSES, engine="reference")
    train, cross = kernels_of(network, task, run.particles[at], MASSES)
    start, tests = (alpha_f(network, CLOUD, points) for points in (task.inputs, task.test_inputs))
    generator = np.zeros((12, 12))
    generator[:8, :8], generator[8:, :8] = -train * task.weights, -cross * task.weights
    moved = np.array([expm(generator * t) @ np.r_[task.targets - start, task.test_targets - tests] for t in TIMES])
    exact = task.targets - moved[:, :8], task.test_targets - moved[:, 8:]
    solved = limits.frozen(network, task, CLOUD, TIMES, at=run.particles[at], masses=MASSES)
    assert difference(solved, exact) < 1e-11
    assert difference(limits.frozen(network, task, CLOUD, TIMES, masses=MASSES), exact) > 1e-2, "the start's is seen"


@pytest.mark.parametrize("loss", ["squared", "logistic", HUBER], ids=["squared", "logistic", "huber"])
def test_one_moving_layer_is_its_own_frozen_flow(loss):
    """Where only the a_i move the flow is linear in them: a simulation is the flow with layer="output", to 1e-7."""
    task, network = problem(loss), Network("tanh", Scaling(alpha=1.5, mobility_w=0.0))
    run = simulate(network, task, CLOUD, TIMES, masses=MASSES, rtol=1e-10, atol=1e-12, engine="reference")
    exact = run.predictions, run.test_predictions
    both = Network("tanh", Scaling(alpha=1.5))
    solved = limits.frozen(both, task, CLOUD, TIMES, masses=MASSES, layer="output", rtol=1e-9, atol=1e-11)
    assert difference(solved, exact) < 1e-7
    assert difference(limits.frozen(both, task, CLOUD, TIMES, masses=MASSES), exact) > 1e-2


def test_lazy_networks_approach_the_frozen_flow():
    """Logistic loss, f - f_0, alpha = 100 and 1000: sup_t |F - F_frozen| falls like 1/alpha, by 8 to 12.5."""
    errors = []
    for alpha in (100.0, 1000.0):
        network = Network("erf", Scaling(alpha=alpha, shift="initial"))
        run = simulate(network, problem("logistic"), CLOUD, TIMES[:3], rtol=1e-9, atol=1e-11, engine="reference")
        solved = limits.frozen(network, problem("logistic"), CLOUD, TIMES[:3])
        errors.append(np.abs(solved.predictions - run.predictions).max())
    assert 8.0 < errors[0] / errors[1] < 12.5
    wrong = limits.frozen(network, problem("logistic"), CLOUD, TIMES[:3], at=OTHER)
    assert np.abs(wrong.predictions - run.predictions).max() > 10.0 * errors[1], "another cloud's kernel"


def krylov_pair(weights, shift=None, n=200, other=None):
    rng = np.random.default_rng(5)
    task = Problem(
        rng.standard_normal((n, 4)), rng.standard_normal(n), weights, test_inputs=rng.standard_normal((30, 4)),
        test_targets=rng.standard_normal(30),
    )  # fmt: skip
    network, cloud = Network("erf", Scaling(alpha=2.0, shift=shift), bias=0.5), initial.gaussian(150, 5, seed=1)
    options = {"masses": np.random.default_rng(2).random(150)}
    for start, more in ((cloud, options), (GaussianLaw(5), {})):
        dense = limits.frozen(network, task, start, TIMES, **more)
        lazy = limits.frozen(
            network, task, start, TIMES, method="krylov", **({**more, "masses": other} if other else more)
        )
        size = np.abs(dense.predictions).max()
        yield difference(lazy, (dense.predictions, dense.test_predictions)) / size, lazy


@pytest.mark.parametrize("shift", [None, "initial"])
@pytest.mark.parametrize("weights", [None, np.random.default_rng(0).random(200)], ids=["uniform", "unequal"])
def test_krylov_agrees_with_dense(weights, shift):
    """Without forming K, of a cloud and of a law, training and test inputs: to 1e-9 of the largest prediction."""
    for error, lazy in krylov_pair(weights, shift):
        assert error < 1e-9
        assert lazy.kernel.shape == (0, 0) and len(lazy.eigenvalues) <= 200


def test_krylov_with_other_masses_is_caught():
    error, _ = next(krylov_pair(None, other=[1.0] * 150))
    assert error > 1e-3


def test_a_pull_that_jumps_is_said():
    """The hinge loss slides along its kink, where no step is small enough: an error with what to do, no number.

    Refused at the door; a loss that does not say so spends its evaluations or, with loose tolerances, rises along what
    the integrator found, which no flow does. Its smooth neighbour falls.
    """
    with pytest.raises(InputError, match=r"the pull of the loss 'hinge' jumps.*losses.soft_hinge"):
        limits.frozen(Network("relu"), problem("hinge"), LAW, [1000.0])
    with pytest.raises(StepLimitError, match=r"2000 evaluations were spent on the loss 'unsaid' .*losses.soft_hinge"):
        limits.frozen(Network("relu"), problem(UNSAID), LAW, [1000.0], max_evaluations=2000)
    rising = Loss("rising", HUBER.value, lambda f, y: -HUBER.pull(f, y))
    with pytest.raises(ConvergenceError, match=r"the loss 'rising' rose from .* at t = 0 .*which no flow does"):
        limits.frozen(Network("relu"), problem(rising), LAW, [1.0])
    limits.frozen(Network("relu"), problem(soft_hinge(20.0)), LAW, [1.0, 1000.0], rtol=1e-4)


def test_one_kernel_alone_is_refused():
    """Of a problem with a test set, unless `at` says what the other is of, or there is none; to 1e-12 as without.

    With the kernel of the start in the other's place, which was taken before, the tests differ.
    """
    task, network = problem(), Network("tanh")
    train, cross = kernels_of(network, task, OTHER)
    for solve in (limits.frozen, limits.ntk):
        with pytest.raises(InputError, match=r"kernel is given and test_kernel is not, .* or at="):
            solve(network, task, CLOUD, TIMES, kernel=train)
        with pytest.raises(InputError, match=r"test_kernel is given and kernel is not, .* or at="):
            solve(network, task, CLOUD, TIMES, test_kernel=cross)
        whole, *others = (
            solve(network, task, CLOUD, TIMES, **given)
            for given in (
                {"at": OTHER}, {"kernel": train, "test_kernel": cross}, {"kernel": train, "at": OTHER},
                {"test_kernel": cross, "at": OTHER},
            )
        )  # fmt: skip
        for each in others:
            assert difference(each, (whole.predictions, whole.test_predictions)) < 1e-12
        mixed = solve(network, task, CLOUD, TIMES, kernel=train, at=CLOUD)
        assert np.abs(mixed.test_predictions - whole.test_predictions).max() > 1e-2
        solve(network, Problem(task.inputs, task.targets), CLOUD, TIMES, kernel=train)


TASK, NETWORK = problem(), Network("erf")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: limits.frozen(NETWORK, TASK, LAW, TIMES, method="lanczos"),
            "method is 'lanczos'; needed: one of dense",
        ),
        (
            lambda: limits.frozen(NETWORK, problem("logistic"), LAW, TIMES, method="krylov"),
            "'krylov' with the loss 'logistic'; needed: the loss 'squared' and no kernel",
        ),
        (
            lambda: limits.frozen(NETWORK, TASK, LAW, TIMES, method="krylov", kernel=np.eye(8)),
            "method 'krylov' with a kernel; needed: the loss",
        ),
        (lambda: limits.frozen(NETWORK, TASK, LAW, TIMES, layer="all"), "unknown layer 'all'"),
        (lambda: limits.frozen(NETWORK, TASK, LAW, TIMES, at=LAW, test_kernel=np.eye(8)), r"kernel has shape \(8, 8\)"),
        (lambda: limits.frozen(NETWORK, TASK, LAW, TIMES, at=np.zeros((3, 2))), "particles have 2 columns"),
        (
            lambda: limits.frozen(NETWORK, TASK, LAW, TIMES, max_bytes=1000),
            r"frozen-kernel flow of 8 inputs needs .*kernel 512 B.*more than 1000 B, max_bytes. Use fewer inputs",
        ),
        (
            lambda: limits.frozen(NETWORK, Problem(np.zeros((400_000, 2)), np.zeros(400_000)), LAW, TIMES),
            r"flow of 400000 inputs needs .* GiB \(kernel 1,192.1 GiB.* 80% of the free memory",
        ),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()
