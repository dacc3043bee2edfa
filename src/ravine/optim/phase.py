"""What comes next, and until when: phases and plans. (`switches` has the limits that look at progress.)"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ravine._types import Array, Vector
from ravine.focus import Focus, Within
from ravine.objective import Objective
from ravine.optim.ladder import Ladder
from ravine.optim.optimizer import Info, Optimizer, State

Row = dict[str, Any]
Until = Callable[[Sequence[Row]], bool]  # see `ravine.optim.switches`


class Tolerance(eqx.Module):
    """When a phase has converged, asked at every step; zero is never.

    - `gtol`: ‖∇L‖ ≤ gtol, in the Euclidean norm, where the last search left off, or where it began for methods that
      evaluate no gradient there.
    - `ftol`: the step lowered the loss, by no more than ftol · |L|.
    - `xtol`: ‖Δθ‖ ≤ xtol · (xtol + ‖θ‖), for a step that did not fail.
    """

    gtol: Any = 0.0
    ftol: Any = 0.0
    xtol: Any = 0.0

    def __check_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, (int, float)) and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}, but a tolerance is finite and not negative (0: off).")

    def met(self, before: Info, info: Info, state: State, theta: Vector, first: Array) -> Array:
        """Whether the step with this `info` was the last; `before` is that of the step before it, if not `first`."""
        norm = info.grad_norm if state.known is None else jnp.linalg.norm(state.known.grad)
        fallen, moved = before.value - info.value, info.failures == 0
        size = jnp.maximum(jnp.abs(before.value), jnp.abs(info.value))
        still = ~first & moved & (fallen >= 0) & (fallen <= self.ftol * size) & (self.ftol > 0)
        short = moved & (info.step_norm <= self.xtol * (self.xtol + jnp.linalg.norm(theta))) & (self.xtol > 0)
        return ((norm <= self.gtol) & (self.gtol > 0)) | still | short


@dataclasses.dataclass(frozen=True)
class Phase:
    """One optimizer with its budget: it ends after `steps`, after `seconds`, or when `until(rows)` is true.

    **Arguments:** `optimizer`; `steps`, how many; `seconds`, of wall time, compilation apart; `until`, a function
    of this phase's history rows so far, asked at every record; `name`, for histories and messages; `tolerance`, asked
    at every step, ends it earlier. At least one of the other limits is needed unless the plan has one. `keep`: go on
    with the memory (pairs, damping, momentum) that the phase before left, which must be of the same method; otherwise a
    phase starts with none, as it must when weights or points changed. `focus`: what it trains, by default everything;
    `begins`, whether the phase is the first of its focus; `by`, at how many seconds of the plan it ends at the latest.
    `every`: steps from one record to the next, of a phase with a step budget; by default a 200th of it. Measuring takes
    a few evaluations and looks at the clock: beside cheap steps that counts.

    **Raises:** `ValueError` for budgets that are not positive and finite, and for `every` without a step budget.

    ```python
    >>> import ravine as rv
    >>> rv.Phase(rv.adam(1e-3), steps=500).steps
    500

    ```
    """

    optimizer: Optimizer
    steps: int | None = None
    seconds: float | None = None
    until: Until | None = None
    name: str = ""
    tolerance: Tolerance | None = None
    keep: bool = False
    focus: Focus | None = None
    begins: bool = False
    by: float | None = None
    every: int | None = None

    def __post_init__(self):
        if not isinstance(self.optimizer, Optimizer):
            raise TypeError(
                f"Phase: needs an optimizer such as ravine.adam(1e-3), got {type(self.optimizer).__name__}. "
                "(Did you forget to call the preset?)"
            )
        check_budget(self.steps, self.seconds)
        if self.every is not None and (self.steps is None or self.every < 1):
            raise ValueError(
                f"Phase: every={self.every} counts the steps between two records of a phase with a step budget, at "
                "least 1; without one, records follow the clock."
            )

    def acting(self, objective: Objective) -> Any:
        """The optimizer, on what the phase trains."""
        return self.optimizer if self.focus is None else Within(self.optimizer, self.focus.on(objective))

    @property
    def label(self) -> str:
        """The name, or direction and search where none was given: "Broyden + Wolfe"."""
        direction = self.optimizer.direction
        direction = direction.direction if isinstance(direction, Ladder) else direction
        parts = (type(direction).__name__, type(self.optimizer.search).__name__)
        return self.name or " + ".join(parts)


def check_budget(steps: int | None, seconds: float | None) -> None:
    """**Raises:** `ValueError` unless both are positive and finite, or None."""
    whole = steps is not None and not isinstance(steps, bool) and math.isfinite(steps) and int(steps) == steps
    if steps is not None and not (whole and 1 <= steps < 2**31):
        raise ValueError(f"The step budget must be a whole number from 1 to 2³¹ − 1, got {steps!r}.")
    if seconds is not None and not (math.isfinite(seconds) and 0 < seconds <= 1e8):
        raise ValueError(f"The time budget must be a positive number of seconds (at most 10⁸), got {seconds!r}.")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Phases in order, and the seconds they share (compilation apart); `reason` says why these."""

    phases: tuple[Phase, ...]
    seconds: float | None = None
    reason: str = ""

    def __post_init__(self):
        check_budget(None, self.seconds)
        if not self.phases:
            raise ValueError("A plan needs at least one phase.")
        for phase in self.phases:
            if phase.steps is None and phase.seconds is None and phase.until is None and self.seconds is None:
                raise ValueError(f"The phase {phase.label} would never end: give it steps=, seconds= or until=.")
