"""chi and the variance that layers preserve: closed forms of relu, erf and linear, tanh by another quadrature."""

import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss
from scipy.optimize import brentq

from meanfield import Activation
from meanfield.errors import ConvergenceError, InputError
from meanfield.phases import chi, fixed_point


def erf_variance(q):
    """E erf(sqrt(q) g)^2 = (2/pi) arcsin(2q / (1 + 2q)): Williams (1997), with z for his scaled one."""
    return 2.0 / np.pi * np.arcsin(2.0 * q / (1.0 + 2.0 * q))


@pytest.mark.parametrize("q", [0.1, 1.0, 7.0])
def test_closed_forms_at_given_q(q):
    """Relative 1e-8. relu: sigma_w^2 / 2; linear: sigma_w^2; erf: sigma_w^2 (4/pi) / sqrt(1 + 4q)."""
    assert chi("relu", 1.3, q=q) == pytest.approx(1.3**2 / 2, rel=1e-8)
    assert chi("linear", 1.3, q=q) == pytest.approx(1.3**2, rel=1e-8)
    assert chi("erf", 1.3, q=q) == pytest.approx(1.3**2 * 4 / np.pi / np.sqrt(1 + 4 * q), rel=1e-8)


@pytest.mark.parametrize(("sigma_w", "sigma_b"), [(1.5, 0.0), (1.5, 0.3), (3.0, 1.0)])
def test_the_fixed_point_of_erf(sigma_w, sigma_b):
    """The root of the closed form by Brent, above 0: relative 1e-8; and chi there."""
    root = brentq(lambda q: sigma_w**2 * erf_variance(q) + sigma_b**2 - q, 1e-3, 100.0, xtol=1e-14)
    assert fixed_point("erf", sigma_w, sigma_b) == pytest.approx(root, rel=1e-8)
    expected = sigma_w**2 * 4 / np.pi / np.sqrt(1 + 4 * root)
    assert chi("erf", sigma_w, sigma_b) == pytest.approx(expected, rel=1e-8)


def test_relu_with_a_bias():
    """q = sigma_w^2 q / 2 + sigma_b^2: q = sigma_b^2 / (1 - sigma_w^2 / 2); at sigma_w = sqrt(2), the edge, chi = 1."""
    assert fixed_point("relu", 1.0, 0.7) == pytest.approx(0.98, rel=1e-9)
    assert chi("relu", np.sqrt(2.0)) == pytest.approx(1.0, rel=1e-9)


def test_tanh_against_gauss_hermite():
    """q = 0.5 by a rule of 200 nodes: relative 1e-8. Another power of the slope would be far off."""
    nodes, weights = hermegauss(200)
    slopes = 1.0 - np.tanh(np.sqrt(0.5) * nodes) ** 2
    exact = 4.0 * (weights @ slopes**2) / weights.sum()
    assert chi("tanh", 2.0, q=0.5) == pytest.approx(exact, rel=1e-8)
    assert abs(chi("tanh", 2.0, q=0.5) - 4.0 * (weights @ slopes) / weights.sum()) > 0.1


def test_ordered_and_chaotic():
    """tanh without biases: below sigma_w = 1 the signal dies and chi = sigma_w^2, above it chi > 1 > 0."""
    assert chi("tanh", 0.8) == pytest.approx(0.64, rel=1e-8)
    assert fixed_point("tanh", 0.8) == 0.0
    assert chi("tanh", 1.5) > 1.0 > chi("tanh", 1.5, 2.0)


def test_what_has_no_fixed_point():
    with pytest.raises(ConvergenceError, match=r"variance of 'relu' with sigma_w = 2"):
        fixed_point("relu", 2.0)
    with pytest.raises(ConvergenceError, match="is known to"):
        chi(Activation("rough", lambda z: (z, np.sin(1e7 * z))), 1.0, q=1.0)
    with pytest.raises(InputError, match="unknown activation 'tan'"):
        chi("tan", 1.0)
    with pytest.raises(InputError, match="sigma_w is 0"):
        chi("tanh", 0)
    with pytest.raises(InputError, match="q is -1"):
        chi("tanh", 1.0, q=-1)
