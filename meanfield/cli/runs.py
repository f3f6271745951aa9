"""Commands for runs: `run` one from a file, `resume` it, `watch` it from beside."""

import json
import time as clock
from pathlib import Path
from typing import Annotated, Any

import typer

from .._files import write_atomically
from ..errors import InputError
from ..output import Output
from ..simulation import resume
from ..trajectories import info
from ..trajectories import open as open_run

CHANGEABLE = ("run", "output")  # sections of a config that may change on the way


def run_command(
    config: Annotated[Path | None, typer.Argument(help="A TOML file; --example prints one.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: the config's name without its ending.")
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the config, as network.scaling.alpha=2."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there already.")] = False,
    go_on: Annotated[bool, typer.Option("--resume", help="Go on with a run that is there already.")] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow-change", metavar="FIELD", help="With --resume: a field that may differ from the run's."),
    ] = None,
    example: Annotated[str | None, typer.Option(help="Print a config to start from, and stop.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a config, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what `info` says as JSON.")] = False,
) -> None:
    """Run what a TOML file describes; frames, records and checkpoints go into a folder.

    Ctrl-C ends it after a checkpoint; `meanfield resume` goes on from there, bit for bit.
    """
    from .. import config as configs  # pydantic takes its time

    if example is not None:
        typer.echo(configs.example(example), nl=False)
        return
    if schema:
        typer.echo(json.dumps(configs.json_schema(), indent=1))
        return
    if config is None:
        raise InputError("no config; needed: meanfield run CONFIG.toml. --example NAME prints one to start from.")
    text = configs.read(config)
    found = configs.override(text, fields or [], str(config))
    folder = config.with_suffix("") if out is None else out
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; needed: a folder, by --out.")
    there = (folder / "run.h5").exists() or (folder / "run.ckpt").exists()
    if go_on and there:
        if force:
            raise InputError("both --resume and --force; needed: one of them.")
        _resume(folder, found, allow or [], None, as_json)
        return
    if there and not force:
        raise InputError(f"{folder} holds a run already; choose --out, or --resume it, or replace it by --force.")
    built = configs.build(found)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.toml", lambda path: path.write_text(text, encoding="utf-8"))
    options = found.output.model_dump(exclude={"record_times"})
    output = Output(
        folder / "run.h5", overwrite=force, config=text, values=json.loads(configs.to_json(found)), **options
    )
    recorded = found.output.record_times
    options = {"record_times": None if recorded is None else configs.flow_times(recorded), "progress": True}
    arguments = {**built.arguments, **options, "masses": built.masses, "out": output}
    done: Any = built.function(built.network, built.problem, built.start, **arguments)
    with done:
        _tell(done, as_json)


def resume_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its HDF5 file.")],
    end: Annotated[
        float | None, typer.Option(help="Extend it to this flow time, at the distance of its last frames.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A config to hold against the run's own.")] = None,
    fields: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the config to change.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow-change", metavar="FIELD", help="A field that may differ from the run's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what `info` says as JSON.")] = False,
) -> None:
    """Go on with a run that was stopped, from its last checkpoint, bit for bit; or extend one that is over."""
    wanted = None
    if config is not None or fields:
        from .. import config as configs  # pydantic takes its time

        with open_run(run) as old:
            text = old.config if config is None else configs.read(config)
        if not text:
            raise InputError(f"{run} was not run from a config; needed: mf.resume(path, change=...) in Python.")
        wanted = configs.override(text, fields or [], str(config or run))
    _resume(run, wanted, allow or [], end, as_json)


def _resume(path, wanted, allow, end, as_json):
    change = {} if wanted is None else _changes(path, wanted, allow)
    with resume(path, end=end, change=change, progress=True) as done:
        _tell(done, as_json)


def _changes(path, wanted, allow):
    """What a config asks for that the run's own did not, as arguments of `simulate`; refused unless allowed."""
    from .. import config as configs

    with open_run(path) as old:
        if not (values := old.settings.get("config")):
            raise InputError(f"{path} was not run from a config; needed: mf.resume(path, change=...) in Python.")
        before = configs.from_json(json.dumps(values))
    found = configs.differences(before, wanted)
    for field, was, now in found:
        if field not in allow:
            raise InputError(
                f"{field} is {now!r}, and was {was!r} when the run began; needed: the same, or --allow-change {field}."
            )
        if field.split(".")[0] not in CHANGEABLE:
            raise InputError(f"{field} cannot change while a run goes on; needed: a run of its own.")
    if not found:
        return {}
    old, new = (configs.build(each).arguments for each in (before, wanted))
    return {name: value for name, value in new.items() if name in old and _differ(old[name], value)}


def _differ(a, b):
    return repr(a) != repr(b)


def watch_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its HDF5 file.")],
    once: Annotated[bool, typer.Option("--once", help="Print where it is, and stop.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two lines.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print lines of JSON.")] = False,
) -> None:
    """Follow a run from beside, without touching it: flow time, risk, records, and how long it will take.

    Reads the lines of progress the run leaves beside its file.
    """
    output = Output(run / "run.h5" if run.is_dir() else run)
    if not output.progress.is_file():
        raise InputError(f"there is no {output.progress}; needed: a run that has begun.")
    with output.progress.open(encoding="ascii") as lines:
        known: dict[str, Any] = {}
        while True:
            new = [json.loads(line) for line in lines if line.endswith("\n")]
            for each in new:
                known |= {name: value for name, value in each.items() if value is not None}
            if new:
                typer.echo(json.dumps(known) if as_json else progress_line(known))
            if once or known.get("status"):
                return
            clock.sleep(every)


def progress_line(known: dict[str, Any]) -> str:
    """One line for people: what the last lines of progress say."""
    share = known["time"] / known["end"]
    numbers = [
        f"{name} {known[name]:.4g}" for name in known if name not in ("step", "time", "end", "seconds", "status")
    ]
    if known.get("status"):
        rest = f"{known['status']}, {known['seconds']:.0f} s"
    elif share > 0.0:
        rest = f"{known['seconds']:.0f} s, about {known['seconds'] * (1.0 / share - 1.0):.0f} s to go"
    else:
        rest = f"{known['seconds']:.0f} s"
    return (
        f"t = {known['time']:.6g} of {known['end']:g} ({share:.0%}), step {known['step']}, {', '.join(numbers)}; {rest}"
    )


def _tell(done, as_json):
    typer.echo(json.dumps(info(done.path), indent=1) if as_json else repr(done))
