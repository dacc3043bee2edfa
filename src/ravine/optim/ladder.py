"""What to try when a search along a line found nothing: a ladder of directions, each surer to go down than the last."""

import equinox as eqx
import jax.numpy as jnp

from ravine._types import Array, PyTree, RandomKey, Scalar, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous

CAUTION = 0.1  # the share of the last accepted step that steepest descent tries first


class _Rung(eqx.Module):
    inner: PyTree
    failures: Array
    length: Scalar  # of the last accepted step


class Ladder(Direction):
    """A direction that becomes more careful after each search that failed:

    1. after one, the direction drops its memory (as those with memory do where the last search failed), and is turned
       halfway to −∇L: damping without a matrix, since (B + λI)⁻¹∇L turns to ∇L as λ grows;
    2. after two, −∇L, of a tenth of the length of the last accepted step;
    3. after three, `train` ends the phase and says so.

    A direction that is not finite, or does not point down, is replaced by −∇L at once. Any direction with a straight
    path can be wrapped. **Cost:** a few n.

    **Raises:** `TypeError` for a path that is not straight: `Damping` and `Radius` turn to −∇L by themselves.
    """

    direction: Direction

    def init(self, objective: Objective, theta: Vector) -> _Rung:
        return _Rung(self.direction.init(objective, theta), jnp.int32(0), jnp.ones((), theta.dtype))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Rung, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _Rung]:
        path, inner = self.direction(lin, theta, state.inner, previous, key=key)
        if not isinstance(path, Line):
            raise TypeError(
                f"Ladder: the path of {type(self.direction).__name__} is not straight. Searches for such paths, "
                "Damping and Radius, shorten and turn the step by themselves."
            )
        failures = jnp.where(previous.failed, state.failures + 1, 0)
        moved = (previous.count > 0) & ~previous.failed
        length = jnp.where(moved, jnp.linalg.norm(previous.s), state.length)
        grad, d = lin.grad, path.direction
        size, reach = jnp.linalg.norm(grad), jnp.linalg.norm(d)
        down = -grad / jnp.where(size > 0, size, 1)
        halfway = (d + reach * down) / 2
        sure = jnp.minimum(CAUTION * length, size) * down
        descends = jnp.isfinite(reach) & (jnp.dot(d, grad) < 0)
        d = jnp.where(failures == 0, d, jnp.where(failures == 1, halfway, sure))
        d = jnp.where(descends, d, jnp.minimum(size, 1) * down)
        return Line(d, grad, path.work), _Rung(inner, failures, length)
