"""Networks, embeddings and hard constraints."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.models import MLP, Compose, Constrained, Fourier, Periodic, Scale


def test_mlp_is_the_formula():
    model = cases.network(2, width=4, depth=2)
    x = np.array([0.3, -0.8])
    (w1, w2, w3), (b1, b2, b3) = model.weights, model.biases
    expected = w3 @ np.tanh(w2 @ np.tanh(w1 @ x + b1) + b2) + b3
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-13)


def test_scalar_output_is_the_one_of_a_single_output():
    model = MLP(2, "scalar", width=4, depth=1, key=cases.KEY)
    vector = MLP(2, 1, width=4, depth=1, key=cases.KEY)
    x = jnp.array([0.1, 0.2])
    assert model(x).shape == ()
    np.testing.assert_array_equal(model(x), vector(x)[0])


def test_initial_weights_have_glorots_variance():
    model = MLP(60, 40, width=80, depth=2, key=cases.KEY)
    for weight in model.weights:
        outputs, inputs = weight.shape
        assert np.var(weight) == pytest.approx(2 / (inputs + outputs), rel=0.1)
        assert abs(np.mean(weight)) < 4 * np.std(weight) / np.sqrt(weight.size)
    assert all(not bias.any() for bias in model.biases[1:])


def test_mlp_draws_from_its_key():
    one, same, other = (MLP(1, 1, key=jax.random.key(seed)) for seed in (0, 0, 1))
    assert eqx.tree_equal(one, same)
    assert not eqx.tree_equal(one, other)
    assert not np.array_equal(one.weights[0].ravel(), one.biases[0])


def test_scale_maps_the_box_onto_the_cube():
    scale = Scale((-3.0, 2.0), (1.0, 7.0))
    assert scale(jnp.array([-3.0, 2.0])).tolist() == [-1.0, -1.0]
    assert scale(jnp.array([1.0, 7.0])).tolist() == [1.0, 1.0]
    assert scale(jnp.array([-1.0, 4.5])).tolist() == [0.0, 0.0]


def test_periodic_is_periodic_with_all_its_derivatives():
    u = Compose(Periodic(0, 1.7, harmonics=3), cases.network(inputs=7))
    left, right = jnp.array([0.2, 0.5]), jnp.array([1.9, 0.5])
    indices = ((), 0, 1, (0, 0), (0, 1))
    derivatives = jax.jit(lambda z: jnp.stack(rv.partials(u, z, *indices)))
    found = [derivatives(z) for z in (left, right)]
    np.testing.assert_allclose(*found, atol=1e-12)
    assert abs(float(u(left) - u(jnp.array([0.9, 0.5])))) > 1e-4


def test_periodic_layout():
    out = Periodic(1, 2.0, harmonics=2)(jnp.array([5.0, 0.5, 6.0]))
    np.testing.assert_allclose(out, [5.0, 6.0, 0.0, -1.0, 1.0, 0.0], atol=1e-15)


def test_fourier_features_approximate_the_gaussian_kernel():
    """⟨φ(x), φ(y)⟩/features → exp(−scale²‖x − y‖²/2) (Rahimi and Recht, 2007)."""
    scale, features = 1.5, 4000
    map = Fourier(2, features, scale=scale, key=cases.KEY)
    x, y = jnp.array([0.1, 0.4]), jnp.array([-0.3, 0.9])
    found = float(jnp.dot(map(x), map(y))) / features
    assert found == pytest.approx(np.exp(-(scale**2) * float(jnp.sum((x - y) ** 2)) / 2), abs=4 / np.sqrt(features))
    assert not jax.tree.leaves(eqx.filter(map, eqx.is_inexact_array))


def test_constraint_holds_exactly_for_any_network():
    u = Constrained(cases.network(), lambda z: jnp.sin(z[0]), lambda z: z[1])
    for x in (-0.9, 0.1, 0.8):
        z = jnp.array([x, 0.0])
        assert float(u(z)) == float(jnp.sin(z[0]))
        # The derivative along the face is that of the condition, too.
        np.testing.assert_allclose(rv.partials(u, z, 0)[0], np.cos(x), rtol=1e-13)


def test_embeddings_hold_no_parameters():
    model = Compose(Scale((0.0,), (1.0,)), Periodic(0, 1.0), Fourier(2, 3, key=cases.KEY), cases.network(inputs=6))
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    assert sum(leaf.size for leaf in arrays) == 6 * 3 + 3 + 3 + 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(0, 1, key=cases.KEY),
        lambda: MLP(1, 1, width=0, key=cases.KEY),
        lambda: MLP(1, 1, depth=0, key=cases.KEY),
        lambda: MLP(1, 0, key=cases.KEY),
        lambda: Scale((0.0,), (0.0,)),
        lambda: Scale((0.0, 1.0), (1.0,)),
        lambda: Periodic(0, 0.0),
        lambda: Periodic(0, 1.0, harmonics=0),
    ],
)
def test_sizes_that_make_no_sense(make):
    with pytest.raises(ValueError, match=r"^(MLP|Scale|Periodic): "):
        make()
