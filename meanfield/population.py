"""Dynamics on the population risk of a law of inputs and a teacher network: no data sample, only overlaps.

    R[mu] = E (f*(x) - F(x))^2 = sum_jk c_j c_k O(w_j, w_k),   O(w, w') = E phi(w . x) phi(w' . x)

for x ~ N(0, I_d), or x uniform on the sphere of radius sqrt(d), over the atoms of f = alpha sum_i m_i a_i phi(w_i . x),
with c_i = alpha m_i a_i, and those of the teacher f*, with c_j = -b_j. The particles go down it by

    dtheta_i/dt = (1/alpha) E[u grad_theta [a_i phi(w_i . x)]] = -(1/alpha) sum_k c_k grad_theta [a_i O(w_i, w_k)]

Saad & Solla (1995) for erf; Mei, Montanari & Nguyen (arXiv 1804.06561), eq. (7), where V and U are these overlaps.
"""

from __future__ import annotations  # so that `help` shows ArrayLike and not what it stands for

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from .activations import ACTIVATIONS, Activation
from .errors import InputError
from .fields import DataField
from .network import Network
from .overlaps import Overlap, overlap_of
from .problems import Problem
from .targets import on_sphere

_ENTRIES = 2**20  # of the block of overlaps formed at a time


class Population(Problem):
    """Inputs of a law, targets f*(x) = sum_j b_j phi(v_j . x), the square loss: a `Problem` without a sample.

    teacher : (M, 1 + d), rows (b_j, v_j)
    activation : the teacher's, and the network's that is to learn it; one with closed overlaps: `OVERLAPS`
    inputs : "gaussian", x ~ N(0, I_d), or "sphere", x uniform on the sphere of radius sqrt(d), for relu, linear and
        polynomials. Kept as `law`; the attribute `inputs` holds the probes.
    probes : number of inputs, drawn with `seed`, at which predictions are recorded; they move no particle. The records
        "risk" and "loss" and the criteria `stopping.risk` and `stopping.loss` are in closed form, not at the probes.

    Raises InputError where the activation has no closed overlaps, or shapes do not fit.
    """

    teacher: np.ndarray
    activation: Activation
    law: str
    seed: int  # of the probes
    overlap: Overlap  # E phi(w . x) phi(w' . x) over the law of the inputs, in closed form

    def __init__(
        self,
        teacher: ArrayLike,
        activation: str | Activation = "erf",
        *,
        inputs: str = "gaussian",
        probes: int = 500,
        seed: int = 0,
    ):
        found: Any = _checks.find(ACTIVATIONS, activation, "activation")
        law = str(inputs)
        sample = _checks.find(_LAWS, law, "law of inputs")
        teacher = _checks.array(teacher, "teacher", 2, "an array (M, 1 + d), rows (b_j, v_j)")
        if teacher.shape[1] < 2:
            raise InputError(f"teacher has shape {teacher.shape}; needed: (M, 1 + d) with d >= 1.")
        dim = teacher.shape[1] - 1
        overlap = overlap_of(found, sphere=dim if law == "sphere" else None)
        points = sample(_checks.generator(seed), _checks.count(probes, "probes"), dim)
        targets = found.formula(points @ teacher[:, 1:].T)[0] @ teacher[:, 0]
        super().__init__(points, targets, name="population")
        own = {"teacher": teacher, "activation": found, "law": law, "overlap": overlap, "seed": seed}
        for field, value in own.items():
            object.__setattr__(self, field, value)

    def __repr__(self) -> str:
        where = " on the sphere" if self.law == "sphere" else ""
        return (
            f"Population({len(self.teacher)} teachers, dim={self.dim}, {self.activation.name}, "
            f"{len(self.inputs)} probes{where})"
        )


def check_units(network: Network, problem: Population) -> None:
    """Refuse a network whose units are not the teacher's."""
    _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
    scale = network.scaling.input_scale
    if network.activation != problem.activation or scale != 1.0 or network.bias:
        raise InputError(
            f"the network has activation {network.activation.name!r}, input scale {scale:g} and bias {network.bias:g}; "
            f"needed: the teacher's, {problem.activation.name!r}, 1 and no bias."
        )


def risk(
    network: Network, problem: Population, particles: np.ndarray, masses: np.ndarray | None = None, start=None
) -> float:
    """R = E (f* - F)^2 over the law of the inputs, in closed form.

    start : (N', 1 + d), (N',), optional: particles and masses of f_0, where F = f - s f_0

    Cost: O((N + M)^2 d), in blocks.
    """
    check_units(network, problem)
    particles = network.particles(particles, problem.dim)
    masses = _checks.masses(masses, len(particles), "masses")
    alpha, overlap = network.scaling.alpha, problem.overlap
    atoms, c = [particles[:, 1:], problem.teacher[:, 1:]], [alpha * masses * particles[:, 0], -problem.teacher[:, 0]]
    if start is not None:
        atoms.append(start[0][:, 1:])
        c.append(-network.scaling.offset * alpha * start[1] * start[0][:, 0])
    w, c = np.concatenate(atoms), np.concatenate(c)
    q, total = np.einsum("ij,ij->i", w, w), 0.0
    step = max(1, _ENTRIES // len(w))
    for first in range(0, len(w), step):
        rows = slice(first, first + step)
        total += c[rows] @ (overlap(q[rows, None], w[rows] @ w.T, q)[0] @ c)
    return max(0.0, float(total))  # rounding leaves either sign of nothing


class PopulationField(DataField):
    """The flow of the population risk. Arguments as for `DataField`, the problem a `Population`.

    Cost of a velocity: N (N + M) overlaps and 4 N (N + M) d flops; O(N d) memory.
    """

    problem: Population

    def __init__(self, network: Network, problem: Population, start, masses=None, *rest):
        check_units(network, problem)
        self._overlap = problem.overlap
        super().__init__(network, problem, start, masses, *rest)
        fixed, weights = [problem.teacher[:, 1:]], [problem.teacher[:, 0] / network.scaling.alpha]
        if factor := network.scaling.offset:  # the target is f* + s f_0: atoms that stay where the particles begin
            start = network.particles(start, problem.dim)
            fixed.append(start[:, 1:])
            weights.append(factor * self.masses * start[:, 0])
        self._fixed, self._fixed_weights = np.concatenate(fixed), np.concatenate(weights)
        self._start = (start, self.masses) if network.scaling.offset else None

    def risk(self, state, predictions):
        """E (f* - F)^2 in closed form, whatever the predictions at the probes."""
        return risk(self.network, self.problem, self.particles(state), self.masses, self._start)

    def loss(self, state, predictions):
        return 0.5 * self.risk(state, predictions)

    def velocity(self, state, out=None):
        (cloud,), scaling = state, self.network.scaling
        particles = self.engine.unpack(cloud, self.n_particles)
        nodes = self.engine.pack_inputs(np.concatenate([particles[:, 1:], self._fixed]), self.dtype)
        weights = np.concatenate([-self.masses * particles[:, 0], self._fixed_weights])
        mobilities = scaling.mobility_a, scaling.mobility_w
        moved = self.engine.pairwise(self._overlap, cloud, nodes, weights, mobilities, out and out[0])
        return (self._confined(moved, cloud),)


def teacher(dim: int, units: int = 3, seed: int = 0, heights: Sequence[float] | None = None) -> np.ndarray:
    """Teacher atoms (M, 1 + d): directions uniform on the sphere, heights +-1 in turn over sqrt(M) unless given."""
    units, dim = _checks.count(units, "units"), _checks.count(dim, "dim")
    directions = _checks.generator(seed).standard_normal((units, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    given = (-1.0) ** np.arange(units) / np.sqrt(units) if heights is None else heights
    column = _checks.array(given, "heights", 1, f"{units} numbers")
    if len(column) != units:
        raise InputError(f"heights has {len(column)} entries; needed: {units}, one for each unit.")
    return np.column_stack((column, directions))


def _gaussian(rng, number, dim):
    return rng.standard_normal((number, dim))


def _sphere(rng, number, dim):
    return on_sphere(rng, number, dim, np.sqrt(dim))


_LAWS = {"gaussian": _gaussian, "sphere": _sphere}
