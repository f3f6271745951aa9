"""The mean-field limit: the distributional dynamics solved from the law mu_0 along its characteristics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _checks, initial
from ..activations import ACTIVATIONS
from ..errors import ConvergenceError, InputError
from ..initial import GaussianLaw, Quadrature
from ..network import Network
from ..problems import Problem
from ..runs import Run
from ..simulation import simulate


@dataclass(frozen=True, eq=False, repr=False)
class MeanFieldLimit:
    """The predictor of the limit, and tracers carried by its field.

    times : (T,)
    predictions, test_predictions : (T, n), (T, m)
    tracers : (T, M, 1 + d), particles of mass zero carried along
    error : (T,)
        Root mean square over the test inputs (without any, the training inputs) of the difference to an
        independent second rule of the same size (Sobol: on average sqrt(2) times the error of either) or one with
        twice the nodes (Gauss-Hermite, where the true error was up to 2.7 times this; a rule of your own).
        Quadrature only: both rules share the integrator's tolerance. NaN for a given `Quadrature`.
    rule : what was integrated, in words; n_nodes : its size, 0 for a closed form
    """

    network: Network
    problem: Problem
    times: np.ndarray
    predictions: np.ndarray
    test_predictions: np.ndarray
    tracers: np.ndarray
    error: np.ndarray
    rule: str
    n_nodes: int

    def __repr__(self) -> str:
        known = f"error of f {self.error.max():.1e}" if np.isfinite(self.error).all() else "error of f not known"
        return (
            f"MeanFieldLimit({self.problem.name!r}, {self.network.activation.name}, t=0..{self.times[-1]:g}, "
            f"{self.rule}, {known})"
        )


def mean_field(
    network: Network,
    problem: Problem,
    law: GaussianLaw | None,
    times: Sequence[float] | np.ndarray,
    *,
    n_nodes: int = 32768,
    rule: str | Quadrature | Callable[[int], Quadrature] = "auto",
    seed: int = 0,
    tracers: np.ndarray | None = None,
    tolerance: float | None = None,
    max_nodes: int = 2**20,
    **options,
) -> MeanFieldLimit:
    """Solve the distributional dynamics from mu_0: quadrature nodes move along the characteristics, masses stay.

        d_t mu = -div(mu v[mu]),  v = (1/alpha) sum_k p_k u_k grad_theta s(x_k; theta),  u = y - int s dmu_t

    Mei, Misiakiewicz & Montanari (arXiv 1902.06015), eq. (DD); weights stay and atoms move because the equation is
    one of transport.

    Parameters
    ----------
    network : with alpha = O(1)
    law : GaussianLaw
        mu_0, a law and not a sample. Not read with a rule of your own.
    times : increasing flow times
    n_nodes : int
        At least so many; rounded up to a power of two (Sobol) or to order^(1 + d) (Gauss-Hermite).
    rule : "auto", "sobol", "paired sobol", "gauss-hermite", a function or an `initial.Quadrature`
        "auto": Gauss-Hermite where 1 + d = 2 and the activation is a built-in one but relu, else Sobol. (At 1 + d = 3
        and 32,768 nodes the errors of f were 6e-4 and 4e-5.) "paired sobol": nodes (a, w), (-a, w), so that f_0 = 0.
        A law of your own: a function n_nodes -> Quadrature with about so many nodes, or the nodes and masses
        themselves, of which no error is known.
    seed : int
        Of the Sobol scrambles: 2 seed for the rule, 2 seed + 1 for its check.
    tracers : (M, 1 + d), optional
        Particles of mass zero to be carried by the limit's field (coupled copies, fresh samples). They take part in
        the choice of step sizes, so they move `predictions` within the integrator's tolerance.
    tolerance : float, optional
        Double the nodes until the error estimate is below it.
    max_nodes : int
        Where the doubling stops.
    options : for `simulate`: scheme, rtol, atol, dt, engine, dtype, max_steps, max_bytes, ridge, momentum, progress

    Raises
    ------
    InputError
        On arguments that do not fit.
    ConvergenceError
        If `tolerance` is not met with `max_nodes`; says what was reached.

    Cost: two runs of `simulate` with n_nodes particles, one of them with the tracers.
    """
    times = _checks.times(times)
    _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
    _checks.instance(problem, Problem, "problem", "a Problem, e.g. from `problems`")
    if own := sorted({"keep", "masses", "record", "stop", "batches"} & options.keys()):
        raise InputError(
            f"mean_field does not take {', '.join(own)}: it sets keep, masses and record itself, and two rules must "
            "run alike. Use `simulate` on a quadrature rule instead."
        )
    if options.get("temperature"):
        raise InputError(
            f"mean_field got temperature {options['temperature']!r}; needed: none, nodes of a rule follow no noise. "
            "Use limits.grid (one input dimension), limits.exact.linear, or `simulate` with many particles."
        )
    build = _builder(network, problem, law, rule)
    n_nodes, max_nodes = _checks.count(n_nodes, "n_nodes"), _checks.count(max_nodes, "max_nodes")
    if tolerance is not None:
        tolerance = _checks.number(tolerance, "tolerance", above=0.0)
        if isinstance(rule, tuple):
            raise InputError("a given Quadrature cannot be refined to a tolerance; needed: a function of n_nodes.")
    while True:
        main, check, words = build(law, n_nodes, _checks.count(seed, "seed", least=0))
        run = _carry(network, problem, main, times, tracers, options)
        error = (
            np.full(len(times), np.nan)
            if check is None
            else _distance(run, _carry(network, problem, check, times, None, options))
        )
        if tolerance is None or error.max() <= tolerance:
            break
        if 2 * n_nodes > max_nodes:
            raise ConvergenceError(
                f"the mean-field limit is known to {error.max():.1e} with {words}; needed: {tolerance:.1e}. "
                "Raise max_nodes or the tolerance."
            )
        n_nodes *= 2
    carried = run.particles if tracers is not None else np.empty((len(times), 0, main.nodes.shape[1]))
    return MeanFieldLimit(
        network, problem, times, run.predictions, run.test_predictions, carried, error, words, len(main.masses)
    )


def _builder(network, problem, law, rule) -> Callable[..., Any]:
    """What makes (rule, its check or None, words) from (law, n_nodes, seed)."""
    if isinstance(rule, tuple):
        given = _quadrature(rule)
        return lambda law, n_nodes, seed: (given, None, f"{len(given.masses)} given nodes")
    if callable(rule):
        return lambda law, n_nodes, seed: _own(rule, n_nodes)
    check_law(network, problem, law)
    if rule == "auto":
        rule = "gauss-hermite" if 1 + law.dim == 2 and network.activation in _SMOOTH else "sobol"
    build = _checks.find(_RULES, rule, "rule")
    if not callable(build):
        raise InputError(f"rule is {rule!r}; needed: one of auto, {', '.join(_RULES)}, a function or a Quadrature.")
    return build


def _distance(run, second):
    """Root mean square of the difference of two predictors, (T,)."""
    if len(run.problem.test_targets):
        difference = run.test_predictions - second.test_predictions
    else:
        difference = run.predictions - second.predictions
    return np.sqrt(np.mean(difference**2, axis=1))


def check_law(network: Network, problem: Problem, law: GaussianLaw | None) -> None:
    """Refuse a law that is not one of particles for these inputs."""
    seen = network.seen(problem.dim)
    if not isinstance(law, GaussianLaw) or law.dim != seen:
        words = "the inputs' dimension and one for the bias" if network.bias else "the inputs' dimension"
        given = f"an array {law.shape}" if isinstance(law, np.ndarray) else repr(law)
        raise InputError(
            f"law is {given}; needed: a GaussianLaw of dim {seen}, {words}. (limits.mean_field takes others as rule=.)"
        )


def _carry(network, problem, quadrature: Quadrature, times, tracers, options) -> Run:
    start, masses = quadrature
    if tracers is not None:
        start = np.concatenate([start, network.particles(tracers, problem.dim)])
        masses = np.concatenate([masses, np.zeros(len(tracers))])
    keep = "last" if tracers is None else slice(len(quadrature.masses), None)
    return simulate(network, problem, start, times, masses=masses, keep=keep, **options)


def _sobol(law, n_nodes, seed):
    power = 1 << (n_nodes - 1).bit_length()
    words = f"{power} scrambled Sobol nodes"
    return initial.sobol(law, power, 2 * seed), initial.sobol(law, power, 2 * seed + 1), words


def _paired_sobol(law, n_nodes, seed):
    power = max(2, 1 << (n_nodes - 1).bit_length())
    both = (initial.sobol(law, power, 2 * seed + k, paired=True) for k in (0, 1))
    return *both, f"{power} paired Sobol nodes"


def _quadrature(given):
    if not isinstance(given, tuple) or len(given) != 2:
        raise InputError(f"rule gave {type(given).__name__}; needed: a Quadrature, nodes (M, 1 + d), masses (M,).")
    nodes = _checks.particles(given[0])
    return Quadrature(nodes, _checks.masses(given[1], len(nodes), "masses of the rule"))


def _own(rule, n_nodes):
    """A user's rule, and its check with twice the nodes."""
    found = []
    for number in (n_nodes, 2 * n_nodes):
        found.append(_quadrature(rule(number)))
    if len(found[0].masses) >= len(found[1].masses):
        raise InputError(
            f"rule gave {len(found[0].masses)} nodes for {n_nodes} and {len(found[1].masses)} for {2 * n_nodes}; "
            "needed: more, for the error is their difference. Give the Quadrature itself, whose error is not known."
        )
    return *found, f"{len(found[0].masses)} nodes of the given rule"


def _gauss_hermite(law, n_nodes, seed):
    width = 1 + law.dim
    order = max(2, int(np.ceil(n_nodes ** (1 / width) - 1e-9)))
    finer = max(order + 1, int(np.ceil((2 * n_nodes) ** (1 / width) - 1e-9)))
    words = f"{order}^{width} Gauss-Hermite nodes"
    return initial.gauss_hermite(law, order), initial.gauss_hermite(law, finer), words


_SMOOTH = [each for each in ACTIVATIONS.values() if each.name != "relu"]
_RULES = {"sobol": _sobol, "paired sobol": _paired_sobol, "gauss-hermite": _gauss_hermite}
