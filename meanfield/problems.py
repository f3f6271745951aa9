"""Problems: what is to be fitted. Inputs, targets, weights, loss, and a test set to measure on."""

from __future__ import annotations  # so that `help` shows ArrayLike and not what it stands for

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf

from . import _checks
from .errors import InputError
from .losses import LOSSES, Loss


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Problem:
    """A regression problem E_p l(f(x), y) with p = sum_k p_k delta_(x_k, y_k).

    Parameters
    ----------
    inputs : (n, d)
    targets : (n,)
    weights : (n,), optional
        The p_k: non-negative; scaled to sum to one. Default 1/n each.
    loss : name in `losses.LOSSES` or a Loss
    test_inputs, test_targets : (m, d) and (m,), optional
        Where errors are measured; they never move a particle. Without them both have m = 0.
    labels, test_labels : (n,) and (m,), optional
        Class labels, kept for figures.
    name : str

    Raises
    ------
    InputError
        On shapes that do not fit, empty or non-finite arrays, weights without a positive sum, an unknown loss.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    loss: Loss
    test_inputs: np.ndarray
    test_targets: np.ndarray
    labels: np.ndarray | None
    test_labels: np.ndarray | None
    name: str

    def __init__(
        self,
        inputs: ArrayLike,
        targets: ArrayLike,
        weights: ArrayLike | None = None,
        loss: str | Loss = "squared",
        test_inputs: ArrayLike | None = None,
        test_targets: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        test_labels: ArrayLike | None = None,
        name: str = "problem",
    ):
        inputs, targets = _pair(inputs, targets, "inputs", "targets")
        loss = _checks.find(LOSSES, loss, "loss")
        if not isinstance(loss, Loss):
            raise InputError(f"loss is {loss!r}; needed: a name ({', '.join(LOSSES)}) or a losses.Loss.")
        if loss.labels and not (np.abs(targets) == 1.0).all():
            wrong = targets[np.abs(targets) != 1.0][0]
            raise InputError(f"targets hold {wrong:g} with loss {loss.name!r}; needed: labels, +1 or -1.")
        if test_inputs is None or test_targets is None:
            if test_inputs is not test_targets:
                raise InputError("a test set needs both test_inputs and test_targets; only one was given.")
            tests = np.empty((0, inputs.shape[1])), np.empty(0)
        else:
            tests = _pair(test_inputs, test_targets, "test_inputs", "test_targets")
        if tests[0].shape[1] != inputs.shape[1]:
            raise InputError(
                f"test_inputs have dimension {tests[0].shape[1]}, inputs {inputs.shape[1]}; needed: the same."
            )
        fields = {
            "inputs": inputs,
            "targets": targets,
            "weights": _checks.masses(weights, len(inputs), "weights"),
            "loss": loss,
            "test_inputs": tests[0],
            "test_targets": tests[1],
            "labels": _labels(labels, len(inputs), "labels"),
            "test_labels": _labels(test_labels, len(tests[0]), "test_labels"),
            "name": str(name),
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    @property
    def dim(self) -> int:
        """Dimension d of the inputs."""
        return self.inputs.shape[1]

    def __repr__(self) -> str:
        sizes = f"n={len(self.inputs)}, test={len(self.test_inputs)}, dim={self.dim}"
        return f"Problem({self.name!r}, {sizes}, loss={self.loss.name!r})"


def _labels(labels: ArrayLike | None, size: int, what: str) -> np.ndarray | None:
    if labels is None:
        return None
    result = np.asarray(labels)
    if result.shape != (size,):
        raise InputError(f"{what} have shape {result.shape}; needed: {(size,)}, one for each input.")
    return result


def _pair(points, values, points_name: str, values_name: str) -> tuple[np.ndarray, np.ndarray]:
    points = _checks.array(points, points_name, 2, "an array (n, d) with n, d >= 1, a row for each data point")
    values = _checks.array(values, values_name, 1, "an array (n,), a number for each data point")
    if len(points) != len(values):
        raise InputError(f"{points_name} have {len(points)} rows, {values_name} {len(values)}; needed: as many.")
    return points, values


def teacher_student(
    dim: int = 5, n: int = 400, n_test: int = 400, teachers: int = 3, noise: float = 0.0, seed: int = 0
) -> Problem:
    """Gaussian inputs, targets from a few erf units: y = sum_j b_j erf(v_j . x) + noise.

    x ~ N(0, I_d), v_j uniform on the sphere, b_j = +-1 in turn over sqrt(teachers).

    Parameters
    ----------
    dim, n, n_test, teachers, seed : int
    noise : float
        Standard deviation of what is added to the training targets.
    """
    for value, what in ((dim, "dim"), (n, "n"), (n_test, "n_test"), (teachers, "teachers")):
        _checks.count(value, what)
    _checks.number(noise, "noise", least=0.0)
    rng = _checks.generator(seed)
    directions = rng.standard_normal((teachers, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    heights = (-1.0) ** np.arange(teachers) / np.sqrt(teachers)
    inputs = rng.standard_normal((n + n_test, dim))
    targets = erf(inputs @ directions.T) @ heights
    return Problem(
        inputs[:n],
        targets[:n] + noise * rng.standard_normal(n),
        test_inputs=inputs[n:],
        test_targets=targets[n:],
        name="teacher-student",
    )


def bilinear(beta: float = 1.0) -> Problem:
    """The exactly solvable problem: x = +-1, y = beta x, for units s(x; a, w) = a w x (activation "linear").

    Its mean-field limit is in closed form: `limits.exact.bilinear`.
    """
    beta = _checks.number(beta, "beta")
    inputs = np.array([[1.0], [-1.0]])
    return Problem(inputs, beta * inputs[:, 0], test_inputs=inputs, test_targets=beta * inputs[:, 0], name="bilinear")


@dataclass(frozen=True)
class TwoGaussians:
    """Labels y = +1 or -1 with equal chance, x | y ~ N(0, S_y), S_y = s_y^2 on each of some blocks of coordinates.

    Mei, Montanari & Nguyen (arXiv 1804.06561), section 1: what a linear classifier cannot tell apart.

    dims : sizes d_b of the blocks
    plus, minus : s_+ and s_- on each block, standard deviations

    `isotropic` and `anisotropic` are the paper's two cases; `limits.radial` solves their mean-field limit.
    """

    dims: tuple[int, ...]
    plus: tuple[float, ...]
    minus: tuple[float, ...]

    def __post_init__(self):
        for what in ("dims", "plus", "minus"):
            value = getattr(self, what)
            if not isinstance(value, tuple | list | np.ndarray):
                raise InputError(
                    f"{what} is {value!r}; needed: a tuple, an entry for each block, such as ({value!r},)."
                )
        if not len(self.dims) == len(self.plus) == len(self.minus) >= 1:
            raise InputError(
                f"dims, plus and minus have {len(self.dims)}, {len(self.plus)} and {len(self.minus)} entries; needed: "
                "one for each block."
            )
        object.__setattr__(self, "dims", tuple(_checks.count(each, "dims") for each in self.dims))
        for what in ("plus", "minus"):
            given = tuple(_checks.number(each, what, above=0.0) for each in getattr(self, what))
            object.__setattr__(self, what, given)

    @classmethod
    def isotropic(cls, dim: int = 40, delta: float = 0.4) -> TwoGaussians:
        """x | y ~ N(0, (1 + y delta)^2 I_d), 0 < delta < 1."""
        return cls._of(dim, dim, delta)

    @classmethod
    def anisotropic(cls, dim: int = 320, signal_dim: int = 60, delta: float = 0.5) -> TwoGaussians:
        """x | y ~ N(0, diag((1 + y delta)^2 on the first signal_dim coordinates, 1 on the others)), 0 < delta < 1."""
        if _checks.count(signal_dim, "signal_dim") > _checks.count(dim, "dim"):
            raise InputError(f"signal_dim is {signal_dim} and dim {dim}; needed: signal_dim <= dim.")
        return cls._of(dim, signal_dim, delta)

    @classmethod
    def _of(cls, dim, signal_dim, delta):
        dim, delta = _checks.count(dim, "dim"), _checks.number(delta, "delta", above=0.0)
        if delta >= 1.0:
            raise InputError(f"delta is {delta:g}; needed: delta < 1, for the standard deviation 1 - delta.")
        rest = dim - signal_dim
        blocks = 2 if rest else 1
        return cls((signal_dim, rest)[:blocks], (1.0 + delta, 1.0)[:blocks], (1.0 - delta, 1.0)[:blocks])

    @property
    def dim(self) -> int:
        """Dimension d of the inputs."""
        return sum(self.dims)

    def draw(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (size, d) and labels (size,): what `batches.fresh` takes."""
        labels = rng.choice((-1.0, 1.0), size)
        scales = np.repeat(np.array([self.minus, self.plus]), self.dims, axis=1)
        return rng.standard_normal((size, self.dim)) * scales[(labels > 0).astype(int)], labels

    def sample(self, n: int, n_test: int = 0, seed: int = 0) -> Problem:
        """A `Problem` of n data points, and n_test to test on."""
        n, n_test = _checks.count(n, "n"), _checks.count(n_test, "n_test", least=0)
        rng = _checks.generator(seed)
        tests = self.draw(rng, n_test) if n_test else (None, None)
        return Problem(*self.draw(rng, n), test_inputs=tests[0], test_targets=tests[1], name="two Gaussians")


PROBLEMS = {"teacher-student": teacher_student, "bilinear": bilinear}
