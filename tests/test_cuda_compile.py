"""Every CUDA kernel compiled for real devices without one: registers, spills, and no float64 in float32 kernels.

NVVM makes PTX, nvJitLink makes machine code and says what it takes. `python tests/test_cuda_compile.py` writes the
budget of registers, cuda_registers.json, anew: what each kernel takes today and a little more.
"""

import importlib.util
import json
import re
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from meanfield.activations import ACTIVATIONS
from meanfield.losses import LOSSES
from meanfield.overlaps import OVERLAPS

BUDGET = Path(__file__).parent / "cuda_registers.json"
MARGIN = 8  # registers by which another version of the compiler may differ
NEEDED = ("numba_cuda", "cuda.bindings")


def _installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


MISSING = [name for name in NEEDED if not _installed(name)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install '.[cuda13]'")

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")
FREE = ("combine", "error_norm", "is_finite", "gram", "sum_rows", "add", "place", "noise")  # of formulas
BY_PRODUCTS = ("sum_units", "sum_motions", "pull_units")
SIZED = ("predict", "vjp", "jvp", "pairwise")
WIDENING = ("sum_rows", "add", "pull")  # the last sums, in float64 by design


def cases():
    """(operation, formula, dtype, dimension or None, architecture)"""
    found = []
    for dtype in ("float32", "float64"):
        for arch in ARCHITECTURES:
            found += [(operation, None, dtype, None, arch) for operation in FREE]
            found += [(f"{operation}_wide", _formula(operation), dtype, None, arch) for operation in SIZED]
            found += [(operation, _formula(operation), dtype, 20, arch) for operation in SIZED]
            found += [("features", "tanh", dtype, None, arch), ("sizes", "relu", dtype, None, arch)]
            found += [(operation, "tanh", dtype, None, arch) for operation in BY_PRODUCTS]
            found += [("pull", "squared", dtype, None, arch), ("fma", None, dtype, None, arch)]
        found += [(each, _formula(each), dtype, dim, "sm_90") for each in SIZED for dim in (1, 2, 10, 32)]
        found += [
            (operation, name, dtype, 20, "sm_90")
            for operation in ("predict", "vjp", "jvp")
            for name in ACTIVATIONS
            if name != "tanh"
        ]
        found += [("pairwise", name, dtype, 20, "sm_90") for name in ("erf", "linear")]
    return found


def _formula(operation):
    return "relu" if operation == "pairwise" else "tanh"


def label(operation, formula, dtype, dim, arch):
    return " ".join(str(each) for each in (operation, formula, dtype, dim, arch) if each is not None)


@pytest.fixture(scope="module", autouse=True)
def no_device():
    """Numba asks the current device what to compile its device functions for."""
    from numba.cuda import dispatcher

    asked = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(9, 0))
    yield
    dispatcher.get_current_device = asked


def signature(operation, dtype):
    from numba import types

    real, index, wide = getattr(types, dtype), types.int64, types.float64

    def array(dimensions, kind=real):
        return types.Array(kind, dimensions, "C")

    stages = (array(2),) * 9 + (real,) * 7
    return {
        "predict": (array(2), array(1), array(2), array(2)),
        "jvp": (array(2), array(2), array(1), array(2), array(2)),
        "vjp": (array(2), array(2), array(1), real, real, array(3)),
        "pairwise": (array(2), array(2), array(2), array(1), real, real, array(3)),
        "sizes": (array(2), array(2)),
        "features": (array(2), array(2), index, array(2), array(2)),
        "gram": (array(2), array(2), array(1), index, array(2)),
        "combine": stages,
        "error_norm": (*stages, real, real, array(1)),
        "is_finite": (array(2), array(1, types.int32)),
        "sum_rows": (array(2), wide, array(1, wide)),
        "pull": (array(2), wide, array(1, wide), array(1, wide), array(1, wide), array(1)),
        "noise": (array(2), index, index, index),
        "sum_units": (array(2), array(2), array(1), index, array(2), index),
        "sum_motions": (array(2), array(2), array(2), array(2), array(1), index, array(2), index),
        "pull_units": (array(2), array(2), array(1), index, array(2)),
        "place": (array(2), array(2), real, real, index, array(2)),
        "fma": (real, real, array(1)),
        "add": (array(1), array(1, wide)),
    }[operation.removesuffix("_wide")]


def assembled(function, signature, arch, **options):
    """PTX of a kernel, and what its machine code takes: registers, spilled bytes."""
    from cuda.bindings import nvjitlink
    from numba import cuda

    number = int(arch.removeprefix("sm_"))
    ptx, _ = cuda.compile_ptx(function, signature, cc=(number // 10, number % 10), **options)
    linker = nvjitlink.create(3, [f"-arch={arch}", "-verbose", "-O3"])
    try:
        nvjitlink.add_data(linker, nvjitlink.InputType.PTX, ptx.encode(), len(ptx), "kernel")
        nvjitlink.complete(linker)
        log = bytearray(nvjitlink.get_info_log_size(linker))
        nvjitlink.get_info_log(linker, log)
        assert nvjitlink.get_linked_cubin_size(linker) > 0
    finally:
        nvjitlink.destroy(linker)
    text = log.decode(errors="replace")
    (registers,) = re.findall(r"Used (\d+) registers", text)
    spilled = sum(int(size) for size in re.findall(r"(\d+) bytes spill", text))
    return ptx, int(registers), spilled


@cache
def compiled(operation, formula, dtype, dim, arch):
    from meanfield.engines import cuda, cuda_rates

    if operation == "pull":
        return assembled(cuda._pulling(LOSSES[formula], dtype).py_func, signature(operation, dtype), arch)
    if operation == "fma":
        return assembled(cuda_rates.build_fma(dtype).py_func, signature(operation, dtype), arch)
    activation = ACTIVATIONS.get(formula)
    what = OVERLAPS[activation] if operation.startswith(("pairwise", "sizes")) else activation
    kernel = cuda._compiled(operation, what, dtype, *(() if dim is None else (dim,)))
    return assembled(kernel.py_func, signature(operation, dtype), arch)


def assert_narrow(ptx):
    """No arithmetic in float64, nor conversion to it."""
    assert not re.findall(r"\.f64", ptx)


# Float64 at d = 20, where twice forty registers hold a particle and its sums, on devices before Hopper.
SPILLS = {"vjp tanh float64 20 sm_75", "vjp tanh float64 20 sm_80"}
SPILLS |= {"pairwise relu float64 20 sm_75", "pairwise relu float64 20 sm_80"}


def assert_within(budget, registers, spilled):
    assert spilled == 0
    assert registers <= budget, f"{registers} registers; python {Path(__file__).name} writes the budget anew"


@pytest.mark.parametrize("each", cases(), ids=lambda each: label(*each))
def test_kernel(each):
    ptx, registers, spilled = compiled(*each)
    operation, _, dtype, *_ = each
    name = label(*each)
    assert_within(json.loads(BUDGET.read_text())[name], registers, 0 if name in SPILLS else spilled)
    if dtype == "float32" and operation not in WIDENING:
        assert_narrow(ptx)
    if operation in SIZED and each[3] in (10, 20, 32):
        assert "ld.shared.v" in ptx, "shared memory is read several numbers at a time"


def test_a_kernel_that_does_not_compile_is_caught():
    from numba.core.errors import NumbaError

    def wrong(cloud, masses):
        masses[0] = "text"

    with pytest.raises(NumbaError):
        assembled(wrong, signature("predict", "float32")[:2], "sm_90")


def test_a_literal_in_float64_is_caught():
    from numba import cuda, types

    def widened(values, bad):
        i = cuda.grid(1)
        if i < values.size:
            values[i] = values[i] / 3.0 + 0.1

    lines = tuple(types.Array(kind, 1, "C") for kind in (types.float32, types.int32))
    ptx, _, _ = assembled(widened, lines, "sm_90")
    with pytest.raises(AssertionError):
        assert_narrow(ptx)


def test_a_spill_or_a_register_too_many_is_caught():
    from meanfield.engines import cuda

    kernel = cuda._compiled("vjp", ACTIVATIONS["tanh"], "float32", 32)
    _, registers, spilled = assembled(kernel.py_func, signature("vjp", "float32"), "sm_90")
    assert_within(255, registers, spilled)
    with pytest.raises(AssertionError):
        assert_within(registers - 1, registers, spilled)
    _, registers, spilled = compiled("vjp", "tanh", "float64", 20, "sm_75")  # one of those known to spill
    with pytest.raises(AssertionError):
        assert_within(255, registers, spilled)


if __name__ == "__main__":
    generator = no_device.__wrapped__() if hasattr(no_device, "__wrapped__") else None
    from numba.cuda import dispatcher

    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(9, 0))
    table = {}
    for each in cases():
        _, registers, spilled = compiled(*each)
        table[label(*each)] = min(255, registers + MARGIN)
        print(label(*each), registers, "registers", spilled, "bytes spilled", file=sys.stderr)
    BUDGET.write_text(json.dumps(table, indent=0) + "\n")
