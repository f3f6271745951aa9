"""A file of schema 1 that was written once: every later version reads it, to the bit, and what it holds was right.

tests/make_golden.py wrote it and its numbers.
"""

import hashlib
import json
import shutil
from pathlib import Path

import h5py
import make_golden
import numpy as np
import oracle
import pytest

import meanfield as mf
from meanfield.errors import FormatError

DATA = Path(__file__).parent / "data"
PATH, NUMBERS = DATA / "run-schema-1.h5", DATA / "run-schema-1.json"
DIGESTS = {
    PATH: "6a8f04965f71a942ce334c29f403c52ad3797e7ef6d75122cd710a694ce000bc",
    NUMBERS: "9cfcb9a62b6230cfe373a1be98088c0d6f677fc3f050fc0e95bf456999ccf2ab",
}
ROUNDING = 1e-13  # of sums over 5 particles or 6 data of numbers of order 1


def golden():
    """Arrays of the JSON, by path in the file."""
    found = json.loads(NUMBERS.read_text())
    return {name: np.array(each["values"], each["dtype"]).reshape(each["shape"]) for name, each in found.items()}


@pytest.mark.parametrize("path", DIGESTS, ids=lambda path: path.name)
def test_it_is_what_it_was(path):
    """Byte for byte: whoever writes it anew breaks what it is there for."""
    assert hashlib.sha256(path.read_bytes()).hexdigest() == DIGESTS[path]


def same(path, expected):
    """Whether the strict reader gives every value of a file as expected: frames, records and what does not grow."""
    with mf.open(path) as run:
        run.check()
        found = {
            **run.contents.fixed,
            "/step": run.step_numbers, "/time": run.times, "/record_time": run.record_times,
            "/particles/neurons/position/value": run.particles, "/particles/neurons/velocity/value": run.velocities,
            "/observables/predictions/value": run.predictions,
            "/observables/test_predictions/value": run.test_predictions,
            **{f"/observables/{name}/value": values for name, values in run.records.items()},
        }  # fmt: skip
        found = {name[1:]: np.asarray(value) for name, value in found.items() if name[1:] in expected}
    # Steps and times under each element are hard links to those of the series; CRCs were held against the rows.
    rest = {name for name in expected if name not in found and not name.endswith(("/step", "/time"))}
    assert rest <= {"record_step", "meanfield/integrity/frames", "meanfield/integrity/records"}, rest
    return all(each.shape == expected[name].shape and np.array_equal(each, expected[name])
               for name, each in found.items())  # fmt: skip


def test_it_is_read_to_the_bit():
    """By this version's reader, and by h5py alone with every type, shape and hard link."""
    expected = golden()
    assert len(expected) > 30 and same(PATH, expected)
    assert make_golden.numbers(PATH) == json.loads(NUMBERS.read_text())


def test_another_number_is_seen(tmp_path):
    """One digit, the last, of one number expected; one bit of the file."""
    for name in ("observables/risk/value", "particles/neurons/velocity/value", "meanfield/problem/weights", "time"):
        expected = golden()
        expected[name].flat[1] = np.nextafter(expected[name].flat[1], 9.0)
        assert not same(PATH, expected), name
    shutil.copy(PATH, tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        file["observables/risk/value"][1] += 1e-9
    with pytest.raises(FormatError, match="row 1 of its records"):
        same(tmp_path / "run.h5", golden())


def test_it_was_right():
    """Predictions, risk, velocities and displacement are those of its particles, by the oracle: rounding, 1e-13; a
    velocity with the factor of 2 of another convention is not."""
    at, (phi, alpha) = golden(), (oracle.ACTIVATIONS["tanh"], 2.0)
    masses, weights = at["particles/neurons/mass"], at["meanfield/problem/weights"]
    inputs, targets = at["meanfield/problem/inputs"], at["meanfield/problem/targets"]
    shared = dict(zip(at["observables/risk/time"], range(7), strict=True))
    met, worst = 0, 0.0
    for k, time in enumerate(at["observables/predictions/time"]):
        theta = at["particles/neurons/position/value"][k]
        predictions = oracle.predict(phi, theta, masses, inputs, alpha)
        tests = oracle.predict(phi, theta, masses, at["meanfield/problem/test_inputs"], alpha)
        velocity = oracle.velocity(phi, theta, masses, inputs, targets, weights, alpha, (1.0, 0.5))
        pairs = [
            (predictions, at["observables/predictions/value"][k]), (tests, at["observables/test_predictions/value"][k]),
            (velocity, at["particles/neurons/velocity/value"][k]),
        ]  # fmt: skip
        if time in shared:
            met += 1
            risk = oracle.risk(phi, theta, masses, inputs, targets, weights, alpha)
            moved = np.sqrt(sum(m * ((row - start) ** 2).sum() for m, row, start in zip(
                masses, theta, at["meanfield/start"], strict=True)))  # fmt: skip
            pairs += [(risk, at["observables/risk/value"][shared[time]]),
                      (moved, at["observables/displacement/value"][shared[time]])]  # fmt: skip
        worst = max(worst, *(np.abs(one - other).max() for one, other in pairs))
        assert np.abs(2 * velocity - pairs[2][1]).max() > 0.01
    print(f"\nworst difference {worst:.1e}")
    assert met == 3 and worst < ROUNDING


def test_the_script_does_not_write_it_again(tmp_path):
    """Either file there, and it ends with an error and leaves it."""
    for suffix in (".h5", ".json"):
        (tmp_path / f"{make_golden.NAME}{suffix}").write_text("old")
        with pytest.raises(SystemExit, match="stay as they are"):
            make_golden.main(tmp_path)
        assert (tmp_path / f"{make_golden.NAME}{suffix}").read_text() == "old"
