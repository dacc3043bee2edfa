"""The easy doors, for people who bring their own loss or residuals."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from ravine._types import PyTree, RandomKey, Scalar
from ravine.callbacks import Callback
from ravine.objective import Objective
from ravine.optim.optimizer import Optimizer
from ravine.optim.phase import Phase, Until
from ravine.run import Run
from ravine.samplers import Constant
from ravine.train import check_key, fit


def minimise(
    loss: Callable[[PyTree, Any], Scalar],
    params: PyTree,
    args: PyTree = None,
    *,
    optimizer: Optimizer,
    steps: int | None = None,
    seconds: float | None = None,
    until: Until | None = None,
    callbacks: Sequence[Callback] = (),
    key: RandomKey | None = None,
) -> Run:
    """Minimises `loss(params, args)` over any pytree of parameters: a dictionary, a Flax or an Equinox model.

    **Arguments:** `loss`, a scalar; `args`, whatever it needs besides, such as data; `steps`, `seconds`, `until`:
    when to stop, as in `Phase`; `key`, for stochastic methods only.

    **Returns:** a `Run`; `run.params` is the result, in the shape of `params`.

    **Raises:** `ValueError` when the method needs residuals, when the loss is not finite at the start, or without any
    limit.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> loss = lambda p, a: (p["x"] - a) ** 2 + (p["y"] + 1.0) ** 2
    >>> start = {"x": jnp.array(0.0), "y": jnp.array(0.0)}
    >>> run = rv.minimise(loss, start, 2.0, optimizer=rv.lbfgs(), steps=20)
    >>> round(float(run.params["x"]), 4), round(float(run.params["y"]), 4)
    (2.0, -1.0)

    ```
    """
    objective, theta = Objective.from_loss(loss, params)
    return _solve(objective, theta, args, optimizer, steps, seconds, until, callbacks, key)


def least_squares(
    residuals: Callable[[PyTree, Any], PyTree],
    params: PyTree,
    args: PyTree = None,
    *,
    optimizer: Optimizer,
    steps: int | None = None,
    seconds: float | None = None,
    until: Until | None = None,
    callbacks: Sequence[Callback] = (),
    key: RandomKey | None = None,
) -> Run:
    """Minimises ½‖residuals(params, args)‖² over any pytree of parameters; arguments and result as in `minimise`.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> rosenbrock = lambda p, _: jnp.stack([1.0 - p[0], 10.0 * (p[1] - p[0] ** 2)])
    >>> run = rv.least_squares(rosenbrock, jnp.array([-1.2, 1.0]), optimizer=rv.levenberg_marquardt(), steps=40)
    >>> [round(float(x), 3) for x in run.params]
    [1.0, 1.0]

    ```
    """
    objective, theta = Objective.from_residuals(residuals, params)
    return _solve(objective, theta, args, optimizer, steps, seconds, until, callbacks, key)


def _solve(objective, theta, args, optimizer, steps, seconds, until, callbacks, key) -> Run:
    key = jax.random.key(0) if key is None else check_key(key)
    sample_key, step_key = jax.random.split(key)
    args = jax.tree.map(jax.numpy.asarray, args)
    phase = Phase(optimizer, steps=steps, seconds=seconds, until=until)
    return fit(objective, theta, Constant(args), [phase], keys=(sample_key, step_key), callbacks=callbacks)
