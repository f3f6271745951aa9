"""The elementary functions that formulas are written in, and their meaning on NumPy arrays.

A formula (an activation, an interaction) is branch-free arithmetic over these names. On arrays it runs as it
stands; an engine attaches its own compiled bodies to the same names (see `engines.cpu_vocabulary`), so the one
source runs everywhere.
"""

import numpy as np
from scipy import special


def exp(z):
    """e^z"""
    return np.exp(z)


def log1p(z):
    """log(1 + z), accurate near 0"""
    return np.log1p(z)


def tanh(z):
    return np.tanh(z)


def erf(z):
    """(2/sqrt(pi)) int_0^z e^(-t^2) dt"""
    return special.erf(z)


def sqrt(z):
    return np.sqrt(z)


def sin(z):
    return np.sin(z)


def cos(z):
    return np.cos(z)


def arcsin(z):
    """In [-pi/2, pi/2]; NaN outside [-1, 1]."""
    return np.arcsin(z)


def arccos(z):
    """In [0, pi], accurate near 1; NaN outside [-1, 1]."""
    return np.arccos(z)


def absolute(z):
    return np.abs(z)


def maximum(z, other):
    """The larger one; NaN if either is."""
    return np.maximum(z, other)


def minimum(z, other):
    """The smaller one; NaN if either is."""
    return np.minimum(z, other)


def where(condition, yes, no):
    """`yes` where `condition` holds, else `no`; both are evaluated."""
    return np.where(condition, yes, no)
