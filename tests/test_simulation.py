"""Runs: shapes, times, records, repetition; and what the public door refuses, in which words."""

from dataclasses import replace

import numpy as np
import oracle
import pytest

import meanfield as mf
from meanfield.diagnostics import DIAGNOSTICS, Snapshot
from meanfield.errors import InputError
from meanfield.fields import DataField

DIM, N, TIMES = 2, 70, (0.0, 0.5, 3.0)
RUNS = pytest.mark.parametrize("simulate", [mf.simulate, mf.simulate_coupled], ids=["simulate", "simulate_coupled"])


def problem():
    """12 weighted training and 5 test points."""
    rng = np.random.default_rng(1)
    inputs, targets = rng.standard_normal((17, DIM)), rng.standard_normal(17)
    return mf.Problem(
        inputs[:12], targets[:12], rng.uniform(0.5, 1.5, 12), test_inputs=inputs[12:], test_targets=targets[12:]
    )


def run(simulate=mf.simulate, *, alpha=1.3, times=TIMES, **arguments):
    network = mf.Network("tanh", mf.Scaling(alpha))
    return simulate(network, problem(), mf.initial.gaussian(N, DIM, seed=2), times, **arguments)


# What a run holds


@RUNS
def test_shapes_and_names(simulate):
    done = run(simulate, record=["risk", "kernel_drift"])
    np.testing.assert_array_equal(done.times, TIMES)
    assert done.particles.shape == (3, N, 1 + DIM)
    assert done.predictions.shape == done.residuals.shape == (3, 12)
    assert done.test_predictions.shape == (3, 5)
    assert list(done.records) == ["risk", "kernel_drift"]
    assert all(values.shape == (3,) for values in done.records.values())
    np.testing.assert_allclose(done.masses, np.full(N, 1 / N), rtol=1e-15)
    assert (done.scheme, done.engine, done.dtype) == ("dopri5", "cpu", "float64")
    assert done.steps > 0 and done.evaluations == 1 + 6 * (done.steps + done.rejected) and done.seconds > 0


@RUNS
def test_a_problem_without_a_test_set(simulate):
    whole = problem()
    bare = mf.Problem(whole.inputs, whole.targets, whole.weights)
    done = simulate(
        mf.Network("tanh"), bare, mf.initial.gaussian(N, DIM, seed=2), [1.0], record=["test_risk", "test_error"]
    )
    assert done.test_predictions.shape == (1, 0)
    assert np.isnan(done.records["test_risk"]).all() and np.isnan(done.records["test_error"]).all()


@RUNS
def test_what_is_kept_at_every_time(simulate):
    """The start itself at t = 0; at every time the oracle's f of the particles, and y - f beside it."""
    done = run(simulate)
    np.testing.assert_array_equal(done.particles[0], mf.initial.gaussian(N, DIM, seed=2))
    tanh, given = oracle.ACTIVATIONS["tanh"], done.problem
    for k in range(3):
        f, at_test = (
            oracle.predict(tanh, done.particles[k], done.masses, inputs, 1.3)
            for inputs in (given.inputs, given.test_inputs)
        )
        np.testing.assert_allclose(done.predictions[k], f, rtol=0, atol=1e-14)
        np.testing.assert_allclose(done.test_predictions[k], at_test, rtol=0, atol=1e-14)
        # Of a coupled run the residual is integrated: there it is y - f up to the tolerance.
        atol = 1e-14 if simulate is mf.simulate else 1e-4
        np.testing.assert_allclose(done.residuals[k], given.targets - f, rtol=0, atol=atol)
    assert (done.disagreement == 0) == (simulate is mf.simulate) and done.disagreement < 1e-4


def test_the_flow_is_the_oracle_s():
    """Heun's two evaluations, done by the oracle, are one step of a run; masses, weights and mobilities uneven."""
    given, h, tanh = problem(), 0.4, oracle.ACTIVATIONS["tanh"]
    start, masses = mf.initial.gaussian(N, DIM, seed=2), np.random.default_rng(3).uniform(0.0, 2.0, N)
    network = mf.Network("tanh", mf.Scaling(0.6, mobility_a=0.5, mobility_w=2.0))
    done = mf.simulate(network, given, start, [h], masses=masses, scheme="heun", dt=h)
    shares = masses / masses.sum()

    def velocity(particles):
        rest = given.inputs, given.targets, given.weights, 0.6, (0.5, 2.0)
        return oracle.velocity(tanh, particles, shares, *rest)

    first = velocity(start)
    wanted = start + h / 2 * (first + velocity(start + h * first))
    np.testing.assert_allclose(done.particles[0], wanted, rtol=0, atol=1e-13)


@RUNS
def test_keep_last(simulate):
    every, last = run(simulate), run(simulate, keep="last")
    assert last.particles.shape == (1, N, 1 + DIM)
    np.testing.assert_array_equal(last.particles[0], every.particles[-1])
    np.testing.assert_array_equal(last.predictions, every.predictions)


@RUNS
def test_times_may_start_above_zero(simulate):
    """The flow starts at t = 0 whether or not that is recorded; drift and displacement count from there."""
    whole = run(simulate, record=["displacement", "kernel_drift", "risk"])
    later = run(simulate, times=TIMES[1:], record=["displacement", "kernel_drift", "risk"])
    np.testing.assert_array_equal(later.particles, whole.particles[1:])
    for name, values in later.records.items():
        np.testing.assert_array_equal(values, whole.records[name][1:])
    assert whole.records["displacement"][0] == whole.records["kernel_drift"][0] == 0.0
    assert later.records["displacement"][0] > 0


@RUNS
@pytest.mark.parametrize("engine", mf.engines.ENGINES)
def test_a_run_repeats_in_bits(simulate, engine):
    one, two = (run(simulate, engine=engine, record=list(DIAGNOSTICS)) for _ in range(2))
    for each in ("particles", "predictions", "test_predictions", "residuals"):
        np.testing.assert_array_equal(getattr(one, each), getattr(two, each))
    assert one.steps == two.steps
    for name in DIAGNOSTICS:
        np.testing.assert_array_equal(one.records[name], two.records[name])


def test_the_engines_run_to_the_same_particles():
    """At fixed steps they differ by rounding alone; in float32 by its."""
    cpu, reference = (run(engine=engine, scheme="rk4", dt=0.1) for engine in ("cpu", "reference"))
    np.testing.assert_allclose(cpu.particles, reference.particles, rtol=0, atol=1e-13)
    single = run(scheme="rk4", dt=0.1, dtype="float32")
    assert single.particles.dtype == np.float64
    error = np.abs(single.particles - reference.particles).max()
    assert 1e-8 < error < 1e-5


@pytest.mark.parametrize("n_particles", [1, 5, 65])
@pytest.mark.parametrize(
    "name",
    [
        "tanh",
        "softplus",
    ],
)
def test_the_tolerance_means_the_same_on_every_engine(name, n_particles):
    """Step control sees the particles and nothing else: the same steps, whatever an engine's tiles."""
    cpu, reference = (
        mf.simulate(
            mf.Network(name), problem(), mf.initial.gaussian(n_particles, DIM, seed=4), [30.0], engine=engine, rtol=1e-5
        )
        for engine in ("cpu", "reference")
    )
    assert (cpu.steps, cpu.rejected) == (reference.steps, reference.rejected)
    np.testing.assert_allclose(cpu.particles, reference.particles, rtol=0, atol=1e-11)


def test_a_run_leaves_what_it_was_given_alone():
    start, masses, times = mf.initial.gaussian(N, DIM, seed=2), np.ones(N), np.array(TIMES)
    copies = start.copy(), masses.copy(), times.copy()
    mf.simulate(mf.Network("tanh"), problem(), start, times, masses=masses)
    for given, copy in zip((start, masses, times), copies, strict=True):
        np.testing.assert_array_equal(given, copy)


def test_dt_is_the_largest_step():
    """0.5 in steps of at most 0.2 takes 3, the other 2.5 take 13; each costs the scheme's stages."""
    done = run(times=TIMES[1:], scheme="heun", dt=0.2)
    assert (done.steps, done.rejected, done.evaluations) == (16, 0, 32)
    assert run(times=TIMES[1:], dt=0.2).steps == 16, "an adaptive scheme takes fixed steps where dt is given"


def test_to_record_the_start_costs_no_step():
    assert run(times=[0.0], scheme="heun", dt=0.2).steps == 0


def test_tolerances_bound_the_error():
    exact = run(rtol=1e-11, atol=1e-13).particles[-1]
    errors = [np.abs(run(rtol=rtol, atol=rtol).particles[-1] - exact).max() for rtol in (1e-3, 1e-5, 1e-7)]
    assert errors[0] > errors[1] > errors[2] and errors[1] < 1e-4 and errors[2] < 1e-6


# Records


def direct(name, done, k):
    """A diagnostic of a run at time k from its particles, by the oracle."""
    given, tanh = done.problem, oracle.ACTIVATIONS["tanh"]
    f, at_test = (
        oracle.predict(tanh, done.particles[k], done.masses, inputs, 1.3)
        for inputs in (given.inputs, given.test_inputs)
    )
    kernels = [oracle.kernel(tanh, done.particles[j], done.masses, given.inputs) for j in (k, 0)]
    moved = ((done.particles[k] - done.particles[0]) ** 2).sum(axis=1)
    return {
        "risk": given.weights @ (given.targets - f) ** 2,
        "loss": given.weights @ (given.targets - f) ** 2 / 2,
        "test_risk": np.mean((given.test_targets - at_test) ** 2),
        "train_error": given.weights[(given.targets > 0) != (f > 0)].sum(),
        "test_error": np.mean((given.test_targets > 0) != (at_test > 0)),
        "kernel_drift": np.sqrt(((kernels[0] - kernels[1]) ** 2).sum() / (kernels[1] ** 2).sum()),
        "displacement": np.sqrt(done.masses @ moved),
    }[name]


@RUNS
@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_records_are_what_they_say(simulate, name):
    done = run(simulate, record=[name], masses=np.random.default_rng(3).uniform(0.0, 2.0, N))
    wanted = [direct(name, done, k) for k in range(3)]
    np.testing.assert_allclose(done.records[name], wanted, rtol=1e-12, atol=1e-15)


def test_a_wrong_record_is_caught():
    """The mean of the squares without the weights of the data is another number."""

    def unweighted(now, start):
        return np.mean((now.problem.targets - now.predictions) ** 2)

    done = run(record=[unweighted])
    assert abs(done.records["unweighted"][-1] / direct("risk", done, 2) - 1) > 1e-3


def test_a_record_may_be_a_function():
    """Of the snapshot and the first one, under its own name."""
    seen = []

    def spread(now, start):
        assert isinstance(now, Snapshot) and start.time == 0.0
        seen.append(now.time)
        return now.particles.std() - start.particles.std()

    done = run(record=[spread, "risk"])
    assert seen == list(TIMES) and list(done.records) == ["spread", "risk"]
    np.testing.assert_allclose(
        done.records["spread"], done.particles.std(axis=(1, 2)) - done.particles[0].std(), rtol=1e-12, atol=1e-15
    )


def test_two_records_of_one_name_are_both_kept_or_refused():
    try:
        done = run(record=[lambda now, start: 1.0, lambda now, start: 2.0])
    except InputError:
        return
    assert len(done.records) == 2


@RUNS
def test_the_risk_falls(simulate):
    done = run(simulate, times=np.linspace(0.0, 5.0, 21), record=["risk"])
    assert (np.diff(done.records["risk"]) < 0).all()


# What the door refuses: what was given and what is needed, in the message

X, Y = np.eye(3), np.zeros(3)
NAN_AT = np.where(np.eye(3) > 0, np.nan, 1.0)

PROBLEMS = [
    (dict(inputs=np.ones(3)), r"inputs has shape \(3,\); needed: an array \(n, d\)"),
    (dict(inputs=np.ones((2, 3))), r"inputs have 2 rows, targets 3; needed: as many"),
    (dict(inputs=np.ones((0, 3)), targets=[]), r"inputs is empty, shape \(0, 3\); needed: an array \(n, d\)"),
    (dict(inputs=np.ones((3, 0))), r"inputs is empty, shape \(3, 0\); needed"),
    (dict(inputs=NAN_AT), r"inputs holds nan at index \(0, 0\); needed: finite numbers"),
    (dict(inputs=[["a"]]), r"inputs cannot be read as numbers \(.*'a'\); needed: an array"),
    (dict(inputs=[[1.0], [1.0, 2.0]]), r"inputs cannot be read as numbers \(.*\); needed: an array"),
    (dict(targets=[0.0, np.inf, 0.0]), r"targets holds inf at index \(1,\); needed: finite numbers"),
    (dict(targets=np.zeros((3, 1))), r"targets has shape \(3, 1\); needed: an array \(n,\)"),
    (dict(weights=[1.0, 1.0]), r"weights has 2 entries; needed: 3, one for each point"),
    (dict(weights=[2.0, -1.0, 1.0]), r"weights has minimum -1 and sum 2; needed: non-negative with a positive sum"),
    (dict(weights=np.zeros(3)), r"weights has minimum 0 and sum 0; needed: non-negative with a positive sum"),
    (dict(weights=[1.0, np.nan, 1.0]), r"weights holds nan at index \(1,\)"),
    (dict(loss="square"), r"unknown loss 'square'\. Did you mean 'squared'\? Known: .*squared"),
    (dict(loss=2), r"loss is 2; needed: a name \(.*squared.*\) or a losses\.Loss"),
    (dict(test_inputs=X), r"a test set needs both test_inputs and test_targets; only one was given"),
    (dict(test_inputs=X[:, :2], test_targets=Y), r"test_inputs have dimension 2, inputs 3; needed: the same"),
    (dict(test_inputs=X, test_targets=Y[:2]), r"test_inputs have 3 rows, test_targets 2; needed: as many"),
    (dict(labels=[1, 2]), r"labels have shape \(2,\); needed: \(3,\), one for each input"),
]


@pytest.mark.parametrize(("arguments", "message"), PROBLEMS)
def test_problem_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        mf.Problem(**{"inputs": X, "targets": Y, **arguments})


SCALINGS = [
    (lambda: mf.Scaling(alpha=np.inf), r"alpha is inf; needed: a finite number above 0"),
    (lambda: mf.Scaling(alpha=np.nan), r"alpha is nan; needed: a finite number above 0"),
    (lambda: mf.Scaling(alpha=0.0), r"alpha is 0\.0; needed: a finite number above 0"),
    (lambda: mf.Scaling(alpha=-1), r"alpha is -1; needed: a finite number above 0"),
    (lambda: mf.Scaling(alpha="large"), r"alpha is 'large'; needed: a number"),
    (lambda: mf.Scaling(alpha=None), r"alpha is None; needed: a number"),
    (lambda: mf.Scaling(mobility_a=-0.5), r"mobility_a is -0\.5; needed: a finite number of at least 0"),
    (lambda: mf.Scaling(mobility_w=np.nan), r"mobility_w is nan; needed: a finite number of at least 0"),
    (lambda: mf.Scaling(input_scale=0), r"input_scale is 0; needed: a finite number above 0"),
    (lambda: mf.Scaling(time_scale=-2), r"time_scale is -2; needed: a finite number above 0"),
    (lambda: mf.Scaling(shift="final"), r"shift is 'final'; needed: None or 'initial'"),
    (lambda: mf.Scaling.ntk(0), r"n_particles is 0; needed: a whole number of at least 1"),
    (lambda: mf.Scaling.ntk(100, c=0.0), r"c is 0\.0; needed: a finite number above 0"),
    (
        lambda: mf.Scaling.geiger(1.0, 100, loss="squares"),
        r"unknown loss of geiger 'squares'\. Did you mean 'square'\?",
    ),
    (lambda: mf.Scaling.geiger(1.0, 10.5), r"h is 10\.5; needed: a whole number of at least 1"),
    (lambda: mf.Network("rellu"), r"unknown activation 'rellu'\. Did you mean 'relu'\? Known: .*erf, .*tanh"),
    (lambda: mf.Network("zzz"), r"unknown activation 'zzz'\. Known: .*erf, .*tanh"),
    (lambda: mf.Network(np.tanh), r"activation is <ufunc 'tanh'>; needed: one of relu, erf.* or an Activation"),
    (lambda: mf.Network("tanh", 2.0), r"scaling is 2\.0; needed: a Scaling"),
]


@pytest.mark.parametrize(("make", "message"), SCALINGS)
def test_network_and_scaling_refuse(make, message):
    with pytest.raises(InputError, match=message):
        make()


STARTS = [
    (lambda: mf.initial.gaussian(0, 2), r"n_particles is 0; needed: a whole number of at least 1"),
    (lambda: mf.initial.gaussian(-4, 2), r"n_particles is -4; needed: a whole number of at least 1"),
    (lambda: mf.initial.gaussian(10.0, 2), r"n_particles is 10\.0; needed: a whole number"),
    (lambda: mf.initial.gaussian(True, 2), r"n_particles is True; needed: a whole number"),
    (lambda: mf.initial.gaussian(5, 2, paired=True), r"n_particles is 5; needed: an even number for paired=True"),
    (lambda: mf.initial.gaussian(4, 0), r"dim is 0; needed: a whole number of at least 1"),
    (lambda: mf.initial.gaussian(4, 2, sigma_a=0.0), r"sigma_a is 0 and mean_a too"),
    (lambda: mf.GaussianLaw(2, sigma_w=-1.0), r"sigma_w is -1\.0; needed: a finite number above 0"),
    (lambda: mf.problems.teacher_student(n=0), r"n is 0; needed: a whole number of at least 1"),
    (lambda: mf.problems.teacher_student(noise=-1.0), r"noise is -1\.0; needed: a finite number of at least 0"),
    (lambda: mf.problems.bilinear(beta=np.inf), r"beta is inf; needed: a finite number"),
]


@pytest.mark.parametrize(("make", "message"), STARTS)
def test_starts_and_ready_problems_refuse(make, message):
    with pytest.raises(InputError, match=message):
        make()


GOOD = mf.initial.gaussian(4, DIM)
SIMULATIONS = [
    (dict(start=np.ones((4, 5))), r"particles have 5 columns, but inputs of dimension 2 need 3: a, then w"),
    (dict(start=np.ones((4, 1))), r"particles have 1 column; needed: at least 2: a, then w"),
    (dict(start=np.ones(4)), r"particles has shape \(4,\); needed: an array \(N, 1 \+ d\)"),
    (dict(start=np.ones((0, 3))), r"particles is empty, shape \(0, 3\); needed: an array \(N, 1 \+ d\)"),
    (
        dict(start=np.where(GOOD > 0, GOOD, -np.inf)),
        r"particles holds -inf at index \(\d, \d\); needed: finite numbers",
    ),
    (dict(masses=np.ones(3)), r"masses has 3 entries; needed: 4, one for each point"),
    (dict(masses=[1.0, 1.0, -3.0, 0.5]), r"masses has minimum -3 and sum -0\.5; needed: non-negative"),
    (dict(times=[0.0, -1.0]), r"times go from 0 to -1 at index 1; needed: strictly increasing"),
    (dict(times=[-1.0, 0.0]), r"times start at -1; needed: flow times of at least 0"),
    (dict(times=[0.0, 2.0, 1.0]), r"times go from 2 to 1 at index 2; needed: strictly increasing"),
    (dict(times=[0.0, 1.0, 1.0]), r"times go from 1 to 1 at index 2; needed: strictly increasing"),
    (dict(times=[0.0, np.inf]), r"times holds inf at index \(1,\); needed: finite numbers"),
    (dict(times=[]), r"times is empty, shape \(0,\); needed: a list of flow times"),
    (dict(times=1.0), r"times has shape \(\); needed: a list of flow times such as \[0, 1, 5\]"),
    (dict(dtype="float16"), r"dtype is 'float16'; needed: one of float64, float32"),
    (dict(engine="gpu"), r"unknown engine 'gpu'\..* Known: cpu, .*reference"),
    (dict(engine="referense"), r"unknown engine 'referense'\. Did you mean 'reference'\?"),
    (dict(scheme="dopri"), r"unknown scheme 'dopri'\. Did you mean 'dopri5'\? Known: bosh3, .*rk4"),
    (dict(scheme="euler"), r"scheme 'euler' has fixed steps.* dt.* adaptive.*bosh3, dopri5"),
    (dict(scheme=None), r"scheme is None; needed: one of euler, .* or a Tableau"),
    (dict(dt=-0.1), r"dt is -0\.1; needed: a finite number above 0"),
    (dict(rtol=0.0), r"rtol is 0\.0; needed: a finite number above 0"),
    (dict(max_steps=0.5), r"max_steps is 0\.5; needed: a whole number of at least 1"),
    (dict(record=["rsik"]), r"unknown record 'rsik'\. Did you mean 'risk'\? Known: .*displacement"),
    (dict(record=[3]), r"record holds 3; needed: one of risk, .* or a function"),
    (dict(keep="first"), r"keep is 'first'; needed: 'all', 'last' or a slice"),
]


@RUNS
@pytest.mark.parametrize(("arguments", "message"), SIMULATIONS)
def test_simulate_refuses(simulate, arguments, message):
    given = {"network": mf.Network("tanh"), "problem": problem(), "start": GOOD, "times": [0.0, 1.0], **arguments}
    with pytest.raises(InputError, match=message):
        simulate(**given)


# Of the wrong kind altogether: the docstring promises InputError for anything that does not fit.
ODD_KINDS = {
    "network": "tanh",
    "problem": (X, Y),
    "engine": 3,
    "dtype": 3,
    "start": GOOD.tolist(),
    "record": None,
}


@pytest.mark.parametrize(
    "name",
    ODD_KINDS,
)
def test_simulate_refuses_or_reads_other_kinds(name):
    given = {"network": mf.Network("tanh"), "problem": problem(), "start": GOOD, "times": [0.0, 1.0]}
    try:
        mf.simulate(**{**given, name: ODD_KINDS[name]})
    except InputError:
        pass


def test_weights_whose_sum_overflows():
    """Scaled to sum to one, or refused."""
    try:
        weights = mf.Problem(X, Y, weights=[1e308, 1e308, 1e308]).weights
    except InputError:
        return
    np.testing.assert_allclose(weights, np.full(3, 1 / 3))


def test_complex_numbers_are_refused():
    with pytest.raises(InputError, match="inputs"):
        mf.Problem(X + 1j, Y)


def test_an_input_error_is_a_value_error():
    with pytest.raises(ValueError, match="alpha is 0"):
        mf.Scaling(alpha=0)


def test_what_is_refused_here_is_taken_when_put_right():
    """The tables above fail for what they name, not for what surrounds it."""
    mf.Problem(X, Y, [1.0, 0.0, 1.0], "squared", X, Y, [1, 2, 3], [1, 2, 3])
    mf.simulate(mf.Network("tanh"), problem(), GOOD, [0.0, 1.0], masses=np.ones(4), dtype=np.float64, record=["risk"])
    mf.simulate(mf.Network("tanh"), problem(), GOOD, [0], engine="reference", scheme="euler", dt=1, keep="last")


# Representations


def test_reprs_say_what_it_is():
    done = run(record=["risk"])
    for thing, words in (
        (done.problem, ("Problem", "n=12", "test=5", "dim=2", "squared")),
        (done.network, ("Network", "tanh", "alpha=1.3")),
        (done.network.scaling, ("Scaling", "alpha=1.3", "shift=None")),
        (done.problem.loss, ("Loss", "squared")),
        (done, ("Run", "tanh", f"N={N}", "alpha=1.3", "dopri5", "cpu", "float64", f"{done.records['risk'][-1]:.4g}")),
    ):
        assert all(word in repr(thing) for word in words), repr(thing)


def test_equal_networks_are_equal():
    """Scalings and networks are values: equal by content, fit to be keys, not to be changed."""
    one, two = (mf.Network("tanh", mf.Scaling(2.0)) for _ in range(2))
    assert one == two and hash(one) == hash(two) and one != mf.Network("erf", mf.Scaling(2.0))
    assert replace(one.scaling, alpha=3.0) == mf.Scaling(3.0)
    with pytest.raises(AttributeError):
        one.scaling.alpha = 1.0


def test_the_field_a_run_uses_is_the_public_one():
    """A step of Euler is start + dt velocity of `DataField`."""
    start, network = mf.initial.gaussian(N, DIM, seed=2), mf.Network("tanh", mf.Scaling(1.3))
    field = DataField(network, problem(), start)
    (velocity,) = field.velocity(field.state(start))
    done = run(times=[0.25], scheme="euler", dt=0.25)
    np.testing.assert_array_equal(done.particles[0], start + 0.25 * field.engine.unpack(velocity, N))
