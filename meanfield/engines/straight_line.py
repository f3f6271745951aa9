"""A formula as straight-line code in one dtype: traced with symbols, written out with typed constants.

A formula is branch-free arithmetic over `vocabulary`. Called with symbols in place of numbers it leaves a tape of its
operations, which `write` turns into a Python function of scalars for a compiler. Every constant on the tape is a NumPy
scalar of the dtype, so that nothing is widened: a compiler that takes `1.0` for float64 never sees one. Steps that
occur twice are taken once.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError


class Tape:
    """Operations in order, and the names that the written function needs."""

    def __init__(self, real: type, functions: Mapping[str, Any], elementary: Mapping[str, Callable]):
        self.real, self.functions, self.elementary = real, functions, elementary
        self.lines: list[str] = []
        self.constants: dict[str, Any] = {}
        self._known: dict[tuple, Any] = {}

    def text(self, value: Any) -> str:
        """How an operand is written: a symbol by its name, a number by that of a constant in the tape's dtype."""
        if isinstance(value, Symbol):
            return value.name
        if isinstance(value, str) or not np.isscalar(value):
            raise InputError(f"a formula computes with {value!r}; needed: numbers.")
        number = self.real(value)
        name = self._known.setdefault(("constant", number.tobytes()), f"c{len(self.constants)}")
        self.constants[name] = number
        return name

    def do(self, template: str, *operands: Any) -> "Symbol":
        """The result of one operation."""
        return self.do_many(1, template, *operands)[0]

    def do_many(self, results: int, template: str, *operands: Any) -> tuple["Symbol", ...]:
        texts = tuple(self.text(each) for each in operands)
        if (template, texts) not in self._known:
            names = [f"t{len(self.lines)}_{i}" if results > 1 else f"t{len(self.lines)}" for i in range(results)]
            self.lines.append(f"{', '.join(names)} = {template.format(*texts)}")
            self._known[template, texts] = tuple(Symbol(self, name) for name in names)
        return self._known[template, texts]


def _binary(template: str):
    return (
        lambda self, other: self.tape.do(template, self, other),
        lambda self, other: self.tape.do(template, other, self),
    )


class Symbol:
    """A number that is not known yet. Arithmetic, comparisons and NumPy's functions of it go to its tape."""

    def __init__(self, tape: Tape, name: str):
        self.tape, self.name = tape, name

    __add__, __radd__ = _binary("{0} + {1}")
    __sub__, __rsub__ = _binary("{0} - {1}")
    __mul__, __rmul__ = _binary("{0} * {1}")
    __truediv__, __rtruediv__ = _binary("{0} / {1}")
    __lt__, __gt__ = _binary("{0} < {1}")
    __le__, __ge__ = _binary("{0} <= {1}")
    __and__, __rand__ = _binary("{0} and {1}")
    __or__, __ror__ = _binary("{0} or {1}")
    __eq__: Any = _binary("{0} == {1}")[0]
    __ne__: Any = _binary("{0} != {1}")[0]
    __hash__: Any = None

    def __neg__(self):
        return self.tape.do("-{0}", self)

    def __pos__(self):
        return self

    def __abs__(self):
        return self.tape.do("abs({0})", self)

    def __invert__(self):
        return self.tape.do("not {0}", self)

    def __pow__(self, exponent):
        if isinstance(exponent, int | np.integer) and 0 < exponent <= 16:
            half = self ** (exponent // 2) if exponent > 1 else 1.0
            return self if exponent == 1 else half * half * self if exponent % 2 else half * half
        return self.tape.do("power({0}, {1})", self, exponent)

    def __rpow__(self, base):
        return self.tape.do("power({0}, {1})", base, self)

    def __bool__(self):
        raise InputError("a formula branches on its argument; needed: where(condition, yes, no).")

    def __float__(self):
        raise InputError("a formula calls a function beyond arithmetic; needed: those of meanfield.vocabulary.")

    __int__ = __index__ = __complex__ = __float__

    def __array_ufunc__(self, function, method, *operands, **options):
        name = getattr(function, "__name__", "")
        if method != "__call__" or options or not (name in _PLAIN or name in self.tape.elementary):
            raise InputError(f"a formula calls {name!r}; needed: functions of meanfield.vocabulary.")
        if name in self.tape.elementary:
            return self.tape.elementary[name](*operands)
        return _PLAIN[name](self.tape, *operands)

    def __array_function__(self, function, kinds, operands, options):
        if function is np.where and len(operands) == 3 and not options:
            return where(*operands)
        raise InputError(f"a formula calls {function.__name__!r}; needed: functions of meanfield.vocabulary.")


def where(condition: Any, yes: Any, no: Any) -> Any:
    """`yes` where `condition` holds, else `no`."""
    if not isinstance(condition, Symbol):
        return yes if condition else no
    return condition.tape.do("{1} if {0} else {2}", condition, yes, no)


def _template(text):
    return lambda tape, *operands: tape.do(text, *operands)


# NumPy's universal functions that are one operation each.
_PLAIN: dict[str, Callable] = {
    "add": _template("{0} + {1}"),
    "subtract": _template("{0} - {1}"),
    "multiply": _template("{0} * {1}"),
    "divide": _template("{0} / {1}"),
    "negative": _template("-{0}"),
    "absolute": _template("abs({0})"),
    "fabs": _template("abs({0})"),
    "square": _template("{0} * {0}"),
    "reciprocal": lambda tape, x: 1.0 / x,
    "power": lambda tape, x, exponent: x**exponent,
    "less": _template("{0} < {1}"),
    "less_equal": _template("{0} <= {1}"),
    "greater": _template("{0} > {1}"),
    "greater_equal": _template("{0} >= {1}"),
    "equal": _template("{0} == {1}"),
    "not_equal": _template("{0} != {1}"),
    "logical_and": _template("{0} and {1}"),
    "logical_or": _template("{0} or {1}"),
    "logical_not": _template("not {0}"),
    # NaN if either is: `x >= y` does not hold, and the first one is taken where it is NaN itself.
    "maximum": _template("{0} if ({0} >= {1} or {0} != {0}) else {1}"),
    "minimum": _template("{0} if ({0} <= {1} or {0} != {0}) else {1}"),
    "sqrt": _template("square_root({0})"),
    "sin": _template("sine({0})"),
    "cos": _template("cosine({0})"),
}


def write(
    formula: Callable,
    arguments: tuple[str, ...],
    results: int,
    real: type,
    functions: Mapping[str, Any],
    elementary: Callable[[Tape], Mapping[str, Callable]],
) -> Callable:
    """A function of scalars, all of type `real`, that does what the formula does.

    functions : what operations are called by in the code: square_root, sine, cosine, power, copysign, ...
    elementary : tape -> bodies of exp, tanh and the like, by NumPy's names, which are traced in their turn

    Raises InputError where the formula branches, or calls what is neither arithmetic nor vocabulary.
    """
    tape = Tape(real, functions, {})
    tape.elementary = elementary(tape)
    found = formula(*(Symbol(tape, name) for name in arguments))
    found = found if isinstance(found, tuple) else (found,)
    if len(found) != results:
        raise InputError(f"a formula returns {len(found)} values; needed: {results}.")
    returned = ", ".join(tape.text(each) for each in found)
    body = "\n    ".join([*tape.lines, f"return {returned}"])
    source = f"def traced({', '.join(arguments)}):\n    {body}\n"
    names = {**functions, **tape.constants, "abs": abs, "math": math}
    exec(compile(source, "<formula>", "exec"), names)  # of text written above, from operations and constants alone
    return names["traced"]
