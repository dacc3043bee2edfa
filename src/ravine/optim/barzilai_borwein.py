"""Gradient steps whose length is learnt from the last step."""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp

from ravine._types import RandomKey, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous


class BarzilaiBorwein(Direction):
    """d = −α∇L, with 1/α a Rayleigh quotient of the Hessian averaged over the last step s: of s or of y = Δ∇L.

    - "long": α = sᵀs/sᵀy; "short": α = sᵀy/yᵀy, the smaller one; "alternating": one after the other (Yu-Hong Dai and
      Roger Fletcher, *Projected Barzilai–Borwein methods for large-scale box-constrained quadratic programming*, 2005);
    - "adaptive": the short one where it is less than half of the long one, else the long one (Bin Zhou, Li Gao and
      Yu-Hong Dai, *Gradient methods with adaptive step-sizes*, 2006).

    Where sᵀy ≤ 0, α = ‖s‖/‖y‖; at the start and after a failed search, the step has length one at most. Losses rise on
    the way: the search should let them (`NonMonotone`).

    Jonathan Barzilai and Jonathan Borwein, *Two-point step size gradient methods*, 1988; Marcos Raydan, *The Barzilai
    and Borwein gradient method for the large scale unconstrained minimization problem*, 1997, for the safeguard.

    **Cost:** three inner products.
    """

    rule: Literal["long", "short", "alternating", "adaptive"] = eqx.field(static=True, default="adaptive")

    def __check_init__(self):
        if self.rule not in ("long", "short", "alternating", "adaptive"):
            raise ValueError(
                f"BarzilaiBorwein: rule is {self.rule!r}, but must be 'long', 'short', 'alternating' or 'adaptive'."
            )

    def init(self, objective: Objective, theta: Vector) -> None:
        return None

    def __call__(
        self, lin: Linearisation, theta: Vector, state: None, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, None]:
        s, y, grad = previous.s, previous.y, lin.grad
        assert y is not None, "Barzilai–Borwein steps need a search with gradients"
        ss, sy, yy = jnp.dot(s, s), jnp.dot(s, y), jnp.dot(y, y)
        known = (previous.count > 0) & ~previous.failed & (ss > 0) & (yy > 0)
        curved = known & (sy > jnp.finfo(s.dtype).eps * jnp.sqrt(ss * yy))
        long, short = ss / jnp.where(curved, sy, 1), sy / jnp.where(known, yy, 1)
        shorter = {
            "long": jnp.array(False),
            "short": jnp.array(True),
            "alternating": previous.count % 2 == 0,
            "adaptive": short < long / 2,
        }[self.rule]
        length = jnp.where(shorter, short, long)
        length = jnp.where(curved, length, jnp.sqrt(ss / jnp.where(known, yy, 1)))
        careful = 1 / jnp.maximum(jnp.linalg.norm(grad), 1)
        return Line(-jnp.where(known, length, careful) * grad, grad), None
