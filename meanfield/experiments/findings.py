"""What an experiment finds: numbers with intervals, held against what is expected; verdicts computed from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit
from scipy.stats import binom

from .. import fit
from ..errors import InputError

VERDICTS = ("agrees", "cannot tell", "differs")  # from best to worst
_TELLS = fit.WIDEST / fit.ALLOWANCE  # an interval may be so many allowances wide: 3, as of an exponent


@dataclass(frozen=True)
class Finding:
    """A number and what was expected of it.

    what : in a few words
    value, interval : measured, with its 95 % interval; (value, value) for what is not random
    expected : a number, or a range that must hold the interval
    allowance : added on both sides of the interval before a number is looked for in it
    widest : a wider interval cannot tell, whatever it holds. None: one wider than three allowances (the measure of
        `fit` for exponents) that holds the number cannot tell; that it does would say nothing
    reasons : verdict -> the sentence why (`explained`)
    """

    what: str
    value: float
    interval: tuple[float, float]
    expected: float | tuple[float, float]
    allowance: float = 0.0
    widest: float | None = None
    reasons: tuple[tuple[str, str], ...] = ()

    def explained(self, *, differs: str = "", cannot_tell: str = "") -> "Finding":
        """The same, with the reason for a verdict; it is told where that is the verdict."""
        return replace(self, reasons=(("differs", differs), ("cannot tell", cannot_tell)))

    @property
    def why(self) -> str:
        """The reason for the verdict there is, if one was given."""
        return dict(self.reasons).get(self.verdict, "")

    @property
    def verdict(self) -> str:
        """`fit.verdict`: an interval that is too wide or crosses an end of the expected range cannot tell."""
        low, high = self.interval
        widest = np.inf if self.widest is None else self.widest
        found = fit.verdict(self.interval, self.expected, allowance=self.allowance, widest=widest)
        says = self.widest is not None or isinstance(self.expected, tuple) or high - low <= _TELLS * self.allowance
        return found if found != "agrees" or says else "cannot tell"

    def __str__(self) -> str:
        low, high = self.interval
        between = "" if low == high else f" [{low:.3g}, {high:.3g}]"
        return f"{self.what} {self.value:.3g}{between}"

    @property
    def wanted(self) -> str:
        if isinstance(self.expected, tuple):
            low, high = self.expected
            if high == np.inf:
                return f"at least {low:g}"
            return f"at most {high:g}" if low in (0.0, -np.inf) else f"{low:g} to {high:g}"
        return f"{self.expected:g}" + (f" +- {self.allowance:g}" if self.allowance else "")


def worst(findings: Sequence[Finding]) -> str:
    """The verdict on a claim that says several things."""
    return max((each.verdict for each in findings), key=VERDICTS.index)


def equal(what: str, difference: float, tolerance: float) -> Finding:
    """Two computations of one number, or a bound: the largest difference is at most the tolerance."""
    return Finding(what, difference, (difference, difference), (0.0, tolerance))


def exponent(what: str, sizes, per_seed, expected, seed: int = 0) -> Finding:
    """Of a power law over all sizes, by bootstrap over seeds (`fit.power_law`); the house's allowance and width."""
    law = fit.power_law(sizes, per_seed, seed=seed)
    return Finding(what, law.slope, law.interval, expected, fit.ALLOWANCE, fit.WIDEST)


def order(what: str, steps, errors, expected: float, allowance: float = 0.1) -> Finding:
    """Of convergence: least squares in log-log with its 95 % interval from the scatter about the line."""
    x, y = np.log(steps), np.log(errors)
    (slope, _), residual, *_ = np.polyfit(x, y, 1, full=True)
    freedom = len(x) - 2
    spread = np.sqrt(float(residual[0]) / freedom / ((x - x.mean()) ** 2).sum()) if len(residual) else 0.0
    half = float(stdtrit(freedom, 0.975) * spread)
    return Finding(what, float(slope), (float(slope) - half, float(slope) + half), expected, allowance, fit.WIDEST)


def mean(what: str, per_seed, expected, allowance: float = 0.0, widest: float | None = None) -> Finding:
    """Mean over seeds with its bootstrap interval."""
    values = np.asarray(per_seed, dtype=float)[:, None]
    low, high = fit.mean_interval(values)[:, 0]
    return Finding(what, float(values.mean()), (float(low), float(high)), expected, allowance, widest)


def median(what: str, per_seed, expected, allowance: float = 0.0) -> Finding:
    """Median over seeds with the interval of its order statistics, which holds that of the law in 95 % or more.

    P(at most k of S values are below the median) is binomial(S, 1/2), whatever the law. Raises InputError for fewer
    than six seeds, which have none.
    """
    values = np.sort(np.asarray(per_seed, dtype=float))
    below = int(binom.ppf(0.025, len(values), 0.5)) - 1  # P(at most this many) < 2.5 %
    if below < 0:
        raise InputError(f"an interval of a median from {len(values)} seeds; needed: six or more.")
    ends = float(values[below]), float(values[-1 - below])
    return Finding(what, float(np.median(values)), ends, expected, allowance)
