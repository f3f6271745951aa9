"""The exactly solvable mean-field limit: the bilinear neuron s(x; a, w) = a w x at x = +-1, y = beta x.

From mu_0 = N(0, I_2) the particles move by theta_t = exp(s J) theta_0, J = [[0, 1], [1, 0]], with

    s' = (beta - alpha sinh 2s) / alpha,   f = alpha sinh(2s) x,   K = 2 cosh(2s) x x',
    mu_t = N(0, [[cosh 2s, sinh 2s], [sinh 2s, cosh 2s]]),   W2(mu_t, mu_0)^2 = (e^s - 1)^2 + (e^-s - 1)^2.
"""

from collections.abc import Sequence

import numpy as np

from .. import _checks
from ..activations import ACTIVATIONS
from ..errors import InputError
from ..network import Network
from ..problems import Problem
from .mean_field import MeanFieldLimit


def bilinear_angle(times, alpha: float = 1.0, beta: float = 1.0) -> np.ndarray:
    """s(t) in closed form: v = e^(2s) solves the Riccati equation v' = -(v - v_+)(v - v_-) from v = 1.

    v_+- = b +- sqrt(b^2 + 1), b = beta / alpha. Relative error about 1e-15.
    """
    alpha, beta = _checks.number(alpha, "alpha", above=0.0), _checks.number(beta, "beta")
    times = np.asarray(times, dtype=np.float64)
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
    network: Network, problem: Problem, times: Sequence[float] | np.ndarray, *, tracers: np.ndarray | None = None
) -> MeanFieldLimit:
    """The limit of `problems.bilinear` with the linear activation, from mu_0 = N(0, I_2), in closed form.

    Parameters
    ----------
    network : activation "linear", mobilities 1
    problem : from `problems.bilinear(beta)`
    times : increasing flow times
    tracers : (M, 2), optional
        Particles carried along by the exact flow.

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
    s = bilinear_angle(times, scaling.alpha, beta)
    output = scaling.alpha * np.sinh(2.0 * s)[:, None]
    tracers = np.empty((0, 2)) if tracers is None else _checks.particles(tracers, 1)
    turn, lift = np.cosh(s)[:, None, None], np.sinh(s)[:, None, None]
    return MeanFieldLimit(
        network, problem, times, output * problem.inputs[:, 0], output * problem.test_inputs[:, 0],
        turn * tracers + lift * tracers[:, ::-1], np.zeros(len(times)), "closed form", 0,
    )  # fmt: skip
