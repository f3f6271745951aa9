"""Every example's main, small, and the README's own Python, held to what they claim."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from meanfield.cli import app
from meanfield.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested_here():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == {"teacher_student"}


def test_teacher_student_risk_falls_below_a_tenth(tmp_path):
    risk = load("teacher_student").main(str(tmp_path / "figure.png"), n_particles=200, horizon=40.0)
    assert (risk[1:] < risk[:-1]).all() and risk[-1] < 0.1 < risk[0]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def readme_python():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (source,) = readme_python()
    exec(compile(source, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_page_of_dynamics_runs(tmp_path, monkeypatch, capsys):
    """docs/dynamics.md, block after block in one namespace, and what it says its numbers do."""
    monkeypatch.chdir(tmp_path)  # it writes files
    space = {}
    for source in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "dynamics.md").read_text(), re.DOTALL):
        exec(compile(source, "dynamics.md", "exec"), space)
    printed = capsys.readouterr().out.splitlines()
    assert max(float(each) for each in printed[0].split()) < 0.1
    energies = [float(each) for each in re.findall(r"(-?\d+\.\d+) \+-", printed[1])]
    assert energies[0] > energies[1] > energies[2]
    assert printed[2].startswith("margin 1 ")
    distances = [float(line.split()[1]) for line in printed if line.startswith(("64 ", "128 "))]
    assert 3.5 < distances[0] / distances[1] < 4.5
    (difference,) = (float(line.split()[-1]) for line in printed if line.startswith("from file"))
    assert difference < 1e-12
    (accuracy,) = (float(line.split()[-1]) for line in printed if line.startswith("accuracy"))
    assert accuracy > 0.8
    rows = {line.split()[0]: [float(x) for x in re.findall(r"\d\.\d{4}", line)] for line in printed}
    for name in ("variance", "error", "average_error"):
        value, low, high = rows[name]
        assert low < value < high
    assert abs(rows["error"][0] - rows["average_error"][0] - rows["variance"][0]) < 2e-4
    distance, floor = re.fullmatch(
        r"from the initial law (\S+) floor (\S+)", next(each for each in printed if each.startswith("from the initial"))
    ).groups()
    assert float(distance) > float(floor)
    assert re.search(r"PowerLaw\(-0\.\d+ .* against -1/2: (agrees|cannot tell)", "\n".join(printed))


def blocks(page):
    """(language, source) of every block of Python or shell on a page, in order."""
    return re.findall(r"```(python|sh)\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def shell(line):
    """Run `meanfield ...`, its output perhaps into a file, in this process; what it printed."""
    line, _, into = line.partition(" > ")
    name, *arguments = shlex.split(line)
    assert name == "meanfield"
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    if into:
        Path(into).write_text(done.stdout)
    return done.stdout


def test_the_page_of_files_runs(tmp_path, monkeypatch, capsys):
    """docs/files.md, block after block in one folder and namespace; that of xarray where xarray is installed."""
    monkeypatch.chdir(tmp_path)
    space, said = {}, {}
    for language, source in blocks("files.md"):
        if language == "sh":
            said |= {line.split()[1]: shell(line) for line in source.splitlines()}
        elif "to_xarray" not in source or importlib.util.find_spec("xarray"):
            exec(compile(source, "files.md", "exec"), space)
    assert "is whole: complete" in said["verify"] and "wrote analysis.png" in said["analyse"]
    assert {"run.h5", "run.ckpt", "run.progress.jsonl", "config.toml"} <= {each.name for each in Path("one").iterdir()}
    assert Path("analysis.png").read_bytes().startswith(b"\x89PNG") and Path("one-in-space.h5").is_file()
    assert "25.0 (26, 200, 6) ['risk', 'test_risk']" in capsys.readouterr().out
    series = space["found"].series
    assert series.keys() >= {"risk", "test_risk", "kernel_drift", "displacement", "w2", "w2_floor", "energy_residual"}
    assert space["found"].between.series.keys() >= {"w2", "coupling_distance", "prediction_difference"}


def test_a_command_that_fails_on_a_page_is_caught(tmp_path):
    """Planted: a file that is not there."""
    with pytest.raises(InputError, match="nowhere"):
        shell(f"meanfield verify {tmp_path / 'nowhere'}")


@pytest.mark.parametrize("command", ["pip install . && meanfield limits", "pip install -e '.[test]' && pytest"])
def test_readme_has_the_two_commands(command):
    assert command in (ROOT / "README.md").read_text()


def test_readme_shows_the_figure_and_a_run():
    """docs/update_readme.py has been run: the picture is there, and the table names every quantity."""
    text = (ROOT / "README.md").read_text()
    figure = re.search(r"!\[[^]]*\]\(([^)]+)\)", text)[1]
    assert (ROOT / figure).read_bytes().startswith(b"\x89PNG")
    printed = text.split("<!-- table: begin -->")[1].split("<!-- table: end -->")[0]
    assert printed.count("agrees") + printed.count("differs") + printed.count("cannot tell") >= 10
    assert "cores" in printed and "numba" in printed
