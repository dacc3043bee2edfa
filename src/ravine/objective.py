"""The border between models and mathematics: pytrees above, one flat vector below.

`L(θ) = Σ_k w_k · Σ_i v_i φ_k(F_k(u_θ; x_i), x_i) / m_k`: a sum of convex losses φ of features F of a model u_θ. A
`Term` is one k; an `Objective` is the sum; a `Linearisation` is everything that an optimizer may ask about it at one θ.
It is lazy: what is not asked for is not traced, and so costs nothing.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ravine._types import Array, Batch, Float, Matrix, Model, PyTree, Rows, Scalar, Square, Vector
from ravine.constraints import constrained, partition, plain
from ravine.layout import Layout
from ravine.linalg import gram, symmetric_product
from ravine.pieces import Piece, blocked_kernel
from ravine.terms import Term, Weighted, identity, points_of, squared

# Bytes up to which a Jacobian is stored whole when only its kernel is wanted.
STORED = 2**30


class Objective(eqx.Module):
    """`objective(theta, batch) -> L`, a scalar function of a flat parameter vector and a batch.

    Built by `Objective.from_terms`, `Objective.from_residuals` or `Objective.from_loss`. A batch holds, for each term
    name, its points: an array or pytree with a leading axis of points, or `Weighted(points, weights)`.

    **Cost** of a call: one evaluation of every term's features at every point, in blocks of `block` points (None
    chooses by itself), so that memory does not grow with the number of points.
    """

    terms: tuple[Term, ...]
    static: PyTree
    layout: Layout = eqx.field(static=True)
    block: int | None = eqx.field(static=True)
    bare: bool = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True, default=None)
    samples: int | None = eqx.field(static=True, default=None)  # in the data, where points are drawn from data
    focuses: tuple[Any, ...] = eqx.field(static=True, default=())  # what is trained in turn (see `ravine.Focus`)

    def over(self, mesh: Mesh | None) -> "Objective":
        """The same objective with the points of every term shared out over the devices of a one-axis mesh.

        Parameters are held by every device; values and gradients equal those of one device to rounding.
        """
        return dataclasses.replace(self, mesh=mesh)

    def narrowed(self, dtype: Any) -> "Objective":
        """The same objective in another precision, for parameters and batches that are cast likewise."""
        terms = jax.tree.map(
            lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, (self.terms, self.static)
        )
        return dataclasses.replace(self, terms=terms[0], static=terms[1], layout=self.layout.narrowed(dtype))

    @staticmethod
    def from_terms(terms, model: Model, *, block: int | None = None) -> tuple["Objective", Vector]:
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
        residuals: Callable[[PyTree, Any], PyTree], params: PyTree, *, block: int | None = None
    ) -> tuple["Objective", Vector]:
        """½‖residuals(params, batch)‖², for people who bring their own residual vector (any pytree of arrays)."""
        return Objective._build((Term("residuals", residuals, whole=True),), params, block, bare=True)

    @staticmethod
    def from_loss(
        loss: Callable[[PyTree, Any], Scalar], params: PyTree, *, block: int | None = None
    ) -> tuple["Objective", Vector]:
        """loss(params, batch), for people who bring their own scalar. It has no residuals, hence no Gauss–Newton."""
        return Objective._build((Term("loss", loss, identity, whole=True),), params, block, bare=True)

    @staticmethod
    def _build(terms, model, block, *, bare):
        params, static = partition(model)
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
        if block is not None and block < 1:
            raise ValueError(f"Objective: block is {block}, but it counts points and must be at least 1.")
        return Objective(terms, static, layout, None if block is None else int(block), bare), theta

    # ------------------------------------------------------------------------------------------------ the border

    def model(self, theta: Vector) -> Model:
        """The model whose parameters are `theta`; constrained ones (`ravine.bounded`) as plain arrays again."""
        return plain(eqx.combine(self.layout.unravel(theta), self.static))

    def flatten(self, model: Model) -> Vector:
        """The parameters of `model`, as a flat vector."""
        return self.layout.ravel(partition(constrained(self.static, model))[0])

    def restricted(self, theta: Vector, chosen: Sequence[bool]) -> "Objective":
        """The same function of the leaves where `chosen` is True alone, in the order of the layout; the others stay
        where `theta` has them."""
        leaves, treedef = jax.tree.flatten(self.layout.unravel(theta))
        part = lambda wanted: treedef.unflatten(
            [leaf if mine is wanted else None for leaf, mine in zip(leaves, chosen, strict=True)]
        )
        static = eqx.combine(self.static, part(False))
        return dataclasses.replace(self, static=static, layout=Layout.of(part(True)))

    def entry(self, term: Term, batch: Batch) -> tuple[PyTree, Array | None]:
        """The points of a term in a batch, and their weights where they have any.

        **Raises:** `KeyError` when the batch has none, `ValueError` when it is empty or its leading axes differ.
        """
        batch = points_of(batch)
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
        if isinstance(points, Weighted) and not term.whole:  # which weighs its points by itself
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

    def pieces(self, batch: Batch) -> list[Piece]:
        """The terms with their points, scaled and ready to be evaluated."""
        return [self._piece(term, *self.entry(term, batch)) for term in self.terms]

    def _piece(self, term: Term, points: PyTree, weights: Array | None) -> Piece:
        dtype = self.layout.dtype
        if term.whole:
            return Piece(term, points, jnp.ones(1, dtype), self.static, self.layout, 1, None)
        count = jax.tree.leaves(points)[0].shape[0]
        weights = jnp.full(count, 1 / count, dtype) if weights is None else weights.astype(dtype)
        return Piece(term, points, weights, self.static, self.layout, self.block, self.mesh)

    def values(self, theta: Vector, batch: Batch) -> dict[str, Scalar]:
        """The mean loss of each term, *without* its weight."""
        return {piece.term.name: piece.value(theta) for piece in self.pieces(batch)}

    def __call__(self, theta: Vector, batch: Batch) -> Scalar:
        total = jnp.zeros((), theta.dtype)
        for term, value in zip(self.terms, self.values(theta, batch).values(), strict=True):
            total = total + term.weight * value
        return total

    def value_and_grad(self, theta: Vector, batch: Batch) -> tuple[Scalar, Vector]:
        """L and ∇L. **Cost:** about three evaluations; memory for one block of points."""
        value, grad = jnp.zeros((), theta.dtype), jnp.zeros_like(theta)
        for piece in self.pieces(batch):
            v, g = piece.reduce(jax.value_and_grad(lambda *args, piece=piece: piece.sum(*args)), theta)
            value, grad = value + piece.term.weight * v, grad + piece.term.weight * g
        return value, grad

    def by_term(self, theta: Vector, batch: Batch) -> tuple[Float[Array, "k"], Float[Array, "k n"]]:
        """Each summand of L, weighted, and its gradient: `(k,)` and `(k, n)`. **Cost:** that of `value_and_grad`."""
        values, grads = [], []
        for piece in self.pieces(batch):
            v, g = piece.reduce(jax.value_and_grad(lambda *args, piece=piece: piece.sum(*args)), theta)
            values.append(piece.term.weight * v)
            grads.append(piece.term.weight * g)
        return jnp.stack(values), jnp.stack(grads)

    def linearise(
        self, theta: Vector, batch: Batch, *, value: Scalar | None = None, grad: Vector | None = None
    ) -> "Linearisation":
        """Everything an optimizer may ask at `theta`; `value` and `grad`, when at hand, are taken as given."""
        return Linearisation(self, theta, batch, value, grad)

    def pointwise(self, theta: Vector, name: str, points: PyTree) -> Rows:
        """φ at each point for the term `name`, unweighted: what samplers draw points by."""
        (term,) = (term for term in self.terms if term.name == name)
        piece, model = self._piece(term, points, None), self.model(theta)

        def losses(points, weights):
            del weights
            return jax.vmap(lambda point: piece.loss(model, point))(points)

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
        return self.layout.size

    @property
    def has_residuals(self) -> bool:
        """Whether every term is ½‖F‖², so that L = ½‖r‖² for a whitened residual r."""
        return all(term.loss is squared for term in self.terms)

    @property
    def has_curvature(self) -> bool:
        """Whether any term has a loss with curvature, so that Gauss–Newton means something."""
        return any(term.loss is not identity for term in self.terms)

    def require_curvature(self, who: str, instead: str = "ravine.ssbroyden(), ravine.lbfgs()") -> None:
        """**Raises:** `ValueError` when this is a bare scalar loss; `who` needs more, `instead` does not."""
        if not self.has_curvature:
            raise ValueError(
                f"{who} residuals, but this objective is a bare scalar loss. Either (a) give the residual vector: "
                f"ravine.least_squares(residuals, params), or (b) use a method that does without: {instead}."
            )


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
    def _pieces(self) -> list[Piece]:
        return self.objective.pieces(self.batch)

    @functools.cached_property
    def by_term(self) -> tuple[Float[Array, "k"], Float[Array, "k n"]]:
        """Each summand of L and its gradient, `(k,)` and `(k, n)`; asked for first, it costs nothing beside ∇L."""
        return self.objective.by_term(self.theta, self.batch)

    @functools.cached_property
    def _both(self) -> tuple[Scalar, Vector]:
        if "by_term" in self.__dict__:
            values, grads = self.by_term
            return jnp.sum(values), jnp.sum(grads, axis=0)
        return self.objective.value_and_grad(self.theta, self.batch)

    @property
    def value(self) -> Scalar:
        """L(θ). Comes with the gradient when that is asked for too: XLA removes what is computed twice."""
        return self._both[0] if self._value is None else self._value

    @property
    def grad(self) -> Vector:
        """∇L(θ)."""
        return self._both[1] if self._grad is None else self._grad

    def anew(self) -> "Linearisation":
        """The same with nothing computed yet: for a branch, which must not keep what is traced inside it."""
        return dataclasses.replace(self)

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
            block = piece.rows(self.theta)
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
            block = piece.rows(self.theta)
            rows = piece.count * piece.width(self.theta)
            part = r[start : start + rows].reshape(piece.count, -1)
            start += rows

            def pull(points, weights_and_part, block=block):
                weights, part = weights_and_part
                _, back = jax.vjp(lambda at: block(at, points, weights), self.theta)
                return back(part.reshape(-1))[0]

            total = total + piece.reduce(pull, extra=part)
        return total

    @functools.cached_property
    def _jacobian(self) -> Matrix:
        return jnp.concatenate([piece.map(piece.jacobian(self.theta)) for piece in self._pieces])

    def jacobian(self) -> Matrix:
        """J, `(m, n)`, assembled point by point. **Cost:** three evaluations and 8mn bytes in float64."""
        return self._jacobian

    @functools.cached_property
    def _gram(self) -> Square:
        total = jnp.zeros((self.theta.shape[0],) * 2, self.theta.dtype)
        for piece in self._pieces:
            block = piece.jacobian(self.theta)

            def product(points, weights, block=block):
                return gram(block(points, weights))

            total = total + piece.reduce(product, block=piece.held(self.theta))
        return total

    def gram(self) -> Square:
        """JᵀJ, `(n, n)`, summed over blocks of points, so that J is never stored. **Cost:** mn² flops and a few n²."""
        return self._gram

    @functools.cached_property
    def _kernel(self) -> Square:
        if self.rows * self.theta.shape[0] * self.theta.dtype.itemsize <= STORED:
            return symmetric_product(self.jacobian())
        return blocked_kernel(self._pieces, self.theta, self.objective.mesh)

    def kernel(self) -> Square:
        """JJᵀ, `(m, m)`: the (whitened) neural tangent kernel. **Cost:** m²n flops; J is stored up to 1 GiB, and above
        that computed anew block by block (`ravine.pieces.blocked_kernel`)."""
        return self._kernel

    def curvature_product(self, v: Vector) -> Vector:
        """JᵀJ v without forming either, block by block, so that J v and its pull-back share the values of the network.

        **Cost:** about five evaluations, and no memory that grows with the points."""
        total = jnp.zeros_like(self.theta)
        for piece in self._pieces:
            block = piece.rows(self.theta)

            def there_and_back(points, weights, block=block):
                _, push = jax.linearize(lambda at: block(at, points, weights), self.theta)
                return jax.linear_transpose(push, self.theta)(push(v))[0]

            total = total + piece.reduce(there_and_back)
        return total

    def hessian_product(self, v: Vector) -> Vector:
        """∇²L v, forward over reverse. **Cost:** about six evaluations."""
        return jax.jvp(lambda at: self.objective.value_and_grad(at, self.batch)[1], (self.theta,), (v,))[1]

    @property
    def rows(self) -> int:
        """m, the number of rows of J."""
        return self.objective.size(self.batch)
