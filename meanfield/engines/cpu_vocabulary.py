"""The CPU engine's bodies for the names of `vocabulary`: branch-free, so that LLVM runs them on vectors.

Numba from PyPI calls libm one element at a time for exp, tanh, arcsin and the like, which costs five to ten times
as much as `elementary`.
"""

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from .. import vocabulary
from . import elementary
from .cpu_bits import binades, copysign, exponential, polynomial, square_root
from .cpu_single import EXACT, SINGLE, plain, single

_inline: Any = njit(**EXACT)


@_inline
def _maximum(z, other):
    return z if (z >= other or z != z) else other


@_inline
def _minimum(z, other):
    return z if (z <= other or z != z) else other


@_inline
def _where(condition, yes, no):
    return yes if condition else no


def _attach(function, wide, narrow):
    """The bodies of a vocabulary function: `wide` at float64, `narrow` at SINGLE, which serves float32 as well."""

    @overload(function, jit_options=EXACT)
    def choose(z):
        if z == SINGLE:
            return lambda z: narrow(z)
        if z == types.float32:
            return lambda z: plain(narrow(single(z)), z)
        return (lambda z: wide(z * 1.0)) if isinstance(z, types.Float | types.Integer) else None


def _attach_native(function, native):
    @overload(function, jit_options=EXACT)
    def choose(z):
        if z == SINGLE:
            return lambda z: single(native(plain(z, z)))
        return (lambda z: native(z)) if isinstance(z, types.Float | types.Integer) else None


def _attach_numpy(function, numpy_function):
    """NumPy's own name for a vocabulary function, at SINGLE: for formulas that do not import the vocabulary."""

    @overload(numpy_function, jit_options=EXACT)
    def choose(*arguments):
        return (lambda *arguments: function(*arguments)) if SINGLE in arguments else None


_STEPS = elementary.Steps(polynomial, _where, copysign, square_root, exponential, binades, _inline)
_WIDE, _NARROW = elementary.build("float64", _STEPS), elementary.build("float32", _STEPS)
for _name in _WIDE:
    _attach(getattr(vocabulary, _name), _WIDE[_name], _NARROW[_name])
for _name, _native in {"sqrt": math.sqrt, "sin": math.sin, "cos": math.cos, "absolute": abs}.items():
    _attach_native(getattr(vocabulary, _name), _native)
for _name in "exp tanh log1p arcsin arccos sqrt sin cos absolute maximum minimum where".split():
    _attach_numpy(getattr(vocabulary, _name), getattr(np, _name))


@overload(vocabulary.maximum, jit_options=EXACT)
def _overload_maximum(z, other):
    return lambda z, other: _maximum(z, other)


@overload(vocabulary.minimum, jit_options=EXACT)
def _overload_minimum(z, other):
    return lambda z, other: _minimum(z, other)


@overload(vocabulary.where, jit_options=EXACT)
def _overload_where(condition, yes, no):
    return lambda condition, yes, no: _where(condition, yes, no)
