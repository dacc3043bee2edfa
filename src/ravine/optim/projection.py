"""Variable projection: the last linear layer solved for at every point of a path, inside any method."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._results import Work
from ravine._types import Array, Float, PyTree, Rows, Scalar, Vector
from ravine.blocks import on_first
from ravine.linalg import damped_qr, solve_qr
from ravine.models import MLP
from ravine.objective import Objective
from ravine.optim.optimizer import Optimizer, Search
from ravine.optim.path import Along, Found, Iterative


def variable_projection(optimizer: Optimizer, *, where: Callable[[Any], PyTree] | None = None) -> Optimizer:
    """The same method with the last linear layer at its least-squares optimum wherever the loss is evaluated.

    **Arguments:** `optimizer`: any; `where`: `model -> leaves` (an array, or a tuple of them) names the parameters that
    the features are linear in; by default weight and bias of the last `ravine.models.MLP` or `equinox.nn.Linear`.

    ```python
    >>> import ravine as rv
    >>> type(rv.variable_projection(rv.ssbroyden()).search).__name__
    'Projecting'

    ```
    """
    return Optimizer(optimizer.direction, Projecting(optimizer.search, where))


class Projecting(Search):
    """A search along the path t ↦ Π(θ + path(t)) − θ, where Π solves for the last linear layer c by least squares.

    For features F(α, c) that are affine in c, Π(α, c) = (α, argmin_c ½‖F(α, c)‖²), so that the search sees the reduced
    loss min_c L(α, c), whose gradient is that of L in α (and zero in c): slopes along the bent path need nothing more.
    For other features Π is one Gauss–Newton step in c, kept only if the loss falls.

    **Raises:** `ValueError` (when the step is compiled) for losses other than ½‖F‖², and for models without a linear
    layer that can be seen; `where` then names the parameters.

    **Cost** a trial: about two evaluations for the Jacobian in c, one of the loss, 4mk² flops for k numbers in c.

    Gene Golub and Victor Pereyra, *The differentiation of pseudo-inverses and nonlinear least squares problems whose
    variables separate*, SIAM J. Numer. Anal. 1973; Linda Kaufman, *A variable projection method for solving separable
    nonlinear least squares problems*, 1975, whose approximate Jacobian a Gauss–Newton method inside this one uses.
    """

    inner: Search
    where: Callable[[Any], PyTree] | None = eqx.field(static=True, default=None)

    @property
    def gives_grad(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.gives_grad

    def init(self, dtype) -> PyTree:
        return self.inner.init(dtype)

    def __call__(self, phi: Along, state: PyTree) -> tuple[Scalar, Found, PyTree]:
        chosen = linear_leaves(phi.objective, self.where)
        bent = Along(phi.objective, phi.theta, phi.batch, Bent(phi, chosen), phi.here)
        t, found, state = self.inner(bent, state)
        # One projection with each evaluation of the search, or, where it evaluates nothing, with each of its points, as
        # `Bent.trial` counts them: so many rows, of the last layer only, and an evaluation.
        trials = found.work.evaluations
        own = 0 if found.value is None else trials
        work = found.work + Work(evaluations=own, rows=trials * phi.objective.size(phi.batch))
        return t, Found(found.step, found.value, found.grad, work, found.failed), state


class Bent:
    """A path with the last layer projected at each of its points. Lives within one traced step."""

    def __init__(self, phi: Along, chosen: tuple[int, ...]):
        self.phi, self.path, self.chosen = phi, phi.path, chosen
        self.work, self.trial = phi.path.work, phi.path.trial + Work(evaluations=1)
        self._last: tuple[Any, Any] = (None, None)

    def __call__(self, t: Scalar) -> Vector:
        return self.attempt(t)[0]

    def attempt(self, t: Scalar) -> tuple[Vector, Work]:
        """The displacement at t, and what the iteration that found it cost."""
        path = self.path
        step, work = path.attempt(t) if isinstance(path, Iterative) else (path(t), Work())
        bent = project(self.phi.objective, self.phi.theta + step, self.phi.batch, self.chosen) - self.phi.theta
        self._last = (bent, step)
        return bent, work

    def __getattr__(self, name: str) -> Any:
        # What a search asks of a path of its own kind, such as the damping of a path by radius.
        return getattr(self.path, name)

    def slope(self, grad: Vector) -> Scalar:
        """That of the path itself: where ∇_c L = 0 the way that c takes does not matter."""
        return self.path.slope(grad)

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        """What the model predicts without the projection."""
        bent, straight = self._last
        return self.path.reduction(t, straight if step is bent else self.path(t))


def project(objective: Objective, theta: Vector, batch: Any, chosen: tuple[int, ...]) -> Vector:
    """θ with the leaves numbered `chosen` at their least-squares optimum, or as it is where that is no better."""
    layout = objective.layout
    parts = layout.split(theta)
    matrix, residual = _layer_rows(objective, parts, batch, chosen)

    def solve(_, matrix, residual):
        # Half of the digits: units that do nearly the same share their weight, and rounding does not choose for them.
        shift = jnp.finfo(matrix.dtype).eps * jnp.sum(matrix**2) / matrix.shape[1]
        return (), solve_qr(*damped_qr(matrix, shift), residual)

    change = -on_first(objective.mesh, solve, (), matrix, residual)[1]
    parts, start = list(parts), 0
    for number in chosen:
        size = parts[number].size
        parts[number] = parts[number] + change[start : start + size].reshape(parts[number].shape)
        start += size
    there = jnp.concatenate([part.reshape(-1) for part in parts])
    better = objective(there, batch) <= jnp.sum(residual**2) / 2
    return jnp.where(better, there, theta)


def _layer_rows(
    objective: Objective, parts: tuple[Array, ...], batch: Any, chosen: tuple[int, ...]
) -> tuple[Float[Array, "m k"], Rows]:
    """The Jacobian in the chosen leaves, and the residual, both whitened."""
    matrices, residuals = [], []
    for piece in objective.pieces(batch):

        def one(point, weight, piece=piece):
            def features(layer):
                there = list(parts)
                for number, part in zip(chosen, layer, strict=True):
                    there[number] = part
                return piece.flat(tuple(there), point)

            layer = tuple(parts[number] for number in chosen)
            scale = jnp.sqrt(piece.term.weight * weight)
            slopes = jax.jacrev(features)(layer)
            rows = jnp.concatenate([slope.reshape(slope.shape[0], -1) for slope in slopes], axis=1)
            return scale * rows, scale * features(layer)

        def block(points, weights, piece=piece, one=one):
            if piece.term.whole:
                return one(points, weights[0])
            rows, values = jax.vmap(one)(points, weights)
            return rows.reshape(-1, rows.shape[2]), values.reshape(-1)

        rows, values = piece.map(block)
        matrices.append(rows)
        residuals.append(values)
    return jnp.concatenate(matrices), jnp.concatenate(residuals)


def linear_leaves(objective: Objective, where: Callable[[Any], PyTree] | None = None) -> tuple[int, ...]:
    """The numbers, among the parameter arrays of the model, of its last linear layer (or of what `where` names).

    **Raises:** `ValueError` as `Projecting`.
    """
    if not objective.has_residuals:
        raise ValueError(
            "Variable projection solves a linear least-squares problem for the last layer, and needs every loss to be "
            "½‖F‖². For other losses use the method without it."
        )
    treedef = objective.layout.treedef
    numbered = eqx.combine(jax.tree.unflatten(treedef, list(range(treedef.num_leaves))), objective.static)
    if where is not None:
        return tuple(jax.tree.leaves(where(numbered)))
    layers = (MLP, eqx.nn.Linear)
    found = jax.tree.leaves(numbered, is_leaf=lambda node: isinstance(node, layers))
    found = [node for node in found if isinstance(node, layers)]
    if not found:
        raise ValueError(
            "Variable projection found no linear layer in the model: it knows ravine.models.MLP and equinox.nn.Linear. "
            "Name the parameters that the features are linear in: variable_projection(optimizer, where=lambda model: "
            "(model['kernel'], model['bias']))."
        )
    last = found[-1]
    leaves = (last.weights[-1], last.biases[-1]) if isinstance(last, MLP) else (last.weight, last.bias)
    return tuple(leaf for leaf in leaves if isinstance(leaf, int))
