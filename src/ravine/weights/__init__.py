"""How much each term counts, and each point: adaptive weights of the loss, usable with every method.

A weighting is a value that belongs to a problem: `dataclasses.replace(problem, weights=ravine.NTKTrace())`. Before each
step the loop asks it for the objective and the batch of that step, `(objective, theta, batch, state, stuck) ->
(objective, batch, state, work)`: terms come back with other weights, points with weights of their own. Optimizers see
an objective like any other, so that least-squares methods have scaled rows; what they evaluated under old weights is
not reused (`Optimizer.step`), and no pair of a quasi-Newton method mixes two weightings, as with redrawn points.

Between two updates, `every` steps apart, weights are frozen: quasi-Newton methods want hundreds. After a failed search
they are updated at once: all was got from them. Adaptive weights λ multiply the weights that the terms were given;
histories and best parameters are always judged by the given ones.
"""

from ravine.weights.by_point import Causal, ResidualAttention, SelfAdaptive
from ravine.weights.by_term import Annealing, Balance, GradNorm, NTKTrace, ReLoBRaLo
from ravine.weights.lagrangian import AugmentedLagrangian
from ravine.weights.scheme import weighed
from ravine.weights.weighting import Given, Weighting

SCHEMES: dict[str, type[Weighting]] = {
    "given": Given,
    "annealing": Annealing,
    "balance": Balance,
    "ntk": NTKTrace,
    "gradnorm": GradNorm,
    "relobralo": ReLoBRaLo,
    "self_adaptive": SelfAdaptive,
    "attention": ResidualAttention,
    "causal": Causal,
    "lagrangian": AugmentedLagrangian,
}

__all__ = [
    "SCHEMES",
    "Annealing",
    "AugmentedLagrangian",
    "Balance",
    "Causal",
    "Given",
    "GradNorm",
    "NTKTrace",
    "ReLoBRaLo",
    "ResidualAttention",
    "SelfAdaptive",
    "Weighting",
    "weighed",
]
