"""Gauss–Newton from the spectrum of a (sketched) Jacobian: one factorisation, and then every damping is cheap.

`Sketched` gives the path by trust radius that `Probe` searches; `Truncated` leaves small singular values out instead of
damping them.
"""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ravine._results import Work
from ravine._types import Array, Count, Float, RandomKey, Scalar, Vector
from ravine.blocks import on_first
from ravine.linalg import gram
from ravine.objective import STORED, Linearisation, Objective
from ravine.optim.optimizer import Direction, Search
from ravine.optim.path import Along, Found, Line, Path, Previous
from ravine.optim.search import ROUNDING
from ravine.optim.sketches import Cosine, Whole, short_gram, short_rows, sketched_rows

Factorisation = Literal["eigh", "svd"]
Digits = Literal["auto", "eigh", "svd"]

MARGIN = 1000.0  # times the rounding of a Gramian: the least damping for which its eigenvalues are good enough


class Spectrum:
    """d = −Σ_i w_i(σ²) c_i v_i for any weights w: what one factorisation of a (sketched) Jacobian gives.

    `values` are the squared singular values σ², `coefficients` c = Vᵀ∇L, `floor` the least damping that the digits
    allow. Lives within one traced step.
    """

    def __init__(
        self,
        lin: Linearisation,
        *,
        columns: int | None,
        rows: int | None,
        solver: Factorisation,
        key: RandomKey,
        deep: Array | None = None,
    ):
        n, m = lin.theta.shape[0], lin.rows
        most = n if columns is None else min(columns, n)
        count = m if columns is None and rows is None else (2 * most if rows is None else rows)
        first, second = jax.random.split(key)
        dtype = lin.theta.dtype
        eps = float(jnp.finfo(dtype).eps)
        self.lin, self.mesh = lin, lin.objective.mesh
        # With no more rows than columns there is nothing to sketch: the kernel has all of J.
        self.kernel = m <= most and lin.objective.has_residuals and solver == "eigh"
        self.right = Whole() if most == n or m <= most else Cosine.draw(most, n, first, dtype)
        target = lin.residual if self.kernel else self.right.shrink(lin.grad)

        def factorised(lin: Linearisation, solver: Factorisation):
            if self.kernel:
                matrix = lin.kernel()
            elif m > most and count < m:
                matrix = sketched_rows(lin, self.right, most, count, second)
                matrix = gram(matrix) if solver == "eigh" else matrix
            else:
                matrix = (short_gram if solver == "eigh" else short_rows)(lin, self.right)
            kept = (matrix,)
            if solver == "svd":  # what `on_first` keeps has the same shapes before and after: room for the basis
                kept = (matrix, jnp.zeros((matrix.shape[1], min(matrix.shape)), dtype))
            (*_, basis), told = on_first(self.mesh, _factorise(solver), kept, target)
            # What is below is rounding: of the matrix for "eigh", of J for "svd".
            return basis, *told, jnp.asarray(eps if solver == "eigh" else (10 * eps) ** 2, dtype)

        # A sketch is wrong by far more than the digits of its Gramian; and with fewer rows than columns the two have
        # different shapes.
        whole = isinstance(self.right, Whole) and count >= m
        if deep is None or self.kernel or m < most or not whole:
            found = factorised(lin, solver)
        else:
            found = lax.cond(deep, lambda: factorised(lin.anew(), "svd"), lambda: factorised(lin.anew(), "eigh"))
        self.basis, self.values, self.raw, relative = found
        largest = jnp.max(self.values)
        self.floor = relative * largest + jnp.finfo(dtype).tiny
        self.coefficients = jnp.sqrt(self.values) * self.raw if self.kernel else self.raw
        # The longest step for which the digits of a Gramian would do.
        self.reach = jnp.linalg.norm(self.coefficients / (self.values + MARGIN * eps * largest + jnp.finfo(dtype).tiny))

    @property
    def trial(self) -> Work:
        """What each `lift` costs: a product with Jᵀ in kernel space."""
        return Work(products=1 if self.kernel else 0)

    def lift(self, weights: Float[Array, "k"]) -> Vector:
        """−Σ w_i c_i v_i. **Cost:** 2ks flops, for k values in s dimensions."""

        def combine(_, basis, z):
            return (), basis @ z

        y = on_first(self.mesh, combine, (), self.basis, weights * self.raw)[1]
        if not self.kernel:
            return -self.right.expand(y)
        # Many products with Jᵀ follow, and J was stored for its kernel unless it is too large.
        stored = self.lin.rows * self.lin.theta.shape[0] * y.dtype.itemsize <= STORED
        return -(y @ self.lin.jacobian() if stored else self.lin.vjp(y))


def _factorise(solver: Factorisation) -> Callable:
    """`((matrix, …), target) -> ((…, basis), (values, basisᵀ target))`."""

    def by_eigh(kept, target):
        values, vectors = jnp.linalg.eigh(kept[0])
        return (vectors,), (jnp.maximum(values, 0), target @ vectors)

    def by_svd(kept, target):
        matrix = kept[0]
        if matrix.shape[0] > matrix.shape[1]:
            matrix = jnp.linalg.qr(matrix, mode="r")
        _, root, vectors = jnp.linalg.svd(matrix, full_matrices=False)
        return (kept[0], vectors.T), (root**2, vectors @ target)

    return by_eigh if solver == "eigh" else by_svd


# ------------------------------------------------------------------------------------------------------- directions


class Radial:
    """The path Δ ↦ −(JᵀJ + λI)⁻¹∇L with λ such that the step has length Δ, or the least λ where none is so long.

    Lives within one traced step.
    """

    def __init__(self, spectrum: Spectrum, work: Work):
        self.spectrum, self.work, self.trial = spectrum, work, spectrum.trial

    def __call__(self, t: Scalar) -> Vector:
        return self.spectrum.lift(1 / (self.spectrum.values + self.damping(t)))

    def damping(self, t: Scalar) -> Scalar:
        """λ(Δ), by bisection of its logarithm: the length falls with λ. **Cost:** 50 passes over the spectrum."""
        values, c, floor = self.spectrum.values, self.spectrum.coefficients, self.spectrum.floor
        low = jnp.log(floor)
        high = jnp.maximum(jnp.log(jnp.linalg.norm(c) / t), low)  # ‖d‖ ≤ ‖∇L‖/λ

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            long = jnp.linalg.norm(c / (values + jnp.exp(middle))) > t
            return jnp.where(long, middle, low), jnp.where(long, high, middle)

        return jnp.exp(lax.fori_loop(0, 50, halve, (low, high))[1])

    def slope(self, grad: Vector) -> Scalar:
        raise TypeError("A path by radius is not straight and has no slope at t = 0; use `Probe` as its search.")

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        """−⟨∇L, s⟩ − ½‖Js‖² of the (sketched) model: Σ c²/(σ² + λ) · (1 − ½σ²/(σ² + λ))."""
        values, c, shift = self.spectrum.values, self.spectrum.coefficients, self.damping(t)
        return jnp.sum(c**2 / (values + shift) * (1 - values / (values + shift) / 2))


class Sketched(Direction):
    """The path Δ ↦ −P(PᵀJᵀLᵀLJP + λI)⁻¹Pᵀ∇L by trust radius Δ, from one factorisation of the sketch LJP.

    P is a randomised cosine transform with `columns` columns (`Cosine`), L a count sketch with `rows` rows
    (`sketched_rows`), both drawn anew every step; J itself is never stored. Where a sketch would not be smaller than
    what it sketches it is left out: with `columns` ≥ n and `rows` ≥ m, and by default, this is Gauss–Newton. With no
    more residuals than columns the kernel JJᵀ is used instead, and nothing is sketched.

    **Arguments:**

    - `columns`, `rows`: of the sketch; None for `columns` is n, None for `rows` twice as many as columns.
    - `solver`: "eigh" of the Gramian of the sketch; "svd" of its triangular factor, for the last digits: it takes
      dampings below machine epsilon beside the largest eigenvalue, at twice the time a step; or "auto": "eigh" until
      the last step was longer than its digits allow (λ below `MARGIN` times their rounding) or failed, then "svd"; and
      always "eigh" of a sketch that left something out, which has no such digits.

    **Raises:** `ValueError` when the objective has no curvature to use (a bare scalar loss), for sizes below one, and
    for fewer rows than columns.

    **Cost:** one Jacobian, 512·m·columns or 16·m·n flops for P, whichever is more, 8·m·columns for L, and about
    10·columns³ for the spectrum (without sketches mn² + 10n³); each trial 2·columns² flops. Memory
    rows·columns + 3·columns² numbers and one block of J.

    Webb, Jerad and Cartis, *DSGNAR*, arXiv 2607.02194. Deviations: the gradient is not sketched; the spectrum comes
    from the Gramian by default; the columns kept are the first ones, which signs and permutation make as good as any.
    """

    columns: int | None = eqx.field(static=True, default=None)
    rows: int | None = eqx.field(static=True, default=None)
    solver: Digits = eqx.field(static=True, default="auto")

    def __check_init__(self):
        _check_sizes("Sketched", self.columns, self.rows)

    def init(self, objective: Objective, theta: Vector) -> Scalar | None:
        objective.require_curvature("Sketched Gauss–Newton and its kin need")
        return jnp.asarray(jnp.inf, theta.dtype) if self.solver == "auto" else None

    def __call__(
        self, lin: Linearisation, theta: Vector, state: Scalar | None, previous: Previous, *, key: RandomKey
    ) -> tuple[Radial, Scalar | None]:
        deep = None
        if state is not None:
            deep = jnp.logical_or(previous.t > state, previous.failed & (previous.count > 0))
        solver = "eigh" if self.solver == "auto" else self.solver
        spectrum = Spectrum(lin, columns=self.columns, rows=self.rows, solver=solver, key=key, deep=deep)
        return Radial(spectrum, Work(rows=lin.rows, inner=1)), None if state is None else spectrum.reach


class Truncated(Direction):
    """The line along −Σ c_i v_i/σ_i² over the singular values σ_i of J above `cutoff` times the largest.

    The natural gradient with the small singular values left out: what the points cannot tell from zero is not moved.

    **Arguments:** `cutoff`; `columns`, `rows`, `solver`: as in `Sketched`.

    **Raises:** as `Sketched`. **Cost:** as `Sketched`.

    Nilo Schwencke and Cyril Furtlehner, *ANaGRAM: a natural gradient relative to adapted model for efficient PINNs
    learning*, ICLR 2025, algorithm 1.
    """

    cutoff: float = 1e-6
    columns: int | None = eqx.field(static=True, default=None)
    rows: int | None = eqx.field(static=True, default=None)
    solver: Factorisation = eqx.field(static=True, default="eigh")

    def __check_init__(self):
        _check_sizes("Truncated", self.columns, self.rows)

    def init(self, objective: Objective, theta: Vector) -> None:
        objective.require_curvature("Sketched Gauss–Newton and its kin need")

    def __call__(
        self, lin: Linearisation, theta: Vector, state: None, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, None]:
        spectrum = Spectrum(lin, columns=self.columns, rows=self.rows, solver=self.solver, key=key)
        values = spectrum.values
        least = jnp.maximum(self.cutoff**2 * jnp.max(values), spectrum.floor)
        kept = values > least
        direction = spectrum.lift(jnp.where(kept, 1 / jnp.where(kept, values, 1), 0))
        return Line(direction, lin.grad, Work(rows=lin.rows, inner=1) + spectrum.trial), None


def _check_sizes(name: str, columns: int | None, rows: int | None) -> None:
    for what, value in (("columns", columns), ("rows", rows)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: {what} is {value}, but must be at least 1.")
    if rows is not None and (columns is None or rows < columns):
        raise ValueError(
            f"{name}: rows={rows} needs columns= of at most as many, got columns={columns}. Twice as many rows as "
            "columns are a good choice, and the default."
        )


# ----------------------------------------------------------------------------------------------------------- search


class ByRadius(Path):
    """A path by trust radius, as `Probe` needs it: `damping(t)` is the λ that belongs to the radius t."""

    def damping(self, t: Scalar) -> Scalar: ...


class _ProbeState(eqx.Module):
    radius: Scalar
    dampings: Float[Array, "k"]  # log λ of the last steps, the oldest first
    count: Count


class Probe(Search):
    """The longest step of a path by radius whose gain ratio is still `accept`, by probing.

    The loss is evaluated at `probes` radii, spread geometrically from 1/`spread` to `spread` times the last one. The
    gain ratios ρ = (actual decrease)/(predicted decrease), made monotone by their running minimum, say where ρ crosses
    `accept`; that radius is taken if the loss falls there, else the best probe. Where all probes gain more, the largest
    one is taken, so that the radius grows; where none gains enough, the smallest one, so that it shrinks; where the
    loss falls at none, the radius is cut by `spread`² and probed again. `accept` is small, for deliberately long
    steps, as long as these bring λ down: while log λ, fitted over the last `window` steps, rises, the best probe is
    taken.

    **Cost:** `probes` + 1 evaluations of the loss and of the path.

    Webb, Jerad and Cartis, *DSGNAR*, arXiv 2607.02194. Deviation: there the ratio becomes one half once λ has turned
    up, which halves the loss with each step. The best probe gains digits: where long steps have brought λ down, it has
    taken the loss from 1e-11 to 4e-16 in six steps (`burgers_smooth`). Taken from the start it keeps λ decades higher
    and is slower; so is taking it for good once λ has turned up, which early steps do too.
    """

    start: float = 1.0
    spread: float = 3.0
    accept: float = 0.075
    probes: int = eqx.field(static=True, default=24)
    window: int = eqx.field(static=True, default=30)
    rounds: int = eqx.field(static=True, default=6)

    def init(self, dtype) -> _ProbeState:
        return _ProbeState(jnp.asarray(self.start, dtype), jnp.zeros(self.window, dtype), jnp.int32(0))

    def __call__(self, phi: Along, state: _ProbeState) -> tuple[Scalar, Found, _ProbeState]:
        dtype, value, path = phi.theta.dtype, phi.here.value, phi.path
        enough = value - ROUNDING * jnp.finfo(dtype).eps * jnp.abs(value)
        accept = jnp.asarray(self.accept, dtype)
        spread = jnp.log(jnp.asarray(self.spread, dtype))
        factors = jnp.exp(jnp.linspace(-spread, spread, self.probes, dtype=dtype))

        def again(carry):
            rounds, _, _, best, _, _ = carry
            return (rounds < self.rounds) & ~(best < enough)

        def probe(carry):
            rounds, radius = carry[:2]
            radii = radius * factors
            steps = jax.vmap(path)(radii)
            values = lax.map(phi.value, steps)
            gains = (value - values) / jax.vmap(path.reduction)(radii, steps)
            ratios = lax.cummin(jnp.where(jnp.isfinite(gains), gains, -jnp.inf))
            last = jnp.sum(ratios >= accept) - 1  # the largest probe that gains enough
            crossing = _crossing(radii, ratios, jnp.clip(last, 0, self.probes - 2), accept)
            aim = jnp.where(last < 0, radii[0], jnp.where(last == self.probes - 1, radii[-1], crossing))
            lowest = jnp.argmin(values)
            return rounds + 1, radius / self.spread**2, aim, values[lowest], radii[lowest], steps[lowest]

        zero = jnp.zeros((), dtype)
        start = (jnp.int32(0), state.radius, zero, jnp.asarray(jnp.inf, dtype), zero, jnp.zeros_like(phi.theta))
        rounds, radius, aim, best, t, step = lax.while_loop(again, probe, start)
        aimed = path(aim)
        there = phi.value(aimed)
        take = (there < enough) & ~(self._rises(state) & (best < there))
        t, step, best = jnp.where(take, aim, t), jnp.where(take, aimed, step), jnp.where(take, there, best)
        failed = ~(best < enough)
        step, best = jnp.where(failed, 0, step), jnp.where(failed, value, best)
        # No longer than the step itself, which may not fill the radius.
        radius = jnp.where(failed, radius, jnp.minimum(t, jnp.linalg.norm(step)))
        dampings = jnp.roll(state.dampings, -1).at[-1].set(jnp.log(path.damping(jnp.where(failed, 1, t))))
        dampings = jnp.where(failed, state.dampings, dampings)
        count = state.count + jnp.where(failed, 0, 1)
        trials = rounds * self.probes + 1
        work = Work(evaluations=trials, inner=trials - 1, products=trials * path.trial.products)
        return t, Found(step, best, None, work, failed), _ProbeState(radius, dampings, count)

    def _rises(self, state: _ProbeState) -> Array:
        """Whether log λ has risen over the last `window` steps, by a fitted line."""
        age = jnp.arange(self.window, dtype=state.dampings.dtype) - (self.window - 1) / 2
        return (state.count >= self.window) & (jnp.dot(age, state.dampings) > 0)


def _crossing(radii: Vector, ratios: Vector, place: Count, goal: Scalar) -> Scalar:
    """Where ρ, linear in log Δ between the radii number `place` and `place` + 1, is `goal`."""
    high, low = ratios[place], ratios[place + 1]
    share = jnp.where(jnp.isfinite(low), (high - goal) / jnp.where(high > low, high - low, 1), 0)
    share = jnp.where(jnp.isfinite(share), jnp.clip(share, 0, 1), 0)
    return jnp.exp((1 - share) * jnp.log(radii[place]) + share * jnp.log(radii[place + 1]))
