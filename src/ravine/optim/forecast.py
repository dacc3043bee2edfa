"""How much memory and time a method will need on a problem: known before anything is compiled or run."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ravine._types import Batch, PyTree
from ravine.blocks import SharedRows
from ravine.objective import Objective
from ravine.optim.first_order import Steepest, Transform
from ravine.optim.flops import Cost, cost
from ravine.optim.gauss_newton import GaussNewton
from ravine.optim.ladder import Ladder
from ravine.optim.liveness import peak
from ravine.optim.matrix_free import MatrixFree
from ravine.optim.optimizer import Optimizer
from ravine.optim.quasi_newton import LBFGS, Broyden
from ravine.optim.search import Damping

# What compiling a step and holding the program takes, as seen in processes that had compiled a small one before: 30 to
# 70 MiB. The first of all takes 0.1 to 0.4 GiB.
PROGRAM = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Bytes on one device at the fullest moment of a step, by part; `str` of it is a sentence.

    - `parameters`: the current ones, and those that training keeps (the last finite, those at the last redraw of
      points, the best), and the batch; steps are given them and return them.
    - `state`: the optimizer's memory, as it enters the loop of steps.
    - `matrices`: what is n×n, m×m or the like: JᵀJ, JJᵀ, their factors and copies, the next inverse Hessian.
    - `rows`: what has n columns but is no square: Jacobian rows, stored pairs, sketches and their copies.
    - `temporaries`: all else, mostly one block of points on its way through the model.
    """

    name: str
    parameters: int
    state: int
    matrices: int
    rows: int
    temporaries: int
    kept: int = 0
    devices: int = 1
    cost: Cost = dataclasses.field(default_factory=Cost)
    bits: int = 64

    @property
    def seconds(self) -> float:
        """Roughly what a step takes on this machine (within a factor of three where tested), with one trial of its
        search and one turn of an inner iteration; two rates of the machine are measured at the first call, 0.1 s."""
        return self.cost.seconds(bits=self.bits)

    @property
    def bytes(self) -> int:
        """The sum, over all devices: those of a CPU share its memory."""
        each = self.parameters + self.state + self.matrices + self.rows + self.temporaries
        return self.devices * each

    @property
    def process(self) -> int:
        """What a process grows by: `bytes`, what it keeps beside the steps (`kept`: the model, the points that the
        sampler and the tests hold), and the program. Where much of it is arrays between 0.1 and 32 MiB, the C library
        may hold as much again of freed memory; `keep_memory` tells of it."""
        return self.bytes + self.kept + PROGRAM

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part, on one device."""
        names = ("parameters", "state", "matrices", "rows", "temporaries")
        return {name: getattr(self, name) for name in names}

    @property
    def brief(self) -> str:
        """Memory and time: "0.40 GiB, 0.2 s a step"."""
        return f"{_readable(self.bytes)}, {self.seconds:.1g} s a step"

    def __str__(self) -> str:
        largest = max(self.parts, key=lambda part: self.parts[part])
        share = f" on {self.devices} devices" if self.devices > 1 else ""
        return f"{self.name}: {_readable(self.bytes)}{share}, most of it {largest}."


def forecast(optimizer: Optimizer, objective: Objective, batch: Batch) -> Forecast:
    """The memory that `optimizer` will need for steps on `objective` and this batch, above what Python and JAX take,
    and roughly the time of a step.

    A step is traced, in the loop that training puts it into, and the arrays that it holds at one time are counted
    (`ravine.optim.liveness`). Nothing is compiled and no array is made, so that batches of `jax.ShapeDtypeStruct` do.

    **Returns:** a `Forecast`. Where the method's own arrays dominate it is within a quarter of what XLA allocates for
    every preset, with XLA's default optimizations; without them (as the tests are compiled) up to twice as much is
    allocated. A process grows by more than that, see `Forecast.process`.

    **Cost:** that of tracing, about a second.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**4), jnp.ones(5_000))
    >>> found = rv.forecast(rv.bfgs(), objective, None)
    >>> 3 < found.bytes / (theta.dtype.itemsize * 5_000**2) < 5  # the inverse Hessian, and its copies at a merge
    True
    >>> str(found).split(":")[0]
    'BFGS with a dense inverse Hessian'

    ```
    """
    theta = jax.ShapeDtypeStruct((objective.parameters,), objective.layout.dtype)
    state = eqx.filter_eval_shape(optimizer.init, objective, theta)
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), batch)
    numbers, rest = eqx.partition((objective, optimizer), eqx.is_inexact_array_like)
    numbers = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), theta.dtype), numbers)

    def steps(numbers, theta, state, batch, until):
        objective, optimizer = eqx.combine(numbers, rest)

        def body(carry):
            count, theta, safe, anchor, state = carry
            theta, state, info = optimizer.step(objective, theta, state, batch, key=_key(count))
            return count + 1, theta, jnp.where(info.finite, theta, safe), anchor, state

        return lax.while_loop(lambda carry: carry[0] < until, body, (jnp.int32(0), theta, theta, theta, state))

    arrays, static = eqx.partition(state, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    count = jax.ShapeDtypeStruct((), jnp.int32)
    traced = jax.make_jaxpr(lambda n, t, s, b, u: steps(n, t, eqx.combine(s, static), b, u))
    jaxpr = traced(numbers, theta, arrays, batch, count).jaxpr
    most = peak(jaxpr)

    n = theta.shape[0]
    parts = {"matrices": 0, "rows": 0, "temporaries": 0}
    shared = [one for one in jax.tree.leaves(state, is_leaf=_is_shared) if _is_shared(one)]
    stored = {one.matrix.shape for one in shared}  # of all n columns, and rounded up to rows that devices can share
    for shape, size in most.arrays:
        wide = (len(shape) > 1 and shape[-1] == n) or (len(shape) == 2 and shape[0] == n and shape[1] > 1)
        square = shape in stored or (len(shape) == 2 and shape[0] == shape[1] and shape[0] > 1)
        parts["matrices" if square else "rows" if wide and math.prod(shape) > n else "temporaries"] += size
    return Forecast(
        name=_name(optimizer, objective, batch),
        # Of the four that steps return, three are in the loop that was traced.
        parameters=5 * _bytes(theta) + 2 * _bytes(batch),
        state=_bytes(arrays),
        kept=3 * _bytes(theta) + 2 * _bytes(batch),
        devices=1 if objective.mesh is None else objective.mesh.size,
        cost=cost(jaxpr),
        bits=8 * theta.dtype.itemsize,
        **parts,
    )


def _is_shared(leaf) -> bool:
    return isinstance(leaf, SharedRows)


def _rows(objective: Objective, batch: Batch) -> int:
    """m, of a batch of shapes as well."""
    found: list[int] = []
    jax.eval_shape(lambda batch: found.append(objective.size(batch)), batch)
    return found[0]


def _key(count):
    return jax.random.fold_in(jax.random.key(0), count)


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _readable(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 100 else f"{size / 2**20:.2g} MiB"


def _name(optimizer: Optimizer, objective: Objective, batch: Batch) -> str:
    """As people say: "Levenberg–Marquardt in kernel space"."""
    direction = optimizer.direction
    direction = direction.direction if isinstance(direction, Ladder) else direction
    if isinstance(direction, GaussNewton):
        name = "Levenberg–Marquardt" if isinstance(optimizer.search, Damping) else "Gauss–Newton"
        if direction.solver == "qr":
            return f"{name} by QR"
        fewer = direction.space == "auto" and _rows(objective, batch) < objective.parameters
        return f"{name} in {'kernel' if direction.space == 'kernel' or fewer else 'parameter'} space"
    if isinstance(direction, MatrixFree):
        return f"Matrix-free Gauss–Newton with a preconditioner of rank {min(direction.rank, objective.parameters)}"
    if isinstance(direction, Broyden):
        names = {"unscaled": "BFGS", "self_scaled": "Self-scaled BFGS", "self_scaled_broyden": "Self-scaled Broyden"}
        name = names.get(getattr(direction.update, "__name__", ""), "A Broyden method")
        return f"{name} with a dense inverse Hessian"
    if isinstance(direction, LBFGS):
        return f"L-BFGS with {direction.memory} pairs"
    if isinstance(direction, Steepest):
        return "Gradient descent"
    if isinstance(direction, Transform):
        return "A first-order method"
    return f"{type(direction).__name__} + {type(optimizer.search).__name__}"
