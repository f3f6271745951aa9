"""What a run on file survives. CI sizes here; MEANFIELD_PROMISES=full, or `python tests/reliability.py`, for the full.

Each promise is tried in processes of its own: `survival`.
"""

import os
import signal

import numba
import numpy as np
import pytest
import survival
from on_file import same
from test_resume import CASES, chain

import meanfield as mf
from meanfield.simulation import resume

FULL = os.environ.get("MEANFIELD_PROMISES") == "full"
LINUX = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")


def counted(name, folder, size, full):
    found = survival.attempt(name, folder, full if FULL else size)
    if "skipped" in found:
        pytest.skip(f"no small disk here: {found['skipped']}")
    return found


def none_of(found, *names):
    assert {name: found[name] for name in names} == dict.fromkeys(names, 0), found


def test_no_flushed_row_is_lost_to_sigkill(tmp_path):
    found = counted("kills", tmp_path, 10, 100)
    none_of(found, "rows lost", "unreadable")
    assert found["rows told"] > 10 * found["tried"]


def test_killed_and_resumed_is_never_killed(tmp_path):
    """SHA-256 of every dataset, and the counts of steps and velocities."""
    found = counted("chains", tmp_path, 10, 100)
    none_of(found, "failed", "different")
    assert found["tried"] >= 10


def test_a_signal_waits_for_a_checkpoint(tmp_path):
    found = counted("signals", tmp_path, 6, 50)
    none_of(found, "wrong exit", "later than one step", "different")
    assert found["over before"] < found["tried"]


def test_a_full_disk_is_an_error_and_no_loss(tmp_path):
    found = counted("full", tmp_path, 4, 16)
    none_of(found, "ended by a signal", "other error", "rows lost", "different")
    assert found["rows told"] > 10 * found["tried"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    none_of(counted("read_only", tmp_path, 1, 1), "other error", "different")


def test_a_folder_that_goes_is_an_error(tmp_path):
    none_of(counted("removed", tmp_path, 2, 20), "ended by a signal", "other error")


@LINUX
def test_memory_does_not_grow_with_frames(tmp_path):
    """Peaks within 2 %; the frames of the longest run would be far more. A run in memory shows that it is seen."""
    frames = (10, 1000, 10_000) if FULL else (10, 1500)
    found = [survival.attempt("memory", tmp_path, each) for each in frames if not (tmp_path / "run.h5").unlink(True)]
    peaks = [each["peak"] for each in found]
    assert found[-1]["bytes of frames"] > 0.1 * peaks[0]
    assert max(peaks) < 1.02 * min(peaks), found


def test_many_runs_in_one_process_leave_nothing_behind(tmp_path):
    """Less than 1 % more memory after all than after a quarter of them."""
    found = counted("leak", tmp_path, 60, 200)
    assert found["growth"] < 0.01, found


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="Numba has one thread here")
def test_the_number_of_threads_changes_no_bit(tmp_path):
    rng = np.random.default_rng(0)
    problem = mf.Problem(rng.standard_normal((40, 20)), rng.standard_normal(40))
    start, before = mf.initial.gaussian(3000, 20, seed=0), numba.get_num_threads()
    try:
        for number in (1, 2):
            mf.set_num_threads(number)
            mf.simulate(mf.Network("tanh"), problem, start, [0.1, 0.3], out=tmp_path / f"{number}.h5", record=["risk"])
        mf.set_num_threads(1)
        resume(tmp_path / "2.h5", times=[0.1, 0.3, 0.5])
        mf.set_num_threads(2)
        resume(tmp_path / "1.h5", times=[0.1, 0.3, 0.5])
    finally:
        mf.set_num_threads(before)
    same(tmp_path / "1.h5", tmp_path / "2.h5")


@pytest.mark.parametrize("name", ["dopri5", "rk4", "temperature"])
def test_a_step_at_a_time_is_all_at_once(name, tmp_path):
    """A process for each step, as it were, against one run."""
    case = CASES[name]
    case.run(tmp_path / "whole.h5")
    assert chain(case, tmp_path / "parts.h5", shortest=1, longest=1, every=1) > 15
    same(tmp_path / "whole.h5", tmp_path / "parts.h5")


# That these tests can fail


def test_a_crash_and_a_damaged_row_are_counted(tmp_path):
    """A child that ends by SIGSEGV, and a file of which one number is changed afterwards, in its last row."""
    assert survival.attempt("faults", tmp_path, 1) == {"ended": -signal.SIGSEGV, "ran": 0, "rows lost": 1}
