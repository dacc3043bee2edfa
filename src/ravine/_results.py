"""Why a run stopped: an enumeration whose values are the sentences that a user reads."""

import enum

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Count


class Stop(enum.Enum):
    """A stop reason; its value is the sentence. Inside `jit` it travels as its integer `code`."""

    RUNNING = "The run has not stopped yet."
    STEPS = "The step budget was used up."
    SECONDS = "The time budget was used up."
    TARGET = "The target was reached."
    STATIONARY = "The gradient is zero to rounding precision: this is a stationary point."
    SEARCH_FAILED = (
        "No lower loss was found along the last directions, steepest descent included: the loss is at its rounding "
        "floor or the direction is useless. In float32, try float64; with fixed points, try redrawing them; "
        "otherwise try another method."
    )
    NOT_FINITE = (
        "The loss or its gradient became NaN or infinite; the last finite parameters were kept. "
        "Try a smaller learning rate, or a method with a line search."
    )
    STALLED = "Progress stalled: the loss no longer falls fast enough to be worth the time."
    INTERRUPTED = "The run was interrupted; what was reached so far was kept."
    HOST_LOST = "Another process of the run is gone; what was reached before was kept."
    CONVERGED = "Converged: the gradient, the last decrease of the loss or the last step is within the tolerance."
    WEIGHTS = (
        "A weight of the loss became negative, NaN or infinite; the last finite parameters were kept. Try another "
        "weighting, a smaller rate of it, or updates further apart."
    )

    @property
    def code(self) -> int:
        """The position in this enumeration: what compiled code carries."""
        return list(Stop).index(self)

    @staticmethod
    def of(code: int) -> "Stop":
        """The stop reason with this code."""
        return list(Stop)[int(code)]


class Work(eqx.Module):
    """What was spent: `evaluations` of the loss (those with a gradient included), `gradients`, Jacobian `rows`
    assembled, `inner` iterations (trials beyond the first, factorisations, conjugate-gradient steps), and `products` of
    the Jacobian or its transpose with a vector; one with the Hessian counts as two."""

    evaluations: Count
    gradients: Count
    rows: Count
    inner: Count
    products: Count

    def __init__(
        self,
        evaluations: Count | int = 0,
        gradients: Count | int = 0,
        rows: Count | int = 0,
        inner: Count | int = 0,
        products: Count | int = 0,
    ):
        self.evaluations, self.gradients, self.rows, self.inner, self.products = (
            jnp.asarray(count, jnp.int32) for count in (evaluations, gradients, rows, inner, products)
        )

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.evaluations + other.evaluations,
            self.gradients + other.gradients,
            self.rows + other.rows,
            self.inner + other.inner,
            self.products + other.products,
        )

    def times(self, count: Count) -> "Work":
        """What `count` of these cost."""
        return jax.tree.map(lambda each: count * each, self)

    def counts(self) -> dict[str, int]:
        """As plain integers, for the host."""
        return {name: int(getattr(self, name)) for name in ("evaluations", "gradients", "rows", "inner", "products")}
