"""What is timed: the table of cases, their data, and the numbers a contender must reproduce.

A case is one operation at one size. Its contenders are the engine ("ours") and what it is held against: peers, or the
engine itself doing something else. To add an operation: a line in `KINDS`, a function in `ours.OPERATIONS`, and cases.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..activations import ACTIVATIONS
from ..overlaps import OVERLAPS

# Family, as in --peers: its contenders, each in a process of its own.
FAMILIES = {
    "numpy": ("numpy", "numpy-tiled"),
    "torch": ("torch", "torch-hand", "torch-compile"),
    "jax": ("jax",),
}
DEVICE_FAMILIES = {
    "torch": ("torch", "torch-hand", "torch-compile"),
    "jax": ("jax",),
    "cupy": ("cupy",),
}
PEERS = tuple(
    dict.fromkeys(peer for each in (FAMILIES, DEVICE_FAMILIES) for family in each.values() for peer in family)
)
ENVIRONMENTS = ("default", "hugetlb")


@dataclass(frozen=True)
class Contender:
    """Who runs an operation: a worker, the operation there, and how many threads it gets (None: its default)."""

    label: str
    worker: str
    operation: str
    threads: int | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of case.

    operation : what a worker calls it
    peers : contenders that have it too
    beside : the engine's own contender that it is compared with, if any
    quotient : key in the results, and whether it is ours over that one (else that one over ours)
    threads : threads of "ours" (None: its default)
    """

    operation: str
    meaning: str
    peers: tuple[str, ...] = ()
    beside: Contender | None = None
    quotient: tuple[str, bool] | None = None
    threads: int | None = None


KINDS = {
    "velocity": Kind("velocity", "one velocity evaluation: prediction and velocity", PEERS),
    "jvp": Kind(
        "jvp",
        "motion of f along a velocity, against one velocity evaluation",
        beside=Contender("velocity", "ours", "velocity"),
        quotient=("ratio_to_velocity", True),
    ),
    "tangent_kernel": Kind("tangent_kernel", "tangent kernel of the particles", ("numpy", "jax")),
    "population": Kind(
        "population",
        "velocity on the population risk, particles in pairs",
        ("numpy-tiled", "torch-hand", "torch-compile", "jax"),
    ),
    "simulate_step": Kind("simulate_step", "one Euler step within `simulate`, in a run of 2000"),
    **{
        f"simulate_{scheme}": Kind(
            f"run_{scheme}",
            f"a run of `simulate` by {scheme}, against its evaluations of the velocity alone",
            beside=Contender("evaluations", "ours", f"evaluations_{scheme}"),
            quotient=("ratio_to_evaluations", True),
        )
        for scheme in ("rk4", "dopri5")
    },
    "threads": Kind(
        "velocity",
        "one velocity evaluation, 2 threads against 1",
        beside=Contender("one thread", "ours", "velocity", threads=1),
        quotient=("speedup_over_one_thread", False),
        threads=2,
    ),
    "first_call": Kind("first_call", "first velocity in a new process, after one that has compiled it"),
}


@dataclass(frozen=True)
class Case:
    """One operation at one size.

    n, N, d : inputs, particles, dimension of the inputs
    environments : where it is timed, of `ENVIRONMENTS`
    quick : whether `--quick` times it
    memory : whether the growth of the peak memory is measured; of a device, all that is taken of it
    without : peers that are left out
    """

    kind: str
    n: int
    N: int
    d: int
    dtype: str
    activation: str
    environments: tuple[str, ...] = ENVIRONMENTS[:1]
    quick: bool = False
    memory: bool = False
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kind} n={self.n} N={self.N} d={self.d} {self.activation} {self.dtype}"

    @property
    def flops(self) -> float:
        """4 n N d: the two matrix products that a velocity cannot do without."""
        return 4.0 * self.n * self.N * self.d

    @property
    def fused_flops(self) -> float:
        """6 n N d: as many as it takes without an array (n, N), whose entries are computed twice."""
        return 6.0 * self.n * self.N * self.d

    @property
    def pairs_bytes(self) -> int:
        """Of one array (n, N)."""
        return self.n * self.N * np.dtype(self.dtype).itemsize

    @property
    def least_bytes(self) -> float:
        """Of memory: the cloud read twice, its velocity written."""
        return 3.0 * self.N * (1 + self.d) * np.dtype(self.dtype).itemsize


def contenders(case: Case, peers: Iterable[str]) -> list[Contender]:
    """Ours first, then what it is compared with."""
    kind = KINDS[case.kind]
    result = [Contender("ours", "ours", kind.operation, kind.threads)]
    result += [kind.beside] if kind.beside else []
    chosen = [peer for peer in kind.peers if peer in peers and peer not in case.without]
    return result + [Contender(peer, peer, kind.operation) for peer in chosen]


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def data(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Particles (N, 1 + d), inputs (n, d), targets (n,): float64, the same in every process. w . x is about N(0, 1).

    Where x itself is N(0, I), in the population's risk, w is about N(0, I/d). Beyond 100 000 the particles are the
    first ones again, so that what is expected can be had.
    """
    random = np.random.default_rng([case.n, case.N, case.d])
    particles = random.standard_normal((min(case.N, _DISTINCT), 1 + case.d))
    if case.N > _DISTINCT:
        particles = np.resize(particles, (case.N, 1 + case.d))
    if case.kind == "population":
        particles[:, 1:] /= np.sqrt(case.d)
    inputs = random.standard_normal((case.n, case.d)) / np.sqrt(case.d)
    return particles, inputs, random.standard_normal(case.n)


_DISTINCT = 10**5


def probed(size: int, most: int = 16) -> np.ndarray:
    """Which rows of a result of `size` rows are compared: first, last, and some between."""
    return np.unique(np.linspace(0, size - 1, most).astype(int))


def expected(case: Case) -> np.ndarray | None:
    """The probed part of the right result, in float64 from the formulas; None where there is no peer to check.

    velocity: (1/n) sum_k u_k grad_theta [a_i phi(w_i . x_k)], u = y - f, f = (1/N) sum_i a_i phi(w_i . x), rows i
    population: -(1/N) sum_j a_j grad_theta [a_i E phi(w_i . x) phi(w_j . x)], x ~ N(0, I), rows i
    tangent_kernel: (1/N) sum_i [phi phi' + a_i^2 slope slope' x . x'], rows and columns
    """
    formula = ACTIVATIONS[case.activation].formula
    operation = KINDS[case.kind].operation
    if operation == "velocity":
        particles, inputs, targets = data(case)
        block, different = max(1, 2**18 // case.n), min(case.N, _DISTINCT)
        if case.N % different:
            raise ValueError(f"{case.N} particles, more than {_DISTINCT} and not a multiple of them")

        def output(start):
            rows = particles[start : min(start + block, different)]
            return rows[:, 0] @ formula(rows[:, 1:] @ inputs.T)[0]

        with ThreadPoolExecutor(cores()) as pool:
            f = sum(pool.map(output, range(0, different, block)), np.zeros(case.n))
        pull = (targets - f / different) / case.n
        rows = particles[probed(case.N)]
        values, slopes = formula(rows[:, 1:] @ inputs.T)
        return np.column_stack((values @ pull, rows[:, :1] * ((slopes * pull) @ inputs)))
    if operation == "population":
        particles = data(case)[0]
        a, w = particles[:, 0], particles[:, 1:]
        rows = probed(case.N)
        q, p = (w[rows] ** 2).sum(axis=1, keepdims=True), (w**2).sum(axis=1)
        value, in_c, in_q = OVERLAPS[ACTIVATIONS[case.activation]](q, w[rows] @ w.T, p)
        pull = -a / case.N
        in_w = (in_c * pull) @ w + 2.0 * (in_q @ pull)[:, None] * w[rows]
        return np.column_stack((value @ pull, a[rows, None] * in_w))
    if operation == "tangent_kernel":
        particles, inputs, _ = data(case)
        inputs = inputs[probed(case.n)]
        values, slopes = formula(particles[:, 1:] @ inputs.T)
        slopes = particles[:, :1] * slopes
        return (values.T @ values + (slopes.T @ slopes) * (inputs @ inputs.T)) / case.N
    return None


TOLERANCES = {"float32": 1e-3, "float64": 1e-9}  # relative, in the norm of what is probed


def disagreement(probe: Any, right: np.ndarray) -> float:
    """|probe - right| / |right|; infinite if the shapes differ or a number is not finite."""
    probe = np.asarray(probe, dtype=float)
    if probe.shape != right.shape or not np.isfinite(probe).all():
        return float("inf")
    return float(np.linalg.norm(probe - right) / np.linalg.norm(right))


def _table() -> list[Case]:
    both = ENVIRONMENTS
    dtypes = ("float32", "float64")
    cases = [
        Case("velocity", 1000, 10_000, d, dtype, activation)
        for d in (2, 20)
        for activation in ("relu", "tanh", "erf", "softplus")
        for dtype in dtypes
    ]
    cases += [
        Case("velocity", n, N, d, dtype, activation)
        for n, N, d in ((1000, 10_000, 50), (1000, 10_000, 100), (2000, 4096, 784))
        for activation in ("tanh", "relu")
        for dtype in dtypes
    ]
    cases += [Case("velocity", 256, 1_000_000, 10, dtype, "tanh", memory=True) for dtype in dtypes]
    cases += [Case("velocity", 200, 100, 10, "float64", "tanh")]
    cases += [Case("jvp", 1000, 10_000, 20, dtype, "tanh", quick=dtype == "float64") for dtype in dtypes]
    cases += [Case("tangent_kernel", 2000, 10_000, d, "float64", "tanh") for d in (20, 784)]
    cases += [Case("population", 10_000, 10_000, 20, "float32", activation) for activation in ("erf", "relu")]
    cases += [Case("simulate_step", 200, 100, 10, "float64", "tanh", quick=True)]
    cases += [Case(f"simulate_{scheme}", 1000, 100_000, 10, "float32", "tanh") for scheme in ("rk4", "dopri5")]
    if cores() > 1:
        cases += [Case("threads", 1000, 10_000, 20, dtype, "tanh", quick=dtype == "float64") for dtype in dtypes]
    first = {("tanh", "float32"), ("erf", "float64"), ("relu", "float32"), ("softplus", "float64")}
    cases += [
        Case("first_call", 200, 100, 10, dtype, activation, quick=(activation, dtype) in first)
        for activation in ACTIVATIONS
        for dtype in dtypes
    ]
    quick = {(10, "tanh", "float64"), (20, "tanh", "float32"), (20, "tanh", "float64"), (20, "relu", "float32")}
    for i, case in enumerate(cases):
        if case.kind == "velocity":  # huge pages matter where whole (N, n) arrays are made anew at each call
            cases[i] = replace(case, environments=both, quick=(case.d, case.activation, case.dtype) in quick)
    return cases


def _device_table() -> list[Case]:
    shapes = ((1000, 10**6, 20), (1000, 10**4, 20), (1000, 10**6, 2), (4096, 10**6, 20), (1000, 10**5, 784))
    # The headline first: a run that is cut short has measured it.
    cases = [
        Case("velocity", n, N, d, dtype, activation, quick=(n, N, d) == shapes[0] or (activation, dtype) in _NARROW)
        for n, N, d in shapes
        for activation in ("tanh", "relu", "erf")
        for dtype in ("float32", "float64")
    ]
    cases += [Case("jvp", 1000, 10**6, 20, dtype, "tanh", quick=dtype == "float32") for dtype in ("float32", "float64")]
    cases += [Case("tangent_kernel", 2000, 10**5, 20, "float64", "tanh", quick=True)]
    cases += [Case("population", 10_000, 10_000, 20, "float32", activation) for activation in ("erf", "relu")]
    cases += [Case("simulate_step", 200, N, 10, "float32", "tanh", quick=True) for N in (100, 10**4)]
    cases += [
        Case("velocity", 256, 10**8, 10, dtype, "tanh", quick=dtype == "float32", memory=True)
        for dtype in ("float32", "float64")
    ]
    # torch.compile compiles every case anew, and JAX starts anew for every large one: they are dear.
    return [case if case.activation == "tanh" else replace(case, without=("torch-compile", "jax")) for case in cases]


_NARROW = {("tanh", "float32"), ("relu", "float32"), ("tanh", "float64")}


CASES = _table()
DEVICE_CASES = _device_table()
