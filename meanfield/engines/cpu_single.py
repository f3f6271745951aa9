"""`SINGLE`: a float32 that keeps its precision in arithmetic with Python's numbers, as a NumPy array does.

Numba widens `1.0 - value * value` to float64 when `value` is float32, for it types the literal as float64. A formula
compiled at SINGLE instead runs in float32 whatever literals and constants it is written with: float64 and integer
operands are rounded to float32 once. `in_own_type` is the way in and out.
"""

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.extending import lower_cast
from numba.core.typeconv.castgraph import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, overload, register_model

EXACT: Any = {"forceinline": True, "fastmath": {"contract"}, "error_model": "numpy"}

_intrinsic: Any = intrinsic  # which the caller need not give the typing context
_PLAIN = types.Float | types.Integer | types.Boolean


class Single(types.Type):
    """Numba's type of a float32 that wins against Python's numbers."""

    def __init__(self):
        super().__init__("single")

    def can_convert_from(self, typingctx, other):
        return Conversion.unsafe if isinstance(other, _PLAIN) else None

    def unify(self, typingctx, other):
        return self if isinstance(other, _PLAIN) else None


SINGLE = Single()


@register_model(Single)
class _SingleModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.FloatType())


@lower_cast(types.Float, Single)
@lower_cast(types.Integer, Single)
@lower_cast(types.Boolean, Single)
def _round(context, builder, fromty, toty, value):
    return context.cast(builder, value, fromty, types.float32)


@_intrinsic
def single(typingctx, x):
    """A float32 as SINGLE; any other type as it is."""
    return (SINGLE if x == types.float32 else x)(x), lambda context, builder, sig, args: args[0]


@_intrinsic
def plain(typingctx, x, like):
    """x, of any type, in the type of `like`: float32 for a SINGLE."""
    wanted = types.float32 if isinstance(like, Single) else like

    def build(context, builder, sig, args):
        given = types.float32 if isinstance(x, Single) else x
        return context.cast(builder, args[0], given, wanted)

    return (wanted(x, like), build) if isinstance(x, _PLAIN | Single) else None


def in_own_type(formula):
    """A compiled z -> (value, slope) from a formula, each in the type of z and computed in it."""
    compiled: Any = njit(**EXACT)(formula)

    @njit(**EXACT)
    def phi(z):
        value, slope = compiled(single(z))
        return plain(value, z), plain(slope, z)

    return phi


def overlap_in_own_type(formula):
    """A compiled (c, q, s, p, t) -> (value, d/dc, d/dq) from the formula of an overlap, likewise."""
    compiled: Any = njit(**EXACT)(formula)

    @njit(**EXACT)
    def overlap(c, q, s, p, t):
        value, in_c, in_q = compiled(single(c), single(q), single(s), single(p), single(t))
        return plain(value, c), plain(in_c, c), plain(in_q, c)

    return overlap


def pair_in_own_type(formula):
    """A compiled (v, w, t, quadrant) -> (deviate, deviate) from `noise.pair`, likewise."""
    compiled: Any = njit(**EXACT)(formula)

    @njit(**EXACT)
    def pair(v, w, t, quadrant):
        one, other = compiled(single(v), single(w), single(t), single(quadrant))
        return plain(one, v), plain(other, v)

    return pair


def _operator(function, operands, result, build):
    """Numba's `function` of `operands` arguments where one at least is SINGLE and the others are numbers."""

    class Template(AbstractTemplate):
        key = function

        def generic(self, args, kws):
            if kws or len(args) != operands or not any(isinstance(each, Single) for each in args):
                return None
            if all(isinstance(each, _PLAIN | Single) for each in args):
                return signature(result, *(SINGLE,) * operands)
            return None

    register: Any = infer_global(function)
    register(Template)
    lower_builtin(function, *(SINGLE,) * operands)(lambda context, builder, sig, args: build(builder, *args))


for _function, _in_place, _instruction in (
    (operator.add, operator.iadd, ir.IRBuilder.fadd),
    (operator.sub, operator.isub, ir.IRBuilder.fsub),
    (operator.mul, operator.imul, ir.IRBuilder.fmul),
    (operator.truediv, operator.itruediv, ir.IRBuilder.fdiv),
):
    _operator(_function, 2, SINGLE, _instruction)
    _operator(_in_place, 2, SINGLE, _instruction)

_operator(operator.neg, 1, SINGLE, ir.IRBuilder.fneg)
_operator(operator.pos, 1, SINGLE, lambda builder, x: x)
_operator(abs, 1, SINGLE, lambda builder, x: builder.call(builder.module.declare_intrinsic("llvm.fabs", [x.type]), [x]))


def _comparison(symbol):
    ordered = ir.IRBuilder.fcmp_unordered if symbol == "!=" else ir.IRBuilder.fcmp_ordered
    return lambda builder, left, right: ordered(builder, symbol, left, right)


for _name, _symbol in {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}.items():
    _operator(getattr(operator, _name), 2, types.boolean, _comparison(_symbol))


@overload(operator.pow, jit_options=EXACT)
@overload(operator.ipow, jit_options=EXACT)
def _power(x, exponent):
    if isinstance(x, Single) or isinstance(exponent, Single):
        if isinstance(exponent, types.Integer):
            return lambda x, exponent: single(plain(x, np.float32(0)) ** exponent)
        return lambda x, exponent: single(plain(x, np.float32(0)) ** plain(exponent, np.float32(0)))
    return None
