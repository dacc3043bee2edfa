"""Derivatives of a model at one point, for use inside a residual.

Everything here takes the model `u` and one point `z` and returns numbers at that point; batching is the objective's
business. `partials` is the workhorse: derivatives, and linear operators made of them, in as few columns as they need.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Array, Float, Point
from ravine.jets import SPREAD, Curve, Spread, slope, taylor

Index = int | tuple[int, ...]
Operator = Mapping[Any, Any]  # Index -> coefficient, a number or an array of shape () (keys of a Mapping are invariant)
Derivative = tuple[int, ...]  # an index as it is kept: its coordinates, sorted
Combination = dict[Derivative, Any]  # an operator as it is kept

# How many coordinates of a sum of second derivatives are written out; more are mapped by `vmap`. Measured on two cores:
# written out, two coordinates are up to a third faster (a gradient of poisson2d with 180 units and 10,000 points);
# mapped, five take 0.6 of the time (rows of the Jacobian of poisson5d).
UNROLLED = 4


def partials(u: Callable, z: Point, *indices: Index | Operator) -> tuple[Float[Array, "*shape"], ...]:
    """Partial derivatives of `u` at `z`, and linear differential operators applied to it, in the order asked for.

    Each index names a derivative by its coordinates: `()` is u itself, `0` or `(0,)` is ∂u/∂z₀, `(0, 0)` is ∂²u/∂z₀²,
    `(0, 1)` the mixed one. A dictionary from indices to coefficients names the operator Lu = Σ cₐ ∂ᵅu at that point:
    `{1: 1.0, (0, 0): -nu}` is u_t − ν u_xx. All orders along all coordinates come out of one Taylor pass, `taylor`;
    mixed derivatives take nested forward passes of their own.

    What an operator needs and nothing else asks for passes the layers as *one* column: of u, u_x and u_t − ν u_xx that
    makes three instead of the four of u, u_x, u_t and u_xx. For along a curve with z′ = e_x and z″ = b the second
    derivative of u is u_xx + b·∇u, and likewise at any order. The coefficients of the highest derivatives must be
    Python's or NumPy's numbers for it; with traced ones, as in an inverse problem, the derivatives are taken one by
    one. Second derivatives of several coordinates are added up on the way (`Spread`; Felix Dangel, Tim Siebert, Marius
    Zeinhofer and Andrea Walther, *Collapsing Taylor mode automatic differentiation*, 2025).

    **Arguments:** `u`, a function of a point of shape `(d,)`; `z`, the point; `indices`, one for each derivative or
    operator.

    **Returns:** a tuple with one array for each index, each of `u(z)`'s shape.

    **Raises:** `ValueError` when a coordinate does not exist, or an operator is empty or has a coefficient that is no
    number.

    **Cost:** about 1 + Σ (highest order of each coordinate) evaluations of u for a model that knows its Taylor
    pass, where an operator of first order counts as one, one of order k ≥ 2 in p coordinates as p(k − 1) + 1, whatever
    first derivatives it adds; for other callables 2ᵏ evaluations for order k (nested forward mode, after Griewank and
    Walther, *Evaluating Derivatives*, 2008, chapters 3 and 13).

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> u, z = lambda z: z[0] ** 3 * z[1], jnp.array([2.0, 5.0])
    >>> [float(d) for d in rv.partials(u, z, (), 1, (0, 0), (0, 1))]
    [40.0, 8.0, 60.0, 12.0]
    >>> [float(d) for d in rv.partials(u, z, 0, {1: 1.0, (0, 0): -0.1})]  # u_x and u_t − 0.1 u_xx
    [60.0, 2.0]

    ```
    """
    asked = [_combination(index, z.shape[0]) for index in indices]
    orders: dict[int, int] = {}
    for index, request in zip(indices, asked, strict=True):
        if not isinstance(index, Mapping):
            _include(orders, request)
    columns: list[_Column] = []
    for index, request in zip(indices, asked, strict=True):
        columns.append(_merged(request, orders, columns) if isinstance(index, Mapping) else _Column())
    orders = {axis: k for axis, k in orders.items() if not any(column.gives((axis,) * k) for column in columns)}
    narrow = [column for column in columns if column.parts and not column.wide]
    curves = (*(_line(z, axis, order) for axis, order in orders.items()), *(column.curve(z) for column in narrow))
    value, jets = taylor(u, z, curves)
    passed: Any = iter(jets)
    found: dict[Derivative, Array] = {(): value}
    for axis in orders:
        found |= {(axis,) * order: derivative for order, derivative in enumerate(next(passed), start=1)}
    tops: list[list[Array]] = []  # of each request: what its column adds
    for column in columns:
        top, lower = column.read(column.mapped(u, z) if column.wide else next(passed)) if column.parts else ([], {})
        tops.append(top)
        found |= lower
    answers = []
    for index, request, column, top in zip(indices, asked, columns, tops, strict=True):
        rest = [derivative for derivative in request if derivative not in column.parts]
        for derivative in rest:
            if derivative not in found:
                found[derivative] = _nested(u, z, derivative)
        if isinstance(index, Mapping):
            answers.append(functools.reduce(operator.add, [request[d] * found[d] for d in rest] + top))
        else:
            answers.append(found[rest[0]])
    return tuple(answers)


def _combination(index: Index | Operator, dimension: int) -> Combination:
    """An index or operator as derivatives with coefficients. **Raises:** what `partials` does."""
    given = index if isinstance(index, Mapping) else {index: 1.0}
    if not given:
        raise ValueError("partials: an operator is empty. Name a derivative and its coefficient: {(0, 0): -1.0}.")
    request: Combination = {}
    for one, coefficient in given.items():
        derivative = (one,) if isinstance(one, int) else tuple(sorted(one))
        if any(not 0 <= axis < dimension for axis in derivative):
            raise ValueError(
                f"partials: the derivative {derivative} names a coordinate that the point does not have: "
                f"it has {dimension} coordinates, numbered 0 to {dimension - 1}."
            )
        if not isinstance(coefficient, (int, float, np.ndarray, np.generic, jax.Array)) or np.shape(coefficient):
            raise ValueError(
                f"partials: the coefficient of the derivative {derivative} must be a number or an array of shape (), "
                f"got {coefficient!r}. For several operators at once, give several dictionaries."
            )
        number = coefficient if isinstance(coefficient, jax.Array) else float(coefficient)
        request[derivative] = request[derivative] + number if derivative in request else number
    return request


def _include(orders: dict[int, int], derivatives: Sequence[Derivative] | Combination) -> None:
    """Lets `orders`, the highest order along each coordinate, include these as far as they are pure."""
    for derivative in derivatives:
        if len(set(derivative)) == 1:
            orders[derivative[0]] = max(orders.get(derivative[0], 0), len(derivative))


@dataclasses.dataclass(frozen=True)
class _Column:
    """A part of an operator that passes the layers as one column: lead·(Σ wₐ ∂ᵏu/∂zₐᵏ + b·∇u).

    The column is the k-th derivative of u along a curve with z′ = eₐ and k-th derivative b; for k = 2 and several
    coordinates, the sum of those along curves with z′ = √wₐ eₐ (`Spread`); for k = 1, along b.
    """

    order: int = 0
    heads: dict[int, float] = dataclasses.field(default_factory=dict)  # wₐ > 0, of which the first is one
    drift: dict[int, Any] = dataclasses.field(default_factory=dict)
    lead: float = 1.0

    @property
    def parts(self) -> set[Derivative]:
        """What the column holds the sum of."""
        return {(axis,) * self.order for axis in self.heads} | {(axis,) for axis in self.drift}

    def gives(self, derivative: Derivative) -> bool:
        """Whether its curves hold this derivative by itself."""
        return 0 < len(derivative) < self.order and derivative[0] in self.heads and len(set(derivative)) == 1

    @property
    def wide(self) -> bool:
        """Whether `vmap` follows its curves."""
        return self.order == 2 and len(self.heads) > UNROLLED

    def seeds(self, z: Point) -> tuple[tuple[Array, ...], Array]:
        """√wₐ eₐ for each of the heads, and b."""
        still = jnp.zeros_like(z)
        drift = still
        for axis, coefficient in self.drift.items():
            drift = drift.at[axis].set(coefficient)
        return tuple(still.at[axis].set(math.sqrt(weight)) for axis, weight in self.heads.items()), drift

    def curve(self, z: Point) -> Curve | Spread:
        """What `taylor` follows."""
        firsts, drift = self.seeds(z)
        if len(firsts) > 1:
            return Spread(firsts, drift, False)
        return (*firsts, *(jnp.zeros_like(z) for _ in range(self.order - 2)), drift)

    def mapped(self, u: Callable, z: Point) -> Spread:
        """What `taylor` makes of these curves, followed by `vmap`."""
        firsts, drift = self.seeds(z)

        def one(first: Array) -> tuple[Array, Array]:
            found = taylor(u, z, (Spread((first,), drift, True),))[1][0]
            return found.firsts[0], found.second

        along, second = jax.vmap(one, axis_name=SPREAD, out_axes=(0, None))(jnp.stack(firsts))
        return Spread(tuple(along), second, False)

    def read(self, passed: Any) -> tuple[list[Array], dict[Derivative, Array]]:
        """The part of the operator, as a list of one, and the derivatives below it."""
        lower, top = (passed.firsts, passed.second) if isinstance(passed, Spread) else (passed[:-1], passed[-1])
        if len(self.heads) > 1:
            sizes = self.heads.values()
            lower = [first if w == 1 else first / math.sqrt(w) for first, w in zip(lower, sizes, strict=True)]
            return [self.lead * top], {(axis,): first for axis, first in zip(self.heads, lower, strict=True)}
        return [self.lead * top], {(axis,) * k: one for axis in self.heads for k, one in enumerate(lower, start=1)}


def _merged(request: Combination, orders: dict[int, int], columns: Sequence[_Column]) -> _Column:
    """The column of what an operator needs and nothing else gives. What cannot enter it goes into `orders`."""
    free = {
        derivative: coefficient
        for derivative, coefficient in request.items()
        if len(set(derivative)) == 1
        and orders.get(derivative[0], 0) < len(derivative)
        and not any(column.gives(derivative) for column in columns)
    }
    order = max(map(len, free), default=0)
    highest = {derivative[0]: c for derivative, c in free.items() if len(derivative) == order > 1}
    # Divided by the first coefficient, which must therefore be known and not zero; roots are taken of the others.
    numbers = {axis: c for axis, c in highest.items() if isinstance(c, float) and c}
    lead = next(iter(numbers.values()), 1.0)
    heads = {axis: c / lead for axis, c in numbers.items() if c / lead > 0}
    heads = heads if order == 2 else dict(list(heads.items())[:1])
    drift = {d[0]: c / lead for d, c in free.items() if len(d) == 1 and d[0] not in heads}
    column = _Column(order, heads, drift, lead) if order == 1 or heads else _Column()
    if len(column.parts) < 2:
        column = _Column()
    _include(orders, [d for d in free if d not in column.parts and not column.gives(d)])
    return column


def _line(z: Point, axis: int, order: int) -> Curve:
    return (jnp.zeros_like(z).at[axis].set(1), *(jnp.zeros_like(z) for _ in range(order - 1)))


def _nested(u: Callable, z: Point, index: Derivative) -> Array:
    """One mixed derivative by nested `jvp`."""
    for axis in index:
        u = functools.partial(slope, u, jnp.zeros_like(z).at[axis].set(1))
    return u(z)


def gradient(u: Callable, z: Point) -> Float[Array, "d"]:
    """∇u at `z` for a scalar `u`, by reverse mode. **Cost:** about three evaluations of u.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> rv.gradient(lambda z: z[0] * z[1], jnp.array([2.0, 5.0])).tolist()
    [5.0, 2.0]

    ```
    """
    return jax.grad(u)(z)


def value_and_gradient(u: Callable, z: Point) -> tuple[Float[Array, "*shape"], Float[Array, "*shape d"]]:
    """u and its first derivatives at `z`, in one Taylor pass; for a scalar u they are its gradient.

    **Cost:** about 1 + d evaluations of u; above 8 coordinates reverse mode for a scalar u, about three.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> value, slope = rv.value_and_gradient(lambda z: z[0] * z[1], jnp.array([2.0, 5.0]))
    >>> float(value), slope.tolist()
    (10.0, [5.0, 2.0])

    ```
    """
    dimension = z.shape[0]
    if dimension <= 8:
        value, curves = taylor(u, z, tuple(_line(z, axis, 1) for axis in range(dimension)))
        return value, jnp.stack([first for (first,) in curves], axis=-1)
    if jax.eval_shape(u, z).shape == ():
        return jax.value_and_grad(u)(z)
    along = lambda basis: taylor(u, z, ((basis,),))
    value, ((first,),) = jax.vmap(along, out_axes=(None, -1))(jnp.eye(dimension, dtype=z.dtype))
    return value, first


def directional(u: Callable, z: Point, *directions: Float[Array, "d"]) -> Float[Array, "*shape"]:
    """The derivative of u along each of `directions` in turn, of any order: D_v D_w u for `directional(u, z, v, w)`.

    **Cost:** the same array given k times is one Taylor pass of order k; different directions take nested forward mode,
    2ᵏ evaluations.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> v = jnp.array([1.0, 2.0])
    >>> float(rv.directional(lambda z: z[0] ** 2 * z[1], jnp.array([3.0, 1.0]), v, v))
    26.0

    ```
    """
    if all(v is directions[0] for v in directions):
        zeros = (jnp.zeros_like(z),) * (len(directions) - 1)
        return taylor(u, z, ((directions[0], *zeros),))[1][0][-1] if directions else taylor(u, z, ())[0]
    for v in directions:
        u = functools.partial(slope, u, v)
    return u(z)


def hessian_diagonal(u: Callable, z: Point) -> Float[Array, "d *shape"]:
    """∂²u/∂z_i² at `z` for every coordinate i. **Cost:** as `partials`.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> rv.hessian_diagonal(lambda z: z[0] ** 2 * z[1] ** 3, jnp.array([2.0, 1.0])).tolist()
    [2.0, 24.0]

    ```
    """

    dimension = z.shape[0]
    if dimension <= 8:
        _, curves = taylor(u, z, tuple(_line(z, axis, 2) for axis in range(dimension)))
        return jnp.stack([second for _, second in curves])

    # Many coordinates: one traced pass for all of them keeps compilation short.
    def second(basis):
        return taylor(u, z, ((basis, jnp.zeros_like(z)),))[1][0][1]

    return jax.vmap(second)(jnp.eye(dimension, dtype=z.dtype))


def laplacian(u: Callable, z: Point, axes: tuple[int, ...] | None = None) -> Float[Array, "*shape"]:
    """Δu = Σ ∂²u/∂z_i² at `z`, over all coordinates or over `axes` alone, as for an equation in time.

    **Cost:** about d + 2 evaluations of u over d coordinates, for a model that knows its Taylor pass (2d + 1 for the
    second derivatives one by one; see `Spread`); 4d for other callables.

    **Raises:** `ValueError` when a coordinate does not exist or is named twice.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> z = jnp.array([2.0, 1.0, 0.0])
    >>> float(rv.laplacian(lambda z: jnp.sum(z**2), z)), float(rv.laplacian(lambda z: jnp.sum(z**2), z, axes=(0, 1)))
    (6.0, 4.0)

    ```
    """
    return gradient_and_laplacian(u, z, axes)[1]


def gradient_and_laplacian(
    u: Callable, z: Point, axes: tuple[int, ...] | None = None
) -> tuple[Float[Array, "k *shape"], Float[Array, "*shape"]]:
    """∂u/∂z_i for each i of the k `axes` (all coordinates by default), and Δu over them.

    **Cost:** that of Δu alone. **Raises:** what `laplacian` does.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> slopes, second = rv.gradient_and_laplacian(lambda z: z[0] ** 2 * z[1], jnp.array([2.0, 5.0]))
    >>> slopes.tolist(), float(second)
    ([20.0, 4.0], 10.0)

    ```
    """
    dimension = z.shape[0]
    axes = tuple(range(dimension)) if axes is None else tuple(axes)
    if len(set(axes)) < len(axes) or any(not 0 <= axis < dimension for axis in axes):
        raise ValueError(
            f"laplacian: axes={axes}, but they must be different ones of the point's {dimension} coordinates, numbered "
            f"0 to {dimension - 1}."
        )
    column = _Column(2, dict.fromkeys(axes, 1.0))
    passed = column.mapped(u, z) if column.wide else taylor(u, z, (column.curve(z),))[1][0]
    (second,), firsts = column.read(passed)
    return jnp.stack([firsts[(axis,)] for axis in axes]), second


def divergence(field: Callable, z: Point) -> Float[Array, ""]:
    """div F = Σ ∂F_i/∂z_i at `z` for a field `F: ℝᵈ → ℝᵈ`. **Cost:** d forward passes.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> float(rv.divergence(lambda z: z**2, jnp.array([2.0, 1.0])))
    6.0

    ```
    """
    return jnp.trace(jax.jacfwd(field)(z))
