"""Diagnostics: a snapshot of a run, and the run's first one, to a number. A new one is a function and an entry."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.spatial import KDTree
from scipy.special import digamma, gammaln

from . import _checks, population, tangent
from .errors import InputError
from .fields import energy
from .network import Network
from .population import Population
from .problems import Problem


@dataclass(frozen=True)
class Snapshot:
    """A run at one time.

    time : flow time
    particles, masses : (N, 1 + d), (N,)
        The particles come from the engine, a device perhaps, when they are first asked for.
    predictions, test_predictions : (n,), (m,)
        The predictor F = f - f_0 at the training and test inputs.
    fetch : () -> particles
    """

    network: Network
    problem: Problem
    time: float
    masses: np.ndarray
    predictions: np.ndarray
    test_predictions: np.ndarray
    fetch: Callable[[], np.ndarray] = field(repr=False)

    @cached_property
    def particles(self) -> np.ndarray:
        return self.fetch()

    @cached_property
    def kernel(self) -> np.ndarray:
        """Tangent kernel at the training inputs, (n, n); computed once."""
        return tangent.kernel(self.network, self.particles, self.problem.inputs, masses=self.masses)


def risk(now: Snapshot, start: Snapshot) -> float:
    """R = sum_k p_k (y_k - F(x_k))^2 at the training inputs (no 1/2); of a `Population` E (f* - F)^2."""
    if isinstance(now.problem, Population):
        offset = (start.particles, start.masses) if now.network.scaling.offset else None
        return population.risk(now.network, now.problem, now.particles, now.masses, offset)
    return float(now.problem.weights @ (now.problem.targets - now.predictions) ** 2)


def loss(now: Snapshot, start: Snapshot) -> float:
    """sum_k p_k l(F(x_k), y_k); half the risk for the square loss."""
    if isinstance(now.problem, Population):
        return 0.5 * risk(now, start)
    return float(now.problem.weights @ now.problem.loss.value(now.predictions, now.problem.targets))


def test_risk(now: Snapshot, start: Snapshot) -> float:
    """Mean of (y - F)^2 at the test inputs; NaN without a test set."""
    if len(now.test_predictions) == 0:
        return float("nan")
    return float(np.mean((now.problem.test_targets - now.test_predictions) ** 2))


def train_error(now: Snapshot, start: Snapshot) -> float:
    """Share of training weight whose target has another sign than F."""
    return float(now.problem.weights @ (np.sign(now.predictions) != np.sign(now.problem.targets)))


def test_error(now: Snapshot, start: Snapshot) -> float:
    """Share of test inputs whose target has another sign than F; NaN without a test set."""
    if len(now.test_predictions) == 0:
        return float("nan")
    return float(np.mean(np.sign(now.test_predictions) != np.sign(now.problem.test_targets)))


def kernel_drift(now: Snapshot, start: Snapshot) -> float:
    """norm(K_t - K_0) / norm(K_0) at the training inputs. Cost O(n^2 N) each time it is recorded."""
    return tangent.drift(now.kernel, start.kernel)


def displacement(now: Snapshot, start: Snapshot) -> float:
    """Root mean square distance of the particles from where they started, sqrt(sum_i m_i |theta_i - theta_i(0)|^2)."""
    return float(np.sqrt(now.masses @ ((now.particles - start.particles) ** 2).sum(axis=1)))


def entropy(particles: np.ndarray) -> tuple[float, float]:
    """-int log mu dmu of the law that particles (N, D) were drawn from, by nearest neighbours, and its standard error.

        H = psi(N) - psi(1) + log V_D + (D / N) sum_i log r_i,   r_i the distance to the nearest other particle

    Kozachenko & Leonenko (1987). The bias is of order N^(-2/D) and not in the standard error, which takes the terms
    as independent. Raises InputError where two particles are equal. Cost O(N log N).
    """
    terms = _entropy_terms(_checks.array(particles, "particles", 2, "an array (N, D)"))
    return float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(len(terms)))


def _entropy_terms(particles):
    """What each particle adds: their mean is the entropy."""
    number, width = particles.shape
    if number < 3:
        raise InputError(f"an entropy from {number} particles; needed: three or more.")
    distances = KDTree(particles).query(particles, k=2)[0][:, 1]
    if not distances.all():
        raise InputError("two particles are equal, so that their law has no density; needed: particles that differ.")
    ball = width / 2 * np.log(np.pi) - gammaln(width / 2 + 1)
    return digamma(number) - digamma(1) + ball + width * np.log(distances)


def free_energy(run: Any, index: int = -1, *, temperature: float, ridge: float = 0.0) -> tuple[float, float]:
    """E l / alpha^2 + (lambda / 2) mean |theta|^2 - tau H at one time of a run, H by `entropy`; its standard error.

    What the law goes down with noise of temperature tau; R / (2 alpha^2) is its first part for the square loss. Mei,
    Montanari & Nguyen (arXiv 1804.06561), section 3. Needs all particles, at that time, of equal masses. The error is
    that of a mean over independent particles, of what each adds: of E l its first variation (nothing for a
    `Population`). The entropy's bias, of order N^(-2/D), is not in it.

    Raises InputError where the run kept something else, or on numbers that do not fit.
    """
    temperature, ridge = (
        _checks.number(each, what, least=0.0) for each, what in ((temperature, "temperature"), (ridge, "ridge"))
    )
    if not hasattr(run, "masses") or not hasattr(run, "particles"):
        raise InputError(f"the free energy of {type(run).__name__}; needed: a Run, from `simulate`.")
    shape, masses, problem = run.particles.shape, run.masses, run.problem
    if shape[:2] != (len(run.times), len(masses)) or not np.allclose(masses, 1.0 / len(masses), rtol=1e-12):
        raise InputError(
            f"the run kept particles {shape} of {len(masses)} at {len(run.times)} times; needed: all, keep='all', of "
            "equal masses."
        )
    if not -len(run.times) <= index < len(run.times):
        raise InputError(f"index is {index}; needed: below {len(run.times)}, the number of times.")
    particles, predictions = run.particles[index], run.predictions[index]
    if isinstance(problem, Population):
        offset = (run.particles[0], masses) if run.network.scaling.offset else None
        if offset and run.times[0] != 0.0:
            raise InputError(
                f"the run begins at t = {run.times[0]:g}; needed: t = 0 among its times, for f_0 of the shift."
            )
        mean_loss = 0.5 * population.risk(run.network, problem, particles, masses, offset)
    else:
        mean_loss = problem.weights @ problem.loss.value(predictions, problem.targets)
    terms, squares, alpha = _entropy_terms(particles), (particles**2).sum(axis=1), run.network.scaling.alpha
    value = energy(mean_loss, squares.mean(), alpha, ridge) - temperature * terms.mean()
    added = ridge / 2 * squares - temperature * terms
    if not isinstance(problem, Population):
        pull = problem.weights * problem.loss.pull(predictions, problem.targets)
        units = run.network.activation.formula(particles[:, 1:] @ run.network.inputs(problem.inputs).T)[0]
        added = added - particles[:, 0] * (units @ pull) / alpha
    return float(value), float(added.std(ddof=1) / np.sqrt(len(added)))


def t_half(times: np.ndarray, risks: np.ndarray | None = None, share: float = 0.5) -> float:
    """First time at which the risk has fallen to `share` of what it was at first; NaN if it does not.

    Between two times log R is taken as linear, which is exact for exponential decay (R itself where it reaches 0).

    Parameters
    ----------
    times, risks : (T,)
        Of a run: `run.times` and `run.records["risk"]`. Beginning at t = 0, or the share is of another risk.
    share : float
        Between 0 and 1.

    Raises InputError without risks, on shapes that do not fit, a negative risk, or one of 0 at first.
    """
    if risks is None:
        raise InputError(
            "t_half is of times and of the risks at these; needed: t_half(run.times, run.records['risk']), of a run "
            "with record=['risk']."
        )
    times = _checks.times(times)
    risks, share = _checks.array(risks, "risks", 1, "a risk for each time"), _checks.number(share, "share", above=0.0)
    if len(risks) != len(times) or risks.min() < 0.0 or risks[0] == 0.0 or share >= 1.0:
        raise InputError(
            f"{len(times)} times, {len(risks)} risks from {risks[0]:g} with minimum {risks.min():g}, share {share:g}; "
            "needed: as many, none negative, the first positive, and a share below 1."
        )
    level = share * risks[0]
    below = np.flatnonzero(risks <= level)
    if len(below) == 0:
        return float("nan")
    k = below[0]
    before, after = risks[k - 1], risks[k]
    if after > 0.0:
        before, after, level = np.log([before, after, level])
    return float(times[k - 1] + (times[k] - times[k - 1]) * (before - level) / (before - after))


DIAGNOSTICS = {
    each.__name__: each for each in (risk, loss, test_risk, train_error, test_error, kernel_drift, displacement)
}
