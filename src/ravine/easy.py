"""The easy doors, for people who bring their own loss or residuals. Arguments and results have SciPy's names too."""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import PyTree, RandomKey, Scalar
from ravine.callbacks import Callback
from ravine.constraints import bounded
from ravine.objective import Objective
from ravine.optim.optimizer import Optimizer
from ravine.optim.phase import Phase, Tolerance, Until
from ravine.optim.presets import METHODS
from ravine.run import Run
from ravine.samplers import Constant
from ravine.train import check_key, fit

STEPS = 10_000  # at most, where a tolerance is the only limit
DENSE = 2_000  # parameters up to which the method chosen by itself is a dense one
SCIPY = {"l_bfgs_b": "lbfgs", "l_bfgs": "lbfgs", "lm": "levenberg_marquardt", "trf": "levenberg_marquardt"}


def minimise(
    loss: Callable[[PyTree, Any], Scalar],
    params: PyTree,
    args: PyTree = None,
    *,
    method: str | Optimizer | None = None,
    optimizer: Optimizer | None = None,
    bounds: Any = None,
    tol: float | None = None,
    gtol: float | None = None,
    ftol: float | None = None,
    xtol: float | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    until: Until | None = None,
    callbacks: Sequence[Callback] = (),
    key: RandomKey | None = None,
) -> Run:
    """Minimises `loss(params, args)` over any pytree of parameters: a dictionary, a Flax or an Equinox model.

    **Arguments:**

    - `loss`, a scalar; `args`, whatever it needs besides, such as data.
    - `method`: a name from `ravine.METHODS` (or SciPy's "BFGS", "L-BFGS-B", "lm") or an optimizer; `optimizer`: an
      optimizer, by another name. None: BFGS, beyond 2,000 parameters L-BFGS.
    - `bounds`: `(low, high)`, each None, a number, or a pytree like `params` (a value may stand for a branch); or
      `scipy.optimize.Bounds`. Held by `ravine.bounded`, so by every method; the start must lie inside.
    - `tol`, `gtol`, `ftol`, `xtol`: when it has converged, as in `ravine.Tolerance`; `tol` is both `gtol` and `ftol`.
    - `steps`, `seconds`, `until`: when to stop in any case, as in `Phase`. With a tolerance alone, 10,000 steps.
    - `key`, for stochastic methods only.

    **Returns:** a `Run`; `run.params` is the result, in the shape of `params`. What SciPy calls `x`, `fun`, `jac`,
    `nit`, `nfev`, `njev`, `success`, `status` and `message` is there by these names.

    **Raises:** `ValueError` when the method needs residuals, when the loss is not finite at the start, for a start
    outside its bounds, an unknown method, or without any limit.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> loss = lambda p, a: (p["x"] - a) ** 2 + (p["y"] + 1.0) ** 2
    >>> start = {"x": jnp.array(0.0), "y": jnp.array(0.0)}
    >>> run = rv.minimise(loss, start, 2.0, optimizer=rv.lbfgs(), steps=20)
    >>> round(float(run.params["x"]), 4), round(float(run.params["y"]), 4)
    (2.0, -1.0)
    >>> run = rv.minimise(loss, start, 2.0, method="bfgs", bounds=({"x": None, "y": -0.5}, None), tol=1e-4)
    >>> run.success, round(float(run.x["y"]), 1)
    (True, -0.5)

    ```
    """
    params = _within(params, bounds)
    objective, theta = Objective.from_loss(loss, params)
    chosen = _method("minimise", method, optimizer)
    if chosen is None:
        chosen = METHODS["bfgs" if theta.size <= DENSE else "lbfgs"]()
    limits = (_tolerance(tol, gtol, ftol, xtol), steps, seconds, until)
    return _solve("minimise", objective, theta, args, chosen, limits, callbacks, key)


def least_squares(
    residuals: Callable[[PyTree, Any], PyTree],
    params: PyTree,
    args: PyTree = None,
    *,
    method: str | Optimizer | None = None,
    optimizer: Optimizer | None = None,
    bounds: Any = None,
    tol: float | None = None,
    gtol: float | None = None,
    ftol: float | None = None,
    xtol: float | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    until: Until | None = None,
    callbacks: Sequence[Callback] = (),
    key: RandomKey | None = None,
) -> Run:
    """Minimises ½‖residuals(params, args)‖² over any pytree of parameters; arguments and result as in `minimise`.

    The method chosen by itself is Levenberg–Marquardt, beyond 2,000 parameters and residuals without a matrix.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> rosenbrock = lambda p, _: jnp.stack([1.0 - p[0], 10.0 * (p[1] - p[0] ** 2)])
    >>> run = rv.least_squares(rosenbrock, jnp.array([-1.2, 1.0]), optimizer=rv.levenberg_marquardt(), steps=40)
    >>> [round(float(x), 3) for x in run.params]
    [1.0, 1.0]

    ```
    """
    params = _within(params, bounds)
    objective, theta = Objective.from_residuals(residuals, params)
    chosen = _method("least_squares", method, optimizer)
    if chosen is None:
        large = theta.size > DENSE and objective.size(_arrays(args)) > DENSE
        chosen = METHODS["matrix_free_gauss_newton" if large else "levenberg_marquardt"]()
    limits = (_tolerance(tol, gtol, ftol, xtol), steps, seconds, until)
    return _solve("least_squares", objective, theta, args, chosen, limits, callbacks, key)


def _solve(what, objective, theta, args, optimizer, limits, callbacks, key) -> Run:
    tolerance, steps, seconds, until = limits
    key = jax.random.key(0) if key is None else check_key(key)
    sample_key, step_key = jax.random.split(key)
    if steps is None and seconds is None and until is None:
        if tolerance is None:
            raise ValueError(f"{what}: this would never end. Give tol=1e-8, steps=500 (at most) or seconds=10.")
        steps = STEPS
    phase = Phase(optimizer, steps=steps, seconds=seconds, until=until, tolerance=tolerance)
    return fit(objective, theta, Constant(_arrays(args)), [phase], keys=(sample_key, step_key), callbacks=callbacks)


def _arrays(args: PyTree) -> PyTree:
    return jax.tree.map(jnp.asarray, args)


def _method(what: str, method: str | Optimizer | None, optimizer: Optimizer | None) -> Optimizer | None:
    if method is not None and optimizer is not None:
        raise ValueError(f"{what}: give either method= or optimizer=, not both.")
    if not isinstance(method, str):
        return optimizer if method is None else method
    name = re.sub(r"[^a-z0-9]+", "_", method.lower())
    name = SCIPY.get(name, name)
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=3, cutoff=0.5)
        guess = f"Did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"{what}: there is no method {method!r}. {guess}All are in ravine.METHODS.")
    return METHODS[name]()


def _tolerance(tol: float | None, gtol: float | None, ftol: float | None, xtol: float | None) -> Tolerance | None:
    if tol is None and gtol is None and ftol is None and xtol is None:
        return None
    first = lambda *values: float(next((value for value in values if value is not None), 0.0))
    return Tolerance(first(gtol, tol), first(ftol, tol), first(xtol))


def _within(params: PyTree, bounds: Any) -> PyTree:
    """The parameters with their bounds."""
    if bounds is None:
        return params
    pair = (bounds.lb, bounds.ub) if hasattr(bounds, "lb") and hasattr(bounds, "ub") else bounds
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
        raise ValueError(
            "bounds: expected (low, high), each None, a number or a pytree like the parameters, or a "
            f"scipy.optimize.Bounds; got {bounds!r:.80}. From SciPy's list of pairs: low, high = zip(*pairs), each as "
            "an array, with ±infinity for None."
        )
    is_leaf = lambda leaf: leaf is None
    leaves, treedef = jax.tree.flatten(params)

    def spread(bound: Any) -> list[Any]:
        branch = lambda value, part: jax.tree.map(lambda _: value, part)
        try:
            tree = jax.tree.map(branch, bound, params, is_leaf=is_leaf)
        except ValueError as error:
            raise ValueError(f"bounds: {bound!r:.80} does not fit the parameters: {error}") from None
        return jax.tree.leaves(tree, is_leaf=is_leaf)

    def wrap(leaf: Any, low: Any, high: Any) -> Any:
        free = all(bound is None or not np.isfinite(bound).any() for bound in (low, high))
        return leaf if free or not eqx.is_inexact_array(leaf) else bounded(leaf, lambda leaf: leaf, low, high)

    return treedef.unflatten(map(wrap, leaves, *map(spread, pair)))
