"""Schemes as data, and how time is stepped by them: Runge-Kutta tableaus at fixed or adaptive steps, gradient descent
by Geiger's step rule, minimising movements.

A flow is a function (state, out) -> velocity on tuples of arrays, which may write into the arrays of `out` unless that
is None; `algebra` holds, for each entry, who does its linear algebra (an engine, or `engines.host` for NumPy arrays).
States handed in or out are never written to again; what a flow returned is, for the arrays in between go round
(`spare`), so that only the first two steps allocate, and one state each requested time. A new tableau is an entry in
`TABLEAUS`. A schedule has a `name`, the `velocities` it holds at once, and `advance`.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np

from . import _checks, jko
from .errors import ConvergenceError, InputError


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

    @property
    def stable_below(self) -> float:
        """Real stability interval: y' = -k y is followed without growth while h k is below it.

        The first x > 0 from which |R(-x)| > 1, R(z) = 1 + sum_j (b . A^j 1) z^(j+1) the stability polynomial. Hairer &
        Wanner, Solving ODEs II, IV.2.
        """
        stages = np.array([(*row, *[0.0] * (len(self.stages) - len(row))) for row in self.stages])
        column, powers = np.ones(len(stages)), []
        for _ in stages:
            powers.append(np.dot(self.weights, column))
            column = stages @ column
        excess = np.polynomial.Polynomial([0.0, *powers])  # R - 1
        # R crosses 1 or -1 there; where it only touches them it is stable beyond.
        roots = np.concatenate([np.polynomial.Polynomial(powers).roots(), (excess + 2.0).roots()])
        real = np.sort(-roots.real[(np.abs(roots.imag) < 1e-9 * np.abs(roots)) & (roots.real < 0.0)])
        return float(next((x for x in real if abs(1.0 + excess(-x * (1.0 + 1e-6))) > 1.0), math.inf))

    def __repr__(self) -> str:
        kind = "adaptive" if self.embedded else "fixed step"
        return f"Tableau({self.name!r}, order {self.order}, {len(self.stages)} stages, {kind})"


@dataclass(frozen=True)
class Geiger:
    """Gradient descent whose step is as large as two changes allow: Geiger, Spigler, Jacot & Wyart (arXiv 1906.08034).

        max_k |F(x_k; theta') - F(x_k; theta)| < output_change,   |g' - g|^2 / (|g'| |g|) < gradient_change

    their eqs. (8) and (9), theta' = theta + h g. Where both are below half of their bounds the next step is 1.1 h;
    where one does not hold the step is taken back and tried again with h / 10. g is the particles' velocity: for equal
    masses and mobilities the gradient, up to a factor. Of a `Population` F is taken at the probes.

    The distance from the flow is of order sqrt(gradient_change). A gradient that jumps (relu, hinge) may jump by more
    than `gradient_change`, which no step can follow: a ConvergenceError.

    first : size of the first step; default a hundredth of the time in which the state would change by its own size
    """

    output_change: float = 0.1
    gradient_change: float = 1e-4
    first: float | None = None
    name: ClassVar[str] = "geiger"

    def __post_init__(self):
        for field in ("output_change", "gradient_change", "first"):
            if (value := getattr(self, field)) is not None:
                object.__setattr__(self, field, _checks.number(value, field, above=0.0))


@dataclass(frozen=True)
class MinimisingMovement:
    """Implicit steps that minimise energy plus distance: Jordan, Kinderlehrer & Otto (1998); see `jko`.

    tolerance : largest entry of theta' - theta - dt v(theta') at the minimum, over that of dt v(theta)

    For smooth activations and losses: with a kink the minimum may be where the velocity jumps, and is not found.
    """

    _: KW_ONLY
    tolerance: float = 1e-10
    name: ClassVar[str] = "jko"

    def __post_init__(self):
        object.__setattr__(self, "tolerance", _checks.number(self.tolerance, "tolerance", above=0.0))


Scheme = Tableau | Geiger | MinimisingMovement


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
    """Inner signal: no finite state follows `state` at `time`; h: the fixed step tried."""

    def __init__(self, time, state, h=None):
        self.time, self.state, self.h = time, state, h


class _Memory:
    """What a schedule remembers from step to step, for whoever goes on in another process."""

    accepted: int
    rejected: int
    _numbers: ClassVar[tuple[str, ...]] = ()
    _velocity: ClassVar[str] = ""  # the attribute that holds the velocity at the current state

    def memory(self) -> tuple[dict[str, Any], tuple | None]:
        """Plain numbers, and the velocity at the current state where it is known: between two steps."""
        numbers = {name: getattr(self, name) for name in ("accepted", "rejected", *self._numbers)}
        return numbers, getattr(self, self._velocity, None)

    def restore(self, numbers: dict[str, Any], velocity: tuple | None) -> None:
        """Go on from what `memory` gave; the next step is the one that would have followed, bit for bit.

        What another scheme remembered and this one does not know stays behind.
        """
        for name in ("accepted", "rejected", *self._numbers):
            if name in numbers:
                setattr(self, name, numbers[name])
        if self._velocity:
            setattr(self, self._velocity, velocity)


class FixedSteps(_Memory):
    """Steps of at most `dt`, equal between two requested times.

    kick : (state, h, number of the step, room) -> state, after each step: the noise of Euler and Maruyama's scheme
    size : of the last step
    """

    advice = " or dt"
    _numbers, _velocity = ("size", "_within"), "_first"

    def __init__(self, tableau: Tableau, dt: float, max_steps: int, kick: Callable | None = None):
        self.tableau, self.dt, self.max_steps, self.kick, self.size = tableau, dt, max_steps, kick, dt
        self.name, self.velocities = tableau.name, len(tableau.stages)
        self.accepted = self.rejected = 0
        self._first = None  # velocity at the current state, where the last step computed it
        self._within = None  # of the interval that is being divided: beginning, end, dt, number of steps done
        self._spare: list[tuple] = []

    def advance(self, velocity, algebra, state, start, end, on_step=None):
        """The state at `end` from that at `start`; or at the first step after which on_step(time, state) is true."""
        if end <= start:
            return state
        origin, done = _interval(self._within, start, end, self.dt)
        count, h = _division(origin, end, self.dt)
        self.size = h
        for i in range(done, count):
            if self.accepted >= self.max_steps:
                raise StepLimitReached
            new, stages = step(self.tableau, velocity, algebra, state, h, self._first, self._spare)
            if self.kick:
                new = self.kick(new, h, self.accepted, stages[0])
            if not _is_finite(algebra, new):
                raise StateLost(origin + i * h, state, h)
            self._first = stages.pop() if self.tableau.first_same_as_last else None
            self._spare += stages if i == done else [*stages, state]
            state = new
            self.accepted += 1
            self._within = origin, end, self.dt, i + 1
            if on_step and on_step(end if i + 1 == count else origin + (i + 1) * h, state):
                break
        return state


def _interval(within, start, end, dt):
    """Beginning of the interval to `end` that holds `start`, and how many of its steps of at most dt are done."""
    return (within[0], within[3]) if within and tuple(within[1:3]) == (end, dt) else (start, 0)


def _division(start, end, dt):
    """Number and size of equal steps of at most dt."""
    count = max(1, math.ceil((end - start) / dt * (1 - 1e-12)))
    return count, (end - start) / count


class AdaptiveSteps(_Memory):
    """Steps whose estimated error stays below atol + rtol |state|, with a PI controller; they land on every end.

    Controller: h <- 0.9 h e^(-0.7/p) e_previous^(0.4/p), e the error in units of its tolerance (the largest
    root mean square over the entries of the state), within a factor 0.2 .. 5; after a rejection 0.9 h e^(-1/p).
    Hairer & Wanner, Solving ODEs II, IV.2. Where a requested time cuts a step short, the step size before it
    is tried again.
    """

    advice = ", or loosen rtol and atol"
    _numbers, _velocity = ("_h", "_previous"), "_first"

    def __init__(self, tableau: Tableau, rtol: float, atol: float, max_steps: int):
        self.tableau, self.rtol, self.atol, self.max_steps = tableau, rtol, atol, max_steps
        self.name, self.velocities = tableau.name, len(tableau.stages)
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
                self._h = _first_step(algebra, state, self._first, end - start, self.rtol, self.atol)
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


class GeigerSteps(_Memory):
    """Euler steps by the rule `Geiger`. They land on every end; a step cut short there leaves the rule's own as it is.

    field : () -> the field, whose predictions the rule looks at

    Cost of a step tried: a prediction and, where that has not changed too much, a velocity.
    """

    name, velocities, advice = Geiger.name, 2, " or the bounds of Geiger's rule"
    _numbers, _velocity = ("_h",), "_gradient"

    def __init__(self, rule: Geiger, field: Callable[[], Any], max_steps: int):
        self.rule, self.field, self.max_steps = rule, field, max_steps
        self.accepted = self.rejected = 0
        self._h: float | None = rule.first
        self._gradient = self._output = None  # at the current state
        self._spare: list[tuple] = []

    def advance(self, velocity, algebra, state, start, end, on_step=None):
        """The state at `end` from that at `start`; or at the first step after which on_step(time, state) is true."""
        time, given, predict = start, state, self.field().predict
        while time < end:
            if self._gradient is None:
                self._gradient = velocity(state, None)
                if not _is_finite(algebra, self._gradient):
                    raise StateLost(time, state)
            if self._output is None:
                self._output = predict(state)
            if self._h is None:
                self._h = _first_step(algebra, state, self._gradient, end - start, 0.0, 1.0)
            if self.accepted + self.rejected >= self.max_steps:
                raise StepLimitReached
            left = end - time
            cut = self._h >= left * (1 - 1e-10)
            h = left if cut else self._h
            new = _combine(algebra, state, h, (1.0,), [self._gradient], _take(self._spare))
            output, gradient, turned = predict(new), None, math.inf
            moved = float(np.abs(output - self._output).max())
            if moved < self.rule.output_change:
                gradient = velocity(new, _take(self._spare))
                turned = _relative_change(algebra, new, self._gradient, gradient)
            if not (moved < self.rule.output_change and turned < self.rule.gradient_change):
                self.rejected += 1
                self._h = h / 10.0
                if self._h < 1e-14 * end:
                    raise self._stuck(algebra, time, state, h, moved, turned, gradient)
                self._spare += [new] if gradient is None else [new, gradient]
                continue
            if not cut and moved < 0.5 * self.rule.output_change and turned < 0.5 * self.rule.gradient_change:
                self._h = 1.1 * h
            self._spare += [self._gradient] if state is given else [self._gradient, state]
            self._gradient, self._output = gradient, output
            state, time = new, end if cut else time + h
            self.accepted += 1
            if on_step and on_step(time, state):
                break
        return state

    def _stuck(self, algebra, time, state, h, moved, turned, gradient):
        if not (math.isfinite(moved) and (gradient is None or _is_finite(algebra, gradient))):
            return StateLost(time, state)
        what = (
            f"the gradient by {turned:.3g}, above gradient_change = {self.rule.gradient_change:g}"
            if moved < self.rule.output_change
            else f"the output by {moved:.3g}, above output_change = {self.rule.output_change:g}"
        )
        return ConvergenceError(
            f"Geiger's rule finds no step after t = {time:g}: over {h:.1e} a change of {what}. The gradient jumps "
            "there (a kink of the activation or the loss); raise the bound, or use an adaptive scheme or dt."
        )


class MinimisingSteps(_Memory):
    """Minimising movements in steps of at most `dt`, equal between two requested times: `jko.step`.

    field : () -> the field
    """

    # SciPy's: ten pairs and their like of the quasi-Newton method, or the Krylov space of the one after it.
    name, velocities, advice = MinimisingMovement.name, 50, " or dt"
    _numbers = ("_within",)

    def __init__(self, scheme: MinimisingMovement, field: Callable[[], Any], dt: float, max_steps: int):
        self.scheme, self.field, self.dt, self.max_steps = scheme, field, dt, max_steps
        self.accepted = self.rejected = 0
        self._within = None

    def advance(self, velocity, algebra, state, start, end, on_step=None):
        """The state at `end` from that at `start`; or at the first step after which on_step(time, state) is true."""
        if end <= start:
            return state
        origin, done = _interval(self._within, start, end, self.dt)
        count, h = _division(origin, end, self.dt)
        for i in range(done, count):
            if self.accepted >= self.max_steps:
                raise StepLimitReached
            time = origin + i * h
            if not _is_finite(algebra, velocity(state, None)):
                raise StateLost(time, state)
            state = jko.step(self.field(), velocity, state, h, self.scheme.tolerance, time)
            self.accepted += 1
            self._within = origin, end, self.dt, i + 1
            if on_step and on_step(end if i + 1 == count else origin + (i + 1) * h, state):
                break
        return state


def _first_step(algebra, state, first, interval, rtol, atol):
    """A hundredth of the time in which the state would change by its own size."""
    ratio = 0.0
    for space, entry, move in zip(algebra, state, first, strict=True):
        # Both norms in units of the tolerance: the state's own size cancels the unit.
        size = math.sqrt(space.error_norm(1.0, [1.0], [entry], entry, entry, rtol, atol)[0])
        speed = math.sqrt(space.error_norm(1.0, [1.0], [move], entry, entry, rtol, atol)[0])
        ratio = max(ratio, speed / size if size > 0 else 0.0)
    return min(interval, 0.01 / ratio) if 0.0 < ratio < math.inf else interval * 1e-3


def _relative_change(algebra, at, before, after):
    """|after - before|^2 / (|after| |before|) of two velocities; infinite where one is zero alone, or not finite."""

    def square(coefficients, *stages):
        # In units of 0 |at| + 1: a plain sum of squares.
        return sum(
            space.error_norm(1.0, coefficients, moves, here, here, 0.0, 1.0)[0]
            for space, here, moves in zip(algebra, at, zip(*stages, strict=True), strict=True)
        )

    change, size = (
        square([1.0, -1.0], after, before),
        math.sqrt(square([1.0], after)) * math.sqrt(square([1.0], before)),
    )
    if not (math.isfinite(change) and math.isfinite(size)):
        return math.inf
    return change / size if size > 0.0 else 0.0 if change == 0.0 else math.inf


def _is_finite(algebra, state):
    return all(space.is_finite(entry) for space, entry in zip(algebra, state, strict=True))


def stepper(
    scheme: str | Scheme,
    *,
    dt: float | None,
    rtol: float,
    atol: float,
    max_steps: int,
    kick: Callable | None = None,
    field: Callable[[], Any] | None = None,
):
    """The schedule of a scheme: a tableau's steps are fixed where `dt` is given, else adaptive.

    kick : for Euler's scheme with fixed steps
    field : () -> the field, asked for when time begins; Geiger's rule and minimising movements need it

    Raises
    ------
    InputError
        For an unknown scheme, a fixed-step scheme without dt, a tolerance or dt that is not positive.
    """
    found = _checks.find(SCHEMES, scheme, "scheme")
    if not isinstance(found, Scheme):
        raise InputError(
            f"scheme is {scheme!r}; needed: one of {', '.join(SCHEMES)} or a Tableau, Geiger or MinimisingMovement."
        )
    max_steps = _checks.count(max_steps, "max_steps")
    if kick and (found != TABLEAUS["euler"] or dt is None):
        raise InputError(f"temperature needs scheme='euler' with dt, Euler and Maruyama's; given: {found.name!r}.")
    if not isinstance(found, Tableau):
        if field is None:
            raise InputError(f"scheme {found.name!r} moves particles alone, no residual beside them; use simulate.")
        if isinstance(found, MinimisingMovement):
            if dt is None:
                raise InputError("scheme 'jko' has fixed steps: needed dt, its tau.")
            return MinimisingSteps(found, field, _checks.number(dt, "dt", above=0.0), max_steps)
        if dt is not None:
            raise InputError(
                f"scheme 'geiger' chooses its steps, and dt is {dt!r}; needed: none, or Geiger(first=...)."
            )
        return GeigerSteps(found, field, max_steps)
    if dt is not None:
        return FixedSteps(found, _checks.number(dt, "dt", above=0.0), max_steps, kick)
    if found.embedded is None:
        adaptive = ", ".join(name for name, each in TABLEAUS.items() if each.embedded)
        raise InputError(f"scheme {found.name!r} has fixed steps: needed dt, or an adaptive scheme ({adaptive}).")
    rtol, atol = _checks.number(rtol, "rtol", above=0.0), _checks.number(atol, "atol", above=0.0)
    return AdaptiveSteps(found, rtol, atol, max_steps)


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
SCHEMES: dict[str, Scheme] = {**TABLEAUS, Geiger.name: Geiger(), MinimisingMovement.name: MinimisingMovement()}
