"""Network: an activation and a scaling. The particles are not part of it; they are what moves."""

from dataclasses import dataclass

import numpy as np

from . import _checks
from .activations import ACTIVATIONS, Activation
from .errors import InputError
from .scaling import Scaling


@dataclass(frozen=True, init=False, repr=False)
class Network:
    """f(x) = alpha sum_i m_i a_i phi(w_i . x).

    Parameters
    ----------
    activation : name in `activations.ACTIVATIONS` or an Activation
    scaling : Scaling
        Default `Scaling.mean_field()`.

    Raises
    ------
    InputError
        If the activation is unknown, or either is of another type.
    """

    activation: Activation
    scaling: Scaling

    def __init__(self, activation: str | Activation, scaling: Scaling | None = None):
        activation = _checks.find(ACTIVATIONS, activation, "activation")
        scaling = Scaling.mean_field() if scaling is None else scaling
        if not isinstance(activation, Activation):
            raise InputError(f"activation is {activation!r}; needed: one of {', '.join(ACTIVATIONS)} or an Activation.")
        if not isinstance(scaling, Scaling):
            raise InputError(f"scaling is {scaling!r}; needed: a Scaling, e.g. Scaling(alpha=1.0) or Scaling.ntk(N).")
        object.__setattr__(self, "activation", activation)
        object.__setattr__(self, "scaling", scaling)

    def inputs(self, inputs: np.ndarray) -> np.ndarray:
        """The inputs as the units see them: `scaling.input_scale` times x."""
        return self.scaling.input_scale * inputs

    def __repr__(self) -> str:
        return f"Network({self.activation.name!r}, {self.scaling})"
