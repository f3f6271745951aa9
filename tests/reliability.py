"""Tries the promises about runs on file at their full sizes and writes docs/reliability.md. Run by hand.

    python tests/reliability.py               all of them
    python tests/reliability.py kills leak    these; the others stay as they were
    python tests/reliability.py --page        the page alone, from what was counted before

What is counted goes to docs/reliability.json, one entry for each promise. Other trials add theirs there: an entry in
TRIALS (what is promised, what is run, sizes, a function that prints the result), or in the JSON by a script of their
own (see `Row`).
"""

import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import damage
import numpy as np
import survival

from meanfield import _machine

DOCS = Path(__file__).resolve().parent.parent / "docs"
STORE, PAGE = DOCS / "reliability.json", DOCS / "reliability.md"


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    promise: str
    run: str
    count: str
    result: str
    date: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Trial:
    """What is promised, what is run, with which sizes, and how what came of it is said."""

    promise: str
    run: str
    sizes: tuple[int, ...]
    said: Callable[[list[dict]], tuple[str, str]]  # what was counted -> count, result


def _counted(unit):
    """The number tried, and every number that should be 0 by its name."""

    def said(found):
        (only,) = found
        if "skipped" in only:
            return "0", f"not run: {only['skipped']}"
        rest = [f"{name} {only[name]:,}" for name in only if name not in ("tried", "which")]
        return f"{only['tried']} {unit}", "; ".join(rest)

    return said


def _peaks(found):
    peaks = [each["peak"] / 2**20 for each in found]
    frames = ", ".join(f"{each['frames']:,}" for each in found)
    held = found[-1]["bytes of frames"] / 2**20
    return (
        f"T = {frames}",
        f"peaks {', '.join(f'{each:.1f}' for each in peaks)} MiB, {max(peaks) / min(peaks) - 1:.2%} apart; the last "
        f"run's frames: {held:.0f} MiB",
    )


def _grown(found):
    (only,) = found
    return f"{only['tried']} runs, each resumed", f"resident memory {only['growth']:+.2%} from run 50 to the last"


def _cost(found):
    (only,) = found
    ratios, shares = np.array(only["ratios"]), np.array(only["shares"])
    return (
        f"{only['tried']} pairs by turns",
        f"writing over the rest {np.median(shares):.2%}, from {shares.min():.2%} to {shares.max():.2%}; ratio of wall "
        f"times {np.median(ratios):.3f}, from {ratios.min():.3f} to {ratios.max():.3f}; without a file "
        f"{min(only['seconds']):.0f} to {max(only['seconds']):.0f} s",
    )


TRIALS = {
    "kills": Trial(
        "a flushed row is never lost to a killed process",
        "SIGKILL at random moments of a run of many small frames and records; plain h5py, CRC of each row",
        (100,), _counted("kills")),
    "chains": Trial(
        "resumed is bit for bit never stopped",
        "runs of seven kinds, SIGKILL at random moments and resume until they end; SHA-256 of every dataset",
        (100,), _counted("kills")),
    "signals": Trial(
        "SIGINT, SIGTERM: a checkpoint within one step",
        "either at a random moment; exit by that signal; resumed: SHA-256 of every dataset",
        (50,), _counted("signals")),
    "full": Trial(
        "a full disk is one clear error, and no loss",
        "tmpfs of 1.2 to 7 MiB, frames of 23 and 94 KiB; exit, rows; resumed with more room: SHA-256",
        (16,), _counted("disks")),
    "read_only": Trial(
        "a folder that cannot be written is one clear error",
        "tmpfs mounted read-only: a new run, and the rest of a killed one; writable again: SHA-256",
        (2,), _counted("runs")),
    "removed": Trial(
        "a folder that goes is one clear error", "removed in mid run", (20,), _counted("runs")),
    "memory": Trial(
        "memory does not grow with frames",
        "N = 1000, 1 + d = 3, the peak of a process of its own", (10, 1000, 10_000), _peaks),
    "leak": Trial("runs leave nothing behind", "runs on file in one process", (200,), _grown),
    "cost": Trial(
        "writing costs under 5 %",
        "N = 1e5, d = 10, n = 300, dopri5, 21 frames and the risk, default cadence; wall time in the sink over that of "
        "the rest, and the run's over that of one in memory, which keeps the last particles", (5,), _cost),
    "mutations": Trial(
        "a damaged file is a typed error, or read as it was written",
        "bits flipped, parts cut off or overwritten at random in the file of a run; all of it read, in a process of "
        "its own; within 10 s", (10_000,), _counted("files")),
    "hostile": Trial(
        "a file made to harm is a typed error, in little memory",
        "links, virtual data, other filters, false shapes and types, bombs, nests, in files of runs and in checkpoints",
        (1,), _counted("files")),
    "configs": Trial(
        "a config is what it says, or refused by the name of a field",
        "valid configs with one to three random changes; what parses is held against what was given, its JSON and the "
        "schema, and built where it is small", (10_000,), _counted("configs")),
}  # fmt: skip

NOT_PROMISED = """\
## What is not promised

- The same bits on another type of processor, with other versions of Numba, NumPy or the BLAS, or on another engine.
- Anything beyond the last checkpoint after a power failure: rows are flushed to the system, checkpoints synced to the
  disk.
- Reading a run while it is written, unless it was started with `live=True`.
- A clean end where HDF5 itself meets a full disk. The free space is looked at before each row; a quota, or another
  process that takes it in between, is not seen. What was flushed is there even then.
"""


def page(rows):
    """The page: a table of the rows, and what is not promised."""
    lines = [
        "# Reliability", "",
        "What a run on file survives, as counted by `python tests/reliability.py`; the tests run smaller sizes.", "",
        "| promise | what was run | count | result | date |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    lines += [f"| {each.promise} | {each.run} | {each.count} | {each.result} | {each.date} |" for each in rows.values()]
    versions = ", ".join(f"{name} {version}" for name, version in _machine.versions().items())
    where = f"{_machine.processor()}, {os.cpu_count()} cores in part used by others; {versions}."
    return "\n".join([*lines, "", where, "", NOT_PROMISED])


def stored():
    """Rows by name, as they were counted last, in the order of TRIALS; what others added follows."""
    found = json.loads(STORE.read_text()) if STORE.exists() else {}
    order = [name for name in TRIALS if name in found] + [name for name in found if name not in TRIALS]
    return {name: Row(**found[name]) for name in order}


def main(names):
    for name in names:
        trial, found, began = TRIALS[name], [], time.perf_counter()
        for size in trial.sizes:
            with tempfile.TemporaryDirectory() as folder:
                here = damage.ATTEMPTS.get(name)
                found.append(here(Path(folder), size) if here else survival.attempt(name, folder, size))
        spent = round(time.perf_counter() - began, 1)
        rows = stored()  # anew: another process may have added its own
        rows[name] = Row(trial.promise, trial.run, *trial.said(found), str(datetime.date.today()), spent)
        print(f"{name}: {rows[name].count}: {rows[name].result} ({spent} s)", flush=True)
        STORE.write_text(json.dumps({name: asdict(each) for name, each in rows.items()}, indent=1) + "\n")
    PAGE.write_text(page(stored()))


if __name__ == "__main__":
    given = sys.argv[1:]
    main([] if given == ["--page"] else given or list(TRIALS))
