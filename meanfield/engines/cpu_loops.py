"""Loops of the CPU engine: what is done with one tile or group, for `cpu` to compile and run in parallel.

In a tile everything is a matrix whose rows are `lanes` long,
so that the innermost loop always runs along particles, contiguous and aligned, and LLVM vectorises it.
"""

import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import interactions
from . import cpu_lanes, noise
from .cpu_single import pair_in_own_type
from .cpu_vocabulary import EXACT  # which attaches the compiled vocabulary

ROW_BYTES = 1024  # of a tile: whole blocks of vectors, and 32 rows are 32 KB
_LINE_BYTES = 64
BLOCK = 32  # inputs taken at a time: Z is 32 KB
RUN = 64 * BLOCK  # terms summed in the dtype of the cloud before their sum goes to one in float64

LANES = {dtype: ROW_BYTES // np.dtype(dtype).itemsize for dtype in ("float64", "float32")}

# Sums may be reassociated into vector lanes; NaN and infinity must survive, or a diverged run would go unseen.
LOOP: Any = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}
_inline = njit(**EXACT)


def aligned(shape, dtype):
    """An array that begins on a cache line."""
    size, dtype = math.prod(shape), np.dtype(dtype)
    memory = np.empty(size + _LINE_BYTES // dtype.itemsize, dtype)
    first = (-memory.ctypes.data % _LINE_BYTES) // dtype.itemsize
    return memory[first : first + size].reshape(shape)


@cache
def tile_functions(dtype: str) -> SimpleNamespace:
    """What is done with the rows of a tile, for a dtype."""
    lanes, real = LANES[dtype], np.dtype(dtype).type
    zero, itemsize = real(0), np.dtype(dtype).itemsize

    @njit
    def rows(count):
        """Zeros (count, lanes) that begin on a cache line."""
        memory = np.zeros(count * lanes + _LINE_BYTES // itemsize, real)
        first = (-memory.ctypes.data % _LINE_BYTES) // itemsize
        return memory[first : first + count * lanes].reshape(count, lanes)

    @_inline
    def load(cloud, first, count, out):
        """Rows of a cloud from particle `first`, `count` of them; beyond these the last one again.

        It has no mass there. Zeros in its place would make NaN of a formula that is not finite at 0.
        """
        for j in range(cloud.shape[0]):
            given, filled = cloud[j, first : first + count], out[j, count:lanes]
            for lane in range(count):
                out[j, lane] = given[lane]
            for lane in range(filled.size):
                filled[lane] = given[count - 1]

    @_inline
    def weigh(masses, first, count, out):
        """Masses of `count` particles from `first` on; zeros beyond these."""
        given, rest = masses[first : first + count], out[0, count:lanes]
        for lane in range(count):
            out[0, lane] = given[lane]
        for lane in range(rest.size):
            rest[lane] = zero

    @_inline
    def clear(out, count):
        for r in range(count):
            for lane in range(lanes):
                out[r, lane] = zero

    @njit
    def totals(count):
        """Zeros (count, lanes) in float64."""
        return np.zeros((count, lanes))

    @_inline
    def move(sums, totals):
        """Add sums to totals, and clear them."""
        for r in range(totals.shape[0]):
            for lane in range(lanes):
                totals[r, lane] += sums[r, lane]
                sums[r, lane] = zero

    @_inline
    def store(totals, mobility_a, mobility_w, velocity, first, count):
        """Velocities of `count` particles from `first` on."""
        for j in range(velocity.shape[0]):
            mobility, row = mobility_w if j else mobility_a, velocity[j, first : first + count]
            for lane in range(count):
                row[lane] = mobility * totals[j, lane]

    @_inline
    def occupied(masses):
        for mass in masses:
            if mass != zero:
                return True
        return False

    return SimpleNamespace(
        lanes=lanes, real=real, rows=rows, load=load, clear=clear, occupied=occupied, weigh=weigh, totals=totals,
        move=move, store=store,
        add_product=cpu_lanes.build_add_product(lanes, itemsize),
    )  # fmt: skip


@intrinsic
def _call(typingctx, address, *arguments):
    """Call the compiled function at an address, which takes these arguments and returns nothing."""

    def build(context, builder, signature, args):
        values = [builder.extract_value(args[1], i) for i in range(len(arguments))]
        kind = context.call_conv.get_function_type(types.none, arguments).as_pointer()
        callee = builder.inttoptr(args[0], kind)
        status, _ = context.call_conv.call_function(builder, callee, types.none, arguments, values)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.none(address, types.StarArgTuple(arguments)), build


def _for_each(count, address, arguments):
    for i in prange(count):
        _call(address, np.intp(i), *arguments)


# Call a compiled function (i, *arguments) for i < count: by its address, so that the loop is compiled once for each set
# of types and not for each formula, and LLVM goes over the function's own code once rather than six times.
in_parallel: Any = njit(parallel=True, nogil=True)(_for_each)
in_turn: Any = njit(nogil=True)(_for_each)


def build_predict(phi, dtype, keep=False):
    """sum_i m_i a_i phi(z_ik) for each group of tiles; `keep`: leaves the features (2, n, lanes) of each tile too."""
    tile = tile_functions(dtype)
    lanes, zero, rows, load, clear = tile.lanes, tile.real(0), tile.rows, tile.load, tile.clear
    add_product, occupied, weigh = tile.add_product, tile.occupied, tile.weigh
    unit, gradient = _inline(interactions.unit(phi)), _inline(interactions.unit_gradient(phi))

    @njit(**LOOP)
    def sum_group(i, cloud, masses, inputs, features, stride, partial):
        group = i * stride % partial.shape[0]
        width, n_particles = cloud.shape
        groups, n = partial.shape
        tiles = -(-n_particles // lanes)
        own, mass, z = rows(width), rows(1), rows(BLOCK)
        for t in range(group * tiles // groups, (group + 1) * tiles // groups):
            first = t * lanes
            count = min(lanes, n_particles - first)
            if not keep and not occupied(masses[first : first + count]):
                continue  # but the velocity wants the features of atoms without mass too
            load(cloud, first, count, own)
            weigh(masses, first, count, mass)
            a, m, w = own[0], mass[0], own[1:]
            for k0 in range(0, inputs.shape[0], BLOCK):
                block = inputs[k0 : k0 + BLOCK]
                clear(z, block.shape[0])
                add_product(z, block, w)
                for k in range(min(block.shape[0], n - k0)):
                    total = zero
                    if keep:
                        value, slope = features[t, 0, k0 + k], features[t, 1, k0 + k]
                        for lane in range(lanes):
                            of_a, of_z = gradient(a[lane], z[k, lane])
                            total += m[lane] * unit(a[lane], z[k, lane])
                            value[lane], slope[lane] = of_a, of_z
                    else:
                        for lane in range(lanes):
                            total += m[lane] * unit(a[lane], z[k, lane])
                    partial[group, k0 + k] += total

    return sum_group


def build_predict_and_keep(phi, dtype):
    return build_predict(phi, dtype, keep=True)


def build_jvp(phi, dtype):
    """sum_i m_i <grad_theta [a_i phi(z_ik)], v_i> for each group of tiles."""
    tile = tile_functions(dtype)
    lanes, zero, rows, load, clear = tile.lanes, tile.real(0), tile.rows, tile.load, tile.clear
    add_product, occupied, weigh = tile.add_product, tile.occupied, tile.weigh
    motion = _inline(interactions.unit_motion(phi))

    @njit(**LOOP)
    def sum_group(i, cloud, velocity, masses, inputs, stride, partial):
        group = i * stride % partial.shape[0]
        width, n_particles = cloud.shape
        groups, n = partial.shape
        tiles = -(-n_particles // lanes)
        own, moved, mass = rows(width), rows(width), rows(1)
        z, dz = rows(BLOCK), rows(BLOCK)
        for t in range(group * tiles // groups, (group + 1) * tiles // groups):
            first = t * lanes
            count = min(lanes, n_particles - first)
            if not occupied(masses[first : first + count]):
                continue
            load(cloud, first, count, own)
            load(velocity, first, count, moved)
            weigh(masses, first, count, mass)
            a, da, m, w, dw = own[0], moved[0], mass[0], own[1:], moved[1:]
            for k0 in range(0, inputs.shape[0], BLOCK):
                block = inputs[k0 : k0 + BLOCK]
                clear(z, block.shape[0])
                clear(dz, block.shape[0])
                add_product(z, block, w)
                add_product(dz, block, dw)
                for k in range(min(block.shape[0], n - k0)):
                    total = zero
                    for lane in range(lanes):
                        total += m[lane] * motion(a[lane], z[k, lane], da[lane], dz[k, lane])
                    partial[group, k0 + k] += total

    return sum_group


def build_vjp(phi, dtype):
    """sum_k c_k grad_theta [a_i phi(z_ik)] times the mobilities, for each tile."""
    tile = tile_functions(dtype)
    lanes, rows, load, clear, add_product = tile.lanes, tile.rows, tile.load, tile.clear, tile.add_product
    room, move, store = tile.totals, tile.move, tile.store
    gradient = _inline(interactions.unit_gradient(phi))

    @njit(**LOOP)
    def sum_inputs(t, cloud, inputs, transposed, weights, mobility_a, mobility_w, velocity):
        width, n_particles = cloud.shape
        own, sums, z, totals = rows(width), rows(1 + transposed.shape[0]), rows(BLOCK), room(width)
        first = t * lanes
        count = min(lanes, n_particles - first)
        load(cloud, first, count, own)
        a, w, in_a, in_w = own[0], own[1:], sums[0], sums[1:]
        for k0 in range(0, inputs.shape[0], BLOCK):
            block = inputs[k0 : k0 + BLOCK]
            clear(z, block.shape[0])
            add_product(z, block, w)
            for k in range(min(block.shape[0], weights.size - k0)):
                weight = weights[k0 + k]
                for lane in range(lanes):
                    of_a, of_z = gradient(a[lane], z[k, lane])
                    in_a[lane] += weight * of_a
                    z[k, lane] = weight * of_z
            add_product(in_w, transposed[:, k0 : k0 + BLOCK], z)
            if (k0 + BLOCK) % RUN == 0:
                move(sums, totals)
        move(sums, totals)
        store(totals, mobility_a, mobility_w, velocity, first, count)

    return sum_inputs


def build_vjp_of_kept(dtype):
    """The same from the features that a prediction left."""
    tile = tile_functions(dtype)
    lanes, rows, add_product, room, move, store = (
        tile.lanes, tile.rows, tile.add_product, tile.totals, tile.move, tile.store
    )  # fmt: skip

    @njit(**LOOP)
    def sum_inputs(t, features, transposed, weights, mobility_a, mobility_w, velocity):
        width, n_particles = velocity.shape
        sums, pulls, totals = rows(1 + transposed.shape[0]), rows(BLOCK), room(width)
        values, slopes, in_a, in_w = features[t, 0], features[t, 1], sums[0], sums[1:]
        for k0 in range(0, features.shape[2], BLOCK):
            for k in range(min(BLOCK, weights.size - k0)):
                weight, value, slope, pull = weights[k0 + k], values[k0 + k], slopes[k0 + k], pulls[k]
                for lane in range(lanes):
                    in_a[lane] += weight * value[lane]
                    pull[lane] = weight * slope[lane]
            add_product(in_w, transposed[:, k0 : k0 + BLOCK], pulls)
            if (k0 + BLOCK) % RUN == 0:
                move(sums, totals)
        move(sums, totals)
        first = t * lanes
        store(totals, mobility_a, mobility_w, velocity, first, min(lanes, n_particles - first))

    return sum_inputs


# Algebra on clouds, as flat arrays in chunks whose partial results have a fixed order. Seven stages at a time, the most
# a built-in scheme has, so that every state is read once; absent ones are `base` with the coefficient zero. Here as
# above, loops run over slices and from 0 on: an index that might be negative, for NumPy's counting from the end, makes
# LLVM gather entries one by one.
STAGES = 7
_CHUNK = 16384


def chunks(size: int) -> int:
    return -(-size // _CHUNK)


def build_combine(dtype):
    """out = base + sum_j c_j s_j"""

    @njit(**LOOP)
    def combine_chunk(chunk, out, base, s0, s1, s2, s3, s4, s5, s6, c):
        c0, c1, c2, c3, c4, c5, c6 = c[0], c[1], c[2], c[3], c[4], c[5], c[6]
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        out, base, s0, s1, s2, s3 = out[part], base[part], s0[part], s1[part], s2[part], s3[part]
        s4, s5, s6 = s4[part], s5[part], s6[part]
        for i in range(base.size):
            moved = c0 * s0[i] + c1 * s1[i] + c2 * s2[i] + c3 * s3[i] + c4 * s4[i] + c5 * s5[i] + c6 * s6[i]
            out[i] = base[i] + moved

    return combine_chunk


def build_error_norm(dtype):
    """Sum of squares of sum_j c_j s_j / (atol + rtol max(|before|, |after|)) for each chunk; not finite unless `after`
    is."""

    @njit(**LOOP)
    def add_squares(chunk, before, after, s0, s1, s2, s3, s4, s5, s6, c, rtol, atol, partial):
        c0, c1, c2, c3, c4, c5, c6 = c[0], c[1], c[2], c[3], c[4], c[5], c[6]
        total = 0.0
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        before, after, s0, s1, s2, s3 = before[part], after[part], s0[part], s1[part], s2[part], s3[part]
        s4, s5, s6 = s4[part], s5[part], s6[part]
        for i in range(before.size):
            error = c0 * s0[i] + c1 * s1[i] + c2 * s2[i] + c3 * s3[i] + c4 * s4[i] + c5 * s5[i] + c6 * s6[i]
            ratio = np.float64(error / (atol + rtol * max(abs(before[i]), abs(after[i]))))
            total += ratio * ratio + np.float64(after[i] - after[i])
        partial[chunk] = total

    return add_squares


def build_is_finite(dtype):
    """Whether all entries of each chunk are."""

    @njit(**LOOP)
    def look(chunk, values, partial):
        good = True
        values = values[chunk * _CHUNK : (chunk + 1) * _CHUNK]
        for i in range(values.size):
            good &= abs(values[i]) < np.inf
        partial[chunk] = good

    return look


def build_noise(dtype):
    """Deviates of a chunk of particles: rows of `out`, four at a time."""
    words, reals = _inline(noise.words), _inline(noise.build_reals(np.dtype(dtype).type))
    pair, low, half = pair_in_own_type(noise.pair), np.uint64(2**32 - 1), np.uint64(32)

    @njit(**LOOP)
    def fill(chunk, out, seed_low, seed_high, step):
        width, n_particles = out.shape
        begin, end = chunk * _CHUNK, min((chunk + 1) * _CHUNK, n_particles)
        k0, k1, c3 = np.uint64(seed_low), np.uint64(seed_high), np.uint64(step)
        for block in range((width + 3) // 4):
            for i in range(begin, end):
                c0 = np.uint64(i)
                one, other, third, fourth = words(c0 & low, c0 >> half, np.uint64(block), c3, k0, k1)
                v, w, t, quadrant = reals(one, other)
                x0, x1 = pair(v, w, t, quadrant)
                v, w, t, quadrant = reals(third, fourth)
                x2, x3 = pair(v, w, t, quadrant)
                j = 4 * block
                out[j, i] = x0
                if j + 1 < width:
                    out[j + 1, i] = x1
                if j + 2 < width:
                    out[j + 2, i] = x2
                if j + 3 < width:
                    out[j + 3, i] = x3

    return fill


def build_features(phi, dtype):
    """phi(z_ik) and a_i phi'(z_ik), the factors of the gradient of a unit: arrays (n, N)."""
    tile = tile_functions(dtype)
    lanes, rows, load, clear, add_product = tile.lanes, tile.rows, tile.load, tile.clear, tile.add_product
    gradient = _inline(interactions.unit_gradient(phi))

    @njit(**LOOP)
    def fill(t, cloud, inputs, values, slopes):
        width, n_particles = cloud.shape
        own, z = rows(width), rows(BLOCK)
        first = t * lanes
        count = min(lanes, n_particles - first)
        load(cloud, first, count, own)
        a, w = own[0], own[1:]
        for k0 in range(0, inputs.shape[0], BLOCK):
            block = inputs[k0 : k0 + BLOCK]
            clear(z, block.shape[0])
            add_product(z, block, w)
            for k in range(block.shape[0]):
                value, slope = values[k0 + k, first : first + count], slopes[k0 + k, first : first + count]
                for lane in range(count):
                    value[lane], slope[lane] = gradient(a[lane], z[k, lane])

    return fill


def build_gram(dtype):
    """out += X diag(m) Y' for each tile of columns of `out`, (rows of X, rows of Y filled up to whole tiles).

    Products are summed in their own dtype over the particles given, then in float64. Where X is Y, only up to the
    diagonal. Columns come from both ends in turn, so that threads that take an equal share of them have an equal share
    of the work.
    """
    tile = tile_functions(dtype)
    lanes, rows, clear, add_product = tile.lanes, tile.rows, tile.clear, tile.add_product

    @njit(**LOOP)
    def add_columns(i, x, y, masses, same, out):
        t = i // 2 if i % 2 == 0 else out.shape[1] // lanes - 1 - i // 2
        first = t * lanes
        column, block = rows(y.shape[1]), rows(BLOCK)
        for lane in range(min(lanes, y.shape[0] - first)):
            for particle in range(y.shape[1]):
                column[particle, lane] = masses[particle] * y[first + lane, particle]
        last = min(first + lanes, x.shape[0]) if same else x.shape[0]
        for k0 in range(0, last, BLOCK):
            upto = min(k0 + BLOCK, x.shape[0])
            clear(block, BLOCK)
            add_product(block, x[k0:upto], column)
            for k in range(k0, upto):
                row = out[k, first : first + lanes]
                for lane in range(lanes):
                    row[lane] += block[k - k0, lane]

    return add_columns


def build_pairwise(overlap, dtype):
    """sum_k c_k grad_theta [a_i O(w_i, w_k)] times the mobilities, for each tile; O is an overlap."""
    tile = tile_functions(dtype)
    lanes, rows, load, clear = tile.lanes, tile.rows, tile.load, tile.clear
    add_product, room, move, store = tile.add_product, tile.totals, tile.move, tile.store

    @njit(**LOOP)
    def sum_nodes(i, cloud, variances, nodes, transposed, node_variances, weights, xi_a, xi_w, velocity):
        width, n_particles = cloud.shape
        own, sums, z, own_variances, in_q = rows(width), rows(1 + transposed.shape[0]), rows(BLOCK), rows(2), rows(1)
        totals, total_q = room(width), room(1)
        first = i * lanes
        count = min(lanes, n_particles - first)
        load(cloud, first, count, own)
        load(variances, first, count, own_variances)
        a, w, in_a, in_w = own[0], own[1:], sums[0], sums[1:]
        q, s = own_variances[0], own_variances[1]
        for k0 in range(0, nodes.shape[0], BLOCK):
            block = nodes[k0 : k0 + BLOCK]
            clear(z, block.shape[0])
            add_product(z, block, w)
            for k in range(min(block.shape[0], weights.size - k0)):
                weight, p, t = weights[k0 + k], node_variances[0, k0 + k], node_variances[1, k0 + k]
                for lane in range(lanes):
                    value, of_c, of_q = overlap(z[k, lane], q[lane], s[lane], p, t)
                    in_a[lane] += weight * value
                    in_q[0, lane] += weight * of_q
                    z[k, lane] = weight * of_c
            add_product(in_w, transposed[:, k0 : k0 + BLOCK], z)
            if (k0 + BLOCK) % RUN == 0:
                move(sums, totals)
                move(in_q, total_q)
        move(sums, totals)
        move(in_q, total_q)
        for j in range(w.shape[0]):
            for lane in range(count):
                totals[1 + j, lane] = a[lane] * (totals[1 + j, lane] + 2.0 * total_q[0, lane] * w[j, lane])
        store(totals, xi_a, xi_w, velocity, first, count)

    return sum_nodes
