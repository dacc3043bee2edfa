"""K-FAC and EKFAC against the exact Gauss–Newton blocks, which are formed by dense formulas."""

import functools
import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import cases
import ravine as rv
from oracles import Dense
from ravine.linalg import kronecker_product, kronecker_sum
from ravine.optim.kron import OTHERS, PROBES, RATIO, Gradients, Kronecker, Span, find_layers, gradients
from ravine.optim.path import Previous
from ravine.optim.products import Products


def fresh(theta):
    """No step yet."""
    zero = jnp.zeros((), theta.dtype)
    return Previous(jnp.zeros_like(theta), None, None, zero, jnp.array(False), jnp.int32(0))


def semidefinite(seed, size, rank=None):
    half = np.random.default_rng(seed).normal(size=(size, size if rank is None else rank))
    return half @ half.T


# ---------------------------------------------------------------------------------------------------------- algebra


def test_product_is_inverted_as_the_dense_matrix():
    a, b = semidefinite(0, 4, 2), semidefinite(1, 3)
    x = np.random.default_rng(2).normal(size=(3, 4))
    found = kronecker_product(jnp.asarray(a), jnp.asarray(b)).solve(jnp.asarray(x), 0.3)
    dense = np.linalg.solve(np.kron(b, a) + 0.3 * np.eye(12), x.reshape(-1))
    np.testing.assert_allclose(found.reshape(-1), dense, rtol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3, 0.0])
def test_sum_is_inverted_as_the_dense_matrix(scale):
    """(A⊗B + (C + π√λ)⊗(D + √λ/π))⁻¹, the damping where the trace is smaller; all four factors are singular."""
    a, b = semidefinite(0, 5, 3), semidefinite(1, 4, 2)
    c, d = scale * semidefinite(2, 5, 2), semidefinite(3, 4, 3)
    x, shift = np.random.default_rng(4).normal(size=(4, 5)), 1e-2
    found = kronecker_sum(*(jnp.asarray(m) for m in (a, b, c, d)), jnp.asarray(shift)).solve(jnp.asarray(x))
    if np.trace(a) * np.trace(b) < np.trace(c) * np.trace(d):
        a, b, c, d = c, d, a, b
    balance = np.sqrt(np.trace(c) / 5 / (np.trace(d) / 4)) if np.trace(c) > 0 else 1.0
    damped = np.kron(d + np.sqrt(shift) / balance * np.eye(4), c + balance * np.sqrt(shift) * np.eye(5))
    dense = np.linalg.solve(np.kron(b, a) + damped, x.reshape(-1))
    np.testing.assert_allclose(found.reshape(-1), dense, rtol=1e-9, atol=1e-10 * np.abs(dense).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sum_without_damping_gets_what_the_precision_needs(dtype):
    parts = [jnp.asarray(semidefinite(seed, size, 1), dtype) for seed, size in enumerate((6, 5, 6, 5))]
    found = kronecker_sum(*parts, jnp.zeros((), dtype)).solve(jnp.ones((5, 6), dtype))
    assert found.dtype == dtype
    assert np.isfinite(found).all()
    assert np.sum(np.asarray(found)) > 0


# --------------------------------------------------------------------------------------------------------- products


class Wave(eqx.Module):
    """A model without a Taylor pass of its own, one of whose matrices acts from the right."""

    first: eqx.nn.Linear
    second: dict

    def __init__(self):
        one, two = jax.random.split(cases.KEY)
        self.first = eqx.nn.Linear(2, 4, key=one)
        self.second = {"kernel": jax.random.normal(two, (4, 1)), "bias": jnp.array([0.3])}

    def __call__(self, z):
        return (jnp.sin(self.first(z)) @ self.second["kernel"] + self.second["bias"])[0]


HARD = rv.models.Constrained(
    rv.models.Compose(rv.models.Periodic(0, 2.0), cases.network(inputs=3)), lambda z: z[1], lambda z: 1 - z[0] ** 2
)
MANY = cases.network(inputs=9)
FEATURES = {
    "value": (cases.network(), lambda u, z: u(z)),
    "taylor": (cases.network(), lambda u, z: jnp.dot(rv.hessian_diagonal(u, z), jnp.array([1.0, -0.3]))),
    "several": (cases.network(), lambda u, z: rv.laplacian(u, z) + u(z) * rv.partials(u, z, 1)[0]),
    "nested": (Wave(), lambda u, z: jnp.stack([rv.laplacian(u, z), rv.partials(u, z, (0, 1))[0]])),
    "reverse": (Wave(), lambda u, z: jnp.stack([u(z), jnp.sum(rv.gradient(u, z) ** 2)])),
    "over": (cases.network(), lambda u, z: jnp.trace(jax.jacfwd(jax.grad(u))(z))),
    "hard": (HARD, lambda u, z: rv.laplacian(u, z)),
    "many": (MANY, lambda u, z: rv.laplacian(u, jnp.concatenate([z, jnp.arange(7.0) / 7]))),
    "compiled": (Wave(), lambda u, z: jax.jit(jax.checkpoint(lambda y: u(y) ** 2))(z)),
    "otherwise": (cases.network(), lambda u, z: u(z) * jnp.sum(u.weights[1] ** 3)),
    "scanned": (cases.network(), lambda u, z: jax.lax.map(u, jnp.stack([z, 2 * z]))),
}


@pytest.mark.parametrize("name", FEATURES)
def test_channels_sum_up_to_the_gradient_of_each_feature(name):
    """Σ_c g_c a_cᵀ, bias included, is the derivative with respect to the layer, however derivatives are taken."""
    model, features = FEATURES[name]
    objective, theta = rv.Objective.from_terms([rv.residual("pde", features, weight=0.3)], model)
    layers, points = find_layers(objective.layout), cases.points(0, 3)
    (piece,) = objective.pieces({"pde": points})

    @jax.jit
    def compare(theta):
        width = piece.width(theta)
        found = gradients(piece, theta, layers, jnp.eye(width))(piece.points, piece.weights)
        jacobian = piece.jacobian(theta)(piece.points, piece.weights)
        parts = [objective.layout.split(row) for row in jacobian]
        exact = [jnp.stack([layer.gather(part) for part in parts]) for layer in layers]
        return [each.whole().reshape(full.shape) for each, full in zip(found, exact, strict=True)], exact

    for one, other in zip(*compare(theta), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name,channels", [("value", [1, 1]), ("taylor", [5, 5]), ("hard", [4, 4]), ("many", [11, 11])])
def test_a_layer_is_met_once_for_the_value_and_once_for_each_derivative(name, channels):
    """d + 2 products for a Laplacian, 1 + 2d for second derivatives one by one; none is hidden."""
    model, features = FEATURES[name]
    parts, static = eqx.partition(model, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(parts)
    matrices = [i for i, leaf in enumerate(leaves) if leaf.ndim == 2]
    make = lambda leaves: eqx.combine(jax.tree.unflatten(tree, leaves), static)
    found = Products(lambda leaves: features(make(leaves), jnp.array([0.2, 0.5])), leaves, matrices)
    counts = [sum(use.shape[0] for use in found.uses if use.matrix == matrix) for matrix in matrices]
    assert counts == channels
    assert not found.hidden


def test_a_matrix_that_is_used_otherwise_is_known():
    w = jnp.eye(2)
    found = Products(lambda args: args[0] @ jnp.ones(2) + args[1] @ args[0][0] + args[1][0], (w, w), (0, 1))
    assert [use.matrix for use in found.uses] == [0, 1]
    assert found.hidden == {0, 1}
    assert Products(lambda args: args[0] @ args[1] @ jnp.ones(2), (w, w), (0, 1)).hidden == {0, 1}


# ---------------------------------------------------------------------------------------------------------- factors


@functools.cache
def case_of(name):
    return cases.OBJECTIVES[name]()


def blocks(case, parts=None):
    """The exact block of the Gauss–Newton matrix of each layer as an array (j, i, j, i), and the layers."""
    oracle = case.oracle if parts is None else Dense(parts, case.model, residual=False)
    gram = jax.jit(oracle.gram)(oracle.theta)
    objective, _ = case.objective()
    layers = find_layers(objective.layout)
    numbers = objective.layout.split(jnp.arange(float(oracle.theta.size)))
    found = []
    for layer in layers:
        places = layer.gather(numbers).astype(int)
        found.append(gram[jnp.ix_(places.reshape(-1), places.reshape(-1))].reshape(*places.shape, *places.shape))
    return layers, found


def refreshed(case, direction, *, block=4, key=cases.KEY):
    """Inverses, factors and μ of a first step."""
    objective, theta = case.objective(block)

    @jax.jit
    def run(theta):
        state = direction.init(objective, theta)
        return direction._refreshed(objective.linearise(theta, case.batch), state.damping, state, key)

    return run(theta)


INSIDE = {"strong": 1, "system": 1, "quadrature": 1, "whole": 0, "logistic": 0, "softmax": 0, "ritz": 1}


@pytest.mark.parametrize("name", cases.OBJECTIVES)
def test_factors_are_the_partial_traces_of_the_exact_blocks(name):
    """A = tr_j, B = tr_i of the dense block of each population, for every kind of loss; μ is the mean diagonal."""
    case, inside = case_of(name), INSIDE[name]
    _, factors, scale, _ = refreshed(case, Kronecker(decay=0.9))
    gram = jax.jit(case.oracle.gram)(case.oracle.theta)
    np.testing.assert_allclose(scale, jnp.trace(gram) / case.oracle.theta.size, rtol=1e-10)
    groups = [parts for parts in (case.oracle.parts[:inside], case.oracle.parts[inside:]) if parts]
    assert len(factors) == len(groups)
    for group, parts in zip(factors, groups, strict=True):
        for (a, b), exact in zip(group, blocks(case, parts)[1], strict=True):
            size = float(jnp.trace(a)) + 1e-30
            np.testing.assert_allclose(a, jnp.einsum("jijl->il", exact), atol=1e-10 * size)
            np.testing.assert_allclose(b, jnp.einsum("jili->jl", exact), atol=1e-10 * size)


@pytest.mark.parametrize("channels", [1, 2, 40])
def test_both_orders_of_summation_agree(channels):
    rng = np.random.default_rng(channels)
    left, right = jnp.asarray(rng.normal(size=(3, 2, channels, 4))), jnp.asarray(rng.normal(size=(3, 2, channels, 5)))
    one, whole = Gradients(left, right), np.einsum("pkcj,pkci->pkji", left, right)
    assert one.few == (channels < 3)
    a, b = one.traces()
    np.testing.assert_allclose(a, np.einsum("pkji,pkjl->il", whole, whole), rtol=1e-12)
    np.testing.assert_allclose(b, np.einsum("pkji,pkli->jl", whole, whole), rtol=1e-12)


def approximation(inverse):
    """(P⊗Q) diag(values) (P⊗Q)ᵀ as an array (j, i, j, i)."""
    q, p, v = inverse.left, inverse.right, inverse.values
    return jnp.einsum("ja,ib,ab,ka,lb->jikl", q, p, v, q, p)


@pytest.mark.parametrize("name", ["system", "logistic", "softmax", "strong", "ritz"])
def test_ekfac_is_never_further_from_the_block_than_kfac(name):
    """In the Frobenius norm; and its values are the diagonal of the block in its own basis, so that none are better."""
    case = case_of(name)
    _, exact = blocks(case)
    fitted = refreshed(case, Kronecker(fitted=True, decay=0.9))
    for (ours,), block, factors in zip(fitted[0], exact, zip(*fitted[1], strict=True), strict=True):
        turned = jnp.einsum("jikl,ja,ib,ka,lb->ab", block, *(ours.left, ours.right) * 2)
        np.testing.assert_allclose(ours.values, turned, atol=1e-10 * float(jnp.max(turned)))
        kfac = sum(jnp.einsum("il,jk->jikl", a, b) / jnp.trace(a) for a, b in factors if jnp.trace(a) > 0)
        one, other = (float(jnp.linalg.norm(m - block)) for m in (approximation(ours), kfac))
        if len(factors) == 1:
            assert one <= other + 1e-10 * float(jnp.linalg.norm(block))


def test_partial_traces_are_nearer_to_the_block_than_moments_of_channels():
    """E Σ_c a aᵀ ⊗ E Σ_c g gᵀ, Dangel et al.'s factors, on −Δu: why this library takes others.

    Theirs depend on how the Laplacian is computed: by d + 2 channels, as here, they are nearer than by 1 + 2d (0.61 and
    2.1 against 0.71 and 3.3 in the first two layers); ours do not (0.47, 0.55).
    """
    model = cases.network(width=4, depth=2)
    points = cases.points(0, 20)
    objective, theta = rv.Objective.from_terms([rv.residual("pde", lambda u, z: -rv.laplacian(u, z))], model)
    (piece,), layers = objective.pieces({"pde": points}), find_layers(objective.layout)

    @jax.jit
    def distances(theta):
        out = []
        for each in gradients(piece, theta, layers, jnp.eye(1))(piece.points, piece.weights):
            whole, (a, b) = each.whole()[:, 0], each.traces()
            exact = jnp.einsum("nji,nkl->jikl", whole, whole)
            # The bias is a one in the channel of the value, the first, and not a channel of its own.
            right, left = each.right[:, 0, :-1].at[:, 0, -1].set(1), each.left[:, 0, :-1]
            moments = jnp.einsum("nci,ncl->il", right, right) / (20 * right.shape[1])
            pairs = (a, b / jnp.trace(a)), (moments, jnp.einsum("ncj,nck->jk", left, left))
            size = jnp.linalg.norm(exact)
            out.append([jnp.linalg.norm(jnp.einsum("il,jk->jikl", *pair) - exact) / size for pair in pairs])
        return out

    for ours, theirs in distances(theta):
        assert ours < 0.8
        assert ours < 0.8 * theirs


def test_moving_average_is_exact_from_the_first_step():
    """After k refreshes the weights are those of Adam's bias correction: β^(k−i)(1 − β)/(1 − βᵏ)."""
    case, beta = case_of("strong"), 0.95
    objective, theta = case.objective()
    direction = Kronecker(decay=beta)
    state, seen, previous = direction.init(objective, theta), [], fresh(theta)

    @jax.jit
    def run(theta, state):
        lin = objective.linearise(theta, case.batch)
        return direction(lin, theta, state, previous, key=cases.KEY)[1]

    for k in range(3):
        at = theta * (1 + 0.1 * k)
        state = run(at, state)
        alone = run(at, direction.init(objective, theta))
        seen.append(alone.factors)
        weights = np.array([beta ** (k - i) * (1 - beta) / (1 - beta ** (k + 1)) for i in range(k + 1)])
        expected = jax.tree.map(lambda *those, w=weights: np.tensordot(w, np.stack(those), 1), *seen)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-14), state.factors, expected)


def test_random_combinations_of_many_features_are_unbiased():
    """More than PROBES features at a point: the mean over keys tends to the partial trace."""
    model = eqx.nn.Linear(2, 1, key=cases.KEY)
    angles = jnp.arange(1.0, PROBES + 10)
    term = rv.Term("many", lambda u, z: jnp.sin(angles * u(z)[0]))
    objective, theta = rv.Objective.from_terms([term], model)
    batch, direction = {"many": cases.points(0, 3)}, Kronecker(decay=0.5)
    lin = objective.linearise(theta, batch)
    state = direction.init(objective, theta)
    run = jax.jit(jax.vmap(lambda key: direction._refreshed(lin.anew(), state.damping, state, key)[1][0][0][0]))
    found = run(jax.random.split(cases.KEY, 400))
    exact = lin.jacobian().T @ lin.jacobian()
    spread = np.std(found, axis=0) / 20
    assert (spread > 0).all()
    np.testing.assert_array_less(np.abs(np.mean(found, axis=0) - exact), 4 * spread)


# ------------------------------------------------------------------------------------------------------- directions


def directions(objective, theta, batch, direction):
    """−(K + γ_k μ I)⁻¹∇L for the three dampings; γ, μ."""

    @jax.jit
    def run(theta):
        lin = objective.linearise(theta, batch)
        path, state = direction(lin, theta, direction.init(objective, theta), fresh(theta), key=cases.KEY)
        return path.basis, state.damping, state.scale

    return run(theta)


@pytest.mark.parametrize("fitted", [False, True])
def test_exact_for_one_linear_layer_and_one_datum(fitted):
    """K is then JᵀJ, so each direction is a damped Gauss–Newton step."""
    model, point = eqx.nn.Linear(3, 2, key=cases.KEY), jnp.array([[0.3, -1.0, 2.0]])
    objective, theta = rv.Objective.from_terms([rv.supervised("fit")], model)
    batch = {"fit": (point, jnp.array([[1.0, -1.0]]))}
    found, gamma, scale = directions(objective, theta, batch, Kronecker(fitted=fitted, damping=1e-3))
    lin = objective.linearise(theta, batch)
    gram, grad = lin.gram(), lin.grad
    np.testing.assert_allclose(scale, jnp.trace(gram) / theta.size, rtol=1e-12)
    for d, t in zip(found, (gamma / RATIO, gamma, gamma * RATIO), strict=False):
        exact = -np.linalg.solve(gram + t * scale * np.eye(theta.size), grad)
        np.testing.assert_allclose(d, exact, rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(found[3], 0)  # no last step yet


class Deep(eqx.Module):
    """A product of matrices: x ↦ W₃W₂W₁x."""

    layers: list

    def __init__(self):
        keys = jax.random.split(cases.KEY, 3)
        sizes = (3, 4, 3, 2)
        pairs = zip(sizes, sizes[1:], keys, strict=False)
        self.layers = [eqx.nn.Linear(a, b, use_bias=False, key=k) for a, b, k in pairs]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("fitted", [False, True])
def test_deep_linear_network_on_squares_has_the_closed_form(fitted):
    """Block l is (W_{l−1}…W₁) E[xxᵀ] (…)ᵀ ⊗ (W_L…W_{l+1})ᵀ(…), a Kronecker product, and K-FAC inverts it exactly.

    Alberto Bernacchia, Máté Lengyel and Guillaume Hennequin, *Exact natural gradient in deep linear networks and
    application to the nonlinear case*, NeurIPS 2018.
    """
    model, x = Deep(), jax.random.normal(jax.random.key(3), (30, 3))
    y = jax.random.normal(jax.random.key(4), (30, 2))
    objective, theta = rv.Objective.from_terms([rv.supervised("fit")], model)
    found, gamma, scale = directions(objective, theta, {"fit": (x, y)}, Kronecker(fitted=fitted))
    w = [np.asarray(layer.weight) for layer in model.layers]
    grad = objective.value_and_grad(theta, {"fit": (x, y)})[1]
    grads, steps = objective.layout.split(grad), objective.layout.split(found[1])
    inner = np.asarray(x.T @ x) / 30
    trace = 0.0
    for l in range(3):
        chain = lambda those, size: functools.reduce(lambda left, right: right @ left, those, np.eye(size))
        before, after = chain(w[:l], 3), chain(w[l + 1 :], w[l].shape[0])
        a, b = before @ inner @ before.T, after.T @ after
        trace += np.trace(a) * np.trace(b)
        matrix = np.kron(b, a) + float(gamma * scale) * np.eye(a.shape[0] * b.shape[0])
        exact = -np.linalg.solve(matrix, np.asarray(grads[l]).reshape(-1))
        np.testing.assert_allclose(steps[l].reshape(-1), exact, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(scale * theta.size, trace, rtol=1e-10)


def test_linear_regression_in_one_step():
    """One output: JᵀJ = A, so the first step solves the least-squares problem."""
    model, x = eqx.nn.Linear(4, 1, key=cases.KEY), cases.points(1, 20, 4)
    objective, theta = rv.Objective.from_terms([rv.supervised("fit")], model)
    y = jnp.sin(3 * x[:, :1])
    optimizer = rv.Optimizer(Kronecker(damping=1e-13), rv.Damping(1e-14))
    thetas, infos = cases.walk(optimizer, objective, theta, {"fit": (x, y)}, 1)
    full = np.concatenate([x, np.ones((20, 1))], axis=1)
    np.testing.assert_allclose(thetas[1], np.linalg.lstsq(full, np.asarray(y[:, 0]))[0], rtol=1e-8)
    assert infos[0].work.counts() == {"evaluations": 2, "gradients": 1, "rows": 20, "inner": 1, "products": 4}


def test_two_populations_are_solved_as_the_damped_sum():
    case = case_of("strong")
    objective, theta = case.objective()
    found, gamma, scale = directions(objective, theta, case.batch, Kronecker())
    _, factors, _, _ = refreshed(case, Kronecker(decay=0.5))
    layers = find_layers(objective.layout)
    grads = objective.layout.split(objective.value_and_grad(theta, case.batch)[1])
    for number, t in enumerate((gamma / RATIO, gamma, gamma * RATIO)):
        steps = objective.layout.split(found[number])
        for layer, (one, two) in zip(layers, zip(*factors, strict=True), strict=True):
            pairs = [(a, b / jnp.trace(b)) for a, b in (one, two)]
            exact = -kronecker_sum(*pairs[0], *pairs[1], t * scale).solve(layer.gather(grads))
            np.testing.assert_allclose(layer.gather(steps), exact, rtol=1e-6, atol=1e-9)


class Inverse(eqx.Module):
    """A network and an unknown coefficient."""

    network: eqx.nn.MLP
    coefficient: jax.Array


def test_parameters_outside_of_layers_get_their_dense_block():
    """An inverse problem: −κ₀u″ + κ₁u with κ among the parameters."""
    model = Inverse(eqx.nn.MLP(1, "scalar", 3, 1, jnp.tanh, key=cases.KEY), jnp.array([0.7, 0.2]))
    equation = lambda m, z: rv.partials(m.network, z, (0, 0))[0] * m.coefficient[0] + m.coefficient[1] * m.network(z)
    objective, theta = rv.Objective.from_terms([rv.residual("pde", equation)], model)
    batch = {"pde": cases.points(0, 8, 1)}
    found, gamma, scale = directions(objective, theta, batch, Kronecker())
    lin = objective.linearise(theta, batch)
    ours, grad = objective.layout.split(found[1])[-1], objective.layout.split(lin.grad)[-1]
    block = lin.gram()[-2:, -2:]
    np.testing.assert_allclose(ours, -np.linalg.solve(block + gamma * scale * np.eye(2), grad), rtol=1e-8)


def test_biases_are_found_by_name():
    names = lambda model: [layer.bias is not None for layer in find_layers(rv.Layout.of(model))]
    w, b = jnp.ones((2, 3)), jnp.ones(2)
    assert names({"b": {"w": w, "b": b}, "w": {"weight": w, "bias": b}}) == [True, True]
    assert names({"kernel": w.T, "bias": b}) == [True]
    assert names({"w": w, "b": jnp.ones(4)}) == [False, False]  # of another size: not of this layer
    assert names({"w": w, "scale": b}) == [False, False]
    assert names({"weights": (w, w), "biases": (b, b)}) == [True, True]


def test_layers_of_other_libraries_are_the_same_layers():
    """A matrix that acts from the right, with its bias, as in Flax."""
    net = eqx.nn.MLP(2, "scalar", 3, 1, jnp.tanh, key=cases.KEY)
    plain = [{"kernel": layer.weight.T, "bias": layer.bias} for layer in net.layers]

    def by_hand(p, z):
        return (jnp.tanh(z @ p[0]["kernel"] + p[0]["bias"]) @ p[1]["kernel"] + p[1]["bias"])[0]

    x = cases.points(0, 9)
    batch, found = {"fit": (x, x[:, 0] ** 2)}, []
    for model, call in ((net, lambda u, z: u(z)), (plain, by_hand)):
        term = rv.Term("fit", lambda m, pair, call=call: call(m, pair[0]) - pair[1])
        objective, theta = rv.Objective.from_terms([term], model)
        assert all(layer.bias is not None for layer in find_layers(objective.layout))
        step = directions(objective, theta, batch, Kronecker())[0][1]
        tree = objective.layout.unravel(step)
        rest = tree if model is plain else [{"kernel": layer.weight.T, "bias": layer.bias} for layer in tree.layers]
        found.append(ravel_pytree(rest)[0])
    np.testing.assert_allclose(*found, rtol=1e-8, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------- path


def span(seed=0, n=9, m=12, k=4):
    rng = np.random.default_rng(seed)
    jacobian, basis, grad = rng.normal(size=(m, n)), rng.normal(size=(k, n)), rng.normal(size=n)
    path = Span(jnp.asarray(grad), jnp.asarray(basis), jnp.asarray(basis @ jacobian.T), jnp.asarray(2.0), rv.Work())
    return path, jacobian, basis, grad


@pytest.mark.parametrize("t", [0.0, 0.3, 1e6])
def test_path_minimises_the_damped_model_over_the_span(t):
    path, jacobian, basis, grad = span()
    full = jacobian.T @ jacobian
    exact = -basis.T @ np.linalg.solve(basis @ (full + 2.0 * t * np.eye(9)) @ basis.T, basis @ grad)
    step = path(jnp.asarray(t))
    np.testing.assert_allclose(step, exact, rtol=1e-8)
    np.testing.assert_allclose(path.reduction(jnp.asarray(t), step), -grad @ exact - exact @ full @ exact / 2)


def test_each_direction_alone_lowers_the_model_by_what_is_said():
    path, jacobian, basis, grad = span()
    for d, found in zip(basis, path.alone(), strict=True):
        t = -(grad @ d) / np.sum((jacobian @ d) ** 2)
        np.testing.assert_allclose(found, -t * grad @ d - t**2 * np.sum((jacobian @ d) ** 2) / 2)


def test_parallel_and_vanishing_directions_do_no_harm():
    path, jacobian, basis, grad = span(k=1)
    rows = np.stack([basis[0], basis[0] * (1 + 1e-15), 3 * basis[0], 0 * basis[0]])
    several = Span(jnp.asarray(grad), jnp.asarray(rows), jnp.asarray(rows @ jacobian.T), path.scale, rv.Work())
    np.testing.assert_allclose(several(jnp.asarray(0.1)), path(jnp.asarray(0.1)), rtol=1e-9)
    assert float(several.alone()[3]) == 0


def test_the_last_step_takes_part():
    """With it, the model is lowered at least as far as by any multiple of it, which is the momentum of the method."""
    case = case_of("strong")
    objective, theta = case.objective()
    optimizer = rv.kfac()
    state = optimizer.init(objective, theta)
    theta, state, _ = cases.step(optimizer, objective, theta, state, case.batch)
    lin = objective.linearise(theta, case.batch)
    path, _ = optimizer.direction(lin, theta, state.direction, state.previous, key=cases.KEY)
    np.testing.assert_array_equal(path.basis[3], state.previous.s)
    zero = jnp.zeros(())
    assert path.reduction(zero, path(zero)) >= float(jnp.max(path.alone())) * (1 - 1e-10)


def test_a_span_has_no_slope():
    case = case_of("logistic")
    objective, theta = case.objective()
    with pytest.raises(TypeError, match="use `Damping`"):
        cases.walk(rv.Optimizer(Kronecker(), rv.Armijo()), objective, theta, case.batch, 1)


# ---------------------------------------------------------------------------------------------------------- refresh


def test_factors_serve_several_steps_and_are_made_anew_after_a_failure():
    case = case_of("logistic")
    objective, theta = case.objective()
    direction = Kronecker(refresh=3)

    @jax.jit
    def run(state, failed):
        lin = objective.linearise(theta, case.batch)
        previous = eqx.tree_at(lambda p: p.failed, fresh(theta), failed)
        path, state = direction(lin, theta, state, previous, key=cases.KEY)
        return state, path.work

    state, made, rows = direction.init(objective, theta), [], []
    for step in range(9):
        state, work = run(state, jnp.array(step == 7))
        made.append(int(state.made))
        rows.append(int(work.rows))
    assert made == [1, 1, 1, 2, 2, 2, 3, 4, 4]
    assert rows == [9, 0, 0, 9, 0, 0, 9, 9, 0]


def test_damping_of_the_factors_moves_to_the_best_of_three():
    case = case_of("system")
    objective, theta = case.objective()
    direction = Kronecker(damping=1e-2)

    @jax.jit
    def run(state):
        lin = objective.linearise(theta, case.batch)
        path, state = direction(lin, theta, state, fresh(theta), key=cases.KEY)
        return state, path.alone()

    state = direction.init(objective, theta)
    for _ in range(4):
        before = float(state.damping) * RATIO ** (int(state.best) - 1)
        state, alone = run(state)
        np.testing.assert_allclose(state.damping, before, rtol=1e-12)
        assert int(state.best) == int(np.argmax(alone[:3]))


# ----------------------------------------------------------------------------------------------------------- errors


def test_a_model_without_linear_layers_is_refused():
    objective, theta = rv.Objective.from_residuals(lambda p, _: p["a"] ** 2 - 1, {"a": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"no matrix is among its parameters \(\['a'\] of shape \(3,\)\).*MLP"):
        rv.kfac().init(objective, theta)


def test_convolutions_are_refused_by_name():
    model = {"w": jnp.ones((2, 2)), "filters": jnp.ones((OTHERS, 2, 1))}
    objective, theta = rv.Objective.from_residuals(lambda p, _: p["w"] @ jnp.ones(2), model)
    with pytest.raises(ValueError, match=r"4,000 of those: \['filters'\] of shape"):
        rv.kfac().init(objective, theta)


def test_a_bare_loss_is_refused():
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**2), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="this objective is a bare scalar loss"):
        rv.ekfac().init(objective, theta)


def test_refresh_counts_steps():
    with pytest.raises(ValueError, match="refresh is 0"):
        Kronecker(refresh=0)


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("method", ["kfac", "ekfac"])
def test_float32_goes_down_too(method):
    x = jnp.linspace(-1, 1, 9, dtype=jnp.float32)[:, None]
    model = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), cases.network(inputs=1))
    objective, theta = rv.Objective.from_terms([rv.supervised("fit")], model)
    thetas, infos = cases.walk(rv.METHODS[method](), objective, theta, {"fit": (x, jnp.sin(3 * x[:, 0]))}, 60)
    assert thetas[-1].dtype == np.float32
    assert float(infos[-1].value) < 1e-3 * float(infos[0].value)


@pytest.mark.parametrize("method", ["kfac", "ekfac"])
def test_it_beats_adam_a_hundredfold_on_poisson(method):
    """In steps; a step costs about eight of Adam's in time."""
    problem = cases.PROBLEMS["poisson"]()
    ends = [
        rv.train(problem, rv.Phase(optimizer, steps=steps), key=cases.KEY).history["loss"][-1]
        for optimizer, steps in ((rv.METHODS[method](), 150), (rv.adam(1e-2), 1200))
    ]
    assert ends[0] < ends[1] / 100


def test_two_devices_take_the_steps_of_one():
    script = """
    import jax, numpy as np
    jax.config.update("jax_enable_x64", True)
    import ravine as rv
    assert rv.use_cores(2) == 2
    box = rv.Box((0.0, 0.0), (1.0, 1.0))
    equation = lambda u, z: rv.partials(u, z, 1)[0] - u(z)
    terms = (rv.residual("pde", equation), rv.initial("start", 1.0))
    model = lambda key: rv.models.MLP(2, "scalar", width=4, depth=1, key=key)
    problem = rv.Problem(terms, rv.Sobol(box, pde=19, start=7), model)
    for method in (rv.kfac(refresh=2), rv.ekfac()):
        ends = [
            np.asarray(rv.train(problem, rv.Phase(method, steps=3), key=jax.random.key(0), devices=n).theta)
            for n in (1, 2)
        ]
        np.testing.assert_allclose(ends[1], ends[0], rtol=1e-6, atol=1e-8)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
