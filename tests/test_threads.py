"""Threads: those of the engine, those of Python beside each other, and what comes of exceptions in them."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import numba
import numpy as np
import pytest

import meanfield as mf
from meanfield import engines
from meanfield.errors import InputError

TWO = pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="Numba has one thread here")


@pytest.fixture(autouse=True)
def threads_as_they_were():
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


def run(n_particles=3000, seed=0):
    """A run whose evaluations are large enough for the parallel loop."""
    rng = np.random.default_rng(seed)
    problem = mf.Problem(rng.standard_normal((40, 20)), rng.standard_normal(40))
    start = mf.initial.gaussian(n_particles, 20, seed=seed)
    return mf.simulate(mf.Network("tanh"), problem, start, [0.1], scheme="rk4", dt=0.02)


def test_set_num_threads():
    for number in (1, numba.config.NUMBA_NUM_THREADS):
        mf.set_num_threads(number)
        assert numba.get_num_threads() == number


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, "number of threads is 0; needed"),
        (1.5, "number of threads is 1.5; needed"),
        (10_000, f"10000; needed: at most {numba.config.NUMBA_NUM_THREADS}, .* Set NUMBA_NUM_THREADS before starting"),
    ],
)
def test_a_number_of_threads_that_is_not_to_be_had(number, message):
    before = numba.get_num_threads()
    with pytest.raises(InputError, match=message):
        mf.set_num_threads(number)
    assert numba.get_num_threads() == before


def test_side_by_side_calls_each_once_on_one_thread():
    before, seen = numba.get_num_threads(), []

    def note(number):
        seen.append((number, numba.get_num_threads(), threading.get_ident()))

    assert sum(1 for _ in engines.side_by_side(note, [(number,) for number in range(20)])) == 20
    assert sorted(number for number, _, _ in seen) == list(range(20))
    assert {threads for _, threads, _ in seen} == {1}
    assert threading.get_ident() not in {thread for _, _, thread in seen}
    assert numba.get_num_threads() == before, "of the calling thread, which keeps its own"


@TWO
def test_side_by_side_is():
    """Two that wait for each other both end."""
    barrier = threading.Barrier(2, timeout=20.0)
    mf.set_num_threads(2)
    assert sum(1 for _ in engines.side_by_side(barrier.wait, [(), ()])) == 2


def test_side_by_side_on_one_thread_is_caught():
    barrier = threading.Barrier(2, timeout=0.2)
    mf.set_num_threads(1)
    with pytest.raises(threading.BrokenBarrierError):
        list(engines.side_by_side(barrier.wait, [(), ()]))


def test_an_exception_ends_the_others():
    """It comes out as it is, and what has not begun is not begun."""
    begun = []

    def work(number):
        begun.append(number)
        if number == 0:
            raise ZeroDivisionError("this one")
        time.sleep(0.05)

    with pytest.raises(ZeroDivisionError, match="this one"):
        list(engines.side_by_side(work, [(number,) for number in range(100)]))
    assert len(begun) < 50


def test_an_abandoned_generator_ends_the_others():
    begun = []

    def work(number):
        begun.append(number)
        time.sleep(0.02)

    for _ in engines.side_by_side(work, [(number,) for number in range(100)]):
        break
    time.sleep(0.1)
    assert len(begun) < 50


def test_runs_side_by_side_are_the_runs_alone():
    """To the last bit: the sums do not depend on the number of threads."""
    found = {}

    def work(seed):
        found[seed] = run(seed=seed).particles

    list(engines.side_by_side(work, [(0,), (1,), (2,)]))
    for seed in range(3):
        np.testing.assert_array_equal(found[seed], run(seed=seed).particles)


CONCURRENT = """
    import hashlib, threading
    import numba
    import numpy as np
    import meanfield as mf
    {lock}
    rng = np.random.default_rng(0)
    problem = mf.Problem(rng.standard_normal((40, 20)), rng.standard_normal(40))
    start = mf.initial.gaussian(3000, 20, seed=0)
    results = []

    def work():
        for _ in range(5):
            run = mf.simulate(mf.Network("tanh"), problem, start, [0.1], scheme="rk4", dt=0.02)
            results.append(hashlib.sha256(run.particles.tobytes()).hexdigest())

    work()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    print(numba.threading_layer(), len(results), len(set(results)))
"""


def concurrent(layer, lock=""):
    """Three threads of Python, each with parallel loops, in a process with this threading layer."""
    script = textwrap.dedent(CONCURRENT).format(lock=lock)
    variables = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=variables, timeout=300)


@TWO
def test_threads_of_python_may_each_have_a_run():
    """Also on the workqueue layer, which aborts the process where two are in parallel loops at once."""
    done = concurrent("workqueue")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["workqueue", "20", "1"]


@TWO
def test_parallel_loops_that_do_not_take_turns_are_caught():
    lock = "import contextlib; from meanfield.engines import cpu; cpu._parallel = contextlib.nullcontext()"
    done = concurrent("workqueue", lock)
    assert done.returncode != 0 and "Concurrent access has been detected" in done.stderr


LAYER = "import numba, meanfield; print(*numba.config.THREADING_LAYER_PRIORITY)"


@pytest.mark.parametrize(
    ("chosen", "first"), [({}, "omp"), ({"NUMBA_THREADING_LAYER_PRIORITY": "workqueue tbb omp"}, "workqueue")]
)
def test_openmp_comes_first_unless_another_is_chosen(chosen, first):
    variables = {name: value for name, value in os.environ.items() if name != "NUMBA_THREADING_LAYER_PRIORITY"}
    done = subprocess.run(
        [sys.executable, "-c", LAYER], capture_output=True, text=True, env={**variables, **chosen}, check=True
    )
    assert done.stdout.split()[0] == first
