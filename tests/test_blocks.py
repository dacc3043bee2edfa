"""How many points are evaluated at once: the values that each needs are counted, and memory stays bounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ravine as rv
from ravine import blocks
from ravine.blocks import automatic, footprint

A = jnp.zeros((5, 3))


@pytest.mark.parametrize(
    "function, numbers",
    [
        (lambda a, x: jnp.sin(a @ x), 10),
        (lambda a, x: a @ x + jnp.sum(a @ a.T), 10),  # a aᵀ is there once for all points
        (lambda a, x: jax.jit(lambda a, x: (jnp.sin(a), a @ x))(a, x)[1], 5),
        (lambda a, x: jnp.exp(jax.jit(lambda a, x: (jnp.sin(a), a @ x))(a, x)[0]), 5),
        (lambda a, x: lax.scan(lambda c, _: (c + x, None), jnp.zeros(3), length=7)[0], 21),
        (lambda a, x: lax.cond(x[0] > 0, lambda: jnp.sin(x), lambda: jnp.sin(jnp.cos(x))), 8),
    ],
)
def test_footprint_counts_what_depends_on_the_point(function, numbers):
    found = footprint(function, A, jnp.zeros(3)) / A.dtype.itemsize
    assert numbers <= found <= numbers + 2  # a comparison and an index take a little


def test_blocks_shrink_for_points_that_need_much():
    few, fewer = blocks.FEWEST
    assert automatic(2000, 0) == automatic(2000, blocks.WHOLE // 2000) == 2000
    assert automatic(2000, 2 * blocks.WHOLE // 2000) == blocks.BLOCK // (2 * blocks.WHOLE // 2000) < 2000
    assert automatic(2000, blocks.BLOCK // few + 1) == automatic(2000, blocks.LARGE // few) == few
    assert automatic(2000, blocks.LARGE // (few // 2)) == few // 2
    assert automatic(2000, blocks.LARGE // 2) == fewer
    assert automatic(2000, blocks.ROOM // 5) == 5
    assert automatic(2000, 2 * blocks.ROOM) == 1
    assert automatic(3, blocks.WHOLE) == 3


def _temporaries(points: int) -> int:
    problem = rv.problems.make("poisson100d", points=points, width=16, depth=2)
    objective, theta, sampler = problem.objective(jax.random.key(0))
    batch = sampler.init(jax.random.key(1)).batch
    compiled = jax.jit(lambda *args: objective.value_and_grad(*args)).lower(theta, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_of_a_gradient_does_not_grow_with_points_that_need_much(monkeypatch):
    monkeypatch.setattr(blocks, "ROOM", 2**22)
    assert _temporaries(1600) < 1.5 * _temporaries(200)


def test_rows_of_a_kernel_are_made_in_blocks_of_points_too(monkeypatch):
    """JJᵀ of rows that are not stored, with a handful of points at once, is that of J."""
    problem = rv.problems.make("poisson10d", points=24, width=6, depth=2)
    objective, theta, sampler = problem.objective(jax.random.key(0))
    lin = objective.linearise(theta, sampler.init(jax.random.key(1)).batch)
    rows = np.asarray(lin.jacobian())
    monkeypatch.setattr(blocks, "ROOM", 2**14)
    found = rv.pieces.blocked_kernel(lin._pieces, theta, None, most=2**14)
    np.testing.assert_allclose(found, rows @ rows.T, atol=1e-12 * np.abs(rows @ rows.T).max())
