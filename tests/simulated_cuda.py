"""The CUDA engine in Numba's simulator: `test_cuda` runs this file in a process of its own, NUMBA_ENABLE_CUDASIM=1.

Blocks of 8 threads and tiles of 8 rows there; sizes are small, for every thread is one of Python's.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import small_cuda
from test_engines import OPERATIONS, TOLERANCE, case, computed, exact, numbers

import meanfield as mf
from meanfield import engines
from meanfield.activations import ACTIVATIONS
from meanfield.engines import cpu, cuda, cuda_device, cuda_gemm, cuda_loops, cuda_rates, reference
from meanfield.errors import InputError
from meanfield.integrators import Geiger
from meanfield.overlaps import OVERLAPS

TANH = ACTIVATIONS["tanh"]
# N, n, d: one of each; beside the tile and the block; several runs of tiles of inputs
SHAPES = ((1, 1, 1), (9, 7, 3), (17, 20, 2))
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)


def error(got, wanted):
    assert got.shape == wanted.shape and got.dtype == np.float64
    return np.abs(got - wanted).max() / (np.abs(wanted).max() or 1.0)


@pytest.fixture(params=["of its own", "of any dimension", "products"])
def kernels(request, monkeypatch):
    """All kinds of kernels: with the dimension in their code, without, and beside products of matrices by tiles."""
    if request.param == "of any dimension":
        monkeypatch.setattr(cuda, "MOST_DIM", {"float32": 0, "float64": 0})
    if request.param == "products":
        monkeypatch.setattr(cuda_gemm, "LEAST_DIM", 1)
        monkeypatch.setattr(cuda_gemm, "TILE_BYTES", 8 * 8 * 8)
        monkeypatch.setattr(cuda_device, "multiprocessors", lambda: 3)  # several shares of the inputs


def test_it_is_the_simulator():
    assert cuda_device.SIMULATED and engines.find("cuda") is cuda
    assert "simulated" in engines.doctor()["cuda"]


def worst(engine, operation, name, dtype):
    return max(
        error(computed(engine, operation, ACTIVATIONS[name], dtype, case(*shape)), exact(operation, name, shape))
        for shape in SHAPES
    )


@DTYPES
@pytest.mark.parametrize("operation", OPERATIONS)
def test_against_the_oracle(operation, dtype, kernels):
    assert worst(cuda, operation, "tanh", dtype) < TOLERANCE[dtype]


@DTYPES
@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"tanh"}))
def test_activations_against_the_oracle(name, dtype):
    assert worst(cuda, "vjp", name, dtype) < TOLERANCE[dtype]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_row_left_out_is_caught(operation, monkeypatch):
    """Of the shared memory: the last of a tile."""

    def predict(activation, cloud, masses, inputs):
        fewer = cuda.pack_masses(np.append(np.array(masses)[:-1], 0.0), "float64")
        return cuda.predict(activation, cloud, fewer, inputs)

    def vjp(activation, cloud, inputs, weights, mobilities):
        return cuda.vjp(activation, cloud, inputs, np.append(weights[:-1], 0.0), mobilities)

    def jvp(activation, cloud, velocity, masses, inputs):
        return cuda.jvp(activation, cloud, velocity, cuda.pack_masses(np.zeros(len(masses)), "float64"), inputs)

    wrong = SimpleNamespace(**{**vars(cuda), "predict": predict, "vjp": vjp, "jvp": jvp})
    assert worst(wrong, operation, "tanh", "float64") > TOLERANCE["float64"]


@DTYPES
@pytest.mark.parametrize("name", ["erf", "relu"])
def test_pairwise(name, dtype, kernels):
    given, overlap = case(9, 11, 3), OVERLAPS[ACTIVATIONS[name]]
    moved = []
    for engine, real in ((cuda, dtype), (reference, "float64")):
        cloud, nodes = engine.pack(given.particles, real), engine.pack_inputs(given.inputs, real)
        velocity = engine.pairwise(overlap, cloud, nodes, given.weights, given.mobilities)
        moved.append(engine.unpack(velocity, 9))
    assert error(*moved) < TOLERANCE[dtype]


@DTYPES
@pytest.mark.parametrize("others", [None, 5])
def test_gram(others, dtype):
    given, other = case(9, 7, 2), case(1, 5, 2).inputs
    found = []
    for engine, real in ((cuda, dtype), (reference, "float64")):
        cloud, masses = engine.pack(given.particles, real), engine.pack_masses(given.masses, real)
        more = None if others is None else engine.pack_inputs(other, real)
        found.append(engine.gram(TANH, cloud, masses, engine.pack_inputs(given.inputs, real), more))
    for got, wanted in zip(*found, strict=True):
        assert error(got, wanted) < TOLERANCE[dtype]
        assert others is not None or np.array_equal(got, got.T)


def test_gram_in_several_blocks_of_particles(monkeypatch):
    monkeypatch.setattr(cuda, "_FEATURE_BYTES", 2 * 8 * 14 * 4)
    test_gram(None, "float64")


@DTYPES
def test_inputs_in_shares(dtype, monkeypatch):
    """Where there are few particles, each share of the inputs has a velocity of its own: the sum is the same."""
    given = case(9, 30, 3)
    alone = computed(cuda, "vjp", TANH, dtype, given)
    monkeypatch.setattr(cuda_device, "multiprocessors", lambda: 4)
    assert cuda._shares(9, 30, dtype, 3) == 4
    assert error(computed(cuda, "vjp", TANH, dtype, given), alone) < {"float64": 1e-14, "float32": 1e-6}[dtype]
    assert cuda._splits(9, 30, dtype, 3) == 2
    assert error(computed(cuda, "predict", TANH, dtype, given), exact("predict", "tanh", (9, 30, 3))) < TOLERANCE[dtype]


def test_into_an_array_that_is_given():
    given = case(9, 7, 3)
    cloud, inputs = cuda.pack(given.particles, "float64"), cuda.pack_inputs(given.inputs, "float64")
    out = cuda.pack(np.full_like(given.particles, np.nan), "float64")
    assert cuda.vjp(TANH, cloud, inputs, given.weights, given.mobilities, out=out) is out
    assert error(cuda.unpack(out, 9), exact("vjp", "tanh", (9, 7, 3))) < 1e-13


@DTYPES
@pytest.mark.parametrize("count", [0, 1, 7, 8, 15])
def test_combine(count, dtype):
    rng = np.random.default_rng(count)
    base, *stages = rng.standard_normal((1 + count, 5, 4)).astype(dtype)
    c = rng.standard_normal(count)
    on_device = [cuda.pack(each, dtype) for each in (base, *stages)]
    wanted = base + 0.3 * sum((x * y for x, y in zip(c, stages, strict=True)), np.zeros_like(base))
    tolerance = {"float64": 1e-14, "float32": 1e-5}[dtype]
    assert error(cuda.unpack(cuda.combine(on_device[0], 0.3, c, on_device[1:]), 5), wanted.astype(float)) < tolerance
    place = on_device[-1]  # of the arrays that are read
    assert cuda.combine(on_device[0], 0.3, c, on_device[1:], place) is place
    assert error(cuda.unpack(place, 5), wanted.astype(float)) < tolerance


@DTYPES
def test_error_norm_and_is_finite(dtype):
    rng = np.random.default_rng(2)
    before, after, first, second = rng.standard_normal((4, 30, 3)).astype(dtype)
    packed = [cuda.pack(each, dtype) for each in (before, after, first, second)]
    total, size = cuda.error_norm(0.3, (0.5, -2.0), packed[2:], packed[0], packed[1], 1e-3, 1e-2)
    ratio = 0.3 * (0.5 * first - 2.0 * second) / (1e-2 + 1e-3 * np.maximum(np.abs(before), np.abs(after)))
    assert size == 90
    assert total == pytest.approx(float((ratio**2).sum()), rel={"float64": 1e-13, "float32": 1e-5}[dtype])
    assert cuda.is_finite(packed[0])
    for lost in (np.nan, np.inf, -np.inf):
        before[29, 2] = lost
        assert not cuda.is_finite(cuda.pack(before, dtype))


def test_atoms_without_mass_are_not_looked_at():
    """A whole tile of them is skipped: even NaN does not come through; one with mass does."""
    given = case(17, 5, 2)
    particles, masses = given.particles.copy(), np.full(17, 1 / 17)
    particles[cuda_loops.TILE :] = np.nan
    masses[cuda_loops.TILE :] = 0.0
    inputs = cuda.pack_inputs(given.inputs, "float64")
    alone = numbers(
        cuda, cuda.predict(TANH, cuda.pack(particles, "float64"), cuda.pack_masses(masses, "float64"), inputs)
    )
    assert np.isfinite(alone).all()
    masses[-1] = 0.1
    lost = numbers(
        cuda, cuda.predict(TANH, cuda.pack(particles, "float64"), cuda.pack_masses(masses, "float64"), inputs)
    )
    assert np.isnan(lost).all()


@pytest.mark.parametrize("flow", [mf.simulate, mf.simulate_coupled])
@pytest.mark.parametrize("scheme", [{"scheme": "rk4", "dt": 0.05}, {"scheme": "bosh3", "rtol": 1e-2}])
def test_runs_are_those_of_the_cpu(flow, scheme):
    problem, start = mf.problems.teacher_student(dim=2, n=5, seed=1), mf.initial.gaussian(6, 2, seed=2)
    runs = [flow(mf.Network("tanh"), problem, start, [0.05, 0.1], engine=each, **scheme) for each in ("cuda", "cpu")]
    np.testing.assert_allclose(runs[0].particles, runs[1].particles, rtol=1e-12)
    np.testing.assert_allclose(runs[0].predictions, runs[1].predictions, rtol=1e-12)
    assert runs[0].engine == "cuda"


def test_no_evaluation_waits_for_the_device(monkeypatch):
    """A step of a fixed size looks once at the device; an adaptive one once for its error."""
    crossed = []
    array = type(cuda.pack(np.zeros((1, 2)), "float64"))
    monkeypatch.setattr(array, "copy_to_host", lambda self, *rest: crossed.append(1) or copy_to_host(self, *rest))
    problem, start = mf.problems.teacher_student(dim=2, n=5, seed=1), mf.initial.gaussian(6, 2, seed=2)
    for flow, more in ((mf.simulate, 1), (mf.simulate_coupled, 2)):
        counts = []
        for steps in (2, 5):
            crossed.clear()
            flow(mf.Network("tanh"), problem, start, [0.1], scheme="rk4", dt=0.1 / steps, engine="cuda", keep="last")
            counts.append(len(crossed))
        assert counts[1] - counts[0] == 3 * more
    counts = []
    for rtol in (1e-2, 1e-4):
        crossed.clear()
        run = mf.simulate(
            mf.Network("tanh"), problem, start, [0.4], scheme="bosh3", rtol=rtol, engine="cuda", keep="last"
        )
        counts.append((len(crossed), run.steps + run.rejected))
    (first, steps), (second, more_steps) = counts
    assert more_steps > steps and second - first == more_steps - steps


copy_to_host = type(cuda.pack(np.zeros((1, 2)), "float64")).copy_to_host


def test_a_loss_that_only_numpy_computes(caplog):
    """It is computed on the host, and says so once; the velocity is the same."""
    own = mf.losses.Loss("own", lambda f, y: np.arctan(y - f), lambda f, y: np.arctan(y - f))
    rng = np.random.default_rng(1)
    problem = mf.Problem(rng.standard_normal((7, 3)), rng.standard_normal(7), loss=own)
    start = mf.initial.gaussian(9, 3, seed=2)
    runs = [
        mf.simulate(mf.Network("tanh"), problem, start, [0.1], scheme="euler", dt=0.05, engine=each)
        for each in ("cuda", "cpu")
    ]
    np.testing.assert_allclose(runs[0].particles, runs[1].particles, rtol=1e-12)
    assert "loss 'own' is computed on the host" in caplog.text


@DTYPES
def test_noise_is_that_of_the_cpu(dtype):
    start = np.zeros((11, 7))
    clouds = [engine.noise(engine.pack(start, dtype), 2**40 + 3, 17) for engine in (cuda, cpu)]
    on_device, on_host = cuda.unpack(clouds[0], 11), cpu.unpack(clouds[1], 11)
    np.testing.assert_allclose(on_device, on_host, rtol={"float64": 1e-13, "float32": 3e-6}[dtype])


@pytest.mark.parametrize("rows", [slice(2, 5), slice(-3, None), slice(None, None, 2), slice(4, 4)], ids=str)
def test_some_rows_of_a_cloud(rows):
    particles = np.random.default_rng(3).standard_normal((9, 4))
    np.testing.assert_array_equal(cuda.unpack(cuda.pack(particles, "float64"), 9, rows), particles[rows])


def test_rates():
    """What times are held against: a copy that copies, and arithmetic that is as many flops as it says."""
    seconds, _ = cuda_rates.timed(cuda_rates.copy(64))
    assert seconds > 0
    call, flops = cuda_rates.fma("float32")
    assert flops == 2 * cuda_rates.CHAINS * cuda_rates.STEPS * cuda_loops.THREADS
    call()


def test_the_benchmark_of_a_device():
    """From start to end in processes of their own, in the simulator; peers that are not there are skipped by name."""
    from meanfield.benchmarks import run
    from meanfield.benchmarks.cases import Case

    tiny = run.Effort(rounds=(3, 3), seconds=0.01, rest=0.0, matmul=16, copy=2**8)
    chosen = [Case("velocity", 5, 9, 2, "float32", "tanh", memory=True), Case("jvp", 5, 9, 2, "float64", "erf")]
    found = run.run("cuda", "cupy", cases=chosen, effort=tiny)
    velocity, jvp = found["cases"]
    assert velocity["ms"]["ours"] > 0 and velocity["percent_of_fma"] > 0 and velocity["floor_ms"] > 0
    assert velocity["fused_flops"] == 6 * 5 * 9 * 2 and velocity["least_bytes"] == 3 * 9 * 3 * 4
    assert "device_memory_over_state" in velocity and jvp["ratio_to_velocity"] > 0
    assert found["absent"].keys() | set(velocity["skipped"]) == {"cupy"}
    assert "simulated" in found["machine"]["device"]


@pytest.mark.parametrize(
    "options",
    [{"scheme": Geiger(gradient_change=1e-2, first=1.0)}, {"scheme": "jko", "dt": 0.2}],
    ids=["geiger", "jko"],
)
def test_schemes_that_look_at_the_field(options):
    """The same steps as on the CPU engine, to rounding by Geiger's rule and to 1e-9 by minimising movements."""
    problem, start = mf.problems.teacher_student(dim=1, n=3, n_test=1, seed=1), mf.initial.gaussian(4, 1, seed=2)
    device, cpu = (
        mf.simulate(mf.Network("tanh"), problem, start, [0.15], engine=engine, **options) for engine in ("cuda", "cpu")
    )
    assert (device.steps, device.rejected) == (cpu.steps, cpu.rejected)
    np.testing.assert_allclose(device.particles, cpu.particles, rtol=0, atol=1e-9)


def test_the_limits_job():
    """On the device from start to end: float32, with a float64 run beside it."""
    from meanfield.experiments import limits

    settings = limits.Settings(
        problem="bilinear", engine="cuda", widths=(2, 4), seeds=2, n_times=2, t_end=0.01, rtol=0.1,
        coupling_widths_to=2, w2_widths_to=2, w2_seeds=2,
    )  # fmt: skip
    assert settings.dtype == "float32"
    found = limits.run(settings)
    assert found.quantities["coupling_distance"]["widths"] == [2]
    for regime in ("mf", "ntk"):
        assert 0 < found.report["precision"][f"float64_differs_{regime}"]["sup_rms"] < 1e-5


def test_tangent_kernel():
    given, network = case(9, 4, 2), mf.Network("erf")
    kernels = [mf.tangent.kernel(network, given.particles, given.inputs, engine=each) for each in ("cuda", "cpu")]
    np.testing.assert_allclose(*kernels, rtol=1e-12)


def _branch(z):
    if z > 0:
        return z, 1.0
    return 0.0, 0.0


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (_branch, "activation 'own' cannot be compiled for engine 'cuda': a formula branches on its argument"),
        (lambda z: np.arctan(z), "a formula calls 'arctan'"),
        (lambda z: (z, 1.0, 2.0), "its formula returns 3 values; needed: two"),
        (lambda z: (z, "1"), "a formula computes with '1'; needed: numbers"),
    ],
)
def test_formulas_that_cannot_be_traced(formula, message):
    given = case(9, 7, 3)
    with pytest.raises(InputError, match=message):
        computed(cuda, "vjp", mf.Activation("own", formula), "float64", given)


def test_estimate():
    parts = engines.estimate(1000, 20, 3, dtype="float32", clouds=2, engine="cuda")
    assert parts["clouds"] == 2 * 1000 * 4 * 4 and all(number >= 0 for number in parts.values())


def test_every_kernel_once(monkeypatch):
    """What compute-sanitizer looks at on a device."""
    monkeypatch.setattr(cuda_gemm, "LEAST_DIM", 3)
    small_cuda.main(shapes=(((9, 7, 2), True), ((5, 6, 3), True), ((5, 6, 3), False)), dtypes=("float64",))
