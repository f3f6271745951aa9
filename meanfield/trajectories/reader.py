"""(placeholder while the strict reader is written)"""

import json
from pathlib import Path
from typing import Any

import h5py

from . import schema, settings


class Trajectory:
    def __init__(self, path, activation, loss):
        self.path = Path(path)
        self._file = h5py.File(path, "r")
        f = self._file
        self.settings = json.loads(f["/parameters/settings"][()])
        state = schema.unseal(f["/meanfield"].attrs["state"])
        assert state is not None
        self.state = state
        self.network = settings.network(
            self.settings, activation if "own" in self.settings["network"]["activation"] else None
        )
        arrays = {name: f["/meanfield/problem"][name][()] for name in f["/meanfield/problem"]}
        self.problem = settings.problem(
            self.settings, arrays, loss if "own" in self.settings["problem"]["loss"] else None
        )
        self.start, self.start_masses = f["/meanfield/start"][()], f["/meanfield/start_masses"][()]

    def rows(self, name):
        return len(self._file[f"/meanfield/integrity/{name}"])

    def close(self):
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *rest):
        self.close()

    def datasets(self):
        found = {}
        self._file.visititems(lambda n, o: found.__setitem__(n, o[()]) if isinstance(o, h5py.Dataset) else None)
        return found


def open(path, *, activation=None, loss=None, max_bytes=None) -> Any:
    return Trajectory(path, activation, loss)
