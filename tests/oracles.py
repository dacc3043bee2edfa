"""Dense formulas that the library is compared with.

They are written from the definitions, with plain `jax.grad`, `jax.jacfwd` and `jax.hessian` on sums that are not cut
into blocks, or with NumPy. Nothing here is taken from the library.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


class Dense:
    """L(θ) = Σ_k w_k Σ_i v_i φ_k(F_k(u_θ; x_i), x_i), all points at once, for real parameters of one precision.

    `parts` lists (features, loss, weight, points, point_weights): `point_weights` None means a mean, "whole" a term
    that sees its points together. `residual` says that every loss is ½‖F‖².
    """

    def __init__(self, parts: list[tuple], model: Any, *, residual: bool):
        params, static = eqx.partition(model, eqx.is_inexact_array)
        self.theta, unravel = ravel_pytree(params)
        self.model = lambda theta: eqx.combine(unravel(theta), static)
        self.parts, self.residual = parts, residual

    def _terms(self, theta):
        """For each term: its features as a (points, q) array, the loss of one such row, and the factors w v_i."""
        model = self.model(theta)
        for features, loss, weight, points, scales in self.parts:
            if isinstance(scales, str):
                points, scales = jax.tree.map(lambda leaf: leaf[None], points), np.ones(1)
            leaves = jax.tree.leaves(points)
            count = leaves[0].shape[0] if leaves else 1
            scales = np.full(count, 1 / count) if scales is None else np.asarray(scales)
            flat = lambda point, f=features: ravel_pytree(f(model, point))[0]
            first = jax.tree.map(lambda leaf: leaf[0], points)
            unflatten = ravel_pytree(features(model, first))[1]
            values = jax.vmap(flat)(points) if leaves else flat(None)[None]
            losses = lambda f, point, u=unflatten, phi=loss: phi(u(f), point)
            yield values, losses, points, jnp.asarray(weight * scales)

    def value(self, theta):
        total = 0.0
        for values, loss, points, factors in self._terms(theta):
            in_axes = (0, 0 if jax.tree.leaves(points) else None)
            total = total + jnp.sum(factors * jax.vmap(loss, in_axes)(values, points))
        return total

    def gradient(self, theta):
        return jax.grad(self.value)(theta)

    def hessian(self, theta):
        return jax.hessian(self.value)(theta)

    def features(self, theta):
        """All features, one after the other, without weights."""
        return jnp.concatenate([values.reshape(-1) for values, *_ in self._terms(theta)])

    def metric(self, theta):
        """The block-diagonal matrix Φ = diag(w v φ″(F)), so that the Gauss–Newton matrix is DᵀΦD with D = ∂F/∂θ."""
        blocks = []
        for values, loss, points, factors in self._terms(theta):
            in_axes = (0, 0 if jax.tree.leaves(points) else None)
            curved = jax.vmap(jax.hessian(loss), in_axes)(values, points)
            blocks += list(factors[:, None, None] * curved)
        return jax.scipy.linalg.block_diag(*blocks)

    def gram(self, theta):
        slopes = jax.jacfwd(self.features)(theta)
        return slopes.T @ self.metric(theta) @ slopes

    def rows(self, theta):
        """√(w v) F: the whitened residual, for squares."""
        return jnp.concatenate(
            [(jnp.sqrt(factors)[:, None] * values).reshape(-1) for values, _, _, factors in self._terms(theta)]
        )

    def jacobian(self, theta):
        return jax.jacfwd(self.rows)(theta)

    def curve(self, theta, v):
        """The second derivative of the features along v, contracted from the full third-order array."""
        return jnp.einsum("mij,i,j->m", jax.jacfwd(jax.jacfwd(self.features))(theta), v, v)


def parameter_step(jacobian, gradient, shift):
    """−(JᵀJ + shift·I)⁻¹∇L by NumPy."""
    matrix = np.asarray(jacobian).T @ np.asarray(jacobian)
    return -np.linalg.solve(matrix + shift * np.eye(matrix.shape[0]), np.asarray(gradient))


def geodesic_step(jacobian, residual, curve, shift):
    """v + ½a with v = −(JᵀJ + shift)⁻¹Jᵀr, a = −(JᵀJ + shift)⁻¹Jᵀr_vv (`curve(v)` gives r_vv); v, a apart as well."""
    velocity = parameter_step(jacobian, jacobian.T @ residual, shift)
    acceleration = parameter_step(jacobian, jacobian.T @ curve(velocity), shift)
    return velocity, acceleration


def broyden_family(inverse, s, y, tau, phi):
    """The textbook update of the *inverse*, written out as in the literature (Al-Baali, 1998)."""
    hy = inverse @ y
    yhy, rho = y @ hy, 1 / (y @ s)
    v = s * rho - hy / yhy
    return (inverse - np.outer(hy, hy) / yhy + phi * yhy * np.outer(v, v)) / tau + rho * np.outer(s, s)


def self_scaled_numbers(inverse, s, y):
    """(τ, φ) of the self-scaled Broyden method from H, s, y alone: b = sᵀH⁻¹s/yᵀs by solving with H."""
    n = s.size
    b, h = s @ np.linalg.solve(inverse, s) / (y @ s), y @ inverse @ y / (y @ s)
    a = b * h - 1
    c = np.sqrt(abs(a) / (1 + a))
    rho_minus = min(1, h * (1 - c))
    theta_minus, theta_plus = (rho_minus - 1) / a, 1 / rho_minus
    theta = max(theta_minus, min(theta_plus, (1 - b) / b))
    sigma = 1 + theta * a
    sigma_n = abs(sigma) ** (1 / (1 - n))
    rho_k = min(1, 1 / b)
    tau = min(rho_k * sigma_n, sigma) if theta <= 0 else rho_k * min(sigma_n, 1 / theta)
    return tau, (1 - theta) / (1 + a * theta)


def bfgs_product(inverse, s, y):
    """BFGS in its product form (I − ρsyᵀ)H(I − ρysᵀ) + ρssᵀ (Nocedal and Wright, 2006, equation 6.17)."""
    rho, eye = 1 / (y @ s), np.eye(s.size)
    return (eye - rho * np.outer(s, y)) @ inverse @ (eye - rho * np.outer(y, s)) + rho * np.outer(s, s)


def derivative(u: Callable, z, index: tuple[int, ...]):
    """A partial derivative as an entry of the full array of derivatives: forward over reverse mode."""
    for order in range(len(index)):
        u = jax.grad(u) if order == 0 else jax.jacfwd(u)
    return u(z)[index] if index else u(z)


def star_discrepancy(unit: np.ndarray) -> float:
    """The star discrepancy of points of [0, 1], exactly (Niederreiter, 1992, theorem 2.6)."""
    x = np.sort(unit)
    n = x.size
    return float(1 / (2 * n) + np.max(np.abs(x - (2 * np.arange(1, n + 1) - 1) / (2 * n))))
