"""Losses: the pull is minus the derivative of the value, to 40 digits, in the tails too; and runs that use them."""

import numpy as np
import pytest
from mpmath import diff, log1p, mp, mpf
from mpmath import exp as exp_
from scipy.integrate import solve_ivp

import meanfield as mf
from meanfield.errors import InputError, StepLimitError
from meanfield.losses import LOSSES, Loss, soft_hinge

EXACT = {
    "squared": lambda f, y: (y - f) ** 2 / 2,
    "hinge": lambda f, y: max(mpf(0), 1 - y * f),
    "soft-hinge": lambda f, y: log1p(exp_(20 * (1 - y * f))) / 20,
    "logistic": lambda f, y: log1p(exp_(-y * f)),
}
POINTS = [(f, y) for f in (-40.0, -3.0, -1.25, -0.5, 0.0, 0.3, 0.99, 1.01, 2.0, 35.0) for y in (-1.0, 1.0)]


def errors(loss, exact):
    """Largest relative errors of value and pull."""
    found = []
    with mp.workdps(40):
        for f, y in POINTS:
            value, pull = exact(mpf(f), mpf(y)), -diff(lambda at, y=y: exact(at, mpf(y)), mpf(f))
            got = loss.value(np.array([f]), np.array([y]))[0], loss.pull(np.array([f]), np.array([y]))[0]
            found.append(
                [float(abs(mpf(g) - w) / (abs(w) + mpf(10) ** -290)) for g, w in zip(got, (value, pull), strict=True)]
            )
    return np.max(found, axis=0)


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_pull(name):
    """To 1e-14 relative (the argument of an exponential is rounded), where the derivative vanishes to nothing."""
    value, pull = errors(LOSSES[name], EXACT[name])
    assert value < 1e-13 and pull < 1e-13


@pytest.mark.parametrize("name", LOSSES)
def test_a_wrong_pull_is_caught(name):
    right = LOSSES[name]
    wrong = Loss("wrong", right.value, lambda f, y: (1 + 1e-9) * right.pull(f, y))
    assert errors(wrong, EXACT[name])[1] > 1e-10


def test_nothing_overflows():
    f, y = np.array([-1e300, -1e5, 0.0, 1e5, 1e300]), np.ones(5)
    with np.errstate(all="raise", under="ignore"):
        for loss in LOSSES.values():
            if loss.name != "squared":
                assert np.isfinite(loss.value(f, y)[1:4]).all()
                assert np.isfinite(loss.pull(f, y)).all() and (np.abs(loss.pull(f, y)) <= 1.0).all()


def test_soft_hinges_of_ones_own():
    loss = soft_hinge(5.0, 0.5)
    with mp.workdps(30):
        wanted = log1p(exp_(5 * (mpf("0.5") - mpf("0.2")))) / 5
    assert loss.value(np.array([0.2]), np.array([1.0]))[0] == pytest.approx(float(wanted), rel=1e-15)
    assert repr(loss) == "Loss('soft-hinge 5, margin 0.5')"
    with pytest.raises(InputError, match="beta is 0"):
        soft_hinge(0.0)


def own_flow(loss, problem, start, alpha, t_end):
    """The gradient flow of tanh units written out, by SciPy's stiff integrator."""
    shape = start.shape

    def rhs(_, flat):
        a, w = np.split(flat.reshape(shape), [1], axis=1)
        value = np.tanh(w @ problem.inputs.T)
        f = alpha * (a * value).mean(axis=0)
        pull = problem.weights * loss(f, problem.targets) / alpha
        return np.hstack([(value @ pull)[:, None], (a * (1 - value**2) * pull) @ problem.inputs]).ravel()

    return solve_ivp(rhs, (0, t_end), start.ravel(), "Radau", rtol=1e-10, atol=1e-12).y[:, -1].reshape(shape)


@pytest.mark.parametrize(
    ("name", "pull"),
    [
        ("soft-hinge", lambda f, y: y / (1 + np.exp(-20 * (1 - y * f)))),
        ("logistic", lambda f, y: y / (1 + np.exp(y * f))),
    ],
)
def test_a_run_is_that_of_a_stiff_solver(name, pull):
    """To 1e-7 after t = 3, on every engine: an integrator and a right-hand side that share nothing with ours."""
    rng = np.random.default_rng(3)
    inputs = rng.standard_normal((12, 2))
    problem = mf.Problem(inputs, np.sign(inputs[:, 0]), loss=name)
    start = mf.initial.gaussian(10, 2, seed=4)
    wanted = own_flow(pull, problem, start, 0.5, 3.0)
    for engine in ("cpu", "reference"):
        run = mf.simulate(
            mf.Network("tanh", mf.Scaling(0.5)), problem, start, [3.0], rtol=1e-9, atol=1e-11, engine=engine
        )
        assert np.abs(run.particles[-1] - wanted).max() < 1e-7


@pytest.mark.parametrize("name", LOSSES)
def test_losses_can_be_traced(name):
    """As a device would compile them, here with NumPy's scalars: the same numbers."""
    from meanfield.engines import straight_line

    plain = {"square_root": np.sqrt, "power": np.power, "copysign": np.copysign}

    def bodies(tape):
        return {"exp": lambda x: tape.do("np_exp({0})", x), "log1p": lambda x: tape.do("np_log1p({0})", x)}

    functions = {**plain, "np_exp": np.exp, "np_log1p": np.log1p}
    traced = straight_line.write(LOSSES[name].pull, ("f", "y"), 1, np.float64, functions, bodies)
    for f, y in POINTS:
        assert traced(np.float64(f), np.float64(y)) == pytest.approx(LOSSES[name].pull(np.array([f]), np.array([y]))[0])


def largest_jump(loss):
    """Of the pull between neighbours 1e-6 apart, over f in [-3, 3] and both labels."""
    f = np.arange(-3.0, 3.0, 1e-6) + 0.3e-6
    return max(np.abs(np.diff(loss.pull(f, np.full_like(f, y)))).max() for y in (-1.0, 1.0))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_says_whether_its_pull_jumps(loss):
    """A continuous pull moves by less than 1e-4 over 1e-6, one that jumps by 1: the hinge's does."""
    assert bool(largest_jump(loss) < 1e-4) is loss.smooth
    assert not LOSSES["hinge"].smooth


def test_a_budget_spent_on_jumps_says_so():
    """The hinge by an adaptive scheme: what to do instead; with fixed steps, or the soft hinge, the usual advice."""
    given = np.random.default_rng(3).standard_normal((12, 2))
    start = mf.initial.gaussian(10, 2, seed=4)
    jumps = r"the pull of the loss 'hinge' jumps: use losses.soft_hinge, or scheme='euler' with dt\."
    for loss, options, advice in (
        ("hinge", {}, jumps),
        ("soft-hinge", {}, r"raise max_steps, or loosen"),
        ("hinge", {"scheme": "euler", "dt": 0.1}, r"raise max_steps or dt"),
    ):
        with pytest.raises(StepLimitError, match=advice):
            task = mf.Problem(given, np.sign(given[:, 0]), loss=loss)
            mf.simulate(mf.Network("tanh"), task, start, [9.0], max_steps=3, engine="reference", **options)


def test_a_problem_says_which_losses_there_are():
    with pytest.raises(InputError, match=r"unknown loss 'hindge'\. Did you mean 'hinge'"):
        mf.Problem(np.ones((2, 1)), np.ones(2), loss="hindge")
    assert mf.Problem(np.ones((2, 1)), np.ones(2), loss="hinge").loss is LOSSES["hinge"]


def test_a_run_on_labels_says_its_loss():
    """The loss by its name, E l at the end, and no risk; a run on values says its risk."""
    given, start = np.random.default_rng(3).standard_normal((12, 2)), mf.initial.gaussian(10, 2, seed=4)
    run = mf.simulate(mf.Network("tanh"), mf.Problem(given, np.sign(given[:, 0]), loss="logistic"), start, [1.0])
    final = np.mean(np.log1p(np.exp(-run.predictions[-1] * run.problem.targets)))
    assert f"final logistic loss {final:.4g}, " in repr(run) and "risk" not in repr(run)
    run = mf.simulate(mf.Network("tanh"), mf.Problem(given, given[:, 0]), start, [1.0])
    assert f"final risk {np.mean(run.residuals[-1] ** 2):.4g}, " in repr(run)
