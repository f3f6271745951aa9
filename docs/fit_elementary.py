"""Fits the polynomials behind the CPU engine's exp, log1p and erf, and writes meanfield/engines/coefficients.py.

    python docs/fit_elementary.py        (needs mpmath; a few seconds)

Each is the interpolant at Chebyshev nodes in 40 digits; the largest relative error on 2,000 points is printed and
stays in the comment beside the coefficients.
"""

from pathlib import Path

from mpmath import mp, mpf

mp.dps = 40
TARGET = Path(__file__).resolve().parent.parent / "meanfield" / "engines" / "coefficients.py"


def expm1_rest(r):
    """(e^r - 1 - r) / r^2"""
    return mpf(1) / 2 + r / 6 + r**2 / 24 if abs(r) < mpf("1e-9") else (mp.expm1(r) - r) / r**2


def log_quotient(s2):
    """log((1 + s) / (1 - s)) / s at s^2"""
    return 2 + 2 * s2 / 3 if s2 < mpf("1e-19") else 2 * mp.atanh(mp.sqrt(s2)) / mp.sqrt(s2)


def erf_quotient(z2):
    """erf(z) / z at z^2"""
    return 2 / mp.sqrt(mp.pi) if z2 < mpf("1e-19") else mp.erf(mp.sqrt(z2)) / mp.sqrt(z2)


def erfc_scaled(t):
    """e^(z^2) erfc(z) at t = (z - 3) / (z + 3)"""
    z = 3 * (1 + t) / (1 - t)
    return mp.exp(z * z) * mp.erfc(z)


def _tail(z):
    return (mpf(z) - 3) / (mpf(z) + 3)


HALF_LOG2 = mp.log(2) / 2 * mpf("1.0001")
FITS = {
    "EXPM1_REST": (expm1_rest, -HALF_LOG2, HALF_LOG2, 10),
    "LOG_QUOTIENT": (log_quotient, mpf(0), (mp.sqrt(2) - 1) ** 4 * mpf("1.001"), 8),
    "ERF_QUOTIENT": (erf_quotient, mpf(0), mpf(1), 11),
    "ERFC_SCALED": (erfc_scaled, _tail(1), _tail("6.2"), 15),
}


def fit(function, low, high, degree):
    """Ascending coefficients of the interpolant at Chebyshev nodes, and its largest relative error."""
    middle, half = (low + high) / 2, (high - low) / 2
    nodes = [middle + half * mp.cos(mp.pi * (2 * k + 1) / (2 * degree + 2)) for k in range(degree + 1)]
    powers = mp.matrix([[x**j for j in range(degree + 1)] for x in nodes])
    coefficients = list(mp.lu_solve(powers, mp.matrix([function(x) for x in nodes])))
    points = [low + (high - low) * mpf(i) / 2000 for i in range(2001)]
    error = max(abs(mp.fsum(c * x**j for j, c in enumerate(coefficients)) / function(x) - 1) for x in points)
    return [float(c) for c in coefficients], float(error)


def main():
    head = "Written by docs/fit_elementary.py: do not edit. Ascending coefficients, with the error of each fit."
    lines = [f'"""{head}"""', ""]
    for name, (function, low, high, degree) in FITS.items():
        coefficients, error = fit(function, low, high, degree)
        meaning = f"{function.__doc__} on [{float(low):.4g}, {float(high):.4g}]: relative error {error:.1e}"
        print(name, meaning)
        lines += [f"# {meaning}", f"{name} = (", *(f"    {c!r}," for c in coefficients), ")"]
    TARGET.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
