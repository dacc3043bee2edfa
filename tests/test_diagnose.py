"""Planted faults: the diagnosis names each first, and is silent on runs that are well."""

import contextlib
import dataclasses
import functools
import io
import json
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ravine as rv
from ravine import cli
from ravine.problems.poisson1d import Equation, poisson1d

KEY = jax.random.key(0)
BOX = rv.Box((0.0,), (1.0,))


@functools.cache
def healthy(k: int = 1) -> rv.Run:
    return rv.train(poisson1d(k=k, points=64, width=10), rv.Phase(rv.ssbroyden(), steps=400), key=KEY)


def first(run, **options) -> rv.Finding:
    found = rv.diagnose(run, **options)
    assert found, str(found)
    return found.findings[0]


@pytest.mark.parametrize("k", [1, 2])
def test_silent_on_a_run_that_is_well(k):
    assert not rv.diagnose(healthy(k)), str(rv.diagnose(healthy(k)))


@pytest.mark.parametrize(
    "name,options,steps",
    [
        ("ritz1d", {"width": 10}, 300),
        ("heat1d", {"points": 256, "width": 10, "depth": 2}, 600),
        pytest.param("inverse_burgers", {"points": 150, "width": 10, "depth": 2}, 60, marks=pytest.mark.slow),
    ],
)
def test_silent_on_other_problems(name, options, steps):
    """A Ritz energy, an equation in time, one with unknown coefficients that is only begun."""
    run = rv.train(rv.problems.make(name, **options), rv.Phase(rv.ssbroyden(), steps=steps), key=KEY)
    found = rv.diagnose(run)
    assert not found or found.kinds == ("short-budget",), str(found)


def test_overfitted_points():
    problem = poisson1d(k=4, points=12, width=10)
    found = first(rv.train(problem, rv.Phase(rv.ssbroyden(), steps=600), key=KEY))
    assert found.kind == "overfitted-points"
    assert found.numbers["ratio"] > 3
    assert found.numbers["test_loss"] / found.numbers["loss"] == pytest.approx(found.numbers["ratio"])


def test_overfitted_points_of_burgers():
    """The run keeps what was best on independent points; that training overfitted afterwards is in its history."""
    problem = rv.problems.make("burgers", points=40, width=10, depth=2, sampling="fixed")
    phases = [rv.Phase(rv.adam(1e-3), steps=300, name="adam"), rv.Phase(rv.ssbroyden(), steps=600, name="ssbroyden")]
    run = rv.train(problem, phases, key=KEY)
    found = first(run)
    assert found.kind == "overfitted-points"
    assert found.numbers["loss"] == run.history["loss"][-1]


def test_duplicate_points():
    run = healthy()
    points = jnp.tile(jnp.linspace(0.1, 0.9, 8)[:, None], (8, 1))
    _, theta, _ = run.problem.objective(KEY)
    found = rv.diagnose(run.objective, theta, {"pde": points}, problem=run.problem)
    numbers = {one.kind: one.numbers for one in found.findings}["duplicate-points"]
    assert (numbers["unique"], numbers["points"]) == (8, 64)
    assert found.kinds[0] == "duplicate-points"


def test_broken_boundary():
    problem = poisson1d(points=64, width=10)
    network = lambda key: rv.models.Compose(
        rv.models.Scale((0.0,), (1.0,)), rv.models.MLP(1, "scalar", width=10, depth=2, key=key)
    )
    lift = lambda z: 0.1 + 0.0 * z[0]
    lifted = lambda key: rv.models.Constrained(network(key), lift, lambda z: 4 * z[0] * (1 - z[0]))
    run = rv.train(dataclasses.replace(problem, model=lifted), rv.Phase(rv.ssbroyden(), steps=300), key=KEY)
    found = first(run)
    assert found.kind == "broken-boundary"
    # 0.1 beside the root mean square of sin πx on 1,001 points.
    assert found.numbers["boundary"] == pytest.approx(0.1 * 2**0.5, rel=1e-2)


def test_rate_too_high():
    objective, theta = rv.Objective.from_loss(lambda p, a: jnp.sum(jnp.array([1.0, 30.0]) * (p - a) ** 2), jnp.ones(2))
    losses = [3.0 * 1.4**step for step in range(20)]
    told = lambda rate, losses: rv.diagnose(
        objective, theta, jnp.zeros(2), history=losses, optimizer=rv.gradient_descent(rate=rate)
    )
    found = told(0.05, losses)
    assert found.kinds[0] == "rate-too-high"
    assert found.findings[0].numbers["sharpness"] == pytest.approx(60.0, rel=1e-3)
    assert "rate-too-high" not in told(0.01, losses[::-1]).kinds


def soft(weight: float, *, contradiction: float = 0.0, width: int = 10) -> rv.Problem:
    """−u″/π² = sin πx, u = 0 at both ends; with a contradiction also u = this much beyond the solution inside."""
    made = poisson1d(points=48)
    x = jnp.linspace(0.1, 0.9, 9)[:, None]
    data = (x, jnp.sin(jnp.pi * x[:, 0]) + contradiction)
    terms = (rv.residual("pde", Equation(1)), rv.boundary("bc", 0.0, weight=weight), rv.supervised("data"))
    sampler = rv.Sobol(BOX, pde=48, bc=2)
    return rv.Problem(
        terms=terms if contradiction else terms[:2],
        sampler=rv.WithData(sampler, data=data) if contradiction else sampler,
        model=lambda key: rv.models.MLP(1, "scalar", width=width, depth=1, key=key),
        reference=made.reference,
    )


def test_drowned_term():
    found = first(rv.train(soft(1e-9), rv.Phase(rv.ssbroyden(), steps=200), key=KEY))
    assert (found.kind, found.numbers["term"]) == ("drowned-term", "bc")
    assert not rv.diagnose(rv.train(soft(1.0), rv.Phase(rv.ssbroyden(), steps=200), key=KEY))


def test_inconsistent_equations():
    found = first(rv.train(soft(1.0, contradiction=0.5), rv.Phase(rv.ssbroyden(), steps=400), key=KEY))
    assert found.kind == "inconsistent-equations"
    assert found.numbers["cancelled"] > 0.9


def test_ill_conditioned():
    optimizer = rv.gradient_descent()
    phase = rv.Phase(optimizer, steps=1000)
    found = first(rv.train(soft(1.0), phase, key=KEY), phases=phase)
    assert found.kind == "ill-conditioned"
    assert found.numbers["condition"] > 1e6


def test_poisoned_pairs():
    problem = dataclasses.replace(poisson1d(k=4, width=10), sampler=rv.Redrawn(rv.Uniform(BOX, pde=8), every=1))
    phase = rv.Phase(rv.lbfgs(), steps=100)
    found = first(rv.train(problem, phase, key=KEY), phases=phase)
    assert found.kind == "poisoned-pairs"


def test_not_finite():
    objective, _ = rv.Objective.from_loss(lambda p, _: jnp.log(p[0]), jnp.ones(1))
    found = rv.diagnose(objective, -jnp.ones(1), None)
    assert found.kinds == ("not-finite",)


def test_command(tmp_path):
    healthy().save(tmp_path / "run")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert cli.main(["diagnose", str(tmp_path / "run"), "--json"]) == 0
        assert cli.main(["diagnose", str(tmp_path / "none")]) == 2
    assert json.loads(out.getvalue())["findings"] == []
    assert "There is no run folder" in err.getvalue()


def test_the_table_of_findings_is_up_to_date():
    from ravine.diagnostics.checks import table

    page = pathlib.Path(__file__).parent.parent / "docs" / "diagnose.md"
    assert table() in page.read_text(), "write the table anew from ravine.diagnostics.checks.table()"


def test_too_small_network():
    problem = poisson1d(k=4, points=64, width=2, depth=1)
    found = first(rv.train(problem, rv.Phase(rv.ssbroyden(), steps=400), key=KEY))
    assert found.kind == "too-small-network"
    assert found.numbers["parameters"] < found.numbers["rows"] / 2


def test_saturated_units():
    """Weights that begin fifty times as large: tanh is a step almost everywhere, and stays one."""
    problem = poisson1d(points=64, width=10)
    larger = lambda leaf: 50 * leaf if eqx.is_inexact_array(leaf) and leaf.ndim == 2 else leaf
    grown = dataclasses.replace(problem, model=lambda key: jax.tree.map(larger, problem.model(key)))
    found = first(rv.train(grown, rv.Phase(rv.adam(1e-3), steps=300, name="adam"), key=KEY))
    assert found.kind == "saturated-units"
    assert found.numbers["born"] > 0.8
    assert "saturated-units" not in rv.diagnose(healthy()).kinds


def waves(scale: float, steps: int = 600) -> rv.Run:
    """A fit of sin 2π·12x by Fourier features of this scale, by Adam."""
    x = jnp.linspace(0, 1, 96)
    network = lambda key: rv.models.Compose(
        rv.models.Fourier(1, 16, scale=scale, key=jax.random.key(3)),
        rv.models.MLP(32, "scalar", width=16, depth=1, key=key),
    )
    problem = rv.Problem(
        terms=(rv.residual("fit", lambda u, z: u(z) - jnp.sin(24 * jnp.pi * z[0])),),
        sampler=rv.Constant({"fit": x[:, None]}),
        model=network,
        reference=rv.problems.GridReference((np.asarray(x),), np.sin(24 * np.pi * np.asarray(x)), ("x",)),
    )
    return rv.train(problem, rv.Phase(rv.adam(1e-2), steps=steps, name="adam(rate=0.01)"), key=KEY)


def test_low_fourier_scale():
    found = rv.diagnose(waves(1.0))
    assert found.kinds[0] == "low-fourier-scale", str(found)
    assert found.findings[0].numbers["needed"] == pytest.approx(12, rel=0.2)
    assert found.findings[0].numbers["reached"] < 8
    fitting = waves(60.0)
    assert fitting.error < 0.1
    assert "low-fourier-scale" not in rv.diagnose(fitting).kinds


def noisy(size: int | None) -> rv.Run:
    """A fit of sin πx from 512 values with errors of 0.3, by SGD at a constant rate, `size` values at a time."""
    x = jnp.linspace(0, 1, 512)
    y = jnp.sin(jnp.pi * x) + 0.3 * jax.random.normal(KEY, (512,))
    data = {"data": (x[:, None], y)}
    problem = rv.Problem(
        terms=(rv.supervised("data"),),
        sampler=rv.Constant(data) if size is None else rv.Minibatches(data, size=size),
        model=lambda key: rv.models.MLP(1, "scalar", width=16, depth=1, key=key),
        reference=healthy().problem.reference,
    )
    return rv.train(problem, rv.Phase(rv.sgd(0.2), steps=3000, name="sgd(rate=0.2)"), key=KEY)


def test_noise():
    """Four values at a time: the fit wanders about. All of them at once: no noise of batches."""
    found = rv.diagnose(noisy(4))
    assert found.kinds[0] == "noise", str(found)
    assert found.findings[0].numbers["variance"] > 3 * found.findings[0].numbers["signal"]
    assert "noise" not in rv.diagnose(noisy(None)).kinds


def test_rounding_floor():
    run = rv.train(poisson1d(points=64, width=10), rv.Phase(rv.ssbroyden(), steps=150), key=KEY)
    cast = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
    objective, batch = run.objective.narrowed(jnp.float32), cast(run.position.carry.sampler.batch)
    found = rv.diagnose(objective, cast(run.theta), batch)
    assert found.kinds[0] == "rounding-floor"
