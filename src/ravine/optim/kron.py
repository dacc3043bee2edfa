"""K-FAC and EKFAC: the Gauss–Newton matrix layer by layer, each block a Kronecker product of two small matrices.

For losses on values and for residuals that hold derivatives alike. What a block is made of is the gradient of each
whitened feature with respect to a layer's matrix, G = Σ_c g_c a_cᵀ: a sum over *channels* c, one for every product that
the layer takes part in (with the value, with each directional derivative), of what was multiplied, a_c, and the
gradient with respect to the product, g_c. No G of a large layer is formed where its channels suffice.
"""

import dataclasses
import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ravine._results import Work
from ravine._types import Array, Count, Float, Matrix, PyTree, RandomKey, Scalar, Square, Vector
from ravine.blocks import on_first
from ravine.layout import Layout
from ravine.linalg import Diagonal, kronecker_product, kronecker_sum
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Previous
from ravine.optim.products import Products
from ravine.pieces import HELD, Piece
from ravine.terms import Term, identity

# Parameters outside of layers, which get a dense block of their own, at most; features at a point (or of a term that
# sees its points together) whose gradients are taken one by one, and random combinations taken of more.
OTHERS, PROBES = 2_000, 32
# The damping of the factors is tried this much smaller and larger.
RATIO = 4.0
_WEIGHTS, _BIASES = r"\b(weights?|kernel|w|W)\b", r"\b(biases|bias|b)\b"


# ----------------------------------------------------------------------------------------------------------- layers


@dataclasses.dataclass(frozen=True)
class Layer:
    """A matrix among the parameters with its bias, as numbers of `Layout.split`'s parts; or all other parameters, in a
    row. `shape` is (j, i); the bias is the last column, or row where the matrix acts from the right (`flipped`)."""

    matrix: int | None
    bias: int | None
    others: tuple[int, ...]
    flipped: bool
    shape: tuple[int, int]

    def gather(self, parts: tuple[Array, ...] | dict[int, Array]) -> Float[Array, "j i"]:
        """The parameters of the layer, or their gradients, as one matrix."""
        if self.matrix is None:
            return jnp.concatenate([parts[i].reshape(-1) for i in self.others])[None, :]
        if self.bias is None:
            return parts[self.matrix]
        bias = parts[self.bias].reshape((1, -1) if self.flipped else (-1, 1))
        return jnp.concatenate([parts[self.matrix], bias], axis=0 if self.flipped else 1)

    def scatter(self, x: Float[Array, "j i"], parts: dict[int, Array]) -> None:
        """The inverse of `gather`, each part as a vector."""
        if self.matrix is None:
            start = 0
            for i in self.others:
                parts[i], start = x[0, start : start + parts[i].size], start + parts[i].size
        elif self.bias is None:
            parts[self.matrix] = x.reshape(-1)
        elif self.flipped:
            parts[self.matrix], parts[self.bias] = x[:-1].reshape(-1), x[-1]
        else:
            parts[self.matrix], parts[self.bias] = x[:, :-1].reshape(-1), x[:, -1]


def find_layers(layout: Layout) -> tuple[Layer, ...]:
    """Every matrix with the bias that goes by its name (weight and bias, weights and biases, kernel and bias, w and b),
    and the rest.

    **Raises:** `ValueError` when there is no matrix, or too many parameters are outside of any.
    """
    numbered = jax.tree.unflatten(layout.treedef, list(range(len(layout.shapes))))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(numbered)[0]]
    vectors, matrices, number, sizes = {}, {}, 0, {}
    for name, shape, dtype in zip(names, layout.shapes, layout.dtypes, strict=True):
        pair = jnp.issubdtype(dtype, jnp.complexfloating)
        for _ in range(2 if pair else 1):
            sizes[number] = (name, shape)
            if len(shape) == 2 and not pair:
                matrices[number] = (name, shape)
            elif len(shape) == 1 and not pair and (stem := _stem(name, _BIASES)):
                vectors[stem] = number
            number += 1
    layers, left = [], set(sizes) - set(matrices)
    for index, (name, (j, i)) in matrices.items():
        flipped = re.search(r"\bkernel\b", name) is not None
        bias = vectors.get(_stem(name, _WEIGHTS))
        if bias is None or sizes[bias][1][0] != (i if flipped else j):
            layers.append(Layer(index, None, (), flipped, (j, i)))
            continue
        left -= {bias}
        layers.append(Layer(index, bias, (), flipped, (j + flipped, i + (not flipped))))
    if not layers:
        found = ", ".join(f"{name or 'itself'} of shape {shape}" for name, shape in list(sizes.values())[:4])
        raise ValueError(
            f"K-FAC needs linear layers, but the model has none that it can see: no matrix is among its parameters "
            f"({found}{', …' if len(sizes) > 4 else ''}). Either (a) build it of ravine.models.MLP or "
            "equinox.nn.Linear, or (b) use a method that takes any model: ravine.levenberg_marquardt(), ravine.lbfgs()."
        )
    count = sum(math.prod(sizes[i][1]) for i in left)
    if count > OTHERS:
        largest = sorted(left, key=lambda i: -math.prod(sizes[i][1]))[:3]
        raise ValueError(
            f"K-FAC sees matrices and their biases; all else is solved for densely, up to {OTHERS:,} parameters, but "
            f"the model has {count:,} of those: {', '.join(f'{sizes[i][0]} of shape {sizes[i][1]}' for i in largest)}. "
            "Convolutions and stacked layers are of this kind. Use ravine.matrix_free_gauss_newton() or ravine.lbfgs()."
        )
    if left:
        layers.append(Layer(None, None, tuple(sorted(left)), False, (1, count)))
    return tuple(layers)


def _stem(name: str, words: str) -> str | None:
    """The path of a leaf without the last of some words in it."""
    *_, last = [None, *re.finditer(words, name)]
    return None if last is None else f"{name[: last.start()]}*{name[last.end() :]}"


# -------------------------------------------------------------------------------------------------------- gradients


class Gradients(eqx.Module):
    """G = Σ_c left_cᵀ right_c for each feature k (or random combination of features) and point."""

    left: Float[Array, "*p k c j"]
    right: Float[Array, "*p k c i"]

    def whole(self) -> Float[Array, "*p k j i"]:
        """Every G."""
        return _sum("...cj,...ci->...ji", self.left, self.right)

    @property
    def few(self) -> bool:
        """Whether there are so few channels that `traces` does better without any G."""
        c, j, i = (*self.left.shape[-2:], self.right.shape[-1])
        return c * c * (i + j) + c * (i * i + j * j) <= i * j * (c + i + j)

    def numbers(self, *, whole: bool) -> int:
        """How many are held for it: channels, what reverse mode keeps of them, and G where it is formed."""
        j, i = self.left.shape[-1], self.right.shape[-1]
        formed = math.prod(self.left.shape[:-2]) * j * i if whole or not self.few else 0
        return 3 * (self.left.size + self.right.size) + formed

    def traces(self) -> tuple[Square, Float[Array, "k k"]]:
        """Σ GᵀG and Σ GGᵀ. **Cost:** the lesser of c²(i + j) + c(i² + j²) and ij(c + i + j) multiplications for each G
        with c channels."""
        if not self.few:
            whole = _rows(self.whole())
            return _sum("kji,kjl->il", whole, whole), _sum("kji,kli->jl", whole, whole)
        # GᵀG = Σ_cd a_c ⟨g_c, g_d⟩ a_dᵀ.
        left, right = (_sum("...cj,...dj->...cd", x, x) for x in (self.left, self.right))
        one = _sum("kci,kcl->il", _rows(self.right), _rows(_sum("...cd,...di->...ci", left, self.right)))
        return one, _sum("kcj,kcl->jl", _rows(self.left), _rows(_sum("...cd,...dj->...cj", right, self.left)))

    def squares(self, basis: Diagonal) -> Float[Array, "j i"]:
        """Σ (QᵀGP)², entry by entry."""
        turned = Gradients(
            _sum("...cj,jk->...ck", self.left, basis.left), _sum("...ci,ik->...ck", self.right, basis.right)
        )
        return jnp.sum(_rows(turned.whole()) ** 2, axis=0)


def _rows(x: Array) -> Array:
    return x.reshape(-1, *x.shape[-2:])


def _sum(formula: str, x: Array, y: Array) -> Array:
    return jnp.einsum(formula, x, y, precision=lax.Precision.HIGHEST)


def gradients(piece: Piece, theta: Vector, layers: tuple[Layer, ...], probes: Float[Array, "k q"]):
    """`(points, weights) -> Gradients of each layer` for one block of points.

    **Cost:** k reverse passes, without the products that make gradients of matrices out of channels. A matrix that a
    term uses otherwise than in products with vectors, and every matrix in a term that sees its points together, has its
    gradient formed.
    """
    parts = piece.layout.split(theta)
    matrices = [layer.matrix for layer in layers if layer.matrix is not None]

    def one(point: PyTree, weight: Scalar) -> list[Gradients]:
        products = Products(lambda parts: piece.flat(parts, point), parts, () if piece.term.whole else matrices)
        formed = set(matrices) if piece.term.whole else products.hidden
        direct = {layer.bias for layer in layers} | {i for layer in layers for i in layer.others} | formed
        white, scale = piece.whitener(parts, point), jnp.sqrt(piece.term.weight * weight)

        def rows(shifts, some):
            out, vectors = products([some.get(i, part) for i, part in enumerate(parts)], shifts)
            return scale * white(out), vectors

        shifts = [jnp.zeros(use.shape, parts[use.matrix].dtype) for use in products.uses]
        some = {i: parts[i] for i in direct if i is not None}
        _, back, vectors = jax.vjp(rows, shifts, some, has_aux=True)
        pulled, direct = jax.vmap(back)(probes)
        count, dtype = probes.shape[0], probes.dtype

        def of(layer: Layer) -> Gradients:
            j, i = layer.shape
            if layer.matrix is None or layer.matrix in formed:
                whole = jax.vmap(layer.gather)(direct)
                return Gradients(jnp.broadcast_to(jnp.eye(j, dtype=dtype), (count, j, j)), whole)
            left, right = [], []
            for use, result, given in zip(products.uses, pulled, vectors, strict=True):
                if use.matrix == layer.matrix:
                    given = jnp.broadcast_to(given, (count, *given.shape))
                    left.append(result if use.axis == 1 else given)
                    right.append(given if use.axis == 1 else result)
            # The bias is one more channel, with a last entry of its own.
            widen = lambda x, size: jnp.pad(x, ((0, 0), (0, 0), (0, size - x.shape[2])))
            left, right = [widen(x, j) for x in left], [widen(x, i) for x in right]
            if layer.bias is not None:
                result, size = direct[layer.bias][:, None, :], j if layer.flipped else i
                last = jnp.zeros((count, 1, size), dtype).at[:, :, -1].set(1)
                left.append(widen(last if layer.flipped else result, j))
                right.append(widen(result if layer.flipped else last, i))
            empty = lambda size: jnp.zeros((count, 0, size), dtype)
            return Gradients(jnp.concatenate([empty(j), *left], axis=1), jnp.concatenate([empty(i), *right], axis=1))

        return [of(layer) for layer in layers]

    def block(points: PyTree, weights: Array) -> list[Gradients]:
        return one(points, weights[0]) if piece.term.whole else jax.vmap(one)(points, weights)

    return block


def _total(
    pieces: list[Piece], theta: Vector, layers: tuple[Layer, ...], key: RandomKey, function, *, whole: bool = False
) -> PyTree:
    """Σ of `function(Gradients of each layer)` over the points of some terms; `whole` says that it forms every G."""
    total = None
    for piece, own in zip(pieces, jax.random.split(key, len(pieces)), strict=True):
        width, dtype, held = piece.width(theta), theta.dtype, None
        if width <= PROBES:
            probes = jnp.eye(width, dtype=dtype)
        else:  # random signs: E vvᵀ = I
            probes = jax.random.rademacher(own, (PROBES, width), dtype) / jnp.sqrt(jnp.asarray(PROBES, dtype))
        of = gradients(piece, theta, layers, probes)
        if not piece.term.whole:
            made = jax.eval_shape(of, *jax.tree.map(lambda leaf: leaf[:1], (piece.points, piece.weights)))
            size = sum(each.numbers(whole=whole) for each in made) * dtype.itemsize
            held = max(1, HELD // (size * (1 if piece.mesh is None else piece.mesh.size)))
        found = piece.reduce(lambda points, weights, of=of: function(of(points, weights)), block=held)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    return total


# -------------------------------------------------------------------------------------------------------- direction


class _Memory(eqx.Module):
    """The inverses in use (for each layer one, or one for each damping), the averages they came from, μ; the damping,
    which of the three tried was best, the age in steps, and how many times the factors were computed."""

    inverses: list[list[Diagonal]]
    factors: PyTree
    scale: Scalar
    damping: Scalar
    best: Count
    age: Count
    made: Count


class Kronecker(Direction):
    """The path λ ↦ argmin over span{d₁, d₂, d₃, last step} of ⟨∇L, s⟩ + ½‖Js‖² + ½λμ‖s‖², with μ the mean diagonal of
    JᵀJ and d_k = −(K + γ_k μ I)⁻¹∇L for a Kronecker-factored K ≈ JᵀJ and three dampings γ/4, γ, 4γ.

    **Factors.** For each layer (a matrix with its bias as a last column) and each population of points, the block
    E[vec G vec Gᵀ] of JᵀJ, with G = Σ_c g_c a_cᵀ the gradient of a whitened feature over the channels of a point, is
    replaced by A⊗B/τ with its partial traces A = E[GᵀG], B = E[GGᵀ] and τ = E‖G‖²: exact where all G are multiples of
    one rank-one matrix, with the right trace always, and one step of the power iteration for the nearest Kronecker
    product (Depen Morwani et al., *A new perspective on Shampoo's preconditioner*, ICLR 2025). The interior is one
    population, all other terms another; their products are summed, and the sum is inverted (`linalg.kronecker_sum`).

    With `fitted` (EKFAC) K = (P⊗Q) diag(s) (P⊗Q)ᵀ, with the eigenvectors of A and B and s = E[(QᵀGP)²] from all terms,
    which is the nearest matrix to the block in that basis.

    James Martens and Roger Grosse, *Optimizing neural networks with Kronecker-factored approximate curvature*, ICML
    2015 (sections 6 and 7: damping, step and momentum from the exact quadratic model); Thomas George et al., *Fast
    approximate natural gradient descent in a Kronecker-factored eigenbasis*, NeurIPS 2018; Felix Dangel, Johannes
    Müller and Marius Zeinhofer, *Kronecker-factored approximate curvature for physics-informed neural networks*,
    NeurIPS 2024. Deviations: A and B are partial traces, where these papers take the moments E Σ_c a_c a_cᵀ and
    E Σ_c g_c g_cᵀ. On plain losses the two are close. On Poisson's residual the moments were off by 0.7 to 2.9 of the
    norm of the exact blocks, the partial traces by 0 to 0.75, the nearest Kronecker products by 0 to 0.72; nor do they
    depend on how derivatives are taken. All three dampings enter the step, where Martens and Grosse keep the best.

    **Arguments:**

    - `fitted`: EKFAC.
    - `decay`: of the moving average of A, B and τ, exact from the first step on (a mean, while steps are few); None
      keeps no average, which is right for points that stay. The s of EKFAC are those of the last points.
    - `refresh`: steps that factors and their inverses serve; new ones are made after a failed step too.
    - `damping`: the first γ. At each refresh it moves to that of the three which lowered the quadratic model most, and
      keeps above machine epsilon.

    **Raises:** `ValueError` when the objective has no curvature to use (a bare scalar loss), when the model has no
    linear layers, or more than 2,000 parameters outside of them.

    **Cost:** four products with J a step, whatever the number of trials. A refresh: for each feature of a point, a
    reverse pass and about c(i² + j²) multiplications for a layer of shape (j, i) with c channels (twice that for
    EKFAC, with c·i·j more), and about 30(i³ + j³) flops for the inverses, three times that where there are two
    populations. Memory: a few (i² + j²) a layer, channels of a block of points, and five vectors. `work.rows` counts
    the features whose gradients were taken, though no row of J is formed.
    """

    fitted: bool = eqx.field(static=True, default=False)
    decay: float | None = None
    refresh: int = eqx.field(static=True, default=1)
    damping: float = 1e-3

    def __check_init__(self):
        if self.refresh < 1:
            raise ValueError(f"Kronecker: refresh is {self.refresh}, but counts steps and must be at least 1.")

    def init(self, objective: Objective, theta: Vector) -> _Memory:
        objective.require_curvature("K-FAC needs", "ravine.adam(), ravine.lbfgs()")
        layers, groups = find_layers(objective.layout), _populations(objective.terms)
        zeros = lambda *shape: jnp.zeros(shape, theta.dtype)
        one = lambda j, i: Diagonal(zeros(j, j), zeros(i, i), zeros(j, i))
        number = 1 if self.fitted or len(groups) == 1 else 3
        factors = [[(zeros(i, i), zeros(j, j)) for j, i in (layer.shape for layer in layers)] for _ in groups]
        return _Memory(
            inverses=[[one(*layer.shape) for _ in range(number)] for layer in layers],
            factors=None if self.decay is None else factors,
            scale=zeros(),
            damping=jnp.asarray(self.damping, theta.dtype),
            best=jnp.int32(1),
            age=jnp.int32(0),
            made=jnp.int32(0),
        )

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Memory, previous: Previous, *, key: RandomKey
    ) -> tuple["Span", _Memory]:
        due = (state.age % self.refresh == 0) | previous.failed
        least = jnp.finfo(theta.dtype).eps
        moved = state.damping * jnp.asarray(RATIO, theta.dtype) ** (state.best - 1).astype(theta.dtype)
        gamma = jnp.where(due, jnp.clip(moved, least, 1e6), state.damping)
        kept = (state.inverses, state.factors, state.scale, state.made)
        made = lax.cond(due, lambda: self._refreshed(lin.anew(), gamma, state, key), lambda: kept)
        inverses, factors, scale, count = made
        directions = self._solve(lin, inverses, _tried(gamma) * scale)
        basis = jnp.concatenate([directions, previous.s[None, :]])
        work = Work(rows=jnp.where(due, lin.rows * (1 + self.fitted), 0), inner=jnp.where(due, 1, 0), products=4)
        path = Span(lin.grad, basis, jax.vmap(lin.jvp)(basis), scale, work)
        best = jnp.argmax(path.alone()[:3]).astype(jnp.int32)
        return path, _Memory(inverses, factors, scale, gamma, best, jnp.where(due, 1, state.age + 1), count)

    def _refreshed(self, lin: Linearisation, gamma: Scalar, state: _Memory, key: RandomKey):
        layers, groups = find_layers(lin.objective.layout), _populations(lin.objective.terms)
        pieces = {piece.term.name: piece for piece in lin.objective.pieces(lin.batch)}
        sets = [[pieces[name] for name in names] for names in groups]
        traces = lambda those: [each.traces() for each in those]
        factors = [_total(those, lin.theta, layers, key, traces) for those in sets]
        scale = sum(jnp.trace(a) for group in factors for a, _ in group) / lin.theta.shape[0]
        if self.decay is not None:
            # β(1 − βᵏ)/(1 − βᵏ⁺¹) after k averages: zero at first, a mean while k is small, β in the end.
            decay = jnp.asarray(self.decay, lin.theta.dtype)
            power = decay ** state.made.astype(lin.theta.dtype)
            keep = decay * (1 - power) / (1 - decay * power)
            factors = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, state.factors, factors)
        mesh = lin.objective.mesh
        one = lambda function, *args: on_first(mesh, lambda _, *args: ((), function(*args)), (), *args)[1]
        inverses = one(self._inverses, factors, _tried(gamma) * scale)
        if self.fitted:
            bases = [inverse for (inverse,) in inverses]
            squares = lambda those: [each.squares(basis) for each, basis in zip(those, bases, strict=True)]
            everything = [piece for those in sets for piece in those]
            values = _total(everything, lin.theta, layers, key, squares, whole=True)
            inverses = [[dataclasses.replace(b, values=v)] for b, v in zip(bases, values, strict=True)]
        kept = factors if self.decay is not None else None
        return inverses, kept, scale, state.made + 1

    def _inverses(self, factors: list, shifts: Float[Array, "3"]) -> list[list[Diagonal]]:
        found = []
        for those in zip(*factors, strict=True):  # a layer in each population
            scaled = [(a, b / jnp.where(jnp.trace(a) > 0, jnp.trace(a), 1)) for a, b in those]
            if self.fitted or len(those) == 1:
                a, b = those[0] if self.fitted else scaled[0]
                for c, d in those[1:]:
                    a, b = a + c, b + d
                found.append([kronecker_product(a, b)])
            else:
                (a, b), (c, d) = scaled
                found.append([kronecker_sum(a, b, c, d, shift) for shift in shifts])
        return found

    def _solve(self, lin: Linearisation, inverses: list[list[Diagonal]], shifts: Float[Array, "3"]) -> Matrix:
        """−(K + shift·I)⁻¹∇L for each shift."""
        layout, layers = lin.objective.layout, find_layers(lin.objective.layout)

        def solve(_, inverses, shifts, grad):
            parts, found = layout.split(grad), []
            for number in range(3):
                out = dict(enumerate(parts))
                for layer, those in zip(layers, inverses, strict=True):
                    inverse, shift = those[number % len(those)], shifts[number]
                    if len(those) == 1:  # a sum has its damping inside
                        shift = jnp.maximum(shift, jnp.finfo(grad.dtype).eps * jnp.max(inverse.values))
                    else:
                        shift = jnp.zeros_like(shift)
                    # A layer that has no part in any feature stays where it is.
                    shift = jnp.where(jnp.max(inverse.values) + shift > 0, shift, 1)
                    layer.scatter(-inverse.solve(layer.gather(parts), shift), out)
                found.append(jnp.concatenate([out[i] for i in range(len(parts))]))
            return (), jnp.stack(found)

        return on_first(lin.objective.mesh, solve, (), inverses, shifts, lin.grad)[1]


def _tried(gamma: Scalar) -> Float[Array, "3"]:
    return jnp.stack([gamma / RATIO, gamma, gamma * RATIO])


def _populations(terms: tuple[Term, ...]) -> list[list[str]]:
    """Names of terms with curvature: the interior, and all others."""
    curved = [term for term in terms if term.loss is not identity]
    inside = [term.name for term in curved if term.region == "interior"]
    outside = [term.name for term in curved if term.region != "interior"]
    return [names for names in (inside, outside) if names]


class Span:
    """The path of `Kronecker`: λ ↦ the minimiser of the damped quadratic model over some directions, of which J's
    products are known, so that a trial costs nothing. Lives within one traced step."""

    def __init__(
        self, grad: Vector, basis: Float[Array, "k n"], images: Float[Array, "k m"], scale: Scalar, work: Work
    ):
        self.basis, self.scale, self.work, self.trial = basis, scale, work, Work()
        self._slopes, self._metric = _sum("kn,n->k", basis, grad), _sum("kn,ln->kl", basis, basis)
        self._curvature = _sum("km,lm->kl", images, images)

    def alone(self) -> Vector:
        """How far each direction by itself lowers the undamped model."""
        curvature = jnp.diagonal(self._curvature)
        return jnp.where(curvature > 0, self._slopes**2 / (2 * jnp.where(curvature > 0, curvature, 1)), 0)

    def coefficients(self, t: Scalar) -> Vector:
        """What the directions are multiplied by."""
        matrix = self._curvature + t * self.scale * self._metric
        diagonal = jnp.diagonal(matrix)
        scaling = jnp.where(diagonal > 0, 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1)), 0)
        values, vectors = jnp.linalg.eigh(scaling[:, None] * matrix * scaling[None, :])
        # The directions are all but parallel when one damping is as good as another.
        least = 16 * jnp.finfo(values.dtype).eps * values[-1]
        inverse = jnp.where(values > least, 1 / jnp.where(values > least, values, 1), 0)
        return -scaling * (vectors @ (inverse * (vectors.T @ (scaling * self._slopes))))

    def __call__(self, t: Scalar) -> Vector:
        return self.coefficients(t) @ self.basis

    def slope(self, grad: Vector) -> Scalar:
        raise TypeError("The path of K-FAC is not straight and has no slope at t = 0; use `Damping` as its search.")

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        """−⟨∇L, s⟩ − ½‖Js‖²."""
        c = self.coefficients(t)
        return -jnp.dot(self._slopes, c) - jnp.dot(c, self._curvature @ c) / 2
