"""Fits the polynomials behind the CPU engine's elementary functions; writes meanfield/engines/coefficients.py.

    python docs/fit_elementary.py        (needs mpmath; some seconds)

Each is the minimax polynomial by Remez exchange in 40 digits, in the relative error of the function that it serves,
which is what a term that the polynomial is multiplied by leaves of its own error. That error stays in the comment
beside the coefficients. The sets named SINGLE are for float32 and rounded to it.
"""

import struct
from pathlib import Path

from mpmath import mp, mpf

mp.dps = 40
TARGET = Path(__file__).resolve().parent.parent / "meanfield" / "engines" / "coefficients.py"
NEAR_ZERO = mpf("1e-9")


def expm1_rest(r):
    """(e^r - 1 - r) / r^2"""
    return mpf(1) / 2 + r / 6 + r**2 / 24 if abs(r) < NEAR_ZERO else (mp.expm1(r) - r) / r**2


def log_rest(s2):
    """(log((1 + s) / (1 - s)) / s - 2) / s^2 at s^2"""
    return mpf(2) / 3 + 2 * s2 / 5 if s2 < NEAR_ZERO**2 else 2 * (mp.atanh(mp.sqrt(s2)) / mp.sqrt(s2) - 1) / s2


def log1p_rest(f):
    """(log(1 + f) - f) / f^2"""
    return -mpf(1) / 2 + f / 3 - f**2 / 4 if abs(f) < NEAR_ZERO else (mp.log1p(f) - f) / f**2


def tanh_rest(y2):
    """(tanh(y) / y - 1) / y^2 at y^2"""
    return -mpf(1) / 3 + 2 * y2 / 15 if y2 < NEAR_ZERO**2 else (mp.tanh(mp.sqrt(y2)) / mp.sqrt(y2) - 1) / y2


def arcsin_rest(y2):
    """(arcsin(y) - y) / y^3 at y^2"""
    return mpf(1) / 6 + 3 * y2 / 40 if y2 < NEAR_ZERO**2 else (mp.asin(mp.sqrt(y2)) / mp.sqrt(y2) - 1) / y2


def erf_excess(z2):
    """erf(z) / z - 1 at z^2"""
    return (2 / mp.sqrt(mp.pi) if z2 < NEAR_ZERO**2 else mp.erf(mp.sqrt(z2)) / mp.sqrt(z2)) - 1


def erfc_scaled(z):
    """e^(z^2) erfc(z)"""
    return mp.exp(z * z) * mp.erfc(z)


def erfc_shifted(t):
    """e^(z^2) erfc(z) at t = z - 2.5"""
    return erfc_scaled(t + mpf("2.5"))


def erfc_folded(t):
    """e^(z^2) erfc(z) at t = (z - 3) / (z + 3)"""
    return erfc_scaled(_unfolded(t))


def _folded(z):
    return (mpf(z) - 3) / (mpf(z) + 3)


def _unfolded(t):
    return 3 * (1 + t) / (1 - t)


def _of_log(s2):
    return s2 / (2 + s2 * log_rest(s2))


def _of_tanh(y2):
    return y2 * mp.sqrt(y2) / mp.tanh(mp.sqrt(y2)) if y2 else mpf(0)


def _of_arcsin(y2):
    return y2 * mp.sqrt(y2) / mp.asin(mp.sqrt(y2)) if y2 else mpf(0)


def _of_small_erf(z2):
    return 1 / (1 + erf_excess(z2))


def _of_erf(z):
    return mp.exp(-z * z) / mp.erf(z)


def _of_expm1(r):
    return abs(r**2 / mp.expm1(r)) if r else mpf(0)


def _of_log1p(f):
    return abs(f**2 / mp.log1p(f)) if f else mpf(0)


HALF_LOG2 = mp.log(2) / 2 * mpf("1.0001")
LOG_FROM, LOG_TO = mp.sqrt(mpf(1) / 2) * mpf("0.9999") - 1, mp.sqrt(2) * mpf("1.0001") - 1
ERF_SEAM, TANH_SEAM = mpf("0.9"), mpf("0.45")
# The polynomial, what one unit of its error is of the result, where, and the degree.
FITS = {
    "EXPM1_REST": (expm1_rest, _of_expm1, -HALF_LOG2, HALF_LOG2, 9),
    "TANH_REST": (tanh_rest, _of_tanh, mpf(0), TANH_SEAM**2, 8),
    "LOG_REST": (log_rest, _of_log, mpf(0), (mp.sqrt(2) - 1) ** 4 * mpf("1.001"), 6),
    "ERF_EXCESS": (erf_excess, _of_small_erf, mpf(0), ERF_SEAM**2, 10),
    "ERFC_FOLDED": (erfc_folded, lambda t: _of_erf(_unfolded(t)), _folded(ERF_SEAM), _folded("5.95"), 11),
    "ARCSIN_REST": (arcsin_rest, _of_arcsin, mpf(0), mpf(1) / 4, 11),
    "SINGLE_EXPM1_REST": (expm1_rest, _of_expm1, -HALF_LOG2, HALF_LOG2, 4),
    "SINGLE_TANH_REST": (tanh_rest, _of_tanh, mpf(0), TANH_SEAM**2, 3),
    "SINGLE_LOG1P_REST": (log1p_rest, _of_log1p, LOG_FROM, LOG_TO, 8),
    "SINGLE_ERF_EXCESS": (erf_excess, _of_small_erf, mpf(0), ERF_SEAM**2, 5),
    "SINGLE_ERFC_SHIFTED": (erfc_shifted, lambda t: _of_erf(t + mpf("2.5")), ERF_SEAM - mpf("2.5"), mpf("1.5"), 7),
    "SINGLE_ARCSIN_REST": (arcsin_rest, _of_arcsin, mpf(0), mpf(1) / 4, 4),
}  # fmt: skip


def fit(function, weight, low, high, degree):
    """Ascending coefficients of the polynomial with the least max |weight (polynomial - function)|, and that."""
    points = 400
    grid = [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * k / points) for k in range(points + 1)]
    values, weights = [function(x) for x in grid], [weight(x) for x in grid]
    extrema = [round(points * k / (degree + 1)) for k in range(degree + 2)]
    while True:
        # At the extrema weight (polynomial - function) is to be +level, -level, +level, ...
        rows = [[grid[k] ** j * weights[k] for j in range(degree + 1)] + [(-1) ** i] for i, k in enumerate(extrema)]
        solution = mp.lu_solve(mp.matrix(rows), mp.matrix([values[k] * weights[k] for k in extrema]))
        coefficients, level = list(solution)[:-1], abs(solution[degree + 1])
        errors = [
            w * (mp.polyval(coefficients[::-1], x) - v) for x, v, w in zip(grid, values, weights, strict=True)
        ]  # fmt: skip
        worst = max(map(abs, errors))
        if worst <= level * mpf("1.01"):
            return [float(c) for c in coefficients], float(worst)
        extrema = _alternating(errors, degree + 2)


def _alternating(errors, count):
    """Where |error| is largest in each run of one sign; of too many, the smallest ends go."""
    runs = [[0]]
    for k in range(1, len(errors)):
        if (errors[k] > 0) == (errors[k - 1] > 0):
            runs[-1].append(k)
        else:
            runs.append([k])
    extrema = [max(run, key=lambda k: abs(errors[k])) for run in runs]
    while len(extrema) > count:
        extrema.pop(0 if abs(errors[extrema[0]]) < abs(errors[extrema[-1]]) else -1)
    return extrema


def shipped(name):
    """The coefficients of a set, rounded to the type that they serve, and the error of the fit."""
    coefficients, error = fit(*FITS[name])
    if name.startswith("SINGLE"):
        coefficients = [struct.unpack("f", struct.pack("f", c))[0] for c in coefficients]
    return coefficients, error


def main():
    head = "Written by docs/fit_elementary.py: do not edit. Ascending coefficients, with the error of each fit."
    lines = [f'"""{head}"""', ""]
    for name, (function, _, low, high, _) in FITS.items():
        coefficients, error = shipped(name)
        meaning = f"{function.__doc__} on [{float(low):.4g}, {float(high):.4g}]: relative error {error:.1e}"
        print(name, meaning)
        lines += [f"# {meaning}", f"{name} = (", *(f"    {c!r}," for c in coefficients), ")"]
    TARGET.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
