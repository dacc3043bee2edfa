"""The benchmark harness: peers state the same problems, SSBroyden is what the paper says, the report adds up."""

import dataclasses
import functools
import itertools
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import ravine as rv
from benchmarks import __main__ as typed, export as exporting, micro, report, runner
from benchmarks.peers.scipy_ssbroyden import backtracked, carried, minimise
from benchmarks.points import POOL, Redraw
from benchmarks.start import PROBLEMS, load
from benchmarks.statements import given
from benchmarks.trace import Trace
from ravine.run import subkeys

export = functools.cache(exporting.start)

# ------------------------------------------------------------------------------------------------ the same problem


@pytest.mark.parametrize("name", PROBLEMS)
def test_plain_statement_is_ravines_problem(name):
    """Loss and gradient at the start, and the solution on the reference grid."""
    start = export(name, 0)
    peer = given(start)  # refuses a loss that differs
    value, grad = jax.jit(jax.value_and_grad(peer.statement.loss))(peer.params, peer.points)

    problem = rv.problems.make(name, **PROBLEMS[name])
    model_key, points_key, *_ = subkeys(jax.random.key(0))
    objective, theta, sampler = problem.objective(model_key)
    ours, ours_grad = eqx.filter_jit(objective.value_and_grad)(theta, sampler.init(points_key).batch)
    # ravine's flat vector holds all weights, then all biases; the peers' holds layer by layer.
    layers = jax.tree.leaves(objective.layout.unravel(ours_grad))
    half = len(layers) // 2
    ours_grad = ravel_pytree(list(zip(layers[:half], layers[half:], strict=True)))[0]
    assert abs(value - ours) <= 1e-12 * abs(ours)
    assert jnp.linalg.norm(ravel_pytree(grad)[0] - ours_grad) <= 1e-10 * jnp.linalg.norm(ours_grad)

    some = slice(None, None, 97)
    found = jax.jit(lambda params: peer.statement.predict(params, start.grid[some]))(peer.params)
    np.testing.assert_allclose(found, jax.vmap(objective.model(theta))(start.grid[some]), rtol=0, atol=1e-12)


def test_rows_are_the_loss():
    peer = given(export("allen_cahn", 0))
    rows = peer.statement.rows(peer.params, peer.points)
    total = sum(float(jnp.sum(row**2)) / 2 for row in rows.values())
    assert math.isclose(total, float(peer.statement.loss(peer.params, peer.points)), rel_tol=1e-13)


def test_start_survives_the_file(tmp_path):
    start = export("allen_cahn", 0)
    start.save(tmp_path / "start.npz")
    found = load(tmp_path / "start.npz")
    np.testing.assert_array_equal(found.theta, start.theta)
    np.testing.assert_array_equal(ravel_pytree(found.unflatten(start.theta))[0], start.theta)
    for field in ("problem", "options", "seed", "loss", "adaptive"):
        assert getattr(found, field) == getattr(start, field)
    for name, points in start.points.items():
        np.testing.assert_array_equal(found.points[name], points)
    with pytest.raises(ValueError, match="statements differ"):
        found.check(start.loss * (1 + 1e-11))


def test_redraw_follows_the_residual():
    start = export("burgers", 0)
    redraw = Redraw(start)
    # Nothing but the right half has a residual: a point there is twice and more as likely.
    drawn = redraw(lambda pool: pool[:, 0] > 0.5)
    assert drawn is not None
    points = drawn["pde"]
    assert points.shape == start.points["pde"].shape
    assert np.all((points >= start.low) & (points <= start.high))
    # p ∝ |r|/mean + 1 = 3 against 1; without replacement from a pool of ten times the points, a little less.
    share = np.mean(points[:, 0] > 0.5)
    assert 0.68 < share < 0.77
    assert len(redraw.pool()) == POOL * len(points)
    assert Redraw(dataclasses.replace(start, adaptive=False))(lambda pool: pool[:, 0]) is None


# ------------------------------------------------------------------------------------------------------- SSBroyden


def rosenbrock(x):
    value = 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    return value, np.array([-400 * x[0] * (x[1] - x[0] ** 2) - 2 * (1 - x[0]), 200 * (x[1] - x[0] ** 2)])


def quadratic(condition, size=20):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    matrix = basis @ np.diag(np.geomspace(1, condition, size)) @ basis.T
    return (lambda x: (x @ matrix @ x / 2, matrix @ x)), rng.standard_normal(size)


def path(function, x, steps, *, scaled=True, inverse=None):
    """All points, and the last H."""
    points = [x]

    def callback(x, value):
        points.append(x)
        return bool(np.linalg.norm(function(x)[1]) < 1e-12)

    _, _, inverse, _ = minimise(function, x, callback, steps=steps, scaled=scaled, inverse=inverse)
    return np.array(points), inverse


def test_ssbroyden_minimises_rosenbrock_superlinearly():
    points, _ = path(rosenbrock, np.array([-1.2, 1.0]), 60)
    errors = np.linalg.norm(points - 1, axis=1)
    assert errors[-1] < 1e-10
    ratios = errors[1:] / errors[:-1]
    near = np.flatnonzero((errors[:-1] < 1e-2) & (errors[1:] > 1e-13))
    assert ratios[near].min() < 1e-2


def test_ssbroyden_minimises_an_ill_conditioned_quadratic_superlinearly():
    function, x = quadratic(1e4)
    points, _ = path(function, x, 200)
    errors = np.linalg.norm(points, axis=1)
    assert errors[-1] < 1e-9
    # Gradient descent gains a factor (κ − 1)/(κ + 1) a step; here whole decades, in the end.
    end = errors[(errors < 1e-2) & (errors > 1e-13)]
    rates = end[1:] / end[:-1]
    assert len(points) < 100
    assert rates[len(rates) // 2 :].min() < 0.1
    # The last quarter is faster than what came before: the rate falls.
    logs = np.log(errors)
    quarter = len(logs) // 4
    assert (logs[-1] - logs[-quarter]) / quarter < 2 * (logs[quarter] - logs[0]) / quarter


def test_unscaled_it_is_bfgs():
    """Each H is the textbook update of the last: (I − ρsyᵀ)H(I − ρysᵀ) + ρssᵀ."""
    function, x = quadratic(1e2, size=6)
    start = np.diag(np.linspace(0.5, 2, 6))
    points, found = path(function, x, 8, scaled=False, inverse=start.copy())
    inverse = start
    for before, after in itertools.pairwise(points):
        s, y = after - before, function(after)[1] - function(before)[1]
        newton = -inverse @ function(before)[1]
        np.testing.assert_allclose(s / np.linalg.norm(s), newton / np.linalg.norm(newton), rtol=0, atol=1e-6)
        rho = 1 / (s @ y)
        left = np.eye(6) - rho * np.outer(s, y)
        inverse = left @ inverse @ left.T + rho * np.outer(s, s)
    np.testing.assert_allclose(found, inverse, rtol=1e-8, atol=1e-12)


def test_scaled_update_meets_the_secant_condition():
    points, inverse = path(rosenbrock, np.array([-1.2, 1.0]), 10)
    s, y = points[-1] - points[-2], rosenbrock(points[-1])[1] - rosenbrock(points[-2])[1]
    np.testing.assert_allclose(inverse @ y, s, rtol=1e-9)
    assert np.all(np.linalg.eigvalsh(inverse) > 0)


def test_an_inverse_that_is_carried_over_is_symmetric_and_positive_definite():
    slanted = np.array([[2.0, 1e-12], [0.0, 1.0]])
    found = carried(slanted)
    assert found is not None
    np.testing.assert_array_equal(found, found.T)
    # What rounding made negative becomes the least positive number; the rest stays.
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    repaired = carried(rotation @ np.diag([2.0, 1.0, -1e-8]) @ rotation.T)
    assert repaired is not None
    np.linalg.cholesky(repaired)
    np.testing.assert_allclose(repaired, rotation @ np.diag([2.0, 1.0, 0.0]) @ rotation.T, rtol=0, atol=1e-14)
    assert carried(-np.eye(2)) is None
    assert carried(None) is None


def test_where_the_wolfe_search_finds_nothing_steps_are_halved():
    # At the kink of |x| no slope is small, but a step of any length below 2 lowers the value.
    kink = lambda x: float(abs(x[0]))
    assert backtracked(kink, np.array([1.0]), np.array([-4.0]), 1.0, -4.0) == 0.25
    assert backtracked(kink, np.array([0.0]), np.array([-1.0]), 0.0, -1.0) is None


# ------------------------------------------------------------------------------------------------ clock and report


def test_the_clock_stands_still_while_errors_are_measured():
    start = dataclasses.replace(export("poisson2d", 0), exact=np.array([3.0, 4.0]))
    now = 0.0

    def predict(theta):
        nonlocal now
        now += 7.0  # measuring takes long
        return np.array([3.0, 4.0 + theta])

    trace = Trace(start, 10.0, clock=lambda: now)
    now = 5.0
    trace.compiled(predict, 1.0)
    assert (trace.warm_up, trace.elapsed) == (12.0, 0.0)
    now += 4.0
    assert trace.due
    assert not trace.over
    assert trace.record(2.5, loss=1.0, steps=3, evaluations=4) == 0.5
    assert trace.elapsed == 4.0
    assert not trace.due
    with trace.paused():
        now += 100.0
    now += 6.0
    assert trace.over
    assert [row["seconds"] for row in trace.rows] == [0.0, 4.0]
    assert [row["error"] for row in trace.rows] == [0.2, 0.5]


ROWS = [
    {"seconds": 0.0, "error": 1.0, "steps": 0},
    {"seconds": 10.0, "error": 1e-2, "steps": 50},
    {"seconds": 20.0, "error": 1e-6, "steps": 100},
]


def test_error_at_a_time():
    assert math.isclose(report.error_at(ROWS, 5.0), 1e-1)
    assert math.isclose(report.error_at(ROWS, 10.0), 1e-2)
    assert math.isclose(report.error_at(ROWS, 12.5), 1e-3)
    assert report.error_at(ROWS, 99.0) == 1e-6
    assert math.isnan(report.error_at([], 1.0))


def test_time_to_a_target():
    assert math.isclose(report.time_to(ROWS, 1e-1), 5.0)
    assert math.isclose(report.time_to(ROWS, 1e-4), 15.0)
    assert report.time_to(ROWS, 1e-6) == 20.0
    assert report.time_to(ROWS, 2.0) == 0.0
    assert report.time_to(ROWS, 1e-7) == math.inf
    # The inverse of error_at where errors fall.
    assert math.isclose(report.error_at(ROWS, report.time_to(ROWS, 3e-5)), 3e-5)


def test_cost_of_a_step_leaves_out_a_first_phase():
    first = [{"seconds": 0.0, "steps": 0}, {"seconds": 1.0, "steps": 500}]
    rows = [*first, *({"seconds": 1.0 + i, "steps": 500 + 10 * i} for i in range(1, 10))]
    assert math.isclose(report.per_step(rows), 0.1)
    assert report.per_step(first) == 0.002
    assert math.isnan(report.per_step([]))


def planted(method, seed, error, *, problem="burgers", seconds=60.0, date="2026-01-01"):
    rows = [
        {"seconds": 0.0, "error": 1.0, "steps": 0, "evaluations": 0, "loss": 1.0},
        {"seconds": seconds, "error": error, "steps": 600, "evaluations": 600, "loss": 1.0},
    ]
    return {
        "problem": problem,
        "method": method,
        "seed": seed,
        "seconds": seconds,
        "date": date,
        "revision": "abc",
        "cpu": "a cpu",
        "cores": 2,
        "gemm_gflops": 50.0,
        "versions": {"jax": "1"},
        "warm_up_seconds": 2.0,
        "stop": "seconds",
        "rows": rows,
    }


def test_report_on_planted_runs(tmp_path):
    runs = [planted("ravine-auto", seed, 1e-8) for seed in range(3)]
    runs += [planted("optax-adam", seed, error) for seed, error in enumerate((1e-1, 1e-2, 1e-3))]
    runs += [planted("scipy-bfgs", seed, 1e-4) for seed in range(3)]
    runs += [planted("scipy-bfgs", 0, 1.0, date="2025-01-01")]  # superseded
    report.write(runs, tmp_path / "benchmarks.md", tmp_path / "images" / "benchmarks.png")
    page = (tmp_path / "benchmarks.md").read_text()
    # Errors fall log-linearly: from 1 to 1e-8 in 60 s, so that 1e-4 is reached after 30 s and 10 s give 1e-8/6.
    assert "| **ravine-auto** | 4.6e-02 | 1.0e-04 | 1.0e-08 | 30.0 s | 100 ms | 2.0 s | 3 |" in page
    assert "| optax-adam | 4.6e-01 | 1.0e-01 | 1.0e-02 | – | 100 ms | 2.0 s | 3 |" in page
    assert "1e+04 times less error than the best peer, scipy-bfgs (1.0e-08 against 1.0e-04)" in page
    assert "after 30.0 s, 2 times sooner" in page
    assert "| `burgers` | 1.0e-08 | scipy-bfgs | 1.0e-04 | 10000 | 2 |" in report.summary(report.latest(runs))
    assert (tmp_path / "images" / "benchmarks.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="no stored runs"):
        report.write([], tmp_path / "a.md", tmp_path / "a.png")


def test_what_is_stored_is_not_run_again(tmp_path, monkeypatch):
    made = []

    def once(problem, method, seed, seconds, scratch):
        made.append((seed, method))
        stop = "error" if method == "scipy-bfgs" else "seconds"
        return {**planted(method, seed, 1e-3, seconds=seconds), "stop": stop, "failure": ""}

    monkeypatch.setattr(runner, "once", once)
    monkeypatch.setattr(runner.machine, "revision", lambda: "abc")
    methods = ["optax-adam", "scipy-bfgs"]
    assert not runner.run(["burgers"], methods, range(2), 60.0, folder=tmp_path)
    assert made == [(0, "optax-adam"), (0, "scipy-bfgs"), (1, "optax-adam"), (1, "scipy-bfgs")]
    # What failed is tried again, what is stored is not; another budget is another run; `again` runs all.
    runner.run(["burgers"], methods, range(2), 60.0, folder=tmp_path)
    assert made[4:] == [(0, "scipy-bfgs"), (1, "scipy-bfgs")]
    runner.run(["burgers"], ["optax-adam"], range(1), 30.0, folder=tmp_path)
    runner.run(["burgers"], ["optax-adam"], range(1), 60.0, folder=tmp_path, again=True)
    assert made[6:] == [(0, "optax-adam"), (0, "optax-adam")]
    assert len(runner.stored(tmp_path)) == 8


def test_runs_on_a_busy_machine_do_not_count():
    quiet, busy = planted("torch-lbfgs", 0, 1e-3), {**planted("torch-lbfgs", 1, 1e-3), "gemm_gflops": 37.0}
    slower = {**busy, "cpu": "another cpu"}  # a slow machine is not a busy one
    assert report.undisturbed([quiet, busy, slower]) == [quiet, slower]


def test_every_method_has_its_file():
    for family, module, _ in runner.METHODS.values():
        assert family in ("jax", "torch")
        assert "\ndef run(start: Start, trace: Trace" in (runner.envs.HERE / "peers" / f"{module}.py").read_text()


@pytest.mark.parametrize("command", ["", "envs", "run", "report", "micro", "check", "kernels", "profile"])
def test_help_can_be_asked_for(command, capsys):
    with pytest.raises(SystemExit) as ended:
        typed.main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert "usage: python -m benchmarks" in capsys.readouterr().out


def test_a_ratio_that_got_worse_is_seen(tmp_path):
    for ratio in (3.0, 4.0, 5.0):
        micro.store({"ratios": {"adam": ratio}}, tmp_path / "history.jsonl")
    before = micro.history(tmp_path / "history.jsonl")
    assert before == [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert micro.regressions({"adam": 3.21, "new": 1.0}, before) == []
    (line,) = micro.regressions({"adam": 3.0}, before)
    assert line == "adam: 3, 25% worse than the stored median 4."
    assert micro.regressions({"adam": math.nan}, before)
