"""Overlaps: E[phi(u) phi(v)] for centred Gaussian u, v, in closed form, with its derivatives.

For Gaussian inputs x ~ N(0, I) and units phi(w . x), phi(w' . x) the pair (u, v) = (w . x, w' . x) has the variances
q = |w|^2 and p = |w'|^2 and the covariance c = w . w'. Every mean over the inputs is then a function of (q, c, p), and
the population risk needs no data. The derivative in c is E[phi'(u) phi'(v)] (Price's theorem).

For x uniform on the sphere of radius sqrt(d) a mean of what is homogeneous in x of degree m is the Gaussian one times
d^(m/2) / (d (d + 2) ... (d + m - 2)), for N(0, I_d) is a chi-distributed radius times a uniform direction. So relu and
linear, of degree 2 in the product, have the same overlaps there, and a polynomial's terms each have their factor.

A formula is branch-free arithmetic over `vocabulary`, like an activation's. What depends on one variance alone, the
`scale`, is a function of its own: it is taken once for each particle and not for each pair.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from .activations import Activation, Polynomial, erf, linear, relu
from .errors import InputError
from .vocabulary import arccos, arcsin, maximum, minimum, sqrt, where


@dataclass(frozen=True)
class Overlap:
    """E[phi(u) phi(v)] and its derivatives.

    scale : q -> s, what the formula needs of a variance
    formula : (c, q, s, p, t) -> (value, d/dc, d/dq), s and t the scales of q and p
    """

    name: str
    scale: Callable[[Any], Any]
    formula: Callable[[Any, Any, Any, Any, Any], tuple[Any, Any, Any]]

    def __call__(self, q, c, p):
        """(E[phi(u) phi(v)], its derivative in c, its derivative in q) for arrays that broadcast together."""
        return self.formula(c, q, self.scale(q), p, self.scale(p))

    def __repr__(self) -> str:
        return f"Overlap({self.name!r})"


def _erf_scale(q):
    return 1.0 / sqrt(1.0 + 2.0 * q)


def _erf(c, q, s, p, t):
    """(2/pi) arcsin r, r = 2c / sqrt((1 + 2q)(1 + 2p)): Williams (1997), eq. 10; Saad & Solla (1995)."""
    r = minimum(maximum(2.0 * c * s * t, -1.0), 1.0)
    # (1 + 2q)(1 + 2p)(1 - r^2) with the 1 kept apart: q p - c^2 may cancel, between a particle and itself, and leaves a
    # relative error of some q roundings there (float32: 1e-5 at |w| = 30).
    in_c = 4.0 / math.pi / sqrt(1.0 + 2.0 * (q + p) + 4.0 * maximum(q * p - c * c, 0.0))
    return 2.0 / math.pi * arcsin(r), in_c, -c * in_c * s * s


def _relu_scale(q):
    return where(q > 0.0, 1.0 / sqrt(where(q > 0.0, q, 1.0)), 0.0)


def _relu(c, q, s, p, t):
    """sqrt(q p) (sin h + (pi - h) cos h) / (2 pi), cos h = c / sqrt(q p): Cho & Saul (2009), degree 1.

    The angle h between nearly parallel weights is known to the square root of the rounding error.
    """
    cosine = minimum(maximum((c * s) * t, -1.0), 1.0)
    height = (q * s) * (p * t) * sqrt((1.0 - cosine) * (1.0 + cosine))  # in this order nothing leaves a float's range
    in_c = 0.5 - arccos(cosine) / (2.0 * math.pi)
    return height / (2.0 * math.pi) + in_c * c, in_c, height * s * s / (4.0 * math.pi)


def _linear_scale(q):
    return q


def _linear(c, q, s, p, t):
    return c, 1.0 + 0.0 * c, 0.0 * c


def sphere_factor(degree: int, dim: int) -> float:
    """E h(x) over E h(g), x uniform on the sphere of radius sqrt(d), g ~ N(0, I_d), h homogeneous of even degree m.

    d^(m/2) / E |g|^m = d^(m/2) / (d (d + 2) ... (d + m - 2))
    """
    return math.prod(dim / (dim + 2 * k) for k in range(degree // 2))


@cache
def _polynomial(activation: Polynomial, sphere: int | None) -> Overlap:
    """sum_jk c_j c_k E u^j v^k by Isserlis' theorem, on a sphere each term with the factor of its degree j + k."""
    coefficients = activation.coefficients

    def share(j, k):
        on_sphere = 1.0 if sphere is None else sphere_factor(j + k, sphere)
        return on_sphere * coefficients[j] * coefficients[k]

    c00, c11, c22, c33, c44 = (share(k, k) for k in range(5))
    c02, c13, c04, c24 = share(0, 2), share(1, 3), share(0, 4), share(2, 4)

    def formula(c, q, s, p, t):
        sum_, product, square = q + p, q * p, c * c
        value = (
            c00 + c11 * c + c22 * (product + 2.0 * square) + c33 * c * (9.0 * product + 6.0 * square)
            + c44 * (9.0 * product * product + 72.0 * product * square + 24.0 * square * square)
            + c02 * sum_ + 3.0 * c13 * c * sum_ + 3.0 * c04 * (q * q + p * p)
            + c24 * sum_ * (3.0 * product + 12.0 * square)
        )  # fmt: skip
        in_c = (
            c11 + 4.0 * c22 * c + c33 * (9.0 * product + 18.0 * square)
            + c44 * c * (144.0 * product + 96.0 * square) + 3.0 * c13 * sum_ + 24.0 * c24 * c * sum_
        )  # fmt: skip
        in_q = (
            c22 * p + 9.0 * c33 * c * p + c44 * p * (18.0 * product + 72.0 * square) + c02
            + 3.0 * c13 * c + 6.0 * c04 * q + c24 * (3.0 * p * p + 6.0 * product + 12.0 * square)
        )  # fmt: skip
        return value, in_c, in_q

    return Overlap(activation.name, _linear_scale, formula)


def overlap_of(activation: Activation, *, sphere: int | None = None) -> Overlap:
    """The closed overlaps of an activation, or InputError that says which have some.

    sphere : d, of inputs uniform on the sphere of radius sqrt(d); None: of inputs N(0, I)
    """
    if isinstance(activation, Polynomial):
        return _polynomial(activation, sphere)
    table = OVERLAPS if sphere is None else {each: OVERLAPS[each] for each in HOMOGENEOUS}
    if activation not in table:
        known, law = ", ".join(each.name for each in table), "Gaussian inputs" if sphere is None else "the sphere"
        raise InputError(
            f"activation {getattr(activation, 'name', activation)!r} has no closed form of E phi phi for {law}; "
            f"those of {known}, and polynomials to degree 4, have. Use a Problem with a sample of the inputs otherwise."
        )
    return table[activation]


OVERLAPS: dict[Activation, Overlap] = {
    erf: Overlap("erf", _erf_scale, _erf),
    relu: Overlap("relu", _relu_scale, _relu),
    linear: Overlap("linear", _linear_scale, _linear),
}
HOMOGENEOUS = (relu, linear)  # of degree 1: the product of two units is of degree 2, whose factor on a sphere is 1
