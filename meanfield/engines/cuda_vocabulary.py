"""The CUDA engine's vocabulary: formulas as device functions of scalars, every number in the dtype of the kernel.

A formula is traced (`straight_line`) with the bodies of `elementary` in place of exp, tanh and the like, so that the
whole of it is one run of additions, multiplications and selections. No slow path of CUDA's library is called, and in a
float32 kernel nothing is float64.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from . import elementary, straight_line
from .cuda_device import BITS, SCALARS, cuda
from .elementary import Steps


def device_function(formula: Callable, arguments: tuple[str, ...], results: int, dtype: str) -> Any:
    """A compiled device function (arguments) -> result, or tuple of results, from a formula over the vocabulary."""
    real = np.dtype(dtype).type
    functions = {**SCALARS, **_bit_functions(dtype)}

    def bodies(tape):
        return elementary.build(dtype, _steps(tape))

    return cuda.jit(device=True)(straight_line.write(formula, arguments, results, real, functions, bodies))


def _steps(tape: straight_line.Tape) -> Steps:
    def polynomial(ascending):
        def value(x):
            total = ascending[-1]
            for coefficient in ascending[-2::-1]:
                total = total * x + coefficient
            return total

        return value

    return Steps(
        polynomial=polynomial,
        where=straight_line.where,
        copysign=lambda size, sign: tape.do("copysign({0}, {1})", size, sign),
        square_root=lambda x: tape.do("square_root({0})", x),
        exponential=lambda x: tape.do_many(2, "exponential({0})", x),
        binades=lambda u, x: tape.do_many(3, "binades({0}, {1})", u, x),
        compiled=lambda function: function,
    )


@cache
def _bit_functions(dtype: str) -> dict[str, Any]:
    """`exponential` and `binades` of `elementary.Steps` for a dtype, as in `cpu_bits`."""
    real = np.dtype(dtype).type
    fraction, bias = (52, 1023) if dtype == "float64" else (23, 127)
    bits, number = BITS[dtype].of, BITS[dtype].number
    one, step = bias << fraction, 1 << fraction
    raised, filled = 2 * step - int(math.sqrt(0.5) * 2 * step), bias + fraction << fraction
    shift, offset = real(1.5 * 2.0**fraction), real(step + bias)

    @cuda.jit(device=True)
    def exponential(x):
        # Adding 1.5 * 2^fraction rounds to an integer, which then fills the low bits.
        shifted = x + shift
        return shifted - shift, number((bits(shifted) << fraction) + one)

    @cuda.jit(device=True)
    def binades(u, x):
        # Adding the bits of 1 less those of sqrt(1/2) takes numbers from sqrt(1/2) on to the next exponent.
        exponent = (bits(u) + raised) >> fraction
        k = number(exponent | filled) - offset
        exponent = exponent << fraction
        return k, number(bits(x) - (exponent - one)), number(2 * one + step - exponent)

    return {"exponential": exponential, "binades": binades}
