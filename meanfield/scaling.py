"""Scaling: the canonical alpha, mobilities and target shift; and the dictionary of the literature's conventions.

f(x) = alpha sum_i m_i a_i phi(w_i . x), m_i = 1/N by default; flow time t of the canonical convention
(docs/notation). Every other convention is a constructor that returns this one.
"""

import math
from dataclasses import dataclass

import numpy as np

from . import _checks
from .errors import InputError


@dataclass(frozen=True)
class Scaling:
    """Which network f is, and which flow moves it.

    Parameters
    ----------
    alpha : float > 0
        f = alpha sum_i m_i a_i phi(w_i . x). O(1): mean field, features move. c sqrt(N): NTK, they freeze.
    mobility_a, mobility_w : float >= 0
        Factors xi_a, xi_w on the velocities of the output and of the inner weights.
    shift : None or "initial"
        "initial" learns with the predictor F = f - f_0 (targets y + f_0), so that the residual starts at y.
    input_scale : float > 0
        Factor on the inputs, for conventions such as Geiger's phi(d^(-1/2) w . x): x -> input_scale x.
    time_scale : float > 0
        Native time per unit of flow time.

    Raises
    ------
    InputError
        On values out of these ranges, or not finite.
    """

    alpha: float = 1.0
    mobility_a: float = 1.0
    mobility_w: float = 1.0
    shift: str | None = None
    input_scale: float = 1.0
    time_scale: float = 1.0

    def __post_init__(self):
        for field in ("alpha", "input_scale", "time_scale"):
            object.__setattr__(self, field, _checks.number(getattr(self, field), field, above=0.0))
        for field in ("mobility_a", "mobility_w"):
            object.__setattr__(self, field, _checks.number(getattr(self, field), field, least=0.0))
        if self.shift not in (None, "initial"):
            raise InputError(f"shift is {self.shift!r}; needed: None or 'initial' (learn f - f_0).")

    @classmethod
    def mean_field(cls) -> "Scaling":
        """alpha = 1: f = (1/N) sum_i a_i phi(w_i . x). Mei, Montanari & Nguyen (arXiv 1804.06561)."""
        return cls(1.0)

    @classmethod
    def ntk(cls, n_particles: int, c: float = 1.0, shift: str | None = "initial") -> "Scaling":
        """alpha = c sqrt(N), learning f - f_0, so that N -> infinity has a deterministic limit: the NTK flow."""
        n_particles = _checks.count(n_particles, "n_particles")
        return cls(_checks.number(c, "c", above=0.0) * math.sqrt(n_particles), shift=shift)

    @classmethod
    def geiger(cls, alpha: float, h: int, dim: int = 1, loss: str = "half-square") -> "Scaling":
        """Geiger, Spigler, Jacot & Wyart (arXiv 1906.08034): F = alpha_G (f - f_0), f = h^(-1/2) W . phi(d^(-1/2) w x).

        Their gradient flow of L = (1/(alpha_G^2 n)) sum_k l(F_k, y_k) is the canonical flow with
        alpha = sqrt(h) alpha_G, inputs over sqrt(d) and targets y + f_0. Flow time equals theirs for
        l = (F - y)^2 / 2 ("half-square") and runs at twice theirs for l = (F - y)^2 ("square").

        Parameters
        ----------
        alpha : float
            Their alpha_G.
        h : int
            Width.
        dim : int
            Dimension d of the inputs; 1 leaves them as they are.
        """
        factors = {"half-square": 1.0, "square": 0.5}
        native_per_flow = _checks.find(factors, str(loss), "loss of geiger")
        h, dim = _checks.count(h, "h"), _checks.count(dim, "dim")
        return cls(
            math.sqrt(h) * _checks.number(alpha, "alpha", above=0.0),
            shift="initial",
            input_scale=1.0 / math.sqrt(dim),
            time_scale=native_per_flow,
        )

    def to_native_time(self, t):
        """Time of the convention this scaling was built from, at flow time t."""
        return np.multiply(t, self.time_scale)

    def from_native_time(self, t):
        """Flow time at time t of the convention this scaling was built from."""
        return np.divide(t, self.time_scale)
