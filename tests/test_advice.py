"""What is easily typed by mistake is refused in words that lead on: given, needed, and which other function it is."""

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

import meanfield as mf
from meanfield import activations, fit, identities, initial, kernels, limits, linearised, tangent
from meanfield.errors import InputError, KernelError

PROBLEM = mf.problems.teacher_student(dim=3, n=12, n_test=4, seed=1)
NETWORK, LAW, START = mf.Network("erf"), mf.GaussianLaw(3), initial.gaussian(10, 3, seed=2)
POWER = fit.power_law([1, 2, 4], np.outer([1.0, 1.1], [1.0, 0.5, 0.25]))


def run():
    return mf.simulate(NETWORK, PROBLEM, START, [0.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mf.Scaling.ntk(), r"Scaling.ntk\(\) is of no width; needed: Scaling.ntk\(n_particles\)"),
        (lambda: fit.verdict(POWER, -1), r"interval is PowerLaw\(.*needed: its .interval, or law.verdict"),
        (lambda: fit.verdict(-1.02, -1), r"interval is -1\.02; needed: two numbers, \(low, high\)"),
        (lambda: fit.verdict((0.0, 0.1), "-1"), "theory is '-1'; needed: two numbers"),
        (lambda: fit.power_law([1, 2, 4], np.ones((3, 5))), r"per_seed \(3, 5\)\. A row is a seed: give per_seed\.T"),
        (lambda: mf.diagnostics.t_half(run()), r"needed: t_half\(run.times, run.records\['risk'\]\)"),
        (lambda: identities.weak_form(run(), lambda theta: theta[:, 0]), "gave an array; needed: a pair, g"),
        (lambda: identities.weak_form(run(), lambda theta: None), "gave None; needed: a pair, g"),
        (lambda: linearised.fit("rf", NETWORK, START, PROBLEM), r"weights have 4 columns.* need 3.*particles\[:, 1:\]"),
        (lambda: linearised.fit("rf", NETWORK, START[:, :2], PROBLEM), "weights have 2 columns.*linearised.units"),
        (
            lambda: limits.frozen(NETWORK, PROBLEM, LAW, [1.0], kernel=aslinearoperator(np.eye(12)), method="krylov"),
            "'krylov' with a kernel; needed: .* Give at=..., or a kernel as an array",
        ),
        (
            lambda: mf.Network("quadratic"),
            r"the family 'quadratic'; needed: a member, Network\(activations.quadratic\(",
        ),
        (lambda: mf.Network("polynomial"), r"the family 'polynomial'; needed: a member"),
        (lambda: mf.Network(activations.biased_relu), r"the family 'biased_relu'; needed: a member"),  # pyright: ignore
        (lambda: mf.ensemble(NETWORK, PROBLEM, START, [1.0]), r"start is an array \(10, 4\).*lambda seed: initial"),
        (lambda: tangent.infinite(NETWORK, START, PROBLEM.inputs), r"law is an array.*tangent.kernel for particles"),
        (lambda: tangent.kernel(NETWORK, LAW, PROBLEM.inputs), r"particles is GaussianLaw.*tangent.infinite for a law"),
    ],
)
def test_the_message_leads_on(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_softplus_is_a_name_and_a_family():
    """The name stays an activation; members of families, and functions of the same name, pass."""
    assert mf.Network("softplus").activation.name == "softplus"
    assert mf.Network(activations.quadratic()).activation is activations.quadratic()


def test_complexity_advises_no_ridge():
    """It takes none: a singular kernel is said with its rank, as an attribute too."""
    with pytest.raises(KernelError, match=r"singular.* rank 1 of 3 .*needed: inputs that differ") as caught:
        kernels.complexity(np.ones((3, 3)), np.ones(3))
    assert caught.value.rank == 1 and "ridge" not in str(caught.value)
