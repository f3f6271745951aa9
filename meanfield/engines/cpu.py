"""The CPU engine: Numba loops over tiles of particles, vectorised by LLVM, parallel over tiles.

Layout: particles lie in tiles of `LANES`, a cloud is (tiles, 1 + d, LANES), so that the innermost loop runs over
particles side by side in memory; the last tile is padded with atoms of mass zero. z = w . x is recomputed where it
is needed and the (N, n) array never exists. Sums over particles are taken within a tile, then over the tiles of a
group in order, then over groups in order: the bits do not depend on the number of threads.
"""

import os
from functools import cache
from typing import Any

import numpy as np
from numba import get_num_threads, njit, prange
from numba.core.errors import NumbaError
from numba.np.ufunc import threading_layer

from .. import interactions
from ..activations import linear
from ..errors import InputError
from . import host
from .cpu_vocabulary import EXACT  # which attaches the compiled vocabulary
from .host import combine, is_finite

__all__ = [
    "NAME", "combine", "error_norm", "is_finite", "jvp", "pack", "pack_inputs", "pack_masses", "predict", "unpack",
    "vjp",
]  # fmt: skip

# Waiting threads sleep rather than spin. OpenMP reads this once, before the first parallel loop. Of two quick jobs side
# by side on two busy cores neither ended within 250 s while their idle threads spun on each other's cores; asleep, both
# took 69 s. A job alone (25 s) gives up 5 to 10 %. Whoever sets the variable is obeyed.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

NAME = "cpu"
LANES = 64  # eight AVX-512 vectors of float64: long enough to hide latencies, short enough for the first-level cache
_MOST_GROUPS = 256  # partial sums kept: (groups, n)

# Sums may be reassociated into vector lanes; NaN and infinity must survive, or a diverged run would go unseen.
_DRIVER: Any = {
    "parallel": True,
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
    "error_model": "numpy",
    "nogil": True,
}


def pack(particles, dtype):
    n_particles, width = particles.shape
    tiles = -(-n_particles // LANES)
    padded = np.zeros((tiles * LANES, width), dtype=dtype)
    padded[:n_particles] = particles
    return np.ascontiguousarray(padded.reshape(tiles, LANES, width).transpose(0, 2, 1))


def unpack(cloud, n_particles):
    tiles, width, lanes = cloud.shape
    return cloud.transpose(0, 2, 1).reshape(tiles * lanes, width)[:n_particles].astype(np.float64)


def pack_masses(masses, dtype):
    return np.ascontiguousarray(pack(masses[:, None], dtype)[:, 0])


def pack_inputs(inputs, dtype):
    return np.array(inputs, dtype=dtype, order="C")


def error_norm(step, coefficients, stages, before, after, rtol, atol, n_particles):
    """As `host.error_norm`, without the padding of the last tile, which may move where phi(0) is not 0."""
    last = slice(n_particles - (len(before) - 1) * LANES)
    total, size = 0.0, 0
    for part in ((slice(-1),), (slice(-1, None), slice(None), last)):
        moves = [stage[part] for stage in stages]
        some, entries = host.error_norm(step, coefficients, moves, before[part], after[part], rtol, atol)
        total, size = total + some, size + entries
    return total, size


def predict(activation, cloud, masses, inputs):
    partial = _partial_sums(cloud, inputs)
    _driver("predict", activation, cloud.dtype)(cloud, masses, inputs, partial)
    return partial.sum(axis=0)


def jvp(activation, cloud, velocity, masses, inputs):
    partial = _partial_sums(cloud, inputs)
    _driver("jvp", activation, cloud.dtype)(cloud, velocity, masses, inputs, partial)
    return partial.sum(axis=0)


def vjp(activation, cloud, inputs, weights, mobilities):
    velocity = np.empty_like(cloud)
    weights = weights.astype(cloud.dtype)
    xi_a, xi_w = (cloud.dtype.type(xi) for xi in mobilities)
    _driver("vjp", activation, cloud.dtype)(cloud, inputs, weights, xi_a, xi_w, velocity)
    return velocity


def doctor() -> dict[str, str]:
    """Threads and threading layer in use; runs a driver to find out."""
    tile = pack(np.zeros((1, 2)), "float64")
    predict(linear, tile, tile[:, 0], np.zeros((1, 1)))
    return {"threads": str(get_num_threads()), "threading layer": threading_layer(), "lanes": str(LANES)}


def _partial_sums(cloud, inputs):
    return np.zeros((min(len(cloud), _MOST_GROUPS), len(inputs)))


def _driver(operation, activation, dtype):
    return _compiled(operation, activation.formula, activation.name, np.dtype(dtype).name)


@cache
def _compiled(operation, formula, name, dtype) -> Any:
    """The driver of an operation for a formula, compiled now so that a formula Numba rejects is named."""
    build, particle_arrays = _DRIVERS[operation]
    cloud, inputs = np.zeros((1, 2, LANES), dtype), np.zeros((1, 1), dtype)
    try:
        driver: Any = build(njit(**EXACT)(formula))
        if operation == "vjp":
            one = cloud.dtype.type(1)
            driver(cloud, inputs, np.zeros(1, dtype), one, one, cloud.copy())
        else:
            driver(*(cloud for _ in range(particle_arrays)), cloud[:, 0].copy(), inputs, np.zeros((1, 1)))
    except (NumbaError, TypeError, AttributeError) as problem:
        lines = [line for line in str(problem).splitlines() if line.strip()]
        reason = next((line for line in lines if not line.startswith("Failed in")), "no reason given")
        raise InputError(
            f"activation {name!r} does not compile for engine 'cpu' ({reason}); needed: branch-free arithmetic over "
            "meanfield.vocabulary that returns (value, slope). Engine 'reference' runs any NumPy function."
        ) from problem
    return driver


@njit(**EXACT)
def _project(tile, x, z):
    """z_l = w_l . x for the particles of a tile; rows 1, 2, ... of the tile are w."""
    for lane in range(LANES):
        z[lane] = tile[1, lane] * x[0]
    for j in range(1, x.size):
        for lane in range(LANES):
            z[lane] += tile[1 + j, lane] * x[j]


@njit(**EXACT)
def _occupied(mass):
    for lane in range(LANES):
        if mass[lane] != 0.0:
            return True
    return False


def _build_predict(phi):
    unit = njit(**EXACT)(interactions.unit(phi))

    @njit(**_DRIVER)
    def drive(cloud, masses, inputs, partial):
        groups, tiles = partial.shape[0], cloud.shape[0]
        for group in prange(groups):
            z = np.empty(LANES, cloud.dtype)
            for t in range(group * tiles // groups, (group + 1) * tiles // groups):
                tile, mass = cloud[t], masses[t]
                if not _occupied(mass):
                    continue
                for k in range(inputs.shape[0]):
                    _project(tile, inputs[k], z)
                    total = 0.0
                    for lane in range(LANES):
                        total += mass[lane] * unit(tile[0, lane], z[lane])
                    partial[group, k] += total

    return drive


def _build_jvp(phi):
    motion = njit(**EXACT)(interactions.unit_motion(phi))

    @njit(**_DRIVER)
    def drive(cloud, velocity, masses, inputs, partial):
        groups, tiles = partial.shape[0], cloud.shape[0]
        for group in prange(groups):
            z, dz = np.empty(LANES, cloud.dtype), np.empty(LANES, cloud.dtype)
            for t in range(group * tiles // groups, (group + 1) * tiles // groups):
                tile, moved, mass = cloud[t], velocity[t], masses[t]
                if not _occupied(mass):
                    continue
                for k in range(inputs.shape[0]):
                    _project(tile, inputs[k], z)
                    _project(moved, inputs[k], dz)
                    total = 0.0
                    for lane in range(LANES):
                        total += mass[lane] * motion(tile[0, lane], z[lane], moved[0, lane], dz[lane])
                    partial[group, k] += total

    return drive


def _build_vjp(phi):
    gradient = njit(**EXACT)(interactions.unit_gradient(phi))

    @njit(**_DRIVER)
    def drive(cloud, inputs, weights, xi_a, xi_w, velocity):
        dim = inputs.shape[1]
        for t in prange(cloud.shape[0]):
            z, pull = np.empty(LANES, cloud.dtype), np.empty(LANES, cloud.dtype)
            tile, sums = cloud[t], velocity[t]
            for j in range(1 + dim):
                for lane in range(LANES):
                    sums[j, lane] = 0.0
            for k in range(inputs.shape[0]):
                x, weight = inputs[k], weights[k]
                _project(tile, x, z)
                for lane in range(LANES):
                    in_a, in_z = gradient(tile[0, lane], z[lane])
                    sums[0, lane] += weight * in_a
                    pull[lane] = weight * in_z
                for j in range(dim):
                    for lane in range(LANES):
                        sums[1 + j, lane] += pull[lane] * x[j]
            for lane in range(LANES):
                sums[0, lane] *= xi_a
            for j in range(1, 1 + dim):
                for lane in range(LANES):
                    sums[j, lane] *= xi_w

    return drive


# Operation: how its driver is built, and how many clouds it reads.
_DRIVERS = {"predict": (_build_predict, 1), "jvp": (_build_jvp, 2), "vjp": (_build_vjp, 1)}
