"""How much memory a traced computation needs at its peak, counted on its jaxpr: nothing is compiled or run.

A model of what XLA does: chains of elementwise operations are fused and leave no array, an elementwise result takes the
place of an operand that is no longer needed, a loop keeps its carry in place, and all else is an array that lives from
where it is made to where it is last used.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from jax.extend.core import Jaxpr, Literal

from ravine.blocks import bytes_of

# Primitives that are another way to look at their operand.
_VIEWS = {
    "bitcast_convert_type", "copy", "copy_p", "expand_dims", "layout_constraint", "optimization_barrier", "reshape",
    "sharding_constraint", "squeeze", "stop_gradient", "transpose",
}  # fmt: skip
# Elementwise ones that are cheap enough to be done again for every consumer.
CHEAP = {
    "abs", "add", "add_any", "and", "broadcast_in_dim", "ceil", "clamp", "convert_element_type", "div", "eq", "floor",
    "ge", "gt", "integer_pow", "iota", "is_finite", "le", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pad",
    "real", "imag", "rem", "rev", "round", "select_n", "shift_left", "shift_right_arithmetic", "shift_right_logical",
    "sign", "slice", "dynamic_slice", "square", "sub", "xor", "complex", "conj", "split", "nextafter",
}  # fmt: skip
# Elementwise ones that are not.
DEAR = {
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "digamma", "erf", "erf_inv",
    "erfc", "exp", "exp2", "expm1", "lgamma", "log", "log1p", "logistic", "pow", "rsqrt", "sin", "sinh", "sqrt", "tan",
    "tanh", "random_bits", "threefry2x32",
}  # fmt: skip
REDUCTIONS = {"argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum"}
CALLS = {
    "checkpoint": "jaxpr", "remat2": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "jit": "jaxpr", "pjit": "jaxpr",
    "custom_lin": "call_jaxpr", "shard_map": "jaxpr",
}  # fmt: skip
# LAPACK's, whose results lie column by column.
_COLUMNS = {"eigh", "geqp3", "geqrf", "householder_product", "lu", "qr", "svd"}
_LOOPS = {"cond", "scan", "while"}


@dataclasses.dataclass
class _Op:
    """One operation, its operands and results as buffers' numbers; `inner` is what it needs while it runs."""

    name: str
    reads: list[int]
    writes: list[int]
    params: dict[str, Any]


class _Graph:
    """A jaxpr with its calls inlined; values are numbers."""

    def __init__(self, jaxpr: Jaxpr):
        self.bytes: dict[int, int] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.ops: list[_Op] = []
        self.literals: dict[tuple[str, str], int] = {}
        self.seen: dict[tuple, list[int]] = {}
        self._numbers = itertools.count()
        self.inputs = [self._new(var.aval) for var in jaxpr.invars]
        known = dict(zip(jaxpr.invars, self.inputs, strict=True))
        known |= {var: self._new(var.aval) for var in jaxpr.constvars}
        self.outputs = self._inline(jaxpr, known)

    def _new(self, aval) -> int:
        number = next(self._numbers)
        self.shapes[number] = tuple(getattr(aval, "shape", ()))
        self.bytes[number] = bytes_of(aval)
        return number

    def _inline(self, jaxpr: Jaxpr, known: dict) -> list[int]:
        def number(atom) -> int:
            if isinstance(atom, Literal):
                key = (str(atom.val), str(atom.aval))
                if key not in self.literals:
                    self.literals[key] = self._new(atom.aval)
                    self.bytes[self.literals[key]] = 0
                return self.literals[key]
            return known[atom]

        for eqn in jaxpr.eqns:
            reads = [number(atom) for atom in eqn.invars]
            name = eqn.primitive.name
            inner = eqn.params.get(CALLS[name]) if name in CALLS else None
            if inner is not None:
                inner = getattr(inner, "jaxpr", inner)
                inside = dict(zip(inner.invars, reads, strict=True))
                inside |= {var: self._new(var.aval) for var in inner.constvars}
                known |= dict(zip(eqn.outvars, self._inline(inner, inside), strict=True))
                continue
            # What is computed twice is kept from the first time on.
            same = (name, tuple(reads), str(eqn.params)) if name not in _LOOPS else (len(self.ops),)
            if same not in self.seen:
                self.seen[same] = [self._new(var.aval) for var in eqn.outvars]
                self.ops.append(_Op(name, reads, self.seen[same], eqn.params))
            known |= dict(zip(eqn.outvars, self.seen[same], strict=True))
        return [number(atom) for atom in jaxpr.outvars]


@dataclasses.dataclass(frozen=True)
class Peak:
    """The most bytes that are held at one time, and the arrays that hold them: shape -> bytes."""

    bytes: int
    arrays: tuple[tuple[tuple[int, ...], int], ...] = ()


def peak(jaxpr: Jaxpr, *, owned: Iterable[int] = ()) -> Peak:
    """The peak of a jaxpr beyond its inputs; its outputs count.

    **Arguments:** `owned`: positions of inputs whose memory the computation may use again (the carry of a loop); they
    count, until they are last read.
    """
    graph = _Graph(jaxpr)
    needed = _needed(graph)
    ops = _slices_first([op for op in graph.ops if needed & set(op.writes)])
    readers: dict[int, list[_Op]] = {}
    for op in ops:
        for read in op.reads:
            readers.setdefault(read, []).append(op)
    outputs = set(graph.outputs)
    roots: dict[int, frozenset[int]] = {}
    # Constants are hoisted out of loops, and copied when a loop starts from them.
    literal = set(graph.literals.values())
    constant: set[int] = set()
    for op in ops:
        if set(op.reads) <= literal | constant:
            constant |= set(op.writes)
    ours = {graph.inputs[position] for position in owned}

    def root(number: int) -> frozenset[int]:
        """The arrays that are read where `number` is."""
        return roots.get(number, frozenset((number,)))

    for op in ops:
        if _vanishes(op, readers, outputs):
            inside = frozenset().union(*(root(read) for read in op.reads)) if op.reads else frozenset()
            for write in op.writes:
                roots[write] = inside
    columns = {write for op in ops if op.name in _COLUMNS for write in op.writes}
    last: dict[int, int] = {}
    for place, op in enumerate(ops):
        for read in op.reads:
            for array in root(read):
                last[array] = place
    for output in outputs:
        for array in root(output):
            last[array] = len(ops)

    live = set(ours)
    most = Peak(0)

    def look(more: int = 0, arrays=()) -> None:
        nonlocal most
        total = sum(graph.bytes[number] for number in live) + more
        if total > most.bytes:
            held = tuple((graph.shapes[number], graph.bytes[number]) for number in live)
            most = Peak(total, (*held, *arrays))

    look()
    for place, op in enumerate(ops):
        dying = {array for read in op.reads for array in root(read) if last[array] == place and array in live}
        writes = [write for write in op.writes if write not in roots and (write in last)]
        inner = _inner(op, dying - constant, root)
        if inner is not None:
            inside, consumed = inner
            live -= consumed
            copies = [(graph.shapes[number], graph.bytes[number]) for number in _copied(op, columns, root)]
            look(inside.bytes + sum(size for _, size in copies), (*inside.arrays, *copies))
            live |= set(writes)
        elif _fuses(op) or _updates(op) or op.name in ("cholesky", "triangular_solve"):
            for write in writes:
                free = dying - ours if not _updates(op) else dying
                room = next((array for array in free if graph.bytes[array] >= graph.bytes[write] > 0), None)
                if room is not None:
                    live.discard(room)
                    dying.discard(room)
                live.add(write)
        else:
            live |= set(writes)
        look()
        live -= dying
    return most


def _slices_first(ops: list[_Op]) -> list[_Op]:
    """XLA cuts slices as soon as what they are cut from is there."""
    waiting: dict[int, list[_Op]] = {}
    for op in ops:
        if op.name == "slice":
            waiting.setdefault(op.reads[0], []).append(op)
    ordered = []

    def place(op: _Op) -> None:
        ordered.append(op)
        for write in op.writes:
            for piece in waiting.get(write, ()):
                place(piece)

    made = {write for op in ops for write in op.writes}
    for op in ops:
        if op.name != "slice" or op.reads[0] not in made:
            place(op)
    return ordered


def _copied(op: _Op, columns: set[int], root) -> set[int]:
    """What a loop cuts row by row, and so gets a copy of."""
    if op.name != "scan":
        return set()
    first = op.params["num_consts"] + op.params["num_carry"]
    return {array for read in op.reads[first:] for array in root(read)} & columns


def _needed(graph: _Graph) -> set[int]:
    """What the outputs depend on."""
    needed = set(graph.outputs)
    for op in reversed(graph.ops):
        if needed & set(op.writes):
            needed |= set(op.reads)
    return needed


def _vanishes(op: _Op, readers: dict[int, list[_Op]], outputs: set[int]) -> bool:
    """Whether the results are never stored: views, and what is fused into all that reads it."""
    if op.name in _VIEWS:
        return True
    if not _elementwise(op):
        return False
    if outputs & set(op.writes):
        return False
    consumers = [reader for write in op.writes for reader in _through(write, readers, outputs)]
    if op.name in DEAR and len(consumers) > 1:
        return False
    return all(reader is not None and _fuses(reader) for reader in consumers)


def _through(number: int, readers: dict[int, list[_Op]], outputs: set[int]) -> Iterator[_Op | None]:
    """What reads a value, seen through views; None for an output."""
    for reader in readers.get(number, ()):
        if reader.name in _VIEWS:
            for write in reader.writes:
                if write in outputs:
                    yield None
                yield from _through(write, readers, outputs)
        else:
            yield reader


def _elementwise(op: _Op) -> bool:
    if op.name == "dot_general":  # an outer product becomes a multiplication
        return not op.params["dimension_numbers"][0][0]
    return op.name in CHEAP or op.name in DEAR


def _fuses(op: _Op) -> bool:
    return _elementwise(op) or op.name in REDUCTIONS


def _updates(op: _Op) -> bool:
    return op.name in ("dynamic_update_slice", "scatter", "scatter-add")


def _inner(op: _Op, dying: set[int], root) -> tuple[Peak, set[int]] | None:
    """What a loop or a branch needs, its results included, and which of its operands it takes over."""
    if op.name == "while":
        body, n = op.params["body_jaxpr"].jaxpr, op.params["body_nconsts"]
        start = op.params["cond_nconsts"] + n
        found = peak(body, owned=range(n, len(body.invars)))
        return found, _taken(op.reads[start:], dying, root)
    if op.name == "scan":
        body, n, carry = op.params["jaxpr"].jaxpr, op.params["num_consts"], op.params["num_carry"]
        found = peak(body, owned=range(n, n + carry))
        stacked = [(tuple(var.aval.shape), bytes_of(var.aval)) for var in body.outvars[carry:]]
        length = op.params["length"]
        stacked = [((length, *shape), length * size) for shape, size in stacked]
        total = found.bytes + sum(size for _, size in stacked)
        return Peak(total, (*found.arrays, *stacked)), _taken(op.reads[n : n + carry], dying, root)
    if op.name == "cond":
        branches = [peak(branch.jaxpr) for branch in op.params["branches"]]
        return max(branches, key=lambda found: found.bytes), set()
    return None


def _taken(reads: list[int], dying: set[int], root) -> set[int]:
    return {array for read in reads for array in root(read)} & dying
