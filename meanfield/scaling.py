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
    shift : None, "initial" or a number s
        The predictor is F = f - s f_0: targets y + s f_0. "initial" is s = 1, so that the residual starts at y; s below
        0 adds a frozen copy of the initial network.
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
    shift: str | float | None = None
    input_scale: float = 1.0
    time_scale: float = 1.0

    def __post_init__(self):
        for field in ("alpha", "input_scale", "time_scale"):
            object.__setattr__(self, field, _checks.number(getattr(self, field), field, above=0.0))
        for field in ("mobility_a", "mobility_w"):
            object.__setattr__(self, field, _checks.number(getattr(self, field), field, least=0.0))
        if self.shift is not None and self.shift != "initial":
            if isinstance(self.shift, str):
                raise InputError(f"shift is {self.shift!r}; needed: None or 'initial' (learn f - f_0), or a number.")
            object.__setattr__(self, "shift", _checks.number(self.shift, "shift"))

    @property
    def offset(self) -> float:
        """s of F = f - s f_0."""
        return 0.0 if self.shift is None else 1.0 if self.shift == "initial" else float(self.shift)

    @classmethod
    def mean_field(cls) -> "Scaling":
        """alpha = 1: f = (1/N) sum_i a_i phi(w_i . x). Mei, Montanari & Nguyen (arXiv 1804.06561)."""
        return cls(1.0)

    @classmethod
    def ntk(cls, n_particles: int | None = None, c: float = 1.0, shift: str | float | None = "initial") -> "Scaling":
        """alpha = c sqrt(N), learning f - f_0, so that N -> infinity has a deterministic limit: the NTK flow.

        Raises InputError without N: alpha is of one width.
        """
        if n_particles is None:
            raise InputError("Scaling.ntk() is of no width; needed: Scaling.ntk(n_particles), alpha = c sqrt(N).")
        n_particles = _checks.count(n_particles, "n_particles")
        return cls(_checks.number(c, "c", above=0.0) * math.sqrt(n_particles), shift=shift)

    @classmethod
    def geiger(cls, alpha: float, h: int, dim: int = 1, loss: str = "half-square", form: str = "paper") -> "Scaling":
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
        form : "paper" or "code"
            Their code (feature_lazy) divides the loss by alpha_G and not by its square: its time is t / alpha_G.
        """
        factors = {"half-square": 1.0, "square": 0.5}
        native_per_flow = _checks.find(factors, str(loss), "loss of geiger")
        faster = _checks.find({"paper": False, "code": True}, str(form), "form of geiger")
        h, dim, alpha = _checks.count(h, "h"), _checks.count(dim, "dim"), _checks.number(alpha, "alpha", above=0.0)
        return cls(
            math.sqrt(h) * alpha,
            shift="initial",
            input_scale=1.0 / math.sqrt(dim),
            time_scale=native_per_flow / alpha if faster else native_per_flow,
        )

    @classmethod
    def golikov(
        cls,
        d: int,
        d_star: int,
        q_sigma: float,
        q_tilde_a: float,
        q_tilde_w: float,
        *,
        sigma: float = 1.0,
        eta_a: float = 1.0,
        eta_w: float = 1.0,
    ) -> "Scaling":
        """Golikov (arXiv 2003.05884, 2006.06574): f = s sum_i a_i phi(w_i . x), unit steps of gradient descent.

        With rates eta_a', eta_w' on the loss, half square or logistic, where at width d

            s = sigma (d/d_star)^q_sigma,   eta_a' = eta_a (d/d_star)^q_tilde_a,   eta_w' = eta_w (d/d_star)^q_tilde_w.

        alpha = d s, xi_a = eta_a'/eta_w', and a step is dt = eta_w' s^2 d of flow time: native time counts steps, so
        that `scheme="euler"` with dt = `from_native_time(1)` is his training.
        """
        d, d_star = _checks.count(d, "d"), _checks.count(d_star, "d_star")
        sigma, eta_a, eta_w = (
            _checks.number(value, what, above=0.0)
            for value, what in ((sigma, "sigma"), (eta_a, "eta_a"), (eta_w, "eta_w"))
        )
        q_sigma, q_tilde_a, q_tilde_w = (
            _checks.number(value, what)
            for value, what in ((q_sigma, "q_sigma"), (q_tilde_a, "q_tilde_a"), (q_tilde_w, "q_tilde_w"))
        )
        ratio = d / d_star
        try:
            s, rate_a, rate_w = sigma * ratio**q_sigma, eta_a * ratio**q_tilde_a, eta_w * ratio**q_tilde_w
            return cls(d * s, mobility_a=rate_a / rate_w, time_scale=1.0 / (rate_w * s**2 * d))
        except (OverflowError, ZeroDivisionError):
            raise InputError(
                f"(d/d_star) = {ratio:g} to the powers {q_sigma:g}, {q_tilde_a:g}, {q_tilde_w:g} leaves the range of "
                "floats; needed: moderate exponents."
            ) from None

    @classmethod
    def sym_default(cls, d: int, d_star: int, **options: float) -> "Scaling":
        """`golikov` with (-1/2, 1/2, 1/2): the NTK's alpha at a growing step; in flow time no limit of its own."""
        return cls.golikov(d, d_star, -0.5, 0.5, 0.5, **options)

    @classmethod
    def default(cls, d: int, d_star: int, **options: float) -> "Scaling":
        """`golikov` with (-1/2, 1, 0): what frameworks do with one rate for all layers, seen in his variables."""
        return cls.golikov(d, d_star, -0.5, 1.0, 0.0, **options)

    @classmethod
    def ic_mf(cls, d: int, d_star: int, *, subtracted: bool = False, sigma: float = 1.0, **options: float) -> "Scaling":
        """Golikov's mean field with the initial network corrected: f = s* (d/d*)^-1 sum_t + s* (d/d*)^(-1/2) sum_0.

        sum_t is the moving network's sum and sum_0 the initial one's, frozen. As printed (slides) F_0 is twice the
        reference at d = d*; `subtracted`: the frozen term less the initial network's own, as in his earlier code, so
        that F_0 is the reference. The limits are the same. Flow and steps are those of `golikov` with (-1, 1, 1).
        """
        plain = cls.golikov(d, d_star, -1.0, 1.0, 1.0, sigma=sigma, **options)
        frozen = math.sqrt(d / d_star) - (1.0 if subtracted else 0.0)
        return cls(plain.alpha, plain.mobility_a, shift=-frozen, time_scale=plain.time_scale)

    @classmethod
    def raw(cls, n_particles: int, sigma_a: float, eta: float = 1.0) -> "Scaling":
        """f = sum_i A_i phi(w_i . x), A ~ N(0, sigma_a^2) (He), steps of one rate eta for both layers; a = A / sigma_a.

        alpha = N sigma_a, xi_a = 1/sigma_a^2, and a step is dt = eta sigma_a^2 N.
        """
        n_particles = _checks.count(n_particles, "n_particles")
        sigma_a, eta = _checks.number(sigma_a, "sigma_a", above=1e-100), _checks.number(eta, "eta", above=1e-100)
        return cls(
            n_particles * sigma_a, mobility_a=1.0 / sigma_a**2, time_scale=1.0 / (eta * sigma_a**2 * n_particles)
        )

    @classmethod
    def chizat_bach(cls) -> "Scaling":
        """Chizat & Bach (arXiv 1805.09545): f = (1/m) sum, theta' = -m grad R, R half the square: as it is here."""
        return cls()

    @classmethod
    def cob19(cls, m: int, alpha: float, form: str = "sqrt") -> "Scaling":
        """Chizat, Oyallon & Bach (arXiv 1812.07956): the flow of R(alpha_C h) / alpha_C^2, R half the square.

        form : what h is. "sqrt": m^(-1/2) sum_i, alpha = sqrt(m) alpha_C, times agree. "mean": (1/m) sum_i,
            alpha = alpha_C, native time m t. "sum": alpha_C sum_i without the factor and with R itself (their a(m)),
            theta' = -grad R, alpha = m alpha_C, native time t / (m alpha_C^2).
        """
        m, alpha = _checks.count(m, "m"), _checks.number(alpha, "alpha", above=1e-100)
        found = {
            "sqrt": (math.sqrt(m) * alpha, 1.0),
            "mean": (alpha, float(m)),
            "sum": (m * alpha, 1.0 / (m * alpha**2)),
        }
        canonical, native_per_flow = _checks.find(found, str(form), "form of cob19")
        return cls(canonical, time_scale=native_per_flow)

    @classmethod
    def mmn18(cls) -> "Scaling":
        """Mei, Montanari & Nguyen (arXiv 1804.06561): SGD theta += 2 s_k (y - f) grad s, f = (1/N) sum_i, in their time
        sum_k s_k. Flow time is twice theirs.
        """
        return cls(time_scale=0.5)

    def to_native_time(self, t):
        """Time of the convention this scaling was built from, at flow time t."""
        return np.multiply(t, self.time_scale)

    def from_native_time(self, t):
        """Flow time at time t of the convention this scaling was built from."""
        return np.divide(t, self.time_scale)
