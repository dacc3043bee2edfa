"""Burgers' equation with three times the viscosity: a layer that a small network resolves to many digits."""

import numpy as np

from ravine.domains import Box
from ravine.formulations import residual
from ravine.models import MLP, Compose, Constrained, Odd, Scale
from ravine.problems import reference
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.burgers import Equation, interior, start
from ravine.problems.problem import GridReference, Problem
from ravine.samplers import Sobol

VISCOSITY = 0.01


def burgers_smooth(*, points: int = 2000, width: int = 20, depth: int = 4, sampling: Sampling = "rad") -> Problem:
    """u_t + u u_x = 0.01 u_xx on [−1, 1] × [0, 1], u(x, 0) = −sin πx, u(±1, t) = 0.

    Conditions and symmetry hold by construction, as in `burgers`. Points are drawn anew by residual every 300 steps.
    Reference: the Cole–Hopf solution by quadrature (error below 1e-12) on a 257 × 101 grid of the whole domain. Best
    published relative L2 error seen: 8e-14 (sketched Gauss–Newton, a sine network of 4 × 40).
    """
    half = Box((0.0, 0.0), (1.0, 1.0), time=True)
    x, t = np.linspace(-1, 1, 257), np.linspace(0, 1, 101)
    network = lambda key: MLP(2, "scalar", width=width, depth=depth, key=key)
    return Problem(
        terms=(residual("pde", Equation(VISCOSITY)),),
        sampler=sampled(Sobol(half, pde=points), sampling, every=300),
        model=lambda key: Constrained(
            Odd(Compose(Scale((-1.0, 0.0), (1.0, 1.0)), network(key)), axis=0), start, interior
        ),
        reference=GridReference((x, t), reference.burgers(x[:, None], t[None, :], VISCOSITY), ("x", "t")),
        name="burgers_smooth",
        options={"points": points, "width": width, "depth": depth, "sampling": sampling},
    )
