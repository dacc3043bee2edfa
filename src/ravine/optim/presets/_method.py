"""What is known of a method beside its code: what it needs, costs and comes from."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

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

# What a method asks of an objective or a sampler:
#   residuals      every loss is ½‖F‖²
#   curvature      some loss is convex in its features, so that there is a Gauss–Newton matrix
#   same points    memory or searches compare losses on the same points: hold them, or use large batches
#   samples        batches that know which samples of which data they hold: Minibatches, Constant
#   minibatches    made for noise: with the full batch nothing is gained
#   layers         the model is made of linear layers that the method can see
#   double         in float32 it stops far from the end
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


def catalogue(*methods: Method) -> dict[str, Method]:
    """By name."""
    return {method.__name__: method for method in methods}
