"""A test kit for methods: `check_optimizer(optimizer)` asserts what must hold for every direction and every search.

It runs in seconds and is what the presets of this library are tested with.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Array, PyTree, Vector
from ravine.formulations import supervised
from ravine.models import MLP
from ravine.objective import Objective
from ravine.optim.optimizer import Optimizer
from ravine.optim.search import Fixed
from ravine.run import numbers

STEPS = 6


def check_optimizer(optimizer: Optimizer, *, descends: bool | None = None, ordered: bool = True) -> None:
    """Asserts that a method keeps the contract of `Direction` and `Search`.

    - Shapes and types: a step returns parameters and state as it was given them, in float32 and (where it is on) in
      float64, so that it can be put into a loop; a state holds arrays only.
    - `jit` changes nothing but rounding.
    - The same key gives the same steps, bit for bit, and so does a state that was written down and read back.
    - `ordered`: the order of the points does not matter (asked where the method makes the same steps with another key).
    - `descends`: the loss never goes up and ends below its start. None: asked where the search is not `Fixed`.
    - Trials that are not finite are rejected: parameters stay finite, and `info.finite` says when the loss is not.
    - `info.work` counts evaluations and gradients as they happened (asked where the method takes a bare loss and
      reports no products with a Jacobian or Hessian).

    **Arguments:** `optimizer`, with settings at which it works on a small curve fit (a 1-3-1 network, nine points).

    **Raises:** `AssertionError` that says what does not hold.

    **Cost:** two to ten seconds, nearly all of it compiling two steps.

    ```python
    >>> import ravine as rv
    >>> rv.testing.check_optimizer(rv.lbfgs())

    ```
    """
    descends = not isinstance(optimizer.search, Fixed) if descends is None else descends
    for dtype in {jnp.float32, _widest()}:
        _check_types(optimizer, dtype)
    objective, theta, batch = _fit(_widest())
    optimizer_ = numbers(optimizer, theta.dtype)
    walk = functools.partial(_walk, optimizer_, objective, theta, batch)
    thetas, states, infos = walk(jax.random.key(0))
    _require(np.isfinite(thetas).all(), "parameters became NaN or infinite on a well-behaved curve fit")
    _require(np.isfinite([info.value for info in infos]).all(), "info.value is not finite on a well-behaved curve fit")
    again, _, _ = walk(jax.random.key(0))
    _require(np.array_equal(thetas, again), "the same key did not give the same steps: something else is random")
    half = STEPS // 2
    stored, here = jax.tree.map(_stored, states[half]), _stored(thetas[half])
    rest, _, _ = _walk(optimizer_, objective, here, batch, jax.random.key(0), begin=half, state=stored)
    _require(np.array_equal(rest[-1], thetas[-1]), "a state that was read back went on differently: not all is in it")

    _check_jit(optimizer_, objective, batch, states[1], thetas[1])
    others, _, _ = walk(jax.random.key(1))
    if ordered and np.array_equal(others, thetas):
        shuffled = jax.tree.map(lambda leaf: leaf[::-1], batch)
        turned, _, _ = _walk(optimizer_, objective, theta, shuffled, jax.random.key(0), steps=2)
        near = 1e-6 if theta.dtype == jnp.float64 else 1e-2
        _require(np.allclose(turned[2], thetas[2], rtol=near, atol=near), "the order of the points changed the steps")

    if descends:
        losses = np.array([_value(objective, jnp.asarray(at), batch) for at in thetas])
        slack = 64 * np.finfo(losses.dtype).eps * losses[:-1]
        _require(bool((np.diff(losses) <= slack).all()), f"the loss went up along the steps: {losses}")
        _require(losses[-1] < losses[0], f"the loss did not fall in {STEPS} steps: {losses}")

    x, y = batch["fit"]
    spoiled = {"fit": (x, y.at[0].set(jnp.nan))}
    after, _, info = _step(optimizer_, objective, theta, states[0], spoiled, jax.random.key(0))
    _require(bool(jnp.isfinite(after).all()), "a loss that is NaN led to parameters that are NaN")
    _require(not bool(info.finite), "info.finite is True although the loss is NaN")
    _check_work_and_rejection(optimizer_, descends)


# ------------------------------------------------------------------------------------------------------- the parts


def _require(holds: Any, what: str) -> None:
    if not holds:
        raise AssertionError(f"check_optimizer: {what}.")


@eqx.filter_jit
def _step(optimizer: Optimizer, objective: Objective, theta: Vector, state: PyTree, batch: PyTree, key: Any):
    return optimizer.step(objective, theta, state, batch, key=key)


@eqx.filter_jit
def _value(objective: Objective, theta: Vector, batch: PyTree):
    return objective(theta, batch)


def _walk(optimizer, objective, theta, batch, key, *, steps: int = STEPS, begin: int = 0, state: Any = None):
    """Thetas (the start included), states (likewise) and infos."""
    state = optimizer.init(objective, theta) if state is None else state
    thetas, states, infos = [np.asarray(theta)], [state], []
    for number in range(begin, steps):
        theta, state, info = _step(optimizer, objective, theta, state, batch, jax.random.fold_in(key, number))
        thetas.append(np.asarray(theta))
        states.append(state)
        infos.append(jax.device_get(info))
    return np.stack(thetas), states, infos


def _stored(leaf: Any) -> Any:
    """Through bytes and back."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            jnp.asarray(np.asarray(jax.random.key_data(leaf))), impl=jax.random.key_impl(leaf)
        )
    array = np.asarray(leaf)
    return jnp.asarray(np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape))


def _widest() -> Any:
    wide = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    return jnp.float64 if wide else jnp.float32


@functools.cache
def _fit(dtype: Any) -> tuple[Objective, Vector, PyTree]:
    """A curve fit by a network: residuals, layers and points, for whatever a method needs."""
    x = jnp.linspace(-1, 1, 9, dtype=dtype)[:, None]
    model = MLP(1, "scalar", width=3, depth=1, key=jax.random.key(3))
    model = jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, model)
    objective, theta = Objective.from_terms((supervised("fit"),), model)
    return objective, theta, {"fit": (x, jnp.sin(2 * x[:, 0]))}


def _signature(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    for path, leaf in leaves:
        _require(hasattr(leaf, "dtype"), f"the state holds {leaf!r:.60} at {jax.tree_util.keystr(path)}: arrays only")
    return {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in leaves}


def _check_types(optimizer: Optimizer, dtype: Any) -> None:
    objective, theta, batch = _fit(dtype)
    optimizer = numbers(optimizer, dtype)
    try:
        state = eqx.filter_eval_shape(optimizer.init, objective, theta)
    except ValueError:
        if dtype == _widest():
            raise
        return  # a method for double precision says so
    step = lambda theta, state: optimizer.step(objective, theta, state, batch, key=jax.random.key(0))
    after, new, _ = eqx.filter_eval_shape(step, theta, state)
    name = jnp.dtype(dtype).name
    _require((after.shape, after.dtype) == (theta.shape, theta.dtype), f"from {name}, parameters became {after.dtype}")
    before, then = _signature(state), _signature(new)
    changed = [path for path in {**before, **then} if before.get(path) != then.get(path)]
    _require(
        not changed,
        f"in {name}, a step changes the state at {', '.join(changed[:3])}: "
        f"{[(before.get(path), then.get(path)) for path in changed[:3]]}",
    )


def _check_jit(optimizer, objective, batch, state, at) -> None:
    at, key = jnp.asarray(at), jax.random.key(2)
    compiled, _, one = _step(optimizer, objective, at, state, batch, key)
    with jax.disable_jit():
        plain, _, other = optimizer.step(objective, at, state, batch, key=key)
    near = 1e-6 if at.dtype == jnp.float64 else 1e-2
    same = np.allclose(compiled, plain, rtol=near, atol=near) and np.allclose(
        one.value, other.value, rtol=near, atol=near
    )
    _require(same, "a compiled step differs from the same step without jit")


class _Counted:
    """Rosenbrock's function, NaN for x₀ > −0.9, which counts how often it and its gradient are evaluated."""

    def __init__(self):
        self.evaluations = self.gradients = 0

        def counted(x):
            jax.debug.callback(self._evaluated)
            return x

        def backward(_, g):
            jax.debug.callback(self._differentiated)
            return (g,)

        self.mark: Callable[[Array], Array] = jax.custom_vjp(counted)
        self.mark.defvjp(lambda x: (counted(x), None), backward)  # pyright: ignore[reportFunctionMemberAccess]

    def _evaluated(self):
        self.evaluations += 1

    def _differentiated(self):
        self.gradients += 1

    def __call__(self, x: Vector, walled: Array) -> Array:
        value = jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
        return self.mark(jnp.where(walled & (x[0] > -0.9), jnp.nan, value))


_COUNTED = _Counted()


def _check_work_and_rejection(optimizer: Optimizer, descends: bool) -> None:
    objective, theta = Objective.from_loss(_COUNTED, jnp.array([-1.2, 1.0], _widest()))
    try:
        state = optimizer.init(objective, theta)
        jax.eval_shape(
            lambda at: optimizer.step(objective, at, state, jnp.array(True), key=jax.random.key(0))[0], theta
        )
    except (TypeError, ValueError):
        return  # it needs residuals or layers, or differentiates forwards
    last = np.inf
    for number in range(2 * STEPS):
        before = _COUNTED.evaluations, _COUNTED.gradients
        theta, state, info = _step(optimizer, objective, theta, state, jnp.array(True), jax.random.key(number))
        jax.effects_barrier()
        counts, done = info.work.counts(), (_COUNTED.evaluations - before[0], _COUNTED.gradients - before[1])
        _require(bool(jnp.isfinite(theta).all()), "a trial that is not finite was accepted")
        if descends:
            _require(float(info.value) <= last, "the loss went up, or became NaN, beside a wall of NaN")
            last = float(info.value)
        if counts["products"] == 0 and counts["rows"] == 0 and bool(info.finite):
            told = counts["evaluations"], counts["gradients"]
            _require(told == done, f"info.work says {told} evaluations and gradients, but there were {done}")
