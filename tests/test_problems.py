"""The problems that come with the library: exact solutions, hard constraints, optima."""

import importlib
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import cases
import ravine as rv
from ravine.cli import settings
from ravine.problems import NAMES, reference

EXACT = {
    "poisson1d": ({"k": 3}, lambda z: jnp.sin(3 * jnp.pi * z[0])),
    "poisson2d": ({"k": 2}, lambda z: jnp.sin(2 * jnp.pi * z[0]) * jnp.sin(2 * jnp.pi * z[1])),
    "poisson5d": ({}, lambda z: jnp.sum(jnp.cos(jnp.pi * z))),
    "poisson10d": ({}, lambda z: z[0] * z[1] + z[2] * z[3] + z[4] * z[5] + z[6] * z[7] + z[8] * z[9]),
    "poisson100d": ({}, lambda z: 3 * jnp.mean(z**2)),
    "heat1d": ({}, lambda z: jnp.exp(-(jnp.pi**2) * z[1] / 4) * jnp.sin(jnp.pi * z[0])),
    "heat4d": ({}, lambda z: jnp.exp(-(jnp.pi**2) * z[4]) * jnp.sum(jnp.sin(2 * jnp.pi * z[:4]))),
    "helmholtz_soft": ({}, lambda z: jnp.sin(jnp.pi * z[0]) * jnp.sin(4 * jnp.pi * z[1])),
    "peak": ({"points": 2000}, lambda z: jnp.exp(-1000 * jnp.sum((z - 0.5) ** 2))),
    "multiscale1d": ({}, lambda z: jnp.sin(z[0]) + jnp.sin(15 * z[0])),
    "convection": ({}, lambda z: jnp.sin(z[0] - 40.0 * z[1])),
    "reaction": (
        {},
        lambda z: (
            (h := jnp.exp(-((z[0] - jnp.pi) ** 2) / (2 * (jnp.pi / 4) ** 2))) / (h + (1 - h) * jnp.exp(-5.0 * z[1]))
        ),
    ),
}
NATURAL = ("ritz1d",)  # nothing is imposed at the ends
SMALL = {"points": 24, "width": 4, "depth": 1}
FUNCTIONS = {"functions": 6, "tests": 3, "sensors": 7, "width": 4, "depth": 1, "basis": 3}
OTHERS = {
    "quadratic": {},
    "rosenbrock": {},
    "logistic": {},
    "antiderivative": FUNCTIONS,
    "antiderivative_physics": FUNCTIONS,
    "poisson_operator": FUNCTIONS,
    "darcy_operator": {"functions": 3, "tests": 2, "grid": 9, "modes": 2, "width": 3, "depth": 2, "batch": 2},
    "burgers_operator": {"functions": 3, "tests": 2, "grid": 16, "modes": 3, "width": 3, "depth": 2, "batch": 2},
}


def small(name, **options):
    """A problem with few points and a small network."""
    known = inspect.signature(rv.problems.factory(name)).parameters
    chosen = OTHERS.get(name, {option: value for option, value in SMALL.items() if option in known})
    return rv.problems.make(name, **chosen | options)


@pytest.mark.parametrize("name", EXACT)
def test_exact_solution_satisfies_the_equation(name):
    """The residual of the exact solution vanishes; that of another function does not."""
    options, u = EXACT[name]
    problem = small(name, **options)
    sampler = problem.sampler.bind({term.name: term.region for term in problem.terms}, np.dtype(float))
    points = sampler.init(cases.KEY).batch["pde"]
    features = problem.terms[0].features
    residual = jax.jit(lambda x: jax.vmap(lambda z: features(u, z))(x))(points)
    assert np.abs(residual).max() < 1e-12
    other = jax.vmap(lambda z: features(lambda at: 0.9 * u(at) + 0.1 * jnp.sum(at) ** 3, z))(points)
    assert np.abs(other).max() > 1e-2


@pytest.mark.parametrize("name", EXACT)
def test_exact_solution_has_no_error(name):
    """The reference grid holds the exact solution, and the error is relative."""
    options, u = EXACT[name]
    problem = small(name, **options)
    error = jax.jit(lambda: problem.reference.error(u, jnp.float64))()
    assert float(error) < 1e-13
    off = jax.jit(lambda: problem.reference.error(lambda z: 1.25 * u(z), jnp.float64))()
    assert float(off) == pytest.approx(0.25)


# Where a problem's condition holds by construction, and its value there.
HARD = {
    "poisson1d": [(lambda s: [0.0], lambda s: 0.0), (lambda s: [1.0], lambda s: 0.0)],
    "poisson2d": [
        (lambda s: [0.0, s], lambda s: 0.0),
        (lambda s: [1.0, s], lambda s: 0.0),
        (lambda s: [s, 0.0], lambda s: 0.0),
        (lambda s: [s, 1.0], lambda s: 0.0),
    ],
    "ritz2d": [(lambda s: [0.0, s], lambda s: 0.0), (lambda s: [s, 1.0], lambda s: 0.0)],
    "heat1d": [
        (lambda s: [s, 0.0], lambda s: np.sin(np.pi * s)),
        (lambda s: [1.0, s], lambda s: 0.0),
    ],
    "peak": [(lambda s: [-1.0, 2 * s - 1], lambda s: 0.0), (lambda s: [2 * s - 1, 1.0], lambda s: 0.0)],
    "multiscale1d": [(lambda s: [0.0], lambda s: 0.0)],
    "burgers": [
        (lambda s: [2 * s - 1, 0.0], lambda s: -np.sin(np.pi * (2 * s - 1))),
        (lambda s: [-1.0, s], lambda s: 0.0),
        (lambda s: [1.0, s], lambda s: 0.0),
    ],
    "burgers_smooth": [
        (lambda s: [2 * s - 1, 0.0], lambda s: -np.sin(np.pi * (2 * s - 1))),
        (lambda s: [-1.0, s], lambda s: 0.0),
        (lambda s: [1.0, s], lambda s: 0.0),
    ],
    "convection": [(lambda s: [2 * np.pi * s, 0.0], lambda s: np.sin(2 * np.pi * s))],
    "advection_diffusion": [
        (lambda s: [0.0, s], lambda s: 0.0),
        (lambda s: [1.0, s], lambda s: 0.0),
        (lambda s: [s, 0.0], lambda s: 0.0),
        (lambda s: [s, 1.0], lambda s: 0.0),
    ],
    "kuramoto_sivashinsky": [
        (lambda s: [2 * np.pi * s, 0.0], lambda s: np.cos(2 * np.pi * s) * (1 + np.sin(2 * np.pi * s))),
    ],
    "reaction": [(lambda s: [2 * np.pi * s, 0.0], lambda s: float(reference.reaction(2 * np.pi * s, 0.0)))],
}


@pytest.mark.parametrize("name", HARD)
def test_hard_constraints_hold_for_an_untrained_network(name):
    u = small(name).model(cases.KEY)
    for place, value in HARD[name]:
        for s in (0.0, 0.3, 0.77, 1.0):
            assert float(u(jnp.array(place(s)))) == pytest.approx(value(s), abs=1e-15)


@pytest.mark.parametrize("name", ["convection", "allen_cahn", "kuramoto_sivashinsky"])
def test_periodic_problems_are_periodic(name):
    low, high = {"allen_cahn": (-1.0, 1.0)}.get(name, (0.0, 2 * np.pi))
    u = small(name).model(cases.KEY)
    left, right = (jnp.stack(rv.partials(u, jnp.array([x, 0.4]), (), 0, (0, 0))) for x in (low, high))
    # The lift of the hard initial condition is as periodic as the initial values.
    np.testing.assert_allclose(left, right, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_every_problem_starts_finite_and_reports_its_options(name):
    problem = small(name)
    assert problem.name == name
    again = rv.problems.make(name, **problem.options)
    assert again.options == problem.options
    objective, theta, sampler = problem.objective(cases.KEY)
    batch = sampler.init(cases.KEY).batch
    found = eqx.filter_jit(lambda at: (*objective.value_and_grad(at, batch), problem.error(objective, at)))(theta)
    assert np.isfinite(found[0])
    assert np.isfinite(found[1]).all()
    assert found[2] > 0
    assert theta.dtype == jnp.float64
    assert settings.sizes(problem, None) == f"n = {theta.size:,}, m = {objective.size(batch):,}"


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(small(name).reference, "axes")])
def test_references_satisfy_the_initial_condition(name):
    """The stored solution at t = 0 (or on the boundary) is what the model is held to."""
    problem = small(name)
    module = importlib.import_module(f"ravine.problems.{name}")
    grid = problem.reference
    if hasattr(module, "start"):
        x = grid.axes[0]
        exact = np.asarray([float(module.start(jnp.array([at, 0.0]))) for at in x[::16]])
        np.testing.assert_allclose(grid.values[::16, 0], exact, atol=1e-9)
    elif name not in NATURAL:
        assert np.abs(np.take(grid.values, [0, -1], axis=0)).max() < 1e-12
    assert grid.values.shape == tuple(len(axis) for axis in grid.axes)


# ------------------------------------------------------------------------------------------------ without a network


@pytest.mark.parametrize("name,options", [
    ("quadratic", {"condition": 50.0, "dimension": 7}),
    ("rosenbrock", {"dimension": 5}),
    ("logistic", {"samples": 300, "features": 6}),
])  # fmt: skip
def test_optimum_has_no_gradient(name, options):
    problem = rv.problems.make(name, **options)
    objective, theta, sampler = problem.objective(cases.KEY)
    batch = sampler.init(cases.KEY).batch
    optimum = jnp.asarray(problem.reference.parameters)
    grad = jax.jit(lambda at: objective.value_and_grad(at, batch)[1])
    assert np.abs(grad(optimum)).max() < 1e-12
    assert np.abs(grad(theta)).max() > 1e-3
    assert float(problem.error(objective, optimum)) < 1e-15
    hessian = jax.jit(jax.vmap(lambda v: objective.linearise(optimum, batch).hessian_product(v)))(jnp.eye(theta.size))
    assert np.linalg.eigvalsh(hessian).min() > 0


def test_quadratic_has_the_condition_number_it_says():
    problem = rv.problems.make("quadratic", condition=50.0, dimension=7)
    objective, theta, _ = problem.objective(cases.KEY)
    hessian = jax.vmap(lambda v: objective.linearise(theta, {}).hessian_product(v))(jnp.eye(7))
    values = np.linalg.eigvalsh(hessian)
    assert values.max() / values.min() == pytest.approx(50.0)
    assert values.max() == pytest.approx(1.0)
    assert np.linalg.norm(theta) == pytest.approx(np.sqrt(7))


def test_rosenbrock_is_rosenbrocks_function():
    problem = rv.problems.make("rosenbrock", dimension=3)
    objective, theta, _ = problem.objective(cases.KEY)
    x = np.array([0.3, -0.8, 1.7])
    exact = sum(100 * (x[i + 1] - x[i] ** 2) ** 2 + (1 - x[i]) ** 2 for i in range(2))
    assert float(objective(jnp.asarray(x), {})) == pytest.approx(exact)
    assert theta.tolist() == [-1.2, 1.0, -1.2]
    objective, theta, _ = rv.problems.make("rosenbrock").objective(cases.KEY)
    assert float(objective(theta, {})) == pytest.approx(24.2)


def test_logistic_minibatches_average_to_the_full_gradient():
    whole = rv.problems.make("logistic", samples=60, features=3)
    parts = rv.problems.make("logistic", samples=60, features=3, batch=15)
    objective, theta, sampler = whole.objective(cases.KEY)
    theta = theta + 0.3
    full = objective.value_and_grad(theta, sampler.init(cases.KEY).batch)[1]
    _, _, sampler = parts.objective(cases.KEY)
    state, total, grad = sampler.init(cases.KEY), 0, jax.jit(lambda at, batch: objective.value_and_grad(at, batch)[1])
    for _ in range(4):
        batch, state = sampler.sample(state)
        total = total + grad(theta, batch) / 4
    np.testing.assert_allclose(total, full, rtol=1e-11)


# -------------------------------------------------------------------------------------------------------- training


def test_poisson_is_solved():
    """Relative error 1e-5 with 61 parameters in some seconds."""
    problem = rv.problems.make("poisson1d", points=64, width=10, depth=1)
    run = rv.train(problem, rv.Phase(rv.levenberg_marquardt(), steps=100), key=cases.KEY)
    assert run.error < 1e-5, run.summary()
    model, x = run.model, np.linspace(0, 1, 31)
    found = np.asarray([float(model(jnp.array([at]))) for at in x])
    assert np.linalg.norm(found - np.sin(np.pi * x)) / np.linalg.norm(np.sin(np.pi * x)) < 2e-5
    assert ravel_pytree(eqx.filter(model, eqx.is_inexact_array))[0].shape == run.theta.shape


def test_relative_error():
    exact = jnp.array([3.0, 4.0])
    assert float(rv.relative_l2(2 * exact, exact)) == pytest.approx(1.0)
    assert float(rv.relative_l2(exact, jnp.zeros(2))) == 5.0


def test_grid_reference_orders_points_as_values():
    axes = (np.array([0.0, 1.0, 2.0]), np.array([5.0, 7.0]))
    values = axes[0][:, None] * 10 + axes[1]
    grid = rv.GridReference(axes, values, ("x", "y"))
    np.testing.assert_array_equal(grid.points @ np.array([10.0, 1.0]), values.ravel())
    assert float(grid.error(lambda z: 10 * z[0] + z[1], jnp.float64)) == 0.0


@pytest.mark.parametrize("name,count", [("poisson5d", 10_065), ("poisson10d", 118_145), ("poisson100d", 1_325_057)])
def test_networks_have_the_published_sizes(name, count):
    shapes = eqx.filter_eval_shape(rv.problems.make(name).model, cases.KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(shapes, lambda x: hasattr(x, "size")))) == count


def test_point_reference_compares_in_order():
    points = np.array([[0.0, 1.0], [2.0, 5.0], [1.0, 1.0]])
    reference = rv.PointReference(points, points @ np.array([10.0, 1.0]))
    assert float(reference.error(lambda z: 10 * z[0] + z[1], jnp.float64)) == 0.0
    assert float(reference.error(lambda z: 20 * z[0] + 2 * z[1], jnp.float64)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="do not fit points of shape"):
        rv.PointReference(points, np.zeros(2))


def test_grid_reference_that_does_not_fit():
    with pytest.raises(ValueError, match="do not fit axes of lengths"):
        rv.GridReference((np.zeros(3),), np.zeros(4), ("x",))


# ------------------------------------------------------------------------------------------------------- bad input


def test_unknown_problem_and_option():
    with pytest.raises(KeyError, match=r"no problem 'navier'; choose from .*burgers"):
        rv.problems.make("navier")
    with pytest.raises(TypeError, match=r"no option 'hight'; it has .*points"):
        rv.problems.make("poisson1d", hight=3)


@pytest.mark.parametrize("name,options", [
    ("quadratic", {"condition": 0.5}),
    ("quadratic", {"dimension": 1}),
    ("rosenbrock", {"dimension": 1}),
    ("poisson1d", {"k": 0}),
    ("poisson2d", {"k": 0}),
    ("poisson1d", {"sampling": "sometimes"}),
    ("poisson1d", {"points": 0}),
    ("poisson1d", {"width": 0}),
])  # fmt: skip
def test_options_that_make_no_sense(name, options):
    with pytest.raises((ValueError, Exception), match=r"must|needs|choose|Literal|sampling"):
        rv.problems.make(name, **options).model(cases.KEY)


def test_the_feature_of_allen_cahn_holds_the_kink_of_the_start_and_nothing_worse():
    """|cos πx/2| at t = 0; there u_t and ν u_xx grow as t^(−1/2) beside the kink, but their difference does not."""
    from ravine.problems.allen_cahn import kink

    x = jnp.linspace(-3.0, 3.0, 61)
    np.testing.assert_allclose(kink(x, jnp.zeros_like(x)), abs(jnp.cos(jnp.pi * x / 2)), atol=2e-7)
    largest = {}
    for t in (1e-3, 1e-5):
        here = jnp.array([1.0 - jnp.sqrt(1e-4 * t), t])
        u_t, u_xx = rv.partials(lambda z: kink(z[0], z[1]), here, 1, (0, 0))
        largest[t] = float(u_t)
        assert abs(u_t - 1e-4 * u_xx) < 1e-4
    assert largest[1e-5] / largest[1e-3] == pytest.approx(10, rel=1e-2)
