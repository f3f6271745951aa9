"""Runs the cases: every contender in a process of its own, rounds interleaved, results as one JSON-ready dictionary.

In a round each contender in turn makes a few calls, after a pause in which the threads of the one before it come to
rest; its time of the round is their median. Slow spells of the machine then fall on all of them, and the ratio of two
contenders is a matter of rounds.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata, util
from typing import Any

from threadpoolctl import threadpool_info
from tqdm.auto import tqdm

from .. import _checks, _machine, engines
from ..errors import InputError
from . import timing
from .cases import (
    CASES,
    DEVICE_CASES,
    DEVICE_FAMILIES,
    ENVIRONMENTS,
    FAMILIES,
    KINDS,
    TOLERANCES,
    Case,
    Contender,
    contenders,
    cores,
    disagreement,
    expected,
)  # fmt: skip
from .processes import Worker, WorkerLost, environment, has_hugetlb

SCHEMA = "meanfield.bench/2"
PEAKS = {
    "numpy": "numpy",
    "torch": "torch-hand",
    "jax": "jax",
    "cupy": "cupy",
}  # who multiplies matrices, in which worker
PACKAGES = {"cupy": "cupy-cuda13x"}  # whose name is not that of the module


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    rounds : least and most per case; between them until `seconds` are spent
    seconds : for the rounds of a case
    matmul, copy : size of the matrices, bytes of the copy
    processes : whose first call is timed
    """

    rounds: tuple[int, int] = (9, 21)
    seconds: float = 4.0
    rest: float = 0.04  # OpenBLAS spins for 26 ms at 2.6 GHz after a product, others for less
    matmul: int = 2048
    copy: int = 2**28
    processes: int = 3
    prepare_timeout: float = 300.0
    timeout: float = 120.0


FULL = Effort()
QUICK = Effort(rounds=(5, 9), seconds=1.5, matmul=1024, copy=2**27, processes=1)
# A device takes a thousandth of the time; each minute of one that is lent is dear.
DEVICE_FULL = Effort(rounds=(7, 15), seconds=0.7, rest=0.0, matmul=8192, copy=2**31)
DEVICE_QUICK = Effort(rounds=(5, 7), seconds=0.3, rest=0.0, matmul=4096, copy=2**30)


@dataclass
class Pool:
    """The workers of one environment, started when first asked for."""

    engine: str
    environment: str
    effort: Effort
    workers: dict[tuple, Worker] = field(default_factory=dict)
    lost: dict[tuple, list[str]] = field(default_factory=dict)

    def ask(self, key: tuple, question: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The answer of the worker `key` = (name, threads, label); {"skip": reason} if there is none."""
        if len(self.lost.get(key, [])) > 1:
            return {"skip": f"given up after two failures; the last: {self.lost[key][-1]}"}
        try:
            if key not in self.workers:
                name, threads, _ = key
                worker = self.workers[key] = Worker([name, self.engine], environment(self.environment, threads))
                started = worker.answer(self.effort.timeout)
                if "skip" in started:
                    raise WorkerLost(started["skip"])
            return self.workers[key].ask(question, timeout)
        except WorkerLost as problem:
            self.discard(key)
            self.lost.setdefault(key, []).append(str(problem))
            return {"skip": str(problem)}

    def discard(self, key: tuple) -> None:
        worker = self.workers.pop(key, None)
        if worker:
            worker.close()

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        for key in list(self.workers):
            self.discard(key)


def check_peers(peers: str | Iterable[str] | None, engine: str = "cpu") -> list[str]:
    """Families of peers, of a list or of text with commas; by default all there are for the engine, NumPy always."""
    families = DEVICE_FAMILIES if engine == "cuda" else FAMILIES
    if peers is None:
        return list(families)
    names = [each.strip() for each in peers.split(",") if each.strip()] if isinstance(peers, str) else list(peers)
    if not names:
        raise InputError(f"peers is {peers!r}; needed: of {', '.join(families)}, with commas.")
    for name in names:
        _checks.find(families, name, "peer")
    return [name for name in families if name in names or name == "numpy"]


def run(
    engine: str = "cpu",
    peers: str | Iterable[str] | None = None,
    *,
    cases: Sequence[Case] | None = None,
    effort: Effort | None = None,
    quick: bool = False,
    progress: bool = False,
    after_each: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Time the cases on this machine.

    Parameters
    ----------
    engine : name of an engine
    peers : of "numpy", "torch", "jax", for engine "cuda" of "torch", "jax", "cupy": a list, or text with commas
        Default all; those that are not installed are skipped by name.
    cases : default `cases.CASES`, for engine "cuda" `cases.DEVICE_CASES`, of which `quick` takes some
    after_each : is given the report so far after each case, for a run that may be cut short
    effort : default `FULL`, or `QUICK`; for engine "cuda" `DEVICE_FULL`, or `DEVICE_QUICK`

    Returns
    -------
    dict, as it goes to JSON: see docs/benchmarks.

    Raises
    ------
    InputError
        If there is no such engine or peer.
    """
    engine = engines.find(engine).NAME
    families, on_device = check_peers(peers, engine), engine == "cuda"
    absent = {family: _absence(family) for family in families if util.find_spec(family) is None}
    members = DEVICE_FAMILIES if on_device else FAMILIES
    present = [peer for family in families if family not in absent for peer in members[family]]
    if cases is None:
        cases = [case for case in (DEVICE_CASES if on_device else CASES) if case.quick or not quick]
    effort = effort or ((DEVICE_QUICK if quick else DEVICE_FULL) if on_device else QUICK if quick else FULL)
    names = [name for name in ENVIRONMENTS if name == "default" or (has_hugetlb() and not (quick or on_device))]
    began = time.perf_counter()
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "engine": engine,
        "quick": quick,
        "machine": _describe(families, on_device),
        "peers": present,
        "absent": absent,
        "environments": names,
        "peak": {"copy_gb_per_s": None},
        "cases": [],
    }
    right: dict[tuple, Any] = {}
    work = [(name, case) for name in names for case in cases if name in case.environments]
    with tqdm(total=len(work) + len(names), disable=None if progress else True, leave=False) as bar:
        for name in names:
            with Pool(engine, name, effort) as pool:
                bar.set_description(f"peaks, {name}")
                _peaks(pool, families, absent, report["peak"])
                bar.update()
                for case in [case for where, case in work if where == name]:
                    bar.set_description(f"{case.name}, {name}")
                    started = time.perf_counter()
                    row = _case(pool, case, present, right)
                    report["cases"].append(row | {"spent_s": time.perf_counter() - started})
                    bar.update()
                    if after_each:
                        _hold_against_rates(report, on_device, began)
                        after_each(report)
                _peaks(pool, families, absent, report["peak"])  # again: it may have been a slow spell
    _hold_against_rates(report, on_device, began)
    return report


def _hold_against_rates(report: dict[str, Any], on_device: bool, began: float) -> None:
    for row in report["cases"]:
        peak = report["peak"].get(row["dtype"], {}).get("gflops")
        ours = row["ms"].get("ours")
        if row["kind"] == "velocity" and peak and ours:
            row["percent_of_peak"] = 100.0 * row["flops"] / (1e6 * ours) / peak
        if row["kind"] == "velocity" and on_device and ours:
            _hold_against_floor(row, report["peak"])
    report["machine"]["seconds"] = time.perf_counter() - began


def _hold_against_floor(row: dict[str, Any], peak: dict[str, Any]) -> None:
    """The least time that the arithmetic and the bytes of a case take at the rates measured, and ours against them."""
    fma, copied = peak[row["dtype"]].get("fma_gflops"), peak["copy_gb_per_s"]
    if fma:
        row["percent_of_fma"] = 100.0 * row["fused_flops"] / (1e6 * row["ms"]["ours"]) / fma
        row["floor_ms"] = max(row["fused_flops"] / fma, row["least_bytes"] / copied if copied else 0.0) / 1e6


def _case(pool: Pool, case: Case, peers: Sequence[str], right: dict[tuple, Any]) -> dict[str, Any]:
    kind = KINDS[case.kind]
    row: dict[str, Any] = {
        "name": case.name, "kind": case.kind, "n": case.n, "N": case.N, "d": case.d, "dtype": case.dtype,
        "activation": case.activation, "environment": pool.environment, "flops": case.flops,
        "fused_flops": case.fused_flops, "least_bytes": case.least_bytes, "ms": {}, "rounds": {}, "first_call_ms": {},
        "best_peer": None, "ratio_to_best_peer": None, "ratio_ci95": None,
        "percent_of_peak": None, "skipped": {},
    }  # fmt: skip
    if case.kind == "first_call":
        return row | _first_call(pool, case)
    if case.memory:
        question = {"do": "memory", "case": asdict(case)}
        key = ("ours", None, "memory")
        answer = pool.ask(key, question, pool.effort.prepare_timeout)
        row |= {name: answer[name] for name in ("peak_rss_over_state", "device_memory_over_state") if name in answer}
        pool.discard(key)  # its next peak would be hidden by this one
    sought = (kind.operation, case.n, case.N, case.d, case.activation)
    if sought not in right:
        right[sought] = expected(case)

    chosen = contenders(case, peers)
    # On a device whose memory holds one large case, not those of all: one contender after another, each leaves nothing.
    alone = pool.engine == "cuda" and case.pairs_bytes > 2**30
    times: dict[str, list[float]] = {}
    for some in [[each] for each in chosen] if alone else [chosen]:
        times |= _timed(pool, case, some, right[sought], row)
        if alone and some[0].label == "jax":  # which keeps what it has taken
            pool.discard((some[0].worker, some[0].threads, some[0].label))
    row["ms"] = {label: 1e3 * statistics.median(seconds) for label, seconds in times.items()}
    row["rounds"] = {label: len(seconds) for label, seconds in times.items()}
    return row | _compare(kind, times, row["ms"])


def _timed(pool: Pool, case: Case, chosen: list[Contender], right: Any, row: dict[str, Any]) -> dict[str, list[float]]:
    """Times of these contenders, round by round; why one is left out goes to the row."""
    keys, times, calls = {}, {}, {}
    for each in chosen:
        key = each.worker, each.threads, each.label
        question = {"do": "prepare", "case": asdict(case), "operation": each.operation}
        answer = pool.ask(key, question, pool.effort.prepare_timeout)
        reason = answer.get("skip") or _wrong(answer.pop("probe"), right, case.dtype)
        if reason:
            row["skipped"][each.label] = reason
            pool.ask(key, {"do": "release"}, pool.effort.timeout)
            continue
        keys[each.label], times[each.label] = key, []
        share = pool.effort.seconds / (pool.effort.rounds[0] * len(chosen))
        calls[each.label] = {
            "calls": timing.calls_per_turn(answer["seconds"], share),
            "warm": 1 if answer["seconds"] < 0.1 else 0,  # wakes the threads; caches are cold only once in a loop
            "limit": share,  # should it turn out slower than at first
        }
        row["first_call_ms"][each.label] = answer["first_call_ms"]

    _rounds(pool, keys, times, calls, row["skipped"])
    for key in keys.values():
        pool.ask(key, {"do": "release"}, pool.effort.timeout)
    return times


def _rounds(pool, keys, times, calls, skipped):
    """Fill `times` round by round; who is lost on the way goes to `skipped`."""
    least, most = pool.effort.rounds
    out: set[str] = set()
    began = time.perf_counter()
    for number in range(most):
        if number >= least and time.perf_counter() - began > pool.effort.seconds:
            break
        for label, key in keys.items():
            if label in out or label not in times:
                continue
            time.sleep(pool.effort.rest)
            answer = pool.ask(key, {"do": "time", **calls[label]}, pool.effort.timeout)
            if "skip" in answer:
                skipped[label] = answer["skip"]
                del times[label]
            else:
                times[label].append(statistics.median(answer["seconds"]))
        out |= timing.hopeless(times, "ours")


def _compare(kind, times, ms) -> dict[str, Any]:
    """Ratios of a row: to the best peer, or to the contender beside ours."""
    if "ours" not in times:
        return {}
    if kind.beside:
        if kind.beside.label not in times:
            return {}
        name, ours_above = kind.quotient
        pair = times["ours"], times[kind.beside.label]
        ratio, interval = timing.median_ratio(*(pair if ours_above else pair[::-1]))
        return {name: ratio, "ratio_ci95": interval}
    peers = [label for label in ms if label != "ours"]
    if not peers:
        return {}
    best = min(peers, key=ms.__getitem__)
    ratio, interval = timing.median_ratio(times[best], times["ours"])
    return {"best_peer": best, "ratio_to_best_peer": ratio, "ratio_ci95": interval}


def _wrong(probe, right, dtype) -> str | None:
    """Why a result is not to be timed."""
    if right is None or probe is None:
        return None
    off = disagreement(probe, right)
    if off <= TOLERANCES[dtype]:
        return None
    return f"wrong: differs from the formula by {off:.1e} relative, {TOLERANCES[dtype]:.0e} is allowed"


_FIRST_CALL = """
import json, sys, time
began = time.perf_counter()
import meanfield
imported = time.perf_counter()
from meanfield.benchmarks import cases, ours
call, _ = ours.velocity(cases.Case(**json.loads(sys.argv[1])), sys.argv[2])
before = time.perf_counter()
call()
done = time.perf_counter()
ours.small_run(cases.Case(**json.loads(sys.argv[1])), sys.argv[2])
seconds = {"import_ms": imported - began, "ms": done - before, "run_ms": time.perf_counter() - done}
print(json.dumps({name: 1e3 * each for name, each in seconds.items()}))
"""


def _first_call(pool: Pool, case: Case) -> dict[str, Any]:
    """Import, first velocity and first run in new processes that share a new cache: one compiles, the others load."""
    command = [sys.executable, "-P", "-c", _FIRST_CALL, json.dumps(asdict(case)), pool.engine]
    answers: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        variables = {**environment(pool.environment), "NUMBA_CACHE_DIR": folder}
        for _ in range(1 + pool.effort.processes):
            worker = Worker([], variables, command)
            try:
                answers.append(worker.answer(pool.effort.prepare_timeout))
            except WorkerLost as problem:
                return {"skipped": {"ours": str(problem)}}
            finally:
                worker.close()
    cold, *warm = answers
    return {
        "ms": {"ours": statistics.median(each["ms"] for each in warm)},
        "import_ms": statistics.median(each["import_ms"] for each in warm),
        "run_ms": statistics.median(each["run_ms"] for each in warm),
        "cold_ms": cold["ms"],
        "cold_run_ms": cold["run_ms"],
        "rounds": {"ours": len(warm)},
    }


def _peaks(pool: Pool, families, absent, peak: dict[str, Any]) -> None:
    """Largest rate of a matrix product, whoever has it, and of a copy, in this environment or one before."""
    suffix = "" if pool.environment == "default" else f" ({pool.environment})"
    for dtype in TOLERANCES:
        found = peak.setdefault(dtype, {"gflops": 0.0, "who": None, "each": {}})
        for _ in range(2):
            for family in families:
                if family in absent:
                    continue
                name = PEAKS[family]
                time.sleep(pool.effort.rest)
                question = {"do": "matmul", "dtype": dtype, "size": pool.effort.matmul, "calls": 5}
                answer = pool.ask((name, None, name), question, pool.effort.timeout)
                best = max(answer.get("gflops", 0.0), found["each"].get(family + suffix, 0.0))
                if best:
                    found["each"][family + suffix] = best
        if found["each"]:
            found["who"] = max(found["each"], key=found["each"].__getitem__)
            found["gflops"] = found["each"][found["who"]]
        if pool.engine == "cuda":
            answer = pool.ask(("ours", None, "ours"), {"do": "fma", "dtype": dtype, "calls": 5}, pool.effort.timeout)
            found["fma_gflops"] = max(answer.get("gflops", 0.0), found.get("fma_gflops", 0.0))
    copier = "ours" if pool.engine == "cuda" else "numpy"
    answer = pool.ask((copier, None, copier), {"do": "copy", "size": pool.effort.copy, "calls": 5}, 120.0)
    rates = [rate for rate in (peak["copy_gb_per_s"], answer.get("gb_per_s")) if rate is not None]
    peak["copy_gb_per_s"] = max(rates, default=None)


def _absence(family):
    return f"not installed; pip install {PACKAGES.get(family, family)}"


def _describe(families: list[str], on_device: bool) -> dict[str, Any]:
    """The machine: what shaped the numbers."""
    versions = _machine.versions()
    for family in families:
        try:
            versions[family] = metadata.version(PACKAGES.get(family, family))
        except metadata.PackageNotFoundError:
            continue
    blas = [
        {key: library.get(key) for key in ("internal_api", "version", "architecture", "num_threads")}
        for library in threadpool_info()
        if library.get("user_api") == "blas"
    ]
    return {
        "processor": _machine.processor(),
        "cores": cores(),
        "device": engines.doctor()["cuda"] if on_device else None,
        "versions": versions,
        "blas": blas,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
