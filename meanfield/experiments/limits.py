"""The main job: finite-N gradient flow against both of its limits, over a ladder of widths and paired seeds.

alpha = 1 ("mf"): the mean-field limit, solved from the law. alpha = sqrt(N), learning f - f_0 ("ntk"): the NTK
limit, with the infinite kernel and with each net's own. Every quantity is measured for each width and seed, fitted
by a power law over all widths, and held against theory's exponent.

Each run is a part of the job: what it measured is kept on file as soon as it is there, and a job that was stopped goes
on from its parts. Nothing is read off a run but through its part, so both ways give the same bits.
"""

import os
import platform
import time as clock
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from .. import _checks, _machine, _memory, datasets, engines, fit, initial, limits, problems, tangent, transport
from ..activations import ACTIVATIONS
from ..ensembles import variance_shares
from ..errors import InputError
from ..initial import GaussianLaw
from ..limits import MeanFieldLimit, NTKLimit
from ..network import Network
from ..problems import Problem
from ..runs import Run
from ..scaling import Scaling
from ..simulation import simulate, simulate_coupled
from ..trajectories import Part, Parts, discard_parts, parts_of, read_part, settled, write_part
from .quantities import QUANTITIES, TOWARDS_MINUS_ONE, table

REGIMES = ("mf", "ntk")
_SCHEMA = "meanfield.limits/1"
_OF_MEAN_FIELD = ("predictions", "test_predictions", "tracers", "error")  # arrays of the limits that are kept
_OF_NTK = ("residuals", "test_residuals", "kernel", "eigenvalues")
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
    attributes : "path@name" -> of its groups
    parts : where the parts of the job are kept, to be discarded once the results are on file; None if they are not
    """

    settings: Settings
    problem: Problem
    quantities: dict[str, dict[str, Any]]
    curves: dict[str, dict[str, np.ndarray]]
    report: dict[str, Any]
    arrays: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    parts: Parts | None = None

    def __repr__(self) -> str:
        verdicts = ", ".join(f"{name} {row['verdict']}" for name, row in self.quantities.items())
        return f"LimitsResult({self.problem.name!r}: {verdicts})"


def run(
    settings: Settings | None = None,
    *,
    progress: bool = False,
    work: str | Path | None = None,
    fresh: bool = False,
    tell: Callable[[str], object] = lambda words: None,
) -> LimitsResult:
    """Run the whole comparison; under a minute with the default settings on two cores.

    Parameters
    ----------
    progress : a bar that counts the parts of the job
    work : folder, optional
        Where each part is kept as soon as it is there, below a name that stands for settings, data, sources, versions
        and processor. What is there of the same job is not run again, and the numbers are those of a job that never
        stopped, bit for bit (`timings`, `date` and `parts` of the report apart). The limit's tracers take most of the
        room: 8 n_times (1 + d) bytes for each, of which every seed has as many as the widest coupled network.
    fresh : discard what is there of the same job first
    tell : is given a line about what was found in `work`, if anything was

    Raises InputError on settings that do not fit; DivergenceError if a flow leaves the finite numbers; FileError if a
    part cannot be written.
    """
    settings = Settings() if settings is None else settings
    began, stamps = clock.perf_counter(), {}
    # One thread for BLAS: its idle threads spin for a while, on cores that the engine's threads need next.
    with threadpool_limits(1, user_api="blas"):
        sweep = _Sweep(settings)
        if work is not None:
            sweep.keep(Path(work), fresh, tell)
        found, total = len(sweep.done), sum(map(len, sweep.stages.values()))
        with tqdm(total=total, initial=found, disable=None if progress else True, unit="part", leave=False) as bar:
            for stage in sweep.stages:
                bar.set_description(stage.replace("_", " "))
                start = clock.perf_counter()
                for _ in sweep.finish(stage):
                    bar.update()
                stamps[stage] = round(clock.perf_counter() - start, 3)
        sweep.collect()
        quantities = sweep.quantities()
    stamps["total"] = round(clock.perf_counter() - began, 3)
    report, (arrays, attributes) = _report(sweep, quantities, stamps), _arrays(sweep, quantities)
    report["parts"] = {"all": total, "found": found}
    return LimitsResult(settings, sweep.problem, quantities, sweep.curves, report, arrays, attributes, sweep.parts)


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
    """The stages of the job, each a set of parts, and what is collected from them. Arrays are (seeds, widths, ...).

    stages : stage -> name of a part -> what computes it
    done : name -> part
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.parts: Parts | None = None
        self.done: dict[str, Part] = {}
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
        self._carried = self.coupling_widths[-1] if self.coupling_widths else 0  # copies of each seed
        self.fresh = [self._sample(most, seed, stream) for seed in range(self.w2_seeds) for stream in (1, 2)]
        self.measured = {each.name: np.full((seeds, len(widths)), np.nan) for each in QUANTITIES}
        self.curves = {
            regime: {name: np.empty((seeds, len(widths), len(self.times))) for name in CURVES} for regime in REGIMES
        }
        tests = len(self.problem.test_inputs)
        self.final_tests = {regime: np.empty((seeds, len(widths), tests)) for regime in REGIMES}
        self.test_residual_errors = {kind: np.empty((seeds, len(widths))) for kind in ("infinite", "own")}
        self.disagreements = {regime: np.empty(len(widths)) for regime in REGIMES}
        self.rounding: dict[str, float] = {}
        self.gram: dict[str, np.ndarray] = {}
        self.stages = {
            "limit": {"limits/mean_field": self._mean_field, "limits/ntk": self._ntk},
            "finite_widths": self._finite_widths(),
            "coupled": self._coupled(),
            "precision": self._precision(),
            "wasserstein": self._wasserstein(),
        }

    def keep(self, work: Path, fresh: bool, tell: Callable[[str], object]) -> None:
        """Keep parts in `work` from now on, and take what is there of the same job."""
        inputs = {name: getattr(self.problem, name) for name in ("inputs", "targets", "test_inputs", "test_targets")}
        identity = {
            "job": _SCHEMA, "settings": asdict(self.settings), "versions": _machine.versions(),
            "sources": _machine.sources(), "processor": _machine.processor(),
        }  # fmt: skip
        self.parts = parts_of(work, identity, inputs)
        if fresh:
            discard_parts(self.parts)
        names, damaged = [name for stage in self.stages.values() for name in stage], 0
        for name in names:
            try:
                part = read_part(self.parts, name)
            except InputError:
                damaged += 1
                continue
            if part is not None:
                self.done[name] = part
        if self.done or damaged:
            again = f"; {damaged} more, damaged or out of place, are run again" if damaged else ""
            tell(f"going on from {len(self.done)} of {len(names)} parts in {work}{again}")
        elif work.is_dir() and any(each != self.parts.folder for each in work.iterdir()):
            tell(f"{work} holds parts of other settings or versions only; they are left as they are, and not used")

    def finish(self, stage: str) -> Iterator[None]:
        """Compute the parts of a stage that are not there; each is kept, and then yields."""

        def one(name, compute):
            part = settled(compute())
            if self.parts is not None:
                write_part(self.parts, name, part)
            self.done[name] = part

        left = [each for each in self.stages[stage].items() if each[0] not in self.done]
        if stage in ("limit", "precision"):  # large ones, which have all threads for themselves
            for each in left:
                one(*each)
                yield
        else:
            yield from engines.side_by_side(one, left, "cpu" if stage == "wasserstein" else self.settings.engine)

    def _mean_field(self) -> Part:
        """The mean-field limit; it carries every coupled copy and fresh sample along."""
        settings, problem = self.settings, self.problem
        network = settings.network(Scaling.mean_field())
        tracers = np.concatenate([start[: self._carried] for start in self.starts] + self.fresh)
        if settings.problem == "bilinear":
            limit = limits.exact.bilinear(network, problem, self.times, tracers=tracers)
        else:
            rule = {"n_nodes": NODES_PER_WIDEST * settings.widths[-1], "seed": settings.seed}
            limit = limits.mean_field(
                network, problem, self.law, self.times, tracers=tracers, **rule, **self._options()
            )
        arrays = {name: getattr(limit, name) for name in _OF_MEAN_FIELD}
        return Part(arrays, {"rule": limit.rule, "n_nodes": limit.n_nodes})

    def _ntk(self) -> Part:
        """The NTK limit with the infinite kernel."""
        limit = limits.ntk(self.settings.network(Scaling(shift="initial")), self.problem, self.law, self.times)
        return Part({name: getattr(limit, name) for name in _OF_NTK}, {})

    def _finite_widths(self) -> dict[str, Callable[[], Part]]:
        """Every seed at every width in both scalings."""
        return {
            _name(regime, width, s): partial(self._finite, regime, s, w, width)
            for w, width in self._widest_first()
            for s in range(self.settings.seeds)
            for regime in REGIMES
        }

    def _coupled(self) -> dict[str, Callable[[], Part]]:
        """Seed 0 once more at every width, with the residual as its own state."""
        return {
            _name(f"coupled_{regime}", width, 0): partial(self._with_residual, regime, width)
            for _, width in self._widest_first()
            for regime in REGIMES
        }

    def _precision(self) -> dict[str, Callable[[], Part]]:
        """Seed 0 once more at the largest width, in float64 where the job is in float32."""
        widest, single = self.settings.widths[-1], self.settings.dtype != "float64"
        return {
            _name(f"float64_{regime}", widest, 0): partial(self._in_float64, regime, widest)
            for regime in REGIMES
            if single
        }

    def _wasserstein(self) -> dict[str, Callable[[], Part]]:
        """Exact W2 at t_end beside its floor: both against the same fresh sample."""
        return {
            _name("wasserstein", width, s): partial(self._distances, s, width)
            for width in self.w2_widths[::-1]
            for s in range(self.w2_seeds)
        }

    def collect(self) -> None:
        """What the parts hold, in the arrays of the results."""
        problem, done = self.problem, self.done
        field, ntk = done["limits/mean_field"], done["limits/ntk"].arrays
        self.mean_field = MeanFieldLimit(
            self.settings.network(Scaling.mean_field()), problem, self.times, **field.arrays, **field.attributes
        )
        self.ntk = NTKLimit(self.settings.network(Scaling(shift="initial")), problem, self.times, **ntk)
        self.limit_curves = {
            regime: _curves(problem, limit.predictions, limit.test_predictions)
            for regime, limit in (("mf", self.mean_field), ("ntk", self.ntk))
        }
        for w, width in enumerate(self.settings.widths):
            for regime in REGIMES:
                for s in range(self.settings.seeds):
                    self._collect(regime, s, w, done[_name(regime, width, s)].arrays)
                coupled = done[_name(f"coupled_{regime}", width, 0)]
                self.disagreements[regime][w] = coupled.arrays["measured"]["disagreement"]
        for w, width in enumerate(self.w2_widths):
            for s in range(self.w2_seeds):
                for name, value in done[_name("wasserstein", width, s)].arrays["measured"].items():
                    self.measured[name][s, w] = value
        widest = self.settings.widths[-1]
        for regime in REGIMES:
            if wide := done.get(_name(f"float64_{regime}", widest, 0)):
                self.rounding[regime] = float(wide.arrays["measured"]["sup_rms"])
        self.gram = dict(done[_name("mf", widest, 0)].arrays["kept"]["gram"])

    def _collect(self, regime: str, s: int, w: int, arrays: Mapping[str, Any]) -> None:
        self.final_tests[regime][s, w] = arrays["final_test"]
        for name, values in arrays["curves"].items():
            self.curves[regime][name][s, w] = values
        for name, value in arrays["measured"].items():
            if name in self.measured:
                self.measured[name][s, w] = value
            else:
                self.test_residual_errors[name.rpartition("_")[2]][s, w] = value

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

    def _finite(self, regime: str, s: int, w: int, width: int) -> Part:
        start, network, engine = self.starts[s][:width], self._network(regime, width), self.settings.engine
        coupling, widest = regime == "mf" and w < len(self.coupling_widths), width == self.settings.widths[-1]
        keep = "all" if coupling else "last"
        run = simulate(network, self.problem, start, self.times, keep=keep, **self._options())
        before, after = (
            tangent.kernel(network, particles, self.problem.inputs, engine=engine)
            for particles in (start, run.particles[-1])
        )
        kept: dict[str, Any] = {}
        measured = {f"kernel_drift_{regime}": tangent.drift(after, before)}
        if regime == "mf":
            measured |= self._against_mean_field(s, coupling, run)
            if s < self.w2_seeds and w < len(self.w2_widths):
                kept["particles"] = run.particles[-1]
            if s == 0 and widest:
                kept["gram"] = {"before": before, "after": after}
        else:
            own = self._against_ntk(run, start, before)
            measured |= {f"residual_error_ntk_{kind}": error for kind, (error, _) in own.items()}
            measured |= {f"test_residual_error_ntk_{kind}": error for kind, (_, error) in own.items()}
        if s == 0 and widest:
            kept["test_predictions"] = run.test_predictions
        return self._part(run, s, measured, kept)

    def _with_residual(self, regime: str, width: int) -> Part:
        start, network = self.starts[0][:width], self._network(regime, width)
        run = simulate_coupled(network, self.problem, start, self.times, keep="last", **self._options())
        return self._part(run, 0, {"disagreement": run.disagreement})

    def _in_float64(self, regime: str, width: int) -> Part:
        start, network = self.starts[0], self._network(regime, width)
        options = {**self._options(), "dtype": "float64"}
        run = simulate(network, self.problem, start, self.times, keep="last", **options)
        narrow = self.done[_name(regime, width, 0)].arrays["kept"]["test_predictions"]
        return self._part(run, 0, {"sup_rms": _sup_rms(run.test_predictions - narrow)})

    def _distances(self, s: int, width: int) -> Part:
        carried = self.done["limits/mean_field"].arrays["tracers"][-1, self.settings.seeds * self._carried :]
        first, second = np.split(carried, len(self.fresh))[2 * s : 2 * s + 2]
        own = self.done[_name("mf", width, s)].arrays["kept"]["particles"]
        w2, floor = transport.w2(own, first[:width]), transport.w2(second[:width], first[:width])
        return Part({"measured": {"w2": w2, "w2_floor": floor}}, {"N": width, "seed": s})

    def _part(self, run: Run, s: int, measured: Mapping[str, float], kept: Mapping[str, Any] | None = None) -> Part:
        """What stays of a run; `kept` is what later stages need of it and no result holds."""
        arrays = {
            "step": run.frame_steps,
            "curves": _curves(self.problem, run.predictions, run.test_predictions),
            "final_test": run.test_predictions[-1],
            "measured": measured,
            "kept": kept or {},
        }
        attributes = {
            "alpha": float(run.network.scaling.alpha), "N": len(run.masses), "seed": s, "dtype": run.dtype,
            "steps": run.steps, "rejected": run.rejected, "evaluations": run.evaluations,
        }  # fmt: skip
        return Part(arrays, attributes)

    def _against_mean_field(self, s: int, coupling: bool, run: Run) -> dict[str, float]:
        limit = self.done["limits/mean_field"].arrays
        measured = {"function_error_mf": _sup_rms(run.test_predictions - limit["test_predictions"])}
        if coupling:
            copies = limit["tracers"][:, s * self._carried :][:, : len(run.masses)]
            apart = [transport.coupling_distance(own, copy) for own, copy in zip(run.particles, copies, strict=True)]
            measured["coupling_distance"] = max(apart)
        return measured

    def _against_ntk(self, run: Run, start: np.ndarray, kernel: np.ndarray) -> dict[str, tuple[float, float]]:
        """kind of kernel -> errors at the training and at the test inputs"""
        infinite, engine = self.done["limits/ntk"].arrays, self.settings.engine
        own = limits.ntk(run.network, self.problem, start, self.times, at=start, kernel=kernel, engine=engine)
        test_residuals = self.problem.test_targets - run.test_predictions
        return {
            kind: (_sup_rms(run.residuals - residuals), _sup_rms(test_residuals - tests))
            for kind, residuals, tests in (
                ("infinite", infinite["residuals"], infinite["test_residuals"]),
                ("own", own.residuals, own.test_residuals),
            )
        }

    def _sample(self, size: int, seed: int, stream: int) -> np.ndarray:
        # A spawn key keeps these streams apart from those of problem, quadrature and bootstrap, which start at `seed`.
        key = np.random.SeedSequence(self.settings.seed, spawn_key=(stream, seed))
        return initial.gaussian(size, self.problem.dim, key)

    def _network(self, regime: str, width: int) -> Network:
        return self.settings.network(Scaling.mean_field() if regime == "mf" else Scaling.ntk(width))

    def _options(self) -> dict[str, Any]:
        rtol = self.settings.rtol
        return {"rtol": rtol, "atol": 0.01 * rtol, "engine": self.settings.engine, "dtype": self.settings.dtype}


def _name(kind: str, width: int, s: int) -> str:
    """Of a part, and of its group in limits.h5."""
    return f"runs/{kind}/N={width}/seed={s}"


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
        "schema": _SCHEMA,
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


def _arrays(sweep: _Sweep, quantities: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything of limits.h5 (docs/limits.md): arrays, and the attributes of the groups of runs."""
    problem = sweep.problem
    arrays = {
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
    runs, attributes = _runs(sweep)
    return arrays | {"runs": runs}, attributes


def _runs(sweep: _Sweep) -> tuple[dict[str, Any], dict[str, Any]]:
    """/runs of limits.h5, a group for each run, laid out as in H5MD: step, time and value of what moves."""
    tree: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    end = sweep.times[-1:]  # one array in all groups, which the file then holds once; as are the times
    for stage in ("finite_widths", "coupled", "precision"):
        for path in sweep.stages[stage]:
            part = sweep.done[path]
            step, kind, width, seed = part.arrays["step"], *path.split("/")[1:]
            moving = {
                name: {"step": step, "time": sweep.times, "value": values}
                for name, values in part.arrays["curves"].items()
            }
            final = {"step": step[-1:], "time": end, "value": part.arrays["final_test"][None]}
            measured = dict(part.arrays["measured"])
            if kind == "mf" and (distances := sweep.done.get(path.replace("/mf/", "/wasserstein/"))):
                measured |= distances.arrays["measured"]
            tree.setdefault(kind, {}).setdefault(width, {})[seed] = {
                "observables": moving | {"test_predictions": final},
                "measured": measured,
            }
            attributes |= {f"{path}@{name}": value for name, value in part.attributes.items()}
    return tree, attributes


def class_labels(problem: Problem) -> np.ndarray:
    """The class of each training input: its label where the problem has labels, else the sign of its target."""
    return problem.labels if problem.labels is not None else np.sign(problem.targets).astype(int)


PROBLEMS: Mapping[str, Choice] = {
    "fashion-mnist": Choice(datasets.fashion_mnist, "erf", 20.0),
    "teacher-student": Choice(problems.teacher_student, "erf", 20.0),
    "bilinear": Choice(problems.bilinear, "linear", 1.0),
}
