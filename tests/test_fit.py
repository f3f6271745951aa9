"""Power laws recovered from data whose law is known, the coverage of their intervals, and verdicts."""

import warnings

import numpy as np
import pytest

from meanfield.errors import InputError
from meanfield.experiments.findings import Finding
from meanfield.fit import ALLOWANCE, WIDEST, PowerLaw, local_slopes, mean_interval, power_law, verdict

WIDTHS = np.array([16, 32, 64, 128, 256, 512])


@pytest.fixture(autouse=True)
def no_warning_leaks():
    """What is wrong must be an error; no call in this file may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def noisy(slope: float, seed: int, *, spread: float = 0.4, n_seeds: int = 20, paired: bool = False) -> np.ndarray:
    """3 N^slope times lognormal noise of mean one, (seeds, widths); `paired`: one factor for all widths of a seed."""
    drawn = np.random.default_rng(seed).standard_normal((n_seeds, 1 if paired else len(WIDTHS)))
    return 3.0 * WIDTHS**slope * np.exp(spread * drawn - 0.5 * spread**2)


@pytest.mark.parametrize("slope", [-1.0, -0.5, 0.0, 0.37])
def test_an_exact_power_law(slope):
    """Without noise the slope and the prefactor are exact and the interval has no width: to 1e-12."""
    law = power_law(WIDTHS, np.tile(3.0 * WIDTHS**slope, (4, 1)))
    assert law.slope == pytest.approx(slope, abs=1e-12)
    assert law.interval == pytest.approx((slope, slope), abs=1e-12)
    assert np.exp(law.intercept) == pytest.approx(3.0, rel=1e-12)
    assert law([10, 1000]) == pytest.approx(3.0 * np.array([10.0, 1000.0]) ** slope, rel=1e-12)
    assert law(10) == pytest.approx(3.0 * 10.0**slope, rel=1e-12)


def test_noise_that_seeds_share_cancels():
    """The bootstrap draws whole rows: a factor common to all widths of a seed moves the intercept, never the slope."""
    law = power_law(WIDTHS, noisy(-0.5, 1, paired=True))
    assert law.slope == pytest.approx(-0.5, abs=1e-12)
    assert law.interval == pytest.approx((-0.5, -0.5), abs=1e-12)
    shuffled = np.random.default_rng(2).permuted(noisy(-0.5, 1, paired=True), axis=0)  # pairing lost: seen
    low, high = power_law(WIDTHS, shuffled).interval
    assert high - low > 0.02


def test_slope_and_intercept_are_least_squares():
    """The line through log(mean over seeds) against log(N), by `numpy.polyfit`: to 1e-10; uneven widths too."""
    widths = np.array([10.0, 11.0, 300.0])
    values = np.random.default_rng(3).random((5, 3)) + 0.1
    law = power_law(widths, values)
    slope, intercept = np.polyfit(np.log(widths), np.log(values.mean(axis=0)), 1)
    assert (law.slope, law.intercept) == pytest.approx((slope, intercept), abs=1e-10)
    mean_of_logs = np.polyfit(np.log(widths), np.log(values).mean(axis=0), 1)[0]
    assert abs(law.slope - mean_of_logs) > 1e-2, "the mean of logarithms is another fit"


def coverage(slope: float, n_sets: int = 200, shrink: float = 1.0) -> float:
    """Share of data sets of known slope whose interval, drawn in by `shrink`, holds it."""
    held = 0
    for seed in range(n_sets):
        law = power_law(WIDTHS, noisy(slope, seed), resamples=300, seed=seed)
        low, high = (law.slope + shrink * (end - law.slope) for end in law.interval)
        held += low <= slope <= high
    return held / n_sets


def test_coverage():
    """The 95 % interval holds the true slope in at least 85 % of 200 data sets (20 seeds: the percentile bootstrap is
    some percent short of 95), and not in all: an interval that always holds it says nothing.
    """
    assert 0.85 <= coverage(-0.5) <= 0.99


def test_a_narrow_interval_is_caught():
    """Intervals of half the width cover about two thirds: below the bound above."""
    assert coverage(-0.5, shrink=0.5) < 0.8


def test_the_interval_shrinks_with_seeds():
    """16 times the seeds: a quarter of the width, within a factor 1.5; five data sets."""

    def width(n_seeds):
        intervals = [power_law(WIDTHS, noisy(-0.5, s, n_seeds=n_seeds), resamples=500).interval for s in range(5)]
        return np.mean([high - low for low, high in intervals])

    assert 4.0 / 1.5 < width(10) / width(160) < 4.0 * 1.5


def test_the_bootstrap_repeats():
    """The same seed gives the same interval, bit for bit; another one a nearby one."""
    values = noisy(-0.5, 1)
    assert power_law(WIDTHS, values, seed=3) == power_law(WIDTHS, values, seed=3)
    other = power_law(WIDTHS, values, seed=4)
    assert other != power_law(WIDTHS, values, seed=3)
    assert other.interval == pytest.approx(power_law(WIDTHS, values, seed=3).interval, abs=0.02)


def test_mean_interval():
    """For many seeds mean +- 1.96 s / sqrt(S), to 15 % of its width; shape (2, widths); no width without noise."""
    values = noisy(-0.5, 5, n_seeds=400)
    found = mean_interval(values)
    middle, half = values.mean(axis=0), 1.96 * values.std(axis=0) / 20.0
    assert found.shape == (2, len(WIDTHS))
    assert np.abs(found - [middle - half, middle + half]).max(axis=0) == pytest.approx(0.0, abs=(0.3 * half).min())
    same = np.tile(WIDTHS.astype(float), (3, 1))
    assert mean_interval(same) == pytest.approx(same[:2], rel=1e-14)


SLOPE = (-0.55, -0.45)
RANGE = (-1.1, -0.65)
TINY = 1e-9


@pytest.mark.parametrize(
    ("interval", "theory", "expected"),
    [
        (SLOPE, -0.5, "agrees"),
        (SLOPE, SLOPE[1] + ALLOWANCE, "agrees"),
        (SLOPE, SLOPE[0] - ALLOWANCE, "agrees"),
        (SLOPE, SLOPE[1] + ALLOWANCE + TINY, "differs"),
        (SLOPE, SLOPE[0] - ALLOWANCE - TINY, "differs"),
        (SLOPE, 0.5, "differs"),
        ((-0.5, -0.5), -0.5, "agrees"),
        ((-WIDEST, 0.0), -0.1, "agrees"),
        ((-WIDEST, 0.0), -1.0, "differs"),
        ((-WIDEST - TINY, 0.0), -0.1, "cannot tell"),
        ((-WIDEST - TINY, 0.0), -1.0, "cannot tell"),
        ((-1.0, -0.8), RANGE, "agrees"),
        ((-0.9, -0.65), RANGE, "agrees"),
        ((-1.1, -0.9), RANGE, "agrees"),
        ((-0.9, -0.65 + TINY), RANGE, "cannot tell"),
        ((-1.1 - TINY, -0.9), RANGE, "cannot tell"),
        ((-1.101, -0.803), RANGE, "cannot tell"),
        ((-0.65 + TINY, -0.45), RANGE, "differs"),
        ((-1.3, -1.1 - TINY), RANGE, "differs"),
        ((-0.55, -0.45), RANGE, "differs"),
        ((-1.05, -0.7), RANGE, "cannot tell"),
        ((-1.3, -0.9), RANGE, "cannot tell"),
    ],
)
def test_verdict(interval, theory, expected):
    """An exponent within the interval widened by the allowance; a range around the whole interval, without one; an
    interval wider than `WIDEST`, or across an end of a range, tells nothing. A `Finding` says the same.
    """
    finding = Finding("slope", interval[0], interval, theory, ALLOWANCE, WIDEST)
    assert finding.verdict == expected
    assert verdict(interval, theory) == expected


@pytest.mark.parametrize(
    ("slope", "expected"), [(-0.5, "agrees"), (-0.3, "differs"), (-0.7, "differs"), (-1.0, "differs")]
)
def test_a_shifted_slope_differs(slope, expected):
    """Data of slope -1/2 with narrow intervals agree with -1/2 and with nothing 0.2 or more away."""
    law = power_law(WIDTHS, noisy(-0.5, 7, spread=0.1))
    assert verdict(law.interval, slope) == expected


def test_few_noisy_seeds_cannot_tell():
    """Noise of a factor e over two widths: no verdict, whatever the theory."""
    law = power_law(WIDTHS[:2], noisy(-0.5, 7, spread=1.0)[:5, :2])
    assert law.interval[1] - law.interval[0] > WIDEST
    assert {verdict(law.interval, theory) for theory in (-0.5, 3.0, (-10.0, 10.0))} == {"cannot tell"}


@pytest.mark.parametrize("widths", [[16.0, 16.0], [0.0, 16.0], [16.0, -32.0]])
def test_widths_without_a_logarithm_or_a_spread(widths):
    """Equal, zero and negative widths have no slope: refused, as other bad input is."""
    with pytest.raises(InputError, match="widths"):
        power_law(widths, [[1.0, 2.0], [2.0, 3.0]])


def test_repr():
    """What a notebook shows: slope and interval."""
    assert repr(PowerLaw(-0.5, (-0.55, -0.45), 1.0)) == "PowerLaw(-0.500 [-0.550, -0.450])"


ROWS = np.ones((3, 6))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power_law(WIDTHS, ROWS[:1]), r"two or more widths and seeds: got widths \(6,\) and per_seed \(1, 6\)"),
        (lambda: power_law(WIDTHS[:1], ROWS[:, :1]), r"widths and seeds: got widths \(1,\) and per_seed \(3, 1\)"),
        (lambda: power_law(WIDTHS[:5], ROWS), r"got widths \(5,\) and per_seed \(3, 6\)"),
        (lambda: power_law(WIDTHS, ROWS[0]), r"per_seed has shape \(6,\); needed: an array \(seeds, widths\)"),
        (lambda: power_law(WIDTHS, 0.0 * ROWS), "a mean over seeds is not positive"),
        (lambda: power_law(WIDTHS, -ROWS), "a mean over seeds is not positive"),
        (lambda: power_law(WIDTHS[:2], [[1.0, 1.0], [-0.5, 1.0]]), "a mean over seeds is not positive"),
        (lambda: power_law(WIDTHS, np.nan * ROWS), "per_seed holds nan"),
        (lambda: power_law([1.0, np.inf], ROWS[:, :2]), "widths holds inf"),
        (lambda: mean_interval(ROWS[0]), r"per_seed has shape \(6,\)"),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()


def test_local_slopes_of_powers():
    """Exact powers, piece by piece: -1 to 64, -2 from there; and a law's own are those of its means. 1e-12."""
    values = np.where(WIDTHS <= WIDTHS[1], 1.0 / WIDTHS, WIDTHS[1] / WIDTHS.astype(float) ** 2)
    slopes = local_slopes(WIDTHS, values)
    assert slopes == pytest.approx([-1.0, *[-2.0] * (len(WIDTHS) - 2)], rel=1e-12)
    noise = noisy(-0.5, 1)
    assert power_law(WIDTHS, noise).local_slopes == pytest.approx(local_slopes(WIDTHS, noise.mean(axis=0)), rel=1e-12)
    assert local_slopes(WIDTHS[::-1], values[::-1]) == pytest.approx(slopes, rel=1e-12)
    assert local_slopes([1, 2, 2], [1.0, 3.0, 5.0]) == pytest.approx([2.0], rel=1e-12)


def test_a_bend_shows_in_local_slopes_alone():
    """One slope through a bend says neither; the spread of the local ones does."""
    values = np.where(WIDTHS <= WIDTHS[1], 1.0 / WIDTHS, WIDTHS[1] / WIDTHS.astype(float) ** 2)
    bent, straight = power_law(WIDTHS, [values, values]), power_law(WIDTHS, [1.0 / WIDTHS, 1.0 / WIDTHS])
    assert np.ptp(bent.local_slopes) > 0.9 > 1e-9 > np.ptp(straight.local_slopes)


def test_the_verdict_of_a_law():
    """That of its interval."""
    law = power_law(WIDTHS, noisy(-0.5, 1))
    assert [law.verdict(theory) for theory in (-0.5, 0.5, (-0.9, -0.1))] == ["agrees", "differs", "agrees"]


@pytest.mark.parametrize(("widths", "values"), [([1], [1.0]), ([1, 2], [1.0]), ([1, 2], [1.0, 0.0]), ([2, 2], [1, 1])])
def test_what_has_no_local_slopes(widths, values):
    with pytest.raises(InputError, match="needed: as many, positive, two or more widths"):
        local_slopes(widths, values)
