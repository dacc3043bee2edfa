"""Where the points live: a domain knows its interior, boundary and initial slice as maps from the unit cube."""

from ravine.domains.box import Box, interval
from ravine.domains.region import Boundary, Faced, Region, Where

__all__ = ["Boundary", "Box", "Faced", "Region", "Where", "interval"]
