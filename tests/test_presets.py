"""Every preset on every small problem, and what holds for all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv

# By which factor the loss falls at least in so many steps.
STEPS = 40
FACTORS = {"first order": 1.3, "stochastic first order": 1.2, "stochastic second order": 1.2}
SEARCHING = ("lbfgs", "bfgs", "ssbfgs", "ssbroyden")
ANYWHERE = [name for name in cases.OPTIMIZERS if name not in cases.SAMPLED]  # on batches made by hand


def pairs(methods):
    """Each method with each problem that it can be used on."""
    return [
        cases.slow_if(method in cases.TWINS and problem != "fit", method, problem)
        for method in methods
        for problem in cases.PROBLEMS
        if method in ANYWHERE or problem != "poisson"
    ]


@functools.cache
def trained(method, problem):
    optimizer = cases.OPTIMIZERS[method]()
    return rv.train(cases.PROBLEMS[problem](), rv.Phase(optimizer, steps=STEPS, name=method), key=cases.KEY)


def test_what_is_left_to_the_slow_tests_has_a_twin_that_is_not():
    kept = {cases.classes_of(make()) for name, make in cases.OPTIMIZERS.items() if name not in cases.TWINS}
    for name in cases.TWINS:
        assert cases.classes_of(cases.OPTIMIZERS[name]()) in kept, name


@pytest.mark.parametrize("method,problem", pairs(cases.OPTIMIZERS))
def test_every_preset_on_every_problem(method, problem):
    run = trained(method, problem)
    loss = run.history["loss"]
    assert np.isfinite(loss).all()
    assert np.isfinite(run.theta).all()
    assert run.stop in (rv.Stop.STEPS, rv.Stop.STATIONARY, rv.Stop.SEARCH_FAILED)
    factor = FACTORS.get(rv.METHODS[method].family, 5)
    if problem == "classes":  # separable data: the loss creeps to zero
        factor = 1 + (factor - 1) / 10
        # Undamped, where most of φ″ is tiny: the steps are useless, but never go up.
        if method in ("gauss_newton", "energy_natural_gradient", "anagram"):
            factor = 1
    assert loss[-1] < loss[0] / factor, run.summary()


@pytest.mark.parametrize("method,problem", pairs(cases.DESCENT))
def test_methods_with_a_search_never_go_up(method, problem):
    loss = trained(method, problem).history["loss"]
    # The recorded value and the search's own come from two programs: residuals of terms of size one are known to 1e-15
    # or so, hence ½r² to 1e-15 |r|.
    assert (np.diff(loss) <= 1e-14 * np.abs(loss[:-1]) + 1e-15 * np.sqrt(np.abs(loss[:-1]))).all()


# -------------------------------------------------------------------------------------------------- one small step


def cubic(params, points):
    a, b = params["w"][0] if "w" in params else (params["a"], params["b"])
    return jnp.stack([a**2 - 1.0, b * a - 0.5, b + 0.1])


def small(method: str = "adam"):
    """Three residuals of two parameters, which lie in a matrix where a method looks for one."""
    layers = "layers" in rv.METHODS[method].needs
    params = {"w": jnp.array([[1.7, -0.4]])} if layers else {"a": jnp.array(1.7), "b": jnp.array(-0.4)}
    return rv.Objective.from_residuals(cubic, params)


# That `jit` changes nothing, and more that holds for all, is asserted by the kit: tests/test_testing.py.


# One of each direction and search: the other presets differ in numbers only.
@pytest.mark.parametrize("method", ["adam", "gradient_descent", "lbfgs", "ssbroyden", "levenberg_marquardt"])
def test_order_of_points_and_terms_does_not_matter(method):
    """The objective is a sum: two steps from any order agree to rounding."""
    line = lambda c, z: c["a"] * z[0] ** 2 + jnp.tanh(c["b"] * z[1])
    one = rv.Term("one", lambda c, z: line(c, z) - z[0])
    two = rv.Term("two", lambda c, z: line(c, z) * z[0] + 0.3, weight=3.0)
    x, y = cases.points(0, 7), cases.points(1, 4)
    model = {"a": jnp.array(0.4), "b": jnp.array([1.1])[0]}
    shuffle = jnp.array([3, 0, 6, 2, 5, 1, 4])
    found = []
    for terms, batch in (((one, two), {"one": x, "two": y}), ((two, one), {"one": x[shuffle], "two": y[::-1]})):
        objective, theta = rv.Objective.from_terms(terms, model)
        thetas, _ = cases.walk(cases.OPTIMIZERS[method](), objective, theta, batch, 2)
        found.append(thetas[-1])
    np.testing.assert_allclose(*found, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", ["adam", "ssbroyden", "lbfgs", "levenberg_marquardt"])
def test_any_pytree_reaches_the_same_parameters(method):
    """The same network as a dictionary, as Flax parameters and as an Equinox module."""
    linen = pytest.importorskip("flax.linen")
    x = jnp.linspace(-1, 1, 6)[:, None]
    y = jnp.sin(2 * x[:, 0])
    equinox = rv.models.MLP(1, 1, width=3, depth=1, key=cases.KEY)
    flax = linen.Sequential([linen.Dense(3, param_dtype=float), jnp.tanh, linen.Dense(1, param_dtype=float)])
    dense = lambda i: {"kernel": equinox.weights[i].T, "bias": equinox.biases[i]}
    params = {"params": {"layers_0": dense(0), "layers_2": dense(1)}}
    plain = {"w": list(equinox.weights), "b": list(equinox.biases)}

    def by_hand(p, z):
        return (p["w"][1] @ jnp.tanh(p["w"][0] @ z + p["b"][0]) + p["b"][1])[0]

    models = {
        "equinox": (equinox, lambda u, z: u(z)[0]),
        "flax": (params, lambda p, z: flax.apply(p, z)[0]),
        "dict": (plain, by_hand),
    }
    found = {}
    for name, (model, call) in models.items():
        term = rv.Term("fit", lambda m, pair, call=call: call(m, pair[0]) - pair[1])
        objective, theta = rv.Objective.from_terms([term], model)
        thetas, _ = cases.walk(cases.OPTIMIZERS[method](), objective, theta, {"fit": (x, y)}, 4)
        trained = objective.model(jnp.asarray(thetas[-1]))
        assert jax.tree.structure(trained) == jax.tree.structure(model)
        found[name] = jnp.stack([call(trained, z) for z in x])
    np.testing.assert_allclose(found["flax"], found["equinox"], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found["dict"], found["equinox"], rtol=1e-8, atol=1e-10)


# ----------------------------------------------------------------------------------------------------------- counts


# That `info.work` is what was done is asserted by the kit, which counts inside a loss: tests/test_testing.py.


@pytest.mark.parametrize("method", SEARCHING)
def test_most_quasi_newton_steps_cost_one_gradient(method):
    objective, theta, matrix = cases.quadratic([1.0, 2.0, 3.0, 4.0], rotation=5)
    _, infos = cases.walk(rv.METHODS[method](), objective, theta, matrix, 12)
    counts = [info.work.counts() for info in infos if info.grad_norm > 1e-6]
    assert counts[0]["gradients"] == 2 + counts[0]["inner"]
    assert all(c["gradients"] == c["evaluations"] == 1 + c["inner"] for c in counts[1:])
    assert np.median([c["gradients"] for c in counts[1:]]) == 1


@pytest.mark.parametrize("method", ["adam", "sgd"])
def test_work_of_methods_without_a_search(method):
    objective, theta = small()
    _, infos = cases.walk(cases.OPTIMIZERS[method](), objective, theta, None, 3)
    expected = {"evaluations": 1, "gradients": 1, "rows": 0, "inner": 0, "products": 0}
    assert all(info.work.counts() == expected for info in infos)


@pytest.mark.parametrize("method", ["gauss_newton", "levenberg_marquardt"])
def test_work_of_gauss_newton_methods(method):
    """One Jacobian of three rows and one gradient a step; an evaluation for each trial; a factorisation each."""
    objective, theta = small()
    _, infos = cases.walk(cases.OPTIMIZERS[method](), objective, theta, None, 4)
    for info in infos:
        counts = info.work.counts()
        trials = counts["evaluations"] - 1
        assert trials >= 1
        assert counts["rows"] == 3
        assert counts["gradients"] == 1
        # Gauss–Newton factorises once and then searches a line; Levenberg–Marquardt factorises for each trial.
        assert counts["inner"] == (trials if method == "gauss_newton" else trials - 1)


@pytest.mark.parametrize("method", ANYWHERE)
def test_info_is_what_happened(method):
    """Norms, values and t as reported against what can be seen from outside."""
    objective, theta = small(method)
    thetas, infos = cases.walk(cases.OPTIMIZERS[method](), objective, theta, None, 2)
    searching = method not in cases.BLIND
    for before, after, info in zip(thetas, thetas[1:], infos, strict=False):
        np.testing.assert_allclose(info.step_norm, np.linalg.norm(after - before), rtol=1e-10)
        gradient = jax.grad(lambda at: objective(at, None))(jnp.asarray(before))
        np.testing.assert_allclose(info.grad_norm, jnp.linalg.norm(gradient), rtol=1e-10)
        np.testing.assert_allclose(info.value, objective(jnp.asarray(after if searching else before), None), rtol=1e-10)
        assert bool(info.finite)
        assert int(info.failures) == 0


def test_methods_table_names_presets_as_people_say():
    assert list(rv.METHODS) == [preset.__name__ for preset in rv.METHODS.values()]
    for name, method in rv.METHODS.items():
        assert method.make is getattr(rv, name)
        assert isinstance(method(), rv.Optimizer)
        assert method.definition.endswith(".")
