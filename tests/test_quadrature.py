"""Quadrature rules: exact for the polynomials they promise, and with the rates they promise for others."""

import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.quadrature import gauss_legendre, smolyak


def mean(sampler, function, where="interior", time=False):
    """The mean of `function` over a region by the rule of a sampler."""
    rule = sampler.bind({"f": where}, np.dtype(float)).init(cases.KEY).batch["f"]
    np.testing.assert_allclose(jnp.sum(rule.weights), 1)
    return float(rule.weights @ np.asarray([function(z) for z in np.asarray(rule.points)]))


@pytest.mark.parametrize("panels", [1, 3])
def test_gauss_legendre_is_exact_to_degree_2n_minus_1(panels):
    nodes, weights = gauss_legendre(4, panels)
    for degree in range(8):
        assert weights @ nodes**degree == pytest.approx(1 / (degree + 1), rel=1e-13)
    assert abs(weights @ nodes**8 - 1 / 9) > 1e-9


def test_gauss_on_a_box():
    box = rv.Box((-1.0, 0.0), (1.0, 3.0))
    assert mean(rv.Gauss(box, f=16), lambda z: z[0] ** 6 * z[1] ** 7) == pytest.approx(3**7 / 8 / 7, rel=1e-12)
    # 20 points: four nodes a coordinate, and no more than was asked for.
    assert rv.Gauss(box, f=20).bind({"f": "interior"}, np.dtype(float)).init(cases.KEY).batch["f"].weights.size == 16
    # The mean over the four faces, each with an equal share.
    faces = mean(rv.Gauss(box, f=16), lambda z: z[0] ** 2 * z[1], "boundary")
    assert faces == pytest.approx((1.5 + 1.5 + 0 + 1) / 4, rel=1e-12)


def test_gauss_converges_geometrically_and_panels_algebraically():
    line = rv.interval(0.0, 1.0)
    exact = float(np.sin(9.0) / 9)
    function = lambda z: np.cos(9 * z[0])
    errors = [abs(mean(rv.Gauss(line, f=n), function) - exact) for n in (4, 8, 12)]
    assert errors[1] < 1e-4 * errors[0]
    assert errors[2] < 1e-13
    errors = [abs(mean(rv.Gauss(line, f=2 * p, panels=p), function) - exact) for p in (8, 16, 32)]
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 4, atol=0.2)


def test_a_run_is_judged_by_other_nodes():
    sampler = rv.Gauss(rv.interval(0.0, 1.0), f=5).bind({"f": "interior"}, np.dtype(float))
    batch = sampler.init(cases.KEY).batch
    judged = sampler.judge(batch)["f"]
    assert judged.points.shape[0] == 6
    assert not np.isin(np.asarray(judged.points), np.asarray(batch["f"].points)).any()


@pytest.mark.parametrize("dimension,level", [(1, 4), (2, 3), (3, 3), (5, 2)])
def test_sparse_grids_are_exact_to_total_degree(dimension, level):
    nodes, weights = smolyak(dimension, level)
    assert np.sum(weights) == pytest.approx(1)
    random = np.random.default_rng(level)
    for _ in range(20):
        powers = random.multinomial(2 * level + 1, np.ones(dimension) / dimension)
        assert weights @ np.prod(nodes**powers, axis=1) == pytest.approx(np.prod(1 / (powers + 1)), abs=1e-13)
    assert len(np.unique(nodes, axis=0)) == len(nodes)


def test_sparse_grids_need_few_points_in_many_dimensions():
    """∏ of six exponentials: below 1e-6 with some thousand points, where a tensor grid of as many has three a side."""
    box = rv.Box((0.0,) * 6, (1.0,) * 6)
    function = lambda z: np.exp(np.sum(z) / 2)
    exact = (2 * (np.exp(0.5) - 1)) ** 6
    sparse, tensor = (abs(mean(sampler(box, f=1500), function) / exact - 1) for sampler in (rv.Sparse, rv.Gauss))
    assert sparse < 1e-6
    assert tensor > 5 * sparse


def test_weights_that_are_negative_leave_gauss_newton_finite():
    """The gradient is that of the rule; the Gauss–Newton matrix is that of its positive part."""
    box = rv.Box((0.0, 0.0), (1.0, 1.0))
    batch = {"bc": rv.Sparse(box, bc=30).bind({"bc": "interior"}, np.dtype(float)).init(cases.KEY).batch["bc"]}
    assert float(batch["bc"].weights.min()) < 0
    objective, theta = rv.Objective.from_terms((rv.boundary("bc", 0.5),), cases.network())
    gram = objective.linearise(theta, batch).gram()
    positive = {"bc": rv.Weighted(batch["bc"].points, jnp.maximum(batch["bc"].weights, 0))}
    np.testing.assert_allclose(gram, objective.linearise(theta, positive).gram(), rtol=1e-12)


def test_bad_input():
    box = rv.Box((0.0,), (1.0,))
    with pytest.raises(ValueError, match="Gauss: panels is 0"):
        rv.Gauss(box, panels=0, f=3)
    with pytest.raises(ValueError, match="Gauss: the term 'f' was given 0 points"):
        rv.Gauss(box, f=0)
    with pytest.raises(ValueError, match="Sparse: it does not know yet"):
        rv.Sparse(box, f=3).init(cases.KEY)
    with pytest.raises(ValueError, match=r"Gauss: the terms \['g'\] have no points"):
        rv.Gauss(box, f=3).bind({"f": "interior", "g": "interior"}, np.dtype(float))
