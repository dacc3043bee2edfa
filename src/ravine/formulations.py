"""Functions that return a `Term`: what a formulation is, and all that it is."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Float, Model, PyTree, Scalar
from ravine.calculus import partials, value_and_gradient
from ravine.domains import Boundary, Box, Faced
from ravine.jets import taylor
from ravine.terms import Term, Weighted, squared


class _Residual(eqx.Module):
    """`function(model, point)` as features. A value, so that equal terms share compiled code."""

    function: Callable[[Model, Any], PyTree]

    def __call__(self, model, point):
        return self.function(model, point)


class _Mismatch(eqx.Module):
    """model(point) − target(point)."""

    name: str = eqx.field(static=True)
    target: Any

    def __call__(self, model, point):
        output = jnp.asarray(model(point))
        target = jnp.asarray(self.target(point) if callable(self.target) else self.target, output.dtype)
        if jnp.shape(target) not in ((), jnp.shape(output)):
            raise ValueError(
                f"The term {self.name!r} compares a model output of shape {jnp.shape(output)} with a target of shape "
                f"{jnp.shape(target)}. Give both the same shape (MLP(..., 'scalar', ...) returns shape ())."
            )
        return output - target


def residual(name: str, equation: Callable[[Model, Any], PyTree], *, weight: float = 1.0) -> Term:
    """The mean of ½‖equation(u, z)‖² over the interior: a PDE in strong form.

    **Arguments:** `equation(u, z)`: its residual at one point z, an array or a pytree; u is the model.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> rv.residual("pde", lambda u, z: rv.laplacian(u, z)).region
    'interior'

    ```
    """
    return Term(name, _Residual(equation), squared, weight, "interior")


def boundary(name: str, value: Any, *, on: "Part" = None, weight: float = 1.0) -> Term:
    """The mean of ½‖u(z) − value‖² over the spatial boundary: a soft Dirichlet condition.

    **Arguments:** `value`: a number, an array of the model's output shape, or a function of the point; `on`: a part of
    the boundary, either faces of a box as pairs (axis, "low" or "high"), on which all points then lie, or a function
    of the point that says where the condition holds, elsewhere counting as zero.

    ```python
    >>> import ravine as rv
    >>> rv.boundary("inflow", 1.0, on=[(0, "low")]).region.faces
    ((0, False),)

    ```
    """
    return _on_boundary(name, _Mismatch(name, value), on, "points", weight)


def neumann(name: str, flux: Any, *, on: "Part" = None, weight: float = 1.0) -> Term:
    """The mean of ½‖∂u/∂n − flux‖² over the spatial boundary, n the outward unit normal.

    **Arguments:** `flux`: a number, an array of the model's output shape, or a function of the point; `on`: as for
    `boundary`. The batch entry is `Faced(point, normal)`, as every domain gives it.

    **Raises:** `ValueError` for points without normals.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> term = rv.neumann("flux", 0.0)
    >>> corner = rv.Faced(jnp.array([1.0, 2.0]), jnp.array([0.6, 0.8]))
    >>> float(term.features(lambda z: z[0] * z[1], corner))
    2.0

    ```
    """
    return robin(name, flux, coefficient=0.0, on=on, weight=weight)


def robin(name: str, value: Any, *, coefficient: Any, on: "Part" = None, weight: float = 1.0) -> Term:
    """The mean of ½‖∂u/∂n + coefficient·u − value‖² over the spatial boundary, n the outward unit normal.

    **Arguments:** `value`, `coefficient`: numbers, arrays, or functions of the point; `on`: as for `boundary`.

    **Raises:** `ValueError` for points without normals. **Cost:** two evaluations of u.
    """
    return _on_boundary(name, _Flux(name, value, coefficient), on, "normals", weight)


def periodic(name: str, axis: int, *, order: int = 1, weight: float = 1.0) -> Term:
    """The mean of ½ Σ_k ‖∂ᵏu/∂zₐ(z) − ∂ᵏu/∂zₐ(z̄)‖², k ≤ `order`, between opposite points of a box along `axis`.

    A soft condition; `ravine.models.Periodic` makes it hold by construction. The batch entry is a pair of arrays, the
    points of one face and those opposite, as a `Box` gives it.

    **Raises:** `ValueError` for points that are no pairs.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> ends = jnp.array([0.0]), jnp.array([2 * jnp.pi])
    >>> bool(jnp.all(jnp.abs(rv.periodic("ends", 0).features(lambda z: jnp.sin(z[0]), ends)) < 1e-6))
    True

    ```
    """
    if axis < 0 or order < 0:
        raise ValueError(f"periodic: axis and order must not be negative, got {axis=}, {order=}.")
    region = Boundary(faces=((axis, False),), gives="pairs")
    return Term(name, _Jump(name, axis, order), squared, weight, region)


Part = Sequence[tuple[int, str]] | Callable[[Any], Any] | None


def _on_boundary(name: str, features: Callable[[Model, Any], PyTree], on: Part, gives: Any, weight: float) -> Term:
    if on is None or callable(on):
        region = "boundary" if gives == "points" else Boundary(gives=gives)
        return Term(name, features if on is None else _Where(on, features), squared, weight, region)
    faces = tuple(on)
    if not faces or any(len(face) != 2 or face[1] not in ("low", "high") for face in faces):
        raise ValueError(
            f"The term {name!r}: on={on!r} names no faces. Write pairs of an axis and an end, such as "
            'on=[(0, "low"), (1, "high")], or a function of the point.'
        )
    faces = tuple((int(axis), end == "high") for axis, end in faces)
    return Term(name, features, squared, weight, Boundary(faces=faces, gives=gives))


class _Where(eqx.Module):
    """Features where a condition on the point holds, and zero elsewhere."""

    condition: Callable[[Any], Any]
    features: Callable[[Model, Any], PyTree]

    def __call__(self, model, point):
        here = self.condition(point.point if isinstance(point, Faced) else point)
        return jax.tree.map(lambda leaf: jnp.where(here, leaf, 0), self.features(model, point))


def _at(value: Any, point: Any, like: Any) -> Any:
    """A number, an array or a function of the point, in the precision of the model."""
    return jnp.asarray(value(point) if callable(value) else value, like.dtype)


class _Flux(eqx.Module):
    """∂u/∂n + coefficient·u − value."""

    name: str = eqx.field(static=True)
    value: Any
    coefficient: Any

    def __call__(self, model, point):
        if not isinstance(point, Faced):
            raise ValueError(
                f"The term {self.name!r} needs outward normals, but its points have none. Give them as "
                "ravine.Faced(points, normals), or let a sampler of a domain draw them."
            )
        value, ((slope,),) = taylor(model, point.point, ((point.normal,),))
        return slope + _at(self.coefficient, point.point, value) * value - _at(self.value, point.point, value)


class _Jump(eqx.Module):
    """The differences of derivatives between two points."""

    name: str = eqx.field(static=True)
    axis: int = eqx.field(static=True)
    order: int = eqx.field(static=True)

    def __call__(self, model, pair):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(
                f"The term {self.name!r} compares opposite points, but its batch entry is no pair of arrays. Give "
                "(points, points opposite), or let a sampler of a ravine.Box draw them."
            )
        indices = [(self.axis,) * order for order in range(self.order + 1)]
        here, there = (jnp.stack(partials(model, point, *indices)) for point in pair)
        return here - there


def initial(name: str, value: Any, *, weight: float = 1.0) -> Term:
    """The mean of ½‖u(z) − value‖² over the initial slice of a box whose last coordinate is time.

    **Arguments:** `value`: a number, an array of the model's output shape, or a function of the point.
    """
    return Term(name, _Mismatch(name, value), squared, weight, "initial")


class _Density(eqx.Module):
    """density(F, z), checked to be one number."""

    name: str = eqx.field(static=True)
    density: Callable[[PyTree, Any], Scalar]

    def __call__(self, features, point):
        value = self.density(features, point)
        if jnp.shape(value) != ():
            raise ValueError(
                f"The energy {self.name!r} must be one number at a point, but its density has shape "
                f"{jnp.shape(value) or 'of a pytree'}. Likely causes: (a) a product where a sum over components is "
                "meant: jnp.vdot(slope, slope) for |∇u|², (b) a model with output of shape (1,): MLP(..., 'scalar', "
                "...) returns shape (), (c) a residual, which belongs into ravine.residual."
            )
        return value


def energy(
    name: str,
    density: Callable[[PyTree, Any], Scalar],
    *,
    features: Callable[[Model, Any], PyTree] = value_and_gradient,
    weight: float = 1.0,
) -> Term:
    """The mean of density((u, ∇u)(z), z) over the interior: a variational (Deep Ritz) problem.

    The loss is the energy density e itself, which may be negative; its minimiser solves the Euler–Lagrange equation
    −div ∂e/∂∇u + ∂e/∂u = 0 with natural conditions wherever the model does not impose others. With points from
    `ravine.Gauss` (or `ravine.Sparse`) the mean is a quadrature rule, with any other sampler Monte Carlo: means over
    other pieces of the domain (a flux on the boundary) then carry the ratio of the measures as their weight.

    Gauss–Newton sees e″, the Hessian of the density in the features at each point: for ½|∇u|² − f u the matrix is
    ∫ ∇(∂u/∂θᵢ)·∇(∂u/∂θⱼ), the Gramian of the energy norm, so that `energy_natural_gradient` and `levenberg_marquardt`
    are the energy natural gradient and its damped form. What is not convex in the features counts as zero there.

    Where the loss has been resolved to rounding, relative to |E|, the error in the energy norm is the root of that:
    about 1e-8 in float64. Methods that go on by slopes (`Wolfe`: quasi-Newton) may end below.

    **Arguments:** `density(F, z)`: one number, F = `features(u, z)`, by default (u, ∇u) with ∇u of shape `(*u, d)`;
    convex in F for the minimiser to be one.

    **Raises:** `ValueError` when the density is not one number.

    Weinan E and Bing Yu, *The Deep Ritz method*, 2018, equations 4–7; Johannes Müller and Marius Zeinhofer, *Achieving
    high accuracy with PINNs via energy natural gradient descent*, ICML 2023, section 3.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> dirichlet = rv.energy("energy", lambda F, z: jnp.vdot(F[1], F[1]) / 2 - F[0])
    >>> u = lambda z: z[0] * z[1]
    >>> z = jnp.array([2.0, 1.0])
    >>> float(dirichlet.loss(dirichlet.features(u, z), z))
    0.5

    ```
    """
    return Term(name, features, _Density(name, density), weight, "interior")


def weak(
    name: str,
    integrand: Callable[[PyTree, PyTree, Any], Scalar],
    tests: Callable[[Any], Any],
    *,
    features: Callable[[Model, Any], PyTree] = value_and_gradient,
    weight: float = 1.0,
) -> Term:
    """½ Σ_k (mean of integrand((u, ∇u), (v_k, ∇v_k), z))² over the interior: a PDE in weak (Petrov–Galerkin) form.

    **Arguments:** `integrand(F, V, z)`: linear in V = (v_k, ∇v_k), F = `features(u, z)`, by default (u, ∇u);
    `tests(z)`: the values of K test functions, `(K,)`, such as `ravine.Sines`. The batch entry is the
    quadrature: `Weighted` points (`ravine.Gauss`, at least twice as fine as the highest test function), or bare ones
    for Monte Carlo.

    **Raises:** `ValueError` when the integrand is not one number.

    **Cost:** one pass over all points at once, without blocks, on every device: K numbers a point.

    Ehsan Kharazmi, Zhongqiang Zhang and George Karniadakis, *Variational physics-informed neural networks for solving
    partial differential equations*, 2019.
    """
    return Term(name, _Tested(name, integrand, tests, features), squared, weight, "interior", whole=True)


class _Tested(eqx.Module):
    """The K weak residuals."""

    name: str = eqx.field(static=True)
    integrand: Callable[[PyTree, PyTree, Any], Scalar]
    tests: Callable[[Any], Any]
    features: Callable[[Model, Any], PyTree]

    def __call__(self, model, batch):
        points = batch.points if isinstance(batch, Weighted) else batch

        def one(point):
            found = self.features(model, point)
            each = jax.vmap(lambda *test: self.integrand(found, test, point))(*value_and_gradient(self.tests, point))
            if jnp.ndim(each) != 1:
                raise ValueError(
                    f"The weak form {self.name!r} must be one number for each test function, but its integrand has "
                    f"shape {jnp.shape(each)[1:]}. Sum over components: jnp.vdot(slope, test_slope)."
                )
            return each

        values = jax.vmap(one)(points)
        return batch.weights.astype(values.dtype) @ values if isinstance(batch, Weighted) else jnp.mean(values, axis=0)


class Sines(eqx.Module):
    """The test functions ∏ᵢ √2 sin κᵢ(zᵢ − lowᵢ) / |κ|, κᵢ = kᵢπ/lengthᵢ, kᵢ = 1 … `orders`: zero on a box's boundary.

    Orthonormal in the mean of ∇v·∇w, so that ½ Σ (weak residual)² is half the square of its norm dual to that.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> rv.Sines(rv.Box((0.0, 0.0), (1.0, 2.0)), 3)(jnp.array([0.5, 1.0])).shape
    (9,)

    ```
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    orders: int = eqx.field(static=True)

    def __init__(self, box: Box, orders: int):
        if orders < 1:
            raise ValueError(f"Sines: orders is {orders}, but must be at least 1.")
        self.low, self.high, self.orders = box.low, box.high, int(orders)

    def __call__(self, z):
        low = jnp.asarray(self.low, z.dtype)
        length = jnp.asarray(self.high, z.dtype) - low
        waves = jnp.arange(1, self.orders + 1, dtype=z.dtype)[None] * (jnp.pi / length)[:, None]
        sines = jnp.sqrt(2.0).astype(z.dtype) * jnp.sin(waves * (z - low)[:, None])
        product, square = jnp.ones(1, z.dtype), jnp.zeros(1, z.dtype)
        for sine, wave in zip(sines, waves, strict=True):
            product = (product[:, None] * sine[None]).reshape(-1)
            square = (square[:, None] + wave[None] ** 2).reshape(-1)
        return product / jnp.sqrt(square)


class _Prediction(eqx.Module):
    """model(x) of a pair (x, y)."""

    def __call__(self, model, pair):
        return model(pair[0])


class _Labelled(eqx.Module):
    """loss(prediction, y) of a pair (x, y)."""

    loss: Callable[[PyTree, Any], Scalar]

    def __call__(self, prediction, pair):
        return self.loss(prediction, pair[1])


def supervised(name: str, loss: Callable[[PyTree, Any], Scalar] | None = None, *, weight: float = 1.0) -> Term:
    """The mean of loss(u(x), y) over pairs (x, y), by default ½‖u(x) − y‖².

    **Arguments:** `loss(prediction, label)`, convex in the prediction. The batch entry is a pair of arrays with a
    common leading axis.
    """
    if loss is None:
        return Term(name, _Fit(name), squared, weight)
    return Term(name, _Prediction(), _Labelled(loss), weight)


class _Fit(eqx.Module):
    """model(x) − y of a pair (x, y)."""

    name: str = eqx.field(static=True)

    def __call__(self, model, pair):
        output, label = model(pair[0]), pair[1]
        if jnp.shape(output) != jnp.shape(label):
            raise ValueError(
                f"The term {self.name!r} compares a model output of shape {jnp.shape(output)} with a label of shape "
                f"{jnp.shape(label)}. Give both the same shape (MLP(..., 'scalar', ...) returns shape ())."
            )
        return output - label


def logistic(logit: Scalar, label: Scalar) -> Scalar:
    """The logistic loss log(1 + eᶻ) − y z for a label y in {0, 1}, without overflow.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> round(float(rv.logistic(jnp.array(0.0), jnp.array(1.0))), 6)
    0.693147

    ```
    """
    return jnp.logaddexp(jnp.zeros_like(logit), logit) - label * logit


def softmax(logits: Float[Array, "classes"], label: Any) -> Scalar:
    """The cross-entropy log Σ eᶻ − z·y of logits and a label y, without overflow.

    **Arguments:** `label`: the number of a class, an integer; or the probabilities of all, such as a one-hot vector.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> round(float(rv.softmax(jnp.array([1e4, 0.0, 1e4]), jnp.array(0))), 6)
    0.693147

    ```
    """
    label = jnp.asarray(label)
    if jnp.issubdtype(label.dtype, jnp.integer) and label.shape == ():
        return jax.nn.logsumexp(logits) - logits[label]
    if label.shape != logits.shape:
        raise ValueError(
            f"softmax: a label is the number of a class, or one probability a class; got an array of shape "
            f"{label.shape} and dtype {label.dtype} for logits of shape {logits.shape}."
        )
    return jax.nn.logsumexp(logits) * jnp.sum(label) - jnp.dot(logits, label.astype(logits.dtype))


def penalty(name: str, function: Callable[[Model], PyTree], *, weight: float = 1.0) -> Term:
    """½‖function(model)‖²: a term without points, such as ridge regularisation or a constraint on parameters."""
    return Term(name, _Penalty(function), squared, weight, whole=True)


class _Penalty(eqx.Module):
    function: Callable[[Model], PyTree]

    def __call__(self, model, points):
        del points
        return self.function(model)


def operator(name: str, points: Any = None, *, relative: bool = False, weight: float = 1.0) -> Term:
    """The mean over functions of ½ mean_j (G[a](y_j) − u(y_j))²: an operator G fitted to pairs of functions (a, u).

    A sample is a function: the batch entry is a pair of arrays with a common leading axis, the inputs a (at sensors)
    and the outputs u (at query points), so that minibatches draw functions, and what a model computes for a function it
    computes once.

    **Arguments:** `points`: the query points `(q, d)` that all functions share, for a model that is called with them,
    `model(a, points) -> (q,)`, such as `DeepONet`; without, the model is called as `model(a)`, as `FNO` is, or with the
    points of each function where the entry is a triple (a, points, u). `relative`: the errors are divided by the size
    of u, ½‖G[a] − u‖²/‖u‖², so that all functions count alike.

    **Raises:** `ValueError` (when it is compiled) for a model output of another shape than u.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> term = rv.operator("data", jnp.linspace(0, 1, 4)[:, None], relative=True)
    >>> halves = lambda a, y: jnp.full(y.shape[0], a[0] / 2)
    >>> term.features(halves, (jnp.array([1.0]), jnp.ones(4))).tolist()
    [-0.25, -0.25, -0.25, -0.25]

    ```
    """
    return Term(name, _Operator(name, points, relative), squared, weight)


class _Operator(eqx.Module):
    """(G[a](y) − u(y))/√q at all query points, or divided by ‖u‖."""

    name: str = eqx.field(static=True)
    points: Any
    relative: bool = eqx.field(static=True)

    def __call__(self, model, sample):
        a, *own, u = sample
        points = own[0] if own else self.points
        output = model(a) if points is None else model(a, jnp.asarray(points, u.dtype))
        if jnp.shape(output) != jnp.shape(u):
            raise ValueError(
                f"The term {self.name!r} compares a model output of shape {jnp.shape(output)} with a function of shape "
                f"{jnp.shape(u)}. Give the term as many query points as the data have values: operator({self.name!r}, "
                "points)."
            )
        size = jnp.linalg.norm(u) if self.relative else jnp.sqrt(jnp.asarray(u.size, u.dtype))
        return (output - u) / jnp.where(size > 0, size, 1)


def operator_residual(
    name: str, equation: Callable[[Model, Any, Any], PyTree], points: Any, *, weight: float = 1.0
) -> Term:
    """The mean over functions a and query points y_j of ½‖equation(G[a], y_j, v_j)‖²: an operator without labels.

    **Arguments:** `equation(u, y, value)`: the residual at one point, where u is the function y ↦ `model(a, y)`;
    `points`: the query points `(q, d)`. The batch entry is a pair of arrays with a common leading axis of functions:
    the inputs a, and the values `(q, …)` at the query points that the equation asks for, such as its right-hand side.

    Sifan Wang, Hanwen Wang and Paris Perdikaris, *Learning the solution operator of parametric partial differential
    equations with physics-informed DeepONets*, Science Advances 2021, equation 9.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> slope = lambda u, y, value: rv.gradient(u, y)[0] - value
    >>> term = rv.operator_residual("ode", slope, jnp.zeros((4, 1)))
    >>> term.features(lambda a, y: a[0] * y[0], (jnp.array([3.0]), jnp.ones(4))).tolist()
    [1.0, 1.0, 1.0, 1.0]

    ```
    """
    return Term(name, _OperatorResidual(name, equation, points), squared, weight)


class _At(eqx.Module):
    """G[a]: y ↦ model(a, y)."""

    model: Model
    a: Any

    def __call__(self, y):
        return self.model(self.a, y)


class _OperatorResidual(eqx.Module):
    """equation(G[a], y, value)/√q at all query points."""

    name: str = eqx.field(static=True)
    equation: Callable[[Model, Any, Any], PyTree]
    points: Any

    def __call__(self, model, sample):
        a, values = sample
        points = jnp.asarray(self.points, a.dtype)
        if values.shape[:1] != points.shape[:1]:
            raise ValueError(
                f"The term {self.name!r} has {points.shape[0]} query points, but values of shape {values.shape} for a "
                "function; their first axes must agree."
            )
        found = jax.vmap(lambda y, value: self.equation(_At(model, a), y, value))(points, values)
        return jax.tree.map(lambda leaf: leaf / jnp.sqrt(jnp.asarray(points.shape[0], leaf.dtype)), found)
