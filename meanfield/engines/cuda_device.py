"""The one import of Numba's CUDA target, and what can be missing on the way to a device.

`numba-cuda` is in maintenance; its successor takes the same kernels under another name. Only this file would change.
"""

import math
import os
from functools import cache
from importlib import metadata, util
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import DeviceError

_INSTALL = 'pip install "numba-cuda[cu13]" (or cu12, for drivers of CUDA 12)'


os.environ.setdefault("NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS", "0")  # of sums over n numbers, which are small by nature


def _import_target() -> Any:
    if util.find_spec("numba_cuda") is None:
        raise DeviceError(f"engine 'cuda' needs the package numba-cuda, which is not installed. {_INSTALL}.")
    try:
        from numba import cuda
    except Exception as problem:
        raise DeviceError(f"numba-cuda is installed but cannot be imported ({problem}). {_INSTALL}.") from problem
    return cuda


cuda = _import_target()
SIMULATED: bool = bool(getattr(getattr(cuda, "config", None), "ENABLE_CUDASIM", False))


def require() -> None:
    """Raise DeviceError, with what to do, unless there is a device to compute on."""
    problem = _missing()
    if problem:
        raise DeviceError(problem)


@cache
def _missing() -> str | None:
    if SIMULATED:
        return None
    try:
        if cuda.is_available():
            cuda.current_context()
            _try_compiler()
            return None
        reason = str(getattr(cuda, "cuda_error", lambda: "")() or "no CUDA driver or no device was found")
    except Exception as problem:
        reason = f"{type(problem).__name__}: {problem}"
    reason = " ".join(reason.split()).rstrip(".")
    return (
        f"engine 'cuda' has no device ({reason}); needed: an NVIDIA GPU with its driver (`nvidia-smi` shows both), and "
        f"the toolkit of that driver's CUDA: {_INSTALL}. Engine 'cpu' runs everything."
    )


def _try_compiler() -> None:
    """Compile and run a kernel: a toolkit that is missing, or too new for the driver, shows here and not in a run."""

    @cuda.jit
    def one(out):
        out[0] = 1.0

    out = cuda.device_array(1, np.float32)
    one[1, 1](out)
    if out.copy_to_host()[0] != 1.0:
        raise RuntimeError("a first kernel wrote nothing")


def describe() -> str:
    """The device, or why there is none."""
    problem = _missing()
    if problem:
        return problem
    version = metadata.version("numba-cuda")
    if SIMULATED:
        return f"simulated by numba-cuda {version} (NUMBA_ENABLE_CUDASIM), for tests"
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    free, total = memory()
    return (
        f"{name}, compute capability {'.'.join(map(str, device.compute_capability))}, "
        f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free; numba-cuda {version}"
    )


def memory() -> tuple[float, float]:
    """Free and total bytes of the device, once Numba has given back what it no longer needs."""
    context = cuda.current_context()
    context.deallocations.clear()
    free, total = context.get_memory_info()
    return float(free), float(total)


@cache
def multiprocessors() -> int:
    return 1 if SIMULATED else int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


# What reads and writes the bits of numbers: one instruction each on a device, views of NumPy scalars in the simulator.


def _device_bits() -> dict[str, SimpleNamespace]:
    from numba.cuda import libdevice

    return {
        "float32": SimpleNamespace(of=libdevice.float_as_int, number=libdevice.int_as_float),
        "float64": SimpleNamespace(of=libdevice.double_as_longlong, number=libdevice.longlong_as_double),
    }


def _simulated_bits() -> dict[str, SimpleNamespace]:
    def pair(real: Any, integer: Any, size: int) -> SimpleNamespace:
        def of(x):
            return int(np.asarray(x, real).view(integer))

        def number(bits):
            return np.array(bits % 2**size, integer).view(real)[()]

        return SimpleNamespace(of=of, number=number)

    return {"float32": pair(np.float32, np.uint32, 32), "float64": pair(np.float64, np.uint64, 64)}


BITS = _simulated_bits() if SIMULATED else _device_bits()


def _quiet(function):
    """NumPy's function in the simulator, without its warnings: NaN is an answer there as on a device."""

    def call(*arguments):
        with np.errstate(all="ignore"):
            return function(*arguments)

    return call


SCALARS: dict[str, Any] = (
    {
        "square_root": _quiet(np.sqrt), "sine": _quiet(np.sin), "cosine": _quiet(np.cos), "power": _quiet(np.power),
        "copysign": _quiet(np.copysign),
    }
    if SIMULATED
    else {"square_root": math.sqrt, "sine": math.sin, "cosine": math.cos, "power": math.pow, "copysign": math.copysign}
)  # fmt: skip
