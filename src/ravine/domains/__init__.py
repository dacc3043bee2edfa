"""Where the points live: a domain knows its interior, boundary and initial slice as maps from the unit cube."""

from ravine.domains.ball import Ball
from ravine.domains.box import Box, interval
from ravine.domains.combined import Difference, InTime, Masked, Union
from ravine.domains.region import Boundary, Faced, Region, Where
from ravine.domains.simplex import Simplex

__all__ = [
    "Ball",
    "Boundary",
    "Box",
    "Difference",
    "Faced",
    "InTime",
    "Masked",
    "Region",
    "Simplex",
    "Union",
    "Where",
    "interval",
]
