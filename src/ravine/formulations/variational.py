"""Equations under an integral: energies to be minimised, weak forms, test functions."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Model, PyTree, Scalar
from ravine.calculus import value_and_gradient
from ravine.domains import Box
from ravine.terms import Term, Weighted, squared


class _Density(eqx.Module):
    """density(F, z), checked to be one number."""

    name: str = eqx.field(static=True)
    density: Callable[[PyTree, Any], Scalar]

    def __call__(self, features, point):
        value = self.density(features, point)
        if jnp.shape(value) != ():
            raise ValueError(
                f"The energy {self.name!r} must be one number at a point, but its density has shape "
                f"{jnp.shape(value) or 'of a pytree'}. Likely causes: (a) a product where a sum over components is "
                "meant: jnp.vdot(slope, slope) for |∇u|², (b) a model with output of shape (1,): MLP(..., 'scalar', "
                "...) returns shape (), (c) a residual, which belongs into ravine.residual."
            )
        return value


def energy(
    name: str,
    density: Callable[[PyTree, Any], Scalar],
    *,
    features: Callable[[Model, Any], PyTree] = value_and_gradient,
    weight: float = 1.0,
) -> Term:
    """The mean of density((u, ∇u)(z), z) over the interior: a variational (Deep Ritz) problem.

    The loss is the energy density e itself, which may be negative; its minimiser solves the Euler–Lagrange equation
    −div ∂e/∂∇u + ∂e/∂u = 0 with natural conditions wherever the model does not impose others. With points from
    `ravine.Gauss` (or `ravine.Sparse`) the mean is a quadrature rule, with any other sampler Monte Carlo: means over
    other pieces of the domain (a flux on the boundary) then carry the ratio of the measures as their weight.

    Gauss–Newton sees e″, the Hessian of the density in the features at each point: for ½|∇u|² − f u the matrix is
    ∫ ∇(∂u/∂θᵢ)·∇(∂u/∂θⱼ), the Gramian of the energy norm, so that `energy_natural_gradient` and `levenberg_marquardt`
    are the energy natural gradient and its damped form. What is not convex in the features counts as zero there.

    Where the loss has been resolved to rounding, relative to |E|, the error in the energy norm is the root of that:
    about 1e-8 in float64. Methods that go on by slopes (`Wolfe`: quasi-Newton) may end below.

    **Arguments:** `density(F, z)`: one number, F = `features(u, z)`, by default (u, ∇u) with ∇u of shape `(*u, d)`;
    convex in F for the minimiser to be one.

    **Raises:** `ValueError` when the density is not one number.

    Weinan E and Bing Yu, *The Deep Ritz method*, 2018, equations 4–7; Johannes Müller and Marius Zeinhofer, *Achieving
    high accuracy with PINNs via energy natural gradient descent*, ICML 2023, section 3.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> dirichlet = rv.energy("energy", lambda F, z: jnp.vdot(F[1], F[1]) / 2 - F[0])
    >>> u = lambda z: z[0] * z[1]
    >>> z = jnp.array([2.0, 1.0])
    >>> float(dirichlet.loss(dirichlet.features(u, z), z))
    0.5

    ```
    """
    return Term(name, features, _Density(name, density), weight, "interior")


def weak(
    name: str,
    integrand: Callable[[PyTree, PyTree, Any], Scalar],
    tests: Callable[[Any], Any],
    *,
    features: Callable[[Model, Any], PyTree] = value_and_gradient,
    weight: float = 1.0,
) -> Term:
    """½ Σ_k (mean of integrand((u, ∇u), (v_k, ∇v_k), z))² over the interior: a PDE in weak (Petrov–Galerkin) form.

    **Arguments:** `integrand(F, V, z)`: linear in V = (v_k, ∇v_k), F = `features(u, z)`, by default (u, ∇u);
    `tests(z)`: the values of K test functions, `(K,)`, such as `ravine.Sines`. The batch entry is the
    quadrature: `Weighted` points (`ravine.Gauss`, at least twice as fine as the highest test function), or bare ones
    for Monte Carlo.

    **Raises:** `ValueError` when the integrand is not one number.

    **Cost:** one pass over all points at once, without blocks, on every device: K numbers a point.

    Ehsan Kharazmi, Zhongqiang Zhang and George Karniadakis, *Variational physics-informed neural networks for solving
    partial differential equations*, 2019.
    """
    return Term(name, _Tested(name, integrand, tests, features), squared, weight, "interior", whole=True)


class _Tested(eqx.Module):
    """The K weak residuals."""

    name: str = eqx.field(static=True)
    integrand: Callable[[PyTree, PyTree, Any], Scalar]
    tests: Callable[[Any], Any]
    features: Callable[[Model, Any], PyTree]

    def __call__(self, model, batch):
        points = batch.points if isinstance(batch, Weighted) else batch

        def one(point):
            found = self.features(model, point)
            each = jax.vmap(lambda *test: self.integrand(found, test, point))(*value_and_gradient(self.tests, point))
            if jnp.ndim(each) != 1:
                raise ValueError(
                    f"The weak form {self.name!r} must be one number for each test function, but its integrand has "
                    f"shape {jnp.shape(each)[1:]}. Sum over components: jnp.vdot(slope, test_slope)."
                )
            return each

        values = jax.vmap(one)(points)
        return batch.weights.astype(values.dtype) @ values if isinstance(batch, Weighted) else jnp.mean(values, axis=0)


class Sines(eqx.Module):
    """The test functions ∏ᵢ √2 sin κᵢ(zᵢ − lowᵢ) / |κ|, κᵢ = kᵢπ/lengthᵢ, kᵢ = 1 … `orders`: zero on a box's boundary.

    Orthonormal in the mean of ∇v·∇w, so that ½ Σ (weak residual)² is half the square of its norm dual to that.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> rv.Sines(rv.Box((0.0, 0.0), (1.0, 2.0)), 3)(jnp.array([0.5, 1.0])).shape
    (9,)

    ```
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    orders: int = eqx.field(static=True)

    def __init__(self, box: Box, orders: int):
        if orders < 1:
            raise ValueError(f"Sines: orders is {orders}, but must be at least 1.")
        self.low, self.high, self.orders = box.low, box.high, int(orders)

    def __call__(self, z):
        low = jnp.asarray(self.low, z.dtype)
        length = jnp.asarray(self.high, z.dtype) - low
        waves = jnp.arange(1, self.orders + 1, dtype=z.dtype)[None] * (jnp.pi / length)[:, None]
        sines = jnp.sqrt(2.0).astype(z.dtype) * jnp.sin(waves * (z - low)[:, None])
        product, square = jnp.ones(1, z.dtype), jnp.zeros(1, z.dtype)
        for sine, wave in zip(sines, waves, strict=True):
            product = (product[:, None] * sine[None]).reshape(-1)
            square = (square[:, None] + wave[None] ** 2).reshape(-1)
        return product / jnp.sqrt(square)
