"""Tables from the results of `run`: plain text for a terminal, Markdown for the pages."""

from collections.abc import Sequence
from typing import Any

_TITLES = {
    "velocity": "Velocity: ratio is best peer / ours, above 1 where ours is faster",
    "tangent_kernel": "Tangent kernel: ratio is best peer / ours",
    "population": "Velocity on the population risk: ratio is best peer / ours",
    "jvp": "Motion of f along a velocity: time over that of one velocity evaluation",
    "threads": "Threads: speed-up of two threads over one",
    "simulate_step": "One Euler step within `simulate`",
    "simulate_rk4": "A run of ten steps by `simulate`, rk4: time over that of its evaluations of the velocity",
    "simulate_dopri5": "A run of some ten steps by `simulate`, dopri5: time over that of its evaluations",
    "first_call": "First velocity in a new process, once another has compiled it, and before",
}


def text(report: dict[str, Any]) -> str:
    """Everything, for a terminal."""
    blocks = [_facts(report)]
    for kind in _kinds(report):
        header, rows = _table(report, kind)
        cells = [header, *rows]
        sizes = [max(len(row[i]) for row in cells) for i in range(len(header))]
        lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, sizes, strict=True)).rstrip() for row in cells]
        lines.insert(1, "  ".join("-" * size for size in sizes))
        blocks.append([_title(kind), "", *lines])
    blocks.append(_skipped(report))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def markdown(report: dict[str, Any]) -> str:
    """Everything, for a page."""
    blocks = [[f"- {line}" for line in _facts(report)]]
    for kind in _kinds(report):
        header, rows = _table(report, kind)
        rule = ["---"] * len(header)
        lines = ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]
        blocks.append([f"**{_title(kind)}.**", "", *lines])
    blocks.append([f"- {line}" for line in _skipped(report)])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _kinds(report) -> list[str]:
    return list(dict.fromkeys(row["kind"] for row in report["cases"]))


def _title(kind: str) -> str:
    return _TITLES.get(kind, kind)


def _facts(report) -> list[str]:
    machine, peak = report["machine"], report["peak"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    blas = ", ".join(f"{each['internal_api']} {each['version']} ({each['architecture']})" for each in machine["blas"])
    lines = [
        f"{machine.get('device') or machine['processor']}, {machine['cores']} cores; {machine['date'][:10]}; "
        f"engine {report['engine']}",
        versions + (f"; BLAS of NumPy: {blas}" if blas else ""),
    ]
    for dtype in ("float32", "float64"):
        found = peak.get(dtype)
        if found and found["who"]:
            each = ", ".join(f"{who} {rate:.0f}" for who, rate in found["each"].items())
            lines.append(f"matrix product, {dtype}: peak {found['gflops']:.0f} GFLOP/s by {found['who']} ({each})")
        if found and found.get("fma_gflops"):
            lines.append(f"multiplications with additions, {dtype}: {found['fma_gflops']:.0f} GFLOP/s")
    above = [row["name"] for row in report["cases"] if (row["percent_of_peak"] or 0.0) > 100.0]
    if above:
        lines.append(
            "above the peak as measured, which a busy machine makes too low (then no percentage is to be trusted): "
            + ", ".join(dict.fromkeys(above))
        )
    if peak["copy_gb_per_s"]:
        lines.append(f"copy, read and written: {peak['copy_gb_per_s']:.1f} GB/s")
    return lines


def _table(report, kind) -> tuple[list[str], list[list[str]]]:
    rows = [row for row in report["cases"] if row["kind"] == kind]
    several = len({row["environment"] for row in report["cases"]}) > 1
    head = ["n, N, d", "activation", "dtype"]
    cells: list[list[str]] = []
    for row in rows:
        cells.append([f"{row['n']}, {row['N']}, {row['d']}", row["activation"], row["dtype"]])
        if several:
            cells[-1].append(row["environment"])
    head += ["environment"] if several else []
    columns = _COLUMNS.get(kind, _COLUMNS["velocity"])
    if any(row.get("floor_ms") for row in rows):
        columns = (
            *columns,
            ("floor, ms", lambda row: _milliseconds(row.get("floor_ms"))),
            ("% of FMA rate", lambda row: _number(row.get("percent_of_fma"))),
        )
    if kind == "velocity" and any(row.get("peak_rss_over_state") is not None for row in rows):
        columns = (*columns, ("memory / state", lambda row: _number(row.get("peak_rss_over_state"), "{:.2f}")))
    if any(row.get("device_memory_over_state") is not None for row in rows):
        columns = (
            *columns,
            ("device memory / state", lambda row: _number(row.get("device_memory_over_state"), "{:.2f}")),
        )
    for row, line in zip(rows, cells, strict=True):
        line += [show(row) for _, show in columns]
    return head + [name for name, _ in columns], cells


def _skipped(report) -> list[str]:
    lines = [f"skipped {family}: {reason}" for family, reason in report["absent"].items()]
    found: dict[tuple[str, str], list[str]] = {}
    for row in report["cases"]:
        for peer, reason in row["skipped"].items():
            found.setdefault((peer, reason), []).append(f"{row['name']} ({row['environment']})")
    for (peer, reason), names in found.items():
        where = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        lines.append(f"skipped {peer} in {where}: {reason}")
    return lines


def _number(value, form: str = "{:.3g}") -> str:
    return "-" if value is None else form.format(value)


def _milliseconds(value) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _interval(key):
    def show(row):
        if row.get(key) is None:
            return "-"
        low, high = row["ratio_ci95"]
        return f"{row[key]:.2f} [{low:.2f}, {high:.2f}]"

    return show


def _others(row) -> str:
    others: Sequence[tuple[str, float]] = sorted(
        ((label, ms) for label, ms in row["ms"].items() if label not in ("ours", row["best_peer"])),
        key=lambda pair: pair[1],
    )
    return ", ".join(f"{label} {_milliseconds(ms)}" for label, ms in others) or "-"


_OURS = ("ours, ms", lambda row: _milliseconds(row["ms"].get("ours")))
_PEERS = (
    _OURS,
    ("best peer, ms", lambda row: f"{row['best_peer']} {_milliseconds(row['ms'].get(row['best_peer']))}"
     if row["best_peer"] else "-"),
    ("ratio [95 %]", _interval("ratio_to_best_peer")),
)  # fmt: skip
_RUN = (
    ("run, ms", _OURS[1]),
    ("evaluations, ms", lambda row: _milliseconds(row["ms"].get("evaluations"))),
    ("ratio [95 %]", _interval("ratio_to_evaluations")),
)
_COLUMNS = {
    "simulate_rk4": _RUN,
    "simulate_dopri5": _RUN,
    "velocity": (*_PEERS, ("% of peak", lambda row: _number(row["percent_of_peak"])), ("others, ms", _others)),
    "tangent_kernel": (*_PEERS, ("others, ms", _others)),
    "jvp": (_OURS, ("velocity, ms", lambda row: _milliseconds(row["ms"].get("velocity"))),
            ("ratio [95 %]", _interval("ratio_to_velocity"))),
    "threads": (("one thread, ms", lambda row: _milliseconds(row["ms"].get("one thread"))),
                ("two threads, ms", _OURS[1]), ("speed-up [95 %]", _interval("speedup_over_one_thread"))),
    "simulate_step": (("us", lambda row: _number(None if "ours" not in row["ms"] else 1e3 * row["ms"]["ours"])),),
    "first_call": (("first call, ms", _OURS[1]), ("import, ms", lambda row: _milliseconds(row.get("import_ms"))),
                   ("first run after, ms", lambda row: _milliseconds(row.get("run_ms"))),
                   ("both where nothing is kept on disk, ms", lambda row: " + ".join(
                       _milliseconds(row.get(key)) for key in ("cold_ms", "cold_run_ms")))),
}  # fmt: skip
