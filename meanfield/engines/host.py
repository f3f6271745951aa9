"""Linear algebra of the time integrator on host arrays, shared by every engine whose clouds are NumPy arrays."""

import numpy as np


def combine(base, step, coefficients, stages, out=None):
    """base + step sum_j c_j stage_j, skipping zeros of the tableau; dtype of `base`. In `out`, if that is given."""
    result = np.empty_like(base) if out is None else out
    result[...] = base
    scratch = np.empty_like(base)
    for coefficient, stage in zip(coefficients, stages, strict=False):
        if coefficient != 0.0:
            np.multiply(stage, float(step * coefficient), out=scratch)
            result += scratch
    return result


def error_norm(step, coefficients, stages, before, after, rtol, atol, n_particles=None):
    """Sum of squares of step sum_j c_j stage_j in units of its tolerance, and its number of entries.

    Nothing is padded here, so that `n_particles` is not needed.
    """
    error = combine(np.zeros_like(before), step, coefficients, stages)
    error /= atol + rtol * np.maximum(np.abs(before), np.abs(after))
    # No BLAS here: its threads would spin on the cores that the next evaluation needs, and made it 3 times slower.
    return float(np.sum(np.square(error, dtype=np.float64))), error.size


def is_finite(array):
    return bool(np.isfinite(array).all())
