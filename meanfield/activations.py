"""Activations: the scalar nonlinearity of a unit, value and slope together because they share work.

A formula maps z to (phi(z), phi'(z)) by branch-free arithmetic over `vocabulary`; the same source runs on NumPy
arrays and in an engine's compiled loops. A new one is about six lines and an entry in `ACTIVATIONS`; a user's own,
written in a script, works wherever a name does:

    import meanfield as mf
    from meanfield.vocabulary import tanh

    def swish(z):
        gate = 0.5 + 0.5 * tanh(0.5 * z)
        return z * gate, gate + z * gate * (1.0 - gate)

    network = mf.Network(mf.Activation("swish", swish))
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.polynomial.hermite_e import herme2poly

from . import _checks
from ._origins import family
from .errors import InputError
from .vocabulary import absolute, exp, log1p, maximum, where
from .vocabulary import erf as _erf_function
from .vocabulary import tanh as _tanh_function


@dataclass(frozen=True)
class Activation:
    """A nonlinearity phi.

    name : str
    formula : z -> (phi(z), phi'(z)), over `vocabulary`; at a kink the slope is the left one.
    """

    name: str
    formula: Callable[[Any], tuple[Any, Any]]

    def __post_init__(self):
        if not callable(self.formula):
            raise InputError(
                f"activation {self.name!r} has formula {self.formula!r}; needed: a function z -> (phi, phi')."
            )

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"


@dataclass(frozen=True)
class Polynomial(Activation):
    """A polynomial phi of degree up to 4, whose means over Gaussian inputs are closed (`overlaps.overlap_of`).

    coefficients : of 1, z, z^2, z^3, z^4
    """

    coefficients: tuple[float, float, float, float, float] = (0.0, 1.0, 0.0, 0.0, 0.0)

    def __repr__(self) -> str:
        return f"Polynomial({self.name!r})"


@cache
def _polynomial(coefficients: tuple[float, float, float, float, float], name: str) -> Polynomial:
    c0, c1, c2, c3, c4 = coefficients

    def formula(z):
        slope = c1 + z * (2.0 * c2 + z * (3.0 * c3 + z * (4.0 * c4)))
        return c0 + z * (c1 + z * (c2 + z * (c3 + z * c4))), slope

    return Polynomial(name, formula, coefficients)


@family
def polynomial(coefficients: Sequence[float], *, hermite: bool = False) -> Polynomial:
    """phi(z) = sum_k c_k z^k to degree 4; with `hermite` sum_k c_k He_k(z), the probabilists' Hermite polynomials.

    Equal coefficients give the same object. Raises InputError beyond degree 4 or without a coefficient.
    """
    given = _checks.array(coefficients, "coefficients", 1, "up to five numbers, of 1, z, ..., z^4")
    if len(given) > 5:
        raise InputError(f"a polynomial of {len(given)} coefficients; needed: up to five, of 1, z, ..., z^4.")
    plain = herme2poly(given) if hermite else given
    padded = tuple(float(each) for each in (*plain, *(5 - len(plain)) * [0.0]))
    return _polynomial(padded, "polynomial " + " ".join(f"{each:g}" for each in padded))


def quadratic() -> Polynomial:
    """phi(z) = z^2."""
    return polynomial([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class PiecewiseLinear(Activation):
    """phi(z) = left + sum_i jumps_i max(z - knots_i, 0), whose means over a sphere are closed (`limits.radial`)."""

    knots: tuple[float, ...] = (0.0,)
    jumps: tuple[float, ...] = (1.0,)
    left: float = 0.0

    def __repr__(self) -> str:
        return f"PiecewiseLinear({self.name!r})"


@cache
def _piecewise_linear(knots: tuple[float, ...], jumps: tuple[float, ...], left: float, name: str) -> PiecewiseLinear:
    fill = 4 - len(knots)
    k0, k1, k2, k3 = *knots, *fill * knots[-1:]
    j0, j1, j2, j3 = *jumps, *fill * (0.0,)

    def formula(z):
        value = j0 * maximum(z - k0, 0.0) + j1 * maximum(z - k1, 0.0)
        value = value + j2 * maximum(z - k2, 0.0) + j3 * maximum(z - k3, 0.0)
        slope = where(z > k0, j0, 0.0) + where(z > k1, j1, 0.0) + where(z > k2, j2, 0.0) + where(z > k3, j3, 0.0)
        return left + value, slope

    return PiecewiseLinear(name, formula, knots, jumps, left)


@family
def piecewise_linear(knots: Sequence[float], values: Sequence[float]) -> PiecewiseLinear:
    """Through the points (knots_i, values_i), constant left and right of them: two to four points.

    Mei, Montanari & Nguyen (arXiv 1804.06561), from memory: (0.5, 1.5), (-2.5, 7.5) learns to tell two Gaussians
    apart, (0, 0.5, 1.5), (-2.5, -4, 7.5), which is not monotone, gets stuck. Equal points give the same object. Raises
    InputError unless the knots increase and there are as many values.
    """
    given = _checks.array(knots, "knots", 1, "two to four numbers that increase")
    heights = _checks.array(values, "values", 1, "a number for each knot")
    if not 2 <= len(given) <= 4 or len(heights) != len(given) or (np.diff(given) <= 0).any():
        raise InputError(
            f"knots are {given.tolist()} and values {heights.tolist()}; needed: two to four knots that increase, and "
            "as many values."
        )
    slopes = np.diff(heights) / np.diff(given)
    jumps = tuple(np.diff(np.r_[0.0, slopes, 0.0]).tolist())
    name = "piecewise linear " + " ".join(f"({k:g}, {v:g})" for k, v in zip(given, heights, strict=True))
    return _piecewise_linear(tuple(given.tolist()), jumps, float(heights[0]), name)


_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)


def _relu(z):
    return maximum(z, 0.0), where(z > 0.0, 1.0, 0.0)


def _erf(z):
    return _erf_function(z), _TWO_OVER_SQRT_PI * exp(-z * z)


def _tanh(z):
    value = _tanh_function(z)
    return value, 1.0 - value * value


def _linear(z):
    return z, 1.0 + 0.0 * z


@family
def softplus(beta: float = 1.0, prefactor: float = 1.0) -> Activation:
    """prefactor/beta log(1 + e^(beta z)), a smooth relu. Geiger et al. (arXiv 1906.08034) use beta = 5, 1.404.

    Raises InputError unless beta > 0 and the prefactor is finite.
    """
    beta = _checks.number(beta, "beta", above=0.0)
    prefactor = _checks.number(prefactor, "prefactor")
    height = prefactor / beta

    def formula(z):
        # e^(-|beta z|) never overflows, and serves value and slope.
        small = exp(-beta * absolute(z))
        value = height * (maximum(beta * z, 0.0) + log1p(small))
        slope = prefactor * where(z > 0.0, 1.0, small) / (1.0 + small)
        return value, slope

    given = (beta, prefactor) != (1.0, 1.0)
    return Activation(f"softplus({beta:g}, {prefactor:g})" if given else "softplus", formula)


@family
@cache
def biased_relu(threshold: float = 0.5) -> PiecewiseLinear:
    """max(z - threshold, 0): unlike relu it has every polynomial degree. Ghorbani et al. (arXiv 1904.12191) use 0.5.

    Equal thresholds give the same object. Raises InputError unless it is finite.
    """
    threshold = _checks.number(threshold, "threshold")

    def formula(z):
        return maximum(z - threshold, 0.0), where(z > threshold, 1.0, 0.0)

    return PiecewiseLinear(f"relu(z - {threshold:g})", formula, (threshold,))


relu = Activation("relu", _relu)
erf = Activation("erf", _erf)
tanh = Activation("tanh", _tanh)
linear = Activation("linear", _linear)
softplus_geiger = Activation("softplus-geiger", softplus(5.0, 1.404).formula)

FAMILIES = {
    each.__name__: each for each in (softplus, polynomial, piecewise_linear, biased_relu)
}  # with parameters of their own
ACTIVATIONS = {each.name: each for each in (relu, erf, tanh, softplus(), softplus_geiger, linear)}
