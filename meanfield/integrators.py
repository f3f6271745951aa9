"""Runge-Kutta schemes: tableaus as data, one step, and the two ways to choose its size.

A flow is a function (state, out) -> velocity on tuples of arrays, which may write into the arrays of `out` unless that
is None; `algebra` holds, for each entry, who does its linear algebra (an engine, or `engines.host` for NumPy arrays).
States handed in or out are never written to again; what a flow returned is, for the arrays in between go round
(`spare`), so that only the first two steps allocate, and one state each requested time. A new scheme is an entry in
`TABLEAUS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from . import _checks
from .errors import InputError


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta scheme for an autonomous flow.

    stages : row i weighs the velocities 0 .. i-1 for the argument of velocity i; row 0 is empty.
    weights : of the step.
    embedded : weights of a scheme of order - 1 whose difference estimates the error; None: fixed steps only.
    """

    name: str
    order: int
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    embedded: tuple[float, ...] | None = None

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last velocity is taken at the end of the step, so that the next step starts with it."""
        return self.stages[-1] == self.weights[:-1] and self.weights[-1] == 0.0

    def __repr__(self) -> str:
        kind = "adaptive" if self.embedded else "fixed step"
        return f"Tableau({self.name!r}, order {self.order}, {len(self.stages)} stages, {kind})"


def step(tableau: Tableau, velocity: Callable, algebra: tuple, state: tuple, h: float, first=None, spare=None):
    """One step of size h: (new state, the velocities of its stages).

    `first` is the velocity at `state` where it is known already; `spare` a list of tuples of arrays to write into.
    """
    spare = [] if spare is None else spare
    stages = [velocity(state, _take(spare)) if first is None else first]
    new = None
    for row in tableau.stages[1:]:
        new = _combine(algebra, state, h, row, stages, new or _take(spare))
        stages.append(velocity(new, _take(spare)))
    if new is None or not tableau.first_same_as_last:
        new = _combine(algebra, state, h, tableau.weights, stages, new or _take(spare))
    return new, stages


def _take(spare):
    return spare.pop() if spare else None


def _combine(algebra, state, h, coefficients, stages, out):
    entries = zip(algebra, state, zip(*stages, strict=True), out or (None,) * len(state), strict=True)
    return tuple(space.combine(base, h, coefficients, moves, target) for space, base, moves, target in entries)


class StepLimitReached(Exception):
    """Inner signal: the budget is spent. `simulation` turns it into an error that says where."""


class StateLost(Exception):
    """Inner signal: no finite state follows `state` at `time`."""

    def __init__(self, time, state):
        self.time, self.state = time, state


class FixedSteps:
    """Steps of at most `dt`, equal between two requested times.

    kick : (state, h, number of the step, room) -> state, after each step: the noise of Euler and Maruyama's scheme
    """

    def __init__(self, tableau: Tableau, dt: float, max_steps: int, kick: Callable | None = None):
        self.tableau, self.dt, self.max_steps, self.kick = tableau, dt, max_steps, kick
        self.accepted = self.rejected = 0
        self._first = None  # velocity at the current state, where the last step computed it
        self._spare: list[tuple] = []

    def advance(self, velocity, algebra, state, start, end, on_step=None):
        """The state at `end` from that at `start`; or at the first step after which on_step(time, state) is true."""
        if end <= start:
            return state
        count = max(1, math.ceil((end - start) / self.dt * (1 - 1e-12)))
        h = (end - start) / count
        for i in range(count):
            if self.accepted >= self.max_steps:
                raise StepLimitReached
            new, stages = step(self.tableau, velocity, algebra, state, h, self._first, self._spare)
            if self.kick:
                new = self.kick(new, h, self.accepted, stages[0])
            if not _is_finite(algebra, new):
                raise StateLost(start + i * h, state)
            self._first = stages.pop() if self.tableau.first_same_as_last else None
            self._spare += stages if i == 0 else [*stages, state]
            state = new
            self.accepted += 1
            if on_step and on_step(end if i + 1 == count else start + (i + 1) * h, state):
                break
        return state


class AdaptiveSteps:
    """Steps whose estimated error stays below atol + rtol |state|, with a PI controller; they land on every end.

    Controller: h <- 0.9 h e^(-0.7/p) e_previous^(0.4/p), e the error in units of its tolerance (the largest
    root mean square over the entries of the state), within a factor 0.2 .. 5; after a rejection 0.9 h e^(-1/p).
    Hairer & Wanner, Solving ODEs II, IV.2. Where a requested time cuts a step short, the step size before it
    is tried again.
    """

    def __init__(self, tableau: Tableau, rtol: float, atol: float, max_steps: int):
        self.tableau, self.rtol, self.atol, self.max_steps = tableau, rtol, atol, max_steps
        self.accepted = self.rejected = 0
        self._h: float | None = None
        self._previous = 1.0
        self._first = None  # velocity at the current state, where the last step computed it
        self._spare: list[tuple] = []

    def advance(self, velocity, algebra, state, start, end, on_step=None):
        """The state at `end` from that at `start`; or at the first step after which on_step(time, state) is true."""
        time, exponent, given = start, 1.0 / self.tableau.order, state
        while time < end:
            if self._first is None:
                self._first = velocity(state, _take(self._spare))
                if not _is_finite(algebra, self._first):
                    raise StateLost(time, state)
            if self._h is None:
                self._h = self._first_step(algebra, state, self._first, end - start)
            if self.accepted + self.rejected >= self.max_steps:
                raise StepLimitReached
            # The last step before `end` takes all that is left rather than leave a sliver.
            left = end - time
            cut = self._h >= left * (1 - 1e-10)
            h = left if cut else self._h
            if not cut and h <= max(1e-14 * time, 1e-300):
                raise StateLost(time, state)
            new, stages = step(self.tableau, velocity, algebra, state, h, self._first, self._spare)
            error = self._error(algebra, state, new, stages, h)
            if not error <= 1.0:
                self.rejected += 1
                self._spare += [*stages[1:], new]
                self._h = h * (max(0.2, 0.9 * error**-exponent) if 1.0 < error < math.inf else 0.2)
                continue
            growth = 0.9 * max(error, 1e-10) ** (-0.7 * exponent) * self._previous ** (0.4 * exponent)
            proposed = h * min(5.0, max(0.2, growth))
            self._h = max(self._h, proposed) if cut else proposed
            self._previous = max(error, 1e-4)
            self._first = stages.pop() if self.tableau.first_same_as_last else None
            self._spare += stages if state is given else [*stages, state]
            state, time = new, end if cut else time + h
            self.accepted += 1
            if on_step and on_step(time, state):
                break
        return state

    def _error(self, algebra, state, new, stages, h):
        assert self.tableau.embedded is not None
        difference = [b - c for b, c in zip(self.tableau.weights, self.tableau.embedded, strict=True)]
        worst = 0.0
        for space, before, after, moves in zip(algebra, state, new, zip(*stages, strict=True), strict=True):
            total, size = space.error_norm(h, difference, moves, before, after, self.rtol, self.atol)
            worst = max(worst, math.sqrt(total / size) if math.isfinite(total) else math.inf)  # also: no finite state
        return worst

    def _first_step(self, algebra, state, first, interval):
        """A hundredth of the time in which the state would change by its own size."""
        ratio = 0.0
        for space, entry, move in zip(algebra, state, first, strict=True):
            # Both norms in units of the tolerance: the state's own size cancels the unit.
            size = math.sqrt(space.error_norm(1.0, [1.0], [entry], entry, entry, self.rtol, self.atol)[0])
            speed = math.sqrt(space.error_norm(1.0, [1.0], [move], entry, entry, self.rtol, self.atol)[0])
            ratio = max(ratio, speed / size if size > 0 else 0.0)
        return min(interval, 0.01 / ratio) if 0.0 < ratio < math.inf else interval * 1e-3


def _is_finite(algebra, state):
    return all(space.is_finite(entry) for space, entry in zip(algebra, state, strict=True))


def stepper(
    scheme: str | Tableau, *, dt: float | None, rtol: float, atol: float, max_steps: int, kick: Callable | None = None
):
    """Fixed steps where `dt` is given, else adaptive ones. A `kick` is for Euler's scheme with fixed steps.

    Raises
    ------
    InputError
        For an unknown scheme, a fixed-step scheme without dt, a tolerance or dt that is not positive.
    """
    tableau = _checks.find(TABLEAUS, scheme, "scheme")
    if not isinstance(tableau, Tableau):
        raise InputError(f"scheme is {scheme!r}; needed: one of {', '.join(TABLEAUS)} or a Tableau.")
    max_steps = _checks.count(max_steps, "max_steps")
    if kick and (tableau.name != "euler" or dt is None):
        raise InputError(f"temperature needs scheme='euler' with dt, Euler and Maruyama's; given: {tableau.name!r}.")
    if dt is not None:
        return FixedSteps(tableau, _checks.number(dt, "dt", above=0.0), max_steps, kick)
    if tableau.embedded is None:
        adaptive = ", ".join(name for name, each in TABLEAUS.items() if each.embedded)
        raise InputError(f"scheme {tableau.name!r} has fixed steps: needed dt, or an adaptive scheme ({adaptive}).")
    rtol, atol = _checks.number(rtol, "rtol", above=0.0), _checks.number(atol, "atol", above=0.0)
    return AdaptiveSteps(tableau, rtol, atol, max_steps)


_BOSH3 = Tableau(  # Bogacki & Shampine (1989)
    "bosh3",
    order=3,
    stages=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    weights=(2 / 9, 1 / 3, 4 / 9, 0.0),
    embedded=(7 / 24, 1 / 4, 1 / 3, 1 / 8),
)
_DOPRI5 = Tableau(  # Dormand & Prince (1980)
    "dopri5",
    order=5,
    stages=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    weights=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    embedded=(5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40),
)
TABLEAUS = {
    each.name: each
    for each in (
        Tableau("euler", 1, ((),), (1.0,)),
        Tableau("heun", 2, ((), (1.0,)), (0.5, 0.5)),
        Tableau("rk4", 4, ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
        _BOSH3,
        _DOPRI5,
    )
}
