"""The reference engine: NumPy on blocks of particles. Slow, short, and what the others are tested against."""

import numpy as np

from .. import interactions
from . import host as VECTORS
from .host import combine, error_norm, is_finite, pack_drive, pack_vector, pull, unpack_vector, vector
from .noise import EACH, build_reals, pair, words
from .noise import key as noise_key

__all__ = [
    "NAME", "VECTORS", "combine", "error_norm", "estimate", "estimate_gram", "features", "free_memory", "gram",
    "is_finite", "jvp", "noise", "pack", "pack_drive", "pack_inputs", "pack_masses", "pack_vector", "pairwise",
    "predict", "pull", "unpack", "unpack_vector", "vector", "vjp",
]  # fmt: skip

NAME = "reference"
_BLOCK_ENTRIES = 2**20  # of the (particles, inputs) block formed at a time: a few arrays of 8 MiB


def pack(particles, dtype):
    return np.array(particles, dtype=dtype)


def unpack(cloud, n_particles, rows=slice(None)):
    return np.array(cloud[:n_particles][rows], dtype=np.float64)


def pack_masses(masses, dtype):
    return np.array(masses, dtype=dtype)


def pack_inputs(inputs, dtype):
    return np.array(inputs, dtype=dtype)


def features(cloud, inputs):
    """None: they are computed again where they are needed."""


def estimate(n_particles, n, dim, dtype="float64", clouds=2):
    itemsize = np.dtype(dtype).itemsize
    return {
        "clouds": clouds * n_particles * (1 + dim) * itemsize,
        "masses and inputs": (n_particles + n * dim) * itemsize,
        "blocks": 8 * itemsize * min(max(_BLOCK_ENTRIES, n), n_particles * n),
    }


def free_memory():
    """None: clouds are in the memory of this machine."""


def predict(activation, cloud, masses, inputs, features=None):
    formula = interactions.unit(activation.formula)
    total = np.zeros(len(inputs))
    for rows in _blocks(cloud, inputs):
        a, w = cloud[rows, :1], cloud[rows, 1:]
        total += masses[rows] @ formula(a, w @ inputs.T)
    return total


def vjp(activation, cloud, inputs, weights, mobilities, features=None, out=None):
    formula = interactions.unit_gradient(activation.formula)
    weights = weights.astype(cloud.dtype)
    velocity = np.empty_like(cloud) if out is None else out
    for rows in _blocks(cloud, inputs):
        a, w = cloud[rows, :1], cloud[rows, 1:]
        in_a, in_z = formula(a, w @ inputs.T)
        velocity[rows, 0] = mobilities[0] * (in_a @ weights)
        velocity[rows, 1:] = mobilities[1] * ((in_z * weights) @ inputs)
    return velocity


def jvp(activation, cloud, velocity, masses, inputs):
    formula = interactions.unit_motion(activation.formula)
    total = np.zeros(len(inputs))
    for rows in _blocks(cloud, inputs):
        a, w = cloud[rows, :1], cloud[rows, 1:]
        total += masses[rows] @ formula(a, w @ inputs.T, velocity[rows, :1], velocity[rows, 1:] @ inputs.T)
    return total


def pairwise(overlap, cloud, nodes, weights, mobilities, out=None):
    weights, sizes = weights.astype(cloud.dtype), (nodes * nodes).sum(axis=1)
    velocity = np.empty_like(cloud) if out is None else out
    for rows in _blocks(cloud, nodes):
        a, w = cloud[rows, :1], cloud[rows, 1:]
        value, in_c, in_q = overlap((w * w).sum(axis=1, keepdims=True), w @ nodes.T, sizes)
        velocity[rows, 0] = mobilities[0] * (value @ weights)
        velocity[rows, 1:] = mobilities[1] * a * ((in_c * weights) @ nodes + 2.0 * (in_q @ weights)[:, None] * w)
    return velocity


def noise(cloud, seed, step, out=None):
    (low, high, step), real = noise_key(seed, step), cloud.dtype.type
    out, reals = np.empty_like(cloud) if out is None else out, build_reals(real)
    particles = np.arange(len(cloud), dtype=np.uint64)
    halves = particles & np.uint64(0xFFFFFFFF), particles >> np.uint64(32)
    for block in range(-(-cloud.shape[1] // EACH)):
        one, other, third, fourth = words(*halves, *(np.uint64(each) for each in (block, step, low, high)))
        found = [*pair(*reals(one, other)), *pair(*reals(third, fourth))]
        for column, deviates in zip(out.T[EACH * block : EACH * (block + 1)], found, strict=False):
            column[...] = deviates
    return out


def gram(activation, cloud, masses, inputs, other=None):
    formula = interactions.unit_gradient(activation.formula)
    in_a, in_w = np.zeros((2, len(inputs), len(inputs if other is None else other)))
    for rows in _blocks(cloud, inputs if other is None else np.concatenate([inputs, other])):
        a, w = cloud[rows, :1], cloud[rows, 1:]
        values, slopes = features = formula(a, w @ inputs.T)
        values_other, slopes_other = features if other is None else formula(a, w @ other.T)
        in_a += (masses[rows, None] * values).T @ values_other
        in_w += (masses[rows, None] * slopes).T @ slopes_other
    return in_a, in_w


def estimate_gram(n, m, dtype="float64"):
    itemsize = np.dtype(dtype).itemsize
    return {"sums": 3 * 8 * n * m, "blocks": 8 * itemsize * max(_BLOCK_ENTRIES, n + m)}


def _blocks(cloud, inputs):
    size = max(1, _BLOCK_ENTRIES // len(inputs))
    for start in range(0, len(cloud), size):
        yield slice(start, start + size)
