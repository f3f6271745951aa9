"""The CUDA engine without a device: its errors, and its kernels in Numba's simulator."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import meanfield as mf
from meanfield import engines
from meanfield.errors import DeviceError

HERE = Path(__file__).parent
INSTALLED = importlib.util.find_spec("numba_cuda") is not None
PACKAGE = pytest.mark.skipif(not INSTALLED, reason="numba-cuda is not installed: pip install '.[cuda13]'")


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **environment}, timeout=1200
    )


@PACKAGE
def test_in_the_simulator():
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "simulated_cuda.py", NUMBA_ENABLE_CUDASIM="1")
    assert done.returncode == 0, done.stdout[-6000:]
    assert "skipped" not in done.stdout


def test_importing_the_package_touches_no_cuda():
    code = "import sys, meanfield; assert not [name for name in sys.modules if name.startswith('numba.cuda.cudadrv')]"
    code += "; assert 'meanfield.engines.cuda' not in sys.modules"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


def test_without_the_package(monkeypatch):
    """One error that names the fix, wherever the engine is asked for."""
    from importlib import util

    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "numba_cuda" else found(name, *rest))
    monkeypatch.delitem(sys.modules, "meanfield.engines.cuda_device", raising=False)
    problem, start = mf.problems.teacher_student(dim=2, n=5, seed=1), mf.initial.gaussian(6, 2, seed=2)
    with pytest.raises(DeviceError, match=r"needs the package numba-cuda, .* pip install \"numba-cuda\[cu13\]\""):
        mf.simulate(mf.Network("tanh"), problem, start, [0.1], engine="cuda")
    assert "needs the package numba-cuda" in engines.doctor()["cuda"]


NO_DEVICE = """
import meanfield as mf
from meanfield import engines
from meanfield.errors import DeviceError
try:
    engines.find("cuda")
except DeviceError as problem:
    print(problem)
else:
    print("there is a device")
print(engines.doctor()["cuda"])
"""


@PACKAGE
def test_without_a_device():
    first, second = run("-c", NO_DEVICE).stdout.splitlines()
    if first == "there is a device":
        pytest.skip("there is a device here")
    assert first == second and first.startswith("engine 'cuda' has no device (") and "nvidia-smi" in first
