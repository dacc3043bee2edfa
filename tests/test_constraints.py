"""Bounded, positive, scaled and frozen parameters: the chain rule, round trips, and constrained minimisers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv

BOUNDS = {"both": (-1.0, 2.5), "below": (0.3, None), "above": (None, 4.0), "none": (None, None)}
X = jnp.array([0.5, 2.0, 0.30001, 1e-3 + 0.3])


def target(p, data):
    """Two residuals; at the free minimum x = 3 and y = −2."""
    return jnp.stack([p["x"] - 3.0 * data, p["y"] + 2.0 * data + 0.1 * (p["x"] - 3.0 * data)])


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
def test_start_values_come_back(bounds):
    model = rv.bounded({"x": X, "y": jnp.ones(2)}, lambda m: m["x"], *bounds)
    objective, theta = rv.Objective.from_loss(lambda p, _: jnp.sum(p["x"]), model)
    np.testing.assert_allclose(objective.model(theta)["x"], X, rtol=1e-14)
    np.testing.assert_allclose(objective.flatten(objective.model(theta)), theta, rtol=1e-10)
    np.testing.assert_array_equal(objective.flatten(model), theta)
    assert jax.tree.structure(objective.model(theta)) == jax.tree.structure({"x": X, "y": X})


def test_values_stay_inside_wherever_the_free_parameter_goes():
    z = jnp.array([-800.0, -40.0, -3.0, 0.0, 3.0, 40.0, 800.0])
    for low, high in BOUNDS.values():
        objective, _ = rv.Objective.from_loss(
            lambda p, _: jnp.sum(p), rv.bounded(jnp.full(7, 1.0), lambda p: p, low, high)
        )
        x = objective.model(z)
        assert (jnp.diff(x) >= 0).all()
        assert (x >= (-np.inf if low is None else low)).all()
        assert (x <= (np.inf if high is None else high)).all()
        assert jnp.isfinite(objective.value_and_grad(z, None)[1]).all()


def test_bounds_may_differ_by_entry():
    low, high = jnp.array([0.0, -jnp.inf, 0.0, -jnp.inf]), jnp.array([3.0, 3.0, jnp.inf, jnp.inf])
    objective, theta = rv.Objective.from_loss(lambda p, _: jnp.sum(p), rv.bounded(X, lambda p: p, low, high))
    np.testing.assert_allclose(objective.model(theta), X, rtol=1e-14)
    np.testing.assert_allclose(theta[0], np.log(0.5 / 2.5), rtol=1e-12)
    np.testing.assert_allclose(theta[1], -np.log(np.expm1(1.0)), rtol=1e-12)
    np.testing.assert_allclose(theta[2], np.log(np.expm1(0.30001)), rtol=1e-12)
    assert theta[3] == X[3]


def test_every_part_of_a_linearisation_is_the_chain_rule():
    """g_z = D g_x, J_z = J_x D with D = dx/dz, on a problem with terms, points and weights."""
    case = cases.OBJECTIVES["strong"]()
    where = lambda m: (m.weights[0], m.biases[0])
    model = rv.scaled(rv.bounded(case.model, where, -4.0, 5.0), lambda m: m.weights[1], 7.0)
    objective, theta = rv.Objective.from_terms(case.terms, model)
    plain, at = rv.Objective.from_terms(case.terms, case.model)
    flat = lambda z: plain.flatten(objective.model(z))
    np.testing.assert_allclose(flat(theta), at, rtol=1e-13)
    d = jax.jacfwd(flat)(theta)
    assert np.count_nonzero(d - np.diag(np.diag(d))) == 0
    # dx/dz = (x − low)(high − x)/(high − low), and the scale.
    first = at[: model.weights[0].z.size]
    np.testing.assert_allclose(np.diag(d)[: first.size], (first + 4) * (5 - first) / 9, rtol=1e-10)

    @eqx.filter_jit
    def parts(objective, theta, v):
        lin = objective.linearise(theta, case.batch)
        return lin.value, lin.grad, lin.jacobian(), lin.gram(), lin.jvp(v)

    v = jnp.cos(jnp.arange(theta.size))
    value, grad, jacobian, gram, jvp = parts(objective, theta, v)
    value_x, grad_x, jacobian_x, gram_x, jvp_x = parts(plain, at, d @ v)
    np.testing.assert_allclose(value, value_x, rtol=1e-12)
    np.testing.assert_allclose(grad, d @ grad_x, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(jacobian, jacobian_x @ d, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(gram, d @ gram_x @ d, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jvp, jvp_x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["adam", "lbfgs", "levenberg_marquardt"])
def test_the_constrained_minimiser_is_found(method):
    """min over x ≤ 1.5, y free, of ½(x − 3)² + ½(y + 2 + (x − 3)/10)²: x = 1.5 on its bound, and y = −1.85."""
    start = rv.bounded({"x": jnp.array(0.0), "y": jnp.array(0.0)}, lambda p: p["x"], None, 1.5)
    start = rv.scaled(start, lambda p: p["y"], 2.0)
    optimizer = {"adam": lambda: rv.adam(0.3)}.get(method, rv.METHODS[method])()
    run = rv.least_squares(target, start, 1.0, optimizer=optimizer, steps=400)
    assert run.params["x"] <= 1.5
    np.testing.assert_allclose(
        [run.params["x"], run.params["y"]], [1.5, -1.85], atol=2e-2 if method == "adam" else 1e-3
    )


@pytest.mark.parametrize("method", ["adam", "lbfgs", "levenberg_marquardt"])
def test_a_minimiser_inside_the_bounds_is_that_of_the_free_problem(method):
    start = rv.positive({"x": jnp.array(1.0), "y": jnp.array(-1.0)}, lambda p: p["x"])
    optimizer = {"adam": lambda: rv.adam(0.1)}.get(method, rv.METHODS[method])()
    run = rv.least_squares(target, start, 1.0, optimizer=optimizer, steps=300)
    np.testing.assert_allclose([run.params["x"], run.params["y"]], [3.0, -2.0], atol=1e-2 if method == "adam" else 1e-7)


def test_scaling_makes_parameters_of_different_sizes_alike():
    """L = ½Σ(x/s − 1)², s = (1e-6, 1e4): gradient descent on z = x/s is that of a perfectly conditioned problem."""
    sizes = jnp.array([1e-6, 1e4])
    start = rv.scaled(0.5 * sizes, lambda p: p, sizes)
    run = rv.minimise(
        lambda p, s: jnp.sum((p / s - 1) ** 2) / 2, start, sizes, optimizer=rv.gradient_descent(1.0), steps=1
    )
    np.testing.assert_allclose(run.params, sizes, rtol=1e-12)
    _, theta = rv.Objective.from_loss(lambda p, _: jnp.sum(p), rv.scaled(-3 * sizes, lambda p: p))
    np.testing.assert_allclose(theta, [-1e-10, -1.0], rtol=1e-12)


def test_frozen_parameters_are_none_and_stay():
    case = cases.OBJECTIVES["strong"]()
    model = rv.frozen(case.model, lambda m: m.weights[0])
    objective, theta = rv.Objective.from_terms(case.terms, model)
    plain, at = rv.Objective.from_terms(case.terms, case.model)
    assert theta.size == at.size - case.model.weights[0].size
    np.testing.assert_allclose(objective(theta, case.batch), plain(at, case.batch), rtol=1e-13)
    trained, _ = cases.walk(rv.levenberg_marquardt(), objective, theta, case.batch, 2)
    np.testing.assert_array_equal(objective.model(jnp.asarray(trained[-1])).weights[0], case.model.weights[0])
    # A part of a model may be named whole.
    everything_else = rv.frozen(case.model, lambda m: (m.weights, m.biases[0]))
    assert rv.Objective.from_terms(case.terms, everything_else)[1].size == case.model.biases[1].size


def test_trained_models_are_plain_and_resume(tmp_path):
    x = jnp.linspace(-1, 1, 9)[:, None]
    problem = rv.Problem(
        terms=(rv.supervised("data"),),
        sampler=rv.Constant({"data": (x, jnp.sin(3 * x[:, 0]))}),
        model=lambda key: rv.bounded(
            rv.models.MLP(1, "scalar", width=3, depth=1, key=key), lambda m: m.weights[0], -5.0, 5.0
        ),
    )
    phase = lambda steps: rv.Phase(rv.lbfgs(), steps=steps, name="lbfgs")
    half = rv.train(problem, phase(4), key=cases.KEY)
    half.save(tmp_path / "a")
    half = rv.load(tmp_path / "a", problem=problem, phases=phase(4))
    assert isinstance(half.model, rv.models.MLP)
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves((half.model.weights, half.model.biases)))
    assert jnp.abs(half.model.weights[0]).max() < 5
    whole = rv.train(problem, phase(9), key=cases.KEY)
    np.testing.assert_array_equal(rv.train(problem, phase(9), key=cases.KEY, resume=half).theta, whole.theta)


def test_bounds_are_arguments_and_compile_nothing_anew():
    make = lambda high: rv.Objective.from_loss(loss, rv.bounded(jnp.array([0.5]), lambda p: p, 0.0, high))
    traced = []

    def loss(p, _):
        traced.append(1)
        return jnp.sum(p**2)

    value = eqx.filter_jit(lambda objective, theta: objective(theta, None))
    for high in (1.0, 2.0, 3.0):
        value(*make(high))
    assert len(traced) == 1


@pytest.mark.usefixtures("unchecked")
def test_bad_input():
    model = {"x": jnp.array([0.5, 2.0]), "n": 3, "f": 1.0, "c": jnp.array(1j)}
    x = lambda m: m["x"]
    with pytest.raises(ValueError, match=r"start 2 at entry \(1,\) does not lie between 0 and 1"):
        rv.bounded(model, x, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"start 0\.5 at entry .* does not lie between 0\.5 and inf"):
        rv.bounded(model, x, 0.5)
    with pytest.raises(ValueError, match="leave no room"):
        rv.bounded(model, x, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"shape \(3,\) does not fit a parameter of shape \(2,\)"):
        rv.bounded(model, x, jnp.zeros(3))
    with pytest.raises(ValueError, match="Python number"):
        rv.positive(model, lambda m: m["f"])
    with pytest.raises(ValueError, match="complex"):
        rv.positive(model, lambda m: m["c"])
    with pytest.raises(ValueError, match="constrained already"):
        rv.scaled(rv.positive(model, x), x)
    with pytest.raises(ValueError, match="finite and not zero"):
        rv.scaled(model, x, 0.0)
    with pytest.raises(ValueError, match="no parameters"):
        rv.Objective.from_loss(lambda p, _: jnp.sum(p), rv.frozen(jnp.ones(2), lambda p: p))
