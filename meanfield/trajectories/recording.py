"""A run on its way to a file: its rows, its checkpoints, its progress, and where it goes on after it was stopped."""

import hashlib
import json
import logging
import math
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from .. import _checks, _machine, _signals
from ..coupled import CoupledField
from ..errors import FileError, FormatError, InputError
from ..fields import DataField
from ..loop import Frame, Plan, Position
from ..network import Network
from ..output import Output
from ..problems import Problem
from . import reader, schema, settings, writer
from .checkpoint import read_checkpoint, write_checkpoint
from .superblock import clear_mark, is_live

_LINE_SECONDS = 1.0  # between two lines of progress while a step is no row
_MOST_ROWS = 1_000_000  # that `end` adds
_log = logging.getLogger(__name__)


class Halted(Exception):
    """Inner signal: a SIGINT or SIGTERM came, and the checkpoint is written."""


@contextmanager
def locked(out: Output) -> Iterator[None]:
    """Hold the lock of a run; InputError where another process has it."""
    lock = FileLock(out.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{out.path} is being written by another process; wait for it, or stop it.") from None
    except OSError as problem:
        raise FileError(problem.errno or 5, f"{out.lock} cannot be made ({problem.strerror})") from problem
    try:
        yield
    finally:
        lock.release()


class Recording:
    """The sink of a run on file. As a context it turns the way the run ended into its `status`.

    While it lasts, SIGINT and SIGTERM wait for a checkpoint between two steps; `deliver` then gives them their effect.
    """

    def __init__(
        self, out: Output, rows: writer.Writer, plan: Plan, facts: Mapping[str, Any], counts: Mapping[str, int],
        begin: Position,
    ):  # fmt: skip
        self._out, self._rows, self._plan, self._facts = out, rows, plan, dict(facts)
        self._waiting = _signals.Deferred()
        self._began = self._saved = self._told = clock.perf_counter()
        self._before, self._reached = self._facts["seconds"], begin
        rows.begin(counts, self._state("running"))

    def frame(self, frame: Frame) -> None:
        """One row of "frames"; the last one is of "last", too, where only the last particles are kept."""
        seen = [frame.snapshot.predictions]
        for path, row in (("test_predictions", frame.snapshot.test_predictions), ("residuals", frame.residual)):
            if self._has("frames", f"/observables/{path}/value"):
                seen.append(row)
        if not self._has("frames", "/particles/neurons/position/value"):
            self._rows.append("frames", frame.step, frame.time, seen)
            if frame.last:
                self._rows.append("last", frame.step, frame.time, self._particles("last", frame))
        else:
            self._rows.append("frames", frame.step, frame.time, [*self._particles("frames", frame), *seen])
        problem = frame.snapshot.problem
        risk = float(problem.weights @ (problem.targets - frame.snapshot.predictions) ** 2)
        self._tell(frame.step, frame.time, risk=risk)

    def record(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """One row of "records"."""
        if values:
            self._rows.append("records", step, time, [np.asarray(each, np.float64) for each in values.values()])
            self._tell(step, time, **{name: float(each) for name, each in values.items()})

    def after_step(self, step: int, time: float, position: Callable[[], Position]) -> None:
        """A checkpoint where one is due, or a signal waits for it."""
        now, due = clock.perf_counter(), self._waiting.caught is not None
        if due or now - self._saved >= self._out.checkpoint_seconds:
            self.save(position())
        if due:
            raise Halted
        if now - self._told >= _LINE_SECONDS:
            self._tell(step, time)

    def save(self, position: Position) -> None:
        """Write a checkpoint, when the rows it counts are on the disk."""
        self._rows.sync()
        _save(self._out, self._plan, position, self._facts | {"seconds": self._seconds()}, self._rows.counts)
        self._reached = position
        self._saved = clock.perf_counter()

    def __enter__(self) -> "Recording":
        self._waiting.__enter__()
        return self

    def __exit__(self, kind: type | None, problem: BaseException | None, trace: TracebackType | None) -> bool:
        if problem is None:
            status = "complete"
        elif isinstance(problem, Halted | KeyboardInterrupt | SystemExit | OSError | MemoryError):
            status = "aborted"
        else:
            status = "failed"
        try:
            self._rows.close(self._state(status))
            self._tell(self._reached.schedule["accepted"], None, status=status)
        except (OSError, RuntimeError):  # the disk again: what stopped the run says more
            if problem is None:
                raise
        finally:
            self._waiting.__exit__(None, None, None)
        return isinstance(problem, Halted)

    def deliver(self) -> None:
        """Give a signal that waited its ordinary effect."""
        if self._waiting.caught is not None:
            _signals.deliver(self._waiting.caught)

    def _has(self, name, path):
        return any(each.path == path for each in self._rows.series[name].columns)

    def _particles(self, name, frame):
        kept = [frame.particles()]
        if self._has(name, "/particles/neurons/velocity/value"):
            kept.append(frame.velocity())
        return kept

    def _seconds(self):
        return self._before + clock.perf_counter() - self._began

    def _state(self, status):
        """What the attribute `state` says: as far as the last checkpoint."""
        reached, changes = self._reached, self._facts["changes"]
        return {
            "status": status, "stopped_by": _ascii(reached.stopped_by or "time" * (status == "complete"))[:100],
            "steps": reached.schedule["accepted"], "rejected": reached.schedule["rejected"],
            "evaluations": reached.evaluations, "seconds": round(self._seconds(), 3),
            "resumed": self._facts["resumed"], "changes": {name: repr(changes[name])[:24] for name in changes},
        }  # fmt: skip

    def _tell(self, step, time, **more):
        """A line of progress. It is for people: where it cannot be written the run goes on."""
        line = {"step": step, "time": time, "end": float(self._plan.times[-1]), "seconds": round(self._seconds(), 3)}
        bad = {name for name, each in more.items() if isinstance(each, float) and not math.isfinite(each)}
        line |= more | dict.fromkeys(bad)  # JSON has no word for what is not finite
        try:
            with self._out.progress.open("a", encoding="ascii") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as problem:
            _log.warning("%s: %s", self._out.progress, problem)
        self._told = clock.perf_counter()


def begin(
    out: Output,
    moving: DataField,
    start: np.ndarray,
    plan: Plan,
    schedule: Any,
    records: Sequence[str],
    given: Mapping[str, Any],
) -> tuple[Recording, Position]:
    """A new file of a run, its first checkpoint, and where the run begins."""
    # A checkpoint without a file is what a run left that was killed before its file was made.
    if out.path.exists() and not out.overwrite:
        raise InputError(
            f"{out.path} is there already; choose another path, `resume` it, or replace it by "
            "Output(..., overwrite=True)."
        )
    writer.filters_of(out.compression)  # before anything of the run that was there is touched
    for name in records:
        if name in RESERVED or not name.isidentifier() or not name.isascii():
            raise InputError(f"a record is called {name!r}; needed: an ASCII name, none of {', '.join(RESERVED)}.")
    # As it is given to the field: float64, checked.
    start = moving.network.particles(start, moving.problem.dim)
    described = settings.describe(moving.network, moving.problem, given)
    described["output"] = {"save_dtype": out.save_dtype, "velocities": out.velocities, "live": out.live}
    described["config"] = dict(out.values)
    numbers, _ = schedule.memory()
    position = Position(0, 0.0, None, 0, numbers, moving.arrays(moving.state(start)), None)
    facts = {
        "run": _digest(described, moving.problem, start, moving.masses),
        "versions": _machine.versions(),
        "resumed": 0,
        "changes": {},
        "seconds": 0.0,
    }
    _save(out, plan, position, facts, {})
    rows = np.arange(len(start))[given["keep"]] if isinstance(given["keep"], slice) else np.arange(len(start))
    series = _series(moving, len(rows), start.shape[1], records, given["keep"], out)
    writer.create(
        out.path, series, _arrays(moving, start, rows), described,
        config=out.config, live=out.live, compression=out.compression,
    )  # fmt: skip
    out.progress.unlink(missing_ok=True)
    return Recording(out, writer.Writer(out.path, series, out.live), plan, facts, {}, position), position


RESERVED = ("predictions", "test_predictions", "residuals")  # observables of every run


def _ascii(text):
    return text.encode("ascii", "backslashreplace").decode()


def _series(moving, particles, components, records, keep, out):
    return schema.series(
        particles=particles, components=components, n=len(moving.problem.inputs), m=len(moving.problem.test_inputs),
        records=records, keep="last" if keep == "last" else "all", dtype=out.save_dtype, velocities=out.velocities,
        residuals=isinstance(moving, CoupledField),
    )  # fmt: skip


def _arrays(moving, start, rows):
    """What does not grow, by path."""
    problem, width = moving.problem, start.shape[1]
    inner = width - 1 - bool(moving.network.bias)
    components = ["a", *(f"w{k + 1}" for k in range(inner)), *(["b"] if moving.network.bias else [])]
    found = {
        "/particle": rows.astype("<i8"), "/component": np.array(components, "S16"),
        "/datum": np.arange(len(problem.inputs), dtype="<i8"), "/particles/neurons/mass": moving.masses[rows],
        "/meanfield/start": start, "/meanfield/start_masses": moving.masses,
    }  # fmt: skip
    if len(problem.test_inputs):
        found["/test_datum"] = np.arange(len(problem.test_inputs), dtype="<i8")
    return found | {f"/meanfield/problem/{name}": value for name, value in settings.arrays_of(problem).items()}


def _save(out, plan, position, facts, counts):
    numbers = {
        **facts, "event": position.event, "now": position.now, "stopped_by": position.stopped_by,
        "evaluations": position.evaluations, "schedule": dict(position.schedule), "counts": dict(counts),
    }  # fmt: skip
    arrays = {"plan_times": plan.times, "plan_frames": plan.frames, "plan_records": plan.records}
    arrays |= {f"state_{k}": each for k, each in enumerate(position.state)}
    arrays |= {f"velocity_{k}": each for k, each in enumerate(position.velocity or ())}
    write_checkpoint(out.checkpoint, arrays, numbers)


def _digest(described, problem, start, masses):
    """SHA-256 of all that a run is a function of, but the times."""
    arrays = {"start": start, "masses": masses} | settings.arrays_of(problem)
    return hashlib.sha256((json.dumps(described, sort_keys=True) + schema.digest(arrays)).encode()).hexdigest()


@dataclass(frozen=True)
class Interrupted:
    """A run on file, and where it goes on.

    given : the arguments of `simulate` it had
    status : that the file states
    seen : particles and predictions of the last frame, where all particles are kept
    """

    out: Output
    network: Network
    problem: Problem
    start: np.ndarray
    masses: np.ndarray
    plan: Plan
    begin: Position
    given: dict[str, Any]
    status: str
    seen: tuple[np.ndarray, np.ndarray] | None = field(repr=False)
    facts: dict[str, Any] = field(repr=False)
    counts: dict[str, int] = field(repr=False)

    @property
    def over(self) -> bool:
        """Whether the run came to its end."""
        return self.begin.event >= len(self.plan.times)

    def extended(self, times: Any = None, record_times: Any = None, end: float | None = None) -> Plan:
        """A plan that begins as the run's own, as far as it has come.

        end : frames and records go on at the distance of their last two, up to here
        """
        old = self.plan
        if end is not None:
            if times is not None or record_times is not None:
                raise InputError("both end and times are given; needed: one of them.")
            times, record_times = (_continued(old.times[chosen], end) for chosen in (old.frames, old.records))
        if self.over and self.begin.stopped_by:
            raise InputError(f"the run is over: {self.begin.stopped_by} held at t = {self.begin.now:g}; start another.")
        same = record_times is None and np.array_equal(old.frames, old.records)
        times = old.times[old.frames] if times is None else times
        record_times = old.times[old.records] if record_times is None and not same else record_times
        plan, passed = Plan.of(times, record_times), min(self.begin.event + 1, len(old.times))
        for name in ("times", "frames", "records"):
            if not np.array_equal(getattr(plan, name)[:passed], getattr(old, name)[:passed]):
                raise InputError(
                    f"the run has passed t = {self.begin.now:g} with the times {old.times[:passed].tolist()}; needed: "
                    "times that begin with them."
                )
        return plan

    def check_units(self, moving: DataField) -> None:
        """Refuse an activation that does not give the predictions on file: another one of the same name."""
        if self.seen is None:
            return
        particles, predictions = self.seen
        off = np.abs(moving.predict(moving.state(particles)) - predictions).max()
        if not off <= 1e-3 * (1.0 + np.abs(predictions).max()):
            raise InputError(
                f"activation {self.network.activation.name!r} gives other predictions than the run's, by {off:.2g}; "
                "needed: the activation it was begun with."
            )

    def recording(self, moving: DataField, plan: Plan, begin: Position, change: Mapping[str, Any]) -> Recording:
        """The sink of the rest of the run, from `begin`.

        Its first checkpoint is there before the file is touched: what is dropped of that is not missed if this process
        is killed in turn, and new times and changes are not forgotten.
        """
        shape = (len(self.start), self.start.shape[1])
        keep = self.given["keep"]
        kept = len(range(*keep.indices(shape[0]))) if isinstance(keep, slice) else shape[0]
        series = _series(moving, kept, shape[1], _names(self.given["record"]), keep, self.out)
        facts = dict(self.facts)
        facts["resumed"] += 1
        facts["changes"] = facts["changes"] | settings.plain(change)
        if facts["versions"] != _machine.versions():
            _log.warning("%s was begun with other versions: its rest is not the same bit for bit", self.out.path)
        counts = {each.name: self.counts.get(each.name, 0) for each in series}
        if "last" in counts and begin.event < len(plan.times):
            counts["last"] = 0
        rows = writer.Writer(self.out.path, series, self.out.live)  # refused while a reader has it: nothing has changed
        _save(self.out, plan, begin, facts, counts)
        return Recording(self.out, rows, plan, facts, counts, begin)


def _continued(times, end):
    """`times`, and on from there at the distance of the last two, to `end` itself."""
    end, last = _checks.number(end, "end", above=0.0), float(times[-1])
    distance = last - float(times[-2]) if len(times) > 1 else last
    if not distance > 0.0 or end <= last:
        raise InputError(f"end is {end:g}, and the run's last time {last:g}; needed: a later one.")
    if (end - last) / distance > _MOST_ROWS:
        raise InputError(
            f"end is {end:g}: from {last:g} in steps of {distance:g} more than {_MOST_ROWS:,} times; needed: a nearer "
            "end, or times=... of your own."
        )
    count = max(0, math.ceil((end - last) / distance - 1e-9) - 1)
    return np.r_[times, last + distance * np.arange(1, count + 1), end]


def _names(record):
    return [each if isinstance(each, str) else getattr(each, "__name__", repr(each)) for each in record]


def interrupted(out: Output, own: Mapping[str, Any], activation: Any = None, loss: Any = None) -> Interrupted:
    """The run at `out` and its last checkpoint.

    own : record, stop, batches: functions of the user's that the run had
    """
    clear_mark(out.path)
    with reader.open(out.path, activation=activation, loss=loss) as run:
        run.check()  # a row that is damaged is said now, not after hours
        described, there, status = run.settings, run.counts, run.status
        whole = run.particles.shape[1:2] == run.start.shape[:1] and len(run.predictions) == len(run.particles) > 0
        seen = (run.particles[-1], run.predictions[-1]) if whole else None
        parts = (run.network, run.problem, np.array(run.start), np.array(run.start_masses))
    arrays, numbers = _checkpoint_of(out, _digest(described, *parts[1:]), there)
    given = settings.arguments({"run": described["run"] | numbers["changes"]}, own)
    plan = Plan(arrays["plan_times"], arrays["plan_frames"].astype(bool), arrays["plan_records"].astype(bool))
    states, velocities = (
        tuple(arrays[name] for name in sorted(arrays) if name.startswith(f"{what}_")) for what in ("state", "velocity")
    )
    position = Position(
        numbers["event"], numbers["now"], numbers["stopped_by"], numbers["evaluations"], numbers["schedule"], states,
        velocities or None,
    )  # fmt: skip
    options = asdict(out) | described["output"]
    options["live"] = options["live"] and is_live(out.path)  # a repaired file is a plain one
    facts = {name: numbers[name] for name in ("run", "versions", "resumed", "changes", "seconds")}
    return Interrupted(Output(**options), *parts, plan, position, given, status, seen, facts, numbers["counts"])


def _checkpoint_of(out, run, there):
    """The last checkpoint that goes with a file; the one before, where the last is of another run or ahead of the file.

    Ahead it may be after a power failure alone; of another run where that was to be replaced, and was not.
    """
    complaints = []
    for path in (out.checkpoint, out.checkpoint.with_name(out.checkpoint.name + ".prev")):
        if complaints and not path.exists():
            break
        arrays, numbers = read_checkpoint(path)
        short = [name for name, count in numbers["counts"].items() if there.get(name, 0) < count]
        if numbers["run"] != run:
            complaints.append(f"{path} is of another run than {out.path}; needed: the checkpoint of this one.")
        elif short:
            complaints.append(f"{out.path} has fewer rows of {', '.join(short)} than its checkpoint; it was changed.")
        else:
            return arrays, numbers
    raise FormatError(complaints[0])
