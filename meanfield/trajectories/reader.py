"""The strict reader of a run's file: `open`, and the `Trajectory` that it gives.

Everything that docs/format.md says holds, or there is a FormatError; see `safety`, `structure` and `frames` for the
three steps: what may be opened, what is there, and which rows are whole.
"""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .. import _checks
from ..activations import Activation
from ..errors import FormatError, InputError
from ..losses import Loss
from ..network import Network
from ..population import Population
from ..problems import Problem
from . import safety, structure, views
from . import settings as plain
from .frames import Frames, Rows

_NEURONS, _SEEN = "/particles/neurons/", "/observables/"


def open(
    path: str | Path,
    *,
    activation: str | Activation | None = None,
    loss: str | Loss | None = None,
    max_bytes: float | None = None,
) -> "Trajectory":
    """Open the file of a run, as docs/format.md has it, and nothing else.

    Rows are read when they are asked for, and given only with their CRC. What a killed process left half written at the
    end of a file is dropped: `Trajectory.torn`. A file written with live=True opens while it grows, as it is now.

    Parameters
    ----------
    path : of the file, or of the folder that holds run.h5
    activation, loss : of the run, where they are the user's own; needed for `network` and `problem` alone
    max_bytes : float, optional
        Most bytes that opening, or one slice, may take; default 80 % of the free memory.

    Raises
    ------
    InputError
        If there is no such file, another process is writing it, or it needs more than `max_bytes`.
    FormatError
        If it does not follow the format, wherever in it: damaged, cut off, of another schema, or made to harm.

    Cost: what does not grow is read and held against its digest: O(N D + n d) time and memory.
    """
    try:
        path = Path(path)
    except TypeError:
        raise InputError(f"path is {path!r}; needed: that of a run's file, or of its folder.") from None
    if path.is_dir():
        path = path / "run.h5"
    safety.check_start(path)
    file, live = _open(path)
    try:
        with safety.reading(path):
            return Trajectory(file, live, path, activation, loss, max_bytes)
    except BaseException:
        file.close()
        raise


def _open(path):
    """The file, and whether it says that it is still written (SWMR): growing, or killed while it grew.

    Only then is it opened so: HDF5 reads what does not have its checksum a hundred times over, in ever longer pauses.
    """
    live = safety.says_live(path)
    with safety.reading(path):
        try:
            return h5py.File(path, "r", libver="latest" if live else None, swmr=live), live
        except BlockingIOError:
            raise InputError(
                f"{path} is being written by another process; needed: its end, or a run with live=True."
            ) from None


class Trajectory:
    """A run on file. What takes a `Run` takes it: the same names, arrays on file as `Frames`.

    path : of the file
    status : "complete", "running" (or killed), "aborted", "failed"
    torn : rows at the end that were half written, and are left out
    times, step_numbers : (T,) of the frames: flow times, accepted steps; `record_times` (R,) of the records
    particles, velocities : (T, P, D), (1, P, D) with keep="last"; velocities may be None
    predictions, test_predictions, residuals : (T, n), (T, m), (T, n)
    records : name -> (R,)
    kept, masses : (P,) rows of the start that are in `particles`, and their masses
    start, start_masses : (N, D), (N,)
    settings, provenance, config : what the run was given, where it was made, the TOML it was read from

    A context manager; `close` lets go of the file. `times` are held against their order at opening, and against the CRC
    with the row they belong to, whenever anything else of that row is read; `meanfield verify` reads all rows.
    """

    def __init__(
        self, file: Any, live: bool, path: Path,
        activation: str | Activation | None, loss: str | Loss | None, max_bytes: float | None,
    ):  # fmt: skip
        self.path, self.live, self._file = path, live, file
        self._given, self._max_bytes = (activation, loss), max_bytes
        self.contents = contents = structure.read(file, path, max_bytes)
        self._rows = {
            each.name: Rows(file, each, contents.lengths[each.name], path, max_bytes) for each in contents.series
        }
        self.torn = self._drop_torn()
        self.settings: dict[str, Any] = contents.settings
        self._check_values()

    def _drop_torn(self):
        lengths = [len(self._file[path]) for each in self.contents.series for path in each.paths]
        if self.status != "complete":
            for rows in self._rows.values():
                rows.drop_torn()
        elif self.contents.ragged:
            raise FormatError(f"{self.path} is {self.status}, and its series have rows of {sorted(set(lengths))}.")
        longest = (max(len(self._file[path]) for path in each.paths) for each in self.contents.series)
        return sum(longest) - sum(each.count for each in self._rows.values())

    def _check_values(self):
        """What types and shapes do not say."""
        fixed, kept = self.contents.fixed, self.kept
        if (np.diff(kept) <= 0).any() or (kept < 0).any() or (kept >= len(self.start)).any():
            raise FormatError(f"{self.path}: /particle is no increasing part of the {len(self.start)} particles.")
        if fixed["/particles/neurons/box@dimension"] != len(fixed["/component"]):
            raise FormatError(f"{self.path}: its box has another dimension than its particles.")
        for rows in self._rows.values():
            times = rows.times
            if not np.isfinite(times).all() or (np.diff(times) <= 0).any() or (np.diff(rows.steps) < 0).any():
                raise FormatError(f"{self.path} is damaged: steps or times of its {rows.series.name} do not increase.")
        if json.loads(self.contents.text("/meanfield/provenance")).__class__ is not dict:
            raise FormatError(f"{self.path}: its provenance is no table.")

    def close(self) -> None:
        """Let go of the file; what was read stays."""
        self._file.close()

    def __enter__(self) -> "Trajectory":
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    # How far the run is

    @property
    def status(self) -> str:
        return self.contents.state["status"]

    @property
    def stopped_by(self) -> str | None:
        return self.contents.state.get("stopped_by")

    @property
    def steps(self) -> int:
        return self.contents.state.get("steps", 0)

    @property
    def rejected(self) -> int:
        return self.contents.state.get("rejected", 0)

    @property
    def evaluations(self) -> int:
        return self.contents.state.get("evaluations", 0)

    @property
    def seconds(self) -> float:
        return self.contents.state.get("seconds", 0.0)

    @property
    def changes(self) -> dict[str, str]:
        """Arguments of `simulate` that changed on the way, and to what, in short."""
        return self.contents.state.get("changes", {})

    @property
    def resumed(self) -> int:
        return self.contents.state.get("resumed", 0)

    # Rows

    @property
    def times(self) -> np.ndarray:
        return self._rows["frames"].times

    @property
    def step_numbers(self) -> np.ndarray:
        return self._rows["frames"].steps

    @property
    def record_times(self) -> np.ndarray:
        return self._rows["records"].times if "records" in self._rows else np.empty(0)

    @property
    def record_steps(self) -> np.ndarray:
        return self._rows["records"].steps if "records" in self._rows else np.empty(0, np.int64)

    @property
    def particle_times(self) -> np.ndarray:
        """Flow times of `particles`: those of the frames, or the last one."""
        return self._moving.times

    @property
    def particle_steps(self) -> np.ndarray:
        """Accepted steps at `particle_times`."""
        return self._moving.steps

    @property
    def particles(self) -> Frames:
        return Frames(self._moving, _NEURONS + "position/value")

    @property
    def velocities(self) -> Frames | None:
        where = _NEURONS + "velocity/value"
        return Frames(self._moving, where) if self._moving.column(where) is not None else None

    @property
    def predictions(self) -> Frames:
        return Frames(self._rows["frames"], _SEEN + "predictions/value")

    @property
    def test_predictions(self) -> Frames | np.ndarray:
        where = _SEEN + "test_predictions/value"
        if self._rows["frames"].column(where) is None:
            return np.empty((len(self.times), 0))
        return Frames(self._rows["frames"], where)

    @property
    def residuals(self) -> Frames:
        where = _SEEN + "residuals/value"
        if self._rows["frames"].column(where) is None:
            targets = self.contents.fixed["/meanfield/problem/targets"]
            return Frames(self._rows["frames"], _SEEN + "predictions/value", targets)
        return Frames(self._rows["frames"], where)

    @cached_property
    def records(self) -> dict[str, np.ndarray]:
        if "records" not in self._rows:
            return {}
        rows = self._rows["records"]
        paths = [each.path for each in rows.series.columns]
        return {path.split("/")[2]: Frames(rows, path)[:] for path in paths}

    @property
    def _moving(self) -> Rows:
        return self._rows.get("last") or self._rows["frames"]

    def at(self, time: float) -> np.ndarray:
        """Particles at a flow time, (P, D): those of the frame at `time`, or of a cubic between its two neighbours.

            theta(t_k + s h) = (1 + 2s)(1 - s)^2 theta_k + s^2 (3 - 2s) theta_(k+1)
                               + h s (1 - s)^2 v_k - h s^2 (1 - s) v_(k+1),     h = t_(k+1) - t_k

        Hermite's interpolation, of order 4 in h, from positions and velocities.

        Raises InputError outside the frames, and between them where the run kept no velocities.

        Cost: two rows.
        """
        time, times = _checks.number(time, "time"), self.particle_times
        if not len(times) or not times[0] <= time <= times[-1]:
            kept = f"t = {times[0]:g} to {times[-1]:g}" if len(times) else "no time at all"
            raise InputError(f"particles at t = {time:g}; needed: a time among those kept, {kept}.")
        before = int(np.searchsorted(times, time, side="right")) - 1
        if times[before] == time:
            return self.particles[before]
        velocities = self.velocities
        if velocities is None:
            raise InputError(
                f"particles at t = {time:g}, between two frames; needed: a frame's own time, or a run with velocities."
            )
        width = times[before + 1] - times[before]
        s = (time - times[before]) / width
        (here, there), (moving, arriving) = self.particles[before : before + 2], velocities[before : before + 2]
        return (
            (1 + 2 * s) * (1 - s) ** 2 * here + s**2 * (3 - 2 * s) * there
            + width * s * (1 - s) ** 2 * moving - width * s**2 * (1 - s) * arriving
        )  # fmt: skip

    # All of it

    def check(self) -> dict[str, int]:
        """Read every row, and hold it against its CRC; rows of each series. FormatError at one that is damaged."""
        for each in self._rows.values():
            each.check(np.arange(each.count))
        return {name: each.count for name, each in self._rows.items()}

    @property
    def counts(self) -> dict[str, int]:
        """Whole rows of each series."""
        return {name: each.count for name, each in self._rows.items()}

    def rows(self) -> Iterator[tuple[str, int, float, list[np.ndarray]]]:
        """(series, step, time, columns) of every row, series by series, each checked."""
        for name, each in self._rows.items():
            for index in range(each.count):
                yield name, *each.row(index)

    @property
    def filtered(self) -> bool:
        """Whether anything in the file is compressed."""
        paths = (path for each in self.contents.series for path in each.paths)
        return any(self._file[path].id.get_create_plist().get_nfilters() for path in paths)

    # What the run was

    @property
    def kept(self) -> np.ndarray:
        return self.contents.fixed["/particle"]

    @property
    def masses(self) -> np.ndarray:
        return self.contents.fixed["/particles/neurons/mass"]

    @property
    def start(self) -> np.ndarray:
        return self.contents.fixed["/meanfield/start"]

    @property
    def start_masses(self) -> np.ndarray:
        return self.contents.fixed["/meanfield/start_masses"]

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the columns of a particle: a, w1, ..., wd, and b for a bias."""
        return tuple(bytes(each).decode("ascii") for each in self.contents.fixed["/component"])

    @cached_property
    def network(self) -> Network:
        return self._made(plain.network, self.settings, self._given[0])

    @property
    def data(self) -> dict[str, np.ndarray]:
        """The problem's arrays by name, which need no loss: inputs, targets, weights, test_inputs, test_targets, ..."""
        start, fixed = "/meanfield/problem/", self.contents.fixed
        return {path.removeprefix(start): value for path, value in fixed.items() if path.startswith(start)}

    @cached_property
    def problem(self) -> Problem | Population:
        return self._made(plain.problem, self.settings, self.data, self._given[1])

    def _made(self, make, *given):
        try:
            return make(*given)
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as problem:
            raise FormatError(f"{self.path}: its settings are not those of a run ({problem!r}).") from None

    @property
    def scheme(self) -> str:
        scheme = self.settings["run"].get("scheme", "")
        return scheme if isinstance(scheme, str) else str(scheme.get("name", scheme.get("kind", "")))

    @property
    def engine(self) -> str:
        return str(self.settings["run"].get("engine", ""))

    @property
    def dtype(self) -> str:
        """Of the run; that of the arrays on file is `particles.dtype`."""
        return str(self.settings["run"].get("dtype", ""))

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return json.loads(self.contents.text("/meanfield/provenance"))

    @property
    def config(self) -> str:
        return self.contents.text("/parameters/config")

    @property
    def disagreement(self) -> float:
        """Largest |r - (y - F)|, as `Run.disagreement`; frame by frame."""
        targets = self.contents.fixed["/meanfield/problem/targets"]
        pairs = zip(self.residuals, self.predictions, strict=True)
        return max((float(np.abs(r - (targets - f)).max()) for r, f in pairs), default=0.0)

    # How it is shown

    def to_xarray(self) -> Any:
        """All of it as an xarray.Dataset of named dimensions, read when used; needs `pip install 'meanfield[xarray]'`.

        Dimensions step, particle, component, datum, test_datum, record_step (last_step with keep="last"), and the flow
        times as coordinates. The file stays open while the Dataset is in use.
        """
        return views.dataset(self)

    def __repr__(self) -> str:
        return views.line(self)

    def _repr_html_(self) -> str:
        return views.html(self)
