"""Minimising movements: implicit steps of the flow as minima of energy plus distance, over N equal atoms.

    mu' = argmin  E l / alpha^2 + (lambda/2) int |theta|^2 dmu' + W2^2(mu', mu) / (2 tau)

Jordan, Kinderlehrer & Otto (1998); E l = R/2 for the square loss, so that the factor of their step is that of the flow
(docs/notation, trap 3). The energy does not see how atoms are numbered, and W2 is the least cost over all numberings:
at the minimum atom i of mu' belongs to atom i of mu, and W2^2 is (1/N) sum_i |theta_i' - theta_i|^2. What is left is a
minimum over N points, where theta_i' = theta_i + tau v_i(theta'): the implicit Euler step. It is looked for downhill
from mu, so that energy + W2^2 / (2 tau) at mu' is at most the energy at mu, whatever tau. Of several minima that is the
one below mu, not always the lowest.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import NoConvergence, minimize, newton_krylov

from .errors import ConvergenceError, InputError
from .fields import DataField

_EPS = float(np.finfo(np.float64).eps)


def check(field: DataField) -> None:
    """Raise InputError unless the flow of the field is the gradient flow of an energy of N equal atoms, in float64."""
    scaling, masses = field.network.scaling, field.masses
    if (scaling.mobility_a, scaling.mobility_w) != (1.0, 1.0):
        raise InputError(
            f"scheme 'jko' with mobilities {scaling.mobility_a:g} and {scaling.mobility_w:g}; needed: both 1."
        )
    if not np.allclose(masses, 1.0 / len(masses), rtol=1e-12):
        raise InputError(f"scheme 'jko' with masses from {masses.min():g} to {masses.max():g}; needed: equal ones.")
    if field.dtype != "float64":
        raise InputError(f"scheme 'jko' with dtype {field.dtype!r}; needed: 'float64'.")


def step(field: DataField, velocity: Callable, state: tuple, tau: float, tolerance: float, time: float) -> tuple:
    """The state a minimising movement of size tau away.

    velocity : (state, None) -> velocity, the field's
    tolerance : largest entry of theta' - theta - tau v(theta') over that of tau v(theta), beside rounding
    time : flow time of `state`, for the message

    Raises
    ------
    ConvergenceError
        If the minimum is not found to that accuracy: what was reached.

    Quasi-Newton steps (L-BFGS) go down; they end where the energy's rounding hides its fall, at about 1e-8, and Newton
    steps on the implicit equation take it from there. Cost: some 10 to 100 velocities and predictions.
    """
    start = field.particles(state)
    here, size = field.energy(state), float(len(start))

    def to_state(flat):
        return (field.engine.pack(flat.reshape(start.shape), field.dtype),)

    def defect(flat):
        """theta' - theta - tau v(theta'), the gradient of N tau times what is minimised."""
        (moves,) = velocity(to_state(flat), None)
        return flat - start.ravel() - tau * field.engine.unpack(moves, len(start)).ravel()

    def rise(flat):
        """N tau times what is minimised, above its value at mu."""
        return size * tau * (field.energy(to_state(flat)) - here) + 0.5 * np.sum((flat - start.ravel()) ** 2)

    def worst(flat):
        return float(np.abs(defect(flat)).max())

    target = tolerance * worst(start.ravel()) + 8.0 * _EPS * float(np.abs(start).max())
    options = {"gtol": target, "ftol": 0.0, "maxiter": 2000, "maxfun": 5000, "maxls": 40}
    down = minimize(lambda x: (rise(x), defect(x)), start.ravel(), jac=True, method="L-BFGS-B", options=options)
    found = down.x
    if not worst(found) <= target:
        try:
            found = newton_krylov(defect, down.x, f_tol=target, maxiter=40)
        except (NoConvergence, ValueError):  # ValueError: not finite
            found = down.x
    # Newton's steps look for a zero of the gradient: one that is no lower than where they began is another one.
    slack = 64.0 * _EPS * (size * tau * abs(here) + np.sum(found**2))
    if not (worst(found) <= target and rise(found) <= min(0.0, float(down.fun)) + slack):
        raise ConvergenceError(
            f"the minimising movement after t = {time:g} is known to {worst(down.x):.1e} in the parameters; needed "
            f"{target:.1e}. Use a smaller dt than {tau:g} and a smooth activation: at a kink, as of relu, the velocity "
            "jumps and there may be no minimum where it vanishes."
        )
    return to_state(found)
