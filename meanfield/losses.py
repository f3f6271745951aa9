"""Losses: value l(f, y) and pull u = -dl/df at every data point. A new one is two lines and an entry.

Both are branch-free arithmetic over `vocabulary`, so that a device computes the pull where its predictions are. The
ones for classification are functions of the margin y f, for labels y = +-1:

    squared (y - f)^2 / 2;   hinge max(0, 1 - y f);   logistic log(1 + e^(-y f));   soft-hinge as `soft_hinge` says
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _checks
from ._origins import family
from .vocabulary import absolute, exp, log1p, maximum, where


@dataclass(frozen=True)
class Loss:
    """A loss l(f, y), elementwise on arrays.

    value : (f, y) -> l
    pull : (f, y) -> u = -dl/df, what drives the particles (docs/notation).
    labels : whether targets are labels, +-1
    smooth : whether the pull is continuous in f; integrators with an error estimate need that
    """

    name: str
    value: Callable[[Any, Any], Any]
    pull: Callable[[Any, Any], Any]
    labels: bool = False
    smooth: bool = True

    def __repr__(self) -> str:
        return f"Loss({self.name!r})"


@family
def soft_hinge(beta: float = 20.0, margin: float = 1.0) -> Loss:
    """l = log(1 + e^(beta (margin - y f))) / beta, which becomes the hinge loss as beta -> infinity.

    Geiger, Spigler, Jacot & Wyart (arXiv 1906.08034), section 2, with beta = 20 and margin 1. u = y / (1 + e^-x),
    x = beta (margin - y f). Raises InputError unless beta > 0.
    """
    beta, margin = _checks.number(beta, "beta", above=0.0), _checks.number(margin, "margin")

    def value(f, y):
        x = beta * (margin - y * f)
        return (maximum(x, 0.0) + log1p(exp(-absolute(x)))) / beta

    def pull(f, y):
        x = beta * (margin - y * f)
        small = exp(-absolute(x))  # never above 1: nothing overflows
        return y * where(x > 0.0, 1.0, small) / (1.0 + small)

    return Loss(
        f"soft-hinge {beta:g}" if margin == 1.0 else f"soft-hinge {beta:g}, margin {margin:g}", value, pull, labels=True
    )


def _squared_value(f, y):
    return 0.5 * (y - f) ** 2


def _squared_pull(f, y):
    return y - f


def _hinge_value(f, y):
    return maximum(1.0 - y * f, 0.0)


def _hinge_pull(f, y):
    return y * where(y * f < 1.0, 1.0, 0.0)


_SOFT, _LOGISTIC = soft_hinge(), soft_hinge(1.0, 0.0)

squared = Loss("squared", _squared_value, _squared_pull)
hinge = Loss("hinge", _hinge_value, _hinge_pull, labels=True, smooth=False)
logistic = Loss("logistic", _LOGISTIC.value, _LOGISTIC.pull, labels=True)

LOSSES = {
    each.name: each for each in (squared, hinge, Loss("soft-hinge", _SOFT.value, _SOFT.pull, labels=True), logistic)
}
FAMILIES = {soft_hinge.__name__: soft_hinge}  # with parameters of their own
