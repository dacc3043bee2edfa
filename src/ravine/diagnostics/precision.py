"""What rounding leaves of a loss and its gradient, and whether a search can still see its own decrease."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ravine._types import Batch, RandomKey, Vector
from ravine.objective import Objective

SAMPLES = 8  # roundings that are tried


@dataclasses.dataclass(frozen=True)
class Precision:
    """Numbers and their floors.

    - `dtype` of the parameters; `product_error`, the measured relative error of a matrix product in it, and `reduced`,
      whether that is far above its rounding unit, as with TF32 or bfloat16 passes on an accelerator.
    - `loss`, `gradient` (the norm of ∇L).
    - `loss_floor`: the standard deviation of L when every parameter is rounded up or down at random; smaller
      differences of losses mean nothing. `lowest`: for residuals ½E‖δr‖², below which the loss itself cannot be
      trusted, else 0.
    - `gradient_floor`: the root mean square of ‖δ∇L‖ under the same roundings.
    """

    dtype: str
    product_error: float
    reduced: bool
    loss: float
    gradient: float
    loss_floor: float
    lowest: float
    gradient_floor: float

    def hidden(self, slope: float, t: float = 1.0) -> bool:
        """Whether the decrease |slope · t| that a line search looks for is below the floor of the loss."""
        return bool(abs(slope * t) < self.loss_floor)

    @property
    def exhausted(self) -> bool:
        """Whether the gradient, or the loss itself, is no larger than what rounding makes of it."""
        return self.gradient <= 2 * self.gradient_floor or self.loss <= 4 * self.lowest

    def __str__(self) -> str:
        products = f", but matrix products are good to {self.product_error:.0e} only" if self.reduced else ""
        state = "exhausted: rerun in float64, or stop" if self.exhausted else "not exhausted"
        return (
            f"{self.dtype}{products}. Loss {self.loss:.1e} ± {self.loss_floor:.1e}, gradient {self.gradient:.1e} ± "
            f"{self.gradient_floor:.1e}: {state}."
        )


@eqx.filter_jit
def _rounded(objective: Objective, theta: Vector, batch: Batch, keys):
    eps = jnp.finfo(theta.dtype).eps

    def one(key):
        signs = jax.random.rademacher(key, theta.shape, theta.dtype)
        near = theta + signs * eps * jnp.abs(theta)  # half of it may round to nothing
        lin = objective.linearise(near, batch)
        residual = lin.residual if objective.has_residuals else jnp.zeros((1,), theta.dtype)
        return lin.value, lin.grad, residual

    return lax.map(one, keys), objective.value_and_grad(theta, batch)


def _product_error(dtype) -> float:
    """The largest relative error of a product of matrices whose entries need all bits."""
    x = np.random.default_rng(0).uniform(0.5, 1, (64, 64)).astype(dtype)
    exact = x.astype(np.float64) @ x.astype(np.float64).T
    return float(np.max(np.abs(np.asarray(jnp.asarray(x) @ jnp.asarray(x).T, np.float64) - exact) / exact))


def precision(objective: Objective, theta: Vector, batch: Batch, *, key: RandomKey | None = None) -> Precision:
    """The floors that rounding sets to training here: a `Precision`.

    Computing with a unit roundoff ε is (to first order, for stable code) exact computing with data perturbed by ε, so
    the parameters are rounded up or down at random by half a unit, eight times, and what changes is the floor.

    **Cost:** nine gradients. Nicholas Higham, *Accuracy and stability of numerical algorithms*, 2002, chapter 1.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum((x - 1) ** 2), jnp.full(3, 0.5))
    >>> found = rv.precision(objective, theta, None)
    >>> found.exhausted, found.hidden(-1e-3), found.hidden(-1e-30)
    (False, False, True)

    ```
    """
    keys = jax.random.split(jax.random.key(0) if key is None else key, SAMPLES)
    (values, grads, residuals), (value, grad) = _rounded(objective, theta, batch, keys)
    values, grads, residuals = (np.asarray(each, np.float64) for each in (values, grads, residuals))
    spread = lambda rows: float(np.sqrt(np.sum(np.var(rows, axis=0, ddof=1)))) / 2  # for half a unit
    unit = float(jnp.finfo(theta.dtype).eps)
    error = _product_error(theta.dtype)
    return Precision(
        str(theta.dtype),
        error,
        error > 64 * unit,
        float(value),
        float(np.linalg.norm(np.asarray(grad, np.float64))),
        max(spread(values[:, None]), abs(float(value)) * unit / 2),
        spread(residuals) ** 2 / 2,
        spread(grads),
    )
