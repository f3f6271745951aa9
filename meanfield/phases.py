"""Signal at initialisation in deep networks: the variance q that layers preserve, and chi, which parts the phases.

    q = sigma_w^2 E phi(sqrt(q) g)^2 + sigma_b^2,   chi = sigma_w^2 E phi'(sqrt(q) g)^2,   g ~ N(0, 1)

Poole, Lahiri, Raghu, Sohl-Dickstein & Ganguli (arXiv 1606.05340). In Seleznova & Kutyniok (MSML 2021) the phases in
which the NTK of a deep network is deterministic or not: chi < 1 ordered, chi > 1 chaotic. Two layers have no phases.
"""

import math
from collections.abc import Callable

from scipy.integrate import quad

from . import _checks
from .activations import ACTIVATIONS, Activation
from .errors import ConvergenceError, InputError

_MOST_LAYERS = 10_000


def chi(activation: str | Activation, sigma_w: float, sigma_b: float = 0.0, q: float | None = None) -> float:
    """sigma_w^2 E phi'(sqrt(q) g)^2: what a layer makes of a small distance between two signals, squared.

    Parameters
    ----------
    activation : name in `activations.ACTIVATIONS` or an Activation
        Kinks at 0 are no trouble; elsewhere they cost accuracy.
    sigma_w, sigma_b : float
        Standard deviations of weights (times the root of the width) and biases.
    q : float, optional
        Variance of the preactivations; default `fixed_point`.

    Raises
    ------
    InputError
        On an unknown activation, or numbers out of range.
    ConvergenceError
        Where the fixed point is not reached, or the quadrature misses 1e-8 relative.
    """
    activation, sigma_w, sigma_b = _checked(activation, sigma_w, sigma_b)
    q = fixed_point(activation, sigma_w, sigma_b) if q is None else _checks.number(q, "q", least=0.0)
    return sigma_w**2 * _mean_square(lambda z: activation.formula(z)[1], q)


def fixed_point(activation: str | Activation, sigma_w: float, sigma_b: float = 0.0) -> float:
    """The variance of preactivations that a layer preserves, reached from 1 layer by layer; relative 1e-10.

    Raises ConvergenceError where it grows without bound, or the layers needed are more than 10,000 (slow near a
    critical point, where the approach is a power law). Arguments as for `chi`.
    """
    activation, sigma_w, sigma_b = _checked(activation, sigma_w, sigma_b)
    q = 1.0
    for _ in range(_MOST_LAYERS):
        after = sigma_w**2 * _mean_square(lambda z: activation.formula(z)[0], q) + sigma_b**2
        if not after < 1e8:
            break
        if after < 1e-30:  # the signal dies: on to where squares leave the floats
            return 0.0
        if abs(after - q) <= 1e-11 * q:
            return after
        q = after
    raise ConvergenceError(
        f"the variance of {activation.name!r} with sigma_w = {sigma_w:g}, sigma_b = {sigma_b:g} is {q:g} after as many "
        f"layers as were tried; needed: a fixed point. Give q, or other sigmas."
    )


def _checked(activation, sigma_w, sigma_b):
    activation = _checks.find(ACTIVATIONS, activation, "activation")
    if not isinstance(activation, Activation):
        raise InputError(f"activation is {activation!r}; needed: one of {', '.join(ACTIVATIONS)} or an Activation.")
    return activation, _checks.number(sigma_w, "sigma_w", above=0.0), _checks.number(sigma_b, "sigma_b", least=0.0)


def _mean_square(function: Callable[[float], float], q: float) -> float:
    """E function(sqrt(q) g)^2, g ~ N(0, 1), each half line by itself."""
    root, total, error = math.sqrt(q), 0.0, 0.0
    for low, high in ((-12.0, 0.0), (0.0, 12.0)):
        value, missed, *_ = quad(
            lambda g: float(function(root * g)) ** 2 * math.exp(-0.5 * g * g) / math.sqrt(2.0 * math.pi),
            low, high, epsabs=0.0, epsrel=1e-11, limit=200, full_output=1,
        )  # fmt: skip
        total, error = total + value, error + missed
    if error > 1e-8 * total:
        raise ConvergenceError(
            f"a mean over N(0, {q:g}) is known to {error:.1e} of {total:.3g}; needed: 1e-8 relative."
        )
    return total
