"""The benchmark: its statistics, who is refused, skipped or lost, and tiny runs end to end. No wall time is asserted.

Engine "reference" stands in where the engine does not matter: it has nothing to compile.
"""

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import oracle
import pytest

from meanfield import cli, engines
from meanfield.benchmarks import cases, ours, peers, processes, report, run, timing
from meanfield.benchmarks.cases import Case
from meanfield.errors import InputError

TINY = run.Effort(rounds=(3, 3), seconds=0.01, rest=0.0, matmul=64, copy=2**16)
SMALL = Case("velocity", 20, 130, 3, "float64", "tanh")  # three tiles of particles, the last one not full
ROW_KEYS = {
    "name", "kind", "n", "N", "d", "dtype", "activation", "environment", "ms", "best_peer", "ratio_to_best_peer",
    "ratio_ci95", "percent_of_peak", "skipped", "first_call_ms", "rounds",
}  # fmt: skip


@pytest.fixture(scope="module")
def result():
    chosen = [SMALL, replace(SMALL, kind="jvp"), replace(SMALL, kind="tangent_kernel")]
    return run.run(peers="numpy", cases=chosen, effort=TINY)


def test_a_run_end_to_end(result):
    """Every key that the page documents, numbers where there must be some, and a file that JSON accepts."""
    assert json.loads(json.dumps(result, allow_nan=False))["schema"] == run.SCHEMA
    assert {"processor", "cores", "versions", "blas", "date"} <= set(result["machine"])
    for dtype in engines.DTYPES:
        peak = result["peak"][dtype]
        assert peak["gflops"] == max(peak["each"].values()) == peak["each"][peak["who"]] > 0
    assert result["peak"]["copy_gb_per_s"] > 0
    velocity, jvp, kernel = result["cases"]
    for row in result["cases"]:
        assert set(row) >= ROW_KEYS and not row["skipped"] and row["ms"]["ours"] > 0
    for row in (velocity, kernel):
        low, high = row["ratio_ci95"]
        assert row["best_peer"] in ("numpy", "numpy-tiled") and low <= row["ratio_to_best_peer"] <= high
        assert row["ratio_to_best_peer"] == pytest.approx(row["ms"][row["best_peer"]] / row["ms"]["ours"])
        assert set(row["rounds"].values()) == {3}
    share = velocity["flops"] / (1e-3 * velocity["ms"]["ours"]) / (1e9 * result["peak"]["float64"]["gflops"])
    assert velocity["flops"] == 4 * 20 * 130 * 3 and velocity["percent_of_peak"] == pytest.approx(100 * share)
    assert jvp["ratio_to_velocity"] == pytest.approx(jvp["ms"]["ours"] / jvp["ms"]["velocity"])


def test_the_tables_show_it(result):
    """Both forms hold every case, and the Markdown of each table has as many cells in every row."""
    printed, page = report.text(result), report.markdown(result)
    for row in result["cases"]:
        assert f"{row['n']}, {row['N']}, {row['d']}" in printed and f"{row['n']}, {row['N']}, {row['d']}" in page
    for table in page.split("\n\n"):
        widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_every_case_can_be_run():
    """Each kind has its operation, each peer its code, each activation its formula in NumPy; names are unique."""
    for case in cases.CASES:
        for each in cases.contenders(case, cases.PEERS):
            assert case.kind == "first_call" or each.worker != "ours" or each.operation in ours.OPERATIONS
            assert each.worker == "ours" or each.worker in peers.CONTENDERS
        assert case.kind != "velocity" or callable(peers._numpy_both(np, math.erf, case.activation))
        assert set(case.environments) <= set(cases.ENVIRONMENTS)
    assert len({case.name for case in cases.CASES}) == len(cases.CASES)
    assert {case.kind for case in cases.CASES if case.quick} >= {"velocity", "jvp", "simulate_step", "first_call"}


@pytest.mark.parametrize("activation", ["relu", "tanh", "erf", "softplus"])
def test_what_is_expected_is_the_oracles(activation):
    """The formulas that contenders are held against, against plain Python floats."""
    case = replace(SMALL, n=5, N=7, activation=activation)
    particles, inputs, targets = cases.data(case)
    masses, weights = np.full(7, 1 / 7), np.full(5, 1 / 5)
    right = oracle.velocity(oracle.ACTIVATIONS[activation], particles, masses, inputs, targets, weights)
    assert cases.disagreement(cases.expected(case), right) < 1e-13
    right = oracle.kernel(oracle.ACTIVATIONS[activation], particles, masses, inputs)
    assert cases.disagreement(cases.expected(replace(case, kind="tangent_kernel")), right) < 1e-13


PRESENT = [
    pytest.param(
        peer,
        marks=pytest.mark.skipif(importlib.util.find_spec(family) is None, reason=f"{family} is not installed"),
    )
    for family, members in cases.FAMILIES.items()
    for peer in members
    if peer != "torch-compile"  # which compiles C++ for half a minute; a run checks its numbers too
]


@pytest.mark.parametrize("peer", PRESENT)
def test_peers_compute_the_same(peer):
    """Each peer that is installed, every activation, both dtypes."""
    operations = peers.CONTENDERS[peer]()
    for operation in ("velocity", "tangent_kernel"):
        for activation in ("relu", "tanh", "erf", "softplus"):
            for dtype, tolerance in cases.TOLERANCES.items():
                case = replace(SMALL, kind=operation, activation=activation, dtype=dtype)
                if operation in operations:
                    call, probe = operations[operation](case)
                    assert cases.disagreement(probe(call()), cases.expected(case)) < tolerance


def test_a_wrong_contender_is_refused():
    """Planted: a sign, a factor 1 + 1e-6 in float64, a missing row, a NaN; the right one passes."""
    right = cases.expected(SMALL)
    assert right is not None and run._wrong(right.tolist(), right, "float64") is None
    spoilt = right.copy()
    spoilt[0, 0] = np.nan
    for bad in (-right, right * (1 + 1e-6), right[1:], spoilt):
        assert "wrong: differs from the formula" in (run._wrong(bad.tolist(), right, "float64") or "")


def test_a_wrong_contender_is_not_timed(monkeypatch):
    """The same, in a run: with other numbers expected, all contenders go to `skipped` and no ratio is formed."""
    right = cases.expected(SMALL)
    assert right is not None
    monkeypatch.setattr(run, "expected", lambda case: 2.0 * right)
    (row,) = run.run("reference", "numpy", cases=[SMALL], effort=TINY)["cases"]
    assert (
        set(row["skipped"]) == {"ours", "numpy", "numpy-tiled"}
        and row["ms"] == {}
        and row["ratio_to_best_peer"] is None
    )
    assert "wrong: differs" in row["skipped"]["numpy"]


def test_the_interval_covers():
    """A known ratio of 1.5 under noise that the rounds share: covered in about 95 of 100 sets, 9 rounds each."""
    random = np.random.default_rng(0)
    covered, sets = 0, 200
    for _ in range(sets):
        drift = np.exp(0.2 * random.standard_normal(9))
        above = 1.5 * drift * np.exp(0.03 * random.standard_normal(9))
        below = drift * np.exp(0.03 * random.standard_normal(9))
        _, (low, high) = timing.median_ratio(above.tolist(), below.tolist())
        covered += low <= 1.5 <= high
    assert covered >= 0.9 * sets


def test_the_interval_is_exact_without_noise():
    """Drift alone, however large, leaves the ratio known exactly; without pairs it would not be."""
    drift = np.exp(np.random.default_rng(1).standard_normal(9))
    ratio, interval = timing.median_ratio((3 * drift).tolist(), drift.tolist())
    assert [ratio, *interval] == pytest.approx([3, 3, 3])
    _, (low, high) = timing.median_ratio((3 * drift).tolist(), drift[::-1].tolist())
    assert high - low > 0.1


def test_who_is_hopeless():
    """After three rounds, twice the best peer's time in all of them; never ours, never one slow round."""
    times = {"ours": [9.0] * 3, "a": [1.0] * 3, "b": [2.5] * 3, "c": [9.0, 9.0, 1.5], "d": [9.0] * 2}
    assert timing.hopeless(times, "ours") == {"b"}


def test_an_absent_peer_is_skipped_by_name(monkeypatch):
    """Planted: no jax; it is named with what to do, and the run goes on."""
    found = importlib.util.find_spec
    monkeypatch.setattr(run.util, "find_spec", lambda name: None if name == "jax" else found(name))
    result = run.run("reference", ["jax"], cases=[SMALL], effort=TINY)
    assert list(result["absent"]) == ["jax"] and "pip install" in result["absent"]["jax"]
    assert result["cases"][0]["best_peer"] in ("numpy", "numpy-tiled")
    assert "skipped jax: not installed" in report.text(result)


def test_a_dead_worker_is_skipped():
    """Killed between questions: the reason is named, a second worker takes over, after two deaths none does."""
    key = ("numpy", None, "numpy")
    question = {"do": "matmul", "dtype": "float64", "size": 8, "calls": 1}
    with run.Pool("cpu", "default", TINY) as pool:
        for _ in range(2):
            assert pool.ask(key, question, 60)["gflops"] > 0
            pool.workers[key]._process.kill()
            assert "its process died (signal 9)" in pool.ask(key, question, 60)["skip"]
        assert "given up" in pool.ask(key, question, 60)["skip"]


def test_last_words_and_silence():
    """A worker that fails says why; one that is silent is ended."""
    worker = processes.Worker([], dict(os.environ), [sys.executable, "-c", "raise SystemExit('no such luck')"])
    with pytest.raises(processes.WorkerLost, match=r"exit code 1\): no such luck"):
        worker.answer(60)
    worker.close()
    worker = processes.Worker([], dict(os.environ), [sys.executable, "-c", "import time; time.sleep(600)"])
    with pytest.raises(processes.WorkerLost, match="no answer within 0 s"):
        worker.answer(0.01)
    assert worker._process.returncode is not None


def test_what_a_worker_cannot_do_is_a_reason():
    """An unknown operation, a size that is no size: answers, not deaths."""
    with run.Pool("cpu", "default", TINY) as pool:
        key = ("numpy", None, "numpy")
        small = json.loads(json.dumps(vars(SMALL)))
        question = {"do": "prepare", "case": small, "operation": "jvp"}
        assert pool.ask(key, question, 60) == {"skip": "has no jvp"}
        question = {"do": "matmul", "dtype": "float64", "size": -1, "calls": 1}
        assert "negative dimensions" in pool.ask(key, question, 60)["skip"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_command(number, tmp_path):
    """Stopped or killed in the middle, the command leaves no process behind: workers end with their input."""
    children = tmp_path / "children"
    program = (
        "import json, time; from meanfield.benchmarks import run\n"
        "pool = run.Pool('cpu', 'default', run.FULL)\n"
        "question = {'do': 'matmul', 'dtype': 'float64', 'size': 8, 'calls': 1}\n"
        "assert 'gflops' in pool.ask(('numpy', None, 'numpy'), question, 60)\n"
        f"open({str(children)!r}, 'w').write(str([w._process.pid for w in pool.workers.values()][0]))\n"
        "print('there', flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None and parent.stdout.readline() == b"there\n"
    parent.send_signal(number)
    parent.wait(20)
    child = int(children.read_text())
    for _ in range(200):
        if not _alive(child):
            break
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"  # a zombie waits only for its new parent
    except FileNotFoundError:
        return False


def test_peers_get_the_users_environment(monkeypatch):
    """What the engine sets for itself is taken out; what the user set is kept; huge pages join other tunables."""
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
    assert processes.environment("hugetlb")["GLIBC_TUNABLES"] == "glibc.malloc.check=3:glibc.malloc.hugetlb=1"
    assert processes.environment("default", 1)["NUMBA_NUM_THREADS"] == "1"
    program = (
        "import os; import meanfield; from meanfield.benchmarks import processes\n"
        "print(os.environ.get('OMP_WAIT_POLICY'), processes.environment('default').get('OMP_WAIT_POLICY'))\n"
    )
    for given, seen in ((None, "None"), ("active", "active")):
        started_with = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        started_with |= {"OMP_WAIT_POLICY": given} if given else {}
        done = subprocess.run(
            [sys.executable, "-c", program], env=started_with, capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.split()[1] == seen


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--peers", "touch"], "unknown peer 'touch'. Did you mean 'torch'? Known: jax, numpy, torch."),
        (["--engine", "gpu"], "unknown engine 'gpu'. "),
        (["--json", "no/such/folder.json"], "needed: the name of a file in a folder that exists"),
    ],
)
def test_bad_input(arguments, complaint, monkeypatch, capsys):
    """One sentence and exit code 2, before any work."""
    monkeypatch.setattr(sys, "argv", ["meanfield", "bench", *arguments])
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.EXIT_BAD_INPUT and complaint in capsys.readouterr().err


def test_the_command_writes_its_numbers(monkeypatch, capsys, tmp_path):
    """`meanfield bench --json FILE`: tables on the terminal, the same numbers in the file."""
    monkeypatch.setattr(run, "CASES", [replace(SMALL, quick=True), replace(SMALL, n=21)])
    monkeypatch.setattr(run, "QUICK", TINY)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    path = tmp_path / "here.json"
    command = ["meanfield", "bench", "--quick", "--engine", "reference", "--peers", "numpy"]
    monkeypatch.setattr(sys, "argv", [*command, "--json", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    written = json.loads(path.read_text())
    assert ended.value.code == 0 and [row["n"] for row in written["cases"]] == [20]
    assert report.text(written) in capsys.readouterr().out


def test_peers_are_chosen():
    """All by default; NumPy always; no others than there are."""
    assert run.check_peers(None) == ["numpy", "torch", "jax"]
    assert run.check_peers("jax") == ["numpy", "jax"]
    with pytest.raises(InputError, match="unknown peer"):
        run.check_peers("jax,cupy")
    with pytest.raises(InputError, match="peers is ''; needed: of numpy, torch, jax"):
        run.check_peers("")
    assert run.check_peers(None, "cuda") == ["torch", "jax", "cupy"]
    with pytest.raises(InputError, match="unknown peer"):
        run.check_peers("numpy", "cuda")


def test_the_command_line_starts_without_peers():
    """Neither `meanfield --help` nor a run's own process imports PyTorch or JAX."""
    program = "import sys, meanfield.cli, meanfield.benchmarks.run; print({'torch', 'jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
