"""Where points fall, when they are drawn anew, and how evenly."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.special import erf

import cases
import oracles
import ravine as rv
from ravine._types import Array
from ravine.minibatches import permuted
from ravine.run import subkeys
from ravine.samplers.adaptive import _morton

BOX = rv.Box((-1.0, 0.0), (1.0, 2.0))
REGIONS = {"pde": "interior", "bc": "boundary", "ic": "initial"}
KINDS = {
    "uniform": rv.Uniform,
    "sobol": rv.Sobol,
    "grid": rv.Grid,
    "halton": rv.Halton,
    "hammersley": rv.Hammersley,
    "latin": rv.LatinHypercube,
}
RANDOM = [kind for kind in KINDS if kind != "grid"]


def bound(kind, **counts):
    return KINDS[kind](BOX, **counts).bind({name: REGIONS[name] for name in counts}, np.dtype(float))


def given_out(sampler, steps, score=None, key=cases.KEY):
    """The batches of the first steps."""
    state, batches = sampler.init(key), []
    sample = jax.jit(lambda state: sampler.sample(state, score))
    for _ in range(steps):
        batch, state = sample(state)
        batches.append(jax.device_get(batch))
    return batches


@pytest.mark.parametrize("kind", KINDS)
def test_points_lie_where_their_terms_live(kind):
    batch = bound(kind, pde=49, bc=20, ic=9).init(cases.KEY).batch
    x = np.asarray(batch["pde"])
    assert x.shape == (49, 2)
    assert (x >= [-1, 0]).all()
    assert (x <= [1, 2]).all()
    assert x[:, 1].max() > 1.5
    edge = np.asarray(batch["bc"])
    # With an initial condition the last coordinate is time: faces are x = ±1 only, ten points on each.
    assert (edge[:, 0] == -1).sum() == (edge[:, 0] == 1).sum() == 10
    for side in (-1, 1):
        times = edge[edge[:, 0] == side, 1]
        assert times.min() < 0.5
        assert times.max() > 1.5
    first = np.asarray(batch["ic"])
    assert (first[:, 1] == 0).all()
    assert first[:, 0].min() < -0.5
    assert first[:, 0].max() > 0.5


@pytest.mark.parametrize("kind", RANDOM)
def test_without_an_initial_condition_there_are_four_faces(kind):
    edge = np.asarray(bound(kind, bc=32).init(cases.KEY).batch["bc"])
    counts = [(edge[:, axis] == end).sum() for axis, end in ((0, -1), (0, 1), (1, 0), (1, 2))]
    assert counts == [8, 8, 8, 8]


@pytest.mark.parametrize("kind", RANDOM)
def test_draws_are_reproducible_and_differ_by_key_and_term(kind):
    sampler = bound(kind, pde=16, ic=16)
    one, same, other = (sampler.draw(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one["pde"], same["pde"])
    assert not np.array_equal(one["pde"], other["pde"])
    assert not np.array_equal(one["pde"][:, 0], one["ic"][:, 0])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 3), st.sampled_from(RANDOM))
def test_any_count_in_any_dimension(count, dimension, kind):
    box = rv.Box((-2.0,) * dimension, (3.0,) * dimension)
    x = np.asarray(KINDS[kind](box, pde=count).bind({"pde": "interior"}, np.dtype(float)).draw(cases.KEY)["pde"])
    assert x.shape == (count, dimension)
    assert (x >= -2).all()
    assert (x <= 3).all()


def test_grid_is_the_tensor_grid():
    x = np.asarray(bound("grid", pde=10).draw(cases.KEY)["pde"])  # 3² ≤ 10
    expected = [[a, b] for a in (-1.0, 0.0, 1.0) for b in (0.0, 1.0, 2.0)]
    np.testing.assert_allclose(x, expected, atol=1e-15)


def test_grid_covers_each_face():
    """Five points on each of two faces, from the first time to the last."""
    edge = np.asarray(bound("grid", bc=10, ic=3).draw(cases.KEY)["bc"])
    for side in (-1.0, 1.0):
        np.testing.assert_allclose(edge[edge[:, 0] == side, 1], np.linspace(0, 2, 5))


def test_sobol_integrates_better_than_independent_points():
    """The root mean square error over draws: about 1/m against m^(−1/2)."""
    f = lambda x: jnp.cos(2 * x[:, 0]) * jnp.exp(x[:, 1])
    exact = np.sin(2) / 2 * (np.exp(2) - 1) / 2
    errors = {}
    for kind in ("uniform", "sobol"):
        for count in (64, 1024):
            sampler = bound(kind, pde=count)
            means = jax.jit(jax.vmap(lambda key, s=sampler: jnp.mean(f(s.draw(key)["pde"]))))(
                jax.random.split(cases.KEY, 40)
            )
            errors[kind, count] = np.sqrt(np.mean((np.asarray(means) - exact) ** 2))
    assert errors["sobol", 64] < errors["uniform", 64] / 3
    assert errors["sobol", 1024] < errors["uniform", 1024] / 15
    # Rates: sixteen times as many points.
    assert errors["sobol", 64] / errors["sobol", 1024] > 10
    assert errors["uniform", 64] / errors["uniform", 1024] == pytest.approx(4, rel=0.5)


def test_unknown_dtype_is_the_models():
    sampler = rv.Sobol(BOX, pde=8).bind({"pde": "interior"}, np.dtype(np.float32))
    assert sampler.draw(cases.KEY)["pde"].dtype == jnp.float32


# ------------------------------------------------------------------------------------------------------- redrawing


def test_fixed_points_stay():
    batches = given_out(bound("sobol", pde=8), 5)
    assert all(np.array_equal(batches[0]["pde"], batch["pde"]) for batch in batches)


HELD = {
    "fixed": lambda: rv.Sobol(BOX, pde=16),
    "redrawn": lambda: rv.Redrawn(rv.Uniform(BOX, pde=16), every=3),
    "marching": lambda: rv.Marching(rv.Sobol(rv.Box((0.0, 0.0), (1.0, 1.0), time=True), pde=16), windows=9, every=4),
    "rad": lambda: rv.RAD(rv.Sobol(BOX, pde=16), every=2),
    "rar": lambda: rv.RAR(rv.Uniform(BOX, pde=16), every=3, add=2),
    "r3": lambda: rv.R3(rv.Uniform(BOX, pde=16), every=5),
    "importance": lambda: rv.Importance(rv.Uniform(BOX, pde=16), every=3),
    "every step": lambda: rv.Redrawn(rv.Uniform(BOX, pde=16), every=1),
    "with data": lambda: rv.WithData(rv.Redrawn(rv.Uniform(BOX, pde=16), every=3), data=(np.ones((4, 2)), np.ones(4))),
    "data": lambda: rv.Minibatches((np.arange(8.0),), size=2),
    "constant": lambda: rv.Constant((jnp.arange(8.0),)),
}


@pytest.mark.parametrize("name", HELD)
def test_a_batch_is_held_for_as_long_as_its_sampler_says(name):
    """`train` does not ask again before: so it changes where the count is a multiple of `holds`, and nowhere else."""
    sampler = HELD[name]().bind({"pde": "interior"}, np.dtype(float))
    batches = given_out(sampler, 13, score=lambda name, points: 1 + jnp.abs(jnp.sin(9 * points[:, 0])))
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(batch)]) for batch in batches]
    changes = [n for n in range(1, 13) if not np.array_equal(flat[n], flat[n - 1])]
    expected = [] if sampler.holds is None else [n for n in range(1, 13) if n % sampler.holds == 0]
    assert changes == expected


class Jumpy(rv.Sampler):
    """A sampler of a user, who does not know of `holds`: one point, which moves at every step."""

    def draw(self, key):
        return {"pde": jax.random.uniform(key, (1, 1))}

    def sample(self, state, score=None):
        moved = {"pde": state.batch["pde"] + 1}
        return moved, type(state)(moved, state.key, state.count + 1)


class Shaky(rv.Redrawn):
    """One that says how long its parent holds a batch, but moves the points at each step."""

    def sample(self, state, score=None):
        batch, state = super().sample(state, score)
        return jax.tree.map(lambda points: points + 0.1 * jnp.sin(state.count.astype(points.dtype)), batch), state


@pytest.mark.parametrize("every", [1, 3])
def test_points_move_on_in_a_run_as_step_by_step(every):
    """θ after a run against a loop over `sample` and `step`: the points of each step are those of its number."""
    samplers = [
        Jumpy(),
        Shaky(rv.Uniform(rv.Box((0.0,), (1.0,)), pde=3), every=every),
        rv.Redrawn(rv.Uniform(rv.Box((0.0,), (1.0,)), pde=3), every=every),
    ]
    for sampler in samplers:
        problem = rv.Problem(
            terms=(rv.residual("pde", lambda u, z: u(z) - z[0]),),
            sampler=sampler,
            model=lambda key: rv.models.MLP(1, "scalar", width=2, depth=1, key=key),
        )
        method = rv.sgd(0.1)
        run = rv.train(problem, rv.Phase(method, steps=8, every=8), key=cases.KEY)  # in one chunk
        objective, theta, bound = problem.objective(subkeys(cases.KEY)[0])
        state, at = method.init(objective, theta), bound.init(subkeys(cases.KEY)[1])
        for _ in range(8):
            batch, at = bound.sample(at)
            theta, state, _ = method.step(objective, theta, state, batch, key=cases.KEY)
        np.testing.assert_allclose(run.position.carry.theta, theta, rtol=1e-12)


class Ambush(rv.Sampler):
    """One point for each term, 0 for two steps and 1 from then on."""

    terms: tuple[str, ...]
    holds = 2

    def draw(self, key):
        return {name: jnp.zeros((1, 1)) for name in self.terms}

    def sample(self, state, score=None):
        batch = {name: jnp.where(state.count >= 2, 1.0, point) for name, point in state.batch.items()}
        return batch, type(state)(batch, state.key, state.count + 1)


class Pair(eqx.Module):
    """Two parameters, p at z = 0 and another function of them, steep in p₀, at z = 1."""

    p: Array
    steepness: float = eqx.field(static=True)

    def __call__(self, z):
        return jnp.where(z[0] > 0, jnp.stack([self.steepness * self.p[0], self.p[1] - 3.0]), self.p - 1.0)


def ambushed(steepness, *, focus=False):
    """Minimum p = (1, 1) on the first point. On the second the loss there is steepness² + 4, and 9 at the start (0, 0).

    With `focus` there is another term, which is not trained, and large everywhere.
    """
    terms = (rv.residual("pde", lambda u, z: u(z)),)
    focuses = ()
    if focus:
        terms = (*terms, rv.residual("other", lambda u, z: 1e9 + u(z)))
        focuses = (rv.Focus(("pde",), lambda model: model.p),)
    sampler = Ambush(tuple(term.name for term in terms))
    model = lambda key: Pair(jnp.zeros(2), steepness)
    return rv.Problem(terms=terms, sampler=sampler, model=model, focuses=focuses)


@pytest.mark.parametrize("focus", [False, True])
@pytest.mark.parametrize("steepness, undone", [(80.0, False), (1000.0, True)])
def test_points_that_disprove_a_window_undo_it(steepness, undone, focus):
    """Ratios of 700 and 1e5: the second goes back to where the window began, and its memory is that of a first step."""
    problem = ambushed(steepness, focus=focus)
    carry = lambda steps: rv.train(problem, rv.Phase(rv.bfgs(), steps=steps), key=cases.KEY).position.carry
    np.testing.assert_allclose(carry(2).theta, 1.0, rtol=1e-9)
    after = carry(3)
    np.testing.assert_allclose(after.anchor, 0.0 if undone else 1.0, rtol=1e-9)
    # One step, down the gradient and one long at most where nothing is remembered.
    start = np.zeros(2) if undone else np.ones(2)
    step, gradient = np.asarray(after.theta) - start, np.array([steepness**2 * start[0], start[1] - 3.0])
    if undone:
        assert step[0] == 0
        assert step[1] > 0
    assert step @ gradient < 0
    assert bool(after.optimizer.direction.inner.fresh) == undone


@pytest.mark.parametrize("every", [1, 3])
def test_redrawn_redraws_at_exactly_the_right_steps(every):
    batches = given_out(rv.Redrawn(bound("uniform", pde=8), every=every), 10)
    changed = [not np.array_equal(a["pde"], b["pde"]) for a, b in itertools.pairwise(batches)]
    assert changed == [step % every == 0 for step in range(1, 10)]
    assert len({batch["pde"].tobytes() for batch in batches}) == len(range(0, 10, every))


def test_rad_redraws_on_time_and_is_reproducible():
    sampler = rv.RAD(rv.Sobol(BOX, pde=32), every=4).bind({"pde": "interior"}, np.dtype(float))
    score = lambda name, x: x[:, 0] ** 2
    one, same = given_out(sampler, 9, score), given_out(sampler, 9, score)
    changed = [not np.array_equal(a["pde"], b["pde"]) for a, b in itertools.pairwise(one)]
    assert changed == [step % 4 == 0 for step in range(1, 9)]
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a["pde"], b["pde"])


@functools.cache
def adapted(power, floor, dimension=1, count=400, pool=16):
    """RAD points of [0, 1]ᵈ for the residual r = 2 on x₀ < ¼ and 0.5 elsewhere; φ = ½r²."""
    box = rv.Box((0.0,) * dimension, (1.0,) * dimension)
    sampler = rv.RAD(rv.Sobol(box, pde=count), every=1, power=power, floor=floor, pool=pool)
    sampler = sampler.bind({"pde": "interior"}, np.dtype(float))
    score = lambda name, x: jnp.where(x[:, 0] < 0.25, 2.0, 0.5) ** 2 / 2
    return given_out(sampler, 2, score)[1]["pde"]


def density(power, floor):
    """p on the left quarter and the rest: |r|^k/E|r|^k + c, normalised."""
    r = np.array([2.0, 0.5]) ** power
    share = np.array([0.25, 0.75])
    p = r / (r @ share) + floor
    return p * share / (p @ share)


@pytest.mark.parametrize(
    "power,floor,dimension", [(1.0, 1.0, 1), (2.0, 0.0, 1), (2.0, 1.0, 1), (0.0, 1.0, 1), (1.0, 1.0, 2)]
)
def test_rad_density_is_the_formula(power, floor, dimension):
    x = adapted(power, floor, dimension)
    assert np.mean(x[:, 0] < 0.25) == pytest.approx(density(power, floor)[0], abs=0.01)


def test_rad_draw_has_low_discrepancy():
    """Mapped by the cumulative density, systematic draws are nearly equidistant; independent ones are not."""
    x = adapted(1.0, 1.0)[:, 0]
    left = density(1.0, 1.0)[0]
    unit = np.where(x < 0.25, x / 0.25 * left, left + (x - 0.25) / 0.75 * (1 - left))
    independent = np.random.default_rng(0).uniform(size=400)
    assert oracles.star_discrepancy(unit) < oracles.star_discrepancy(independent) / 4
    assert oracles.star_discrepancy(unit) < 4 / 400


@pytest.mark.parametrize("value", [0.0, jnp.nan])
def test_rad_without_information_is_even(value):
    score = lambda name, x: jnp.full(x.shape[0], value)
    sampler = rv.RAD(rv.Sobol(rv.Box((0.0,), (1.0,)), pde=64), every=1).bind({"pde": "interior"}, np.dtype(float))
    x = given_out(sampler, 2, score)[1]["pde"][:, 0]
    assert oracles.star_discrepancy(x) < 0.05


def test_rad_leaves_other_terms_to_the_sampler_beneath():
    sampler = rv.RAD(rv.Sobol(BOX, pde=32, bc=16), every=1).bind({"pde": "interior", "bc": "boundary"}, np.dtype(float))
    batch = given_out(sampler, 2, lambda name, x: {"pde": x[:, 0] ** 2}[name])[1]
    assert batch["pde"].shape == (32, 2)
    assert batch["bc"].shape == (16, 2)
    on_face = (np.abs(batch["bc"][:, 0]) == 1) | np.isin(batch["bc"][:, 1], [0, 2])
    assert on_face.all()


def test_morton_order_keeps_neighbours_together():
    """On the 2ᵏ grid the curve is the interleaving of the bits."""
    side = 8
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    order = np.argsort(np.asarray(_morton(jnp.asarray(grid / (side - 1)))), kind="stable")
    expected = np.argsort([sum(((p[a] >> b) & 1) << (2 * b + a) for b in range(3) for a in range(2)) for p in grid])
    np.testing.assert_array_equal(order, expected)


@pytest.mark.parametrize("count", [7, 64])
def test_a_latin_hypercube_has_one_point_in_every_slice(count):
    x = np.asarray(rv.LatinHypercube(BOX, pde=count).bind({"pde": "interior"}, np.dtype(float)).draw(cases.KEY)["pde"])
    cells = np.floor((x - [-1, 0]) / 2 * count).astype(int)
    for axis in range(2):
        assert sorted(cells[:, axis]) == list(range(count))
    assert (cells[:, 0] != cells[:, 1]).any()


@pytest.mark.parametrize("kind", ["halton", "hammersley"])
def test_radical_inverses(kind):
    """Without their shift the points are the digits of their numbers, mirrored at the point."""
    count = 12

    def inverse(number, base):
        found, scale = 0.0, 1.0
        while number:
            scale /= base
            found, number = found + scale * (number % base), number // base
        return found

    box = rv.Box((0.0,) * 3, (1.0,) * 3)
    x = np.asarray(KINDS[kind](box, pde=count).bind({"pde": "interior"}, np.dtype(float)).draw(cases.KEY)["pde"])
    halton = np.array([[inverse(i, base) for base in (2, 3, 5)] for i in range(count)])
    plain = halton if kind == "halton" else np.column_stack([np.arange(count) / count, halton[:, :2]])
    np.testing.assert_allclose((x - x[0]) % 1, (plain - plain[0]) % 1, atol=1e-12)


def test_points_in_turn_would_not_cover_faces_and_do():
    """Hammersley's first coordinate grows with the number of a point; still each face is covered."""
    edge = np.asarray(bound("hammersley", bc=64).draw(cases.KEY)["bc"])
    low = edge[edge[:, 0] == -1, 1]
    assert low.size == 16
    assert oracles.star_discrepancy(np.sort(low / 2)) < 0.1


# --------------------------------------------------------------------------------------- variance of gradients


def forced(u, z):
    return rv.partials(u, z, (0, 0))[0] + 10 * jnp.sin(3 * z[0]) * z[1]


@eqx.filter_jit
def gradient(objective, theta, points):
    return objective.value_and_grad(theta, {"pde": points})[1]


def spread(kind, counts, draws=40):
    """√(trace of the covariance of ∇L) over draws, for a residual of second order of a small network."""
    box = rv.Box((0.0, 0.0), (1.0, 1.0))
    objective, theta = rv.Objective.from_terms((rv.residual("pde", forced),), cases.network(width=8))
    found = []
    for count in counts:
        sampler = KINDS[kind](box, pde=count).bind({"pde": "interior"}, theta.dtype)
        points = jax.jit(jax.vmap(lambda key, s=sampler: s.draw(key)["pde"]))(jax.random.split(cases.KEY, draws))
        grads = np.stack([gradient(objective, theta, each) for each in points])
        found.append(np.sqrt(grads.var(axis=0).sum()))
    return np.array(found)


COUNTS = (32, 256, 2048)


@pytest.mark.parametrize("kind", RANDOM)
def test_gradient_noise_falls_as_theory_says(kind):
    """The standard deviation (the variance falls twice as fast): m^(−1/2) for independent points and Latin hypercubes,
    nearly 1/m for quasi-random ones."""
    measured = np.polyfit(np.log(COUNTS), np.log(spread(kind, COUNTS)), 1)[0]
    assert measured == pytest.approx({"uniform": -0.5, "latin": -0.5}.get(kind, -1.0), abs=0.15)


# ------------------------------------------------------------------------------------- drawn anew where overfitted


@pytest.mark.parametrize("hole", [True, False])
def test_points_are_redrawn_once_the_loss_departs(hole):
    """A loss that vanishes at the points in use (as of a network that overfits them) brings others; an even one not."""
    sampler = rv.Redrawn(bound("uniform", pde=16), every=3, departs=4.0)
    sampler = sampler.bind({"pde": "interior"}, np.dtype(float))
    first = sampler.init(cases.KEY).batch["pde"]

    def score(name, x):
        near = jnp.min(jnp.sum((x[:, None] - first[None]) ** 2, axis=2), axis=1)
        return jnp.where(near < 1e-20, 0.1, 1.0) if hole else jnp.ones(x.shape[0])

    batches = given_out(sampler, 10, score)
    changed = [not np.array_equal(a["pde"], b["pde"]) for a, b in itertools.pairwise(batches)]
    assert changed == [hole and step == 3 for step in range(1, 10)]


# ---------------------------------------------------------------------------------- refinement, retention, importance


def peak(name, x):
    return jnp.exp(-50 * jnp.sum((x - 0.7) ** 2, axis=1))


def unit_box(sampler, dimension=2):
    return sampler.bind({"pde": "interior"}, np.dtype(float))


SQUARE = rv.Box((0.0, 0.0), (1.0, 1.0))


def test_greedy_refinement_adds_the_worst_points_of_the_pool():
    sampler = unit_box(rv.RAR(rv.Uniform(SQUARE, pde=20), every=2, add=4, start=0.5, pool=3))
    batches = [batch["pde"] for batch in given_out(sampler, 9, peak)]
    used = [int((batch.weights > 0).sum()) for batch in batches]
    assert used == [10, 10, 14, 14, 18, 18, 20, 20, 20]
    for before, after, count in zip(batches, batches[1:], used, strict=False):
        np.testing.assert_array_equal(after.points[:count], before.points[:count])  # what is there stays
    for batch in batches:
        assert batch.weights.sum() == pytest.approx(1)
    state = sampler.init(cases.KEY)
    for _ in range(2):
        _, state = sampler.sample(state, peak)
    *pools, _, _ = jax.random.split(state.key, 5)
    pool = np.concatenate([sampler.sampler.draw(key)["pde"] for key in pools])
    worst = pool[np.argsort(-np.asarray(peak("pde", pool)))[:4]]
    assert {tuple(x) for x in batches[2].points[10:14]} == {tuple(x) for x in worst}


def test_refinement_by_density_draws_without_repetition():
    """p ∝ φ^(k/2)/mean + c, as for independent draws while few are taken of many."""
    sampler = unit_box(rv.RAR(rv.Uniform(SQUARE, pde=400), every=1, add=399, start=1e-9, power=1.0, floor=1.0, pool=30))
    score = lambda name, x: jnp.where(x[:, 0] < 0.25, 2.0, 0.5) ** 2 / 2
    x = given_out(sampler, 2, score)[1]["pde"].points[1:]
    assert len({tuple(point) for point in x}) == 399
    assert np.mean(x[:, 0] < 0.25) == pytest.approx(density(1.0, 1.0)[0], abs=0.06)


def test_r3_keeps_what_is_above_the_mean_and_draws_the_rest_anew():
    sampler = unit_box(rv.R3(rv.Uniform(SQUARE, pde=50)))
    batches = [batch["pde"] for batch in given_out(sampler, 30, peak)]
    for before, after in itertools.pairwise(batches):
        size = np.sqrt(2 * np.asarray(peak("pde", before)))
        kept = size > size.mean()
        np.testing.assert_array_equal(np.all(before == after, axis=1), kept)
    inside = lambda batch: np.mean(np.sum((batch - 0.7) ** 2, axis=1) < 0.04)
    assert inside(batches[-1]) > 2 * inside(batches[0])  # they gather


@pytest.mark.parametrize("power,floor", [(1.0, 0.25), (2.0, 0.01), (0.0, 1.0)])
def test_importance_weights_are_unbiased_exactly(power, floor):
    """The mean of Σ v_i f(x_i) over the random start, all of it, is the mean of f over the pool."""
    sampler = rv.Importance(rv.Uniform(SQUARE, pde=8), power=power, floor=floor)
    pool = jax.random.uniform(cases.KEY, (32, 2), float)
    size = peak("pde", pool)
    share = np.asarray(size) ** (power / 2)
    share = share / share.mean() + floor
    edges = np.cumsum(share)[:-1] / share.sum() * 8 % 1  # where the place that a start leads to changes
    starts = np.unique(np.concatenate([[0.0, 1.0], edges]))
    found = total = 0.0
    for low, high in itertools.pairwise(starts):
        if high - low < 1e-13:
            continue
        entry = sampler.chosen(pool, size, 8, jnp.asarray((low + high) / 2))
        found += (high - low) * float(jnp.sum(entry.weights * jnp.cos(3 * entry.points[:, 0])))
        total += (high - low) * float(jnp.sum(entry.weights))
    assert found == pytest.approx(float(jnp.mean(jnp.cos(3 * pool[:, 0]))), rel=1e-10)
    assert total == pytest.approx(1.0, rel=1e-10)


def test_importance_sampling_has_less_variance():
    """Of the mean of what it samples by, against as many independent points."""
    sampler = unit_box(rv.Importance(rv.Uniform(SQUARE, pde=64), every=1, power=2.0, floor=0.05, pool=16))
    draw = jax.jit(lambda key: sampler.renewed(sampler.init(key), peak)[0]["pde"])
    entries = [draw(key) for key in jax.random.split(cases.KEY, 60)]
    estimates = [float(jnp.sum(entry.weights * peak("pde", entry.points))) for entry in entries]
    one = np.sqrt(np.pi / 50) / 2 * (erf(np.sqrt(50) * 0.3) + erf(np.sqrt(50) * 0.7))
    exact = one**2
    independent = np.sqrt(np.pi / 100) ** 2 / 64  # E f² / m, nearly
    assert np.mean(estimates) == pytest.approx(exact, rel=0.1)
    assert np.var(estimates) < independent / 5


def test_what_adaptive_samplers_are_judged_by_has_no_weights():
    for sampler in (rv.RAR(rv.Uniform(SQUARE, pde=20)), rv.Importance(rv.Uniform(SQUARE, pde=20))):
        assert unit_box(sampler).judge(unit_box(sampler).init(cases.KEY).batch)["pde"].shape == (20, 2)


# --------------------------------------------------------------------------------------------------- time marching


def test_windows_grow_to_all_times():
    sampler = rv.Marching(rv.Sobol(BOX, pde=64, bc=8, ic=8), windows=4, every=3)
    sampler = sampler.bind(REGIONS, np.dtype(float))
    batches = given_out(sampler, 16)
    for step, batch in enumerate(batches):
        reach = 2 * min(step // 3 + 1, 4) / 4
        assert reach * 0.9 < batch["pde"][:, 1].max() <= reach
        assert batch["bc"][:, 1].max() <= reach
        assert set(np.abs(batch["bc"][:, 0])) == {1.0}
        assert (batch["ic"][:, 1] == 0).all()
    changed = [not np.array_equal(a["pde"], b["pde"]) for a, b in itertools.pairwise(batches)]
    assert changed == [step % 3 == 0 and step < 12 for step in range(1, 16)]
    judged = sampler.judge(sampler.init(cases.KEY).batch)
    assert 1.9 < judged["pde"][:, 1].max() <= 2


def test_marching_needs_a_time():
    with pytest.raises(ValueError, match="the last coordinate is no time"):
        rv.Marching(rv.Sobol(BOX, pde=4)).bind({"pde": "interior"}, np.dtype(float))
    with pytest.raises(ValueError, match="needs points of a box"):
        rv.Marching(rv.RAD(rv.Sobol(BOX, pde=4)))


# ----------------------------------------------------------------------------------------------------- minibatches


@pytest.mark.parametrize("samples,size", [(12, 4), (13, 5), (6, 6), (5, 1), (1100, 200)])
def test_each_sample_once_an_epoch_in_a_new_order(samples, size):
    data = {"data": (jnp.arange(float(samples)), 10 * jnp.arange(float(samples)))}
    per_epoch = samples // size
    batches = given_out(rv.Minibatches(data, size=size), 3 * per_epoch)
    orders = []
    for epoch in range(3):
        x = np.concatenate([b["data"][0] for b in batches[epoch * per_epoch : (epoch + 1) * per_epoch]])
        assert len(set(x)) == per_epoch * size
        orders.append(tuple(x))
    assert len(set(orders)) == 3
    for batch in batches:
        np.testing.assert_array_equal(batch["data"][1], 10 * batch["data"][0])  # pairs stay together


def test_constant():
    batches = given_out(rv.Constant({"a": jnp.arange(3.0)}), 3)
    assert all(batch["a"].tolist() == [0.0, 1.0, 2.0] for batch in batches)


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("count", [0, -1, 2.5, True, "8"])
def test_counts_must_be_whole_numbers(count):
    with pytest.raises((ValueError, TypeError), match=r"pde|int"):
        rv.Sobol(BOX, pde=count)


@pytest.mark.parametrize("make", [
    lambda: rv.Redrawn(rv.Sobol(BOX, pde=4), every=0),
    lambda: rv.Redrawn(rv.Sobol(BOX, pde=4), departs=0.5),
    lambda: rv.RAR(rv.Sobol(BOX, pde=4), start=0.0),
    lambda: rv.R3(rv.Sobol(BOX, pde=4), every=0),
    lambda: rv.Importance(rv.Sobol(BOX, pde=4), floor=0.0),
    lambda: rv.Marching(rv.Sobol(BOX, pde=4), windows=0),
    lambda: rv.RAD(rv.Sobol(BOX, pde=4), every=0),
    lambda: rv.RAD(rv.Sobol(BOX, pde=4), pool=1),
    lambda: rv.RAD(rv.Sobol(BOX, pde=4), power=-1.0),
    lambda: rv.Minibatches({"a": jnp.ones(3)}, size=4),
    lambda: rv.Minibatches({"a": jnp.ones(3), "b": jnp.ones(4)}, size=2),
])  # fmt: skip
def test_settings_that_make_no_sense(make):
    with pytest.raises(ValueError, match=r"^(Redrawn|RAD|RAR|R3|Importance|Marching|Minibatches): "):
        make()


def test_an_unbound_sampler_says_what_to_do():
    with pytest.raises(ValueError, match="does not know yet where its terms live"):
        rv.Sobol(BOX, pde=4).init(cases.KEY)


def test_rad_needs_a_score():
    sampler = rv.RAD(rv.Sobol(BOX, pde=4)).bind({"pde": "interior"}, np.dtype(float))
    with pytest.raises(ValueError, match="RAD: needs a score"):
        sampler.sample(sampler.init(cases.KEY))


# ----------------------------------------------------------------------------------------- batches that know their data


DATA = {"data": (jnp.arange(13.0), 10 * jnp.arange(13.0))}


@pytest.mark.parametrize("sampler", [
    rv.Minibatches(DATA, size=4), rv.Minibatches(DATA, size=4, replace=True), rv.Overlapping(DATA, size=5, overlap=2),
    rv.Overlapping(DATA, size=5, overlap=4), rv.Constant(DATA),
], ids=["shuffled", "replaced", "overlapping", "mostly", "constant"])  # fmt: skip
def test_batches_say_which_samples_they_hold(sampler):
    assert sampler.samples == 13
    for batch in given_out(sampler, 9):
        for part, whole in zip(batch["data"], DATA["data"], strict=True):
            np.testing.assert_array_equal(part, np.asarray(whole)[batch.indices])
        jax.tree.map(np.testing.assert_array_equal, batch.whole, jax.device_get(DATA))


def test_with_replacement_every_sample_is_as_likely():
    """Independent draws: a batch of all samples' number holds 1 − 1/e of them; shares are even."""
    sampler = rv.Minibatches({"data": jnp.arange(20)}, size=20, replace=True)
    batches = [np.asarray(batch.indices) for batch in given_out(sampler, 400)]
    assert np.mean([len(set(batch)) for batch in batches]) == pytest.approx(20 * (1 - (1 - 1 / 20) ** 20), rel=0.02)
    counts = np.bincount(np.concatenate(batches), minlength=20)
    assert (np.abs(counts - 400) < 5 * np.sqrt(400)).all()


@pytest.mark.parametrize("size,overlap", [(5, 2), (5, 4), (6, 6), (13, 1)])
def test_overlapping_batches_share_what_they_say(size, overlap):
    batches = given_out(rv.Overlapping(DATA, size=size, overlap=overlap), 30)
    for before, after in itertools.pairwise(batches):
        assert after.shared == overlap
        np.testing.assert_array_equal(after.indices[:overlap], before.indices[size - overlap :])
    new = size - overlap
    if new:  # each sample at most once in the new ones of an epoch
        for epoch in range(30 // (13 // new)):
            part = batches[epoch * (13 // new) : (epoch + 1) * (13 // new)]
            fresh = np.concatenate([batch.indices[overlap:] for batch in part])
            assert len(set(fresh)) == len(fresh)


def test_the_state_of_a_sampler_holds_no_data():
    """What a run saves is a batch and not the data."""
    sampler = rv.Overlapping({"data": jnp.zeros((1000, 3))}, size=4, overlap=2)
    for made in (sampler, rv.Minibatches({"data": jnp.zeros((1000, 3))}, size=4)):
        _, state = made.sample(made.init(cases.KEY))
        assert max(leaf.shape[0] for leaf in jax.tree.leaves(state.batch)) == 4


@pytest.mark.parametrize("overlap", [0, 6])
def test_an_overlap_lies_within_a_batch(overlap):
    with pytest.raises(ValueError, match=r"^Overlapping: the overlap"):
        rv.Overlapping(DATA, size=5, overlap=overlap)


def test_data_without_common_samples_have_no_indices():
    batch = given_out(rv.Constant({"a": jnp.ones(3), "b": jnp.ones(4)}), 1)[0]
    assert batch.indices is None
    assert batch.whole is not None


@pytest.mark.parametrize("size", [1025, 1500, 4096, 4097])
def test_long_permutations_are_permutations(size):
    """Every place once, in another order with another key; places are as likely as each other to hold anything."""
    order = jax.jit(lambda key: permuted(key, jnp.arange(size), size))
    one, other = np.asarray(order(cases.KEY)), np.asarray(order(jax.random.key(1)))
    np.testing.assert_array_equal(np.sort(one), np.arange(size))
    assert np.mean(one == other) < 0.01
    np.testing.assert_array_equal(permuted(cases.KEY, jnp.array([3, 700]), size), one[[3, 700]])
    orders = np.asarray(jax.jit(jax.vmap(order))(jax.random.split(cases.KEY, 300)))
    for place in (0, 1, size // 2, size - 1):  # uniform: mean and spread of 300 draws, and no memory of the neighbour
        found = orders[:, place] / size
        assert abs(found.mean() - 0.5) < 5 / np.sqrt(12 * 300)
        assert found.var() == pytest.approx(1 / 12, rel=0.3)
    assert abs(np.corrcoef(orders[:, 0], orders[:, 1])[0, 1]) < 5 / np.sqrt(300)
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 5 / np.sqrt(size)
