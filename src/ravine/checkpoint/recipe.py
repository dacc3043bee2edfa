"""How a run was made, in plain values, and made again from them: key, problem, weights and phases."""

import contextlib
import dataclasses
import inspect
import os
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ravine import problems
from ravine._types import RandomKey
from ravine.checkpoint.files import CONFIG, RunFolderError, damaged, plain
from ravine.optim import switches
from ravine.optim.auto import Auto
from ravine.optim.phase import Phase, Plan, Tolerance, Until
from ravine.optim.presets import METHODS, method as preset
from ravine.problems.problem import Problem
from ravine.run import Planner
from ravine.weights import SCHEMES, Given, Weighting

Phases = Plan | Phase | Sequence[Phase] | Planner


def describe_key(key: RandomKey) -> dict[str, Any]:
    """A key as integers and the name of its generator.

    ```python
    >>> import jax
    >>> from ravine.checkpoint import describe_key
    >>> describe_key(jax.random.key(7, impl="threefry2x32"))
    {'impl': 'threefry2x32', 'data': [0, 7]}

    ```
    """
    return {"impl": str(jax.random.key_impl(key)), "data": np.asarray(jax.random.key_data(key)).tolist()}


def restore_key(config: Mapping[str, Any], path: str | os.PathLike = "the folder") -> RandomKey:
    """The key that `train` was given. **Raises:** `RunFolderError` when it was not saved: such a run has no problem."""
    saved = config.get("key")
    if saved is None:
        raise RunFolderError(
            f"The run in {path} was made by minimise or least_squares from a function, which is not saved, so it "
            "cannot be loaded. Use ravine.checkpoint.read_history, read_summary and read_theta; to go on, start anew "
            "from the parameters that read_theta gives. (A run of a Problem loads with problem= and phases=.)"
        )
    try:
        return jax.random.wrap_key_data(jnp.asarray(np.array(saved["data"], np.uint32)), impl=saved["impl"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(Path(path) / CONFIG, f"its key {saved!r:.80} is no key") from error


def restore_problem(config: Mapping[str, Any], path: str | os.PathLike = "the folder") -> Problem:
    """The problem made again by its name and options. **Raises:** `RunFolderError` when it has no known name."""
    saved = config.get("problem")
    name = saved.get("name", "") if isinstance(saved, dict) else ""
    if not isinstance(saved, dict) or name not in problems.NAMES:
        called = f"is called {name!r}, which is not in ravine.problems" if name else "has no name"
        raise RunFolderError(
            f"The problem of the run in {path} {called}, so it cannot be made again from the folder alone. Pass "
            "problem= (and phases=, unless they are presets): ravine.load(path, problem=problem). History, summary and "
            "parameters can be read without: ravine.checkpoint.read_history, read_summary, read_theta."
        )
    try:
        options = {key: _tuples(value) for key, value in saved.get("options", {}).items()}
        made = problems.make(name, **options)
        return dataclasses.replace(made, weights=restore_weights(config.get("weights")))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"The problem {name!r} of the run in {path} cannot be made again with its options "
            f"{saved.get('options')!r:.200} ({error}). Likely causes: another version of ravine, or an option that is "
            "not a plain value. Pass problem=."
        ) from error


def describe_weights(weights: Weighting) -> dict[str, Any]:
    """A weighting by name and settings, as plain values; one of one's own in words only."""
    name = next((name for name, kind in SCHEMES.items() if type(weights) is kind), None)
    settings = {field.name: getattr(weights, field.name) for field in dataclasses.fields(weights)}
    if name is None or {key: _tuples(value) for key, value in plain(settings).items()} != settings:
        return {"custom": repr(weights)}
    return {name: settings}


def restore_weights(saved: Any) -> Weighting:
    """The weighting again. **Raises:** `ValueError` for one that was made by hand: pass `problem=` then."""
    if saved is None:
        return Given()
    ((name, settings),) = saved.items()
    if name == "custom":
        raise ValueError(f"its weights, {settings!r:.80}, were made by hand")
    return SCHEMES[name](**{key: _tuples(value) for key, value in settings.items()})


def describe_phases(plan: Plan) -> list[dict[str, Any]]:
    """Names and budgets of the phases that a plan came to."""
    return [{"name": phase.name, "steps": phase.steps, "seconds": phase.seconds} for phase in plan.phases]


def describe_plan(phases: Phases) -> dict[str, Any]:
    """How to make again what `train` was given as phases, as plain values: `{"auto": {...}}` or `{"phases": [...]}`.

    Methods are known by their preset, limits by the function that made them. What is not recognised (a preset with
    other settings, a function of one's own) is described in words only, and `restore_phases` asks for it.
    """
    if isinstance(phases, Auto):
        return {"auto": {"seconds": phases.seconds, "raw": phases.raw}}
    if isinstance(phases, Phase):
        phases = (phases,)
    if isinstance(phases, Plan):
        return {**describe_plan(phases.phases), "seconds": phases.seconds, "reason": phases.reason}
    if isinstance(phases, (list, tuple)):
        return {"phases": [_describe_phase(phase) for phase in phases]}
    return {"custom": repr(phases)}


def restore_phases(config: Mapping[str, Any], path: str | os.PathLike = "the folder") -> Phases:
    """What `describe_plan` described, to be given to `train` with `seconds=config["seconds"]`.

    **Raises:** `RunFolderError` when something in it was not recognised: pass `phases=` then.
    """
    saved = config.get("plan")
    try:
        if not isinstance(saved, dict) or "custom" in saved:
            raise _Unknown(f"the plan ({saved!r:.80})")
        if "auto" in saved:
            return Auto(**saved["auto"], decided=tuple(entry["name"] for entry in config.get("phases") or ()) or None)
        made = tuple(_restore_phase(entry) for entry in saved["phases"])
        if "reason" in saved:
            return Plan(made, saved.get("seconds"), saved["reason"])
        return made
    except _Unknown as what:
        raise RunFolderError(
            f"The phases of the run in {path} cannot be made again from the folder alone: {what} was made by hand. "
            "Pass phases= as in the first call: ravine.load(path, phases=phases)."
        ) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"The phases of the run in {path} cannot be made again ({type(error).__name__}: {error}). Likely causes: "
            f"another version of ravine, or {CONFIG} was edited. Pass phases= as in the first call."
        ) from error


class _Unknown(Exception):
    """Something in a plan that only its maker can make again."""


def _describe_phase(phase: Phase) -> dict[str, Any]:
    until = None if phase.until is None else _describe_until(phase.until)
    method = _method(phase)
    found = {"name": phase.name, "method": method, "steps": phase.steps, "seconds": phase.seconds, "until": until}
    if phase.tolerance is not None:
        found["tolerance"] = dataclasses.asdict(phase.tolerance)
    if phase.keep:
        found["keep"] = True
    if phase.every is not None:
        found["every"] = phase.every
    return found if method is not None else {**found, "optimizer": repr(phase.optimizer)}


def _restore_phase(entry: Mapping[str, Any]) -> Phase:
    if entry["method"] is None:
        raise _Unknown(f"the optimizer of the phase {entry['name']!r} ({entry.get('optimizer', '')!r:.80})")
    until = entry["until"]
    if until is not None and "custom" in until:
        raise _Unknown(f"the limit of the phase {entry['name']!r} ({until['custom']!r:.80})")
    if until is not None:
        ((name, settings),) = until.items()
        until = LIMITS[name](**settings)
    return Phase(
        preset(entry["method"]),
        steps=entry["steps"],
        seconds=entry["seconds"],
        until=until,
        name=entry["name"],
        tolerance=Tolerance(**entry["tolerance"]) if "tolerance" in entry else None,
        keep=entry.get("keep", False),
        every=entry.get("every"),
    )


def _method(phase: Phase) -> str | None:
    """The preset that makes this very optimizer, with the settings that the name of the phase tells, or with none."""
    for text in (phase.name, *METHODS):
        with contextlib.suppress(ValueError):
            if _same(preset(text), phase.optimizer):
                return text
    return None


LIMITS: dict[str, Callable[..., Until]] = {
    limit.__name__: limit for limit in (switches.stalled, switches.below, switches.slowing, switches.noisy)
}


def _describe_until(until: Until) -> dict[str, Any]:
    """The function and settings that made a limit, found by making it again and comparing."""
    inner = inspect.unwrap(until)
    if isinstance(inner, types.FunctionType):
        bound = inspect.getclosurevars(inner).nonlocals
        for name, make in LIMITS.items():
            settings = {key: bound[key] for key in inspect.signature(make).parameters if key in bound}
            with contextlib.suppress(TypeError):
                if _same(make(**settings), until) and plain(settings) == settings:
                    return {name: settings}
    return {"custom": repr(until)}


def _same(a: Any, b: Any) -> bool:
    """Whether two values do the same, functions being equal when their code and all that they hold are."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, types.FunctionType):
        a, b = inspect.unwrap(a), inspect.unwrap(b)
        # Compiled code alone compares by value; a closure's cells hold its settings.
        cells = [[cell.cell_contents for cell in f.__closure__ or ()] for f in (a, b)]
        return (
            a.__module__ == b.__module__
            and a.__code__ == b.__code__
            and _same(cells[0], cells[1])
            and _same((a.__defaults__, a.__kwdefaults__), (b.__defaults__, b.__kwdefaults__))
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (np.ndarray, jax.Array)):
        return a.shape == b.shape and a.dtype == b.dtype and bool((np.asarray(a) == np.asarray(b)).all())
    if dataclasses.is_dataclass(a):
        return all(_same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    if hasattr(a, "func") and hasattr(a, "keywords"):  # functools.partial
        return _same((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    return bool(a == b)


def _tuples(value: Any) -> Any:
    """Lists as tuples, which options that are compared or hashed need; JSON knows lists only."""
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
