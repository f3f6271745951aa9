"""How a trajectory is shown: a line, a table for notebooks, a Dataset of xarray."""

from html import escape
from typing import Any

import numpy as np

from .. import _memory
from ..errors import InputError
from .frames import Frames


def line(trajectory: Any) -> str:
    """One line, like that of a Run."""
    t = trajectory
    how = "" if t.stopped_by in (None, "time") else f"stopped by {t.stopped_by}, "
    torn = f"{t.torn} torn rows dropped, " if t.torn else ""
    risk = f"final risk {_risks(t, [-1])[0]:.4g}, " if len(t.times) else ""
    return (
        f"Trajectory({t.settings['problem'].get('name')!r}, {_activation(t)}, N={len(t.start)}, alpha={_alpha(t):g}, "
        f"{_span(t)}, {len(t.times)} frames, {t.scheme}: {t.steps} steps on {t.engine} ({t.dtype}), {t.status}, "
        f"{how}{torn}{risk}{t.seconds:.2f} s)"
    )


def summary(trajectory: Any) -> dict[str, Any]:
    """What one wants to know of a file, as plain data."""
    t = trajectory
    return {
        "path": str(t.path), "bytes": t.path.stat().st_size, "status": t.status, "stopped_by": t.stopped_by,
        "torn": t.torn, "resumed": t.resumed, "changes": t.changes, "problem": t.settings["problem"].get("name"),
        "activation": _activation(t), "alpha": _alpha(t), "particles": len(t.start), "kept": len(t.kept),
        "components": list(t.components), "data": t.predictions.shape[1], "test_data": t.test_predictions.shape[1],
        "frames": len(t.times),
        "times": [float(each) for each in t.times[[0, -1]]] if len(t.times) else [],
        "velocities": t.velocities is not None, "records": list(t.records), "record_rows": len(t.record_times),
        "stored_as": str(t.particles.dtype), "scheme": t.scheme, "engine": t.engine, "dtype": t.dtype, "steps": t.steps,
        "rejected": t.rejected, "evaluations": t.evaluations, "seconds": t.seconds,
        "final_risk": float(_risks(t, [-1])[0]) if len(t.times) else None, "provenance": t.provenance,
    }  # fmt: skip


def html(trajectory: Any) -> str:
    """A table, and the risk over time as a line: at 60 frames at most."""
    t = trajectory
    rows = {
        "file": f"{t.path} ({_memory.size(t.path.stat().st_size)})",
        "status": t.status + (f", {t.torn} torn rows dropped" if t.torn else ""),
        "problem": t.settings["problem"].get("name"), "network": f"{_activation(t)}, alpha = {_alpha(t):g}",
        "particles": f"{t.particles.shape} {t.particles.dtype}", "times": f"{_span(t)}, {len(t.times)} frames",
        "integration": f"{t.scheme}: {t.steps} steps on {t.engine} ({t.dtype}), {t.seconds:.2f} s",
        "records": ", ".join(t.records),
    }  # fmt: skip
    cells = "".join(f"<tr><th>{name}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items() if value)
    return f"<table>{cells}{_sparkline(t)}</table>"


def _sparkline(t):
    if len(t.times) < 2:
        return ""
    chosen = np.unique(np.linspace(0, len(t.times) - 1, min(60, len(t.times))).astype(int))
    risks, times = np.array(_risks(t, chosen)), t.times[chosen]
    if not np.isfinite(risks).all():
        return ""
    x = 2 + 196 * (times - times[0]) / (times[-1] - times[0])
    y = 38 - 36 * (risks - risks.min()) / (np.ptp(risks) or 1.0)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    drawn = f'<polyline points="{points}" fill="none" stroke="currentColor"/>'
    said = f"{risks[0]:.4g} to {risks[-1]:.4g}"
    return f'<tr><th>risk</th><td><svg width="200" height="40">{drawn}</svg> {said}</td></tr>'


def _risks(t, rows):
    problem = "/meanfield/problem/"
    targets, weights = (t.contents.fixed[problem + each] for each in ("targets", "weights"))
    return [float(weights @ (targets - t.predictions[int(row)]) ** 2) for row in rows]


def _span(t):
    return f"t={t.times[0]:g}..{t.times[-1]:g}" if len(t.times) else "no frames"


def _activation(t):
    said = t.settings["network"].get("activation", {})
    return next((str(said[each]) for each in ("name", "family", "own") if each in said), "?")


def _alpha(t):
    return float(t.settings["network"].get("scaling", {}).get("alpha", np.nan))


def dataset(trajectory: Any) -> Any:
    """An xarray.Dataset whose variables are read, and checked, when they are used."""
    try:
        import xarray  # pyright: ignore[reportMissingImports]
        from xarray.backends import BackendArray  # pyright: ignore[reportMissingImports]
        from xarray.core import indexing  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError("to_xarray needs xarray; needed: pip install 'meanfield[xarray]'.") from None

    class Lazy(BackendArray):
        def __init__(self, frames: Frames):
            self.frames, self.shape, self.dtype = frames, frames.shape, frames.dtype

        def __getitem__(self, key):
            basic = indexing.IndexingSupport.BASIC
            return indexing.explicit_indexing_adapter(key, self.shape, basic, self.frames.__getitem__)

    def lazy(frames):
        return indexing.LazilyIndexedArray(Lazy(frames)) if isinstance(frames, Frames) else frames

    t = trajectory
    moving = "last_step" if t.settings["run"]["keep"] == "last" else "step"
    variables = {
        "particles": ((moving, "particle", "component"), lazy(t.particles)),
        "predictions": (("step", "datum"), lazy(t.predictions)), "residuals": (("step", "datum"), lazy(t.residuals)),
        "mass": (("particle",), t.masses),
    }  # fmt: skip
    if t.velocities is not None:
        variables["velocities"] = ((moving, "particle", "component"), lazy(t.velocities))
    if t.test_predictions.shape[1]:
        variables["test_predictions"] = (("step", "test_datum"), lazy(t.test_predictions))
    variables |= {name: (("record_step",), values) for name, values in t.records.items()}
    coordinates = {
        "step": t.step_numbers, "time": ("step", t.times), "particle": t.kept, "component": list(t.components),
        "datum": np.arange(t.predictions.shape[1]),
    }  # fmt: skip
    if t.records:
        coordinates |= {"record_step": t.record_steps, "record_time": ("record_step", t.record_times)}
    if moving == "last_step":
        coordinates["last_time"] = ("last_step", t.particle_times)
    return xarray.Dataset(variables, coordinates, {"path": str(t.path), "status": t.status})
