"""The problems as a user of plain JAX would write them: a list of (W, b), nested `jvp`, one `vmap`.

Network, scaling, symmetry and hard conditions are those of `src/ravine/problems`; a test compares loss and gradient.
Nothing here is ravine's.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from benchmarks.start import Start


def mlp(params, x, activation=jnp.tanh):
    """W_L σ(… σ(W₁x + b₁) …) + b_L, a number."""
    for weight, bias in params[:-1]:
        x = activation(weight @ x + bias)
    weight, bias = params[-1]
    return (weight @ x + bias)[0]


def first(f, x):
    """f′(x)."""
    return jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


def second(f, x):
    """f(x), f′(x), f″(x) in one nested pass."""
    (value, slope), (_, curvature) = jax.jvp(lambda s: jax.jvp(f, (s,), (jnp.ones_like(s),)), (x,), (jnp.ones_like(x),))
    return value, slope, curvature


# ------------------------------------------------------------------------------------------------------- the problems


def burgers_solution(params, x, t):
    """Odd in x, −sin πx at t = 0, zero at x = ±1."""
    network = lambda x: mlp(params, jnp.stack([x, 2 * t - 1]))
    return -jnp.sin(jnp.pi * x) + t * (1 - x**2) * (network(x) - network(-x)) / 2


def burgers_pde(params, x, t):
    u, u_x, u_xx = second(lambda x: burgers_solution(params, x, t), x)
    u_t = first(lambda t: burgers_solution(params, x, t), t)
    return u_t + u * u_x - 0.01 / jnp.pi * u_xx


def poisson2d_solution(params, x, y):
    """Zero on the boundary of the unit square."""
    return 16 * x * (1 - x) * y * (1 - y) * mlp(params, jnp.stack([2 * x - 1, 2 * y - 1]))


def poisson2d_pde(params, x, y, *, k):
    u_xx = second(lambda x: poisson2d_solution(params, x, y), x)[2]
    u_yy = second(lambda y: poisson2d_solution(params, x, y), y)[2]
    return -(u_xx + u_yy) / (2 * (k * jnp.pi) ** 2) - jnp.sin(k * jnp.pi * x) * jnp.sin(k * jnp.pi * y)


def allen_cahn_solution(params, x, t):
    """Even and 2-periodic in x, by cosines; the kink of the start, smoothed by diffusion, is a feature."""
    s, w = 2 / jnp.pi * jnp.cos(jnp.pi * x / 2), jnp.sqrt(4e-4 * (t + 1e-10))
    kink = jnp.pi / 2 * (s * jax.scipy.special.erf(s / w) + w * jnp.exp(-((s / w) ** 2)) / jnp.sqrt(jnp.pi))
    return mlp(params, jnp.stack([2 * t - 1, *(jnp.cos(j * jnp.pi * x) for j in (1, 2, 3, 4)), 2 * kink - 1]))


def allen_cahn_pde(params, x, t):
    u, _, u_xx = second(lambda x: allen_cahn_solution(params, x, t), x)
    u_t = first(lambda t: allen_cahn_solution(params, x, t), t)
    return u_t - 1e-4 * u_xx - 5 * (u - u**3)


def allen_cahn_start(params, x, t):
    return allen_cahn_solution(params, x, t) - x**2 * jnp.cos(jnp.pi * x)


def convection_solution(params, x, t):
    """2π-periodic in x, sin x at t = 0; time in the unit in which the speed is one."""
    return jnp.sin(x) + t * mlp(params, jnp.stack([40 * t - 20, -jnp.cos(x), -jnp.sin(x)]), jnp.sin)


def convection_pde(params, x, t):
    u_x = first(lambda x: convection_solution(params, x, t), x)
    u_t = first(lambda t: convection_solution(params, x, t), t)
    return u_x + u_t / 40


def reaction_solution(params, x, t):
    """Even about x = π, a Gaussian at t = 0."""
    folded = jnp.pi - jnp.abs(x - jnp.pi)
    start = jnp.exp(-((x - jnp.pi) ** 2) / (2 * (jnp.pi / 4) ** 2))
    return start + t * mlp(params, jnp.stack([2 * folded / jnp.pi - 1, 2 * t - 1]))


def reaction_pde(params, x, t):
    u, u_t = jax.jvp(lambda t: reaction_solution(params, x, t), (t,), (jnp.ones_like(t),))
    return u_t - 5 * u * (1 - u)


# ----------------------------------------------------------------------------------------------- what a method is given


@dataclasses.dataclass(frozen=True)
class Statement:
    """A problem in plain JAX: `solution(params, x, y)`, and for each term a residual (params, x, y) and its weight."""

    solution: Callable
    terms: dict[str, tuple[Callable, float]]

    def residuals(self, params, points) -> dict[str, jax.Array]:
        """The residual of every term at every one of its points."""
        return {
            name: jax.vmap(lambda z, f=f: f(params, z[0], z[1]))(points[name]) for name, (f, _) in self.terms.items()
        }

    def loss(self, params, points) -> jax.Array:
        """Σ weight · mean ½r²."""
        found = self.residuals(params, points)
        means = [weight * jnp.mean(found[name] ** 2) / 2 for name, (_, weight) in self.terms.items()]
        return functools.reduce(jnp.add, means)

    def rows(self, params, points) -> dict[str, jax.Array]:
        """√(weight/m) r: half their sum of squares is `loss`. For methods that take residuals."""
        found = self.residuals(params, points)
        return {name: jnp.sqrt(weight / found[name].size) * found[name] for name, (_, weight) in self.terms.items()}

    def predict(self, params, grid) -> jax.Array:
        """The solution at grid points (g, 2)."""
        return jax.lax.map(lambda z: self.solution(params, z[0], z[1]), grid, batch_size=4096)


def statement(problem: str, options: dict) -> Statement:
    """The statement of a problem of ravine's."""
    if problem == "burgers":
        return Statement(burgers_solution, {"pde": (burgers_pde, 1.0)})
    if problem == "poisson2d":
        return Statement(poisson2d_solution, {"pde": (functools.partial(poisson2d_pde, k=options["k"]), 1.0)})
    if problem == "allen_cahn":
        return Statement(allen_cahn_solution, {"pde": (allen_cahn_pde, 1.0), "ic": (allen_cahn_start, 100.0)})
    if problem == "convection":
        return Statement(convection_solution, {"pde": (convection_pde, 1.0)})
    if problem == "reaction":
        return Statement(reaction_solution, {"pde": (reaction_pde, 1.0)})
    raise ValueError(f"There is no statement of the problem {problem!r} in plain JAX: write it in this file.")


@dataclasses.dataclass(frozen=True)
class Given:
    """What a peer on JAX starts from: the statement, parameters as a pytree and flat, points."""

    statement: Statement
    params: list
    theta: jax.Array
    points: dict[str, jax.Array]
    unravel: Callable

    @property
    def flat_loss(self) -> Callable:
        """loss(theta, points), for methods that take a vector."""
        return lambda theta, points: self.statement.loss(self.unravel(theta), points)


def given(start: Start) -> Given:
    """The start in plain JAX. **Raises:** `ValueError` when the loss there is not ravine's."""
    found = statement(start.problem, start.options)
    params = jax.tree.map(jnp.asarray, start.params)
    theta, unravel = ravel_pytree(params)
    points = jax.tree.map(jnp.asarray, start.points)
    start.check(float(jax.jit(found.loss)(params, points)))
    return Given(found, params, theta, points, unravel)
