"""Statistics of paired rounds: in a round every contender is timed once, one soon after another."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def median_ratio(above: Sequence[float], below: Sequence[float], *, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """median(above) / median(below) and its 95 % percentile bootstrap interval; whole rounds are drawn.

    above, below : (rounds,) times of the same rounds; if one stopped earlier, the rounds that both have count.
    """
    rounds = min(len(above), len(below))
    pairs = np.array([above[:rounds], below[:rounds]], dtype=float)
    drawn = pairs[:, np.random.default_rng(seed).integers(rounds, size=(RESAMPLES, rounds))]
    top, bottom = np.median(drawn, axis=2)
    low, high = np.percentile(top / bottom, [2.5, 97.5])
    ratio = np.median(pairs[0]) / np.median(pairs[1])
    return float(ratio), (float(low), float(high))


def calls_per_turn(seconds: float, slice_seconds: float, most: int = 100) -> int:
    """How many calls of so many seconds fit a turn: at least one."""
    return int(np.clip(slice_seconds / max(seconds, 1e-9), 1, most))


def hopeless(times: dict[str, list[float]], ours: str, after: int = 3, factor: float = 2.0) -> set[str]:
    """Contenders that need not be timed further: after a few rounds, never within `factor` of the best peer."""
    peers = {label: rounds for label, rounds in times.items() if label != ours and len(rounds) >= after}
    if not peers:
        return set()
    best = min(np.median(rounds) for rounds in peers.values())
    return {label for label, rounds in peers.items() if min(rounds) > factor * best}
