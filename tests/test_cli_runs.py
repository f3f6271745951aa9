"""`meanfield run`, `resume`, `watch`: what a folder holds afterwards, what is refused, and what the file then says."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import contextmanager

import numpy as np
import pytest
from filelock import FileLock
from test_config import PROBLEM_TABLES, SCALING_TABLES, START_TABLES
from typer.testing import CliRunner

import meanfield as mf
from meanfield import config
from meanfield.cli import app, runs
from meanfield.errors import InputError, StepLimitError

SMALL = """\
# a comment of its author's
[problem]
kind = "teacher-student"
n = 12
n_test = 4
dim = 2
[network]
activation = "tanh"
[start]
n_particles = 6
[run]
times = [0.0, 0.25, 0.5]
record = ["risk"]
"""
LONG = ["--set", "run.times=[0, 0.5, 1e6]", "--set", "run.scheme=euler", "--set", "run.dt=1e-3",
        "--set", "run.max_steps=1000000000"]  # fmt: skip


def call(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def done(*words):
    found = call(*words)
    assert found.exception is None, found.exception
    return found.stdout


def refused(*words, by=InputError):
    found = call(*words)
    assert type(found.exception) is by, (found.exception, found.stdout)
    return str(found.exception)


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def cut(folder, toml, *words):
    """A run whose steps are spent between its frames."""
    refused("run", toml, "--out", folder, "--set", "run.max_steps=3", *words, by=StepLimitError)


# run


def test_run(toml, tmp_path):
    """The folder of the config's name, the text as given, and the arrays that `simulate` gives, to the bit."""
    assert "complete" in done("run", toml)
    folder = toml.with_suffix("")
    assert {each.name for each in folder.iterdir()} >= {"run.h5", "run.ckpt", "run.progress.jsonl", "config.toml"}
    assert (folder / "config.toml").read_text() == SMALL
    built = config.build(config.parse(SMALL))
    direct = mf.simulate(built.network, built.problem, built.start, **built.arguments)
    with mf.open(folder) as run:
        assert np.array_equal(run.particles[:], direct.particles) and run.config == SMALL
    said = json.loads(done("run", toml, "--out", tmp_path / "other", "--json"))
    assert said["status"] == "complete" and said["frames"] == 3
    assert tomllib.loads(done("run", "--example", "teacher-student"))["problem"]["kind"] == "teacher-student"
    assert json.loads(done("run", "--schema"))["title"] == "RunConfig"


def test_a_run_that_is_there(toml, tmp_path):
    """Refused; replaced by --force; gone on with by --resume, which holds the config against the run's own."""
    folder = tmp_path / "one"
    done("run", toml, "--out", folder)
    before = (folder / "run.h5").read_bytes()
    assert "--force" in refused("run", toml, "--out", folder)
    done("run", toml, "--out", folder, "--resume")
    assert "one of them" in refused("run", toml, "--out", folder, "--resume", "--force")
    said = refused("run", toml, "--out", folder, "--resume", "--set", "network.scaling.alpha=2")
    assert "network.scaling.alpha cannot change on the way" in said
    assert (folder / "run.h5").read_bytes() == before
    done("run", toml, "--out", folder, "--force", "--set", "network.scaling.alpha=2")
    with mf.open(folder) as run:
        assert run.network.scaling.alpha == 2.0


def test_what_is_no_run(toml, tmp_path):
    (tmp_path / "wrong.toml").write_text("[run]\ntimes = 3\n")
    (tmp_path / "file").write_text("")
    assert "no config" in refused("run")
    assert "run.times is 3" in refused("run", tmp_path / "wrong.toml")
    assert "cannot be read" in refused("run", tmp_path / "none.toml")
    assert "is a file" in refused("run", toml, "--out", tmp_path / "file")
    assert "unknown" in refused("run", "--example", "nosuch")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "small.toml", "wrong.toml"]


def test_config_toml_is_what_reruns_a_run(toml, tmp_path):
    """With --set: the effective values, below what was set; run again it is the same run, bit for bit."""
    done("run", toml, "--out", tmp_path / "one", "--set", "network.scaling.alpha=4", "--set", "name=a\x07")
    text = (tmp_path / "one" / "config.toml").read_text()
    assert "# --set network.scaling.alpha=4\n" in text and "\x07" not in text
    done("run", tmp_path / "one" / "config.toml", "--out", tmp_path / "two")
    with mf.open(tmp_path / "one") as one, mf.open(tmp_path / "two") as two:
        assert one.settings == two.settings and one.network.scaling.alpha == 4.0
        assert np.array_equal(one.particles[:], two.particles[:])
    done("resume", tmp_path / "one", "--config", tmp_path / "one" / "config.toml")
    assert "name, network.scaling.alpha cannot change" in refused("resume", tmp_path / "one", "--config", toml)


def every_config():
    """One for each problem, convention and law, and one with what is hard to write."""
    for tables, name, key in ((PROBLEM_TABLES, "problem", "kind"), (SCALING_TABLES, "network.scaling", "kind"),
                              (START_TABLES, "start", "law")):  # fmt: skip
        for kind, rest in tables.items():
            yield [f"{name}={{{key}={kind!r}{',' if rest else ''} {rest}}}"]
    yield ["name='\"\\ é\U0001f600'", 'description="""a\\u007f\\n\\tb\\u0000c"""', "run.rtol=5e-324", "run.atol=1e308"]
    yield ["run.times={end=3}", "run.stop=[{kind='risk', below=1}, {kind='speed', below=2}]", "output.live=true",
           "run.batches={kind='minibatch', size=3}", "network.activation={family='softplus', beta=3}"]  # fmt: skip


@pytest.mark.parametrize("changes", list(every_config()), ids=lambda changes: changes[0][:40])
def test_toml_and_back(changes):
    """parse(to_toml(c)) = c."""
    found = config.override(SMALL, changes)
    assert config.digest(config.parse(config.to_toml(found))) == config.digest(found)


def beside(toml, tmp_path):
    """A run that is refused, or finds another process at work, leaves it as it was; and none where there was none."""
    folder = tmp_path / "one"
    done("run", toml, "--out", folder)
    too_large = ["--set", "run.max_bytes=1"]
    refused("run", toml, "--out", folder, "--force", *too_large)
    assert (folder / "config.toml").read_text() == SMALL
    with FileLock(folder / "run.lock"):
        assert "another process" in refused("run", toml, "--out", folder, "--force", "--set", "run.rtol=1e-3")
    assert (folder / "config.toml").read_text() == SMALL
    refused("run", toml, "--out", tmp_path / "two", *too_large)
    assert not (tmp_path / "two" / "config.toml").exists()
    cut(folder, toml, "--force")
    assert config.load(folder / "config.toml").run.max_steps == 3, "it has begun"


def test_config_toml_is_that_of_the_run_beside_it(toml, tmp_path):
    beside(toml, tmp_path)


def test_a_config_toml_that_comes_too_early_is_caught(toml, tmp_path, monkeypatch):
    @contextmanager
    def early(output):
        output.path.with_name("config.toml").write_text(output.config)
        yield

    monkeypatch.setattr(runs, "_described", early)
    with pytest.raises(AssertionError):
        beside(toml, tmp_path)


def test_a_start_that_was_killed(toml, tmp_path):
    """A checkpoint alone: `run`, with --resume or without, begins again; `resume` says so."""
    whole = tmp_path / "whole"
    done("run", toml, "--out", whole)
    for name, words in {"one": [], "two": ["--resume"]}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.ckpt").write_bytes((whole / "run.ckpt").read_bytes()[:100])
        assert f"meanfield run CONFIG --out {folder}" in refused("resume", folder)
        assert len(list(folder.iterdir())) == 1
        done("run", toml, "--out", folder, *words)
        with mf.open(whole) as one, mf.open(folder) as other:
            assert np.array_equal(one.particles[:], other.particles[:])


# resume


def test_resume(toml, tmp_path):
    """Stopped or over: the rows of the run that never stopped, to the bit; --end at the distance of the last two."""
    cut(tmp_path / "one", toml)
    assert "max_steps" in refused("resume", tmp_path / "one", by=StepLimitError)
    done("resume", tmp_path / "one", "--set", "run.max_steps=5000", "--allow-change", "run.max_steps")
    done("resume", tmp_path / "one", "--end", "1")
    done("run", toml, "--out", tmp_path / "two", "--set", "run.times=[0, 0.25, 0.5, 0.75, 1]")
    with mf.open(tmp_path / "one" / "run.h5") as one, mf.open(tmp_path / "two") as two:
        assert one.times.tolist() == two.times.tolist() and np.array_equal(one.particles[:], two.particles[:])
    assert json.loads(done("resume", tmp_path / "one", "--json"))["status"] == "complete"


def test_resume_starts_from_what_the_run_was_begun_with(toml, tmp_path):
    """alpha was set by --set: changing something else asks for nothing of alpha; changing back is a change."""
    folder = tmp_path / "one"
    cut(folder, toml, "--set", "network.scaling.alpha=4")
    words = ["resume", folder, "--set", "run.max_steps=5000"]
    assert "--allow-change run.max_steps" in refused(*words)
    assert "run.max_steps" in refused(*words, "--allow-change", "run.rtol")
    done(*words, "--allow-change", "run.max_steps")
    back = ["resume", folder, "--end", "0.75", "--set", "run.max_steps=3"]
    assert "run.max_steps is 3, and was '5000'" in refused(*back)
    refused(*back, "--allow-change", "run.max_steps", by=StepLimitError)
    done("resume", folder, "--set", "run.max_steps=6000", "--allow-change", "run.max_steps")
    with mf.open(folder) as run:
        assert run.times[-1] == 0.75 and run.network.scaling.alpha == 4.0


FIXED = [
    "output.velocities=true", "output.save_dtype='float32'", "output.live=true", "output.compression='blosc2'",
    "run.coupled=true", "run.keep='last'", "run.record=[]", "run.momentum=0.5", "run.times=[0, 1]",
    "run.times={end=9}", "output.record_times=[0, 0.5]", "network.scaling.alpha=2", "start.seed=3", "problem.n=13",
    "name='x'",
]  # fmt: skip


def refusing(toml, tmp_path):
    """Every field that cannot change is refused by name, allowed or not, and the file stays as it is."""
    folder = tmp_path / "one"
    done("run", toml, "--out", folder)
    before = (folder / "run.h5").read_bytes()
    for each in FIXED:
        field = each.partition("=")[0]
        said = refused("resume", folder, "--set", each)
        assert f"{field}" in said and "cannot change on the way" in said and "--allow" not in said, said
        assert ("--end" in said) == ("times" in field)
        assert "unknown --allow-change" in refused("resume", folder, "--set", each, "--allow-change", field)
    assert (folder / "run.h5").read_bytes() == before


def test_what_cannot_change(toml, tmp_path):
    refusing(toml, tmp_path)


def test_changes_that_refuse_nothing_are_caught(toml, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_changes", lambda *given: {})
    with pytest.raises(AssertionError):
        refusing(toml, tmp_path)


CHANGES = {
    "run.scheme": "'rk4'", "run.rtol": "1e-3", "run.atol": "1e-4", "run.dt": "0.01", "run.engine": "'reference'",
    "run.dtype": "'float32'", "run.max_steps": "999", "run.stop": "[{kind='risk', below=1e-9}]", "run.ridge": "0.1",
    "run.temperature": "0.1", "run.noise_seed": "4", "run.batches": "{kind='minibatch', size=3}",
    "run.max_bytes": "1e9", "output.checkpoint_seconds": "7",
}  # fmt: skip


@pytest.mark.parametrize("field", runs.CHANGEABLE)
def test_what_may_change_reaches_resume(toml, tmp_path, monkeypatch, field):
    """That argument of `mf.resume`, with the value set, and no other: against the one config.build gives."""
    asked = {}
    monkeypatch.setattr(runs, "resume", lambda path, **given: asked.update(given) or mf.open(path))
    done("run", toml, "--set", "run.scheme=euler", "--set", "run.dt=0.05")
    folder, change = toml.with_suffix(""), f"{field}={CHANGES[field]}"
    done("resume", folder, "--set", change, "--allow-change", field)
    name = field.partition(".")[2]
    wanted = config.build(config.override(SMALL, ["run.scheme=euler", "run.dt=0.05", change])).arguments
    if name in ("checkpoint_seconds", "max_bytes"):
        assert asked["change"] == {} and asked[name] == float(CHANGES[field])
    else:
        assert list(asked["change"]) == [name] and repr(asked["change"][name]) == repr(wanted[name])


def test_a_run_keeps_its_own_options(toml, tmp_path, monkeypatch):
    """checkpoint_seconds and max_bytes of the config it was begun with, with --set and without."""
    asked = {}
    monkeypatch.setattr(runs, "resume", lambda path, **given: asked.update(given) or mf.open(path))
    done("run", toml, "--set", "output.checkpoint_seconds=7", "--set", "run.max_bytes=1e9")
    for words in ([], ["--set", "run.rtol=1e-3", "--allow-change", "run.rtol"]):
        asked.clear()
        done("resume", toml.with_suffix(""), *words)
        assert (asked["checkpoint_seconds"], asked["max_bytes"]) == (7.0, 1e9)


def test_no_run_to_resume(tmp_path):
    """A clear word, and no lock left beside nothing."""
    (tmp_path / "empty").mkdir()
    for name in ("nosuch", "empty", "nosuch.h5"):
        assert "there is no run at" in refused("resume", tmp_path / name)
    assert [each.name for each in tmp_path.rglob("*")] == ["empty"]


# watch


def line(**more):
    return json.dumps({"step": 3, "time": 0.5, "end": 2.0, "seconds": 4.0} | more).encode() + b"\n"


def watched(tmp_path, content, *words, held=False):
    """What `watch` says of lines of progress."""
    (tmp_path / "run.progress.jsonl").write_bytes(content)
    if not held:
        return done("watch", tmp_path, *words)
    with FileLock(tmp_path / "run.lock"):
        return done("watch", tmp_path, *words)


def test_watch_a_run(toml, tmp_path):
    """Of a run that is over: its end and status, and that is all; the file is not touched."""
    done("run", toml)
    folder = toml.with_suffix("")
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    for words in ([], ["--once"]):
        assert "t = 0.5 of 0.5 (100%)" in (said := done("watch", folder, *words)) and "complete" in said
        assert "nobody" not in said
    with mf.open(folder) as run:
        assert json.loads(done("watch", folder / "run.h5", "--json"))["risk"] == float(run.records["risk"][-1])
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before
    assert "needed: a run that has begun" in refused("watch", tmp_path / "nosuch")
    assert "--every" in refused("watch", folder, "--every", "-1")


def test_watch_drops_an_earlier_status(tmp_path):
    """Stopped, and gone on with: it is no longer aborted."""
    stopped = line() + line(time=None, status="aborted")
    assert "aborted" in watched(tmp_path, stopped, "--once", held=True)
    said = watched(tmp_path, stopped + line(time=1.0), "--once", held=True)
    assert "aborted" not in said and "t = 1 of 2 (50%)" in said and "about 4 s to go" in said
    assert "status" not in json.loads(watched(tmp_path, stopped + line(), "--once", "--json", held=True))


ODD = [
    b"[1, 2]\n", b"\xff\xfe\n", b"{\n", b"\n", b"null\n", b'"x"\n', b"[" * 100_000 + b"\n", b'{"step": []}\n',
    b"\x00\n",
    b'{"risk": 1' + b"0" * 400 + b"}\n", b'{"risk": 1' + b"0" * 5000 + b"}\n", b'{"status": 3}\n', b'{"time": "x"}\n',
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd[:12]))
def test_watch_passes_over_what_is_no_line(tmp_path, odd):
    plain = watched(tmp_path, line(), "--once", held=True)
    assert watched(tmp_path, odd + line() + odd, "--once", held=True) == plain
    assert "says nothing yet" in watched(tmp_path, odd, "--once", held=True)


def test_a_reader_that_trusts_its_lines_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_read_line", json.loads)
    (tmp_path / "run.progress.jsonl").write_bytes(b"".join(ODD))
    assert call("watch", tmp_path, "--once").exception is not None


def test_watch_numbers_that_are_odd(tmp_path):
    """An end of 0, NaN and infinities, nothing but a status, control characters: shown, and JSON stays JSON."""
    assert "(100%)" in watched(tmp_path, line(time=0.0, end=0.0), "--once", held=True)
    for name in ("time", "end", "seconds", "step", "risk"):
        for value in (math.nan, math.inf, -math.inf):
            watched(tmp_path, line(**{name: value}), "--once", held=True)
            said = watched(tmp_path, line(**{name: value}), "--once", "--json", held=True)
            assert json.loads(said, parse_constant=pytest.fail)[name] is None
    assert "failed" in watched(tmp_path, b'{"status": "failed"}\n')
    assert "\x1b" not in watched(tmp_path, line(status="\x1b[2J", **{"\x1b": 1.0}), "--once")


def test_watch_keeps_a_line_until_its_end_comes(tmp_path):
    path, whole = tmp_path / "run.progress.jsonl", line(risk=0.25)
    following = runs._followed(path)
    for k in range(len(whole)):
        path.write_bytes(whole[:k])
        assert next(following) == ({}, False)
    path.write_bytes(whole)
    assert next(following) == (json.loads(whole), True) and next(following)[1] is False
    path.write_bytes(b'{"step": 1}\n')
    assert next(following) == ({"step": 1}, True), "another run in its place"
    path.unlink()
    assert next(following) == ({}, False)


def test_watch_a_run_that_nobody_writes(tmp_path):
    """Ends by itself; with a lock that somebody holds it goes on until that one lets go."""
    soon = ["--every", "0.05"]
    for words in (soon, ["--once"]):
        said = watched(tmp_path, line(), *words)
        assert "t = 0.5 of 2" in said and f"nobody writes it; `meanfield resume {tmp_path}` goes on" in said
    assert "nobody" in watched(tmp_path, b"")
    assert "nobody" not in watched(tmp_path, line(), "--once", held=True)
    assert "nobody" not in watched(tmp_path, line(status="aborted"))
    assert json.loads(watched(tmp_path, line(), "--json", *soon).splitlines()[0])["step"] == 3


# Signals


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_signals(toml, tmp_path, number, code):
    """Exit code 128 + signal, a checkpoint, aborted; after SIGKILL `watch` says that nobody writes it."""
    folder = tmp_path / "one"
    command = [sys.executable, "-m", "meanfield", "run", str(toml), "--out", str(folder), *LONG]
    words = tmp_path / "words"
    with words.open("w") as there:
        process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=there)
    try:
        waited = time.monotonic() + 120.0
        while not (folder / "run.progress.jsonl").exists():  # in the loop
            assert process.poll() is None and time.monotonic() < waited
            time.sleep(0.05)
        assert config.load(folder / "config.toml").run.dt == 1e-3
        process.send_signal(number)
        assert process.wait(60.0) == code
    finally:
        process.kill()
    assert (f"`meanfield resume {folder}` goes on" in words.read_text()) == (number != signal.SIGKILL)
    said = done("watch", folder)
    assert ("nobody writes it" in said) == (number == signal.SIGKILL) != ("aborted" in said)
    refused("resume", folder, "--set", "run.max_steps=1", "--allow-change", "run.max_steps", by=StepLimitError)
    with mf.open(folder) as run:
        assert run.resumed == 1 and run.status == "failed"
