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
    call = jax.jit(lambda theta, batch, state: scheme(objective, theta, batch, state, jnp.array(False))[2])
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


def test_balance_is_the_formula():
    """After an update with α = 0 all terms have gradients of the same size."""
    found, _ = walk(rv.Balance(alpha=0.3, every=1), PATH)
    old = np.ones(3)
    for theta, weights in zip(PATH, found, strict=True):
        norms = np.linalg.norm(Oracle(theta).grads, axis=1)
        old = 0.3 * old + 0.7 * norms.sum() / norms
        np.testing.assert_allclose(list(weights.values()), old, rtol=1e-12)


def test_ntk_trace_is_the_formula():
    found, _ = walk(rv.NTKTrace(every=1), PATH[:1])
    traces = Oracle(PATH[0]).traces
    np.testing.assert_allclose(list(found[0].values()), traces.sum() / traces, rtol=1e-12)


class Adam:
    """Kingma and Ba, 2015, for a rate of one."""

    def __init__(self):
        self.m = self.v = self.t = 0

    def __call__(self, g):
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.999 * self.v + 0.001 * g**2
        return self.m / (1 - 0.9**self.t) / (np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8)


def test_gradnorm_is_the_formula():
    """The derivative of Σ |λ_k ‖∇L_k‖ − target_k| in ln λ, by finite differences, fed to Adam."""
    found, _ = walk(rv.GradNorm(alpha=1.2, rate=0.05), PATH)
    old, adam, first = np.ones(3), Adam(), Oracle(PATH[0]).losses
    for theta, weights in zip(PATH, found, strict=True):
        oracle = Oracle(theta)
        norms, rates = np.linalg.norm(oracle.grads, axis=1), oracle.losses / first
        target = np.mean(old * norms) * (rates / rates.mean()) ** 1.2
        misfit = lambda logs, norms=norms, target=target: np.abs(np.exp(logs) * norms - target).sum()
        slope = [(misfit(np.log(old) + e) - misfit(np.log(old) - e)) / 2e-6 for e in 1e-6 * np.eye(3)]
        old = np.exp(np.log(old) - 0.05 * adam(np.array(slope)))
        old *= 3 / old.sum()
        np.testing.assert_allclose(list(weights.values()), old, rtol=1e-7)


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_relobralo_is_the_formula(rho):
    found, _ = walk(rv.ReLoBRaLo(temperature=0.7, alpha=0.8, rho=rho), PATH)
    old, first = np.ones(3), Oracle(PATH[0]).losses
    last = first
    for theta, weights in zip(PATH, found, strict=True):
        losses = Oracle(theta).losses

        def balanced(since, losses=losses):
            powers = np.exp(losses / (0.7 * since))
            return 3 * powers / powers.sum()

        old = 0.8 * (rho * old + (1 - rho) * balanced(first)) + 0.2 * balanced(last)
        last = losses
        np.testing.assert_allclose(list(weights.values()), old, rtol=1e-12)


def test_random_lookback_is_as_often_as_said():
    scheme = rv.ReLoBRaLo(alpha=1.0, rho=0.75)
    found, _ = walk(scheme, np.concatenate([PATH[:1], np.tile(PATH[2:3], (400, 1))]))
    # With α = 1 each λ is the last one, or that since the start.
    first = np.array([weights["bc"] for weights in found[1:]])
    held, sought = first[0], Oracle(PATH[2]).losses / Oracle(PATH[0]).losses
    assert held == 1
    back = np.flatnonzero(first != 1)
    powers = np.exp(sought)
    np.testing.assert_allclose(first[back], 3 * powers[1] / powers.sum(), rtol=1e-12)
    gaps = [walk(dataclasses.replace(scheme, rho=rho), np.tile(PATH[:1], (9, 1)))[0] for rho in (0.0, 1.0)]
    assert [weights["bc"] for weights in gaps[0]] == pytest.approx([1.0] * 9)
    assert back[0] < 40  # 0.75⁴⁰ = 1e-5


def test_self_adaptive_is_the_formula():
    found, _ = walk(rv.SelfAdaptive(rate=0.1), PATH)
    roots = {name: np.ones(r.size) for name, r in Oracle(PATH[0]).residuals.items()}
    steps = {name: Adam() for name in roots}
    for theta, weights in zip(PATH, found, strict=True):
        for name, r in Oracle(theta).residuals.items():
            roots[name] = roots[name] + 0.1 * steps[name](GIVEN[name] * 2 * roots[name] * r**2 / 2 / r.size)
            np.testing.assert_allclose(weights[name], roots[name] ** 2, rtol=1e-9)


def test_residual_attention_is_the_formula():
    found, _ = walk(rv.ResidualAttention(decay=0.9, rate=0.2, first=0.5, terms=("pde", "ic")), PATH)
    roots = {"pde": np.full(24, 0.5), "ic": np.full(5, 0.5)}
    for theta, weights in zip(PATH, found, strict=True):
        assert set(weights) == set(roots)
        for name in roots:
            r = np.abs(Oracle(theta).residuals[name])
            roots[name] = 0.9 * roots[name] + 0.2 * r / r.max()
            np.testing.assert_allclose(weights[name], roots[name] ** 2, rtol=1e-12)


@pytest.mark.parametrize("scheme", [rv.SelfAdaptive(rate=0.1), rv.ResidualAttention(rate=0.2)])
def test_weights_of_points_begin_anew_with_the_points_of_their_term(scheme):
    moved = {**BATCH, "pde": BATCH["pde"] + 0.01}
    found, _ = walk(scheme, PATH[[0, 1, 1]], [BATCH, BATCH, moved])
    fresh, _ = walk(scheme, PATH[[0, 1]], [BATCH, BATCH])
    start = {name: np.sqrt(weights) - 1 for name, weights in found[2].items()}
    assert np.abs(start["pde"]).max() <= 0.2001  # one update away from one
    assert (found[2]["bc"] != fresh[1]["bc"]).any()  # went on
    assert np.abs(found[2]["bc"] - found[1]["bc"]).max() < np.abs(found[1]["bc"] - 1).max() + 0.25


def test_weights_of_points_enter_the_objective():
    """Σ v_i λ_i φ_i: value, gradient and rows."""
    objective, theta, _ = problem(rv.Given()).objective(cases.KEY)
    weights = {"pde": jnp.linspace(0.1, 2.0, 24), "bc": jnp.asarray(4.0)}
    other, batch = rv.weights.weighed(objective, BATCH, weights)
    r = Oracle(theta).residuals
    each = {"pde": np.linspace(0.1, 2.0, 24), "bc": 4.0, "ic": 1.0}
    value = sum(GIVEN[name] * np.mean(each[name] * r[name] ** 2) / 2 for name in r)
    assert float(other(theta, batch)) == pytest.approx(value, rel=1e-13)
    lin = other.linearise(theta, batch)
    assert float(jnp.sum(lin.residual**2) / 2) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(lin.vjp(lin.residual), lin.grad, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda at: other(at, batch))(theta), lin.grad, rtol=1e-12)


@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_causal_is_the_formula(epsilon):
    """Equation 3.7, slice by slice; the initial condition comes before all, and each point has its slice's λ."""
    scheme = rv.Causal(epsilons=(epsilon,), bins=4)
    found, state = walk(scheme, PATH)
    t = np.asarray(BATCH["pde"])[:, 1]
    edges = np.linspace(t.min(), t.max(), 5)
    place = np.clip(np.searchsorted(edges, t, side="right") - 1, 0, 3)
    for theta, weights in zip(PATH, found, strict=True):
        oracle = Oracle(theta)
        losses = [np.mean(oracle.residuals["pde"][place == k] ** 2) / 2 for k in range(4)]
        before = oracle.losses[2] + np.concatenate([[0], np.cumsum(losses)[:-1]])
        np.testing.assert_allclose(weights["pde"], np.exp(-epsilon * before), rtol=1e-12)
    objective, theta, _ = problem(scheme).objective(cases.KEY)
    _, batch = scheme.apply(objective, BATCH, state.weights, state.memory)
    np.testing.assert_allclose(batch["pde"].weights, weights["pde"][place] / 24, rtol=1e-12)


def test_causal_grows_stricter_when_all_times_count():
    """ε goes up once every λ exceeds the threshold, and not before."""
    scheme = rv.Causal(epsilons=(1e-6, 1e-3, 5.0), bins=4, threshold=0.9)
    _, state = walk(scheme, PATH[[0]])
    assert int(state.memory[2]) == 1
    _, state = walk(scheme, PATH[[0, 0, 0, 0, 0]])
    assert int(state.memory[2]) == 2  # at 5 the later slices do not count


def least_violation():
    """The minimiser of the first term subject to b·z − 2 = 0 … which two parameters can satisfy at one point."""
    point = BATCH["ic"][:1]
    oracle = Oracle(PATH[0])
    j, r0 = oracle.jacobians["pde"], -np.ones(24)
    b = 2 / float(point[0, 0])
    a = -(j[:, 0] @ (j[:, 1] * b + r0)) / (j[:, 0] @ j[:, 0])
    return {"pde": BATCH["pde"], "ic": point}, np.array([a, b])


@pytest.mark.parametrize("method,every,steps", [(rv.levenberg_marquardt, 6, 100), (rv.ssbroyden, 6, 150)])
def test_augmented_lagrangian_finds_the_constrained_minimum(method, every, steps):
    """Exactly, while the penalty stays finite: by multipliers. The penalty alone is far from it. Searches that fail
    since an inner problem is solved to rounding end nothing: the multipliers move on."""
    batch, best = least_violation()
    terms = (TERMS[0], TERMS[2])
    scheme = rv.AugmentedLagrangian(every=every, most=10.0)
    run = rv.train(problem(scheme, terms, batch), rv.Phase(method(), steps=steps), key=cases.KEY)
    np.testing.assert_allclose(run.position.carry.theta, best, rtol=1e-6)
    multiplier = run.position.carry.weights
    shift = multiplier.memory[0]["ic"][0][0, 0] * multiplier.weights["ic"]
    # ∇L + μ∇F = 0.
    z = float(batch["ic"][0, 0])
    j = Oracle(best).jacobians["pde"]
    gradient = GIVEN["pde"] * j.T @ (j @ best - 1) / 24
    np.testing.assert_allclose(gradient + np.array([0, z]) * float(shift), 0, atol=1e-6)
    fixed = rv.train(problem(rv.Given({"ic": 10.0}), terms, batch), rv.Phase(method(), steps=steps), key=cases.KEY)
    assert abs(fixed.position.carry.theta[1] - best[1]) > 1e-3


# ------------------------------------------------------------------------------------------------- what all must do


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "given"])
def test_weights_are_frozen_between_updates(name):
    """Updates at steps 0, 3, 6, … and nowhere else; histories say so, and losses are under the given weights."""
    run = rv.train(problem(SCHEMES[name](every=3)), rv.Phase(rv.adam(0.05), steps=8), key=cases.KEY)
    columns = [name for name in run.history.columns if name.startswith("weight/")]
    rows = np.array([[row[column] for column in columns] for row in run.history])
    changed = np.any(rows[1:] != rows[:-1], axis=1)
    assert set(np.flatnonzero(changed)) <= {0, 3, 6}
    assert changed[[3, 6]].any() or name == "ntk"  # the kernel of linear residuals does not change
    assert (np.diff(run.history["reweighted"])[[1, 2, 4, 5, 7]] == 0).all()
    assert run.history["reweighted"][-1] >= changed.sum() - 1
    for row in run.history:
        assert row["loss"] == pytest.approx(sum(GIVEN[name] * row[f"loss/{name}"] for name in GIVEN))


def resumed(made, phases, tmp_path):
    """A run of `phases(6)`, and the same stopped after three of those steps, saved, loaded and gone on with."""
    whole = rv.train(made, phases(6), key=cases.KEY)
    rv.train(made, phases(3), key=cases.KEY).save(tmp_path)
    back = rv.load(tmp_path, problem=made, phases=phases(6))
    again = rv.train(made, phases(6), key=cases.KEY, resume=back)
    key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    equal = lambda a, b: np.testing.assert_array_equal(*(jax.random.key_data(x) if key(x) else x for x in (a, b)))
    jax.tree.map(equal, again.position.carry.weights, whole.position.carry.weights)
    np.testing.assert_array_equal(again.position.carry.theta, whole.position.carry.theta)
    drop = lambda run: [{k: v for k, v in row.items() if "seconds" not in k} for row in run.history]
    assert drop(again) == drop(whole)


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "given"])
def test_resumption_from_a_folder_is_bit_for_bit(name, tmp_path):
    resumed(problem(SCHEMES[name](every=3)), lambda steps: rv.Phase(rv.adam(0.05), steps=steps), tmp_path)


def test_resumption_within_a_second_phase(tmp_path):
    """Weights go on from phase to phase."""
    phases = lambda steps: [rv.Phase(rv.adam(0.05), steps=3), rv.Phase(rv.ssbroyden(), steps=steps)]
    resumed(problem(rv.ReLoBRaLo(every=2)), phases, tmp_path)


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


def test_undamped_gauss_newton_does_not_see_weights():
    """With as many parameters as rows J d = −r has the same shortest solution however its rows are scaled."""
    box = rv.Box((-1.0, -1.0), (1.0, 1.0), time=False)
    network = lambda key: rv.models.MLP(2, "scalar", width=24, depth=1, activation=lambda x: jnp.sin(3 * x), key=key)
    equation = lambda u, z: rv.laplacian(u, z) + 10 * jnp.exp(z[0])
    optimizer = rv.Optimizer(rv.GaussNewton(acceleration=False, ridge=1e-13), rv.Fixed(1.0))
    key, steps, gradients = jax.random.key(0), [], []
    for pde, bc in ((1.0, 1.0), (1e-5, 30.0)):
        terms = (rv.residual("pde", equation, weight=pde), rv.boundary("bc", 0.0, weight=bc))
        made = rv.Problem(terms, rv.Sobol(box, pde=5, bc=4), network)
        objective, theta, sampler = made.objective(key)
        batch = sampler.init(key).batch
        moved, *_ = optimizer.step(objective, theta, optimizer.init(objective, theta), batch, key=key)
        steps.append(moved - theta)
        gradients.append(jax.grad(objective)(theta, batch))
    cosine = jnp.dot(*gradients) / jnp.linalg.norm(gradients[0]) / jnp.linalg.norm(gradients[1])
    assert cosine < 0.5, "the weights make no difference to first-order methods: choose others"
    np.testing.assert_allclose(steps[1], steps[0], rtol=0, atol=1e-4 * jnp.linalg.norm(steps[0]))


class Broken(Weighting):
    """One weight after three steps."""

    weight: float

    def init(self, objective, theta, batch, *, key):
        return jnp.int32(0)

    def __call__(self, objective, theta, batch, state, stuck):
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
