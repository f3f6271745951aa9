"""The dictionary of conventions: each constructor against the equations it stands for, written in their own terms."""

import math
import warnings

import numpy as np
import pytest
from scipy.special import expit

from meanfield import Network, Problem, Scaling, initial, simulate
from meanfield.errors import InputError

STEPS, H, DIM = 400, 24, 3


@pytest.fixture(autouse=True)
def no_warning_leaks():
    """What is wrong must be an error; no call in this file may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def task() -> Problem:
    rng = np.random.default_rng(1)
    inputs, tests = rng.standard_normal((10, DIM)), rng.standard_normal((4, DIM))
    return Problem(inputs, np.sign(inputs[:, 0]), test_inputs=tests, test_targets=np.sign(tests[:, 0]))


UNITS = {
    "tanh": (np.tanh, lambda z: 1.0 - np.tanh(z) ** 2),
    "softplus-geiger": (lambda z: 1.404 / 5.0 * np.logaddexp(0.0, 5.0 * z), lambda z: 1.404 * expit(5.0 * z)),
}
SLOPES = {"half-square": lambda f, y: f - y, "square": lambda f, y: 2.0 * (f - y)}  # dl/dF


def geigers_own(unit, loss, alpha, problem, start, dt, form="paper"):
    """Their equations, explicit Euler: F = alpha (f - f_0), f = h^(-1/2) sum_i W_i s(d^(-1/2) w_i . x),

    L = (1 / (alpha^2 n)) sum_k l(F_k, y_k), (W, w)' = -grad L; in their code 1 / (alpha n). Final parameters, F at
    training and at test inputs.
    """
    value, slope = UNITS[unit]
    outer, inner, x, y = start[:, 0].copy(), start[:, 1:].copy(), problem.inputs, problem.targets
    width, n = len(start), len(x)

    def output(points):
        return value(points @ inner.T / np.sqrt(DIM)) @ outer / np.sqrt(width)

    first, first_test = output(x), output(problem.test_inputs)
    for _ in range(STEPS):
        z = x @ inner.T / np.sqrt(DIM)
        in_f = (
            alpha * SLOPES[loss](alpha * (output(x) - first), y) / (alpha ** (2 if form == "paper" else 1) * n)
        )  # dL/df
        in_outer = value(z).T @ in_f / np.sqrt(width)
        in_inner = (slope(z) * np.outer(in_f, outer)).T @ x / np.sqrt(width * DIM)
        outer, inner = outer - dt * in_outer, inner - dt * in_inner
    return np.c_[outer, inner], alpha * (output(x) - first), alpha * (output(problem.test_inputs) - first_test)


def ours(unit, scaling, problem, start, native_dt):
    """The same run in flow time, by way of the scaling's own clock."""
    dt = float(scaling.from_native_time(native_dt))
    options = {"scheme": "euler", "dt": dt, "engine": "reference", "keep": "last"}
    run = simulate(Network(unit, scaling), problem, start, scaling.from_native_time([STEPS * native_dt]), **options)
    assert run.steps == STEPS
    return run.particles[-1], run.predictions[-1], run.test_predictions[-1]


def difference(found, expected):
    """Largest over parameters, F and test F, each in units of its largest entry."""
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("alpha", [0.02, 1.0, 50.0])
@pytest.mark.parametrize("loss", SLOPES)
@pytest.mark.parametrize("unit", UNITS)
def test_geiger(unit, loss, alpha):
    """400 Euler steps of Geiger's own equations and of ours, from the same start: equal to 1e-12 relative.

    dt = 0.05 alpha below alpha = 1: there the parameters move by order 1 in a time of order alpha.
    """
    problem, start = task(), initial.gaussian(H, DIM, seed=2)
    dt = 0.05 * min(1.0, alpha)
    expected = geigers_own(unit, loss, alpha, problem, start, dt)
    assert np.abs(expected[1]).max() > 0.1, "nothing was learnt"
    assert difference(ours(unit, Scaling.geiger(alpha, H, DIM, loss), problem, start, dt), expected) < 1e-12


@pytest.mark.parametrize("alpha", [0.02, 1.0, 50.0])
@pytest.mark.parametrize("loss", SLOPES)
def test_geigers_code(loss, alpha):
    """The same with the loss over alpha, at steps of 0.05 min(1, 1 / alpha): 0.05 min(alpha, 1) of the paper's time."""
    problem, start = task(), initial.gaussian(H, DIM, seed=2)
    dt = 0.05 * min(1.0, 1.0 / alpha)
    expected = geigers_own("tanh", loss, alpha, problem, start, dt, "code")
    scaling = Scaling.geiger(alpha, H, DIM, loss, form="code")
    assert difference(ours("tanh", scaling, problem, start, dt), expected) < 1e-12
    with pytest.raises(InputError, match="unknown form of geiger 'cod'"):
        Scaling.geiger(alpha, H, form="cod")


WRONG = {
    "alpha_G": Scaling(1.0, shift="initial", input_scale=1.0 / math.sqrt(DIM)),
    "no shift": Scaling(math.sqrt(H), input_scale=1.0 / math.sqrt(DIM)),
    "inputs as they are": Scaling(math.sqrt(H), shift="initial"),
    "the other loss": Scaling.geiger(1.0, H, DIM, "square"),
    "another width": Scaling.geiger(1.0, H + 1, DIM),
}


@pytest.mark.parametrize("scaling", WRONG.values(), ids=WRONG)
def test_a_wrong_dictionary_is_caught(scaling):
    """The comparison above fails for each slip one could make."""
    problem, start = task(), initial.gaussian(H, DIM, seed=2)
    expected = geigers_own("tanh", "half-square", 1.0, problem, start, 0.05)
    assert difference(ours("tanh", scaling, problem, start, 0.05), expected) > 1e-3


@pytest.mark.parametrize("alpha", [0.1, 3.0])
def test_collapse(alpha):
    """sqrt(h) alpha_G = alpha is all that is left of the two: equal alpha, equal scaling, at every width."""
    scalings = [Scaling.geiger(alpha / math.sqrt(h), h, DIM) for h in (1, 16, 64, 1024)]
    for scaling in scalings:
        assert scaling.alpha == pytest.approx(alpha, rel=1e-15)
    assert scalings[1] == scalings[2] == Scaling(scalings[1].alpha, shift="initial", input_scale=1.0 / math.sqrt(DIM))


def test_collapse_of_runs():
    """A net with every unit twice, at alpha_G / sqrt(2), learns the same function, theirs and ours."""
    problem, start, alpha = task(), initial.gaussian(H, DIM, seed=2), 0.3
    single = geigers_own("tanh", "half-square", alpha, problem, start, 0.05)[1]
    twice = np.r_[start, start]
    double = geigers_own("tanh", "half-square", alpha / math.sqrt(2.0), problem, twice, 0.05)[1]
    assert double == pytest.approx(single, rel=1e-12)
    found = ours("tanh", Scaling.geiger(alpha / math.sqrt(2.0), 2 * H, DIM), problem, twice, 0.05)[1]
    assert found == pytest.approx(single, rel=1e-12)


@pytest.mark.parametrize(("loss", "flow_per_native"), [("half-square", 1.0), ("square", 2.0)])
def test_time_maps(loss, flow_per_native):
    """t = t_G for (F - y)^2 / 2 and 2 t_G for (F - y)^2; there and back is where one was, numbers and arrays alike."""
    scaling = Scaling.geiger(1.0, 4, loss=loss)
    native = np.array([0.0, 0.3, 7.0])
    assert scaling.from_native_time(native) == pytest.approx(flow_per_native * native, rel=1e-15)
    assert scaling.to_native_time(scaling.from_native_time(native)) == pytest.approx(native, rel=1e-15)
    assert scaling.from_native_time(3.0) == pytest.approx(3.0 * flow_per_native, rel=1e-15)
    assert scaling.to_native_time([1.0, 2.0]) == pytest.approx(np.array([1.0, 2.0]) / flow_per_native, rel=1e-15)


def test_mean_field():
    """alpha = 1, no shift, mobilities 1, flow time as it is; and the default of a network."""
    assert Scaling.mean_field() == Scaling() == Scaling(1.0, 1.0, 1.0, None, 1.0, 1.0)
    assert Network("erf").scaling == Scaling.mean_field()


@pytest.mark.parametrize(("n_particles", "c"), [(1, 1.0), (100, 1.0), (64, 0.25), (2, 3.0)])
def test_ntk(n_particles, c):
    """alpha = c sqrt(N), learning f - f_0 unless told otherwise."""
    assert Scaling.ntk(n_particles, c) == Scaling(c * math.sqrt(n_particles), shift="initial")
    assert Scaling.ntk(n_particles, c, shift=None) == Scaling(c * math.sqrt(n_particles))


def test_one_dimension_leaves_inputs_alone():
    """Geiger's d^(-1/2) is 1 where `dim` is not given."""
    assert Scaling.geiger(0.5, 16) == Scaling(2.0, shift="initial")


def test_numbers_are_taken_from_what_holds_one():
    """NumPy numbers and integers become floats, so that equal scalings compare equal."""
    assert Scaling(np.float64(2.0), np.int64(1), 1) == Scaling(2.0)
    assert Scaling.geiger(1, np.int64(4)) == Scaling.geiger(1.0, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Scaling(math.inf), "alpha is inf; needed: a finite number above 0"),
        (lambda: Scaling(math.nan), "alpha is nan; needed: a finite number above 0"),
        (lambda: Scaling(0.0), "alpha is 0.0; needed: a finite number above 0"),
        (lambda: Scaling(-1.0), "alpha is -1.0; needed: a finite number above 0"),
        (lambda: Scaling("one"), "alpha is 'one'; needed: a number"),
        (lambda: Scaling(None), "alpha is None; needed: a number"),
        (lambda: Scaling(mobility_a=-0.1), "mobility_a is -0.1; needed: a finite number of at least 0"),
        (lambda: Scaling(mobility_w=math.nan), "mobility_w is nan; needed: a finite number of at least 0"),
        (lambda: Scaling(input_scale=0.0), "input_scale is 0.0; needed: a finite number above 0"),
        (lambda: Scaling(time_scale=-2.0), "time_scale is -2.0; needed: a finite number above 0"),
        (
            lambda: Scaling(shift="intial"),
            r"shift is 'intial'; needed: None or 'initial' .*, or a number",
        ),
        (lambda: Scaling.ntk(0), "n_particles is 0; needed: a whole number of at least 1"),
        (lambda: Scaling.ntk(10.0), "n_particles is 10.0; needed: a whole number"),
        (lambda: Scaling.ntk(10, c=0.0), "c is 0.0; needed: a finite number above 0"),
        (lambda: Scaling.ntk(10, shift="first"), "shift is 'first'; needed: None or 'initial'"),
        (lambda: Scaling.geiger(math.inf, 4), "alpha is inf; needed: a finite number above 0"),
        (lambda: Scaling.geiger(0.0, 4), "alpha is 0.0; needed: a finite number above 0"),
        (lambda: Scaling.geiger(1.0, 0), "h is 0; needed: a whole number of at least 1"),
        (lambda: Scaling.geiger(1.0, True), "h is True; needed: a whole number"),
        (lambda: Scaling.geiger(1.0, 4, dim=0), "dim is 0; needed: a whole number of at least 1"),
        (
            lambda: Scaling.geiger(1.0, 4, loss="half-sqare"),
            "unknown loss of geiger 'half-sqare'. Did you mean 'half-squ",
        ),
        (lambda: Scaling.geiger(1.0, 4, loss="hinge"), "unknown loss of geiger 'hinge'. Known: half-square, square"),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()


# The others: each paper's own update, written out, 400 steps; from the same (a, w).


def tanh_net(problem, points, outer, inner, factor):
    return factor * np.tanh(points @ inner.T) @ outer


def half_square(f, y):
    return f - y


def logistic(f, y):
    return -y * expit(-y * f)


def gradients(problem, outer, inner, factor, in_f):
    """d/d(outer, inner) of a loss with dL/df = in_f, for f = factor sum_i outer_i tanh(inner_i . x)."""
    value = np.tanh(problem.inputs @ inner.T)
    in_outer = factor * value.T @ in_f
    in_inner = factor * ((1.0 - value**2) * np.outer(in_f, outer)).T @ problem.inputs
    return in_outer, in_inner


def golikovs_own(problem, start, q, options, slope, frozen=0.0):
    """f = s sum a tanh(w . x) (+ a frozen multiple of the initial one); a -= eta_a' dL/da, w -= eta_w' dL/dw."""
    ratio = H / 16
    s, rate_a, rate_w = (
        options.get(name, 1.0) * ratio**power for name, power in zip(("sigma", "eta_a", "eta_w"), q, strict=True)
    )
    outer, inner = start[:, 0].copy(), start[:, 1:].copy()
    n = len(problem.inputs)
    ends = [frozen * tanh_net(problem, x, outer, inner, s) for x in (problem.inputs, problem.test_inputs)]
    for _ in range(STEPS):
        f = tanh_net(problem, problem.inputs, outer, inner, s) + ends[0]
        in_outer, in_inner = gradients(problem, outer, inner, s, slope(f, problem.targets) / n)
        outer, inner = outer - rate_a * in_outer, inner - rate_w * in_inner
    outputs = [
        tanh_net(problem, x, outer, inner, s) + end
        for x, end in zip((problem.inputs, problem.test_inputs), ends, strict=True)
    ]
    return np.c_[outer, inner], *outputs


RATES = {"sigma": 0.2, "eta_a": 0.03, "eta_w": 0.05}
FROZEN = math.sqrt(H / 16)
GOLIKOV = {
    "ntk": (Scaling.golikov(H, 16, -0.5, 0.0, 0.0, **RATES), (-0.5, 0.0, 0.0), 0.0),
    "mf": (Scaling.golikov(H, 16, -1.0, 1.0, 1.0, **RATES), (-1.0, 1.0, 1.0), 0.0),
    "sym-default": (Scaling.sym_default(H, 16, **RATES), (-0.5, 0.5, 0.5), 0.0),
    "default": (Scaling.default(H, 16, **RATES), (-0.5, 1.0, 0.0), 0.0),
    "another": (Scaling.golikov(H, 16, -0.7, 0.3, 0.9, **RATES), (-0.7, 0.3, 0.9), 0.0),
    "ic-mf": (Scaling.ic_mf(H, 16, **RATES), (-1.0, 1.0, 1.0), FROZEN),
    "ic-mf, subtracted": (Scaling.ic_mf(H, 16, subtracted=True, **RATES), (-1.0, 1.0, 1.0), FROZEN - 1.0),
}


@pytest.mark.parametrize(("loss", "slope"), [("squared", half_square), ("logistic", logistic)])
@pytest.mark.parametrize("name", GOLIKOV)
def test_golikov(name, loss, slope):
    """400 unit steps of his training and of ours, to 1e-12 relative."""
    given, start = task(), initial.gaussian(H, DIM, seed=2)
    problem = Problem(
        given.inputs, given.targets, loss=loss, test_inputs=given.test_inputs, test_targets=given.test_targets
    )
    scaling, q, frozen = GOLIKOV[name]
    expected = golikovs_own(problem, start, q, RATES, slope, frozen)
    assert np.abs(expected[0] - start).max() > 0.01, "nothing moved"
    assert difference(ours("tanh", scaling, problem, start, 1.0), expected) < 1e-12
    wrong = Scaling(scaling.alpha, 1.001 * scaling.mobility_a, shift=scaling.shift, time_scale=scaling.time_scale)
    assert difference(ours("tanh", wrong, problem, start, 1.0), expected) > 1e-7


def flows_own(problem, start, factor, speed, dt):
    """Euler steps of theta' = -speed grad L, L = (1/2n) sum (f - y)^2, f = factor sum a tanh(w . x)."""
    outer, inner, n = start[:, 0].copy(), start[:, 1:].copy(), len(problem.inputs)
    for _ in range(STEPS):
        in_f = (tanh_net(problem, problem.inputs, outer, inner, factor) - problem.targets) / n
        in_outer, in_inner = gradients(problem, outer, inner, factor, in_f)
        outer, inner = outer - dt * speed * in_outer, inner - dt * speed * in_inner
    return np.c_[outer, inner], *(
        tanh_net(problem, x, outer, inner, factor) for x in (problem.inputs, problem.test_inputs)
    )


ALPHA_C = 0.6
FLOWS = {  # factor of the sum in the predictor, speed of the flow of half the square, native step
    "chizat-bach": (Scaling.chizat_bach(), 1 / H, float(H), 0.01),
    "cob19, sqrt": (Scaling.cob19(H, ALPHA_C), ALPHA_C / math.sqrt(H), 1 / ALPHA_C**2, 0.01),
    "cob19, mean": (Scaling.cob19(H, ALPHA_C, "mean"), ALPHA_C / H, 1 / ALPHA_C**2, 0.01 * H),
    "cob19, sum": (Scaling.cob19(H, 0.1, "sum"), 0.1, 1.0, 0.01),
}


@pytest.mark.parametrize("name", FLOWS)
def test_flows_of_chizat_and_others(name):
    problem, start = task(), initial.gaussian(H, DIM, seed=2)
    scaling, factor, speed, dt = FLOWS[name]
    expected = flows_own(problem, start, factor, speed, dt)
    assert np.abs(expected[0] - start).max() > 0.01, "nothing moved"
    assert difference(ours("tanh", scaling, problem, start, dt), expected) < 1e-12


def test_mmn18():
    """theta += 2 eps (y - f) grad s over the whole data, 400 steps; N times the gradient of the mean."""
    problem, start, eps = task(), initial.gaussian(H, DIM, seed=2), 0.01
    outer, inner, n = start[:, 0].copy(), start[:, 1:].copy(), len(problem.inputs)
    for _ in range(STEPS):
        residual = problem.targets - tanh_net(problem, problem.inputs, outer, inner, 1 / H)
        in_outer, in_inner = gradients(problem, outer, inner, 1.0, residual / n)
        outer, inner = outer + 2 * eps * in_outer, inner + 2 * eps * in_inner
    expected = (
        np.c_[outer, inner],
        *(tanh_net(problem, x, outer, inner, 1 / H) for x in (problem.inputs, problem.test_inputs)),
    )
    assert difference(ours("tanh", Scaling.mmn18(), problem, start, eps), expected) < 1e-12


@pytest.mark.parametrize("convention", ["mean field", "ntk"])
def test_the_two_limits_own_updates(convention):
    """f = (1/N) sum with theta' = -N grad L, and f - f_0 with N^(-1/2) sum and theta' = -grad L, L half the square."""
    problem, start, dt = task(), initial.gaussian(H, DIM, seed=2), 0.05
    outer, inner, n = start[:, 0].copy(), start[:, 1:].copy(), len(problem.inputs)
    factor, speed = (1 / H, H) if convention == "mean field" else (1 / math.sqrt(H), 1.0)
    first = [0.0 if convention == "mean field" else tanh_net(problem, x, outer, inner, factor)
             for x in (problem.inputs, problem.test_inputs)]  # fmt: skip
    for _ in range(STEPS):
        pull = (problem.targets - tanh_net(problem, problem.inputs, outer, inner, factor) + first[0]) / n
        in_outer, in_inner = gradients(problem, outer, inner, factor, pull)
        outer, inner = outer + dt * speed * in_outer, inner + dt * speed * in_inner
    expected = (
        np.c_[outer, inner],
        *(tanh_net(problem, x, outer, inner, factor) - f_0
          for x, f_0 in zip((problem.inputs, problem.test_inputs), first, strict=True)),
    )  # fmt: skip
    scaling = Scaling.mean_field() if convention == "mean field" else Scaling.ntk(H)
    assert difference(ours("tanh", scaling, problem, start, dt), expected) < 1e-12
    assert difference(ours("tanh", Scaling.cob19(H, 0.5), problem, start, dt), expected) > 1e-3


@pytest.mark.parametrize(
    ("call", "equal"),
    [
        (lambda: Scaling.geiger("2", 4, form="code"), lambda: Scaling.geiger(2.0, 4, form="code")),
        (lambda: Scaling.golikov(16, 4, "-1", "1", "1"), lambda: Scaling.golikov(16, 4, -1.0, 1.0, 1.0)),
    ],
)
def test_numbers_in_words(call, equal):
    assert call() == equal()


@pytest.mark.parametrize("call", [lambda: Scaling.raw(4, 1e-200), lambda: Scaling.cob19(4, 1e-200, form="sum")])
def test_numbers_too_small_for_their_square(call):
    with pytest.raises(InputError, match="needed: a finite number above 1e-100"):
        call()


def test_raw():
    """A = sigma_a a with one rate for both layers."""
    problem, start, sigma_a, eta = task(), initial.gaussian(H, DIM, seed=2), math.sqrt(2 / H), 0.01
    outer, inner, n = sigma_a * start[:, 0], start[:, 1:].copy(), len(problem.inputs)
    for _ in range(STEPS):
        in_f = (tanh_net(problem, problem.inputs, outer, inner, 1.0) - problem.targets) / n
        in_outer, in_inner = gradients(problem, outer, inner, 1.0, in_f)
        outer, inner = outer - eta * in_outer, inner - eta * in_inner
    expected = (
        np.c_[outer / sigma_a, inner],
        *(tanh_net(problem, x, outer, inner, 1.0) for x in (problem.inputs, problem.test_inputs)),
    )
    assert difference(ours("tanh", Scaling.raw(H, sigma_a, eta), problem, start, 1.0), expected) < 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Scaling(shift=math.inf), "shift is inf; needed: a finite number"),
        (lambda: Scaling.golikov(8, 0, -1, 1, 1), "d_star is 0"),
        (lambda: Scaling.golikov(8, 4, -1, 1, 1, eta_w=0.0), "eta_w is 0.0"),
        (lambda: Scaling.golikov(8, 4, math.nan, 1, 1), "q_sigma is nan"),
        (lambda: Scaling.cob19(8, 1.0, "square"), "unknown form of cob19 'square'"),
        (lambda: Scaling.raw(8, 0.0), "sigma_a is 0.0"),
    ],
)
def test_bad_input_of_the_others(call, message):
    with pytest.raises(InputError, match=message):
        call()
