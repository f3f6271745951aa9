"""Analysis of runs, in memory or on file: what can be said of one, or of two, from what they kept and nothing else.

A run's file holds its particles, its problem and its network, so that a file alone gives the risk, the drift of its
tangent kernel, how far its law and its particles went, and whether its energy balances. What cannot be said is left out
with the reason (`Analysis.skipped`); how a number was come by stands beside it (`Analysis.remarks`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from tqdm.auto import tqdm

from . import _checks, diagnostics, tangent, transport
from .diagnostics import Snapshot
from .errors import FormatError, InputError
from .identities import energy_balance
from .population import Population
from .runs import Run

if TYPE_CHECKING:
    from .trajectories import Trajectory

EXACT, BOUNDS = 1000, 5000  # most particles for which each frame's W2 is exact, and between bounds
_UNPLAIN = ("ridge", "temperature", "momentum", "batches")  # with these a run is no gradient flow of the risk alone


@dataclass(frozen=True, eq=False, repr=False)
class Analysis:
    """What `analyse` found, at K times of a run; or `compare`, at K times of two.

    label, title : a short name, and a line about what was looked at
    times : (K,) flow times
    series : name -> (K,), NaN at times where a number could not be had
    remarks : name -> how it was come by
    skipped : name -> why it is not in `series`
    between : of the run and another one, where there was another
    """

    label: str
    title: str
    times: np.ndarray
    series: dict[str, np.ndarray]
    remarks: dict[str, str]
    skipped: dict[str, str]
    between: "Analysis | None" = None

    def __repr__(self) -> str:
        return f"Analysis({self.label!r}, {len(self.times)} times, {', '.join(self.series)})"

    def table(self, rows: int = 11) -> str:
        """Text: the series at `rows` of the times, evenly chosen, then remarks and what was skipped."""
        chosen = _evenly(len(self.times), _checks.count(rows, "rows"))
        cells = [["t", *self.series]]
        cells += [[f"{self.times[k]:.6g}", *(_number(each[k]) for each in self.series.values())] for k in chosen]
        sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(cell.rjust(size) for cell, size in zip(row, sizes, strict=True)) for row in cells]
        lines = [self.title, "", *lines, ""]
        lines += [f"{name}: {text}" for name, text in self.remarks.items()]
        lines += [f"{name}: left out: {text}" for name, text in self.skipped.items()]
        if self.between is not None:
            lines += ["", self.between.table(rows)]
        return "\n".join(lines).rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: lists, None where a series has no number."""
        series = {name: [_plain(each) for each in values] for name, values in self.series.items()}
        found = {"label": self.label, "title": self.title, "times": self.times.tolist(), "series": series}
        found |= {"remarks": dict(self.remarks), "skipped": dict(self.skipped)}
        return found | {"between": None if self.between is None else self.between.to_dict()}


def analyse(
    run: "Run | Trajectory",
    *,
    other: "Run | Trajectory | None" = None,
    frames: int = 40,
    projections: int = 100,
    seed: int = 0,
    max_bytes: float | None = None,
    max_flops: float = 2e12,
    progress: bool = False,
) -> Analysis:
    """What a run did, frame by frame, from what it kept.

    Series, each since the start (t = 0 for a run on file; the first frame for one in memory):

    risk, test_risk : R = sum_k p_k (y_k - F(x_k))^2; the mean over the test set
    kernel_drift : norm(K_t - K_0) / norm(K_0) at the training inputs (`tangent.drift`)
    displacement : sqrt(sum_i m_i |theta_i(t) - theta_i(0)|^2), the coupling distance of the particles to their start
    w2, or w2_lower and w2_upper, or sliced_w2 : how far the law went; exact to 1000 particles, between bounds to 5000
        (`transport.w2_bounds`; no more than the displacement, whose coupling is a plan), by slices above
    w2_floor and so on : the same distance between two random halves of the cloud of that time, N / 2 points each: what
        two samples of one law show. Of W2 that at N points is smaller, by about 2^(-1/D) for D >= 3
    energy_change, energy_integral, energy_residual : `identities.energy_balance`, which is that of R = 2 E l. A file
        knows of ridge, noise, momentum and batches, with which there is none; a Run in memory does not

    Parameters
    ----------
    run : of `simulate`, or of `open`
        With keep="last" or a slice what needs all particles at all times is left out.
    other : optional
        `compare` with this one too: `Analysis.between`.
    frames : most frames looked at, evenly chosen, the first and the last among them; at least 2
        The balance's integral is over all of the run's frames, unless that is above max_flops.
    projections : directions of a sliced distance
    seed : of the directions and halves
    max_bytes : most memory of a tangent kernel; default 80 % of what is free
    max_flops : most multiplications that kernels may take, and the balance: above it, at fewer frames or not at all
    progress : a bar on standard error, if that is a terminal

    Raises
    ------
    InputError
        Where `run` is no run, or one without a frame; on numbers that do not fit.
    FormatError
        Where a row of a file that is read is damaged.

    Cost: for each frame a tangent kernel, 4 N n^2 flops; W2, 0.2 s at 1000 particles; and two evaluations of the
    velocity. Memory O(N D + n^2): a frame at a time.
    """
    kept = _look_at(run)
    settings = _Settings(frames, projections, seed, progress, max_bytes, max_flops)
    if other is not None:
        _look_at(other)
    found = _Series(run.times[_evenly(len(run.times), settings.frames)])
    _risks(found, kept, settings)
    _since_the_start(found, kept, settings)
    _balance(found, kept, settings)
    between = None if other is None else _compare(kept, _look_at(other), settings)
    return Analysis(_label(run), repr(run), found.times, found.values, found.remarks, found.skipped, between)


def compare(
    run: "Run | Trajectory",
    other: "Run | Trajectory",
    *,
    frames: int = 40,
    projections: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> Analysis:
    """How far two runs are apart at the times both have.

    Series: w2 and its kin with their floors, as in `analyse`, the halves those of `run`; coupling_distance, where the
    two start from the same particles; prediction_difference sqrt(sum_k p_k (F - F')^2) and its like at the test inputs,
    where those are the same; risk and other_risk, from the predictions.

    Arguments and errors as for `analyse`; InputError also where the particles have different dimensions, or the runs
    no time in common.
    """
    return _compare(_look_at(run), _look_at(other), _Settings(frames, projections, seed, progress))


@dataclass(frozen=True)
class _Settings:
    frames: int
    projections: int
    seed: int
    progress: bool
    max_bytes: float | None = None
    max_flops: float = 1.0  # which distances do not ask for

    def __post_init__(self):
        for name, least in (("frames", 2), ("projections", 2), ("seed", 0)):
            _checks.count(getattr(self, name), name, least=least)
        _checks.number(self.max_flops, "max_flops", above=0.0)


@dataclass
class _Series:
    """Results as they come."""

    times: np.ndarray
    values: dict[str, np.ndarray] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def skip(self, names: tuple[str, ...], why: str) -> None:
        self.skipped |= dict.fromkeys(names, why)

    def put(self, index: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.values.setdefault(name, np.full(len(self.times), np.nan))[index] = value


@dataclass(frozen=True, eq=False)
class _Kept:
    """A run, and what there is of its particles.

    data : the problem's arrays, as attributes, which are there whatever the loss
    times : (M,) at which there are particles
    rows, masses : (P,) of the start that are kept; None where it is not known which
    whole : whether they are all
    start : (P, D), None where it is not kept
    since : the flow time of `start`
    """

    run: Any
    data: Any
    times: np.ndarray
    rows: np.ndarray | None
    masses: np.ndarray | None
    whole: bool
    start: np.ndarray | None
    since: float

    def particles(self, time: float) -> np.ndarray | None:
        """The particles at a flow time, (P, D) float64, if they were kept."""
        found = np.flatnonzero(_same(self.times, time))
        return np.asarray(self.run.particles[int(found[0])], dtype=np.float64) if len(found) else None

    def has(self, times: np.ndarray) -> np.ndarray:
        """(K,) whether the particles at each of these flow times were kept."""
        return np.array([_same(self.times, time).any() for time in times])

    def frame(self, time: float) -> int:
        """The run's frame at, or next to, a flow time."""
        return int(np.argmin(np.abs(self.run.times - time)))

    @property
    def equal(self) -> bool:
        """Whether all masses are."""
        return self.masses is not None and bool(np.ptp(self.masses) <= 1e-12 * self.masses.max())


def _look_at(run: Any) -> _Kept:
    on_file = hasattr(run, "particle_times")  # a Trajectory, whose module loads h5py
    if not on_file:
        _checks.instance(run, Run, "run", "a Run, of `simulate`, or a Trajectory, of `open`")
    if not len(run.times):
        raise InputError(f"the {type(run).__name__} holds no frame; needed: one at least.")
    if on_file:
        whole = len(run.kept) == len(run.start)
        masses = run.masses / run.masses.sum()
        data = SimpleNamespace(**run.data)
        return _Kept(run, data, run.particle_times, run.kept, masses, whole, run.start[run.kept], 0.0)
    several, some = run.particles.shape[:2]
    whole, everywhere = some == len(run.masses), several == len(run.times)
    times = run.times if everywhere else run.times[-1:]
    masses = run.masses if whole else np.full(some, 1.0 / some) if np.ptp(run.masses) == 0.0 else None
    start = run.particles[0] if everywhere else None
    rows = np.arange(some) if whole else None
    return _Kept(run, run.problem, times, rows, masses, whole, start, float(run.times[0]))


def _same(times, time):
    """Which times are this one, to rounding."""
    return np.abs(times - time) <= 1e-12 * np.abs(time)


def _label(run):
    if not hasattr(run, "path"):
        return run.problem.name
    path = Path(run.path)
    return path.resolve().parent.name if path.name == "run.h5" else path.stem


def _made(run: Any, what: str) -> tuple[Any, str]:
    """(the run's network or problem, "") or (None, why not): the user's own activation or loss is on no file."""
    try:
        return getattr(run, what), ""
    except FormatError:
        raise
    except InputError as problem:
        return None, str(problem)


def _evenly(number: int, most: int) -> np.ndarray:
    """At most so many of so many, evenly chosen, the last of them always and the first if most > 1."""
    return np.unique(np.linspace(number - 1, 0, min(number, most)).round().astype(int))


def _walk(found: _Series, settings: _Settings, what: str) -> Iterator[tuple[int, float]]:
    """(index, time) of the times, with a bar."""
    disable = None if settings.progress else True
    return enumerate(tqdm(found.times.tolist(), desc=what, unit="frame", disable=disable, leave=False))


def _number(value):
    return "-" if np.isnan(value) else f"{value:.4g}"


def _plain(value):
    return float(value) if np.isfinite(value) else None


# One run


def _risks(found, kept, settings):
    """Risks from the predictions; of a population from all particles, or at its probes."""
    network, problem = _made(kept.run, "network")[0], _made(kept.run, "problem")[0]
    closed = isinstance(problem, Population)
    seen = kept.data
    offset = closed and network is not None and network.scaling.offset
    if closed and kept.whole and network is not None and kept.has(found.times).all() and not (offset and kept.since):
        seen = problem
    elif closed:
        found.remarks["risk"] = f"at the {len(seen.targets)} probes: its closed form needs all particles at all times"
        seen = SimpleNamespace(weights=seen.weights, targets=seen.targets, test_targets=seen.test_targets)

    def snapshot(time, particles):
        # Parts of a problem are enough for its risk, and the network is used by a population's alone.
        frame, masses = kept.frame(time), kept.masses
        predictions, tests = (np.asarray(each[frame]) for each in (kept.run.predictions, kept.run.test_predictions))
        return Snapshot(cast(Any, network), cast(Any, seen), time, masses, predictions, tests, particles)

    start = snapshot(kept.since, lambda: kept.start)
    for k, time in _walk(found, settings, "risk"):
        now = snapshot(time, partial(kept.particles, time))
        found.put(k, {"risk": diagnostics.risk(now, start)})
        if len(now.test_predictions):
            found.put(k, {"test_risk": diagnostics.test_risk(now, start)})
    if "test_risk" not in found.values:
        found.skipped["test_risk"] = "the problem has no test set"


def _since_the_start(found, kept, settings):
    """What the particles show since their start: displacement, W2, kernel drift."""
    if why := _missing(kept):
        found.skip(("displacement", "w2", "kernel_drift"), why)
        return
    remarks = [] if kept.whole else [f"of the {len(kept.masses)} particles that were kept"]
    if kept.since:
        remarks.append(f"since t = {kept.since:g}, the first frame")
    if remarks:
        found.remarks["displacement, w2, kernel_drift"] = ", ".join(remarks)
    distance, (formed, drift) = _distance(found, kept, kept, settings), _drift(found, kept, settings)
    for k, time in _walk(found, settings, "particles"):
        if (particles := kept.particles(time)) is None:
            continue
        moved = transport.coupling_distance(particles, kept.start, kept.masses)
        found.put(k, {"displacement": moved})
        if distance is not None:
            numbers = distance(kept.start, particles, kept.masses, kept.masses)
            if "w2_upper" in numbers:
                numbers["w2_upper"] = min(numbers["w2_upper"], moved)  # each particle to its own place is a plan too
            found.put(k, numbers | _floor(distance, particles, kept.masses, settings.seed))
        if drift is not None and k in formed:
            found.put(k, {"kernel_drift": drift(particles)})


def _missing(kept):
    """Why nothing is to be said of the particles, or ""."""
    if kept.masses is None:
        return "the masses of the rows that were kept are not known (a run on file knows them)"
    if not len(kept.times):
        return "the run ended before its last particles were kept"
    if kept.start is None:
        return "the run kept its last particles and not its start (a run on file has both)"
    return ""


def _drift(found, kept, settings):
    """(indices of the times at which a kernel is formed, particles -> its drift); none where that is too much."""
    network, why = _made(kept.run, "network")
    if network is None or not kept.whole:
        found.skipped["kernel_drift"] = why or "the tangent kernel needs all particles"
        return (), None
    inputs, formed = kept.data.inputs, np.flatnonzero(kept.has(found.times))
    flops = 4.0 * len(kept.masses) * len(inputs) ** 2
    affordable = int(min(settings.max_flops / flops, 1e9)) - 1  # one is that of the start
    said = f"of {len(inputs)} inputs and {len(kept.masses)} particles, {flops:.2g} flops each"
    if affordable < 1:
        found.skipped["kernel_drift"] = f"two kernels {said}, are above max_flops = {settings.max_flops:.2g}; raise it"
        return (), None
    if affordable < len(formed):
        formed = formed[_evenly(len(formed), affordable)]
        found.remarks["kernel_drift"] = f"at {len(formed)} times: kernels {said}, max_flops = {settings.max_flops:.2g}"
    kernel = partial(tangent.kernel, network, inputs=inputs, masses=kept.masses, max_bytes=settings.max_bytes)
    try:
        first = kernel(kept.start)
        tangent.drift(first, first)
    except InputError as problem:
        found.skipped["kernel_drift"] = str(problem)
        return (), None
    return formed, lambda particles: tangent.drift(kernel(particles), first)


def _balance(found, kept, settings):
    """The balance of energy, over all frames if that is cheap and else over the chosen ones."""
    run, looked = kept.run, np.arange(len(kept.run.times))
    network, problem, why = _flow(kept)
    flops = 0.0 if why else _flops_of_a_frame(network, problem, len(kept.masses))
    if flops * len(looked) > settings.max_flops:
        looked = np.array([kept.frame(time) for time in found.times])
    if not why and flops * len(looked) > settings.max_flops:
        why = f"{len(looked)} frames take {flops * len(looked):.2g} flops, above max_flops = {settings.max_flops:.2g}"
    if not why and len(looked) < 4:
        why = f"the balance needs four frames or more; given: {len(looked)}"
    if why:
        found.skipped["energy_residual"] = why
        return
    particles = _Some(run.particles, looked, settings.progress)
    chosen: Any = SimpleNamespace(
        network=network, problem=problem, times=run.times[looked], masses=kept.masses, particles=particles
    )
    balance, at = energy_balance(chosen), np.searchsorted(run.times[looked], found.times)
    values = {"change": balance.change, "integral": balance.integral, "residual": balance.residual}
    found.values |= {f"energy_{name}": value[at] for name, value in values.items()}
    found.remarks["energy"] = (
        f"that of R = 2 E l; the integral is of a spline through {len(looked)} of {len(run.times)} frames"
    )


def _flow(kept):
    """The network and problem whose gradient flow the run followed, and why it is not known or was another one."""
    run = kept.run
    (network, no_network), (problem, no_problem) = _made(run, "network"), _made(run, "problem")
    given = run.settings["run"] if hasattr(run, "settings") else {}
    if odd := [name for name in _UNPLAIN if given.get(name)]:
        return network, problem, f"the run has {', '.join(odd)}, and follows no gradient flow of its risk alone"
    if no_network or no_problem:
        return network, problem, no_network or no_problem
    if not kept.whole or len(kept.times) != len(run.times):
        return network, problem, "the balance needs all particles at all times, keep='all'"
    if run.times[0] != 0.0:
        return network, problem, f"the balance begins at t = 0; the first frame is at t = {run.times[0]:g}"
    return network, problem, ""


def _flops_of_a_frame(network, problem, number):
    """About what a prediction and a velocity take."""
    nodes, dim = len(problem.inputs), network.seen(problem.dim)
    if isinstance(problem, Population):
        nodes = 2 * (2 * number + len(problem.teacher))  # pairs of particles, for the risk and for the velocity
    return 12.0 * number * nodes * (dim + 8.0)


class _Some:
    """Some frames of particles, one in memory at a time."""

    def __init__(self, particles: Any, chosen: np.ndarray, progress: bool):
        self._particles, self._chosen, self._disable = particles, chosen.tolist(), None if progress else True
        self.shape = (len(chosen), *particles.shape[1:])

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(self._particles[self._chosen[index]], dtype=np.float64)

    def __iter__(self) -> Iterator[np.ndarray]:
        frames = tqdm(range(len(self._chosen)), desc="balance", unit="frame", disable=self._disable, leave=False)
        return (self[index] for index in frames)


# Distances of laws


def _distance(found, one: _Kept, two: _Kept, settings) -> Callable[..., dict[str, float]] | None:
    """(a, b, masses_a, masses_b) -> numbers by name, of the best tier that these sizes afford; None without POT."""
    sizes = [each.run.particles.shape[1] for each in (one, two)]
    bounded = max(sizes) <= BOUNDS and sizes[0] == sizes[1] and one.equal and two.equal
    halves = "the floor is that between two random halves of the cloud"
    if max(sizes) > EXACT and not bounded:
        found.remarks["sliced_w2"] = (
            f"over {settings.projections} directions, at most W2 / sqrt(D): with {max(sizes)} particles W2 itself "
            f"would take too long; {halves}"
        )
        return partial(_sliced, settings)
    try:
        transport.require()
    except InputError as problem:
        found.skipped["w2"] = str(problem)
        return None
    if max(sizes) > EXACT:
        found.remarks["w2"] = f"between its bounds, with {max(sizes)} particles; {halves}"
        return lambda a, b, p, q: dict(zip(("w2_lower", "w2_upper"), transport.w2_bounds(a, b), strict=True))
    found.remarks["w2"] = f"exact; {halves}"
    return lambda a, b, p, q: {"w2": transport.w2(a, b, p, q)}


def _sliced(settings, a, b, masses_a, masses_b):
    options = {"directions": settings.projections, "seed": settings.seed}
    value, error = transport.sliced_w2(a, b, masses_a, masses_b, **options)
    return {"sliced_w2": value, "sliced_w2_error": error}


def _floor(distance, cloud, masses, seed):
    """The distance between two random halves of a cloud."""
    half = len(cloud) // 2
    order = _checks.generator(seed).permutation(len(cloud))
    first, second = order[:half], order[half : 2 * half]
    if half < 2 or not (masses[first].any() and masses[second].any()):
        return {}
    numbers = distance(cloud[first], cloud[second], masses[first], masses[second])
    return {f"{name}_floor": value for name, value in numbers.items() if not name.endswith("_error")}


# Two runs


def _compare(one: _Kept, two: _Kept, settings) -> Analysis:
    labels = _label(one.run), _label(two.run)
    common = np.array([time for time in one.run.times if _same(two.run.times, time).any()])
    if not len(common):
        spans = (f"{each.times[0]:g} to {each.times[-1]:g}" for each in (one.run, two.run))
        raise InputError(
            f"frames of {labels[0]} and {labels[1]}, t = {' and t = '.join(spans)}, have no time in common; needed: "
            "frames at the same flow times."
        )
    widths = [each.run.particles.shape[2] for each in (one, two)]
    if widths[0] != widths[1]:
        raise InputError(f"the particles of the runs have {widths[0]} and {widths[1]} components; needed: as many.")
    found = _Series(common[_evenly(len(common), settings.frames)])
    _clouds_apart(found, one, two, settings)
    _predictions_apart(found, one, two)
    title = f"{labels[0]} against {labels[1]}: {len(found.times)} of {len(common)} times in common"
    return Analysis(" and ".join(labels), title, found.times, found.values, found.remarks, found.skipped)


def _clouds_apart(found, one, two, settings):
    """W2 with its floor, and the distance of each particle to its other self."""
    there = one.has(found.times) & two.has(found.times)
    if one.masses is None or two.masses is None:
        found.skip(("w2", "coupling_distance"), _missing(one if one.masses is None else two))
    elif not there.any():
        found.skip(("w2", "coupling_distance"), "there is no time at which both runs kept particles")
    else:
        if not (one.whole and two.whole):
            found.remarks["particles"] = f"{len(one.masses)} and {len(two.masses)}, those that were kept"
        if why := _uncoupled(one, two):
            found.skipped["coupling_distance"] = why
        distance = _distance(found, one, two, settings)
        for k, time in _walk(found, settings, "two runs"):
            if not there[k]:
                continue
            a, b = one.particles(time), two.particles(time)
            moved = {} if why else {"coupling_distance": transport.coupling_distance(a, b, one.masses)}
            if distance is not None:
                numbers = distance(a, b, one.masses, two.masses)
                if "w2_upper" in numbers and moved:
                    numbers["w2_upper"] = min(numbers["w2_upper"], moved["coupling_distance"])
                found.put(k, numbers | _floor(distance, a, one.masses, settings.seed))
            found.put(k, moved)


def _uncoupled(one, two):
    """Why rows of the two runs are not the same particles, or ""."""
    if one.rows is None or two.rows is None or not np.array_equal(one.rows, two.rows):
        return "the runs kept different rows, or it is not known which"
    if not np.allclose(one.masses, two.masses, rtol=1e-12, atol=0.0):
        return "the particles of the runs have different masses"
    if one.start is None or two.start is None or one.since or two.since:
        return "the particles at t = 0 were not kept (a run on file has them)"
    if not np.allclose(one.start, two.start, rtol=1e-6, atol=0.0):  # one of them may be in float32
        return "the runs start from different particles, so that row i of one is not row i of the other"
    return ""


def _predictions_apart(found, one, two):
    """Root mean square difference of the predictors, and both risks at the inputs."""
    sets = {"": ("inputs", "predictions"), "test_": ("test_inputs", "test_predictions")}
    for prefix, (inputs, predictions) in sets.items():
        points, others = (getattr(each.data, inputs) for each in (one, two))
        if not np.array_equal(points, others):
            found.skipped[f"{prefix}prediction_difference"] = f"the runs have different {inputs.replace('_', ' ')}"
        elif len(points):
            weights = np.full(len(points), 1.0 / len(points)) if prefix else one.data.weights
            for k, time in enumerate(found.times):
                first, second = (getattr(each.run, predictions)[each.frame(time)] for each in (one, two))
                found.put(k, {f"{prefix}prediction_difference": float(np.sqrt(weights @ (first - second) ** 2))})
    for name, kept in {"risk": one, "other_risk": two}.items():
        for k, time in enumerate(found.times):
            misfit = kept.data.targets - kept.run.predictions[kept.frame(time)]
            found.put(k, {name: float(kept.data.weights @ misfit**2)})
