"""Spectra: tangent kernels, Gauss–Newton matrices and Hessians, whole or at their ends.

With whitened rows J (`Objective.linearise`) the tangent kernel JJᵀ says how fast gradient descent removes each part of
the residual, and JᵀJ, with the same eigenvalues but for zeros, how ill conditioned the problem is for the parameters.
"""

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ravine._types import Array, Batch, Float, Matrix, RandomKey, Vector
from ravine.diagnostics.lanczos import Kind, Preconditioner, factored, lanczos, ready, ritz, root_of
from ravine.domains.box import Box
from ravine.objective import STORED, Objective

# The order up to which a matrix is decomposed densely: a minute of work at most.
DENSE = 3_000
# A Ritz value is an eigenvalue when its residual is below this share of the largest.
CONVERGED = 1e-8


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of a symmetric matrix, from the largest to the least.

    - `eigenvalues`: `(k,)`, descending; where k is less than `order` the others are zero, or unknown if not `whole`.
    - `vectors`: the eigenvectors as columns, `(·, k)`, or None.
    - `of`: the name of the matrix.
    - `order`: how many eigenvalues it has.
    - `floor`: what is not above it in size is rounding.
    - `whole`: whether all eigenvalues but zeros are here, rather than those at the ends alone.
    - `errors`: `(k,)` bounds of the errors of Ritz values, or None.

    ```python
    >>> import numpy as np
    >>> from ravine.diagnostics.spectra import Spectrum
    >>> found = Spectrum(np.array([4.0, 1.0, 1e-20]), of="a diagonal", order=3, floor=1e-15)
    >>> found.condition, found.cut, found.largest_stable_step
    (4.0, 1, 0.5)

    ```
    """

    eigenvalues: np.ndarray
    vectors: np.ndarray | None = None
    of: str = "a matrix"
    order: int = 0
    floor: float = 0.0
    whole: bool = True
    errors: np.ndarray | None = None

    @property
    def kept(self) -> np.ndarray:
        """The eigenvalues that are above rounding, in size."""
        return self.eigenvalues[np.abs(self.eigenvalues) > self.floor]

    @property
    def cut(self) -> int:
        """How many eigenvalues are zero to rounding, so not in `condition`; of a spectrum's ends, of those known."""
        return (self.order if self.whole else self.eigenvalues.size) - self.kept.size

    @property
    def condition(self) -> float:
        """max |λ| / min |λ| over what is above rounding; infinite where nothing is. Of a spectrum's ends a lower
        bound."""
        sizes = np.abs(self.kept)
        return float(sizes.max() / sizes.min()) if sizes.size else np.inf

    @property
    def entropy_rank(self) -> float:
        """exp(−Σ p log p) with p = |λ|/Σ|λ|: how many eigenvalues matter.

        **Raises:** `ValueError` unless the spectrum is whole.

        Olivier Roy and Martin Vetterli, *The effective rank*, 2007.
        """
        shares = np.abs(self._all("entropy_rank"))
        shares = shares[shares > 0] / shares.sum()
        return float(np.exp(-np.sum(shares * np.log(shares))))

    @property
    def participation(self) -> float:
        """(Σ|λ|)²/Σλ²: how many eigenvalues matter, by a sterner count. **Raises:** as `entropy_rank`."""
        sizes = np.abs(self._all("participation"))
        return float(sizes.sum() ** 2 / np.sum(sizes**2))

    @property
    def decay(self) -> float:
        """p of the power law |λ_i| ≈ c i^(−p), fitted to log |λ_i| over log i by least squares; NaN for fewer than two.

        Each octave of i counts the same. **Raises:** as `entropy_rank`.
        """
        self._all("decay")
        sizes = np.sort(np.abs(self.kept))[::-1]
        if sizes.size < 2:
            return np.nan
        index = np.arange(1, sizes.size + 1)
        return float(-np.polyfit(np.log(index), np.log(sizes), 1, w=1 / np.sqrt(index))[0])

    @property
    def largest_stable_step(self) -> float:
        """2/λ_max: the rate above which gradient descent diverges; infinite where nothing curves upwards."""
        top = self.eigenvalues.max(initial=0)
        return float(2 / top) if top > self.floor else np.inf

    def _all(self, name: str) -> np.ndarray:
        if not self.whole:
            raise ValueError(
                f"{name}: only the ends of the spectrum are known. Either (a) ask for all: dense=True, or (b) for "
                "counts of all eigenvalues use ravine.spectral_density."
            )
        if not self.kept.size:
            raise ValueError(f"{name}: every eigenvalue of {self.of} is zero.")
        return self.kept


# ------------------------------------------------------------------------------------------------ the tangent kernel


@eqx.filter_jit
def _row_factors(objective: Objective, theta: Vector, batch: Batch, term: str | None):
    """U and σ of J (m, n) = U diag(σ) Vᵀ, in (m, k)."""
    rows = _rows(objective, theta, batch, term)
    if rows.shape[0] >= rows.shape[1]:
        u, s, _ = jnp.linalg.svd(rows, full_matrices=False)
        return u, s
    # The wide matrix as a triangle first: J = (Q R)ᵀ.
    u, s, _ = jnp.linalg.svd(jnp.linalg.qr(rows.T, mode="r").T, full_matrices=False)
    return u, s


def _rows(objective: Objective, theta: Vector, batch: Batch, term: str | None) -> Matrix:
    if term is None:
        return objective.linearise(theta, batch).jacobian()
    (piece,) = (piece for piece in objective.pieces(batch) if piece.term.name == term)
    return piece.map(piece.jacobian(theta))


@eqx.filter_jit
def _kernel(objective: Objective, theta: Vector, batch: Batch) -> Float[Array, "m m"]:
    return objective.linearise(theta, batch).kernel()


def tangent_kernel(objective: Objective, theta: Vector, batch: Batch, *, term: str | None = None) -> Spectrum:
    """The spectrum of the neural tangent kernel JJᵀ with its eigenvectors `(m, k)`, over the rows of r.

    **Arguments:** `term`: the name of one term, to have its own block JₖJₖᵀ alone.

    Where J fits into 1 GiB it is factorised itself, so that eigenvalues down to eps² of the largest are right to
    rounding; above, the kernel is, and they are right down to eps of the largest.

    **Raises:** `ValueError` for an unknown term, or an objective without rows.

    **Cost:** 2m²n + 20m³ flops (m ≤ n) and 8mn bytes.

    Arthur Jacot, Franck Gabriel and Clément Hongler, *Neural tangent kernel*, NeurIPS 2018; for residuals of equations
    Sifan Wang, Xinling Yu and Paris Perdikaris, *When and why PINNs fail to train*, 2022.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> objective, theta = rv.Objective.from_residuals(lambda x, _: jnp.array([1.0, 2.0]) * x, jnp.ones(2))
    >>> [round(float(value), 5) for value in rv.tangent_kernel(objective, theta, None).eigenvalues]
    [4.0, 1.0]

    ```
    """
    objective = ready(objective, "A tangent kernel needs", term)
    count, n = objective.size(batch), theta.shape[0]
    of = "the tangent kernel" + ("" if term is None else f" of {term}")
    if term is not None or count * n * theta.dtype.itemsize <= STORED:
        vectors, singular = (np.asarray(part, np.float64) for part in _row_factors(objective, theta, batch, term))
        return _from_singular(singular, vectors, of, vectors.shape[0], max(vectors.shape[0], n), theta.dtype)
    values, vectors = np.linalg.eigh(np.asarray(_kernel(objective, theta, batch), np.float64))
    floor = count * np.finfo(theta.dtype).eps * float(np.abs(values).max(initial=0))
    return Spectrum(values[::-1], vectors[:, ::-1], of, count, float(floor))


def _from_singular(singular, vectors, of: str, order: int, longer: int, dtype) -> Spectrum:
    """Eigenvalues σ², with the floor that σ has: longer·eps·σ_max, squared."""
    floor = (longer * float(np.finfo(dtype).eps) * float(singular.max(initial=0))) ** 2
    return Spectrum(singular**2, vectors, of, order, floor)


def kernel_blocks(objective: Objective, theta: Vector, batch: Batch) -> dict[tuple[str, str], np.ndarray]:
    """The tangent kernel cut by terms: `(name, other) -> J_name J_otherᵀ`, such as K_uu, K_ur and K_rr of an equation
    with boundary values. Rows are whitened, by the weights of the terms too.

    **Raises:** `ValueError` for an objective without rows. **Cost:** that of the kernel, m²n flops.

    Sifan Wang, Xinling Yu and Paris Perdikaris, *When and why PINNs fail to train*, 2022, equation (3.6).
    """
    objective = ready(objective, "A tangent kernel needs")
    kernel = np.asarray(_kernel(objective, theta, batch))
    places = term_rows(objective, theta, batch)
    return {(a, b): kernel[i, j] for a, i in places.items() for b, j in places.items()}


def term_rows(objective: Objective, theta: Vector, batch: Batch) -> dict[str, slice]:
    """Which rows of J and r belong to each term."""
    pieces = objective.pieces(batch)
    ends = np.cumsum([0, *(piece.count * piece.width(theta) for piece in pieces)])
    return {piece.term.name: slice(int(a), int(b)) for piece, a, b in zip(pieces, ends[:-1], ends[1:], strict=True)}


# -------------------------------------------------------------------------------------------------------- curvature


@eqx.filter_jit
def _dense_gauss_newton(objective: Objective, theta: Vector, batch: Batch, root: Preconditioner):
    """Singular values of J L, and the right singular vectors in (n, k)."""
    rows = objective.linearise(theta, batch).jacobian()
    if root is not None:
        rows = jax.vmap(root_of(root)[1])(rows)
    if rows.shape[0] > rows.shape[1]:
        rows = jnp.linalg.qr(rows, mode="r")
    _, singular, vectors = jnp.linalg.svd(rows, full_matrices=False)
    return singular, vectors.T


@eqx.filter_jit
def _dense(objective: Objective, theta: Vector, batch: Batch, root: Preconditioner, kind: Kind):
    lin, (forth, back) = objective.linearise(theta, batch), root_of(root)
    if kind == "gauss-newton":  # J is too large to be stored
        half = jax.vmap(back)(lin.gram())  # G L, by rows
        matrix = jax.vmap(back, in_axes=1, out_axes=1)(half)
    else:
        product = lambda v: back(lin.hessian_product(forth(v)))
        matrix = lax.map(product, jnp.eye(theta.shape[0], dtype=theta.dtype), batch_size=16)
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    return values[::-1], vectors[:, ::-1]


def curvature(
    objective: Objective,
    theta: Vector,
    batch: Batch,
    kind: Literal["gauss-newton", "hessian"] = "gauss-newton",
    *,
    preconditioner: Preconditioner = None,
    dense: bool | None = None,
    products: int = 64,
    key: RandomKey | None = None,
) -> Spectrum:
    """The spectrum of JᵀJ or ∇²L, of Lᵀ G L with a preconditioner H = L Lᵀ.

    Dense where the order (the smaller side of J) is at most 3,000. Above, by Lanczos with full reorthogonalisation:
    all Ritz values that are eigenvalues to 1e-8 of the largest, and always the largest and the least; `errors` bounds
    them. Where J has fewer rows than parameters, Lanczos begins in the range of Jᵀ, and does not meet the zeros.

    **Arguments:**

    - `preconditioner`: an inverse Hessian H `(n, n)`, such as that of `ravine.bfgs`; or a function v ↦ P^(-1/2) v,
      symmetric, that JAX can trace.
    - `dense`: whether to decompose the matrix whole; None chooses.
    - `products`: with the operator, for Lanczos.
    - `key`: of the first Lanczos vector.

    **Returns:** a `Spectrum`; `vectors` are those of the preconditioned matrix, `(n, k)`, and None by Lanczos.

    **Raises:** `ValueError` for the Gauss–Newton matrix of an objective without rows.

    **Cost:** dense, 2mn·min(m, n) flops, for the Hessian n products; else `products` products (about five or six
    evaluations each) and that many vectors of memory.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> scales = jnp.array([1.0, 10.0])
    >>> objective, theta = rv.Objective.from_residuals(lambda x, _: scales * x, jnp.ones(2))
    >>> round(rv.curvature(objective, theta, None).condition, 3)
    100.0
    >>> round(rv.curvature(objective, theta, None, preconditioner=jnp.diag(1 / scales**2)).condition, 3)
    1.0

    ```
    """
    if kind == "gauss-newton":
        objective = ready(objective, "The Gauss–Newton matrix has")
    objective, n = objective.over(None), theta.shape[0]
    rows = objective.size(batch) if kind == "gauss-newton" else n
    of = {"gauss-newton": "the Gauss–Newton matrix", "hessian": "the Hessian"}[kind]
    of += "" if preconditioner is None else ", preconditioned"
    root = factored(preconditioner)
    if dense is None:
        dense = min(rows, n) <= DENSE
    if dense and kind == "gauss-newton" and rows * n * theta.dtype.itemsize <= STORED:
        singular, vectors = (np.asarray(x, np.float64) for x in _dense_gauss_newton(objective, theta, batch, root))
        return _from_singular(singular, vectors, of, n, max(rows, n), theta.dtype)
    eps = float(np.finfo(theta.dtype).eps)
    if dense:
        values, vectors = (np.asarray(x, np.float64) for x in _dense(objective, theta, batch, root, kind))
        return Spectrum(values, vectors, of, n, n * eps * float(np.abs(values).max(initial=0)))
    order = min(rows, n)
    start = jax.random.normal(jax.random.key(0) if key is None else key, (order,), theta.dtype)
    _, *small = lanczos(objective, theta, batch, root, start, kind=kind, by_rows=False, products=min(products, order))
    values, vectors, left = ritz(*small)
    errors, top = left * np.abs(vectors[-1]), float(np.abs(values).max())
    kept = errors <= CONVERGED * top
    kept[[0, -1]] = True
    whole = bool(kept.size == order and kept.all())
    return Spectrum(values[kept][::-1], None, of, n, order * eps * top, whole, errors[kept][::-1])


# -------------------------------------------------------------------------------------------------------- frequency


def mean_frequency(
    vectors: Float[Array, "m k"] | np.ndarray,
    points: Float[Array, "m d"] | np.ndarray,
    box: Box,
    *,
    highest: int = 64,
    weights: Float[Array, "m"] | np.ndarray | None = None,
) -> np.ndarray:
    """The mean frequency of each column, a function at the points of a box, in waves per side of the box.

    For frequencies j/2, j ∈ {0, …, highest}ᵈ, c_j = Σ_i w_i v(x_i) Π cos(π j (x_i − low)/(high − low)): Fourier sums of
    the even extension, which has no jump at the faces. The mean is Σ |j|/2 |c_j|² / Σ |c_j|², |j| Euclidean; with each
    c_j normalised as ‖cos‖² on the box. Against the eigenvalues it shows spectral bias: what oscillates is learnt last.

    **Arguments:** `vectors`: `(m, k)`, such as `tangent_kernel(…).vectors`, a row for each point; `points`: `(m, d)`;
    `weights`: w of the points where not equal (the whitened rows are √w v already: then √w goes here).

    **Raises:** `ValueError` where there is not a row for each point. **Cost:** m k (highest + 1)ᵈ flops.

    Nasim Rahaman et al., *On the spectral bias of neural networks*, ICML 2019.

    ```python
    >>> import numpy as np, ravine as rv
    >>> x = (np.arange(100)[:, None] + 0.5) / 100
    >>> rv.mean_frequency(np.cos(2 * np.pi * x * np.array([1, 5])), x, rv.Box(0, 1)).round(6).tolist()
    [1.0, 5.0]

    ```
    """
    columns, places = np.asarray(vectors, np.float64), np.asarray(points, np.float64)
    if columns.shape[0] != places.shape[0]:
        raise ValueError(
            f"mean_frequency: {columns.shape[0]} rows but {places.shape[0]} points. With several terms or features, "
            "take the rows of one: tangent_kernel(…, term='pde')."
        )
    if weights is not None:
        columns = columns * np.asarray(weights, np.float64)[:, None]
    low, high = box.bounds
    waves = np.arange(highest + 1)
    # Σ_i v_i Π_d cos: one coordinate at a time, points kept to the last.
    cosines = [np.cos(np.pi * np.outer(x, waves)) for x in ((places - low) / (high - low)).T]
    norms = np.where(waves == 0, 1.0, 2.0)
    table, power, squared = cosines[0], norms, (waves / 2.0) ** 2
    for factor in cosines[1:]:
        table = (table[:, :, None] * factor[:, None, :]).reshape(places.shape[0], -1)
        power = np.outer(power, norms).ravel()
        squared = np.add.outer(squared, (waves / 2.0) ** 2).ravel()
    energy = power[:, None] * (table.T @ columns) ** 2
    return np.sqrt(squared) @ energy / energy.sum(axis=0)
