"""Bounded, positive, scaled and frozen parameters, for every method: the border between models and flat vectors.

A constrained parameter is x = f(z) with a smooth f; a method sees z, which is free, and a model is only ever called
with x. So the gradient that a method sees is the chain rule, f′(z) ∂L/∂x, and no method needs to know.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from ravine._types import Array, Inexact, Model, PyTree, RandomKey
from ravine.models import MLP

Numbers = Inexact[Array, "..."]


class Constrained(eqx.Module):
    """A leaf x = f(z) of a model. Abstract."""

    def value(self) -> Numbers:
        """x."""
        raise NotImplementedError

    def at(self, x: Numbers) -> "Constrained":
        """The same leaf with another x."""
        raise NotImplementedError

    def parameters(self) -> PyTree:
        """True where an array is a parameter, False elsewhere."""
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda leaf: leaf.z, nothing, True)


class Bounded(Constrained):
    """low < x < high, entry by entry; infinite bounds do not count.

    x = low + (high − low) σ(z) with the logistic σ; with one bound, low + log(1 + eᶻ) or high − log(1 + e⁻ᶻ).
    """

    z: Numbers
    low: Numbers
    high: Numbers

    def _which(self):
        return jnp.isfinite(self.low), jnp.isfinite(self.high)

    def value(self) -> Numbers:
        above, below = self._which()
        # Where points are shared out and z is held constant, `jax.nn`'s compiled functions take no array from outside;
        # what a primitive has touched is from inside.
        z = lax.neg(lax.neg(self.z))
        low, high = jnp.where(above, self.low, 0), jnp.where(below, self.high, 0)
        width = high - low
        # From the nearer bound, so that x does not round past it.
        both = jnp.where(z > 0, high - width * jax.nn.sigmoid(-z), low + width * jax.nn.sigmoid(z))
        one = jnp.where(above, low + jax.nn.softplus(z), jnp.where(below, high - jax.nn.softplus(-z), z))
        return jnp.where(above & below, both, one)

    def at(self, x: Numbers) -> "Bounded":
        above, below = self._which()
        up, down = jnp.where(above, x - self.low, 1), jnp.where(below, self.high - x, 1)
        one = jnp.where(above, _softplus_inverse(up), jnp.where(below, -_softplus_inverse(down), x))
        z = jnp.where(above & below, jnp.log(up) - jnp.log(down), one)
        return Bounded(z, self.low, self.high)


def _softplus_inverse(y: Numbers) -> Numbers:
    """log(eʸ − 1)."""
    return y + jnp.log(-jnp.expm1(-y))


class Scaled(Constrained):
    """x = scale · z."""

    z: Numbers
    scale: Numbers

    def value(self) -> Numbers:
        return self.scale * self.z

    def at(self, x: Numbers) -> "Scaled":
        return Scaled(x / self.scale, self.scale)


class Frozen(Constrained):
    """x as it is: no parameter."""

    x: Array

    def value(self) -> Numbers:
        return self.x

    def at(self, x: Numbers) -> "Frozen":
        return Frozen(x)

    def parameters(self) -> PyTree:
        return jax.tree.map(lambda _: False, self)


def _is_constrained(leaf: Any) -> bool:
    return isinstance(leaf, Constrained)


# --------------------------------------------------------------------------------------------------- for objectives


def partition(model: Model) -> tuple[PyTree, PyTree]:
    """The parameters of a model, and all else."""
    is_parameter = lambda leaf: leaf.parameters() if _is_constrained(leaf) else eqx.is_inexact_array(leaf)
    return eqx.partition(model, jax.tree.map(is_parameter, model, is_leaf=_is_constrained))


def plain(model: Model) -> Model:
    """The model with each constrained leaf replaced by its value: what is called, and what comes back."""
    value = lambda leaf: leaf.value() if _is_constrained(leaf) else leaf
    return jax.tree.map(value, model, is_leaf=_is_constrained)


def constrained(static: PyTree, model: Model) -> Model:
    """The plain `model` with its leaves constrained as in `static`, the second part of `partition`."""
    is_leaf = lambda leaf: leaf is None or _is_constrained(leaf)

    def wrap(known, leaf):
        return known.at(leaf) if _is_constrained(known) and not _is_constrained(leaf) else leaf

    return jax.tree.map(wrap, static, model, is_leaf=is_leaf)


# -------------------------------------------------------------------------------------------------------- for users

Where = Callable[[Model], Any]


def bounded(model: Model, where: Where, low: Any = None, high: Any = None) -> Model:
    """`model` with low < x < high for the parameters that `where(model)` names, in every method.

    **Arguments:** `where`, as in `equinox.tree_at`: one leaf, a part of the model, or a sequence of these; `low`,
    `high`: numbers or arrays of the leaf's shape, None or infinite for no bound.

    **Returns:** a model to be trained; what training gives back has plain arrays again. A minimiser *on* a bound is
    approached, and reached by rounding alone; the way there is longer than for methods with active sets.

    **Raises:** `ValueError` where the start does not lie strictly between the bounds, or nothing is named.

    **Cost:** a few operations a bounded number.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> start = rv.bounded({"x": jnp.array(0.5), "y": jnp.array(0.0)}, lambda p: p["x"], 0.0, 1.0)
    >>> loss = lambda p, _: (p["x"] - 0.9) ** 2 + (p["y"] - 3.0) ** 2
    >>> run = rv.minimise(loss, start, optimizer=rv.bfgs(), steps=30)
    >>> {name: round(float(x), 4) for name, x in run.params.items()}
    {'x': 0.9, 'y': 3.0}

    ```
    """

    def wrap(x):
        bounds = [_broadcast("bounded", bound, x, other) for bound, other in ((low, -np.inf), (high, np.inf))]
        _check_inside(x, *bounds)
        return Bounded(x, *bounds).at(x)

    return _wrapped("bounded", model, where, wrap)


def positive(model: Model, where: Where) -> Model:
    """`model` with x > 0 for the parameters that `where(model)` names: `bounded` from below by zero.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> data = 2.0 * jnp.exp(-3.0 * jnp.linspace(0.0, 1.0, 9))
    >>> fit = lambda p, y: p["a"] * jnp.exp(-p["b"] * jnp.linspace(0.0, 1.0, 9)) - y
    >>> start = rv.positive({"a": jnp.array(1.0), "b": jnp.array(1.0)}, lambda p: (p["a"], p["b"]))
    >>> run = rv.least_squares(fit, start, data, optimizer=rv.levenberg_marquardt(), steps=30)
    >>> round(float(run.params["a"]), 4), round(float(run.params["b"]), 4)
    (2.0, 3.0)

    ```
    """
    return bounded(model, where, 0.0)


def scaled(model: Model, where: Where, scale: Any = None) -> Model:
    """`model` with x = scale · z, z being what methods see, for the parameters that `where(model)` names.

    For parameters of very different sizes, such as a diffusivity of 1e-6 beside a rate of 1e3: methods that are not
    invariant under scaling, which are all but Newton's, then see numbers near one. `scale`: a number or an array of
    the leaf's shape; None: the largest magnitude in the leaf (one where it is zero).

    **Raises:** `ValueError` for a scale that is zero or not finite, or where nothing is named.
    """

    def wrap(x):
        if scale is None:
            size = jnp.max(jnp.abs(x))
            factor = jnp.broadcast_to(jnp.where(size > 0, size, 1), x.shape)
        else:
            factor = _broadcast("scaled", scale, x, 1.0)
        if not isinstance(factor, Tracer) and not np.all(np.isfinite(factor) & (np.asarray(factor) != 0)):
            raise ValueError(f"scaled: the scale is {scale}, but it must be finite and not zero.")
        return Scaled(x, factor).at(x)

    return _wrapped("scaled", model, where, wrap)


def frozen(model: Model, where: Where) -> Model:
    """`model` with the parameters that `where(model)` names kept as they are: they are no parameters any more.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> start = rv.frozen({"x": jnp.array(1.0), "y": jnp.array(1.0)}, lambda p: p["y"])
    >>> objective, theta = rv.Objective.from_loss(lambda p, _: p["x"] ** 2 + p["y"] ** 2, start)
    >>> theta.shape
    (1,)

    ```
    """
    return _wrapped("frozen", model, where, Frozen)


def random_features(
    inputs: int,
    outputs: int | Literal["scalar"],
    *,
    features: int = 200,
    scale: float = 1.0,
    activation: Callable[[Array], Array] = jnp.tanh,
    key: RandomKey,
) -> MLP:
    """A network of one hidden layer that is drawn and kept: only the linear layer behind it is trained.

    u(z) = Σ_j c_j σ(w_j · z + b_j) + c₀ with w, b uniform in [−scale, scale], c = 0 at the start. Linear equations then
    are linear least-squares problems, which one step of `levenberg_marquardt` or `gauss_newton` solves up to damping.

    Ali Rahimi and Benjamin Recht, *Random features for large-scale kernel machines*, 2007; Guang-Bin Huang, Qin-Yu Zhu
    and Chee-Kheong Siew, *Extreme learning machine: theory and applications*, 2006; for equations, Vikas Dwivedi and
    Balaji Srinivasan, *Physics informed extreme learning machine*, 2020.

    **Arguments:** `inputs`, best of size one (`ravine.models.Scale`); `outputs`, a number or "scalar"; `scale`: the
    steeper, the finer is what it resolves and the more features it takes.

    **Returns:** a model to be trained, as from `frozen`.

    ```python
    >>> import jax, jax.numpy as jnp, numpy as np, ravine as rv
    >>> x = jnp.linspace(-1.0, 1.0, 50)[:, None]
    >>> problem = rv.Problem(
    ...     terms=(rv.supervised("data"),),
    ...     sampler=rv.Constant({"data": (x, jnp.sin(3 * x[:, 0]))}),
    ...     model=lambda key: rv.random_features(1, "scalar", features=40, scale=3.0, key=key),
    ... )
    >>> run = rv.train(problem, rv.Phase(rv.levenberg_marquardt(), steps=20), key=jax.random.key(0))
    >>> run.theta.shape, float(run.loss) < 1e-6
    ((41,), True)

    ```
    """
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"random_features: scale is {scale}, but must be positive and finite.")
    model = MLP(inputs, outputs, width=features, depth=1, activation=activation, key=key)
    one, two = jax.random.split(key)
    hidden = [
        jax.random.uniform(k, leaf.shape, minval=-scale, maxval=scale)
        for k, leaf in ((one, model.weights[0]), (two, model.biases[0]))
    ]
    where = lambda m: (m.weights[0], m.biases[0], m.weights[1])
    model = eqx.tree_at(where, model, (*hidden, jnp.zeros_like(model.weights[1])))
    return frozen(model, lambda m: (m.weights[0], m.biases[0]))


def _wrapped(what: str, model: Model, where: Where, wrap: Callable) -> Model:
    def leaf(x):
        if _is_constrained(x):
            raise ValueError(f"{what}: one of the parameters is constrained already ({type(x).__name__.lower()}).")
        return wrap(jnp.asarray(x)) if eqx.is_inexact_array(x) else x

    def part(node):
        leaves = jax.tree.leaves(node, is_leaf=_is_constrained)
        if not any(_is_constrained(x) or eqx.is_inexact_array(x) for x in leaves):
            raise ValueError(
                f"{what}: `where` names {node!r:.80}, which holds no floating-point array. Either (a) it names "
                "something else than a parameter, or (b) it is a Python number: make it jax.numpy.asarray(…, float)."
            )
        return jax.tree.map(leaf, node, is_leaf=_is_constrained)

    return eqx.tree_at(where, model, replace_fn=part, is_leaf=_is_constrained)


def _broadcast(what: str, number: Any, x: Numbers, default: float) -> Numbers:
    if jnp.iscomplexobj(x):
        raise ValueError(f"{what}: complex parameters have no order and no sign; hold real and imaginary part apart.")
    number = jnp.asarray(default if number is None else number, x.dtype)
    if number.shape not in ((), x.shape):
        raise ValueError(f"{what}: an array of shape {number.shape} does not fit a parameter of shape {x.shape}.")
    return jnp.broadcast_to(number, x.shape)


def _check_inside(x: Numbers, low: Numbers, high: Numbers) -> None:
    if any(isinstance(array, Tracer) for array in (x, low, high)):
        return
    bad = ~((np.asarray(low) < np.asarray(x)) & (np.asarray(x) < np.asarray(high)))
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        a, b, start = (float(np.asarray(array)[place]) for array in (low, high, x))
        where = f" at entry {place}" if place else ""
        if not a < b:
            raise ValueError(f"bounded: the bounds {a:g} and {b:g}{where} leave no room. To keep a value: frozen.")
        raise ValueError(
            f"bounded: the start {start:g}{where} does not lie between {a:g} and {b:g}, bounds excluded. Start inside, "
            "for instance in the middle."
        )
