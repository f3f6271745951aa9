"""Every engine against the oracle, for every activation, at sizes that do not fit the tiles; and its linear algebra."""

import math
from functools import cache
from itertools import product
from types import SimpleNamespace

import hypothesis
import numba
import numpy as np
import oracle
import pytest
from hypothesis import strategies as st

import meanfield as mf
from meanfield.activations import ACTIVATIONS
from meanfield.engines import ENGINES, cpu, reference
from meanfield.errors import InputError

EVERYWHERE = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
OPERATIONS = ("predict", "vjp", "jvp")
# Particles beside and at tiles of 128 and 256, one and several inputs and blocks of them, several dimensions.
SHAPES = (*product((1, 127, 128, 129, 257), (1, 7), (1, 3, 11)), (130, 70, 37))
TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


@cache
def case(n_particles, n, dim, seed=0):
    """Particles and their velocity, masses (uneven, every third zero), inputs, weights and mobilities."""
    rng = np.random.default_rng([seed, n_particles, n, dim])
    masses = rng.uniform(0.1, 1.0, n_particles)
    masses[2::3] = 0.0
    return SimpleNamespace(
        particles=rng.standard_normal((n_particles, 1 + dim)),
        velocity=rng.standard_normal((n_particles, 1 + dim)),
        masses=masses / masses.sum(),
        inputs=rng.standard_normal((n, dim)),
        weights=rng.standard_normal(n),
        mobilities=(0.7, 2.5),
    )


@cache
def exact(operation, name, shape, seed=0):
    """What the oracle says about a case."""
    given, activation = case(*shape, seed), oracle.ACTIVATIONS[name]
    if operation == "predict":
        return oracle.predict(activation, given.particles, given.masses, given.inputs)
    if operation == "vjp":
        return oracle.vjp(activation, given.particles, given.inputs, given.weights, given.mobilities)
    return oracle.jvp(activation, given.particles, given.velocity, given.masses, given.inputs)


def computed(engine, operation, activation, dtype, given):
    """What the engine says."""
    cloud, inputs = engine.pack(given.particles, dtype), engine.pack_inputs(given.inputs, dtype)
    masses = engine.pack_masses(given.masses, dtype)
    if operation == "predict":
        return numbers(engine, engine.predict(activation, cloud, masses, inputs))
    if operation == "vjp":
        moved = engine.vjp(activation, cloud, inputs, given.weights, given.mobilities)
        return engine.unpack(moved, len(given.particles))
    return numbers(engine, engine.jvp(activation, cloud, engine.pack(given.velocity, dtype), masses, inputs))


def numbers(engine, sums):
    """The sums of an engine as an array."""
    return engine.unpack_vector(engine.vector(sums))


def worst_error(engine, operation, activation, dtype="float64", shapes=SHAPES):
    """Largest error relative to the largest entry, over the shapes."""
    errors = []
    for shape in shapes:
        wanted = exact(operation, activation.name, shape)
        got = computed(engine, operation, activation, dtype, case(*shape))
        assert got.shape == wanted.shape and got.dtype == np.float64
        errors.append(np.abs(got - wanted).max() / (np.abs(wanted).max() or 1.0))  # one relu may give zeros alone
    return np.max(errors)  # NaN if one is


@EVERYWHERE
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_engine_against_the_oracle(activation, operation, engine):
    assert worst_error(engine, operation, activation) < TOLERANCE["float64"]


@EVERYWHERE
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_engine_in_float32_against_the_oracle(name, operation, engine):
    error = worst_error(engine, operation, ACTIVATIONS[name], "float32")
    assert 1e-9 < error < TOLERANCE["float32"], "below 1e-9 it was not float32 that was computed"


# Random shapes, for the linear unit a w . x, whose sums NumPy does in a line. A sum of products of k factors each, of
# length m, errs by at most (k + m) 2^-53 times the sum of the magnitudes.


def linear_sums(operation, given):
    """The sum an operation stands for, from particles, masses, inputs, weights and velocity of a case."""
    a, w, x = given.particles[:, 0], given.particles[:, 1:], given.inputs
    if operation == "predict":
        return (given.masses * a) @ (w @ x.T)
    if operation == "vjp":
        xi_a, xi_w = given.mobilities
        return np.c_[xi_a * (w @ x.T @ given.weights), xi_w * np.outer(a, given.weights @ x)]
    moved_a, moved_w = given.velocity[:, 0], given.velocity[:, 1:]
    return (given.masses * moved_a) @ (w @ x.T) + (given.masses * a) @ (moved_w @ x.T)


def assert_linear_sums(engine, given):
    sizes = SimpleNamespace(**{name: np.abs(each) for name, each in vars(given).items()})
    roundings = 2 * (sum(given.particles.shape) + len(given.inputs) + 8)  # twice: NumPy rounds too
    for operation in OPERATIONS:
        got = computed(engine, operation, ACTIVATIONS["linear"], "float64", given)
        error = np.abs(got - linear_sums(operation, given))
        assert (error <= roundings * 2.0**-53 * linear_sums(operation, sizes)).all()


@EVERYWHERE
@hypothesis.given(
    n_particles=st.integers(1, 300), n=st.integers(1, 20), dim=st.integers(1, 17), seed=st.integers(0, 2**32 - 1)
)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_random_shapes(engine, n_particles, n, dim, seed):
    assert_linear_sums(engine, case(n_particles, n, dim, seed))


@EVERYWHERE
def test_more_tiles_than_partial_sums(engine):
    """Beyond 256 tiles several share a partial sum."""
    assert_linear_sums(engine, case(128 * 300 + 5, 2, 1))


# Engines with a planted error: each must be caught by the comparison that every engine passes.


def planted(**changed):
    return SimpleNamespace(**{**{name: getattr(reference, name) for name in reference.__all__}, **changed})


WRONG = {
    ("predict", "a factor"): lambda *given: (1 + 1e-12) * reference.predict(*given),
    ("predict", "equal masses"): lambda activation, cloud, masses, inputs: reference.predict(
        activation, cloud, np.full_like(masses, 1 / len(masses)), inputs
    ),
    ("predict", "a tile left out"): lambda activation, cloud, masses, inputs: reference.predict(
        activation, cloud[:128], masses[:128], inputs
    ),
    ("vjp", "a sign"): lambda *given: -reference.vjp(*given),
    ("vjp", "mobilities exchanged"): lambda *given: reference.vjp(*given[:-1], given[-1][::-1]),
    ("jvp", "the outer weights at rest"): lambda activation, cloud, velocity, *rest: reference.jvp(
        activation, cloud, velocity * (np.arange(velocity.shape[1]) > 0), *rest
    ),
}


@pytest.mark.parametrize("plant", WRONG, ids=": ".join)
def test_a_planted_error_is_caught(plant):
    operation, wrong = plant[0], planted(**{plant[0]: WRONG[plant]})
    assert worst_error(wrong, operation, ACTIVATIONS["tanh"]) > 5 * TOLERANCE["float64"]
    with pytest.raises(AssertionError):
        assert_linear_sums(wrong, case(300, 7, 3))


# What the operations are to each other


@EVERYWHERE
def test_jvp_and_vjp_are_transposes(engine):
    """<c, J v> = <J' c, v>: sum_k c_k jvp(v)_k = sum_i m_i <vjp(c)_i, v_i>."""
    given, tanh = case(65, 7, 3), ACTIVATIONS["tanh"]
    forward = given.weights @ computed(engine, "jvp", tanh, "float64", given)
    unit = SimpleNamespace(**{**vars(given), "mobilities": (1.0, 1.0)})
    backward = computed(engine, "vjp", tanh, "float64", unit)
    np.testing.assert_allclose(forward, given.masses @ (backward * given.velocity).sum(axis=1), rtol=1e-12)


@EVERYWHERE
def test_atoms_of_mass_zero_do_not_count(engine):
    """Whatever they are, and also where they fill a tile."""
    given = case(64, 7, 3)
    for extra in (1, 64, 130):
        others = np.random.default_rng(1).standard_normal((extra, 4))
        more = SimpleNamespace(
            **{
                **vars(given),
                "particles": np.concatenate([others, given.particles]),
                "velocity": np.concatenate([others, given.velocity]),
                "masses": np.concatenate([np.zeros(extra), given.masses]),
            }
        )
        for operation in ("predict", "jvp"):
            alone = computed(engine, operation, ACTIVATIONS["tanh"], "float64", given)
            beside = computed(engine, operation, ACTIVATIONS["tanh"], "float64", more)
            np.testing.assert_allclose(beside, alone, rtol=0, atol=1e-15)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@EVERYWHERE
@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_lost_particle_is_seen_in_the_prediction(engine, lost):
    """No compiler flag may assume that NaN or infinity do not occur."""
    given = case(65, 7, 3)
    particles = given.particles.copy()
    particles[64, 0], particles[0] = lost, 1.0  # 64 has a mass, and its tile to itself
    assert given.masses[64] > 0
    bad = SimpleNamespace(**{**vars(given), "particles": particles})
    for name in ("relu", "tanh"):
        got = computed(engine, "predict", ACTIVATIONS[name], "float64", bad)
        z = particles[64, 1:] @ given.inputs.T
        assert not np.isfinite(got[z > 0]).any()


# Layout and linear algebra


@EVERYWHERE
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_pack_and_unpack(engine, dtype):
    for n_particles, _, dim in SHAPES:
        particles = case(n_particles, 1, dim).particles
        got = engine.unpack(engine.pack(particles, dtype), n_particles)
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, particles.astype(dtype))


@EVERYWHERE
def test_packing_copies(engine):
    """A cloud does not change with the array it came from, nor the array with the cloud."""
    particles = case(64, 1, 3).particles.copy()
    cloud = engine.pack(particles, "float64")
    back = engine.unpack(cloud, 64)
    particles[:] = 0.0
    np.testing.assert_array_equal(engine.unpack(cloud, 64), case(64, 1, 3).particles)
    back[:] = 0.0
    np.testing.assert_array_equal(engine.unpack(cloud, 64), case(64, 1, 3).particles)


@EVERYWHERE
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-14), ("float32", 1e-5)])
def test_combine(engine, dtype, rtol):
    """base + h sum_j c_j s_j, in the cloud's dtype, the operands as they were."""
    base, *stages = np.random.default_rng(5).standard_normal((4, 65, 4))
    packed = [engine.pack(each, dtype) for each in (base, *stages)]
    got = engine.combine(packed[0], 0.3, (1.5, 0.0, -2.0), packed[1:])
    assert got.dtype == dtype
    wanted = base + 0.3 * (1.5 * stages[0] - 2.0 * stages[2])
    np.testing.assert_allclose(engine.unpack(got, 65), wanted, rtol=rtol, atol=rtol)
    for cloud, original in zip(packed, (base, *stages), strict=True):
        np.testing.assert_array_equal(engine.unpack(cloud, 65), original.astype(dtype))


@EVERYWHERE
@pytest.mark.parametrize("n_particles", [64, 128])
def test_error_norm(engine, n_particles):
    """Sum over the entries of (h sum_j c_j s_j / (atol + rtol max(|before|, |after|)))^2, and how many entries."""
    before, after, *stages = np.random.default_rng(6).standard_normal((5, n_particles, 4))
    pack = lambda each: engine.pack(each, "float64")  # noqa: E731
    total, size = engine.error_norm(
        0.3, (1.5, 0.0, -2.0), [*map(pack, stages)], pack(before), pack(after), 1e-3, 1e-5, n_particles
    )
    tolerance = 1e-5 + 1e-3 * np.maximum(np.abs(before), np.abs(after))
    wanted = ((0.3 * (1.5 * stages[0] - 2.0 * stages[2]) / tolerance) ** 2).sum()
    assert math.isclose(total, wanted, rel_tol=1e-12)
    assert size == before.size


def test_error_norm_does_not_count_the_padding():
    """The mean square of the error, and with it the tolerance, is that of the particles alone."""
    cloud = cpu.pack(np.ones((1, 4)), "float64")
    total, size = cpu.error_norm(1.0, (1.0,), [cloud], cloud, cloud, 1.0, 1.0, 1)
    assert (total, size) == (1.0, 4)


@EVERYWHERE
def test_is_finite(engine):
    for value, finite in ((1e308, True), (math.nan, False), (math.inf, False), (-math.inf, False)):
        particles = np.ones((65, 3))
        particles[64, 2] = value
        assert engine.is_finite(engine.pack(particles, "float64")) is finite


# Threads


def bits_by_threads(function):
    """What the function returns under one thread and under two."""
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("Numba has one thread here")
    before, results = numba.get_num_threads(), []
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            results.append(function())
    finally:
        numba.set_num_threads(before)
    return results


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_bits_do_not_depend_on_the_number_of_threads(operation):
    given = case(128 * 300 + 5, 9, 3)
    one, two = bits_by_threads(lambda: computed(cpu, operation, ACTIVATIONS["tanh"], "float64", given))
    np.testing.assert_array_equal(one, two)


def test_the_bits_of_a_run_do_not_depend_on_the_number_of_threads():
    problem = mf.problems.teacher_student(dim=3, n=200, n_test=5, seed=1)
    start = mf.initial.gaussian(2000, 3, seed=2)
    one, two = bits_by_threads(
        lambda: mf.simulate(mf.Network("tanh"), problem, start, [0.0, 0.5, 3.0], record=["risk"])
    )
    assert one.steps == two.steps
    for left, right in zip(
        (one.particles, one.predictions, one.records["risk"]), (two.particles, two.predictions, two.records["risk"]),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(left, right)


def test_bits_by_threads_sees_a_difference():
    one, two = bits_by_threads(numba.get_num_threads)
    assert (one, two) == (1, 2)


# Names


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mf.engines.find("cpuu"), r"unknown engine 'cpuu'\. Did you mean 'cpu'\? Known: cpu, .*reference"),
        (lambda: mf.engines.find("abacus"), "unknown engine 'abacus'. Known: cpu, .*reference"),
        (lambda: mf.engines.check_dtype("float16"), "dtype is 'float16'; needed: one of float64, float32"),
        (lambda: mf.engines.check_dtype(np.int64), "dtype is .*int64.*; needed: one of float64, float32"),
    ],
)
def test_unknown_names(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_known_names():
    assert mf.engines.check_dtype(np.float32) == mf.engines.check_dtype("float32") == "float32"
    for name, engine in ENGINES.items():
        assert mf.engines.find(name) is mf.engines.find(engine) is engine and engine.NAME == name
