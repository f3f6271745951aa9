"""Exact limits: linear networks, whose second moments close, and the bilinear neuron, which has a closed form.

**Linear networks.** For phi(z) = z and the square loss a particle theta = (a, w) moves by a matrix that knows the law
mu of the particles through its second moments S = int theta theta^T dmu alone:

    theta' = B theta,   B = (1/alpha) [[0, xi_a g^T], [xi_w g, 0]] - lambda xi I,   g = sum_k p_k u_k x_k,
    S' = B S + S B^T + 2 tau I,   f(x) = alpha S_aw . x

with a ridge lambda and noise of temperature tau. At tau = 0 this holds for a finite cloud as for a law; at tau > 0 for
the law, N = infinity. For data of any distribution, and any d.

**The bilinear neuron** s(x; a, w) = a w x at x = +-1, y = beta x. From mu_0 = N(0, I_2) the particles move by
theta_t = exp(s J) theta_0, J = [[0, 1], [1, 0]], with

    s' = (beta - alpha sinh 2s) / alpha,   f = alpha sinh(2s) x,   K = 2 cosh(2s) x x',
    mu_t = N(0, [[cosh 2s, sinh 2s], [sinh 2s, cosh 2s]]),   W2(mu_t, mu_0)^2 = (e^s - 1)^2 + (e^-s - 1)^2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from .. import _checks
from ..activations import ACTIVATIONS
from ..errors import ConvergenceError, InputError
from ..fields import check_temperature, ridge_rate
from ..initial import GaussianLaw
from ..network import Network
from ..population import Population, check_units
from ..problems import Problem
from .mean_field import MeanFieldLimit, check_law

_MOST_EVALUATIONS = 300_000  # some ten seconds


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """S = int theta theta^T dmu of a law of particles (a, w).

    matrix : (1 + d, 1 + d), symmetric and positive semidefinite
    """

    matrix: np.ndarray

    def __post_init__(self):
        matrix = _checks.array(self.matrix, "second moments", 2, "an array (1 + d, 1 + d)")
        size = np.abs(matrix).max()
        if matrix.shape[0] != matrix.shape[1] or np.abs(matrix - matrix.T).max() > 1e-12 * size:
            raise InputError(f"second moments of shape {matrix.shape}; needed: a symmetric array (1 + d, 1 + d).")
        if (low := np.linalg.eigvalsh(matrix)[0]) < -1e-12 * size:
            raise InputError(f"second moments have the eigenvalue {low:.3g}; needed: none below 0.")
        object.__setattr__(self, "matrix", (matrix + matrix.T) / 2.0)


def moments(
    network: Network,
    problem: Problem,
    start: GaussianLaw | np.ndarray | SecondMoments,
    times: Sequence[float] | np.ndarray,
    *,
    masses: np.ndarray | None = None,
    temperature: float = 0.0,
    ridge: float = 0.0,
) -> np.ndarray:
    """Second moments int theta theta^T dmu_t of a linear network, (T, 1 + d, 1 + d).

    Arguments and errors as for `linear`. mu_t is N(0, S_t) where mu_0 is Gaussian and centred.
    """
    at_start = _at_start(network, problem, start, masses)
    return _solve(network, problem, at_start, times, temperature, ridge)[:, 0]


def linear(
    network: Network,
    problem: Problem,
    start: GaussianLaw | np.ndarray | SecondMoments,
    times: Sequence[float] | np.ndarray,
    *,
    masses: np.ndarray | None = None,
    temperature: float = 0.0,
    ridge: float = 0.0,
    tracers: np.ndarray | None = None,
) -> MeanFieldLimit:
    """A linear network followed by its second moments: exact but for an integrator at rtol 1e-12.

        S' = B S + S B^T + 2 tau I,   B = (1/alpha) [[0, xi_a g^T], [xi_w g, 0]] - lambda xi I,   g = sum_k p_k u_k x_k

    Parameters
    ----------
    network : activation "linear"
    problem : the square loss; may be a `Population`
    start : GaussianLaw, particles (N, 1 + d), or SecondMoments
        mu_0, of which the predictor knows the second moments alone.
    times : increasing flow times
    masses : (N,), optional
        Of the particles; default 1/N.
    temperature, ridge : tau, lambda
        As for `simulate`, with the same needs of mobilities. At tau > 0 this is the limit N = infinity.
    tracers : (M, 1 + d), optional
        Particles carried along, theta_t = Phi_t theta_0 with Phi' = B Phi; for tau = 0. A cloud's own particles as
        tracers are its run.

    Raises
    ------
    InputError
        On another activation or loss, on what does not fit, and on tracers at a temperature.
    ConvergenceError
        If the integrator gives up: the moments leave the floats, or are stiff (300,000 evaluations).

    Cost: O(n d^2) once, O(d^2) an evaluation, O(M d^2) for each time with tracers.
    """
    at_start, carrying = _at_start(network, problem, start, masses), tracers is not None
    temperature = check_temperature(network.scaling, temperature)
    if carrying and temperature:
        raise InputError(
            f"tracers at temperature {temperature:g}, where paths are random; needed: no tracers, or `simulate`."
        )
    tracers = network.particles(tracers, problem.dim) if carrying else np.empty((0, len(at_start)))
    solved = _solve(network, problem, at_start, times, temperature, ridge, carrying)
    carried = tracers @ solved[:, -1].transpose(0, 2, 1)
    outputs = network.scaling.alpha * (solved[:, 0, 0, 1:] - network.scaling.offset * at_start[0, 1:])
    predictions, test_predictions = (
        outputs @ network.inputs(inputs).T for inputs in (problem.inputs, problem.test_inputs)
    )
    return MeanFieldLimit(
        network, problem, _checks.times(times), predictions, test_predictions, carried, np.zeros(len(solved)),
        "closed moments", 0,
    )  # fmt: skip


def _solve(network, problem, at_start, times, temperature, ridge, carrying=False):
    """S at the times, and below it Phi where it is wanted: (T, 1 or 2, 1 + d, 1 + d)."""
    times = _checks.times(times)
    scaling, width = network.scaling, len(at_start)
    noise = 2.0 * check_temperature(scaling, temperature) * np.eye(width)
    decay = ridge_rate(scaling, ridge)
    covariance, wanted = _of_the_data(network, problem)
    wanted = wanted + scaling.offset * scaling.alpha * covariance @ at_start[0, 1:]  # the target is y + s f_0

    evaluations = 0

    def rates(t, flat):
        nonlocal evaluations
        evaluations += 1
        if evaluations > _MOST_EVALUATIONS:
            raise ConvergenceError(
                f"the moments took {_MOST_EVALUATIONS:,} evaluations to t = {t:.3g} of {times[-1]:g}: rates of up to "
                f"{np.abs(covariance).max() * np.abs(flat).max():.1e} are stiff. Use a smaller temperature, shorter "
                "times, or a ridge."
            )
        state = flat.reshape(-1, width, width)
        pull = (wanted - scaling.alpha * covariance @ state[0, 0, 1:]) / scaling.alpha
        moved = _driven(pull, scaling, state) - decay * state
        moved[0] += moved[0].T + noise
        return moved.ravel()

    state = np.array([at_start, np.eye(width)] if carrying else [at_start])
    found, now = [], 0.0
    with np.errstate(all="ignore"):  # moments that leave the floats end the integration
        for time in times:
            if time > now:  # steps land on the times: between its steps the scheme is of lower order
                atol = 1e-14 * (np.abs(at_start).max() or 1.0)
                solved = solve_ivp(rates, (now, time), state.ravel(), method="DOP853", rtol=1e-12, atol=atol)
                if not solved.success:
                    raise ConvergenceError(
                        f"the moments could be integrated to t = {solved.t[-1]:g} only ({solved.message.rstrip('.')}); "
                        f"needed: t = {times[-1]:g}. They were up to {np.abs(at_start).max():.1e} at t = 0: use "
                        "particles, inputs and targets of moderate size."
                    )
                state, now = solved.y[:, -1].reshape(state.shape), float(time)
            found.append(state)
    return np.array(found)


def _driven(pull, scaling, state):
    """B times matrices (k, 1 + d, 1 + d), without the ridge; pull = g / alpha."""
    moved = np.empty_like(state)
    moved[:, 0] = scaling.mobility_a * (pull @ state[:, 1:])
    moved[:, 1:] = scaling.mobility_w * pull[:, None] * state[:, :1]
    return moved


def _at_start(network, problem, start, masses):
    """S of mu_0, and the checks of what this module is handed."""
    _checks.instance(network, Network, "network", "a Network('linear')")
    _checks.instance(problem, Problem, "problem", "a Problem, e.g. from `problems`")
    if network.activation != ACTIVATIONS["linear"] or problem.loss.name != "squared":
        raise InputError(
            f"closed moments of activation {network.activation.name!r} with loss {problem.loss.name!r}; needed: "
            "'linear' with 'squared'. Use limits.mean_field otherwise."
        )
    if masses is not None and isinstance(start, GaussianLaw | SecondMoments):
        raise InputError(f"masses with {type(start).__name__}; needed: particles that they belong to.")
    if isinstance(start, GaussianLaw):
        check_law(network, problem, start)
        return np.diag(np.r_[start.second_moment_a, start.scales[1:] ** 2])
    if isinstance(start, SecondMoments):
        width = 1 + network.seen(problem.dim)
        if len(start.matrix) != width:
            raise InputError(f"second moments of shape {start.matrix.shape}; needed: {(width, width)}.")
        return start.matrix
    particles = network.particles(start, problem.dim)
    return (_checks.masses(masses, len(particles), "masses")[:, None] * particles).T @ particles


def _of_the_data(network, problem):
    """sum_k p_k x_k x_k^T and sum_k p_k y_k x_k, x as the units see it; of a Population in closed form."""
    if isinstance(problem, Population):
        check_units(network, problem)
        return np.eye(problem.dim), problem.teacher[:, 0] @ problem.teacher[:, 1:]
    seen = network.inputs(problem.inputs)
    weighted = problem.weights[:, None] * seen
    return weighted.T @ seen, problem.targets @ weighted


def bilinear_angle(times, alpha: float = 1.0, beta: float = 1.0) -> np.ndarray:
    """s(t) in closed form: v = e^(2s) solves the Riccati equation v' = -(v - v_+)(v - v_-) from v = 1.

    v_+- = b +- sqrt(b^2 + 1), b = beta / alpha. Relative error about 1e-15.
    """
    alpha, beta = _checks.number(alpha, "alpha", above=0.0), _checks.number(beta, "beta")
    times = np.atleast_1d(_checks.array(np.atleast_1d(times), "times", 1, "flow times of at least 0")).reshape(
        np.shape(times)
    )
    if (times < 0).any():
        raise InputError(f"times go down to {times.min():g}; needed: flow times of at least 0.")
    b = abs(beta) / alpha  # s is odd in beta
    root = np.hypot(b, 1.0)
    low = -1.0 / (b + root)
    # v = 1 + (high - 1)(1 - low)(1 - E) / ((1 - low) + (high - 1) E), E = e^(-2 root t), where
    # (high - 1)(1 - low) = 2 b without cancellation.
    above = 2.0 * b / (1.0 - low)
    decay = np.exp(-2.0 * root * times)
    grown = -np.expm1(-2.0 * root * times)
    return np.copysign(0.5 * np.log1p(2.0 * b * grown / ((1.0 - low) + above * decay)), beta)


def bilinear(
    network: Network,
    problem: Problem,
    times: Sequence[float] | np.ndarray,
    *,
    temperature: float = 0.0,
    ridge: float = 0.0,
    tracers: np.ndarray | None = None,
) -> MeanFieldLimit:
    """The limit of `problems.bilinear` with the linear activation, from mu_0 = N(0, I_2), in closed form.

    With a temperature or a ridge by its second moments: `linear`.

    Parameters
    ----------
    network : activation "linear", mobilities 1
    problem : from `problems.bilinear(beta)`
    times : increasing flow times
    temperature, ridge : tau, lambda
        As for `simulate`.
    tracers : (M, 2), optional
        Particles carried along by the exact flow; for tau = 0.

    Raises
    ------
    InputError
        For any other problem or activation: use `limits.mean_field`.
    """
    times = _checks.times(times)
    _checks.instance(network, Network, "network", "a Network('linear')")
    _checks.instance(problem, Problem, "problem", "problems.bilinear()")
    scaling = network.scaling
    plain = (scaling.mobility_a, scaling.mobility_w, scaling.input_scale, network.bias) == (1.0, 1.0, 1.0, 0.0)
    beta = float(problem.weights @ (problem.targets * problem.inputs[:, 0]))
    fits = problem.dim == 1 and (np.abs(problem.inputs) == 1.0).all() and problem.loss.name == "squared"
    if not (
        fits
        and plain
        and network.activation == ACTIVATIONS["linear"]
        and np.array_equal(problem.targets, beta * problem.inputs[:, 0])
    ):
        raise InputError(
            f"the exact limit got {problem!r} and activation {network.activation.name!r}; needed: problems.bilinear() "
            "(x = +-1, y = beta x, squared loss), activation 'linear', mobilities and input scale 1, no bias. "
            "Use limits.mean_field otherwise."
        )
    if temperature or ridge:
        return linear(network, problem, GaussianLaw(1), times, temperature=temperature, ridge=ridge, tracers=tracers)
    s = bilinear_angle(times, scaling.alpha, beta)
    output = scaling.alpha * np.sinh(2.0 * s)[:, None]
    tracers = np.empty((0, 2)) if tracers is None else _checks.particles(tracers, 1)
    turn, lift = np.cosh(s)[:, None, None], np.sinh(s)[:, None, None]
    return MeanFieldLimit(
        network, problem, times, output * problem.inputs[:, 0], output * problem.test_inputs[:, 0],
        turn * tracers + lift * tracers[:, ::-1], np.zeros(len(times)), "closed form", 0,
    )  # fmt: skip
