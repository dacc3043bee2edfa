"""Quadratic models within a trust region, and with cubic regularisation, inside `jit`.

The exact problems are solved in an eigenbasis, where they have one unknown; the inexact one by conjugate gradients.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from ravine._types import Array, Count, Float, Scalar, Vector
from ravine.linalg.krylov import Operator

NEWTON = 100  # iterations of the safeguarded Newton method for one unknown, at most; half a dozen are usual


class Truncated(NamedTuple):
    """What `steihaug` returns: `x`, its `decrease` −gᵀx − ½xᵀBx, the `iterations` (products with B), whether the
    region `bound` it, and the relative `residual` ‖g + Bx‖/‖g‖ by recurrence."""

    x: Vector
    decrease: Scalar
    iterations: Count
    bound: Array
    residual: Scalar


def steihaug(
    operator: Operator,
    gradient: Vector,
    radius: Scalar,
    *,
    tolerance: Scalar | float = 1e-6,
    iterations: Count | int = 100,
) -> Truncated:
    """Minimises gᵀx + ½xᵀBx within ‖x‖ ≤ radius along the path of conjugate gradients.

    The iteration ends where the path leaves the region, on the border along the first direction of curvature that is
    not positive, or at ‖g + Bx‖ ≤ tolerance · ‖g‖. The decrease is at least that of the Cauchy point. A product that is
    not finite ends it where it stands.

    **Cost:** a product with B an iteration, twelve n flops and five vectors beside.

    Trond Steihaug, *The conjugate gradient method and trust regions in large scale optimization*, SIAM J. Numer. Anal.
    1983; Nocedal and Wright, 2006, algorithm 7.2.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg import steihaug
    >>> matrix = jnp.diag(jnp.array([1.0, -2.0]))
    >>> found = steihaug(lambda v: matrix @ v, jnp.array([0.0, 1.0]), jnp.array(3.0))
    >>> found.x.tolist(), float(found.decrease)
    ([0.0, -3.0], 12.0)

    ```
    """
    size = jnp.linalg.norm(gradient)
    goal = jnp.asarray(tolerance, gradient.dtype) * size

    def again(carry):
        count, _, r, _, bound, dead = carry
        return (count < iterations) & ~bound & ~dead & (jnp.linalg.norm(r) > goal)

    def body(carry):
        count, x, r, p, _, _ = carry
        bp = operator(p)
        rr, curvature = jnp.dot(r, r), jnp.dot(p, bp)
        dead = ~jnp.isfinite(curvature)
        alpha = rr / jnp.where(curvature > 0, curvature, 1)
        out = ~dead & ((curvature <= 0) | (jnp.linalg.norm(x + alpha * p) >= radius))
        # To the border: the positive root of ‖x + τp‖² = radius², in the form without cancellation (xᵀp ≥ 0).
        pp, xp = jnp.dot(p, p), jnp.dot(x, p)
        room = jnp.maximum(radius**2 - jnp.dot(x, x), 0)
        tau = room / (xp + jnp.sqrt(xp**2 + pp * room))
        length = jnp.where(dead, 0, jnp.where(out, tau, alpha))
        x = x + length * p
        new = r - length * jnp.where(dead, 0, bp)
        return count + 1, x, new, new + jnp.dot(new, new) / rr * p, out, dead

    nothing = jnp.array(False)
    start = (jnp.int32(0), jnp.zeros_like(gradient), -gradient, -gradient, nothing, nothing)
    count, x, r, _, bound, _ = lax.while_loop(again, body, start)
    # Bx = −g − r.
    decrease = (jnp.dot(r, x) - jnp.dot(gradient, x)) / 2
    return Truncated(x, decrease, count, bound, jnp.linalg.norm(r) / jnp.where(size > 0, size, 1))


def lanczos(
    operator: Operator, start: Vector, *, size: int, tolerance: Scalar | float = 0.0
) -> tuple[Float[Array, "k n"], Float[Array, "k k"], Count]:
    """An orthonormal basis Q (rows) of the Krylov subspace of B and b, and T = QBQᵀ, tridiagonal; how many products.

    The basis begins with b/‖b‖ and has `size` rows. Where the subspace is invariant, or T is positive definite and
    x = −QᵀT⁻¹Qb has ‖b + Bx‖ ≤ tolerance · ‖b‖, the rest of the rows are zero and stand for a multiple of the identity
    at the upper end of the spectrum. A product that is not finite ends the iteration likewise.

    **Cost:** a product and 8kn flops for the k-th row (each is made orthogonal to all before it, twice).

    Cornelius Lanczos, *An iteration method for the solution of the eigenvalue problem of linear differential and
    integral operators*, 1950.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg import lanczos
    >>> basis, matrix, count = lanczos(lambda v: 3 * v, jnp.array([0.0, 2.0]), size=2)
    >>> basis.tolist(), matrix.tolist(), int(count)
    ([[0.0, 1.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 3.0]], 1)

    ```
    """
    eps, norm = jnp.finfo(start.dtype).eps, jnp.linalg.norm(start)

    def again(carry):
        return (carry[0] < size) & ~carry[-1]

    def body(carry):
        count, basis, diagonal, beside, pivot, last, largest, _ = carry
        product = operator(basis[count])
        sound = jnp.all(jnp.isfinite(product))
        product = jnp.where(sound, product, 0)
        alpha = jnp.dot(basis[count], product)
        rest = product
        for _ in range(2):
            rest = rest - (basis @ rest) @ basis
        beta = jnp.linalg.norm(rest)
        largest = jnp.maximum(largest, jnp.maximum(jnp.abs(alpha), beta))
        # The residual of conjugate gradients is β|yₖ|, with the last entry yₖ of T⁻¹e₁ from the pivots of T = LDLᵀ.
        before = jnp.where(count == 0, 0, beside[jnp.maximum(count - 1, 0)])
        new = alpha - before**2 / jnp.where(count == 0, 1, pivot)
        definite = (new > 0) & ((count == 0) | (pivot > 0))
        new = jnp.where(definite, new, -1)
        last = jnp.where(count == 0, 1, -before * last) / jnp.where(definite, new, 1)
        met = definite & (beta * jnp.abs(last) <= tolerance)
        done = met | ~sound | (beta <= 10 * eps * largest)
        beside = beside.at[count].set(jnp.where(done, 0, beta))
        following = jnp.where(done, 0, rest / jnp.where(beta > 0, beta, 1))
        basis = basis.at[jnp.minimum(count + 1, size - 1)].set(
            jnp.where(count + 1 < size, following, basis[jnp.minimum(count + 1, size - 1)])
        )
        return count + 1, basis, diagonal.at[count].set(alpha), beside, new, last, largest, done

    zeros, zero = jnp.zeros(size, start.dtype), jnp.zeros((), start.dtype)
    basis = jnp.zeros((size, start.shape[0]), start.dtype).at[0].set(start / jnp.where(norm > 0, norm, 1))
    carry = (jnp.int32(0), basis, zeros, zeros, zero, zero, zero, jnp.array(False))
    count, basis, diagonal, beside, _, _, _, _ = lax.while_loop(again, body, carry)
    # No eigenvalue exceeds this (Gershgorin).
    top = jnp.max(jnp.abs(diagonal) + beside + jnp.pad(beside[:-1], (1, 0)))
    top = jnp.where(size > 1, top, 0)
    diagonal = jnp.where(jnp.arange(size, dtype=count.dtype) < count, diagonal, top)
    off = beside[: size - 1]
    return basis, jnp.diag(diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1), count


class Secular(NamedTuple):
    """The minimiser in an eigenbasis: its `coefficients`, the multiplier `shift` λ with (B + λI)x = −g, the `decrease`
    −gᵀx − ½xᵀBx, and whether the region `bound` it (λ > 0)."""

    coefficients: Float[Array, "k"]
    shift: Scalar
    decrease: Scalar
    bound: Array


def trust_region(values: Float[Array, "k"], slopes: Float[Array, "k"], radius: Scalar) -> Secular:
    """The global minimiser of gᵀx + ½xᵀBx within ‖x‖ ≤ radius, from eigenvalues (ascending) and slopes Vᵀg.

    It is characterised by (B + λI)x = −g, B + λI ⪰ 0, λ ≥ 0 and λ(radius − ‖x‖) = 0. The unknown is the distance of
    −λ from the smallest eigenvalue, which keeps its digits next to the pole; in the *hard case*, where g has nothing
    along the lowest eigenvector, a slope below rounding stands in for it, so that the step along that vector comes out
    of the same formula.

    **Cost:** about six evaluations of the secular equation, 8k flops each.

    Jorge Moré and Danny Sorensen, *Computing a trust region step*, SIAM J. Sci. Stat. Comput. 1983. Deviation: one
    eigendecomposition in place of a Cholesky factor an iteration, so that further radii cost nothing.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg import trust_region
    >>> found = trust_region(jnp.array([-2.0, 1.0]), jnp.array([0.0, 3.0]), jnp.array(2.0))  # the hard case
    >>> [round(abs(float(x)), 4) for x in found.coefficients], round(float(found.shift), 4)
    ([1.7321, 1.0], 2.0)

    ```
    """
    size = jnp.linalg.norm(slopes)
    return _secular(
        values,
        slopes,
        reach=lambda distance: (jnp.broadcast_to(radius, ()), jnp.zeros_like(radius)),
        inverse=lambda slope: slope / radius,
        # The unconstrained minimiser, where it lies inside.
        inside=(values[0] > 0) & (jnp.linalg.norm(slopes / jnp.where(values[0] > 0, values, 1)) <= radius),
        size=size,
    )


def cubic_model(values: Float[Array, "k"], slopes: Float[Array, "k"], length: Scalar) -> Secular:
    """The global minimiser of gᵀx + ½xᵀBx + ‖x‖³/(3·length), from eigenvalues (ascending) and slopes Vᵀg.

    It is characterised by (B + λI)x = −g, B + λI ⪰ 0 and ‖x‖ = length · λ. Solved as in `trust_region`.

    Yurii Nesterov and Boris Polyak, *Cubic regularization of Newton method and its global performance*, Math. Program.
    2006; Coralia Cartis, Nicholas Gould and Philippe Toint, *Adaptive cubic regularisation methods for unconstrained
    optimization*, Math. Program. 2011, section 6 (length = 1/σ).

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg import cubic_model
    >>> found = cubic_model(jnp.array([2.0]), jnp.array([-3.0]), jnp.array(1.0))  # 2x + x² = 3
    >>> round(float(found.coefficients[0]), 4)
    1.0

    ```
    """
    lowest = values[0]

    def inverse(slope):
        """The distance at which slope/distance = length · (distance − lowest)."""
        root = jnp.sqrt(lowest**2 + 4 * slope / length)
        # Without cancellation for either sign of the lowest eigenvalue.
        return jnp.where(lowest > 0, (lowest + root) / 2, 2 * (slope / length) / (root - jnp.minimum(lowest, 0)))

    return _secular(
        values,
        slopes,
        reach=lambda distance: (length * (distance - lowest), length),
        inverse=inverse,
        inside=jnp.array(False),
        size=jnp.linalg.norm(slopes),
    )


def _secular(values, slopes, *, reach: Callable, inverse: Callable, inside: Array, size: Scalar) -> Secular:
    """x = −g/(B + λ) with ‖x‖ = reach(λ): one unknown, by Newton's method on 1/‖x‖ − 1/reach, kept in a bracket.

    `reach(distance)` gives the wanted norm and its derivative; `inverse(slope)` where slope/distance is that norm.
    """
    eps, tiny = jnp.finfo(slopes.dtype).eps, jnp.finfo(slopes.dtype).tiny
    least = eps**2 * size + jnp.sqrt(tiny)
    lowest = slopes[0]
    slopes = slopes.at[0].set(jnp.where(jnp.abs(lowest) < least, jnp.where(lowest < 0, -least, least), lowest))
    gaps = values - values[0]
    floor = jnp.maximum(values[0], 0)  # λ ≥ 0

    def norm(distance):
        x = slopes / (gaps + distance)
        return jnp.linalg.norm(x), jnp.sum(x**2 / (gaps + distance))

    def again(carry):
        count, _, _, _, done = carry
        return (count < NEWTON) & ~done

    def body(carry):
        count, distance, low, high, _ = carry
        length, bend = norm(distance)
        wanted, slope = reach(distance)
        long = length > wanted
        low, high = jnp.where(long, distance, low), jnp.where(long, high, distance)
        # d(1/‖x‖) = bend/‖x‖³, d(1/reach) = −slope/reach².
        change = (1 / length - 1 / wanted) / (bend / length**3 + slope / wanted**2)
        new = distance - change
        new = jnp.where((new >= low) & (new <= high), new, jnp.sqrt(low) * jnp.sqrt(high))
        done = (jnp.abs(new - distance) <= 4 * eps * distance) | (high - low <= 4 * eps * high)
        return count + 1, new, low, high, done

    # ‖x‖ lies between |slopes₀|/distance and ‖slopes‖/distance.
    low = jnp.maximum(inverse(jnp.abs(slopes[0])), floor)
    high = jnp.maximum(inverse(jnp.linalg.norm(slopes)), low)
    start = (jnp.int32(0), jnp.where(low > 0, low, high), low, high, inside)
    _, distance, _, _, _ = lax.while_loop(again, body, start)
    distance = jnp.where(inside, values[0], distance)
    x = -slopes / (gaps + distance)
    decrease = -jnp.dot(slopes, x) - jnp.dot(x, values * x) / 2
    shift = jnp.where(inside, 0, jnp.maximum(distance - values[0], 0))
    return Secular(x, shift, decrease, ~inside)
