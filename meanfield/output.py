"""Where a run goes and how: a path and its options."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import _checks
from .errors import InputError

SAVE_DTYPES, COMPRESSIONS = ("float64", "float32"), ("none", "blosc2")


@dataclass(frozen=True)
class Output:
    """The file of a run; `simulate(..., out="run.h5")` is `out=Output("run.h5")`.

    path : of the HDF5 file; `run.ckpt`, `run.progress.jsonl` and `run.lock` stand beside `run.h5`
    overwrite : replace a run that is there already
    save_dtype : "float64", or "float32" for half the size; checkpoints stay float64
    velocities : keep d theta / dt with each frame, for `Trajectory.at` between frames
    live : another process may read while this one writes (SWMR)
    checkpoint_seconds : wall time between two checkpoints; there is one at each signal and at the end, too
    compression : "none" (mantissas hardly compress), or "blosc2" with the extra of that name
    config, values : text that is kept word for word, the TOML the run was read from; and what it says, plain data

    Raises InputError on values that do not fit.
    """

    path: Path
    overwrite: bool = False
    save_dtype: str = "float64"
    velocities: bool = False
    live: bool = False
    checkpoint_seconds: float = 60.0
    compression: str = "none"
    config: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        try:
            path = Path(self.path)
        except TypeError:
            raise InputError(f"out is {self.path!r}; needed: a path such as 'run.h5', or an Output.") from None
        if path.suffix != ".h5" or path.is_dir():  # what stands beside it has its name with another ending
            raise InputError(f"out is {str(path)!r}; needed: the name of a file that ends in .h5, such as 'run.h5'.")
        if not path.parent.is_dir():
            raise InputError(f"out is {str(path)!r}, and there is no folder {str(path.parent)!r}; make it first.")
        object.__setattr__(self, "path", path)
        for name, known in (("save_dtype", SAVE_DTYPES), ("compression", COMPRESSIONS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; needed: one of {', '.join(known)}.")
        seconds = _checks.number(self.checkpoint_seconds, "checkpoint_seconds", least=0.0)
        object.__setattr__(self, "checkpoint_seconds", seconds)
        if self.live and self.compression != "none":
            raise InputError("live=True with a compression; needed: one of them.")

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint; `.prev` beside it is the one before."""
        return self.path.with_name(self.path.stem + ".ckpt")

    @property
    def progress(self) -> Path:
        """A line of JSON for each reported step."""
        return self.path.with_name(self.path.stem + ".progress.jsonl")

    @property
    def lock(self) -> Path:
        """Held by the one process that writes."""
        return self.path.with_name(self.path.stem + ".lock")
