"""The command `analyse`: runs on file to a table and a figure, without the script that made them."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ..analysis import analyse
from ..errors import InputError
from ..trajectories import open as open_run


def analyse_command(
    files: Annotated[list[Path], typer.Argument(help="Files of runs, or the folders that hold run.h5: one to six.")],
    frames: Annotated[int, typer.Option(help="Most frames looked at, evenly chosen.")] = 40,
    out: Annotated[Path, typer.Option(help="Figure to write; its ending is the format.")] = Path("analysis.png"),
    force: Annotated[bool, typer.Option("--force", help="Replace a figure that is there already.")] = False,
    seed: Annotated[int, typer.Option(help="Of random halves and directions.")] = 0,
    max_flops: Annotated[
        float, typer.Option("--max-flops", help="Most that tangent kernels may take, and the balance of energy.")
    ] = 2e12,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON instead of the table.")] = False,
) -> None:
    """Kernel drift, W2 and displacement since the start, energy balance, risk: of runs on file, with a figure.

    Of several runs each is held against the first, too: W2 with its floor, coupling distance, predictions. What a file
    cannot say (it kept the last particles alone, its activation is a function of yours) is left out with the reason.
    """
    from .. import plots  # matplotlib takes its time

    if len(files) > plots.MOST_RUNS:
        raise InputError(f"{len(files)} runs; needed: at most {plots.MOST_RUNS}.")
    plots.check_path(out)
    if not out.parent.is_dir():
        raise InputError(f"--out is {str(out)!r}, and there is no folder {str(out.parent)!r}; make it first.")
    if out.exists() and not force:
        raise InputError(f"{out} is there already; choose another name with --out, or --force.")
    with ExitStack() as opened:
        first, *rest = (opened.enter_context(open_run(file)) for file in files)
        options = {"frames": frames, "seed": seed, "max_flops": max_flops, "progress": True}
        found = [analyse(first, **options), *(analyse(each, other=first, **options) for each in rest)]
    plots.save(plots.analysis(*found), out)
    if as_json:
        typer.echo(json.dumps([each.to_dict() for each in found], indent=1, allow_nan=False))
    else:
        typer.echo("\n\n".join(each.table() for each in found))
        typer.echo(f"\nwrote {out}")
