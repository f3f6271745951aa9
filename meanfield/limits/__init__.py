"""The limits N -> infinity: mean field (alpha = O(1)), NTK (alpha = O(sqrt N)), and what is exact: linear networks."""

from . import exact
from .mean_field import MeanFieldLimit, mean_field
from .ntk import NTKLimit, ntk
from .radial import RadialLimit, radial

__all__ = ["MeanFieldLimit", "NTKLimit", "RadialLimit", "exact", "mean_field", "ntk", "radial"]
