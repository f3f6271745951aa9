"""The CUDA engine on a device: `pytest -m gpu`."""

import gc

import numpy as np
import pytest
from test_engines import OPERATIONS, case, computed

import meanfield as mf
from meanfield import engines
from meanfield.activations import ACTIVATIONS
from meanfield.engines import cpu
from meanfield.errors import DeviceError, DeviceMemoryError
from meanfield.overlaps import OVERLAPS

try:
    CUDA, WHY = engines.find("cuda"), ""
except DeviceError as problem:
    CUDA, WHY = None, str(problem)
SIMULATED = "simulated" in engines.doctor()["cuda"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(CUDA is None or SIMULATED, reason=WHY or "the simulator is no device"),
]
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)
# The last two of any dimension: by matrix products where CuPy is, else by the engine's own kernels.
SHAPES = [
    (1, 1, 1),
    (1000, 130, 2),
    (4097, 1000, 20),
    (3000, 300, 33),
    (500, 4100, 5),
    (2000, 100, 100),
    (20_000, 200, 784),
]
OTHERS = ("pairwise", "gram")


def relative(got, wanted):
    return np.abs(got - wanted).max() / (np.abs(wanted).max() or 1.0)


def result(engine, operation, name, dtype, given):
    activation = ACTIVATIONS[name]
    if operation in OPERATIONS:
        return computed(engine, operation, activation, dtype, given)
    cloud, inputs = engine.pack(given.particles, dtype), engine.pack_inputs(given.inputs, dtype)
    if operation == "gram":
        return np.array(engine.gram(activation, cloud, engine.pack_masses(given.masses, dtype), inputs))
    moved = engine.pairwise(OVERLAPS[activation], cloud, inputs, given.weights, given.mobilities)
    return engine.unpack(moved, len(given.particles))


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operation", (*OPERATIONS, *OTHERS))
def test_against_the_cpu(operation, shape, dtype):
    given = case(*shape)
    names = ("erf", "relu") if operation == "pairwise" else ACTIVATIONS
    if shape != (4097, 1000, 20):  # where every activation is compiled
        names = ("erf",)  # relu in float32 may take another side of its kink where z is rounded otherwise
    for name in names:
        wanted = result(cpu, operation, name, "float64", given)
        got = result(CUDA, operation, name, dtype, given)
        assert relative(got, wanted) < TOLERANCE[dtype], name
        np.testing.assert_array_equal(result(CUDA, operation, name, dtype, given), got)  # the same bits again


@DTYPES
def test_after_a_thousand_steps(dtype):
    problem, start = mf.problems.teacher_student(dim=5, n=200, seed=1), mf.initial.gaussian(2000, 5, seed=2)
    runs = [
        mf.simulate(mf.Network("tanh"), problem, start, [1.0], scheme="rk4", dt=1e-3, engine=engine, dtype=each)
        for engine, each in (("cuda", dtype), ("cpu", "float64"))
    ]
    assert relative(runs[0].particles, runs[1].particles) < TOLERANCE[dtype]


@DTYPES
def test_noise_is_that_of_the_cpu(dtype):
    start = np.zeros((5000, 7))
    on_device, on_host = (
        engine.unpack(engine.noise(engine.pack(start, dtype), 2**40 + 3, 17), 5000) for engine in (CUDA, cpu)
    )
    assert np.abs(on_device - on_host).max() < {"float64": 1e-13, "float32": 1e-5}[dtype]


def test_without_cupy(monkeypatch):
    """The engine's own kernels of any dimension."""
    from meanfield.engines import cuda_gemm

    monkeypatch.setattr(cuda_gemm, "available", lambda: False)
    test_against_the_cpu("vjp", (2000, 100, 100), "float32")


def test_a_small_benchmark():
    """From start to end; times are for the benchmark to tell."""
    from meanfield.benchmarks import cases, run

    small = [cases.Case("velocity", 100, 1000, 3, "float32", "tanh", memory=True)]
    measured = run.run("cuda", "cupy", cases=small, effort=run.DEVICE_QUICK)
    assert measured["cases"][0]["ms"]["ours"] > 0 and not measured["cases"][0]["skipped"].get("ours")


def test_a_small_limits_job():
    from meanfield.experiments import limits

    pytest.importorskip("ot", reason="the limits job needs POT")
    found = limits.run(limits.Settings(problem="teacher-student", engine="cuda", widths=(64, 256), seeds=4))
    assert 0 < found.report["precision"]["float64_differs_mf"]["sup_rms"] < 1e-3


def test_runs_leak_nothing():
    from meanfield.engines import cuda_device

    problem, start = mf.problems.teacher_student(dim=5, n=200, seed=1), mf.initial.gaussian(20_000, 5, seed=2)

    def free_after(runs):
        for _ in range(runs):
            mf.simulate(mf.Network("tanh"), problem, start, [0.01], scheme="euler", dt=0.01, engine="cuda")
        gc.collect()
        return cuda_device.memory()[0]

    before = free_after(20)
    assert before - free_after(1000) < 16 * 2**20


def test_a_cloud_that_does_not_fit_is_refused():
    from meanfield.engines import cuda, cuda_device

    free, _ = cuda_device.memory()
    with pytest.raises(DeviceMemoryError, match="the device has no room for an array of"):
        cuda._empty(int(2 * free), np.float64)
    assert cuda_device.memory()[0] > 0.9 * free
