"""First-order methods for noise: those of Optax, rates from norms, growing batches, averages, matrices."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cases
import ravine as rv
from ravine.optim.presets.stochastic import STOCHASTIC
from ravine.optim.presets.stochastic_second_order import STOCHASTIC_SECOND_ORDER
from ravine.run import numbers

# A matrix, an array with three axes, a vector and a number, of which the loss is no sum.
START = {
    "w": jnp.asarray(np.random.default_rng(1).normal(size=(3, 2))),
    "t": jnp.asarray(np.random.default_rng(2).normal(size=(2, 1, 3))),
    "b": jnp.array([0.3, -0.2]),
    "c": jnp.array(0.7),
}


def loss(p, a):
    out = jnp.tanh(jnp.array([0.5, -1.0, a]) @ p["w"] + p["b"])
    return (
        jnp.sum((out - a) ** 2) + jnp.sum(jnp.sin(p["t"][:, 0]) @ p["w"]) * p["c"] + jnp.sum(p["t"] ** 2) + p["c"] ** 4
    )


def walked(optimizer, steps=6):
    """The parameters after some steps, as vectors, and the objective."""
    objective, theta = rv.Objective.from_loss(loss, START)
    return cases.walk(optimizer, objective, theta, 0.4, steps)[0], objective


def by_optax(transformation, steps=6, finish=lambda state, params: params):
    params, state = START, transformation.init(START)

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params, 0.4)
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            params, state = step(params, state)
    return finish(state, params)


SAME = {
    "adagrad": (rv.adagrad(0.3), optax.adagrad(0.3)),
    "rmsprop": (rv.rmsprop(0.02, decay=0.8), optax.rmsprop(0.02, decay=0.8)),
    "amsgrad": (rv.amsgrad(0.03, b2=0.9), optax.amsgrad(0.03, b2=0.9)),
    "adamw": (rv.adamw(0.03, decay=0.5), optax.adamw(0.03, weight_decay=0.5)),
    "nadam": (rv.nadam(0.03), optax.nadam(0.03)),
    "adabelief": (rv.adabelief(0.03), optax.adabelief(0.03)),
    "lion": (rv.lion(0.02, decay=0.3), optax.lion(0.02, weight_decay=0.3)),
    "muon": (
        rv.muon(0.05, beta=0.9, decay=0.1),
        optax.contrib.muon(0.05, beta=0.9, weight_decay=0.1, adam_weight_decay=0.1, consistent_rms=0.2),
    ),
}


@pytest.mark.parametrize("method", SAME)
def test_presets_are_those_of_optax(method):
    """The rate lies in the search and numbers come from outside the transformation, and nothing changes by it."""
    ours, theirs = SAME[method]
    thetas, objective = walked(ours)
    np.testing.assert_allclose(thetas[-1], objective.flatten(by_optax(theirs)), rtol=1e-10, atol=1e-12)


CORE = [
    "adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamaxw", "adamw", "adan", "amsgrad",
    "fromage", "lamb", "lars", "lbfgs", "lion", "nadam", "nadamw", "novograd", "optimistic_gradient_descent",
    "polyak_sgd", "radam", "rmsprop", "rprop", "sgd", "sign_sgd", "yogi",
]  # fmt: skip
CONTRIB = [
    "acprop", "ademamix", "adopt", "cocob", "dadapt_adamw", "dog", "dowg", "madgrad", "momo", "momo_adam",
    "muon", "prodigy", "schedule_free_adamw", "schedule_free_sgd", "simplified_ademamix", "sophia",
]  # fmt: skip


@pytest.mark.parametrize("name", [*CORE, *CONTRIB])
def test_everything_in_optax_goes_through_one_adapter(name):
    """Two steps equal those of a loop by hand that passes whatever any of them asks for."""
    make = getattr(optax if name in CORE else optax.contrib, name)
    first = next(iter(inspect.signature(make).parameters))
    transformation = make(0.05) if "learning_rate" in first else make()
    objective, theta = rv.Objective.from_loss(loss, START)
    optimizer = rv.from_optax(transformation)
    ours, theirs = optimizer.init(objective, theta), transformation.init(START)
    params, value_of = START, lambda p, obj_fn=None: loss(p, 0.4)
    update = optax.with_extra_args_support(transformation).update
    for _ in range(2):
        theta, ours, _ = optimizer.step(objective, theta, ours, 0.4, key=cases.KEY)
        value, grad = jax.value_and_grad(value_of)(params)
        with jax.numpy_dtype_promotion("standard"):
            extra = {"value": value, "grad": grad, "value_fn": value_of, "obj_fn": value_of}
            updates, theirs = update(grad, theirs, params, **extra)
            params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(theta, objective.flatten(params), rtol=1e-7, atol=1e-10)  # MADGRAD takes cube roots
    assert np.isfinite(theta).all()


def test_schedule_free_is_that_of_optax_at_the_average():
    """θ is x, which Optax keeps from sight: `schedule_free_eval_params`."""
    thetas, objective = walked(rv.schedule_free(0.05, beta=0.8, b2=0.9))
    theirs = optax.contrib.schedule_free_adamw(0.05, b1=0.8, b2=0.9)
    x = by_optax(theirs, finish=optax.contrib.schedule_free_eval_params)
    np.testing.assert_allclose(thetas[-1], objective.flatten(x), rtol=1e-9, atol=1e-11)


def test_decoupled_decay_shrinks_by_rate_times_decay_with_a_schedule():
    """Where the gradient is zero AdamW multiplies by 1 − rate·decay, with the rate of that very step."""
    objective, theta = rv.Objective.from_loss(lambda x, _: 0 * jnp.sum(x), jnp.array([1.0, -2.0]))
    optimizer = rv.adamw(lambda k: 0.1 / (1.0 + k.astype(float)), decay=0.5)
    thetas, _ = cases.walk(optimizer, objective, theta, None, 3)
    factors = np.cumprod([1 - 0.5 * 0.1 / (1 + k) for k in range(3)])
    np.testing.assert_allclose(np.stack(thetas[1:]), factors[:, None] * np.array([[1.0, -2.0]]), rtol=1e-14)


@pytest.mark.parametrize("method", ["adamw", "lion", "muon"])
def test_narrow_leaves_keep_their_memory_narrow(method):
    params = {"a": jnp.ones((2, 2), jnp.float32), "b": jnp.ones(2, jnp.float64)}
    values = lambda p, _: jnp.sum(p["a"].astype(jnp.float64) ** 2) + jnp.sum(p["b"] ** 2)
    objective, theta = rv.Objective.from_loss(values, params)
    optimizer = rv.METHODS[method]()
    optimizer = rv.Optimizer(jax.tree.map(lambda x: jnp.asarray(x, theta.dtype), optimizer.direction), optimizer.search)
    state = optimizer.init(objective, theta)
    _, after, _ = cases.step(optimizer, objective, theta, state, None)
    shapes = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
    assert shapes(after) == shapes(state)


# ------------------------------------------------------------------------------------------- any of them, anywhere

FAMILIES = {**STOCHASTIC, **STOCHASTIC_SECOND_ORDER}
BARE = [name for name, method in FAMILIES.items() if not {"samples", "curvature"} & {*method.needs}]


@pytest.mark.parametrize("method", FAMILIES)
def test_single_precision_stays_single(method):
    """Parameters, memory and what steps report; the loop's carry would refuse another type."""
    x = jax.random.normal(cases.KEY, (12, 3), jnp.float32)
    data = {"data": (x, (x[:, 0] > 0).astype(jnp.float32))}
    term = rv.Term("data", lambda w, pair: jnp.dot(w, pair[0]), lambda z, pair: rv.logistic(z, pair[1]))
    objective, theta = rv.Objective.from_terms([term], jnp.zeros(3, jnp.float32))
    optimizer = numbers(FAMILIES[method](), theta.dtype)
    objective = dataclasses.replace(objective, samples=12)
    thetas, infos = cases.stream(optimizer, objective, theta, rv.Overlapping(data, size=4, overlap=2), 12)
    assert thetas.dtype == infos.t.dtype == infos.value.dtype == jnp.float32
    assert np.isfinite(thetas).all()
    assert np.linalg.norm(thetas[-1]) > 0


@pytest.mark.parametrize("method", BARE)
def test_where_the_loss_ends_a_run_ends_with_a_reason(method):
    """√(1 − x) falls to the edge of what is defined, and its slope grows without bound."""
    run = rv.minimise(lambda x, _: jnp.sqrt(1 - x), jnp.array(0.999), optimizer=FAMILIES[method](), steps=300)
    assert np.isfinite(run.theta).all()
    assert np.isfinite(run.loss)
    assert run.theta[0] >= 0.999
    assert run.stop in (rv.Stop.NOT_FINITE, rv.Stop.SEARCH_FAILED, rv.Stop.STEPS)
    if run.stop is rv.Stop.STEPS:
        assert run.loss < np.sqrt(0.001)


# ------------------------------------------------------------------------------------------------------ AdaGrad-Norm


def test_adagrad_norm_is_the_formula():
    objective, theta, matrix = cases.quadratic([1.0, 3.0], rotation=4)
    thetas, _ = cases.walk(rv.adagrad_norm(2.0, power=0.3, start=0.5), objective, theta, matrix, 4)
    x, total = np.zeros(2), 0.0
    for at in thetas[1:]:
        g = np.asarray(matrix) @ (x - 1)
        total += g @ g
        x = x - 2.0 * g / (0.5 + total) ** 0.3
        np.testing.assert_allclose(at, x, rtol=1e-12)


@pytest.mark.parametrize("rate", [1.0, 10.0, 300.0])
def test_adagrad_norm_needs_no_lipschitz_constant(rate):
    """The least ‖∇L‖² of k steps is O(1/k) at any rate, here with L = 100, where gradient descent stands 0.02 at most.

    Gratton, Jerad and Toint, 2022: the mean of ‖∇L‖² over k steps is O(1/k) for μ = ½.
    """
    valley = lambda x, _: jnp.sum(jnp.array([50.0, 0.5]) * x**2) + 0.5 * jnp.sin(3 * x[0]) * jnp.cos(x[1])
    objective, theta = rv.Objective.from_loss(valley, jnp.array([1.5, -2.0]))
    _, infos = cases.stream(rv.adagrad_norm(rate), objective, theta, rv.Constant(None), 8000)
    total = np.cumsum(np.asarray(infos.grad_norm) ** 2)
    means = total / np.arange(1, total.size + 1)
    assert means[-1] < 1.2 * means[total.size // 4] / 4
    assert np.minimum.accumulate(infos.grad_norm)[-1] < 1e-2


# ----------------------------------------------------------------------------------------------------- growing batches

A = np.array([1.0, 0.3])


@functools.cache
def noisy():
    """½(θ − z_i)ᵀA(θ − z_i) over samples z_i: gradients A(θ − z̄) with additive noise."""
    z = np.random.default_rng(0).normal(size=(200, 2))
    root = jnp.asarray(np.sqrt(A))
    objective, theta = rv.Objective.from_terms([rv.Term("data", lambda w, z: root * (w - z))], jnp.array([4.0, -3.0]))
    return objective, theta, {"data": jnp.asarray(z)}, z


def test_growing_batches_follow_the_norm_test():
    """Gradients, tests and steps written anew, from the batches that the sampler gives."""
    objective, theta, data, z = noisy()
    sampler = rv.Minibatches(data, size=4, replace=True)
    rate, tolerance, steps = 0.4, 0.5, 200
    thetas, _ = cases.stream(rv.growing_batch(rate, tolerance=tolerance, most=60), objective, theta, sampler, steps)
    state, at, grads, least, sizes = sampler.init(cases.KEY), np.asarray(theta), [], 2, []
    sample = jax.jit(lambda state: sampler.sample(state))
    for number in range(steps):
        batch, state = sample(state)
        grads.append(A * (at - z[np.asarray(batch.indices)].mean(axis=0)))
        k, mean = len(grads), np.mean(grads, axis=0)
        variance = np.sum(np.var(grads, axis=0, ddof=1)) if k > 1 else np.inf
        if (k >= least and variance / k <= tolerance**2 * mean @ mean) or k >= 60:
            at, least, grads = at - rate * mean, k, []
            sizes.append(k)
        np.testing.assert_allclose(thetas[number + 1], at, rtol=1e-9)
    assert sizes[0] == 2
    assert sizes[-1] > 10
    assert (np.diff(sizes) >= 0).all()


def test_growing_batches_pass_the_floor_of_sgd():
    objective, theta, data, z = noisy()
    sampler = rv.Minibatches(data, size=4, replace=True)
    floors = []
    for optimizer in (rv.sgd(0.4), rv.growing_batch(0.4, most=2000)):
        thetas, _ = cases.stream(optimizer, objective, theta, sampler, 6000)
        floors.append(np.sqrt(np.mean((np.asarray(thetas)[-1000:] - z.mean(axis=0)) ** 2)))
    assert floors[1] < floors[0] / 3


# ------------------------------------------------------------------------------------------------------------ averages


@pytest.mark.parametrize("decay", [None, 0.8])
def test_averages_are_means_of_the_iterates(decay):
    """Of those that the inner method would have made alone, Adam's memory and all."""
    inner = rv.adam(0.1)
    alone, _ = walked(inner, 8)
    thetas, _ = walked(rv.averaged(inner, decay=decay), 8)
    mean = alone[0]
    for number in range(1, 9):
        share = 1 / number if decay is None else 1 - decay
        mean = mean + share * (alone[number] - mean)
        np.testing.assert_allclose(thetas[number], mean, rtol=1e-9, atol=1e-12)


def test_polyak_ruppert_averages_lose_noise_at_the_optimal_rate():
    """E(x̄_k − x*)² = Var(z)/(bk), whatever the rate and the curvature (Polyak and Juditsky, 1992, theorem 1)."""
    objective, _, data, z = noisy()
    sampler, k = rv.Minibatches(data, size=2, replace=True), 400
    start = jnp.asarray(z.mean(axis=0))
    keys = jax.random.split(cases.KEY, 3000)
    for rate in (0.5, 1.0):
        one = lambda key, rate=rate: cases.stream(rv.asgd(rate), objective, start, sampler, k, key)[0][-1]
        last = jax.vmap(one)(keys)
        found = np.mean((np.asarray(last) - z.mean(axis=0)) ** 2, axis=0)
        np.testing.assert_allclose(found, z.var(axis=0) / (2 * k), rtol=0.1)


# ------------------------------------------------------------------------------------------------------------ matrices


def grads_at(theta, objective):
    """As matrices, vectors and a number, in the order of the flat vector."""
    tree = jax.grad(loss)(objective.layout.unravel(jnp.asarray(theta)), 0.4)
    return [np.asarray(leaf).reshape(leaf.shape[0], -1) if leaf.ndim > 1 else np.asarray(leaf) for leaf in
            jax.tree.leaves(tree)]  # fmt: skip


def power(matrix, exponent, epsilon):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag((values + epsilon) ** exponent) @ vectors.T


@pytest.mark.parametrize("refresh", [1, 2])
@pytest.mark.parametrize("largest", [8, 2])
def test_shampoo_is_the_paper(refresh, largest):
    """Four steps in NumPy. With `largest` 2 a side of three goes without, and the other takes the power −½."""
    rate, epsilon = 0.05, 1e-2
    thetas, objective = walked(rv.shampoo(rate, epsilon=epsilon, refresh=refresh, largest=largest), 4)
    sums, roots, x = {}, {}, thetas[0]
    for number in range(4):
        steps = []
        for place, g in enumerate(grads_at(x, objective)):
            if g.ndim < 2:
                sums[place] = sums.get(place, 0) + g**2
                steps.append(g / np.sqrt(epsilon + sums[place]))
                continue
            outers = (g @ g.T, g.T @ g)
            sides = [side for side in (0, 1) if g.shape[side] <= largest]
            for side in sides:
                sums[place, side] = sums.get((place, side), 0) + outers[side]
                if number % refresh == 0 or number < refresh:
                    roots[place, side] = power(sums[place, side], -1 / (2 * len(sides)), epsilon)
            left, right = (roots.get((place, side), np.eye(g.shape[side])) for side in (0, 1))
            steps.append(left @ g @ right)
        x = x - rate * np.concatenate([step.ravel() for step in steps])
        np.testing.assert_allclose(thetas[number + 1], x, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("refresh", [1, 2])
def test_soap_is_the_paper(refresh):
    """Four steps in NumPy: moments, bases by one orthogonal iteration, rotations there and back."""
    rate, b1, b2 = 0.05, 0.9, 0.8
    thetas, objective = walked(rv.soap(rate, b1=b1, b2=b2, refresh=refresh), 4)
    memory, x = {}, thetas[0]
    for number in range(4):
        steps = []
        for place, g in enumerate(grads_at(x, objective)):
            m, v, sides = memory.get(place, (0 * g, 0 * g, None))
            bases = [np.eye(1), np.eye(1)]
            if g.ndim == 2:
                outers = (g @ g.T, g.T @ g)
                if sides is None:
                    sides = [(outer, np.linalg.eigh(outer)[1][:, ::-1]) for outer in outers]
                else:
                    sides = [(b2 * s + (1 - b2) * o, q) for (s, q), o in zip(sides, outers, strict=True)]
                bases = [q for _, q in sides]
                rotate = lambda a: bases[0].T @ a @ bases[1]  # noqa: B023
            else:
                rotate = lambda a: a
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * rotate(g) ** 2
            step = rotate(m) / (1 - b1 ** (number + 1)) / (np.sqrt(v / (1 - b2 ** (number + 1))) + 1e-8)
            steps.append(bases[0] @ step @ bases[1].T if g.ndim == 2 else step)
            if sides is not None and (number + 1) % refresh == 0:
                sides = [(s, np.linalg.qr(s @ q)[0]) for s, q in sides]
            memory[place] = m, v, sides
        x = x - rate * np.concatenate([step.ravel() for step in steps])
        np.testing.assert_allclose(thetas[number + 1], x, rtol=1e-6, atol=1e-7)


def test_shampoo_without_memory_is_steepest_descent_in_the_spectral_norm():
    """L^(−1/4) G R^(−1/4) of one gradient is UVᵀ where G = UΣVᵀ."""
    g = jnp.asarray(np.random.default_rng(4).normal(size=(3, 3)))
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(g * x), jnp.zeros((3, 3)))
    thetas, _ = cases.walk(rv.shampoo(1.0, epsilon=0.0), objective, theta, None, 1)
    u, _, v = np.linalg.svd(np.asarray(g))
    np.testing.assert_allclose(-thetas[1].reshape(3, 3), u @ v, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "make", [lambda: rv.shampoo(refresh=0), lambda: rv.soap(largest=0), lambda: rv.growing_batch(most=1)]
)
def test_settings_that_make_no_sense(make):
    with pytest.raises(ValueError, match=r"is [01], but"):
        make()
