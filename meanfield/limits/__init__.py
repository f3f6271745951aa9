"""The limits N -> infinity: mean field (alpha = O(1)), NTK (alpha = O(sqrt N)), and the exactly solvable one.

The mean field is solved along its characteristics (`mean_field`) or, for one input dimension, as a partial
differential equation (`grid`), which takes noise too.
"""

from . import exact
from .grid import GridLimit, grid
from .mean_field import MeanFieldLimit, mean_field
from .ntk import NTKLimit, ntk

__all__ = ["GridLimit", "MeanFieldLimit", "NTKLimit", "exact", "grid", "mean_field", "ntk"]
