"""Commands for runs: `run` one from a file, `resume` it, `watch` it from beside."""

import json
import math
import os
import time as clock
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import _checks
from .._files import write_atomically
from ..errors import FileError, InputError
from ..output import Output
from ..simulation import resume
from ..trajectories import info, locked
from ..trajectories import open as open_run

# Fields of a config that may change on the way; momentum may not, which changes what a state is.
CHANGEABLE = (
    "run.scheme", "run.rtol", "run.atol", "run.dt", "run.engine", "run.dtype", "run.max_steps", "run.max_bytes",
    "run.stop", "run.ridge", "run.temperature", "run.noise_seed", "run.batches", "output.checkpoint_seconds",
)  # fmt: skip


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
    # A checkpoint alone is what a run left that was killed before its file was made: it begins again.
    there = (folder / "run.h5").exists()
    if go_on and there:
        if force:
            raise InputError("both --resume and --force; needed: one of them.")
        _resume(folder, found, None, allow or [], None, as_json)
        return
    if there and not force:
        raise InputError(f"{folder} holds a run already; choose --out, or --resume it, or replace it by --force.")
    built = configs.build(found)
    folder.mkdir(parents=True, exist_ok=True)
    if fields:
        text = _comment(config, fields) + configs.to_toml(found)
    options = found.output.model_dump(exclude={"record_times"})
    output = Output(
        folder / "run.h5", overwrite=force, config=text, values=json.loads(configs.to_json(found)), **options
    )
    recorded = found.output.record_times
    options = {"record_times": None if recorded is None else configs.flow_times(recorded), "progress": True}
    arguments = {**built.arguments, **options, "masses": built.masses, "out": output}
    going.append(folder)
    with _described(output):
        done: Any = built.function(built.network, built.problem, built.start, **arguments)
    with done:
        _tell(done, as_json)


def _comment(config, fields):
    """Above the effective values: a file with the old ones would be another run."""
    shown = (each if each.isprintable() else ascii(each) for each in fields)
    return "".join(f"# {line}\n" for line in (f"{config.name!a} with", *(f"--set {each}" for each in shown)))


going: list[Path] = []  # runs on their way, which `resume` goes on with when a signal ends them
_unfinished: list[Callable[[], None]] = []  # what undoes the config.toml of a run that has not begun


def undo() -> None:
    """Leave no config.toml of a run that has not begun; for a process about to end at once."""
    for each in tuple(_unfinished):
        with suppress(OSError):
            each()


@contextmanager
def _described(output: Output) -> Iterator[None]:
    """config.toml says what the run beside it is: written under the run's lock, and put back where none has begun."""
    described = output.path.with_name("config.toml")

    def put_back() -> None:
        if _identity(output.path) != before or described.read_bytes() != output.config.encode():
            return  # it has begun; or another process was faster
        if there:
            write_atomically(described, lambda path: path.write_bytes(old))
        else:
            described.unlink(missing_ok=True)

    with locked(output):
        before = _identity(output.path)
        there = described.is_file()
        old = described.read_bytes() if there else b""
        _unfinished.append(put_back)
        write_atomically(described, lambda path: path.write_bytes(output.config.encode()))
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what ended the run says more
            put_back()
        raise
    finally:
        _unfinished.remove(put_back)


def _identity(path: Path) -> tuple[int, int] | None:
    """Of one file and no other in its place; None where there is none."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_ctime_ns


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
    path = _there(run)
    if config is not None or fields:
        from .. import config as configs  # pydantic takes its time

        if config is None:
            before, _ = _begun(path)
            wanted = configs.altered(before, fields or [], str(run))
        else:
            wanted = configs.override(configs.read(config), fields or [], str(config))
    said = None if config is not None else [each.partition("=")[0].strip() for each in fields or []]
    _resume(path, wanted, said, allow or [], end, as_json)


def _there(run):
    """The file of a run, looked for before a lock is made beside it."""
    path = run / "run.h5" if run.is_dir() else run
    if path.exists():
        return path
    if run.is_dir() and (run / "run.ckpt").exists():
        raise InputError(
            f"{run} holds no run.h5: its run was stopped before it had begun; needed: meanfield run CONFIG --out {run}."
        )
    raise InputError(f"there is no run at {run}; needed: the folder of a run, or its HDF5 file.")


def _begun(path):
    """The config that a run was begun with, --set and all; by argument of `simulate` what was changed since."""
    from .. import config as configs

    with open_run(path) as old:
        if not (values := old.settings.get("config")):
            raise InputError(f"{path} was not run from a config; needed: mf.resume(path, change=...) in Python.")
        return configs.from_json(json.dumps(values), f"the config in {path}"), old.contents.state.get("changes", {})


def _resume(path, wanted, said, allow, end, as_json):
    for each in allow:
        _checks.find(dict.fromkeys(CHANGEABLE), each, "--allow-change")
    given = _own_options(path) if wanted is None else _changes(path, wanted, said, allow)
    going.append(Path(path))
    with resume(path, end=end, progress=True, **given) as done:
        _tell(done, as_json)


def _own_options(path):
    """Arguments of `resume` that are no part of the flow, as the run's config has them."""
    values: Any = {}
    with suppress(InputError), open_run(path) as old:  # `resume` says what is wrong with a file, and mends a killed one
        values = old.settings.get("config") or {}
    named = {"checkpoint_seconds": "output", "max_bytes": "run"}
    return {name: values[section][name] for name, section in named.items() if name in values.get(section, {})}


def _changes(path, wanted, said, allow):
    """Arguments of `resume` for what a config asks for that the run's own did not; refused unless allowed.

    said : fields that were set by name; None where all of `wanted` is meant. What an earlier `resume` changed is held
        against these alone
    """
    from .. import config as configs

    before, changed = _begun(path)
    found = {field: (was, now) for field, was, now in configs.differences(before, wanted)}
    for name, was in changed.items():
        field = f"run.{name}"
        meant = said is None or any(_within(each, field) for each in said)
        if meant and not any(_within(each, field) for each in found):
            found[field] = was, getattr(wanted.run, name)
    if fixed := [field for field in found if not any(_within(field, each) for each in CHANGEABLE)]:
        longer = any(_within(field, each) for field in fixed for each in ("run.times", "output.record_times"))
        needed = "--end, which extends the run, or another run" if longer else "another run"
        raise InputError(f"{', '.join(fixed)} cannot change on the way; needed: {needed}.")
    for field, (was, now) in found.items():
        if not any(_within(field, each) for each in allow):
            name = next(each for each in CHANGEABLE if _within(field, each))
            raise InputError(f"{field} is {now!r}, and was {was!r}; needed: the same, or --allow-change {name}.")
    arguments = configs.arguments(wanted)
    names = {field.split(".")[1] for field in found if _within(field, "run")} - {"max_bytes"}
    return {
        "change": {name: arguments[name] for name in arguments if name in names},
        "checkpoint_seconds": wanted.output.checkpoint_seconds,
        "max_bytes": wanted.run.max_bytes,
    }


def _within(field, table):
    """Whether a dotted field is `table` or one of its fields."""
    return field == table or field.startswith(table + ".")


def watch_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its HDF5 file.")],
    once: Annotated[bool, typer.Option("--once", help="Print where it is, and stop.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two lines.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print lines of JSON.")] = False,
) -> None:
    """Follow a run from beside, without touching it: flow time, risk, records, and how long it will take.

    Reads the lines of progress the run leaves beside its file.
    """
    every = _checks.number(every, "--every", above=0.0)
    file = run / "run.h5" if run.is_dir() else run
    if file.suffix != ".h5":
        raise InputError(f"{run} is neither a folder nor a file of a run; needed: a run that has begun.")
    output = Output(file)
    if not output.progress.is_file():
        raise InputError(f"there is no {output.progress}; needed: a run that has begun.")
    following = _followed(output.progress)
    while True:
        known, new = next(following)
        idle = bool(known.get("status")) or not new or once
        over = idle and not _held(output)
        if over:  # whoever wrote may have said the last word between the reading and the asking
            known, more = next(following)
            new = new or more
        if new:
            typer.echo(_as_json(known) if as_json else progress_line(known))
        if once and not known:
            typer.echo(f"{output.progress} says nothing yet.", err=as_json)
        if over and not known.get("status"):
            typer.echo(f"nobody writes it; `meanfield resume {run}` goes on.", err=as_json)
        if over or once:
            return
        clock.sleep(every)


def _held(output):
    """Whether a process writes the run; true where that cannot be asked."""
    if not output.lock.exists():
        return False
    try:
        with locked(output):
            return False
    except (InputError, FileError):
        return True


def _followed(path: Path) -> Iterator[tuple[dict[str, Any], bool]]:
    """What the lines of progress say by now, and whether any are new; again at each turn.

    A line counts once its end is there; what is none is passed over. A status is that of the last line alone: a run
    that was stopped and goes on has none.
    """
    known: dict[str, Any] = {}
    offset, tail = 0, b""
    while True:
        content = _after(path, offset)
        if content is None:  # another run takes its place
            known, offset, tail, content = {}, 0, b"", _after(path, 0) or b""
        offset += len(content)
        *lines, tail = (tail + content).split(b"\n")
        new = [each for each in map(_read_line, lines) if each]
        for each in new:
            known = {name: value for name, value in known.items() if name != "status"} | each
        yield known, bool(new)


def _after(path: Path, offset: int) -> bytes | None:
    """What a file holds after `offset`; None where it is shorter, or gone."""
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < offset:
                return None
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return None


def _read_line(line: bytes) -> dict[str, Any]:
    """The numbers and the status that a line of progress holds; nothing where it is none."""
    try:
        found = json.loads(line)
        if not isinstance(found, dict):
            return {}
        numbers = {name: each for name, each in found.items() if type(each) in (int, float) and name != "status"}
        for each in numbers.values():
            float(each)  # a whole number may be too large
    except (ValueError, RecursionError, OverflowError):
        return {}
    status = found.get("status")
    return numbers | ({"status": status} if isinstance(status, str) and status else {})


def _as_json(known):
    finite = {name: value if isinstance(value, str) or math.isfinite(value) else None for name, value in known.items()}
    return json.dumps(finite, allow_nan=False)


def progress_line(known: dict[str, Any]) -> str:
    """One line for people: what the last lines of progress say."""
    nan = math.nan
    time, end, seconds, step = (known.get(name, nan) for name in ("time", "end", "seconds", "step"))
    share = 1.0 if end == 0.0 else time / end
    own = ("step", "time", "end", "seconds", "status")
    numbers = [f"step {step:.0f}", *(f"{_plain(name)} {known[name]:.4g}" for name in known if name not in own)]
    rest = f"{seconds:.0f} s"
    if known.get("status"):
        rest = f"{_plain(known['status'])}, {rest}"
    elif share > 0.0:
        rest += f", about {seconds * (1.0 / share - 1.0):.0f} s to go"
    return f"t = {time:.6g} of {end:g} ({share:.0%}), {', '.join(numbers)}; {rest}"


def _plain(text):
    return text if text.isprintable() else ascii(text)


def _tell(done, as_json):
    typer.echo(json.dumps(info(done.path), indent=1) if as_json else repr(done))
