"""Imports go one way, heavy libraries have one importer each, and `import meanfield` loads none of the slow ones."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import meanfield

PACKAGE = Path(meanfield.__file__).parent

# A file may import only from lines above its own. `meanfield/__init__.py` imports what it likes, and nobody imports it.
ORDER = (
    "errors",
    "_checks",
    "_memory",
    "_files",
    "_machine",
    "_signals",
    "vocabulary",
    "_origins",
    "activations",
    "overlaps",
    "gaussian_means",
    "losses",
    "initial",
    "problems",
    "datasets",
    "targets",
    "quadratics",
    "projections",
    "scaling",
    "network",
    "interactions",
    "engines.coefficients",
    "engines.elementary",
    "engines.straight_line",
    "engines.noise",
    "engines.cpu_bits",
    "engines.cpu_single",
    "engines.cpu_vocabulary",
    "engines.cpu_lanes",
    "engines.cpu_cache",
    "engines.cpu_loops",
    "engines.host",
    "engines.reference",
    "engines.cpu",
    "engines.cuda_device",
    "engines.cuda_vocabulary",
    "engines.cuda_loops",
    "engines.cuda_wide",
    "engines.cuda_gemm",
    "engines.cuda_rates",
    "engines.cuda",
    "engines",
    "stopping",
    "fields",
    "coupled",
    "population",
    "batches",
    "momentum",
    "jko",
    "integrators",
    "phases",
    "tangent",
    "krylov",
    "kernels",
    "linearised",
    "diagnostics",
    "output",
    "loop",
    "runs",
    "trajectories.schema",
    "trajectories.safety",
    "trajectories.arrays",
    "trajectories.kernels",
    "trajectories.parts",
    "trajectories.settings",
    "trajectories.checkpoint",
    "trajectories.superblock",
    "trajectories.writer",
    "trajectories.structure",
    "trajectories.frames",
    "trajectories.views",
    "trajectories.reader",
    "trajectories.inspection",
    "trajectories.export",
    "trajectories.recording",
    "trajectories",
    "simulation",
    "config.sections",
    "config.reading",
    "config.writing",
    "config.building",
    "config.examples",
    "config",
    "transport",
    "identities",
    "analysis",
    "fit",
    "ensembles",
    "limits.mean_field",
    "limits.frozen",
    "limits.ntk",
    "limits.radial",
    "limits.exact",
    "limits.grid",
    "limits",
    "experiments.quantities",
    "experiments.fluctuations",
    "experiments.limits",
    "experiments.linearised",
    "experiments.findings",
    "experiments.dynamics",
    "experiments.kernel_claims",
    "experiments.regimes",
    "experiments.gaussians",
    "experiments.training",
    "experiments.claims",
    "experiments",
    "plots",
    "benchmarks.cases",
    "benchmarks.processes",
    "benchmarks.timing",
    "benchmarks.ours",
    "benchmarks.peers",
    "benchmarks.worker",
    "benchmarks.run",
    "benchmarks.report",
    "benchmarks",
    "cli.files",
    "cli.runs",
    "cli.analyse",
    "cli",
    "__main__",
)
ROOT = "meanfield"

# Library: the one module or package that imports it.
IMPORTERS = {
    "h5py": "trajectories", "ot": "transport", "matplotlib": "plots", "typer": "cli", "numba": "engines",
    "pydantic": "config", "pydantic_core": "config",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the package by its name within it, without `meanfield/__init__.py`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(module: str, source: str, is_package: bool) -> set[str]:
    """Full names of what `source` imports, anywhere in it: inside functions and under TYPE_CHECKING too."""
    here = [ROOT, *module.split(".")]
    here = here if is_package else here[:-1]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            start = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for each in node.names:
                inner = f"{start}.{each.name}"
                found.add(inner if inner.removeprefix(ROOT + ".") in ORDER else start)
    return found


def upward(module: str, source: str, is_package: bool = False) -> list[str]:
    """What `module` may not import, but does: one sentence each."""
    complaints = []
    for name in sorted(imports(module, source, is_package)):
        if name.split(".")[0] != ROOT:
            continue
        target = name.removeprefix(ROOT).removeprefix(".")
        if target not in ORDER:
            complaints.append(f"{module} imports {name}, which is no line of ORDER")
        elif ORDER.index(target) >= ORDER.index(module):
            complaints.append(f"{module} imports {target}, which is not above it")
    return complaints


def unlisted(found) -> list[str]:
    """Modules that ORDER does not know, and lines of ORDER without a module: one sentence each."""
    new = [
        f"{name} is not in ORDER of tests/test_imports.py: add a line for it, below all that it imports and above all "
        "that import it"
        for name in found
        if name not in ORDER
    ]
    return new + [
        f"{name} is in ORDER, but there is no such module: remove its line" for name in ORDER if name not in found
    ]


def foreign(module: str, source: str) -> list[str]:
    """Libraries that `module` imports and only another module may: one sentence each."""
    names = {name.split(".")[0] for name in imports(module, source, False)}
    return [
        f"{module} imports {library}, which only {owner} may"
        for library, owner in IMPORTERS.items()
        if library in names and module != owner and not module.startswith(owner + ".")
    ]


def test_every_module_has_a_line():
    """ORDER and the files of the package are the same list."""
    assert len(set(ORDER)) == len(ORDER)
    assert unlisted(MODULES) == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    """No module imports one that is not above it, not even inside a function."""
    path = MODULES[module]
    assert upward(module, path.read_text(), path.name == "__init__.py") == []


@pytest.mark.parametrize("module", MODULES)
def test_libraries_with_one_importer(module):
    """h5py, POT, Matplotlib, Typer, Numba and pydantic are each imported in one place."""
    assert foreign(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(("library", "owner"), IMPORTERS.items(), ids=IMPORTERS)
def test_the_one_importer_imports_it(library, owner):
    """The table of importers is not out of date."""
    inside = [path.read_text() for name, path in MODULES.items() if name == owner or name.startswith(owner + ".")]
    assert any(library in {name.split(".")[0] for name in imports(owner, source, False)} for source in inside)


@pytest.mark.parametrize(
    ("module", "is_package", "source", "target"),
    [
        ("errors", False, "from . import _checks", "_checks"),
        ("errors", False, "from ._checks import find", "_checks"),
        ("errors", False, "import meanfield._checks", "_checks"),
        ("errors", False, "from meanfield._checks import find", "_checks"),
        ("errors", False, "from meanfield import _checks as c", "_checks"),
        ("fields", False, "def late():\n    from .simulation import simulate", "simulation"),
        ("fields", False, "if TYPE_CHECKING:\n    from .cli import main", "cli"),
        ("interactions", False, "from .engines import host", "engines.host"),
        ("interactions", False, "from .engines import find", "engines"),
        ("engines.host", False, "from . import find", "engines"),
        ("engines.host", False, "from .cpu import pack", "engines.cpu"),
        ("engines.host", False, "from ..fields import DataField", "fields"),
        ("engines", True, "from .. import fields", "fields"),
        ("engines", True, "from ..fields import DataField", "fields"),
        ("limits.mean_field", False, "from .. import tangent, limits", "limits"),
        ("network", False, "from .network import Network", "network"),
    ],
)
def test_an_upward_import_is_caught(module, is_package, source, target):
    """Planted: each way to write an import, at module level, inside a function, under TYPE_CHECKING."""
    assert upward(module, source, is_package) == [f"{module} imports {target}, which is not above it"]


@pytest.mark.parametrize(
    "source", ["from . import simulate", "import meanfield as mf", "from meanfield import Network"]
)
def test_importing_the_package_itself_is_caught(source):
    """`meanfield/__init__.py` is below everything: nobody inside imports its names."""
    assert upward("cli", source) == ["cli imports meanfield, which is no line of ORDER"]


@pytest.mark.parametrize(
    ("module", "is_package", "source"),
    [
        ("_checks", False, "from .errors import InputError"),
        ("engines", True, "from . import cpu, reference\nfrom .host import combine\nfrom .. import _checks"),
        ("engines.cpu", False, "from .. import interactions\nfrom .host import combine\nfrom . import cpu_vocabulary"),
        ("limits.exact", False, "from .. import _checks\nfrom .mean_field import MeanFieldLimit"),
        ("cli", False, "import os\nimport numpy as np\nfrom importlib import metadata\nfrom . import plots"),
    ],
)
def test_a_downward_import_is_fine(module, is_package, source):
    """The check does not cry wolf."""
    assert upward(module, source, is_package) == []


def test_a_new_or_missing_module_is_caught():
    """A file without a line and a line without a file, each with what to do about it."""
    (new,) = unlisted([*ORDER, "novel"])
    assert new.startswith("novel is not in ORDER of tests/test_imports.py: add a line for it, below")
    (gone,) = unlisted(ORDER[1:])
    assert gone.startswith("errors is in ORDER, but there is no such module")


@pytest.mark.parametrize(
    ("module", "source", "library"),
    [
        ("simulation", "import h5py", "h5py"),
        ("fit", "def late():\n    from ot.lp import emd2", "ot"),
        ("diagnostics", "import matplotlib.pyplot as plt", "matplotlib"),
        ("plots", "import typer", "typer"),
        ("integrators", "from numba import njit", "numba"),
        ("transport_of_files", "import ot", "ot"),
        ("configure", "from pydantic import BaseModel", "pydantic"),
    ],
)
def test_a_second_importer_is_caught(module, source, library):
    """Planted: each library imported elsewhere."""
    assert foreign(module, source) == [f"{module} imports {library}, which only {IMPORTERS[library]} may"]


def loaded(statement: str) -> set[str]:
    """Top-level modules in memory after `statement`, in a fresh interpreter."""
    command = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=60)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_nothing_slow():
    """POT, Matplotlib, h5py, Typer and pydantic wait until they are needed; Numba and NumPy are always needed."""
    names = loaded("import meanfield")
    assert not names & {"ot", "matplotlib", "h5py", "typer", "pydantic"}
    assert {"meanfield", "numba", "numpy"} <= names


def test_the_command_line_starts_without_figures():
    """`meanfield --help` waits for neither POT nor Matplotlib; what is loaded is seen."""
    assert not loaded("import meanfield.cli") & {"ot", "matplotlib"}
    assert "matplotlib" in loaded("import meanfield, matplotlib")


WITHOUT = """
import sys
from importlib import metadata

for name in ("ot", "platformdirs", "pydantic"):
    sys.modules[name] = None  # whose import fails from now on
found = metadata.version
def version(name):
    if name in ("meanfield", "pot"):
        raise metadata.PackageNotFoundError(name)
    return found(name)
metadata.version = version

import meanfield as mf
from meanfield import cli
from meanfield.benchmarks import cases, run

problem, start = mf.problems.teacher_student(dim=2, n=20, seed=1), mf.initial.gaussian(30, 2, seed=2)
mf.simulate(mf.Network("tanh"), problem, start, [0.1])
small = [cases.Case("velocity", 20, 30, 2, "float64", "tanh")]
found = run.run(cases=small, peers="numpy", effort=run.Effort(rounds=(2, 2), seconds=0.01, matmul=16, copy=2**10))
print(mf.__version__, found["machine"]["versions"]["pot"], sorted(found["cases"][0]["ms"]))
"""


def test_it_runs_from_a_checkout_without_the_packages_of_other_parts(tmp_path):
    """Without POT (W2 alone needs it), without platformdirs where a cache folder is named, and not installed itself."""
    variables = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "unknown unknown ['numpy', 'numpy-tiled', 'ours']"
