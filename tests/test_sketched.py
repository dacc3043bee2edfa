"""Spectra, sketches, radii and probes: identities, dense oracles, and what the rules promise."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.optim.path import Along, Previous
from ravine.optim.sketched import Spectrum
from ravine.optim.sketches import BLOCK, WAVES, Cosine, sketched_rows

NOTHING = Previous(jnp.zeros(1), None, None, jnp.zeros(()), jnp.array(False), jnp.int32(0))


@functools.cache
def case_of(name):
    return cases.OBJECTIVES[name]()


@functools.cache
def dense(name):
    oracle = case_of(name).oracle
    matrix = np.asarray(jax.jit(oracle.gram)(oracle.theta))
    return matrix, np.asarray(jax.jit(oracle.gradient)(oracle.theta))


def follow(name, direction, *radii, block=4):
    """Displacement, damping and predicted decrease at each radius, compiled."""
    case = case_of(name)
    objective, theta = case.objective(block=block)

    @jax.jit
    def run(radii):
        lin = objective.linearise(theta, case.batch)
        path, _ = direction(lin, theta, direction.init(objective, theta), NOTHING, key=cases.KEY)
        steps = jax.vmap(path)(radii)
        return steps, jax.vmap(path.damping)(radii), jax.vmap(path.reduction)(radii, steps)

    return jax.device_get(run(jnp.asarray(radii)))


# ------------------------------------------------------------------------------------------------ full-rank identity

WHOLE = {
    "auto": rv.Sketched(),
    "eigh": rv.Sketched(solver="eigh"),
    "svd": rv.Sketched(solver="svd"),
    "more than all": rv.Sketched(1000, 2000),
}


@pytest.mark.parametrize("direction", WHOLE)
@pytest.mark.parametrize("name", ["strong", "quadrature", "logistic", "softmax", "ritz"])
def test_without_sketches_it_is_gauss_newton(name, direction):
    """(JᵀJ + λI)d = −∇L with ‖d‖ = Δ, for every kind of loss, with both factorisations, in both spaces."""
    matrix, gradient = dense(name)
    shortest, longest = 1e-2, 0.3
    steps, dampings, reductions = follow(name, WHOLE[direction], shortest, longest)
    for radius, step, damping, reduction in zip((shortest, longest), steps, dampings, reductions, strict=True):
        exact = -np.linalg.solve(matrix + damping * np.eye(gradient.size), gradient)
        np.testing.assert_allclose(step, exact, atol=1e-8 * np.abs(exact).max())
        np.testing.assert_allclose(np.linalg.norm(step), radius, rtol=1e-7)
        np.testing.assert_allclose(reduction, -gradient @ exact - exact @ matrix @ exact / 2, rtol=1e-8)
    assert dampings[0] > dampings[1] > 0


def test_beyond_the_undamped_step_the_path_stays():
    """A radius that no step fills gives the undamped step: least squares, by SVD to full accuracy."""
    rng = np.random.default_rng(3)
    matrix, right = rng.normal(size=(12, 4)) @ np.diag([1, 1e-3, 1e-6, 1e-9]), rng.normal(size=12)
    residuals = lambda x, _: jnp.asarray(matrix) @ x - jnp.asarray(right)
    objective, theta = rv.Objective.from_residuals(residuals, jnp.ones(4))
    path, _ = rv.Sketched(solver="svd")(objective.linearise(theta, None), theta, None, NOTHING, key=cases.KEY)
    exact = np.linalg.lstsq(matrix, right, rcond=None)[0] - 1
    np.testing.assert_allclose(path(jnp.asarray(1e30)), exact, rtol=1e-5)


def test_singular_values_are_asked_for_once_a_gramian_has_lost_their_digits():
    """J = diag(1, 10⁻¹⁰): its Gramian knows one direction. The second step has both, and reach says when to go back."""
    diagonal = jnp.array([1.0, 1e-10])
    objective, theta = rv.Objective.from_residuals(lambda x, _: jnp.tile(diagonal * (x - 1), 2), jnp.zeros(2))
    direction = rv.Sketched()
    state = direction.init(objective, theta)

    @jax.jit
    def step(state, t, failed):
        lin = objective.linearise(theta, None)
        previous = Previous(theta, None, None, t, failed, jnp.int32(1))
        path, state = direction(lin, theta, state, previous, key=cases.KEY)
        return path(jnp.asarray(1e30)), state

    rough, reach = step(state, jnp.asarray(0.5), jnp.array(False))
    np.testing.assert_allclose(reach, 1.0, rtol=1e-6)
    np.testing.assert_allclose(rough, [1, 0], atol=0.3)
    for t, failed, exact in ((2.0, False, True), (0.5, False, False), (0.5, True, True)):
        found, again = step(reach, jnp.asarray(t), jnp.array(failed))
        np.testing.assert_allclose(found, [1, 1] if exact else rough, rtol=1e-5)
        np.testing.assert_allclose(again, reach, rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------- sketches


def test_cosine_transform_is_the_matrix_it_says():
    """P = D Π C for the orthonormal DCT-II written out; PᵀP = I; expand is its transpose."""
    count, size = 12, 5
    sketch = Cosine.draw(size, count, cases.KEY, float)
    place, wave = np.arange(count), np.arange(count)[:, None]
    cosine = np.cos(np.pi * (place + 0.5) * wave / count) * np.sqrt(np.where(wave == 0, 1, 2) / count)
    signed = np.diag(np.asarray(sketch.signs))[:, np.asarray(sketch.order)]
    exact = (signed @ cosine.T)[:, :size]
    np.testing.assert_allclose(sketch.shrink(jnp.eye(count)), exact, atol=1e-14)
    np.testing.assert_allclose(jax.vmap(sketch.expand)(jnp.eye(size)), exact.T, atol=1e-14)
    np.testing.assert_allclose(exact.T @ exact, np.eye(size), atol=1e-13)
    assert set(np.abs(sketch.signs)) == {1.0}


@pytest.mark.parametrize("count,size", [(1301, 61), (1301, 1300), (514, 9)])
def test_long_vectors_are_transformed_in_blocks(count, size):
    """P written out: blocks of a DCT-II of which the lowest waves come first; PᵀP = I; no entry is left out."""
    sketch = Cosine.draw(size, count, cases.KEY, float)
    blocks = max(1, count // max(BLOCK, -(-WAVES * count // size)))
    lengths = [count // blocks + (number < count % blocks) for number in range(blocks)]
    assert len(set(lengths)) <= 2
    assert sum(lengths) == count
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    columns = []
    for wave in range(max(lengths)):
        for start, length in zip(starts, lengths, strict=True):
            if wave < length:
                column = np.zeros(count)
                scale = np.sqrt((1 if wave == 0 else 2) / length)
                column[start : start + length] = scale * np.cos(np.pi * (np.arange(length) + 0.5) * wave / length)
                columns.append(column)
    exact = np.zeros((count, size))
    exact[np.asarray(sketch.order)] = np.stack(columns[:size], axis=1)
    exact *= np.asarray(sketch.signs)[:, None]
    np.testing.assert_allclose(sketch.shrink(jnp.eye(count)), exact, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(sketch.expand)(jnp.eye(size)), exact.T, atol=1e-12)
    np.testing.assert_allclose(exact.T @ exact, np.eye(size), atol=1e-12)
    assert (np.sum(exact**2, axis=1) > 0).all()


@pytest.mark.parametrize("block", [4, 512])
def test_sketched_rows_are_a_count_sketch_of_the_jacobian(block):
    """LJP with a matrix L of four entries ±½ a column (fewer where hashes meet), whatever the blocks."""
    case = case_of("strong")
    objective, theta = case.objective(block=block)
    lin = objective.linearise(theta, case.batch)
    right = Cosine.draw(5, theta.size, cases.KEY, float)
    found = jax.jit(lambda: sketched_rows(lin, right, 5, 9, cases.KEY))()
    parts = []
    for number, (piece, rows) in enumerate(zip(lin.objective.pieces(case.batch), (11, 5), strict=True)):
        first, second = jax.random.split(jax.random.fold_in(cases.KEY, number))
        left = np.zeros((9, rows))
        bins = jax.random.randint(first, (rows, 1, 4), 0, 9)[:, 0]
        signs = jax.random.rademacher(second, (rows, 1, 4), jnp.int32)[:, 0]
        for row in range(rows):
            np.add.at(left[:, row], np.asarray(bins[row]), np.asarray(signs[row]) / 2)
        parts.append(left @ np.asarray(piece.map(piece.jacobian(theta))))
    exact = np.asarray(right.shrink(jnp.asarray(sum(parts))))
    np.testing.assert_allclose(found, exact, atol=1e-12)


def test_count_sketch_keeps_inner_products_on_average():
    """E[BᵀB] = PᵀJᵀJP over the draws: within six standard errors."""
    case = case_of("strong")
    objective, theta = case.objective()
    lin = objective.linearise(theta, case.batch)
    right = Cosine.draw(3, theta.size, cases.KEY, float)
    one = lambda key: (b := sketched_rows(lin, right, 3, 8, key)).T @ b
    drawn = jax.jit(jax.vmap(one))(jax.random.split(cases.KEY, 400))
    exact = jax.jit(lambda: (s := right.shrink(lin.jacobian())).T @ s)()
    error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    assert (np.abs(np.mean(drawn, axis=0) - exact) < 6 * error).all()
    assert (error < 0.1 * np.abs(np.diag(exact)).max()).all()


@pytest.mark.parametrize("columns,rows", [(6, 8), (6, 40)])
def test_sketched_step_is_gauss_newton_in_the_subspace(columns, rows):
    """d = −P(BᵀB + λ)⁻¹Pᵀ∇L, with the left sketch and without it; eigh and svd agree."""
    case = case_of("strong")
    objective, theta = case.objective(block=4)
    _, gradient = dense("strong")
    first, second = jax.random.split(cases.KEY)
    right = Cosine.draw(columns, theta.size, first, float)
    lin = objective.linearise(theta, case.batch)
    whole = rows >= 16
    short = np.asarray(right.shrink(lin.jacobian()) if whole else sketched_rows(lin, right, columns, rows, second))
    for solver in ("eigh", "svd"):
        steps, dampings, _ = follow("strong", rv.Sketched(columns, rows, solver), 0.05)
        matrix = short.T @ short + dampings[0] * np.eye(columns)
        inner = np.linalg.solve(matrix, np.asarray(right.shrink(jnp.asarray(gradient))))
        exact = -np.asarray(right.expand(jnp.asarray(inner)))
        np.testing.assert_allclose(steps[0], exact, atol=1e-8 * np.abs(exact).max())
        assert gradient @ steps[0] < 0


@pytest.mark.parametrize("solver", ["eigh", "svd"])
def test_truncation_leaves_small_singular_values_out(solver):
    matrix, gradient = dense("strong")
    case = case_of("strong")
    objective, theta = case.objective()
    values, vectors = np.linalg.eigh(matrix)
    for cutoff in (1e-1, 1e-3):
        kept = values > cutoff**2 * values.max()
        assert 0 < kept.sum() < kept.size
        exact = -(vectors[:, kept] / values[kept]) @ (vectors[:, kept].T @ gradient)
        direction = rv.Truncated(cutoff, solver=solver)

        @jax.jit
        def walk(direction=direction):
            path, _ = direction(objective.linearise(theta, case.batch), theta, None, NOTHING, key=cases.KEY)
            return path.direction

        np.testing.assert_allclose(walk(), exact, atol=1e-8 * np.abs(exact).max())


# ------------------------------------------------------------------------------------------------------------ probing


class Slide(eqx.Module):
    """A path of one parameter by radius, with a model that is wrong in a known way: actual/predicted = gain(t)."""

    gain: object = eqx.field(static=True)
    shift: object = eqx.field(static=True)
    work: object = dataclasses.field(default_factory=rv.Work)
    trial: object = dataclasses.field(default_factory=rv.Work)

    def __call__(self, t):
        return t[None]

    def damping(self, t):
        return self.shift(t)

    def reduction(self, t, step):
        return self.gain(t)


@jax.jit
def falling(x, _):
    return 50.0 - x[0]


def probe(search, gain, state=None, shift=lambda t: 1 / t, loss=falling):
    """One search where the loss falls by t and the model predicts t/gain(t)."""
    objective, theta = rv.Objective.from_loss(loss, jnp.zeros(1))
    phi = Along(objective, theta, None, Slide(lambda t: t / gain(t), shift), objective.linearise(theta, None))
    state = search.init(theta.dtype) if state is None else state
    return search(phi, state)


def test_probe_finds_the_radius_of_the_wanted_gain():
    """ρ(Δ) = 1/(1 + Δ²) is 0.2 at Δ = 2."""
    t, found, state = probe(rv.Probe(accept=0.2, probes=200), lambda t: 1 / (1 + t**2))
    np.testing.assert_allclose(t, 2.0, rtol=1e-3)
    np.testing.assert_allclose(found.value, 48.0, rtol=1e-3)
    np.testing.assert_allclose(state.radius, 2.0, rtol=1e-3)
    assert not found.failed
    assert found.work.counts()["evaluations"] == 201


def test_radius_grows_and_shrinks():
    """A good model at every radius: the largest one. A bad one everywhere: still the best probe, if the loss falls."""
    search = rv.Probe(accept=0.2, probes=5)
    t, _, state = probe(search, lambda t: 1.0)
    np.testing.assert_allclose(t, 3.0)
    t, _, state = probe(search, lambda t: 1.0, state)
    np.testing.assert_allclose(t, 9.0)
    np.testing.assert_allclose(state.radius, 9.0)
    t, found, _ = probe(search, lambda t: 0.1)
    np.testing.assert_allclose(t, 1 / 3)
    assert not found.failed


def test_gain_ratio_is_made_monotone():
    """A gain that recovers beyond a dip does not count: the crossing before the dip is taken."""
    dip = lambda t: jnp.where((t > 1.2) & (t < 1.6), 0.0, 1.0)
    t, _, _ = probe(rv.Probe(accept=0.2, probes=100), dip)
    assert 1.15 < float(t) < 1.25


def test_probe_cuts_the_radius_until_the_loss_falls():
    """A valley far below the first radius is found within one search."""
    valley = lambda x, _: jnp.where(x[0] < 0, x[0] ** 2, 1 - x[0] * jnp.where(x[0] < 2e-3, 1.0, -1.0))
    t, found, state = probe(rv.Probe(probes=24), lambda t: 1.0, loss=valley)
    assert not found.failed
    assert float(found.value) < 1
    assert float(t) < 2e-3
    assert float(state.radius) == float(t)


def test_probe_rejects_what_is_not_finite_and_says_so():
    """NaN beyond a radius is no candidate; where the loss never falls the search fails and the step is zero."""
    nan = lambda x, _: jnp.where(x[0] < 1.5, 5 - x[0], jnp.nan)
    t, found, _ = probe(rv.Probe(), lambda t: 1.0, loss=nan)
    assert 1 < float(t) < 1.5
    assert float(found.value) == pytest.approx(5 - float(t))
    t, found, state = probe(rv.Probe(), lambda t: 1.0, loss=lambda x, _: 5 + x[0] ** 2)
    assert bool(found.failed)
    assert float(found.step[0]) == 0
    assert float(found.value) == 5
    assert float(state.radius) < 1e-4


def test_best_probe_is_taken_while_the_damping_rises():
    """With λ falling the longest step that gains enough is taken; while λ rises over the window the best one."""
    bowl = lambda x, _: (x[0] - 1) ** 2
    search = rv.Probe(accept=0.5, window=5, probes=41)
    gain = lambda t: 1.0
    state = search.init(jnp.dtype(float))
    taken = []
    for number in range(18):  # the model predicts t, the loss falls by t (2 − t): half of it at t = 1.5
        log = abs(number - 6) if number < 12 else 12 - number
        t, _, state = probe(search, gain, state, shift=lambda t, log=log: jnp.exp(1.0 * log), loss=bowl)
        state = eqx.tree_at(lambda s: s.radius, state, jnp.ones_like(state.radius))
        taken.append(float(t))
    # λ falls until step 6, rises until step 11 and falls again; the fitted line turns two or three steps later.
    np.testing.assert_allclose(taken[:9], 1.5, rtol=1e-2)
    np.testing.assert_allclose(taken[10:13], 1.0, rtol=5e-2)
    np.testing.assert_allclose(taken[15:], 1.5, rtol=1e-2)


# ------------------------------------------------------------------------------------------------------------ presets


def test_sketched_gauss_newton_solves_poisson():
    """With a quarter of the parameters in the sketch and points fixed, to nine digits, as from seven other starts."""
    problem = rv.problems.make("poisson1d", points=64, width=10, depth=2)
    run = rv.train(problem, rv.Phase(rv.sketched_gauss_newton(columns=40), steps=80), key=cases.KEY)
    assert run.error < 1e-9, run.summary()


@pytest.mark.parametrize("method", ["sketched_gauss_newton", "anagram", "spring", "energy_natural_gradient"])
def test_single_precision_stays_single(method):
    """Rosenbrock's residuals in float32: the loss falls, nothing is promoted."""
    residuals = lambda x, _: jnp.stack([1 - x[0], 10 * (x[1] - x[0] ** 2)])
    objective, theta = rv.Objective.from_residuals(residuals, jnp.asarray([-1.2, 1.0], jnp.float32))
    thetas, infos = cases.walk(cases.OPTIMIZERS[method](), objective, theta, None, 5)
    assert thetas[-1].dtype == np.float32
    assert infos[-1].value.dtype == np.float32
    assert float(objective(jnp.asarray(thetas[-1]), None)) < float(objective(theta, None))


def test_sizes_that_make_no_sense():
    with pytest.raises(ValueError, match="columns is 0"):
        rv.Sketched(0)
    with pytest.raises(ValueError, match="rows=3 needs columns="):
        rv.Sketched(8, 3)
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**2), jnp.ones(2))
    for optimizer in (rv.sketched_gauss_newton(), rv.anagram(), rv.spring(), rv.energy_natural_gradient()):
        with pytest.raises(ValueError, match="bare scalar loss"):
            optimizer.init(objective, theta)


def test_least_damping_is_rounding():
    """Relative to the largest eigenvalue: machine epsilon from the Gramian, far less from J itself."""
    case = case_of("strong")
    objective, theta = case.objective()
    lin = objective.linearise(theta, case.batch)
    eps = np.finfo(float).eps
    for solver, least in (("eigh", eps), ("svd", (10 * eps) ** 2)):
        spectrum = Spectrum(lin, columns=None, rows=None, solver=solver, key=cases.KEY)
        np.testing.assert_allclose(spectrum.floor, least * spectrum.values.max(), rtol=1e-6)
