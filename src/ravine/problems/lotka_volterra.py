"""Predators and prey whose meeting is unknown: a universal ordinary differential equation."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from ravine.models import MLP, Compose, Inverse, Scale
from ravine.problems.problem import PointReference, Problem
from ravine.samplers import Constant
from ravine.trajectories import Trajectory, continuity, first_value, segments as cut, trajectory

BIRTH, EATEN, FED, DEATH = 1.3, 0.9, 0.8, 1.8
START = (0.44249296, 4.6280594)
FAST = 1e-4  # the relaxation time of the stiff variant
END = 3.0


def field(model, t, y):
    """x′ = 1.3 x + N₁(x, y), y′ = −1.8 y + N₂(x, y)."""
    del t
    return jnp.stack([BIRTH * y[0], -DEATH * y[1]]) + model(y)


def stiff_field(model, t, y):
    """x′ = 1.3 x − 0.9 z, y′ = 0.8 z − 1.8 y, z′ = (N(x, y) − z)/10⁻⁴."""
    del t
    prey, predators, meetings = y
    rest = (model(y[:2]) - meetings) / FAST
    return jnp.stack([BIRTH * prey - EATEN * meetings, FED * meetings - DEATH * predators, rest])


def own_start(model, path):
    """The start of a segment, a parameter."""
    return model.coefficients["starts"][path.number]


@dataclasses.dataclass(frozen=True)
class Law:
    """What the network shall find, in NumPy."""

    stiff: bool

    def __call__(self, y):
        meetings = y[0] * y[1]
        return meetings if self.stiff else np.stack([-EATEN * meetings, FED * meetings])

    def slope(self, t, y):
        """The right-hand side of the true equation."""
        law = self(y[:2])
        if not self.stiff:
            return np.stack([BIRTH * y[0], -DEATH * y[1]]) + law
        return np.stack([BIRTH * y[0] - EATEN * y[2], FED * y[2] - DEATH * y[1], (law - y[2]) / FAST])


@functools.cache
def solved(stiff: bool, times: tuple[float, ...], tolerance: float = 1e-12) -> np.ndarray:
    """The true trajectory at `times`, (T, k): Dormand and Prince's method of order 8; stiff: Radau's of order 5.

    Accuracy: 1e-10 relative, against half the digits and the invariant of Lotka and Volterra (in the tests).
    """
    start = (*START, START[0] * START[1]) if stiff else START
    method = "Radau" if stiff else "DOP853"
    law = Law(stiff)
    found = solve_ivp(law.slope, (0, times[-1]), start, method, t_eval=times, rtol=tolerance, atol=1e-3 * tolerance)
    return found.y.T


def lotka_volterra(
    *,
    points: int = 31,
    noise: float = 0.0,
    stiff: bool = False,
    segments: int = 1,
    match: float = 1.0,
    width: int = 8,
    depth: int = 2,
) -> Problem:
    """x′ = 1.3 x + N₁(x, y), y′ = −1.8 y + N₂(x, y), the network N known by `points` values of (x, y) on [0, 3].

    The truth is N = (−0.9 xy, 0.8 xy). `stiff`: the meetings z, at which prey is eaten and predators are fed, relax to
    N(x, y) in the time 10⁻⁴: x′ = 1.3 x − 0.9 z, y′ = 0.8 z − 1.8 y, z′ = (N − z)/10⁻⁴, N = xy; all three are
    measured. `noise`: of the values, as a part of their standard deviations. `segments` above one: multiple shooting,
    each segment from a start of its own, with gaps of weight `match`. The error is that of N along the true trajectory.
    Reference: the true law. Initial value and coefficients as in the publication.

    Christopher Rackauckas et al., *Universal differential equations for scientific machine learning*, 2020, section 3.
    """
    if points < 2 or not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"lotka_volterra: needs points ≥ 2 and a finite noise ≥ 0, got {points=}, {noise=}.")
    times = np.linspace(0, END, points)
    exact = solved(stiff, tuple(times))
    errors = np.random.default_rng(0).standard_normal(exact.shape)
    errors[0] = 0  # where it starts is known
    values = exact + noise * exact.std(axis=0) * errors
    dtype = jnp.result_type(float)
    whole, gaps, starts = cut(jnp.asarray(times, dtype), jnp.asarray(values, dtype), segments)
    network = lambda key: MLP(2, "scalar" if stiff else 2, width=width, depth=depth, key=key)
    scaled = lambda key: Compose(Scale((0.0, 0.0), (5.0, 5.0)), network(key))
    law = stiff_field if stiff else field
    # Of the trajectory that is relative 1e-8, and 2e-7 for the stiff one, whose error estimates are on the safe side.
    options = {"stiff": stiff, "tolerance": 1e-5 if stiff else 1e-8, "steps": 1024 if stiff else 256}
    batch: dict[str, Trajectory] = {"data": whole}
    if segments > 1:
        terms = (
            trajectory("data", law, start=own_start, weight=segments / points, **options),
            continuity("gaps", law, start=own_start, weight=match, **options),
        )
        batch["gaps"] = gaps
        model = lambda key: Inverse(scaled(key), starts=starts)
    else:
        terms, model = (trajectory("data", law, start=first_value, weight=1 / points, **options),), scaled
    return Problem(
        terms=terms,
        sampler=Constant(batch),
        model=model,
        reference=PointReference(exact[:, :2], Law(stiff)(exact.T).T),
        name="lotka_volterra",
        options={
            "points": points,
            "noise": noise,
            "stiff": stiff,
            "segments": segments,
            "match": match,
            "width": width,
            "depth": depth,
        },
    )
