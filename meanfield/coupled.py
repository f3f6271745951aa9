"""Particles and residual flowing together: the residual/kernel dynamics (RD) beside the particles it drives."""

from .fields import DataField


class CoupledField(DataField):
    """A `DataField` whose residual r = y - F is a state of its own:

        dr/dt = -K_mu P u(r),   dtheta_i/dt = (1/alpha) sum_k p_k u_k(r) grad_theta [a_i phi(w_i . x_k)],

    u = r for the square loss, K_mu the tangent kernel of the moving cloud, P = diag(p). Nothing feeds y - F back
    into r, so their difference measures the integrator: for smooth activations it vanishes like dt^order. Where phi
    has a kink (relu) a particle that crosses it makes the velocity jump, and the difference falls more slowly.

    K_mu P u comes as the derivative of f along the particles' velocity (JVP): K is never formed.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.algebra = (*self.algebra, self.engine.VECTORS)
        self._drive = self._driven_by(-1.0, self.problem.targets)  # F = y - r

    def state(self, particles):
        (cloud,) = super().state(particles)
        return cloud, self.engine.pack_vector(self.problem.targets - self.predict((cloud,)))

    def velocity(self, state, out=None):
        cloud, residual = state
        to_cloud, to_residual = out or (None, None)
        velocity = self.driven(cloud, residual, out=to_cloud)
        return velocity, self._motion(cloud, velocity, -self.network.scaling.alpha, to_residual)

    def residual(self, state, predictions):
        return self.engine.unpack_vector(state[1])
