"""Kernels of the CUDA engine, built for a formula, a dtype and a dimension of the inputs.

A thread owns some particles or some inputs, in registers; its block goes through the others in tiles of shared memory,
which all threads read at once, four numbers at a time. The dimension is a constant of the code: loops over it are
unrolled. Nothing is added atomically: partial sums go to rows of their own, and `sum_rows` adds these in order, so that
every run has the same bits.
"""

from typing import Any

import numpy as np

from .cuda_device import SIMULATED, cuda

THREADS = 8 if SIMULATED else 128  # of a block
TILE = 8 if SIMULATED else 64  # rows of shared memory, at most as many as threads
RUN = 2 if SIMULATED else 32  # tiles of inputs whose sum is kept in registers before it goes to memory
STAGES = 7  # that are combined at a time
ALIGNMENT = None if SIMULATED else 16  # bytes of shared memory, for reads of four numbers


def _width(numbers: int) -> int:
    """Numbers in a row of shared memory that holds so many: whole reads of four."""
    return -(-numbers // 4) * 4


def inputs_each(dtype: str, dim: int, n: int = 4 * THREADS) -> int:
    """Inputs that a thread of a prediction owns: their numbers fill about half of its registers; no more than there
    are."""
    words = dim * np.dtype(dtype).itemsize // 4
    return min(4 if words <= 20 else 2 if words <= 40 else 1, 4 if n > 2 * THREADS else 2 if n > THREADS else 1)


def particles_each(dtype: str, dim: int) -> int:
    """Particles that a thread of a velocity owns, each with as many sums as parameters."""
    return 2 if dim * np.dtype(dtype).itemsize // 4 <= 20 else 1


def _reads_again(dtype: str, dim: int) -> bool:
    """Whether an input is read again from shared memory for its second use, where registers would not hold it too.

    A barrier of the warp between the two keeps the compiler from carrying it over.
    """
    return dim * np.dtype(dtype).itemsize // 4 > 32


def build_predict(unit: Any, dtype: str, dim: int, each: int = 0) -> Any:
    """partial[s, k] = sum of m_i a_i phi(z_ik) over tiles s, s + S, ... of particles."""
    real, each, width = np.dtype(dtype).type, each or inputs_each(dtype, dim), _width(2 + dim)
    zero = real(0)

    @cuda.jit
    def predict(cloud, masses, columns, partial):
        shared = cuda.shared.array((TILE, width), real, alignment=ALIGNMENT)
        x = cuda.local.array((each, dim), real)
        total = cuda.local.array(each, real)
        lost = cuda.local.array(each, real)
        in_tile = cuda.local.array(each, real)
        n, n_particles, thread = columns.shape[1], masses.size, cuda.threadIdx.x
        for e in range(each):
            k = (cuda.blockIdx.x * each + e) * THREADS + thread
            total[e] = zero
            lost[e] = zero
            for j in range(dim):
                x[e, j] = columns[j, k] if k < n else zero
        for tile in range(cuda.blockIdx.y, (n_particles + TILE - 1) // TILE, cuda.gridDim.y):
            first = tile * TILE
            count = min(TILE, n_particles - first)
            massive = 0
            if thread < count and masses[first + thread] != zero:
                massive = 1
            if not cuda.syncthreads_or(massive):  # the barrier before shared memory is written again, too
                continue
            for place in range(thread, TILE * (2 + dim), THREADS):
                row, i = place // TILE, place % TILE
                if i < count:
                    shared[i, row] = masses[first + i] if row == 0 else cloud[row - 1, first + i]
            cuda.syncthreads()
            for e in range(each):
                in_tile[e] = zero
            for i in range(count):
                for e in range(each):
                    z = zero
                    for j in range(dim):
                        z += shared[i, 2 + j] * x[e, j]
                    in_tile[e] += shared[i, 0] * unit(shared[i, 1], z)
            for e in range(each):  # Kahan's sum of the tiles: rounding does not grow with their number
                more = in_tile[e] - lost[e]
                moved = total[e] + more
                lost[e] = (moved - total[e]) - more
                total[e] = moved
        for e in range(each):
            k = (cuda.blockIdx.x * each + e) * THREADS + thread
            if k < n:
                partial[cuda.blockIdx.y, k] = total[e]

    return predict


def build_jvp(motion: Any, dtype: str, dim: int, each: int = 0) -> Any:
    """partial[s, k] = sum of m_i <grad_theta [a_i phi(z_ik)], v_i> over tiles s, s + S, ... of particles."""
    real, each, width = np.dtype(dtype).type, each or inputs_each(dtype, dim), _width(3 + 2 * dim)
    zero = real(0)

    @cuda.jit
    def jvp(cloud, velocity, masses, columns, partial):
        shared = cuda.shared.array((TILE, width), real, alignment=ALIGNMENT)
        x = cuda.local.array((each, dim), real)
        total = cuda.local.array(each, real)
        lost = cuda.local.array(each, real)
        in_tile = cuda.local.array(each, real)
        n, n_particles, thread = columns.shape[1], masses.size, cuda.threadIdx.x
        for e in range(each):
            k = (cuda.blockIdx.x * each + e) * THREADS + thread
            total[e] = zero
            lost[e] = zero
            for j in range(dim):
                x[e, j] = columns[j, k] if k < n else zero
        for tile in range(cuda.blockIdx.y, (n_particles + TILE - 1) // TILE, cuda.gridDim.y):
            first = tile * TILE
            count = min(TILE, n_particles - first)
            massive = 0
            if thread < count and masses[first + thread] != zero:
                massive = 1
            if not cuda.syncthreads_or(massive):
                continue
            for place in range(thread, TILE * (1 + dim), THREADS):
                row, i = place // TILE, place % TILE
                if i < count:
                    shared[i, 1 + row] = cloud[row, first + i]
                    shared[i, 2 + dim + row] = velocity[row, first + i]
            if thread < count:
                shared[thread, 0] = masses[first + thread]
            cuda.syncthreads()
            for e in range(each):
                in_tile[e] = zero
            for i in range(count):
                for e in range(each):
                    z = zero
                    dz = zero
                    for j in range(dim):
                        z += shared[i, 2 + j] * x[e, j]
                        dz += shared[i, 3 + dim + j] * x[e, j]
                    in_tile[e] += shared[i, 0] * motion(shared[i, 1], z, shared[i, 2 + dim], dz)
            for e in range(each):
                more = in_tile[e] - lost[e]
                moved = total[e] + more
                lost[e] = (moved - total[e]) - more
                total[e] = moved
        for e in range(each):
            k = (cuda.blockIdx.x * each + e) * THREADS + thread
            if k < n:
                partial[cuda.blockIdx.y, k] = total[e]

    return jvp


def build_vjp(gradient: Any, dtype: str, dim: int) -> Any:
    """velocity[s] = sum of c_k grad_theta [a_i phi(z_ik)] over share s of the inputs, times the mobilities."""
    real, each, width = np.dtype(dtype).type, particles_each(dtype, dim), _width(1 + dim)
    zero, again = real(0), _reads_again(dtype, dim)

    @cuda.jit
    def vjp(cloud, columns, weights, mobility_a, mobility_w, velocity):
        shared = cuda.shared.array((TILE, width), real, alignment=ALIGNMENT)
        a = cuda.local.array(each, real)
        in_a = cuda.local.array(each, real)
        w = cuda.local.array((each, dim), real)
        in_w = cuda.local.array((each, dim), real)
        n, n_particles, thread, share = weights.size, cloud.shape[1], cuda.threadIdx.x, cuda.blockIdx.y
        for e in range(each):
            # Beyond the last particle, the last one again: no formula meets a number that is not in the cloud.
            i = min((cuda.blockIdx.x * each + e) * THREADS + thread, n_particles - 1)
            a[e] = cloud[0, i]
            for j in range(dim):
                w[e, j] = cloud[1 + j, i]
        tiles = (n + TILE - 1) // TILE
        begin, end = share * tiles // cuda.gridDim.y, (share + 1) * tiles // cuda.gridDim.y
        for run in range(begin, end, RUN):
            for e in range(each):
                in_a[e] = zero
                for j in range(dim):
                    in_w[e, j] = zero
            for tile in range(run, min(run + RUN, end)):
                first = tile * TILE
                count = min(TILE, n - first)
                cuda.syncthreads()
                for place in range(thread, TILE * (1 + dim), THREADS):
                    row, k = place // TILE, place % TILE
                    if k < count:
                        shared[k, row] = weights[first + k] if row == 0 else columns[row - 1, first + k]
                cuda.syncthreads()
                for k in range(count):
                    for e in range(each):
                        z = zero
                        for j in range(dim):
                            z += w[e, j] * shared[k, 1 + j]
                        if again:
                            cuda.syncwarp()
                        of_a, of_z = gradient(a[e], z)
                        in_a[e] += shared[k, 0] * of_a
                        pull = shared[k, 0] * of_z
                        for j in range(dim):
                            in_w[e, j] += pull * shared[k, 1 + j]
            for e in range(each):
                i = (cuda.blockIdx.x * each + e) * THREADS + thread
                if i < n_particles:
                    before = velocity[share, 0, i] if run > begin else zero
                    velocity[share, 0, i] = before + mobility_a * in_a[e]
                    for j in range(dim):
                        before = velocity[share, 1 + j, i] if run > begin else zero
                        velocity[share, 1 + j, i] = before + mobility_w * in_w[e, j]

    return vjp


def build_pairwise(overlap: Any, scale: Any, dtype: str, dim: int) -> Any:
    """velocity[s] = sum of c_k grad_theta [a_i O(w_i, w_k)] over share s of the nodes, times the mobilities.

    sizes : (2, n) of |w_k|^2 and its scale
    """
    real, width = np.dtype(dtype).type, _width(3 + dim)
    zero, two, again = real(0), real(2), _reads_again(dtype, dim)

    @cuda.jit
    def pairwise(cloud, columns, sizes, weights, mobility_a, mobility_w, velocity):
        shared = cuda.shared.array((TILE, width), real, alignment=ALIGNMENT)
        w = cuda.local.array(dim, real)
        in_w = cuda.local.array(dim, real)
        n, n_particles, thread, share = weights.size, cloud.shape[1], cuda.threadIdx.x, cuda.blockIdx.y
        i = cuda.blockIdx.x * THREADS + thread
        mine = min(i, n_particles - 1)
        a, q = cloud[0, mine], zero
        for j in range(dim):
            w[j] = cloud[1 + j, mine]
            q += w[j] * w[j]
        s = scale(q)
        tiles = (n + TILE - 1) // TILE
        begin, end = share * tiles // cuda.gridDim.y, (share + 1) * tiles // cuda.gridDim.y
        for run in range(begin, end, RUN):
            in_a = zero
            in_q = zero
            for j in range(dim):
                in_w[j] = zero
            for tile in range(run, min(run + RUN, end)):
                first = tile * TILE
                count = min(TILE, n - first)
                cuda.syncthreads()
                for place in range(thread, TILE * dim, THREADS):
                    row, k = place // TILE, place % TILE
                    if k < count:
                        shared[k, 3 + row] = columns[row, first + k]
                if thread < count:
                    shared[thread, 0] = weights[first + thread]
                    shared[thread, 1] = sizes[0, first + thread]
                    shared[thread, 2] = sizes[1, first + thread]
                cuda.syncthreads()
                for k in range(count):
                    c = zero
                    for j in range(dim):
                        c += w[j] * shared[k, 3 + j]
                    if again:
                        cuda.syncwarp()
                    value, of_c, of_q = overlap(c, q, s, shared[k, 1], shared[k, 2])
                    in_a += shared[k, 0] * value
                    in_q += shared[k, 0] * of_q
                    pull = shared[k, 0] * of_c
                    for j in range(dim):
                        in_w[j] += pull * shared[k, 3 + j]
            if i < n_particles:
                before = velocity[share, 0, i] if run > begin else zero
                velocity[share, 0, i] = before + mobility_a * in_a
                for j in range(dim):
                    before = velocity[share, 1 + j, i] if run > begin else zero
                    moved = a * (in_w[j] + two * in_q * w[j])
                    velocity[share, 1 + j, i] = before + mobility_w * moved

    return pairwise


def build_sizes(scale: Any, dtype: str) -> Any:
    """|w_k|^2 of each column and its scale, in two rows."""
    zero = np.dtype(dtype).type(0)

    @cuda.jit
    def sizes(columns, out):
        k = cuda.grid(1)
        if k < columns.shape[1]:
            q = zero
            for j in range(columns.shape[0]):
                q += columns[j, k] * columns[j, k]
            out[0, k] = q
            out[1, k] = scale(q)

    return sizes


def build_features(gradient: Any, dtype: str) -> Any:
    """phi(z_ik) and a_i phi'(z_ik) of particles from `first` on: arrays (n, some)."""
    zero = np.dtype(dtype).type(0)

    @cuda.jit
    def features(cloud, columns, first, values, slopes):
        i, begin = cuda.grid(2)
        if i < values.shape[1]:
            for k in range(begin, values.shape[0], cuda.blockDim.y * cuda.gridDim.y):
                z = zero
                for j in range(columns.shape[0]):
                    z += cloud[1 + j, first + i] * columns[j, k]
                values[k, i], slopes[k, i] = gradient(cloud[0, first + i], z)

    return features


GRAM = 4 if SIMULATED else 16  # side of a tile of a Gram matrix
_PADDED = GRAM + 1  # so that columns of a tile lie in different banks


def build_gram(dtype: str) -> Any:
    """out += X diag(m) Y' of particles from `first` on, X and Y with rows of them; `out` in float64 elsewhere."""
    real = np.dtype(dtype).type
    zero = real(0)

    @cuda.jit
    def gram(x, y, masses, first, out):
        left = cuda.shared.array((GRAM, _PADDED), real)
        right = cuda.shared.array((GRAM, _PADDED), real)
        down, across = cuda.threadIdx.y, cuda.threadIdx.x
        row, column = cuda.blockIdx.y * GRAM + down, cuda.blockIdx.x * GRAM + across
        other = cuda.blockIdx.x * GRAM + down
        total, lost = zero, zero
        for begin in range(0, x.shape[1], GRAM):
            i = begin + across
            inside = i < x.shape[1]
            cuda.syncthreads()
            left[down, across] = x[row, i] * masses[first + i] if inside and row < x.shape[0] else zero
            right[down, across] = y[other, i] if inside and other < y.shape[0] else zero
            cuda.syncthreads()
            in_tile = zero
            for i in range(GRAM):
                in_tile += left[down, i] * right[across, i]
            more = in_tile - lost  # Kahan's sum of the tiles
            moved = total + more
            lost = (moved - total) - more
            total = moved
        if row < out.shape[0] and column < out.shape[1]:
            out[row, column] = total

    return gram


def build_combine(dtype: str) -> Any:
    """out = base + sum_j c_j s_j, of clouds: a row of the grid for each of theirs."""

    @cuda.jit
    def combine(out, base, s0, s1, s2, s3, s4, s5, s6, c0, c1, c2, c3, c4, c5, c6):
        i, j = cuda.blockIdx.x * THREADS + cuda.threadIdx.x, cuda.blockIdx.y
        if i < base.shape[1]:
            moved = c0 * s0[j, i] + c1 * s1[j, i] + c2 * s2[j, i] + c3 * s3[j, i]
            moved += c4 * s4[j, i] + c5 * s5[j, i] + c6 * s6[j, i]
            out[j, i] = base[j, i] + moved

    return combine


def build_error_norm(dtype: str) -> Any:
    """partial[b] = sum of squares of sum_j c_j s_j / (atol + rtol max(|before|, |after|)) over entries of a block."""
    real = np.dtype(dtype).type
    zero = real(0)

    @cuda.jit
    def error_norm(before, after, s0, s1, s2, s3, s4, s5, s6, c0, c1, c2, c3, c4, c5, c6, rtol, atol, partial):
        shared = cuda.shared.array(THREADS, real)
        thread, total = cuda.threadIdx.x, zero
        for j in range(before.shape[0]):
            for i in range(cuda.grid(1), before.shape[1], cuda.gridsize(1)):
                error = c0 * s0[j, i] + c1 * s1[j, i] + c2 * s2[j, i] + c3 * s3[j, i]
                error += c4 * s4[j, i] + c5 * s5[j, i] + c6 * s6[j, i]
                ratio = error / (atol + rtol * max(abs(before[j, i]), abs(after[j, i])))
                total += ratio * ratio + (after[j, i] - after[j, i])  # NaN where a state is infinite
        shared[thread] = total
        cuda.syncthreads()
        half = THREADS // 2
        while half > 0:
            if thread < half:
                shared[thread] += shared[thread + half]
            cuda.syncthreads()
            half = half // 2
        if thread == 0:
            partial[cuda.blockIdx.x] = shared[0]

    return error_norm


def build_is_finite(dtype: str) -> Any:
    """bad[b] = whether an entry of block b is not finite."""
    infinite = np.dtype(dtype).type(np.inf)

    @cuda.jit
    def is_finite(values, bad):
        found = 0
        for j in range(values.shape[0]):
            for i in range(cuda.grid(1), values.shape[1], cuda.gridsize(1)):
                if not abs(values[j, i]) < infinite:
                    found = 1
        found = cuda.syncthreads_or(found)
        if cuda.threadIdx.x == 0:
            bad[cuda.blockIdx.x] = found

    return is_finite


def build_noise(words: Any, reals: Any, pair: Any, dtype: str) -> Any:
    """Deviates in the shape of a cloud, four of a particle for each row of the grid."""
    low, half = np.uint64(2**32 - 1), np.uint64(32)

    @cuda.jit
    def noise(out, seed_low, seed_high, step):
        i, block = cuda.blockIdx.x * THREADS + cuda.threadIdx.x, cuda.blockIdx.y
        if i < out.shape[1]:
            c0, k0, k1 = np.uint64(i), np.uint64(seed_low), np.uint64(seed_high)
            one, other, third, fourth = words(c0 & low, c0 >> half, np.uint64(block), np.uint64(step), k0, k1)
            v, w, t, quadrant = reals(one, other)
            x0, x1 = pair(v, w, t, quadrant)
            v, w, t, quadrant = reals(third, fourth)
            x2, x3 = pair(v, w, t, quadrant)
            j = 4 * block
            out[j, i] = x0
            if j + 1 < out.shape[0]:
                out[j + 1, i] = x1
            if j + 2 < out.shape[0]:
                out[j + 2, i] = x2
            if j + 3 < out.shape[0]:
                out[j + 3, i] = x3

    return noise


def build_sum_rows(dtype: str) -> Any:
    """out[k] = factor sum_s partial[s, k], in order and in float64, whatever the dtype of the partial sums."""

    @cuda.jit
    def sum_rows(partial, factor, out):
        k = cuda.grid(1)
        if k < partial.shape[1]:
            total = np.float64(0)
            for s in range(partial.shape[0]):
                total += np.float64(partial[s, k])
            out[k] = factor * total

    return sum_rows


def build_pull(loss: Any, dtype: str) -> Any:
    """weights[k] = shares[k] u_k, u the loss's pull at F = factor sum_s partial[s, k] + shift[k]; in float64."""
    real = np.dtype(dtype).type

    @cuda.jit
    def pull(partial, factor, shift, targets, shares, weights):
        k = cuda.grid(1)
        if k < partial.shape[1]:
            total = np.float64(0)
            for s in range(partial.shape[0]):
                total += np.float64(partial[s, k])
            weights[k] = real(shares[k] * loss(factor * total + shift[k], targets[k]))

    return pull


def build_add(dtype: str) -> Any:
    """out += block, `out` in float64."""

    @cuda.jit
    def add(block, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] += np.float64(block[i])

    return add
