"""What users get wrong, and what they are told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv

pytestmark = pytest.mark.usefixtures("unchecked")

BOX = rv.Box((0.0, 0.0), (1.0, 1.0))
PHASE = rv.Phase(rv.adam(1e-3), steps=2)
POINTS = jnp.array([[0.1, 0.2], [0.6, 0.3], [0.9, 0.4]])


def problem(*terms, sampler=None, model=None):
    return rv.Problem(
        terms=terms or (rv.residual("pde", lambda u, z: u(z)),),
        sampler=sampler or rv.Sobol(BOX, pde=4),
        model=model or (lambda key: rv.models.MLP(2, "scalar", width=3, depth=1, key=key)),
    )


def train(problem, phases=PHASE, **options):
    return rv.train(problem, phases, **{"key": jax.random.key(0)} | options)


def test_nan_names_the_term_and_the_first_point():
    fine = rv.residual("fine", lambda u, z: u(z))
    bad = rv.residual("root", lambda u, z: u(z) + jnp.sqrt(0.5 - z[0]))
    sampler = rv.Constant({"fine": POINTS, "root": POINTS})
    told = r"nan before the first step.*'root' is nan at 2 of 3 points.*number 1, \[0\.6, 0\.3\]"
    with pytest.raises(ValueError, match=told):
        train(problem(fine, bad, sampler=sampler))


def test_infinite_loss_of_a_term_without_points():
    bad = rv.penalty("ridge", lambda u: 1 / jnp.zeros(2))
    with pytest.raises(ValueError, match=r"inf before the first step. The term 'ridge' is inf"):
        train(problem(rv.residual("pde", lambda u, z: u(z)), bad))


def test_nan_in_ones_own_loss():
    with pytest.raises(ValueError, match="nan before the first step"):
        rv.minimise(lambda x, _: jnp.sum(jnp.log(x)), -jnp.ones(2), optimizer=rv.bfgs(), steps=2)


def test_model_output_of_the_wrong_shape():
    model = lambda key: rv.models.MLP(2, 1, width=3, depth=1, key=key)
    term = rv.boundary("bc", lambda z: jnp.zeros(3))
    sampler = rv.Sobol(BOX, bc=4)
    with pytest.raises(ValueError, match=r"'bc' compares a model output of shape \(1,\) with a target of shape \(3,\)"):
        train(problem(term, sampler=sampler, model=model))


def test_supervised_labels_of_the_wrong_shape():
    """A prediction (1,) against a label () would broadcast in silence."""
    sampler = rv.Constant({"data": (POINTS, jnp.zeros(3))})
    model = lambda key: rv.models.MLP(2, 1, width=3, depth=1, key=key)
    with pytest.raises(ValueError, match=r"'data' compares a model output of shape \(1,\) with a label of shape \(\)"):
        train(problem(rv.supervised("data"), sampler=sampler, model=model))


def test_loss_that_is_no_scalar():
    term = rv.Term("data", lambda u, z: u(z), lambda features, z: jnp.stack([features, features]))
    with pytest.raises(ValueError, match=r"the term 'data' must be a scalar at one point, but has shape \(2,\)"):
        train(problem(term, sampler=rv.Constant({"data": POINTS})))


def test_own_loss_that_is_no_scalar():
    """`identity` sums; a vector would otherwise be minimised as its sum without a word."""
    with pytest.raises(ValueError, match=r"must be a scalar.*shape \(2,\)"):
        rv.minimise(lambda x, _: x**2, jnp.ones(2), optimizer=rv.bfgs(), steps=2)


@pytest.mark.parametrize("points", [jnp.zeros((0, 2)), jnp.array(1.0), (jnp.zeros((3, 2)), jnp.zeros(4))])
def test_empty_or_ragged_batch(points):
    with pytest.raises(ValueError, match="'data' needs points along one common leading axis, at least one"):
        train(problem(rv.Term("data", lambda u, z: u(z)), sampler=rv.Constant({"data": points})))


def test_point_weights_of_the_wrong_length():
    weighted = rv.Weighted(POINTS, jnp.ones(2))
    with pytest.raises(ValueError, match="'data' has 3 points but 2 weights"):
        train(problem(rv.Term("data", lambda u, z: u(z)), sampler=rv.Constant({"data": weighted})))


def test_term_that_is_missing_in_the_batch():
    with pytest.raises(KeyError, match=r"no points for the term 'data'; it has \['dat'\]"):
        train(problem(rv.Term("data", lambda u, z: u(z)), sampler=rv.Constant({"dat": POINTS})))


@pytest.mark.parametrize("key,told", [
    (0, "int 0"),
    (None, "NoneType None"),
    (np.array([0, 1], np.uint32), "ndarray"),
    (jnp.array([0, 1], jnp.uint32), "an array of dtype uint32"),
    (jax.random.split(jax.random.key(0), 3), "key"),
], ids=["int", "none", "numpy", "old", "batch"])  # fmt: skip
def test_key_of_the_wrong_kind(key, told):
    with pytest.raises(TypeError, match=rf"key must be one typed JAX key, got .*{told}.*jax.random.key\(0\)"):
        train(problem(), key=key)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, float("inf"), float("nan"), 1e300])
def test_budgets_that_make_no_sense(seconds):
    with pytest.raises(ValueError, match="time budget must be a positive number of seconds"):
        train(problem(), seconds=seconds)


def test_preset_that_was_not_called():
    with pytest.raises(TypeError, match="forget to call the preset"):
        rv.Phase(rv.lbfgs, steps=3)


def test_optimizer_that_is_no_phase():
    with pytest.raises(TypeError, match=r"expected phases.*Wrap an optimizer"):
        train(problem(), [rv.lbfgs()])


def test_one_optimizer_in_place_of_phases():
    with pytest.raises(TypeError, match=r"expected phases.*Wrap an optimizer"):
        train(problem(), rv.lbfgs())


def test_a_phase_without_end():
    with pytest.raises(ValueError, match="would never end: give it steps=, seconds= or until="):
        train(problem(), rv.Phase(rv.lbfgs()))


def test_repeated_term_names():
    term = rv.residual("pde", lambda u, z: u(z))
    with pytest.raises(ValueError, match=r"need different names, got \['pde', 'pde'\]"):
        train(problem(term, term))


def test_no_terms():
    with pytest.raises(ValueError, match="there are no terms"):
        rv.Objective.from_terms([], cases.network())


def test_something_else_in_place_of_a_term():
    with pytest.raises(TypeError, match=r"is not a term. Wrap it: ravine.residual"):
        problem(lambda u, z: u(z))


def test_points_for_unknown_terms():
    with pytest.raises(ValueError, match=r"points are asked for \['edge'\], but the terms are \['pde'\]"):
        train(problem(sampler=rv.Sobol(BOX, pde=4, edge=4)))


def test_terms_without_points():
    bc = rv.boundary("bc", 0.0)
    with pytest.raises(ValueError, match=r"the terms \['bc'\] have no points.*Sobol\(domain, bc=256\)"):
        train(problem(rv.residual("pde", lambda u, z: u(z)), bc))


def test_gauss_newton_on_a_bare_loss():
    with pytest.raises(ValueError, match="need residuals, but this objective is a bare scalar loss"):
        rv.minimise(lambda x, _: jnp.sum(x**2), jnp.ones(2), optimizer=rv.levenberg_marquardt(), steps=2)


def test_residual_of_a_loss_that_is_no_square():
    case = cases.logistic()
    objective, theta = case.objective()
    with pytest.raises(ValueError, match=r"There is no residual: the loss of \['labels'\]"):
        objective.linearise(theta, case.batch).residual


@pytest.mark.parametrize("model", [{}, {"n": jnp.array([1, 2])}, {"w": 1.0}, jnp.tanh])
def test_model_without_parameters(model):
    with pytest.raises(ValueError, match="the model has no parameters"):
        rv.Objective.from_loss(lambda m, _: jnp.zeros(()), model)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), np.float64(-2.0), jnp.array(-1.0)])
def test_weights_are_finite_and_not_negative(weight):
    with pytest.raises(ValueError, match=r"'pde': its weight is .*finite and not negative"):
        rv.residual("pde", lambda u, z: u(z), weight=weight)


def test_block_must_hold_a_point():
    with pytest.raises(ValueError, match="block is 0"):
        rv.Objective.from_loss(lambda x, _: jnp.sum(x), jnp.ones(2), block=0)


def test_unknown_history_column():
    run = rv.minimise(lambda x, _: jnp.sum(x**2), jnp.ones(2), optimizer=rv.gradient_descent(0.1), steps=1)
    with pytest.raises(KeyError, match=r"no column 'losss'; it has .*loss"):
        run.history["losss"]
