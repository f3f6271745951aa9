"""What a run in memory is, and how one is collected."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .fields import DataField
from .loop import End, Frame, Position
from .network import Network
from .population import Population
from .problems import Problem


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What `simulate` returns.

    times : (T,) flow times
    particles : (T, N, 1 + d), or what `keep` says: (1, N, 1 + d) for "last", (T, rows, 1 + d) for a slice
    predictions, test_predictions : (T, n), (T, m): the predictor F = f - f_0
    residuals : (T, n): targets - predictions; for `simulate_coupled` the residual as integrated
    record_times, records : (R,), and name -> (R,): by default at `times`
    masses : (N,)
    stopped_by : "time", or the name of the criterion that was met
    steps, rejected, evaluations : accepted and rejected steps, velocity evaluations
    seconds : wall time
    frame_steps : (T,) accepted steps before each of `times`; empty where that is not known
    """

    network: Network
    problem: Problem
    times: np.ndarray
    particles: np.ndarray
    predictions: np.ndarray
    test_predictions: np.ndarray
    residuals: np.ndarray
    record_times: np.ndarray
    records: dict[str, np.ndarray]
    masses: np.ndarray
    scheme: str
    engine: str
    dtype: str
    stopped_by: str
    steps: int
    rejected: int
    evaluations: int
    seconds: float = field(compare=False)
    frame_steps: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def disagreement(self) -> float:
        """Largest |r - (y - F)| over times and training inputs: 0 for `simulate`, the integrator's for coupled runs."""
        return float(np.abs(self.residuals - (self.problem.targets - self.predictions)).max())

    def __repr__(self) -> str:
        if isinstance(self.problem, Problem) and self.problem.loss.labels:
            last = self.problem.loss.value(self.predictions[-1], self.problem.targets)
            what, number = f"{self.problem.loss.name} loss", self.problem.weights @ last
        else:
            what = "risk at the probes" if isinstance(self.problem, Population) else "risk"
            number = self.problem.weights @ (self.problem.targets - self.predictions[-1]) ** 2
        return (
            f"Run({self.problem.name!r}, {self.network.activation.name}, N={len(self.masses)}, "
            f"alpha={self.network.scaling.alpha:g}, t=0..{self.times[-1]:g}, {self.scheme}: {self.steps} steps on "
            f"{self.engine} ({self.dtype}), {'' if self.stopped_by == 'time' else f'stopped by {self.stopped_by}, '}"
            f"final {what} {number:.4g}, {self.seconds:.2f} s)"
        )


class Kept:
    """Rows of a run as they come, for a `Run`.

    keep : "all", "last" or a slice
    """

    def __init__(self, keep: str | slice, records: Iterable[str]):
        self._keep, self._frames, self._particles = keep, [], []
        self._times, self._steps, self._record_times = [], [], []
        self._records: dict[str, list[float]] = {name: [] for name in records}

    def frame(self, frame: Frame) -> None:
        """A frame, whose particles stay where `keep` says so."""
        self._times.append(frame.time)
        self._steps.append(frame.step)
        self._frames.append((frame.snapshot.predictions, frame.snapshot.test_predictions, frame.residual))
        if self._keep != "last" or frame.last:
            self._particles.append(frame.particles())

    def record(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """A value of each record."""
        self._record_times.append(time)
        for name, value in values.items():
            self._records[name].append(value)

    def after_step(self, step: int, time: float, position: Callable[[], Position]) -> None:
        """Nothing is kept between two frames."""

    def run(self, moving: DataField, schedule: Any, end: End, seconds: float) -> Run:
        """The run, when it is over."""
        predictions, test_predictions, residuals = (np.array(each) for each in zip(*self._frames, strict=True))
        return Run(
            moving.network, moving.problem, np.array(self._times), np.array(self._particles), predictions,
            test_predictions, residuals, np.array(self._record_times),
            {name: np.array(values) for name, values in self._records.items()}, moving.masses, schedule.name,
            moving.engine.NAME, moving.dtype, end.stopped_by, schedule.accepted, schedule.rejected,
            end.evaluations, seconds, np.array(self._steps, np.int64),
        )  # fmt: skip
