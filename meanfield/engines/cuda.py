"""The CUDA engine: Numba kernels over particles, with the state on the device for the whole run.

Layout: a cloud is a device array (1 + d, N), one row per parameter, so that neighbouring threads read neighbouring
particles. The (N, n) array never exists. float32 kernels compute in float32 alone; their partial sums are added in
float64, in order.

Within an evaluation nothing crosses to the host: the sums over particles, the loss and the velocity are three launches
one after another. A step waits for the device once, for its error or whether it is finite.
"""

import logging
import math
import sys
import threading
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .. import _memory, interactions
from ..errors import DeviceMemoryError, InputError
from . import cuda_device, cuda_gemm, cuda_loops, cuda_wide
from . import noise as philox
from .cuda_device import cuda
from .cuda_loops import STAGES, THREADS, TILE
from .cuda_vocabulary import device_function

__all__ = [
    "NAME", "VECTORS", "combine", "error_norm", "estimate", "estimate_gram", "features", "free_memory", "gram",
    "is_finite", "jvp", "noise", "pack", "pack_drive", "pack_inputs", "pack_masses", "pack_vector", "pairwise",
    "predict", "pull", "unpack", "unpack_vector", "vector", "vjp",
]  # fmt: skip

NAME = "cuda"
VECTORS = sys.modules[__name__]  # the algebra of clouds is that of any array
MOST_DIM = {"float32": 48, "float64": 32}  # whose parameters a thread can own in registers
_BLOCKS_EACH = 8  # blocks wanted for each multiprocessor, so that none waits for long
_MOST_SHARES = 1 + STAGES  # of the inputs of a velocity, each with a cloud of its own
_FEATURE_BYTES = 256 * 2**20
_REDUCING_BLOCKS = 512
_MOST_ROWS = 65535  # of a grid


class Inputs(NamedTuple):
    """Inputs (d, n) on the device, and room that evaluations at them use again."""

    columns: Any
    room: dict


class Drive(NamedTuple):
    """As `host.Drive`, on the device, with room for the weights that come of it, in the dtype of the clouds."""

    shift: Any
    targets: Any
    shares: Any
    weights: Any


def pack(particles, dtype):
    return _to_device("a cloud", np.ascontiguousarray(particles.T, dtype))


def unpack(cloud, n_particles, rows=slice(None)):
    first, last, step = rows.indices(n_particles)
    if step != 1:
        return unpack(cloud, n_particles)[rows]
    result = np.empty((max(0, last - first), len(cloud)))
    if len(result):  # row by row: each is one run of the device's memory
        for j, column in enumerate(result.T):
            column[...] = cloud[j, first:last].copy_to_host()
    return result


def pack_masses(masses, dtype):
    return _to_device("masses", np.array(masses, dtype))


def _to_device(what, array):
    with _memory_for(what, array.nbytes):
        return cuda.to_device(array)


def pack_inputs(inputs, dtype):
    return Inputs(_to_device("inputs", np.ascontiguousarray(inputs.T, dtype)), {})


def features(cloud, inputs):
    """None: a device computes them again sooner than it reads them."""


def estimate(n_particles, n, dim, dtype="float64", clouds=2):
    itemsize = np.dtype(dtype).itemsize
    cloud, products = n_particles * (1 + dim) * itemsize, dim >= cuda_gemm.LEAST_DIM and cuda_gemm.available()
    return {
        "clouds": clouds * cloud,
        "masses and inputs": (n_particles + (dim + 1) * n) * itemsize,
        "sums": _splits(n_particles, n, dtype, dim) * n * itemsize + (8 + 3) * 8 * n,
        "shares": 0 if (shares := _shares(n_particles, n, dtype, dim)) == 1 else shares * cloud,
        "products": 4 * (n + dim) * cuda_gemm.tile(n, n_particles, dtype) * itemsize if products else 0,
    }


def free_memory():
    cuda_gemm.release()
    return _memory.available() if cuda_device.SIMULATED else cuda_device.memory()[0]


def predict(activation, cloud, masses, inputs, features=None):
    if _by_products(inputs):
        return _sums_by_products("sum_units", activation, cloud, masses, inputs)
    return _over_particles("predict", activation, cloud, masses, inputs)


def jvp(activation, cloud, velocity, masses, inputs):
    if _by_products(inputs):
        return _sums_by_products("sum_motions", activation, cloud, masses, inputs, velocity)
    return _over_particles("jvp", activation, cloud, masses, inputs, velocity)


def _over_particles(operation, activation, cloud, masses, inputs, *velocity):
    """Sums over the particles at every input, (parts, n): over a part of them in each row, which waits to be added."""
    dim, n = inputs.columns.shape
    each = _inputs_each(cloud.dtype.name, dim, n)
    kernel, splits = _sized(operation, activation, cloud, each), _splits(cloud.shape[1], n, cloud.dtype.name, dim)
    partial = _room(inputs, "partial", (splits, n), cloud.dtype)
    kernel[(_blocks(n, each), splits), THREADS](cloud, *velocity, masses, inputs.columns, partial)
    return partial


def vector(sums, factor=1.0, out=None):
    sums = _rows(sums)
    out = _empty(sums.shape[1], np.float64) if out is None else out
    _compiled("sum_rows", None, sums.dtype.name)[_blocks(out.size), THREADS](sums, float(factor), out)
    return out


def pack_vector(values):
    return _to_device("a vector", np.array(values, dtype=np.float64))


def unpack_vector(vector):
    return vector.copy_to_host()


def pack_drive(shift, targets, shares, dtype):
    n = len(targets)
    return Drive(pack_vector(shift), pack_vector(targets), pack_vector(shares), _empty(n, dtype))


def pull(loss, sums, factor, drive):
    sums, name = _rows(sums), drive.weights.dtype.name
    kernel = _pulling(loss, name)
    if kernel is not None:
        kernel[_blocks(sums.shape[1]), THREADS](sums, float(factor), *drive)
    else:
        shift, targets, shares = (each.copy_to_host() for each in drive[:3])
        weights = shares * loss.pull(unpack_vector(vector(sums, factor)) + shift, targets)
        drive.weights.copy_to_device(np.ascontiguousarray(weights, drive.weights.dtype))
    return drive.weights


@cache
def _pulling(loss, dtype):
    """The kernel of a loss; None if only NumPy can compute it, on the host, for which every evaluation waits."""
    try:
        return cuda_loops.build_pull(device_function(loss.pull, ("f", "y"), 1, "float64"), dtype)
    except InputError as problem:
        logging.getLogger(__name__).warning("loss %r is computed on the host, slowly: %s", loss.name, problem)
        return None


def _rows(sums):
    """An array of two axes as it is, a cloud or sums of which a part of the particles has a row; a vector is one."""
    return sums if sums.ndim == 2 else sums.reshape((1, sums.size))


def _by_products(inputs):
    return len(inputs.columns) >= cuda_gemm.LEAST_DIM and cuda_gemm.available()


def _sums_by_products(operation, activation, cloud, masses, inputs, *velocity):
    """As `_over_particles`, a row of sums for each tile of particles."""
    n, n_particles = inputs.columns.shape[1], cloud.shape[1]
    size = cuda_gemm.tile(n, n_particles, cloud.dtype)
    partial = _room(inputs, "partial", (-(-n_particles // size), n), cloud.dtype)
    kernel = _compiled(operation, activation, cloud.dtype.name)
    for row, first in enumerate(range(0, n_particles, size)):
        last = min(first + size, n_particles)
        with _memory_for("projections", (1 + len(velocity)) * n * (last - first) * cloud.dtype.itemsize):
            projections = [cuda_gemm.projections(inputs.columns, each, first, last) for each in (cloud, *velocity)]
        kernel[n, THREADS](*projections, cloud, *velocity, masses, first, partial, row)
    return partial


def _velocity_by_products(activation, cloud, inputs, pull, mobilities, out):
    """As `_over_inputs`, a tile of particles at a time."""
    n, n_particles, real = inputs.columns.shape[1], cloud.shape[1], cloud.dtype.type
    size, wanted = cuda_gemm.tile(n, n_particles, cloud.dtype), _BLOCKS_EACH * cuda_device.multiprocessors()
    shares = max(1, min(n, wanted // _blocks(size)))
    in_a = _room(inputs, "in_a", (shares, size), cloud.dtype)
    kernel, place = _compiled("pull_units", activation, cloud.dtype.name), _compiled("place", None, cloud.dtype.name)
    xi_a, xi_w = (real(each) for each in mobilities)
    for first in range(0, n_particles, size):
        last = min(first + size, n_particles)
        blocks = _blocks(last - first)
        with _memory_for("projections", n * (last - first) * cloud.dtype.itemsize):
            z = cuda_gemm.projections(inputs.columns, cloud, first, last)
            kernel[(blocks, shares), THREADS](z, cloud, pull, first, in_a)
            in_w = cuda_gemm.pulled(inputs.columns, z)
        place[(blocks, len(cloud)), THREADS](in_a, in_w, xi_a, xi_w, first, out)
    return out


def vjp(activation, cloud, inputs, weights, mobilities, features=None, out=None):
    if _by_products(inputs):
        out = _empty(cloud.shape, cloud.dtype) if out is None else out
        return _velocity_by_products(activation, cloud, inputs, _on_device(weights, cloud, inputs), mobilities, out)
    each = _particles_each(cloud.dtype.name, len(inputs.columns))
    return _over_inputs(_sized("vjp", activation, cloud), each, cloud, inputs, weights, mobilities, out)


def pairwise(overlap, cloud, nodes, weights, mobilities, out=None):
    n = nodes.columns.shape[1]
    sizes = _room(nodes, "sizes", (2, n), cloud.dtype)
    _compiled("sizes", overlap, cloud.dtype.name)[_blocks(n), THREADS](nodes.columns, sizes)
    return _over_inputs(_sized("pairwise", overlap, cloud), 1, cloud, nodes, weights, mobilities, out, sizes)


def _over_inputs(kernel, each, cloud, inputs, weights, mobilities, out, *sizes):
    """Sums over the inputs for every particle: in shares of them where there are few particles."""
    dim, n = inputs.columns.shape
    pull = _on_device(weights, cloud, inputs)
    out = _empty(cloud.shape, cloud.dtype) if out is None else out
    shares = _shares(cloud.shape[1], n, cloud.dtype.name, dim)
    apart = (
        out.reshape((1, *cloud.shape)) if shares == 1 else _room(inputs, "shares", (shares, *cloud.shape), cloud.dtype)
    )
    xi = (cloud.dtype.type(each) for each in mobilities)
    kernel[(_blocks(cloud.shape[1], each), shares), THREADS](cloud, inputs.columns, *sizes, pull, *xi, apart)
    if shares > 1:
        rest = [apart[share] for share in range(1, shares)]
        combine(apart[0], 1.0, [1.0] * len(rest), rest, out)
    return out


def _on_device(weights, cloud, inputs):
    """Weights of the inputs: those of `pull` as they are, those of the host copied."""
    if not isinstance(weights, np.ndarray):
        return weights
    room = _room(inputs, "weights", weights.shape, cloud.dtype)
    room.copy_to_device(np.ascontiguousarray(weights, cloud.dtype))
    return room


def gram(activation, cloud, masses, inputs, other=None):
    same, other = other is None, inputs if other is None else other
    n, m, dtype = inputs.columns.shape[1], other.columns.shape[1], cloud.dtype
    step = min(cloud.shape[1], max(1, _FEATURE_BYTES // (2 * dtype.itemsize * (n + m))))
    wide = [_to_device("a kernel", np.zeros(n * m)) for _ in range(2)]
    block = _empty((n, m), dtype)
    side = cuda_loops.GRAM
    multiply, add = _compiled("gram", None, dtype.name), _compiled("add", None, dtype.name)
    for first in range(0, cloud.shape[1], step):
        some = min(step, cloud.shape[1] - first)
        left = _features(activation, cloud, inputs, first, some)
        right = left if same else _features(activation, cloud, other, first, some)
        for x, y, out in zip(left, right, wide, strict=True):
            multiply[(-(-m // side), -(-n // side)), (side, side)](x, y, masses, first, block)
            add[_blocks(n * m), THREADS](block.reshape(-1), out)
    in_a, in_w = (each.copy_to_host().reshape(n, m) for each in wide)
    return (_mirrored(in_a), _mirrored(in_w)) if same else (in_a, in_w)


def estimate_gram(n, m, dtype="float64"):
    itemsize = np.dtype(dtype).itemsize
    return {
        "sums": (2 * 8 + itemsize) * n * m,
        "features": max(_FEATURE_BYTES, 2 * itemsize * (n + m)),
    }


def _features(activation, cloud, inputs, first, some):
    n = inputs.columns.shape[1]
    values, slopes = (_empty((n, some), cloud.dtype) for _ in range(2))
    across = THREADS // 2
    kernel = _compiled("features", activation, cloud.dtype.name)
    kernel[(-(-some // across), min(-(-n // 2), _MOST_ROWS)), (across, 2)](cloud, inputs.columns, first, values, slopes)
    return values, slopes


def _mirrored(upper):
    """The symmetric matrix with this upper triangle."""
    upper = np.triu(upper)
    return upper + np.triu(upper, 1).T


def combine(base, step, coefficients, stages, out=None):
    result = _empty(base.shape, base.dtype) if out is None else out
    kernel, start = _compiled("combine", None, base.dtype.name), base
    groups = list(_by_sevens(step, coefficients, stages, base))
    if len(groups) > 1 and any(result is each for each in stages):
        result = _empty(base.shape, base.dtype)
    for weights, some in groups:
        arrays = map(_rows, (result, start, *some))
        kernel[(_blocks(base.shape[base.ndim - 1]), len(base) if base.ndim == 2 else 1), THREADS](*arrays, *weights)
        start = result
    if out is None or result is out:
        return result
    out.copy_to_device(result)
    return out


def error_norm(step, coefficients, stages, before, after, rtol, atol, n_particles=None):
    real = before.dtype.type
    groups = list(_by_sevens(step, coefficients, stages, before))
    if len(groups) > 1:
        raise InputError("the scheme has more than seven stages with an error; engine 'cuda' takes up to seven.")
    weights, some = groups[0]
    blocks = min(_REDUCING_BLOCKS, _blocks(before.shape[before.ndim - 1]))
    partial = _scratch(blocks, before.dtype)
    arrays = map(_rows, (before, after, *some))
    kernel = _compiled("error_norm", None, before.dtype.name)
    kernel[blocks, THREADS](*arrays, *weights, real(rtol), real(atol), partial)
    return float(partial.copy_to_host().sum(dtype=np.float64)), before.size


def _by_sevens(step, coefficients, stages, absent):
    """Coefficients that are not zero, times the step, and their stages, in groups filled up to seven."""
    real = absent.dtype.type
    moves = [(step * c, stage) for c, stage in zip(coefficients, stages, strict=False) if c != 0.0]
    for first in range(0, len(moves) or 1, STAGES):
        some = moves[first : first + STAGES]
        some += [(0.0, absent)] * (STAGES - len(some))
        weights, arrays = zip(*some, strict=True)
        yield [real(weight) for weight in weights], arrays


def noise(cloud, seed, step, out=None):
    out = _empty(cloud.shape, cloud.dtype) if out is None else out
    blocks = _blocks(out.shape[1]), -(-out.shape[0] // philox.EACH)
    _compiled("noise", None, out.dtype.name)[blocks, THREADS](out, *philox.key(seed, step))
    return out


def is_finite(cloud):
    blocks = min(_REDUCING_BLOCKS, _blocks(cloud.shape[cloud.ndim - 1]))
    bad = _scratch(blocks, np.int32)
    _compiled("is_finite", None, cloud.dtype.name)[blocks, THREADS](_rows(cloud), bad)
    return not bad.copy_to_host().any()


def _sized(operation, activation, cloud, *each):
    """The kernel for the dimension of this cloud: of its own, or the one for any."""
    dim, dtype = len(cloud) - 1, cloud.dtype.name
    if dim > MOST_DIM[dtype]:
        return _compiled(f"{operation}_wide", activation, dtype)
    return _compiled(operation, activation, dtype, dim, *each)


def _inputs_each(dtype, dim, n):
    return 1 if dim > MOST_DIM[dtype] else cuda_loops.inputs_each(dtype, dim, n)


def _particles_each(dtype, dim):
    return 1 if dim > MOST_DIM[dtype] else cuda_loops.particles_each(dtype, dim)


def _blocks(size, each=1):
    return -(-size // (THREADS * each))


def _splits(n_particles, n, dtype, dim):
    """Parts of the particles in a prediction: as many as fill the device beside the blocks over the inputs."""
    wanted = _BLOCKS_EACH * cuda_device.multiprocessors()
    return max(1, min(-(-n_particles // TILE), wanted // _blocks(n, _inputs_each(dtype, dim, n))))


def _shares(n_particles, n, dtype, dim):
    """Parts of the inputs in a velocity: more than one where the particles alone do not fill the device."""
    wanted = _BLOCKS_EACH * cuda_device.multiprocessors()
    blocks = _blocks(n_particles, _particles_each(dtype, dim))
    return max(1, min(-(-n // TILE), wanted // blocks, _MOST_SHARES))


def _room(inputs, name, shape, dtype):
    """An array to compute in, the same at every call."""
    key = name, shape, np.dtype(dtype).name
    if key not in inputs.room:
        inputs.room[key] = _empty(shape, dtype)
    return inputs.room[key]


_kept = threading.local()


def _scratch(size, dtype):
    """A small array to reduce into, the same at every call of this thread: what is in it is read at once."""
    key = size, np.dtype(dtype).name
    arrays: dict[Any, Any] = _kept.__dict__
    if key not in arrays:
        arrays[key] = _empty(size, dtype)
    return arrays[key]


def _empty(shape, dtype):
    with _memory_for("an array", math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize):
        return cuda.device_array(shape, np.dtype(dtype))


@contextmanager
def _memory_for(what, size):
    """Turns the driver's refusal into an error that says how much was asked for."""
    try:
        yield
    except Exception as problem:
        if "OUT_OF_MEMORY" not in str(problem) and not isinstance(problem, MemoryError):
            raise
        free, total = cuda_device.memory()
        raise DeviceMemoryError(
            f"the device has no room for {what} of {_memory.size(size)}: {_memory.size(free)} of "
            f"{_memory.size(total)} are free. Use fewer particles, dtype='float32', or free other arrays."
        ) from problem


_BY_PRODUCTS = ("sum_units", "sum_motions", "pull_units", "place")


@cache
def _compiled(operation, activation, dtype, *dim) -> Any:
    """The kernel of an operation; it is compiled for its arguments when it is first launched."""
    home = cuda_wide if operation.endswith("_wide") else cuda_gemm if operation in _BY_PRODUCTS else cuda_loops
    build = getattr(home, f"build_{operation}")
    if operation == "noise":
        words, reals = (
            cuda.jit(device=True)(each) for each in (philox.words, philox.build_reals(np.dtype(dtype).type))
        )
        return build(words, reals, device_function(philox.pair, ("v", "w", "t", "quadrant"), 2, dtype), dtype)
    if activation is None:
        return build(dtype)
    try:
        return build(*_formulas(operation, activation, dtype), dtype, *dim)
    except InputError as problem:
        kind = "overlap" if operation.startswith(("pairwise", "sizes")) else "activation"
        raise InputError(f"{kind} {activation.name!r} cannot be compiled for engine 'cuda': {problem}") from None


def _formulas(operation, activation, dtype):
    """Device functions that a kernel is built around."""
    if operation.startswith(("pairwise", "sizes")):
        scale = device_function(activation.scale, ("q",), 1, dtype)
        if operation == "sizes":
            return (scale,)
        return device_function(activation.formula, ("c", "q", "s", "p", "t"), 3, dtype), scale
    interaction, arguments, results = {
        "predict": (interactions.unit, ("a", "z"), 1),
        "sum_units": (interactions.unit, ("a", "z"), 1),
        "sum_motions": (interactions.unit_motion, ("a", "z", "da", "dz"), 1),
        "pull_units": (interactions.unit_gradient, ("a", "z"), 2),
        "vjp": (interactions.unit_gradient, ("a", "z"), 2),
        "features": (interactions.unit_gradient, ("a", "z"), 2),
        "jvp": (interactions.unit_motion, ("a", "z", "da", "dz"), 1),
    }[operation.removesuffix("_wide")]
    return (device_function(interaction(_pair(activation.formula)), arguments, results, dtype),)


def _pair(formula):
    def phi(z):
        found = formula(z)
        if not (isinstance(found, tuple) and len(found) == 2):
            number = len(found) if isinstance(found, tuple) else 1
            raise InputError(f"its formula returns {number} values; needed: two.")
        return found

    return phi
