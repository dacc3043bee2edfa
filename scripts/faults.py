"""Faults planted in whole problems, and what `ravine diagnose` makes of them: a table of what it names first.

    python scripts/faults.py --seconds 20
    python scripts/faults.py --only fixed-points,saturated

Each fault is trained as a user would train it, then diagnosed from the run alone. The last column holds the time that
the diagnosis took. The command fails when a cause is not named first, or when the healthy run is blamed for anything.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ravine as rv
from ravine.calculus import partials
from ravine.problems.burgers import VISCOSITY, interior
from ravine.problems.inverse_burgers import measured

FAULTS: dict[str, tuple[str, Callable[[float], rv.Run]]] = {}
SEED = 0


def plants(kind: str):
    """Registers a function of a budget in seconds; `kind` is what the diagnosis must name first."""

    def register(function: Callable[[float], rv.Run]):
        FAULTS[function.__name__.replace("_", "-")] = (kind, function)
        return function

    return register


def burgers(**options) -> rv.Problem:
    """The default Burgers problem."""
    return rv.problems.make("burgers", **options)


def usual(seconds: float) -> list[rv.Phase]:
    """Adam, then SSBroyden."""
    return [
        rv.Phase(rv.adam(1e-3), steps=300, name="adam"),
        rv.Phase(rv.ssbroyden(), seconds=seconds, name="ssbroyden"),
    ]


def adam(seconds: float, rate: float = 1e-3) -> rv.Phase:
    """Adam alone."""
    return rv.Phase(rv.adam(rate), seconds=seconds, name=f"adam(rate={rate})")


@plants("")
def healthy(seconds: float) -> rv.Run:
    """Nothing planted."""
    return rv.train(burgers(), usual(3 * seconds), key=jax.random.key(SEED))


@plants("overfitted-points")
def fixed_points(seconds: float) -> rv.Run:
    """A hundred points that are never drawn anew."""
    return rv.train(burgers(points=100, sampling="fixed"), usual(seconds), key=jax.random.key(SEED))


@plants("rounding-floor")
def single_precision(seconds: float) -> rv.Run:
    """Everything in float32."""
    with jax.enable_x64(False):
        return rv.train(rv.problems.make("poisson2d", k=2), usual(seconds), key=jax.random.key(SEED))


@plants("drowned-term")
def drowned_boundary(seconds: float) -> rv.Run:
    """Boundary values at a weight of 1e-8."""
    problem = dataclasses.replace(rv.problems.make("helmholtz_soft"), weights=rv.Given({"bc": 1e-8}))
    return rv.train(problem, usual(seconds), key=jax.random.key(SEED))


@plants("rate-too-high")
def rate_too_high(seconds: float) -> rv.Run:
    """Gradient descent at a rate far above 2/λ_max."""
    phase = rv.Phase(rv.gradient_descent(rate=0.5), seconds=seconds, name="gradient_descent(rate=0.5)")
    return rv.train(burgers(), phase, key=jax.random.key(SEED))


@plants("poisoned-pairs")
def poisoned_pairs(seconds: float) -> rv.Run:
    """L-BFGS on points that are drawn anew every step."""
    problem = burgers(points=200, sampling="fixed")
    problem = dataclasses.replace(problem, sampler=rv.Redrawn(problem.sampler, every=1))
    return rv.train(problem, rv.Phase(rv.lbfgs(), seconds=seconds, name="lbfgs"), key=jax.random.key(SEED))


@plants("broken-boundary")
def broken_lift(seconds: float) -> rv.Run:
    """A lift that leaves 0.1 at x = ±1."""
    network = lambda key: rv.models.Odd(
        rv.models.Compose(
            rv.models.Scale((-1.0, 0.0), (1.0, 1.0)), rv.models.MLP(2, "scalar", width=16, depth=4, key=key)
        ),
        axis=0,
    )
    lift = lambda z: -jnp.sin(jnp.pi * z[0]) + 0.1 * z[0] * z[1]
    problem = dataclasses.replace(burgers(), model=lambda key: rv.models.Constrained(network(key), lift, interior))
    return rv.train(problem, usual(seconds), key=jax.random.key(SEED))


@plants("low-fourier-scale")
def low_fourier_scale(seconds: float) -> rv.Run:
    """Features of half a wave for a solution of sixteen."""
    problem = rv.problems.make("poisson1d", k=16)
    network = lambda key: rv.models.Constrained(
        rv.models.Compose(
            rv.models.Fourier(1, 16, scale=0.5, key=jax.random.key(1)),
            rv.models.MLP(32, "scalar", width=32, depth=1, key=key),
        ),
        lambda z: 0.0 * z[0],
        lambda z: z[0] * (1 - z[0]),
    )
    return rv.train(dataclasses.replace(problem, model=network), adam(seconds), key=jax.random.key(SEED))


@plants("saturated-units")
def saturated(seconds: float) -> rv.Run:
    """Weights that begin a hundred times too large."""
    problem = burgers()
    larger = lambda leaf: 100 * leaf if eqx.is_inexact_array(leaf) and leaf.ndim == 2 else leaf
    grown = dataclasses.replace(problem, model=lambda key: jax.tree.map(larger, problem.model(key)))
    return rv.train(grown, adam(seconds), key=jax.random.key(SEED))


@plants("duplicate-points")
def duplicate_points(seconds: float) -> rv.Run:
    """Thirty points, a hundred times each."""
    few = jnp.tile(jax.random.uniform(jax.random.key(SEED), (30, 2)), (100, 1))
    problem = dataclasses.replace(burgers(), sampler=rv.Constant({"pde": few}))
    return rv.train(problem, usual(seconds), key=jax.random.key(SEED))


@plants("inconsistent-equations")
def wrong_sign(seconds: float) -> rv.Run:
    """Values of Burgers' equation beside −u u_x in place of u u_x."""
    made = burgers(sampling="fixed")
    places, values = measured(500, 0.0, 0)
    return rv.train(
        dataclasses.replace(
            made,
            terms=(rv.residual("pde", reversed_speed), rv.supervised("data")),
            sampler=rv.WithData(made.sampler, data=(jnp.asarray(places), jnp.asarray(values))),
        ),
        usual(2 * seconds),
        key=jax.random.key(SEED),
    )


def reversed_speed(u, z):
    """u_t − u u_x − ν u_xx."""
    value, u_x, u_t, u_xx = partials(u, z, (), 0, 1, (0, 0))
    return u_t - value * u_x - VISCOSITY * u_xx


@plants("noise")
def noise(seconds: float) -> rv.Run:
    """Four points a step, at a constant rate."""
    problem = burgers(points=4, sampling="fixed")
    problem = dataclasses.replace(problem, sampler=rv.Redrawn(problem.sampler, every=1))
    return rv.train(problem, adam(seconds, 1e-2), key=jax.random.key(SEED))


@plants("too-small-network")
def small_network(seconds: float) -> rv.Run:
    """Two layers of three units."""
    return rv.train(burgers(width=3, depth=2), usual(seconds), key=jax.random.key(SEED))


def main() -> int:
    """Plants, trains, diagnoses; 1 when something is named wrongly."""
    jax.config.update("jax_enable_x64", True)
    rv.use_cores()
    rv.keep_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--only", default=",".join(FAULTS), help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--words", action="store_true", help="the whole diagnosis too")
    chosen = parser.parse_args()
    wrong = 0
    print("| planted | expected | named first | blame | error | seconds |\n|---|---|---|---|---|---|", flush=True)
    for name in chosen.only.split(","):
        kind, function = FAULTS[name]
        run = function(chosen.seconds)
        began = time.perf_counter()
        with jax.enable_x64(run.theta.dtype == jnp.float64):
            found = rv.diagnose(run)
        took = time.perf_counter() - began
        first = found.findings[0] if found else None
        named = "" if first is None else first.kind
        wrong += named != kind
        blame = "" if first is None else f"{first.blame:.0%}"
        error = np.nan if run.error is None else run.error
        print(f"| {name} | {kind} | {named} | {blame} | {error:.1e} | {took:.0f} |", flush=True)
        if chosen.words or named != kind:
            print(found, file=sys.stderr, flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
