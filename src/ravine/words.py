"""What is typed on the command line, read: times, phases, settings, names. What cannot be used is a `Refusal`."""

import contextlib
import dataclasses
import difflib
import inspect
import math
import re
import typing
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ravine.weights import Weighting

FLOAT32_TARGET = 1e-5  # relative errors below this cannot be told from rounding in float32
LONGEST = 1e8  # seconds; what `ravine.Phase` accepts
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class Refusal(Exception):
    """Input that cannot be used; the message says what happened and what to type."""


def nearest(word: str, words: Iterable[str]) -> str:
    """ "Did you mean …? " where something is near, and all there are."""
    words = list(words)
    near = difflib.get_close_matches(word.lower(), words, n=3, cutoff=0.5)
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{guess}There are: {', '.join(words)}."


def parse_seconds(text: str) -> float:
    """Seconds of a budget such as 90, 60s, 2m or 1h.

    ```python
    >>> from ravine.words import parse_seconds
    >>> parse_seconds("90"), parse_seconds("1.5m"), parse_seconds("1h")
    (90.0, 90.0, 3600.0)

    ```
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(s|m|min|h|)", text.strip().lower().replace(" ", ""))
    seconds = float(match[1]) * UNITS[match[2]] if match else math.nan
    if not 0 < seconds <= LONGEST:
        raise Refusal(f"A time budget is a positive time such as 90, 60s, 2m or 1h (at most 10⁸ s); got {text!r}.")
    return seconds


@dataclasses.dataclass(frozen=True)
class Step:
    """One entry of --phases."""

    method: str
    steps: int | None = None
    seconds: float | None = None

    @property
    def limited(self) -> bool:
        """Whether it ends by itself."""
        return self.steps is not None or self.seconds is not None


def split(text: str) -> list[str]:
    """Entries between the commas that stand outside brackets."""
    return [entry.strip() for entry in re.split(r",(?![^()]*\))", text)]


def parse_phases(text: str) -> Iterator[Step]:
    """The entries of `adam:500,lbfgs(memory=50):60s,levenberg_marquardt`."""
    entries = split(text)
    for number, entry in enumerate(entries):
        name, colon, limit = entry.rpartition(":") if ":" in entry else (entry, "", "")
        if not name or (colon and not limit):
            raise Refusal(f"--phases: the entry {entry!r} is not of the form adam:500 (steps) or ssbroyden:60s (time).")
        if not colon:
            if number + 1 < len(entries):
                raise Refusal(f"--phases: {name!r} has no limit and would never let the next one begin: {name}:500.")
            yield Step(name)
        elif re.fullmatch(r"\d+", limit):
            if not 1 <= int(limit) < 2**31:
                raise Refusal(f"--phases: {entry!r}: the number of steps must lie between 1 and 2³¹ − 1.")
            yield Step(name, steps=int(limit))
        else:
            try:
                yield Step(name, seconds=parse_seconds(limit))
            except Refusal:
                raise Refusal(
                    f"--phases: {entry!r}: a limit is a number of steps such as 500, or a time such as 60s, 2m, 1h."
                ) from None


def parse_setting(text: str) -> tuple[str, Any]:
    """The name and value of `k=4`: a number, true, false, none, or a word."""
    name, equals, value = text.partition("=")
    name, value = name.strip().replace("-", "_"), value.strip()
    if not (equals and name and value):
        raise Refusal(f"--set takes name=value, such as --set k=4; got {text!r}.")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return name, kind(value)
    return name, value


def parse_weights(text: str) -> "Weighting":
    """The weighting of `ntk`, `gradnorm:rate=0.1,every=100`, or `bc=100,pde=1`, fixed numbers."""
    from ravine.weights import SCHEMES, Given

    name, colon, rest = text.strip().partition(":")
    fixed = "=" in name
    if fixed and colon:
        raise Refusal(f"--weights: {text!r} is neither NAME:setting=value,… nor TERM=weight,….")
    pairs = (text if fixed else rest).split(",") if fixed or colon else []
    try:
        settings = [parse_setting(pair) for pair in pairs]
    except Refusal:
        raise Refusal(f"--weights takes a scheme such as ntk or ntk:every=50, or bc=100; got {text!r}.") from None
    if len(dict(settings)) < len(settings):
        raise Refusal(f"--weights: a name is given twice in {text!r}.")
    try:
        if fixed:
            return Given({name: _fit(name, value, float) for name, value in settings})
        if name not in SCHEMES:
            raise Refusal(f"There are no weights {name!r}. {nearest(name, SCHEMES)} Or fixed numbers: bc=100,pde=1")
        kinds = typing.get_type_hints(SCHEMES[name])
        for setting, _ in settings:
            if setting not in inspect.signature(SCHEMES[name]).parameters:
                known = inspect.signature(SCHEMES[name]).parameters
                raise Refusal(f"The weights {name} have no setting {setting!r}. {nearest(setting, known)}")
        return SCHEMES[name](**{setting: _fit(setting, value, kinds[setting]) for setting, value in settings})
    except ValueError as error:
        raise Refusal(str(error)) from None


def parse_target(text: str, precision: int) -> float:
    """A relative error that can be reached in this precision."""
    try:
        target = float(text)
    except ValueError:
        target = math.nan
    if not 0 < target < math.inf:
        raise Refusal(f"--target is a positive relative error such as 1e-4; got {text!r}.")
    if precision == 32 and target < FLOAT32_TARGET:
        raise Refusal(
            f"A relative error of {target:g} cannot be reached in float32, where rounding stops every method near "
            f"{FLOAT32_TARGET:g} at best. Leave out --precision 32, or ask for --target 1e-4."
        )
    return target


def check_method(text: str) -> str:
    """The method in words, such as `lbfgs` or `lbfgs(memory=50)`, if there is such a method with such settings."""
    from ravine.optim.presets import METHODS, called, method

    names = ("auto", *METHODS)
    try:
        name, settings = called(text)
        if name not in names:
            raise Refusal(f"There is no method {name!r}. {nearest(name, names)}")
        if settings and name == "auto":
            raise Refusal("auto has no settings here; its budget is --budget.")
        if settings:
            method(text)
    except ValueError as error:
        raise Refusal(str(error)) from None
    return text


def parse_methods(text: str) -> list[str] | None:
    """The methods of `adam,lbfgs(memory=50)`; None for all."""
    if text.strip() == "all":
        return None
    names = split(text)
    if len(set(names)) < len(names):
        raise Refusal(f"--methods: {max(names, key=names.count)!r} is named twice.")
    return [check_method(name) for name in names]


def options_of(problem: str) -> dict[str, inspect.Parameter]:
    from ravine.problems import NAMES, factory

    if problem not in NAMES:
        raise Refusal(f"There is no problem {problem!r}. {nearest(problem, NAMES)}")
    return dict(inspect.signature(factory(problem)).parameters)


def check_options(problem: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options, if the problem has them and their values are of the right kind."""
    from ravine.problems import factory

    known = options_of(problem)
    for name in options:
        if name not in known:
            raise Refusal(f"The problem {problem} has no option {name!r}. {nearest(name, known)}")
    kinds = typing.get_type_hints(inspect.unwrap(factory(problem)))
    return {name: _fit(name, value, kinds.get(name, Any)) for name, value in options.items()}


def _fit(name: str, value: Any, kind: Any) -> Any:
    """The value as `kind`; integers pass for floats, and 1e4 for an integer."""
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise Refusal(f"{name} is {value!r}, but must be one of: {', '.join(map(str, choices))}.")
        return value
    kinds = typing.get_args(kind) or (kind,)
    if kind is Any or (value is None and type(None) in kinds):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        if int in kinds and value == int(value):
            return int(value)
        if float in kinds:
            return float(value)
    if (bool in kinds and isinstance(value, bool)) or (str in kinds and isinstance(value, str)):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "none"}
    raise Refusal(f"{name} is {value!r}, but must be {' or '.join(names.get(one, str(one)) for one in kinds)}.")
