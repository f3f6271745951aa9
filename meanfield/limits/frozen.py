"""The flow of the predictor with its tangent kernel frozen: at the start, at the end of training, or anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from .. import _checks, _memory, kernels, krylov, tangent
from ..engines import Engine
from ..errors import ConvergenceError, InputError, StepLimitError
from ..fields import DataField
from ..initial import GaussianLaw
from ..losses import LOSSES
from ..network import Network
from ..problems import Problem

METHODS = ("dense", "krylov")


@dataclass(frozen=True, eq=False, repr=False)
class FrozenLimit:
    """Predictor of the frozen-kernel flow.

    times : (T,)
    predictions, test_predictions : (T, n), (T, m): F
    impulses : (T, n), P int_0^t u ds: F(x, t) = F(x, 0) + sum_k K(x, x_k) impulses_k at any x
    kernel : (n, n), or (0, 0) where it was not formed
    eigenvalues : ascending, of P^(1/2) K P^(1/2): (n,), or the Ritz values of the Krylov method
    """

    network: Network
    problem: Problem
    times: np.ndarray
    predictions: np.ndarray
    test_predictions: np.ndarray
    impulses: np.ndarray
    kernel: np.ndarray
    eigenvalues: np.ndarray

    @property
    def residuals(self) -> np.ndarray:
        """y - F at the training inputs, (T, n)."""
        return self.problem.targets - self.predictions

    @property
    def test_residuals(self) -> np.ndarray:
        """y - F at the test inputs, (T, m)."""
        return self.problem.test_targets - self.test_predictions

    def __repr__(self) -> str:
        loss = self.problem.weights @ self.problem.loss.value(self.predictions[-1], self.problem.targets)
        return (
            f"FrozenLimit({self.problem.name!r}, {self.network.activation.name}, t=0..{self.times[-1]:g}, "
            f"final loss {loss:.4g})"
        )


def frozen(
    network: Network,
    problem: Problem,
    law_or_particles: GaussianLaw | np.ndarray,
    times: Sequence[float] | np.ndarray,
    *,
    at: GaussianLaw | np.ndarray | None = None,
    masses: np.ndarray | None = None,
    kernel: np.ndarray | None = None,
    test_kernel: np.ndarray | None = None,
    layer: str = "both",
    method: str = "dense",
    rtol: float = 1e-8,
    atol: float = 1e-10,
    max_evaluations: int = 100_000,
    max_bytes: float | None = None,
    engine: str | Engine = "cpu",
) -> FrozenLimit:
    """Flow of the predictor whose tangent kernel K does not move, for any loss: dF/dt = K P u(F), u = -dl/dF.

    With the impulses g(t) = P int_0^t u ds,

        F(x, t) = F(x, 0) + K(x, X) g(t)

    at training and test inputs alike. For the square loss g = P^(1/2) (1 - e^(-S t)) / S P^(1/2) u_0 with
    S = P^(1/2) K P^(1/2), in closed form. For another loss g is integrated in the modes of S by SciPy's Radau IIA of
    order 5, since a kernel's rates differ by orders of magnitude.

    The linearised network of Jacot, Gabriel & Hongler (arXiv 1806.07572); with K from the end of training, or from
    during it, the frozen kernels of Geiger, Spigler, Jacot & Wyart (arXiv 1906.08034), appendix A.

    Parameters
    ----------
    network, problem : any loss with a continuous pull: not the hinge
    law_or_particles : GaussianLaw, or (N, 1 + d)
        What F starts from. A law: F_0 = 0. Particles: their F_0, which is 0 with shift="initial".
    times : increasing flow times
    at : GaussianLaw, or (N, 1 + d), optional
        What the kernel is of; default what F starts from. `run.particles[-1]`: the kernel at the end of a run.
    masses : (N,), optional
        Of the particles.
    kernel, test_kernel : (n, n), (m, n), optional
        Where they are known already. For a problem with a test set both or neither, unless `at` says what the other is
        of.
    layer : "both", "output" or "inner"
        Which weights move (`tangent.kernel`).
    method : "dense" or "krylov"
        "krylov": K is never formed; the square loss only, from products with K by Lanczos (`krylov.lanczos`).
    rtol, atol : float
        Of the integrator: errors of F are about atol sqrt(K(x, x)) + rtol of each mode's part.
    max_evaluations : int
        Most evaluations of the loss by the integrator.
    max_bytes : float, optional
        Most memory for this; default 80 % of what is free.
    engine : what computes F_0 and the kernels of the particles

    Returns
    -------
    FrozenLimit
        Predictions at training and test inputs at each time, impulses, the kernel and its rates
        (`meanfield.limits.FrozenLimit`).

    Raises
    ------
    InputError
        If shapes do not fit, the memory does not suffice, the method is not for this loss, its pull jumps, or a kernel
        is given and what the test kernel is of is not said.
    KernelError
        If the kernel has an eigenvalue below -1e-10 of the largest: its rank and condition number.
    StepLimitError, ConvergenceError
        If the integrator spends its evaluations or fails, or a loss rises along what it found, as they may on a pull
        that jumps; Lanczos needs more vectors.

    Cost: O(n^3) for the modes and O(T n (n + m)); other losses: O(n^2) for an evaluation and O(n^3) for a Jacobian.
    Memory about 56 n^2 bytes, of "krylov" at most 1000 vectors of n.
    """
    times = _checks.times(times)
    _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
    _checks.instance(problem, Problem, "problem", "a Problem, e.g. from `problems`")
    if method not in METHODS:
        raise InputError(f"method is {method!r}; needed: one of {', '.join(METHODS)}.")
    if not problem.loss.smooth:
        raise InputError(
            f"the pull of the loss {problem.loss.name!r} jumps, where no integrator's step is small enough; needed: a "
            "continuous pull, such as that of losses.soft_hinge."
        )
    is_square = problem.loss == LOSSES["squared"]
    if method == "krylov" and (not is_square or kernel is not None or test_kernel is not None):
        given = "a kernel" if is_square else f"the loss {problem.loss.name!r}"
        raise InputError(
            f"method 'krylov' with {given}; needed: the loss 'squared' and no kernel, for its own products with the "
            "kernel of `at` are all that it uses. Give at=..., or a kernel as an array with method='dense'."
        )
    if at is None and len(problem.test_inputs) and (kernel is None) != (test_kernel is None):
        given, missing = ("kernel", "test_kernel") if test_kernel is None else ("test_kernel", "kernel")
        raise InputError(
            f"{given} is given and {missing} is not, so that nobody knows what the other kernel is of; needed: "
            f"{missing}=..., or at=..., the law or the particles that {given} is of, or a problem without a test set."
        )
    _check_memory(problem, len(times), method, max_bytes)
    start, test_start = _outputs(network, problem, law_or_particles, masses, engine)
    at = law_or_particles if at is None else at
    root, options = np.sqrt(problem.weights), {"masses": masses, "layer": layer, "engine": engine}
    drive = root * problem.loss.pull(start, problem.targets)
    if method == "krylov":
        train = tangent.operator(network, at, problem.inputs, **options)
        lasting, rates = krylov.lanczos(lambda vector: root * (train @ (root * vector)), drive, times)
        impulses, kernel = lasting * root, np.zeros((0, 0))
        learned = np.array([train @ each for each in impulses])
        if len(test_start):
            cross = tangent.operator(network, at, problem.test_inputs, problem.inputs, **options)
            test_learned = np.array([cross @ each for each in impulses])
        else:
            test_learned = np.zeros((len(times), 0))
    else:
        kernel = _kernel(network, at, problem.inputs, None, kernel, "kernel", max_bytes, options)
        tests = problem.test_inputs
        cross = np.zeros((0, len(kernel)))
        if len(tests):
            cross = _kernel(network, at, tests, problem.inputs, test_kernel, "test_kernel", max_bytes, options)
        rates, modes = kernels.modes(kernel, problem.weights)
        if is_square:
            along = krylov.reached(rates, times) * (modes.T @ drive)
        else:
            along = _integrated(problem, start, kernel, rates, modes, times, rtol, atol, max_evaluations)
        impulses = along @ (root[:, None] * modes).T
        learned, test_learned = impulses @ kernel, impulses @ cross.T
    return FrozenLimit(network, problem, times, start + learned, test_start + test_learned, impulses, kernel, rates)


def _check_memory(problem, n_times, method, max_bytes):
    n, m = len(problem.inputs), len(problem.test_inputs)
    history = {"times": 8 * n_times * (4 * n + 2 * m)}
    if method == "krylov":
        _memory.check(
            {"basis": 8 * n * min(n, 1000), **history}, f"a Krylov flow of {n} inputs", "Use fewer", max_bytes
        )
    else:
        needed = {"kernel": 8 * n * n, "modes": 6 * 8 * n * n, "test kernel": 8 * n * m, **history}
        what = f"a frozen-kernel flow of {n} inputs"
        _memory.check(needed, what, "Use fewer inputs, or method='krylov' for the square loss", max_bytes)


def _outputs(network, problem, law_or_particles, masses, engine):
    """F at the start, at the training and the test inputs."""
    if isinstance(law_or_particles, GaussianLaw):
        if law_or_particles.mean_a != 0.0 and network.scaling.offset != 1.0:
            raise InputError(
                f"law has mean_a = {law_or_particles.mean_a:g}, so that f_0 is not 0 and grows with alpha; needed: "
                "mean_a = 0, or shift='initial'."
            )
    else:
        particles = network.particles(law_or_particles, problem.dim)
        if network.scaling.offset != 1.0:
            at_start = DataField(network, problem, particles, masses, engine)
            state = at_start.state(particles)
            return at_start.predict(state), at_start.predict_test(state)
    return np.zeros(len(problem.inputs)), np.zeros(len(problem.test_inputs))


def _kernel(network, at, inputs, other, given, what, max_bytes, options):
    """The kernel of a law or of particles, or the one that was given, checked."""
    shape = len(inputs), len(inputs if other is None else other)
    if given is not None:
        given = _checks.array(given, what, 2, f"an array {shape}")
        if given.shape != shape:
            raise InputError(f"{what} has shape {given.shape}; needed: {shape}, a column for each training input.")
        return given
    if isinstance(at, GaussianLaw):
        return tangent.infinite(network, at, inputs, other, layer=options["layer"], max_bytes=max_bytes)
    return tangent.kernel(network, at, inputs, other, max_bytes=max_bytes, **options)


def _integrated(problem, start, kernel, rates, modes, times, rtol, atol, most):
    """q(t), (T, n): dq/dt = V' P^(1/2) u(F), F = F_0 + K P^(1/2) V q.

    sqrt(lambda_i) q_i moves F(x) by at most sqrt(K(x, x)) times as much, which is the scale of `atol`.
    """
    root, loss, targets = np.sqrt(problem.weights), problem.loss, problem.targets
    to_output, back = kernel @ (root[:, None] * modes), modes.T * root
    scales = np.sqrt(np.maximum(rates, 1e-14 * max(rates[-1], 1e-300)))
    evaluations = 0

    def rhs(_, along):
        nonlocal evaluations
        evaluations += 1
        if evaluations > most:
            raise StepLimitError(
                f"{most} evaluations were spent on the loss {loss.name!r} before t = {times[-1]:g}; needed: a pull "
                "without jumps (losses.soft_hinge for the hinge), or more max_evaluations."
            )
        return back @ loss.pull(start + to_output @ along, targets)

    def jacobian(_, along):
        # The integrator needs it for its Newton steps alone, so that a difference quotient of the pull will do.
        output = start + to_output @ along
        width = 1e-6 * np.maximum(1.0, np.abs(output))
        slope = (loss.pull(output + width, targets) - loss.pull(output - width, targets)) / (2.0 * width)
        return (back * slope) @ to_output

    along, at, rows = np.zeros(len(rates)), 0.0, []
    for time in times:
        if time > at:
            solved = solve_ivp(
                rhs, (at, time), along, method="Radau", jac=jacobian, rtol=rtol, atol=atol / scales, t_eval=[time]
            )
            if not solved.success:
                raise ConvergenceError(
                    f"the integrator stopped between t = {at:g} and {time:g} ({solved.message}); needed: a pull "
                    "without jumps (losses.soft_hinge for the hinge), or fewer digits (rtol)."
                )
            along, at = solved.y[:, -1], time
        rows.append(along)
    moments = np.r_[0.0, times]
    _check_fall(problem, start + np.vstack([np.zeros(len(rates)), *rows]) @ to_output.T, moments)
    return np.array(rows)


def _check_fall(problem, predictions, times):
    """Refuse what no flow does: dE l/dt = -(P u)' K P u <= 0. A rise by 1 % of the largest loss is no rounding."""
    losses = problem.loss.value(predictions, problem.targets) @ problem.weights
    rises = np.diff(losses)
    if (rises > 0.01 * np.abs(losses).max()).any():
        where = int(np.argmax(rises))
        raise ConvergenceError(
            f"the loss {problem.loss.name!r} rose from {losses[where]:.4g} at t = {times[where]:g} to "
            f"{losses[where + 1]:.4g} at {times[where + 1]:g}, which no flow does; needed: a pull without jumps "
            "(losses.soft_hinge for the hinge), or more digits (rtol)."
        )
