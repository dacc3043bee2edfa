"""What a diagnosis looks at: an objective at one θ, and every measured quantity that the checks ask for, once."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Batch, PyTree, RandomKey, Vector
from ravine.diagnostics.finding import Finding
from ravine.diagnostics.units import saturated_shares
from ravine.objective import Objective
from ravine.optim.ladder import Ladder
from ravine.optim.optimizer import Optimizer
from ravine.optim.quasi_newton import LBFGS, Broyden
from ravine.optim.search import Fixed
from ravine.problems.problem import Error, Problem
from ravine.samplers import Sampler
from ravine.terms import Weighted, points_of

ROWS = 1000  # residual rows that are decomposed; of more, evenly many are taken
ENTRIES = 2**27  # of a Jacobian, at most (1 GiB)
REACHED = 1e-10  # eigenvalues of the kernel above this share of the largest belong to directions that training moves
DONE, BAD = 1e-5, 1e-2  # relative errors at which nothing, and everything, is left to be explained
FIRST_ORDER = ("Steepest", "Transform", "HeavyBall", "Nesterov", "Surgery", "Averaged", "BarzilaiBorwein", "Conjugate")

Check = Callable[["Case"], Finding | None]


@eqx.filter_jit
def _terms(objective: Objective, theta: Vector, batch: Batch):
    return objective.by_term(theta, batch)


@eqx.filter_jit
def _values(objective: Objective, theta: Vector, batch: Batch):
    return objective.values(theta, batch)


@eqx.filter_jit
def _linear(objective: Objective, theta: Vector, batch: Batch):
    lin = objective.linearise(theta, batch)
    return lin.residual, lin.jacobian()


@eqx.filter_jit
def _nudged(objective: Objective, theta: Vector, batch: Batch, key: RandomKey):
    """The residual (or the loss) at parameters rounded up or down at random."""
    signs = jax.random.rademacher(key, theta.shape, theta.dtype)
    near = theta + signs * jnp.finfo(theta.dtype).eps * jnp.abs(theta)
    if objective.has_residuals:
        return objective.linearise(near, batch).residual
    return objective(near, batch)[None]


@eqx.filter_jit
def _hessian_product(objective: Objective, theta: Vector, batch: Batch, v: Vector):
    return objective.linearise(theta, batch).hessian_product(v)


@eqx.filter_jit
def _error(error: Error, objective: Objective, theta: Vector):
    return error(objective, theta)


@eqx.filter_jit
def _spread(objective: Objective, theta: Vector, points: Any):
    """The model at points (flattened), and the norms of its derivatives in θ."""

    def one(point):
        flat = lambda at: jnp.ravel(objective.model(at)(point))
        return flat(theta), jnp.sqrt(jnp.sum(jax.jacrev(flat)(theta) ** 2))

    return jax.lax.map(one, points)


@dataclasses.dataclass
class Case:
    """Everything known about a run, and what follows from it; each quantity is computed when first asked for.

    `blame(kind)` is the blame of another check's finding (0 where it is silent): a symptom yields to its cause.
    """

    objective: Objective
    theta: Vector
    batch: Batch
    test: Batch | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    problem: Problem | None = None
    optimizer: Optimizer | None = None
    sampler: Sampler | None = None
    state: PyTree = None
    key: RandomKey | None = None
    stop: str = ""
    end: Vector | None = None  # the parameters that training ended with
    checks: Mapping[str, Check] = dataclasses.field(default_factory=dict)
    found: dict[str, Finding | None] = dataclasses.field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------- other checks

    def finding(self, kind: str) -> Finding | None:
        """The finding of a check, made once."""
        if kind not in self.found:
            self.found[kind] = None  # a cause that asks for its own symptom hears nothing
            self.found[kind] = self.checks[kind](self) if kind in self.checks else None
        return self.found[kind]

    def blame(self, *kinds: str) -> float:
        """The share that other findings explain together: 1 − Π(1 − blame)."""
        left = 1.0
        for kind in kinds:
            finding = self.finding(kind)
            left *= 1 - (0 if finding is None else finding.blame)
        return 1 - left

    # -------------------------------------------------------------------------------------------- losses and errors

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(term.name for term in self.objective.terms)

    @functools.cached_property
    def by_term(self) -> tuple[np.ndarray, np.ndarray]:
        """Weighted losses `(k,)` and their gradients `(k, n)`."""
        values, grads = _terms(self.objective, self.theta, self.batch)
        return np.asarray(values, float), np.asarray(grads, float)

    @functools.cached_property
    def loss(self) -> float:
        return float(self.by_term[0].sum())

    @functools.cached_property
    def gradient(self) -> np.ndarray:
        return self.by_term[1].sum(axis=0)

    @functools.cached_property
    def finite(self) -> bool:
        return bool(np.isfinite(self.loss) and np.isfinite(self.gradient).all() and np.isfinite(self.theta).all())

    @functools.cached_property
    def independent(self) -> float | None:
        """The loss on independent points."""
        if self.test is None:
            return None
        values = _values(self.objective, self.theta, self.test)
        return float(sum(float(term.weight) * float(values[term.name]) for term in self.objective.terms))

    @functools.cached_property
    def fresh(self) -> Vector | None:
        """Parameters as the problem draws them before training."""
        if self.problem is None:
            return None
        _, theta, _ = self.problem.objective(jax.random.key(0))
        return theta.astype(self.theta.dtype) if theta.shape == self.theta.shape else None

    @functools.cached_property
    def fresh_by_term(self) -> np.ndarray | None:
        """Weighted losses `(k,)` before training, on the batch."""
        return None if self.fresh is None else np.asarray(_terms(self.objective, self.fresh, self.batch)[0], float)

    @functools.cached_property
    def end_by_term(self) -> tuple[np.ndarray, np.ndarray]:
        """`by_term` where training ended, which need not be where it was best."""
        if self.end is None or self.end.shape != self.theta.shape:
            return self.by_term
        values, grads = _terms(self.objective, self.end, self.batch)
        good = bool(jnp.isfinite(values).all() & jnp.isfinite(grads).all())
        return (np.asarray(values, float), np.asarray(grads, float)) if good else self.by_term

    @functools.cached_property
    def start(self) -> float:
        """The loss that training began with: the first record, else at parameters drawn anew, else the loss now."""
        if self.rows and np.isfinite(self.rows[0].get("loss", np.nan)):
            return max(float(self.rows[0]["loss"]), self.loss)
        if self.fresh_by_term is not None:
            return max(float(self.fresh_by_term.sum()), self.loss)
        return self.loss

    @functools.cached_property
    def error(self) -> float | None:
        """The relative error, where a reference is known."""
        if self.problem is None or self.problem.reference is None:
            return None
        return float(_error(Error(self.problem.reference), self.objective, self.theta))

    @functools.cached_property
    def unsolved(self) -> float:
        """How much is left to be explained: 0 at a relative error of 1e-5, 1 at 1e-2, by its logarithm between.

        Where no reference is known √(L/L₀) stands for the error, L on independent points, L₀ at the start.
        """
        size = self.error
        if size is None:
            if not self.objective.has_residuals and not self.lower_bounded:
                return 1.0
            loss = max(self.loss, self.independent or 0.0)
            size = np.sqrt(loss / self.start) if self.start > 0 else 0.0
        if not np.isfinite(size):
            return 1.0
        return float(np.clip(np.log(max(size, 1e-300) / DONE) / np.log(BAD / DONE), 0, 1))

    @functools.cached_property
    def lower_bounded(self) -> bool:
        """Whether zero is a meaningful floor of the loss (it was never negative)."""
        return self.loss >= 0 and all(row.get("loss", 0) >= 0 for row in self.rows)

    # ---------------------------------------------------------------------------------------------------- the method

    @functools.cached_property
    def direction(self) -> Any:
        """The direction of the method, without what is wrapped around it for safety."""
        if self.optimizer is None:
            return None
        direction = self.optimizer.direction
        return direction.direction if isinstance(direction, Ladder) else direction

    @functools.cached_property
    def first_order(self) -> bool:
        """Whether the method uses gradients alone."""
        if self.direction is not None:
            return type(self.direction).__name__ in FIRST_ORDER
        from ravine.optim.presets import METHODS

        name = str(self.rows[-1].get("method", "")).partition("(")[0] if self.rows else ""
        return name in METHODS and "first order" in METHODS[name].family

    @property
    def quasi_newton(self) -> bool:
        """Whether the method keeps curvature pairs that only one batch makes consistent."""
        return isinstance(self.direction, (LBFGS, Broyden))

    @functools.cached_property
    def rate(self) -> float | None:
        """The learning rate, where it is one number."""
        search = None if self.optimizer is None else self.optimizer.search
        if isinstance(search, Fixed) and not callable(search.rate):
            return float(search.rate)
        return None

    @functools.cached_property
    def every(self) -> int | None:
        """After how many steps the sampler gives other points; None: never, or unknown."""
        if self.sampler is None:
            return None
        every = getattr(self.sampler, "every", None)
        if every is not None:
            return None if getattr(self.sampler, "departs", None) is not None else int(every)
        samples, size = self.sampler.samples, getattr(self.sampler, "size", None)
        return 1 if samples is not None and size is not None and size < samples else None

    @functools.cached_property
    def steps(self) -> int:
        return int(self.rows[-1].get("step", len(self.rows))) if self.rows else 0

    def column(self, name: str) -> np.ndarray:
        """A column of the history, the last phase alone."""
        last = self.rows[-1].get("phase") if self.rows else None
        return np.asarray([row.get(name, np.nan) for row in self.rows if row.get("phase") == last], float)

    @functools.cached_property
    def falling(self) -> float:
        """Decades that the loss fell over the last half of the steps of the last phase; 0 without history.

        On independent points where batches change: the loss on a batch goes up and down with it.
        """
        loss, step = self.column("loss"), self.column("step")
        if self.every is not None and np.isfinite(self.column("test_loss")).sum() >= 4:
            loss = self.column("test_loss")
        good = np.isfinite(loss) & (loss > 0)
        if good.sum() < 4:
            return 0.0
        loss, step = loss[good], step[good]
        middle = step >= (step[0] + step[-1]) / 2
        line = np.polyfit(np.linspace(0, 1, middle.sum()), np.log10(loss[middle]), 1) if middle.sum() > 2 else (0, 0)
        return max(float(-line[0]), 0.0)

    @functools.cached_property
    def rises(self) -> float:
        """The share of the last half of the records at which the loss is higher than at the one before."""
        loss = self.column("loss")
        late = loss[len(loss) // 2 :]
        if len(late) < 4:
            return 0.0
        return float(np.mean(~(np.diff(late) <= 0)))

    # ------------------------------------------------------------------------------------------------------ spectrum

    @functools.cached_property
    def part(self) -> Batch:
        """The batch, thinned evenly where it has more rows than are decomposed."""
        many = self.objective.size(self.batch)
        most = min(ROWS, ENTRIES // max(self.objective.parameters, 1))
        if many <= most or self.objective.bare:
            return self.batch
        whole = {term.name: term.whole for term in self.objective.terms}
        return {
            name: entry if whole.get(name, True) else thinned(entry, most / many)
            for name, entry in points_of(self.batch).items()
        }

    @functools.cached_property
    def linear(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Whitened residual `(m,)` and Jacobian `(m, n)` on `part`; None without residuals, or where too large."""
        if not self.objective.has_residuals or not self.finite:
            return None
        if self.objective.size(self.part) > 2 * ROWS:
            return None
        residual, jacobian = _linear(self.objective, self.theta, self.part)
        return np.asarray(residual, float), np.asarray(jacobian, float)

    @functools.cached_property
    def fresh_jacobian(self) -> np.ndarray | None:
        """The Jacobian before training, on `part`; None where that, or `linear`, is unknown."""
        if self.linear is None or self.fresh is None:
            return None
        jacobian = np.asarray(_linear(self.objective, self.fresh, self.part)[1], float)
        return jacobian if np.isfinite(jacobian).all() else None

    @functools.cached_property
    def term_rows(self) -> dict[str, slice]:
        """Which rows belong to which term."""
        found, start = {}, 0
        for term in self.objective.terms:
            rows = dataclasses.replace(self.objective, terms=(term,)).size(self.part)
            found[term.name] = slice(start, start + rows)
            start += rows
        return found

    @functools.cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The kernel's eigenvalues (descending) and the share of ‖r‖² along each eigenvector."""
        if self.linear is None:
            return None
        residual, jacobian = self.linear
        values, vectors = np.linalg.eigh(jacobian @ jacobian.T)
        total = float(residual @ residual)
        shares = (vectors.T @ residual) ** 2 / (total if total > 0 else 1.0)
        return np.maximum(values[::-1], 0), shares[::-1]

    @functools.cached_property
    def unreachable(self) -> float | None:
        """The share of the loss that no small step of all parameters removes: off the range of J."""
        if self.spectrum is None:
            return None
        values, shares = self.spectrum
        return min(float(shares[values <= self.floor * values[0]].sum()), 1.0)

    @property
    def floor(self) -> float:
        """Eigenvalues below this share of the largest count as none."""
        return max(REACHED, 10 * float(jnp.finfo(self.theta.dtype).eps))

    @functools.cached_property
    def sharpness(self) -> float:
        """The largest eigenvalue of the Hessian in size, by power iteration."""
        v = jax.random.normal(jax.random.key(1), self.theta.shape, self.theta.dtype)
        value = 0.0
        for _ in range(30):
            v = v / jnp.linalg.norm(v)
            product = _hessian_product(self.objective, self.theta, self.batch, v)
            value, before = float(jnp.linalg.norm(product)), value
            if value == 0 or not np.isfinite(value) or abs(value - before) <= 1e-3 * value:
                break
            v = product
        return value

    # ----------------------------------------------------------------------------------------------- noise, rounding

    @functools.cached_property
    def _rounded(self) -> np.ndarray:
        """Residuals `(4, m)` (or losses) at parameters rounded at random."""
        keys = jax.random.split(jax.random.key(2), 4)
        return np.asarray([_nudged(self.objective, self.theta, self.batch, key) for key in keys], float)

    @functools.cached_property
    def rounding(self) -> float:
        """The loss that rounding the parameters alone makes: ½‖r(θ(1 ± ε)) − r(θ)‖² (without residuals |ΔL|)."""
        if not self.objective.has_residuals:
            return self.wobble
        apart = self._rounded[::2] - self._rounded[1::2]
        return float(np.mean(np.sum(apart**2, axis=1)) / 4)

    @functools.cached_property
    def wobble(self) -> float:
        """By how much rounding the parameters changes the loss, |ΔL|: no smaller decrease can be told from rounding."""
        losses = np.sum(self._rounded**2, axis=1) / 2 if self.objective.has_residuals else self._rounded[:, 0]
        return float(np.mean(np.abs(losses[::2] - losses[1::2])))

    @functools.cached_property
    def batches(self) -> list[Batch]:
        """Two further batches as the sampler gives them; none where points do not change."""
        if self.sampler is None or self.every is None:
            return []
        keys = jax.random.split(jax.random.key(3) if self.key is None else self.key, 2)
        return [points_of(self.sampler.draw(key)) for key in keys]

    @functools.cached_property
    def noise(self) -> tuple[float, float] | None:
        """‖E∇L‖² and the variance E‖∇L − E∇L‖² of the gradient over batches, unbiased; None where points are fixed."""
        if not self.batches:
            return None
        a, b = (np.asarray(_terms(self.objective, self.theta, batch)[1], float).sum(axis=0) for batch in self.batches)
        return max(float(a @ b), 0.0), float(np.sum((a - b) ** 2) / 2)

    # ---------------------------------------------------------------------------------------------- model and points

    @functools.cached_property
    def model(self) -> Any:
        return self.objective.model(self.theta)

    def points(self, name: str) -> np.ndarray | None:
        """The points of a term as an array `(m, d)`; None where they are something else."""
        if self.objective.bare:
            return None
        entry = points_of(self.batch).get(name)
        entry = entry.points if isinstance(entry, Weighted) else entry
        entry = getattr(entry, "point", entry)
        return np.asarray(entry) if eqx.is_array(entry) and np.ndim(entry) == 2 else None

    @functools.cached_property
    def saturation(self) -> list[float]:
        """The share of units and points at which the slope of the activation is below 1e-3, layer by layer."""
        return self._saturation(self.theta)

    @functools.cached_property
    def born_saturated(self) -> float:
        """The largest such share before training; 0 where that is unknown."""
        return 0.0 if self.fresh is None else max(self._saturation(self.fresh), default=0.0)

    def _saturation(self, theta: Vector) -> list[float]:
        """At up to 64 points of the first term that has some; nothing where there are none."""
        points = next((found for name in self.names if (found := self.points(name)) is not None), None)
        if points is None or not self.finite:
            return []
        few = points[:: max(1, len(points) // 64)].astype(self.theta.dtype)
        return saturated_shares(self.objective.model(theta), few)

    def response(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The model at points, and how far the parameters move it there, ‖∂u/∂θ‖."""
        values, norms = _spread(self.objective, self.theta, jnp.asarray(points, self.theta.dtype))
        return np.asarray(values, float), np.asarray(norms, float)


def thinned(entry: PyTree, share: float) -> PyTree:
    """Evenly many of the points of a batch entry (at least 16), weights made up for those left out."""
    count = jax.tree.leaves(entry)[0].shape[0]
    keep = min(count, max(16, int(count * share)))
    places = jnp.asarray(np.linspace(0, count - 1, keep).round().astype(int))
    taken = jax.tree.map(lambda leaf: leaf[places], entry)
    if isinstance(taken, Weighted):
        return Weighted(taken.points, taken.weights * (count / keep))
    return taken
