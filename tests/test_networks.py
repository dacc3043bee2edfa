"""Networks beyond the perceptron: derivatives against dense ones, and the properties that their papers state."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine import constraints, models
from ravine.models import layers

KEY = jax.random.key(11)


def shaken(model):
    """The model with every parameter moved: no zero slopes, gates or biases are left."""
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(KEY, len(leaves))
    moved = [leaf + 0.2 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return eqx.combine(treedef.unflatten(moved), rest)


class Own(eqx.Module):
    """A user's own module, which knows nothing of Taylor passes."""

    net: eqx.nn.MLP

    def __call__(self, z):
        return self.net(z) * jnp.exp(-z[0])


NETWORKS = {
    "resnet": lambda: models.ResNet(2, "scalar", width=5, depth=3, key=KEY),
    "siren": lambda: models.SIREN(2, "scalar", width=5, depth=2, first=2.0, omega=1.5, key=KEY),
    "modified": lambda: models.ModifiedMLP(2, "scalar", width=5, depth=3, key=KEY),
    "pirate": lambda: models.PirateNet(2, "scalar", width=6, blocks=2, key=KEY),
    "fourier": lambda: models.Compose(models.Fourier(2, 3, key=KEY), cases.network(inputs=6)),
    "periodic": lambda: models.Compose(
        models.Periodic(0, 2.0, harmonics=2), models.ResNet(5, "scalar", width=4, depth=2, activation=jnp.sin, key=KEY)
    ),
    "outputs": lambda: models.Outputs(cases.network(), scale=3.0, shift=-1.0),
    "boxed": lambda: models.Constrained(
        cases.network(),
        models.Transfinite(lambda z: jnp.sin(z[0]) * z[1] ** 2, (0.0, -1.0), (1.0, 1.0)),
        models.Distance((0.0, -1.0), (1.0, 1.0), power=2),
    ),
    "random": lambda: constraints.plain(rv.random_features(2, "scalar", features=7, key=KEY)),
    "own": lambda: Own(eqx.nn.MLP(2, "scalar", 4, 2, activation=jax.nn.gelu, key=KEY)),
}
FOURTH = ("siren", "fourier")  # four nested passes take long to compile: for one network and one embedding


@pytest.mark.parametrize(
    "name,dtype",
    [(name, jnp.float64) for name in NETWORKS]
    + [(name, jnp.float32) for name in ("resnet", "siren", "modified", "pirate", "fourier", "outputs")],
)
def test_derivatives_are_those_of_nested_dense_modes(name, dtype):
    double = dtype == jnp.float64
    model = jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, NETWORKS[name]())
    model = shaken(model) if double else model
    z = jnp.array([0.3, -0.4], dtype)
    indices = [(), (0,), (1,), (0, 0), (1, 1), (0, 1)]
    indices += [(0, 0, 0)] * (double and name != "boxed") + [(0, 0, 0, 0)] * (double and name in FOURTH)
    tensors = [model, jax.grad(model)]
    while len(tensors) <= max(map(len, indices)):
        tensors.append(jax.jacfwd(tensors[-1]))

    @jax.jit
    def both():
        dense = [tensor(z) for tensor in tensors]
        return rv.partials(model, z, *indices), [dense[len(index)][index] for index in indices]

    found, exact = both()
    size = max(1.0, max(abs(float(number)) for number in exact))
    assert all(number.dtype == dtype for number in found)
    np.testing.assert_allclose(found, exact, rtol=0, atol=(1e-12 if double else 1e-5) * size)


def test_product_rule_is_leibnizs():
    left, right = (lambda s: jnp.exp(2 * s), lambda s: jnp.sin(3 * s))
    s = jnp.array(0.3)
    curve = ((jnp.ones(()), jnp.zeros(()), jnp.zeros(()), jnp.zeros(())),)
    jets = [rv.taylor(f, s, curve) for f in (left, right)]
    both = rv.taylor(lambda t: left(t) * right(t), s, curve)
    np.testing.assert_allclose(jax.tree.leaves(layers.product(*jets)), jax.tree.leaves(both), rtol=1e-12)


# ------------------------------------------------------------------------------------------------------------ SIREN


@pytest.mark.parametrize("first,omega", [(30.0, 30.0), (20.0, 5.0)])
def test_sines_keep_their_distribution_through_the_layers(first, omega):
    """Gaussian arguments of variance v make sines of mean square (1 − e^(−2v))/2, and these the next v, twice that
    and the bias's ω²/(3 width): a fixed point near one, reached at once (Sitzmann et al., 2020, theorem 1.8)."""
    model = models.SIREN(3, 1, width=512, depth=6, first=first, omega=omega, key=KEY)
    x = np.random.default_rng(1).uniform(-1, 1, (400, 3))
    for layer, (weight, bias) in enumerate(zip(model.weights[:-1], model.biases[:-1], strict=True)):
        argument = (omega if layer else first) * (x @ np.asarray(weight).T + np.asarray(bias))
        square = np.mean(np.sin(argument) ** 2)
        if layer:
            expected = 2 * np.mean(x**2) + omega**2 / (3 * 512)
            assert np.mean(argument**2) == pytest.approx(expected, rel=0.05)
            assert square == pytest.approx((1 - np.exp(-2 * expected)) / 2, rel=0.05)
        x = np.sin(argument)
        assert 0.38 < square < 0.55
    assert np.abs(model.weights[0]).max() <= 1 / 3
    assert np.abs(model.weights[1]).max() <= np.sqrt(6 / 512) / omega


def test_siren_is_the_formula():
    model = models.SIREN(2, 2, width=4, depth=2, first=3.0, omega=2.0, key=KEY)
    x = np.array([0.3, -0.8])
    (w1, w2, w3), (b1, b2, b3) = model.weights, model.biases
    expected = w3 @ np.sin(2.0 * (w2 @ np.sin(3.0 * (w1 @ x + b1)) + b2)) + b3
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-12)


# ----------------------------------------------------------------------------------------------------------- ResNet


def test_resnet_is_the_formula_and_its_slopes_are_trained():
    model = shaken(models.ResNet(2, "scalar", width=4, depth=3, key=KEY))
    x = np.array([0.3, -0.8])
    y = np.tanh(model.slopes[0] * (model.weights[0] @ x + model.biases[0]))
    for layer in (1, 2):
        y = y + np.tanh(model.slopes[layer] * (model.weights[layer] @ y + model.biases[layer]))
    np.testing.assert_allclose(model(jnp.asarray(x)), (model.weights[3] @ y + model.biases[3])[0], rtol=1e-12)
    slopes = eqx.filter_grad(lambda m: m(jnp.asarray(x)))(model).slopes
    assert all(abs(float(slope)) > 1e-3 for slope in slopes)


def test_residual_connections_keep_the_gradient():
    """From the last layer to the first, gradients of a deep plain network vanish or not; through blocks they do not."""
    x = jnp.array([0.3, -0.8])

    def ratio(make):
        grads = eqx.filter_grad(lambda m: m(x))(make(2, "scalar", width=20, depth=30, key=KEY)).weights
        return float(jnp.linalg.norm(grads[1]) / jnp.linalg.norm(grads[-2]))

    assert ratio(models.ResNet) > 10 * ratio(models.MLP)


# ------------------------------------------------------------------------------------------------------------ gated


def test_gates_mix_the_encoders():
    """Where U = V every gated layer is U, whatever the gate; gates of one and zero choose U and V."""
    sigma = jax.nn.sigmoid
    model = models.ModifiedMLP(2, 1, width=4, depth=3, activation=sigma, key=KEY)
    x = jnp.array([0.3, -0.8])
    (w, b), other = model.encoders
    same = eqx.tree_at(lambda m: m.encoders, model, ((w, b), (w, b)))
    np.testing.assert_allclose(same(x), model.weights[-1] @ sigma(w @ x + b) + model.biases[-1], rtol=1e-12)
    for bias, (weight, shift) in ((40.0, (w, b)), (-40.0, other)):
        extreme = eqx.tree_at(lambda m: m.biases[2], model, jnp.full(4, bias))
        chosen = sigma(weight @ x + shift)
        np.testing.assert_allclose(extreme(x), model.weights[-1] @ chosen + model.biases[-1], rtol=1e-12)


def test_pirate_net_begins_linear_in_its_embedding():
    model = models.PirateNet(2, 3, width=8, blocks=4, key=KEY)
    x = jax.random.normal(KEY, (9, 2))
    features = jax.vmap(model.embedding)(x)
    np.testing.assert_allclose(jax.vmap(model)(x), features @ model.last.T, rtol=1e-12)
    # Its blocks do nothing yet, but are not dead: their α has a gradient, and each layer once α has left zero.
    loss = lambda m: jnp.sum(jax.vmap(m)(x))
    assert all(abs(float(alpha)) > 1e-3 for alpha in eqx.filter_grad(loss)(model).alphas)
    inside = eqx.filter_grad(loss)(eqx.tree_at(lambda m: m.alphas, model, (jnp.asarray(0.1),) * 4)).layers
    assert all(float(jnp.linalg.norm(weight)) > 1e-4 for block in inside for weight, _ in block)


def test_pirate_net_with_alpha_one_is_without_shortcuts():
    model = models.PirateNet(2, "scalar", width=4, blocks=1, key=KEY)
    model = shaken(eqx.tree_at(lambda m: m.alphas, model, (jnp.asarray(1.0),)))
    model = eqx.tree_at(lambda m: m.alphas, model, (jnp.asarray(1.0),))
    phi = np.asarray(model.embedding(jnp.array([0.3, -0.8])))
    u, v = (np.tanh(w @ phi + b) for w, b in model.encoders)
    (w1, b1), (w2, b2), (w3, b3) = model.layers[0]
    f = np.tanh(w1 @ phi + b1)
    g = np.tanh(w2 @ (f * u + (1 - f) * v) + b2)
    h = np.tanh(w3 @ (g * u + (1 - g) * v) + b3)
    np.testing.assert_allclose(model(jnp.array([0.3, -0.8])), (model.last @ h)[0], rtol=1e-12)


# --------------------------------------------------------------------------------------------------- random features


def test_random_features_solve_a_linear_equation_by_least_squares():
    """−u″ = π² sin πx: the trained linear layer is the least-squares solution, found in few steps."""
    equation = lambda u, z: rv.laplacian(u, z) / 10 + jnp.sin(jnp.pi * z[0])
    problem = rv.Problem(
        terms=(
            rv.residual("pde", equation),
            rv.boundary("bc", 0.0),
        ),
        sampler=rv.Grid(rv.Box((-1.0,), (1.0,), time=False), pde=60, bc=2),
        model=lambda key: rv.random_features(1, "scalar", features=30, scale=4.0, key=key),
        reference=rv.PointReference(x := np.linspace(-1, 1, 51)[:, None], 10 * np.sin(np.pi * x[:, 0]) / np.pi**2),
    )
    run = rv.train(problem, rv.Phase(rv.levenberg_marquardt(), steps=25), key=KEY)
    assert run.theta.shape == (31,)
    assert run.error < 1e-5
    start = constraints.plain(problem.model(jax.random.split(KEY)[0]))
    assert start.weights[1].any() == False  # noqa: E712
    assert float(jnp.abs(run.model.weights[0]).max()) <= 4.0


# -------------------------------------------------------------------------------------------------------------- boxes


def test_values_on_the_faces_of_a_box_are_exact():
    g = lambda z: jnp.exp(z[0]) * jnp.cos(z[1]) + z[2]
    low, high = (0.0, -1.0, 2.0), (1.0, 1.0, 5.0)
    u = models.Constrained(cases.network(inputs=3), models.Transfinite(g, low, high), models.Distance(low, high))
    u, exact = jax.jit(jax.vmap(u)), jax.vmap(g)
    inner = np.random.default_rng(0).uniform(low, high, (5, 3))
    for axis in range(3):
        for end in (low, high):
            face = inner.copy()
            face[:, axis] = end[axis]
            np.testing.assert_allclose(u(face), exact(face), atol=1e-13)
    assert np.abs(u(inner) - exact(inner)).max() > 0.1


def test_transfinite_interpolation_reproduces_blends():
    """C = g for every g that is linear in one of the coordinates."""
    g = lambda z: jnp.sin(z[0]) * (2 - z[1])
    edge = models.Transfinite(g, (0.0, 0.0), (1.0, 3.0))
    z = jnp.array([0.3, 1.7])
    assert float(edge(z)) == pytest.approx(float(g(z)), abs=1e-14)


def test_distance_to_a_power_and_in_time():
    z = jnp.array([1.0, 0.4])
    clamped = models.Distance((0.0, 0.0), (1.0, 1.0), power=2)
    value, slope, curvature = rv.partials(clamped, z, (), 0, (0, 0))
    assert (float(value), float(slope)) == (0.0, 0.0)
    assert float(curvature) > 1
    start = models.Distance((0.0, 0.0), (1.0, 2.0), axes=(0,), initial=1)
    assert float(start(jnp.array([0.5, 0.0]))) == 0.0
    assert float(start(jnp.array([0.5, 2.0]))) == 1.0
    assert float(start(jnp.array([1.0, 1.0]))) == 0.0
    assert clamped == models.Distance((0.0, 0.0), (1.0, 1.0), power=2)


def test_a_curl_has_no_divergence():
    velocity = models.Curl(cases.network())
    z = jnp.array([0.3, -0.2])
    assert abs(float(rv.divergence(velocity, z))) < 1e-14
    assert float(jnp.linalg.norm(jax.jacfwd(velocity)(z))) > 1e-2


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.ResNet(2, 1, depth=0, key=KEY),
        lambda: models.SIREN(0, 1, key=KEY),
        lambda: models.SIREN(2, 1, omega=0.0, key=KEY),
        lambda: models.ModifiedMLP(2, 0, key=KEY),
        lambda: models.PirateNet(2, 1, width=7, key=KEY),
        lambda: models.PirateNet(2, 1, width=7, embedding=models.Fourier(2, 3, key=KEY), key=KEY),
        lambda: models.Outputs(abs, scale=0.0),
        lambda: models.Distance((0.0,), (0.0,)),
        lambda: models.Distance((0.0,), (1.0,), axes=(1,)),
        lambda: rv.random_features(2, 1, scale=-1.0, key=KEY),
    ],
)
def test_sizes_that_make_no_sense(make):
    with pytest.raises(ValueError, match=r"^(ResNet|SIREN|ModifiedMLP|PirateNet|Outputs|Distance|random_features): "):
        make()
