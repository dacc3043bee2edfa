"""Any method of this library in loops that are written for Optax."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from ravine._results import Work
from ravine._types import Batch, Count, PyTree, RandomKey, Vector
from ravine.objective import Objective
from ravine.optim.optimizer import Info, Optimizer, State


class OptaxState(eqx.Module):
    """The state of `to_optax`: that of the optimizer, and what its last step did (`info.value`, `info.work`, …)."""

    optimizer: State
    info: Info
    count: Count


def to_optax(
    optimizer: Optimizer, objective: Objective, *, key: RandomKey | None = None
) -> optax.GradientTransformationExtraArgs:
    """`optimizer` as an Optax transformation: `update(grads, state, params, *, batch=None, key=None)`.

    The updates are the step itself, learning rate and search included, so that `optax.apply_updates(params, updates)`
    is where `Optimizer.step` goes. The method evaluates `objective` on `batch` by itself: `grads` are not used (pass
    None), nor is what comes before it in an `optax.chain`; what comes after acts on its steps.

    **Arguments:** `objective`, from `Objective.from_loss(loss, params)` and the like, whose structure `params` must
    have (an Equinox model, or its floating-point arrays alone); `key`, for methods that draw numbers: step k uses
    `fold_in(key, k)` unless `update` is given one.

    **Raises:** `ValueError` in `update` without `params`, or with those of another structure.

    **Cost:** that of `Optimizer.step`. Where `params` are not what the last updates led to, to the last bit (clipped or
    averaged, constrained or of several precisions), value and gradient are evaluated anew.

    ```python
    >>> import jax.numpy as jnp, optax, ravine as rv
    >>> loss = lambda p, target: jnp.sum((p["x"] - target) ** 4)
    >>> params = {"x": jnp.zeros(2)}
    >>> objective, _ = rv.Objective.from_loss(loss, params)
    >>> method = rv.to_optax(rv.bfgs(), objective)
    >>> state = method.init(params)
    >>> for _ in range(30):
    ...     updates, state = method.update(None, state, params, batch=1.0)
    ...     params = optax.apply_updates(params, updates)
    >>> bool(jnp.all(jnp.abs(params["x"] - 1) < 1e-2))
    True

    ```
    """
    base = jax.random.key(0) if key is None else key
    layout = objective.layout
    # As arrays, so that states keep their types through `jax.lax.scan`.
    optimizer = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, layout.dtype) if isinstance(leaf, float) else leaf, optimizer
    )
    start = jax.ShapeDtypeStruct((layout.size,), layout.dtype)
    wanted = jax.tree.structure(_arrays(eqx.filter_eval_shape(objective.model, start)))

    def flat(params: PyTree) -> Vector:
        if params is None:
            raise ValueError(
                "ravine.to_optax: the method needs the parameters. Write update(grads, state, params, batch=batch)."
            )
        found = jax.tree.structure(_arrays(params))
        if found != wanted:
            raise ValueError(
                f"ravine.to_optax: the parameters have the structure {found}, but the objective was made for {wanted}. "
                "Make it from the same model or parameters: Objective.from_loss(loss, params)."
            )
        return objective.flatten(params)

    def difference(params: PyTree, step: Vector, after: Vector) -> PyTree:
        arrays = _arrays(params)
        if wanted == layout.treedef:
            return layout.unravel(step)
        # Constrained: the step in z is another one in x.
        return jax.tree.map(lambda new, old: new - old, _arrays(objective.model(after)), arrays)

    def init(params: PyTree) -> Any:
        theta = flat(params)
        zero = jnp.zeros((), theta.dtype)
        info = Info(zero, zero, zero, zero, jnp.int32(0), Work(), jnp.array(True))
        return OptaxState(optimizer.init(objective, theta), info, jnp.int32(0))

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree = None,
        *,
        batch: Batch = None,
        key: RandomKey | None = None,
        **others: Any,  # what other parts of a chain ask for
    ) -> tuple[Any, Any]:
        del updates, others
        theta, batch = flat(params), jax.tree.map(jnp.asarray, batch)
        key = jax.random.fold_in(base, state.count) if key is None else key
        after, inner, info = optimizer.step(objective, theta, state.optimizer, batch, key=key)
        return difference(params, inner.previous.s, after), OptaxState(inner, info, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def _arrays(tree: PyTree) -> PyTree:
    """The floating-point arrays, abstract ones included; None elsewhere."""
    inexact = lambda leaf: hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    return jax.tree.map(lambda leaf: leaf if inexact(leaf) else None, tree)
