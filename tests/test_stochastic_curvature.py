"""Second-order methods on batches that change: pairs without noise, estimated diagonals, damping by other points."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cases
import ravine as rv
from ravine.optim.stochastic_curvature import diagonal

N = 48


def predict(w, pair):
    return jnp.dot(w, pair[0])


def misfit(z, pair):
    return jnp.logaddexp(0.0, z) - pair[1] * z


def samples():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(N, 4)) * np.array([1.0, 2.0, 0.5, 1.0])
    return {"data": (jnp.asarray(x), jnp.asarray((rng.uniform(size=N) < 0.5).astype(float)))}


def classes():
    """Regularised logistic regression."""
    terms = [rv.Term("data", predict, misfit), rv.penalty("ridge", lambda w: w, weight=0.1)]
    made, theta = rv.Objective.from_terms(terms, jnp.array([0.5, -0.5, 1.0, 0.0]))
    return made, theta


def squares():
    """Linear least squares: the Hessian of a set of samples is XᵀX over their number."""
    made, theta = rv.Objective.from_terms([rv.Term("data", lambda w, pair: predict(w, pair) - pair[1])], jnp.zeros(4))
    return made, theta


# -------------------------------------------------------------------------------------------------------- multi-batch


def test_full_overlap_is_lbfgs():
    made, theta = classes()
    sampler = rv.Overlapping(samples(), size=N, overlap=N)
    found, _ = cases.stream(rv.Optimizer(rv.MultiBatch(5), rv.Wolfe()), made, theta, sampler, 12)
    expected, _ = cases.stream(rv.lbfgs(memory=5), made, theta, sampler, 12)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-10)
    assert np.linalg.norm(found[-1] - found[-2]) < 1e-5  # it converged


def test_pairs_are_taken_on_what_two_batches_share():
    """y = (XᵀX/|O|) s with the rows of the overlap alone; on batches that say nothing, of the whole batch."""
    made, theta = squares()
    data = samples()
    x, y = data["data"]
    places = jnp.asarray([[1, 2, 3, 4, 5, 6], [5, 6, 7, 8, 9, 10]])
    for shared, rows in ((2, [5, 6]), (0, [5, 6, 7, 8, 9, 10])):
        optimizer, at, s = rv.multibatch_lbfgs(), theta, None
        state = optimizer.init(made, theta)
        for chosen in places:
            batch = rv.Minibatch({"data": (x[chosen], y[chosen])}, chosen, data, shared=shared)
            after, state, info = cases.step(optimizer, made, at, state, batch)
            s, at = (after - at if s is None else s), after
        hessian = np.asarray(x)[rows].T @ np.asarray(x)[rows] / len(rows)
        np.testing.assert_allclose(state.direction.s[0], s, rtol=1e-12)
        np.testing.assert_allclose(state.direction.y[0], hessian @ np.asarray(s), rtol=1e-9)
        extra = 2 if shared else 1
        assert info.work.counts()["gradients"] == 1 + extra


def test_steps_on_overlapping_batches_stay_about_the_minimiser():
    """Short steps of −H∇L on batches of half the samples: their mean is close, the pairs having no noise."""
    made, theta = classes()
    best, _ = cases.stream(rv.lbfgs(), made, theta, rv.Constant(samples()), 40)
    sampler = rv.Overlapping(samples(), size=24, overlap=8)
    thetas, _ = cases.stream(rv.Optimizer(rv.MultiBatch(5), rv.Fixed(0.2)), made, theta, sampler, 300)
    off = lambda at: np.linalg.norm(at - np.asarray(best)[-1])
    assert off(np.mean(np.asarray(thetas)[100:], axis=0)) < off(np.asarray(theta)) / 10


# --------------------------------------------------------------------------------------------------------- pair reset


def test_memory_lasts_while_the_points_do():
    made, theta = classes()
    sampler = rv.Constant(samples())
    found, _ = cases.stream(rv.large_batch_lbfgs(memory=5), made, theta, sampler, 10)
    expected, _ = cases.stream(rv.lbfgs(memory=5), made, theta, sampler, 10)
    np.testing.assert_array_equal(found, expected)


def test_memory_is_dropped_when_the_points_change():
    """On the second batch it goes on like one that was never on the first; plain L-BFGS does not."""
    made, theta = classes()
    x, y = samples()["data"]
    batches = [{"data": (x[:24], y[:24])}, {"data": (x[24:], y[24:])}]
    ends = {}
    for name, optimizer in {"fresh": rv.large_batch_lbfgs(), "plain": rv.lbfgs()}.items():
        first, _ = cases.walk(optimizer, made, theta, batches[0], 5)
        state, at = optimizer.init(made, theta), theta
        for batch in [batches[0]] * 5 + [batches[1]]:
            at, state, _ = cases.step(optimizer, made, at, state, batch)
        # The search remembers how far the last step went: the direction is what is compared.
        went = np.asarray(at) - first[-1]
        slope = -np.asarray(made.linearise(jnp.asarray(first[-1]), batches[1]).grad)
        ends[name] = went @ slope / np.linalg.norm(went) / np.linalg.norm(slope)
    assert ends["fresh"] == pytest.approx(1, abs=1e-12)
    assert ends["plain"] < 0.99


def test_fresh_needs_gradients_of_the_search():
    made, theta = classes()
    optimizer = rv.Optimizer(rv.Fresh(rv.LBFGS(3)), rv.Armijo())
    with pytest.raises(ValueError, match=r"Use ravine\.Wolfe\(\)"):
        optimizer.step(made, theta, optimizer.init(made, theta), samples(), key=cases.KEY)


# ---------------------------------------------------------------------------------------------------------------- SQN


def test_sqn_pairs_are_hessian_products_between_means():
    """After 3L steps: two pairs, of three means of L iterates each."""
    made, theta = squares()
    every, sampler = 4, rv.Constant(samples())
    optimizer = rv.sqn(0.05, memory=3, every=every)
    thetas, infos = cases.stream(optimizer, made, theta, sampler, 3 * every + 1)
    state, at = optimizer.init(made, theta), theta
    batch = sampler.sample(sampler.init(cases.KEY))[0]
    for number in range(3 * every):
        at, state, _ = cases.step(optimizer, made, at, state, batch, jax.random.fold_in(cases.KEY, number))
    np.testing.assert_allclose(at, thetas[3 * every], rtol=1e-9)
    means = np.asarray(thetas)[: 3 * every].reshape(3, every, 4).mean(axis=1)
    x = np.asarray(samples()["data"][0])
    pairs = np.diff(means, axis=0)
    np.testing.assert_allclose(state.direction.memory.s[:2], pairs, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(state.direction.memory.y[:2], pairs @ (x.T @ x / N), rtol=1e-8, atol=1e-12)
    products = np.asarray(infos.work.products)
    assert np.flatnonzero(products).tolist() == [2 * every - 1, 3 * every - 1]
    assert set(products) == {0, 2}


def test_sqn_reaches_what_sgd_does_not():
    """κ = 400: with noiseless gradients and unit steps it converges; gradient descent at its best rate is far off."""
    objective, theta, matrix = cases.quadratic([1.0, 20.0, 400.0], rotation=3)
    thetas, _ = cases.stream(rv.sqn(1.0, every=3), objective, theta, rv.Constant(matrix), 150)
    errors = np.linalg.norm(np.asarray(thetas) - 1, axis=1)
    assert errors[-1] < 1e-8
    assert (1 - 2 / 401) ** 150 > 0.1


def test_sqn_draws_its_own_samples_for_curvature():
    made, theta = squares()
    optimizer = rv.sqn(0.05, every=2, samples=20)
    thetas, infos = cases.stream(optimizer, made, theta, rv.Minibatches(samples(), size=4), 8)
    assert np.isfinite(thetas).all()
    assert np.asarray(infos.work.products).sum() == 2 * 3
    with pytest.raises(ValueError, match=r"SQN with samples needs batches that say"):
        optimizer.step(made, theta, optimizer.init(made, theta), samples(), key=cases.KEY)


# ---------------------------------------------------------------------------------------------------------- diagonals


def separable(x, c):
    """Its Hessian is diagonal."""
    return jnp.sum(c * (x - 1) ** 4 + x**2)


C = jnp.array([0.5, 2.0, 0.1])
START = jnp.array([0.2, 1.5, -0.7])


def test_hutchinson_is_exact_on_diagonal_hessians():
    objective, theta = rv.Objective.from_loss(separable, START)
    for seed in range(3):
        found = diagonal(objective.linearise(theta, C), "hutchinson", jax.random.key(seed))
        np.testing.assert_allclose(found, 12 * C * (START - 1) ** 2 + 2, rtol=1e-12)


@pytest.mark.parametrize("estimator", ["hutchinson", "gauss-newton"])
@pytest.mark.parametrize("case", ["strong", "softmax"])
def test_estimates_of_the_diagonal_are_unbiased(estimator, case):
    case = cases.OBJECTIVES[case]()
    objective, theta = case.objective()
    lin = objective.linearise(theta, case.batch)
    keys = jax.random.split(cases.KEY, 400)
    found = np.asarray(jax.jit(jax.vmap(lambda key: diagonal(lin.anew(), estimator, key)))(keys))
    if estimator == "hutchinson":
        exact = np.diag(jax.hessian(lambda at: objective(at, case.batch))(theta))
    else:
        exact = np.sum(np.asarray(lin.jacobian()) ** 2, axis=0)
        assert (found >= 0).all()
    error = np.abs(found.mean(axis=0) - exact)
    assert (error < 5 * found.std(axis=0) / np.sqrt(400) + 1e-12).all()


def test_adahessian_is_the_paper():
    objective, theta = rv.Objective.from_loss(separable, START)
    thetas, infos = cases.walk(rv.adahessian(0.1, b1=0.8, b2=0.9, epsilon=1e-3), objective, theta, C, 4)
    x, m, v, c = np.asarray(START), np.zeros(3), np.zeros(3), np.asarray(C)
    for k in range(1, 5):
        g, d = 4 * c * (x - 1) ** 3 + 2 * x, 12 * c * (x - 1) ** 2 + 2
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * d**2
        x = x - 0.1 * m / (1 - 0.8**k) / (np.sqrt(v / (1 - 0.9**k)) + 1e-3)
        np.testing.assert_allclose(thetas[k], x, rtol=1e-11)
    assert all(info.work.counts()["products"] == 2 for info in infos)


def exact_diagonal():
    def update(updates, state, params=None, **_):
        del updates
        return jnp.diag(jax.hessian(separable)(params, C)), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def test_sophia_is_that_of_optax():
    """On a diagonal Hessian, where the estimate is exact, and with entries clipped and not."""
    objective, theta = rv.Objective.from_loss(separable, START)
    ours = rv.Optimizer(rv.Sophia(gamma=0.3, decay=0.1, every=3), rv.Fixed(0.05))
    thetas, infos = cases.walk(ours, objective, theta, C, 8)
    theirs = optax.contrib.sophia(
        0.05, gamma=0.3, weight_decay=0.1, update_interval=3, hessian_diagonal_fn=exact_diagonal()
    )
    params, state = START, theirs.init(START)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(8):
            updates, state = theirs.update(jax.grad(separable)(params, C), state, params)
            params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(thetas[-1], params, rtol=1e-10)
    assert [int(info.work.products) for info in infos] == [2, 0, 0, 2, 0, 0, 2, 0]


def test_sophia_by_gauss_newton_needs_curvature():
    objective, theta = rv.Objective.from_loss(separable, START)
    with pytest.raises(ValueError, match="estimator='hutchinson'"):
        rv.sophia(estimator="gauss-newton").init(objective, theta)
    with pytest.raises(ValueError, match="Sophia: needs estimator"):
        rv.Sophia(every=0)


# ------------------------------------------------------------------------------------------------------- Gauss–Newton


def test_stochastic_gauss_newton_step_is_damped_and_shortened():
    made, theta = squares()
    thetas, _ = cases.walk(rv.stochastic_gauss_newton(0.4, damping=0.2), made, theta, samples(), 1)
    x, y = (np.asarray(part) for part in samples()["data"])
    matrix = x.T @ x / N
    step = np.linalg.solve(matrix + 0.2 * np.trace(matrix) / 4 * np.eye(4), x.T @ y / N)
    np.testing.assert_allclose(thetas[1], 0.4 * step, rtol=1e-10)


def test_held_out_damping_follows_its_rule():
    """Each step's promise against what it brought on the next batch, smoothed, in NumPy."""
    made, theta = classes()
    x, y = samples()["data"]
    optimizer = rv.stochastic_levenberg_marquardt(damping=0.05, smoothing=0.6)
    state, at, ratio, damping = optimizer.init(made, theta), theta, 0.5, 0.05
    promised, before = None, None
    rng = np.random.default_rng(0)
    for _ in range(6):
        places = rng.integers(0, N, size=8)
        batch = {"data": (x[places], y[places])}
        if promised is not None:
            gained = float(made(before, batch) - made(at, batch))
            ratio = 0.6 * ratio + 0.4 * np.clip(gained / promised, -1, 2)
            damping *= 1.5 if ratio < 0.25 else 2 / 3 if ratio > 0.75 else 1.0
        lin = made.linearise(at, batch)
        jacobian = np.asarray(lin.jacobian())
        before = at
        at, state, info = cases.step(optimizer, made, at, state, batch)
        s = np.asarray(at - before)
        assert float(state.direction.damping) == pytest.approx(damping, rel=1e-10)
        matrix = jacobian.T @ jacobian
        d = -np.linalg.solve(matrix + damping * np.trace(matrix) / 4 * np.eye(4), np.asarray(lin.grad))
        np.testing.assert_allclose(s, float(info.t) * d, rtol=1e-8, atol=1e-12)
        promised = -np.asarray(lin.grad) @ s - np.sum((jacobian @ s) ** 2) / 2
    assert damping != 0.05


def test_damping_grows_with_the_noise():
    """On all data it falls; on batches of six samples, whose steps fit their noise, it rises."""
    made, theta = classes()
    optimizer = rv.stochastic_levenberg_marquardt(damping=1.0)
    found = {}
    for name, sampler in {"all": rv.Constant(samples()), "few": rv.Minibatches(samples(), size=6)}.items():
        state, at, points = optimizer.init(made, theta), theta, sampler.init(cases.KEY)
        for number in range(40):
            batch, points = sampler.sample(points)
            at, state, _ = cases.step(optimizer, made, at, state, batch, jax.random.fold_in(cases.KEY, number))
        found[name] = float(state.direction.damping)
    assert found["few"] > 30 * found["all"]


def test_held_out_refuses_what_it_cannot_do():
    objective, theta = rv.Objective.from_loss(separable, START)
    with pytest.raises(ValueError, match="need residuals"):
        rv.stochastic_levenberg_marquardt().init(objective, theta)
    with pytest.raises(ValueError, match="solver 'mixed'"):
        rv.stochastic_levenberg_marquardt(solver="mixed")
    with pytest.raises(ValueError, match="SQN: every is 0"):
        rv.sqn(every=0)


def test_samples_of_an_objective_are_those_of_its_sampler():
    problem = cases.PROBLEMS["classes"]()
    objective, _, _ = problem.objective(cases.KEY)
    assert objective.samples == 20
    constant = dataclasses.replace(problem, sampler=rv.Constant({"labels": (jnp.ones((7, 2)), jnp.ones(7))}))
    assert constant.objective(cases.KEY)[0].samples == 7
    assert cases.PROBLEMS["poisson"]().objective(cases.KEY)[0].samples is None
