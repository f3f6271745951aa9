"""The time loop: a network, a problem and a start, integrated to the requested flow times."""

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from . import _checks, _memory, engines, jko, losses, stopping, tangent
from .batches import Batches, BatchField
from .coupled import CoupledField
from .diagnostics import DIAGNOSTICS, Snapshot
from .engines import Engine
from .errors import DivergenceError, InputError, StepLimitError
from .fields import DataField, check_temperature
from .integrators import TABLEAUS, FixedSteps, Scheme, StateLost, StepLimitReached, stepper
from .momentum import MomentumField
from .network import Network
from .population import Population, PopulationField
from .problems import Problem
from .stopping import Criterion

# Of a kernel that is formed only for an error's message: inputs, and multiplications.
_MOST_INPUTS, _MOST_PRODUCTS = 2000, 2.5e10


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What `simulate` returns.

    times : (T,) flow times
    particles : (T, N, 1 + d), or what `keep` says: (1, N, 1 + d) for "last", (T, rows, 1 + d) for a slice
    predictions, test_predictions : (T, n), (T, m): the predictor F = f - f_0
    residuals : (T, n): targets - predictions; for `simulate_coupled` the residual as integrated
    records : name -> (T,)
    masses : (N,)
    stopped_by : "time", or the name of the criterion that was met
    steps, rejected, evaluations : accepted and rejected steps, velocity evaluations
    seconds : wall time
    """

    network: Network
    problem: Problem
    times: np.ndarray
    particles: np.ndarray
    predictions: np.ndarray
    test_predictions: np.ndarray
    residuals: np.ndarray
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
            f"final {what} {number:.4g}, "
            f"{self.seconds:.2f} s)"
        )


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

    Returns
    -------
    Run

    Raises
    ------
    InputError
        On anything that does not fit, the memory too, before any work.
    DivergenceError
        If no finite state follows; carries step, time and the last good particles.
    StepLimitError
        If `max_steps` are spent before the last time.

    Cost: evaluations of the velocity, each about (8 d + two activations) N n flops; O(N d) memory beside what is kept.
    """
    kick = _noise(network, engine, temperature, noise_seed)
    schedule = stepper(scheme, dt=dt, rtol=rtol, atol=atol, max_steps=max_steps, kick=kick, field=lambda: moving)
    entries = 2 if momentum else 1  # clouds of a state
    _check_memory(network, problem, start, times, schedule, engine, dtype, record, keep, max_bytes, entries=entries)
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
    if isinstance(problem, Population):
        moving = PopulationField(network, problem, start, masses, engine, dtype, ridge)
    elif momentum:
        moving = MomentumField(momentum, network, problem, start, masses, engine, dtype, ridge)
    elif batches is not None:
        moving = BatchField(batches, network, problem, start, masses, engine, dtype, ridge)
    else:
        moving = DataField(network, problem, start, masses, engine, dtype, ridge)
    if schedule.name == "jko":
        jko.check(moving)
    return _integrate(moving, start, times, schedule, record, keep, progress, stop)


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
) -> Run:
    """`simulate` with the residual as its own state: dr/dt = -K_mu P u beside the particles (RD beside GFD).

    Arguments, errors and cost as for `simulate`. `Run.residuals` holds r as integrated and `Run.disagreement` its
    largest distance from y - F: the integrator's error, of its order for smooth activations (`coupled.CoupledField`).
    """
    if isinstance(problem, Population):
        raise InputError("simulate_coupled needs data, whose residual it follows; a Population has none: use simulate.")
    schedule = stepper(scheme, dt=dt, rtol=rtol, atol=atol, max_steps=max_steps)
    _check_memory(network, problem, start, times, schedule, engine, dtype, record, keep, max_bytes, features=False)
    moving = CoupledField(network, problem, start, masses, engine, dtype, ridge)
    return _integrate(moving, start, times, schedule, record, keep, progress, stop)


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
    network, problem, start, times, schedule, engine, dtype, record, keep, max_bytes, features=True, entries=1
):
    """Refuse a run that does not fit. What is no array yet is left to the checks that name it."""
    _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
    _checks.instance(problem, Problem, "problem", "a Problem(inputs, targets), or one from `problems`")
    shape = np.shape(start)
    _check_keep(keep, shape)
    if len(shape) != 2:
        return
    kept = len(range(*keep.indices(shape[0]))) if isinstance(keep, slice) else shape[0]
    frames = 1 if keep == "last" else np.size(times)
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


def _integrate(moving: DataField, start, times, schedule, record, keep, progress, stop) -> Run:
    times, criteria = _checks.times(times), stopping.check(stop)
    recorders: dict[str, Callable] = {}
    for each in [record] if isinstance(record, str) else record or ():
        recorder = _checks.find(DIAGNOSTICS, each, "record")
        if not callable(recorder):
            raise InputError(f"record holds {each!r}; needed: one of {', '.join(DIAGNOSTICS)} or a function.")
        name = each if isinstance(each, str) else getattr(each, "__name__", repr(each))
        if name in recorders:
            raise InputError(f"record holds two entries called {name!r}; needed: names of their own (def, not lambda).")
        recorders[name] = recorder
    chosen = keep if isinstance(keep, slice) else None

    began, evaluations = clock.perf_counter(), 0

    def velocity(state, out):
        nonlocal evaluations
        evaluations += 1
        return moving.velocity(state, out)

    state, now, stopped_by = moving.state(start), 0.0, None
    first = _snapshot(moving, state, now)

    def on_step(at, state):
        nonlocal now, stopped_by
        bar.update(at - bar.n)
        look = stopping.Look(moving, state, at)
        now, stopped_by = at, next((each.name for each in criteria if each.holds(look)), None)
        return stopped_by is not None

    reached, kept, predictions, test_predictions, residuals = [], [], [], [], []
    rows: dict[str, list[float]] = {name: [] for name in recorders}
    with tqdm(total=float(times[-1]), unit="t", disable=None if progress else True, leave=False) as bar:
        for target in times:
            try:
                state = schedule.advance(velocity, moving.algebra, state, now, target, on_step)
            except StateLost as lost:
                raise _diverged(moving, schedule, lost, first) from None
            except StepLimitReached:
                raise StepLimitError(
                    f"{schedule.max_steps} steps were spent before t = {target:g} ({schedule.accepted} accepted, "
                    f"{schedule.rejected} rejected); {_step_advice(moving.problem, schedule)}."
                ) from None
            now = now if stopped_by else float(target)
            reached.append(now)
            snapshot = first if now == 0.0 else _snapshot(moving, state, now)
            _check_growth(moving, schedule, snapshot, first)
            predictions.append(snapshot.predictions)
            test_predictions.append(snapshot.test_predictions)
            residuals.append(moving.residual(state, snapshot.predictions))
            for name, recorder in recorders.items():
                rows[name].append(recorder(snapshot, first))
            if chosen is not None:
                kept.append(moving.particles(state, chosen))
            elif keep == "all" or stopped_by or target == times[-1]:
                kept.append(snapshot.particles)
            if stopped_by:
                break
    return Run(
        moving.network,
        moving.problem,
        np.array(reached),
        np.array(kept),
        np.array(predictions),
        np.array(test_predictions),
        np.array(residuals),
        {name: np.array(values) for name, values in rows.items()},
        moving.masses,
        schedule.name,
        moving.engine.NAME,
        moving.dtype,
        stopped_by or "time",
        schedule.accepted,
        schedule.rejected,
        evaluations,
        clock.perf_counter() - began,
    )


def _step_advice(problem, schedule):
    """What to do about a spent budget: where the pull jumps, no step that an error estimate chooses is small enough."""
    if isinstance(problem, Problem) and not problem.loss.smooth and not isinstance(schedule, FixedSteps):
        return f"the pull of the loss {problem.loss.name!r} jumps: use losses.soft_hinge, or scheme='euler' with dt"
    return f"raise max_steps{schedule.advice}"


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
