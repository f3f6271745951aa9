"""Random features and neural tangents against dense least squares; experiments of the claims F28 to F31, small."""

import numpy as np
import pytest
from scipy.linalg import lstsq

import meanfield as mf
from meanfield import activations, linearised, targets
from meanfield.errors import InputError
from meanfield.experiments import linearised as experiments

KINDS = pytest.mark.parametrize("kind", linearised.KINDS)
SLOPES = {
    "tanh": (np.tanh, lambda z: 1.0 / np.cosh(z) ** 2),
    "relu": (lambda z: np.where(z > 0, z, 0.0), lambda z: (z > 0) * 1.0),
}


def features(kind, name, weights, seen):
    """Loops over units and inputs."""
    value, slope = SLOPES[name]
    rows = []
    for x in seen:
        z = weights @ x
        rows.append(value(z) if kind == "rf" else np.concatenate([slope(each) * x for each in z]))
    return np.array(rows)


def given(n=40, dim=3, seed=0, **more):
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((n + 15, dim))
    values = np.sin(points @ np.arange(1, dim + 1))
    return mf.Problem(points[:n], values[:n], test_inputs=points[n:], test_targets=values[n:], **more)


def distance(kind, name, n_units, ridge=0.0, bias=0.0, input_scale=1.0, wrong=1.0, constant=False, fitted=None):
    """Largest difference of predictions at the test inputs from those of dense least squares, and both errors'."""
    p = np.random.default_rng(5).random(40)
    problem = given(weights=p)
    network = mf.Network(name, mf.Scaling(3.0, input_scale=input_scale), bias=bias)
    weights = np.random.default_rng(1).standard_normal((n_units, 3 + bool(bias)))
    seen = [input_scale * each for each in (problem.inputs, problem.test_inputs)]
    if bias:
        seen = [np.column_stack([each, np.full(len(each), bias)]) for each in seen]
    train, test = (features(kind, name, weights, each) for each in seen)
    if constant:
        train, test = (np.column_stack([each, np.ones(len(each))]) for each in (train, test))
    root = np.sqrt(p / p.sum())
    rows = train.shape[1] if ridge else 0  # rows of zeros would leave lstsq with singular values that are rounding
    held = np.sqrt(wrong * ridge) * np.eye(train.shape[1])[:rows]
    held[:, train.shape[1] - 1 :] *= not constant  # no ridge holds the constant back
    augmented = np.vstack([root[:, None] * train, held])
    coefficients = lstsq(augmented, np.r_[root * problem.targets, np.zeros(rows)])[0]
    fitted = constant if fitted is None else fitted
    model = linearised.fit(kind, network, weights, problem, ridge, constant=fitted)
    errors = [
        model.train_error - root**2 @ (problem.targets - train @ coefficients) ** 2,
        model.test_error - ((problem.test_targets - test @ coefficients) ** 2).mean(),
    ]
    return np.abs(np.r_[model(problem.test_inputs) - test @ coefficients, errors]).max()


@KINDS
@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("n_units", [8, 60])
@pytest.mark.parametrize("ridge", [1e-3, 0.3])
def test_ridge_is_dense_least_squares(kind, name, n_units, ridge):
    """Fewer parameters than data and more, weighted data: scipy's lstsq on (features, sqrt(ridge) I), to 1e-9."""
    assert distance(kind, name, n_units, ridge) < 1e-9
    assert distance(kind, name, n_units, ridge, wrong=1.01) > 1e-6, "a ridge 1 % larger is seen"


@KINDS
@pytest.mark.parametrize(("name", "n_units"), [("tanh", 8), ("tanh", 60)])
def test_without_a_ridge(kind, name, n_units):
    """Least squares, and where it is not unique that of least norm: scipy's lstsq to 1e-6."""
    assert distance(kind, name, n_units) < 1e-6


@KINDS
def test_bias_and_input_scale(kind):
    """The units see (kappa x, beta): to 1e-9."""
    assert distance(kind, "tanh", 9, 1e-3, bias=0.7, input_scale=1.6) < 1e-9


@KINDS
def test_a_singular_matrix_has_the_solution_of_least_norm(kind):
    """Repeated units: the fit of the distinct ones (to 1e-8), its rank, an infinite condition number; never a NaN."""
    problem, network = given(), mf.Network("tanh")
    weights = np.random.default_rng(1).standard_normal((5, 3))
    once = linearised.fit(kind, network, weights, problem)
    twice = linearised.fit(kind, network, np.repeat(weights, 2, axis=0), problem)
    assert once.rank == twice.rank == len(once.coefficients)
    assert np.isfinite(once.condition) and np.isinf(twice.condition)
    assert twice(problem.test_inputs) == pytest.approx(once(problem.test_inputs), abs=1e-8)
    pairs = twice.coefficients.reshape(5, 2, -1)
    assert pairs[:, 0] == pytest.approx(pairs[:, 1], abs=1e-8), "least norm shares equally"
    assert 2 * pairs[:, 0].ravel() == pytest.approx(once.coefficients, abs=1e-7)


def nearly_singular(shape, apart):
    """Relative error of the coefficients, of units or inputs in pairs `apart` from each other, and condition number.

    Against LAPACK's least squares on the features, whose condition number is the root.
    """
    n_units, n = shape
    rng = np.random.default_rng(0)
    weights, points = rng.standard_normal((n_units, 3)), rng.standard_normal((n, 3))
    pairs, half = (weights, n_units // 2) if n_units < n else (points, n // 2)
    pairs[half:] = pairs[:half] + apart * rng.standard_normal((half, 3))
    matrix = features("rf", "tanh", weights, points)
    values = matrix @ rng.standard_normal(n_units)
    exact = lstsq(matrix, values)[0]
    model = linearised.fit("rf", mf.Network("tanh"), weights, mf.Problem(points, values))
    return np.abs(model.coefficients - exact).max() / np.abs(exact).max(), model.condition


def test_refinement(monkeypatch):
    """Pairs 1e-3 apart, condition 1e9 to 1e11: coefficients to 1e-9; by the factors alone they are not."""
    error, condition = nearly_singular((10, 40), 1e-3)
    assert error < 1e-9 and 1e8 < condition < 1e11
    exact_factor, calls = linearised._factor, []

    def once(gram, ridge):
        solve, rank, known = exact_factor(gram, ridge)
        return lambda right: solve(right) if not calls.append(0) and len(calls) == 1 else 0.0 * right, rank, known

    monkeypatch.setattr(linearised, "_factor", once)
    assert nearly_singular((10, 40), 1e-3)[0] > 1e-9 and len(calls) == 2


@pytest.mark.parametrize("shape", [(10, 40), (60, 20)])
def test_a_nearly_singular_matrix_is_left_to_singular_values(monkeypatch, shape):
    """Pairs 3e-6 apart, condition 1e13 to 1e16: coefficients to 1e-8; by Cholesky's factors they are not."""
    assert nearly_singular(shape, 3e-6)[0] < 1e-8
    monkeypatch.setattr(linearised, "_LEAST_RCOND", 1e-30)
    assert nearly_singular(shape, 3e-6)[0] > 1e-8


@KINDS
def test_several_targets_are_fitted_as_each_alone(kind):
    """To rounding, 1e-10."""
    problem, network = given(), mf.Network("tanh")
    weights = np.random.default_rng(1).standard_normal((6, 3))
    many = np.column_stack([problem.targets, problem.inputs[:, 0] ** 2])
    tests = np.column_stack([problem.test_targets, problem.test_inputs[:, 0] ** 2])
    both = linearised.fit(kind, network, weights, problem, 0.01, targets=many, test_targets=tests)
    for k in range(2):
        alone = mf.Problem(problem.inputs, many[:, k], test_inputs=problem.test_inputs, test_targets=tests[:, k])
        model = linearised.fit(kind, network, weights, alone, 0.01)
        assert both(problem.test_inputs)[:, k] == pytest.approx(model(problem.test_inputs), abs=1e-10)
        assert (both.train_error[k], both.test_error[k]) == pytest.approx((model.train_error, model.test_error))


@KINDS
@pytest.mark.parametrize("n_units", [8, 60])
def test_blocks_add_up(kind, n_units, monkeypatch):
    """Blocks of a few rows give what one block gives: to rounding, 1e-10."""
    problem, network = given(), mf.Network("tanh")
    weights = np.random.default_rng(1).standard_normal((n_units, 3))
    whole = linearised.fit(kind, network, weights, problem, 0.01)(problem.test_inputs)
    monkeypatch.setattr(linearised, "_ENTRIES", 100)
    assert linearised.fit(kind, network, weights, problem, 0.01)(problem.test_inputs) == pytest.approx(whole, abs=1e-10)


@KINDS
def test_the_flow_of_one_layer_ends_there(kind):
    """The flow with one mobility, in "nt" at large alpha, tends to the least squares fit of the linear model: 0.1 %."""
    problem = given(n=60, dim=2)
    start = mf.initial.gaussian(2, 2, seed=3)
    start[:, 0] = 1.0  # so that the gradient of unit i in w_i is phi'(w_i . x) x
    mobilities = {"rf": {"mobility_w": 0.0}, "nt": {"mobility_a": 0.0}}[kind]
    network = mf.Network("tanh", mf.Scaling(3e4, shift=1.0, **mobilities))
    model = linearised.fit(kind, network, start[:, 1:], problem)
    run = mf.simulate(network, problem, start, [0.0, 1e3], rtol=1e-6, atol=1e-12, keep="last")
    left = np.mean(run.residuals**2, axis=1)
    assert left[1] == pytest.approx(model.train_error, rel=1e-3)
    assert left[0] > 1.05 * model.train_error, "where it starts would be seen"


PROBLEM, NETWORK, WEIGHTS = given(), mf.Network("tanh"), np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linearised.fit("ntk", NETWORK, WEIGHTS, PROBLEM), "unknown linear model 'ntk'.* Known: nt, rf"),
        (lambda: linearised.fit(3, NETWORK, WEIGHTS, PROBLEM), "kind is 3; needed: one of rf, nt"),
        (lambda: linearised.fit("rf", "tanh", WEIGHTS, PROBLEM), "network is 'tanh'; needed: a Network"),
        (lambda: linearised.fit("rf", NETWORK, WEIGHTS, None), "problem is None; needed: a Problem"),
        (lambda: linearised.fit("rf", NETWORK, WEIGHTS[:, :2], PROBLEM), "weights have 2 columns, but inputs of dim"),
        (lambda: linearised.fit("rf", NETWORK, WEIGHTS, PROBLEM, -1.0), "ridge is -1.0; needed: a finite number of at"),
        (
            lambda: linearised.fit("rf", NETWORK, WEIGHTS, PROBLEM, targets=np.ones((3, 2))),
            r"targets have shape \(3, 2\); needed: an array \(40, m\)",
        ),
        (
            lambda: linearised.fit("nt", NETWORK, np.ones((60, 3)), PROBLEM, max_bytes=1e4),
            r"a fit of 180 parameters to 40 inputs, by a matrix 40 x 40, needs .* \(Gram matrix 37.5 KiB, features",
        ),
        (
            lambda: linearised.fit("rf", NETWORK, np.zeros((4, 3)), PROBLEM),
            "features of all 4 units vanish at all 40 inputs; needed: units that see",
        ),
        (lambda: linearised.fit("rf", NETWORK, WEIGHTS, PROBLEM)(np.ones((2, 2))), "inputs have 2 columns; needed: 3"),
        (lambda: activations.biased_relu(np.inf), "threshold is inf; needed: a finite number"),
        (lambda: experiments.quadratic([]), "no seeds; needed: one or more"),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()


@KINDS
@pytest.mark.parametrize("n_units", [8, 60])
@pytest.mark.parametrize("ridge", [0.0, 1e-3], ids=["no-ridge", "ridge"])
def test_a_constant_beside_the_features(kind, n_units, ridge):
    """Dense least squares with a column of ones, which the ridge does not hold: 1e-6; without the constant it is
    another model. More parameters than data and no ridge: of all fits without an error that of least norm of the
    coefficients, the constant not counted, by constrained least squares: predictions to 1e-4.
    """
    if ridge or n_units == 8:
        assert distance(kind, "tanh", n_units, ridge=ridge, constant=True) < 1e-6
        assert distance(kind, "tanh", n_units, ridge=ridge, constant=True, fitted=False) > 1e-4
        return
    weights = np.random.default_rng(1).standard_normal((n_units, 3))
    model = linearised.fit(kind, NETWORK, weights, PROBLEM, constant=True)
    train, test = (features(kind, "tanh", weights, each) for each in (PROBLEM.inputs, PROBLEM.test_inputs))
    rows = train - train.mean(axis=0)
    least = lstsq(rows, PROBLEM.targets - PROBLEM.targets.mean(), cond=1e-13)[0]
    wanted = test @ least + np.mean(PROBLEM.targets - train @ least)
    assert model.train_error < 1e-10
    assert model(PROBLEM.test_inputs) == pytest.approx(wanted, abs=1e-4)
    assert linearised.fit(kind, NETWORK, weights, PROBLEM)(PROBLEM.test_inputs) != pytest.approx(wanted, abs=1e-3)


@KINDS
def test_constants_of_several_targets(kind):
    """Each target has its own: shifted targets have shifted constants and nothing else changes, 1e-9."""
    shifts = np.array([0.0, 2.0, -5.0])
    targets_ = PROBLEM.targets[:, None] + shifts
    tests = PROBLEM.test_targets[:, None] + shifts
    weights = linearised.units(6, 3, 1)
    model = linearised.fit(kind, NETWORK, weights, PROBLEM, constant=True, targets=targets_, test_targets=tests)
    assert model.constant - model.constant[0] == pytest.approx(shifts, abs=1e-9)
    assert np.ptp(model.coefficients, axis=1).max() < 1e-9 and np.ptp(model.test_error) < 1e-9
    alone = linearised.fit(kind, NETWORK, weights, PROBLEM, constant=True)
    assert alone.constant == pytest.approx(model.constant[0], abs=1e-12)
    assert linearised.fit(kind, NETWORK, weights, PROBLEM).constant == 0.0


@KINDS
def test_a_constant_makes_quadratic_errors_exact(kind):
    """x'Bx - tr B with tr B = 5 |B|: the training error rises and the test error falls to `quadratics` with
    offset=True, at n = 40,000 both within five standard errors; without a constant the errors are far from it.
    """
    from meanfield import quadratics

    matrix = targets.goe(5, 4) + np.eye(5)
    problem = targets.quadratic(5, n=40_000, n_test=40_000, matrix=matrix, seed=4)
    network, weights = mf.Network(activations.quadratic()), linearised.units(3, 5, 2)
    error = quadratics.random_features_error if kind == "rf" else quadratics.neural_tangent_error
    wanted = error(matrix, weights, offset=True)
    model = linearised.fit(kind, network, weights, problem, constant=True)
    squares = (problem.test_targets - model(problem.test_inputs)) ** 2
    spread = squares.std() / np.sqrt(len(squares))
    assert model.test_error == pytest.approx(squares.mean(), rel=1e-12)
    assert abs(squares.mean() - wanted) < 5 * spread and abs(model.train_error - wanted) < 5 * spread
    plain = linearised.fit(kind, network, weights, problem)
    assert abs(plain.test_error - wanted) > 5 * spread
    assert abs(plain.test_error - error(matrix, weights, offset=False)) > 5 * spread, "not offset=False either"
    few = linearised.fit(kind, network, weights, targets.quadratic(5, n=60, n_test=40_000, matrix=matrix, seed=4),
                         constant=True)  # fmt: skip
    assert few.train_error < wanted < few.test_error


def test_biased_relu():
    """Value and slope on both sides of the threshold; one object for each threshold."""
    unit = activations.biased_relu(0.5)
    value, slope = unit.formula(np.array([-1.0, 0.4, 0.6, 2.0]))
    assert value == pytest.approx([0.0, 0.0, 0.1, 1.5], abs=1e-15) and slope.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert activations.biased_relu(0.5) is unit


def test_the_staircase_small():
    """F28 at d = 6: enough units learn a degree, few do not; the projected and the separate error tell the same."""
    found = experiments.staircase(
        (0,), dim=6, n=1500, n_test=1000, rf_widths=(3, 120), nt_widths=(2, 20), degrees=(1, 2)
    )
    for name in ("rf degree 1", "rf projected degree 1", "rf degree 2", "nt degree 2"):
        few, many = found.shares[name][0]
        assert few > 3 * many and many < 0.2, name
    assert found.shares["nt degree 1"].shape == (1, 2)


def test_the_single_neuron_small():
    """F29 at d = 5: the network is below both linear models of as many units."""
    found = experiments.single_neuron((0,), dim=5, n=500, n_test=500, widths=(10, 40), network_width=40, t_end=60.0)
    assert found.shares["nn"][0] < 0.5 * min(found.shares["rf"][0, -1], found.shares["nt"][0, -1])


def test_spiked_covariates_small():
    """F30 at d = 20: the kernel is the worse in both proper cases, worst at r = 1; the printed radius hides it."""
    found = experiments.spiked((0,), dim=20, n=200, n_test=300, network_width=100, t_end=60.0).shares
    assert found["krr, r=1"] > 1.5 * found["nn, r=1"] and found["krr, r=1"] > 3 * found["krr, r=2"]
    assert found["krr, printed radius"] < 0.05 * found["krr, r=1"]


def test_kernel_ridge_of_the_experiment():
    """Each row of the path solves (K + ridge mean(eig) I) v = y, by a dense solve: to 1e-8."""
    rng = np.random.default_rng(0)
    factor, cross, y = rng.standard_normal((30, 40)), rng.standard_normal((7, 30)), rng.standard_normal(30)
    kernel = factor @ factor.T
    path = experiments._kernel_ridge(kernel, cross, y)
    for ridge, row in zip(experiments._RIDGES, path, strict=True):
        wanted = cross @ np.linalg.solve(kernel + ridge * np.trace(kernel) / 30 * np.eye(30), y)
        assert row == pytest.approx(wanted, rel=1e-8, abs=1e-8)


def test_quadratic_has_its_exact_means():
    """F31: shares over 400 isotropic B within five standard errors of the exact means; the network below both."""
    found = experiments.quadratic()
    for kind in ("rf", "nt"):
        shares = found.shares[kind]
        error = shares.std(ddof=1) / np.sqrt(len(shares))
        assert abs(shares.mean() - found.expected[kind]) < 5 * error
    assert abs(found.shares["nt"].mean() - found.expected["nt, large d"]) > 2 * error, "(1 - N/d)^2 is a limit, seen"
    assert (found.shares["nn"] < np.minimum(found.shares["rf"], found.shares["nt"])).all()


def test_quadratic_target_by_a_large_sample():
    """40,000 inputs: fitted rf and nt, test errors within five standard errors of the exact ones, from above."""
    dim, n_units = 5, 3
    problem = targets.quadratic(dim, n=40_000, n_test=40_000, seed=4)
    network, weights = mf.Network(activations.quadratic()), linearised.units(n_units, dim, 2)
    from meanfield import quadratics

    exact = {"rf": quadratics.random_features_error, "nt": quadratics.neural_tangent_error}
    for kind, error in exact.items():
        model = linearised.fit(kind, network, weights, problem)
        squares = (problem.test_targets - model(problem.test_inputs)) ** 2
        spread = squares.std() / np.sqrt(len(squares))
        wanted = error(targets.goe(dim, 4), weights, offset=False)
        assert abs(squares.mean() - wanted) < 5 * spread, kind
        assert abs(squares.mean() - 1.3 * wanted) > 5 * spread, "an exact error 30 % larger is seen"
