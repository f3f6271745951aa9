"""Ensembles: one network from many seeds, and what only many of them show: variance, average, laws of the output.

The variance over seeds is what width changes in either regime; averaging networks removes it: Geiger, Spigler, Jacot &
Wyart (arXiv 1906.08034), section 4. Intervals are 95 %, by the jackknife over seeds with Student's t: of the logarithm
where a number cannot be negative, as Miller (Ann. Math. Statist. 39, 1968) treats variances, so that few seeds do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import digamma, stdtrit
from tqdm.auto import tqdm

from . import _checks, _memory, initial, tangent
from .errors import InputError
from .fields import DataField
from .network import Network
from .population import Population, PopulationField
from .problems import Problem
from .simulation import simulate


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble:
    """What `ensemble` returns: S runs of one network on one problem.

    times : (T,) flow times
    seeds : (S,)
    predictions, test_predictions : (S, T, n), (S, T, m): the predictor F = f - f_0 of each seed
    records : name -> (S, T)
    particles : (S, N, 1 + d), at the last time
    """

    network: Network
    problem: Problem
    times: np.ndarray
    seeds: tuple[int, ...]
    predictions: np.ndarray
    test_predictions: np.ndarray
    records: dict[str, np.ndarray]
    particles: np.ndarray

    def __repr__(self) -> str:
        return (
            f"Ensemble({self.problem.name!r}, {self.network.activation.name}, {len(self.seeds)} seeds of "
            f"N={self.particles.shape[1]}, alpha={self.network.scaling.alpha:g}, t=0..{self.times[-1]:g})"
        )


class Estimate(NamedTuple):
    """An estimate at each time, (T,), and its 95 % interval over seeds, (2, T)."""

    value: np.ndarray
    interval: np.ndarray


def ensemble(
    network: Network,
    problem: Problem,
    start: int | Callable[[int], np.ndarray],
    times: Sequence[float] | np.ndarray,
    *,
    seeds: int | Sequence[int] = 20,
    progress: bool = False,
    **options: Any,
) -> Ensemble:
    """`simulate` from each seed's own particles, all to the same times.

    Parameters
    ----------
    network, problem, times : as for `simulate`
    start : int or seed -> particles (N, 1 + d)
        A number N: iid N(0, 1) particles, `initial.gaussian` with that seed. With pairs, another law, or a sequence of
        seeds that keeps studies apart: a function. All of one shape.
    seeds : int or sequence of whole numbers
        A number S: 0 to S - 1.
    progress : bool
        A bar over seeds on standard error, if that is a terminal.
    options : those of `simulate`: scheme, rtol, engine, record, ridge, temperature, ...
        Not `keep`, and no `stop`: the runs would not end at one time. With a temperature each seed gets noise of its
        own, from `noise_seed` plus the seed.

    Raises
    ------
    InputError
        On bad seeds, starts of different shapes, what `simulate` refuses, or if the memory does not suffice for all the
        results (before any particle is drawn, where their number is known).

    Cost: S runs, one after another: a run has the engine's threads to itself. Side by side, a seed a thread, 20 seeds
    of N = 16 to 1,024 took as long (0.15 to 0.36 s for 170 evaluations each on n = 30 points and two cores). All seeds
    in one pass of NumPy, which is not done, took about a twentieth of that at N = 16, 0.4 of it at N = 128, and more
    than it from N = 512 on: a tenth of a second to save.
    """
    if refused := sorted({"keep", "stop"} & set(options)):
        raise InputError(f"an ensemble takes no {' or '.join(refused)}: its runs end at the same times; use simulate.")
    _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
    _checks.instance(problem, Problem, "problem", "a Problem(inputs, targets), or one from `problems`")
    seeds, draw = _seeds(seeds), start if callable(start) else _iid(start, network.seen(problem.dim))
    noise_seed = _checks.count(options.pop("noise_seed", 0), "noise_seed", least=0)
    runs, shape = [], None if callable(start) else (start, 1 + network.seen(problem.dim))
    if shape is not None:
        _check_memory(problem, shape, times, seeds, options.get("max_bytes"))
    for seed in tqdm(seeds, unit="seed", disable=None if progress else True, leave=False):
        particles = draw(seed)
        if shape is None:
            shape = np.shape(particles)
            _check_memory(problem, shape, times, seeds, options.get("max_bytes"))
        if np.shape(particles) != shape:
            raise InputError(f"start gave particles {np.shape(particles)} for seed {seed}; needed: {shape} as before.")
        noise = noise_seed + seed if options.get("temperature") else noise_seed
        runs.append(simulate(network, problem, particles, times, keep="last", noise_seed=noise, **options))
    return Ensemble(
        network,
        problem,
        runs[0].times,
        seeds,
        np.array([run.predictions for run in runs]),
        np.array([run.test_predictions for run in runs]),
        {name: np.array([run.records[name] for run in runs]) for name in runs[0].records},
        np.array([run.particles[-1] for run in runs]),
    )


def _check_memory(problem, shape, times, seeds, max_bytes):
    """Refuse results of all runs that would not fit; each run is checked by `simulate`."""
    outputs = np.size(times) * (len(problem.targets) + len(problem.test_targets))
    # Twice: run by run, and then in one array; a run has masses too.
    needed = {"particles": 8.0 * shape[0] * (2 * shape[1] + 1), "predictions": 2 * 8.0 * outputs}
    what = f"an ensemble of {len(seeds)} seeds of {shape[0]} particles"
    needed = {name: len(seeds) * number for name, number in needed.items()}
    _memory.check(needed, what, "Use fewer seeds, particles or times", max_bytes)


def variance(ensemble: Ensemble) -> Estimate:
    """Variance of the predictor over seeds at each time, mean over test inputs; unbiased.

        Var F = 1/(S - 1) sum_s mean_k (F_s(x_k) - mean F(x_k))^2

    Geiger et al. (arXiv 1906.08034), eq. 16, with S - 1 for S. Its interval, of log Var F, is wide for few seeds: at 3
    a factor of several each way. Raises InputError for fewer than three seeds, or without a test set.
    """
    shares = variance_shares(_tests(ensemble, 3, "the interval of a variance"))
    seeds, value = len(shares), shares.mean(axis=0)
    # Without seed s the squares about the mean are less by its share: (S - 1) Var - share, over S - 2.
    return _positive(value, ((seeds - 1) * value - shares) / (seeds - 2))


def error(ensemble: Ensemble) -> Estimate:
    """Test risk of a network at each time, mean over seeds: mean_k (y_k - F_s(x_k))^2.

    With 5 seeds whose outputs go up and down together at all inputs the interval covers 84 %, elsewhere 90 to 98 %.
    Raises InputError for fewer than three seeds, or without a test set.
    """
    predictions = _tests(ensemble, 3, "the interval of an error")
    return _positive_mean(np.mean((ensemble.problem.test_targets - predictions) ** 2, axis=2))


def average_error(ensemble: Ensemble) -> Estimate:
    """Test risk of the average of infinitely many such networks at each time; unbiased, and so perhaps below 0.

        mean_k (y_k - E F(x_k))^2 = the mean over pairs of seeds s != s' of mean_k (y_k - F_s(x_k)) (y_k - F_s'(x_k))

    The average of the S networks themselves has Var F / S more, `error` has Var F more, `variance` for variance: three
    numbers for one identity. Raises InputError for fewer than three seeds, or without a test set.
    """
    shares = average_error_shares(_tests(ensemble, 3, "an error of the average"), ensemble.problem.test_targets)
    value, half = shares.mean(axis=0), _half_width(shares)
    return Estimate(value, np.array([value - half, value + half]))


def misclassified(ensemble: Ensemble) -> Estimate:
    """Share of test labels, +-1, that a network gets wrong at each time, mean over seeds.

        mean_k 1[y_k F_s(x_k) <= 0]

    Its interval is Student's over seeds, cut to [0, 1]; of no width where all seeds have one share. Raises InputError
    for fewer than three seeds, without a test set, or for targets that are no labels.
    """
    shares = _wrong(ensemble, _tests(ensemble, 3, "the interval of a share"))
    value, half = shares.mean(axis=0), _half_width(shares)
    return Estimate(value, np.clip([value - half, value + half], 0.0, 1.0))


def average_misclassified(ensemble: Ensemble) -> np.ndarray:
    """Share of test labels, +-1, that the average of these S networks gets wrong at each time: (T,).

    Of the S networks and not of infinitely many, which `average_error` is of: a share is no polynomial in the
    predictor, so that no unbiased estimate is to be had. Errors as of `misclassified`, but one seed will do.
    """
    _tests(ensemble, 1, "a share")
    return _wrong(ensemble, average(ensemble))


def _wrong(ensemble, predictions):
    targets = ensemble.problem.test_targets
    if not np.isin(targets, (-1.0, 1.0)).all():
        raise InputError("test targets are no labels; needed: +1 or -1 each, or `error` for other targets.")
    return np.mean(predictions * targets <= 0.0, axis=-1)


def average(ensemble: Ensemble) -> np.ndarray:
    """The ensemble-averaged predictor at the test inputs, (T, m)."""
    return ensemble.test_predictions.mean(axis=0)


def output_growth(ensemble: Ensemble) -> np.ndarray:
    """Root mean square of F / alpha over test inputs, for each seed and time: (S, T).

    In Geiger's f = h^(-1/2) sum_i a_i phi this is |f - f_0| / sqrt(h), with f_0 subtracted: the mean of the units,
    which grows in proportion to t at first and is of the order 1/alpha, whatever h, when the data are fitted: Geiger et
    al. (arXiv 1906.08034), appendix C.
    """
    outputs = _tests(ensemble, 1, "an output") / ensemble.network.scaling.alpha
    return np.sqrt(np.mean(outputs**2, axis=2))


def variance_shares(predictions: np.ndarray) -> np.ndarray:
    """Each seed's share of the unbiased variance over seeds, mean over the last axis: (S, ...) from (S, ..., m).

    The shares S/(S-1) mean_k (f_s - mean f)^2 have the variance as their mean, so that it is treated like any
    other mean over seeds. Raises InputError for one seed.
    """
    seeds = len(predictions)
    if seeds < 2:
        raise InputError(f"a variance over seeds of {seeds} seed; needed: two or more.")
    return seeds / (seeds - 1) * np.mean((predictions - predictions.mean(axis=0)) ** 2, axis=-1)


def average_error_shares(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Jackknife's pseudo-values of the error of the average: (S, ...) from (S, ..., m) and (m,).

    Their mean is the unbiased estimate U, over pairs of seeds; each is S U less S - 1 times the U without that seed,
    and varies as one term of a mean should. Raises InputError for fewer than three seeds.
    """
    seeds, residuals = len(predictions), targets - predictions
    if seeds < 3:
        raise InputError(f"an error of the average of {seeds} seeds; needed: three or more.")
    squares = np.mean(residuals**2, axis=-1)
    both, all_squares = residuals.sum(axis=0), squares.sum(axis=0)
    pairs = (np.mean(both**2, axis=-1) - all_squares) / (seeds * (seeds - 1))
    without = (np.mean((both - residuals) ** 2, axis=-1) - all_squares + squares) / ((seeds - 1) * (seeds - 2))
    return seeds * pairs - (seeds - 1) * without


def gaussian_kl(outputs: np.ndarray, reference: np.ndarray, *, unbiased: bool = False) -> float:
    """KL(P | Q) between Gaussians fitted over seeds to two ensembles' outputs, mean over inputs.

        KL = log(s_Q / s_P) + (s_P^2 + (m_P - m_Q)^2) / (2 s_Q^2) - 1/2

    with means m and unbiased variances s^2 over seeds, input by input. Golikov (arXiv 2006.06574) measures by it how
    near a limit P is to a reference network Q. Give `gaussian_kl_floor` beside it.

    Parameters
    ----------
    outputs, reference : (S, m), (S', m)
        One row a seed: `ensemble.test_predictions[:, j]`. The particles may be of other widths and scalings.
    unbiased : bool
        Less what the estimated moments add, exactly in mean for Gaussian outputs: the floor is then 0, and a value
        may be negative. Needs S' >= 4.

    Raises
    ------
    InputError
        On shapes that do not fit, one seed, or outputs that are all the same at some input.
    """
    moments = []
    for each, what in ((outputs, "outputs"), (reference, "reference")):
        each = _checks.array(each, what, 2, "an array (seeds, inputs)")
        if len(each) < 2:
            raise InputError(f"{what} is of {len(each)} seed; needed: two or more, for a variance.")
        moments.append((each.mean(axis=0), each.var(axis=0, ddof=1)))
        if not moments[-1][1].all():
            raise InputError(f"{what} are all the same at some input, so that no Gaussian has a density there.")
    (mean_p, variance_p), (mean_q, variance_q) = moments
    if len(mean_p) != len(mean_q):
        raise InputError(f"outputs at {len(mean_p)} inputs, reference at {len(mean_q)}; needed: the same inputs.")
    ratios, logs = variance_p / variance_q, np.log(variance_q / variance_p)
    shifts = (mean_p - mean_q) ** 2 / variance_q
    if unbiased:
        s, r = len(outputs), _checks.count(len(reference), "the number of reference seeds", least=4)
        ratios, logs = (r - 3) / (r - 1) * ratios, logs - _log_bias(r) + _log_bias(s)
        shifts = (r - 3) / (r - 1) * shifts - ratios / s - 1.0 / r
    return float(0.5 * (logs + ratios + shifts - 1.0).mean())


def _log_bias(seeds):
    """E log(s^2 / sigma^2) of the unbiased variance s^2 of so many Gaussian seeds."""
    return digamma((seeds - 1) / 2) - np.log((seeds - 1) / 2)


def gaussian_kl_floor(seeds: int, reference_seeds: int) -> float:
    """Mean of `gaussian_kl` between two samples of one Gaussian law, S and S' seeds: what it shows of no difference.

        1/2 [ psi(S'/2 - 1/2) - log(S'/2 - 1/2) - psi(S/2 - 1/2) + log(S/2 - 1/2)
              + (1 + 1/S + 1/S') (S' - 1) / (S' - 3) - 1 ]

    by E log chi2_k = psi(k/2) + log 2, E 1/chi2_k = 1/(k - 2). Raises InputError unless S >= 2 and S' >= 4.
    """
    s, r = _checks.count(seeds, "seeds", least=2), _checks.count(reference_seeds, "reference_seeds", least=4)
    return float(0.5 * (_log_bias(r) - _log_bias(s) + (1.0 + 1.0 / s + 1.0 / r) * (r - 1) / (r - 3) - 1.0))


def preactivation_speed(
    network: Network, problem: Problem, particles: np.ndarray, masses: np.ndarray | None = None
) -> float:
    """Root mean square of dz/dt at the start of the flow, over particles and training inputs; z_ik = w_i . x_k.

    Of the order 1/alpha: Geiger et al. (arXiv 1906.08034), appendix D, for learning f - f_0, whose pull is y at t = 0.
    Per unit of flow time; inputs as the units see them, a bias among them. Cost: a velocity and N n d.
    """
    if isinstance(problem, Population):
        field = PopulationField(network, problem, particles, masses)
    else:
        field = DataField(network, problem, particles, masses)
    velocity = field.engine.unpack(field.gradient_velocity(field.state(particles)), field.n_particles)
    speeds = velocity[:, 1:] @ network.inputs(problem.inputs).T
    return float(np.sqrt(field.masses @ speeds**2 @ problem.weights))


def kernel_diagonals(
    network: Network, draw: int | Callable[[int], np.ndarray], inputs: np.ndarray, seeds: int | Sequence[int]
) -> np.ndarray:
    """K(x, x) at initialisation for each seed and input, (S, n). `draw` as `start` of `ensemble`. Cost O(S n^2 N)."""
    inputs = _checks.array(inputs, "inputs", 2, "an array (n, d)")
    draw = draw if callable(draw) else _iid(draw, network.seen(inputs.shape[1]))
    return np.array([np.diag(tangent.kernel(network, draw(seed), inputs)) for seed in _seeds(seeds)])


def kernel_ratio_shares(kernels: np.ndarray) -> np.ndarray:
    """Each seed's share of E K^2 / (E K)^2 - 1, mean over entries: (S,) from entries of the kernel (S, n).

        S/(S - 1) (K_s - mean K)^2 / ((mean K)^2 - Var K / S)

    By Seleznova & Kutyniok (MSML 2021) the ratio tells whether the NTK at initialisation is deterministic: for depth L
    and width M it is a function of L/M, here 1/N times a constant. Raises InputError for one seed, or a mean near 0.
    """
    kernels = _checks.array(kernels, "kernels", 2, "an array (seeds, entries)")
    shares = variance_shares(kernels[:, :, None])
    squares = kernels.mean(axis=0) ** 2 - shares.mean(axis=0) / len(kernels)
    if squares.min() <= 0.0:
        raise InputError("the mean of a kernel entry is within its error of 0; needed: more seeds, or the diagonal.")
    return (shares / squares).mean(axis=1)


def _seeds(seeds):
    listed = range(_checks.count(seeds, "seeds")) if isinstance(seeds, int | np.integer) else seeds
    try:
        listed = tuple(_checks.count(seed, "a seed", least=0) for seed in listed)
    except TypeError:
        raise InputError(f"seeds is {seeds!r}; needed: a number of seeds, or the seeds.") from None
    if len(set(listed)) != len(listed) or not listed:
        raise InputError(f"seeds are {list(listed)}; needed: one or more, each once.")
    return listed


def _iid(n_particles, width):
    if np.ndim(n_particles):
        raise InputError(
            f"start is an array {np.shape(n_particles)}, the same for each seed; needed: a number of particles, or a "
            "function from a seed to particles, such as lambda seed: initial.gaussian(N, dim, seed)."
        )
    n_particles = _checks.count(n_particles, "start")
    return lambda seed: initial.gaussian(n_particles, width, seed)


def _tests(ensemble, least, what):
    """Test predictions (S, T, m) of an ensemble that has enough of them."""
    _checks.instance(ensemble, Ensemble, "ensemble", "what `ensemble` returns")
    seeds, _, tests = ensemble.test_predictions.shape
    if tests == 0:
        raise InputError(f"{what} is over test inputs, and the problem has none; needed: a problem with a test set.")
    if seeds < least:
        raise InputError(f"{what} of an ensemble of {seeds} seeds; needed: {least} or more.")
    return ensemble.test_predictions


def _half_width(values):
    """Of the 95 % interval of a mean over seeds, by Student's t with S - 1 degrees of freedom: (T,) from (S, T)."""
    return stdtrit(len(values) - 1, 0.975) * values.std(axis=0, ddof=1) / np.sqrt(len(values))


def _positive(value, without):
    """Estimate of a number above 0 from its values without each seed, (S, T): log value +- t times jackknife's error.

    Where a value without some seed is 0, within rounding, nothing is known but the sign: from 0 to infinity. Where all
    are, as at t = 0 of F = f - f_0, so is the interval.
    """
    known = without.min(axis=0) > 1e-12 * value
    logs = np.log(np.where(known, without, 1.0))
    factor = np.where(known, np.exp((len(without) - 1) * _half_width(logs)), np.inf)
    upper = np.where(value > 0.0, value * np.where(value > 0.0, factor, 1.0), 0.0)
    return Estimate(value, np.array([value / factor, upper]))


def _positive_mean(values):
    """`_positive` of a mean over seeds of numbers that are not negative, (S, T)."""
    mean = values.mean(axis=0)
    return _positive(mean, (len(values) * mean - values) / (len(values) - 1))
