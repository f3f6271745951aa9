"""The CPU engine: Numba loops over tiles of particles, vectorised by LLVM, parallel over tiles.

Layout: a cloud is (1 + d, N), one row per parameter. A tile is a run of `lanes` particles, 1 KB of a row, copied to
aligned scratch memory, filled up with the last particle at the end of the cloud. Within a tile three steps alternate
over blocks of inputs: Z = X W (a small matrix product), the formula on every entry of Z, and for the velocity X' G, the
same product again. No (N, n) array is formed, unless it is small (`features`).

Sums over particles are taken within a tile, then over the tiles of a group in order, then over groups in order, in
float64 from tile to tile: the bits do not depend on the number of threads. Sums over inputs are taken to float64 every
2048 inputs.
"""

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import get_num_threads, types
from numba.core import config
from numba.core.errors import NumbaError
from numba.np.ufunc import threading_layer

from .. import _checks
from ..activations import linear
from ..errors import InputError
from . import cpu_cache, cpu_loops, host
from . import host as VECTORS
from .cpu_loops import LANES, STAGES, in_parallel, in_turn
from .cpu_single import in_own_type, overlap_in_own_type
from .host import pack_drive, pack_vector, pull, unpack_vector, vector
from .noise import key as noise_key

__all__ = [
    "NAME", "VECTORS", "combine", "error_norm", "estimate", "estimate_gram", "features", "free_memory", "gram",
    "is_finite", "jvp", "noise", "pack", "pack_drive", "pack_inputs", "pack_masses", "pack_vector", "pairwise",
    "predict", "pull", "unpack", "unpack_vector", "vector", "vjp",
]  # fmt: skip

# Waiting threads sleep rather than spin. OpenMP reads this once, before the first parallel loop. Of two quick jobs side
# by side on two busy cores neither ended within 250 s while their idle threads spun on each other's cores; asleep, both
# took 69 s. A job alone (25 s) gives up 5 to 10 %. Whoever sets the variable is obeyed.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "NUMBA_THREADING_LAYER_PRIORITY" not in os.environ:  # Numba's own order begins with TBB
    config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]  # type: ignore[attr-defined]

NAME = "cpu"
_MOST_THREADS: int = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
_MOST_GROUPS = 256  # partial sums kept: (groups, n)
_FEATURE_BYTES = 64 * 2**20  # of phi(z) and a phi'(z), for some particles at a time, behind a tangent kernel
# Of features kept because a cache holds them; and where reading them from memory is quicker than computing them again.
# Measured on one machine with 32 MB of shared cache (docs: the CPU engine).
_CACHE_BYTES, _LARGE_DIM = 2**24, 32
_SMALL = 2**20  # multiplications below which waking a second thread costs more than it saves


class Inputs(NamedTuple):
    """Inputs and their transpose, each with rows of zeros up to a multiple of 4; how many were given."""

    rows: np.ndarray
    columns: np.ndarray
    number: int


def pack(particles, dtype):
    return np.array(particles.T, dtype=dtype, order="C")


def unpack(cloud, n_particles, rows=slice(None)):
    return np.array(cloud.T[:n_particles][rows], dtype=np.float64, order="C")


def pack_masses(masses, dtype):
    return np.array(masses, dtype=dtype)


def pack_inputs(inputs, dtype):
    n, dim = inputs.shape
    rows, columns = np.zeros((-(-n // 4) * 4, dim), dtype), np.zeros((-(-dim // 4) * 4, -(-n // 4) * 4), dtype)
    rows[:n] = inputs
    columns[:dim, :n] = inputs.T
    return Inputs(rows, columns, n)


def features(cloud, inputs):
    """Room for phi(z) and a phi'(z) from a prediction to the velocity after it, or None: better computed twice.

    Kept where a cache holds them; and where d is so large that reading them from memory is quicker than computing them,
    while they are few beside the particles and the data, n N <= 2 (N + n) (1 + d).
    """
    shape = _kept_shape(cloud.shape[1], inputs.number, cloud.shape[0] - 1, cloud.dtype.name)
    return cpu_loops.aligned(shape, cloud.dtype) if shape else None


def _kept_shape(n_particles, n, dim, dtype):
    """Tiles, 2, inputs, lanes; None if nothing is kept."""
    shape = -(-n_particles // LANES[dtype]), 2, -(-n // 4) * 4, LANES[dtype]
    in_cache = math.prod(shape) * np.dtype(dtype).itemsize <= _CACHE_BYTES
    return shape if in_cache or (dim >= _LARGE_DIM and n * n_particles <= 2 * (n_particles + n) * (1 + dim)) else None


def estimate(n_particles, n, dim, dtype="float64", clouds=2):
    itemsize, width, lanes = np.dtype(dtype).itemsize, 1 + dim, LANES[np.dtype(dtype).name]
    tiles = -(-n_particles // lanes)
    return {
        "clouds": clouds * n_particles * width * itemsize,
        "masses and inputs": (n_particles + 2 * n * dim) * itemsize,
        "sums": 8 * n * min(tiles, _MOST_GROUPS),
        "features": math.prod(_kept_shape(n_particles, n, dim, np.dtype(dtype).name) or (0,)) * itemsize,
        "scratch": get_num_threads() * ((2 * width + 2 * cpu_loops.BLOCK) * itemsize + 8 * width) * lanes,
    }


def free_memory():
    """None: clouds are in the memory of this machine."""


def predict(activation, cloud, masses, inputs, features=None):
    _check_sizes(cloud, inputs, masses=masses, features=features)
    partial = _partial_sums(cloud, inputs)
    operation, kept = ("predict", _absent(cloud.dtype)) if features is None else ("predict_and_keep", features)
    work = inputs.rows.size * cloud.shape[1]
    _run(operation, activation, len(partial), work, cloud, masses, inputs.rows, kept, _stride(len(partial)), partial)
    return partial.sum(axis=0)


def jvp(activation, cloud, velocity, masses, inputs):
    _check_sizes(cloud, inputs, masses=masses, out=velocity)
    partial = _partial_sums(cloud, inputs)
    work = inputs.rows.size * cloud.shape[1]
    _run("jvp", activation, len(partial), work, cloud, velocity, masses, inputs.rows, _stride(len(partial)), partial)
    return partial.sum(axis=0)


def vjp(activation, cloud, inputs, weights, mobilities, features=None, out=None):
    weights = np.array(weights, cloud.dtype)
    xi_a, xi_w = (cloud.dtype.type(xi) for xi in mobilities)
    out = np.empty_like(cloud) if out is None else out
    _check_sizes(cloud, inputs, weights, features=features, out=out)
    work, more = inputs.rows.size * cloud.shape[1], (inputs.columns, weights, xi_a, xi_w, out)
    if features is None:
        _run("vjp", activation, _tiles(cloud), work, cloud, inputs.rows, *more)
    else:
        _run("vjp_of_kept", None, _tiles(cloud), work, features, *more)
    return out


def pairwise(overlap, cloud, nodes, weights, mobilities, out=None):
    weights = np.array(weights, cloud.dtype)
    own, theirs = _variances(overlap, cloud[1:]), _variances(overlap, nodes.rows.T)
    xi_a, xi_w = (cloud.dtype.type(xi) for xi in mobilities)
    out = np.empty_like(cloud) if out is None else out
    _check_sizes(cloud, nodes, weights, out=out)
    work = nodes.rows.size * cloud.shape[1]
    nodes = nodes.rows, nodes.columns, theirs, weights
    _run("pairwise", overlap, _tiles(cloud), work, cloud, own, *nodes, xi_a, xi_w, out)
    return out


def _variances(overlap, columns):
    """|w|^2 of each column and its scale, in two rows."""
    q = np.einsum("jk,jk->k", columns, columns)
    return np.array([q, overlap.scale(q)], columns.dtype)


def gram(activation, cloud, masses, inputs, other=None):
    _check_sizes(cloud, inputs, masses=masses)
    if other is not None and other.number < inputs.number:  # columns are filled up to whole tiles: the larger number
        in_a, in_w = gram(activation, cloud, masses, other, inputs)
        return in_a.T, in_w.T
    same, other = other is None, inputs if other is None else other
    lanes = LANES[cloud.dtype.name]
    in_a, in_w = np.zeros((2, len(inputs.rows), -(-len(other.rows) // lanes) * lanes))
    step = _gram_step(inputs.number, other.number, cloud.dtype.name)
    for first in range(0, cloud.shape[1], step):
        block, mass = np.ascontiguousarray(cloud[:, first : first + step]), masses[first : first + step]
        features = _features(activation, block, inputs)
        features_other = features if same else _features(activation, block, other)
        for i, total in enumerate((in_a, in_w)):
            work = features[i].size * len(features_other[i])
            _run("gram", None, total.shape[1] // lanes, work, features[i], features_other[i], mass, same, total)
        del features, features_other  # before the next ones are made
    in_a, in_w = in_a[: inputs.number, : other.number], in_w[: inputs.number, : other.number]
    return (_mirrored(in_a), _mirrored(in_w)) if same else (in_a, in_w)


def _gram_step(n, m, dtype):
    """Particles whose features are there at a time: whole tiles, at least one."""
    lanes = LANES[dtype]
    tiles = _FEATURE_BYTES // (2 * np.dtype(dtype).itemsize * (n + m) * lanes)
    return min(max(1, tiles) * lanes, cpu_loops.RUN)


def estimate_gram(n, m, dtype="float64"):
    n, m = sorted((n, m))
    lanes, itemsize = LANES[np.dtype(dtype).name], np.dtype(dtype).itemsize
    step = _gram_step(n, m, np.dtype(dtype).name)
    return {
        "sums": 2 * 8 * (n + 3) * (-(-m // lanes) * lanes),
        "features": 2 * itemsize * (n + m + 6) * step,
        "scratch": get_num_threads() * (step + cpu_loops.BLOCK) * lanes * itemsize,
    }


def _features(activation, cloud, inputs):
    values, slopes = np.empty((2, len(inputs.rows), cloud.shape[1]), cloud.dtype)
    _run("features", activation, _tiles(cloud), inputs.rows.size * cloud.shape[1], cloud, inputs.rows, values, slopes)
    return values, slopes


def _mirrored(upper):
    """The symmetric matrix with this upper triangle."""
    upper = np.triu(upper)
    upper += np.triu(upper, 1).T
    return upper


def combine(base, step, coefficients, stages, out=None):
    """As `host.combine`, in one pass up to seven stages; `out` may be one of the arrays read."""
    groups = list(_by_sevens(step, coefficients, stages, base.reshape(-1)))
    result = np.empty_like(base) if out is None or len(groups) > 1 else out
    target, start = result.reshape(-1), base.reshape(-1)
    for weights, some in groups:
        _run("combine", None, cpu_loops.chunks(base.size), base.size, target, start, *some, weights)
        start = target
    if out is None or result is out:
        return result
    out[...] = result
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


def noise(cloud, seed, step, out=None):
    out = np.empty_like(cloud) if out is None else out
    if out.shape != cloud.shape:
        raise ValueError(f"an array {out.shape} for the noise of a cloud {cloud.shape}")
    _run("noise", None, cpu_loops.chunks(out.shape[1]), out.size, out, *noise_key(seed, step))
    return out


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


def set_num_threads(number):
    number = _checks.count(number, "number of threads")
    if number > _MOST_THREADS:
        raise InputError(
            f"number of threads is {number}; needed: at most {_MOST_THREADS}, with which this process "
            "started. Set NUMBA_NUM_THREADS before starting it."
        )
    numba.set_num_threads(number)


def side_by_side(function, arguments):
    def start():
        numba.set_num_threads(1)  # of this thread

    with ThreadPoolExecutor(get_num_threads(), initializer=start) as pool:
        futures = [pool.submit(function, *each) for each in arguments]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def doctor() -> dict[str, str]:
    """Threads and threading layer in use, which takes a parallel loop to find out; where machine code is kept."""
    cloud = pack(np.zeros((1, 2)), "float64")
    predict(linear, cloud, cloud[0], pack_inputs(np.zeros((1, 1)), "float64"))
    return {
        "threads": str(get_num_threads()),
        "threading layer": threading_layer(),
        "machine code": str(cpu_cache.folder())
        + ("" if cpu_cache.usable() else " (not used: it cannot be written to)"),
    }


def _tiles(cloud):
    return -(-cloud.shape[1] // LANES[cloud.dtype.name])


def _check_sizes(cloud, inputs, weights=None, *, masses=None, features=None, out=None):
    """What compiled code takes on trust: that sizes fit together."""
    width, n_particles = cloud.shape
    kept = (_tiles(cloud), 2, len(inputs.rows), LANES[cloud.dtype.name])
    for what, fits in (
        ("inputs", inputs.rows.shape[1] == width - 1),
        ("weights", weights is None or weights.shape == (inputs.number,)),
        ("masses", masses is None or masses.shape == (n_particles,)),
        ("features", features is None or features.shape == kept),
        ("another cloud", out is None or out.shape == cloud.shape),
    ):
        if not fits:
            raise ValueError(f"{what} of another size than a cloud {cloud.shape} and {inputs.number} inputs have")


def _partial_sums(cloud, inputs):
    return np.zeros((min(_tiles(cloud), _MOST_GROUPS), inputs.number))


@cache
def _stride(groups):
    """A step that goes through all groups, and through all parts of them early.

    Threads take runs of steps. Where atoms without mass lie together, which cost nothing, each has its share of them.
    """
    return next(step for step in range(max(1, round(0.618 * groups)), groups + 1) if math.gcd(step, groups) == 1)


@cache
def _absent(dtype):
    return np.empty((0, 0, 0, 0), dtype)


def _run(operation, activation, count, work, *arguments):
    """Do an operation for i < count in parallel; on one thread where there are few multiplications to do."""
    address, wanted = _compiled(operation, activation, arguments[0].dtype)
    # Code called by its address takes arguments on trust.
    for each, dtype in zip(arguments, wanted, strict=True):
        if dtype is not None and not (each.dtype == dtype and each.flags.c_contiguous):
            raise TypeError(
                f"{operation}: an array of {each.dtype}, C-ordered: {each.flags.c_contiguous}; needed {dtype}"
            )
    loop = in_parallel if work >= _SMALL and count > 1 and get_num_threads() > 1 else in_turn
    with _parallel if loop is in_parallel else nullcontext():
        loop(count, address, arguments)


@cache
def _compiled(operation, activation, dtype) -> tuple[int, tuple]:
    """Address of the machine code of an operation for an activation, and the dtypes of its arrays."""
    with _compiling:
        return _compile(operation, activation, dtype)


def _compile(operation, activation, dtype):
    build = getattr(cpu_loops, f"build_{operation}")
    name, formula = ("", None) if activation is None else (activation.name, activation.formula)
    try:
        typed = overlap_in_own_type if operation == "pairwise" else in_own_type
        kernel = build(dtype.name) if formula is None else build(typed(formula), dtype.name)
        cpu_cache.attach(kernel, operation, dtype.name, "" if formula is None else cpu_cache.digest(formula))
        kinds = _types(operation, numba.from_dtype(dtype))
        kernel.compile((types.intp, *kinds))
    except (NumbaError, TypeError, AttributeError) as problem:
        lines = [line for line in str(problem).splitlines() if line.strip()]
        reason = next((line for line in lines if not line.startswith("Failed in")), "no reason given")
        kind, returned = _KINDS["pairwise" if operation == "pairwise" else "other"]
        raise InputError(
            f"{kind} {name!r} does not compile for engine 'cpu' ({reason}); needed: arithmetic over "
            f"meanfield.vocabulary that returns {returned}. Engine 'reference' runs any NumPy function."
        ) from problem
    _kernels.append(kernel)
    (result,) = kernel.overloads.values()
    dtypes = tuple(
        np.dtype(each.dtype.name.replace("boolean", "bool")) if isinstance(each, types.Array) else None
        for each in kinds
    )
    return result.library.get_pointer_to_function(result.fndesc.llvm_func_name), dtypes


def _types(operation, real):
    """Types of an operation's arguments: C-ordered arrays of this dtype, partial sums in float64."""
    row, cloud, kept = (types.Array(real, dimensions, "C") for dimensions in (1, 2, 4))
    sums, line, flags = types.float64[:, ::1], types.float64[::1], types.boolean[::1]
    return {
        "predict": (cloud, row, cloud, kept, types.intp, sums),
        "predict_and_keep": (cloud, row, cloud, kept, types.intp, sums),
        "jvp": (cloud, cloud, row, cloud, types.intp, sums),
        "vjp": (cloud, cloud, cloud, row, real, real, cloud),
        "vjp_of_kept": (kept, cloud, row, real, real, cloud),
        "pairwise": (cloud, cloud, cloud, cloud, cloud, row, real, real, cloud),
        "features": (cloud, cloud, cloud, cloud),
        "gram": (cloud, cloud, row, types.boolean, sums),
        "combine": (row,) * (3 + STAGES),
        "error_norm": (*(row,) * (3 + STAGES), real, real, line),
        "is_finite": (row, flags),
        "noise": (cloud, types.intp, types.intp, types.intp),
    }[operation]


# What a formula is called, and what it returns.
_KINDS = {"pairwise": ("overlap", "(value, d/dc, d/dq)"), "other": ("activation", "(value, slope)")}


def _renew_locks():
    """After a fork: a lock that another thread of the parent held would never be released."""
    global _parallel, _compiling
    _parallel, _compiling = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
_parallel = threading.Lock()  # two of Python's threads in parallel loops at once: Numba's workqueue aborts the process
_compiling = threading.Lock()  # so that of two threads with one need the second finds on disk what the first compiled
_kernels: list[Any] = []  # keeps the machine code alive whose addresses are out
cpu_cache.attach(in_parallel, "in parallel")
cpu_cache.attach(in_turn, "in turn")
