"""Compilation is the user's time: nothing is compiled anew when only numbers change."""

import contextlib
import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv

COMPILED: list[str] = []  # what was compiled since the tests began, by name


def _listen(event: str, seconds: float, **about) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(about.get("fun_name", "?"))


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def compilations():
    """A list that holds, in the end, the names of what was compiled within."""
    found, before = [], len(COMPILED)
    yield found
    found.extend(COMPILED[before:])


def equation(u, z):
    value, slope = rv.partials(u, z, (), 0)
    return slope + value**2 - jnp.cos(z[0])


def start(z):
    return jnp.zeros((), z.dtype)


def problem(*, weight=1.0, width=3, redraw=False):
    """Two terms, redrawn points, an error: all that a run computes. Made anew at each call."""
    points = rv.Sobol(rv.Box((0.0,), (1.0,)), pde=8, edge=2)
    x = np.linspace(0, 1, 11)
    return rv.Problem(
        terms=(rv.residual("pde", equation), rv.boundary("edge", start, weight=weight)),
        sampler=rv.RAD(points, every=3) if redraw else points,
        model=lambda key: rv.models.MLP(1, "scalar", width=width, depth=1, key=key),
        reference=rv.GridReference((x,), np.tanh(x), ("x",)),
    )


METHODS = {
    "adam": (rv.adam, {"rate": 3e-3}),
    "sgd": (rv.sgd, {"rate": 3e-4}),
    "adamw": (rv.adamw, {"rate": 3e-3, "b1": 0.8, "decay": 1e-2}),
    "gradient_descent": (rv.gradient_descent, {"rate": 1e-3}),
    "polyak": (rv.polyak, {"lower": -1.0}),
    "heavy_ball": (rv.heavy_ball, {"momentum": 0.8}),
    "nonlinear_cg": (rv.nonlinear_cg, {"curvature": 0.2}),
    "anderson": (rv.anderson, {"ridge": 1e-8}),
    "block_coordinate": (rv.block_coordinate, {}),
    "lbfgs": (rv.lbfgs, {}),
    "ssbroyden": (rv.ssbroyden, {}),
    "levenberg_marquardt": (rv.levenberg_marquardt, {"damping": 0.2}),
    "spring": (rv.spring, {"rate": 0.3, "momentum": 0.5, "ridge": 1e-4, "longest": 0.2}),
    "sketched_gauss_newton": (rv.sketched_gauss_newton, {"radius": 0.3, "accept": 0.2}),
    "kfac": (rv.kfac, {"damping": 0.2}),
    "trust_region_cg": (rv.trust_region_cg, {"radius": 0.3}),
}


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_compiled_when_only_numbers_change(name):
    make, settings = METHODS[name]
    width = 5 + list(METHODS).index(name)  # sgd with a rate is gradient descent: each its own program
    first = {"rate": 1e-2} if name == "gradient_descent" else {}  # with a rate it is another method than without

    def train(seed=0, steps=4, settings=first, **options):
        return rv.train(
            problem(width=width, **options), rv.Phase(make(**settings), steps=steps), key=jax.random.key(seed)
        )

    with compilations() as found:
        run = train()
    assert "advance" in " ".join(found)  # the listener hears what is compiled
    changes = {
        "nothing": {},
        "seed, and with it model and points": {"seed": 1},
        "weight": {"weight": 7.0},
        "steps": {"steps": 9},
        "settings": {"settings": settings or first},
    }
    for what, change in changes.items():
        with compilations() as found:
            train(**change)
        assert not found, f"{what}: {found}"
    with compilations() as found:
        rv.train(problem(width=width), rv.Phase(make(**first), steps=9), key=jax.random.key(0), resume=run)
    assert not found, f"resume: {found}"


def test_what_is_compiled_does_not_grow_with_steps_chunks_or_records(monkeypatch):
    def train(steps):
        with compilations() as found:
            rv.train(problem(redraw=True, width=4), rv.Phase(rv.ssbroyden(), steps=steps), key=cases.KEY)
        return found

    assert "advance" in " ".join(train(1))
    assert not train(50)
    monkeypatch.setattr(sys.modules["ravine.loop"], "CHUNK_SECONDS", 1e-9)  # a step a chunk
    assert not train(70)


def test_other_numbers_of_a_weighting_compile_nothing():
    def train(weights):
        made = dataclasses.replace(problem(width=4, redraw=True), weights=weights)
        with compilations() as found:
            rv.train(made, rv.Phase(rv.adam(), steps=3), key=cases.KEY)
        return found

    assert train(rv.Annealing())
    assert not train(rv.Annealing(alpha=0.3))


def test_another_shape_is_compiled():
    """The counter counts: a wider model is another program."""
    train = lambda width: rv.train(problem(width=width), rv.Phase(rv.adam(), steps=1), key=cases.KEY)
    train(5)
    with compilations() as found:
        train(6)
    assert sum("advance" in name for name in found) == 1
