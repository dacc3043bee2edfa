"""Boxes, their faces, and the maps from the unit cube."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import cases
import ravine as rv

ends = st.tuples(st.floats(-1e6, 1e6, allow_subnormal=False), st.floats(1e-3, 1e6)).map(
    lambda pair: (pair[0], pair[0] + pair[1])
)
boxes = st.lists(ends, min_size=1, max_size=4)
many = settings(max_examples=12, deadline=None, derandomize=True)


def unit(count, dimension, seed=0):
    """Points of the unit cube with its corners among them."""
    x = np.random.default_rng(seed).uniform(size=(count, dimension))
    x[0], x[-1] = 0, 1
    return jnp.asarray(x)


@many
@given(boxes)
def test_interior_points_lie_in_the_box_and_reach_its_corners(sides):
    low, high = map(np.array, zip(*sides, strict=True))
    box = rv.Box(low, high)
    region = box.interior()
    x = np.asarray(region.place(unit(8, region.dimension)))
    assert x.shape == (8, len(sides))
    slack = 1e-12 * np.maximum(np.abs(low), np.abs(high))
    assert (x >= low - slack).all()
    assert (x <= high + slack).all()
    np.testing.assert_array_equal(x[0], low)
    np.testing.assert_array_equal(x[-1], high)
    np.testing.assert_allclose(box.volume, np.prod(high - low))


@many
@given(boxes, st.booleans())
def test_boundary_points_lie_exactly_on_faces_evenly_shared(sides, time):
    if time and len(sides) == 1:
        return
    low, high = map(np.array, zip(*sides, strict=True))
    region = rv.Box(low, high).boundary(time=time)
    space = len(sides) - time
    per_face = 3
    x = np.asarray(region.place(unit(2 * space * per_face, region.dimension)))
    on_face = [x[:, axis] == end[axis] for axis in range(space) for end in (low, high)]
    assert np.any(on_face, axis=0).all()
    # Each face has its run of three points (corners may count for more).
    assert all(face.sum() >= per_face for face in on_face)


def test_boundary_in_one_dimension_is_both_ends():
    region = rv.Box((-1.0,), (2.0,)).boundary()
    assert region.dimension == 0
    assert np.asarray(region.place(jnp.zeros((4, 0))))[:, 0].tolist() == [-1.0, -1.0, 2.0, 2.0]


def test_initial_slice_is_the_first_time():
    box = rv.Box((-1.0, 0.5), (1.0, 2.0))
    region = box.region("initial", time=True)
    x = np.asarray(region.place(unit(5, 1)))
    assert (x[:, 1] == 0.5).all()
    np.testing.assert_allclose(x[:, 0], 2 * np.asarray(unit(5, 1))[:, 0] - 1)


def test_time_has_no_faces():
    x = np.asarray(rv.Box((-1.0, 0.0), (1.0, 3.0)).boundary(time=True).place(unit(40, 1)))
    assert set(x[:, 0]) == {-1.0, 1.0}
    assert x[:, 1].min() == 0.0
    assert x[:, 1].max() == 3.0


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("high", [False, True])
def test_one_face(axis, high):
    low, upper = (0.0, 1.0, 2.0), (10.0, 20.0, 30.0)
    region = rv.Box(low, upper).face(axis, high=high)
    x = np.asarray(region.place(unit(6, 2)))
    assert (x[:, axis] == (upper if high else low)[axis]).all()
    others = [other for other in range(3) if other != axis]
    scaled = (x[:, others] - np.array(low)[others]) / (np.array(upper) - np.array(low))[others]
    np.testing.assert_allclose(scaled, unit(6, 2), atol=1e-14)


@pytest.mark.parametrize(
    "low,high",
    [((0.0,), (0.0,)), ((1.0,), (0.0,)), ((0.0, 0.0), (1.0,)), ((np.nan,), (1.0,)), ((0.0,), (np.inf,))],
)
def test_corners_that_span_no_box(low, high):
    with pytest.raises(ValueError, match="Box: "):
        rv.Box(low, high)


def test_unknown_region():
    with pytest.raises(ValueError, match="no region 'corner'; choose from interior, boundary, initial"):
        rv.Box((0.0,), (1.0,)).region("corner")


def test_float32_points_stay_float32_and_hit_the_ends():
    region = rv.Box((0.1,), (0.7,)).interior()
    x = region.place(jnp.array([[0.0], [1.0]], jnp.float32))
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x[:, 0], np.array([0.1, 0.7], np.float32))


# --------------------------------------------------------------------------------------------------------- other shapes


def off(z):
    return z[0] + z[1] > 0.5


SHAPES = [
    rv.Ball((1.0,), 2.0),
    rv.Ball((0.5, -1.0), 2.0),
    rv.Ball((0.5, -1.0, 0.2), 2.0),
    rv.Ball((0.0,) * 5, 1.0),
    rv.Simplex([(0.0, 0.0), (2.0, 0.5), (0.5, 1.0)]),
    rv.Simplex([(0.0, 0.0, 0.0), (2.0, 0.5, 0.0), (0.5, 1.0, 0.0), (0.1, 0.2, 1.5)]),
    rv.Masked(rv.Box((-1.0, 0.0), (1.0, 2.0)), off),
    rv.Difference(rv.Ball((0.0, 0.0), 2.0), rv.Box((-0.5, -0.5), (0.5, 0.7))),
    rv.Union(rv.Ball((0.0, 0.0), 1.0), rv.Box((0.0, -0.5), (2.0, 0.5))),
    rv.InTime(rv.Difference(rv.Ball((0.0, 0.0), 2.0), rv.Ball((0.5, 0.0), 1.0)), 1.0, 3.0),
]
named = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{type(shape).__name__}{shape.dimension}")


def drawn(shape, where, count=4000, sampler=rv.Uniform):
    bound = sampler(shape, f=count).bind({"f": where}, np.dtype(float))
    return np.asarray(bound.init(jax.random.key(3)).batch["f"])


@named
def test_interior_points_are_uniform(shape):
    """First and second moments agree with those of points of the bounding box that lie inside (Monte Carlo, 5 σ)."""
    x = drawn(shape, "interior")
    assert x.shape == (4000, shape.dimension)
    assert np.asarray(shape.contains(jnp.asarray(x))).all()
    low, high = shape.bounds
    tried = np.random.default_rng(0).uniform(low, high, size=(40_000, len(low)))
    kept = np.asarray(shape.contains(jnp.asarray(tried)))
    assert shape.volume == pytest.approx(kept.mean() * np.prod(high - low), rel=0.08)
    for power in (1, 2):
        a, b = x**power, tried[kept] ** power
        error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 5 * error).all()


@named
def test_boundary_points_lie_on_the_boundary(shape):
    if isinstance(shape, rv.Masked):
        return
    x = drawn(shape, "boundary", 101)
    assert x.shape == (101, shape.dimension)
    space = shape.space if isinstance(shape, rv.InTime) else shape
    around = np.random.default_rng(1).normal(size=(200, 1, space.dimension))
    near = x[None, :, : space.dimension] + 1e-3 * around / np.linalg.norm(around, axis=2, keepdims=True)
    inside = np.asarray(space.contains(jnp.asarray(near.reshape(-1, space.dimension)))).reshape(200, -1)
    assert inside.any(axis=0).all()
    assert (~inside).any(axis=0).all()


def test_moments_by_quadrature():
    """⟨|x|²⟩ is R² d/(d + 2) in a ball; on a triangle ⟨x⟩ is the centroid; time is integrated along."""
    for d in (1, 2, 3):
        rule = (
            rv.Gauss(rv.Ball((0.0,) * d, 2.0), f=10**d).bind({"f": "interior"}, np.dtype(float)).init(cases.KEY).batch
        )
        square = rule["f"].weights @ jnp.sum(rule["f"].points ** 2, axis=1)
        assert float(square) == pytest.approx(4 * d / (d + 2), rel=1e-12)
    space = rv.Simplex([(0.0, 0.0), (2.0, 0.5), (0.5, 1.0)])
    rule = (
        rv.Gauss(rv.InTime(space, 1.0, 2.0), f=4**3).bind({"f": "interior"}, np.dtype(float)).init(cases.KEY).batch["f"]
    )
    np.testing.assert_allclose(rule.weights @ rule.points, [2.5 / 3, 0.5, 1.5], rtol=1e-12)
    np.testing.assert_allclose(rule.weights @ rule.points[:, 2] ** 2, 7 / 3, rtol=1e-12)


def test_time_beside_any_shape():
    shape = SHAPES[-1]
    assert (drawn(shape, "initial", 50)[:, 2] == 1.0).all()
    time = drawn(shape, "boundary", 400)[:, 2]
    assert 1 <= time.min() < 1.05 < 2.95 < time.max() <= 3


def test_masks_keep_low_discrepancy_points():
    """As many as asked for, no two alike."""
    x = drawn(SHAPES[6], "interior", 257, rv.Sobol)
    assert len(np.unique(x, axis=0)) == 257


@pytest.mark.parametrize("make,told", [
    (lambda: rv.Ball((0.0,), -1.0), "radius above zero"),
    (lambda: rv.Simplex([(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]), "span no volume"),
    (lambda: rv.Simplex([(0.0, 0.0), (1.0, 1.0)]), "needs d . 1 finite vertices"),
    (lambda: rv.InTime(rv.Ball((0.0,), 1.0), 1.0, 1.0), "finite start < end"),
    (lambda: rv.Union(rv.Ball((0.0,), 1.0), rv.Ball((0.0, 0.0), 1.0)), "1 and 2 coordinates"),
    (lambda: rv.Masked(rv.Ball((0.0, 0.0), 0.1), off).region("interior"), "next to nothing is left"),
    (lambda: rv.Ball((0.0,) * 4, 1.0).region("interior").weighed(jnp.zeros((2, 5))), "no quadrature rule in 4"),
])  # fmt: skip
def test_shapes_that_make_no_sense(make, told):
    with pytest.raises(ValueError, match=told):
        make()
