"""An independent oracle: two-layer networks in plain Python floats, from the formulas of docs/notation alone.

    f(x) = alpha sum_i m_i a_i phi(w_i . x),    R = sum_k p_k (y_k - f(x_k))^2,
    dtheta_i/dt = (1/alpha) sum_k p_k u_k grad_theta [a_i phi(w_i . x_k)],    u = y - f

Every sum is a `math.fsum`, so it is rounded once. Slow on purpose; an activation is a pair (value, slope) of functions
of one float.
"""

import math
from operator import mul

import numpy as np


def _relu_slope(z):
    return 1.0 if z > 0 else 0.0  # the left slope at the kink


def _erf_slope(z):
    return 2.0 / math.sqrt(math.pi) * math.exp(-z * z)


def _tanh_slope(z):
    return 1.0 / math.cosh(z) ** 2


def _logistic(z):
    return 1.0 / (1.0 + math.exp(-z)) if z > 0 else math.exp(z) / (1.0 + math.exp(z))


def softplus(beta, prefactor):
    """prefactor / beta log(1 + e^(beta z)) and its slope."""

    def value(z):
        above = beta * z
        return prefactor / beta * (above + math.log1p(math.exp(-above)) if above > 0 else math.log1p(math.exp(above)))

    return value, lambda z: prefactor * _logistic(beta * z)


ACTIVATIONS = {
    "relu": (lambda z: max(z, 0.0), _relu_slope),
    "erf": (math.erf, _erf_slope),
    "tanh": (math.tanh, _tanh_slope),
    "softplus": softplus(1.0, 1.0),
    "softplus-geiger": softplus(5.0, 1.404),
    "linear": (lambda z: z, lambda z: 1.0),
}


def _dot(left, right):
    return math.fsum(map(mul, left, right))


def features(activation, particles, inputs):
    """phi(z_ik) and a_i phi'(z_ik) with z_ik = w_i . x_k, (N, n) both."""
    value, slope = activation
    rows, points = particles.tolist(), inputs.tolist()
    projections = [[_dot(row[1:], x) for x in points] for row in rows]
    values = [[value(z) for z in of_particle] for of_particle in projections]
    slopes = [[row[0] * slope(z) for z in of_particle] for row, of_particle in zip(rows, projections, strict=True)]
    return np.array(values), np.array(slopes)


def predict(activation, particles, masses, inputs, alpha=1.0):
    """f(x_k) = alpha sum_i m_i a_i phi(z_ik), (n,)."""
    values, _ = features(activation, particles, inputs)
    weighted = (masses * particles[:, 0]).tolist()
    return alpha * np.array([_dot(weighted, column) for column in values.T.tolist()])


def vjp(activation, particles, inputs, weights, mobilities=(1.0, 1.0)):
    """sum_k c_k grad_theta [a_i phi(z_ik)], its a part times xi_a, its w part times xi_w: (N, 1 + d)."""
    values, slopes = features(activation, particles, inputs)
    in_a = [mobilities[0] * _dot(weights.tolist(), row) for row in values.tolist()]
    pulls, columns = (weights * slopes).tolist(), inputs.T.tolist()
    in_w = [[mobilities[1] * _dot(pull, column) for column in columns] for pull in pulls]
    return np.column_stack([in_a, in_w])


def jvp(activation, particles, velocity, masses, inputs, alpha=1.0):
    """Derivative of f(x_k) along the particles' velocity, alpha sum_i m_i [a'_i phi + a_i phi' w'_i . x_k]: (n,)."""
    values, slopes = features(activation, particles, inputs)
    moved = np.array([[_dot(v, x) for x in inputs.tolist()] for v in velocity[:, 1:].tolist()])
    terms = masses[:, None] * (velocity[:, :1] * values + slopes * moved)
    return alpha * np.array([math.fsum(column) for column in terms.T.tolist()])


def risk(activation, particles, masses, inputs, targets, weights, alpha=1.0):
    """R = sum_k p_k (y_k - f(x_k))^2."""
    residual = targets - predict(activation, particles, masses, inputs, alpha)
    return _dot(weights.tolist(), (residual**2).tolist())


def velocity(activation, particles, masses, inputs, targets, weights, alpha=1.0, mobilities=(1.0, 1.0)):
    """(1/alpha) sum_k p_k u_k grad_theta [a_i phi(z_ik)], u = y - f: (N, 1 + d)."""
    residual = targets - predict(activation, particles, masses, inputs, alpha)
    return vjp(activation, particles, inputs, weights * residual / alpha, mobilities)


def kernel(activation, particles, masses, inputs, mobilities=(1.0, 1.0)):
    """K_kl = sum_i m_i [xi_a phi phi' + xi_w a_i^2 slope slope' x_k . x_l], (n, n)."""
    values, slopes = features(activation, particles, inputs)
    in_a = np.einsum("i,ik,il->kl", masses, values, values)
    in_w = np.einsum("i,ik,il->kl", masses, slopes, slopes)
    return mobilities[0] * in_a + mobilities[1] * in_w * np.einsum("kj,lj->kl", inputs, inputs)
