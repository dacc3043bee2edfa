"""What is known of a method beside its code: what it needs, costs and comes from."""

import ast
import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from ravine.optim.optimizer import Optimizer

Family = Literal[
    "first order",
    "stochastic first order",
    "quasi-Newton",
    "Newton",
    "Gauss–Newton",
    "stochastic second order",
    "Kronecker-factored",
    "structure-exploiting",
]

# What a method asks of an objective or a sampler; `NEEDS` says what each means.
Need = Literal["residuals", "curvature", "same points", "samples", "minibatches", "layers", "double"]


@dataclasses.dataclass(frozen=True)
class Method:
    """A preset and its catalogue entry. Calling it calls the preset.

    `cost` is that of a step beyond (or in) gradients, `memory` in numbers, with n parameters and m rows; `source` names
    authors and year.
    """

    make: Callable[..., Optimizer]
    family: Family
    cost: str
    memory: str
    source: str
    needs: tuple[Need, ...] = ()

    @property
    def __name__(self) -> str:
        return self.make.__name__

    @property
    def definition(self) -> str:
        """The first sentence of the docstring."""
        text = " ".join((self.make.__doc__ or "").split("\n\n")[0].split())
        head, dot, _ = text.partition(". ")
        return head + dot.strip() if dot else text

    def __call__(self, *args: Any, **settings: Any) -> Optimizer:
        return self.make(*args, **settings)


def called(text: str) -> tuple[str, dict[str, Any]]:
    """The name and settings of a method in words, such as `spring(ridge=1e-6, space=kernel)`.

    **Raises:** `ValueError` for what has not this form.

    ```python
    >>> from ravine.optim.presets import called
    >>> called("lbfgs"), called("spring(ridge=1e-6, space=kernel)")
    (('lbfgs', {}), ('spring', {'ridge': 1e-06, 'space': 'kernel'}))

    ```
    """
    name, bracket, _ = text.strip().partition("(")
    if not bracket:
        return name, {}
    value = lambda node: node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
    with contextlib.suppress(SyntaxError, ValueError):
        match ast.parse(text.strip(), mode="eval").body:
            case ast.Call(func=ast.Name(), args=[], keywords=settings):
                return name.strip(), {str(setting.arg): value(setting.value) for setting in settings}
    raise ValueError(
        f"{text!r} is not a method with settings. Write numbers and words by name: lbfgs(memory=50), "
        "spring(ridge=1e-6, space=kernel)."
    )


def made(methods: Mapping[str, Method], text: str) -> Optimizer:
    """The optimizer of a method in words.

    **Raises:** `ValueError` for an unknown name, an unknown setting, and what the method itself refuses.
    """
    name, settings = called(text)
    if name not in methods:
        raise ValueError(f"There is no method {name!r}. There are: {', '.join(methods)}.")
    known = inspect.signature(methods[name].make).parameters
    for setting, value in settings.items():
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting!r}; it has {', '.join(known) or 'none'}.")
        if isinstance(known[setting].default, float) and not isinstance(value, (int, float)):
            raise ValueError(f"{name}: the setting {setting} is a number, but was given as {value!r}.")
    try:
        return methods[name](**settings)
    except TypeError as error:
        raise ValueError(f"{text}: a setting is of the wrong kind, or one is missing ({error}).") from None


def catalogue(*methods: Method) -> dict[str, Method]:
    """By name."""
    return {method.__name__: method for method in methods}


NEEDS: dict[Need, str] = {
    "residuals": "every loss is ½‖F‖²",
    "curvature": "some loss is convex in its features: there is a Gauss–Newton matrix",
    "same points": "losses are compared on the same points: hold them, or use large batches",
    "samples": "batches that know which samples of which data they hold: `Minibatches`, `Constant`",
    "minibatches": "made for noise: with the full batch nothing is gained",
    "layers": "the model is made of linear layers that the method can see",
    "double": "in float32 it stops far from the end",
}


def catalogue_page(methods: dict[str, Method]) -> str:
    """The methods as a page in Markdown, a table a family: `docs/methods.md`."""
    cell = lambda text: text.replace("|", "\\|")
    line = lambda cells: f"| {' | '.join(cell(text) for text in cells)} |"
    lines = [
        "# Methods",
        "",
        "Written by `ravine methods --markdown > docs/methods.md` from the presets; a test compares. Each method is a",
        "function of that name in `ravine`, and an entry of `ravine.METHODS`. n parameters, m rows of the Jacobian; a",
        "*value* is one evaluation of the loss, an *evaluation* likewise, a *gradient* about three.",
        "",
        "What a method needs:",
        "",
        *(f"- *{need}*: {meaning}." for need, meaning in NEEDS.items()),
    ]
    for family in get_args(Family):
        of_family = {name: method for name, method in methods.items() if method.family == family}
        if of_family:
            lines += ["", f"## {family[0].upper()}{family[1:]}", ""]
            lines += [line(("method", "what it is", "a step costs", "numbers kept", "needs", "source"))]
            lines += [line(["---"] * 6)]
        for name, method in of_family.items():
            needs = ", ".join(method.needs)
            lines.append(line((f"`{name}`", method.definition, method.cost, method.memory, needs, method.source)))
    return "\n".join(lines) + "\n"
