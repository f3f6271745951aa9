"""The command line: options in, files and tables out. Exit codes: 0, 2 bad input, 74 files, 70 a failed
computation, 130/143 signals."""

import json
import logging
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import _machine, activations, batches, engines, integrators, losses, stopping
from .._files import discard_temporaries, write_atomically
from ..diagnostics import DIAGNOSTICS
from ..errors import ConvergenceError, DeviceError, DivergenceError, InputError, StepLimitError
from ..experiments import limits as job
from ..trajectories import discard_parts, write_arrays
from . import analyse, files, runs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Two-layer networks as clouds of particles: finite N against the mean-field and NTK limits.",
)
QUICK = {"widths": (64, 128, 256, 512), "seeds": 8}
FILES = ("limits.png", "limits.h5", "limits.json")
WORK = ".limits-parts"  # folder beside them, while they are not there yet
EXIT_BAD_INPUT, EXIT_FAILED, EXIT_FILES = 2, 70, 74


app.command("run")(runs.run_command)
app.command("resume")(runs.resume_command)
app.command("watch")(runs.watch_command)
app.command("analyse")(analyse.analyse_command)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and log more.")] = False,
) -> None:
    if version:
        typer.echo(_machine.version("meanfield"))
        raise typer.Exit
    if debug:
        logging.basicConfig(level=logging.DEBUG)


@app.command("limits")
def limits_command(
    problem: Annotated[str, typer.Option(help=f"One of: {', '.join(job.PROBLEMS)}.")] = "fashion-mnist",
    activation: Annotated[str | None, typer.Option(help="Name of an activation; default: the problem's own.")] = None,
    widths: Annotated[
        str | None, typer.Option(help="Ladder of N, as 64,128,256. Default: 64 to 2048; with cuda, to 1048576.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of paired seeds. Default: 16.")] = None,
    t_end: Annotated[float | None, typer.Option(help="Last flow time; default: the problem's own.")] = None,
    engine: Annotated[str, typer.Option(help=f"One of: {', '.join(engines.NAMES)}.")] = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help=f"One of: {', '.join(engines.DTYPES)}. Default: float64; with cuda, float32.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Shifts every random number.")] = 0,
    out: Annotated[Path, typer.Option(help=f"Folder for {', '.join(FILES)}.")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Replace results that are there already.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin again, where else it goes on from what a stopped job had finished.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Widths 64 to 512, 8 seeds: too few for some verdicts.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print limits.json instead of the table.")] = False,
) -> None:
    """Run finite N against both limits: print a table, write a figure, arrays and numbers.

    Stopped, even by SIGKILL, it goes on where it was when the same command is given again.

    Under a minute on two cores. alpha = 1 is held against the mean-field limit, alpha = sqrt(N) against
    the NTK limit; each row of the table is fitted over all widths, with a 95 % bootstrap interval over seeds.
    """
    given: dict[str, Any] = dict(QUICK) if quick else {}
    given |= {"problem": problem, "activation": activation, "t_end": t_end}
    given |= {"engine": engine, "dtype": dtype, "seed": seed}
    if widths is not None:
        given["widths"] = _widths(widths)
    if seeds is not None:
        given["seeds"] = seeds
    settings = job.Settings(**given)
    _claim(out, force)
    _working.append(out / WORK)
    result = job.run(settings, progress=True, work=out / WORK, fresh=fresh, tell=_tell)
    _write(out, result)
    if result.parts is not None:
        discard_parts(result.parts)
    if as_json:
        typer.echo(_json(result.report))
    else:
        typer.echo(table(result.report))
        typer.echo(f"\nwrote {', '.join(str(out / name) for name in FILES)}")


_QUICK_CLAIMS = """A third to a half of the seeds, without the largest sizes and smallest steps (N to 512, not 2048);
F11 and F33 in fewer settings. Wider intervals: some rows cannot tell."""


@app.command("claims")
def claims_command(
    only: Annotated[str | None, typer.Option(help="Some of F01 to F50, with commas. Default: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help=_QUICK_CLAIMS)] = False,
    out: Annotated[Path | None, typer.Option(help="Write the table, with sources, into this Markdown file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that holds more rows.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON instead of the table.")] = False,
) -> None:
    """What the literature states, row by row, and what is measured here: intervals, verdicts, seconds.

    Under half an hour on two cores, --quick under five minutes. With --out the rows there are so far are in the file
    of that name and .part, until all are measured.
    """
    from ..experiments import claims

    names = [each.strip() for each in only.split(",")] if only else []
    if out is not None:
        _check_page(out, len(claims.chosen(names)), force)

    def keep(rows, path):
        write_atomically(path, lambda each: each.write_text(claims.page(rows, quick, names), encoding="utf-8"))

    part = None if out is None else out.with_name(out.name + ".part")
    rows = claims.run(
        names, quick, lambda claim: typer.echo(f"{claim.name} {claim.statement}", err=True),
        after_each=lambda rows: keep(rows, part) if part is not None else None,
    )  # fmt: skip
    if out is not None and part is not None:
        keep(rows, out)
        part.unlink()
    if as_json:
        typer.echo(_json(claims.report(rows, quick)))
    else:
        typer.echo(claims.table(rows))
        counts = claims.summary(rows)
        typer.echo("\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()), err=True)


@app.command("list")
def list_command(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """What there is to choose from, here and in Python: by name, or a function of the module in brackets."""
    tables = {
        "activations": list(activations.ACTIVATIONS),
        "(activations)": list(activations.FAMILIES),
        "losses": list(losses.LOSSES),
        "problems": list(job.PROBLEMS),
        "schemes": list(integrators.SCHEMES),
        "engines": list(engines.NAMES),
        "dtypes": list(engines.DTYPES),
        "records": list(DIAGNOSTICS),
        "(stopping)": list(stopping.CRITERIA),
        "(batches)": list(batches.BATCHES),
    }
    if as_json:
        typer.echo(_json(tables))
    else:
        for name, entries in tables.items():
            typer.echo(f"{name + ':':15}{', '.join(entries)}")


@app.command("doctor")
def doctor_command(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Versions, threads, threading layer, and whether CUDA is seen."""
    report = {**_machine.versions(), **engines.doctor(), "processor": _machine.processor(), "cores": os.cpu_count()}
    if as_json:
        typer.echo(_json(report))
    else:
        for name, value in report.items():
            typer.echo(f"{name + ':':18}{value}")


@app.command("bench")
def bench_command(
    engine: Annotated[str, typer.Option(help=f"One of: {', '.join(engines.NAMES)}.")] = "cpu",
    peers: Annotated[
        str | None,
        typer.Option(help="Of: numpy, torch, jax (cuda: torch, jax, cupy), with commas. Default: all; NumPy always."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few cases and rounds: two to three minutes.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write all numbers into this file.")] = None,
) -> None:
    """Time the engine against NumPy, PyTorch and JAX on this machine: ratios with intervals, percent of peak.

    About half an hour on two cores; leave the machine alone meanwhile. Each contender runs in a process of its own,
    with all cores, and must first reproduce the right numbers. Peers that are not installed are skipped by name
    (the extra "bench" installs all of them but CuPy).
    """
    from ..benchmarks import report, run  # which other commands do not need

    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--json {out} cannot be a file; needed: the name of a file in a folder that exists.")

    def keep(result):
        text = _json(result) + "\n"
        if out is not None:
            write_atomically(out, lambda path: path.write_text(text))

    result = run.run(engine, peers, quick=quick, progress=True, after_each=keep)
    keep(result)
    typer.echo(report.text(result))
    if out is not None:
        typer.echo(f"\nwrote {out}")


def table(report: dict[str, Any]) -> str:
    """The table of `meanfield limits`, from its report."""
    rows = report["quantities"]
    header = ("quantity", "alpha", "N", "first", "last", "slope [95 %]", "theory", "verdict")
    cells: list[tuple[str, ...]] = [header]
    for name, row in rows.items():
        widths, mean = row["widths"], row["mean"]
        span = f"{widths[0]}..{widths[-1]}" if widths else "-"
        slope = "-" if row["slope"] is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(row["slope"], *row["slope_ci95"])
        theory = row["theory"]
        if isinstance(theory, list):
            theory = "towards -1"
        elif name == "w2":
            theory = "floor's" if theory is None else f"floor's {theory:+.3f}"
        else:
            theory = f"{theory:+.3g}"
        ends = (f"{mean[0]:.3g}", f"{mean[-1]:.3g}") if widths else ("-", "-")
        verdict = row["verdict"]
        if verdict == "agrees" and not row["theory_in_interval"]:
            verdict += f" within {report['rules']['allowance']:g}"
        cells.append((name, row["alpha"], span, *ends, slope, theory, verdict))
    sizes = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, sizes, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * size for size in sizes))
    return "\n".join([*lines, "", *_remarks(report)])


def _remarks(report: dict[str, Any]) -> list[str]:
    rows, rules, config = report["quantities"], report["rules"], report["config"]
    field, timings, problem = report["mean_field"], report["timings"], report["problem"]
    low, high = rules["towards_minus_one"]
    parts = report["parts"]
    stopped = f" for the last {parts['all'] - parts['found']} of {parts['all']} parts" if parts["found"] else ""
    lines = [
        f"mean-field limit: {field['rule']}, estimated error of f {field['error']:.1e} (rms, test inputs, sup over t), "
        f"{field['share_of_smallest_error']:.1%} of the smallest function error",
        f"residual as its own state (RD, seed 0) against y - f: largest difference {report['coupled']['largest']:.1e}, "
        f"{report['coupled']['share_of_smallest_error']:.1%} of the smallest error beside it",
        f"verdict: agrees if theory is in the interval, 'within {rules['allowance']:g}' if only once that is widened "
        f"by as much on both sides (widths are not yet asymptotic); 'towards -1': interval "
        f"within [{low:g}, {high:g}]; an interval wider than {rules['widest_interval']:g} cannot tell",
        f"{problem['name']}, {config['activation']}: n = {problem['n']}, d = {problem['dim']}, "
        f"t to {config['t_end']:g}, {config['seeds']} seeds, {config['dtype']} on {config['engine']}; "
        f"{timings['total']:.0f} s{stopped}, {report['machine']['processor']}, {report['machine']['cores']} cores",
    ]
    for name, row in report["precision"].items():
        lines.insert(
            2,
            f"float32: a float64 run differs by {row['sup_rms']:.1e} ({name.rpartition('_')[2]}, rms over test inputs, "
            f"sup over t; seed 0, widest), {row['share_of_smallest_error']:.1%} of the smallest error beside it",
        )
    ratio = rows["w2"].get("ratio_to_floor")
    if ratio:
        low, high = rows["w2"]["ratio_to_floor_ci95"][-1]
        lines.insert(
            2,
            f"exact W2 shows its sampling floor: ratio to the floor {ratio[-1]:.4f} [{low:.4f}, {high:.4f}] at "
            f"N = {rows['w2']['widths'][-1]}; no rate of the dynamics is claimed from it",
        )
    return lines


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--widths is {text!r}; needed: whole numbers with commas, such as 64,128,256.") from None


def _check_page(out: Path, rows: int, force: bool) -> None:
    """Make sure, before any work, that a table of so many rows can be written, and takes no larger one's place."""
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"--out {out} cannot be a file; needed: the name of a file in a folder that exists.")
    there = len(re.findall(r"^\| F\d+ ", out.read_text(encoding="utf-8"), re.MULTILINE)) if out.exists() else 0
    if there > rows and not force:
        raise InputError(f"{out} holds {there} rows and would hold {rows}; choose another file with --out, or --force.")


_made: list[Path] = []  # folders that were not there before
_working: list[Path] = []  # folders with what is finished of a job


def _tell(words: str) -> None:
    typer.echo(f"meanfield: {words}.", err=True)


def _claim(out: Path, force: bool) -> None:
    """Make sure, before any work, that the results can be written."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; needed: a folder.")
    there = [name for name in FILES if (out / name).exists()]
    if there and not force:
        raise InputError(f"{out} holds {', '.join(there)} already; choose another folder with --out, or --force.")
    if not out.exists():
        out.mkdir(parents=True)
        _made.append(out)
    if not os.access(out, os.W_OK):
        raise PermissionError(13, "no permission to write in this folder", str(out))


def _write(out: Path, result: job.LimitsResult) -> None:
    from .. import plots  # matplotlib takes its time

    text = _json(result.report) + "\n"  # before any file is touched
    plots.save(plots.limits(result.report, result.arrays), out / "limits.png")
    attributes = {"schema": result.report["schema"], "config": json.dumps(result.report["config"])}
    write_arrays(out / "limits.h5", result.arrays, attributes | result.attributes)
    write_atomically(out / "limits.json", lambda path: path.write_text(text))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False)


def _stop(number, frame):
    """SIGINT, SIGTERM: leave at once, with nothing half written.

    No exception: it could be raised inside a callback of the compiler, which swallows it or crashes.
    """
    discard_temporaries()
    runs.undo()
    for folder in _made:
        with suppress(OSError):  # there is something in it
            folder.rmdir()
    os.write(2, f"meanfield: stopped by {signal.Signals(number).name}.\n".encode())
    for run in runs.going:
        if run.exists():
            os.write(2, f"meanfield: `meanfield resume {run}` goes on from the last checkpoint.\n".encode())
    for folder in _working:
        if folder.exists():
            os.write(2, f"meanfield: the same command goes on from what is finished, in {folder}.\n".encode())
    os._exit(128 + number)


for _name, _command in files.COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Entry point: run a command and turn what went wrong into one line and an exit code."""
    debug = "--debug" in sys.argv
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the table has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as problem:
        if debug:
            raise
        code = _explain(problem)
        if code == EXIT_FILES:  # HDF5 does not survive a disk that is full: no clean-up of its own
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(problem: Exception) -> int:
    """Print one line about `problem`; its exit code."""
    usage = getattr(problem, "format_message", None)  # typer's own: an unknown option, a value it cannot read
    if usage is not None:
        if usage():  # empty where the help was printed instead
            typer.echo(f"meanfield: {usage().rstrip('.')}. Try --help.", err=True)
        return EXIT_BAD_INPUT
    code = next((code for types, code in _EXIT_CODES.items() if isinstance(problem, types)), EXIT_FAILED)
    message = str(problem)
    if isinstance(problem, MemoryError):
        message = f"not enough memory ({message}); use smaller widths, fewer seeds or fewer inputs"
    elif code == EXIT_FAILED and not isinstance(problem, _FAILURES):
        message = f"{type(problem).__name__}: {message} (a fault in meanfield; --debug shows where)"
    typer.echo(f"meanfield: {message}", err=True)
    return code


_FAILURES = (ConvergenceError, DeviceError, DivergenceError, StepLimitError)
_EXIT_CODES: dict[Any, int] = {InputError: EXIT_BAD_INPUT, OSError: EXIT_FILES, _FAILURES: EXIT_FAILED}
