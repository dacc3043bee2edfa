"""The border between models and mathematics: pytrees above, one flat vector below.

`L(θ) = Σ_k w_k · Σ_i v_i φ_k(F_k(u_θ; x_i), x_i) / m_k`: a sum of convex losses φ of features F of a model u_θ. A
`Term` is one k; an `Objective` is the sum; a `Linearisation` is everything that an optimizer may ask about it at one θ.
It is lazy: what is not asked for is not traced, and so costs nothing.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from ravine._types import Array, Batch, Float, Matrix, Model, PyTree, Rows, Scalar, Square, Vector


def squared(features: PyTree, point: PyTree = None) -> Scalar:
    """½‖F‖², the loss of a residual.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> float(rv.squared(jnp.array([3.0, 4.0])))
    12.5

    ```
    """
    del point
    return jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(features)])) / 2


def identity(features: PyTree, point: PyTree = None) -> Scalar:
    """The feature itself: the loss of an objective that is given as one number. It has no curvature of its own.

    **Raises:** `ValueError` when the feature is not one number.
    """
    del point
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(features)]
    if shapes != [()]:
        raise ValueError(
            f"The loss must be a scalar, but is an array or a pytree of shape {', '.join(map(str, shapes)) or 'none'}. "
            "Sum or average it; if it is a vector of residuals, use ravine.least_squares."
        )
    return jnp.asarray(jax.tree.leaves(features)[0])


class Term(eqx.Module):
    """One summand: `weight · mean over points of loss(features(model, point), point)`.

    **Arguments:**

    - `name`: how batches, histories and messages call it.
    - `features`: `(model, point) -> F`, an array or a pytree of arrays, at one point.
    - `loss`: `(F, point) -> φ`, a scalar, convex in F. Labels and forcing belong here unless it is `squared`.
    - `weight`: a positive number.
    - `region`: where a sampler that knows a domain shall place the points: "interior", "boundary", "initial", or None
      for points that come as data.
    - `whole`: the features see the whole batch entry at once instead of one point; then there is no mean.

    **Raises:** `ValueError` for a weight that is negative or not finite.
    """

    name: str = eqx.field(static=True)
    features: Callable[[Model, Any], PyTree]
    loss: Callable[[PyTree, Any], Scalar] = squared
    weight: Any = 1.0
    region: str | None = eqx.field(static=True, default=None)
    whole: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        # Under `vmap` or `jit` a weight may be abstract; only a concrete one can be judged.
        abstract = isinstance(self.weight, Tracer) or not isinstance(self.weight, (int, float, np.ndarray, jax.Array))
        if not abstract and not np.all(np.isfinite(self.weight) & (np.asarray(self.weight) >= 0)):
            raise ValueError(
                f"Term {self.name!r}: its weight is {self.weight}, but a weight must be finite and not negative."
            )


class Weighted(eqx.Module):
    """A batch entry with one weight a point, as from quadrature or importance sampling: Σ v_i φ_i instead of a mean."""

    points: PyTree
    weights: Rows


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a pytree of parameters lies in one flat vector. Compares by value, so that equal layouts share compiled code.

    Complex leaves become their real and imaginary parts; leaves of several precisions are promoted to the widest.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]

    @staticmethod
    def of(params: PyTree) -> "Layout":
        """The layout of `params`, a pytree of inexact arrays."""
        leaves, treedef = jax.tree.flatten(params)
        return Layout(treedef, tuple(leaf.shape for leaf in leaves), tuple(np.dtype(leaf.dtype) for leaf in leaves))

    @property
    def dtype(self) -> np.dtype:
        """The real dtype of the flat vector."""
        reals = [jnp.finfo(dtype).dtype for dtype in self.dtypes]
        with jax.numpy_dtype_promotion("standard"):  # it is asked for, also where the user has forbidden it elsewhere
            return functools.reduce(jnp.promote_types, reals)

    def ravel(self, params: PyTree) -> Vector:
        """The flat vector of `params`."""
        parts = []
        for leaf in jax.tree.leaves(params):
            both = (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)
            parts += [jnp.ravel(part).astype(self.dtype) for part in both]
        return jnp.concatenate(parts)

    def unravel(self, theta: Vector) -> PyTree:
        """The pytree of a flat vector."""
        leaves, start = [], 0

        def take(shape, size):
            nonlocal start
            start += size
            return theta[start - size : start].reshape(shape)

        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            size = math.prod(shape)
            real = take(shape, size)
            leaf = lax.complex(real, take(shape, size)) if np.issubdtype(dtype, np.complexfloating) else real
            leaves.append(leaf.astype(dtype))
        return jax.tree.unflatten(self.treedef, leaves)


# Points evaluated at once on a device. Blocks bound the memory and keep temporaries in the cache; each costs an
# iteration of a loop that XLA does not run in parallel. Measured on two cores (3,000 points of Burgers, 16 × 4 tanh):
# 2,048 was a tenth faster than 512.
BLOCK = 2048


class Objective(eqx.Module):
    """`objective(theta, batch) -> L`, a scalar function of a flat parameter vector and a batch.

    Built by `Objective.from_terms`, `Objective.from_residuals` or `Objective.from_loss`. A batch holds, for each term
    name, its points: an array or pytree with a leading axis of points, or `Weighted(points, weights)`.

    **Cost** of a call: one evaluation of every term's features at every point, in blocks of `block` points, so that
    memory does not grow with the number of points.
    """

    terms: tuple[Term, ...]
    static: PyTree
    layout: Layout = eqx.field(static=True)
    block: int = eqx.field(static=True)
    bare: bool = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True, default=None)

    def over(self, mesh: Mesh | None) -> "Objective":
        """The same objective with the points of every term shared out over the devices of a one-axis mesh.

        Parameters are held by every device; values and gradients equal those of one device to rounding.
        """
        return dataclasses.replace(self, mesh=mesh)

    @staticmethod
    def from_terms(terms, model: Model, *, block: int = BLOCK) -> tuple["Objective", Vector]:
        """The objective of `terms` for models shaped like `model`, and the flat vector of `model` itself.

        Every floating-point array of the model is a parameter; all else (functions, sizes, integers) is carried along.

        **Raises:** `ValueError` for no terms, repeated names, or a model without parameters.
        """
        terms = tuple(terms)
        names = [term.name for term in terms]
        if not terms:
            raise ValueError("Objective: there are no terms. Give at least one, such as ravine.residual('pde', pde).")
        if len(set(names)) < len(names):
            raise ValueError(f"Objective: the terms need different names, got {names}.")
        return Objective._build(terms, model, block, bare=False)

    @staticmethod
    def from_residuals(
        residuals: Callable[[PyTree, Any], PyTree], params: PyTree, *, block: int = BLOCK
    ) -> tuple["Objective", Vector]:
        """½‖residuals(params, batch)‖², for people who bring their own residual vector (any pytree of arrays)."""
        return Objective._build((Term("residuals", residuals, whole=True),), params, block, bare=True)

    @staticmethod
    def from_loss(
        loss: Callable[[PyTree, Any], Scalar], params: PyTree, *, block: int = BLOCK
    ) -> tuple["Objective", Vector]:
        """loss(params, batch), for people who bring their own scalar. It has no residuals, hence no Gauss–Newton."""
        return Objective._build((Term("loss", loss, identity, whole=True),), params, block, bare=True)

    @staticmethod
    def _build(terms, model, block, *, bare):
        params, static = eqx.partition(model, eqx.is_inexact_array)
        if not jax.tree.leaves(params):
            raise ValueError(
                "Objective: the model has no parameters (no floating-point arrays among its leaves). Python numbers "
                "and integers do not count: convert them with jax.numpy.asarray(…, float)."
            )
        layout = Layout.of(params)
        theta = layout.ravel(params)
        # Weights become arrays, so that changing a number does not compile anything anew.
        terms = tuple(
            eqx.tree_at(lambda term: term.weight, term, jnp.asarray(term.weight, theta.dtype)) for term in terms
        )
        if block < 1:
            raise ValueError(f"Objective: block is {block}, but it counts points and must be at least 1.")
        return Objective(terms, static, layout, int(block), bare), theta

    # ------------------------------------------------------------------------------------------------ the border

    def model(self, theta: Vector) -> Model:
        """The model whose parameters are `theta`."""
        return eqx.combine(self.layout.unravel(theta), self.static)

    def flatten(self, model: Model) -> Vector:
        """The parameters of `model`, as a flat vector."""
        return self.layout.ravel(eqx.filter(model, eqx.is_inexact_array))

    def entry(self, term: Term, batch: Batch) -> tuple[PyTree, Array | None]:
        """The points of a term in a batch, and their weights where they have any.

        **Raises:** `KeyError` when the batch has none, `ValueError` when it is empty or its leading axes differ.
        """
        if self.bare:
            return batch, None
        if term.name not in batch:
            if term.whole and term.region is None:
                return None, None
            raise KeyError(
                f"The batch has no points for the term {term.name!r}; it has {sorted(batch)}. Either (a) the sampler "
                f"was not told how many to draw: Sobol(box, {term.name}=256), or (b) the names differ."
            )
        points, weights = batch[term.name], None
        if isinstance(points, Weighted):
            points, weights = points.points, points.weights
        if not term.whole:
            sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(points)}
            if len(sizes) != 1 or 0 in sizes:
                raise ValueError(
                    f"The batch for the term {term.name!r} needs points along one common leading axis, at least one "
                    f"of them; the leading axes found are {sorted(sizes)}."
                )
            if weights is not None and weights.shape != tuple(sizes):
                raise ValueError(
                    f"The batch for the term {term.name!r} has {min(sizes)} points but {weights.shape[0]} weights."
                )
        return points, weights

    def pieces(self, batch: Batch) -> list["_Piece"]:
        """The terms with their points, scaled and ready to be evaluated."""
        return [_Piece.of(self, term, *self.entry(term, batch)) for term in self.terms]

    def values(self, theta: Vector, batch: Batch) -> dict[str, Scalar]:
        """The mean loss of each term, *without* its weight."""
        return {piece.term.name: piece.value(self, theta) for piece in self.pieces(batch)}

    def __call__(self, theta: Vector, batch: Batch) -> Scalar:
        total = jnp.zeros((), theta.dtype)
        for term, value in zip(self.terms, self.values(theta, batch).values(), strict=True):
            total = total + term.weight * value
        return total

    def value_and_grad(self, theta: Vector, batch: Batch) -> tuple[Scalar, Vector]:
        """L and ∇L. **Cost:** about three evaluations; memory for one block of points."""
        value, grad = jnp.zeros((), theta.dtype), jnp.zeros_like(theta)
        for piece in self.pieces(batch):
            v, g = piece.reduce(jax.value_and_grad(functools.partial(piece.sum, self)), theta)
            value, grad = value + piece.term.weight * v, grad + piece.term.weight * g
        return value, grad

    def linearise(
        self, theta: Vector, batch: Batch, *, value: Scalar | None = None, grad: Vector | None = None
    ) -> "Linearisation":
        """Everything an optimizer may ask at `theta`; `value` and `grad`, when at hand, are taken as given."""
        return Linearisation(self, theta, batch, value, grad)

    def pointwise(self, theta: Vector, name: str, points: PyTree) -> Rows:
        """φ at each point for the term `name`, unweighted: what samplers draw points by."""
        (term,) = (term for term in self.terms if term.name == name)
        piece = _Piece.of(self, term, points, None)

        def losses(points, scales):
            del scales
            return jax.vmap(lambda point: piece.loss(self.model(theta), point))(points)

        return piece.map(losses)

    def size(self, batch: Batch) -> int:
        """m: how many residual rows the batch gives."""
        theta = jax.ShapeDtypeStruct((self.parameters,), self.layout.dtype)
        model = eqx.filter_eval_shape(self.model, theta)
        rows = 0
        for term in self.terms:
            points, _ = self.entry(term, batch)
            count = 1 if term.whole else jax.tree.leaves(points)[0].shape[0]
            one = points if term.whole else jax.tree.map(lambda leaf: leaf[0], points)
            shapes = eqx.filter_eval_shape(term.features, model, one)
            rows += count * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        return rows

    @property
    def parameters(self) -> int:
        """n: how many real parameters there are."""
        return sum(
            math.prod(shape) * (2 if np.issubdtype(dtype, np.complexfloating) else 1)
            for shape, dtype in zip(self.layout.shapes, self.layout.dtypes, strict=True)
        )

    @property
    def has_residuals(self) -> bool:
        """Whether every term is ½‖F‖², so that L = ½‖r‖² for a whitened residual r."""
        return all(term.loss is squared for term in self.terms)

    @property
    def has_curvature(self) -> bool:
        """Whether any term has a loss with curvature, so that Gauss–Newton means something."""
        return any(term.loss is not identity for term in self.terms)


class _Piece(eqx.Module):
    """A term with its points and their scales √v_i/√m (times √w where rows are whitened): what is looped over."""

    term: Term
    points: PyTree
    weights: Array  # v_i / m, or v_i when the points came weighted
    block: int = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)

    @staticmethod
    def of(objective: Objective, term: Term, points, weights) -> "_Piece":
        dtype = objective.layout.dtype
        if term.whole:
            return _Piece(term, points, jnp.ones(1, dtype), 1, None)
        count = jax.tree.leaves(points)[0].shape[0]
        weights = jnp.full(count, 1 / count, dtype) if weights is None else weights.astype(dtype)
        return _Piece(term, points, weights, objective.block, objective.mesh)

    def features(self, model: Model, point: PyTree) -> PyTree:
        found = self.term.features(model, point)
        return jax.tree.map(jnp.asarray, found)

    def loss(self, model: Model, point: PyTree) -> Scalar:
        value = self.term.loss(self.features(model, point), point)
        if jnp.shape(value) != ():
            raise ValueError(
                f"The loss of the term {self.term.name!r} must be a scalar at one point, but has shape "
                f"{jnp.shape(value)}. Sum or average over the features."
            )
        return value

    # -------------------------------------------------------------------------- sums and rows, blocked over points

    def sum(self, objective: Objective, theta: Vector, points, weights) -> Scalar:
        """Σ v_i φ_i over a block (without the term's weight)."""
        model = objective.model(theta)
        if self.term.whole:
            return self.loss(model, points)
        return jnp.sum(weights * jax.vmap(lambda point: self.loss(model, point))(points))

    def value(self, objective: Objective, theta: Vector) -> Scalar:
        # The checkpoint keeps reverse mode through this sum (by a user's jax.grad) in bounded memory too.
        return self.reduce(jax.checkpoint(functools.partial(self.sum, objective)), theta)

    def reduce(self, function, *args):
        """Σ over blocks of `function(*args, points, weights)`, each device summing its own share of the points."""
        if self.term.whole:
            return function(*args, self.points, self.weights)
        if self.mesh is None:
            return _block_sum(functools.partial(function, *args), self.points, self.weights, self.block)

        def share(args, points, weights):
            total = _block_sum(functools.partial(function, *args), points, weights, self.block)
            return jax.tree.map(lambda leaf: leaf[None], total)

        # One partial sum a device; their sum is the only communication.
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), self._spread(share, args))

    def map(self, function):
        """`function(points, weights)` on every block, put together along the leading axis."""
        if self.term.whole:
            return function(self.points, self.weights)
        if self.mesh is None:
            return _block_map(function, self.points, self.weights, self.block)
        out = self._spread(lambda _, points, weights: _block_map(function, points, weights, self.block), ())
        count, padded = self.weights.shape[0], _whole_multiple(self.weights.shape[0], self.mesh.size)
        return jax.tree.map(lambda leaf: leaf[: count * (leaf.shape[0] // padded)], out)

    def _spread(self, function, args):
        """`function(args, points, weights)` on each device's share of the points."""
        assert self.mesh is not None
        points, weights = _pad((self.points, self.weights), _whole_multiple(self.weights.shape[0], self.mesh.size))
        rows = PartitionSpec(self.mesh.axis_names[0])
        spread = jax.shard_map(
            function, mesh=self.mesh, in_specs=(PartitionSpec(), rows, rows), out_specs=rows, check_vma=False
        )
        return spread(args, points, weights)

    # --------------------------------------------------------------------------------------------- whitened rows

    def flat(self, objective: Objective, theta: Vector, point) -> Float[Array, "q"]:
        """The features at one point, as one vector."""
        return ravel_pytree(self.features(objective.model(theta), point))[0].astype(theta.dtype)

    def whitener(self, objective: Objective, theta: Vector, point):
        """C with C Cᵀ = φ″(F), as a function F-tangent -> rows, at the given θ. For ½‖F‖² it is the identity."""
        if self.term.loss is squared:
            return lambda tangent: tangent
        features, unflatten = ravel_pytree(self.features(objective.model(theta), point))
        hessian = jax.hessian(lambda flat: self.term.loss(unflatten(flat), point))(features).astype(theta.dtype)
        if features.size == 1:
            return lambda tangent: jnp.sqrt(jnp.maximum(hessian, 0)) @ tangent
        # The symmetric root: eigenvectors alone are free in sign and, where eigenvalues repeat, in rotation, so that
        # two products of one J would differ. What is rounding beside the largest eigenvalue (its root is not!) is zero.
        values, vectors = jnp.linalg.eigh(hessian)
        least = features.size * jnp.finfo(values.dtype).eps * values[-1]
        root = (vectors * jnp.sqrt(jnp.where(values > least, values, 0))[None, :]) @ vectors.T
        return lambda tangent: root @ tangent

    def rows(self, objective: Objective, theta: Vector):
        """θ' ↦ whitened features, linear in the features and frozen at `theta` but for them, for one block."""
        scale = jnp.sqrt(self.term.weight)

        def block(at: Vector, points, weights) -> Array:
            if self.term.whole:
                return scale * self.whitener(objective, theta, points)(self.flat(objective, at, points))

            def one(point, weight):
                return jnp.sqrt(weight) * self.whitener(objective, theta, point)(self.flat(objective, at, point))

            return scale * jax.vmap(one)(points, weights).reshape(-1)

        return block

    def jacobian(self, objective: Objective, theta: Vector):
        """The rows of the whitened Jacobian for one block, assembled point by point."""

        def block(points, weights) -> Matrix:
            def one(point, weight):
                white = self.whitener(objective, theta, point)
                jac = self._features_jacobian(objective, theta, point)
                return jnp.sqrt(self.term.weight * weight) * jax.vmap(white, in_axes=1, out_axes=1)(jac)

            if self.term.whole:
                return one(points, weights[0])
            return jax.vmap(one)(points, weights).reshape(-1, theta.shape[0])

        return block

    def _features_jacobian(self, objective, theta, point) -> Matrix:
        flat = functools.partial(self.flat, objective, point=point)
        rows = jax.eval_shape(flat, theta).shape[0]
        # Reverse mode costs one pass a row, forward mode one a parameter.
        return (jax.jacrev if rows <= theta.shape[0] else jax.jacfwd)(flat)(theta)


@dataclasses.dataclass(frozen=True, eq=False)
class Linearisation:
    """An objective seen from one θ: value, gradient, and the whitened Jacobian J in every form.

    Rows are scaled by √(w v φ″/m), so that JᵀJ is the (generalised) Gauss–Newton matrix and, for squares, Jᵀr = ∇L.
    Every part is computed when first asked for and then kept; what is not asked for costs nothing under `jit`.
    Lives within one traced step; it is not a pytree.
    """

    objective: Objective
    theta: Vector
    batch: Batch
    _value: Scalar | None = None
    _grad: Vector | None = None

    @functools.cached_property
    def _pieces(self) -> list[_Piece]:
        return self.objective.pieces(self.batch)

    @functools.cached_property
    def _both(self) -> tuple[Scalar, Vector]:
        return self.objective.value_and_grad(self.theta, self.batch)

    @property
    def value(self) -> Scalar:
        """L(θ). Comes with the gradient when that is asked for too: XLA removes what is computed twice."""
        return self._both[0] if self._value is None else self._value

    @property
    def grad(self) -> Vector:
        """∇L(θ)."""
        return self._both[1] if self._grad is None else self._grad

    @property
    def known(self) -> bool:
        """Whether value and gradient were given, so that asking for them is free."""
        return self._grad is not None

    @functools.cached_property
    def residual(self) -> Rows:
        """The whitened residual r, with L = ½‖r‖². **Raises:** `ValueError` when some loss is not ½‖F‖²."""
        if not self.objective.has_residuals:
            others = [term.name for term in self.objective.terms if term.loss is not squared]
            raise ValueError(f"There is no residual: the loss of {others} is not ½‖F‖². Use `grad` and `jacobian`.")
        return self._rows(lambda block, points, weights: block(self.theta, points, weights))

    def _rows(self, function) -> Rows:
        parts = []
        for piece in self._pieces:
            block = piece.rows(self.objective, self.theta)
            parts.append(piece.map(functools.partial(function, block)))
        return jnp.concatenate(parts)

    def jvp(self, v: Vector) -> Rows:
        """J v. **Cost:** about two evaluations."""
        return self._rows(
            lambda block, points, weights: jax.jvp(lambda at: block(at, points, weights), (self.theta,), (v,))[1]
        )

    def second(self, v: Vector) -> Rows:
        """The second derivative of the whitened features along v, r_vv. **Cost:** about four evaluations."""

        def curve(block, points, weights):
            def slope(at):
                return jax.jvp(lambda inner: block(inner, points, weights), (at,), (v,))[1]

            return jax.jvp(slope, (self.theta,), (v,))[1]

        return self._rows(curve)

    def vjp(self, r: Rows) -> Vector:
        """Jᵀ r. **Cost:** about three evaluations."""
        total, start = jnp.zeros_like(self.theta), 0
        for piece in self._pieces:
            block = piece.rows(self.objective, self.theta)
            count = piece.weights.shape[0]
            rows = jax.eval_shape(functools.partial(block, self.theta), piece.points, piece.weights).shape[0]
            part = r[start : start + rows].reshape(count, -1)
            start += rows

            def pull(points, weights_and_part, block=block):
                weights, part = weights_and_part
                _, back = jax.vjp(lambda at: block(at, points, weights), self.theta)
                return back(part.reshape(-1))[0]

            total = total + _reduce_with(piece, pull, part)
        return total

    @functools.cached_property
    def _jacobian(self) -> Matrix:
        return jnp.concatenate([piece.map(piece.jacobian(self.objective, self.theta)) for piece in self._pieces])

    def jacobian(self) -> Matrix:
        """J, `(m, n)`, assembled point by point. **Cost:** three evaluations and 8mn bytes in float64."""
        return self._jacobian

    @functools.cached_property
    def _gram(self) -> Square:
        total = jnp.zeros((self.theta.shape[0],) * 2, self.theta.dtype)
        for piece in self._pieces:
            block = piece.jacobian(self.objective, self.theta)

            def product(points, weights, block=block):
                jac = block(points, weights)
                return jnp.matmul(jac.T, jac, precision=lax.Precision.HIGHEST)

            total = total + piece.reduce(product)
        return total

    def gram(self) -> Square:
        """JᵀJ, `(n, n)`, summed over blocks of points, so that J is never stored. **Cost:** 2mn² flops."""
        return self._gram

    @functools.cached_property
    def _kernel(self) -> Square:
        jac = self.jacobian()
        return jnp.matmul(jac, jac.T, precision=lax.Precision.HIGHEST)

    def kernel(self) -> Square:
        """JJᵀ, `(m, m)`: the (whitened) neural tangent kernel. **Cost:** 2m²n flops, and J stored."""
        return self._kernel

    def curvature_product(self, v: Vector) -> Vector:
        """JᵀJ v without forming either. **Cost:** about five evaluations."""
        return self.vjp(self.jvp(v))

    def hessian_product(self, v: Vector) -> Vector:
        """∇²L v, forward over reverse. **Cost:** about six evaluations."""
        return jax.jvp(lambda at: self.objective.value_and_grad(at, self.batch)[1], (self.theta,), (v,))[1]

    @property
    def rows(self) -> int:
        """m, the number of rows of J."""
        return self.objective.size(self.batch)


def _whole_multiple(count: int, unit: int) -> int:
    return math.ceil(count / unit) * unit


def _pad(points_and_weights, count: int):
    """Padded to `count` points: the last point again, with weight zero."""
    points, weights = points_and_weights

    def pad(leaf, mode):
        return jnp.pad(leaf, [(0, count - leaf.shape[0])] + [(0, 0)] * (leaf.ndim - 1), mode=mode)

    return jax.tree.map(lambda leaf: pad(leaf, "edge"), points), pad(weights, "constant")


def _blocks(points, weights, block: int):
    """Points and weights with axes (blocks, points in a block, …), in as few and as equal blocks as `block` allows."""
    number = math.ceil(weights.shape[0] / block)
    size = math.ceil(weights.shape[0] / number)
    padded = _pad((points, weights), number * size)
    return jax.tree.map(lambda leaf: leaf.reshape(number, size, *leaf.shape[1:]), padded)


def _block_sum(function, points, weights, block: int):
    """Σ of `function(points, weights)` over blocks."""
    if block >= weights.shape[0]:
        return function(points, weights)
    blocks = _blocks(points, weights, block)
    first = jax.eval_shape(function, *jax.tree.map(lambda leaf: leaf[0], blocks))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

    def add(total, one):
        return jax.tree.map(jnp.add, total, function(*one)), None

    return lax.scan(add, zero, blocks)[0]


def _block_map(function, points, weights, block: int):
    """`function(points, weights)` over blocks, joined along the leading axis."""
    if block >= weights.shape[0]:
        return function(points, weights)
    blocks = _blocks(points, weights, block)
    size, count = blocks[1].shape[1], weights.shape[0]
    out = lax.map(lambda one: function(*one), blocks)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: count * (leaf.shape[1] // size)], out)


def _reduce_with(piece: _Piece, function, extra: Array):
    """As `piece.reduce`, with one more array that is cut along the points."""
    if piece.term.whole:
        return function(piece.points, (piece.weights, extra))
    joined = eqx.tree_at(lambda p: p.points, piece, (piece.points, extra))
    return joined.reduce(lambda both, weights: function(both[0], (weights, both[1])))
