"""What holds exactly along a flow, as residuals: the balance of energy, the weak form, convexity in the law.

A run that follows the gradient flow has residuals of the size of its integrator's error; anything else shows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import CubicSpline

from . import _checks
from .errors import InputError
from .fields import DataField
from .network import Network
from .population import Population, PopulationField
from .problems import Problem
from .runs import Run
from .transport import interpolate

if TYPE_CHECKING:
    from .trajectories import Trajectory


@dataclass(frozen=True, eq=False, repr=False)
class Balance:
    """A change along a run and what the flow says of it, both since the first time, (T,).

    times : flow times
    change : of the quantity itself, from the particles at these times
    integral : of its rate, from their velocities, over time
    error : of the integral, estimated: what it differs by from that of every other time. Where it is not small against
        the change the run was recorded too rarely for its integral to mean anything
    """

    times: np.ndarray
    change: np.ndarray
    integral: np.ndarray
    error: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """change - integral, (T,): zero but for the integrator, and the integral over the recorded times, `error`."""
        return self.change - self.integral

    def __repr__(self) -> str:
        return (
            f"Balance({len(self.times)} times to t={self.times[-1]:g}: change {self.change[-1]:.4g}, largest residual "
            f"{np.abs(self.residual).max():.2g}, of which the integral's own {self.error.max():.2g})"
        )


def energy_balance(run: "Run | Trajectory") -> Balance:
    """Of R = 2 E l along a run, against what its particles dissipate.

        dR/dt = -2 alpha^2 sum_i m_i (|da_i/dt|^2 / xi_a + |dw_i/dt|^2 / xi_w)

    The integral over the recorded times is that of a cubic spline, of order 4 in their distance; its error is estimated
    (`Balance.error`), and large where few times were recorded.

    Parameters
    ----------
    run : of `simulate` with keep="all", without ridge, noise, momentum or batches
        Any loss. `Run` does not remember these four: with them the residual is what they add.

    Raises
    ------
    InputError
        Where not all particles at four or more times were kept, or the first is not t = 0.

    Cost: a prediction and a velocity for each recorded time, one in memory.
    """
    field = _field(run)
    scaling, (risks, rates) = run.network.scaling, np.empty((2, len(run.times)))
    # A layer of mobility 0 does not move, and dissipates nothing.
    inverse = [1.0 / xi if xi else 0.0 for xi in (scaling.mobility_a, scaling.mobility_w)]
    for j, particles in enumerate(run.particles):
        state = field.state(particles)
        squares = _velocity(field, state) ** 2
        rates[j] = run.masses @ (inverse[0] * squares[:, 0] + inverse[1] * squares[:, 1:].sum(axis=1))
        risks[j] = 2.0 * field.loss(state, field.predict(state))
    return Balance(run.times, risks - risks[0], *_integrals(run.times, -2.0 * scaling.alpha**2 * rates))


def weak_form(run: "Run | Trajectory", test_function: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Balance:
    """Of int g dmu along a run, against the weak form of the distributional dynamics.

        d/dt int g dmu_t = int grad g . v[mu_t] dmu_t

    The law moves with its particles, whose masses stay: Mei, Misiakiewicz & Montanari (arXiv 1902.06015), eq. (DD).

    Parameters
    ----------
    run : as for `energy_balance`
    test_function : particles (N, 1 + d) -> g (N,) and its gradient (N, 1 + d)
    """
    field = _field(run)
    means, rates = np.empty((2, len(run.times)))
    for j, particles in enumerate(run.particles):
        values, gradients = _with_gradient(test_function, particles)
        if np.shape(values) != (len(particles),) or np.shape(gradients) != particles.shape:
            raise InputError(
                f"test_function gave shapes {np.shape(values)} and {np.shape(gradients)} for particles "
                f"{particles.shape}; needed: g at each, and its gradient."
            )
        means[j] = run.masses @ values
        rates[j] = run.masses @ (gradients * _velocity(field, field.state(particles))).sum(axis=1)
    return Balance(run.times, means - means[0], *_integrals(run.times, rates))


def _with_gradient(test_function, particles):
    """What a test function gives, if that is a pair."""
    given = test_function(particles)
    if not isinstance(given, tuple | list) or len(given) != 2:
        what = "an array" if isinstance(given, np.ndarray) else repr(given)
        raise InputError(f"test_function gave {what}; needed: a pair, g (N,) and its gradient (N, 1 + d).")
    return given


def mixture_gap(
    network: Network,
    problem: Problem,
    a: np.ndarray,
    b: np.ndarray,
    share: float,
    masses_a: np.ndarray | None = None,
    masses_b: np.ndarray | None = None,
) -> tuple[float, float]:
    """What the risk of a mixture falls short of the mixed risks, and what it must: two numbers, equal.

        (1 - s) R(mu) + s R(nu) - R((1 - s) mu + s nu) = s (1 - s) E (f_mu - f_nu)^2 >= 0,   s = share

    R is convex in the law, f being linear in it. The first is from three risks, the mixture a cloud of all the
    particles; the second from the difference of two predictions.

    Parameters
    ----------
    a, b : (N, 1 + d), (M, 1 + d)
    share : float from 0 to 1
    masses_a, masses_b : (N,), (M,), optional

    R is that of f, not of f - f_0. Raises InputError where the problem is a `Population`, or on what does not fit.
    """
    share = _share(share)
    a, b = network.particles(a, problem.dim), network.particles(b, problem.dim)
    masses_a, masses_b = _checks.masses(masses_a, len(a), "masses_a"), _checks.masses(masses_b, len(b), "masses_b")
    mixed = np.concatenate([(1.0 - share) * masses_a, share * masses_b])
    outputs = _outputs(network, problem, a, masses_a), _outputs(network, problem, b, masses_b)
    mixture = _outputs(network, problem, np.concatenate([a, b]), mixed)
    short = _shortfall(problem, share, *outputs, mixture)
    return short, float(share * (1.0 - share) * (problem.weights @ (outputs[0] - outputs[1]) ** 2))


def geodesic_gap(network: Network, problem: Problem, a: np.ndarray, b: np.ndarray, share: float) -> float:
    """(1 - s) R(mu) + s R(nu) - R(mu_s) on the W2 geodesic from mu to nu, N equal atoms each: of either sign.

    Below 0 R is not convex along it. Atoms (a, w) = (1, 1) and (-1, -1) of the bilinear neuron are one function, and
    half way between them is the function 0. Raises InputError as `mixture_gap` and `transport.interpolate`.
    """
    share = _share(share)
    clouds = (network.particles(each, problem.dim) for each in (a, b, interpolate(a, b, share)))
    return _shortfall(problem, share, *(_outputs(network, problem, each, None) for each in clouds))


def _share(share):
    share = _checks.number(share, "share", least=0.0)
    if share > 1.0:
        raise InputError(f"share is {share:g}; needed: a number from 0 to 1.")
    return share


def _outputs(network, problem, particles, masses):
    """f at the training inputs, without any shift."""
    if isinstance(problem, Population):
        raise InputError("convexity is looked at on data; given: a Population.")
    field = DataField(network, problem, particles, masses)
    return field.predict(field.state(particles)) + field.offset


def _shortfall(problem, share, first, second, between):
    risks = [problem.weights @ (problem.targets - outputs) ** 2 for outputs in (first, second, between)]
    return float((1.0 - share) * risks[0] + share * risks[1] - risks[2])


def _field(run):
    """The flow that the run followed."""
    everything = getattr(run, "start_masses", run.masses)  # a run on file has the masses of the kept rows beside them
    wanted = (len(run.times), len(everything))
    if run.particles.shape[:2] != wanted or len(run.times) < 4 or run.times[0] != 0.0:
        raise InputError(
            f"the run kept particles {run.particles.shape} of {wanted[1]} at {wanted[0]} times from t = "
            f"{run.times[0]:g}; needed: all, keep='all', at four or more times from t = 0."
        )
    kind = PopulationField if isinstance(run.problem, Population) else DataField
    return kind(run.network, run.problem, run.particles[0], run.masses)


def _velocity(field, state):
    return field.engine.unpack(field.gradient_velocity(state), field.n_particles)


def _integrals(times, rates):
    """Of the cubic spline through the rates, from the first time to each; how far that of every other rate is off."""
    some = np.r_[np.arange(0, len(times) - 1, 2), len(times) - 1]
    splines = [CubicSpline(times[rows], rates[rows]).antiderivative() for rows in (slice(None), some)]
    full, rough = (spline(times) - spline(times[0]) for spline in splines)
    return full, np.abs(full - rough)
