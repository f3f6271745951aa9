"""The claims about fluctuations, quick: exponents with exact values, and what is wrong is seen."""

import math

import numpy as np
import pytest

from meanfield import fit
from meanfield.experiments import fluctuations
from meanfield.scaling import Scaling


def errors(sweep, theory):
    """How many of its own standard errors a slope is from theory; a 95 % interval is 3.92 of them wide."""
    low, high = sweep.law.interval
    return abs(sweep.law.slope - theory) / ((high - low) / 3.92)


@pytest.mark.parametrize("alpha", [1.0, fluctuations.LAZY])
def test_variance_falls_with_the_width(alpha):
    """-1 for the variance and 0 for the error of the average, five standard errors; and not 0 and -1."""
    found = fluctuations.variance(alpha, quick=True)
    assert errors(found["variance"], -1.0) < 5.0 < errors(found["variance"], 0.0)
    assert errors(found["average error"], 0.0) < 5.0 < errors(found["average error"], -1.0)


def test_preactivation_speed():
    """1/alpha to 1e-12, and sqrt(h) within five standard errors."""
    found = fluctuations.preactivation_speed(quick=True)
    assert found["alpha"].law.slope == pytest.approx(-1.0, abs=1e-12)
    assert errors(found["width"], -0.5) < 5.0 < errors(found["width"], 0.0)


def test_kernel_ratio():
    """3/N at every width within five standard errors of the mean of its shares; slope -1, and not -1/2."""
    sweep = fluctuations.kernel_ratio(quick=True)["ratio"]
    error = sweep.per_seed.std(axis=0, ddof=1) / np.sqrt(len(sweep.per_seed))
    assert (np.abs(sweep.per_seed.mean(axis=0) - 3.0 / sweep.sizes) < 5.0 * error).all()
    assert errors(sweep, -1.0) < 5.0 < errors(sweep, -0.5)


@pytest.mark.parametrize(("q", "q_tilde"), [(-0.5, 0.0), (-1.0, 1.0), (-0.5, 0.5), (-0.75, 0.25)])
def test_exponents_of_the_plane(q, q_tilde):
    """f_0, the step and the parameters at four points: verdict "agrees" from the formulas; another point's differ."""
    found = fluctuations.plane(q, q_tilde, quick=True)
    for name in ("f_0", "step", "parameters"):
        assert found[name].verdict == "agrees", name
    assert found["step"].law.verdict(q_tilde + 2.0 * q + 1.5) == "differs"
    assert found["parameters"].law.verdict(q + q_tilde + 0.3) == "differs"


@pytest.mark.parametrize(("point", "corrected"), [((-0.5, 1.0, 0.0), False), ((-1.0, 1.0), True)])
def test_exponents_of_default_and_of_the_corrected_mean_field(point, corrected):
    """f_0, the step and the parameters: verdict "agrees"; and f_0 of the plain mean field is not of order 1."""
    found = fluctuations.plane(*point, corrected=corrected, quick=True)
    for name in ("f_0", "step", "parameters"):
        assert found[name].verdict == "agrees", name
    assert ("kernel" in found) == corrected
    assert found["f_0"].law.verdict(-0.5) == "differs"


def test_distances_of_golikov():
    """MF's KL is 1/2 (log 32 + 1/32 - 1) where its moments' other parts agree, within 0.25; the others' order; and the
    frozen term is what sets IC-MF apart from MF: without it they would be equal.
    """
    found = fluctuations.golikov_kl(quick=True)
    assert found["mf"].value == pytest.approx(0.5 * (math.log(32.0) + 1.0 / 32.0 - 1.0), abs=0.25)
    assert found["ic-mf"].value < found["ntk"].value < found["mf"].value < found["sym-default"].value
    assert found["mf"].value - found["ic-mf"].value > 0.5
    for each in found.values():
        assert each.interval[0] < each.value < each.interval[1]
        assert each.plug_in > each.value
    value, (low, high) = found["ntk"].less(found["ic-mf"])
    assert low < value == found["ntk"].value - found["ic-mf"].value < high
    assert found["mf"].less(found["mf"]) == (0.0, (0.0, 0.0)), "draws of seeds are shared, and cancel"


def test_golikovs_scalings_are_one_at_d_star():
    """All but the frozen term: alpha, mobilities and time; and at another width no two of the five are."""
    plain = Scaling.golikov(16, 16, 0.0, 0.0, 0.0, sigma=0.25)
    for scaling in fluctuations.golikov_scalings(16, 16, 0.25).values():
        same = scaling.alpha, scaling.mobility_a, scaling.time_scale
        assert same == pytest.approx((plain.alpha, plain.mobility_a, plain.time_scale), rel=1e-12)
    wider = fluctuations.golikov_scalings(32, 16, 0.25).values()
    assert len({(each.alpha, each.mobility_a, each.time_scale, each.offset) for each in wider}) == 6


def test_other_seeds_are_others():
    """`seed` gives networks that share nothing: other numbers, and the same ones again for the same."""
    first, again, other = (fluctuations.variance_of_data(quick=True, seed=seed)["labels"] for seed in (1, 1, 2))
    assert (first.per_seed == again.per_seed).all()
    assert (first.per_seed != other.per_seed).all()
    assert repr(first).startswith("Sweep(data: ")
    assert first.verdict == fit.verdict(first.law.interval, 0.5)
