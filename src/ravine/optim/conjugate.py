"""Nonlinear conjugate gradients: each direction keeps a part of the last one."""

from collections.abc import Callable

import jax.numpy as jnp

from ravine._types import RandomKey, Scalar, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous

DOWNHILL = 1e-5  # the least cosine between a direction and −∇L

Formula = Callable[[Vector, Vector, Vector, Vector], Scalar]


def fletcher_reeves(grad: Vector, before: Vector, y: Vector, d: Vector) -> Scalar:
    """β = ‖g⁺‖²/‖g‖², or zero where gradients are far from orthogonal, |⟨g⁺, g⟩| ≥ ‖g⁺‖²/5, as they are when it jams.

    Roger Fletcher and Colin Reeves, *Function minimization by conjugate gradients*, 1964; Michael Powell, *Restart
    procedures for the conjugate gradient method*, 1977.
    """
    del y, d
    square = jnp.dot(grad, grad)
    return jnp.where(jnp.abs(jnp.dot(grad, before)) >= 0.2 * square, 0, square / jnp.dot(before, before))


def polak_ribiere(grad: Vector, before: Vector, y: Vector, d: Vector) -> Scalar:
    """β = max(0, ⟨g⁺, y⟩/‖g‖²), which starts over by itself where it jams.

    Elijah Polak and Gérard Ribière, *Note sur la convergence de méthodes de directions conjuguées*, 1969; Jean Charles
    Gilbert and Jorge Nocedal, *Global convergence properties of conjugate gradient methods for optimization*, 1992.
    """
    del d
    return jnp.maximum(jnp.dot(grad, y) / jnp.dot(before, before), 0)


def hager_zhang(grad: Vector, before: Vector, y: Vector, d: Vector) -> Scalar:
    """β = ⟨y − 2d‖y‖²/⟨d, y⟩, g⁺⟩/⟨d, y⟩, at least −1/(‖d‖ min(0.01, ‖g‖)): downhill whatever the search.

    William Hager and Hongchao Zhang, *A new conjugate gradient method with guaranteed descent and an efficient line
    search*, 2005, equations 1.3 to 1.6.
    """
    dy = jnp.dot(d, y)
    beta = (jnp.dot(y, grad) - 2 * jnp.dot(d, grad) * jnp.dot(y, y) / dy) / dy
    return jnp.maximum(beta, -1 / (jnp.linalg.norm(d) * jnp.minimum(0.01, jnp.linalg.norm(before))))


class NonlinearCG(Direction):
    """d⁺ = −g⁺ + β d, with `formula(g⁺, g, y, d) -> β`, y = g⁺ − g.

    It starts over with −g⁺ where β is not finite, where d⁺ is not downhill (cosine to −g⁺ below 10⁻⁵), after a failed
    search, and when the points were drawn anew, since conjugacy is a property of one loss. The search has to be strict:
    a curvature condition c₂ < ½ (`Wolfe(curvature=0.1)`), and a first trial from the last decrease
    (`shortest=0, longest=∞`), as d has no natural length.

    On a quadratic with exact searches this is the method of Hestenes and Stiefel, which ends after as many steps as
    there are distinct eigenvalues. **Cost:** some five inner products; nothing is stored.
    """

    formula: Formula

    def init(self, objective: Objective, theta: Vector) -> Scalar:
        """By which factor the last direction was shortened: the first one has length one at most."""
        return jnp.ones((), theta.dtype)

    def __call__(
        self, lin: Linearisation, theta: Vector, state: Scalar, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, Scalar]:
        grad, y, before = lin.grad, previous.y, previous.grad
        assert y is not None, "conjugate gradients need a search with gradients"
        assert before is not None
        begin = (previous.count == 0) | previous.failed
        last = previous.s / jnp.where(begin, 1, previous.t * state)
        beta = self.formula(grad, before, y, last)
        usable = ~begin & jnp.isfinite(beta) & jnp.all(grad - before == y)
        conjugate = -grad + jnp.where(usable, beta, 0) * last
        size = jnp.linalg.norm(grad)
        downhill = -jnp.dot(grad, conjugate) > DOWNHILL * size * jnp.linalg.norm(conjugate)
        scale = jnp.where(begin, 1 / jnp.maximum(size, 1), 1)
        return Line(jnp.where(usable & downhill, conjugate, -scale * grad), grad), scale
