"""Ensembles: laws whose variance, average and divergence are known; the flow's own spread; what few seeds refuse."""

import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from meanfield import Network, Scaling, ensembles, fit, initial, problems, simulate
from meanfield.ensembles import (
    average_error_shares,
    ensemble,
    gaussian_kl,
    gaussian_kl_floor,
    kernel_diagonals,
    kernel_ratio_shares,
    preactivation_speed,
    variance_shares,
)
from meanfield.errors import InputError

PROBLEM = problems.teacher_student(dim=3, n=20, n_test=7, seed=1)
TANH = Network("tanh", Scaling(2.0, shift="initial"))


def small(seeds=4, **options):
    return ensemble(TANH, PROBLEM, 16, [0.0, 0.5, 1.0], seeds=seeds, **options)


def gaussian_outputs(seeds, mean, scale, seed):
    """(seeds, m) independent N(mean_k, scale_k^2)."""
    return np.asarray(mean) + np.asarray(scale) * np.random.default_rng(seed).standard_normal((seeds, len(mean)))


def test_it_is_simulate_seed_by_seed():
    """Bit for bit, seeds in their order, records and last particles too."""
    found = small([5, 2], record=["risk"])
    for row, seed in enumerate((5, 2)):
        run = simulate(TANH, PROBLEM, initial.gaussian(16, 3, seed), [0.0, 0.5, 1.0], record=["risk"])
        assert (found.predictions[row] == run.predictions).all()
        assert (found.test_predictions[row] == run.test_predictions).all()
        assert (found.records["risk"][row] == run.records["risk"]).all()
        assert (found.particles[row] == run.particles[-1]).all()
    assert found.seeds == (5, 2)
    assert repr(found) == "Ensemble('teacher-student', tanh, 2 seeds of N=16, alpha=2, t=0..1)"


def test_it_draws_by_a_function_too():
    """Pairs: an output of 0 at the start, exactly, without a shift; iid particles have another."""
    network = Network("tanh", Scaling(2.0))
    paired = ensemble(network, PROBLEM, lambda seed: initial.gaussian(16, 3, seed, paired=True), [0.0], seeds=2)
    assert np.abs(paired.predictions).max() < 1e-15
    assert np.abs(ensemble(network, PROBLEM, 16, [0.0], seeds=2).predictions).max() > 0.01


def test_each_seed_has_noise_of_its_own():
    """From one start: equal paths without a temperature, others with one; the noise of seed s is noise_seed + s."""
    still = ensemble(TANH, PROBLEM, lambda seed: initial.gaussian(8, 3, 0), [1.0], seeds=2)
    noisy = ensemble(
        TANH, PROBLEM, lambda seed: initial.gaussian(8, 3, 0), [1.0], seeds=2, temperature=0.1, scheme="euler", dt=0.1,
        noise_seed=3,
    )  # fmt: skip
    run = simulate(
        TANH, PROBLEM, initial.gaussian(8, 3, 0), [1.0], temperature=0.1, scheme="euler", dt=0.1, noise_seed=4
    )
    assert (still.predictions[0] == still.predictions[1]).all()
    assert np.abs(noisy.predictions[0] - noisy.predictions[1]).max() > 1e-3
    assert (noisy.predictions[1] == run.predictions).all()


# The variance


def test_variance_of_the_output_at_the_start():
    """f_0 = (alpha/N) sum a w.x with independent N(0, 1): variance alpha^2 |x|^2 / N; 400 seeds, five of its errors."""
    network, wanted = Network("linear", Scaling(3.0)), 9.0 / 16 * np.mean((PROBLEM.test_inputs**2).sum(axis=1))
    found = ensemble(network, PROBLEM, 16, [0.0], seeds=400)
    shares = variance_shares(found.test_predictions[:, 0])
    error = shares.std(ddof=1) / np.sqrt(400)
    assert abs(ensembles.variance(found).value[0] - wanted) < 5.0 * error < 0.3 * wanted
    low, high = ensembles.variance(found).interval[:, 0]
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_variance_is_unbiased():
    """Three seeds a time, 4,000 times: the mean is sigma^2 = 4 within five standard errors; over S it is not."""
    sets = gaussian_outputs(3, np.zeros(4000), np.full(4000, 2.0), 1)  # each column a set
    unbiased = variance_shares(sets[:, :, None]).mean(axis=0)
    error = unbiased.std(ddof=1) / np.sqrt(4000)
    assert abs(unbiased.mean() - 4.0) < 5.0 * error
    assert abs(2.0 / 3.0 * unbiased.mean() - 4.0) > 5.0 * error


def test_three_numbers_one_identity():
    """error = average_error + variance, and that of the S networks' average has variance / S more: to 1e-12."""
    found = small(6)
    variance, error, limit = (
        each(found).value for each in (ensembles.variance, ensembles.error, ensembles.average_error)
    )
    own = np.mean((PROBLEM.test_targets - ensembles.average(found)) ** 2, axis=1)
    assert error == pytest.approx(limit + variance, rel=1e-12)
    assert own == pytest.approx(limit + variance / 6, rel=1e-12)


def test_the_error_of_the_average_is_unbiased():
    """Outputs N(1, 4) against a target 3: 4 in mean, whatever S = 5; the plug-in of the average has 4/5 more."""
    sets = gaussian_outputs(5, np.ones(4000), np.full(4000, 2.0), 2)
    found = average_error_shares(sets[:, :, None], np.array([3.0])).mean(axis=0)
    plug_in = (3.0 - sets.mean(axis=0)) ** 2
    for values, wanted in ((found, 4.0), (plug_in, 4.8)):
        assert abs(values.mean() - wanted) < 5.0 * values.std(ddof=1) / np.sqrt(4000)
    assert abs(plug_in.mean() - 4.0) > 5.0 * plug_in.std(ddof=1) / np.sqrt(4000)


def test_its_shares_vary_as_they_should():
    """S = 40: the standard error from the shares is the spread over 1,000 sets, to 10 %."""
    sets = gaussian_outputs(40, np.ones(1000), np.full(1000, 2.0), 3)
    shares = average_error_shares(sets[:, :, None], np.array([3.0]))
    named = np.sqrt(np.mean(shares.var(axis=0, ddof=1) / 40))
    assert named == pytest.approx(shares.mean(axis=0).std(ddof=1), rel=0.1)


def test_few_seeds_refuse():
    """One seed has no variance, two no interval of anything; without a test set nothing."""
    one, two = small(1), small(2)
    for each in (ensembles.variance, ensembles.error):
        with pytest.raises(InputError, match=r"the interval of an? .* of an ensemble of 2 seeds; needed: 3 or more"):
            each(two)
    with pytest.raises(InputError, match="a variance over seeds of 1 seed; needed: two or more"):
        variance_shares(one.test_predictions)
    with pytest.raises(InputError, match="an error of the average of an ensemble of 2 seeds; needed: 3"):
        ensembles.average_error(two)
    with pytest.raises(InputError, match="the problem has none; needed: a problem with a test set"):
        ensembles.variance(replace(two, test_predictions=two.test_predictions[:, :, :0]))


# Intervals


def drawn(sets, seeds, spectrum, seed):
    """An ensemble whose times are independent sets: F = sum_j sqrt(lambda_j) g_j e_j(x), mean square of e_j 1."""
    tests = 4 * len(spectrum)
    waves = np.sqrt(2.0) * np.sin(np.outer(np.arange(1, len(spectrum) + 1), 2.0 * np.pi * np.arange(tests) / tests))
    deviates = np.random.default_rng(seed).standard_normal((seeds, sets, len(spectrum)))
    outputs = (np.sqrt(spectrum) * deviates) @ waves
    task = replace(PROBLEM, test_inputs=np.zeros((tests, 3)), test_targets=np.full(tests, 0.7))
    return replace(small(3), problem=task, test_predictions=outputs)


def covered(estimate, truth):
    low, high = estimate.interval
    return float(np.mean((low <= truth) & (truth <= high)))


SPECTRA = {"one mode": [1.0], "five modes": [1.0, 0.5, 0.25, 0.1, 0.05], "thirty modes": np.full(30, 0.1)}


@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_intervals_cover(spectrum, seeds):
    """Outputs with these eigenvalues over test inputs, 400 sets: the true variance, the sum of them, is within 95 %
    intervals in 90 to 98 %. The error of a network, 0.49 more, likewise; 84 % with 5 seeds of one mode, 89 % with 10.
    That of the average, 0.49, in 90 % or more. Percentiles of the bootstrap cover less of one mode at 5 and 10 seeds.
    """
    found, truth = drawn(400, seeds, spectrum, seed=seeds), float(np.sum(spectrum))
    assert 0.90 <= covered(ensembles.variance(found), truth) <= 0.98
    assert covered(ensembles.variance(found), 2.5 * truth) < 0.9, "two and a half times it is caught"
    assert (0.80 if len(spectrum) == 1 else 0.90) <= covered(ensembles.error(found), truth + 0.49) <= 0.98
    assert covered(ensembles.average_error(found), 0.49) >= 0.90
    if len(spectrum) == 1 and seeds <= 10:
        shares = variance_shares(found.test_predictions)
        low, high = fit.mean_interval(shares)
        assert np.mean((low <= truth) & (truth <= high)) < 0.9


def test_shares_of_wrong_labels():
    """F = 0.3 y + N(0, 1): a network is wrong in Phi(-0.3) of labels, the average of S = 9 in Phi(-0.9); five standard
    errors of 20,000 labels. Squares say something else; targets that are no labels are refused.
    """
    rng = np.random.default_rng(4)
    labels = np.where(rng.random(20_000) < 0.5, 1.0, -1.0)
    task = replace(PROBLEM, test_inputs=np.zeros((20_000, 3)), test_targets=labels)
    outputs = 0.3 * labels + rng.standard_normal((9, 1, 20_000))
    found = replace(small(3), problem=task, test_predictions=outputs)
    single, pooled = norm.cdf(-0.3), norm.cdf(-0.9)
    value, interval = ensembles.misclassified(found)
    assert abs(value[0] - single) < 5 * np.sqrt(single * (1 - single) / 180_000)
    assert interval[0, 0] < single < interval[1, 0] < interval[0, 0] + 0.02
    assert abs(ensembles.average_misclassified(found)[0] - pooled) < 5 * np.sqrt(pooled * (1 - pooled) / 20_000)
    assert abs(single - pooled) > 0.1
    for each in (ensembles.misclassified, ensembles.average_misclassified):
        with pytest.raises(InputError, match="test targets are no labels"):
            each(small(3))


def test_intervals_of_nothing():
    """All outputs equal: 0 to 0. Two of three equal: without the third there is no variance, so 0 to infinity."""
    found = replace(small(3), test_predictions=np.zeros((3, 1, 7)))
    assert (ensembles.variance(found).interval == 0.0).all()
    found = replace(found, test_predictions=np.arange(3)[:, None, None] // 2 * np.ones((3, 1, 7)))
    assert ensembles.variance(found).interval[:, 0].tolist() == [0.0, np.inf]


# Gaussian fits


@pytest.mark.parametrize("reference", [(0.0, 1.0), (1.5, 0.6), (-0.3, 2.0)])
def test_kl_against_quadrature(reference):
    """Outputs at the mean and one standard deviation to each side have these moments: KL by quad, 1e-9."""
    (m, s), (mean, scale) = (0.4, 1.2), reference
    three = np.array([-1.0, 0.0, 1.0])[:, None]  # unbiased variance 1
    found = gaussian_kl(m + s * three, mean + scale * three)
    exact = quad(
        lambda z: norm.pdf(z, m, s) * (norm.logpdf(z, m, s) - norm.logpdf(z, mean, scale)), m - 12 * s, m + 12 * s
    )[0]
    assert found == pytest.approx(exact, abs=1e-9)
    if reference != (0.0, 1.0):  # the other way round it is another number
        assert abs(gaussian_kl(mean + scale * three, m + s * three) - exact) > 0.01


@pytest.mark.parametrize(("s", "r"), [(10, 10), (40, 40), (12, 30)])
def test_the_floor_of_kl(s, r):
    """Two samples of one law, 20,000 times: the mean is the closed form within five standard errors, and not 0."""
    own, reference = (gaussian_outputs(size, np.zeros(20000), np.ones(20000), size + k) for k, size in ((1, s), (2, r)))
    values = np.array(
        [gaussian_kl(a, b) for a, b in zip(np.split(own, 200, axis=1), np.split(reference, 200, axis=1), strict=True)]
    )
    error = values.std(ddof=1) / np.sqrt(200)
    assert abs(values.mean() - gaussian_kl_floor(s, r)) < 5.0 * error
    assert values.mean() > 5.0 * error


def test_unbiased_kl():
    """N(0.5, 0.8^2) from N(0, 1): its mean is the KL within five standard errors; the plug-in's is not."""
    size = 20000
    own, reference = (
        gaussian_outputs(12, np.full(size, 0.5), np.full(size, 0.8), 1),
        gaussian_outputs(16, np.zeros(size), np.ones(size), 2),
    )
    exact = -np.log(0.8) + (0.64 + 0.25) / 2 - 0.5
    for unbiased in (True, False):
        values = np.array([
            gaussian_kl(a, b, unbiased=unbiased)
            for a, b in zip(np.split(own, 200, axis=1), np.split(reference, 200, axis=1), strict=True)
        ])  # fmt: skip
        near = abs(values.mean() - exact) < 5.0 * values.std(ddof=1) / np.sqrt(200)
        assert near == unbiased


def test_what_has_no_kl():
    same = np.ones((4, 2))
    with pytest.raises(InputError, match="outputs are all the same at some input"):
        gaussian_kl(same, gaussian_outputs(4, [0.0, 0.0], 1.0, 1))
    with pytest.raises(InputError, match="reference is of 1 seed"):
        gaussian_kl(gaussian_outputs(4, [0.0], 1.0, 1), [[1.0]])
    with pytest.raises(InputError, match="outputs at 2 inputs, reference at 1"):
        gaussian_kl(gaussian_outputs(4, [0.0, 0.0], 1.0, 1), gaussian_outputs(4, [0.0], 1.0, 1))
    with pytest.raises(InputError, match="reference_seeds is 3"):
        gaussian_kl_floor(4, 3)


# Kernels, speeds, growth


@pytest.mark.parametrize(("activation", "constant"), [("linear", 1.0), ("relu", 3.0)])
def test_the_kernel_ratio_in_closed_form(activation, constant):
    """K(x, x) is a mean of z^2 + a^2 |x|^2 (linear), or of that where z > 0 (relu): ratio 1/N and 3/N; 600 seeds,
    five standard errors, and the other's constant is further off.
    """
    kernels = kernel_diagonals(Network(activation), 50, PROBLEM.test_inputs[:1], 600)
    shares = kernel_ratio_shares(kernels)
    error = shares.std(ddof=1) / np.sqrt(len(shares))
    assert abs(shares.mean() - constant / 50) < 5.0 * error
    assert abs(shares.mean() - (4.0 - constant) / 50) > 5.0 * error


def test_kernels_without_a_mean_or_a_second_seed():
    with pytest.raises(InputError, match="within its error of 0"):
        kernel_ratio_shares([[1.0], [-1.0]])
    with pytest.raises(InputError, match="of 1 seed"):
        kernel_ratio_shares([[1.0]])


def test_preactivation_speed_of_linear_units():
    """phi(z) = z: dw_i/dt = a_i g / alpha, g = E[y x] for f - f_0, so rms dz/dt = rms(a) rms(g.x) / alpha: 1e-12."""
    start = initial.gaussian(30, 3, seed=4)
    g = PROBLEM.targets @ PROBLEM.inputs / 20
    rms = np.sqrt(np.mean(start[:, 0] ** 2) * np.mean((PROBLEM.inputs @ g) ** 2))
    for alpha in (0.01, 1.0, 300.0):
        found = preactivation_speed(Network("linear", Scaling(alpha, shift="initial")), PROBLEM, start)
        assert found == pytest.approx(rms / alpha, rel=1e-12)
    plain = preactivation_speed(Network("linear", Scaling(300.0)), PROBLEM, start)  # the pull is y - f_0
    assert plain > 2.0 * rms / 300.0


def test_preactivation_speed_against_the_flow():
    """tanh with biases and mobilities: differences of z along a run of 1e-5, relative 1e-4."""
    network = Network("tanh", Scaling(2.0, 1.0, 3.0, input_scale=0.5), bias=1.0)
    start, step = initial.gaussian(10, 4, seed=4), 1e-5
    moved = simulate(network, PROBLEM, start, [step], keep="last").particles[-1]
    speeds = (moved - start)[:, 1:] @ np.column_stack((0.5 * PROBLEM.inputs, np.ones(20))).T / step
    assert preactivation_speed(network, PROBLEM, start) == pytest.approx(np.sqrt(np.mean(speeds**2)), rel=1e-4)


def test_output_growth():
    """F / alpha at the test inputs: 0 at the start, where F = f - f_0, and by hand after."""
    found = small(3)
    growth = ensembles.output_growth(found)
    assert growth.shape == (3, 3)
    assert np.abs(growth[:, 0]).max() == 0.0
    by_hand = np.linalg.norm(found.test_predictions[1, 2]) / np.sqrt(7) / 2.0
    assert growth[1, 2] == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small(0), "seeds is 0"),
        (lambda: small([1, 1]), r"seeds are \[1, 1\]; needed: one or more, each once"),
        (lambda: small([-1]), "a seed is -1"),
        (lambda: small("ab"), "a seed is 'a'"),
        (lambda: small(1.5), r"seeds is 1\.5; needed: a number of seeds"),
        (lambda: small(2, keep="all"), "takes no keep: its runs end at the same times"),
        (lambda: small(2, stop=()), "takes no stop"),
        (lambda: ensemble(TANH, PROBLEM, "16", [1.0]), "start is '16'"),
        (lambda: ensemble(TANH, None, 16, [1.0]), "problem is None"),
        (
            lambda: ensemble(TANH, PROBLEM, lambda seed: initial.gaussian(4 + seed, 3), [1.0], seeds=2),
            r"particles \(5, 4\) for seed 1; needed: \(4, 4\)",
        ),
        (lambda: ensembles.variance(None), "ensemble is None; needed: what `ensemble` returns"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_memory_is_refused_before_it_is_taken(monkeypatch):
    """What all results need is known from the number of particles before any is drawn, or from the first seed's."""
    network, problem = Network("erf"), problems.teacher_student(dim=2, n=20, seed=1)
    drawn = []

    def draw(seed):
        drawn.append(seed)
        return np.zeros((50, 3))

    monkeypatch.setattr(ensembles.initial, "gaussian", lambda *_: drawn.append("gaussian"))
    with pytest.raises(InputError, match=r"of 2000 seeds of 100000000 particles needs .* GiB .* Use fewer seeds"):
        ensembles.ensemble(network, problem, 10**8, [1.0], seeds=2000)
    assert not drawn
    with pytest.raises(InputError, match=r"of 30 seeds of 50 particles needs .* more than 48.83 KiB, max_bytes"):
        ensembles.ensemble(network, problem, draw, [1.0], seeds=30, max_bytes=50_000)
    assert drawn == [0]


def test_the_stated_memory_of_all_seeds_is_enough():
    """Traced: 200 seeds of 2,000 particles take what is said, to 20 % for the run under way; half would not do."""
    network, problem = Network("erf"), problems.teacher_student(dim=2, n=20, seed=1)
    ensembles.ensemble(network, problem, 8, [0.01], seeds=2)
    tracemalloc.start()
    ensembles.ensemble(network, problem, 2000, [0.01], seeds=200)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with pytest.raises(InputError) as refused:
        ensembles.ensemble(network, problem, 2000, [0.01], seeds=200, max_bytes=1.0)
    stated = float(re.search(r"needs ([\d.]+) MiB", str(refused.value))[1]) * 2**20
    assert 0.5 * stated < most < 1.2 * stated
