"""Why does my training stall? Every check on one case, the findings by blame."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ravine._types import Batch, PyTree, RandomKey, Vector
from ravine.checkpoint import RunFolderError, restore_phases
from ravine.diagnostics.case import Case
from ravine.diagnostics.checks import CHECKS
from ravine.diagnostics.finding import Finding
from ravine.objective import Objective
from ravine.optim.optimizer import Optimizer
from ravine.optim.phase import Phase, Plan
from ravine.problems.problem import Problem
from ravine.run import History, Run, make_plan, subkeys
from ravine.samplers import Sampler
from ravine.terms import points_of

REMARK = 0.05  # findings with less blame are left out
UNWELL = 1e-3  # a relative error above which a run without findings is not called well
CLEAR = 0.3  # from here on a finding is a cause; below it is a remark


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The findings, most blame first. Prints as text; `bool` tells whether anything is to blame (above 0.3)."""

    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(finding.blame > CLEAR for finding in self.findings)

    @property
    def verdict(self) -> str:
        """What to say where nothing is to blame: all is well, or what is left has no cause that any check knows."""
        error = self.facts.get("relative_error")
        if error is not None and error > UNWELL:
            return f"No check finds a cause, but a relative error of {error:.1e} is left."
        return "Nothing is to blame."

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the findings, in order."""
        return tuple(finding.kind for finding in self.findings)

    def describe(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        plain = lambda value: value.item() if isinstance(value, np.generic) else value
        return {
            "facts": {name: plain(value) for name, value in self.facts.items()},
            "findings": [
                {
                    **dataclasses.asdict(dataclasses.replace(finding, numbers={})),
                    "blame": float(finding.blame),
                    "advice": list(finding.advice),
                    "numbers": {name: plain(value) for name, value in finding.numbers.items()},
                }
                for finding in self.findings
            ],
        }

    def __str__(self) -> str:
        facts = ", ".join(
            f"{name.replace('_', ' ')} {value:.2g}" if isinstance(value, float) else f"{name} {value:,}"
            for name, value in self.facts.items()
            if value is not None
        )
        parts = [facts[:1].upper() + facts[1:] + "."] if facts else []
        if not self:
            parts.append(self.verdict + (" Remarks:" if self.findings else ""))
        for number, finding in enumerate(self.findings, 1):
            head = f"{number}. {finding.summary} ({finding.kind}, blame {finding.blame:.0%})"
            lines = [head, *(_wrapped(text) for text in (finding.evidence, finding.cause))]
            lines += [f"     Try: {finding.advice[0]}"] if finding.advice else []
            lines += [f"     or:  {advice}" for advice in finding.advice[1:]]
            parts.append("\n".join(lines))
        return "\n\n".join(parts)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 110, initial_indent="   ", subsequent_indent="   ")


def diagnose(
    objective: Objective | Run,
    params: PyTree | Vector = None,
    batch: Batch = None,
    *,
    test: Batch | None = None,
    history: History | Sequence[Any] | None = None,
    problem: Problem | None = None,
    optimizer: Optimizer | None = None,
    phases: Plan | Phase | Sequence[Phase] | None = None,
    sampler: Sampler | None = None,
    state: PyTree = None,
    key: RandomKey | None = None,
) -> Diagnosis:
    """Why training stalls, or why its answer is wrong: the findings of every check, most blame first.

    **Arguments:**

    - `objective`: of `Objective.from_terms`, `from_residuals` or `from_loss`; or a `Run`, which knows all else.
    - `params`: the model (or whatever pytree the objective was made for), or the flat vector.
    - `batch`: the points, or data, that were trained on.
    - `test`: independent ones; drawn from the problem where it is given.
    - `history`: a run's, or the losses one after another.
    - `problem`, `sampler`: where points come from; a reference.
    - `optimizer`, or `phases` (the last counts): what trains. Checks of methods are silent without.
    - `state`: of the optimizer; not looked at yet.

    **Raises:** `TypeError` where parameters are missing; `ValueError` for parameters of another size.

    **Cost:** the Jacobian of at most 1,000 rows and an eigendecomposition of that size, some thirty products with the
    Hessian, a few gradients: seconds.

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> loss = lambda p, a: jnp.sum(jnp.array([1.0, 30.0]) * (p - a) ** 2)
    >>> objective, theta = rv.Objective.from_loss(loss, jnp.ones(2))
    >>> losses = [3.0 * 1.4**step for step in range(20)]
    >>> found = rv.diagnose(objective, theta, 0.0, history=losses, optimizer=rv.gradient_descent(rate=0.05))
    >>> found.kinds[0]
    'rate-too-high'

    ```
    """
    if isinstance(objective, Run):
        return diagnose_run(objective, phases=phases)
    if params is None:
        raise TypeError("diagnose: needs parameters: ravine.diagnose(objective, params, batch), or a Run alone.")
    theta = params if _flat(params, objective.parameters) else objective.flatten(params)
    if theta.shape != (objective.parameters,):
        raise ValueError(
            f"diagnose: the objective has {objective.parameters} parameters, but those given are {theta.size}."
        )
    if optimizer is None and phases is not None:
        listed = phases.phases if isinstance(phases, Plan) else [phases] if isinstance(phases, Phase) else list(phases)
        optimizer = listed[-1].optimizer if listed else None
    if problem is not None and (sampler is None or test is None):
        made, start, bound = problem.objective(jax.random.key(0))
        del made, start
        sampler = bound if sampler is None else sampler
        if test is None:
            test = sampler.judge(sampler.init(jax.random.key(1) if key is None else key).batch)
    return examine(
        Case(
            objective,
            theta,
            points_of(batch),
            None if test is None else points_of(test),
            _rows(history),
            problem,
            optimizer,
            sampler,
            state,
            key,
        )
    )


def _flat(params: Any, size: int) -> bool:
    """Whether these are flat parameters already."""
    return isinstance(params, (jax.Array, np.ndarray)) and params.shape == (size,)


def diagnose_run(run: Run, *, phases: Plan | Phase | Sequence[Phase] | None = None) -> Diagnosis:
    """`diagnose` for what `train`, `minimise` or `load` returned: on the last points it used, at its best parameters.

    **Arguments:** `phases`: as they were given to `train`, where the run cannot tell (methods with own settings).
    """
    carry, problem = run.position.carry, run.problem
    batch, sampler, test = points_of(carry.sampler.batch), None, None
    optimizer = _optimizer(run, phases)
    if problem is not None:
        from ravine.checkpoint import restore_key

        model_key, _, test_key, _ = subkeys(restore_key(run.config))
        _, _, sampler = problem.objective(model_key)
        test = points_of(sampler.judge(sampler.init(test_key).batch))
    return examine(
        Case(
            run.objective.over(None),
            run.theta,
            batch,
            test,
            run.history.rows,
            problem,
            optimizer,
            sampler,
            carry.optimizer,
            stop=run.stop.value,
            end=carry.theta,
        )
    )


def _optimizer(run: Run, phases: Any) -> Optimizer | None:
    """The method of the phase that the run was in last."""
    try:
        given = restore_phases(run.config) if phases is None else phases
        batch = run.position.carry.sampler.batch
        plan = make_plan(given, run.objective, run.theta, batch, run.config.get("seconds"))
        return plan.phases[min(run.position.phase, len(plan.phases) - 1)].optimizer
    except (RunFolderError, ValueError, TypeError):
        return None


def _rows(history: History | Sequence[Any] | None) -> list[dict[str, Any]]:
    if history is None:
        return []
    rows = history.rows if isinstance(history, History) else list(history)
    return [
        row if isinstance(row, dict) else {"step": number, "loss": float(row), "phase": 0}
        for number, row in enumerate(rows)
    ]


def examine(case: Case) -> Diagnosis:
    """Every check on a case."""
    case = dataclasses.replace(case, checks=CHECKS, found={})
    if not case.finite:
        found = [case.finding("not-finite")]
    else:
        found = [case.finding(kind) for kind in CHECKS]
    kept = [finding for finding in found if finding is not None and finding.blame >= REMARK]
    facts = {"loss": case.loss, "independent_loss": case.independent, "relative_error": case.error}
    facts |= {"parameters": case.objective.parameters, "rows": case.objective.size(case.batch)}
    return Diagnosis(tuple(sorted(kept, key=lambda finding: -finding.blame)), facts)
