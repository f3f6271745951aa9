"""Biases: a network with one is the network without, on inputs with a constant last column. Also against a formula."""

import numpy as np
import pytest

import meanfield as mf
from meanfield import limits, tangent
from meanfield.errors import InputError

BIAS, DIM, ALPHA, SCALE = 0.7, 3, 0.8, 0.5  # a power of two: BIAS / SCALE times SCALE is BIAS
ENGINES = pytest.mark.parametrize("engine", ["cpu", "reference"])


def task(extra=None, loss="squared"):
    """Ten data points and four tests; with a number, that number as a last input: the constant over the input scale."""
    rng = np.random.default_rng(1)
    points, tests = rng.standard_normal((10, DIM)), rng.standard_normal((4, DIM))
    targets, weights = np.sign(rng.standard_normal(10)), rng.dirichlet(np.full(10, 5.0))
    if extra is not None:
        points, tests = (np.c_[each, np.full(len(each), extra)] for each in (points, tests))
    return mf.Problem(points, targets, weights, loss, tests, np.zeros(4))


def networks(constant=BIAS, activation="tanh", shift=None):
    """(biased network, its problem), (network without, problem on inputs with the constant)."""
    scaling = mf.Scaling(ALPHA, mobility_a=0.5, mobility_w=1.5, shift=shift, input_scale=SCALE)
    biased, plain = mf.Network(activation, scaling, bias=BIAS), mf.Network(activation, scaling)
    return (biased, task()), (plain, task(constant / SCALE))


START = np.random.default_rng(2).standard_normal((6, 2 + DIM))
MASSES = np.random.default_rng(3).dirichlet(np.full(6, 5.0))
TIMES = [0.0, 0.3, 1.0]
STEPS = {"masses": MASSES, "scheme": "rk4", "dt": 0.05}


def arrays(run):
    return [run.particles, run.predictions, run.test_predictions, run.residuals]


def simulated(network, problem, engine):
    run = mf.simulate(network, problem, START, TIMES, engine=engine, record=["kernel_drift"], **STEPS)
    return [*arrays(run), run.records["kernel_drift"]]


def coupled(network, problem, engine):
    return arrays(mf.simulate_coupled(network, problem, START, TIMES, engine=engine, **STEPS))


def in_batches(network, problem, engine):
    even = mf.Problem(
        problem.inputs, problem.targets, test_inputs=problem.test_inputs, test_targets=problem.test_targets
    )
    options = {"scheme": "euler", "dt": 0.1, "batches": mf.batches.minibatch(4, seed=1), "engine": engine}
    return arrays(mf.simulate(network, even, START, TIMES, **options))


def with_momentum(network, problem, engine):
    return arrays(mf.simulate(network, problem, START, TIMES, engine=engine, momentum=0.4, **STEPS))


def kernel_of_particles(network, problem, engine):
    return [tangent.kernel(network, START, problem.inputs, problem.test_inputs, MASSES, engine=engine)]


def kernel_of_the_law(network, problem, engine):
    law = mf.GaussianLaw(DIM + 1, 0.9, 1.1)
    return [tangent.infinite(network, law, problem.inputs, problem.test_inputs)]


def mean_field(network, problem, engine):
    options = {"n_nodes": 64, "tracers": START, "scheme": "rk4", "dt": 0.1, "engine": engine}
    found = limits.mean_field(network, problem, mf.GaussianLaw(DIM + 1), TIMES, **options)
    return [found.predictions, found.test_predictions, found.tracers, found.error]


def ntk_of_particles(network, problem, engine):
    found = limits.ntk(network, problem, START, TIMES, masses=MASSES, engine=engine)
    return [found.residuals, found.test_residuals, found.kernel]


def ntk_of_the_law(network, problem, engine):
    found = limits.ntk(network, problem, mf.GaussianLaw(DIM + 1), TIMES, engine=engine)
    return [found.residuals, found.test_residuals, found.kernel]


COMPUTED = (
    simulated, coupled, in_batches, with_momentum, kernel_of_particles, kernel_of_the_law, mean_field,
    ntk_of_particles, ntk_of_the_law,
)  # fmt: skip


def difference(compute, engine, shift=None, constant=BIAS):
    pairs = zip(*(compute(*each, engine) for each in networks(constant, shift=shift)), strict=True)
    return max(np.abs(one - other).max() / max(1.0, np.abs(other).max()) for one, other in pairs)


@ENGINES
@pytest.mark.parametrize("shift", [None, "initial"])
@pytest.mark.parametrize("compute", COMPUTED, ids=lambda each: each.__name__)
def test_it_is_a_constant_input(compute, shift, engine):
    """To 1e-14 of what is computed."""
    assert difference(compute, engine, shift) < 1e-14


@pytest.mark.parametrize("compute", COMPUTED, ids=lambda each: each.__name__)
def test_a_wrong_constant_is_caught(compute):
    assert difference(compute, "reference", constant=1.01 * BIAS) > 1e-5


def test_a_loss_of_another_kind():
    found = []
    for network, problem in networks():
        problem = mf.Problem(problem.inputs, problem.targets, loss="logistic")
        found.append(mf.simulate(network, problem, START, TIMES, **STEPS).particles)
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-13)


@ENGINES
def test_against_the_formula(engine):
    """f = alpha sum m a tanh(s w . x + beta b) and the gradient of its risk, in NumPy: to 1e-13, and a sign is seen."""
    network, problem = networks()[0]
    field = mf.fields.DataField(network, problem, START, MASSES, engine)
    state = field.state(START)
    a, w, b = START[:, :1], START[:, 1:-1], START[:, -1:]
    x, p, y = problem.inputs, problem.weights, problem.targets

    def units(sign=1.0):
        return np.tanh(SCALE * w @ x.T + sign * BIAS * b)  # (N, n)

    f = ALPHA * (MASSES * a[:, 0]) @ units()
    np.testing.assert_allclose(field.predict(state), f, rtol=0, atol=1e-13)
    assert np.abs(field.predict(state) - ALPHA * (MASSES * a[:, 0]) @ units(-1.0)).max() > 1e-2
    pull = p * (y - f) / ALPHA
    slope = a * (1.0 - units() ** 2)
    moved = np.c_[0.5 * units() @ pull, 1.5 * SCALE * slope @ (pull[:, None] * x), 1.5 * BIAS * slope @ pull]
    np.testing.assert_allclose(field.particles(field.velocity(state)), moved, rtol=0, atol=1e-13)


def test_without_a_bias_nothing_changes():
    network, x = mf.Network("tanh", bias=0.0), np.ones((2, 3))
    np.testing.assert_array_equal(network.inputs(x), x)
    assert network.seen(3) == 3 and "bias" not in repr(network)
    biased = mf.Network("tanh", bias=2)
    np.testing.assert_array_equal(biased.inputs(x), np.c_[x, [2.0, 2.0]])
    assert biased.inputs(np.empty((0, 3))).shape == (0, 4) and biased.seen(3) == 4
    assert repr(biased).endswith(", bias=2)") and network != biased


NETWORK, PROBLEM = networks()[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mf.Network("tanh", bias=-1.0), r"bias is -1\.0; needed: a finite number of at least 0"),
        (
            lambda: mf.simulate(NETWORK, PROBLEM, np.ones((6, 4)), [1.0]),
            "particles have 4 columns, but inputs of dimension 3 and a bias need 5: a, w, then b",
        ),
        (
            lambda: tangent.kernel(NETWORK, np.ones((6, 4)), PROBLEM.inputs),
            "inputs of dimension 3 and a bias need 5: a, w, then b",
        ),
        (
            lambda: limits.mean_field(NETWORK, PROBLEM, mf.GaussianLaw(3), [1.0]),
            "needed: a GaussianLaw of dim 4, the inputs' dimension and one for the bias",
        ),
        (
            lambda: tangent.infinite(NETWORK, mf.GaussianLaw(3), PROBLEM.inputs),
            "inputs have dimension 3; needed: 2, the law's without the bias",
        ),
        (lambda: limits.exact.bilinear(mf.Network("linear", bias=1.0), mf.problems.bilinear(), [1.0]), "no bias"),
        (
            lambda: mf.population.risk(mf.Network("erf", bias=1.0), mf.Population(np.ones((1, 3))), np.ones((2, 4))),
            "and bias 1; needed: the teacher's, 'erf', 1 and no bias",
        ),
    ],
)
def test_what_does_not_fit(call, message):
    with pytest.raises(InputError, match=message):
        call()
