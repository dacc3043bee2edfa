"""Variance reduction: estimators against their formulas, linear convergence where SGD comes to rest."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.optim.variance_reduction import _first

N, B, RIDGE = 60, 6, 0.1


def losses(kind):
    return rv.logistic if kind == "logistic" else lambda z, y: (z - y) ** 2 / 2


@functools.cache
def data():
    """Sixty samples of length one in four dimensions, with labels that no weights explain."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(N, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = (rng.uniform(size=N) < 1 / (1 + np.exp(-3 * x @ [1.0, -1, 0.5, 0]))).astype(float)
    return jnp.asarray(x), jnp.asarray(y)


@functools.cache
def objective(kind):
    loss = losses(kind)
    term = rv.Term("data", lambda w, pair: jnp.dot(w, pair[0]), lambda z, pair: loss(z, pair[1]))
    made, theta = rv.Objective.from_terms([term, rv.penalty("ridge", lambda w: w, weight=RIDGE)], jnp.zeros(4))
    return dataclasses.replace(made, samples=N), theta


@functools.cache
def minimiser(kind):
    """By Newton's method, in NumPy."""
    x, y = (np.asarray(part) for part in data())
    w = np.zeros(4)
    for _ in range(30):
        z = x @ w
        p = 1 / (1 + np.exp(-z)) if kind == "logistic" else z
        curvature = p * (1 - p) if kind == "logistic" else np.ones(N)
        hessian = x.T @ (curvature[:, None] * x) / N + RIDGE * np.eye(4)
        w = w - np.linalg.solve(hessian, x.T @ (p - y) / N + RIDGE * w)
    return w


def batch_of(places):
    """The batch of these samples, which knows the rest."""
    x, y = data()
    places = jnp.asarray(places)
    return rv.Minibatch({"data": (x[places], y[places])}, places, {"data": (x, y)})


METHODS = {"svrg": rv.svrg, "saga": rv.saga, "sarah": rv.sarah}


# ------------------------------------------------------------------------------------------------------------- rates


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("method,kind", [
    ("svrg", "logistic"), ("saga", "logistic"), ("sarah", "logistic"), ("svrg", "squares"), ("saga", "squares"),
])  # fmt: skip
def test_linear_convergence_at_a_constant_rate(method, kind, replace):
    """‖θ − θ*‖ falls by the same factor in each epoch down to rounding; SGD at that rate stays where it is."""
    made, theta = objective(kind)
    sampler = rv.Minibatches({"data": data()}, size=B, replace=replace)
    rate, steps = 0.4, 1500
    thetas, _ = cases.stream(METHODS[method](rate), made, theta, sampler, steps)
    errors = np.linalg.norm(np.asarray(thetas) - minimiser(kind), axis=1)
    assert errors[-1] < 1e-12
    # Straight in the logarithm: the time to 1e-5, and that from there to 1e-10.
    first, second = (int(np.argmax(errors < level)) for level in (1e-5, 1e-10))
    assert 0.5 < (second - first) / first < 2
    # At least the rate that theory promises for single samples: 1 − min(1/(4N), μ/(3L)) in the square (SAGA, 2014).
    assert np.log(errors[second] / errors[first]) / (second - first) < -min(1 / (4 * N), RIDGE / (3 * 1.1)) / 2
    thetas, _ = cases.stream(rv.sgd(rate), made, theta, sampler, 600)
    floor = np.linalg.norm(np.asarray(thetas)[300:] - minimiser(kind), axis=1)
    assert floor.min() > 1e-4


def test_storm_has_a_lower_floor_than_sgd():
    """With a well below rate × curvature; momentum alone, at the same mean, would have the floor of SGD."""
    made, theta = objective("logistic")
    sampler = rv.Minibatches({"data": data()}, size=2, replace=True)
    floors = {}
    for name, optimizer in {"storm": rv.storm(0.3, momentum=0.003), "sgd": rv.sgd(0.3)}.items():
        thetas, _ = cases.stream(optimizer, made, theta, sampler, 5000)
        errors = np.asarray(thetas)[2000:] - minimiser("logistic")
        floors[name] = np.sqrt(np.mean(np.sum(errors**2, axis=1)))
    assert floors["storm"] < floors["sgd"] / 1.5


@pytest.mark.parametrize("b", [2, 8])
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_noise_floor_of_sgd(rate, b):
    """½(θ − z_i)ᵀA(θ − z_i): in the long run E(θ − z̄)² = αaσ²/(b(2 − αa)) for each eigenvalue a of A."""
    a, samples = np.array([1.0, 0.3]), np.random.default_rng(0).normal(size=(200, 2))
    scale = jnp.asarray(np.sqrt(a))
    term = rv.Term("data", lambda w, z: scale * (w - z))
    made, theta = rv.Objective.from_terms([term], jnp.zeros(2))
    sampler = rv.Minibatches({"data": jnp.asarray(samples)}, size=b, replace=True)
    thetas, _ = cases.stream(rv.sgd(rate), made, theta, sampler, 40_000)
    found = np.mean((np.asarray(thetas)[1000:] - samples.mean(axis=0)) ** 2, axis=0)
    np.testing.assert_allclose(found, rate * a * samples.var(axis=0) / (b * (2 - rate * a)), rtol=0.15)


# --------------------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("method", [*METHODS, "storm"])
def test_on_all_data_every_estimate_is_the_gradient(method):
    """A batch of all samples leaves nothing to reduce: the steps are those of gradient descent."""
    made, theta = objective("logistic")
    batch = batch_of(np.random.default_rng(0).permutation(N))
    optimizer = rv.METHODS[method](0.5)
    found, _ = cases.walk(optimizer, made, theta, batch, 6)
    expected, _ = cases.walk(rv.gradient_descent(0.5), made, theta, batch, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("direction", [rv.SVRG(0.0), rv.SAGA()])
def test_estimates_are_unbiased(direction):
    """Their mean over all batches of one sample is the gradient, with anchors and tables of some other point."""
    made, theta = objective("logistic")
    optimizer = rv.Optimizer(direction, rv.Fixed(0.3))
    state, at = optimizer.init(made, theta), theta
    for number in range(4):
        at, state, _ = cases.step(optimizer, made, at, state, batch_of([number, 7 * number + 1]))

    @jax.jit
    def estimate(place):
        batch = batch_of(place[None])
        lin = made.linearise(at, batch)
        return -direction(lin, at, state.direction, state.previous, key=cases.KEY)[0].direction

    found = np.stack([estimate(place) for place in jnp.arange(N)])
    full = made.linearise(at, batch_of(np.arange(N))).grad
    np.testing.assert_allclose(found.mean(axis=0), full, rtol=1e-10)
    assert found.std(axis=0).max() > 1e-3  # not the gradient itself


def gradient(w, places):
    x, y = (np.asarray(part)[places] for part in data())
    return x.T @ (1 / (1 + np.exp(-x @ w)) - y) / len(places) + RIDGE * w


@pytest.mark.parametrize("method", ["svrg", "sarah", "storm", "saga"])
def test_recursions_are_those_of_the_papers(method):
    """Five steps on given batches, written anew in NumPy. All data come in at the first step only."""
    made, theta = objective("logistic")
    options = {"svrg": {"probability": 0.0}, "sarah": {"probability": 0.0}, "storm": {"momentum": 0.3}, "saga": {}}
    optimizer = rv.METHODS[method](0.7, **options[method])
    batches = np.random.default_rng(5).integers(0, N, size=(5, 4))
    batches[2, 1] = batches[2, 0]  # a sample twice
    state = optimizer.init(made, theta)
    w, v, table, before = np.zeros(4), None, np.zeros((N, 4)), None
    anchor, full = w, gradient(w, np.arange(N))
    for number, places in enumerate(batches):
        theta, state, info = cases.step(optimizer, made, theta, state, batch_of(places))
        g = gradient(w, places)
        if method == "svrg":
            v = g - gradient(anchor, places) + full
        elif method == "sarah":
            v = full if v is None else g - gradient(before, places) + v
        elif method == "storm":
            v = g if v is None else g + 0.7 * (v - gradient(before, places))
        else:
            new = np.stack([gradient(w, [place]) for place in places])
            v = np.mean(new - table[places], axis=0) + table.mean(axis=0)
            table[places] = new
        w, before = w - 0.7 * v, w
        np.testing.assert_allclose(theta, w, rtol=1e-10)
        all_data = N // 4 if number == 0 else 0
        extra = {"svrg": 1 + all_data, "sarah": max(1, all_data), "storm": 1, "saga": 1}[method]
        assert info.work.counts()["gradients"] == info.work.counts()["evaluations"] == 1 + extra
    if method == "saga":
        np.testing.assert_allclose(state.direction.mean, table.mean(axis=0), rtol=1e-10)


@pytest.mark.parametrize("method", ["svrg", "sarah"])
def test_all_data_are_seen_once_an_epoch(method):
    """N/b steps at probability b/N; by the work that steps report."""
    made, theta = objective("logistic")
    sampler = rv.Minibatches({"data": data()}, size=B)
    _, infos = cases.stream(METHODS[method](0.1), made, theta, sampler, 2000)
    spent = np.asarray(infos.work.gradients)
    restarts = spent > 3
    assert restarts[0]
    assert np.mean(restarts) == pytest.approx(B / N, rel=0.2)
    assert set(spent[restarts]) == {2 + N // B} if method == "svrg" else {1 + N // B}


def test_repeated_places():
    places = np.random.default_rng(1).integers(0, 5, size=12)
    expected = [place not in places[:number] for number, place in enumerate(places)]
    np.testing.assert_array_equal(_first(jnp.asarray(places)), expected)


# ------------------------------------------------------------------------------------------------- jit, devices, input


@pytest.mark.parametrize("method", cases.SAMPLED)
def test_jit_changes_nothing_but_rounding(method):
    made, theta = objective("logistic")
    optimizer = rv.METHODS[method](0.2)
    state, batch = optimizer.init(made, theta), batch_of([3, 1, 4])
    theta, state, _ = cases.step(optimizer, made, theta, state, batch_of([5, 9, 2]))
    compiled = cases.step(optimizer, made, theta, state, batch)
    with jax.disable_jit():
        plain = optimizer.step(made, theta, state, batch, key=cases.KEY)
    for a, b in zip(jax.tree.leaves(compiled), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", cases.SAMPLED)
def test_points_of_a_domain_are_no_samples(method):
    problem = cases.PROBLEMS["poisson"]()
    with pytest.raises(ValueError, match=r"ravine\.Minibatches\("):
        rv.train(problem, rv.Phase(rv.METHODS[method](), steps=2), key=cases.KEY)


def test_saga_says_what_does_not_fit():
    made, theta = objective("logistic")
    saga = rv.saga()
    with pytest.raises(ValueError, match=r"3\.0 GiB, above 2 GiB\. Use ravine\.svrg"):
        saga.init(dataclasses.replace(made, samples=100_663_296), theta)
    other = dataclasses.replace(made, samples=59)
    with pytest.raises(ValueError, match="a table of 59 samples"):
        saga.step(other, theta, saga.init(other, theta), batch_of([1]), key=cases.KEY)
    x, y = data()
    weighted = {"data": rv.Weighted((x, y), jnp.ones(N))}
    batch = rv.Minibatch(weighted, jnp.arange(N), weighted)
    with pytest.raises(ValueError, match="weighted"):
        saga.step(made, theta, saga.init(made, theta), batch, key=cases.KEY)
