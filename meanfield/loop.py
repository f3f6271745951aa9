"""The time loop, the only one: from a start, or from where another process stopped, through all times asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from . import _checks, losses, stopping, tangent
from .coupled import CoupledField
from .diagnostics import Snapshot
from .errors import DivergenceError, InputError, StepLimitError
from .fields import DataField
from .integrators import FixedSteps, StateLost, StepLimitReached
from .problems import Problem

# Of a kernel that is formed only for an error's message: inputs, and multiplications.
_MOST_INPUTS, _MOST_PRODUCTS = 2000, 2.5e10


@dataclass(frozen=True)
class Plan:
    """Flow times a run lands on, and what is kept at each.

    times : (E,) increasing; frames, records : (E,) bool
    """

    times: np.ndarray
    frames: np.ndarray
    records: np.ndarray

    @classmethod
    def of(cls, times: Any, record_times: Any = None) -> "Plan":
        """Frames at `times`, records at `record_times`, by default the same."""
        times = _checks.times(times)
        recorded = times if record_times is None else _checks.times(record_times, "record_times")
        both = np.union1d(times, recorded)
        return cls(both, np.isin(both, times), np.isin(both, recorded))


@dataclass(frozen=True)
class Position:
    """How far a run is, between two steps, and all that the next step depends on.

    event : index in the plan of the time it is on its way to; its rows are not yet kept
    now : flow time
    state, velocity : what `DataField.arrays` gives; the velocity where the schedule knows it
    schedule : its numbers
    """

    event: int
    now: float
    stopped_by: str | None
    evaluations: int
    schedule: Mapping[str, Any]
    state: tuple[np.ndarray, ...]
    velocity: tuple[np.ndarray, ...] | None


@dataclass(frozen=True)
class End:
    """stopped_by : "time", or the name of a criterion; position : () -> Position, asked for where it is kept"""

    stopped_by: str
    evaluations: int
    position: Callable[[], Position]


@dataclass(frozen=True)
class Frame:
    """A run at a time that is kept.

    particles, velocity : () -> (P, 1 + d); velocity only for a sink that wants it
    last : whether no frame follows
    """

    step: int
    time: float
    snapshot: Snapshot
    residual: np.ndarray
    particles: Callable[[], np.ndarray]
    velocity: Callable[[], np.ndarray]
    last: bool


class Sink(Protocol):
    """Where frames and records go."""

    def frame(self, frame: Frame) -> None: ...

    def record(self, step: int, time: float, values: Mapping[str, float]) -> None: ...

    def after_step(self, step: int, time: float, position: Callable[[], Position]) -> None: ...


def integrate(
    moving: DataField,
    start: np.ndarray,
    plan: Plan,
    schedule: Any,
    recorders: Mapping[str, Callable],
    criteria: list[stopping.Criterion],
    sink: Sink,
    *,
    keep: str | slice = "all",
    progress: bool = False,
    begin: Position | None = None,
) -> End:
    """Run through the plan, or the rest of it from `begin`.

    Raises DivergenceError and StepLimitError.
    """
    evaluations, event, now, stopped_by = 0, 0, 0.0, None
    state = moving.state(start)
    first = _snapshot(moving, state, now)
    if begin is not None:
        evaluations, event, now, stopped_by = begin.evaluations, begin.event, begin.now, begin.stopped_by
        state = moving.of_arrays(begin.state)
        schedule.restore(begin.schedule, begin.velocity and moving.of_arrays(begin.velocity))
        moving.go_on(schedule.accepted)

    def velocity(state, out):
        nonlocal evaluations
        evaluations += 1
        return moving.velocity(state, out)

    def position(state):
        numbers, known = schedule.memory()
        known = None if known is None else moving.arrays(known)
        return Position(event, now, stopped_by, evaluations, numbers, moving.arrays(state), known)

    def on_step(at, state):
        nonlocal now, stopped_by
        bar.update(at - bar.n)
        look = stopping.Look(moving, state, at)
        now, stopped_by = at, next((each.name for each in criteria if each.holds(look)), None)
        sink.after_step(schedule.accepted, at, partial(position, state))
        return stopped_by is not None

    rows = keep if isinstance(keep, slice) else slice(None)
    last_frame = int(np.flatnonzero(plan.frames)[-1])
    with tqdm(
        total=float(plan.times[-1]), initial=now, unit="t", disable=None if progress else True, leave=False
    ) as bar:
        while event < len(plan.times):
            target = float(plan.times[event])
            if not stopped_by:
                state = _advance(moving, schedule, velocity, state, now, target, on_step, first)
                now = now if stopped_by else target
            snapshot = first if now == 0.0 else _snapshot(moving, state, now)
            _check_growth(moving, schedule, snapshot, first)
            if plan.frames[event] or stopped_by:
                sink.frame(Frame(
                    schedule.accepted, now, snapshot, moving.residual(state, snapshot.predictions),
                    partial(_particles, moving, state, rows, snapshot),
                    partial(_velocity, moving, schedule, state, rows),
                    bool(stopped_by) or event == last_frame,
                ))  # fmt: skip
            if plan.records[event] or stopped_by:
                sink.record(schedule.accepted, now, {name: each(snapshot, first) for name, each in recorders.items()})
            event = len(plan.times) if stopped_by else event + 1
    return End(stopped_by or "time", evaluations, partial(position, state))


def _advance(moving, schedule, velocity, state, now, target, on_step, first):
    try:
        return schedule.advance(velocity, moving.algebra, state, now, target, on_step)
    except StateLost as lost:
        raise _diverged(moving, schedule, lost, first) from None
    except StepLimitReached:
        raise StepLimitError(
            f"{schedule.max_steps} steps were spent before t = {target:g} ({schedule.accepted} accepted, "
            f"{schedule.rejected} rejected); {_step_advice(moving.problem, schedule)}."
        ) from None


def _step_advice(problem, schedule):
    """What to do about a spent budget: where the pull jumps, no step that an error estimate chooses is small enough."""
    if isinstance(problem, Problem) and not problem.loss.smooth and not isinstance(schedule, FixedSteps):
        return f"the pull of the loss {problem.loss.name!r} jumps: use losses.soft_hinge, or scheme='euler' with dt"
    return f"raise max_steps{schedule.advice}"


def _particles(moving, state, rows, snapshot):
    return snapshot.particles if rows == slice(None) else moving.particles(state, rows)


def _velocity(moving, schedule, state, rows):
    """d theta / dt at a state; the schedule's own, where it knows it."""
    known = schedule.memory()[1]
    known = moving.velocity(state, None) if known is None else known
    return moving.arrays(known)[0][rows]


def _snapshot(moving, state, time):
    return Snapshot(
        moving.network, moving.problem, time, moving.masses, moving.predict(state), moving.predict_test(state),
        lambda: moving.particles(state),
    )  # fmt: skip


def _diverged(moving, schedule, lost, first):
    particles = moving.particles(lost.state)
    number = schedule.accepted + schedule.rejected + 1
    size = float(np.abs(particles).max())
    return DivergenceError(
        f"the flow left the finite numbers at step {number}, after t = {lost.time:g}, where the largest parameter was "
        f"{size:.3g}; {_remedy(moving, schedule, lost.h, first)}, or check the activation. The last good state is in "
        "the error's `state`.",
        step=number,
        time=lost.time,
        state=particles,
    )


def _remedy(moving, schedule, h, first):
    """What to do about steps that are unstable."""
    if not isinstance(schedule, FixedSteps):
        return "use smaller tolerances"
    below = f"stable below {schedule.tableau.stable_below:.4g} over the fastest rate of the dynamics"
    return f"use a smaller dt ({_stability(moving, schedule, h, first) or below}), an adaptive scheme"


def _is_plain(moving):
    """Whether the residual of the field obeys du/dt = -K P u, and a ridge: the flow of the square loss on the data."""
    return type(moving) in (DataField, CoupledField) and moving.problem.loss == losses.squared


def _check_growth(moving, schedule, now, first):
    """Refuse a risk that the flow cannot have: R + lambda alpha^2 int |theta|^2 never rises.

    Steps that are unstable need not leave the finite numbers: units that saturate swing to and fro.
    """
    if not (_is_plain(moving) and isinstance(schedule, FixedSteps) and schedule.kick is None):
        return
    problem, weights = moving.problem, moving.problem.weights
    before, after = (float(weights @ (problem.targets - each.predictions) ** 2) for each in (first, now))
    squares = float(first.masses @ (first.particles**2).sum(axis=1)) if moving.ridge else 0.0
    size = float(weights @ problem.targets**2)  # so that rounding is no growth where the fit is perfect at the start
    if after <= 10.0 * (before + size + moving.ridge * moving.network.scaling.alpha**2 * squares):
        return
    raise DivergenceError(
        f"the risk rose from {before:.3g} to {after:.3g} by t = {now.time:g}, which the flow cannot: the steps are "
        f"unstable; {_remedy(moving, schedule, schedule.size, first)}. The particles then are in the error's `state`.",
        step=schedule.accepted,
        time=now.time,
        state=now.particles,
    )


def _stability(moving, schedule, h, first):
    """What linear stability at the start says of a fixed step: dt eig_max(P^1/2 K P^1/2) < `Tableau.stable_below`.

    With a ridge lambda is added, which bounds the fastest rate. Not of the last good state, which is mostly so far out
    that its kernel says nothing. None where it says nothing at all: for another loss than the square, with momentum,
    batches or a population, and for a kernel that takes more than seconds.
    """
    n, problem = len(moving.problem.inputs), moving.problem
    if not (_is_plain(moving) and h):
        return None
    if n > _MOST_INPUTS or n * n * moving.n_particles > _MOST_PRODUCTS:
        return None
    try:
        with np.errstate(all="ignore"):
            kernel = first.kernel
    except InputError:  # no memory for it
        return None
    if not np.isfinite(kernel).all() or not (fastest := tangent.fastest(kernel, problem.weights)) > 0.0:
        return None
    what = "eig_max(K)/n" if np.ptp(problem.weights) == 0.0 else "eig_max(P^1/2 K P^1/2)"
    if moving.ridge:
        what, fastest = f"{what} + ridge", fastest + moving.ridge
    below = schedule.tableau.stable_below / fastest
    grown = "" if h > below else "; K may have grown since"
    return f"dt = {h:g}; at t = 0 {what} = {fastest:.4g}, stable below {below:.4g}{grown}"
