"""Flow with momentum: the particles have a velocity of their own, which follows the gradient flow's with a delay."""

import numpy as np

from . import _checks
from .fields import DataField


class MomentumField(DataField):
    """Heavy-ball flow with delay tau:

        dtheta_i/dt = p_i,   dp_i/dt = (v_i(theta) - p_i) / tau,   p_i(0) = 0,

    p_i the state's second entry. Explicit steps are stable below some 2 tau, which adaptive ones find by themselves.

    v the velocity of `DataField`: what Geiger et al. (arXiv 1906.08034), appendix G, write as
    tau v' = -(v + grad L), in flow time. tau -> 0 is the gradient flow. With mobilities 1 the energy
    R / (2 alpha^2) + (tau / 2) sum_i m_i |p_i|^2 falls at the rate sum_i m_i |p_i|^2.
    """

    def __init__(self, delay: float, *rest):
        super().__init__(*rest)
        self.delay = _checks.number(delay, "momentum", above=0.0)
        self.algebra = (*self.algebra, *self.algebra)

    def state(self, particles):
        (cloud,) = super().state(particles)
        return cloud, self.engine.pack(np.zeros_like(particles, dtype=np.float64), self.dtype)

    def gradient_velocity(self, state):
        return DataField.velocity(self, (state[0],))[0]

    def velocity(self, state, out=None):
        cloud, speed = state
        to_cloud, to_speed = out or (None, None)
        (pulled,) = super().velocity((cloud,), None if to_speed is None else (to_speed,))
        # (v - p) / tau in the place of v, and p itself: an array of its own, for the integrator writes into it.
        change = self.engine.combine(pulled, -1.0, [1.0], [speed], pulled)
        change = self.engine.combine(change, 1.0 / self.delay - 1.0, [1.0], [change], change)
        return self.engine.combine(speed, 0.0, [], [], to_cloud), change
