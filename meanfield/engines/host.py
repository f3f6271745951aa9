"""What every engine shares whose clouds are NumPy arrays: n numbers and their losses, the integrator's algebra."""

from typing import NamedTuple

import numpy as np


class Drive(NamedTuple):
    """What turns sums over the particles into the pull on them: (n,) each, float64."""

    shift: np.ndarray
    targets: np.ndarray
    shares: np.ndarray


def pack_drive(shift, targets, shares, dtype):
    return Drive(*(np.array(each, dtype=np.float64) for each in (shift, targets, shares)))


def pull(loss, sums, factor, drive):
    return drive.shares * loss.pull(factor * sums + drive.shift, drive.targets)


def pack_vector(values):
    return np.array(values, dtype=np.float64)


def unpack_vector(vector):
    return vector


def vector(sums, factor=1.0, out=None):
    return np.multiply(sums, factor, out=out)


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

    Not finite unless `after` is. Nothing is padded here, so that `n_particles` is not needed.
    """
    error = combine(np.zeros_like(before), step, coefficients, stages)
    with np.errstate(invalid="ignore"):
        error /= atol + rtol * np.maximum(np.abs(before), np.abs(after))
        error += after - after  # NaN where it is infinite, against which any error would look small
    # No BLAS here: its threads would spin on the cores that the next evaluation needs, and made it 3 times slower.
    return float(np.sum(np.square(error, dtype=np.float64))), error.size


def is_finite(array):
    return bool(np.isfinite(array).all())
