"""Large dimensions on a device: projections by matrix products of cuBLAS, through CuPy, a tile of particles at a time.

    Z = X W (n, tile),   then f += sum_i m_i a_i phi(Z),   or G = c a phi'(Z) and X' G (d, tile)

The formula and the sums are kernels of ours; the tile keeps memory bounded. CuPy is imported here alone. It computes
in all 32 bits of float32 unless CUPY_TF32 is set in the environment.
"""

import importlib
import sys
from functools import cache
from importlib import util
from typing import Any

import numpy as np

from .cuda_device import SIMULATED, cuda
from .cuda_loops import THREADS

LEAST_DIM = 64  # from which on products of matrices are worth their traffic
TILE_BYTES = 2**28  # of Z


@cache
def available() -> bool:
    """Whether there is CuPy; in the simulator NumPy stands in for it."""
    if SIMULATED:
        return True
    if util.find_spec("cupy") is None:
        return False
    try:
        return bool(importlib.import_module("cupy").is_available())
    except Exception:  # a CuPy for another CUDA: the engine's own kernels do
        return False


def projections(columns: Any, cloud: Any, first: int, last: int) -> Any:
    """X W of the particles from `first` to `last`: (n, tile)."""
    if SIMULATED:
        return cuda.to_device(columns.copy_to_host().T @ cloud.copy_to_host()[1:, first:last])
    cupy = importlib.import_module("cupy")
    return _ours(cupy.matmul(cupy.asarray(columns).T, cupy.asarray(cloud)[1:, first:last]))


def pulled(columns: Any, z: Any) -> Any:
    """X' G: (d, tile)."""
    if SIMULATED:
        return cuda.to_device(columns.copy_to_host() @ z.copy_to_host())
    cupy = importlib.import_module("cupy")
    return _ours(cupy.matmul(cupy.asarray(columns), cupy.asarray(z)))


def _ours(array: Any) -> Any:
    """CuPy's array as Numba's; without waiting for it, for both launch on the one default stream."""
    return cuda.as_cuda_array(array, sync=False)


def release() -> None:
    """Give back what CuPy keeps for later."""
    if not SIMULATED and "cupy" in sys.modules:
        sys.modules["cupy"].get_default_memory_pool().free_all_blocks()


def tile(n: int, n_particles: int, dtype: Any) -> int:
    """Particles at a time: whole blocks of threads, at least one."""
    fitting = TILE_BYTES // (n * np.dtype(dtype).itemsize)
    return min(n_particles, max(1, fitting // THREADS) * THREADS)


def build_sum_units(unit: Any, dtype: str) -> Any:
    """out[row, k] = sum of m_i a_i phi(z_ki) over the particles of a tile from `first` on: a block for each k."""
    zero = np.dtype(dtype).type(0)
    real = np.dtype(dtype).type

    @cuda.jit
    def sum_units(z, cloud, masses, first, out, row):
        shared = cuda.shared.array(THREADS, real)
        thread, k, total, lost = cuda.threadIdx.x, cuda.blockIdx.x, zero, zero
        for i in range(thread, z.shape[1], THREADS):
            mass = masses[first + i]
            if mass != zero:
                more = mass * unit(cloud[0, first + i], z[k, i]) - lost  # Kahan's sum
                moved = total + more
                lost = (moved - total) - more
                total = moved
        shared[thread] = total
        cuda.syncthreads()
        half = THREADS // 2
        while half > 0:
            if thread < half:
                shared[thread] += shared[thread + half]
            cuda.syncthreads()
            half = half // 2
        if thread == 0:
            out[row, k] = shared[0]

    return sum_units


def build_sum_motions(motion: Any, dtype: str) -> Any:
    """As `build_sum_units`, of m_i <grad_theta [a_i phi(z_ki)], v_i>; dz the projections of the velocities."""
    zero = np.dtype(dtype).type(0)
    real = np.dtype(dtype).type

    @cuda.jit
    def sum_motions(z, dz, cloud, velocity, masses, first, out, row):
        shared = cuda.shared.array(THREADS, real)
        thread, k, total, lost = cuda.threadIdx.x, cuda.blockIdx.x, zero, zero
        for i in range(thread, z.shape[1], THREADS):
            mass = masses[first + i]
            if mass != zero:
                more = (
                    mass * motion(cloud[0, first + i], z[k, i], velocity[0, first + i], dz[k, i]) - lost
                )  # Kahan's sum
                moved = total + more
                lost = (moved - total) - more
                total = moved
        shared[thread] = total
        cuda.syncthreads()
        half = THREADS // 2
        while half > 0:
            if thread < half:
                shared[thread] += shared[thread + half]
            cuda.syncthreads()
            half = half // 2
        if thread == 0:
            out[row, k] = shared[0]

    return sum_motions


def build_pull_units(gradient: Any, dtype: str) -> Any:
    """in_a[s, i] = sum of c_k phi(z_ki) over share s of the inputs, while z_ki gives way to c_k a_i phi'(z_ki)."""
    zero = np.dtype(dtype).type(0)

    @cuda.jit
    def pull_units(z, cloud, weights, first, in_a):
        i, share = cuda.blockIdx.x * THREADS + cuda.threadIdx.x, cuda.blockIdx.y
        if i < z.shape[1]:
            n, a, total, lost = weights.size, cloud[0, first + i], zero, zero
            for k in range(share * n // cuda.gridDim.y, (share + 1) * n // cuda.gridDim.y):
                of_a, of_z = gradient(a, z[k, i])
                more = weights[k] * of_a - lost
                moved = total + more
                lost = (moved - total) - more
                total = moved
                z[k, i] = weights[k] * of_z
            in_a[share, i] = total

    return pull_units


def build_place(dtype: str) -> Any:
    """The velocity of a tile, in its place: shares of its first row added in order, the others as they are."""
    zero = np.dtype(dtype).type(0)

    @cuda.jit
    def place(in_a, in_w, mobility_a, mobility_w, first, velocity):
        i, row = cuda.blockIdx.x * THREADS + cuda.threadIdx.x, cuda.blockIdx.y
        if i < in_w.shape[1]:
            if row == 0:
                total = zero
                for share in range(in_a.shape[0]):
                    total += in_a[share, i]
                velocity[0, first + i] = mobility_a * total
            else:
                velocity[row, first + i] = mobility_w * in_w[row - 1, i]

    return place
