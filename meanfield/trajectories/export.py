"""A run's particles in three components, for programs that show molecules."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from .. import _machine
from .._files import ROOM, failure, refuse_full, write_atomically
from ..errors import InputError
from . import reader
from .reader import Trajectory

_CHUNK = 2**15  # particles
_NEEDS = "'pca', or up to three different columns of a particle, such as (0, 1, 2)"


def export(path: str | Path, out: str | Path, project: str | Sequence[int] = (0, 1, 2)) -> None:
    """Write the particles of a run's file as H5MD 1.1 with three components in float32, as MDAnalysis reads it.

        universe = MDAnalysis.Universe.empty(n, trajectory=True)
        universe.load_new("out.h5md", format="H5MD", convert_units=False)

    Parameters
    ----------
    path : of the run's file, or its folder
    out : file to write; one that is there is replaced
    project : columns of a particle, missing ones 0; or "pca": the three principal directions of all frames together
        (largest variance first, the largest entry of each positive), about their mean

    Raises InputError for another projection, and errors of `open`; FileError where `out` cannot be written, or there is
    no room for it.

    Cost: frame by frame; with "pca" each is read twice.
    """
    with reader.open(path) as trajectory:
        out = Path(out)
        if out.exists() and out.samefile(trajectory.path):
            raise InputError(f"out is {out}, the run's own file; needed: another one.")
        turn, centre = _projection(trajectory, project)
        refuse_full(out.parent, _size(trajectory), out)
        try:
            write_atomically(out, lambda temporary: _write(trajectory, turn, centre, temporary))
        except (OSError, RuntimeError) as problem:
            raise failure(out, problem) from problem


def _projection(trajectory: Trajectory, project: str | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(D, 3) and (D,): a particle theta is shown at (theta - centre) turn."""
    width = len(trajectory.components)
    turn = np.zeros((width, 3))
    if isinstance(project, str):
        if project != "pca":
            raise InputError(f"project is {project!r}; needed: {_NEEDS}.")
        if not len(trajectory.particles):
            raise InputError(f"{trajectory.path} holds no particles; needed: some, for their principal directions.")
        centre = np.mean([each.mean(0, dtype=float) for each in trajectory.particles], axis=0)
        spread = np.mean([(each - centre).T @ (each - centre) for each in trajectory.particles], axis=0)
        directions = np.linalg.eigh(spread)[1][:, ::-1][:, :3]
        signs = np.sign(directions[np.abs(directions).argmax(0), range(directions.shape[1])])
        turn[:, : directions.shape[1]] = directions * signs
        return turn, centre
    columns = list(project)
    whole = all(isinstance(each, int | np.integer) and not isinstance(each, bool) for each in columns)
    if not whole or not 0 < len(columns) <= 3 or len(set(columns)) < len(columns):
        raise InputError(f"project is {project!r}; needed: {_NEEDS}.")
    if tuple(columns) == (0, 1, 2):
        columns = columns[:width]
    if not all(0 <= each < width for each in columns):
        raise InputError(f"project is {project!r}, and a particle has the columns 0 to {width - 1}; needed: {_NEEDS}.")
    turn[columns, range(len(columns))] = 1.0
    return turn, np.zeros(width)


def _size(trajectory):
    """Bytes of the file, at most: an entry of HDF5's B-tree takes up to 128 beside its chunk."""
    frames, count = len(trajectory.particles), len(trajectory.kept)
    chunk = min(count, _CHUNK)
    return frames * -(-count // chunk) * (12 * chunk + 128) + 16 * frames + 8 * count + ROOM


def _write(trajectory, turn, centre, path):
    frames, count = trajectory.particles, len(trajectory.kept)
    with h5py.File(path, "w", libver=("earliest", "v108")) as file:
        h5md = file.create_group("h5md")
        h5md.attrs["version"] = np.array((1, 1), np.int32)
        h5md.create_group("author").attrs["name"] = np.bytes_(b"unknown")
        creator = h5md.create_group("creator")
        creator.attrs["name"], creator.attrs["version"] = b"meanfield", np.bytes_(_machine.version("meanfield"))
        group = file.create_group("particles/neurons")
        box = group.create_group("box")
        box.attrs["dimension"], box.attrs["boundary"] = np.int64(3), np.array([b"none"] * 3)
        position = group.create_group("position")
        position["step"], position["time"] = trajectory.particle_steps, trajectory.particle_times
        value = position.create_dataset("value", (len(frames), count, 3), "<f4", chunks=(1, min(count, _CHUNK), 3))
        for row, frame in enumerate(frames):
            value[row] = (frame - centre) @ turn
        group["mass"] = trajectory.masses
