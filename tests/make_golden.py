"""Writes the file that every later version has to read: tests/data/run-schema-1.h5, and its numbers as JSON.

    python tests/make_golden.py FOLDER

Run once for a schema, and never again: what is there is not replaced. test_golden.py reads it.
"""

import json
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

import meanfield as mf
from meanfield.trajectories import schema

NAME = f"run-schema-{schema.SCHEMA}"


def run(path):
    """N = 5 particles with masses, d = 2, n = 6 data with weights, 2 test points, 4 frames, 7 records, velocities."""
    rng = np.random.default_rng(20)
    inputs, targets = rng.standard_normal((8, 2)), rng.standard_normal(8)
    problem = mf.Problem(
        inputs[:6], targets[:6], rng.uniform(0.5, 1.5, 6), test_inputs=inputs[6:], test_targets=targets[6:],
        labels=[2, 0, 1, 2, 0, 1], name="golden",
    )  # fmt: skip
    network = mf.Network("tanh", mf.Scaling(alpha=2.0, mobility_w=0.5))
    mf.simulate(
        network, problem, mf.initial.gaussian(5, 2, seed=21), [0.0, 0.5, 1.0, 2.0],
        masses=rng.dirichlet(np.ones(5)), record=["risk", "displacement"], record_times=np.arange(7) / 3,
        out=mf.Output(path, velocities=True),
    )  # fmt: skip


def numbers(path):
    """Every dataset of a file by each of its paths: type, shape, and values, floats with all their digits."""
    found = {}

    def see(group, above):
        for name, entry in group.items():
            if isinstance(entry, h5py.Group):
                see(entry, f"{above}{name}/")
            else:
                values = [each.decode() if isinstance(each, bytes) else each for each in np.ravel(entry[()]).tolist()]
                found[above + name] = {"dtype": entry.dtype.str, "shape": list(entry.shape), "values": values}

    with h5py.File(path, "r") as file:
        see(file, "")
    return found


def main(folder):
    places = [Path(folder) / f"{NAME}{suffix}" for suffix in (".h5", ".json")]
    if there := [str(each) for each in places if each.exists()]:
        sys.exit(f"{' and '.join(there)} stay as they are: what they are for is that they do not change.")
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "run.h5"
        run(made)
        places[0].write_bytes(made.read_bytes())
    write_numbers(*places)


def write_numbers(path, out):
    """The JSON of a file's numbers, a dataset in each line."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(numbers(path).items())]
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/data")
