"""Every product of a function's matrices with vectors: what they multiply, and where the results go.

A linear layer is met many times while derivatives of its network are taken: with the value, with each directional
derivative, with what reverse mode sends back. All of these are products of one matrix, and all are seen in the jaxpr,
whatever wrote them (layers of any library, Taylor passes, nested forward mode, wrappers); so no layer needs a tag.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from ravine._types import Any, Array, Float

# Calls that are looked into, with the name of their jaxpr. Those with derivatives of their own stay closed.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
}


@dataclasses.dataclass(frozen=True)
class Use:
    """One product W v, or Wᵀ v where `axis`, the axis of W that is summed over, is 0; `shape` is that of its result,
    which has one row for each vector."""

    matrix: int
    axis: int
    shape: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class _Matrix:
    """A value that is one of the matrices, or its transpose."""

    value: Any
    number: int
    flipped: bool


class Products:
    """`function(args)`, an array, with every product that one of `matrices` (numbers of arguments) takes part in.

    `uses` lists the products in their order; `hidden` holds the matrices that are used in other ways too, so that their
    products do not tell all. **Cost:** one trace of `function`.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.optim.products import Products
    >>> w, x = jnp.array([[1.0, 2.0]]), jnp.array([3.0, 4.0])
    >>> found = Products(lambda args: args[0] @ x, (w,), (0,))
    >>> out, vectors = found((w,), [jnp.array([[100.0]])])
    >>> out.tolist(), vectors[0].tolist()
    ([111.0], [[3.0, 4.0]])

    ```
    """

    def __init__(self, function: Callable[[Any], Array], args: Sequence[Array], matrices: Sequence[int]):
        self._closed = jax.make_jaxpr(function)(tuple(args))
        self._matrices = frozenset(matrices)
        self.uses: list[Use] = []
        self.hidden: set[int] = set()

        def look(args):
            def tap(use, _, product):
                self.uses.append(use)
                return product

            return self._run(args, tap)

        jax.eval_shape(look, tuple(args))

    def __call__(
        self, args: Sequence[Array], shifts: Sequence[Float[Array, "_ _"]]
    ) -> tuple[Array, list[Float[Array, "_ _"]]]:
        """The function with `shifts` added to the products, and the vectors that were multiplied, one a row."""
        left, vectors = iter(shifts), []

        def tap(_, those, product):
            vectors.append(those)
            return product + next(left).astype(product.dtype)

        return self._run(args, tap), vectors

    def _run(self, args: Sequence[Array], tap: Callable[[Use, Array, Array], Array]) -> Array:
        marked = [_Matrix(arg, i, False) if i in self._matrices else arg for i, arg in enumerate(args)]
        (out,) = self._evaluate(self._closed.jaxpr, self._closed.consts, marked, tap)
        return out.value if isinstance(out, _Matrix) else out

    def _evaluate(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], tap) -> list[Any]:
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
        read = lambda atom: atom.val if isinstance(atom, Literal) else known[atom]
        for eqn in jaxpr.eqns:
            known.update(zip(eqn.outvars, self._apply(eqn, [read(atom) for atom in eqn.invars], tap), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, eqn: JaxprEqn, operands: list[Any], tap) -> list[Any]:
        name, places = eqn.primitive.name, [i for i, each in enumerate(operands) if isinstance(each, _Matrix)]
        if places and name in _CALLS:
            inner = eqn.params[_CALLS[name]]
            return self._evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands, tap)
        values = [each.value if isinstance(each, _Matrix) else each for each in operands]
        # Versions of JAX differ in whether functions come apart from the other parameters.
        bound = eqn.primitive.get_bind_params(eqn.params)
        functions, params = bound if isinstance(bound, tuple) else ((), bound)
        out = eqn.primitive.bind(*functions, *values, **params)
        out = list(out) if eqn.primitive.multiple_results else [out]
        if not places:
            return out
        matrix = operands[places[0]]
        if name == "convert_element_type" and out[0].ndim == 2:
            return [_Matrix(out[0], matrix.number, matrix.flipped)]
        if name == "transpose":
            return [_Matrix(out[0], matrix.number, matrix.flipped ^ (tuple(params["permutation"]) == (1, 0)))]
        summed, batched = params["dimension_numbers"] if name == "dot_general" else (None, None)
        if summed is None or len(places) > 1 or batched != ((), ()) or len(summed[0]) != 1:
            self.hidden |= {operands[place].number for place in places}
            return out
        place = places[0]
        vectors = jnp.moveaxis(values[1 - place], summed[1 - place][0], -1)
        vectors = vectors.reshape(-1, vectors.shape[-1])
        # The axes of the product: those left of the first operand, then those of the second.
        rows = jnp.moveaxis(out[0], 0, -1) if place == 0 else out[0]
        flat = rows.reshape(vectors.shape[0], -1)
        axis = summed[place][0] ^ matrix.flipped
        rows = tap(Use(matrix.number, int(axis), (flat.shape[0], flat.shape[1])), vectors, flat).reshape(rows.shape)
        return [jnp.moveaxis(rows, -1, 0) if place == 0 else rows]
