"""The engine as a contender: each operation of `cases.KINDS` through the package's own functions.

An operation maps (case, engine) to (call, probe): `call` is timed, and `probe` takes from its result what
`cases.expected` has; None where nothing is compared.
"""

import gc
import importlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from .. import engines, tangent
from ..activations import ACTIVATIONS
from ..fields import DataField
from ..network import Network
from ..overlaps import OVERLAPS
from ..problems import Problem
from ..simulation import simulate
from .cases import Case, data, probed

STEPS = 2000  # of `simulate_step`
_LONG_STEPS = 10  # of runs whose steps are long
_LONG_END = 12.0  # flow time of these: about as many steps of the adaptive scheme


def velocity(case: Case, engine: str):
    """In the arrays of the velocity before, as a flow has it from its second step on."""
    field, state = _start(case, engine)
    rows, moved = probed(case.N), None

    def call():
        nonlocal moved
        moved = field.velocity(state, moved)
        return moved

    return call, lambda result: field.particles(result)[rows]


def jvp(case: Case, engine: str):
    field, state = _start(case, engine)
    moved = field.velocity(state)[0]
    return lambda: field.motion(state[0], moved), None


def tangent_kernel(case: Case, engine: str):
    particles, inputs, _ = data(case)
    rows = probed(case.n)
    network = Network(case.activation)
    return lambda: tangent.kernel(network, particles, inputs, engine=engine), lambda result: result[np.ix_(rows, rows)]


def population(case: Case, engine: str):
    """One pairwise velocity; the particles become nodes anew, as in a flow."""
    chosen, rows = engines.find(engine), probed(case.N)
    particles = data(case)[0]
    overlap, pull = OVERLAPS[ACTIVATIONS[case.activation]], -particles[:, 0] / case.N
    cloud, moved = chosen.pack(particles, case.dtype), None

    def call():
        nonlocal moved
        nodes = chosen.pack_inputs(particles[:, 1:], case.dtype)
        moved = chosen.pairwise(overlap, cloud, nodes, pull, (1.0, 1.0), moved)
        return moved

    return call, lambda result: chosen.unpack(result, case.N)[rows]


def simulate_step(case: Case, engine: str):
    """A whole run of `STEPS` Euler steps; `UNITS` says how many operations that is."""
    particles, inputs, targets = data(case)
    problem, network = Problem(inputs, targets), Network(case.activation)

    def call():
        return simulate(
            network, problem, particles, [1.0], scheme="euler", dt=1.0 / STEPS, engine=engine, dtype=case.dtype
        )

    return call, None


def small_run(case: Case, engine: str) -> None:
    """A short adaptive run at a size where velocities are computed otherwise than at a small one."""
    particles, inputs, targets = data(replace(case, N=100 * case.N))
    network, problem = Network(case.activation), Problem(inputs, targets)
    simulate(network, problem, particles, [0.01], engine=engine, dtype=case.dtype)


def whole_run(scheme: str, case: Case, engine: str):
    """A run of some steps, its start and its snapshots included."""
    particles, inputs, targets = data(case)
    network, problem = Network(case.activation), Problem(inputs, targets)
    steps = {"dt": _LONG_END / _LONG_STEPS} if scheme == "rk4" else {}
    arguments = {"scheme": scheme, "engine": engine, "dtype": case.dtype, "keep": "last", **steps}
    return lambda: simulate(network, problem, particles, [_LONG_END], **arguments), None


def evaluations(scheme: str, case: Case, engine: str):
    """As many velocities as that run takes, and nothing else."""
    number = whole_run(scheme, case, engine)[0]().evaluations
    one, _ = velocity(case, engine)

    def call():
        for _ in range(number):
            one()

    return call, None


OPERATIONS = {
    "velocity": velocity,
    "jvp": jvp,
    "tangent_kernel": tangent_kernel,
    "population": population,
    "simulate_step": simulate_step,
    "run_rk4": partial(whole_run, "rk4"),
    "evaluations_rk4": partial(evaluations, "rk4"),
    "run_dopri5": partial(whole_run, "dopri5"),
    "evaluations_dopri5": partial(evaluations, "dopri5"),
}
UNITS = {"simulate_step": STEPS}  # operations in one call, where it is not one


def device_rates():
    """What measures the device: its clock, its copies and its arithmetic (`engines.cuda_rates`)."""
    rates = importlib.import_module("meanfield.engines.cuda_rates")
    return {"timed": rates.timed, "copy": rates.copy, "fma": rates.fma, "release": engines.find("cuda").free_memory}


def memory(case: Case, engine: str) -> dict[str, float]:
    """`peak_growth` on the host; on a device all that a field, a state and a velocity take of it, over the state."""
    if engine != "cuda":
        return {"peak_rss_over_state": peak_growth(case, engine)}
    chosen = engines.find(engine)
    field, state = _start(replace(case, N=max(1, case.N // 20)), engine)
    field.velocity(state)  # compiles
    del field, state
    gc.collect()
    before = chosen.free_memory() or 0.0
    field, state = _start(case, engine)
    moved = field.velocity(state)
    field.velocity(state, moved)
    taken = before - (chosen.free_memory() or 0.0)
    return {"device_memory_over_state": taken / (case.N * (1 + case.d) * np.dtype(case.dtype).itemsize)}


def peak_growth(case: Case, engine: str) -> float:
    """By how much two velocity evaluations raise the peak of the resident memory, over the bytes of the state.

    Counted from what is resident once state and inputs are there and a twentieth of the particles has compiled the
    code; the velocity that is returned counts 1. Call it in a process that has held nothing larger, or the peak may be
    an old one.
    """
    field, state = _start(replace(case, N=max(1, case.N // 20)), engine)
    field.velocity(state)
    del field, state
    field, state = _start(case, engine)
    before = _forget_peak()
    for _ in range(2):
        field.velocity(state)
    size = case.N * (1 + case.d) * np.dtype(case.dtype).itemsize
    return max(0.0, _peak() - before) / size


def _start(case, engine):
    particles, inputs, targets = data(case)
    field = DataField(Network(case.activation), Problem(inputs, targets), particles, engine=engine, dtype=case.dtype)
    return field, field.state(particles)


def _forget_peak() -> float:
    """Resident bytes now; the peak starts again from here where the system allows (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (OSError, StopIteration):
        return _peak()


def _peak() -> float:
    """Peak of the resident memory, in bytes."""
    try:
        return _status("VmHWM")
    except (OSError, StopIteration):
        import resource  # Unix only

        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * float(next(line for line in lines if line.startswith(name)).split()[1])
