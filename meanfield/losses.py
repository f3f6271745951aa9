"""Losses: value l(f, y) and pull u = -dl/df at every data point. A new one is two lines and an entry.

They see n numbers per evaluation and stay in NumPy.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Loss:
    """A loss l(f, y), elementwise on arrays.

    value : (f, y) -> l
    pull : (f, y) -> u = -dl/df, what drives the particles (docs/notation).
    """

    name: str
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    pull: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def __repr__(self) -> str:
        return f"Loss({self.name!r})"


squared = Loss("squared", lambda f, y: 0.5 * (y - f) ** 2, lambda f, y: y - f)

LOSSES = {each.name: each for each in (squared,)}
