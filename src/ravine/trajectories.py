"""Data along the trajectories of an ordinary differential equation, of which a part is a network: neural and universal
ODEs. diffrax solves them."""

import importlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Array, Float, Model, Scalar
from ravine.terms import Term, check_data, squared

Field = Callable[[Model, Scalar, Array], Array]  # (model, t, y) -> dy/dt


class Trajectory(eqx.Module):
    """One trajectory in a batch: increasing `times` (T,), values (T, k) measured then, and the number of its start.

    Batches have a leading axis of trajectories. The first time is that of the start.
    """

    times: Float[Array, "*many T"]
    values: Float[Array, "*many T k"]
    number: Any


def first_value(model: Model, path: Trajectory) -> Float[Array, "k"]:
    """The first measurement, taken as exact: where a trajectory starts by default."""
    del model
    return path.values[0]


class _Solve(eqx.Module):
    """The ODE solved from `start` at the first of `times`, saved at all; not finite after it blew up."""

    field: Field
    start: Callable[[Model, Trajectory], Array]
    tolerance: Any
    stiff: bool = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    def __call__(self, model: Model, path: Trajectory) -> tuple[Float[Array, "T k"], Any]:
        ode = diffrax()
        start = self.start(model, path)
        tolerance = jnp.asarray(self.tolerance, start.dtype)
        found = ode.diffeqsolve(
            ode.ODETerm(_field),
            ode.Kvaerno5() if self.stiff else ode.Tsit5(),
            path.times[0],
            path.times[-1],
            None,
            start,
            args=(self.field, model),
            saveat=ode.SaveAt(ts=path.times),
            stepsize_controller=ode.PIDController(rtol=tolerance, atol=tolerance),
            # Forward and reverse mode: every method asks for the one or the other.
            adjoint=ode.DirectAdjoint(),
            max_steps=self.steps,
            throw=False,
        )
        return found.ys, found.stats["num_steps"]


def _field(t, y, args):
    field, model = args
    return field(model, t, y)


class _Misfit(eqx.Module):
    """y(t_i) − y_i, row by row."""

    name: str = eqx.field(static=True)
    solve: _Solve

    def __call__(self, model, path):
        found, _ = self.solve(model, path)
        if found.shape != path.values.shape:
            raise ValueError(
                f"The term {self.name!r} compares a trajectory of shape {found.shape} (times, components) with values "
                f"of shape {path.values.shape}. The start must have as many components as a row of values."
            )
        return found - path.values

    def explain(self, model: Model, path: Trajectory) -> str:
        """Why the misfit is not finite, for messages."""
        return _explain(self.solve, model, path)


class _Gap(eqx.Module):
    """Where a segment ends less where the next one starts; nothing after the last of its trajectory."""

    name: str = eqx.field(static=True)
    solve: _Solve

    def __call__(self, model, path):
        found, _ = self.solve(model, path)
        following = eqx.tree_at(lambda p: p.number, path, path.number + 1)
        return found[-1] - self.solve.start(model, following)

    def explain(self, model: Model, path: Trajectory) -> str:
        """Why the gap is not finite, for messages."""
        return _explain(self.solve, model, path)


def _explain(solve: _Solve, model: Model, path: Trajectory) -> str:
    found, steps = solve(model, path)
    lost = np.flatnonzero(~np.isfinite(np.asarray(found)).all(axis=1))
    if not lost.size:
        return ""
    times = np.asarray(path.times)
    last = f"after t = {times[lost[0] - 1]:g}" if lost[0] else f"at its start, t = {times[0]:g}"
    return (
        f"The trajectory is lost {last} after {int(steps)} of at most {solve.steps} steps. Either (a) it blows up: "
        "begin with a smaller right-hand side, or cut the data into short segments (ravine.segments), (b) it is stiff: "
        "stiff=True, or (c) it needs more steps or a larger tolerance: steps=…, tolerance=…."
    )


def trajectory(
    name: str,
    field: Field,
    *,
    start: Callable[[Model, Trajectory], Array] = first_value,
    stiff: bool = False,
    tolerance: float = 1e-6,
    steps: int = 256,
    weight: float = 1.0,
) -> Term:
    """The mean over trajectories of ½Σ‖y(t_i) − y_i‖², where dy/dt = field(model, t, y): neural and universal ODEs.

    **Arguments:**

    - `field(model, t, y)`: the right-hand side, of which the model is a part or all.
    - `start(model, path)`: y at the first time of a `Trajectory`, by default the first measurement. Starts that are
      parameters: `lambda model, path: model.starts[path.number]` (a module function, so that programs are shared).
    - `stiff`: Kvaerno's implicit method of order five in place of Tsitouras's explicit one.
    - `tolerance`: relative and absolute, of each step.
    - `steps`: how many at most. A trajectory that is not at its end by then, or blows up, is infinite: methods with a
      search then go less far, others stop (`Stop.NOT_FINITE`) and keep the last finite parameters.

    The batch entry is a `Trajectory` with a leading axis of trajectories. Residuals are those of each time, so that
    Gauss–Newton methods and `ravine.posterior` see them. Derivatives pass through the solver's steps, forwards (by
    parameter) or backwards (by residual).

    **Raises:** `ImportError` without diffrax; `ValueError` for a tolerance or number of steps that makes no sense.

    **Cost:** 6 evaluations of the field a step (stiff: 7 linear systems of k unknowns and some Newton iterations);
    memory for backward passes grows with `steps`.

    Ricky Chen et al., *Neural ordinary differential equations*, NeurIPS 2018; Christopher Rackauckas et al., *Universal
    differential equations for scientific machine learning*, 2020. Patrick Kidger, *On neural differential equations*,
    2021 (diffrax; here `DirectAdjoint`, discretise-then-optimise).

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> times = jnp.linspace(0.0, 1.0, 5)[None]
    >>> data = rv.Trajectory(times, 3.0 * jnp.exp(-2.0 * times)[..., None], jnp.array([0]))
    >>> decay = rv.trajectory("data", lambda rate, t, y: -rate * y)
    >>> problem = rv.Problem((decay,), rv.Constant({"data": data}), lambda key: jnp.array(1.0))
    >>> run = rv.train(problem, rv.Phase(rv.levenberg_marquardt(), steps=20), key=jax.random.key(0))
    >>> round(float(run.model), 4)
    2.0

    ```
    """
    return Term(
        name, _Misfit(name, _solver("trajectory", name, field, start, stiff, tolerance, steps)), squared, weight
    )


def continuity(
    name: str,
    field: Field,
    *,
    start: Callable[[Model, Trajectory], Array],
    stiff: bool = False,
    tolerance: float = 1e-6,
    steps: int = 256,
    weight: float = 1.0,
) -> Term:
    """The mean over segments of ½‖y(end) − start of the next‖²: what makes segments one trajectory (multiple shooting).

    Arguments as for `trajectory`, of which it takes the same field and start; the batch entry is the second that
    `ravine.segments` returns.

    Hans Georg Bock and Karl-Josef Plitt, *A multiple shooting algorithm for direct solution of optimal control
    problems*, IFAC 1984, with penalties for the matching conditions (Evren Turan and Johannes Jäschke, *Multiple
    shooting for training neural differential equations on time series*, 2022).
    """
    solve = _solver("continuity", name, field, start, stiff, tolerance, steps)
    return Term(name, _Gap(name, solve), squared, weight)


def segments(times: Any, values: Any, count: int) -> tuple[Trajectory, Trajectory, Any]:
    """One trajectory cut into `count` segments: the batch of its data, that of its gaps, and starts.

    **Arguments:** `times` (T,), increasing; `values` (T, k). T − 1 must be a multiple of `count`: segments share their
    ends, and the last time of a segment is the first of the next.

    **Returns:** a `Trajectory` of the segments for `trajectory` (a time that two segments share counts twice), one for
    `continuity` (from each segment but the last to the next), and the measured values at the starts, to be parameters.

    **Raises:** `ValueError` for data that are not finite, and where the segments do not come out even.
    """
    times, values = check_data("trajectory", (times, values))
    number = times.shape[0] - 1
    if count < 1 or number % count or number // count < 1:
        raise ValueError(f"segments: {times.shape[0]} times make {number} intervals, which {count} do not divide.")
    each = number // count
    places = np.arange(count)[:, None] * each + np.arange(each + 1)
    whole = Trajectory(times[places], values[places], jnp.arange(count))
    gaps = jax.tree.map(
        lambda leaf: leaf[:-1], Trajectory(times[places[:, [0, -1]]], values[places[:, [0, -1]]], whole.number)
    )
    return whole, gaps, values[places[:, 0]]


def _solver(what, name, field, start, stiff, tolerance, steps) -> _Solve:
    diffrax()
    if not (np.isfinite(tolerance) and tolerance > 0) or steps < 1:
        raise ValueError(f"{what} {name!r}: needs tolerance > 0 and steps ≥ 1, got {tolerance=}, {steps=}.")
    return _Solve(field, start, float(tolerance), bool(stiff), int(steps))


def diffrax() -> Any:
    """The module. **Raises:** `ImportError` that says what to install."""
    try:
        return importlib.import_module("diffrax")
    except ImportError as error:
        raise ImportError(
            f"Trajectories of ordinary differential equations need diffrax ({error}). Install it: "
            "pip install 'ravine[ode]'"
        ) from None
