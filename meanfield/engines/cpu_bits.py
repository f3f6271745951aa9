"""The steps under `cpu_vocabulary` that read or write the bits of a float64 or a SINGLE, in either type alike.

Each is a few additions and shifts that every vector instruction set has: conversions between float64 and 64-bit
integers, which AVX2 lacks, are made by adding 1.5 * 2^52.
"""

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_intrinsic: Any = intrinsic  # which the caller need not give the typing context


class _Layout:
    """The float type of an LLVM value: the integer type as wide, the bits of the fraction and the exponent's bias."""

    def __init__(self, value):
        self.real = value.type
        wide = self.real == ir.DoubleType()
        self.integer = ir.IntType(64 if wide else 32)
        self.fraction, self.bias = (52, 1023) if wide else (23, 127)

    def bits(self, integer):
        return ir.Constant(self.integer, integer)

    def number(self, value):
        return ir.Constant(self.real, value)


def polynomial(ascending):
    """x -> the polynomial, in the type of x, by Horner's rule.

    Beyond eight terms even and odd powers are summed apart: a chain of steps half as long, which else waits on itself.
    """

    def horner(builder, at, coefficients):
        total, *rest = (ir.Constant(at.type, each) for each in coefficients[::-1])
        for each in rest:
            total = builder.fadd(builder.fmul(total, at), each)
        return total

    @_intrinsic
    def value(typingctx, x):
        def build(context, builder, signature, args):
            (at,) = args
            if len(ascending) <= 8:
                return horner(builder, at, ascending)
            square = builder.fmul(at, at)
            odd, even = (horner(builder, square, ascending[first::2]) for first in (1, 0))
            return builder.fadd(builder.fmul(odd, at), even)

        return x(x), build

    return value


@_intrinsic
def copysign(typingctx, size, sign):
    """The size of one number with the sign of the other."""

    def build(context, builder, signature, args):
        real = args[0].type
        function = builder.module.declare_intrinsic("llvm.copysign", [real], ir.FunctionType(real, [real, real]))
        return builder.call(function, args)

    return size(size, sign), build


@_intrinsic
def square_root(typingctx, x):
    """By the machine's instruction alone: beside it math.sqrt calls libm, for the errno of a negative number."""

    def build(context, builder, signature, args):
        real = args[0].type
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [real]), args)

    return x(x), build


@_intrinsic
def exponential(typingctx, x):
    """n, the integer nearest to x, and 2^n; |x| below the bias of the exponent."""

    def build(context, builder, signature, args):
        layout = _Layout(args[0])
        # Adding 1.5 * 2^fraction rounds to an integer, which then fills the low bits.
        shift = layout.number(1.5 * 2.0**layout.fraction)
        shifted = builder.fadd(args[0], shift)
        n = builder.fsub(shifted, shift)
        low = builder.shl(builder.bitcast(shifted, layout.integer), layout.bits(layout.fraction))
        power = builder.bitcast(builder.add(low, layout.bits(layout.bias << layout.fraction)), layout.real)
        return context.make_tuple(builder, signature.return_type, (n, power))

    return types.UniTuple(x, 2)(x), build


@_intrinsic
def binades(typingctx, u, x):
    """k, 2^-k x and 2^(1-k), where 2^-k u is in [sqrt(1/2), sqrt(2)). u is normal; so is x, or k is 0."""

    def build(context, builder, signature, args):
        layout = _Layout(args[0])
        places = layout.bits(layout.fraction)
        one, step = layout.bias << layout.fraction, 1 << layout.fraction
        # Adding the bits of 1 less those of sqrt(1/2) takes numbers from sqrt(1/2) on to the next exponent.
        raised = layout.bits(2 * step - int(math.sqrt(0.5) * 2 * step))
        divided, divisor = (builder.bitcast(each, layout.integer) for each in (args[1], args[0]))
        exponent = builder.lshr(builder.add(divisor, raised), places)
        # As a float: the low bits of 2^fraction, less the bias.
        filled = builder.or_(exponent, layout.bits(layout.bias + layout.fraction << layout.fraction))
        k = builder.fsub(builder.bitcast(filled, layout.real), layout.number(float(step + layout.bias)))
        exponent = builder.shl(exponent, places)
        scaled = builder.sub(divided, builder.sub(exponent, layout.bits(one)))
        twice = builder.sub(layout.bits(2 * one + step), exponent)
        numbers = (builder.bitcast(each, layout.real) for each in (scaled, twice))
        return context.make_tuple(builder, signature.return_type, (k, *numbers))

    return types.UniTuple(u, 3)(u, x), build
