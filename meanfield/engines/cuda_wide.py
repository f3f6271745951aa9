"""Kernels for inputs of any dimension: as `cuda_loops`, where a thread cannot own all parameters of a particle.

A thread owns one input, or one particle, and its projections z on a group of the others. It goes through the dimension
in chunks, whose numbers for the group lie in shared memory; its own numbers it reads from memory as it goes, next to
its neighbours'. One kernel serves all dimensions.
"""

from typing import Any

import numpy as np

from .cuda_device import SIMULATED, cuda
from .cuda_loops import ALIGNMENT, THREADS

CHUNK = 4 if SIMULATED else 32  # of the dimension, in shared memory


def group(dtype: str) -> int:
    """Particles or inputs whose projections a thread holds at a time."""
    return 4 if SIMULATED else 128 // np.dtype(dtype).itemsize


def build_predict_wide(unit: Any, dtype: str) -> Any:
    """partial[s, k] = sum of m_i a_i phi(z_ik) over groups s, s + S, ... of particles."""
    real, size = np.dtype(dtype).type, group(dtype)
    zero = real(0)

    @cuda.jit
    def predict_wide(cloud, masses, columns, partial):
        shared = cuda.shared.array((CHUNK, size), real, alignment=ALIGNMENT)
        own = cuda.shared.array((2, size), real, alignment=ALIGNMENT)
        z = cuda.local.array(size, real)
        n_particles, thread = masses.size, cuda.threadIdx.x
        dim, n = columns.shape
        k = cuda.blockIdx.x * THREADS + thread
        mine = min(k, n - 1)
        total, lost = zero, zero
        for part in range(cuda.blockIdx.y, (n_particles + size - 1) // size, cuda.gridDim.y):
            first = part * size
            for i in range(size):
                z[i] = zero
            for begin in range(0, dim, CHUNK):
                cuda.syncthreads()
                for place in range(thread, CHUNK * size, THREADS):
                    j, i = begin + place // size, first + place % size
                    inside = j < dim and i < n_particles
                    shared[place // size, place % size] = cloud[1 + j, i] if inside else zero
                for i in range(thread, size, THREADS):
                    inside = first + i < n_particles
                    own[0, i] = masses[first + i] if inside else zero
                    own[1, i] = cloud[0, first + i] if inside else zero
                cuda.syncthreads()
                for j in range(min(CHUNK, dim - begin)):
                    x = columns[begin + j, mine]
                    for i in range(size):
                        z[i] += shared[j, i] * x
            in_group = zero
            for i in range(size):
                if own[0, i] != zero:
                    in_group += own[0, i] * unit(own[1, i], z[i])
            more = in_group - lost  # Kahan's sum
            moved = total + more
            lost = (moved - total) - more
            total = moved
        if k < n:
            partial[cuda.blockIdx.y, k] = total

    return predict_wide


def build_jvp_wide(motion: Any, dtype: str) -> Any:
    """partial[s, k] = sum of m_i <grad_theta [a_i phi(z_ik)], v_i> over groups s, s + S, ... of particles."""
    real, size = np.dtype(dtype).type, group(dtype) // 2
    zero = real(0)

    @cuda.jit
    def jvp_wide(cloud, velocity, masses, columns, partial):
        shared = cuda.shared.array((CHUNK, size), real, alignment=ALIGNMENT)
        shared_v = cuda.shared.array((CHUNK, size), real, alignment=ALIGNMENT)
        own = cuda.shared.array((3, size), real, alignment=ALIGNMENT)
        z = cuda.local.array(size, real)
        dz = cuda.local.array(size, real)
        n_particles, thread = masses.size, cuda.threadIdx.x
        dim, n = columns.shape
        k = cuda.blockIdx.x * THREADS + thread
        mine = min(k, n - 1)
        total, lost = zero, zero
        for part in range(cuda.blockIdx.y, (n_particles + size - 1) // size, cuda.gridDim.y):
            first = part * size
            for i in range(size):
                z[i] = zero
                dz[i] = zero
            for begin in range(0, dim, CHUNK):
                cuda.syncthreads()
                for place in range(thread, CHUNK * size, THREADS):
                    j, i = begin + place // size, first + place % size
                    inside = j < dim and i < n_particles
                    shared[place // size, place % size] = cloud[1 + j, i] if inside else zero
                    shared_v[place // size, place % size] = velocity[1 + j, i] if inside else zero
                for i in range(thread, size, THREADS):
                    inside = first + i < n_particles
                    own[0, i] = masses[first + i] if inside else zero
                    own[1, i] = cloud[0, first + i] if inside else zero
                    own[2, i] = velocity[0, first + i] if inside else zero
                cuda.syncthreads()
                for j in range(min(CHUNK, dim - begin)):
                    x = columns[begin + j, mine]
                    for i in range(size):
                        z[i] += shared[j, i] * x
                        dz[i] += shared_v[j, i] * x
            in_group = zero
            for i in range(size):
                if own[0, i] != zero:
                    in_group += own[0, i] * motion(own[1, i], z[i], own[2, i], dz[i])
            more = in_group - lost
            moved = total + more
            lost = (moved - total) - more
            total = moved
        if k < n:
            partial[cuda.blockIdx.y, k] = total

    return jvp_wide


def build_vjp_wide(gradient: Any, dtype: str) -> Any:
    """velocity[s] = sum of c_k grad_theta [a_i phi(z_ik)] over share s of the inputs, times the mobilities."""
    real, size = np.dtype(dtype).type, group(dtype)
    zero = real(0)

    @cuda.jit
    def vjp_wide(cloud, columns, weights, mobility_a, mobility_w, velocity):
        shared = cuda.shared.array((CHUNK, size), real, alignment=ALIGNMENT)
        pull = cuda.local.array(size, real)
        n_particles, thread, share = cloud.shape[1], cuda.threadIdx.x, cuda.blockIdx.y
        dim, n = columns.shape
        i = cuda.blockIdx.x * THREADS + thread
        mine = min(i, n_particles - 1)
        a, in_a, lost = cloud[0, mine], zero, zero
        groups = (n + size - 1) // size
        begin_group, end_group = share * groups // cuda.gridDim.y, (share + 1) * groups // cuda.gridDim.y
        for part in range(begin_group, end_group):
            first = part * size
            for k in range(size):
                pull[k] = zero  # first the projections, then what pulls
            for begin in range(0, dim, CHUNK):
                cuda.syncthreads()
                for place in range(thread, CHUNK * size, THREADS):
                    j, k = begin + place // size, first + place % size
                    shared[place // size, place % size] = columns[j, k] if j < dim and k < n else zero
                cuda.syncthreads()
                for j in range(min(CHUNK, dim - begin)):
                    w = cloud[1 + begin + j, mine]
                    for k in range(size):
                        pull[k] += w * shared[j, k]
            for k in range(size):
                weight = weights[first + k] if first + k < n else zero
                if weight != zero:
                    of_a, of_z = gradient(a, pull[k])
                    more = weight * of_a - lost  # Kahan's sum
                    moved = in_a + more
                    lost = (moved - in_a) - more
                    in_a = moved
                    pull[k] = weight * of_z
                else:
                    pull[k] = zero
            for begin in range(0, dim, CHUNK):
                cuda.syncthreads()
                for place in range(thread, CHUNK * size, THREADS):
                    j, k = begin + place // size, first + place % size
                    shared[place // size, place % size] = columns[j, k] if j < dim and k < n else zero
                cuda.syncthreads()
                if i < n_particles:
                    for j in range(min(CHUNK, dim - begin)):
                        in_w = zero
                        for k in range(size):
                            in_w += pull[k] * shared[j, k]
                        before = velocity[share, 1 + begin + j, i] if part > begin_group else zero
                        velocity[share, 1 + begin + j, i] = before + mobility_w * in_w
        if i < n_particles:
            velocity[share, 0, i] = mobility_a * in_a

    return vjp_wide


def build_pairwise_wide(overlap: Any, scale: Any, dtype: str) -> Any:
    """velocity[s] = sum of c_k grad_theta [a_i O(w_i, w_k)] over share s of the nodes, times the mobilities."""
    real, size = np.dtype(dtype).type, group(dtype)
    zero, two = real(0), real(2)

    @cuda.jit
    def pairwise_wide(cloud, columns, sizes, weights, mobility_a, mobility_w, velocity):
        shared = cuda.shared.array((CHUNK, size), real, alignment=ALIGNMENT)
        pull = cuda.local.array(size, real)
        n_particles, thread, share = cloud.shape[1], cuda.threadIdx.x, cuda.blockIdx.y
        dim, n = columns.shape
        i = cuda.blockIdx.x * THREADS + thread
        mine = min(i, n_particles - 1)
        a, q, in_a, in_q = cloud[0, mine], zero, zero, zero
        for j in range(dim):
            q += cloud[1 + j, mine] * cloud[1 + j, mine]
        s = scale(q)
        groups = (n + size - 1) // size
        begin_group, end_group = share * groups // cuda.gridDim.y, (share + 1) * groups // cuda.gridDim.y
        for part in range(begin_group, end_group):
            first = part * size
            for k in range(size):
                pull[k] = zero
            for begin in range(0, dim, CHUNK):
                cuda.syncthreads()
                for place in range(thread, CHUNK * size, THREADS):
                    j, k = begin + place // size, first + place % size
                    shared[place // size, place % size] = columns[j, k] if j < dim and k < n else zero
                cuda.syncthreads()
                for j in range(min(CHUNK, dim - begin)):
                    w = cloud[1 + begin + j, mine]
                    for k in range(size):
                        pull[k] += w * shared[j, k]
            for k in range(size):
                weight = weights[first + k] if first + k < n else zero
                if weight != zero:
                    value, of_c, of_q = overlap(pull[k], q, s, sizes[0, first + k], sizes[1, first + k])
                    in_a += weight * value
                    in_q += weight * of_q
                    pull[k] = weight * of_c
                else:
                    pull[k] = zero
            for begin in range(0, dim, CHUNK):
                cuda.syncthreads()
                for place in range(thread, CHUNK * size, THREADS):
                    j, k = begin + place // size, first + place % size
                    shared[place // size, place % size] = columns[j, k] if j < dim and k < n else zero
                cuda.syncthreads()
                if i < n_particles:
                    for j in range(min(CHUNK, dim - begin)):
                        in_w = zero
                        for k in range(size):
                            in_w += pull[k] * shared[j, k]
                        before = velocity[share, 1 + begin + j, i] if part > begin_group else zero
                        velocity[share, 1 + begin + j, i] = before + mobility_w * a * in_w
        if i < n_particles:
            velocity[share, 0, i] = mobility_a * in_a
            for j in range(dim):
                velocity[share, 1 + j, i] += mobility_w * a * two * in_q * cloud[1 + j, i]

    return pairwise_wide
