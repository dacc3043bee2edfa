"""Different directions for different parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ravine._results import Work
from ravine._types import Array, PyTree, RandomKey, Scalar, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Iterative, Line, Previous


class Grouped(Direction):
    """A direction for each group of parameters, and one search along all of them together.

    Each direction sees the objective as a function of its own group, the other parameters being constants: its
    gradient, its Jacobian, its curvature. What it returns are the blocks of one path, so that a step is block Jacobi,
    not block Gauss–Seidel; a search with a decrease condition guards it. Group-wise rates belong to the directions,
    such as `Transform(optax.adam(1e-2))` with the search `Fixed(1.0)`.

    **Arguments:**

    - `directions`: label -> direction; None leaves a group as it is (`ravine.frozen` takes it out of the problem, which
      is cheaper).
    - `labels`: a pytree of labels like the parameters (a label may stand for a whole branch), or a function
      parameters -> such a pytree, as in `optax.multi_transform`.

    **Raises:** `ValueError` for a label without a direction, a direction without parameters, and straight paths beside
    damped ones, between which a search could not choose one t.

    **Cost:** that of the directions, each on its group; n numbers beside.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> groups = {"fast": rv.bfgs().direction, "slow": rv.Steepest()}
    >>> optimizer = rv.Optimizer(rv.Grouped(groups, {"x": "fast", "y": "slow"}), rv.Wolfe())
    >>> loss = lambda p, _: jnp.sum((p["x"] - 1.0) ** 4) + (p["y"] + 2.0) ** 2
    >>> run = rv.minimise(loss, {"x": jnp.zeros(3), "y": jnp.array(0.0)}, optimizer=optimizer, steps=60)
    >>> round(float(run.params["y"]), 3)
    -2.0

    ```
    """

    directions: dict[str, Direction | None]
    labels: PyTree | Callable[[PyTree], PyTree]

    def init(self, objective: Objective, theta: Vector) -> dict[str, PyTree]:
        groups = self._groups(objective)
        return {
            label: group.direction.init(objective.restricted(theta, group.chosen), group.take(theta))
            for label, group in groups.items()
        }

    def __call__(
        self, lin: Linearisation, theta: Vector, state: dict[str, PyTree], previous: Previous, *, key: RandomKey
    ) -> tuple["Line | Joined", dict[str, PyTree]]:
        paths, after = [], {}
        for number, (label, group) in enumerate(self._groups(lin.objective).items()):
            objective, part = lin.objective.restricted(theta, group.chosen), group.take(theta)
            own = objective.linearise(part, lin.batch, value=lin.value, grad=group.take(lin.grad))
            mine = jax.tree.map(group.take, (previous.s, previous.y, previous.grad))
            before = Previous(mine[0], mine[1], mine[2], previous.t, previous.failed, previous.count)
            key_of_group = jax.random.fold_in(key, number)
            path, after[label] = group.direction(own, part, state[label], before, key=key_of_group)
            paths.append((group, path))
        straight = [isinstance(path, Line) for _, path in paths]
        if all(straight):
            total = jnp.zeros_like(theta)
            for group, path in paths:
                total = group.put(total, path.direction)
            return Line(total, lin.grad, sum((path.work for _, path in paths), Work())), after
        if any(straight):
            kinds = [f"{label}: {type(self.directions[label]).__name__}" for label in after]
            raise ValueError(
                "Grouped: some directions are straight lines, for a step length, and others are damped paths, for a "
                f"damping ({', '.join(kinds)}), so that no t serves all. Give Gauss–Newton directions a ridge: "
                "ravine.GaussNewton(ridge=1e-6, acceleration=False)."
            )
        return Joined(paths, theta), after

    def _groups(self, objective: Objective) -> dict[str, "_Group"]:
        shapes = [
            jax.ShapeDtypeStruct(s, d) for s, d in zip(objective.layout.shapes, objective.layout.dtypes, strict=True)
        ]
        params = objective.layout.treedef.unflatten(shapes)
        labels = self.labels(params) if callable(self.labels) else self.labels
        spread = jax.tree.map(lambda label, branch: jax.tree.map(lambda _: label, branch), labels, params)
        found = jax.tree.leaves(spread)
        unknown = sorted({str(label) for label in found if label not in self.directions})
        unused = sorted(str(label) for label in self.directions if label not in found)
        if unknown or unused or len(found) != len(shapes):
            raise ValueError(
                f"Grouped: the directions are {sorted(map(str, self.directions))} and the labels {sorted(set(found))}, "
                "but there must be a direction for each label, and parameters for each direction. None leaves a group "
                "as it is."
            )
        return {
            label: _Group(direction, [other == label for other in found], objective)
            for label, direction in self.directions.items()
            if direction is not None
        }


class _Group:
    """A direction and where its parameters lie in the flat vector. Lives within one traced step."""

    def __init__(self, direction: Direction, chosen: list[bool], objective: Objective):
        self.direction, self.chosen, self.objective = direction, chosen, objective
        layout, start, self.spans = objective.layout, 0, []
        for mine, size in zip(chosen, layout.sizes, strict=True):
            if mine:
                self.spans.append((start, start + size))
            start += size
        own = [dtype for mine, dtype in zip(chosen, layout.dtypes, strict=True) if mine]
        self.dtype = type(layout)(layout.treedef, layout.shapes[: len(own)], tuple(own)).dtype

    def take(self, vector: Vector) -> Array:
        """The entries of the group."""
        return jnp.concatenate([vector[start:end] for start, end in self.spans]).astype(self.dtype)

    def put(self, vector: Vector, part: Array) -> Vector:
        """The vector with other entries in the group."""
        at = 0
        for start, end in self.spans:
            vector = vector.at[start:end].set(part[at : at + end - start].astype(vector.dtype))
            at += end - start
        return vector


class Joined:
    """Paths of several groups, followed at one t. Lives within one traced step."""

    def __init__(self, paths: list[tuple[_Group, Any]], theta: Vector):
        self.paths, self.theta = paths, theta
        self.work = sum((path.work for _, path in paths), Work())
        self.trial = sum((path.trial for _, path in paths), Work())

    def __call__(self, t: Scalar) -> Vector:
        return self.attempt(t)[0]

    def attempt(self, t: Scalar) -> tuple[Vector, Work]:
        """The displacement at t, and what it cost."""
        total, work = jnp.zeros_like(self.theta), Work()
        for group, path in self.paths:
            step, spent = path.attempt(t) if isinstance(path, Iterative) else (path(t), Work())
            total, work = group.put(total, step), work + spent
        return total, work

    def slope(self, grad: Vector) -> Scalar:
        """The sum of the slopes."""
        return self._sum(lambda group, path: path.slope(group.take(grad)))

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        """The sum of what the local models predict, each for its group alone."""
        return self._sum(lambda group, path: path.reduction(t, group.take(step)))

    def _sum(self, part: Callable[[_Group, Any], Scalar]) -> Scalar:
        total = jnp.zeros((), self.theta.dtype)
        for group, path in self.paths:
            total = total + part(group, path).astype(total.dtype)
        return total
