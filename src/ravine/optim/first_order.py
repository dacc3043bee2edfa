"""Directions that use the gradient alone."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from ravine._results import Work
from ravine._types import Array, PyTree, RandomKey, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous


class Steepest(Direction):
    """d = −∇L. With `Fixed` it is gradient descent, with `Armijo` or `Wolfe` its globalised form.

    **Cost:** nothing beyond the gradient.
    """

    def init(self, objective: Objective, theta: Vector) -> None:
        return None

    def __call__(
        self, lin: Linearisation, theta: Vector, state: None, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, None]:
        return Line(-lin.grad, lin.grad), None


class Transform(Direction):
    """The update of any Optax transformation, seen from the user's own pytree (so that masks and matrix methods work).

    **Arguments:** `transformation`, or a function that makes one from `settings`, numbers by name. It is called inside
    the step, so that other numbers compile nothing; Optax alone would hide them in a closure.

    Value, gradient and value function are passed on, so that transformations with a line search or estimates of
    curvature of their own get what they need (what that costs is not counted). **Cost:** that of the transformation.

    DeepMind et al., *The DeepMind JAX Ecosystem* (Optax), 2020.
    """

    transformation: optax.GradientTransformation | Callable[..., optax.GradientTransformation] = eqx.field(static=True)
    settings: dict[str, float] = eqx.field(default_factory=dict)

    def _made(self) -> optax.GradientTransformation:
        make = self.transformation
        return make if isinstance(make, optax.GradientTransformation) else make(**self.settings)

    def init(self, objective: Objective, theta: Vector) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):
            return self._made().init(objective.layout.unravel(theta))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: PyTree, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, PyTree]:
        layout = lin.objective.layout
        gradient = layout.unravel(lin.grad)

        # Line searches refuse any argument that their function does not take, and Sophia asks for one by this name.
        def value_of(params, obj_fn=None) -> Array:
            del obj_fn
            return lin.objective(layout.ravel(params), lin.batch)

        # Optax mixes its integer step count with floats, which strict promotion would forbid.
        with jax.numpy_dtype_promotion("standard"):
            update = optax.with_extra_args_support(self._made()).update
            extra = {"value": lin.value, "grad": gradient, "value_fn": value_of, "obj_fn": value_of}
            updates, new = update(gradient, state, layout.unravel(theta), **extra)
        # Settings come in the precision of the vector, and would widen the memory of narrower leaves.
        if self.settings:
            new = jax.tree.map(lambda leaf, old: jnp.asarray(leaf, jnp.result_type(old)), new, state)
        updates = jax.tree.map(lambda update, leaf: update.astype(leaf.dtype), updates, gradient)
        return Line(layout.ravel(updates), lin.grad, Work()), new
