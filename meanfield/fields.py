"""Fields: what moves the particles. A field maps a state, a tuple of engine arrays, to its velocity."""

from functools import partial
from types import SimpleNamespace

import numpy as np

from . import _checks, engines
from .engines import Engine
from .errors import InputError
from .network import Network
from .problems import Problem
from .scaling import Scaling

_UNKNOWN = object()  # room for features, before the first velocity


def _algebra(engine: Engine, n_particles: int) -> SimpleNamespace:
    """The engine's linear algebra on clouds of so many particles, as the integrators want it."""
    norm = partial(engine.error_norm, n_particles=n_particles)
    return SimpleNamespace(combine=engine.combine, is_finite=engine.is_finite, error_norm=norm)


def ridge_rate(scaling: Scaling, ridge: float) -> float:
    """Rate xi lambda at which a ridge lambda shrinks the particles; InputError where the mobilities xi differ."""
    ridge = _checks.number(ridge, "ridge", least=0.0)
    if ridge and scaling.mobility_a != scaling.mobility_w:
        raise InputError(
            f"ridge is {ridge:g} with mobilities {scaling.mobility_a:g} and {scaling.mobility_w:g}; needed: equal ones."
        )
    return ridge * scaling.mobility_w


def check_temperature(scaling: Scaling, temperature: float) -> float:
    """A temperature of at least 0; InputError also where it is above 0 and the mobilities are not 1."""
    temperature = _checks.number(temperature, "temperature", least=0.0)
    if temperature and (scaling.mobility_a, scaling.mobility_w) != (1.0, 1.0):
        raise InputError(
            f"temperature is {temperature:g} with mobilities {scaling.mobility_a:g} and {scaling.mobility_w:g}; "
            "needed: both 1."
        )
    return temperature


def energy(mean_loss: float, mean_square: float, alpha: float, ridge: float) -> float:
    """E l / alpha^2 + (lambda/2) int |theta|^2 dmu: what a law goes down with mobilities 1, by its gradient in W2."""
    return mean_loss / alpha**2 + ridge / 2 * mean_square


class DataField:
    """Gradient flow of the risk on a data set (GFD): the particles go down R by

        dtheta_i/dt = -(N / 2 alpha^2) dR/dtheta_i = (1/alpha) sum_k p_k u_k grad_theta [a_i phi(w_i . x_k)],

    u_k = -dl/df at F(x_k) = f(x_k) - s f_0(x_k), s = `scaling.offset`.
    With masses m_i instead of 1/N these are the characteristics of the distributional dynamics
    d_t mu = -div(mu v[mu]): Mei, Misiakiewicz & Montanari (arXiv 1902.06015), eq. (DD).

    Parameters
    ----------
    network, problem
    start : (N, 1 + d)
        Particles at t = 0; they fix N and, where the scaling asks for it, the offset.
    masses : (N,), optional
        Scaled to sum to one; default 1/N.
    engine : "cpu", "reference" or an Engine
    dtype : "float64" or "float32"
    ridge : float
        lambda >= 0: the particles go down E l + (lambda/2) alpha^2 sum_i m_i |theta_i|^2 (for the square loss, half the
        square, E l = R/2), so that dtheta_i/dt = ... - xi lambda theta_i. Needs equal mobilities xi.

    Cost of a velocity: about (4 d + one activation) N n flops, O(N d) memory; the (N, n) array is formed only where it
    is small (docs: the CPU engine). A field keeps room for it: one field is for one thread at a time.
    """

    def __init__(
        self,
        network: Network,
        problem: Problem,
        start: np.ndarray,
        masses: np.ndarray | None = None,
        engine: str | Engine = "cpu",
        dtype: str = "float64",
        ridge: float = 0.0,
    ):
        _checks.instance(network, Network, "network", "a Network, e.g. Network('erf')")
        _checks.instance(problem, Problem, "problem", "a Problem(inputs, targets), or one from `problems`")
        start = network.particles(start, problem.dim)
        self.network, self.problem = network, problem
        self.engine, self.dtype = engines.find(engine), engines.check_dtype(dtype)
        self.n_particles, self.ridge = len(start), ridge_rate(network.scaling, ridge)
        self.masses = _checks.masses(masses, self.n_particles, "masses")
        self.algebra = (_algebra(self.engine, self.n_particles),)
        self._masses = self.engine.pack_masses(self.masses, self.dtype)
        self._inputs = self.engine.pack_inputs(network.inputs(problem.inputs), self.dtype)
        self._features = _UNKNOWN
        self._test_inputs = self.engine.pack_inputs(network.inputs(problem.test_inputs), self.dtype)
        self.offset, self.test_offset = np.zeros(len(problem.inputs)), np.zeros(len(problem.test_inputs))
        if factor := network.scaling.offset:
            cloud = self.engine.pack(start, self.dtype)
            self.offset, self.test_offset = (
                factor * self._output(cloud, self._inputs),
                factor * self._test_output(cloud),
            )
        self._drive = self._driven_by(network.scaling.alpha, -self.offset)

    def state(self, particles: np.ndarray) -> tuple:
        """The state whose particles are these, (N, 1 + d)."""
        particles = self.network.particles(particles, self.problem.dim)
        if len(particles) != self.n_particles:
            raise InputError(
                f"{len(particles)} particles for a field of {self.n_particles}; needed: as many as it has."
            )
        return (self.engine.pack(particles, self.dtype),)

    def particles(self, state: tuple, rows: slice = slice(None)) -> np.ndarray:
        """Particles (N, 1 + d), float64, of a state; or these rows of them."""
        return self.engine.unpack(state[0], self.n_particles, rows)

    def arrays(self, state: tuple) -> tuple[np.ndarray, ...]:
        """What a state, or a velocity, holds, as float64 arrays: clouds (N, 1 + d), vectors (n,). Exact."""
        return tuple(
            self.engine.unpack_vector(entry) if is_vector else self.engine.unpack(entry, self.n_particles)
            for entry, is_vector in zip(state, self._vectors(), strict=True)
        )

    def of_arrays(self, arrays: tuple[np.ndarray, ...]) -> tuple:
        """The state, or the velocity, that `arrays` gave, bit for bit."""
        return tuple(
            self.engine.pack_vector(entry) if is_vector else self.engine.pack(entry, self.dtype)
            for entry, is_vector in zip(arrays, self._vectors(), strict=True)
        )

    def _vectors(self):
        """Which entries of a state are vectors, and not clouds."""
        return [space is self.engine.VECTORS for space in self.algebra]

    def go_on(self, step: int) -> None:
        """Begin at this step instead of step 0: for fields whose velocity is a function of the step too."""

    def predict(self, state: tuple) -> np.ndarray:
        """F = f - f_0 at the training inputs, (n,)."""
        return self._output(state[0], self._inputs) - self.offset

    def predict_test(self, state: tuple) -> np.ndarray:
        """F = f - f_0 at the test inputs, (m,)."""
        return self._test_output(state[0]) - self.test_offset

    def velocity(self, state: tuple, out: tuple | None = None) -> tuple:
        """d state / dt; its one entry a cloud of velocities, per unit of flow time; in the arrays of `out` if given."""
        (cloud,) = state
        if self._features is _UNKNOWN:
            self._features = self.engine.features(cloud, self._inputs)
        sums = self.engine.predict(self.network.activation, cloud, self._masses, self._inputs, self._features)
        return (self.driven(cloud, sums, self._features, out and out[0]),)

    def driven(self, cloud, sums, features=None, out=None):
        """Velocity of the particles where the predictor at the training inputs is F = alpha sums - f_0.

        `sums` and what this makes of them stay where the engine has them: nothing waits for a device.
        `features`: what the engine kept of computing them at this very cloud.
        """
        (factor, drive), scaling = self._drive, self.network.scaling
        pull = self.engine.pull(self.problem.loss, sums, factor, drive)
        mobilities, activation = (scaling.mobility_a, scaling.mobility_w), self.network.activation
        return self._confined(self.engine.vjp(activation, cloud, self._inputs, pull, mobilities, features, out), cloud)

    def _confined(self, moved, cloud):
        """A velocity with what the ridge adds, in its place."""
        return self.engine.combine(moved, -self.ridge, [1.0], [cloud], moved) if self.ridge else moved

    def gradient_velocity(self, state: tuple):
        """The velocity of the gradient flow of all the data at the particles of a state: a cloud."""
        return self.velocity(state)[0]

    def speed(self, state: tuple) -> float:
        """sqrt(sum_i m_i |v_i|^2) of the gradient flow's velocity at a state."""
        velocity = self.engine.unpack(self.gradient_velocity(state), self.n_particles)
        return float(np.sqrt(self.masses @ (velocity**2).sum(axis=1)))

    def risk(self, state: tuple, predictions: np.ndarray) -> float:
        """sum_k p_k (y_k - F(x_k))^2; `predictions` are those of the state."""
        return float(self.problem.weights @ (self.problem.targets - predictions) ** 2)

    def loss(self, state: tuple, predictions: np.ndarray) -> float:
        """sum_k p_k l(F(x_k), y_k)."""
        return float(self.problem.weights @ self.problem.loss.value(predictions, self.problem.targets))

    def energy(self, state: tuple) -> float:
        """E l / alpha^2 + (lambda/2) sum_i m_i |theta_i|^2, with mobilities 1: m_i v_i is minus its gradient."""
        mean_square = float(self.masses @ (self.particles(state) ** 2).sum(axis=1)) if self.ridge else 0.0
        mean_loss = self.loss(state, self.predict(state))
        return energy(mean_loss, mean_square, self.network.scaling.alpha, self.ridge)

    def _driven_by(self, factor, shift):
        """What the pull needs where F = factor sums + shift."""
        problem = self.problem
        shares = problem.weights / self.network.scaling.alpha
        return factor, self.engine.pack_drive(shift, problem.targets, shares, self.dtype)

    def motion(self, cloud, velocity) -> np.ndarray:
        """dF/dt at the training inputs while the particles move with `velocity`: (K P u)_k, without K."""
        return self.engine.unpack_vector(self._motion(cloud, velocity, self.network.scaling.alpha))

    def _motion(self, cloud, velocity, factor, out=None):
        sums = self.engine.jvp(self.network.activation, cloud, velocity, self._masses, self._inputs)
        return self.engine.vector(sums, factor, out)

    def residual(self, state: tuple, predictions: np.ndarray) -> np.ndarray:
        """y - F at the training inputs, (n,); `predictions` are those of the state."""
        return self.problem.targets - predictions

    def _output(self, cloud, inputs) -> np.ndarray:
        sums = self.engine.predict(self.network.activation, cloud, self._masses, inputs)
        return self.engine.unpack_vector(self.engine.vector(sums, self.network.scaling.alpha))

    def _test_output(self, cloud) -> np.ndarray:
        return self._output(cloud, self._test_inputs) if len(self.problem.test_inputs) else np.zeros(0)
