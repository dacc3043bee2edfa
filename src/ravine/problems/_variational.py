"""What variational problems share: how an option becomes a quadrature rule."""

from typing import Literal

from ravine.domains import Box
from ravine.quadrature import Gauss
from ravine.samplers import Redrawn, Sampler, Sobol, Uniform

Points = Literal["gauss", "sobol", "uniform"]


def placed(rule: Points, domain: Box, **counts: int) -> Sampler:
    """Gauss–Legendre quadrature, fixed Sobol points, or uniform points drawn at every step."""
    if rule == "gauss":
        return Gauss(domain, **counts)
    if rule == "sobol":
        return Sobol(domain, **counts)
    if rule == "uniform":
        return Redrawn(Uniform(domain, **counts), every=1)
    raise ValueError(f"rule is {rule!r}; choose from gauss, sobol, uniform.")
