"""The rows of the table of `meanfield limits`: what theory says, slopes, intervals, verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import fit

FEWEST_SEEDS = 4  # with fewer no interval is worth a verdict
TOWARDS_MINUS_ONE = (-1.1, -0.65)  # what the interval of a slope "towards -1" must lie in


@dataclass(frozen=True)
class Quantity:
    """A row of the table: what is measured at which alpha, and theory's exponent (or range) for it."""

    name: str
    alpha: str
    theory: float | tuple[float, float] | None
    meaning: str


QUANTITIES = (
    Quantity("function_error_mf", "1", -0.5, "sup_t rms(f_N - f_MF), test inputs"),
    Quantity("coupling_distance", "1", -0.5, "sup_t C_N(t), own field against the limit's"),
    Quantity("w2", "1", None, "W2(mu_N, fresh N-sample of the limit) at t_end; theory: the floor's slope"),
    Quantity("w2_floor", "1", None, "W2 of two such fresh samples; theory: -1/(1+d), or log(N)/sqrt(N) where 1+d = 2"),
    Quantity("variance_mf", "1", -1.0, "variance of f_N over seeds, test inputs, t_end"),
    Quantity("variance_ntk", "sqrt(N)", -1.0, "variance of f_N - f_0 over seeds, test inputs, t_end"),
    Quantity("residual_error_ntk_infinite", "sqrt(N)", -0.5, "sup_t rms(u_N - u), infinite kernel, training inputs"),
    Quantity("residual_error_ntk_own", "sqrt(N)", TOWARDS_MINUS_ONE, "sup_t rms(u_N - u), own kernel at t = 0"),
    Quantity("kernel_drift_mf", "1", 0.0, "norm(K_t - K_0) / norm(K_0) at t_end: tends to a constant"),
    Quantity("kernel_drift_ntk", "sqrt(N)", TOWARDS_MINUS_ONE, "norm(K_t - K_0) / norm(K_0) at t_end"),
)


def table(
    measured: Mapping[str, np.ndarray], widths: Mapping[str, tuple[int, ...]], dim: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Rows of the table, in order, from what was measured.

    measured : name -> (seeds, widths); widths : name -> (widths); dim : 1 + d; seed : of the bootstrap
    """
    rows = {each.name: _row(each, widths[each.name], measured[each.name], seed) for each in QUANTITIES}
    floor = rows["w2_floor"]
    floor["theory"] = floor_exponent(dim, widths["w2_floor"])
    rows["w2"]["theory"] = floor["slope"]
    for row in (rows["w2"], floor):
        if row["slope"] is not None and len(row["per_seed"]) >= FEWEST_SEEDS:
            row["verdict"] = fit.verdict(tuple(row["slope_ci95"]), row["theory"])
    for row in rows.values():
        row["theory_in_interval"] = None if row["slope"] is None else fit.contains(row["slope_ci95"], row["theory"])
    if widths["w2"] and floor["slope"] is not None:
        ratio = np.array(rows["w2"]["per_seed"]) / np.array(floor["per_seed"])
        rows["w2"]["ratio_to_floor"] = ratio.mean(axis=0).tolist()
        rows["w2"]["ratio_to_floor_ci95"] = fit.mean_interval(ratio, seed=seed).T.tolist()
    return rows


def _row(each: Quantity, widths: tuple[int, ...], values: np.ndarray, seed: int) -> dict[str, Any]:
    mean = values.mean(axis=0).tolist() if widths else []
    row: dict[str, Any] = {
        "alpha": each.alpha, "meaning": each.meaning, "widths": list(widths), "mean": mean, "mean_ci95": None,
        "per_seed": values.tolist(), "slope": None, "slope_ci95": None, "intercept": None,
        "theory": list(each.theory) if isinstance(each.theory, tuple) else each.theory, "verdict": "cannot tell",
    }  # fmt: skip
    # W2 of a ladder that starts above its largest N; or nothing that differs, so that there is no logarithm.
    if len(widths) < 2 or not min(mean) > 0:
        return row
    law = fit.power_law(widths, values, seed=seed)
    row |= {
        "mean_ci95": fit.mean_interval(values, seed=seed).T.tolist(), "slope": law.slope,
        "slope_ci95": list(law.interval), "intercept": law.intercept,
    }  # fmt: skip
    if each.theory is not None and len(values) >= FEWEST_SEEDS:
        row["verdict"] = fit.verdict(law.interval, each.theory)
    return row


def floor_exponent(dim: int, widths: tuple[int, ...]) -> float:
    """Slope of W2 between two N-samples of a Gaussian law in `dim` dimensions over these widths.

    N^(-1/dim) for dim >= 3 (Fournier & Guillin 2015); log(N) / sqrt(N) for dim = 2 (Ledoux 2017; Talagrand 2018),
    whose slope is far from -1/2 at any N in reach.
    """
    if dim >= 3 or len(widths) < 2:
        return -1.0 / dim
    logs = np.log(np.maximum(widths, 2))
    return float(np.polyfit(logs, np.log(logs) - logs / 2, 1)[0])
