"""A conductivity from measurements of the potential: a whole field is unknown."""

import jax
import jax.numpy as jnp
import numpy as np

from ravine.calculus import gradient_and_laplacian, partials
from ravine.domains import Box
from ravine.formulations import residual, supervised
from ravine.minibatches import WithData
from ravine.models import MLP, Compose, Constrained, Inverse, Scale
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.poisson2d import interior, zero
from ravine.problems.problem import CoefficientReference, GridReference, Problem
from ravine.samplers import Sobol


def conductivity(x, y, numpy=np):
    """a = exp(½ sin πx cos πy + ¼ cos 2πx)."""
    return numpy.exp(numpy.sin(np.pi * x) * numpy.cos(np.pi * y) / 2 + numpy.cos(2 * np.pi * x) / 4)


def potential(x, y, numpy=np):
    """u = sin πx sin πy + ½ sin 2πx sin πy."""
    return (numpy.sin(np.pi * x) + numpy.sin(2 * np.pi * x) / 2) * numpy.sin(np.pi * y)


def source(z):
    """f = −∇·(a∇u) for the two above."""
    x, y = z
    a = conductivity(x, y, jnp)
    a_x = a * (jnp.pi / 2 * jnp.cos(jnp.pi * x) * jnp.cos(jnp.pi * y) - jnp.pi / 2 * jnp.sin(2 * jnp.pi * x))
    a_y = -a * jnp.pi / 2 * jnp.sin(jnp.pi * x) * jnp.sin(jnp.pi * y)
    along, up = jnp.sin(jnp.pi * x) + jnp.sin(2 * jnp.pi * x) / 2, jnp.sin(jnp.pi * y)
    u_x = jnp.pi * (jnp.cos(jnp.pi * x) + jnp.cos(2 * jnp.pi * x)) * up
    u_y = jnp.pi * along * jnp.cos(jnp.pi * y)
    laplacian = -(jnp.pi**2) * (jnp.sin(jnp.pi * x) + 2 * jnp.sin(2 * jnp.pi * x) + along) * up
    return -(a_x * u_x + a_y * u_y + a * laplacian)


def equation(u, z):
    """(−∇·(a∇u) − f)/10."""
    (u_x, u_y), second = gradient_and_laplacian(u, z)
    a, a_x, a_y = partials(u.coefficients["a"], z, (), 0, 1)
    return (-(a_x * u_x + a_y * u_y + a * second) - source(z)) / 10


def roughness(u, z):
    """∇ log a, whose mean square is kept small."""
    a, a_x, a_y = partials(u.coefficients["a"], z, (), 0, 1)
    return jnp.stack([a_x, a_y]) / a


def inverse_field(
    *,
    samples: int = 1000,
    noise: float = 0.0,
    draw: int = 0,
    ridge: float = 1e-10,
    points: int = 1000,
    width: int = 20,
    depth: int = 2,
    sampling: Sampling = "fixed",
) -> Problem:
    """−∇·(a∇u) = f on (0, 1)², u = 0 on the boundary: the field a > 0 from f and `samples` values of u inside.

    The truth is a = exp(½ sin πx cos πy + ¼ cos 2πx), u = (sin πx + ½ sin 2πx) sin πy. The values are taken at uniform
    places, with Gaussian noise of `noise` times their standard deviation; `draw` chooses both. a is the exponential of
    a network; ½ mean ‖∇ log a‖² times `ridge` is what makes the problem well-posed where ∇u vanishes. The error is that
    of a on a 51 × 51 grid. Reference: exact.
    """
    if samples < 1 or not (np.isfinite(noise) and noise >= 0) or not (np.isfinite(ridge) and ridge >= 0):
        raise ValueError(f"inverse_field: needs samples ≥ 1, noise ≥ 0, ridge ≥ 0; got {samples=}, {noise=}, {ridge=}.")
    rng = np.random.default_rng(draw)
    places = rng.uniform(0, 1, (samples, 2))
    exact = potential(*places.T)
    values = exact + noise * exact.std() * rng.standard_normal(samples)
    box, dtype, x = Box((0.0, 0.0), (1.0, 1.0), time=False), jnp.result_type(float), np.linspace(0, 1, 51)
    grid = lambda function: GridReference((x, x), function(x[:, None], x[None, :]), ("x", "y"))

    def model(key):
        first, second = (MLP(2, "scalar", width=width, depth=depth, key=jax.random.fold_in(key, k)) for k in (0, 1))
        scale = Scale(box.low, box.high)
        return Inverse(Constrained(Compose(scale, first), zero, interior), a=Compose(scale, second, jnp.exp))

    return Problem(
        terms=(
            residual("pde", equation),
            supervised("data", weight=100.0),
            residual("smooth", roughness, weight=ridge),
        ),
        sampler=WithData(
            sampled(Sobol(box, pde=points, smooth=max(points // 4, 1)), sampling, every=300),
            data=(jnp.asarray(places, dtype), jnp.asarray(values, dtype)),
        ),
        model=model,
        reference=CoefficientReference({"a": grid(conductivity)}, grid(potential)),
        name="inverse_field",
        options={
            "samples": samples,
            "noise": noise,
            "draw": draw,
            "ridge": ridge,
            "points": points,
            "width": width,
            "depth": depth,
            "sampling": sampling,
        },
    )
