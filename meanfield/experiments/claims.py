"""The table of claims: what the sources state, one row each, with what this package measures for it.

A row's verdict is computed from its findings' intervals. Where a claim does not hold as stated the row says so, with
the sentence why. `meanfield claims` prints and writes it.
"""

import os
import time as clock
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from .. import _checks, _machine, fit
from ..errors import InputError
from . import dynamics, gaussians, limits, regimes
from .findings import Finding, worst

OUT_OF_SCOPE = "out of scope"


@dataclass(frozen=True)
class Claim:
    """A statement of the literature and what measures it.

    name : F01 .. F50
    statement, source : in a line
    measure : quick -> findings; None where it is out of scope
    why : the sentence for a row that differs or cannot tell; for one out of scope, what it would need
    """

    name: str
    statement: str
    source: str
    measure: Callable[[bool], list[Finding]] | None = None
    why: str = ""

    @property
    def runs(self) -> str:
        """The function that measures it."""
        if self.measure is None:
            return ""
        return f"{self.measure.__module__.removeprefix('meanfield.')}.{self.measure.__name__}"


@dataclass(frozen=True)
class Row:
    """A claim as measured.

    verdict : "agrees", "differs", "cannot tell" or "out of scope"
    seconds : it took
    """

    claim: Claim
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def verdict(self) -> str:
        return worst(self.findings) if self.findings else OUT_OF_SCOPE

    @property
    def sentence(self) -> str:
        """The verdict; where it is not "agrees", what it is about and why."""
        if self.verdict == "agrees":
            return "agrees"
        off = [each.what for each in self.findings if each.verdict == self.verdict]
        about = f" ({', '.join(off)})" if off and len(off) < len(self.findings) else ""
        return f"{self.verdict}{about}" + (f": {self.claim.why}" if self.claim.why else "")


def run(
    only: Sequence[str] = (), quick: bool = False, progress: Callable[[Claim], None] = lambda claim: None
) -> list[Row]:
    """Measure the claims, or those named in `only`.

    progress : called with each claim before it is measured

    Raises InputError for a claim that is not in the table.

    Cost: all of them within half an hour on two cores, `quick` within five minutes.
    """
    chosen = [_checks.find(CLAIMS, str(each).upper(), "claim") for each in only] or list(CLAIMS.values())
    rows = []
    for claim in chosen:
        progress(claim)
        began = clock.perf_counter()
        found = tuple(claim.measure(quick)) if claim.measure else ()
        rows.append(Row(claim, found, clock.perf_counter() - began))
    return rows


def markdown(rows: Iterable[Row]) -> str:
    """The table, a line for each claim."""
    lines = [
        "| | claim | source | runs | measured [95 %] | expected | verdict | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        claim = row.claim
        cells = (
            claim.name, claim.statement, claim.source, f"`{claim.runs}`" if claim.runs else "",
            "; ".join(map(str, row.findings)), "; ".join(each.wanted for each in row.findings), row.sentence,
            f"{row.seconds:.1f}" if row.findings else "",
        )  # fmt: skip
        lines.append("| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |")
    return "\n".join(lines)


def page(rows: Sequence[Row], quick: bool) -> str:
    """The table as a page of the docs, with what it was measured with."""
    made = ", ".join(f"{name} {version}" for name, version in _machine.versions().items())
    counts = ", ".join(f"{count} {verdict}" for verdict, count in summary(rows).items())
    command = "meanfield claims" + (" --quick" if quick else "")
    return f"""# The claims, as measured

What the sources state about infinitely wide two-layer networks, a row for each claim, and what this package measures.
Intervals are 95 %; a verdict is computed from them. "Expected" is what must lie in the interval, widened by what stands
behind +-, or the range that must hold it. An exponent whose interval is wider than {fit.WIDEST} cannot tell.

Written by `{command}` on {date.today().isoformat()}: {_machine.processor()}, {os.cpu_count()} cores; {made}.
{sum(row.seconds for row in rows):.0f} s in all. {counts}.

{markdown(rows)}
"""


def summary(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows of each verdict."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.verdict] = counts.get(row.verdict, 0) + 1
    return counts


def report(rows: Iterable[Row], quick: bool) -> dict:
    """The rows as plain data, for JSON."""
    return {
        "quick": quick,
        "claims": [
            {
                "name": row.claim.name, "statement": row.claim.statement, "source": row.claim.source,
                "runs": row.claim.runs, "verdict": row.verdict, "sentence": row.sentence, "seconds": row.seconds,
                "findings": [
                    {"what": each.what, "value": each.value, "interval": list(each.interval), "expected": each.expected,
                     "allowance": each.allowance, "verdict": each.verdict}
                    for each in row.findings
                ],
            }
            for row in rows
        ],
    }  # fmt: skip


# Rows read off the main job


@lru_cache(maxsize=2)
def _main_job(quick: bool):
    settings = limits.Settings(problem="teacher-student", activation="tanh", seeds=8 if quick else 16,
                               widths=(64, 128, 256, 512) if quick else (64, 128, 256, 512, 1024, 2048))  # fmt: skip
    return limits.run(settings).quantities


def _slopes(quick: bool, *names: str) -> list[Finding]:
    found = _main_job(quick)
    return [
        Finding(
            f"slope of {name}", found[name]["slope"], tuple(found[name]["slope_ci95"]), _expected(found[name]),
            fit.ALLOWANCE, fit.WIDEST,
        )
        for name in names
    ]  # fmt: skip


def _expected(row):
    return tuple(row["theory"]) if isinstance(row["theory"], list | tuple) else row["theory"]


def wasserstein(quick: bool) -> list[Finding]:
    """F06: exact W2 between the particles and a fresh sample of the limit, beside its sampling floor."""
    return _slopes(quick, "w2", "w2_floor")


def coupling(quick: bool) -> list[Finding]:
    """F07: distance of each particle from its copy in the limit's field."""
    return _slopes(quick, "coupling_distance")


def predictor(quick: bool) -> list[Finding]:
    """F08: f_N against the mean-field limit's f."""
    return _slopes(quick, "function_error_mf")


def tangent_flow(quick: bool) -> list[Finding]:
    """F09: u_N against e^(-K t) u_0, with the infinite kernel and with the network's own."""
    return _slopes(quick, "residual_error_ntk_infinite", "residual_error_ntk_own")


def lazy_kernel(quick: bool) -> list[Finding]:
    """F10: kernel drift at alpha = sqrt N over N, and at equal alpha over alpha and N."""
    return [*_slopes(quick, "kernel_drift_ntk"), *regimes.lazy_drift(quick)]


_TWO_LAYERS = "needs more than two layers"
_CLAIMS = (
    Claim("F01", "gradient flow theta' = (1/alpha) E[u grad s]", "report 3.1", dynamics.gradient_flow),
    Claim("F02", "residual dynamics u' = -K u beside the particles", "report 3.2, 3.5",
          dynamics.residual_beside_particles),
    Claim("F04", "dR/dt = -2 <u, K u> = -2 alpha^2 int v^2 dmu; R never rises", "all", dynamics.energy_balance),
    Claim("F06", "W2(mu_N, mu) -> 0: a rate in N", "report 4.2", wasserstein,
          "exact W2 of samples shows their floor, which is what is compared here"),
    Claim("F07", "synchronous coupling: C_N ~ N^-1/2", "MMM19", coupling),
    Claim("F08", "f_N -> f like N^-1/2", "report 4.2", predictor),
    Claim("F09", "NTK: u = e^(-K t) u_0, to N^-1/2 (infinite kernel), 1/N (own)", "report 4.3", tangent_flow),
    Claim("F10", "lazy kernel drift ~ 1/alpha, 1/sqrt N at alpha = sqrt N", "report 4.3, Geiger 5", lazy_kernel,
          "for a symmetric law of a the term 1/alpha vanishes: c1/(alpha sqrt N) + c2/alpha^2 is left, so that it is "
          "1/alpha^2 for pairs, N^-1/2 at equal alpha, and towards 1/N at alpha = sqrt N"),
    Claim("F11", "everything depends on sqrt(h) alpha_G = alpha alone", "Geiger 3, 5", regimes.collapse),
    Claim("F12", "feature regime: kernel change ~ alpha^-a, a = 1 for two layers", "Geiger 5, 6",
          regimes.feature_drift),
    Claim("F13", "displacement ~ alpha^-1/2 (feature), 1/alpha (lazy)", "Geiger B", regimes.displacement),
    Claim("F14", "time to learn t_1 ~ alpha in the feature regime", "Geiger 5", regimes.half_time,
          "for two layers t_half / alpha grows by a constant in each decade: a logarithm, not a power law"),
    Claim("F22", "relu: three regimes, the middle one alpha^-1/2", "Geiger F", regimes.three_regimes,
          "single sign flips rule the lazy end; the exponent varies from seed to seed by more than is asked"),
    Claim("F23", "f - f_0 and f: the same at small alpha, f fails at large", "Geiger I", regimes.subtraction),
    Claim("F24", "momentum of short delay is the gradient flow", "Geiger G", dynamics.momentum),
    Claim("F25", "the step rule's result does not depend on its bound", "Geiger (8), (9)", dynamics.step_rule),
    Claim("F26", "soft hinge beta = 20, stopped at margin 1, softplus beta = 5", "Geiger 2", dynamics.stop_at_margin),
    Claim("F38", "CNN against CNTK", "Golikov", None, "convolutional networks"),
    Claim("F39", "JKO: minimising movement with W2, order 1", "report 3.4", dynamics.minimising_movement),
    Claim("F40", "noisy dynamics: moments at N^-1/2, free energy decreases", "MMN18, MMM19", dynamics.langevin),
    Claim("F41", "two isotropic Gaussians: SGD follows the reduced equation", "MMN18", gaussians.isotropic),
    Claim("F42", "two radii; units that are not monotone get stuck", "MMN18", gaussians.plateau),
    Claim("F44", "teacher-student d = 100: U-shape of the test loss in the scale", "COB19", None, "a GPU's size"),
    Claim("F45", "implicit bias: margins of both layers", "Chizat 20", None, "not built"),
    Claim("F46", "step size ~ N^beta: propagation of chaos with SGD noise", "De Bortoli", None, "not built"),
    Claim("F48", "chaotic and ordered phases over depth", "Seleznova", None, _TWO_LAYERS),
    Claim("F49", "variance of the NTK's predictor over depth", "Seleznova", None, _TWO_LAYERS),
    Claim("F50", "bilinear neuron in closed form; t_half / alpha grows by ln 10 / 2 a decade", "own",
          dynamics.solvable),
)  # fmt: skip
CLAIMS = {each.name: each for each in sorted(_CLAIMS, key=lambda each: each.name)}


def check() -> None:
    """Raise InputError where the table lacks one of F01 to F50."""
    if missing := [f"F{k:02d}" for k in range(1, 51) if f"F{k:02d}" not in CLAIMS]:
        raise InputError(f"the table of claims lacks {', '.join(missing)}.")
