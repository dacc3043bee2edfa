"""Terms against the mathematics they state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv

BOX = rv.Box((0.0, -1.0), (2.0, 1.0), time=False)


def batch_of(terms, sampler):
    return sampler.bind({term.name: term.region for term in terms}, np.dtype(float)).init(cases.KEY).batch


# ---------------------------------------------------------------------------------------------------------- energies


def dirichlet(features, z):
    """½|∇u|² − sin(x) u."""
    value, slope = features
    return jnp.vdot(slope, slope) / 2 - jnp.sin(z[0]) * value


def test_gauss_newton_of_an_energy_is_the_gramian_of_its_norm():
    """∫ ∇(∂u/∂θᵢ)·∇(∂u/∂θⱼ), assembled by hand from dense derivatives."""
    term, model = rv.energy("energy", dirichlet), cases.network()
    batch = batch_of((term,), rv.Gauss(BOX, energy=25))
    objective, theta = rv.Objective.from_terms((term,), model)
    gram = jax.jit(lambda at: objective.linearise(at, batch).gram())(theta)
    slopes = jax.vmap(jax.jacrev(lambda at, z: jax.jacfwd(objective.model(at))(z)), (None, 0))
    found = jax.jit(slopes)(theta, batch["energy"].points)
    np.testing.assert_allclose(gram, jnp.einsum("m,mdi,mdj->ij", batch["energy"].weights, found, found), atol=1e-12)


@pytest.mark.parametrize("name", ["ritz1d", "ritz2d"])
def test_the_solution_is_stationary_and_minimal(name):
    """E(u + s v) has slope zero at s = 0 for every v that the model allows, and grows with s².

    The v are smooth and vanish where conditions are imposed.
    """
    problem, exact, vary = RITZ[name]()
    batch = batch_of(problem.terms, problem.sampler)
    for number in range(3):

        def energy(s, number=number):
            u = lambda z: exact(z) + s * vary(z, number + 1)
            at = lambda z: problem.terms[0].loss(problem.terms[0].features(u, z), z)
            return jnp.dot(batch["energy"].weights, jax.vmap(at)(batch["energy"].points))

        slope, curvature = jax.jit(lambda s, f=energy: (jax.grad(f)(s), jax.grad(jax.grad(f))(s)))(0.0)
        assert abs(float(slope)) < 1e-11
        assert float(curvature) > 0.01


RITZ = {
    "ritz1d": lambda: (
        rv.problems.make("ritz1d", points=40),
        lambda z: jnp.cos(jnp.pi * z[0]),
        lambda z, k: jnp.sin(k * z[0]) + jnp.exp(z[0]),
    ),
    "ritz2d": lambda: (
        rv.problems.make("ritz2d", points=400),
        lambda z: jnp.sin(jnp.pi * z[0]) * jnp.sin(jnp.pi * z[1]),
        lambda z, k: z[0] * (1 - z[0] ** k) * z[1] * (1 - z[1]) * jnp.exp(z[0]),
    ),
}


def test_ritz_is_solved():
    """The energy alone leads to the solution, natural conditions included."""
    problem = rv.problems.make("ritz1d", points=40, width=10, depth=1)
    run = rv.train(problem, rv.Phase(rv.ssbroyden(), steps=800), key=cases.KEY)
    assert run.error < 1e-4, run.summary()


def test_an_energy_that_is_no_number():
    term = rv.energy("energy", lambda F, z: F[1] ** 2)
    objective, theta = rv.Objective.from_terms((term,), cases.network())
    with pytest.raises(ValueError, match=r"energy 'energy' must be one number at a point.*shape \(2,\)"):
        objective(theta, {"energy": cases.points(1, 4)})


# --------------------------------------------------------------------------------------------------------- boundaries


def smooth(z):
    return jnp.exp(z[0] / 2) * jnp.sin(z[1] + 0.3)


def features(term, batch, u):
    return np.asarray(jax.jit(jax.vmap(lambda z: term.features(u, z)))(batch[term.name]))


@pytest.mark.parametrize("domain", [
    BOX,
    rv.Ball((0.5, -1.0), 2.0),
    rv.Ball((0.5, -1.0, 0.2), 2.0),
    rv.Simplex([(0.0, 0.0), (2.0, 0.5), (0.5, 1.0)]),
    rv.Simplex([(0.0, 0.0, 0.0), (2.0, 0.5, 0.0), (0.5, 1.0, 0.0), (0.1, 0.2, 1.5)]),
    rv.Difference(rv.Ball((0.0, 0.0), 2.0), rv.Box((-0.5, -0.5), (0.5, 0.7))),
    rv.Union(rv.Ball((0.0, 0.0), 1.0), rv.Box((0.0, -0.5), (2.0, 0.5))),
], ids=lambda domain: f"{type(domain).__name__}{domain.dimension}")  # fmt: skip
def test_fluxes_are_those_of_outward_unit_normals(domain):
    """A step along the normal leaves the domain, one against it enters; ∂u/∂n is the derivative along it."""
    terms = (rv.neumann("flux", lambda z: z[0]), rv.robin("mixed", 0.7, coefficient=lambda z: z[1] ** 2))
    batch = batch_of(terms, rv.Uniform(domain, flux=48, mixed=48))
    point, normal = batch["flux"].point, batch["flux"].normal
    assert point.shape == normal.shape == (48, domain.dimension)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, rtol=1e-12)
    assert not np.asarray(domain.contains(point + 1e-6 * normal)).any()
    assert np.asarray(domain.contains(point - 1e-6 * normal)).all()
    slopes = jax.vmap(jax.grad(smooth))
    exact = jnp.sum(slopes(point) * normal, axis=1) - point[:, 0]
    np.testing.assert_allclose(features(terms[0], batch, smooth), exact, atol=1e-12)
    point, normal = batch["mixed"].point, batch["mixed"].normal
    exact = jnp.sum(slopes(point) * normal, axis=1) + point[:, 1] ** 2 * jax.vmap(smooth)(point) - 0.7
    np.testing.assert_allclose(features(terms[1], batch, smooth), exact, atol=1e-12)


def test_the_divergence_theorem():
    """∮ ∇u·n = ∫ Δu on a ball, a triangle and a box, by quadrature on both sides."""
    shapes = [
        (rv.Ball((0.2, 0.1), 1.5), [2 * np.pi * 1.5]),
        (rv.Ball((0.2, 0.1, -0.3), 1.5), [4 * np.pi * 1.5**2]),
        (rv.Simplex([(0.0, 0.0), (2.0, 0.0), (0.0, 1.0)]), [np.sqrt(5.0), 1.0, 2.0]),
        (rv.Box((0.0, -1.0), (2.0, 1.5)), [2.5, 2.5, 2.0, 2.0]),
    ]
    for shape, faces in shapes:
        terms = (rv.neumann("flux", 0.0), rv.residual("source", rv.laplacian))
        batch = batch_of(
            terms, rv.Gauss(shape, flux=len(faces) * 24 ** (shape.dimension - 1), source=24**shape.dimension)
        )
        flux = batch["flux"].weights * features(terms[0], {"flux": batch["flux"].points}, smooth)
        total = sum(f * len(faces) * np.sum(one) for f, one in zip(faces, np.split(flux, len(faces)), strict=True))
        inside = features(terms[1], {"source": batch["source"].points}, smooth)
        assert total == pytest.approx(shape.volume * float(batch["source"].weights @ inside), rel=1e-10)


def test_conditions_on_a_part_of_the_boundary():
    faces = rv.boundary("faces", 0.0, on=[(0, "low"), (1, "high")])
    some = rv.boundary("some", 0.0, on=lambda z: z[0] > 1)
    batch = batch_of((faces, some), rv.Uniform(BOX, faces=20, some=200))
    left = batch["faces"]
    assert np.asarray((left[:10, 0] == 0) | (left[:10, 1] == 1)).all()
    assert np.asarray(left[:10, 0] == 0).all()
    assert np.asarray(left[10:, 1] == 1).all()
    values = features(some, batch, smooth)
    there = np.asarray(batch["some"][:, 0] > 1)
    assert (values[~there] == 0).all()
    np.testing.assert_allclose(values[there], jax.vmap(smooth)(batch["some"][there]))


def test_periodic_compares_opposite_points():
    term = rv.periodic("ends", 0, order=2)
    batch = batch_of((term,), rv.Sobol(BOX, ends=6))
    here, there = batch["ends"]
    np.testing.assert_allclose(there - here, np.tile([2.0, 0.0], (6, 1)))
    wave = lambda z: jnp.sin(jnp.pi * z[0]) * z[1]
    np.testing.assert_allclose(features(term, batch, wave), 0, atol=1e-12)
    found = features(term, batch, lambda z: z[0] ** 2 * z[1])
    np.testing.assert_allclose(found, np.stack([-4 * here[:, 1], -4 * here[:, 1], 0 * here[:, 1]], axis=1), atol=1e-12)


def test_soft_conditions_solve_an_equation():
    """−u″ = (π/2)² u* with u(0) = 0 and u′(1) = 0: u* = sin πx/2."""
    box = rv.interval(0.0, 1.0)
    wave = lambda z: jnp.sin(jnp.pi * z[0] / 2)
    problem = rv.Problem(
        terms=(
            rv.residual("pde", lambda u, z: rv.laplacian(u, z) + (jnp.pi / 2) ** 2 * wave(z)),
            rv.boundary("left", 0.0, on=[(0, "low")]),
            rv.neumann("right", 0.0, on=[(0, "high")]),
        ),
        sampler=rv.Grid(box, pde=24, left=1, right=1),
        model=lambda key: rv.models.MLP(1, "scalar", width=6, depth=1, key=key),
        reference=rv.GridReference((np.linspace(0, 1, 31),), np.sin(np.pi / 2 * np.linspace(0, 1, 31)), ("x",)),
    )
    run = rv.train(problem, rv.Phase(rv.levenberg_marquardt(), steps=60), key=cases.KEY)
    assert run.error < 1e-4, run.summary()


# ----------------------------------------------------------------------------------------------------------- weak form


def poisson_weak(trial, test, z):
    """∇u·∇v − f v with f = 5π² sin πx sin 2πy."""
    return jnp.vdot(trial[1], test[1]) - 5 * jnp.pi**2 * jnp.sin(jnp.pi * z[0]) * jnp.sin(2 * jnp.pi * z[1]) * test[0]


def test_the_weak_form_vanishes_for_the_solution_and_measures_the_dual_norm():
    """For u = (1 + s) u* the residual is s Δu*, whose dual norm is s |u*| in the energy norm: ½ s² 5π²/4."""
    box = rv.Box((0.0, 0.0), (1.0, 1.0))
    term = rv.weak("weak", poisson_weak, rv.Sines(box, 3))
    batch = batch_of((term,), rv.Gauss(box, weak=256))
    u = lambda s: lambda z: (1 + s) * jnp.sin(jnp.pi * z[0]) * jnp.sin(2 * jnp.pi * z[1])
    found = jax.jit(lambda s: term.loss(term.features(u(s), batch["weak"])))
    assert float(found(0.0)) < 1e-20
    assert float(found(0.3)) == pytest.approx(0.3**2 / 2 * 5 * np.pi**2 / 4, rel=1e-10)
    objective, theta = rv.Objective.from_terms((term,), cases.network())
    assert objective.size(batch) == 9
    residual = jax.jit(lambda at: objective.linearise(at, batch).residual)(theta)
    assert float(objective(theta, batch)) == pytest.approx(float(residual @ residual) / 2)


# ----------------------------------------------------------------------------------------------------------- bad input


def test_terms_that_do_not_fit_their_points():
    u = cases.network()
    with pytest.raises(ValueError, match="'flux' needs outward normals"):
        rv.neumann("flux", 0.0).features(u, jnp.zeros(2))
    with pytest.raises(ValueError, match="'ends' compares opposite points"):
        rv.periodic("ends", 0).features(u, jnp.zeros(2))
    with pytest.raises(ValueError, match="names no faces"):
        rv.boundary("bc", 0.0, on=[(0, "left")])
    term = rv.weak("weak", lambda F, V, z: F[1] * V[0], rv.Sines(BOX, 2))
    with pytest.raises(ValueError, match="must be one number for each test function"):
        term.features(u, jnp.zeros((3, 2)))


def mask(z):
    return z[0] < 1


@pytest.mark.parametrize("domain,term,told", [
    (rv.Masked(BOX, mask), rv.boundary("bc", 0.0), "where a mask ends is not known"),
    (rv.Box((0.0,), (1.0,), time=True), rv.boundary("bc", 0.0), "asks for a boundary, but this box has 0 coordinates"),
    (BOX, rv.boundary("bc", 0.0, on=[(2, "low")]), "this box has 2 coordinates in space"),
    (rv.Ball((0.0, 0.0), 1.0), rv.periodic("bc", 0), "opposite faces, which only a Box has"),
    (rv.Ball((0.0, 0.0), 1.0), rv.initial("bc", 0.0), "no region 'initial'"),
])  # fmt: skip
def test_a_boundary_that_is_not_there(domain, term, told):
    with pytest.raises(ValueError, match=told):
        rv.Uniform(domain, bc=4).bind({"bc": term.region}, np.dtype(float))


def test_points_outside_the_domain():
    with pytest.raises(
        ValueError, match=r"1 of the 2 points of 'pde' lie outside the domain; .* number 1, \[3.0, 0.0\]"
    ):
        rv.Chosen(BOX, pde=jnp.array([[1.0, 0.0], [3.0, 0.0]]))
    with pytest.raises(ValueError, match="outside the domain"):
        rv.Chosen(BOX, pde=jnp.array([[jnp.nan, 0.0]]))
    with pytest.raises(ValueError, match=r"shape \(3,\), but should be \(points, 2\)"):
        rv.Chosen(BOX, pde=jnp.zeros(3))
    inside = jnp.array([[1.0, 0.0], [2.0, 1.0]])
    assert rv.Chosen(BOX, pde=inside).init(cases.KEY).batch["pde"] is inside
