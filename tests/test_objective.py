"""The objective and its linearisation against dense formulas."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv

# Every case in one piece and in blocks that do not divide; one of them in every kind of block (it has 11 points).
TWO = [(name, block) for name in cases.OBJECTIVES for block in (3, 512)]
CUTS = [*TWO, *(("strong", block) for block in (1, 7, 11)), ("softmax", 1)]


@functools.cache
def case_of(name):
    return cases.OBJECTIVES[name]()


@functools.cache
def parts(name, block):
    """Everything a linearisation offers, compiled in one go, beside what it was asked at."""
    case = case_of(name)
    objective, theta = case.objective(block)
    theta = theta + 0.1 * jnp.cos(jnp.arange(theta.size, dtype=theta.dtype))
    v = jnp.sin(jnp.arange(1.0, theta.size + 1))
    r = jnp.cos(jnp.arange(1.0, objective.size(case.batch) + 1))

    @eqx.filter_jit
    def everything(objective, theta, batch):
        lin = objective.linearise(theta, batch)
        found = {
            "call": objective(theta, batch),
            "value": lin.value,
            "grad": lin.grad,
            "jvp": lin.jvp(v),
            "vjp": lin.vjp(r),
            "jacobian": lin.jacobian(),
            "gram": lin.gram(),
            "kernel": lin.kernel(),
        }
        if (name, block) in TWO:
            found |= {
                "grad_of_call": jax.grad(lambda at: objective(at, batch))(theta),
                "second": lin.second(v),
                "curvature": lin.curvature_product(v),
                "hessian": lin.hessian_product(v),
            }
        if objective.has_residuals:
            found["residual"] = lin.residual
        return found

    found = jax.device_get(everything(objective, theta, case.batch))
    return found, theta, v, r


@functools.cache
def dense(name):
    """What the oracle says at the same place."""
    oracle = case_of(name).oracle
    theta = oracle.theta + 0.1 * jnp.cos(jnp.arange(oracle.theta.size, dtype=oracle.theta.dtype))
    v = jnp.sin(jnp.arange(1.0, theta.size + 1))

    @jax.jit
    def everything(theta):
        found = {
            "value": oracle.value(theta),
            "grad": oracle.gradient(theta),
            "hessian": oracle.hessian(theta) @ v,
            "gram": oracle.gram(theta),
            "metric": oracle.metric(theta),
            "curve": oracle.curve(theta, v),
            "slopes": jax.jacfwd(oracle.features)(theta),
        }
        if oracle.residual:
            found |= {"residual": oracle.rows(theta), "jacobian": oracle.jacobian(theta)}
        return found

    return jax.device_get(everything(theta))


def close(found, exact, tolerance=1e-11):
    scale = np.max(np.abs(exact)) + 1e-300
    np.testing.assert_allclose(found / scale, exact / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name,block", CUTS)
def test_value_and_gradient(name, block):
    found, exact = parts(name, block)[0], dense(name)
    close(found["value"], exact["value"])
    close(found["call"], exact["value"])
    close(found["grad"], exact["grad"])


@pytest.mark.parametrize("name,block", TWO)
def test_gradient_through_the_call(name, block):
    """A user's own `jax.grad` of the objective."""
    close(parts(name, block)[0]["grad_of_call"], dense(name)["grad"])


@pytest.mark.parametrize("name,block", CUTS)
def test_gauss_newton_matrix(name, block):
    """JᵀJ = Σ w v ∇F φ″ ∇Fᵀ, for every convex loss, in every form it comes in."""
    found, exact = parts(name, block)[0], dense(name)["gram"]
    close(found["gram"], exact)
    close(found["jacobian"].T @ found["jacobian"], exact)


@pytest.mark.parametrize("name,block", TWO)
def test_curvature_product(name, block):
    found, _, v, _ = parts(name, block)
    close(found["curvature"], dense(name)["gram"] @ v)


@pytest.mark.parametrize("name,block", CUTS)
def test_products_are_those_of_the_jacobian(name, block):
    found, _, v, r = parts(name, block)
    jacobian = found["jacobian"]
    close(found["jvp"], jacobian @ v)
    close(found["vjp"], jacobian.T @ r)
    close(found["kernel"], jacobian @ jacobian.T)


@pytest.mark.parametrize("name,block", TWO)
def test_hessian_product(name, block):
    close(parts(name, block)[0]["hessian"], dense(name)["hessian"])


@pytest.mark.parametrize("name,block", [cut for cut in CUTS if cut[0] in cases.RESIDUAL])
def test_residual_and_jacobian_of_squares(name, block):
    found, exact = parts(name, block)[0], dense(name)
    close(found["residual"], exact["residual"])
    close(found["jacobian"], exact["jacobian"])
    close(np.sum(found["residual"] ** 2) / 2, exact["value"])
    close(found["jacobian"].T @ found["residual"], exact["grad"])


@pytest.mark.parametrize("name,block", TWO)
def test_second_derivative_along_a_line(name, block):
    """r_vv up to the rotation that whitening leaves free: its norm, and its products with the rows of J."""
    found, exact = parts(name, block)[0], dense(name)
    curve, metric = exact["curve"], exact["metric"]
    close(np.sum(found["second"] ** 2), curve @ metric @ curve)
    close(found["jacobian"].T @ found["second"], exact["slopes"].T @ metric @ curve)


def test_logistic_metric_is_fisher():
    """JᵀJ = Σ w σ(1 − σ)∇F∇Fᵀ/m with the closed form of φ″."""
    case = case_of("logistic")
    found, theta, _, _ = parts("logistic", 512)
    x = case.batch["labels"][0]
    logits = lambda at: jax.vmap(case.oracle.model(at))(x)
    sigma = jax.nn.sigmoid(logits(theta))
    slopes = jax.jacfwd(logits)(theta)
    close(found["gram"], 1.7 / 9 * slopes.T @ jnp.diag(sigma * (1 - sigma)) @ slopes)


def test_softmax_metric_is_fisher():
    """φ″ = diag(p) − ppᵀ, the covariance of the predicted class."""
    case = case_of("softmax")
    found, theta, _, _ = parts("softmax", 512)
    x = case.batch["classes"][0]
    logits = lambda at: jax.vmap(case.oracle.model(at))(x)
    p = jax.nn.softmax(logits(theta), axis=1)
    fisher = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]
    slopes = jax.jacfwd(logits)(theta)
    close(found["gram"], jnp.einsum("iaj,iab,ibk->jk", slopes, fisher, slopes) / x.shape[0])


def test_ritz_metric_is_the_energy_inner_product():
    """JᵀJ = mean ∇(∂_jθ u)·∇(∂_kθ u) + boundary: the loss is linear in u itself, which adds nothing."""
    case = case_of("ritz")
    found, theta, _, _ = parts("ritz", 512)
    model = case.oracle.model
    inner = jax.jacfwd(lambda at: jax.vmap(lambda z: jax.grad(model(at))(z))(case.batch["energy"]))(theta)
    edge = jax.jacfwd(lambda at: jax.vmap(model(at))(case.batch["bc"]))(theta)
    exact = jnp.einsum("idj,idk->jk", inner, inner) / 11 + 5.0 * edge.T @ edge / 4
    close(found["gram"], exact)


# ----------------------------------------------------------------------------------------- other ways to an objective


def test_values_are_the_unweighted_means():
    case = case_of("strong")
    objective, theta = case.objective()
    values = eqx.filter_jit(objective.values)(theta, case.batch)
    model = case.oracle.model(theta)
    pde = np.mean([0.5 * float(cases.pde_dense(model, z)) ** 2 for z in case.batch["pde"]])
    close(values["pde"], pde)
    close(0.7 * values["pde"] + 30.0 * values["bc"], case.oracle.value(theta))


@pytest.mark.parametrize("block", [2, 512])
def test_pointwise_losses(block):
    case = case_of("ritz")
    objective, theta = case.objective(block)
    features, loss, _, where, _ = case.oracle.parts[0]
    model = case.oracle.model(theta)
    exact = [float(loss(features(model, z), z)) for z in where]
    close(np.asarray(objective.pointwise(theta, "energy", where)), np.asarray(exact))


def test_residuals_of_ones_own_match_terms():
    """½‖residuals‖² with any pytree of residuals: value, gradient and Jacobian."""

    def residuals(params, data):
        return {"a": params["x"] ** 2 - data, "b": params["y"] * params["x"][0]}

    params = {"x": jnp.array([1.0, 2.0, -1.0]), "y": jnp.array([[0.5, 3.0]])}
    data = jnp.array([0.5, 0.1, 0.2])
    objective, theta = rv.Objective.from_residuals(residuals, params)
    lin = objective.linearise(theta, data)
    flat = lambda t: jnp.concatenate([t[:3] ** 2 - data, t[3:] * t[0]])
    close(lin.residual, flat(theta))
    close(lin.jacobian(), jax.jacfwd(flat)(theta))
    close(lin.value, jnp.sum(flat(theta) ** 2) / 2)
    close(lin.grad, jax.jacfwd(flat)(theta).T @ flat(theta))
    assert lin.rows == objective.size(data) == 5


def test_loss_of_ones_own():
    loss = lambda params, a: jnp.sum(jnp.cos(params) ** 2) * a
    objective, theta = rv.Objective.from_loss(loss, jnp.array([0.3, 0.4]))
    lin = objective.linearise(theta, 3.0)
    close(lin.value, loss(theta, 3.0))
    close(lin.grad, jax.grad(loss)(theta, 3.0))
    v = jnp.array([1.0, -2.0])
    close(lin.hessian_product(v), jax.hessian(loss)(theta, 3.0) @ v)
    assert not objective.has_curvature


def test_given_value_and_gradient_are_used():
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**2), jnp.ones(2))
    lin = objective.linearise(theta, None, value=jnp.array(5.0), grad=jnp.array([7.0, 8.0]))
    assert lin.known
    assert float(lin.value) == 5.0
    assert lin.grad.tolist() == [7.0, 8.0]


def test_uniform_weighted_points_are_a_mean():
    case = case_of("strong")
    objective, theta = case.objective(4)
    even = {name: rv.Weighted(x, jnp.full(x.shape[0], 1 / x.shape[0])) for name, x in case.batch.items()}
    found = eqx.filter_jit(lambda at, batch: (objective(at, batch), objective.linearise(at, batch).gram()))
    for a, b in zip(found(theta, even), found(theta, case.batch), strict=True):
        close(a, b)


def test_blocks_bound_what_is_evaluated_at_once():
    """No more than `block` points go through the network together."""
    case = case_of("strong")
    objective, theta = case.objective(4)
    program = str(jax.make_jaxpr(lambda at: objective(at, case.batch))(theta))
    assert "f64[11,3]" not in program  # all points times the width
    assert "f64[4,3]" in program


def test_equal_terms_share_compiled_code():
    """A changed weight or point does not compile anything anew."""
    count = 0

    def equation(u, z):
        nonlocal count
        count += 1
        return u(z)

    value = eqx.filter_jit(lambda objective, theta, batch: objective(theta, batch))
    for weight in (1.0, 2.0, 3.0):
        objective, theta = rv.Objective.from_terms([rv.residual("pde", equation, weight=weight)], cases.network())
        value(objective, theta, {"pde": cases.points(0, 6)})
        first = count if weight == 1.0 else first
    assert count == first


# --------------------------------------------------------------------------------------------------------- Layout


def mixed():
    return {
        "complex": jnp.array([[1.0 + 2.0j, -3.0j]], jnp.complex64),
        "double": jnp.array([0.1, 0.2], jnp.float64),
        "empty": jnp.zeros((0, 3), jnp.float32),
        "half": (jnp.array(1.5, jnp.float16), jnp.array([[2.5]], jnp.float32)),
    }


def test_layout_round_trip_with_complex_and_mixed_leaves():
    tree = mixed()
    layout = rv.Layout.of(tree)
    flat = layout.ravel(tree)
    # Two numbers for each complex entry, in the widest precision; leaves in the order of jax.tree.leaves.
    np.testing.assert_array_equal(flat, [1.0, 0.0, 2.0, -3.0, 0.1, 0.2, 1.5, 2.5])
    assert flat.dtype == jnp.float64
    back = layout.unravel(flat)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_layout_equality_is_by_value():
    assert rv.Layout.of(mixed()) == rv.Layout.of(mixed())
    assert hash(rv.Layout.of(mixed())) == hash(rv.Layout.of(mixed()))
    assert rv.Layout.of(mixed()) != rv.Layout.of({**mixed(), "double": jnp.zeros(3)})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_layout_keeps_a_single_precision(dtype):
    tree = [jnp.ones(3, dtype), jnp.zeros((2, 2), dtype)]
    assert rv.Layout.of(tree).ravel(tree).dtype == dtype


def test_gradient_over_complex_parameters():
    """The flat gradient is that with respect to real and imaginary parts."""
    target = jnp.array([1.0 - 1.0j, 0.5j])
    start = jnp.array([0.3 + 1.0j, 2.0 + 0.1j])
    objective, theta = rv.Objective.from_residuals(lambda z, _: jnp.abs(z**2 - target), start)
    real = lambda t: jnp.sum(jnp.abs((t[:2] + 1j * t[2:]) ** 2 - target) ** 2) / 2
    with jax.numpy_dtype_promotion("standard"):
        exact = jax.grad(real)(theta)
        value = real(theta)
    found = eqx.filter_jit(lambda at: objective.value_and_grad(at, None))(theta)
    close(found[0], value)
    close(found[1], exact)
    assert objective.parameters == 4


def test_integers_and_functions_are_carried_along():
    model = {"w": jnp.array([2.0]), "n": jnp.array([3]), "f": jnp.tanh}
    objective, theta = rv.Objective.from_loss(lambda m, _: jnp.sum(m["f"](m["w"]) * m["n"].astype(float)), model)
    assert theta.shape == (1,)
    close(objective(theta, None), 3 * np.tanh(2.0))
    assert objective.model(theta + 1)["w"].tolist() == [3.0]
    assert objective.flatten(objective.model(theta)).tolist() == [2.0]


def test_float32_stays_float32():
    model = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), cases.network())
    objective, theta = rv.Objective.from_terms([rv.boundary("bc", 0.25), rv.penalty("p", lambda u: u.biases[0])], model)
    batch = {"bc": cases.points(0, 5).astype(jnp.float32)}

    def parts(theta):
        lin = objective.linearise(theta, batch)
        return lin.value, lin.grad, lin.residual, lin.jacobian(), lin.gram(), lin.kernel(), lin.vjp(lin.residual)

    for part in jax.eval_shape(parts, theta):
        assert part.dtype == jnp.float32
