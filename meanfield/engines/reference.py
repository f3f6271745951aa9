"""The reference engine: NumPy on blocks of particles. Slow, short, and what the others are tested against."""

import numpy as np

from .. import interactions
from .host import combine, error_norm, is_finite

__all__ = [
    "NAME", "combine", "error_norm", "is_finite", "jvp", "pack", "pack_inputs", "pack_masses", "predict",
    "projections", "unpack", "vjp",
]  # fmt: skip

NAME = "reference"
_BLOCK_ENTRIES = 2**20  # of the (particles, inputs) block formed at a time: a few arrays of 8 MiB


def pack(particles, dtype):
    return np.array(particles, dtype=dtype)


def unpack(cloud, n_particles):
    return np.array(cloud[:n_particles], dtype=np.float64)


def pack_masses(masses, dtype):
    return np.array(masses, dtype=dtype)


def pack_inputs(inputs, dtype):
    return np.array(inputs, dtype=dtype)


def projections(cloud, inputs):
    """None: they are computed again where they are needed."""


def predict(activation, cloud, masses, inputs, projections=None):
    formula = interactions.unit(activation.formula)
    total = np.zeros(len(inputs))
    for rows in _blocks(cloud, inputs):
        a, w = cloud[rows, :1], cloud[rows, 1:]
        total += masses[rows] @ formula(a, w @ inputs.T)
    return total


def vjp(activation, cloud, inputs, weights, mobilities, projections=None, out=None):
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


def _blocks(cloud, inputs):
    size = max(1, _BLOCK_ENTRIES // len(inputs))
    for start in range(0, len(cloud), size):
        yield slice(start, start + size)
