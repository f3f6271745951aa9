"""The public doors of the time loop: `simulate`, `simulate_coupled`, and `resume` for a run on file."""

import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import _checks, _memory, engines, jko, stopping
from .batches import Batches, BatchField
from .coupled import CoupledField
from .diagnostics import DIAGNOSTICS, Snapshot
from .engines import Engine
from .errors import InputError
from .fields import DataField, check_temperature
from .integrators import TABLEAUS, FixedSteps, Scheme, stepper
from .loop import Plan, integrate
from .momentum import MomentumField
from .network import Network
from .output import Output
from .population import Population, PopulationField
from .problems import Problem
from .runs import Kept, Run
from .stopping import Criterion

if TYPE_CHECKING:
    from .trajectories import Trajectory


def simulate(
    network: Network,
    problem: Problem,
    start: np.ndarray,
    times: Sequence[float] | np.ndarray,
    *,
    masses: np.ndarray | None = None,
    scheme: str | Scheme = "dopri5",
    rtol: float = 1e-6,
    atol: float = 1e-8,
    dt: float | None = None,
    engine: str | Engine = "cpu",
    dtype: str = "float64",
    record: Sequence[str | Callable[[Snapshot, Snapshot], float]] = (),
    keep: str | slice = "all",
    max_steps: int = 100_000,
    max_bytes: float | None = None,
    progress: bool = False,
    stop: Criterion | Sequence[Criterion] = (),
    ridge: float = 0.0,
    temperature: float = 0.0,
    noise_seed: int = 0,
    momentum: float = 0.0,
    batches: Batches | None = None,
    record_times: Sequence[float] | np.ndarray | None = None,
    out: str | Path | Output | None = None,
) -> Run:
    """Integrate the gradient flow of the particles (GFD) from t = 0.

        dtheta_i/dt = (1/alpha) sum_k p_k u_k grad_theta [a_i phi(w_i . x_k)],   u = -dl/df

    Parameters
    ----------
    network, problem
        A `Population` instead of data: the flow of its risk, in closed form.
    start : (N, 1 + d)
        Particles at t = 0, row i = (a_i, w_i); see `initial`.
    times : increasing flow times, at least 0
        Where the run is recorded; steps land on them.
    masses : (N,), optional
        Default 1/N; a quadrature rule has its own.
    scheme : name in `integrators.SCHEMES`, or a Tableau, Geiger or MinimisingMovement of that module
        Adaptive (bosh3, dopri5) with `rtol`, `atol` unless `dt` is given; fixed steps of at most `dt` otherwise.
        "geiger": gradient descent by the step rule of Geiger et al., without dt (`integrators.Geiger`). "jko":
        minimising movements of tau = `dt` (`jko`), in float64, for equal masses and mobilities of 1. Neither with
        momentum.
    engine : "cpu", "cuda" or "reference"
    dtype : "float64" or "float32"
    record : names in `diagnostics.DIAGNOSTICS`, or functions (snapshot, first snapshot) -> number
    keep : "all", "last" or a slice
        Which particles stay in memory: all at every time, all at the last one, or these at every time.
    max_steps : int
        Most steps tried, in all.
    max_bytes : float, optional
        Most memory that the run may take; default 80 % of what is free. `engines.estimate` says what it needs.
    progress : bool
        A bar on standard error, if that is a terminal.
    stop : criteria of `stopping`
        The run ends at the first accepted step after which one of them holds: its time is then the last one.
    ridge : float
        lambda: the flow of E l + (lambda/2) alpha^2 sum_i m_i |theta_i|^2; E l = R/2 for the square loss. Needs equal
        mobilities.
    temperature : float
        tau: dtheta_i = v_i dt + sqrt(2 tau) dB_i, by Euler and Maruyama (scheme "euler" with dt, weak order 1). The law
        then goes down the free energy E l / alpha^2 + (lambda / 2) int |theta|^2 dmu + tau int log mu dmu: Mei,
        Montanari & Nguyen (arXiv 1804.06561), section 3. Needs mobilities of 1.
    noise_seed : int
        Of the noise, which is a function of (noise_seed, number of the step, particle) alone: times that are no
        multiples of dt make more steps, and another path.
    momentum : float
        Delay tau of a flow with momentum, tau d^2 theta/dt^2 + d theta/dt = v (`momentum.MomentumField`); 0: without.
    batches : of `batches`, optional
        Which data each step sees: discrete training, with scheme "euler", and times that are multiples of dt: every
        step is of that size, the learning rate. Not with momentum, and neither of
        these two with a `Population`; momentum not with a temperature.
    record_times : increasing flow times, optional
        Where `record` is evaluated, if not at `times`; steps land on them too.
    out : path or Output, optional
        Keep the run on file (docs: the file of a run) instead of in memory: each frame is there for good when the next
        is asked for, and `resume` goes on from the last checkpoint, bit for bit, whatever stopped the run. SIGINT and
        SIGTERM then wait for a checkpoint between two steps.

    Returns
    -------
    Run
        With `out` a Trajectory in its place: the same names, read from the file when they are asked for.

    Raises
    ------
    InputError
        On anything that does not fit, the memory too, before any work.
    DivergenceError
        If no finite state follows; carries step, time and the last good particles.
    StepLimitError
        If `max_steps` are spent before the last time.
    FileError
        If `out` cannot be written (any longer): what was flushed is there.

    Cost: evaluations of the velocity, each about (8 d + two activations) N n flops; O(N d) memory beside what is kept.
    """
    given = {
        "coupled": False, "scheme": scheme, "rtol": rtol, "atol": atol, "dt": dt, "engine": engine, "dtype": dtype,
        "record": record, "keep": keep, "max_steps": max_steps, "stop": stop, "ridge": ridge,
        "temperature": temperature, "noise_seed": noise_seed, "momentum": momentum, "batches": batches,
    }  # fmt: skip
    return _simulate(network, problem, start, masses, times, record_times, given, max_bytes, progress, out)


def simulate_coupled(
    network: Network,
    problem: Problem,
    start: np.ndarray,
    times: Sequence[float] | np.ndarray,
    *,
    masses: np.ndarray | None = None,
    scheme: str | Scheme = "dopri5",
    rtol: float = 1e-6,
    atol: float = 1e-8,
    dt: float | None = None,
    engine: str | Engine = "cpu",
    dtype: str = "float64",
    record: Sequence[str | Callable[[Snapshot, Snapshot], float]] = (),
    keep: str | slice = "all",
    max_steps: int = 100_000,
    max_bytes: float | None = None,
    progress: bool = False,
    stop: Criterion | Sequence[Criterion] = (),
    ridge: float = 0.0,
    record_times: Sequence[float] | np.ndarray | None = None,
    out: str | Path | Output | None = None,
) -> Run:
    """`simulate` with the residual as its own state: dr/dt = -K_mu P u beside the particles (RD beside GFD).

    Arguments, errors and cost as for `simulate`. `Run.residuals` holds r as integrated and `Run.disagreement` its
    largest distance from y - F: the integrator's error, of its order for smooth activations (`coupled.CoupledField`).
    """
    given = {
        "coupled": True, "scheme": scheme, "rtol": rtol, "atol": atol, "dt": dt, "engine": engine, "dtype": dtype,
        "record": record, "keep": keep, "max_steps": max_steps, "stop": stop, "ridge": ridge,
        "temperature": 0.0, "noise_seed": 0, "momentum": 0.0, "batches": None,
    }  # fmt: skip
    return _simulate(network, problem, start, masses, times, record_times, given, max_bytes, progress, out)


def resume(
    path: str | Path,
    *,
    times: Sequence[float] | np.ndarray | None = None,
    record_times: Sequence[float] | np.ndarray | None = None,
    end: float | None = None,
    change: Mapping[str, Any] | None = None,
    activation: Any = None,
    loss: Any = None,
    record: Sequence[Callable] = (),
    stop: Sequence[Criterion] | None = None,
    batches: Batches | None = None,
    checkpoint_seconds: float = 60.0,
    max_bytes: float | None = None,
    progress: bool = False,
) -> "Trajectory":
    """Go on with a run on file from its last checkpoint, as if nothing had stopped it: bit for bit, on the same
    engine, versions and processor. A run that is over is left as it is.

    Parameters
    ----------
    path : of the run's file
    times, record_times : increasing flow times, optional
        Extend the run: they begin with those it had, as far as it has come.
    end : optional
        Extend the run to this flow time, at the distance of its last two times.
    change : optional
        Arguments of `simulate` to go on with instead of the run's own, such as {"max_steps": 10**6, "rtol": 1e-8}. The
        file remembers that they changed.
    activation, loss, record, stop, batches
        Those of the run that are the user's own functions, which no file holds.
    checkpoint_seconds, max_bytes, progress : as in `Output` and `simulate`

    Raises
    ------
    InputError
        If there is no such run, another process is writing it, or something does not fit what it was.
    FormatError
        If the file or its checkpoints are damaged.
    """
    from . import trajectories  # h5py takes its time

    if not (file := _file_of(path)).is_file():
        raise InputError(f"{file} is not a file; needed: that of a run. One that was killed at its start has none.")
    out = Output(file, checkpoint_seconds=checkpoint_seconds)
    with trajectories.locked(out):
        own = {"record": record, "stop": stop, "batches": batches}
        found = trajectories.interrupted(out, own, activation, loss)
        extended = any(each is not None for each in (times, record_times, end))
        plan = found.extended(times, record_times, end) if extended else found.plan
        given, begin = found.given | _checked(change or {}), found.begin
        _check_velocities(found.out, given)
        if set(change or {}) - _SAME_FLOW:  # the velocity at the state is another one now
            begin = replace(begin, velocity=None)
        # A run that was killed after its last checkpoint has only to be called complete.
        if begin.event < len(plan.times) or found.status != "complete":
            moving, schedule = _build(
                found.network, found.problem, found.start, found.masses, plan.times, given, max_bytes, on_file=True
            )
            if activation is not None:
                found.check_units(moving)
            sink = found.recording(moving, plan, begin, change or {})
            _on_file(sink, moving, found.start, plan, schedule, given, progress, begin)
    return trajectories.open(out.path, activation=activation, loss=loss)


_FIXED = ("coupled", "keep", "record", "momentum")  # what cannot change on the way: rows, and entries of the state
_SAME_FLOW = {"rtol", "atol", "dt", "max_steps", "stop"}


def _checked(change):
    if wrong := [name for name in change if name in _FIXED or name not in _ARGUMENTS]:
        allowed = ", ".join(name for name in _ARGUMENTS if name not in _FIXED)
        raise InputError(f"change holds {', '.join(map(repr, wrong))}; needed: some of {allowed}.")
    return dict(change)


def _file_of(path):
    return Path(path) / "run.h5" if Path(path).is_dir() else Path(path)


def _simulate(network, problem, start, masses, times, record_times, given, max_bytes, progress, out):
    if given["coupled"] and isinstance(problem, Population):
        raise InputError("simulate_coupled needs data, whose residual it follows; a Population has none: use simulate.")
    out = out if out is None or isinstance(out, Output) else Output(out)
    moving, schedule = _build(network, problem, start, masses, times, given, max_bytes, on_file=out is not None)
    plan = Plan.of(times, record_times)
    if out is None:
        began, sink = clock.perf_counter(), Kept(given["keep"], _recorders(given["record"]))
        end = _integrate(sink, moving, start, plan, schedule, given, progress, None)
        return sink.run(moving, schedule, end, clock.perf_counter() - began)
    from . import trajectories  # h5py takes its time

    _check_velocities(out, given)
    recorders, criteria = _recorders(given["record"]), stopping.check(given["stop"])
    given |= {"engine": moving.engine.NAME, "record": _listed(given["record"]), "stop": criteria}
    with trajectories.locked(out):
        sink, begin = trajectories.begin(out, moving, start, plan, schedule, list(recorders), given)
        _on_file(sink, moving, start, plan, schedule, given, progress, begin)
    # What takes a Run takes a Trajectory.
    return cast(Run, trajectories.open(out.path, activation=network.activation, loss=problem.loss))


def _check_velocities(out, given):
    if out.velocities and (given["temperature"] or given["batches"]):
        raise InputError("velocities=True with noise or batches, whose paths have none; needed: velocities=False.")


def _integrate(sink, moving, start, plan, schedule, given, progress, begin):
    recorders, criteria = _recorders(given["record"]), stopping.check(given["stop"])
    rest = {"keep": given["keep"], "progress": progress, "begin": begin}
    return integrate(moving, start, plan, schedule, recorders, criteria, sink, **rest)


def _on_file(sink, moving, start, plan, schedule, given, progress, begin):
    """Run with its rows on file; a signal that came meanwhile has its effect when all is saved."""
    with sink:
        sink.save(_integrate(sink, moving, start, plan, schedule, given, progress, begin).position())
    sink.deliver()


def _build(network, problem, start, masses, times, given, max_bytes, on_file):
    """The field and the schedule of a run, when all that can be refused before work is refused."""
    scheme, engine, dtype, ridge = (given[name] for name in ("scheme", "engine", "dtype", "ridge"))
    momentum, temperature, batches = (given[name] for name in ("momentum", "temperature", "batches"))
    coupled = given["coupled"]
    kick = None if coupled else _noise(network, engine, temperature, given["noise_seed"])
    field = {} if coupled else {"kick": kick, "field": lambda: moving}
    steps = {name: given[name] for name in ("dt", "rtol", "atol", "max_steps")}
    schedule = stepper(scheme, **steps, **field)
    # Rows that go to a file do not stay in memory.
    frames, entries = 1 if on_file else np.size(times), 2 if momentum else 1
    _check_memory(
        network, problem, start, frames, schedule, engine, dtype, given["record"], given["keep"], max_bytes,
        features=not coupled, entries=entries,
    )  # fmt: skip
    if not coupled:
        _check_choices(problem, momentum, temperature, batches, schedule, times)
    rest = (network, problem, start, masses, engine, dtype, ridge)
    if coupled:
        moving = CoupledField(*rest)
    elif isinstance(problem, Population):
        moving = PopulationField(*rest)
    elif momentum:
        moving = MomentumField(momentum, *rest)
    elif batches is not None:
        moving = BatchField(batches, *rest)
    else:
        moving = DataField(*rest)
    if schedule.name == "jko":
        jko.check(moving)
    return moving, schedule


def _check_choices(problem, momentum, temperature, batches, schedule, times):
    """Refuse what does not go together."""
    chosen = {
        "a Population": isinstance(problem, Population), "momentum": bool(momentum), "batches": batches is not None,
    }  # fmt: skip
    several = [name for name, given in chosen.items() if given]
    if len(several) > 1 or (momentum and temperature):
        also = " and ".join(several if len(several) > 1 else [*several, "a temperature"])
        raise InputError(f"{also} exclude one another; needed: one of them.")
    if batches is not None:
        if not isinstance(schedule, FixedSteps) or schedule.tableau != TABLEAUS["euler"]:
            raise InputError(f"batches need scheme='euler' with dt; given: {schedule.name!r}.")
        steps = _checks.times(times) / schedule.dt
        if np.abs(steps - np.round(steps)).max() > 1e-6:
            raise InputError(
                f"times are no multiples of dt = {schedule.dt:g} with batches, whose steps are all of that size; "
                "needed: multiples, e.g. dt * numpy.arange(...)."
            )
    if momentum and schedule.name in ("geiger", "jko"):
        raise InputError(f"scheme {schedule.name!r} follows a gradient; momentum needs a Runge-Kutta scheme.")


def _listed(record):
    return [record] if isinstance(record, str) else list(record or ())


def _recorders(record) -> dict[str, Callable]:
    """By name, what is evaluated at a snapshot and the first one."""
    recorders: dict[str, Callable] = {}
    for each in _listed(record):
        recorder = _checks.find(DIAGNOSTICS, each, "record")
        if not callable(recorder):
            raise InputError(f"record holds {each!r}; needed: one of {', '.join(DIAGNOSTICS)} or a function.")
        name = each if isinstance(each, str) else getattr(each, "__name__", repr(each))
        if name in recorders:
            raise InputError(f"record holds two entries called {name!r}; needed: names of their own (def, not lambda).")
        recorders[name] = recorder
    return recorders


_ARGUMENTS = (
    "coupled", "scheme", "rtol", "atol", "dt", "engine", "dtype", "record", "keep", "max_steps", "stop", "ridge",
    "temperature", "noise_seed", "momentum", "batches",
)  # fmt: skip


def _noise(network, engine, temperature, seed):
    """What adds sqrt(2 tau h) N(0, 1) to every parameter after a step of size h; None at temperature 0."""
    _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
    temperature, seed = check_temperature(network.scaling, temperature), _checks.count(seed, "noise_seed", least=0)
    if temperature == 0.0:
        return None
    engine = engines.find(engine)

    def kick(state, h, number, room):
        deviates = engine.noise(state[0], seed, number, room[0])
        return (engine.combine(state[0], np.sqrt(2.0 * temperature * h), [1.0], [deviates], state[0]),)

    return kick


def _check_memory(
    network, problem, start, frames, schedule, engine, dtype, record, keep, max_bytes, features=True, entries=1
):
    """Refuse a run that does not fit. What is no array yet is left to the checks that name it."""
    _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
    _checks.instance(problem, Problem, "problem", "a Problem(inputs, targets), or one from `problems`")
    shape = np.shape(start)
    _check_keep(keep, shape)
    if len(shape) != 2:
        return
    kept = len(range(*keep.indices(shape[0]))) if isinstance(keep, slice) else shape[0]
    frames = 1 if keep == "last" else frames
    network.particles(np.zeros((1, shape[1])), problem.dim)  # before a transposed start is called too large
    # The velocities; the state before, after, at the last recorded time and at the first.
    dim, clouds = network.seen(problem.dim), (schedule.velocities + 4) * entries
    n = len(problem.inputs)
    if isinstance(problem, Population):  # whose nodes are the particles
        n, features = 2 * shape[0] + len(problem.teacher), False
    engine = engines.find(engine)
    needed = engine.estimate(shape[0], n, dim, engines.check_dtype(dtype), clouds)
    tests = 16 * len(problem.test_inputs) * dim
    if not features:  # the velocity of a coupled state needs no prediction
        needed.pop("features", None)
    # Frames twice: one by one, and then in one array. What a record looks at is a frame too, beside the first.
    here = {
        "test inputs": tests, "frames": 2 * frames * 8 * kept * shape[1],
        "records": 2 * 8 * shape[0] * shape[1] if record else 0,
    }  # fmt: skip
    remedy = "Use fewer particles, fewer times or keep='last', dtype='float32'"
    what = f"a run of {shape[0]:,} particles"
    free = engine.free_memory()
    if free is None:
        _memory.check({**needed, **here}, what, remedy, max_bytes)
    else:
        _memory.check(needed, f"{what}, on the device,", remedy, max_bytes, free)
        _memory.check(here, what, remedy, max_bytes)


def _check_keep(keep, shape):
    if isinstance(keep, slice):
        try:
            some = len(range(*keep.indices(shape[0] if shape else 0)))
        except (TypeError, ValueError):
            some = 0
        if not some:
            raise InputError(f"keep is {keep!r}; needed: a slice that holds some of the particles {shape}.")
    elif not isinstance(keep, str) or keep not in ("all", "last"):
        raise InputError(f"keep is {keep!r}; needed: 'all', 'last' or a slice.")
