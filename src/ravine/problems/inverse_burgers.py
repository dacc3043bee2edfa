"""Burgers' equation turned round: its coefficients from measurements of its solution."""

import jax.numpy as jnp
import numpy as np

from ravine.calculus import partials
from ravine.constraints import positive
from ravine.domains import Box
from ravine.formulations import residual, supervised
from ravine.minibatches import WithData
from ravine.models import MLP, Compose, Constrained, Inverse, Odd, Scale
from ravine.problems import reference
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.burgers import VISCOSITY, interior, start
from ravine.problems.problem import CoefficientReference, GridReference, Problem
from ravine.samplers import Sobol


def equation(u, z):
    """u_t + λ₁ u u_x − λ₂ u_xx."""
    value, u_x, u_t, u_xx = partials(u, z, (), 0, 1, (0, 0))
    return u_t + u.coefficients["speed"] * value * u_x - u.coefficients["viscosity"] * u_xx


def viscosity(model):
    """What must be positive."""
    return model.coefficients["viscosity"]


def inverse_burgers(
    *,
    samples: int = 2000,
    noise: float = 0.0,
    draw: int = 0,
    conditions: bool = True,
    points: int = 3000,
    width: int = 16,
    depth: int = 4,
    sampling: Sampling = "rad",
) -> Problem:
    """u_t + λ₁ u u_x = λ₂ u_xx: λ₁ = 1 and λ₂ = 0.01/π > 0 from `samples` values of u in [−1, 1] × [0, 1].

    The values are those of `burgers` at independent uniform places, with independent Gaussian noise of `noise` times
    their standard deviation; `draw` chooses places and noise. With `conditions`, initial and boundary values and the
    symmetry they share with the equation are known, and hold by construction as in `burgers`; without, u is a network
    on its own, as in the publications. Training starts at λ₁ = 0.5, λ₂ = 0.01. The error is the larger of the
    relative errors of λ₁ and λ₂. Reference: the numbers themselves, and the Cole–Hopf solution. Best published error of
    λ₂ seen: 3e-4 without noise, 4e-3 with 1 % (8 × 20 units, no conditions, L-BFGS).

    Maziar Raissi, Paris Perdikaris and George Karniadakis, *Physics-informed neural networks*, J. Comput. Phys. 2019,
    section 4.1.
    """
    if samples < 1 or not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"inverse_burgers: needs samples ≥ 1 and a finite noise ≥ 0, got {samples=}, {noise=}.")
    x, t = np.linspace(-1, 1, 257), np.linspace(0, 1, 101)
    solution = GridReference((x, t), reference.burgers(x[:, None], t[None, :], VISCOSITY), ("x", "t"))
    places, values = measured(samples, noise, draw)
    low = 0.0 if conditions else -1.0
    box, dtype = Box((low, 0.0), (1.0, 1.0), time=True), jnp.result_type(float)
    scaled = lambda key: Compose(Scale((-1.0, 0.0), (1.0, 1.0)), MLP(2, "scalar", width=width, depth=depth, key=key))
    network = lambda key: Constrained(Odd(scaled(key), axis=0), start, interior) if conditions else scaled(key)
    return Problem(
        terms=(residual("pde", equation), supervised("data")),
        sampler=WithData(
            sampled(Sobol(box, pde=points), sampling, every=300),
            data=(jnp.asarray(places, dtype), jnp.asarray(values, dtype)),
        ),
        model=lambda key: positive(Inverse(network(key), speed=0.5, viscosity=0.01), viscosity),
        reference=CoefficientReference({"speed": np.asarray(1.0), "viscosity": np.asarray(VISCOSITY)}, solution),
        name="inverse_burgers",
        options={
            "samples": samples,
            "noise": noise,
            "draw": draw,
            "conditions": conditions,
            "points": points,
            "width": width,
            "depth": depth,
            "sampling": sampling,
        },
    )


def measured(samples: int, noise: float, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Places (x, t) and the values measured there."""
    rng = np.random.default_rng(draw)
    places = rng.uniform((-1.0, 0.0), (1.0, 1.0), (samples, 2))
    exact = reference.burgers(places[:, 0], places[:, 1], VISCOSITY)
    return places, exact + noise * exact.std() * rng.standard_normal(samples)
