"""Commands about the file of a run: verify, info, repair, export. A damaged file is bad input: exit code 2."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import _memory
from ..errors import InputError
from ..trajectories import export, info, repair, verify

_File = Annotated[Path, typer.Argument(help="File of a run, or the folder that holds run.h5.")]
_Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def verify_command(
    file: _File,
    seconds: Annotated[float, typer.Option(help="Most seconds that reading may take.")] = 10.0,
    max_gib: Annotated[float, typer.Option("--max-gib", help="Most memory that reading may take, in GiB.")] = 2.0,
    as_json: _Json = False,
) -> None:
    """Read all of a file in a process of its own: structure, digest, and the CRC of every row."""
    report = verify(file, seconds, max_gib * 2**30)
    if as_json:
        _print(asdict(report))
        return
    rows = ", ".join(f"{count} {name}" for name, count in report.rows.items())
    torn = f"; {report.torn} half-written at the end: meanfield repair {file}" if report.torn else ""
    typer.echo(f"{file} is whole: {report.status}, {rows}, {_memory.size(report.bytes)}{torn}")


def info_command(file: _File, as_json: _Json = False) -> None:
    """What is in a file."""
    found = info(file)
    if as_json:
        _print(found)
        return
    found |= {"bytes": _memory.size(found["bytes"]), "provenance": json.dumps(found["provenance"])}
    for name, value in found.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        typer.echo(f"{name.replace('_', ' ') + ':':14}{'-' if shown is None or shown == '' else shown}")


def repair_command(file: _File, as_json: _Json = False) -> None:
    """Drop what a killed run left half written at the end of a file; the old file stays as FILE.torn."""
    dropped = repair(file)
    if as_json:
        _print({"path": str(file), "dropped": dropped})
    else:
        typer.echo(f"{file}: {dropped} half-written rows dropped" if dropped else f"{file}: no row was half-written")


def export_command(
    file: _File,
    out: Annotated[Path, typer.Argument(help="H5MD file to write.")],
    project: Annotated[str, typer.Option(help="Columns, as 0,1,2, or pca.")] = "0,1,2",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,
    as_json: _Json = False,
) -> None:
    """Write the particles in three components, for MDAnalysis and other viewers of H5MD."""
    if out.exists() and not force:
        raise InputError(f"{out} is there already; choose another name, or --force.")
    try:
        columns = project if project == "pca" else tuple(int(each) for each in project.split(","))
    except ValueError:
        raise InputError(f"--project is {project!r}; needed: columns as 0,1,2, or pca.") from None
    export(file, out, columns)
    if as_json:
        _print({"path": str(file), "out": str(out), "project": project})
    else:
        typer.echo(f"wrote {out}")


def _print(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, allow_nan=False))


COMMANDS = {"verify": verify_command, "info": info_command, "repair": repair_command, "export": export_command}
