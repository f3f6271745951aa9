"""The CPU engine: Numba loops over tiles of particles, vectorised by LLVM, parallel over tiles.

Layout: a cloud is (1 + d, N), one row per parameter. A tile is a run of `lanes` particles, 1 KB of a row, copied to
aligned scratch memory, padded with zeros at the end of the cloud. Within a tile three steps alternate over blocks of
inputs: Z = X W (a small matrix product), the formula on every entry of Z, and for the velocity X' G, the same
product again. The (N, n) array never exists, unless it is small beside the cloud and the inputs (`projections`).

Sums over particles are taken within a tile, then over the tiles of a group in order, then over groups in order: the
bits do not depend on the number of threads.
"""

import os
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import get_num_threads, types
from numba.core.errors import NumbaError
from numba.np.ufunc import threading_layer

from ..activations import linear
from ..errors import InputError
from . import cpu_cache, cpu_loops, host
from .cpu_loops import LANES, STAGES, in_parallel, in_turn
from .cpu_single import in_own_type

__all__ = [
    "NAME", "combine", "error_norm", "is_finite", "jvp", "pack", "pack_inputs", "pack_masses", "predict",
    "projections", "unpack", "vjp",
]  # fmt: skip

# Waiting threads sleep rather than spin. OpenMP reads this once, before the first parallel loop. Of two quick jobs side
# by side on two busy cores neither ended within 250 s while their idle threads spun on each other's cores; asleep, both
# took 69 s. A job alone (25 s) gives up 5 to 10 %. Whoever sets the variable is obeyed.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

NAME = "cpu"
_MOST_GROUPS = 256  # partial sums kept: (groups, n)
_SMALL = 2**20  # multiplications below which waking a second thread costs more than it saves


class Inputs(NamedTuple):
    """Inputs and their transpose, each with rows of zeros up to a multiple of 4; how many were given."""

    rows: np.ndarray
    columns: np.ndarray
    number: int


def pack(particles, dtype):
    return np.array(particles.T, dtype=dtype, order="C")


def unpack(cloud, n_particles):
    return np.array(cloud.T[:n_particles], dtype=np.float64, order="C")


def pack_masses(masses, dtype):
    return np.array(masses, dtype=dtype)


def pack_inputs(inputs, dtype):
    n, dim = inputs.shape
    rows, columns = np.zeros((-(-n // 4) * 4, dim), dtype), np.zeros((-(-dim // 4) * 4, -(-n // 4) * 4), dtype)
    rows[:n] = inputs
    columns[:dim, :n] = inputs.T
    return Inputs(rows, columns, n)


def projections(cloud, inputs):
    """Room for z = w . x from a prediction to the velocity after it, or None where z is better computed twice.

    Kept where n N is at most 2 (N + n) (1 + d), so that memory stays of the order of the particles and the data;
    d is large there, and a third of the arithmetic is saved.
    """
    width, n_particles = cloud.shape
    if inputs.number * n_particles > 2 * (n_particles + inputs.number) * width:
        return None
    lanes = LANES[cloud.dtype.name]
    return cpu_loops.aligned((-(-n_particles // lanes), len(inputs.rows), lanes), cloud.dtype)


def predict(activation, cloud, masses, inputs, projections=None):
    partial = _partial_sums(cloud, inputs)
    work = inputs.rows.size * cloud.shape[1]
    _run("predict", activation, len(partial), work, cloud, masses, inputs.rows, _kept(projections, cloud), partial)
    return partial.sum(axis=0)


def jvp(activation, cloud, velocity, masses, inputs):
    partial = _partial_sums(cloud, inputs)
    work = inputs.rows.size * cloud.shape[1]
    _run("jvp", activation, len(partial), work, cloud, velocity, masses, inputs.rows, partial)
    return partial.sum(axis=0)


def vjp(activation, cloud, inputs, weights, mobilities, projections=None, out=None):
    padded = np.zeros(len(inputs.rows), cloud.dtype)
    padded[: inputs.number] = weights
    xi_a, xi_w = (cloud.dtype.type(xi) for xi in mobilities)
    out = np.empty_like(cloud) if out is None else out
    kept = _kept(projections, cloud)
    work = inputs.rows.size * cloud.shape[1]
    _run("vjp", activation, _tiles(cloud), work, cloud, inputs.rows, inputs.columns, padded, xi_a, xi_w, kept, out)
    return out


def combine(base, step, coefficients, stages, out=None):
    """As `host.combine`, in one pass; `out` may be one of the arrays read."""
    out = np.empty_like(base) if out is None else out
    target, start = out.reshape(-1), base.reshape(-1)
    for weights, some in _by_sevens(step, coefficients, stages, start):
        _run("combine", None, cpu_loops.chunks(base.size), base.size, target, start, *some, weights)
        start = target
    return out


def error_norm(step, coefficients, stages, before, after, rtol, atol, n_particles=None):
    """As `host.error_norm`, in one pass."""
    real, first = before.dtype.type, before.reshape(-1)
    (weights, some), *more = _by_sevens(step, coefficients, stages, first)
    if more:
        return host.error_norm(step, coefficients, stages, before, after, rtol, atol)
    partial = np.empty(cpu_loops.chunks(before.size))
    arguments = first, after.reshape(-1), *some, weights, real(rtol), real(atol), partial
    _run("error_norm", None, len(partial), before.size, *arguments)
    return float(partial.sum()), before.size


def _by_sevens(step, coefficients, stages, absent):
    """Coefficients that are not zero, times the step, and their stages, in groups filled up to seven."""
    moves = [(step * c, stage.reshape(-1)) for c, stage in zip(coefficients, stages, strict=False) if c != 0.0]
    for first in range(0, len(moves) or 1, STAGES):
        some = moves[first : first + STAGES]
        some += [(0.0, absent)] * (STAGES - len(some))
        weights, arrays = zip(*some, strict=True)
        yield np.array(weights, absent.dtype), arrays


def is_finite(cloud):
    partial = np.empty(cpu_loops.chunks(cloud.size), bool)
    _run("is_finite", None, len(partial), cloud.size, cloud.reshape(-1), partial)
    return bool(partial.all())


def doctor() -> dict[str, str]:
    """Threads and threading layer in use, which takes a parallel loop to find out; where machine code is kept."""
    cloud = pack(np.zeros((1, 2)), "float64")
    predict(linear, cloud, cloud[0], pack_inputs(np.zeros((1, 1)), "float64"))
    return {
        "threads": str(get_num_threads()),
        "threading layer": threading_layer(),
        "machine code": str(cpu_cache.folder()),
    }


def _tiles(cloud):
    return -(-cloud.shape[1] // LANES[cloud.dtype.name])


def _partial_sums(cloud, inputs):
    return np.zeros((min(_tiles(cloud), _MOST_GROUPS), inputs.number))


def _kept(projections, cloud):
    return np.empty((0, 0, 0), cloud.dtype) if projections is None else projections


def _run(operation, activation, count, work, *arguments):
    """Do an operation for i < count in parallel; on one thread where there are few multiplications to do."""
    address = _compiled(operation, activation, arguments[0].dtype)
    loop = in_parallel if work >= _SMALL and count > 1 else in_turn
    loop(count, address, arguments)


@cache
def _compiled(operation, activation, dtype) -> int:
    """Address of the machine code of an operation for an activation."""
    build = getattr(cpu_loops, f"build_{operation}")
    name, formula = ("", None) if activation is None else (activation.name, activation.formula)
    try:
        kernel = build() if formula is None else build(in_own_type(formula), dtype.name)
        cpu_cache.attach(kernel, operation, dtype.name, "" if formula is None else cpu_cache.digest(formula))
        kernel.compile((types.intp, *_types(operation, numba.from_dtype(dtype))))
    except (NumbaError, TypeError, AttributeError) as problem:
        lines = [line for line in str(problem).splitlines() if line.strip()]
        reason = next((line for line in lines if not line.startswith("Failed in")), "no reason given")
        raise InputError(
            f"activation {name!r} does not compile for engine 'cpu' ({reason}); needed: branch-free arithmetic over "
            "meanfield.vocabulary that returns (value, slope). Engine 'reference' runs any NumPy function."
        ) from problem
    _kernels.append(kernel)
    (result,) = kernel.overloads.values()
    return result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


def _types(operation, real):
    """Types of an operation's arguments: C-ordered arrays of this dtype, partial sums in float64."""
    row, cloud, kept = (types.Array(real, dimensions, "C") for dimensions in (1, 2, 3))
    sums, line, flags = types.float64[:, ::1], types.float64[::1], types.boolean[::1]
    return {
        "predict": (cloud, row, cloud, kept, sums),
        "jvp": (cloud, cloud, row, cloud, sums),
        "vjp": (cloud, cloud, cloud, row, real, real, kept, cloud),
        "combine": (row,) * (3 + STAGES),
        "error_norm": (*(row,) * (3 + STAGES), real, real, line),
        "is_finite": (row, flags),
    }[operation]


_kernels: list[Any] = []  # keeps the machine code alive whose addresses are out
cpu_cache.attach(in_parallel, "in parallel")
cpu_cache.attach(in_turn, "in turn")
