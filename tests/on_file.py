"""Runs on file as tests see them: everything a file holds, by plain h5py."""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np

import meanfield as mf

# When and by whom a run was begun is in the file too.
OF_THE_PROCESS = "meanfield/provenance"
COUNTED = ("status", "stopped_by", "steps", "rejected", "evaluations")


def state(path):
    """How far a run is, as its file says it (docs/format.md)."""
    with h5py.File(path) as file:
        return json.loads(bytes(file["meanfield"].attrs["state"]).rpartition(b" ")[0])


def digests(path):
    """SHA-256 of type, shape and bytes of every dataset of a run, and what its state counts."""
    found = {}

    def see(name, entry):
        if isinstance(entry, h5py.Dataset) and name != OF_THE_PROCESS:
            value = entry[()]
            raw = f"{value.dtype.str} {value.shape} ".encode() + np.ascontiguousarray(value).tobytes()
            found[name] = hashlib.sha256(raw).hexdigest()

    with h5py.File(path) as file:
        file.visititems(see)
    now = state(path)
    return found | {name: now[name] for name in COUNTED}


def differing(one, other):
    """Names of what two files do not share."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def same(one, other):
    """Whether two runs are the same bit for bit; the message says where they are not."""
    assert not (found := differing(digests(one), digests(other))), f"{Path(one).name}, {Path(other).name}: {found}"


def problem(seed=1, weights=True):
    """12 training and 5 test points of the plane."""
    rng = np.random.default_rng(seed)
    inputs, targets = rng.standard_normal((17, 2)), rng.standard_normal(17)
    shares = rng.uniform(0.5, 1.5, 12) if weights else None
    return mf.Problem(inputs[:12], targets[:12], shares, test_inputs=inputs[12:], test_targets=targets[12:])
