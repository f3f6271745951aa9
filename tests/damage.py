"""Damaged and hostile files and configs at the sizes of docs/reliability.md: each a function (folder, count) -> counts.

What is done to a file, and what is right, stands in test_hostile_files and test_config.
"""

import test_config
import test_hostile_files as files
from run_files import write


def mutations(folder, count):
    """Bits flipped, parts cut off or overwritten in the file of a run, each read strictly in another process."""
    write(folder / "run.h5", **files.SMALL)
    found = files.tally(folder / "run.h5", count, "strict")
    names = {"error": "typed errors", "right": "read as written", "crash": "crashes", "hang": "hangs"}
    counts = {said: found.pop(name, 0) for name, said in names.items()}
    wrong = found.pop("wrong", 0) + found.pop("torn", 0)
    return {"tried": count, **counts, "silently different": wrong, "other errors": sum(found.values())}


def configs(folder, count):
    """Valid configs with one to three changes."""
    found, parsed, built = test_config.holes(count, seed=7)
    return {"tried": count, "parsed": parsed, "built": built, "holes": len(found)}


def hostile(folder, count):
    """One file of each kind, read in another process."""
    said, _, peak = files.read_elsewhere(files.hostile_files(folder))
    wrong = [name for name, (found, _) in said.items() if not found.startswith("FormatError ")]
    return {
        "tried": len(said), "not refused": len(wrong), "peak of the process, MB": round(peak),
        "ms of the slowest": round(1e3 * max(seconds for _, seconds in said.values())),
    }  # fmt: skip


ATTEMPTS = {each.__name__: each for each in (mutations, configs, hostile)}
