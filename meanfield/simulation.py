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


