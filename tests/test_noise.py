"""Noise: Philox against its authors' known answers, the law of the deviates, and that they depend on nothing else."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import meanfield as mf
from meanfield.engines import cpu, noise, reference
from meanfield.errors import InputError

ENGINES = pytest.mark.parametrize("engine", [cpu, reference], ids=lambda engine: engine.NAME)
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])


def deviates(engine, shape=(1000, 6), seed=7, step=3, dtype="float64"):
    cloud = engine.noise(engine.pack(np.zeros(shape), dtype), seed, step)
    return engine.unpack(cloud, shape[0])


# philox4x32-10 in kat_vectors of the authors' library Random123: counter, key, words
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN)
def test_known_answers(counter, key, wanted):
    given = [np.uint64(int(each, 16)) for each in f"{counter} {key}".split()]
    assert [f"{int(each):08x}" for each in noise.words(*given)] == wanted.split()


def exact(words, dtype=np.float64):
    """Box and Muller's transform by NumPy's own functions."""
    one, other = (each.astype(np.float64) for each in words)
    radius, angle = np.sqrt(-2 * np.log((one + 0.5) / 2**32)), 2 * np.pi * (other + 0.5) / 2**32 - np.pi / 4
    return radius * np.cos(angle), radius * np.sin(angle)


@pytest.mark.parametrize(("real", "tolerance"), [(np.float64, 1e-14), (np.float32, 6e-7)])
def test_deviates_are_box_and_mullers(real, tolerance):
    """At random words and at the ends, where v and 1 - v are smallest."""
    rng = np.random.default_rng(0)
    ends = np.array([0, 1, 2, 2**31 - 1, 2**31, 2**32 - 3, 2**32 - 2, 2**32 - 1], np.uint64)
    one = np.concatenate([np.repeat(ends, 8), rng.integers(2**32, size=20_000, dtype=np.uint64)])
    other = np.concatenate([np.tile(ends, 8), rng.integers(2**32, size=20_000, dtype=np.uint64)])
    got = noise.pair(*noise.build_reals(real)(one, other))
    for found, wanted in zip(got, exact((one, other)), strict=True):
        assert found.dtype == real
        size = np.hypot(*exact((one, other)))  # near an axis one of the two is small, and its angle is rounded
        assert (np.abs(found - wanted) / size).max() < tolerance


@DTYPES
def test_engines_agree(dtype):
    tolerance = {"float64": 1e-14, "float32": 1e-6}[dtype]
    wanted = deviates(reference, (301, 9), 2**63 + 5, 2**32 - 1)
    for engine in (cpu, reference):
        got = deviates(engine, (301, 9), 2**63 + 5, 2**32 - 1, dtype)
        assert np.abs(got - wanted).max() < 7 * tolerance


@ENGINES
def test_the_law(engine):
    """Kolmogorov and Smirnov; moments to five of their standard errors; nothing correlated with its neighbours."""
    x = deviates(engine, (50_000, 6))
    for column in x.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        spread = np.sqrt(stats.norm.moment(2 * power) - moment**2) if power < 4 else np.sqrt(105 - 9)
        assert abs((x**power).mean() - moment) < 5 * spread / np.sqrt(x.size)
    assert np.abs(np.corrcoef(x.T) - np.eye(6)).max() < 5 / np.sqrt(len(x))
    for other in (deviates(engine, x.shape, step=4), deviates(engine, x.shape, seed=8), np.roll(x, 1, axis=0)):
        assert abs((x * other).mean()) < 5 / np.sqrt(x.size)


@ENGINES
def test_it_depends_on_seed_step_particle_and_parameter_alone(engine):
    """A narrow cloud, or one of few parameters, has the beginning of another's noise; the same bits every time."""
    wide = deviates(engine, (20_000, 9))
    np.testing.assert_array_equal(deviates(engine, (130, 3)), wide[:130, :3])
    np.testing.assert_array_equal(deviates(engine, (20_000, 9)), wide)
    assert not np.any(deviates(engine, (130, 9), step=4) == wide[:130])
    assert not np.any(deviates(engine, (130, 9), seed=7 + 2**32) == wide[:130])


def test_bits_do_not_depend_on_threads():
    try:
        mf.set_num_threads(1)
        alone = deviates(cpu, (200_000, 9))
    finally:
        mf.set_num_threads(cpu._MOST_THREADS)
    np.testing.assert_array_equal(deviates(cpu, (200_000, 9)), alone)


def test_into_an_array_that_is_given():
    cloud = cpu.pack(np.zeros((300, 5)), "float64")
    out = np.full_like(cloud, np.nan)
    assert cpu.noise(cloud, 7, 3, out) is out
    np.testing.assert_array_equal(cpu.unpack(out, 300), deviates(cpu, (300, 5)))


@pytest.mark.parametrize(
    ("seed", "step", "message"), [(-1, 0, "seed is -1"), (2**64, 0, "seed"), (0, 2**32, "step"), (0, 1.5, "step")]
)
def test_seeds_and_steps_that_do_not_fit(seed, step, message):
    with pytest.raises(InputError, match=message):
        cpu.noise(cpu.pack(np.zeros((3, 2)), "float64"), seed, step)


def test_wrong_noise_is_caught():
    """Planted: a variance of 0.98, and the same deviates at every step."""

    def narrow(cloud, seed, step):
        return 0.99 * reference.noise(cloud, seed, step)

    def stuck(cloud, seed, step):
        return reference.noise(cloud, seed, 0)

    for wrong in (narrow, stuck):
        with pytest.raises(AssertionError):
            test_the_law(SimpleNamespace(**{**vars(reference), "noise": wrong}))
