"""Discrete training: gradient descent on a batch of data at each step, in the place of the flow's whole data set.

`simulate(..., scheme="euler", dt=..., batches=batches.minibatch(50))` draws 50 data points for each step;
`fresh(draw, k)` takes k new ones from a source (one pass). With all the data at once Euler's scheme itself is gradient
descent: dt is the step in flow time (docs/notation: from a paper's learning rate to dt).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import _checks
from ._origins import family
from .errors import InputError
from .fields import DataField
from .problems import Problem


@dataclass(frozen=True)
class Batches:
    """Where the data of a step come from.

    name : str
    take : (problem, step) -> inputs (k, d), targets (k,), weights (k,) or None
        None: 1/k each.
    """

    name: str
    take: Callable[[Problem, int], tuple]

    def __repr__(self) -> str:
        return f"Batches({self.name!r})"


def _generator(seed, step):
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(step,)))


@family
def minibatch(size: int, *, seed: int = 0) -> Batches:
    """`size` data points of the problem for each step, drawn without replacement; the data have equal weights.

    The mean over the draws is the flow's velocity. A function of (seed, step) alone.
    """
    size, seed = _checks.count(size, "size"), _checks.count(seed, "seed", least=0)

    def take(problem, step):
        n = len(problem.inputs)
        if size > n or not np.allclose(problem.weights, 1.0 / n, rtol=1e-12):
            raise InputError(
                f"minibatches of {size} from {n} data points; needed: at most {n}, and equal weights of the data."
            )
        chosen = _generator(seed, step).choice(n, size, replace=False)
        return problem.inputs[chosen], problem.targets[chosen], None

    return Batches(f"minibatch {size}", take)


@family
def fresh(draw: Callable, size: int = 1, *, seed: int = 0) -> Batches:
    """`size` new data points for each step: one pass, as in Mei, Montanari & Nguyen (arXiv 1804.06561), eq. (2).

    draw : (numpy Generator, size) -> inputs (size, d), targets (size,)
    """
    size, seed = _checks.count(size, "size"), _checks.count(seed, "seed", least=0)
    if not callable(draw):
        raise InputError(f"draw is {draw!r}; needed: a function (generator, size) -> (inputs, targets).")

    def take(problem, step):
        drawn = draw(_generator(seed, step), size)
        if not isinstance(drawn, tuple) or len(drawn) != 2:
            raise InputError(f"draw gave {type(drawn).__name__}; needed: a tuple (inputs, targets).")
        return *drawn, None

    return Batches(f"fresh {size}", take)


BATCHES = {each.__name__: each for each in (minibatch, fresh)}


class BatchField(DataField):
    """A `DataField` whose velocity is that of the step's batch: its n-th velocity is that of step n.

    Predictions that are recorded are at the problem's own inputs.
    """

    def __init__(self, batches: Batches, network, problem, start, *rest):
        _checks.instance(batches, Batches, "batches", "batches.minibatch(size) or batches.fresh(draw, size)")
        super().__init__(network, problem, start, *rest)
        self._batches, self._step = batches, 0
        self._at_start = self.engine.pack(start, self.dtype) if network.scaling.offset else None

    def _data_of(self, step):
        """What the source gives for a step, checked: inputs (k, d), targets (k,), weights (k,) that sum to one."""
        taken = self._batches.take(self.problem, step)
        if not isinstance(taken, tuple) or len(taken) != 3:
            raise InputError(
                f"{self._batches!r} gave {type(taken).__name__}; needed: (inputs, targets, weights or None)."
            )
        inputs = _checks.array(taken[0], "inputs of a batch", 2, f"an array (k, {self.problem.dim})")
        targets = _checks.array(taken[1], "targets of a batch", 1, "an array (k,)")
        if inputs.shape != (len(targets), self.problem.dim):
            raise InputError(
                f"a batch has inputs {inputs.shape} and targets {targets.shape}; needed: (k, {self.problem.dim}), (k,)."
            )
        return inputs, targets, _checks.masses(taken[2], len(targets), "weights of a batch")

    def go_on(self, step):
        self._step = step

    def gradient_velocity(self, state):
        return DataField.velocity(self, state)[0]

    def velocity(self, state, out=None):
        (cloud,), scaling, engine = state, self.network.scaling, self.engine
        inputs, targets, weights = self._data_of(self._step)
        self._step += 1
        points = engine.pack_inputs(self.network.inputs(inputs), self.dtype)
        shares = weights
        shift = np.zeros(len(targets))
        if self._at_start is not None:
            shift = -scaling.offset * self._output(self._at_start, points)
        drive = engine.pack_drive(shift, targets, shares / scaling.alpha, self.dtype)
        sums = engine.predict(self.network.activation, cloud, self._masses, points)
        pull = engine.pull(self.problem.loss, sums, scaling.alpha, drive)
        mobilities = scaling.mobility_a, scaling.mobility_w
        moved = engine.vjp(self.network.activation, cloud, points, pull, mobilities, None, out and out[0])
        return (self._confined(moved, cloud),)
