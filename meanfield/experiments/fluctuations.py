"""Claims about many seeds: variance over widths and data, growth of the output, kernels and Golikov's distances.

Each function measures one claim and gives a `Sweep` for each exponent in it, the mean over seeds against a size with
theory's exponent; `golikov_kl` gives distances. `quick`: fewer seeds and sizes, wider intervals, under five seconds on
one core; in full under twenty. The problem is a teacher in d = 3 with n = 30 unless said.
"""

from dataclasses import dataclass

import numpy as np

from .. import ensembles, fit, initial, problems, tangent, transport
from ..diagnostics import t_half
from ..fields import DataField
from ..network import Network
from ..problems import Problem
from ..scaling import Scaling
from ..simulation import simulate

LAZY = 100.0  # alpha at which features hardly move, for widths to some thousand


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """A quantity against a size.

    over : what the size is; sizes : (W,); per_seed : (S, W), a row a seed
    law : power law of the mean over seeds; theory : its exponent as claimed
    """

    over: str
    sizes: np.ndarray
    per_seed: np.ndarray
    law: fit.PowerLaw
    theory: float

    @property
    def verdict(self) -> str:
        """ "agrees", "differs" or "cannot tell"."""
        return self.law.verdict(self.theory)

    def __repr__(self) -> str:
        low, high = self.law.interval
        return f"Sweep({self.over}: {self.law.slope:.3f} [{low:.3f}, {high:.3f}], {self.theory:g}: {self.verdict})"


@dataclass(frozen=True, eq=False, repr=False)
class Distance:
    """A KL distance, unbiased, and its 95 % bootstrap interval over seeds; and the plug-in estimate with its floor.

    resampled : (B,), the bootstrap's values; those of the distances of one call are of the same draws of seeds
    """

    value: float
    interval: tuple[float, float]
    plug_in: float
    floor: float
    resampled: np.ndarray

    def less(self, other: "Distance") -> tuple[float, tuple[float, float]]:
        """This distance less another of the same call, with its interval: seeds that both share move both."""
        return self.value - other.value, _interval(self.resampled - other.resampled)


def _interval(resampled):
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def _sweep(over, sizes, per_seed, theory, seed):
    sizes = np.asarray(sizes, dtype=float)
    return Sweep(over, sizes, per_seed, fit.power_law(sizes, per_seed, seed=seed), theory)


def _teacher(n_test=200):
    return problems.teacher_student(dim=3, n=30, n_test=n_test, seed=1)


def _widths(quick):
    return (32, 128, 512) if quick else (32, 64, 128, 256, 512, 1024)


def _seeds(quick, seed, full=40, some=20):
    """Seeds of an ensemble, no two of one study alike for two values of `seed`."""
    number = some if quick else full
    return range(1000 * seed, 1000 * seed + number)


def variance(alpha: float, *, quick: bool = False, seed: int = 0) -> dict[str, Sweep]:
    """Variance of F over seeds, and error of the infinite ensemble's average, against the width at one alpha.

    Claims: Var F ~ 1/h in both regimes, and averaging removes what depends on h: Geiger et al. (arXiv 1906.08034),
    section 4. tanh, f - f_0 learned to t = 20; alpha of 1 and below learns features, `LAZY` does not.
    """
    problem, shares, averages, errors = _teacher(), [], [], []
    for width in _widths(quick):
        network = Network("tanh", Scaling(alpha, shift="initial"))
        found = ensembles.ensemble(network, problem, width, [20.0], seeds=_seeds(quick, seed))
        at_end = found.test_predictions[:, -1]
        shares.append(ensembles.variance_shares(at_end))
        averages.append(ensembles.average_error_shares(at_end, problem.test_targets))
        errors.append(np.mean((problem.test_targets - at_end) ** 2, axis=1))
    rows = {"variance": (shares, -1.0), "average error": (averages, 0.0)}
    return {
        name: _sweep("width", _widths(quick), np.transpose(each), theory, seed)
        for name, (each, theory) in rows.items()
    }  # fmt: skip


def variance_of_data(*, quick: bool = False, seed: int = 0) -> dict[str, Sweep]:
    """Variance of the lazy predictor over seeds against the number n of data, at N = 512: claimed to grow like sqrt(n).

    Geiger et al. (arXiv 1906.08034), appendix H, there for images and a hinge. Here lazy and trained to the end: each
    seed's own kernel at t = 0 and t = infinity, F(x) = K(x, X) K(X, X)^-1 y. relu in d = 10; "labels": y = +1 or -1 by
    the sign of a teacher, "values": the teacher's own. Neither is a power of n: look at the local slopes.
    Mean over some data sets, each with a test set of 200; smaller sets are the beginning of larger ones.
    """
    sizes, seeds = (20, 40, 80, 160) if quick else (20, 40, 80, 160, 320), _seeds(quick, seed, 30, 12)
    network = Network("relu")
    shares: dict[str, list[np.ndarray]] = {"labels": [], "values": []}
    for data in range(3 if quick else 8):
        base = problems.teacher_student(dim=10, n=sizes[-1], n_test=200, seed=1 + data)
        everything = np.concatenate([base.inputs, base.test_inputs])
        targets = np.column_stack((np.sign(base.targets), base.targets))
        predictions = np.empty((2, len(seeds), len(sizes), len(base.test_inputs)))
        for s, each in enumerate(seeds):
            kernel = tangent.kernel(network, initial.gaussian(512, base.dim, each), everything, base.inputs)
            for k, n in enumerate(sizes):
                solved = np.linalg.solve(kernel[:n, :n], targets[:n])
                predictions[:, s, k] = (kernel[sizes[-1] :, :n] @ solved).T
        for rows, found in zip(shares.values(), predictions, strict=True):
            rows.append(ensembles.variance_shares(found))
    return {name: _sweep("data", sizes, np.mean(rows, axis=0), 0.5, seed) for name, rows in shares.items()}


def output_growth(*, quick: bool = False, seed: int = 0) -> dict[str, Sweep]:
    """Growth of the output until t_1, where half of the risk is gone, at alpha = 0.05: relu, t_1 about 7 alpha.

    Claims (Geiger et al., arXiv 1906.08034, appendix C): "width", the output grows by a factor ~ sqrt(h) until t_1,
    |F(t_1)| / |f_0|; "level", |f - f_0| / sqrt(h) at t_1 does not depend on h; and before t_1 it is linear in t, at the
    largest width: "early" to t = alpha, "late" from there to 5 alpha.
    """
    alpha, problem, widths = 0.05, _teacher(), _widths(quick)
    network = Network("relu", Scaling(alpha, shift="initial"))
    plain = Network("relu", Scaling(alpha))
    early, late = alpha * np.geomspace(0.01, 1.0, 9), alpha * np.geomspace(1.0, 5.0, 7)
    times = np.unique(np.concatenate([[0.0], early, late[1:], alpha * np.arange(5.5, 14.5, 0.5)]))
    factors, levels, growth = [], [], np.empty((0, 0))
    for width in widths:
        seeds = _seeds(quick, seed, 20, 8)
        found = ensembles.ensemble(
            network, problem, width, times, seeds=seeds, record=["risk"], rtol=1e-4, atol=1e-6
        )  # fmt: skip
        growth = ensembles.output_growth(found)
        at_half = [
            np.interp(t_half(times, risks), times, rows)
            for rows, risks in zip(growth, found.records["risk"], strict=True)
        ]
        first = []  # |f_0| / alpha of twenty more networks for each: of one alone it may be about 0
        for each in seeds:
            others = (initial.gaussian(width, problem.dim, (each, k)) for k in range(20))
            outputs = [_outputs(plain, problem.test_inputs, other) for other in others]
            first.append(np.sqrt(np.mean(np.square(outputs))) / alpha)
        levels.append(at_half)
        factors.append(np.divide(at_half, first))
    return {
        "width": _sweep("width", widths, np.transpose(factors), 0.5, seed),
        "level": _sweep("width", widths, np.transpose(levels), 0.0, seed),
        "early": _sweep("time", early, growth[:, np.searchsorted(times, early)], 1.0, seed),
        "late": _sweep("time", late, growth[:, np.searchsorted(times, late)], 1.0, seed),
    }


def preactivation_speed(*, quick: bool = False, seed: int = 0) -> dict[str, Sweep]:
    """dz/dt at t = 0, root mean square: 1/alpha at one width, and h^(-1/2) at one alpha_G, as alpha = sqrt(h) alpha_G.

    Geiger et al. (arXiv 1906.08034), appendix D. Learning f - f_0 the pull at t = 0 is y, so that the first is exact.
    """
    problem, seeds = _teacher(), _seeds(quick, seed)
    alphas, widths = np.logspace(-3, 3, 7), _widths(quick)

    def speeds(scaling, width):
        network = Network("tanh", scaling)
        starts = (initial.gaussian(width, problem.dim, each) for each in seeds)
        return [ensembles.preactivation_speed(network, problem, start) for start in starts]

    by_alpha = [speeds(Scaling(alpha, shift="initial"), 128) for alpha in alphas]
    by_width = [speeds(Scaling.geiger(1.0, width), width) for width in widths]
    return {
        "alpha": _sweep("alpha", alphas, np.transpose(by_alpha), -1.0, seed),
        "width": _sweep("width", widths, np.transpose(by_width), -0.5, seed),
    }


def kernel_ratio(*, quick: bool = False, seed: int = 0) -> dict[str, Sweep]:
    """E K^2 / (E K)^2 - 1 of K(x, x) at initialisation against the width: ~ 1/N for two layers, relu, d = 3, 10 inputs.

    Seleznova & Kutyniok (MSML 2021). For relu it is 3/N exactly: K(x, x) is a mean of (z^2 + a^2 |x|^2) 1(z > 0).
    """
    network, inputs, widths = Network("relu"), _teacher(10).test_inputs, (16, *_widths(quick))
    shares = [
        ensembles.kernel_ratio_shares(
            ensembles.kernel_diagonals(network, width, inputs, _seeds(quick, 1000 * seed + k, 400, 150))
        )
        for k, width in enumerate(widths)
    ]
    return {"ratio": _sweep("width", widths, np.transpose(shares), -1.0, seed)}


def golikov_kl(d_star: int = 16, *, proxy: int = 32, quick: bool = False, seed: int = 0) -> dict[str, Distance]:
    """KL of Gaussian fits of the trained output, limits against the reference network of width d_star.

    Golikov (arXiv 2006.06574): IC-MF is the limit nearest to a finite network. A limit is the network of width
    `proxy` d_star in its scaling; of MF the KL has no limit in the proxy, it holds 1/2 log(proxy). erf, inputs
    N(0, I) in d = 10, n = 80, logistic loss of a teacher's labels, 100 unit steps of rate 1 at d_star, and
    sigma = d_star^(-1/2); mean over 50 test inputs. How near the limits are depends on how far the network goes: with
    relu and inputs N(0, I/10) the NTK is half as far, and IC-MF twice.

    Returns a `Distance` for each of ntk, mf, ic-mf, ic-mf subtracted, sym-default, default. The limits have the same
    seeds, and one reference: compare them by `Distance.less`.
    """
    base = problems.teacher_student(dim=10, n=80, n_test=50, seed=1)
    problem = Problem(
        base.inputs, np.sign(base.targets), loss="logistic",
        test_inputs=base.test_inputs, test_targets=np.sign(base.test_targets),
    )  # fmt: skip
    width, sigma = proxy * d_star, d_star**-0.5
    seeds = _seeds(quick, seed, 40, 20)

    def outputs(scaling, size, stream):
        step = float(scaling.from_native_time(1.0))
        found = ensembles.ensemble(
            Network("erf", scaling), problem, lambda each: initial.gaussian(size, 10, (stream, each)),
            [100 * step], seeds=seeds, scheme="euler", dt=step * (1.0 + 1e-9),
        )  # fmt: skip
        return found.test_predictions[:, -1]

    reference = outputs(Scaling.golikov(d_star, d_star, 0.0, 0.0, 0.0, sigma=sigma), d_star, 0)
    floor = ensembles.gaussian_kl_floor(len(seeds), len(seeds))
    found = {}
    for name, scaling in golikov_scalings(width, d_star, sigma).items():
        own = outputs(scaling, width, 1)
        resampled = _kl_resampled(own, reference, seed)
        found[name] = Distance(
            ensembles.gaussian_kl(own, reference, unbiased=True), _interval(resampled),
            ensembles.gaussian_kl(own, reference), floor, resampled,
        )  # fmt: skip
    return found


def golikov_scalings(d: int, d_star: int, sigma: float) -> dict[str, Scaling]:
    """Golikov's named scalings at width d, equal at d_star but for the frozen term of IC-MF."""
    return {
        "ntk": Scaling.golikov(d, d_star, -0.5, 0.0, 0.0, sigma=sigma),
        "mf": Scaling.golikov(d, d_star, -1.0, 1.0, 1.0, sigma=sigma),
        "ic-mf": Scaling.ic_mf(d, d_star, sigma=sigma),
        "ic-mf subtracted": Scaling.ic_mf(d, d_star, sigma=sigma, subtracted=True),
        "sym-default": Scaling.sym_default(d, d_star, sigma=sigma),
        "default": Scaling.default(d, d_star, sigma=sigma),
    }


def _kl_resampled(own, reference, seed, resamples=400):
    """Basic bootstrap of the unbiased KL, (resamples,): seeds of both ensembles drawn anew, alike for one `seed`.

    What the estimate misses by is what those of resamples miss the KL of the samples' own Gaussians by: the plug-in,
    but for S instead of S - 1 in the variances, which leaves it as it is up to its shift of means over S.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        ensembles.gaussian_kl(
            *(each[rng.integers(len(each), size=len(each))] for each in (own, reference)), unbiased=True
        )
        for _ in range(resamples)
    ]
    value, truth = ensembles.gaussian_kl(own, reference, unbiased=True), ensembles.gaussian_kl(own, reference)
    return value + truth - np.array(drawn)


def plane(
    q: float, q_tilde: float, q_tilde_w: float | None = None, *, corrected=False, quick: bool = False, seed: int = 0
) -> dict[str, Sweep]:
    """Exponents in the width at one point (q, q~) of Golikov's plane, from one step at initialisation.

    "f_0": q + 1/2; "step", of f by the kernel, dt K u: q~ + 2q + 1; "parameters", what they move in a step: q + q~.
    Golikov (arXiv 2003.05884); his four lines are where the first two and the last are 0, and where the first two are
    equal. Besides, and not his: "kernel", its relative change in the step. Where output weights have mean 0, what is of
    first order in the parameters' motion m averages out up to m N^(-1/2), and m^2 remains: the larger of the two,
    2 (q + q~) from q + q~ = -1/2 on.

    q_tilde_w : of the inner weights, where their rate grows more slowly than that of the output weights; it is then a
        hundredth of it from the start, so that the exponents are those of the output weights. No "kernel" there
    corrected : less the initial network, with its frozen term (`Scaling.ic_mf`, subtracted); f_0 is then of order 1
    """
    problem, network = _teacher(), Network("tanh")
    widths = (64, 128, 256, 512) if quick else (64, 128, 256, 512, 1024, 2048, 4096)
    rows: dict[str, list[list[float]]] = {name: [] for name in ("f_0", "step", "parameters", "kernel")}
    options = {"sigma": 0.1 / widths[0], "eta_a": 5e2, "eta_w": 5e2 if q_tilde_w is None else 5.0}
    point = q, q_tilde, q_tilde if q_tilde_w is None else q_tilde_w
    for width in widths:
        scaling = (
            Scaling.ic_mf(width, widths[0], subtracted=True, **options)
            if corrected
            else Scaling.golikov(width, widths[0], *point, **options)
        )
        here = Network(network.activation, scaling)
        measured = [_one_step(here, problem, initial.gaussian(width, 3, each)) for each in _seeds(quick, seed, 30, 16)]
        for values, row in zip(rows.values(), np.transpose(measured), strict=True):
            values.append(row)
    theory = {"f_0": 0.0 if corrected else q + 0.5, "step": q_tilde + 2.0 * q + 1.0, "parameters": q + q_tilde}
    if q_tilde_w is None:
        theory["kernel"] = max(2.0 * (q + q_tilde), q + q_tilde - 0.5)
    return {
        name: _sweep("width", widths, np.transpose(rows[name]), exponent, seed) for name, exponent in theory.items()
    }


def _one_step(network, problem, start):
    """Sizes of f_0, of dt K P u, of what the parameters move, and of the kernel's relative change, in a unit step."""
    field, step = DataField(network, problem, start), float(network.scaling.from_native_time(1.0))
    state = field.state(start)
    velocity = field.gradient_velocity(state)
    f_0, motion = field.predict(state), step * field.motion(state[0], velocity)
    moved = simulate(network, problem, start, [step], scheme="euler", dt=step * (1.0 + 1e-9), keep="last").particles[-1]
    kernels = [tangent.kernel(network, each, problem.inputs) for each in (start, moved)]
    rms = [float(np.sqrt(np.mean(each**2))) for each in (f_0, motion)]
    return [*rms, transport.coupling_distance(moved, start), tangent.drift(kernels[1], kernels[0])]


def _outputs(network, inputs, particles):
    """f of a cloud at some inputs."""
    field = DataField(network, Problem(inputs, np.zeros(len(inputs))), particles)
    return field.predict(field.state(particles))
