"""Stopping criteria, as data: what a run is looked at for after every accepted step. A new one is three lines.

`simulate(..., stop=[stopping.margin(1.0), stopping.risk(1e-4)])` ends at the first step at which one of them holds; the
run's last time is that step's, and `Run.stopped_by` says which. Without one, or where none was met: "time".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from . import _checks
from ._origins import family
from .errors import InputError
from .problems import Problem


class Look:
    """A state as a criterion sees it; each number is computed when it is first asked for.

    problem, time : the run's
    predictions : (n,)
        The predictor at the training inputs.
    risk, loss : float
        Of the training data; of a `Population` in closed form.
    speed : float
        sqrt(sum_i m_i |v_i|^2), v the gradient flow's velocity, along which dR/dt = -2 alpha^2 speed^2 (square loss).
    """

    def __init__(self, moving: Any, state: tuple, time: float):
        self._moving, self._state, self.time = moving, state, time

    @property
    def problem(self) -> Problem:
        return self._moving.problem

    @cached_property
    def predictions(self) -> np.ndarray:
        return self._moving.predict(self._state)

    @cached_property
    def risk(self) -> float:
        return self._moving.risk(self._state, self.predictions)

    @cached_property
    def loss(self) -> float:
        return self._moving.loss(self._state, self.predictions)

    @cached_property
    def speed(self) -> float:
        return self._moving.speed(self._state)


@dataclass(frozen=True)
class Criterion:
    """name : what `Run.stopped_by` says; holds : Look -> bool"""

    name: str
    holds: Callable[[Look], bool]

    def __post_init__(self):
        if not callable(self.holds):
            raise InputError(f"criterion {self.name!r} holds {self.holds!r}; needed: a function of a Look.")

    def __repr__(self) -> str:
        return f"Criterion({self.name!r})"


@family
def margin(least: float = 1.0) -> Criterion:
    """y F(x) >= least at every training input, y = +-1: Geiger et al. (arXiv 1906.08034), section 2, with 1."""
    least = _checks.number(least, "least")

    def holds(look):
        targets = look.problem.targets
        if not (np.abs(targets) == 1.0).all():
            wrong = targets[np.abs(targets) != 1.0][0]
            raise InputError(f"stopping.margin with a target of {wrong:g}; needed: labels, +1 or -1.")
        return bool((targets * look.predictions >= least).all())

    return Criterion(f"margin {least:g}", holds)


@family
def risk(below: float) -> Criterion:
    """sum_k p_k (y_k - F(x_k))^2 < below; of a `Population`, its risk in closed form."""
    below = _checks.number(below, "below", above=0.0)
    return Criterion(f"risk below {below:g}", lambda look: look.risk < below)


@family
def loss(below: float) -> Criterion:
    """sum_k p_k l(F(x_k), y_k) < below; of a `Population`, half its risk."""
    below = _checks.number(below, "below", above=0.0)
    return Criterion(f"loss below {below:g}", lambda look: look.loss < below)


@family
def speed(below: float) -> Criterion:
    """sqrt(sum_i m_i |v_i|^2) < below, v the gradient flow's velocity on all the data: the norm of the gradient.

    Costs a velocity at each step.
    """
    below = _checks.number(below, "below", above=0.0)
    return Criterion(f"speed below {below:g}", lambda look: look.speed < below)


CRITERIA = {each.__name__: each for each in (margin, risk, loss, speed)}


def check(criteria: Criterion | Sequence[Criterion]) -> list[Criterion]:
    """A list of criteria, or InputError."""
    found: list[Any] = list(criteria) if isinstance(criteria, list | tuple) else [criteria]
    for each in found:
        if not isinstance(each, Criterion):
            raise InputError(f"stop holds {each!r}; needed: criteria such as stopping.margin(1.0).")
    return found
