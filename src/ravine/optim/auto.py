"""Which method: an automatic choice, from sizes, structure, precision, and forecasts of memory and time."""

import dataclasses

import jax

from ravine._types import Batch, Vector
from ravine.objective import Objective
from ravine.optim import presets
from ravine.optim.forecast import forecast
from ravine.optim.phase import Phase, Plan, check_budget
from ravine.optim.search import Fixed
from ravine.optim.switches import stalled
from ravine.terms import points_of

DENSE = 6_000  # parameters up to which a dense inverse Hessian (8n² bytes, four passes a step) pays
# A method with a factorisation a step is affordable when so many of its steps fit into the budget of a laptop (flop/s
# of a product, bytes/s of a copy), within so many GiB. Not of this machine as it is now: a run that is resumed, and
# every process of one, must come to the same plan.
AFFORDABLE, LAPTOP, ROOM = 20, (5e10, 1e10), 4.0
WARM_UP, SHARE = 1_000, 0.04  # steps of Adam at the start, but no more than this share of the budget
DEARER = 3.0  # times what Adam costs that a step of SOAP may cost
# Where batches are noise the rate falls, about as a cosine does: shares of the budget, and of the rate.
ANNEALED = ((0.4, 1.0), (0.2, 0.5), (0.15, 0.25), (0.15, 0.08), (0.1, 0.02))


@dataclasses.dataclass(frozen=True)
class Auto:
    """A planner: `auto(seconds=60)(objective, theta, batch)` is a `Plan`; see `auto`."""

    seconds: float
    raw: bool = True  # whether the parameters are as drawn
    decided: tuple[str, ...] | None = None  # the phases of the plan that is to be made again: nothing is forecast then

    def __post_init__(self):
        check_budget(None, self.seconds)

    def __call__(self, objective: Objective, theta: Vector, batch: Batch) -> Plan:
        n, m, bits = theta.shape[0], objective.size(batch), 8 * theta.dtype.itemsize
        # Phases end when the independent loss has not fallen by a fifth within a fifth of the budget.
        stall = stalled(seconds=self.seconds / 5, factor=1.2, key="test_loss" if not objective.bare else "loss")
        reasons, phases = [f"n = {n:,} parameters, m = {m:,} rows, float{bits}."], []
        decided = self.decided
        if _drawn(objective, batch):
            # A higher rate than where it stays: what noise it leaves, later stages take away.
            first, reason = _first_order(objective, batch, decided, rate=3e-3)
            told = f"{reasons[0]} Minibatches of data: {reason}, its rate lowered in {len(ANNEALED)} stages."
            return Plan(_annealed(first, self.seconds), self.seconds, told)
        if n > DENSE and objective.samples is not None:
            first, reason = _first_order(objective, batch, decided)
            phases += [dataclasses.replace(first, until=stall), Phase(presets.lbfgs(), until=stall, name="lbfgs")]
            reasons.append(f"Data, and too many parameters for a dense inverse Hessian: {reason}, then L-BFGS.")
        elif n > DENSE:
            phases.append(Phase(presets.adam(1e-3), until=stall, name="adam"))
            phases.append(Phase(presets.lbfgs(), until=stall, name="lbfgs"))
            reasons.append(f"A dense inverse Hessian would take {_gibibytes(n * n, bits)}: Adam, then L-BFGS.")
        else:
            if self.raw and not objective.bare:
                seconds = SHARE * self.seconds
                phases.append(Phase(presets.adam(1e-3), steps=WARM_UP, seconds=seconds, name="adam", every=100))
                reasons.append("A few steps of Adam, against overfitting the points from a raw start.")
            phases.append(Phase(presets.ssbroyden(), until=stall, name="ssbroyden"))
            reasons.append(f"Self-scaled Broyden with a dense inverse ({_gibibytes(n * n, bits)}).")
        solver = presets.levenberg_marquardt(acceleration=False)
        if decided is not None:
            if "levenberg_marquardt" in decided:
                phases.append(Phase(solver, name="levenberg_marquardt"))
        elif objective.has_curvature and min(n, m) ** 2 * max(n, m) < 1e13:  # else there is no need to trace it
            costs = forecast(solver, objective, batch)
            laptop = costs.cost.seconds(bits=bits, machine=LAPTOP)
            other, numbers = ("kernel", m * (n + m)) if n <= m else ("parameter", 3 * n * n)
            told = f"{costs.name} would take {costs.brief} (in {other} space {_gibibytes(numbers, bits)})"
            if AFFORDABLE * laptop <= self.seconds and costs.bytes <= ROOM * 2**30:
                phases.append(Phase(solver, name="levenberg_marquardt"))
                reasons.append(f"{told}: once the rest stalls.")
            else:
                reasons.append(f"{told}: too much for this budget.")
        if len(phases) == 1 or phases[-1].name != "levenberg_marquardt":
            phases[-1] = dataclasses.replace(phases[-1], until=None)
        if bits < 64:
            reasons.append("In float32 curvature methods stop near a relative error of 1e-4; float64 goes on.")
        return Plan(tuple(phases), self.seconds, " ".join(reasons))


def auto(*, seconds: float | int) -> Auto:
    """Chooses phases by structure: `ravine.train(problem, ravine.auto(seconds=60), key=key)`.

    Up to 6,000 parameters a dense self-scaled Broyden method (on the problems of this library it beats Gauss–Newton in
    time until the very end), after at most 1,000 steps of Adam: from a raw start quasi-Newton steps may overfit the
    points (poisson2d with k = 4, 1,000 points: error 2e-4 at a loss of 3e-11 without, 1e-7 with). Beyond that Adam,
    then L-BFGS; where samples of data are fitted, SOAP instead of Adam if its step costs no more than three of Adam's,
    and for minibatches nothing else: there the rate falls in stages to a fiftieth, as batches are noise. When progress
    per second stalls, and one factorisation a step is affordable by its forecast, Levenberg–Marquardt follows. The
    plan's `reason` says what was chosen and why, with memory and time a step.

    **Arguments:** `seconds`: the budget of wall time, compilation apart.

    **Raises:** `ValueError` for a budget that is not positive and finite.

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**2), jnp.ones(3))
    >>> [phase.name for phase in rv.auto(seconds=10)(objective, theta, None).phases]
    ['ssbroyden']

    ```
    """
    return Auto(float(seconds))


def _drawn(objective: Objective, batch: Batch) -> bool:
    """Whether a batch holds a part of the data only, so that what was learnt of one loss is not of the next."""
    counts = [leaf.shape[0] for leaf in jax.tree.leaves(points_of(batch)) if leaf.ndim]
    return objective.samples is not None and max(counts, default=objective.samples) < objective.samples


def _first_order(
    objective: Objective, batch: Batch, decided: tuple[str, ...] | None, rate: float = 1e-3
) -> tuple[Phase, str]:
    """SOAP where its matrices cost little beside a gradient, else Adam; and why."""
    methods = presets.adam(rate), presets.soap()
    if decided is not None:
        soap = "soap" in decided
        return Phase(methods[soap], name="soap" if soap else "adam"), "SOAP" if soap else "Adam"
    bits = 8 * objective.layout.dtype.itemsize
    costs = [forecast(method, objective, batch) for method in methods]
    adam, soap = (one.cost.seconds(bits=bits, machine=LAPTOP) for one in costs)
    if soap <= DEARER * adam and costs[1].bytes <= ROOM * 2**30:
        return Phase(methods[1], name="soap"), f"SOAP, whose step costs {soap / adam:.1f} times one of Adam"
    return Phase(methods[0], name="adam"), f"Adam, since a step of SOAP would cost {soap / adam:.1f} times as much"


def _annealed(phase: Phase, seconds: float) -> tuple[Phase, ...]:
    """The phase in stages of an ever smaller rate, which keep what the method has learnt: compiled once."""
    method, search = phase.optimizer, phase.optimizer.search
    assert isinstance(search, Fixed)
    rate = search.rate
    assert not callable(rate)
    stages = [(share, dataclasses.replace(method, search=Fixed(factor * rate))) for share, factor in ANNEALED]
    return tuple(
        dataclasses.replace(phase, optimizer=slower, seconds=share * seconds, keep=number > 0)
        for number, (share, slower) in enumerate(stages)
    )


def _gibibytes(numbers: int, bits: int) -> str:
    return f"{numbers * bits / 8 / 2**30:.2g} GiB"
