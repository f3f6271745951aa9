"""Formulas traced and written out: the same numbers, in one dtype, each step once; and what cannot be traced."""

import math

import numpy as np
import pytest
from scipy import special

from meanfield.activations import ACTIVATIONS, polynomial
from meanfield.engines import straight_line
from meanfield.errors import InputError
from meanfield.overlaps import OVERLAPS, overlap_of
from meanfield.vocabulary import exp, maximum, tanh, where

REALS = pytest.mark.parametrize("real", [np.float64, np.float32])
CUBIC = polynomial([0.3, -0.7, 0.4, 0.2])
NAMES = ("exp", "tanh", "erf", "log1p", "arcsin", "arccos")
FUNCTIONS = {
    **{name: getattr(np, name) for name in NAMES if name != "erf"},
    "erf": special.erf, "square_root": np.sqrt, "sine": np.sin, "cosine": np.cos, "power": np.power,
}  # fmt: skip
# Away from the kink of a relu, where both sides are right, and inside the domain of an overlap.
POINTS = (-9.5, -1.25, -0.3, 1e-3, 0.7, 2.5, 30.0)


def elementary(tape):
    """One call each, of NumPy's own function."""
    return {name: lambda x, name=name: tape.do(name + "({0})", x) for name in NAMES}


def traced(formula, real, arguments=("z",), results=2):
    return straight_line.write(formula, arguments, results, real, FUNCTIONS, elementary)


@REALS
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, real):
    formula = ACTIVATIONS[name].formula
    points = [each for each in POINTS if abs(each) < 9.0 or name != "erf" or real is np.float64]
    function = traced(formula, real)
    for point in points:
        z = real(point)
        got, wanted = function(z), formula(np.float64(z))
        for one, other in zip(got, wanted, strict=True):
            assert isinstance(one, real), "a number of another type came out"
            assert math.isclose(one, other, rel_tol=2e3 * np.finfo(real).eps, abs_tol=4 * np.finfo(real).eps)


@REALS
@pytest.mark.parametrize("overlap", [*OVERLAPS.values(), overlap_of(CUBIC), overlap_of(CUBIC, sphere=3)], ids=repr)
def test_overlaps(overlap, real):
    function = traced(overlap.formula, real, ("c", "q", "s", "p", "t"), 3)
    scale = traced(overlap.scale, real, ("q",), 1)
    for c, q, p in ((0.3, 1.0, 2.0), (-0.9, 1.5, 0.7), (0.0, 0.2, 5.0)):
        c, q, p = real(c), real(q), real(p)
        got, wanted = function(c, q, scale(q), p, scale(p)), overlap(np.float64(q), np.float64(c), np.float64(p))
        for one, other in zip(got, wanted, strict=True):
            assert isinstance(one, real)
            assert math.isclose(one, other, rel_tol=100 * np.finfo(real).eps, abs_tol=10 * np.finfo(real).eps)


def tape_of(formula):
    """The lines that a formula of z leaves, and their constants."""
    tape = straight_line.Tape(np.float32, FUNCTIONS, {})
    tape.elementary = elementary(tape)
    formula(straight_line.Symbol(tape, "z"))
    return tape


def test_steps_that_occur_twice_are_taken_once():
    def formula(z):
        return exp(-z * z) + 1.0, 2.0 * exp(-z * z)

    lines = tape_of(formula).lines
    assert sum("exp" in line for line in lines) == 1 and len(lines) == len(set(lines)) == 5


def test_constants_are_of_the_dtype():
    constants = tape_of(lambda z: (1.0 / 3.0 * z + np.pi, z + 2)).constants
    assert sorted(constants.values()) == sorted(np.float32([1 / 3, np.pi, 2]))
    assert all(type(each) is np.float32 for each in constants.values())


def test_numbers_alone_are_allowed():
    value, slope = traced(lambda z: (2.0 * z, 2.0), np.float32)(np.float32(3))
    assert (value, slope) == (6, 2) and isinstance(slope, np.float32)


@pytest.mark.parametrize(
    ("formula", "z", "wanted"),
    [
        (lambda z: z**3, 2.0, 8.0),
        (lambda z: z**0.5, 4.0, 2.0),
        (lambda z: 2.0**z, 3.0, 8.0),
        (lambda z: abs(z) + +z, -2.0, 0.0),
        (lambda z: np.square(z) - np.fabs(z), -3.0, 6.0),
        (lambda z: np.float64(2.0) * z, 3.0, 6.0),
        (lambda z: np.where(z > 0.0, z, 0.1 * z), -10.0, -1.0),
        (lambda z: where((z > 0.0) & (z < 1.0), 1.0, 0.0), 0.5, 1.0),
        (lambda z: where((z < 0.0) | ~(z < 1.0), 1.0, 0.0), 0.5, 0.0),
        (lambda z: maximum(z, 2.0), math.nan, math.nan),
        (lambda z: np.minimum(2.0, z), math.nan, math.nan),
        (lambda z: where(True, z, 0.0), 3.0, 3.0),
        (lambda z: np.sin(z) ** 2 + np.cos(z) ** 2, 0.3, 1.0),
        (lambda z: np.sqrt(z) / np.reciprocal(z), 4.0, 8.0),
    ],
)
def test_operations(formula, z, wanted):
    got = traced(formula, np.float64, results=1)(np.float64(z))
    np.testing.assert_allclose(got, wanted, rtol=1e-15)


def _branches(z):
    return (z, 1.0) if z > 0.0 else (0.0, 0.0)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (_branches, r"branches on its argument; needed: where\(condition, yes, no\)"),
        (lambda z: (math.tanh(z), 1.0), "calls a function beyond arithmetic; needed: those of meanfield.vocabulary"),
        (lambda z: (np.arctan(z), 1.0), "calls 'arctan'; needed: functions of meanfield.vocabulary"),
        (lambda z: (np.clip(z, 0.0, 1.0), 1.0), "calls 'clip'"),
        (lambda z: (np.add.reduce([z, z]), 1.0), None),
        (lambda z: tanh(z), "returns 1 values; needed: 2"),
        (lambda z: (z, "1"), "computes with '1'; needed: numbers"),
        (lambda z: (z, np.ones(3)), "needed: numbers"),
    ],
)
def test_formulas_that_cannot_be_traced(formula, message):
    if message is None:  # a sum of objects is arithmetic
        assert traced(formula, np.float64)(1.5)[0] == 3.0
        return
    with pytest.raises(InputError, match=message):
        traced(formula, np.float64)


@REALS
def test_a_constant_in_float64_is_caught(real):
    """A tape that keeps Python's numbers as they are: what comes out in float32 is not float32."""

    class Careless(straight_line.Tape):
        def text(self, value):
            return value.name if isinstance(value, straight_line.Symbol) else f"np.float64({value!r})"

    tape = Careless(real, FUNCTIONS, {})
    total = straight_line.Symbol(tape, "z") + 1.0
    names = {"np": np, "z": real(0.1)}
    exec("\n".join(tape.lines), names)
    assert isinstance(names[total.name], real) is (real is np.float64)
