"""Conjugate gradients and the Nyström approximation against dense linear algebra and theory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ravine.linalg import conjugate_gradients, nystrom

KEY = jax.random.key(3)


def symmetric(values, seed=0):
    """A matrix with these eigenvalues."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values),) * 2))[0]
    matrix = (basis * values) @ basis.T
    return jnp.asarray((matrix + matrix.T) / 2)


@functools.partial(jax.jit, static_argnames="preconditioner")
def compiled(matrix, right, preconditioner, tolerance, iterations):
    product = lambda v: matrix @ v
    return conjugate_gradients(
        product, right, preconditioner=preconditioner, tolerance=tolerance, iterations=iterations
    )


def solve(matrix, right, *, preconditioner=None, tolerance=1e-6, iterations=100):
    return jax.device_get(compiled(matrix, right, preconditioner, tolerance, iterations))


# ----------------------------------------------------------------------------------------------- conjugate gradients


def test_conjugate_gradients_solve_the_system():
    matrix, right = symmetric(np.geomspace(1e-3, 1, 30)), jnp.linspace(-1, 2, 30)
    found = solve(matrix, right, tolerance=1e-12, iterations=300)
    np.testing.assert_allclose(found.x, np.linalg.solve(matrix, right), rtol=1e-7)
    assert found.definite
    assert found.residual <= 1e-12
    np.testing.assert_allclose(np.linalg.norm(right - matrix @ found.x) / np.linalg.norm(right), 0, atol=1e-10)


def test_as_many_iterations_as_distinct_eigenvalues():
    """The residual polynomial of degree k vanishes on k points (Nocedal and Wright, 2006, theorem 5.4)."""
    matrix = symmetric([1.0] * 10 + [3.0] * 10 + [50.0] * 10)
    found = solve(matrix, jnp.ones(30), tolerance=1e-10)
    assert found.iterations == 3


@pytest.mark.parametrize("kappa", [10.0, 1000.0])
def test_error_falls_as_chebyshev_says(kappa):
    """‖e_k‖_A ≤ 2((√κ − 1)/(√κ + 1))ᵏ‖e₀‖_A."""
    matrix, right = symmetric(np.linspace(1 / kappa, 1, 200)), jnp.ones(200)
    exact, root = np.linalg.solve(matrix, right), np.sqrt(kappa)
    size = lambda e: np.sqrt(e @ matrix @ e)
    for count in (5, 20, 40):
        found = solve(matrix, right, tolerance=0.0, iterations=count)
        assert found.iterations == count
        assert size(found.x - exact) <= 2 * ((root - 1) / (root + 1)) ** count * size(exact)


def test_preconditioned_iterates_are_those_of_the_transformed_system():
    """P⁻¹ = CCᵀ: iterate k is C times iterate k of CᵀAC y = Cᵀb."""
    matrix, right = symmetric(np.geomspace(1e-2, 1, 12)), jnp.linspace(1, 2, 12)
    c = np.linalg.cholesky(symmetric(np.geomspace(1, 9, 12), seed=1))
    for count in (1, 4):
        found = solve(matrix, right, preconditioner=lambda v: c @ (c.T @ v), tolerance=0.0, iterations=count)
        other = solve(jnp.asarray(c.T @ matrix @ c), jnp.asarray(c.T @ right), tolerance=0.0, iterations=count)
        np.testing.assert_allclose(found.x, c @ other.x, rtol=1e-9)


def test_an_exact_preconditioner_needs_one_iteration():
    matrix = symmetric(np.geomspace(1e-6, 1, 20))
    inverse = np.linalg.inv(matrix)
    found = solve(matrix, jnp.ones(20), preconditioner=lambda v: inverse @ v, tolerance=1e-6)
    assert found.iterations == 1


def test_stops_at_the_tolerance_and_not_before():
    matrix, right = symmetric(np.geomspace(1e-2, 1, 40)), jnp.ones(40)
    norms = [float(solve(matrix, right, tolerance=0.0, iterations=k).residual) for k in range(60)]
    for tolerance in (0.5, 1e-2, 1e-5):
        found = solve(matrix, right, tolerance=tolerance, iterations=60)
        assert found.iterations == next(k for k, norm in enumerate(norms) if norm <= tolerance)


def test_a_zero_right_hand_side_takes_nothing():
    found = solve(jnp.eye(3), jnp.zeros(3))
    assert (int(found.iterations), float(found.residual), bool(found.definite)) == (0, 0.0, True)
    np.testing.assert_array_equal(found.x, 0)


def test_negative_curvature_ends_the_iteration():
    """At once: the downhill direction P⁻¹b; later: the minimiser over the space before it."""
    found = solve(-jnp.eye(3), jnp.arange(3.0))
    assert not found.definite
    np.testing.assert_array_equal(found.x, jnp.arange(3.0))
    matrix, right = jnp.diag(jnp.array([4.0, 1.0, -0.5])), jnp.array([1.0, 1.0, 0.1])
    found = solve(matrix, right, tolerance=1e-12)
    before = solve(matrix, right, tolerance=0.0, iterations=int(found.iterations) - 1)
    assert not found.definite
    assert found.iterations > 1
    np.testing.assert_array_equal(found.x, before.x)
    assert right @ found.x > 0


def test_numbers_that_are_not_finite_end_the_iteration():
    found = jax.jit(lambda b: conjugate_gradients(lambda v: jnp.nan * v, b))(jnp.ones(3))
    assert (int(found.iterations), bool(found.definite)) == (1, False)
    assert np.isfinite(found.x).all()


def test_batches_of_systems_by_vmap():
    matrices = jnp.stack([symmetric(np.geomspace(0.1, 1, 6), seed) for seed in range(3)])
    rights = jnp.arange(18.0).reshape(3, 6)
    one = lambda a, b: conjugate_gradients(lambda v: a @ v, b, tolerance=1e-12).x
    found = jax.vmap(one)(matrices, rights)
    np.testing.assert_allclose(found, np.linalg.solve(matrices, rights[..., None])[..., 0], rtol=1e-9)


# ------------------------------------------------------------------------------------------------------------ Nyström


@functools.partial(jax.jit, static_argnames=("rank", "group"))
def sketch(matrix, rank, key=KEY, group=8):
    return nystrom(lambda v: matrix @ v, matrix.shape[0], rank=rank, key=key, dtype=matrix.dtype, group=group)


def dense(found):
    vectors = np.asarray(found.vectors)
    return vectors.T * np.asarray(found.values) @ vectors


@pytest.mark.parametrize("group", [1, 3, 8])
def test_nystrom_is_the_dense_formula(group):
    """AΩ(ΩᵀAΩ)⁺ΩᵀA, whatever the grouping of the products."""
    matrix = symmetric(np.geomspace(1e-3, 1, 25))
    found = sketch(matrix, 7, group=group)
    omega = np.linalg.qr(np.asarray(jax.random.normal(KEY, (25, 7))))[0]
    image = np.asarray(matrix) @ omega
    np.testing.assert_allclose(dense(found), image @ np.linalg.solve(omega.T @ image, image.T), atol=1e-12)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(7), atol=1e-12)
    assert (np.diff(found.values) <= 0).all()
    for v in np.eye(25)[:3]:
        np.testing.assert_allclose(found(jnp.asarray(v)), dense(found) @ v, atol=1e-12)


def test_nystrom_lies_below_the_matrix_and_is_exact_at_its_rank():
    matrix = symmetric(np.geomspace(1e-6, 1, 20))
    assert np.linalg.eigvalsh(matrix - dense(sketch(matrix, 8))).min() > -1e-12
    low = symmetric([3.0, 2.0, 1.0] + [0.0] * 17)
    for rank in (3, 8, 20):
        np.testing.assert_allclose(dense(sketch(low, rank)), low, atol=1e-11)


def test_nystrom_error_meets_its_bound():
    """E‖A − Â‖ ≤ (1 + 2p/(r − p − 1))λ_{p+1} + 2e²r/((r − p)² − 1) Σ_{j>p} λ_j (the paper's proposition 2.2)."""
    values = 2.0 ** -np.arange(40.0)
    matrix, rank = symmetric(values), 12
    errors = [np.linalg.norm(matrix - dense(sketch(matrix, rank, jax.random.key(k))), 2) for k in range(20)]
    bounds = [
        (1 + 2 * (p - 1) / (rank - p)) * values[p - 1]
        + 2 * np.e**2 * rank / ((rank - p + 1) ** 2 - 1) * values[p - 1 :].sum()
        for p in range(2, rank - 1)
    ]
    assert np.mean(errors) <= min(bounds)
    assert np.mean(errors) >= values[rank]  # no approximation of this rank is better


@pytest.mark.parametrize("shift", [1e-6, 1e-2])
def test_preconditioner_is_the_dense_formula_and_meets_its_bound(shift):
    """cond(P⁻¹ᐟ²(A + μ)P⁻¹ᐟ²) ≤ (λ_r + μ + ‖A − Â‖)/μ, and no more than 1 + that error/μ per part (5.3)."""
    values = np.exp(-0.5 * np.arange(60.0))
    matrix = symmetric(values)
    found = sketch(matrix, 20)
    inverse = jax.vmap(lambda v: found.precondition(v, jnp.asarray(shift)))(jnp.eye(60))
    u, lam = np.asarray(found.vectors).T, np.asarray(found.values)
    exact = (lam[-1] + shift) * (u / (lam + shift)) @ u.T + np.eye(60) - u @ u.T
    np.testing.assert_allclose(inverse, exact, atol=1e-12)
    root = np.linalg.cholesky(exact)
    condition = np.linalg.cond(root.T @ (np.asarray(matrix) + shift * np.eye(60)) @ root)
    error = np.linalg.norm(matrix - dense(found), 2)
    assert condition <= (lam[-1] + shift + error) / shift * (1 + 1e-6)
    assert condition < 0.1 * (values[0] + shift) / (values[-1] + shift)


def test_iterations_fall_with_the_rank_as_theory_says():
    """By 2((√κ − 1)/(√κ + 1))ᵏ with the preconditioned κ; beyond the effective dimension a handful is enough."""
    values = np.exp(-0.3 * np.arange(100.0))
    shift, right = 1e-6, jnp.ones(100)
    matrix = symmetric(values)
    damped = matrix + shift * jnp.eye(100)
    counts = []
    for rank in (1, 10, 20, 40, 80):
        found = sketch(matrix, rank)
        precondition = lambda v, found=found: found.precondition(v, jnp.asarray(shift))
        result = solve(damped, right, preconditioner=precondition, tolerance=1e-8, iterations=1000)
        error = np.linalg.norm(matrix - dense(found), 2)
        kappa = (float(found.values[-1]) + shift + error) / shift
        # The bound is on the energy norm; √cond turns it into one on the residual.
        most = np.log(2 * np.sqrt(kappa * (values[0] + shift) / shift) / 1e-8) / np.log(
            (np.sqrt(kappa) + 1) / (np.sqrt(kappa) - 1)
        )
        assert result.iterations <= np.ceil(most)
        np.testing.assert_allclose(result.x, np.linalg.solve(damped, right), rtol=1e-3, atol=1e-3)
        counts.append(int(result.iterations))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 5 * counts[-1]
    assert counts[-1] <= 5


def test_trace_estimate_is_unbiased_and_sharp_where_the_spectrum_decays():
    flat, steep = symmetric(np.linspace(0.5, 1.5, 30)), symmetric(np.exp(-np.arange(30.0)))
    for matrix, spread in ((flat, 0.2), (steep, 0.005)):
        exact = float(jnp.trace(matrix))
        found = np.array([float(sketch(matrix, 10, jax.random.key(k)).trace) for k in range(100)])
        error = found / exact - 1
        assert error.std() < spread
        assert abs(error.mean()) <= 4 * error.std() / 10
    assert float(sketch(flat, 30).trace) == pytest.approx(30.0, rel=1e-12)


def test_nystrom_of_the_zero_matrix():
    found = sketch(jnp.zeros((6, 6)), 3)
    np.testing.assert_allclose(dense(found), 0, atol=1e-12)
    assert float(found.trace) == pytest.approx(0, abs=1e-12)
    assert np.isfinite(np.asarray(found.vectors)).all()


def test_nystrom_refuses_impossible_ranks():
    for rank in (0, 7):
        with pytest.raises(ValueError, match=f"rank is {rank}"):
            nystrom(lambda v: v, 6, rank=rank, key=KEY, dtype=jnp.float64)
