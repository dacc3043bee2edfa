"""Directions that use the gradient alone."""

import equinox as eqx
import jax
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

    Value, gradient and value function are passed on, so that transformations with a line search of their own get what
    they need. **Cost:** that of the transformation.

    DeepMind et al., *The DeepMind JAX Ecosystem* (Optax), 2020.
    """

    transformation: optax.GradientTransformation = eqx.field(static=True)

    def init(self, objective: Objective, theta: Vector) -> PyTree:
        return self.transformation.init(objective.layout.unravel(theta))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: PyTree, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, PyTree]:
        layout = lin.objective.layout
        gradient = layout.unravel(lin.grad)

        def value_of(params) -> Array:
            return lin.objective(layout.ravel(params), lin.batch)

        update = optax.with_extra_args_support(self.transformation).update
        # Optax mixes its integer step count with floats, which strict promotion would forbid.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = update(
                gradient, state, layout.unravel(theta), value=lin.value, grad=gradient, value_fn=value_of
            )
        updates = jax.tree.map(lambda update, leaf: update.astype(leaf.dtype), updates, gradient)
        return Line(layout.ravel(updates), lin.grad, Work()), state
