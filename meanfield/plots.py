"""Figures from arrays. Nothing is computed here that a table could want; the only importer of matplotlib."""

from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ._files import write_atomically
from .analysis import Analysis
from .errors import InputError
from .runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MF, _NTK, _LIMIT = "#1f6f9c", "#c8561b", "black"
_RUNS = (_MF, _NTK, "#3f8f4f", "#7a5195", "#8c6d31", "0.4")
MOST_RUNS = len(_RUNS)  # in one figure of `analysis`
_DISTANCES = {
    "w2": (r"$W_2$", "--"), "w2_floor": ("floor of $W_2$", ":"), "w2_upper": (r"$W_2$, upper bound", "--"),
    "w2_lower": (r"$W_2$, lower bound", "-."), "w2_upper_floor": ("floor of the upper", ":"),
    "sliced_w2": (r"sliced $W_2$", "--"), "sliced_w2_floor": ("its floor", ":"),
}  # fmt: skip
_STYLE = {
    "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "legend.fontsize": 6.3, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.3,
    "lines.markersize": 3.5, "legend.frameon": False,
}  # fmt: skip


def curve(run: Run, record: str) -> "Figure":
    """A record of a run against flow time.

    Raises InputError if the run has no such record.
    """
    if record not in run.records:
        raise InputError(f"the run holds no record {record!r}; needed: one of {', '.join(run.records) or 'none'}.")
    with _blank(3.6, 2.6) as figure:
        axes = figure.subplots()
        axes.plot(run.times, run.records[record], color=_MF)
        axes.set(xlabel="flow time t", ylabel=record.replace("_", " "))
        axes.set_title(f"{run.problem.name}, {run.network.activation.name}, N = {len(run.masses)}")
    return figure


def limits(report: Mapping[str, Any], arrays: Mapping[str, Any]) -> "Figure":
    """The main job's figure from `LimitsResult.report` and `.arrays`; its title says what the bands are."""
    rows, problem = report["quantities"], report["problem"]
    with _blank(7.6, 5.0) as figure:
        panels = figure.subplots(2, 3)
        _risk_curves(panels[0, 0], arrays)
        _power_laws(
            panels[0, 1],
            (
                (rows["function_error_mf"], _MF, "o", r"$\alpha=1$, test"),
                (rows["residual_error_ntk_infinite"], _NTK, "s", r"$\sqrt{N}$, train"),
                (rows["residual_error_ntk_own"], _NTK, "^", r"same, own $K$"),
            ),
            "Distance of f to its limit",
            "rms error, sup over t",
        )
        _power_laws(
            panels[0, 2],
            (
                (rows["kernel_drift_mf"], _MF, "o", r"$\alpha=1$"),
                (rows["kernel_drift_ntk"], _NTK, "s", r"$\alpha=\sqrt{N}$"),
            ),
            "Kernel drift",
            r"$\|K_t-K_0\|\,/\,\|K_0\|$ at $t_{\mathrm{end}}$",
        )
        _power_laws(
            panels[1, 0],
            (
                (rows["w2"], _MF, "D", r"$W_2$"),
                (rows["w2_floor"], "0.45", "x", r"its floor"),
                (rows["coupling_distance"], _MF, "o", r"coupling $C_N$"),
            ),
            r"Distance of the cloud, $\alpha=1$",
            "distance",
        )
        _gram(figure, panels[1, 1:], arrays)
        for axes, letter in zip(panels.flat, "abcdef", strict=True):
            axes.set_title(f"({letter}) {axes.get_title()}")
        figure.suptitle(
            f"{problem['name']}, {report['config']['activation']}: n = {problem['n']}, d = {problem['dim']}, "
            f"{report['config']['seeds']} seeds, t to {report['config']['t_end']:g}\n"
            "Bands: 95 % of the seeds in (a), 95 % intervals of the mean in (b-d), where the legends give slopes. "
            f"K: seed 0, N = {report['config']['widths'][-1]}.",
            fontsize=7.5,
        )
    return figure


def analysis(*found: Analysis) -> "Figure":
    """What `analyse` found of one run or several: a panel for each thing that was looked at, runs in colours.

    Risk, kernel drift, the law's and the particles' distances from their start, the balance of energy; and of two runs
    their distance and that of their predictors. What was left out says why.

    Raises InputError without a run, or with more than six.
    """
    if not 1 <= len(found) <= MOST_RUNS or not all(isinstance(each, Analysis) for each in found):
        raise InputError(f"{len(found)} analyses to plot; needed: one to {MOST_RUNS}, each of `analyse`.")
    pairs = [(color, each.between) for color, each in zip(_RUNS, found, strict=False) if each.between is not None]
    own = list(zip(_RUNS, found, strict=False))
    with _blank(7.6 if pairs else 5.2, 4.6) as figure:
        panels = list(figure.subplots(2, 3 if pairs else 2).T.flat)  # column by column
        curves = (
            (own, "Risk", {"risk": ("training", "-"), "test_risk": ("test", "--")}, "risk R", True),
            (own, "Kernel drift", {"kernel_drift": ("", "-")}, r"$\|K_t-K_0\|\,/\,\|K_0\|$", False),
            (own, "Distance from the start", {"displacement": ("displacement", "-"), **_DISTANCES}, "distance", False),
            (own, "Balance of energy", {"energy_residual": ("", "-")}, "residual / change of R", True),
            (pairs, "Distance of two runs", {"coupling_distance": ("coupling", "-"), **_DISTANCES}, "distance", False),
            (pairs, "Difference of F", {"prediction_difference": ("training", "-"),
                                        "test_prediction_difference": ("test", "--")}, "rms difference", False),
        )  # fmt: skip
        for axes, letter, curve in zip(panels, "abcdef", curves, strict=False):
            _over_time(axes, *curve)
            axes.set_title(f"({letter}) {curve[1]}")
        panels[0].yaxis.set_minor_formatter(_plain_ticks())
        panels[0].yaxis.set_major_formatter("{x:g}")
        title = "; ".join(each.label for _, each in pairs) or found[0].label
        figure.suptitle(fill(title, 110 if pairs else 75), fontsize=7.5)
        if len(found) > 1:
            from matplotlib.lines import Line2D

            lines = [Line2D([], [], color=color) for color, _ in own]
            figure.legend(lines, [each.label for each in found], loc="outside lower center", ncols=3)
    return figure


def save(figure: "Figure", path: str | Path) -> None:
    """Write a figure atomically, in the format of the path's suffix; InputError for a suffix that is no format."""
    kind = check_path(path)
    write_atomically(Path(path), lambda temporary: figure.savefig(temporary, dpi=200, format=kind))


def check_path(path: str | Path) -> str:
    """The format that a figure's path names by its suffix; InputError for a suffix that is no format."""
    from matplotlib.backend_bases import FigureCanvasBase

    formats, kind = FigureCanvasBase.get_supported_filetypes(), Path(path).suffix.removeprefix(".").lower()
    if kind not in formats:
        raise InputError(f"the figure's path is {str(path)!r}; needed: a suffix of {', '.join(sorted(formats))}.")
    return kind


@contextmanager
def _blank(width: float, height: float):
    """An empty figure in the house style. Not of pyplot: figures are files here, without a screen or global state."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(cast(Any, _STYLE)):
        yield Figure(figsize=(width, height), layout="constrained")


def _over_time(axes: "Axes", runs, title: str, styles: Mapping[str, tuple[str, str]], ylabel: str, log: bool) -> None:
    """Series of some analyses against flow time; why they are missing where they are."""
    named, drawn = set(), False
    for color, found in runs:
        for name, (label, line) in styles.items():
            if name not in found.series:
                continue
            values = found.series[name]
            if name == "energy_residual":
                change = np.abs(found.series["energy_change"])
                values = np.abs(values) / np.where(change > 0.0, change, np.nan)
            there = np.isfinite(values) & (values > 0.0 if log else True)
            # The solid line broad and pale, for W2 is often equal to the displacement, and a single time as a mark.
            broad = line == "-" and ylabel == "distance"
            marker = {"-": "o", "--": "x", ":": "_", "-.": "+"}[line] if there.sum() < 3 else None
            axes.plot(
                found.times[there], values[there], line, color=color, marker=marker, alpha=0.45 if broad else 1.0,
                linewidth=2.6 if broad else 1.3, label=label if label and name not in named else None,
            )  # fmt: skip
            named, drawn = named | {name}, drawn or bool(there.any())
    axes.set(xlabel="flow time t", ylabel=ylabel)
    low, high = (pick(each.times[end] for _, each in runs) for pick, end in ((min, 0), (max, -1)))
    if low < high:
        axes.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    if drawn:
        axes.set_yscale("log" if log else "linear")
        if not log:
            axes.set_ylim(bottom=0.0)
        if len([name for name in named if styles[name][0]]) > 1:
            axes.legend(
                loc="best", handlelength=2.0, frameon=True, framealpha=0.85, edgecolor="none", facecolor="white"
            )
        return
    reasons = [found.skipped[name] for _, found in runs for name in styles if name in found.skipped]
    axes.set(xticks=[], yticks=[])
    said = fill(f"left out: {reasons[0]}" if reasons else "nothing to show", 34)
    axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center", fontsize=6.3)


def _risk_curves(axes: "Axes", arrays: Mapping[str, Any]) -> None:
    widths, times = arrays["widths"], arrays["times"]
    shown = (0, len(widths) - 1)
    for regime, color, label in (("mf", _MF, r"$\alpha=1$"), ("ntk", _NTK, r"$\alpha=\sqrt{N}$")):
        curves = arrays["curves"][regime]
        for shade, w in zip((0.45, 1.0), shown, strict=True):
            risks = curves["risk"][:, w]
            low, high = np.percentile(risks, [2.5, 97.5], axis=0)
            axes.fill_between(times, low, high, color=color, alpha=0.12 * shade, linewidth=0)
            axes.plot(times, risks.mean(axis=0), color=color, alpha=shade, label=f"{label}, N = {widths[w]}")
        style = "--" if regime == "mf" else ":"
        axes.plot(times, curves["risk_limit"], style, color=_LIMIT, label=f"{label}, limit")
    axes.set(xlabel="flow time t", ylabel="training risk R", title="Risk along the flow", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(_plain_ticks())
    axes.legend(loc="best", handlelength=1.8)


def _power_laws(axes: "Axes", series, title: str, ylabel: str) -> None:
    for row, color, marker, label in series:
        widths, mean = np.array(row["widths"]), np.array(row["mean"])
        if len(widths) == 0:
            continue
        if row["slope"] is None:
            axes.plot(widths, mean, marker, color=color, label=label)
            continue
        low, high = np.array(row["mean_ci95"]).T
        interval = "[{}, {}]".format(*map(_rounded, row["slope_ci95"]))
        face = "white" if marker in "^D" else color
        axes.fill_between(widths, low, high, color=color, alpha=0.2, linewidth=0)
        axes.plot(
            widths,
            mean,
            marker,
            color=color,
            label=f"{label}: {_rounded(row['slope'])} {interval}",
            markerfacecolor=face,
        )
        axes.plot(widths, np.exp(row["intercept"]) * widths ** row["slope"], color=color, linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="width N", ylabel=ylabel, title=title)
    axes.set_xticks(_widths_of(series), labels=[f"{w:g}" for w in _widths_of(series)])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** (0.13 * len(series)))  # room for the legend above the points
    axes.legend(loc="upper right", handlelength=1.0, handletextpad=0.4, borderaxespad=0.0)


def _rounded(slope: float) -> str:
    return f"{round(slope, 2) + 0.0:.2f}"  # no "-0.00"


def _widths_of(series) -> list[int]:
    """All widths of the rows in a panel."""
    return sorted({width for row, *_ in series for width in row["widths"]})


def _plain_ticks():
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "2346" else "")


def _gram(figure: "Figure", panels, arrays: Mapping[str, Any]) -> None:
    labels = arrays["problem"]["labels"]
    order = np.argsort(labels, kind="stable")
    before, after = (arrays["gram_mf"][when][np.ix_(order, order)] for when in ("before", "after"))
    top = float(np.percentile(np.abs(after), 99.5))
    classes, starts = np.unique(labels[order], return_index=True)
    middles = (starts + np.append(starts[1:], len(labels))) / 2 - 0.5
    for axes, gram, when in zip(panels, (before, after), ("t = 0", f"t = {arrays['times'][-1]:g}"), strict=True):
        axes.imshow(gram, cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
        axes.set_title(rf"$K(x,x')$, $\alpha=1$, {when}")
        axes.set_xticks(middles, labels=[f"{c}" for c in classes])
        axes.set_yticks(middles, labels=[f"{c}" for c in classes])
        axes.tick_params(length=0)
        axes.set_xlabel("inputs by class")
        axes.set_ylabel("inputs by class")
    figure.colorbar(panels[-1].images[0], ax=list(panels), shrink=0.85, pad=0.02, label="K", extend="both")
