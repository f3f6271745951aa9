"""Engines: a vocabulary and drivers; nothing of physics. They own loop, layout, memory and device.

An engine is a module (or any object) with the members of `Engine`. Clouds, masses, inputs and sums over particles
are opaque outside it: in the engine's own layout and dtype, and where it computes. Linear algebra of the time
integrator on clouds (`combine`, `error_norm`) is the engine's too, so that a state can stay on its device for a
whole run; so is the loss of n numbers, that nothing waits for a device within a step.
"""

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, cast

import numpy as np

from .. import _checks
from ..activations import Activation
from ..errors import DeviceError, InputError
from ..losses import Loss
from ..overlaps import Overlap
from . import cpu, reference


class Engine(Protocol):
    """What a field asks of an engine. N particles theta_i = (a_i, w_i), n inputs x_k, z_ik = w_i . x_k."""

    @property
    def NAME(self) -> str: ...

    def pack(self, particles: np.ndarray, dtype: str) -> Any:
        """Cloud from particles (N, 1 + d)."""
        ...

    def unpack(self, cloud: Any, n_particles: int, rows: slice = slice(None)) -> np.ndarray:
        """Particles (N, 1 + d), float64, from a cloud; these rows of them."""
        ...

    def pack_masses(self, masses: np.ndarray, dtype: str) -> Any: ...

    def pack_inputs(self, inputs: np.ndarray, dtype: str) -> Any: ...

    def features(self, cloud: Any, inputs: Any) -> Any:
        """Room for phi(z_ik), a_i phi'(z_ik), from a prediction to the velocity at that cloud; None if not worth it."""
        ...

    def estimate(self, n_particles: int, n: int, dim: int, dtype: str = "float64", clouds: int = 2) -> dict[str, int]:
        """Bytes, by what takes them, of velocities of N particles at n inputs, with so many clouds at once."""
        ...

    def free_memory(self) -> float | None:
        """Bytes that are free where clouds are; None: it is the memory of this machine."""
        ...

    def predict(self, activation: Activation, cloud: Any, masses: Any, inputs: Any, features: Any = None) -> Any:
        """sum_i m_i a_i phi(z_ik), n sums. Atoms of mass zero cost little where whole blocks lie together.

        `features`: room in which phi(z_ik) and a_i phi'(z_ik) are left. The sums may be written over by the next call
        of `predict` or `jvp` at these inputs.
        """
        ...

    def vector(self, sums: Any, factor: float = 1.0, out: Any = None) -> Any:
        """n numbers for the integrator, float64: factor times the sums of `predict` or `jvp`; in `out` if given."""
        ...

    def pack_vector(self, values: np.ndarray) -> Any: ...

    def unpack_vector(self, vector: Any) -> np.ndarray:
        """(n,) float64, on the host."""
        ...

    @property
    def VECTORS(self) -> Any:
        """Linear algebra of vectors: `combine`, `error_norm`, `is_finite`."""
        ...

    def pack_drive(self, shift: np.ndarray, targets: np.ndarray, shares: np.ndarray, dtype: str) -> Any:
        """What `pull` needs beside the sums, (n,) each."""
        ...

    def pull(self, loss: Loss, sums: Any, factor: float, drive: Any) -> Any:
        """shares_k u_k, u = loss.pull(F, targets) where F = factor sums + shift: weights for `vjp`.

        `sums` may be a vector. It may be written over by the next call with this drive.
        """
        ...

    def vjp(
        self, activation: Activation, cloud: Any, inputs: Any, weights: Any, mobilities, features: Any = None,
        out: Any = None,
    ) -> Any:  # fmt: skip
        """sum_k c_k grad_theta [a_i phi(z_ik)] with the mobilities on its (a, w) parts: a cloud of velocities.

        `weights` c: an array (n,) of the host, or what `pull` returns.
        `features` are those that `predict` left for this cloud and these inputs.
        """
        ...

    def jvp(self, activation: Activation, cloud: Any, velocity: Any, masses: Any, inputs: Any) -> Any:
        """sum_i m_i <grad_theta [a_i phi(z_ik)], v_i>, n sums."""
        ...

    def pairwise(
        self, overlap: Overlap, cloud: Any, nodes: Any, weights: np.ndarray, mobilities, out: Any = None
    ) -> Any:
        """sum_k c_k grad_theta [a_i O(w_i, w_k)] with the mobilities on its (a, w) parts; `nodes` packed like inputs.

        O(w, w') = E[phi(w . x) phi(w' . x)]: the velocity on the population risk, with c_k the signed masses of the
        particles and of the target's atoms.
        """
        ...

    def noise(self, cloud: Any, seed: int, step: int, out: Any = None) -> Any:
        """Independent N(0, 1) deviates in the shape of a cloud: a function of (seed, step, particle, parameter) alone.

        The same on every engine, to rounding (`engines.noise`). 0 <= seed < 2^64, 0 <= step < 2^32.
        """
        ...

    def gram(
        self, activation: Activation, cloud: Any, masses: Any, inputs: Any, other: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(sum_i m_i phi(z_ik) phi(z_il), sum_i m_i a_i^2 phi'(z_ik) phi'(z_il)), (n, n') float64.

        `other` None: the inputs themselves, and symmetric to the last bit.
        """
        ...

    def estimate_gram(self, n: int, m: int, dtype: str = "float64") -> dict[str, int]:
        """Bytes, by what takes them, of `gram` at n and m inputs."""
        ...

    def combine(self, base: Any, step: float, coefficients, stages, out: Any = None) -> Any:
        """base + step sum_j c_j stage_j, in `out` if that is given."""
        ...

    def error_norm(
        self, step: float, coefficients, stages, before: Any, after: Any, rtol: float, atol: float, n_particles: int
    ) -> tuple[float, int]:
        """Sum over the particles of (step sum_j c_j stage_j / (atol + rtol max(|before|, |after|)))^2, and of how many
        entries. Not finite unless `after` is: a step needs no look of its own at that."""
        ...

    def is_finite(self, cloud: Any) -> bool: ...


ENGINES: dict[str, Engine] = {each.NAME: cast(Engine, each) for each in (reference, cpu)}
NAMES = (*ENGINES, "cuda")  # the last one is imported when it is first asked for
DTYPES = ("float64", "float32")


def find(engine: str | Engine) -> Engine:
    """The engine called `engine`, or an error that lists what there is.

    Raises DeviceError for "cuda" where there is no device, or no package for it.
    """
    found = _checks.find({**dict.fromkeys(NAMES), **ENGINES}, engine, "engine")
    if found is None:
        importlib.import_module(".cuda_device", __name__).require()
        found = cast(Engine, importlib.import_module(".cuda", __name__))
    if not hasattr(found, "NAME"):
        raise InputError(f"engine is {engine!r}; needed: one of {', '.join(NAMES)}, or an object like one.")
    return found


def estimate(
    n_particles: int, n: int, dim: int, *, dtype: str = "float64", clouds: int = 10, engine: str | Engine = "cpu"
) -> dict[str, int]:
    """Bytes, by what takes them, of a flow of N particles at n inputs of this dimension.

    clouds : as many arrays of the size of the state as are there at once; ten in a run by dopri5, the frames apart.

    Raises InputError where a number is not a count or there is no such engine or dtype.
    """
    n_particles, n = _checks.count(n_particles, "n_particles"), _checks.count(n, "n")
    dim, clouds = _checks.count(dim, "dim"), _checks.count(clouds, "clouds")
    return find(engine).estimate(n_particles, n, dim, check_dtype(dtype), clouds)


def set_num_threads(number: int) -> None:
    """Let the CPU engine run on so many threads, when called from this thread of Python: from 1 to all it started with.

    The environment variable NUMBA_NUM_THREADS sets that number (default: all cores). Results do not depend on it, to
    the last bit. Raises InputError beyond it.
    """
    cpu.set_num_threads(number)


def side_by_side(function: Callable, arguments: Iterable[tuple], engine: str | Engine = "cpu") -> Iterator[None]:
    """Call `function` with each tuple of arguments, as many at a time as the CPU engine has threads; yields after each.

    For many small computations that do not depend on each other: each runs on one thread of the engine's, where sharing
    out one of them at a time would leave threads waiting. Give the longest first.

    engine : what the function computes with; a device takes one after another
    """
    if find(engine).free_memory() is None:
        yield from cpu.side_by_side(function, arguments)
        return
    for each in arguments:
        function(*each)
        yield


def doctor() -> dict[str, str]:
    """What the engines see of this machine: threads, threading layer, CUDA and why not."""
    try:
        cuda = importlib.import_module(".cuda_device", __name__).describe()
    except DeviceError as problem:
        cuda = str(problem)
    return {**cpu.doctor(), "waiting threads": os.environ.get("OMP_WAIT_POLICY", "default"), "cuda": cuda}


def check_dtype(dtype: str) -> str:
    """`dtype` if an engine computes in it."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = None
    if name not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; needed: one of {', '.join(DTYPES)}.")
    return name
