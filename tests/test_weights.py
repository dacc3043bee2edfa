"""Weights of terms and points: each scheme against its formula in NumPy, and what holds for all of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine import checkpoint
from ravine.weights import SCHEMES, Weighting

GIVEN = {"pde": 0.5, "bc": 3.0, "ic": 1.0}


def inside(c, z):
    return c["a"] * z[0] + c["b"] * z[0] ** 2 * z[1] - 1


def edge(c, z):
    return c["a"] - c["b"] * z[0] + 0.1


def begin(c, z):
    return c["b"] * z[0] - 2


TERMS = (
    rv.Term("pde", inside, weight=GIVEN["pde"], region="interior"),
    rv.Term("bc", edge, weight=GIVEN["bc"], region="boundary"),
    rv.Term("ic", begin, weight=GIVEN["ic"], region="initial"),
)
BATCH = {"pde": cases.points(1, 24) + 1.1, "bc": cases.points(2, 6), "ic": cases.points(3, 5)}


def problem(weights: Weighting, terms=TERMS, batch=None) -> rv.Problem:
    """Three residuals, linear in two parameters, at points that stay."""
    return rv.Problem(
        terms=terms,
        sampler=rv.Constant(BATCH if batch is None else batch),
        model=lambda key: {"a": jnp.asarray(0.7), "b": jnp.asarray(-0.4)},
        weights=weights,
    )


class Oracle:
    """Residuals, losses and gradients of the problem in NumPy, at θ = (a, b)."""

    def __init__(self, theta):
        a, b = np.asarray(theta)
        z = {name: np.asarray(points) for name, points in BATCH.items()}
        x, t = z["pde"].T
        self.points = z
        self.jacobians = {
            "pde": np.stack([x, x**2 * t], axis=1),
            "bc": np.stack([np.ones(6), -z["bc"][:, 0]], axis=1),
            "ic": np.stack([np.zeros(5), z["ic"][:, 0]], axis=1),
        }
        offsets = {"pde": -1.0, "bc": 0.1, "ic": -2.0}
        self.residuals = {name: j @ [a, b] + offsets[name] for name, j in self.jacobians.items()}
        self.losses = np.array([GIVEN[name] * np.mean(r**2) / 2 for name, r in self.residuals.items()])
        self.grads = np.array([GIVEN[name] * self.jacobians[name].T @ r / r.size for name, r in self.residuals.items()])
        self.traces = np.array([GIVEN[name] * np.mean(np.sum(j**2, axis=1)) for name, j in self.jacobians.items()])


def walk(scheme: Weighting, thetas, batches=None):
    """The λ of each term, as the scheme gives them along `thetas`, and its last state."""
    objective, theta, _ = problem(scheme).objective(cases.KEY)
    state, found = scheme.init(objective, jnp.asarray(thetas[0]), BATCH, key=cases.KEY), []
    call = jax.jit(lambda theta, batch, state: scheme(objective, theta, batch, state)[2])
    for number, theta in enumerate(thetas):
        state = call(jnp.asarray(theta), BATCH if batches is None else batches[number], state)
        found.append({name: np.asarray(state.weights[name]) for name in GIVEN if name in state.weights})
    return found, state


PATH = np.array([[0.7, -0.4], [0.9, 0.1], [0.5, 0.6], [0.2, 0.3]])


def test_annealing_is_the_formula():
    found, state = walk(rv.Annealing(alpha=0.8, every=1), PATH)
    old = np.ones(3)
    for theta, weights in zip(PATH, found, strict=True):
        grads = Oracle(theta).grads
        old = 0.2 * old + 0.8 * np.abs(grads[0]).max() / np.abs(grads).mean(axis=1)
        old[0] = 1
        np.testing.assert_allclose(list(weights.values()), old, rtol=1e-12)
    assert int(state.changes) == 4


# ------------------------------------------------------------------------------------------------- what all must do


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "given"])
def test_weights_are_frozen_between_updates(name):
    """Updates at steps 0, 3, 6, … and nowhere else; histories say so, and losses are under the given weights."""
    run = rv.train(problem(SCHEMES[name](every=3)), rv.Phase(rv.adam(0.05), steps=8), key=cases.KEY)
    columns = [name for name in run.history.columns if name.startswith("weight/")]
    rows = np.array([[row[column] for column in columns] for row in run.history])
    changed = np.any(rows[1:] != rows[:-1], axis=1)
    assert set(np.flatnonzero(changed)) <= {0, 3, 6}
    assert changed[[3, 6]].any()
    assert (np.diff(run.history["reweighted"])[[1, 2, 4, 5, 7]] == 0).all()
    assert run.history["reweighted"][-1] >= changed.sum() - 1
    for row in run.history:
        assert row["loss"] == pytest.approx(sum(GIVEN[name] * row[f"loss/{name}"] for name in GIVEN))


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "given"])
def test_resumption_from_a_folder_is_bit_for_bit(name, tmp_path):
    made = problem(SCHEMES[name](every=2))
    phases = lambda steps: [rv.Phase(rv.adam(0.05), steps=3, name="adam"), rv.Phase(rv.ssbroyden(), steps=steps)]
    whole = rv.train(made, phases(6), key=cases.KEY)
    rv.train(made, phases(3), key=cases.KEY).save(tmp_path)
    back = rv.load(tmp_path, problem=made, phases=phases(6))
    again = rv.train(made, phases(6), key=cases.KEY, resume=back)
    equal = lambda a, b: np.testing.assert_array_equal(*(jax.random.key_data(x) if key(x) else x for x in (a, b)))
    key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    jax.tree.map(equal, again.position.carry.weights, whole.position.carry.weights)
    np.testing.assert_array_equal(again.position.carry.theta, whole.position.carry.theta)
    drop = lambda run: [{k: v for k, v in row.items() if "seconds" not in k} for row in run.history]
    assert drop(again) == drop(whole)


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_are_described_and_made_again(name):
    scheme = rv.Given({"bc": 2.5}) if name == "given" else SCHEMES[name](every=7)
    assert checkpoint.restore_weights(checkpoint.describe_weights(scheme)) == scheme


def test_weights_of_ones_own_are_asked_for():
    class Mine(Weighting):
        pass

    with pytest.raises(ValueError, match="by hand"):
        checkpoint.restore_weights(checkpoint.describe_weights(Mine()))


def test_given_weights_take_the_place_of_the_terms_own():
    phase = rv.Phase(rv.ssbroyden(), steps=5)
    other = tuple(dataclasses.replace(term, weight=7.0) if term.name == "bc" else term for term in TERMS)
    one = rv.train(problem(rv.Given({"bc": 7.0})), phase, key=cases.KEY)
    two = rv.train(problem(rv.Given(), other), phase, key=cases.KEY)
    np.testing.assert_allclose(one.position.carry.theta, two.position.carry.theta, rtol=1e-13)


class Broken(Weighting):
    """One weight after three steps."""

    weight: float

    def init(self, objective, theta, batch, *, key):
        return jnp.int32(0)

    def __call__(self, objective, theta, batch, state):
        weight = jnp.where(state < 3, 1.0, self.weight)
        terms = tuple(dataclasses.replace(term, weight=weight) for term in objective.terms)
        return dataclasses.replace(objective, terms=terms), batch, state + 1, rv.Work()

    def sound(self, state):
        return (state <= 3) | (jnp.isfinite(self.weight) & (self.weight >= 0))


@pytest.mark.parametrize("weight", [-1.0, np.inf, np.nan])
@pytest.mark.parametrize("method", [rv.adam, rv.levenberg_marquardt])
def test_a_weight_that_goes_wrong_ends_the_run_and_nothing_is_lost(weight, method):
    phases = [rv.Phase(method(), steps=9), rv.Phase(rv.adam(), steps=2)]
    run = rv.train(problem(Broken(weight)), phases, key=cases.KEY)
    assert run.stop is rv.Stop.WEIGHTS
    assert run.history["step"][-1] == 4
    assert np.isfinite(run.theta).all()
    whole = rv.train(problem(Broken(1.0)), rv.Phase(method(), steps=3), key=cases.KEY)
    steps = [row for row in run.history if row["step"] <= 3]
    assert [row["loss"] for row in steps] == [row["loss"] for row in whole.history]
    assert run.loss == pytest.approx(min(row["loss"] for row in steps), rel=1e-5)


@pytest.mark.parametrize("name", ["adam", "ssbroyden", "lbfgs", "levenberg_marquardt", "trust_region_cg"])
def test_memory_never_mixes_two_weightings(name):
    """A step after the weights changed is correct on the new objective: its gradient is taken anew."""
    optimizer = cases.OPTIMIZERS[name]()
    objective, theta, _ = problem(rv.Given()).objective(cases.KEY)
    other, _ = rv.weights.weighed(objective, BATCH, {"bc": jnp.asarray(50.0)})
    state = optimizer.init(objective, theta)
    for _ in range(3):
        theta, state, _ = cases.step(optimizer, objective, theta, state, BATCH)
    exact = other.value_and_grad(theta, BATCH)[1]
    theta, state, info = cases.step(optimizer, other, theta, state, BATCH)
    assert float(info.grad_norm) == pytest.approx(float(jnp.linalg.norm(exact)), rel=1e-12)
    if state.previous.y is not None:
        assert np.allclose(state.previous.grad, exact)
    for _ in range(12 if name != "adam" else 0):
        theta, state, info = cases.step(optimizer, other, theta, state, BATCH)
    if name != "adam":
        best = np.linalg.solve(
            np.asarray(other.linearise(theta, BATCH).gram()),
            np.asarray(other.linearise(theta, BATCH).gram() @ theta - other.value_and_grad(theta, BATCH)[1]),
        )
        np.testing.assert_allclose(theta, best, rtol=1e-5)


@pytest.mark.parametrize("make", [
    lambda: rv.Given({"bc": -1.0}), lambda: rv.Given({"bc": np.inf}), lambda: rv.Annealing(alpha=1.5),
    lambda: rv.Annealing(every=0),
])  # fmt: skip
def test_settings_that_make_no_sense(make):
    with pytest.raises(ValueError, match=r"^(Given|Annealing): "):
        make()


@pytest.mark.parametrize("scheme", [rv.Given({"wall": 1.0}), rv.Annealing(reference="wall")])
def test_unknown_terms_are_named(scheme):
    with pytest.raises(ValueError, match="no term 'wall'; the terms are pde, bc, ic"):
        rv.train(problem(scheme), rv.Phase(rv.adam(), steps=1), key=cases.KEY)
