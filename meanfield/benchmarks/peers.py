"""What the engine is held against: the same mathematics in NumPy, PyTorch and JAX, as their users would write it.

    f_k = (1/N) sum_i a_i phi(z_ik),  u = y - f,  z_ik = w_i . x_k
    da_i/dt = (1/n) sum_k u_k phi(z_ik),   dw_i/dt = (a_i/n) sum_k u_k phi'(z_ik) x_k

PyTorch, JAX and, for its own, CuPy are imported here and nowhere else, when their contender starts. A contender is a
function (device) -> operations that imports what it needs, device "cpu" or "cuda"; an operation maps a case to
(call, probe) as in `ours`. `matmul` (dtype, size) and `copy` (bytes) give calls for the peaks. `timed`, where there is
one, calls a function and says how long its work took on the device: (seconds, result). `release`, where there is one,
gives back the memory of the device that the contender keeps for later.
"""

import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import erf
from threadpoolctl import ThreadpoolController

from .cases import Case, cores, data, probed

_TWO_OVER_SQRT_PI = 2.0 / np.sqrt(np.pi).item()
_TILE_BYTES = 2**19  # of one (rows, n) array: a few of them stay in a second-level cache


class TooLarge(MemoryError):
    """A case whose arrays would not fit this machine's free memory."""


def numpy(device: str = "cpu") -> dict[str, Any]:
    """Whole arrays, as one writes them first."""

    def velocity(case: Case):
        _needs(case, 3)
        return _whole(case, _numpy_both(np, erf, case.activation), *_arrays(case)), _probe_of(case)

    def tangent_kernel(case: Case):
        a, w, x, _ = _arrays(case)
        _needs(case, 4)
        rows = probed(case.n)

        def whole():
            values, slopes = _numpy_both(np, erf, case.activation)(w @ x.T)
            slopes *= a[:, None]
            return (values.T @ values + (slopes.T @ slopes) * (x @ x.T)) / case.N

        return whole, lambda result: result[np.ix_(rows, rows)]

    def matmul(dtype, size):
        left = np.ones((size, size), dtype)
        out = np.empty_like(left)
        return lambda: np.matmul(left, left, out=out)

    def copy(size):
        source = np.ones(size // 8)
        target = np.empty_like(source)
        pool, parts = ThreadPoolExecutor(cores()), np.array_split(np.arange(len(source)), cores())
        spans = [slice(part[0], part[-1] + 1) for part in parts]
        return lambda: list(pool.map(lambda span: np.copyto(target[span], source[span]), spans))

    return {"velocity": velocity, "tangent_kernel": tangent_kernel, "matmul": matmul, "copy": copy}


def _whole(case, both, a, w, x, y):
    """The formula on whole arrays, NumPy's or CuPy's."""

    def call():
        values, slopes = both(w @ x.T)
        pull = (y - (a @ values) / case.N) / case.n
        in_a = values @ pull
        slopes *= pull
        return in_a, a[:, None] * (slopes @ x)

    return call


def cupy(device: str = "cuda") -> dict[str, Any]:
    """As `numpy`, on the device."""
    cp: Any = importlib.import_module("cupy")
    special: Any = importlib.import_module("cupyx.scipy.special")

    def velocity(case: Case):
        both, arrays = _numpy_both(cp, special.erf, case.activation), map(cp.asarray, _arrays(case))
        return _whole(case, both, *arrays), _probe_of(case, cp.asnumpy)

    def matmul(dtype, size):
        left = cp.ones((size, size), dtype)
        out = cp.empty_like(left)
        return lambda: cp.matmul(left, left, out=out)

    def timed(call):
        start, end = cp.cuda.Event(), cp.cuda.Event()
        start.record()
        result = call()
        end.record()
        end.synchronize()
        return 1e-3 * cp.cuda.get_elapsed_time(start, end), result

    release = cp.get_default_memory_pool().free_all_blocks
    return {"velocity": velocity, "matmul": matmul, "timed": timed, "release": release}


def numpy_tiled(device: str = "cpu") -> dict[str, Any]:
    """Tiles of particles that stay in cache, on a thread a core; phi is computed again for the velocity."""

    def velocity(case: Case):
        a, w, x, y = _arrays(case)
        both = _numpy_both(np, erf, case.activation)
        controller, pool = ThreadpoolController(), ThreadPoolExecutor(cores())
        size = max(8, _TILE_BYTES // (case.n * x.itemsize))
        tiles = [slice(start, start + size) for start in range(0, case.N, size)]
        transposed = np.ascontiguousarray(x.T)

        def output(tile):
            return a[tile] @ both(w[tile] @ transposed)[0]

        def tiled():
            in_a, in_w = np.empty_like(a), np.empty_like(w)
            with controller.limit(limits=1):  # threads over the tiles, none within
                pull = (y - sum(pool.map(output, tiles), np.zeros_like(y)) / case.N) / case.n

                def move(tile):
                    values, slopes = both(w[tile] @ transposed)
                    in_a[tile] = values @ pull
                    slopes *= pull
                    in_w[tile] = a[tile, None] * (slopes @ x)

                list(pool.map(move, tiles))
            return in_a, in_w

        return tiled, _probe_of(case)

    def population(case: Case):
        a, w = _population_arrays(case)
        controller, pool = ThreadpoolController(), ThreadPoolExecutor(cores())
        size = max(8, _TILE_BYTES // (case.N * w.itemsize))
        tiles = [slice(start, start + size) for start in range(0, case.N, size)]

        def tiled():
            in_a, in_w = np.empty_like(a), np.empty_like(w)
            p = (w * w).sum(axis=1)

            def move(tile):
                in_a[tile], in_w[tile] = _pairs(np, np.arcsin, case, a[tile], w[tile], p[tile, None], a, w, p)

            with controller.limit(limits=1):
                list(pool.map(move, tiles))
            return in_a, in_w

        return tiled, _probe_of(case)

    return {"velocity": velocity, "population": population}


def _pairs(xp, arcsin, case, a, w, q, a_node, w_node, p):
    """-(1/N) sum_j a_j grad_theta [a_i O(w_i, w_j)] for erf and relu, by hand; `xp` is numpy, torch or jax.numpy."""
    c, pull = w @ w_node.T, -a_node / case.N
    if case.activation == "erf":
        volume = (1 + 2 * q) * (1 + 2 * p)
        value = 2 / np.pi * arcsin(2 * c / xp.sqrt(volume))
        in_c = 4 / np.pi / xp.sqrt(volume - 4 * c * c)
        in_q = -c * in_c / (1 + 2 * q)
    else:
        size = xp.sqrt(q * p)
        sine = xp.sqrt(xp.clip(1 - (c / size) ** 2, 0, 1))
        in_c = 0.25 + arcsin(xp.clip(c / size, -1, 1)) / (2 * np.pi)
        value = size * sine / (2 * np.pi) + in_c * c
        in_q = size * sine / (4 * np.pi * q)
    return value @ pull, a[:, None] * ((in_c * pull) @ w_node + 2 * (in_q @ pull)[:, None] * w)


def _population_arrays(case):
    a, w, _, _ = _arrays(case)
    return a, w


def _numpy_both(xp, erf, activation):
    """(phi, phi') of z, which may be overwritten; `xp` is numpy or cupy."""

    def relu(z):
        slopes = (z > 0).astype(z.dtype)
        return xp.maximum(z, 0, out=z), slopes

    def tanh(z):
        values = xp.tanh(z, out=z)
        slopes = values * values
        return values, xp.subtract(1, slopes, out=slopes)

    def by_erf(z):
        slopes = z * z
        xp.exp(xp.negative(slopes, out=slopes), out=slopes)
        slopes *= _TWO_OVER_SQRT_PI
        return erf(z, out=z), slopes

    def softplus(z):
        small = xp.abs(z)
        xp.exp(xp.negative(small, out=small), out=small)
        slopes = xp.where(z > 0, 1, small) / (1 + small)
        return xp.maximum(z, 0, out=z) + xp.log1p(small, out=small), slopes

    return {"relu": relu, "tanh": tanh, "erf": by_erf, "softplus": softplus}[activation]


def torch_autograd(device: str = "cpu") -> dict[str, Any]:
    """The velocity as N times minus the gradient of (1/2n) sum_k u_k^2, by autograd."""
    torch: Any = importlib.import_module("torch")

    def velocity(case: Case):
        a, w, x, y = _tensors(torch, device, case, 6)
        a.requires_grad_()
        w.requires_grad_()
        phi = _torch_value(torch, case.activation)

        def call():
            residual = y - phi(x @ w.T) @ a / case.N
            return torch.autograd.grad((-case.N / (2 * case.n)) * (residual @ residual), (a, w))

        return call, _probe_of(case, _from_torch)

    return {"velocity": velocity, **_torch_rates(torch, device)}


def torch_hand(device: str = "cpu", compiled: bool = False) -> dict[str, Any]:
    """The formula by hand, in place where it can be; `compiled`: through torch.compile with its defaults."""
    torch: Any = importlib.import_module("torch")

    def velocity(case: Case):
        a, w, x, y = _tensors(torch, device, case, 4)
        both = _torch_both(torch, case.activation)
        n, N = case.n, case.N

        def by_hand(a, w, x, y):
            values, slopes = both(w @ x.T)
            pull = (y - (a @ values) / N) / n
            return values @ pull, a[:, None] * (slopes.mul_(pull) @ x)

        if compiled:
            torch._dynamo.reset()  # every size is compiled for itself, whatever came before
            by_hand = torch.compile(by_hand)

        def call():
            with torch.inference_mode(not compiled), torch.no_grad():
                return by_hand(a, w, x, y)

        return call, _probe_of(case, _from_torch)

    def population(case: Case):
        a, w, _, _ = _tensors(torch, device, case, 6)

        def by_hand(a, w):
            p = (w * w).sum(1)
            return _pairs(torch, torch.arcsin, case, a, w, p[:, None], a, w, p)

        if compiled:
            torch._dynamo.reset()
            by_hand = torch.compile(by_hand)

        def call():
            with torch.inference_mode(not compiled), torch.no_grad():
                return by_hand(a, w)

        return call, _probe_of(case, _from_torch)

    return {"velocity": velocity, "population": population, **_torch_rates(torch, device)}


def torch_compile(device: str = "cpu") -> dict[str, Any]:
    """`torch_hand` through torch.compile."""
    return torch_hand(device, compiled=True)


def _tensors(torch, device, case, arrays):
    if device == "cpu":
        _needs(case, arrays)
    return [torch.from_numpy(each).to(device) for each in _arrays(case)]


def _from_torch(tensor):
    return tensor.cpu().numpy()


def _torch_value(torch, activation):
    return {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "erf": torch.erf,
        "softplus": torch.nn.functional.softplus,
    }[activation]


def _torch_both(torch, activation):
    """(phi, phi') of z."""

    def relu(z):
        return torch.relu(z), (z > 0).to(z.dtype)

    def tanh(z):
        values = z.tanh_()
        return values, (values * values).neg_().add_(1)

    def erf(z):
        return torch.erf(z), (z * z).neg_().exp_().mul_(_TWO_OVER_SQRT_PI)

    def softplus(z):
        return torch.nn.functional.softplus(z), torch.sigmoid(z)

    return {"relu": relu, "tanh": tanh, "erf": erf, "softplus": softplus}[activation]


def _torch_rates(torch, device):
    def matmul(dtype, size):
        left = torch.ones((size, size), dtype=getattr(torch, dtype), device=device)
        out = torch.empty_like(left)
        return lambda: torch.mm(left, left, out=out)

    def timed(call):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = call()
        end.record()
        end.synchronize()
        return 1e-3 * start.elapsed_time(end), result

    if device == "cpu":
        return {"matmul": matmul}
    torch.backends.cuda.matmul.allow_tf32 = False  # 32 bits, as the engine computes
    return {"matmul": matmul, "timed": timed, "release": torch.cuda.empty_cache}


def jax(device: str = "cpu") -> dict[str, Any]:
    """jit of value_and_grad, on the CPU whatever else there is unless asked; 64 bits where the case has them."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # there are others on the device
    jax: Any = importlib.import_module("jax")
    jnp: Any = importlib.import_module("jax.numpy")
    jax.config.update("jax_platforms", device)
    if device != "cpu":
        jax.config.update("jax_default_matmul_precision", "highest")  # 32 bits, as the engine computes
    activations = {"relu": jax.nn.relu, "tanh": jnp.tanh, "erf": jax.lax.erf, "softplus": jax.nn.softplus}

    def arrays(case):
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        return [jnp.asarray(each) for each in _arrays(case)]

    def velocity(case: Case):
        if device == "cpu":
            _needs(case, 5)
        a, w, x, y = arrays(case)
        phi = activations[case.activation]

        def loss(a, w, x, y):
            residual = y - a @ phi(w @ x.T) / case.N
            return (-case.N / (2 * case.n)) * (residual @ residual)

        gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
        probe = _probe_of(case)
        return lambda: jax.block_until_ready(gradient(a, w, x, y)), lambda result: probe(result[1])

    def tangent_kernel(case: Case):
        _needs(case, 5)
        a, w, x, _ = arrays(case)
        phi = activations[case.activation]
        rows = probed(case.n)

        @jax.jit
        def kernel(a, w, x):
            z = w @ x.T
            values, slopes = jax.jvp(phi, (z,), (jnp.ones_like(z),))
            slopes = a[:, None] * slopes
            return (values.T @ values + (slopes.T @ slopes) * (x @ x.T)) / case.N

        return (
            lambda: jax.block_until_ready(kernel(a, w, x)),
            lambda result: np.asarray(result)[np.ix_(rows, rows)],
        )

    def population(case: Case):
        _needs(case, 6)
        arrays(case)  # sets the precision
        a, w = map(jnp.asarray, _population_arrays(case))

        @jax.jit
        def by_hand(a, w):
            p = (w * w).sum(1)
            return _pairs(jnp, jnp.arcsin, case, a, w, p[:, None], a, w, p)

        return lambda: jax.block_until_ready(by_hand(a, w)), _probe_of(case)

    def matmul(dtype, size):
        jax.config.update("jax_enable_x64", dtype == "float64")
        left = jnp.ones((size, size), dtype)
        product = jax.jit(jnp.matmul)
        return lambda: jax.block_until_ready(product(left, left))

    return {"velocity": velocity, "tangent_kernel": tangent_kernel, "population": population, "matmul": matmul}


def _arrays(case):
    """a (N,), w (N, d), x (n, d), y (n,) in the dtype of the case, contiguous."""
    particles, inputs, targets = data(case)
    parts = particles[:, 0], particles[:, 1:], inputs, targets
    return [np.array(part, dtype=case.dtype, order="C") for part in parts]


def _probe_of(case, to_host=np.asarray):
    """What takes the rows that are compared from a result (in_a, in_w)."""
    rows = probed(case.N)
    return lambda result: np.column_stack([to_host(each[rows]) for each in result])


def _needs(case, arrays):
    """Refuse a case whose (N, n) arrays, so many at a time, would not fit: a machine out of memory kills others too."""
    needed = float(arrays * case.n * case.N * np.dtype(case.dtype).itemsize)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024.0 * float(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration):
        return
    if needed > 0.8 * free:
        raise TooLarge(f"needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free")


CONTENDERS = {
    "numpy": numpy,
    "numpy-tiled": numpy_tiled,
    "torch": torch_autograd,
    "torch-hand": torch_hand,
    "torch-compile": torch_compile,
    "jax": jax,
    "cupy": cupy,
}
