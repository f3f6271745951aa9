"""Memory: what a computation says it needs, what it takes, and what is refused."""

import re
import tracemalloc

import numpy as np
import psutil
import pytest

import meanfield as mf
from meanfield import _memory, engines
from meanfield.errors import InputError


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1000, "1000 B"), (1023, "1023 B"), (1024, "1 KiB"), (1.5 * 2**20, "1.5 MiB"), (2**43, "8,192.0 GiB")],
)
def test_sizes(number, text):
    assert _memory.size(number) == text


def test_a_computation_that_does_not_fit_is_refused():
    """With its parts, the bound and what to do; what is exactly the bound fits."""
    parts = {"clouds": 3 * 2**20, "frames": 2**20}
    _memory.check(parts, "a run", "Use fewer", max_bytes=4 * 2**20)
    message = "a run needs 4 MiB (clouds 3 MiB, frames 1 MiB), more than 3.5 MiB, max_bytes. Use fewer, or raise max"
    with pytest.raises(InputError, match=re.escape(message)):
        _memory.check(parts, "a run", "Use fewer", max_bytes=3.5 * 2**20)


def test_default_is_most_of_what_is_free():
    free = psutil.virtual_memory().available
    _memory.check({"all": 0.5 * free}, "half", "Use less")
    with pytest.raises(InputError, match="80% of the free memory"):
        _memory.check({"all": 0.95 * free}, "most", "Use less")


@pytest.mark.parametrize("max_bytes", [0, -1.0, float("nan"), "8 GiB"])
def test_a_bound_that_is_none(max_bytes):
    with pytest.raises(InputError, match="max_bytes"):
        _memory.check({"all": 1}, "it", "Use less", max_bytes)


def problem_and_start(n_particles=50_000, n=60, dim=8):
    rng = np.random.default_rng(0)
    problem = mf.Problem(rng.standard_normal((n, dim)), rng.standard_normal(n))
    return problem, mf.initial.gaussian(n_particles, dim, seed=0)


@pytest.mark.parametrize("flow", [mf.simulate, mf.simulate_coupled])
def test_a_run_is_refused_before_any_work(flow):
    problem, start = problem_and_start()
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"a run of 50,000 particles needs .*frames .*, max_bytes\. Use fewer pa"):
            flow(mf.Network("tanh"), problem, start, [1.0], max_bytes=2**20)
        assert tracemalloc.get_traced_memory()[1] < start.nbytes / 4
    finally:
        tracemalloc.stop()


def peak_over_estimate(dtype, scheme, shift, times=(0.05, 0.1, 0.15)):
    """Peak of what Python allocates in a run, over what it was said to need."""
    problem, start = problem_and_start()
    arguments = {"dtype": dtype, "scheme": scheme, "dt": 0.05}
    mf.simulate(mf.Network("tanh"), problem, start, times, **arguments)  # compiles
    with pytest.raises(InputError) as refused:
        mf.simulate(mf.Network("tanh"), problem, start, times, max_bytes=1.0, **arguments)
    number, unit = re.search(r"needs ([\d.,]+) (\w+)", str(refused.value)).groups()
    needed = float(number) * {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    tracemalloc.start()
    try:
        mf.simulate(mf.Network("tanh"), problem, start, times, **arguments)
        return tracemalloc.get_traced_memory()[1] / (needed + shift)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("scheme", ["euler", "rk4", "dopri5"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_takes_what_it_says(scheme, dtype):
    """At most that, and no less than half of it: an estimate that refuses what would fit is no good either."""
    assert 0.5 < peak_over_estimate(dtype, scheme, 0.0) <= 1.0


@pytest.mark.parametrize(("n", "m"), [(30_000, 1), (1, 30_000), (300, 200), (400, None)])
def test_a_tangent_kernel_takes_what_it_says(n, m):
    rng = np.random.default_rng(1)
    network, start = mf.Network("tanh"), mf.initial.gaussian(3000, 2, seed=0)
    inputs, other = rng.standard_normal((n, 2)), None if m is None else rng.standard_normal((m, 2))
    mf.tangent.kernel(network, start, inputs, other)
    with pytest.raises(InputError) as refused:
        mf.tangent.kernel(network, start, inputs, other, max_bytes=1.0)
    number, unit = re.search(r"needs ([\d.,]+) (\w+)", str(refused.value)).groups()
    needed = float(number) * {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    tracemalloc.start()
    try:
        mf.tangent.kernel(network, start, inputs, other)
        assert 0.3 < tracemalloc.get_traced_memory()[1] / needed <= 1.0
    finally:
        tracemalloc.stop()


def test_a_tangent_kernel_s_estimate_too_small_is_caught(monkeypatch):
    monkeypatch.setattr(engines.cpu, "estimate_gram", lambda *given: {})
    with pytest.raises(AssertionError):
        test_a_tangent_kernel_takes_what_it_says(300, 200)


def test_an_estimate_too_small_is_caught():
    _, start = problem_and_start()
    assert peak_over_estimate("float64", "euler", -4 * start.nbytes) > 1.0


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_estimate(engine):
    """By parts; ten clouds and eight bytes by default."""
    parts = engines.estimate(1000, 20, 3, engine=engine)
    assert parts["clouds"] == 10 * 1000 * 4 * 8
    assert engines.estimate(1000, 20, 3, dtype="float32", clouds=2, engine=engine)["clouds"] == 2 * 1000 * 4 * 4
    assert all(isinstance(number, int) and number >= 0 for number in parts.values())
    many = engines.estimate(np.int32(10**7), 256, 10, engine=engine)
    assert many["clouds"] == 10 * 10**7 * 11 * 8, "which no 32-bit integer holds"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 20, 3), "n_particles is 0"),
        ((10, 2.5, 3), "n is 2.5"),
        ((10, 2, "3"), "dim is '3'"),
    ],
)
def test_estimate_of_what_is_no_count(arguments, message):
    with pytest.raises(InputError, match=message):
        engines.estimate(*arguments)
    with pytest.raises(InputError, match="dtype is 'int8'"):
        engines.estimate(10, 2, 3, dtype="int8")


@pytest.mark.parametrize(
    "make", [lambda: mf.initial.gaussian(10**11, 3), lambda: mf.initial.sobol(mf.GaussianLaw(3), 2**40)]
)
def test_a_cloud_that_does_not_fit_is_refused(make):
    with pytest.raises(InputError, match=r"a cloud of [\d,]+ particles needs .*Use fewer particles\.$"):
        make()
