"""The NTK limit: with the kernel frozen the residual decays in closed form, mode by mode."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from .. import _checks, tangent
from ..engines import Engine
from ..errors import ConvergenceError, InputError
from ..fields import DataField
from ..initial import GaussianLaw
from ..network import Network
from ..problems import Problem


@dataclass(frozen=True, eq=False, repr=False)
class NTKLimit:
    """Residuals of the frozen-kernel flow.

    times : (T,)
    residuals, test_residuals : (T, n), (T, m): y - F
    kernel : (n, n); eigenvalues : (n,), of P^(1/2) K P^(1/2), ascending: the decay rates
    """

    network: Network
    problem: Problem
    times: np.ndarray
    residuals: np.ndarray
    test_residuals: np.ndarray
    kernel: np.ndarray
    eigenvalues: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        """F at the training inputs, (T, n)."""
        return self.problem.targets - self.residuals

    @property
    def test_predictions(self) -> np.ndarray:
        """F at the test inputs, (T, m)."""
        return self.problem.test_targets - self.test_residuals

    def __repr__(self) -> str:
        return (
            f"NTKLimit({self.problem.name!r}, {self.network.activation.name}, t=0..{self.times[-1]:g}, "
            f"rates {self.eigenvalues[0]:.2e}..{self.eigenvalues[-1]:.3g})"
        )


def ntk(
    network: Network,
    problem: Problem,
    law_or_particles: GaussianLaw | np.ndarray,
    times: Sequence[float] | np.ndarray,
    *,
    masses: np.ndarray | None = None,
    kernel: np.ndarray | None = None,
    engine: str | Engine = "cpu",
) -> NTKLimit:
    """Residual of the flow whose tangent kernel stays at its initial value: u(t) = exp(-K P t) u_0.

    With S = P^(1/2) K P^(1/2) = V diag(lambda) V', P = diag(p) (1/n each: u = exp(-K t / n) u_0),

        u(x, t) = u(x, 0) - K(x, X) P^(1/2) V diag((1 - e^(-lambda t)) / lambda) V' P^(1/2) u(X, 0)

    at training and test inputs alike. Jacot, Gabriel & Hongler (arXiv 1806.07572), section 5.

    Parameters
    ----------
    network, problem : the square loss
    law_or_particles : GaussianLaw, or (N, 1 + d)
        A law: the infinite kernel (`tangent.infinite`) and u_0 = y (f_0 = 0, the limit after the shift). Particles:
        their own kernel at t = 0, and u_0 = y - F_0 of theirs.
    times : increasing flow times
    masses : (N,), optional
        Of the particles.
    kernel : (n, n), optional
        The training kernel where it is known already.
    engine : what computes F_0 and the kernels of the particles

    Raises
    ------
    InputError
        If the loss is not "squared", or shapes do not fit.
    ConvergenceError
        If the kernel has an eigenvalue below -1e-10 of the largest: it is no kernel, or too inaccurate.

    Cost: O(n^3) for the eigen-decomposition, O(T n (n + m)).
    """
    times = _checks.times(times)
    _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
    _checks.instance(problem, Problem, "problem", "a Problem, e.g. from `problems`")
    if problem.loss.name != "squared":
        raise InputError(f"ntk has a closed form for the squared loss only; the problem's is {problem.loss.name!r}.")
    has_test = len(problem.test_inputs) > 0
    start, test_start, cross = problem.targets, problem.test_targets, np.zeros((0, len(problem.inputs)))
    if isinstance(law_or_particles, GaussianLaw):
        law = law_or_particles
        if law.mean_a != 0.0 and network.scaling.offset != 1.0:
            raise InputError(
                f"law has mean_a = {law.mean_a:g}, so that f_0 is not 0 and grows with alpha; needed: mean_a = 0, or "
                "shift='initial'."
            )
        train = tangent.infinite(network, law, problem.inputs) if kernel is None else kernel
        if has_test:
            cross = tangent.infinite(network, law, problem.test_inputs, problem.inputs)
    else:
        particles = network.particles(law_or_particles, problem.dim)
        if kernel is None:
            kernel = tangent.kernel(network, particles, problem.inputs, masses=masses, engine=engine)
        train = kernel
        if has_test:
            cross = tangent.kernel(network, particles, problem.test_inputs, problem.inputs, masses, engine=engine)
        if network.scaling.offset != 1.0:
            at_start = DataField(network, problem, particles, masses, engine)
            state = at_start.state(particles)
            start, test_start = start - at_start.predict(state), test_start - at_start.predict_test(state)
    size = len(problem.inputs)
    train = _checks.array(train, "kernel", 2, f"an array ({size}, {size})")
    if train.shape != (size, size):
        raise InputError(f"kernel has shape {train.shape}; needed: {(size, size)}, a row for each training input.")
    if not np.allclose(train, train.T, rtol=0, atol=1e-10 * np.abs(train).max()):
        raise InputError("kernel is not symmetric; needed: K(x_i, x_j) = K(x_j, x_i).")
    root = np.sqrt(problem.weights)
    rates, modes = eigh(root[:, None] * train * root)
    if rates[0] < -1e-10 * max(rates[-1], 0.0):
        raise ConvergenceError(
            f"the kernel has eigenvalues from {rates[0]:.3e} to {rates[-1]:.3e}; needed: none negative. "
            "Compute it in float64, from more particles or more accurate quadrature."
        )
    rates = np.maximum(rates, 0.0)
    # (1 - e^(-lambda t)) / lambda, which is t where lambda t is small
    exponents = np.outer(times, rates)
    reached = np.where(exponents > 1e-12, -np.expm1(-exponents) / np.where(rates > 0, rates, 1.0), times[:, None])
    moved = (reached * (modes.T @ (root * start))) @ (root[:, None] * modes).T
    return NTKLimit(network, problem, times, start - moved @ train, test_start - moved @ cross.T, train, rates)
