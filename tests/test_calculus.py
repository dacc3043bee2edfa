"""Derivatives at a point against full arrays of derivatives by automatic differentiation."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import oracles
import ravine as rv
from ravine.jets import elementwise
from ravine.models import MLP, Compose, Constrained, Fourier, Periodic, Scale

POINT = jnp.array([0.3, -0.7])


def net(inputs, activation=jnp.tanh):
    return cases.network(inputs=inputs, width=4, depth=2, activation=activation)


MODELS = {
    "tanh": lambda: net(2),
    "sin": lambda: net(2, jnp.sin),
    "gelu": lambda: net(2, jax.nn.gelu),
    "softplus": lambda: net(2, jax.nn.softplus),
    "scale": lambda: Compose(Scale((-2.0, -1.0), (1.0, 3.0)), net(2)),
    "periodic": lambda: Compose(Periodic(0, 2.0, harmonics=2), net(5)),
    "fourier": lambda: Compose(Fourier(2, 3, key=jax.random.key(1)), net(6)),
    "constrained": lambda: Constrained(
        net(2), lambda z: jnp.sin(z[0]) * z[1] ** 2, lambda z: z[1] * (1 - z[0] ** 2) * jnp.exp(z[1])
    ),
    "nested": lambda: Constrained(
        Compose(Scale((-1.0, -1.0), (1.0, 2.0)), Periodic(0, 2.0), net(3)), lambda z: z[0] ** 3, lambda z: z[1]
    ),
    "function": lambda: lambda z: jnp.exp(z[0]) * jnp.sin(2 * z[0] * z[1]) + z[1] ** 5,
}

FIRST_TWO = ((), (0,), (1,), (0, 0), (1, 1), (0, 1))
HIGHER = ((0, 0, 0), (1, 1, 1, 1), (0, 0, 1))


@functools.cache
def exact(name, indices):
    u = MODELS[name]()
    return jax.device_get(jax.jit(lambda z: tuple(oracles.derivative(u, z, index) for index in indices))(POINT))


@pytest.mark.parametrize("name", MODELS)
def test_partials_of_first_and_second_order(name):
    u = MODELS[name]()
    found = jax.jit(lambda z: rv.partials(u, z, *FIRST_TWO))(POINT)
    np.testing.assert_allclose(found, exact(name, FIRST_TWO), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["tanh", "sin", "gelu", "nested", "function"])
def test_partials_of_third_and_fourth_order(name):
    u = MODELS[name]()
    found = jax.jit(lambda z: rv.partials(u, z, *HIGHER))(POINT)
    np.testing.assert_allclose(found, exact(name, HIGHER), rtol=1e-9, atol=1e-11)


def test_order_and_spelling_of_indices():
    """Mixed derivatives commute; 0 means (0,); each answer stands where it was asked for."""
    u = MODELS["function"]()
    found = rv.partials(u, POINT, (1, 0), 0, (0, 1), (0,), ())
    assert float(found[0]) == float(found[2])
    assert float(found[1]) == float(found[3])
    np.testing.assert_allclose(float(found[4]), float(u(POINT)))


def test_partials_of_a_vector_valued_model():
    u = cases.network(3, width=4)
    value, mixed, second = jax.jit(lambda z: rv.partials(u, z, (), (0, 1), (1, 1)))(POINT)
    hessian = jax.jit(jax.hessian(u))(POINT)
    np.testing.assert_allclose(value, u(POINT))
    np.testing.assert_allclose(mixed, hessian[:, 0, 1], rtol=1e-10)
    np.testing.assert_allclose(second, hessian[:, 1, 1], rtol=1e-10)


@pytest.mark.parametrize("name", ["tanh", "constrained", "periodic", "function"])
def test_taylor_along_a_curved_line(name):
    """s ↦ u(z + s a + s²/2 b + s³/6 c): the chain rule meets every derivative of the curve."""
    u = MODELS[name]()
    a, b, c = jnp.array([0.5, -1.0]), jnp.array([2.0, 0.3]), jnp.array([-1.0, 0.7])
    line = lambda s: u(POINT + s * a + s**2 / 2 * b + s**3 / 6 * c)
    value, ((first, second, third),) = jax.jit(lambda: rv.taylor(u, POINT, ((a, b, c),)))()
    along = [line]
    for _ in range(3):
        along.append(jax.jacfwd(along[-1]))
    exact = jax.jit(lambda: [f(0.0) for f in along])()
    np.testing.assert_allclose([value, first, second, third], exact, rtol=1e-10)


@pytest.mark.parametrize("function", [jnp.tanh, jnp.sin, jax.nn.gelu, jnp.exp])
def test_elementwise_against_faa_di_bruno_by_nesting(function):
    z = jnp.array([0.2, -1.3])
    curve = tuple(jnp.array(c) for c in ([0.7, -1.0], [0.3, 2.0], [-1.1, 0.4], [0.9, 0.2]))

    @jax.jit
    def both():
        line = lambda s: function(
            z + sum(c * s**k / f for c, k, f in zip(curve, (1, 2, 3, 4), (1, 2, 6, 24), strict=True))
        )
        exact = []
        for _ in range(4):
            line = jax.jacfwd(line)
            exact.append(line(0.0))
        return elementwise(function, z, (curve,))[1][0], exact

    for found, exact in zip(*both(), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-9)


@pytest.mark.parametrize("activation", [jnp.tanh, jnp.sin, jax.nn.softplus, jax.nn.relu, jax.nn.gelu, jax.nn.silu])
def test_every_activation_against_dense_derivatives(activation):
    """Value, gradient, Hessian diagonal, Laplacian and third derivative along a line, relu with its zeros included."""
    u, v = net(2, activation), jnp.array([0.6, -1.1])
    found = jax.jit(lambda z: (*rv.value_and_gradient(u, z), rv.hessian_diagonal(u, z), rv.directional(u, z, v, v, v)))(
        POINT
    )

    @jax.jit
    def dense(z):
        hessian = jax.jacfwd(jax.jacfwd(u))
        third = jnp.einsum("ijk,i,j,k", jax.jacfwd(hessian)(z), v, v, v)
        return u(z), jax.jacrev(u)(z), jnp.diag(hessian(z)), third

    for one, other in zip(found, dense(POINT), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_directions_in_turn():
    u, v, w = MODELS["function"](), jnp.array([0.6, -1.1]), jnp.array([-0.2, 0.9])
    hessian = jax.hessian(u)(POINT)
    np.testing.assert_allclose(rv.directional(u, POINT, v, w), v @ hessian @ w, rtol=1e-12)
    np.testing.assert_allclose(rv.directional(u, POINT, v), v @ jax.grad(u)(POINT), rtol=1e-12)
    np.testing.assert_allclose(rv.directional(u, POINT), u(POINT))


@pytest.mark.parametrize("dimension", [3, 9])
def test_gradients_of_many_outputs(dimension):
    u, z = cases.network(2, inputs=dimension, width=4), jnp.linspace(-0.4, 0.9, dimension)
    value, slopes = jax.jit(lambda z: rv.value_and_gradient(u, z))(z)
    np.testing.assert_allclose(value, u(z))
    np.testing.assert_allclose(slopes, jax.jacrev(u)(z), rtol=1e-10)


@pytest.mark.parametrize("name", ["tanh", "sin"])
def test_orders_five_and_six(name):
    """Faà di Bruno's formula beyond what is written out for single activations, against nested forward mode."""
    u, v = {"tanh": net(2), "sin": net(2, jnp.sin)}[name], jnp.array([0.5, -0.3])
    plain = lambda z: u(z)
    found = jax.jit(lambda: rv.taylor(u, POINT, ((v, *(jnp.zeros(2),) * 5),))[1][0])()
    exact = jax.jit(lambda: rv.taylor(plain, POINT, ((v, *(jnp.zeros(2),) * 5),))[1][0])()
    np.testing.assert_allclose(found, exact, rtol=1e-9)


# What is asked for beside the operator, the operator, and the columns that pass the layers beside u.
OPERATORS = {
    "burgers": (((), 0), {1: 1.0, (0, 0): -0.3}, 2),
    "heat": ((), {1: 1.0, (0, 0): -0.25}, 2),
    "transport": ((), {0: 1.0, 1: 0.025}, 1),
    "transport with u": ((), {(): -2.0, 0: 1.0, 1: 0.5}, 1),
    "anisotropic": ((1,), {(0, 0): 2.0, (1, 1): 3.0, 0: -0.7}, 3),
    "wave": ((), {(1, 1): 1.0, (0, 0): -4.0}, 4),
    "telegraph": ((1,), {(1, 1): 1.0, 1: 0.2, (0, 0): -4.0, (): 0.5}, 4),
    "third order": ((), {1: 1.0, (0, 0, 0): 0.4}, 3),
    "fourth order": (((), 0), {1: 1.0, (0, 0): 0.6, (0, 0, 0, 0): 0.2}, 4),
    "mixed": ((), {(0, 1): 1.5, (0, 0): 1.0, (1,): 2.0}, 2),
    "asked for anyway": (((0, 0), 1), {1: 1.0, (0, 0): -0.3}, 3),
    "one derivative": ((), {(1, 1): -2.0}, 2),
    "no diffusion": ((0,), {1: 1.0, (0, 0): 0.0}, 3),
}


def applied(u, z, operator):
    """Σ cₐ ∂ᵅu, by nested `jacfwd`."""
    return sum(c * oracles.derivative(u, z, (d,) if isinstance(d, int) else d) for d, c in operator.items())


@pytest.mark.parametrize("unrolled", [0, 4])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_in_one_column_against_dense_derivatives(name, unrolled, monkeypatch):
    """Written out and mapped; on a model that passes derivatives layer by layer, and on any callable."""
    monkeypatch.setattr("ravine.calculus.UNROLLED", unrolled)
    beside, operator, _ = OPERATORS[name]
    for model in ("constrained", "function"):
        u = MODELS[model]()
        *others, found = jax.jit(lambda z, u=u: rv.partials(u, z, *beside, operator))(POINT)
        exact = jax.jit(lambda z, u=u: [applied(u, z, {index: 1.0}) for index in beside] + [applied(u, z, operator)])
        np.testing.assert_allclose([*others, found], exact(POINT), rtol=1e-9, atol=1e-11)


class Counting(eqx.Module):
    """Counts the columns that pass a network beside its value, in calls that follow curves."""

    network: MLP
    seen: list = eqx.field(static=True)

    def __call__(self, z):
        return self.network(z)

    def taylor(self, z, curves):
        self.seen.append(len(jax.tree.leaves(curves)))
        return self.network.taylor(z, curves)


@pytest.mark.parametrize("name", OPERATORS)
def test_what_an_operator_alone_needs_is_one_column(name):
    beside, operator, columns = OPERATORS[name]
    u = Counting(net(2), [])
    rv.partials(u, POINT, *beside, operator)
    assert sum(u.seen) == columns


def test_operators_with_coefficients_that_are_traced():
    """Of the first order they are merged, of the highest one taken by themselves; gradients with respect to both."""
    u = MODELS["tanh"]()
    balance = lambda c: rv.partials(u, POINT, {1: c[0], 0: c[1], (0, 0): c[2]}, {0: c[1], 1: c[0]})
    plain = lambda c: (applied(u, POINT, {1: c[0], 0: c[1], (0, 0): c[2]}), applied(u, POINT, {0: c[1], 1: c[0]}))
    for derivative in (lambda f: f, jax.jacrev):
        found, exact = (jax.jit(derivative(f))(jnp.array([0.3, 2.0, 0.0])) for f in (balance, plain))
        np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-12)


def test_an_operator_on_a_vector_valued_model():
    u = cases.network(3, width=4)
    operator = {1: 1.0, (0, 0): -0.3, (1, 1): -0.6, (): 0.1}
    exact = [applied(lambda z, k=k: u(z)[k], POINT, operator) for k in range(3)]
    np.testing.assert_allclose(rv.partials(u, POINT, operator)[0], exact, rtol=1e-9)


def test_two_operators_share_what_they_can():
    """The first derivatives of one are not passed again for the other."""
    u = Counting(net(2), [])
    first, second = {(0, 0): 1.0, (1, 1): 1.0}, {0: 2.0, 1: -1.0}
    found = rv.partials(u, POINT, first, second)
    assert u.seen == [3]
    np.testing.assert_allclose(found, [applied(u.network, POINT, one) for one in (first, second)], rtol=1e-9)


@pytest.mark.parametrize(
    "operator, said",
    [
        ({}, "an operator is empty"),
        ({(0, 2): 1.0}, r"\(0, 2\).*2 coordinates, numbered 0 to 1"),
        ({0: np.ones(2)}, r"derivative \(0,\) must be a number or an array of shape \(\)"),
        ({0: "1"}, "must be a number"),
    ],
)
def test_partials_refuse_what_is_no_operator(operator, said):
    with pytest.raises(ValueError, match=said):
        rv.partials(lambda z: z[0], POINT, operator)


def test_partials_refuse_a_coordinate_that_does_not_exist():
    with pytest.raises(ValueError, match=r"\(0, 2\).*2 coordinates, numbered 0 to 1"):
        rv.partials(lambda z: z[0], POINT, (0, 2))


@pytest.mark.parametrize("dimension", [2, 10])
def test_operators(dimension):
    """Gradient, Hessian diagonal, Laplacian and divergence; d = 10 takes the path for many coordinates."""
    u = cases.network(inputs=dimension, width=5)
    field = cases.network(dimension, inputs=dimension, width=5)
    z = jnp.linspace(-0.5, 0.8, dimension)
    slope, diagonal, laplace, div = jax.jit(
        lambda z: (rv.gradient(u, z), rv.hessian_diagonal(u, z), rv.laplacian(u, z), rv.divergence(field, z))
    )(z)
    hessian = jax.jit(jax.jacfwd(jax.jacrev(u)))(z)
    np.testing.assert_allclose(slope, jax.jacrev(u)(z), rtol=1e-10)
    np.testing.assert_allclose(diagonal, jnp.diag(hessian), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(laplace, jnp.trace(hessian), rtol=1e-9)
    np.testing.assert_allclose(div, jnp.trace(jax.jacrev(field)(z)), rtol=1e-10)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("unrolled", [0, 4])
def test_the_forward_laplacian_of_every_model(name, unrolled, monkeypatch):
    """One column for all second derivatives: written out, and mapped over the coordinates; and over some of them."""
    monkeypatch.setattr("ravine.calculus.UNROLLED", unrolled)
    u = MODELS[name]()
    (slopes, second), along = jax.jit(lambda z: (rv.gradient_and_laplacian(u, z), rv.laplacian(u, z, axes=(1,))))(POINT)
    slope, hessian = jax.jit(lambda z: (jax.jacfwd(u)(z), jax.jacfwd(jax.jacfwd(u))(z)))(POINT)
    np.testing.assert_allclose(slopes, jnp.moveaxis(slope, -1, 0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(second, jnp.trace(hessian, axis1=-2, axis2=-1), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(along, hessian[..., 1, 1], rtol=1e-9, atol=1e-11)


def test_the_laplacian_refuses_coordinates_that_do_not_exist():
    for axes in ((0, 2), (1, 1), (-1,)):
        with pytest.raises(ValueError, match="different ones of the point's 2 coordinates, numbered 0 to 1"):
            rv.laplacian(lambda z: z[0], POINT, axes=axes)


def test_divergence_of_the_gradient_is_the_laplacian():
    u = MODELS["function"]()
    found = rv.divergence(lambda x: rv.gradient(u, x), POINT)
    np.testing.assert_allclose(found, rv.laplacian(u, POINT), rtol=1e-12)


def test_a_harmonic_function():
    """Re (x + iy)⁵ has no Laplacian."""
    harmonic = lambda z: z[0] ** 5 - 10 * z[0] ** 3 * z[1] ** 2 + 5 * z[0] * z[1] ** 4
    assert abs(float(rv.laplacian(harmonic, POINT))) < 1e-13


def test_reverse_mode_through_partials():
    """Gradients with respect to parameters pass through derivatives with respect to points."""
    u = net(2)
    loss = lambda model: rv.partials(model, POINT, (0, 0))[0]
    plain = lambda model: jax.grad(lambda x: jax.grad(model)(x)[0])(POINT)[0]
    for found, expected in zip(*(jax.tree.leaves(jax.jit(jax.grad(f))(u)) for f in (loss, plain)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_precision_is_that_of_the_point(dtype):
    u = jax.tree.map(lambda leaf: leaf.astype(dtype), MLP(2, "scalar", width=3, depth=1, key=cases.KEY))
    whole = Constrained(Compose(Scale((0.0, 0.0), (1.0, 2.0)), u), lambda z: z[0], lambda z: z[1])
    for part in jax.eval_shape(lambda z: rv.partials(whole, z, (), 0, (0, 0), (0, 1)), POINT.astype(dtype)):
        assert part.dtype == dtype
