"""How much arithmetic a traced computation is, counted on its jaxpr, and how long a machine takes for it.

Loops with a known number of turns count as often as they turn; a `while` loop counts once, so that what a search or an
inner iteration repeats is for the reader to multiply. A branch counts as its dearest side.
"""

import dataclasses
import functools
import math
import operator
import time

import numpy as np
from jax.extend.core import Jaxpr

# As named in `liveness`: what is one operation an element, and what is about ten.
from ravine.optim.liveness import CALLS, CHEAP, DEAR, REDUCTIONS

# What an operation inside an elementary function of ours costs, where a loop over memory does them all at once: the
# twenty of `elementary.tanh` take as long as two alone, measured on arrays that fit a cache.
FUSED = 0.1
THIN = 64  # a product with a dimension below this does not reach the rate of square ones

# Rates relative to that of a large matrix product on all cores, as measured on two cores with AVX-512: products and
# factors are made by one device with all of them, all else by each device with one of its own.
_SHARE = {"products": 1.0, "thin": 0.3, "factors": 0.25, "simple": 1 / 12, "dear": 1 / 120}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Floating-point operations by kind, on one device: `products` of matrices, `thin` ones (a dimension below 64),
    `factors` (Cholesky, QR, eigenvalues, solves), `simple` and `dear` (exp, tanh, …) elementwise ones; and `traffic`,
    the bytes of matrices that meet a single vector."""

    products: float | int = 0
    thin: float | int = 0
    factors: float | int = 0
    simple: float | int = 0
    dear: float | int = 0
    traffic: float | int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*map(operator.add, self._counts, other._counts))

    def __mul__(self, times: float | int) -> "Cost":
        return Cost(*(times * count for count in self._counts))

    @property
    def _counts(self) -> tuple[float | int, ...]:
        return self.products, self.thin, self.factors, self.simple, self.dear, self.traffic

    @property
    def flops(self) -> float | int:
        """All of them."""
        return self.products + self.thin + self.factors + self.simple + self.dear

    def seconds(self, *, bits: int = 64, machine: tuple[float, float] | None = None) -> float:
        """How long a machine takes: `machine` is its flop/s of a large product and its bytes/s of a copy, by default
        this one's, measured at the first call (0.1 s)."""
        rate, bandwidth = rates() if machine is None else machine
        spent = sum(getattr(self, kind) / (rate * share) for kind, share in _SHARE.items())
        return spent * bits / 64 + self.traffic / bandwidth


@functools.cache
def rates() -> tuple[float, float]:
    """Flop/s of a float64 matrix product and bytes/s of a copy, on all cores that NumPy uses: best of five."""
    a = np.random.default_rng(0).standard_normal((1024, 1024))
    wide = np.zeros(2**22)

    def best(function) -> float:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
        return min(times)

    return 2 * 1024**3 / best(lambda: a @ a), 2 * wide.nbytes / best(wide.copy)


def cost(jaxpr: Jaxpr) -> Cost:
    """What a jaxpr costs.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from ravine.optim.flops import cost
    >>> found = cost(jax.make_jaxpr(lambda a: jnp.tanh(a @ a))(jnp.ones((100, 100))).jaxpr)
    >>> found.products, found.dear
    (2000000.0, 10000.0)

    ```
    """
    total = Cost()
    for eqn in jaxpr.eqns:
        total = total + _cost_of(eqn)
    return total


def _cost_of(eqn) -> Cost:
    name, params = eqn.primitive.name, eqn.params
    inside = lambda inner: cost(getattr(inner, "jaxpr", inner))
    if name == "custom_jvp_call":
        found = inside(params["call_jaxpr"])
        return dataclasses.replace(found, simple=FUSED * found.simple)
    if name in CALLS:
        return inside(params[CALLS[name]])
    if name == "scan":
        return inside(params["jaxpr"]) * params["length"]
    if name == "while":
        return inside(params["body_jaxpr"])
    if name == "cond":
        return max((inside(branch) for branch in params["branches"]), key=lambda found: found.flops + found.traffic)
    shapes = [tuple(getattr(var.aval, "shape", ())) for var in eqn.invars]
    size = max((math.prod(getattr(var.aval, "shape", ())) for var in eqn.outvars), default=0)
    if name == "dot_general":
        return _product(eqn, shapes, size)
    if name in _FACTORS:
        *_, m, n = shapes[0] if len(shapes[0]) > 1 else (1, 1)
        batch = math.prod(shapes[0][:-2])
        return Cost(factors=batch * _FACTORS[name](m, n, shapes))
    if name in REDUCTIONS:
        return Cost(simple=float(math.prod(shapes[0])))
    if name in DEAR:
        return Cost(dear=float(size))
    return Cost(simple=float(size)) if name in CHEAP else Cost()


def _product(eqn, shapes, size: int) -> Cost:
    ((left, _), (batch, _)) = eqn.params["dimension_numbers"]
    inner = math.prod(shapes[0][axis] for axis in left)
    many = math.prod(shapes[0][axis] for axis in batch)
    rows = math.prod(shapes[0]) // max(inner * many, 1)
    columns = math.prod(shapes[1]) // max(inner * many, 1)
    flops = 2.0 * size * inner
    if min(rows, columns) == 1:
        wide = max(math.prod(shape) for shape in shapes[:2])
        return Cost(traffic=float(wide * eqn.outvars[0].aval.dtype.itemsize))
    return Cost(thin=flops) if min(rows, columns, inner) < THIN else Cost(products=flops)


_FACTORS = {
    "cholesky": lambda m, n, shapes: n**3 / 3,
    "triangular_solve": lambda m, n, shapes: n**2 * shapes[1][-1],
    "lu": lambda m, n, shapes: 2 * n**3 / 3,
    "geqrf": lambda m, n, shapes: 2 * m * n**2 - 2 * n**3 / 3,
    "qr": lambda m, n, shapes: 4 * m * n**2 - 4 * n**3 / 3,
    "householder_product": lambda m, n, shapes: 2 * m * n**2 - 2 * n**3 / 3,
    "eigh": lambda m, n, shapes: 9 * n**3,
    "svd": lambda m, n, shapes: 20 * max(m, n) * min(m, n) ** 2,
}
