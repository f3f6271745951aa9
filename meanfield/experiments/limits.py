"""The main job: finite-N gradient flow against both of its limits, over a ladder of widths and paired seeds.

alpha = 1 ("mf"): the mean-field limit, solved from the law. alpha = sqrt(N), learning f - f_0 ("ntk"): the NTK
limit, with the infinite kernel and with each net's own. Every quantity is measured for each width and seed, fitted
by a power law over all widths, and held against theory's exponent.
"""

import os
import platform
import time as clock
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from .. import _checks, _machine, _memory, datasets, engines, fit, initial, limits, problems, tangent, transport
from ..activations import ACTIVATIONS
from ..ensembles import variance_shares
from ..errors import InputError
from ..initial import GaussianLaw
from ..limits import MeanFieldLimit
from ..network import Network
from ..problems import Problem
from ..scaling import Scaling
from ..simulation import Run, simulate, simulate_coupled
from .quantities import QUANTITIES, TOWARDS_MINUS_ONE, table

REGIMES = ("mf", "ntk")
CURVES = ("risk", "test_risk", "train_error", "test_error")
NODES_PER_WIDEST = 16  # of the limit's quadrature, at least
# What the job takes on an engine unless it is told; a device is for widths that two cores would take hours for.
DEFAULTS: dict[str, dict[str, Any]] = {"cuda": {"widths": tuple(4**k for k in range(3, 11)), "dtype": "float32"}}
_ON_HOST: dict[str, Any] = {"widths": (64, 128, 256, 512, 1024, 2048), "dtype": "float64"}


@dataclass(frozen=True)
class Choice:
    """A problem the job can run: how it is built, its activation and its time horizon."""

    build: Callable[[], Problem]
    activation: str
    t_end: float


@dataclass(frozen=True)
class Settings:
    """What `meanfield limits` runs; None is replaced by the problem's own, or the engine's (`DEFAULTS`).

    problem : name in `PROBLEMS`
    activation : name in `activations.ACTIVATIONS`
    widths : the ladder of N; 64 to 2048, on engine "cuda" 64 to 1048576
    seeds : number of paired seeds: seed s gives the same particles at every width and both scalings
    t_end : flow time of the last comparison
    n_times : times compared at, denser at the start: t_end (j / (n_times - 1))^2
    w2_widths_to, w2_seeds : largest N, and most seeds, of the exact Wasserstein distances
    coupling_widths_to : largest N of the coupling distances, for which the limit carries as many particles a seed
    dtype : "float64"; on engine "cuda" "float32". In float32 a float64 run at the widest tells how much that changes
    rtol : relative tolerance of dopri5; atol is a hundredth of it
    seed : shifts every random number
    """

    problem: str = "fashion-mnist"
    activation: str | None = None
    widths: tuple[int, ...] = None  # type: ignore[assignment]  # never, once there is one
    seeds: int = 16
    t_end: float | None = None
    n_times: int = 16
    w2_widths_to: int = 1024
    w2_seeds: int = 16
    coupling_widths_to: int = 2**16
    rtol: float = 1e-5
    engine: str = "cpu"
    dtype: str = None  # type: ignore[assignment]
    seed: int = 0

    def __post_init__(self):
        choice = _checks.find(PROBLEMS, self.problem, "problem")
        for name in ("activation", "t_end"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(choice, name))
        engines.find(self.engine)
        for name, usual in {**_ON_HOST, **DEFAULTS.get(self.engine, {})}.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, usual)
        object.__setattr__(self, "widths", tuple(_checks.count(width, "a width") for width in self.widths))
        if len(self.widths) < 2 or any(np.diff(self.widths) <= 0):
            raise InputError(f"widths are {self.widths}; needed: two or more, increasing, such as 64,128,256.")
        _checks.find(ACTIVATIONS, self.activation, "activation")
        for name in ("seeds", "n_times", "w2_seeds", "w2_widths_to", "coupling_widths_to"):
            _checks.count(getattr(self, name), name, least=2)
        _checks.count(self.seed, "seed", least=0)
        _checks.number(self.t_end, "t_end", above=0.0)
        _checks.number(self.rtol, "rtol", above=0.0)
        engines.check_dtype(self.dtype)
        if self.problem == "bilinear" and self.activation != "linear":
            raise InputError(f"problem 'bilinear' is exact for activation 'linear' only; given: {self.activation!r}.")

    @property
    def times(self) -> np.ndarray:
        """Flow times of the comparison, (n_times,)."""
        assert self.t_end is not None
        return self.t_end * np.linspace(0.0, 1.0, self.n_times) ** 2

    def network(self, scaling: Scaling) -> Network:
        """The network of this job in a scaling."""
        assert self.activation is not None
        return Network(self.activation, scaling)


@dataclass(frozen=True, repr=False)
class LimitsResult:
    """What the job found.

    quantities : name -> {alpha, widths, mean, mean_ci95, per_seed, slope, slope_ci95, theory, verdict, meaning}
    curves : regime -> record -> (seeds, widths, times), and the limits' own under "limit"
    report : everything of `limits.json`
    arrays : everything of `limits.h5`
    """

    settings: Settings
    problem: Problem
    quantities: dict[str, dict[str, Any]]
    curves: dict[str, dict[str, np.ndarray]]
    report: dict[str, Any]
    arrays: dict[str, Any]

    def __repr__(self) -> str:
        verdicts = ", ".join(f"{name} {row['verdict']}" for name, row in self.quantities.items())
        return f"LimitsResult({self.problem.name!r}: {verdicts})"


def run(settings: Settings | None = None, *, progress: bool = False) -> LimitsResult:
    """Run the whole comparison; under a minute with the default settings on two cores.

    Raises InputError on settings that do not fit; DivergenceError if a flow leaves the finite numbers.
    """
    settings = Settings() if settings is None else settings
    began, stamps = clock.perf_counter(), {}
    # One thread for BLAS: its idle threads spin for a while, on cores that the engine's threads need next.
    with (
        threadpool_limits(1, user_api="blas"),
        tqdm(total=_work(settings), disable=None if progress else True, unit="unit", leave=False) as bar,
    ):
        sweep = _Sweep(settings, bar)
        for stage in ("limit", "finite_widths", "coupled", "precision", "wasserstein"):
            bar.set_description(stage.replace("_", " "))
            start = clock.perf_counter()
            getattr(sweep, stage)()
            stamps[stage] = round(clock.perf_counter() - start, 3)
    quantities = sweep.quantities()
    stamps["total"] = round(clock.perf_counter() - began, 3)
    report, arrays = _report(sweep, quantities, stamps), _arrays(sweep, quantities)
    return LimitsResult(settings, sweep.problem, quantities, sweep.curves, report, arrays)


def _work(settings: Settings) -> int:
    """Units of the progress bar: particles integrated, those of the limit and its tracers included."""
    return 2 * sum(settings.widths) * (settings.seeds + 1) + _limit_work(settings) + _precision_work(settings)


def _limit_work(settings: Settings) -> int:
    carried = max((width for width in settings.widths if width <= settings.coupling_widths_to), default=0)
    return 2 * NODES_PER_WIDEST * settings.widths[-1] + settings.seeds * carried


def _precision_work(settings: Settings) -> int:
    return 2 * settings.widths[-1] if settings.dtype != "float64" else 0


def _check_memory(settings: Settings, dim: int) -> None:
    """Refuse a job whose particles on the host do not fit. What runs take beside them they check themselves."""
    widest, row = settings.widths[-1], 8 * (1 + dim)
    carried = sum(
        number * max((width for width in settings.widths if width <= most), default=0)
        for number, most in (
            (settings.seeds, settings.coupling_widths_to),
            (2 * min(settings.seeds, settings.w2_seeds), settings.w2_widths_to),
        )
    )
    needed = {
        "starts": settings.seeds * widest * row,
        "limit": 3 * NODES_PER_WIDEST * widest * row,
        "copies": 2 * (settings.n_times + 1) * carried * row,  # one by one, and then in one array
    }
    what, remedy = f"a ladder up to N = {widest:,} with {settings.seeds} seeds", "Use smaller widths or fewer seeds"
    _memory.check(needed, what, remedy, adjustable=False)


class _Sweep:
    """The stages of the job, each adding what it measured. Arrays are (seeds, widths, ...)."""

    def __init__(self, settings: Settings, bar):
        self.settings, self.bar = settings, bar
        self.problem = _checks.find(PROBLEMS, settings.problem, "problem").build()
        self.law, self.times = GaussianLaw(self.problem.dim), settings.times
        seeds, widths = settings.seeds, settings.widths
        _check_memory(settings, self.problem.dim)
        if settings.w2_widths_to >= settings.widths[0]:
            transport.require()
        # A seed's narrow nets are the beginning of its widest one; fresh samples come from streams of their own.
        self.starts = [self._sample(widths[-1], seed, 0) for seed in range(seeds)]
        self.w2_widths = tuple(width for width in widths if width <= settings.w2_widths_to)
        self.w2_seeds = min(seeds, settings.w2_seeds) if self.w2_widths else 0
        most = self.w2_widths[-1] if self.w2_widths else 0
        self.coupling_widths = tuple(width for width in widths if width <= settings.coupling_widths_to)
        self.fresh = [self._sample(most, seed, stream) for seed in range(self.w2_seeds) for stream in (1, 2)]
        self.at_end: dict[tuple[int, int], np.ndarray] = {}
        self.measured = {each.name: np.full((seeds, len(widths)), np.nan) for each in QUANTITIES}
        self.curves = {
            regime: {name: np.empty((seeds, len(widths), len(self.times))) for name in CURVES} for regime in REGIMES
        }
        tests = len(self.problem.test_inputs)
        self.final_tests = {regime: np.empty((seeds, len(widths), tests)) for regime in REGIMES}
        self.test_residual_errors = {kind: np.empty((seeds, len(widths))) for kind in ("infinite", "own")}
        self.disagreements = {regime: np.empty(len(widths)) for regime in REGIMES}
        self.rounding: dict[str, float] = {}
        self.widest_tests: dict[str, np.ndarray] = {}
        self.gram: dict[str, np.ndarray] = {}

    def limit(self) -> None:
        """Solve both limits; the mean-field one carries every coupled copy and fresh sample along."""
        settings, problem = self.settings, self.problem
        network = settings.network(Scaling.mean_field())
        size = self.coupling_widths[-1] if self.coupling_widths else 0
        tracers = np.concatenate([start[:size] for start in self.starts] + self.fresh)
        self.mean_field: MeanFieldLimit
        if settings.problem == "bilinear":
            self.mean_field = limits.exact.bilinear(network, problem, self.times, tracers=tracers)
        else:
            rule = {"n_nodes": NODES_PER_WIDEST * settings.widths[-1], "seed": settings.seed}
            self.mean_field = limits.mean_field(
                network, problem, self.law, self.times, tracers=tracers, **rule, **self._options()
            )
        carried = self.mean_field.tracers
        self.bar.update(_limit_work(settings))
        self.copies = [carried[:, s * size : (s + 1) * size] for s in range(settings.seeds)]
        rest = carried[-1, settings.seeds * size :]
        self.fresh_at_end = np.split(rest, max(1, len(self.fresh)))
        self.ntk = limits.ntk(settings.network(Scaling(shift="initial")), problem, self.law, self.times)
        self.limit_curves = {
            "mf": _curves(problem, self.mean_field.predictions, self.mean_field.test_predictions),
            "ntk": _curves(
                problem, problem.targets - self.ntk.residuals, problem.test_targets - self.ntk.test_residuals
            ),
        }

    def finite_widths(self) -> None:
        """Every seed at every width in both scalings."""
        tasks = [(s, w, width) for w, width in self._widest_first() for s in range(self.settings.seeds)]
        for _ in engines.side_by_side(self._one, tasks, self.settings.engine):
            self.bar.update(2 * sum(self.settings.widths) / len(self.settings.widths))

    def coupled(self) -> None:
        """Seed 0 once more at every width, with the residual as its own state."""

        def one(w, regime, scaling, start):
            network = self.settings.network(scaling)
            run = simulate_coupled(network, self.problem, start, self.times, keep="last", **self._options())
            self.disagreements[regime][w] = run.disagreement

        tasks = [
            (w, regime, scaling, self.starts[0][:width])
            for w, width in self._widest_first()
            for regime, scaling in self._scalings(width)
        ]
        for _ in engines.side_by_side(one, tasks, self.settings.engine):
            self.bar.update(sum(self.settings.widths) / len(self.settings.widths))

    def precision(self) -> None:
        """Seed 0 once more at the largest width, in float64 where the job is in float32."""
        if self.settings.dtype == "float64":
            return
        start, options = self.starts[0], {**self._options(), "dtype": "float64"}
        for regime, scaling in self._scalings(len(start)):
            network = self.settings.network(scaling)
            run = simulate(network, self.problem, start, self.times, keep="last", **options)
            self.rounding[regime] = _sup_rms(run.test_predictions - self.widest_tests[regime])
        self.bar.update(_precision_work(self.settings))

    def wasserstein(self) -> None:
        """Exact W2 at t_end beside its floor: both against the same fresh sample."""

        def one(name, s, w, left, right):
            self.measured[name][s, w] = transport.w2(left, right)

        tasks = []
        for w, width in self._widest_first():
            for s in range(self.w2_seeds if w < len(self.w2_widths) else 0):
                first, second = (self.fresh_at_end[2 * s + k][:width] for k in (0, 1))
                tasks += [("w2", s, w, self.at_end[s, w], first), ("w2_floor", s, w, second, first)]
        for _ in engines.side_by_side(one, tasks):
            pass

    def quantities(self) -> dict[str, dict[str, Any]]:
        """The rows of the table from what the stages have measured."""
        for regime in REGIMES:
            self.measured[f"variance_{regime}"] = variance_shares(self.final_tests[regime])
        widths = dict.fromkeys(self.measured, self.settings.widths) | dict.fromkeys(("w2", "w2_floor"), self.w2_widths)
        widths["coupling_distance"] = self.coupling_widths
        for name in ("w2", "w2_floor"):
            self.measured[name] = self.measured[name][: self.w2_seeds]
        self.measured = {name: values[:, : len(widths[name])] for name, values in self.measured.items()}
        return table(self.measured, widths, 1 + self.problem.dim, self.settings.seed)

    def _widest_first(self) -> list[tuple[int, int]]:
        return list(enumerate(self.settings.widths))[::-1]

    def _one(self, s: int, w: int, width: int) -> None:
        start = self.starts[s][:width]
        plain = self.settings.network(Scaling.mean_field())
        engine, coupling = self.settings.engine, w < len(self.coupling_widths)
        # Of the particles alone: the same in both scalings.
        before = tangent.kernel(plain, start, self.problem.inputs, engine=engine)
        for regime, scaling in self._scalings(width):
            network = self.settings.network(scaling)
            keep = "all" if coupling and regime == "mf" else "last"
            run = simulate(network, self.problem, start, self.times, keep=keep, **self._options())
            after = tangent.kernel(network, run.particles[-1], self.problem.inputs, engine=engine)
            self.measured[f"kernel_drift_{regime}"][s, w] = tangent.drift(after, before)
            self.final_tests[regime][s, w] = run.test_predictions[-1]
            if s == 0 and width == self.settings.widths[-1]:
                self.widest_tests[regime] = run.test_predictions
            for name, values in _curves(self.problem, run.predictions, run.test_predictions).items():
                self.curves[regime][name][s, w] = values
            if regime == "mf":
                self._against_mean_field(s, w, run)
                if s == 0 and width == self.settings.widths[-1]:
                    self.gram = {"before": before, "after": after}
            else:
                self._against_ntk(s, w, run, before)

    def _against_mean_field(self, s: int, w: int, run: Run) -> None:
        limit = self.mean_field
        self.measured["function_error_mf"][s, w] = _sup_rms(run.test_predictions - limit.test_predictions)
        if w < len(self.coupling_widths):
            copies = self.copies[s][:, : len(run.masses)]
            apart = [transport.coupling_distance(own, copy) for own, copy in zip(run.particles, copies, strict=True)]
            self.measured["coupling_distance"][s, w] = max(apart)
        if s < self.w2_seeds and w < len(self.w2_widths):
            self.at_end[s, w] = run.particles[-1]

    def _against_ntk(self, s: int, w: int, run: Run, kernel: np.ndarray) -> None:
        start, engine = self.starts[s][: len(run.masses)], self.settings.engine
        own = limits.ntk(run.network, self.problem, start, self.times, at=start, kernel=kernel, engine=engine)
        test_residuals = self.problem.test_targets - run.test_predictions
        for kind, limit in (("infinite", self.ntk), ("own", own)):
            self.measured[f"residual_error_ntk_{kind}"][s, w] = _sup_rms(run.residuals - limit.residuals)
            self.test_residual_errors[kind][s, w] = _sup_rms(test_residuals - limit.test_residuals)

    def _sample(self, size: int, seed: int, stream: int) -> np.ndarray:
        # A spawn key keeps these streams apart from those of problem, quadrature and bootstrap, which start at `seed`.
        key = np.random.SeedSequence(self.settings.seed, spawn_key=(stream, seed))
        return initial.gaussian(size, self.problem.dim, key)

    def _scalings(self, width: int) -> tuple[tuple[str, Scaling], ...]:
        return ("mf", Scaling.mean_field()), ("ntk", Scaling.ntk(width))

    def _options(self) -> dict[str, Any]:
        rtol = self.settings.rtol
        return {"rtol": rtol, "atol": 0.01 * rtol, "engine": self.settings.engine, "dtype": self.settings.dtype}


def _curves(problem: Problem, predictions: np.ndarray, test_predictions: np.ndarray) -> dict[str, np.ndarray]:
    """Risks and classification errors along the times, from predictions (T, n) and (T, m)."""
    wrong = np.sign(predictions) != np.sign(problem.targets)
    test_wrong = np.sign(test_predictions) != np.sign(problem.test_targets)
    return {
        "risk": (problem.targets - predictions) ** 2 @ problem.weights,
        "test_risk": np.mean((problem.test_targets - test_predictions) ** 2, axis=1),
        "train_error": wrong @ problem.weights,
        "test_error": test_wrong.mean(axis=1),
    }


def _sup_rms(differences: np.ndarray) -> float:
    """sup over times of the root mean square over inputs, from (T, inputs)."""
    return float(np.sqrt(np.mean(differences**2, axis=1)).max())


def _report(sweep: _Sweep, quantities: dict[str, Any], stamps: dict[str, float]) -> dict[str, Any]:
    """Everything of limits.json."""
    settings = sweep.settings
    return {
        "schema": "meanfield.limits/1",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": asdict(settings) | {"widths": list(settings.widths), "alpha": {"mf": "1", "ntk": "sqrt(N)"}},
        "problem": {
            "name": sweep.problem.name, "n": len(sweep.problem.inputs), "n_test": len(sweep.problem.test_inputs),
            "dim": sweep.problem.dim,
        },
        "seeds": list(range(settings.seeds)),
        "w2_seeds": list(range(sweep.w2_seeds)),
        "times": sweep.times.tolist(),
        "quantities": quantities,
        "mean_field": {
            "rule": sweep.mean_field.rule, "n_nodes": sweep.mean_field.n_nodes,
            "error": float(sweep.mean_field.error.max()),
            "share_of_smallest_error": _share(sweep.mean_field.error.max(), quantities, ("function_error_mf",)),
        },
        "coupled": {
            "disagreement_mf": sweep.disagreements["mf"].tolist(),
            "disagreement_ntk": sweep.disagreements["ntk"].tolist(),
            "largest": float(max(each.max() for each in sweep.disagreements.values())),
            "share_of_smallest_error": max(
                _share(sweep.disagreements["mf"].max(), quantities, ("function_error_mf",)),
                _share(sweep.disagreements["ntk"].max(), quantities, ("residual_error_ntk_own",)),
            ),
        },
        "precision": {
            f"float64_differs_{regime}": {
                "sup_rms": rounding,
                "share_of_smallest_error": _share(rounding, quantities, (_SMALLEST[regime],)),
            }
            for regime, rounding in sweep.rounding.items()
        },
        "final": {
            regime: {name: values[:, :, -1].mean(axis=0).tolist() for name, values in sweep.curves[regime].items()}
            | {f"{name}_limit": float(values[-1]) for name, values in sweep.limit_curves[regime].items()}
            for regime in REGIMES
        },
        "rules": {
            "allowance": fit.ALLOWANCE, "widest_interval": fit.WIDEST, "towards_minus_one": list(TOWARDS_MINUS_ONE),
        },
        "versions": _machine.versions(),
        "machine": {"processor": _machine.processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "timings": stamps,
    }  # fmt: skip


_SMALLEST = {"mf": "function_error_mf", "ntk": "residual_error_ntk_own"}


def _share(error: float, quantities: dict[str, Any], names: tuple[str, ...]) -> float:
    """A numerical error as a share of the smallest mean among these quantities."""
    return float(error / max(min(min(quantities[name]["mean"]) for name in names), 1e-300))


def _arrays(sweep: _Sweep, quantities: dict[str, Any]) -> dict[str, Any]:
    """Everything of limits.h5 (docs/limits.md)."""
    problem = sweep.problem
    return {
        "times": sweep.times,
        "widths": np.array(sweep.settings.widths),
        "quantities": {
            name: {key: np.array(row[key]) for key in ("widths", "per_seed", "mean")}
            for name, row in quantities.items()
        },
        "curves": {
            regime: sweep.curves[regime]
            | {f"{name}_limit": values for name, values in sweep.limit_curves[regime].items()}
            for regime in REGIMES
        },
        "predictions": {"final_test_mf": sweep.final_tests["mf"], "final_test_ntk": sweep.final_tests["ntk"]},
        "limits": {
            "mf_predictions": sweep.mean_field.predictions,
            "mf_test_predictions": sweep.mean_field.test_predictions,
            "mf_error": sweep.mean_field.error,
            "ntk_residuals": sweep.ntk.residuals,
            "ntk_test_residuals": sweep.ntk.test_residuals,
            "ntk_eigenvalues": sweep.ntk.eigenvalues,
        },
        "ntk_test_residual_error": sweep.test_residual_errors,
        "coupled_disagreement": sweep.disagreements,
        "gram_mf": sweep.gram,
        "problem": {
            "inputs": problem.inputs, "targets": problem.targets, "test_inputs": problem.test_inputs,
            "test_targets": problem.test_targets, "labels": class_labels(problem),
        },
    }  # fmt: skip


def class_labels(problem: Problem) -> np.ndarray:
    """The class of each training input: its label where the problem has labels, else the sign of its target."""
    return problem.labels if problem.labels is not None else np.sign(problem.targets).astype(int)


PROBLEMS: Mapping[str, Choice] = {
    "fashion-mnist": Choice(datasets.fashion_mnist, "erf", 20.0),
    "teacher-student": Choice(problems.teacher_student, "erf", 20.0),
    "bilinear": Choice(problems.bilinear, "linear", 1.0),
}
