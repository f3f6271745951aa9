"""Interactions: the integrand k(row, node) of every sum over particles or data, written once.

Everything expensive is out(row) = sum_j mass_j k(row, node_j). For units s(x; a, w) = a phi(w . x) the integrand
depends on the pair (particle, input) through a and z = w . x alone, so each interaction is a formula in these
scalars; an engine supplies z, the loop and the contraction with x. `phi` is an activation's formula.
"""


def unit(phi):
    """s = a phi(z). Summed over particles: the prediction."""

    def formula(a, z):
        value, _ = phi(z)
        return a * value

    return formula


def unit_gradient(phi):
    """(ds/da, ds/dz) = (phi(z), a phi'(z)); ds/dw = ds/dz x. Summed over inputs: the velocity (VJP)."""

    def formula(a, z):
        value, slope = phi(z)
        return value, a * slope

    return formula


def unit_motion(phi):
    """Derivative of s along (da, dw), with dz = dw . x. Summed over particles: the motion of f (JVP)."""

    def formula(a, z, da, dz):
        value, slope = phi(z)
        return da * value + a * slope * dz

    return formula
