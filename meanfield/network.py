"""Network: an activation and a scaling. The particles are not part of it; they are what moves."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _checks
from .activations import ACTIVATIONS, FAMILIES, Activation, quadratic
from .errors import InputError
from .scaling import Scaling


@dataclass(frozen=True, init=False, repr=False)
class Network:
    """f(x) = alpha sum_i m_i a_i phi(w_i . x), or with biases a_i phi(w_i . x + beta b_i).

    Parameters
    ----------
    activation : name in `activations.ACTIVATIONS` or an Activation
    scaling : Scaling
        Default `Scaling.mean_field()`.
    bias : float >= 0
        beta: a last input that is always beta, after `scaling.input_scale`. A particle is then (a, w, b) and b is one
        of the inner weights: it moves at mobility_w, and a law of particles has dim = d + 1. 0: no bias.

    Raises
    ------
    InputError
        If the activation is unknown, any is of another type, or the bias is negative or not finite.
    """

    activation: Activation
    scaling: Scaling
    bias: float

    def __init__(self, activation: str | Activation, scaling: Scaling | None = None, bias: float = 0.0):
        families = {**FAMILIES, quadratic.__name__: quadratic}
        for name, family in families.items():
            if activation is family or (activation == name and name not in ACTIVATIONS):
                raise InputError(
                    f"activation is the family {name!r}; needed: a member, Network(activations.{name}(...))."
                )
        activation = _checks.find(ACTIVATIONS, activation, "activation")
        scaling = Scaling.mean_field() if scaling is None else scaling
        if not isinstance(activation, Activation):
            raise InputError(f"activation is {activation!r}; needed: one of {', '.join(ACTIVATIONS)} or an Activation.")
        if not isinstance(scaling, Scaling):
            raise InputError(f"scaling is {scaling!r}; needed: a Scaling, e.g. Scaling(alpha=1.0) or Scaling.ntk(N).")
        object.__setattr__(self, "activation", activation)
        object.__setattr__(self, "scaling", scaling)
        object.__setattr__(self, "bias", _checks.number(bias, "bias", least=0.0))

    def inputs(self, inputs: np.ndarray) -> np.ndarray:
        """The inputs as the units see them: `scaling.input_scale` times x, then the bias; (n, `seen(d)`)."""
        scaled = self.scaling.input_scale * inputs
        return np.column_stack((scaled, np.full(len(scaled), self.bias))) if self.bias else scaled

    def seen(self, dim: int) -> int:
        """Dimension of what the units see of inputs of dimension `dim`: one more with a bias."""
        return dim + 1 if self.bias else dim

    def particles(self, values: Any, dim: int) -> np.ndarray:
        """`values` as particles for inputs of dimension `dim`, (N, 1 + `seen(dim)`); InputError if they are not."""
        return _checks.particles(values, dim, bool(self.bias))

    def __repr__(self) -> str:
        return f"Network({self.activation.name!r}, {self.scaling}{f', bias={self.bias:g}' if self.bias else ''})"
