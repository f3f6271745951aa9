"""The small matrix product inside a tile, in explicit vectors: LLVM vectorises loops, but not blocks of them.

Plain Numba loops reach 0.7 of what this does, check at every call whether their arrays overlap, and take longer to
compile. A vector is as wide as the processor's registers, and the block of accumulators leaves registers for its
operands; LLVM splits vectors that are too wide, so that any width runs on any processor.
"""

import os
from typing import Any

from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic

from ..errors import InputError

_ROWS = 4  # of the block of accumulators
_RUN = 32  # columns of x at a time: their rows of w, 32 KB, are read again and again for all rows of x
_CONTRACT = ("contract",)


def _shape_of_block() -> tuple[int, int]:
    """Bytes of a vector, and vectors in a row of the block: 16 accumulators of 32 registers, or 8 of 16."""
    features, named = config.CPU_FEATURES, config.CPU_NAME  # type: ignore[attr-defined]  # of another target than this
    if features is not None:
        wide = "+avx512f" in features
    else:
        wide = named in (None, "host") and binding.get_host_cpu_features().get("avx512f")
    widest = "64" if wide else "32"
    chosen = os.environ.get("MEANFIELD_VECTOR_BYTES") or widest
    if chosen not in ("16", "32", "64"):
        raise InputError(f"MEANFIELD_VECTOR_BYTES is {chosen!r}; needed: 16, 32 or 64, or unset it.")
    width = int(chosen)
    return width, 4 if width == 64 else 2


VECTOR_BYTES, _COLUMNS = _shape_of_block()


def _block_of_sums(typingctx, out, row, lane, x, first, last, w):
    """out[row + i, lane + l] += sum_c x[row + i, c] w[c, lane + l] for first <= c < last, i < 4 and l in the block."""
    dtype = out.dtype
    itemsize = dtype.bitwidth // 8
    length = VECTOR_BYTES // itemsize

    def build(context, builder, signature, args):
        scalar, index = context.get_value_type(dtype), context.get_value_type(types.intp)
        vector = ir.VectorType(scalar, length)
        row, lane, first, last = (context.cast(builder, args[i], signature.args[i], types.intp) for i in (1, 2, 4, 5))
        out, x, w = (context.make_array(signature.args[i])(context, builder, value=args[i]) for i in (0, 3, 6))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), length), None)

        def address(array, row, column, kind):
            offset = builder.mul(row, builder.extract_value(array.strides, 0))
            offset = builder.add(offset, builder.mul(column, builder.extract_value(array.strides, 1)))
            place = builder.gep(builder.bitcast(array.data, ir.IntType(8).as_pointer()), [offset])
            return builder.bitcast(place, kind.as_pointer())

        def plus(value, number):
            return builder.add(value, ir.Constant(index, number))

        def load(array, row, column, kind):
            return builder.load(address(array, row, column, kind), typ=kind, align=itemsize)

        block = [(i, j) for i in range(_ROWS) for j in range(_COLUMNS)]
        places = {(i, j): address(out, plus(row, i), plus(lane, j * length), vector) for i, j in block}
        totals = {
            each: cgutils.alloca_once_value(builder, builder.load(place, typ=vector, align=itemsize))
            for each, place in places.items()
        }
        with cgutils.for_range_slice(builder, first, last, ir.Constant(index, 1)) as (c, _):
            entries = [load(w, c, plus(lane, j * length), vector) for j in range(_COLUMNS)]
            for i in range(_ROWS):
                factor = load(x, plus(row, i), c, scalar)
                lowest = builder.insert_element(ir.Constant(vector, ir.Undefined), factor, ir.IntType(32)(0))
                factors = builder.shuffle_vector(lowest, lowest, everywhere)
                for j in range(_COLUMNS):
                    product = builder.fmul(factors, entries[j], flags=_CONTRACT)
                    total = builder.fadd(builder.load(totals[i, j]), product, flags=_CONTRACT)
                    builder.store(total, totals[i, j])
        for each, place in places.items():
            builder.store(builder.load(totals[each]), place, align=itemsize)
        return context.get_dummy_value()

    return types.none(out, row, lane, x, first, last, w), build


_add_block: Any = intrinsic(_block_of_sums)


def build_add_product(lanes: int, itemsize: int) -> Any:
    """out += x w, for x with a multiple of 4 rows and w, out with rows of `lanes`."""
    step = _COLUMNS * VECTOR_BYTES // itemsize
    assert lanes % step == 0

    @njit(error_model="numpy")
    def add_product(out, x, w):
        for first in range(0, x.shape[1], _RUN):
            last = min(first + _RUN, x.shape[1])
            for row in range(0, x.shape[0], _ROWS):
                for lane in range(0, lanes, step):
                    _add_block(out, row, lane, x, first, last, w)

    return add_product
