"""Regression and classification with a kernel, what its spectrum says, Lanczos, and kernels on file."""

import warnings

import mpmath
import numpy as np
import pytest
from scipy.linalg import expm, hilbert
from scipy.sparse.linalg import aslinearoperator, expm_multiply

from meanfield import GaussianLaw, Network, Problem, datasets, kernels, krylov, limits, tangent
from meanfield.errors import ConvergenceError, InputError, KernelError
from meanfield.trajectories import read_arrays, read_kernel, write_arrays, write_kernel


@pytest.fixture(autouse=True)
def no_warning_leaks():
    """What is wrong must be an error; no call in this file may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


RNG = np.random.default_rng(3)
INPUTS, TESTS, TARGETS = RNG.standard_normal((12, 3)), RNG.standard_normal((5, 3)), RNG.standard_normal((12, 2))
WEIGHTS = RNG.dirichlet(np.full(12, 3.0))
KERNEL, CROSS = (tangent.infinite(Network("relu"), GaussianLaw(3), each, INPUTS) for each in (INPUTS, TESTS))
TIMES = np.array([0.0, 0.3, 2.0, 30.0])


# Regression


@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_regression_solves_the_linear_system(ridge):
    """c = (K + n ridge)^(-1) y by LAPACK's solver, predictions K c and C c, columns alike: to 1e-10 of the largest."""
    fitted = kernels.regression(KERNEL, TARGETS, ridge=ridge, cross=CROSS)
    exact = np.linalg.solve(KERNEL + 12 * ridge * np.eye(12), TARGETS)
    assert np.abs(fitted.coefficients - exact).max() < 1e-10 * np.abs(exact).max()
    assert fitted.predictions == pytest.approx(KERNEL @ exact, abs=1e-10)
    assert fitted.test_predictions == pytest.approx(CROSS @ exact, abs=1e-10)
    system = KERNEL / 12 + ridge * np.eye(12)
    assert fitted.condition == pytest.approx(np.linalg.cond(system), rel=1e-8)
    assert fitted.rank == np.linalg.matrix_rank(KERNEL) == 12
    column = kernels.regression(KERNEL, TARGETS[:, 1], ridge=ridge)
    assert column.coefficients == pytest.approx(fitted.coefficients[:, 1], rel=1e-12)
    wrong = np.linalg.solve(KERNEL + (ridge + 0.01) * np.eye(12), TARGETS)
    assert np.abs(fitted.coefficients - wrong).max() > 1e-3 * np.abs(exact).max(), "a ridge without n is seen"


def objective(coefficients, targets, weights, ridge):
    return weights @ (targets - KERNEL @ coefficients) ** 2 + ridge * coefficients @ KERNEL @ coefficients


def test_regression_is_a_minimum():
    """No change of c of size 1e-3 lowers sum p (y - K c)^2 + ridge c'Kc, with unequal weights; at 1.01 c one does."""
    fitted = kernels.regression(KERNEL, TARGETS[:, 0], ridge=0.02, weights=WEIGHTS)
    value = objective(fitted.coefficients, TARGETS[:, 0], WEIGHTS, 0.02)
    steps = 1e-3 * np.random.default_rng(0).standard_normal((200, 12))
    moved = [objective(fitted.coefficients + step, TARGETS[:, 0], WEIGHTS, 0.02) for step in steps]
    assert min(moved) > value
    off = 1.01 * fitted.coefficients
    value = objective(off, TARGETS[:, 0], WEIGHTS, 0.02)
    assert objective(off - 0.001 * fitted.coefficients, TARGETS[:, 0], WEIGHTS, 0.02) < value


def test_points_of_weight_zero_are_not_there():
    """With a ridge and without: the same predictions as of the others alone, to 1e-11; no coefficient."""
    for there in (np.arange(12) < 9, np.arange(12) % 4 > 0):
        for ridge in (0.0, 0.1):
            whole = kernels.regression(KERNEL, TARGETS, ridge=ridge, cross=CROSS, weights=there.astype(float))
            few = kernels.regression(KERNEL[np.ix_(there, there)], TARGETS[there], ridge=ridge, cross=CROSS[:, there])
            assert whole.test_predictions == pytest.approx(few.test_predictions, abs=1e-11)
            assert whole.coefficients[there] == pytest.approx(few.coefficients, rel=1e-9, abs=1e-11)
            assert not whole.coefficients[~there].any()


def operator_and_kernel(n):
    points = np.random.default_rng(5).standard_normal((n, 3))
    network, law = Network("relu"), GaussianLaw(3)
    return tangent.operator(network, law, points), tangent.infinite(network, law, points), np.sin(points)


@pytest.mark.parametrize("ridge", [1e-4, 0.1])
@pytest.mark.parametrize("weights", [None, np.r_[0.0, np.ones(30), 0.0, np.linspace(0.1, 3.0, 28)]], ids=["1/n", "p"])
def test_regression_by_products_is_the_dense_one(ridge, weights):
    """tangent.operator and conjugate gradients: the coefficients of the eigen-decomposition to 1e-8 of the largest.

    The condition number is seen from below, to a factor of 2; an operator 0.1 % off is seen.
    """
    lazy, dense, targets = operator_and_kernel(60)
    found, exact = (kernels.regression(each, targets, ridge=ridge, weights=weights) for each in (lazy, dense))
    size = np.abs(exact.coefficients).max()
    assert np.abs(found.coefficients - exact.coefficients).max() < 1e-8 * size
    assert found.predictions == pytest.approx(exact.predictions, abs=1e-9)
    assert 0.5 * exact.condition < found.condition < 1.000001 * exact.condition and found.rank <= exact.rank
    wrong = kernels.regression(1.001 * lazy, targets, ridge=ridge, weights=weights)
    assert np.abs(wrong.coefficients - exact.coefficients).max() > 1e-6 * size
    assert not kernels.regression(lazy, 0.0 * targets, ridge=ridge).coefficients.any()


def test_classes_by_products():
    """Labels and scores of an operator are those of its kernel, scores to 1e-8; so are the test inputs' of another."""
    lazy, dense, targets = operator_and_kernel(60)
    labels = np.where(targets[:, 0] > 0.3, "high", "low")
    found, exact = (kernels.classify(each, labels, each, labels, ridge=1e-3) for each in (lazy, dense))
    assert (found.labels == exact.labels).all() and found.accuracy == exact.accuracy > 0.9
    assert found.regression.test_predictions == pytest.approx(exact.regression.test_predictions, abs=1e-8)


def test_conjugate_gradients_are_refused_where_they_stop_short():
    """The Hilbert matrix of order 12 (condition 1.7e16): an error with the rank and the condition number seen.

    An indefinite matrix is an error too; with a ridge the first is solved.
    """
    matrix, right = hilbert(12), np.random.default_rng(0).standard_normal(12)
    with pytest.raises(KernelError, match=r"leave .* of the right-hand side; .* Give a ridge.*\(rank \d+ or") as caught:
        krylov.solve(lambda vector: matrix @ vector, right, most=8)
    assert 1 <= caught.value.rank <= 12 and 10.0 < caught.value.condition < 1e18
    with pytest.raises(KernelError, match=r"v'Sv = -.* needed: all eigenvalues positive"):
        krylov.solve(lambda vector: np.array([1.0, -2.0]) * vector, np.ones(2))
    shifted = matrix + 1e-3 * np.eye(12)
    found, ritz = krylov.solve(lambda vector: shifted @ vector, right)
    assert found == pytest.approx(np.linalg.solve(shifted, right), rel=1e-8)
    assert ritz[-1] == pytest.approx(np.linalg.eigvalsh(shifted)[-1], rel=1e-9)


def test_the_frozen_flow_ends_at_the_regression():
    """The square loss from F = 0 to t = 40 / lambda_min: kernel regression without a ridge, tests too: to 1e-9."""
    network, law = Network("relu"), GaussianLaw(3)
    task = Problem(INPUTS, TARGETS[:, 0], WEIGHTS, test_inputs=TESTS, test_targets=np.zeros(5))
    end = 40.0 / kernels.modes(KERNEL, WEIGHTS)[0][0]
    flow = limits.frozen(network, task, law, [0.01 * end, end])
    fitted = kernels.regression(KERNEL, TARGETS[:, 0], cross=CROSS)
    assert flow.test_predictions[-1] == pytest.approx(fitted.test_predictions, abs=1e-9)
    assert flow.impulses[-1] == pytest.approx(fitted.coefficients, rel=1e-7)
    assert np.abs(flow.test_predictions[0] - fitted.test_predictions).max() > 1e-4, "an earlier time is seen"


def test_against_fifty_digits():
    """The Hilbert matrix of order 6 (condition 1.5e7): coefficients to 1e-7 of mpmath's, about condition x rounding."""
    targets = np.array([1.0, -1.0, 2.0, 0.5, 0.0, 3.0])
    with mpmath.workdps(50):
        exact = mpmath.lu_solve(
            mpmath.matrix([[mpmath.mpf(float(hilbert(6)[i, j])) for j in range(6)] for i in range(6)]),
            mpmath.matrix(targets.tolist()),
        )
        # K as float64 holds it is what is inverted, not 1 / (i + j + 1)
        exact = np.array([float(each) for each in exact])
    fitted = kernels.regression(hilbert(6), targets)
    assert np.abs(fitted.coefficients - exact).max() < 1e-7 * np.abs(exact).max()
    assert fitted.condition == pytest.approx(np.linalg.cond(hilbert(6)), rel=1e-6)
    assert np.abs(1.001 * fitted.coefficients - exact).max() > 1e-7 * np.abs(exact).max()


def test_a_singular_kernel_is_refused_with_its_rank():
    """Three inputs twice: rank 9 of 12, an error and no NaN; with the ridge it names it is solved."""
    twice = np.r_[np.arange(9), np.arange(3)]
    singular = KERNEL[np.ix_(twice, twice)]
    with pytest.raises(
        KernelError, match=r"singular: .*give a ridge, of \d.* \(rank 9 of 12, condition number"
    ) as caught:
        kernels.regression(singular, TARGETS)
    assert caught.value.rank == 9 == np.linalg.matrix_rank(singular) and caught.value.condition > 1e13
    fitted = kernels.regression(singular, TARGETS, ridge=1e-8)
    assert np.isfinite(fitted.coefficients).all() and fitted.rank == 9
    with pytest.raises(KernelError, match="singular"):
        kernels.complexity(singular, TARGETS[:, 0])
    with pytest.raises(KernelError, match=r"\(rank 0 of 4, condition number inf\)") as caught:
        kernels.regression(np.zeros((4, 4)), np.ones(4))
    assert caught.value.condition == np.inf


def test_an_indefinite_kernel_is_refused_with_its_rank():
    """A negative eigenvalue, ridge or not: rank and condition number in the message and as attributes."""
    bad = np.diag([4.0, 1.0, 0.0, -2.0])
    for call in (
        lambda: kernels.regression(bad, np.ones(4), ridge=1.0),
        lambda: kernels.decay(bad, np.ones(4), [1.0]),
        lambda: limits.frozen(Network("erf"), Problem(INPUTS[:4], np.ones(4)), GaussianLaw(3), [1.0], kernel=bad),
    ):
        with pytest.raises(
            KernelError, match=r"needed: none negative.*\(rank 3 of 4, condition number inf\)"
        ) as caught:
            call()
        assert caught.value.rank == 3


# Classification


def test_classes_by_hand():
    """The largest column of K(x, X) K^(-1) Y, classes of any type; a wrong test label is counted."""
    labels = np.array(list("abcabcabcabc"))
    one_hot = (labels[:, None] == np.array(["a", "b", "c"])).astype(float)
    scores = CROSS @ np.linalg.solve(KERNEL, one_hot)
    wanted = np.array(["a", "b", "c"])[scores.argmax(axis=1)]
    found = kernels.classify(KERNEL, labels, CROSS, wanted)
    assert (found.labels == wanted).all() and found.accuracy == 1.0 and found.train_accuracy == 1.0
    assert found.regression.test_predictions == pytest.approx(scores, abs=1e-10)
    wrong = np.where(np.arange(5) == 0, "z", wanted)
    assert kernels.classify(KERNEL, labels, CROSS, wrong).accuracy == pytest.approx(0.8)
    assert np.isnan(kernels.classify(KERNEL, labels, CROSS).accuracy)


def fashion_accuracy(shuffled=False):
    """300 training images, 30 a class, and 1,000 test images; the kernel of infinitely many relu units."""
    task = datasets.fashion_mnist(300, 1000, pca=None)
    assert task.labels is not None and task.test_labels is not None
    assert (np.bincount(task.labels) == 30).all()
    labels = np.random.default_rng(0).permutation(task.labels) if shuffled else task.labels
    network, law = Network("relu"), GaussianLaw(task.dim)
    kernel = tangent.infinite(network, law, task.inputs)
    cross = tangent.infinite(network, law, task.test_inputs, task.inputs)
    return kernels.classify(kernel, labels, cross, task.test_labels)


def test_fashion_mnist_from_three_hundred_images():
    """The protocol of the report's section 6: 30 standard errors above 10 %; shuffled labels are not.

    A share of 1,000 has the standard error sqrt(q (1 - q) / 1000): 0.0095 at chance.
    """
    found = fashion_accuracy()
    assert 0.1 + 30 * 0.0095 < found.accuracy < 1.0 and found.train_accuracy == 1.0
    assert found.regression.rank == 300
    assert abs(fashion_accuracy(shuffled=True).accuracy - 0.1) < 0.1


# Spectrum


def test_decay_is_the_risk_of_the_exponential():
    """sum_i (v_i . y)^2 e^(-2 eig_i t / n) / n = |expm(-K t / n) y|^2 / n (F35), and weighted alike: to 1e-12."""
    y = TARGETS[:, 0]
    for weights in (None, WEIGHTS):
        p = np.full(12, 1 / 12) if weights is None else WEIGHTS
        exact = [p @ (expm(-KERNEL * p * t) @ y) ** 2 for t in TIMES]
        assert kernels.decay(KERNEL, y, TIMES, weights) == pytest.approx(exact, rel=1e-10, abs=1e-13)
        rates, shares = kernels.spectrum(KERNEL, y, weights)
        assert shares.sum() == pytest.approx(p @ y**2, rel=1e-13)
        assert rates == pytest.approx(np.sort(np.linalg.eigvals(KERNEL * p).real), rel=1e-9, abs=1e-13)
    assert abs(kernels.decay(KERNEL, y, TIMES)[1] / kernels.decay(2.0 * KERNEL, y, TIMES)[1] - 1.0) > 1e-3


def test_the_envelope_is_never_crossed():
    """R(t) <= R(0) e^(-2 eig_min t / n) (F37), equal at t = 0 and for the slowest mode; 1 % steeper is not."""
    times = np.linspace(0.0, 2000.0, 41)
    value, bound = (each(KERNEL, TARGETS[:, 0], times) for each in (kernels.decay, kernels.envelope))
    assert (value <= bound * (1 + 1e-12)).all() and bound[0] == pytest.approx(value[0], rel=1e-13)
    slowest = kernels.modes(KERNEL)[1][:, 0]
    value, bound = (each(KERNEL, slowest, times) for each in (kernels.decay, kernels.envelope))
    assert value == pytest.approx(bound, rel=1e-9)
    assert (value > 1.0001 * kernels.envelope(1.01 * KERNEL, slowest, times))[5:].all()


def test_complexity():
    """sqrt(2 y' G^(-1) y / n) (F36) by LAPACK's solver, 1e-10; targets of a mode give sqrt(2 / (n eig)), 1e-9."""
    y = np.sign(TARGETS[:, 0])
    exact = np.sqrt(2.0 * y @ np.linalg.solve(KERNEL, y) / 12)
    assert kernels.complexity(KERNEL, y) == pytest.approx(exact, rel=1e-10)
    values, vectors = np.linalg.eigh(KERNEL)
    assert kernels.complexity(KERNEL, vectors[:, 3]) == pytest.approx(np.sqrt(2.0 / (12 * values[3])), rel=1e-9)
    assert abs(kernels.complexity(2.0 * KERNEL, y) / exact - 1.0) > 0.1


def test_random_labels_are_more_complex():
    """F36 on Fashion-MNIST, n = 200, inner layer: each of 10 shufflings is more complex than the labels themselves."""
    task = datasets.fashion_mnist(200, 1)
    gram = tangent.infinite(Network("relu"), GaussianLaw(task.dim), task.inputs, layer="inner")
    true = kernels.complexity(gram, task.targets)
    rng = np.random.default_rng(0)
    assert all(kernels.complexity(gram, rng.permutation(task.targets)) > true for _ in range(10))


def test_alignment():
    """y'Ky / (|K| n) (F21): 1 for K = y y', sqrt(1/n) for the identity, unchanged by scale; by hand; 1e-14."""
    y = np.sign(TARGETS[:, 0])
    assert kernels.alignment(3.0 * np.outer(y, y), y) == pytest.approx(1.0, rel=1e-14)
    assert kernels.alignment(np.eye(12), y) == pytest.approx(12**-0.5, rel=1e-14)
    by_hand = sum(y[i] * KERNEL[i, j] * y[j] for i in range(12) for j in range(12)) / (np.sqrt((KERNEL**2).sum()) * 12)
    assert kernels.alignment(KERNEL, y) == pytest.approx(by_hand, rel=1e-13)
    assert kernels.alignment(KERNEL + np.outer(y, y), y) > by_hand + 1e-3


# Lanczos


def lanczos_error(matrix, start, times, multiply=None, **options):
    """Of e^(-S t) b = b - S x(t), relative to |b|: against SciPy's expm_multiply; and the basis it took."""
    found, ritz = krylov.lanczos(multiply or (lambda vector: matrix @ vector), start, times, **options)
    exact = np.array([expm_multiply(-t * matrix, start) for t in times])
    return np.abs(start - found @ matrix - exact).max() / np.linalg.norm(start), len(ritz)


def spread(size, seed=0):
    """Symmetric, eigenvalues from 1e-6 to 20, geometric."""
    turned, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return (turned * np.geomspace(1e-6, 20.0, size)) @ turned.T


def test_lanczos_is_the_exponential():
    """Rates 1e-6 to 20, t to 30: e^(-S t) b to 1e-11 with fewer vectors than n; a perturbed operator is seen."""
    matrix, start = spread(300), np.random.default_rng(1).standard_normal(300)
    error, size = lanczos_error(matrix, start, TIMES)
    assert error < 1e-11 and size < 150
    assert lanczos_error(matrix, start, TIMES, lambda vector: 1.0001 * (matrix @ vector))[0] > 1e-7


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_the_error_estimate_of_lanczos_is_a_bound(tolerance):
    """Looser tolerances take fewer vectors and are kept; half the vectors are not enough."""
    matrix, start = spread(300), np.random.default_rng(1).standard_normal(300)
    error, size = lanczos_error(matrix, start, TIMES, tolerance=tolerance)
    assert error < tolerance
    assert size < lanczos_error(matrix, start, TIMES)[1]
    with pytest.raises(ConvergenceError, match=rf"{size // 2} Lanczos vectors .* needed: {tolerance:.0e}. Allow more"):
        krylov.lanczos(lambda vector: matrix @ vector, start, TIMES, tolerance=tolerance, most=size // 2)


def test_lanczos_ends_where_the_space_does():
    """Three distinct eigenvalues take three vectors, also 0 among them; b = 0 stays."""
    matrix = np.diag([0.0, 0.0, 1.0, 1.0, 5.0])
    error, size = lanczos_error(matrix, np.ones(5), TIMES)
    assert size == 3 and error < 1e-13
    assert not krylov.lanczos(lambda vector: matrix @ vector, np.zeros(5), TIMES)[0].any()


def test_lanczos_keeps_its_basis_orthogonal():
    """200 rates from 1e-12 to 1, t = 1e6, the closed form: residual to 1e-9 |b|; once orthogonalised it is 1e-5 off."""
    rates, start = np.geomspace(1e-12, 1.0, 200), np.random.default_rng(1).standard_normal(200)
    found, _ = krylov.lanczos(lambda vector: rates * vector, start, np.array([1e6]), tolerance=1e-13)
    exact = np.exp(-1e6 * rates) * start
    assert np.abs(start - rates * found[0] - exact).max() < 1e-9 * np.linalg.norm(start)
    assert np.abs(start - 1.00001 * rates * found[0] - exact).max() > 1e-9 * np.linalg.norm(start)


def test_complexity_and_alignment_of_any_size():
    """Near the ends of float64: as of K times 1, scaled as they must; to 1e-12, and to 1e-3 where digits end."""
    y = TARGETS[:, 0]
    plain = kernels.complexity(KERNEL, y), kernels.alignment(KERNEL, y)
    for size in (1e-300, 1e300):
        assert kernels.complexity(size * KERNEL, y) == pytest.approx(plain[0] / np.sqrt(size), rel=1e-12)
        assert kernels.alignment(size * KERNEL, 1e200 * y) == pytest.approx(plain[1], rel=1e-12)
    assert kernels.complexity(1e-320 * np.eye(4), np.ones(4)) == pytest.approx(np.sqrt(2.0) * 1e160, rel=1e-3)
    assert kernels.alignment(1e308 * np.eye(4), np.ones(4)) == pytest.approx(0.5, rel=1e-14)
    assert kernels.complexity(KERNEL, 2.0 * y) == pytest.approx(2.0 * plain[0], rel=1e-12), "and targets count"


# Files


def test_a_kernel_comes_back_bit_for_bit(tmp_path):
    """Kernel, inputs and note as written; a flow with it is the flow with the first, bit for bit."""
    path = tmp_path / "k.h5"
    write_kernel(path, KERNEL, INPUTS, note="relu")
    again = read_kernel(path, INPUTS)
    assert np.array_equal(again.kernel, KERNEL) and np.array_equal(again.other, INPUTS) and again.note == "relu"
    write_kernel(path, CROSS, TESTS, INPUTS)
    assert np.array_equal(read_kernel(path).kernel, CROSS) and read_kernel(path).note == ""
    task, law = Problem(INPUTS, TARGETS[:, 0]), GaussianLaw(3)
    runs = [limits.frozen(Network("relu"), task, law, TIMES, kernel=each) for each in (None, again.kernel)]
    assert np.array_equal(runs[0].predictions, runs[1].predictions)


def test_a_flipped_byte_of_the_kernel_is_seen(tmp_path):
    """One byte in the middle of the numbers: the digest differs."""
    path = tmp_path / "k.h5"
    write_kernel(path, KERNEL, INPUTS)
    content = bytearray(path.read_bytes())
    content[content.index(KERNEL.tobytes()) + 501] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged: its arrays do not have the digest"):
        read_kernel(path)


def stored(tmp_path, tree, **attributes):
    path = tmp_path / "other.h5"
    write_arrays(path, tree, attributes)
    return path


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda at: read_kernel(at / "none.h5"), "none.h5 is not a file"),
        (lambda at: read_kernel(at / "k.h5", INPUTS + 1.0), "the kernel of other inputs"),
        (lambda at: read_kernel(at / "k.h5", max_bytes=100), r"k.h5 needs .* \(.*kernel 1.125 KiB.*more than 100 B"),
        (lambda at: read_kernel(stored(at, {"a": np.ones(3)})), "is no 'meanfield kernel 1'"),
        (lambda at: read_arrays(at / "text.h5"), "cannot be read as HDF5"),
        (lambda at: write_kernel(at / "w.h5", KERNEL, TESTS), r"kernel \(12, 12\) of inputs \(5, 3\)"),
    ],
)
def test_bad_files(tmp_path, act, message):
    """Each is refused with what it is and what was needed."""
    write_kernel(tmp_path / "k.h5", KERNEL, INPUTS)
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(InputError, match=message):
        act(tmp_path)


def test_arrays_come_back(tmp_path):
    """A tree with groups and attributes of each kind, as written."""
    tree = {"a": np.arange(6.0).reshape(2, 3), "group": {"b": np.array([1, 2]), "deep": {"c": np.array(2.5)}}}
    found, attributes = read_arrays(stored(tmp_path, tree, text="words", number=3, part=0.5))
    assert attributes == {"text": "words", "number": 3, "part": 0.5}
    assert np.array_equal(found["a"], tree["a"]) and found["group"]["deep"]["c"] == 2.5
    assert found["group"]["b"].dtype.kind == "i" and list(found["group"]) == ["b", "deep"]


Y = TARGETS[:, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.regression(KERNEL[:5], Y), r"kernel has shape \(5, 12\); needed: as many rows as columns"),
        (lambda: kernels.regression(np.triu(KERNEL), Y), "kernel is not symmetric"),
        (lambda: kernels.regression(KERNEL, Y[:4]), "targets have 4 rows; needed: 12"),
        (lambda: kernels.regression(KERNEL, Y, ridge=-1), "ridge is -1; needed: a finite number of at least 0"),
        (lambda: kernels.regression(KERNEL, Y, cross=CROSS.T), r"cross has shape \(12, 5\); needed: \(m, 12\)"),
        (lambda: kernels.regression(np.full((2, 2), np.nan), Y[:2]), "kernel holds nan"),
        (lambda: kernels.decay(KERNEL, TARGETS, TIMES), r"targets has shape \(12, 2\); needed: an array \(12,\)"),
        (lambda: kernels.classify(KERNEL, np.zeros(12), CROSS), "labels are all 0.0; needed: two classes or more"),
        (lambda: kernels.classify(KERNEL, Y[:4], CROSS), r"labels have shape \(4,\); needed: \(12,\)"),
        (lambda: kernels.classify(KERNEL, Y > 0, CROSS, Y), r"test_labels have shape \(12,\); needed: \(5,\)"),
        (lambda: krylov.lanczos(lambda v: np.array([1.0, -2.0]) * v, np.ones(2), TIMES), "S has an eigenvalue of -2.0"),
        (lambda: kernels.classify(KERNEL, np.r_[np.nan, Y[1:]], CROSS), "labels hold NaN at index 0; needed: a class"),
        (lambda: kernels.regression(1e-320 * np.eye(4), np.ones(4)), "the coefficients overflow: .* Scale the kernel"),
        (lambda: kernels.regression(aslinearoperator(CROSS), Y), r"kernel has shape \(5, 12\); needed: as many rows"),
        (lambda: kernels.modes(aslinearoperator(KERNEL)), "kernel cannot be read as numbers|kernel has shape"),
        (lambda: krylov.lanczos(lambda v: np.nan * v, np.ones(2), TIMES), "a product with S holds NaN or infinity"),
        (lambda: krylov.solve(lambda v: v[:1], np.ones(2)), r"a product with S has shape \(1,\); needed: \(2,\)"),
        (lambda: kernels.alignment(0.0 * KERNEL, Y), "all zero, so an alignment has no meaning"),
    ],
)
def test_bad_input(call, message):
    """What cannot be used is refused with what was given and what was needed."""
    with pytest.raises(InputError, match=message):
        call()
