"""The NTK limit: with the kernel frozen the residual decays in closed form, mode by mode."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import _checks
from ..engines import Engine
from ..errors import InputError
from ..initial import GaussianLaw
from ..network import Network
from ..problems import Problem
from .frozen import frozen


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
    at: GaussianLaw | np.ndarray | None = None,
    masses: np.ndarray | None = None,
    kernel: np.ndarray | None = None,
    test_kernel: np.ndarray | None = None,
    max_bytes: float | None = None,
    engine: str | Engine = "cpu",
) -> NTKLimit:
    """Residual of the flow whose tangent kernel stays at its initial value: u(t) = exp(-K P t) u_0.

    `frozen` with the square loss.

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
    at, kernel, test_kernel : as for `frozen`
        What the kernel is of, if not of the start; or the kernels, (n, n) and (m, n), where they are known already.
    max_bytes : float, optional
        Most memory for this; default 80 % of what is free.
    engine : what computes F_0 and the kernels of the particles

    Returns
    -------
    NTKLimit
        Residuals at training and test inputs at each time, the kernel and its rates (`meanfield.limits.NTKLimit`).

    Raises
    ------
    InputError
        If the loss is not "squared", shapes do not fit, the memory does not suffice, or a kernel is given and what the
        test kernel is of is not said.
    KernelError
        If the kernel has an eigenvalue below -1e-10 of the largest: it is no kernel, or too inaccurate.

    Cost: O(n^3) for the eigen-decomposition, O(T n (n + m)).
    """
    times = _checks.times(times)
    _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
    _checks.instance(problem, Problem, "problem", "a Problem, e.g. from `problems`")
    if problem.loss.name != "squared":
        raise InputError(f"ntk has a closed form for the squared loss only; the problem's is {problem.loss.name!r}.")
    solved = frozen(
        network, problem, law_or_particles, times, at=at, masses=masses, kernel=kernel, test_kernel=test_kernel,
        engine=engine, max_bytes=max_bytes,
    )  # fmt: skip
    return NTKLimit(
        network, problem, solved.times, solved.residuals, solved.test_residuals, solved.kernel, solved.eigenvalues
    )
