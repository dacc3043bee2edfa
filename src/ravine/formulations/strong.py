"""Equations at points: residuals in the interior, conditions on the boundary and at the start."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Model, PyTree
from ravine.calculus import partials
from ravine.domains import Boundary, Faced
from ravine.jets import taylor
from ravine.terms import Term, squared

Part = Sequence[tuple[int, str]] | Callable[[Any], Any] | None


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


def boundary(name: str, value: Any, *, on: Part = None, weight: float = 1.0) -> Term:
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


def neumann(name: str, flux: Any, *, on: Part = None, weight: float = 1.0) -> Term:
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


def robin(name: str, value: Any, *, coefficient: Any, on: Part = None, weight: float = 1.0) -> Term:
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
