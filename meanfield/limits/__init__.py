"""The limits N -> infinity: mean field (alpha = O(1)), NTK (alpha = O(sqrt N)), and what is exact: linear networks.

The mean field is solved along its characteristics (`mean_field`; `radial` for two Gaussians) or, for one input
dimension, as a partial differential equation (`grid`), which takes noise too. The predictor whose kernel does not move
is `frozen`, for any loss and any kernel; `ntk` is its closed form at the start.
"""

from . import exact
from .frozen import FrozenLimit, frozen
from .grid import GridLimit, grid
from .mean_field import MeanFieldLimit, mean_field
from .ntk import NTKLimit, ntk
from .radial import RadialLimit, radial

__all__ = [
    "FrozenLimit",
    "GridLimit",
    "MeanFieldLimit",
    "NTKLimit",
    "RadialLimit",
    "exact",
    "frozen",
    "grid",
    "mean_field",
    "ntk",
    "radial",
]
