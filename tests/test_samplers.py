"""Where points fall, when they are drawn anew, and how evenly."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import cases
import oracles
import ravine as rv
from ravine.minibatches import permuted
from ravine.samplers import _morton

BOX = rv.Box((-1.0, 0.0), (1.0, 2.0))
REGIONS = {"pde": "interior", "bc": "boundary", "ic": "initial"}
KINDS = {"uniform": rv.Uniform, "sobol": rv.Sobol, "grid": rv.Grid}


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


@pytest.mark.parametrize("kind", ["uniform", "sobol"])
def test_without_an_initial_condition_there_are_four_faces(kind):
    edge = np.asarray(bound(kind, bc=32).init(cases.KEY).batch["bc"])
    counts = [(edge[:, axis] == end).sum() for axis, end in ((0, -1), (0, 1), (1, 0), (1, 2))]
    assert counts == [8, 8, 8, 8]


@pytest.mark.parametrize("kind", ["uniform", "sobol"])
def test_draws_are_reproducible_and_differ_by_key_and_term(kind):
    sampler = bound(kind, pde=16, ic=16)
    one, same, other = (sampler.draw(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one["pde"], same["pde"])
    assert not np.array_equal(one["pde"], other["pde"])
    assert not np.array_equal(one["pde"][:, 0], one["ic"][:, 0])


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 3), st.sampled_from(["uniform", "sobol"]))
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
    lambda: rv.RAD(rv.Sobol(BOX, pde=4), every=0),
    lambda: rv.RAD(rv.Sobol(BOX, pde=4), pool=1),
    lambda: rv.RAD(rv.Sobol(BOX, pde=4), power=-1.0),
    lambda: rv.Minibatches({"a": jnp.ones(3)}, size=4),
    lambda: rv.Minibatches({"a": jnp.ones(3), "b": jnp.ones(4)}, size=2),
])  # fmt: skip
def test_settings_that_make_no_sense(make):
    with pytest.raises(ValueError, match=r"^(Redrawn|RAD|Minibatches): "):
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
