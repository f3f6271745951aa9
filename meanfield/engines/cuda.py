"""The CUDA engine: Numba kernels over particles, with the state on the device for the whole run.

Layout: a cloud is a device array (1 + d, N), one row per parameter, so that neighbouring threads read neighbouring
particles. Only n numbers cross for each evaluation, float64 on the host, and the particles of a frame. The (N, n)
array never exists. float32 kernels compute in float32 alone; their partial sums are added in float64, in order.
"""

import math
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .. import _memory, interactions
from ..errors import DeviceMemoryError, InputError
from . import cuda_device, cuda_loops, cuda_wide
from .cuda_device import cuda
from .cuda_loops import STAGES, THREADS, TILE
from .cuda_vocabulary import device_function

__all__ = [
    "NAME", "combine", "error_norm", "estimate", "estimate_gram", "features", "free_memory", "gram",
    "is_finite", "jvp", "pack", "pack_inputs", "pack_masses", "pairwise", "predict", "unpack", "vjp",
]  # fmt: skip

NAME = "cuda"
MOST_DIM = {"float32": 48, "float64": 32}  # whose parameters a thread can own in registers
_BLOCKS_EACH = 8  # blocks wanted for each multiprocessor, so that none waits for long
_MOST_SHARES = 1 + STAGES  # of the inputs of a velocity, each with a cloud of its own
_FEATURE_BYTES = 256 * 2**20
_REDUCING_BLOCKS = 512


class Inputs(NamedTuple):
    """Inputs (d, n) on the device, and room that evaluations at them use again."""

    columns: Any
    room: dict


def pack(particles, dtype):
    with _memory_for("a cloud", particles.size * np.dtype(dtype).itemsize):
        return cuda.to_device(np.ascontiguousarray(particles.T, dtype))


def unpack(cloud, n_particles):
    return np.array(cloud.copy_to_host().T[:n_particles], dtype=np.float64, order="C")


def pack_masses(masses, dtype):
    return cuda.to_device(np.array(masses, dtype))


def pack_inputs(inputs, dtype):
    with _memory_for("inputs", inputs.size * np.dtype(dtype).itemsize):
        return Inputs(cuda.to_device(np.ascontiguousarray(inputs.T, dtype)), {})


def features(cloud, inputs):
    """None: a device computes them again sooner than it reads them."""


def estimate(n_particles, n, dim, dtype="float64", clouds=2):
    itemsize = np.dtype(dtype).itemsize
    cloud = n_particles * (1 + dim) * itemsize
    return {
        "clouds": clouds * cloud,
        "masses and inputs": (n_particles + (dim + 1) * n) * itemsize,
        "sums": _splits(n_particles, n, dtype, dim) * n * itemsize + 8 * n,
        "shares": 0 if (shares := _shares(n_particles, n, dtype, dim)) == 1 else shares * cloud,
    }


def free_memory():
    return None if cuda_device.SIMULATED else cuda_device.memory()[0]


def predict(activation, cloud, masses, inputs, features=None):
    return _over_particles("predict", activation, cloud, masses, inputs)


def jvp(activation, cloud, velocity, masses, inputs):
    return _over_particles("jvp", activation, cloud, masses, inputs, velocity)


def _over_particles(operation, activation, cloud, masses, inputs, *velocity):
    """Sums over the particles at every input: in parts of them on the device, then over the parts in order."""
    dim, n = inputs.columns.shape
    kernel, splits = _sized(operation, activation, cloud), _splits(cloud.shape[1], n, cloud.dtype.name, dim)
    partial, total = _room(inputs, "partial", (splits, n), cloud.dtype), _room(inputs, "total", (n,), np.float64)
    kernel[(_blocks(n, _inputs_each(cloud.dtype.name, dim)), splits), THREADS](
        cloud, *velocity, masses, inputs.columns, partial
    )
    _compiled("sum_rows", None, cloud.dtype.name)[_blocks(n), THREADS](partial, total)
    return total.copy_to_host()


def vjp(activation, cloud, inputs, weights, mobilities, features=None, out=None):
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
    pull = _room(inputs, "weights", (n,), cloud.dtype)
    pull.copy_to_device(np.ascontiguousarray(weights, cloud.dtype))
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


def gram(activation, cloud, masses, inputs, other=None):
    same, other = other is None, inputs if other is None else other
    n, m, dtype = inputs.columns.shape[1], other.columns.shape[1], cloud.dtype
    step = min(cloud.shape[1], max(1, _FEATURE_BYTES // (2 * dtype.itemsize * (n + m))))
    wide = [cuda.to_device(np.zeros(n * m)) for _ in range(2)]
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
    kernel[(-(-some // across), -(-n // 2)), (across, 2)](cloud, inputs.columns, first, values, slopes)
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
        arrays = (each.reshape(-1) for each in (result, start, *some))
        kernel[_blocks(base.size), THREADS](*arrays, *weights)
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
    blocks = min(_REDUCING_BLOCKS, _blocks(before.size))
    partial = _empty(blocks, before.dtype)
    arrays = (each.reshape(-1) for each in (before, after, *some))
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


def is_finite(cloud):
    blocks = min(_REDUCING_BLOCKS, _blocks(cloud.size))
    bad = _empty(blocks, np.int32)
    _compiled("is_finite", None, cloud.dtype.name)[blocks, THREADS](cloud.reshape(-1), bad)
    return not bad.copy_to_host().any()


def _sized(operation, activation, cloud):
    """The kernel for the dimension of this cloud: of its own, or the one for any."""
    dim, dtype = len(cloud) - 1, cloud.dtype.name
    if dim > MOST_DIM[dtype]:
        return _compiled(f"{operation}_wide", activation, dtype)
    return _compiled(operation, activation, dtype, dim)


def _inputs_each(dtype, dim):
    return 1 if dim > MOST_DIM[dtype] else cuda_loops.inputs_each(dtype, dim)


def _particles_each(dtype, dim):
    return 1 if dim > MOST_DIM[dtype] else cuda_loops.particles_each(dtype, dim)


def _blocks(size, each=1):
    return -(-size // (THREADS * each))


def _splits(n_particles, n, dtype, dim):
    """Parts of the particles in a prediction: as many as fill the device beside the blocks over the inputs."""
    wanted = _BLOCKS_EACH * cuda_device.multiprocessors()
    return max(1, min(-(-n_particles // TILE), wanted // _blocks(n, _inputs_each(dtype, dim))))


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


@cache
def _compiled(operation, activation, dtype, *dim) -> Any:
    """The kernel of an operation; it is compiled for its arguments when it is first launched."""
    build = getattr(cuda_wide if operation.endswith("_wide") else cuda_loops, f"build_{operation}")
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
