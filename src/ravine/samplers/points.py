"""Point sets of the unit cube, carried to the regions of a domain: grid, independent, stratified, quasi-random."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from ravine._types import Array, Float, RandomKey
from ravine.domains import Region
from ravine.samplers.sampler import Points


class Uniform(Points):
    """Independent uniform points: `Uniform(domain, pde=1000, bc=100)`. The error of a mean falls as m^(−1/2)."""

    def __init__(self, domain, **counts: int):
        super().__init__(domain, **counts)

    def unit(self, dimension: int, count: int, key: RandomKey) -> Float[Array, "m d"]:
        return jax.random.uniform(key, (count, dimension), self.dtype)


class Sobol(Points):
    """Sobol points with a random shift: `Sobol(domain, pde=4096, bc=256)`. Smooth means converge almost as 1/m.

    Ilya Sobol, *On the distribution of points in a cube and the approximate evaluation of integrals*, 1967, with the
    direction numbers of Joe and Kuo (SciPy); shifted modulo 1 (Cranley and Patterson, 1976), which keeps the
    equidistribution and makes every draw different.
    """

    def __init__(self, domain, **counts: int):
        super().__init__(domain, **counts)

    def unit(self, dimension: int, count: int, key: RandomKey) -> Float[Array, "m d"]:
        if dimension == 0:
            return jnp.zeros((count, 0), self.dtype)
        exponent = max(math.ceil(math.log2(count)), 0)
        base = qmc.Sobol(dimension, scramble=False).random_base2(exponent)[:count]
        shift = jax.random.uniform(key, (dimension,), self.dtype)
        # In the middle of their cells: shifts then cannot push a whole face of points onto the edge.
        return (jnp.asarray(base, self.dtype) + shift[None, :]) % 1


class Halton(Points):
    """Halton points with a random shift: coordinate j is the radical inverse in the j-th prime.

    As `Sobol`, but any count is as good as a power of two. John Halton, *On the efficiency of certain quasi-random
    sequences of points in evaluating multi-dimensional integrals*, 1960; shifted modulo 1 (Cranley and Patterson).
    """

    def __init__(self, domain, **counts: int):
        super().__init__(domain, **counts)

    def unit(self, dimension: int, count: int, key: RandomKey) -> Float[Array, "m d"]:
        if dimension == 0:
            return jnp.zeros((count, 0), self.dtype)
        base = qmc.Halton(dimension, scramble=False).random(count)
        return (jnp.asarray(base, self.dtype) + jax.random.uniform(key, (1, dimension), self.dtype)) % 1


class _Whole(Points):
    """Sets of which a part is no good set: every face of a region gets one of its own. Abstract."""

    def __init__(self, domain, **counts: int):
        super().__init__(domain, **counts)

    def fill(self, region: Region, count: int, key: RandomKey) -> Float[Array, "m d"]:
        sizes = np.bincount((np.arange(count) * region.faces) // count, minlength=region.faces)
        keys = jax.random.split(key, region.faces)
        parts = [self.unit(region.dimension, int(size), k) for size, k in zip(sizes, keys, strict=True) if size]
        return jnp.concatenate(parts)


class Hammersley(_Whole):
    """Hammersley points with a random shift: i/m beside a Halton sequence of one dimension less.

    The discrepancy is one logarithm below Halton's, but m is fixed beforehand. John Hammersley, *Monte Carlo methods
    for solving multivariable problems*, 1960; shifted modulo 1.
    """

    def __init__(self, domain, **counts: int):
        super().__init__(domain, **counts)

    def unit(self, dimension: int, count: int, key: RandomKey) -> Float[Array, "m d"]:
        if dimension == 0:
            return jnp.zeros((count, 0), self.dtype)
        base = np.arange(count)[:, None] / count
        if dimension > 1:
            base = np.concatenate([base, qmc.Halton(dimension - 1, scramble=False).random(count)], axis=1)
        return (jnp.asarray(base, self.dtype) + jax.random.uniform(key, (1, dimension), self.dtype)) % 1


class LatinHypercube(_Whole):
    """Latin hypercube points: in every coordinate, each of m equal slices holds one point, at random within it.

    The variance of a mean is what independent points leave of it once all functions of one coordinate are subtracted:
    the rate m^(−1/2) is that of independent points, the constant is smaller. Michael McKay, Richard Beckman and William
    Conover, *A comparison of three methods for selecting values of input variables*, 1979; Michael Stein, *Large sample
    properties of simulations using Latin hypercube sampling*, 1987.
    """

    def __init__(self, domain, **counts: int):
        super().__init__(domain, **counts)

    def unit(self, dimension: int, count: int, key: RandomKey) -> Float[Array, "m d"]:
        if dimension == 0:
            return jnp.zeros((count, 0), self.dtype)
        order, inside = jax.random.split(key)
        cells = jax.vmap(lambda k: jax.random.permutation(k, count), out_axes=1)(jax.random.split(order, dimension))
        return (cells.astype(self.dtype) + jax.random.uniform(inside, (count, dimension), self.dtype)) / count


class Grid(Points):
    """A tensor grid of about the asked number of points, edges included: the largest kᵈ ≤ count, on faces the largest
    kᵈ⁻¹ ≤ count/faces on each."""

    def __init__(self, domain, **counts: int):
        super().__init__(domain, **counts)

    def unit(self, dimension: int, count: int, key: RandomKey) -> Float[Array, "m d"]:
        if dimension == 0:
            return jnp.zeros((count, 0), self.dtype)
        side = max(math.floor(count ** (1 / dimension) + 1e-9), 1)
        axis = jnp.linspace(0, 1, side, dtype=self.dtype) if side > 1 else jnp.full(1, 0.5, self.dtype)
        return jnp.stack(jnp.meshgrid(*(axis,) * dimension, indexing="ij"), axis=-1).reshape(-1, dimension)

    def fill(self, region: Region, count: int, key: RandomKey) -> Float[Array, "m d"]:
        # A grid comes in order, so that a run of it would cover a part of a face only: each face has its own.
        each = self.unit(region.dimension, max(count // region.faces, 1), key)
        return jnp.tile(each, (region.faces, 1))
