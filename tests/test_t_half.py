"""When half of the risk is gone: exponentials, the bilinear neuron in closed form, and what never falls."""

import numpy as np
import pytest
from scipy.optimize import brentq

from meanfield import Network, Scaling, initial, limits, problems, simulate
from meanfield.diagnostics import t_half
from meanfield.errors import InputError


@pytest.mark.parametrize("share", [0.7, 0.05])
def test_an_exponential(share):
    """R = 3 e^(-0.7 t) at any times: -log(share) / 0.7 to 1e-12; linear interpolation of R would not give it."""
    times = np.array([0.0, 1.0, 4.0, 9.0])
    risks, exact = 3.0 * np.exp(-0.7 * times), -np.log(share) / 0.7
    assert t_half(times, risks, share) == pytest.approx(exact, rel=1e-12)
    linear = np.interp(-share * 3.0, -risks, times)
    assert abs(linear - exact) > 0.01 * exact


def test_the_bilinear_neuron():
    """R = (1 - alpha sinh 2s)^2 of its limit: the root by Brent between recorded times, 1e-4 at 41 times; a cloud of
    that law by quadrature, run, agrees.
    """
    problem, network, times = problems.bilinear(), Network("linear", Scaling(0.3)), np.linspace(0.0, 2.0, 41)
    rule = initial.gauss_hermite(initial.GaussianLaw(1), 3)
    run = simulate(network, problem, rule.nodes, times, masses=rule.masses, record=["risk"], rtol=1e-8, atol=1e-10)

    def left(t):
        return (1.0 - limits.exact.bilinear(network, problem, [0.0, t]).predictions[-1, 0]) ** 2 - 0.5

    assert t_half(run.times, run.records["risk"]) == pytest.approx(brentq(left, 0.01, 2.0), abs=1e-3)


def test_the_first_of_several():
    """A risk that falls, rises and falls: the first time; one that stays: NaN; one that reaches 0: by R itself."""
    assert t_half([0, 1, 2, 3], [4.0, 1.0, 3.0, 0.5]) == pytest.approx(0.5, rel=1e-12)
    assert np.isnan(t_half([0, 1, 2], [1.0, 0.9, 0.51]))
    assert t_half([0, 2], [1.0, 0.0]) == pytest.approx(1.0, rel=1e-12)
    assert t_half([0, 1, 2], [1.0, 0.5, 0.1]) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("times", "risks", "share"),
    [([0, 1], [1.0], 0.5), ([0, 1], [0.0, 0.0], 0.5), ([0, 1], [1.0, -1.0], 0.5), ([0, 1], [1.0, 0.1], 1.0)],
)
def test_bad_input(times, risks, share):
    with pytest.raises(InputError, match="needed: as many, none negative, the first positive, and a share below 1"):
        t_half(times, risks, share)
