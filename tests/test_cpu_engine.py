"""What the CPU engine promises beyond right numbers: float32, narrow vectors, kept features, threads, memory."""

import gc
import json
import math
import os
import platform
import re
import subprocess
import sys
import tracemalloc
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features
from scipy import stats
from test_engines import TOLERANCE, bits_by_threads, case, computed, planted, worst_error

import meanfield as mf
from meanfield.activations import ACTIVATIONS
from meanfield.coupled import CoupledField
from meanfield.engines import cpu, cpu_loops, host, reference
from meanfield.engines.cpu_single import in_own_type
from meanfield.errors import InputError
from meanfield.fields import DataField
from meanfield.integrators import TABLEAUS, AdaptiveSteps, FixedSteps, StepLimitReached
from meanfield.overlaps import OVERLAPS

TANH = ACTIVATIONS["tanh"]
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)


def relative(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


# float32 at sizes where its rounding could add up


@cache
def million():
    """A million particles (n = 4, d = 3), and what float64 NumPy makes of them: f, and the velocities of some."""
    given = case.__wrapped__(10**6, 4, 3)
    a, w, x = given.particles[:, 0], given.particles[:, 1:], given.inputs
    terms = (given.masses * a)[:, None] * np.tanh(w @ x.T)
    some = np.r_[0 : 10**6 : 997, 10**6 - 1]
    value = np.tanh(w[some] @ x.T)
    slope = a[some, None] * (1.0 - value**2)
    xi_a, xi_w = given.mobilities
    velocity = np.c_[xi_a * (value @ given.weights), xi_w * ((slope * given.weights) @ x)]
    return given, terms, some, velocity


FAR = {"float64": 1e-12, "float32": 1e-5}  # relative errors allowed at a million particles


@DTYPES
def test_predictions_from_a_million_particles(dtype):
    """Tiles add up in their own dtype, sums of tiles in float64: no rounding grows with N."""
    given, terms, _, _ = million()
    wanted = terms.sum(axis=0)
    assert relative(computed(cpu, "predict", TANH, dtype, given), wanted) < FAR[dtype]


def test_a_running_sum_in_float32_is_caught():
    _, terms, _, _ = million()
    assert relative(np.cumsum(terms, axis=0, dtype=np.float32)[-1], terms.sum(axis=0)) > FAR["float32"]


@DTYPES
def test_velocities_of_a_million_particles(dtype):
    """The particles of a sample, the last one among them, each at its place."""
    given, _, some, wanted = million()
    moved = computed(cpu, "vjp", TANH, dtype, given)
    assert relative(moved[some], wanted) < FAR[dtype]
    assert relative(np.roll(moved, 1, axis=0)[some], wanted) > 0.1


# Sums over many inputs, nodes or particles: float64 from one run of terms to the next. Terms of one sign are worst.

MANY = 300_001


@cache
def many_terms():
    """A few particles and `MANY` inputs with positive weights: (cloud, inputs, weights, the terms of a sum of phi)."""
    rng = np.random.default_rng(31)
    cloud, inputs = rng.uniform(0.5, 1.0, (5, 4)), rng.uniform(0.5, 1.0, (MANY, 3))
    weights = rng.uniform(0.5, 1.0, MANY) / MANY
    return cloud, inputs, weights, np.tanh(cloud[:, 1:] @ inputs.T) * weights


def error_of_many(operation):
    """Largest relative error of an operation in float32, against the reference in float64."""
    cloud, inputs, weights, _ = many_terms()
    if operation == "gram":
        cloud, inputs = np.c_[np.ones(MANY), inputs], cloud[:, 1:]
    results = []
    for engine, dtype in ((cpu, "float32"), (reference, "float64")):
        points, packed_inputs = engine.pack(cloud, dtype), engine.pack_inputs(inputs, dtype)
        if operation == "gram":
            results.append(np.array(engine.gram(TANH, points, engine.pack_masses(weights, dtype), packed_inputs)))
        else:
            what = OVERLAPS[ACTIVATIONS["erf"]] if operation == "pairwise" else TANH
            moved = getattr(engine, operation)(what, points, packed_inputs, weights, (1.0, 1.0))
            results.append(engine.unpack(moved, len(cloud)))
    return relative(*results)


@pytest.mark.parametrize("operation", ["vjp", "pairwise", "gram"])
def test_float32_sums_of_many_terms(operation):
    assert error_of_many(operation) < 2e-6


@pytest.mark.parametrize("n", [2047, 2048, 2049, 4096, 20_001])
@DTYPES
def test_kept_features_of_many_inputs(n, dtype):
    """More than are summed before their sum goes to float64, and beside that number."""
    given = case.__wrapped__(9, n, 3)
    kept, twice = with_features(given, dtype), without_features(given, dtype)
    for one, other in zip(kept, twice, strict=True):
        assert relative(one, other) < {"float64": 1e-13, "float32": 3e-6}[dtype]


# Sizes that do not fit together


@pytest.mark.parametrize("what", ["inputs", "weights", "masses", "features", "another cloud"])
def test_arrays_of_other_sizes_are_refused(what):
    """Compiled code would write beyond their ends."""
    given, other = case(9, 7, 3), case(300, 40, 2)
    cloud, masses, inputs = packed(given, "float64")
    others = packed(other, "float64")
    arguments = {
        "inputs": lambda: cpu.predict(TANH, cloud, masses, others[2]),
        "weights": lambda: cpu.vjp(TANH, cloud, inputs, other.weights, (1.0, 1.0)),
        "masses": lambda: cpu.predict(TANH, cloud, others[1], inputs),
        "features": lambda: cpu.predict(TANH, cloud, masses, inputs, cpu.features(others[0], others[2])),
        "another cloud": lambda: cpu.vjp(TANH, cloud, inputs, given.weights, (1.0, 1.0), out=others[0]),
    }
    with pytest.raises(ValueError, match=f"{what} of another size than a cloud"):
        arguments[what]()


def test_a_state_of_another_field_is_refused():
    field, start = field_of(30, 5, 3)
    field.velocity(field.state(start))
    other, more = field_of(3000, 5, 3)
    with pytest.raises(ValueError, match="masses of another size"):
        field.velocity(other.state(more))


def test_a_running_sum_of_many_terms_is_caught():
    """One for each particle, as a loop over inputs has them that never goes to float64."""
    terms = many_terms()[3]
    assert relative(np.cumsum(terms, axis=1, dtype=np.float32)[:, -1], terms.sum(axis=1)) > 2e-6


# Sizes beside those at which the loops change hands: tiles of 128 (float64) and 256 (float32) particles, blocks of 32
# inputs and of 4, runs of 32 columns. For the functions on NumPy arrays, which are tested against the oracle.

EDGES = [
    (n_particles, n, dim)
    for n_particles in (127, 128, 129, 255, 256, 257)
    for n in (31, 32, 33, 65)
    for dim in (31, 32, 33)
]


@DTYPES
@pytest.mark.parametrize("operation", ["predict", "vjp", "jvp"])
def test_sizes_beside_the_tile_and_the_blocks(operation, dtype):
    assert {129, 257} == {1 + lanes for lanes in cpu_loops.LANES.values()}
    assert cpu_loops.BLOCK == 32
    assert edge_error(cpu, operation, dtype) < TOLERANCE[dtype]


def edge_error(engine, operation, dtype):
    return max(
        relative(
            computed(engine, operation, TANH, dtype, given), computed(reference, operation, TANH, "float64", given)
        )
        for given in (case.__wrapped__(*shape) for shape in EDGES)
    )


def test_a_block_left_out_is_caught():
    """Of the inputs, beyond the first 64: seen at n = 65 alone."""

    def shorter(activation, cloud, inputs, weights, mobilities):
        return reference.vjp(activation, cloud, inputs[:64], weights[:64], mobilities)

    assert edge_error(planted(vjp=shorter), "vjp", "float64") > 1e-3


# Var f = E[a^2 phi(w . x)^2] / N is seen in float32 at N = 1e5.

SEEDS, FEW, MANY = 40, 1_000, 100_000


@cache
def samples():
    """Clouds from the Gaussian law, by seed."""
    return [mf.initial.gaussian(MANY, 3, seed=[71, seed]) for seed in range(SEEDS)]


def outputs(n_particles, dtype, pick=lambda cloud, n_particles: cloud[:n_particles]):
    """f at three orthogonal inputs, where it is uncorrelated as phi is odd, for every seed: (seeds, 3)."""
    inputs, masses = cpu.pack_inputs(np.eye(3), dtype), cpu.pack_masses(np.full(n_particles, 1 / n_particles), dtype)
    clouds = [cpu.pack(pick(each, n_particles), dtype) for each in samples()]
    return np.array([cpu.predict(TANH, cloud, masses, inputs) for cloud in clouds])


def assert_variance_law(few, many):
    """N times the mean square of f is E[tanh^2], and the ratio of the mean squares that of the N, to 4 sigma."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    variance = weights @ np.tanh(nodes) ** 2 / weights.sum()
    tails = stats.norm.cdf((-4.0, 4.0))
    for n_particles, f in ((FEW, few), (MANY, many)):
        low, high = stats.chi2.ppf(tails, f.size) / f.size
        assert low < n_particles * np.mean(f**2) / variance < high
    low, high = stats.f.ppf(tails, few.size, many.size)
    assert low < np.mean(few**2) / np.mean(many**2) / (MANY / FEW) < high


def rounding(f):
    """Largest distance from the float64 predictions, in standard deviations of the prediction at N = 1e5."""
    exact = outputs(MANY, "float64")
    return np.abs(f - exact).max() / exact.std()


def test_the_variance_law_in_float32():
    """Var f ~ 1/N from N = 1e3 to 1e5 (the smaller cloud begins the larger one), and far above the rounding."""
    many = outputs(MANY, "float32")
    assert_variance_law(outputs(FEW, "float32"), many)
    assert rounding(many) < 0.05


def test_clouds_that_are_not_samples_break_the_variance_law():
    """A large cloud that repeats the small one varies like the small one."""
    repeated = outputs(MANY, "float32", lambda cloud, n_particles: np.tile(cloud[:FEW], (n_particles // FEW, 1)))
    with pytest.raises(AssertionError):
        assert_variance_law(outputs(FEW, "float32"), repeated)


def test_the_rounding_of_too_short_numbers_is_caught():
    """A running sum in float16 is lost in its rounding."""
    terms = [(each[:, :1] * np.tanh(each[:, 1:])).astype(np.float16) for each in samples()[:5]]
    short = np.array([np.cumsum(each, axis=0, dtype=np.float16)[-1] for each in terms], float) / MANY
    exact = outputs(MANY, "float64")
    assert np.abs(short - exact[:5]).max() / exact.std() > 0.05


# Narrower vectors and other processors, each in a process of its own: the width is fixed when the engine is imported.

AWKWARD = ((257, 7, 11), (130, 37, 35), (1, 5, 2))  # (N, n, d), multiples of nothing
VARIANTS = {
    "32 bytes": {"MEANFIELD_VECTOR_BYTES": "32"},
    "16 bytes": {"MEANFIELD_VECTOR_BYTES": "16"},
    "haswell": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"},
}
ERRORS = """
import json
import numba
from meanfield.engines import cpu, cpu_lanes
from test_cpu_engine import awkward_errors

target = numba.core.registry.cpu_target.target_context.codegen().magic_tuple()
print(json.dumps([awkward_errors(cpu), cpu_lanes.VECTOR_BYTES, target[1:]]))
"""


def awkward_errors(engine):
    """Error relative to the oracle of every operation in both dtypes."""
    every = ((dtype, operation) for dtype in TOLERANCE for operation in ("predict", "vjp", "jvp"))
    return [(*each, worst_error(engine, each[1], TANH, each[0], AWKWARD)) for each in every]


def assert_within_tolerance(errors):
    assert len(errors) == 6
    for dtype, operation, error in errors:
        assert error < TOLERANCE[dtype], (dtype, operation)


@pytest.fixture
def lasting_folder(request, tmp_path):
    """By name: a folder for machine code that outlives the session, where pytest keeps one.

    One for each variant, so that none is given the machine code of another.
    """
    pytest_cache = getattr(request.config, "cache", None)

    def make(name):
        place = tmp_path if pytest_cache is None else pytest_cache.mkdir("meanfield")
        return str(place / name.replace(" ", "-"))

    return make


@pytest.mark.parametrize("variant", VARIANTS)
def test_narrower_vectors(variant, lasting_folder):
    """LLVM splits vectors that are too wide for the processor; short ones fill it less. The numbers are right."""
    asked = VARIANTS[variant]
    features = numba.core.registry.cpu_target.target_context.codegen().magic_tuple()[2]
    if variant == "haswell" and (platform.machine() not in ("x86_64", "AMD64") or "+avx2" not in features):
        pytest.skip("this processor does not run the code of a haswell")
    paths = [str(Path(mf.__file__).resolve().parents[1]), str(Path(__file__).parent)]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "NUMBA_CACHE_DIR": lasting_folder(variant), **asked}
    process = subprocess.run(
        [sys.executable, "-c", ERRORS],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0
    errors, width, (name, used_features) = json.loads(process.stdout)
    assert_within_tolerance(errors)
    assert str(width) == asked.get("MEANFIELD_VECTOR_BYTES", str(width))
    if "NUMBA_CPU_NAME" in asked:
        assert (name, used_features) == (asked["NUMBA_CPU_NAME"], asked["NUMBA_CPU_FEATURES"])
        assert width == 32, "the block of a processor without AVX-512"


def test_a_remainder_left_out_is_caught():
    """Particles beyond the last whole vector, or inputs beyond the last whole block."""

    def shorter(activation, cloud, masses, inputs):
        whole = len(cloud) // 8 * 8
        return reference.predict(activation, cloud[:whole], masses[:whole], inputs)

    def fewer(activation, cloud, inputs, weights, mobilities):
        return reference.vjp(activation, cloud, inputs, weights * (np.arange(len(weights)) < 4), mobilities)

    for wrong in ({"predict": shorter}, {"vjp": fewer}):
        with pytest.raises(AssertionError):
            assert_within_tolerance(awkward_errors(planted(**wrong)))


# Features kept from the prediction for the velocity

KEPT = ((300, 7, 30), (130, 37, 35), (130, 1, 1))  # the last particle has a mass
NOT_KEPT = ((130, 37, 3), (257, 70, 11))


def packed(given, dtype):
    masses = cpu.pack_masses(given.masses, dtype)
    return cpu.pack(given.particles, dtype), masses, cpu.pack_inputs(given.inputs, dtype)


def room_for(cloud, inputs):
    lanes = cpu_loops.LANES[cloud.dtype.name]
    return cpu_loops.aligned((-(-cloud.shape[1] // lanes), 2, len(inputs.rows), lanes), cloud.dtype)


def with_features(given, dtype, room=None, before=None):
    """Prediction and velocity with room for features; `before`: of another cloud, the stale ones used instead."""
    cloud, masses, inputs = packed(given, dtype)
    room = room_for(cloud, inputs) if room is None else room
    room[...] = np.nan  # nothing of what was there may come through
    predicted = cpu.predict(TANH, cloud, masses, inputs, room)
    if before is not None:
        cpu.predict(TANH, before, masses, inputs, room)
    return predicted, cpu.vjp(TANH, cloud, inputs, given.weights, given.mobilities, room)


def without_features(given, dtype):
    cloud, masses, inputs = packed(given, dtype)
    predicted = cpu.predict(TANH, cloud, masses, inputs)
    return predicted, cpu.vjp(TANH, cloud, inputs, given.weights, given.mobilities)


@DTYPES
@pytest.mark.parametrize("shape", KEPT + NOT_KEPT, ids=str)
def test_kept_features_change_nothing(shape, dtype, monkeypatch):
    """Kept or computed twice, whether the rule keeps them or not: the same prediction and velocity, to rounding."""
    monkeypatch.setattr(cpu, "_CACHE_BYTES", 0)
    monkeypatch.setattr(cpu, "_LARGE_DIM", 1)
    given = case(*shape)
    cloud, _, inputs = packed(given, dtype)
    room = cpu.features(cloud, inputs)
    assert (room is not None) == (shape in KEPT)
    if room is not None:
        assert room.shape == room_for(cloud, inputs).shape and room.dtype == dtype
        assert room.ctypes.data % 64 == 0
    kept, twice = with_features(given, dtype, room), without_features(given, dtype)
    for one, other in zip(kept, twice, strict=True):
        assert relative(one, other) < {"float64": 1e-14, "float32": 1e-6}[dtype]


@DTYPES
def test_stale_features_are_caught(dtype):
    """Those of the cloud before are not those of this one: the comparison above sees a step of a thousandth."""
    given = case(*KEPT[0])
    before = cpu.pack(given.particles * 1.001, dtype)
    stale, twice = with_features(given, dtype, before=before), without_features(given, dtype)
    assert relative(stale[0], twice[0]) < 1e-6
    assert relative(stale[1], twice[1]) > 1e-4


@DTYPES
def test_features_of_a_whole_tile_of_mass_zero(dtype):
    """Its particles do not drive, but are driven: with features kept as without."""
    given = case(600, 7, 30)
    idle = SimpleNamespace(**{**vars(given), "masses": given.masses * (np.arange(600) >= 300)})
    kept, twice = with_features(idle, dtype), without_features(idle, dtype)
    for one, other in zip(kept, twice, strict=True):
        assert relative(one, other) < {"float64": 1e-14, "float32": 1e-6}[dtype]


def test_a_field_with_a_whole_tile_of_mass_zero():
    given, rng = case(600, 7, 30), np.random.default_rng(3)
    masses = given.masses * (np.arange(600) >= 300)
    problem = mf.Problem(given.inputs, rng.standard_normal(7))
    moved = []
    for engine in ("cpu", "reference"):
        field = DataField(mf.Network("tanh"), problem, given.particles, masses, engine)
        field.velocity(field.state(3.0 * given.particles[::-1]))  # leaves other features behind
        moved.append(field.particles(field.velocity(field.state(given.particles))))
    assert relative(*moved) < 1e-13


@pytest.mark.parametrize(
    ("n_particles", "n", "dim", "kept"),
    # n N = 2 (N + n) (1 + d) in the first two rows, and where one more tips it
    [(8, 8, 1, True), (20, 5, 1, True), (9, 8, 1, False), (8, 9, 1, False), (21, 5, 1, False), (9, 8, 2, True)],
)
def test_where_features_are_kept(n_particles, n, dim, kept, monkeypatch):
    """Where n N <= 2 (N + n) (1 + d), for a large d; n counts as given, not as padded."""
    monkeypatch.setattr(cpu, "_CACHE_BYTES", 0)
    monkeypatch.setattr(cpu, "_LARGE_DIM", dim + 1)
    assert cpu.features(*packed(case(n_particles, n, dim), "float64")[::2]) is None
    monkeypatch.setattr(cpu, "_LARGE_DIM", dim)
    assert (n * n_particles <= 2 * (n_particles + n) * (1 + dim)) is kept
    cloud, _, inputs = packed(case(n_particles, n, dim), "float64")
    assert (cpu.features(cloud, inputs) is not None) is kept


@pytest.mark.parametrize(("n_particles", "kept"), [(8192, True), (8193, False)])
def test_features_are_kept_where_a_cache_holds_them(n_particles, kept):
    """16 MiB: (phi, a phi') of 128 inputs and 8192 particles in float64."""
    cloud, _, inputs = packed(case(n_particles, 128, 1), "float64")
    room = cpu.features(cloud, inputs)
    assert (room is not None) is kept
    assert cpu.estimate(n_particles, 128, 1)["features"] == (room.nbytes if kept else 0)


def test_a_field_computes_features_once():
    """It keeps them where the engine's rule says so, and its velocity is the one without them."""
    given, rng = case(*KEPT[0]), np.random.default_rng(4)
    field = DataField(mf.Network("tanh"), mf.Problem(given.inputs, rng.standard_normal(7)), given.particles)
    state, other = field.state(given.particles), field.state(given.particles + 0.1)
    first = field.velocity(state)[0].copy()
    assert field._features is not None
    field.velocity(other)
    again = field.velocity(state)[0]
    np.testing.assert_array_equal(again, first)
    sums = field.engine.predict(field.network.activation, state[0], field._masses, field._inputs)
    assert relative(field.driven(state[0], sums), first) < 1e-14


# Threads, at sizes where there are two


def in_two(shape, dtype):
    """What each operation gives at a shape, as functions of nothing."""
    given = case(*shape)
    cloud, masses, inputs = packed(given, dtype)
    velocity = cpu.pack(given.velocity, dtype)
    assert inputs.rows.size * cloud.shape[1] >= cpu._SMALL and cloud.size >= cpu._SMALL
    return {
        "predict": lambda: cpu.predict(TANH, cloud, masses, inputs),
        "vjp": lambda: cpu.vjp(TANH, cloud, inputs, given.weights, given.mobilities),
        "vjp, features kept": lambda: with_features(given, dtype)[1],
        "jvp": lambda: cpu.jvp(TANH, cloud, velocity, masses, inputs),
        "combine": lambda: cpu.combine(cloud, 0.1, (0.7, 0.0, 1.3), (velocity, cloud, velocity)),
        "error_norm": lambda: cpu.error_norm(0.1, (0.7, 1.3), (velocity, cloud), cloud, velocity, 1e-3, 1e-5)[0],
        "a sum by threads": lambda: sum(
            part.cumsum()[-1] for part in np.array_split(cloud[0], numba.get_num_threads())
        ),
    }


WIDE = (300_003, 4, 3)


@DTYPES
@pytest.mark.parametrize("operation", ["predict", "vjp", "vjp, features kept", "jvp", "combine", "error_norm"])
def test_bits_do_not_depend_on_threads(operation, dtype, monkeypatch):
    """Of particles and inputs that fill many groups of tiles, and chunks, with a remainder."""
    loop, calls = cpu.in_parallel, []

    def counted(*arguments):
        calls.append(operation)
        loop(*arguments)

    monkeypatch.setattr(cpu, "in_parallel", counted)
    one, two = bits_by_threads(in_two(WIDE, dtype)[operation])
    assert calls, "the parallel loop was not used: there was nothing to compare"
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one, two)


@DTYPES
def test_a_sum_by_threads_is_caught(dtype):
    one, two = bits_by_threads(in_two(WIDE, dtype)["a sum by threads"])
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(one, two)


# Linear algebra of more stages than are read at a time

ENTRIES = (4, 9_001)  # three chunks, the last not full
STAGES = (0, 1, 6, 7, 8, 14, 15)


@cache
def operands(dtype, count):
    """Base, stages and coefficients, one of them zero."""
    rng = np.random.default_rng([11, count])
    coefficients = rng.standard_normal(count)
    coefficients[2:3] = 0.0
    base, *stages = rng.standard_normal((1 + count, *ENTRIES)).astype(dtype)
    return base, tuple(stages), tuple(coefficients.tolist())


def combined(dtype, count):
    """base + 0.3 sum_j c_j s_j in float64."""
    base, stages, coefficients = operands(dtype, count)
    return base + 0.3 * sum((c * s.astype(float) for c, s in zip(coefficients, stages, strict=True)), np.zeros(ENTRIES))


def assert_combines(engine, dtype, count, place=None):
    """Into a new array, or into one of the operands: the base (-1) or a stage."""
    base, stages, coefficients = operands(dtype, count)
    base, stages = base.copy(), [each.copy() for each in stages]
    out = None if place is None else base if place == -1 else stages[place]
    got = engine.combine(base, 0.3, coefficients, stages, out)
    assert got.dtype == dtype and (out is None or got is out)
    np.testing.assert_allclose(got, combined(dtype, count), rtol=0, atol={"float64": 1e-14, "float32": 1e-5}[dtype])
    for number, (array, original) in enumerate(
        zip((base, *stages), [*operands(dtype, count)[:1], *operands(dtype, count)[1]], strict=True)
    ):
        assert number - 1 == place or np.array_equal(array, original)


@DTYPES
@pytest.mark.parametrize("count", STAGES)
def test_combine_any_number_of_stages(count, dtype):
    """The operands as they were, `out` another array or the base."""
    assert_combines(cpu, dtype, count)
    assert_combines(cpu, dtype, count, place=-1)


@pytest.mark.parametrize("place", range(7))
def test_combine_into_a_stage(place):
    assert_combines(cpu, "float64", 7, place)


@pytest.mark.parametrize("place", [0, 6])
def test_combine_into_one_of_the_first_of_many_stages(place):
    assert_combines(cpu, "float64", 15, place)


@pytest.mark.parametrize("place", [8, 14])
def test_combine_into_a_late_one_of_many_stages(place):
    """`out` may be one of the arrays read, whichever it is."""
    assert_combines(cpu, "float64", 15, place)


@DTYPES
@pytest.mark.parametrize("count", STAGES)
def test_error_norm_of_any_number_of_stages(count, dtype):
    assert_error_norm(cpu, dtype, count)


def assert_error_norm(engine, dtype, count):
    base, stages, coefficients = operands(dtype, count)
    after = combined(dtype, count).astype(dtype)
    tolerance = 1e-5 + 1e-3 * np.maximum(np.abs(base), np.abs(after)).astype(float)
    wanted = (((combined(dtype, count) - base) / tolerance) ** 2).sum()
    total, size = engine.error_norm(0.3, coefficients, stages, base, after, 1e-3, 1e-5)
    assert isinstance(total, float) and size == base.size
    assert math.isclose(total, wanted, rel_tol={"float64": 1e-11, "float32": 1e-4}[dtype])


def test_stages_left_out_are_caught():
    """An engine that reads seven and no more; one that writes to its operands."""

    def seven(base, step, coefficients, stages, out=None):
        return host.combine(base, step, coefficients[:7], stages[:7], out)

    def norm_of_seven(step, coefficients, stages, *rest):
        return host.error_norm(step, coefficients[:7], stages[:7], *rest)

    def in_place(base, step, coefficients, stages, out=None):
        return host.combine(base, step, coefficients, stages, base)

    short, careless = SimpleNamespace(combine=seven, error_norm=norm_of_seven), SimpleNamespace(combine=in_place)
    assert_combines(short, "float64", 7)
    assert_error_norm(short, "float64", 7)
    for check in (
        lambda: assert_combines(short, "float64", 8),
        lambda: assert_error_norm(short, "float64", 8),
        lambda: assert_combines(careless, "float64", 1),
    ):
        with pytest.raises(AssertionError):
            check()


# Machine code


def gathers(kernel, signature):
    """How often compiled code gathers or scatters entries one by one, where a vector could be read or written."""
    kernel.compile(signature)
    (code,) = kernel.inspect_asm().values()
    return len(re.findall("gather|scatter", code))


def careless_combine(chunk, out, base, s0, s1, s2, s3, s4, s5, s6, c):
    """Indices that LLVM cannot know not to be negative, as far as NumPy's rules go."""
    for i in range(chunk * 100, min((chunk + 1) * 100, base.size)):
        out[i] = base[i] + c[0] * s0[i]


FREE_OF_FORMULAS = ("combine", "error_norm", "is_finite", "gram", "vjp_of_kept")
OF_FORMULAS = ("predict", "predict_and_keep", "vjp", "jvp", "features")


@pytest.mark.skipif(not get_host_cpu_features().get("avx512f"), reason="no AVX-512, for which the check is written")
@DTYPES
def test_nothing_is_gathered(dtype):
    """Compiled anew, for code from the cache cannot be looked at."""
    real = numba.from_dtype(np.dtype(dtype))
    careless = numba.njit(**cpu_loops.LOOP)(careless_combine)
    assert gathers(careless, (numba.intp, *cpu._types("combine", real))), "the check sees nothing"
    phi = in_own_type(ACTIVATIONS["relu"].formula)
    for operation in (*FREE_OF_FORMULAS, *OF_FORMULAS):
        build = getattr(cpu_loops, f"build_{operation}")
        kernel = build(phi, dtype) if operation in OF_FORMULAS else build(dtype)
        assert not gathers(kernel, (numba.intp, *cpu._types(operation, real))), operation
        assert "zmm" in next(iter(kernel.inspect_asm().values())), operation


# Memory

ADAPTIVE = [name for name, each in TABLEAUS.items() if each.embedded]
SCHEDULES = [(name, "fixed") for name in TABLEAUS] + [(name, "adaptive") for name in ADAPTIVE]
EVERY_SCHEDULE = pytest.mark.parametrize(("scheme", "kind"), SCHEDULES, ids=[", ".join(each) for each in SCHEDULES])


def field_of(n_particles, n, dim, activation="tanh", dtype="float64", kind=DataField):
    rng = np.random.default_rng([21, n_particles])
    problem = mf.Problem(rng.standard_normal((n, dim)), rng.standard_normal(n))
    start = mf.initial.gaussian(n_particles, dim, seed=22)
    return kind(mf.Network(activation), problem, start, dtype=dtype), start


def schedule_of(scheme, kind, dt=1e-3, most=10**6):
    tableau = TABLEAUS[scheme]
    return FixedSteps(tableau, dt, most) if kind == "fixed" else AdaptiveSteps(tableau, 1e-6, 1e-9, most)


def keeping(field):
    """The field's velocity, by a flow that leaves `out` alone and keeps what it returned."""
    kept = []

    def velocity(state, out):
        kept.append(field.velocity(state))
        return kept[-1]

    return velocity


def allocated(schedule, velocity, field, start, since):
    """Most memory in use from the end of step `since` on, above what was in use then, in states."""
    (cloud,) = state = field.state(start)
    field.velocity(state)
    before = None

    def on_step(*_):
        nonlocal before
        if schedule.accepted == since:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]

    gc.collect()
    tracemalloc.start()
    try:
        with pytest.raises(StepLimitReached):
            schedule.advance(velocity, field.algebra, state, 0.0, 1e6, on_step)
        return (tracemalloc.get_traced_memory()[1] - before) / cloud.nbytes
    finally:
        tracemalloc.stop()


FOLLOWED = pytest.mark.parametrize(
    ("scheme", "kind"), [("rk4", "fixed"), ("dopri5", "adaptive")], ids=["rk4", "dopri5"]
)


@cache
def followed():
    return field_of(20_000, 8, 10)


@FOLLOWED
def test_steps_allocate_no_states(scheme, kind):
    """From the third step on: 50 steps take less than a tenth of one state."""
    field, start = followed()
    schedule = schedule_of(scheme, kind, most=50)
    assert allocated(schedule, field.velocity, field, start, since=2) < 0.1
    assert schedule.accepted + schedule.rejected == 50


@FOLLOWED
def test_a_flow_that_keeps_its_velocities_is_caught(scheme, kind):
    field, start = followed()
    assert allocated(schedule_of(scheme, kind, most=5), keeping(field), field, start, since=2) > 2.0


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(velocity, field, state, steps):
    """Of the resident memory, from the tenth step to the last, in states."""
    schedule, before = schedule_of("euler", "fixed"), 0

    def on_step(*_):
        nonlocal before
        if schedule.accepted == 10:
            before = resident()

    gc.collect()
    schedule.advance(velocity, field.algebra, state, 0.0, 1e-3 * steps, on_step)
    assert schedule.accepted == steps
    return (resident() - before) / state[0].nbytes


GROWTH = """
from test_cpu_engine import field_of, growth, keeping

field, start = field_of(500_000, 4, 10, "relu", "float32")
state = field.state(start)
print(growth(field.velocity, field, state, 1000), growth(keeping(field), field, state, 60))
"""


def test_steps_leave_the_memory_as_it_is():
    """Whoever allocates: NumPy, Numba's scratch memory, the threads. By a hundredth of the state in 1000 steps."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc/self/statm here to read the resident memory from")
    # A process of its own: what other tests freed comes and goes with the pages of this one.
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", GROWTH], cwd=here, capture_output=True, text=True, check=True)
    grown, kept = map(float, done.stdout.split())
    assert grown < 0.01
    assert kept > 25.0, "a flow that keeps its velocities is to be seen"


# States handed in and out

FIELDS = pytest.mark.parametrize("field_kind", [DataField, CoupledField], ids=lambda each: each.__name__)


def assert_states_stay(schedule, field, start, between=lambda state: None):
    """The start and every state returned keep their bits while the run goes on."""
    state, now, seen = field.state(start), 0.0, []
    for target in (0.05, 0.05, 0.4, 0.41, 1.0):
        seen.append((state, [each.copy() for each in state]))
        state, now = schedule.advance(field.velocity, field.algebra, state, now, target), target
        between(state)
        for given, copies in seen:
            for array, copy in zip(given, copies, strict=True):
                np.testing.assert_array_equal(array, copy)
    arrays = [array for given, _ in seen for array in given]
    assert len({array.ctypes.data for array in arrays}) == len(arrays) - len(
        state
    )  # of two one after no time is the other
    assert schedule.accepted > 20


@FIELDS
@EVERY_SCHEDULE
def test_states_handed_in_or_out_are_not_written_to(scheme, kind, field_kind):
    field, start = field_of(50, 7, 3, kind=field_kind)
    assert_states_stay(schedule_of(scheme, kind, dt=0.02) if kind == "fixed" else fine(scheme), field, start)


def fine(scheme):
    """Adaptive steps small enough for there to be many, some of them tried again."""
    return AdaptiveSteps(TABLEAUS[scheme], 1e-11, 1e-13, 10**6)


@EVERY_SCHEDULE
def test_a_schedule_that_reuses_the_state_it_returned_is_caught(scheme, kind):
    field, start = field_of(50, 7, 3)
    schedule = schedule_of(scheme, kind, dt=0.02) if kind == "fixed" else fine(scheme)
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        assert_states_stay(schedule, field, start, schedule._spare.append)


# Formulas that are not what the engine asks for; see also test_activations.


def value_and_slope(activation, dtype, z):
    """phi and phi' at the numbers z, in float64."""
    given = SimpleNamespace(
        particles=np.stack([np.ones_like(z), z], axis=1),
        masses=np.ones(len(z)),
        inputs=np.ones((1, 1)),
        weights=np.ones(1),
        mobilities=(1.0, 1.0),
    )
    return computed(cpu, "vjp", activation, dtype, given).T


def _leaky(z):
    if z > 0.0:
        return z, 1.0
    return 0.25 * z, 0.25


@DTYPES
def test_a_formula_with_a_branch_is_right(dtype):
    """It is slow, for no vector runs it, but compiles, also where its two sides differ in type."""
    z = np.arange(-40.0, 40.0) / 16.0
    value, slope = value_and_slope(mf.Activation("leaky", _leaky), dtype, z)
    np.testing.assert_array_equal(value, np.where(z > 0.0, z, 0.25 * z))
    np.testing.assert_array_equal(slope, np.where(z > 0.0, 1.0, 0.25))


REFUSED = {
    "a name that is not there": lambda z: (not_there(z), 1.0),  # noqa: F821
    "a Python function that is not compiled": lambda z: (_leaky(z)[0], 1.0),
    "three values": lambda z: (z, 1.0, 0.0),
    "nothing": lambda z: None,
    "two arguments": lambda z, y: (z, y),
    "text": lambda z: ("z", 1.0),
    "a complex number": lambda z: (1j * z, 1.0),
}


@DTYPES
@pytest.mark.parametrize("formula", REFUSED.values(), ids=REFUSED)
def test_a_formula_that_does_not_compile_is_named(formula, dtype):
    """And again the next time."""
    for _ in range(2):
        with pytest.raises(InputError, match="activation 'odd' does not compile for engine 'cpu'"):
            value_and_slope(mf.Activation("odd", formula), dtype, np.zeros(1))
