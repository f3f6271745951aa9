"""What `meanfield verify`, `info` and `repair` do with a run's file."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time as clock
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil

from .. import _checks
from .._files import link_or_copy, write_atomically
from ..errors import FileError, FormatError, InputError
from . import reader, schema, views, writer
from .reader import Trajectory

_START = 60.0  # seconds that a fresh interpreter may take to import the package
_CHILD = "import sys; from meanfield.trajectories import inspection; inspection.child(*sys.argv[1:])"


@dataclass(frozen=True)
class Report:
    """A file all of which was read, and is whole.

    rows : of each series, with their CRC
    torn : rows at the end that were half written
    seconds : that reading took
    """

    path: str
    status: str
    rows: dict[str, int]
    torn: int
    bytes: int
    seconds: float


def verify(path: str | Path, seconds: float = 10.0, max_bytes: float = 2 * 2**30) -> Report:
    """Read every byte of a run's file in a process of its own, which has little time and little memory.

    Raises
    ------
    InputError
        If there is no such file, or another process is writing it.
    FormatError
        If it does not follow the format, a row does not have its CRC, or reading it takes more than `seconds` or
        `max_bytes`, or ends the process.
    """
    seconds = _checks.number(seconds, "seconds", above=0.0)
    max_bytes = _checks.number(max_bytes, "max_bytes", above=0.0)
    own = {"PYTHONPATH": os.pathsep.join(each for each in sys.path if each), "HDF5_PLUGIN_PRELOAD": "::"}  # no plugins
    command = [sys.executable, "-P", "-c", _CHILD, os.fspath(Path(path).absolute()), repr(seconds), repr(max_bytes)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **own}, timeout=seconds + _START
        )
    except subprocess.TimeoutExpired:
        raise FormatError(
            f"{path} was not read within {seconds:g} s; needed: more seconds=, or another file."
        ) from None
    if done.returncode == -signal.SIGALRM:
        raise FormatError(f"{path} was not read within {seconds:g} s; needed: more seconds=, or another file.")
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        what = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
        raise FormatError(f"{path} ends the process that reads it ({what}); needed: a file as it was written.")
    said = json.loads(lines[-1])
    if "error" in said:
        raise (FormatError if said["format"] else InputError)(said["error"])
    return Report(**said | {"path": os.fspath(path)})


def child(path: str, seconds: str, max_bytes: str) -> None:
    """The process of `verify`: one line of JSON."""
    limit_process(float(seconds), float(max_bytes))
    try:
        said = asdict(_read_all(Path(path), float(max_bytes)))
    except InputError as problem:
        said = {"error": str(problem), "format": isinstance(problem, FormatError)}
    except MemoryError:
        said = {"error": f"{path} needs more than {float(max_bytes):g} bytes; needed: more max_bytes=.", "format": True}
    print(json.dumps(said), flush=True)
    os._exit(0)  # HDF5 has nothing left to do, and could fail doing it


def limit_process(seconds: float, max_bytes: float) -> None:
    """From here on: so many bytes more, so many seconds, and no core file. Where there is no `resource`, nothing."""
    with contextlib.suppress(ImportError):
        import resource

        there = psutil.Process().memory_info().vms
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (there + int(max_bytes), there + int(max_bytes)))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # HDF5 is in the way of Python's own handlers
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _read_all(path, max_bytes):
    begin = clock.perf_counter()
    with reader.open(path, max_bytes=max_bytes) as trajectory:
        counts = trajectory.check()
        seconds = clock.perf_counter() - begin
        return Report(str(path), trajectory.status, counts, trajectory.torn, trajectory.path.stat().st_size, seconds)


def info(path: str | Path) -> dict[str, Any]:
    """What one wants to know of a run's file, as plain data; errors as in `open`."""
    with reader.open(path) as trajectory:
        return views.summary(trajectory)


def repair(path: str | Path) -> int:
    """Write a run's file again without the half-written rows at its end; how many these were.

    A file that was written with live=True and killed becomes a plain one. The old file stays, as `<name>.torn`. Where
    there is nothing to repair, nothing is written.

    Raises
    ------
    InputError, FormatError
        As `open`; and if a row before the end is damaged, or `<name>.torn` is there already.
    FileError
        If there is no room for a second file.
    """
    with reader.open(path) as trajectory:
        path = trajectory.path
        trajectory.check()
        if not trajectory.torn and not trajectory.live:
            return 0
        aside = path.with_name(path.name + ".torn")
        if aside.exists():
            raise InputError(f"{aside} is there already; needed: another name for it.")
        write_atomically(path.with_name(path.name + ".whole"), lambda temporary: _copy(trajectory, temporary))
        dropped = trajectory.torn
    try:
        link_or_copy(path, aside)  # a second name first: at no moment is there none
        os.replace(path.with_name(path.name + ".whole"), path)
    except OSError as problem:
        raise FileError(problem.errno or 5, f"{path} could not be replaced ({problem.strerror})") from problem
    return dropped


def _copy(trajectory: Trajectory, path: Path) -> None:
    """All of a file but its torn rows; FormatError unless the copy has the digest of the original."""
    contents = trajectory.contents
    fixed = contents.fixed
    arrays = {name: value for name, value in fixed.items()
              if "@" not in name and not name.startswith("/parameters") and name != _PROVENANCE}  # fmt: skip
    compression = "blosc2" if trajectory.filtered else "none"
    config = contents.text("/parameters/config")
    writer.create(path, contents.series, arrays, contents.settings, config=config, compression=compression)
    with h5py.File(path, "r+", libver=("earliest", "v108")) as file:
        del file[_PROVENANCE]
        file[_PROVENANCE] = np.asarray(fixed[_PROVENANCE])
        for name in (each for each in fixed if "@" in each and each not in schema.CHANGING):
            where, _, attribute = name.partition("@")
            file[where].attrs.create(attribute, np.asarray(fixed[name]))
        growing = {each for one in contents.series for each in one.paths}
        digest = schema.text(schema.digest(schema.fixed(file, growing)))
        if digest.tobytes() != bytes(fixed[_DIGEST]):
            raise FormatError(f"{trajectory.path} has something that cannot be written again; nothing was changed.")
        where, _, attribute = _DIGEST.partition("@")
        file[where].attrs.create(attribute, digest)
    copy = writer.Writer(path, contents.series)
    copy.begin({each.name: 0 for each in contents.series}, contents.state)
    for name, step, time, row in trajectory.rows():
        copy.append(name, step, time, row)
    copy.close(contents.state)


_PROVENANCE, _DIGEST = "/meanfield/provenance", "/meanfield/integrity@digest"
