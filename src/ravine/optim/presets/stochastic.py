"""First-order methods made for minibatches."""

import optax

from ravine.optim.first_order import Steepest, Transform
from ravine.optim.optimizer import Optimizer
from ravine.optim.presets._method import Method, catalogue
from ravine.optim.presets.first_order import Rate
from ravine.optim.search import Fixed
from ravine.optim.shampoo import SOAP, Shampoo
from ravine.optim.stochastic import AdagradNorm, Averaged, Growing
from ravine.optim.variance_reduction import SAGA, SARAH, STORM, SVRG


def sgd(rate: Rate = 1e-2, *, momentum: float | None = None) -> Optimizer:
    """Stochastic gradient descent, with momentum if wanted. One gradient a step; noise is welcome."""
    plain = momentum is None
    return Optimizer(Steepest() if plain else Transform(_momentum, {"decay": momentum}), Fixed(rate))


# ------------------------------------------------------------------------------------------------------- from Optax

# Each is a function of numbers, called inside the step; the rate, last in Optax's chains, is the search's. Weight decay
# that is decoupled is added before it, so that it is multiplied by the rate as in Optax.


def _down(*parts: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(*parts, optax.scale(-1.0))


def _momentum(decay):
    return _down(optax.trace(decay))


def adagrad(rate: Rate = 1e-2, *, start: float = 0.1) -> Optimizer:
    """AdaGrad (Duchi, Hazan and Singer, 2011): each entry over the root of the sum of its squares, from `start`."""
    return Optimizer(Transform(_adagrad, {"start": start}), Fixed(rate))


def _adagrad(start):
    return _down(optax.scale_by_rss(start))


def rmsprop(rate: Rate = 1e-3, *, decay: float = 0.9) -> Optimizer:
    """RMSProp (Tieleman and Hinton, 2012): each entry over the root of a running mean of its squares."""
    return Optimizer(Transform(_rmsprop, {"decay": decay}), Fixed(rate))


def _rmsprop(decay):
    return _down(optax.scale_by_rms(decay))


def amsgrad(rate: Rate = 1e-3, *, b1: float = 0.9, b2: float = 0.999) -> Optimizer:
    """AMSGrad (Reddi, Kale and Kumar, 2018): Adam whose second moments never shrink."""
    return Optimizer(Transform(_amsgrad, {"b1": b1, "b2": b2}), Fixed(rate))


def _amsgrad(b1, b2):
    return _down(optax.scale_by_amsgrad(b1, b2))


def adamw(rate: Rate = 1e-3, *, b1: float = 0.9, b2: float = 0.999, decay: float = 1e-4) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2019): Adam with weight decay beside the gradient, not in it, times the rate."""
    return Optimizer(Transform(_adamw, {"b1": b1, "b2": b2, "decay": decay}), Fixed(rate))


def _adamw(b1, b2, decay):
    return _down(optax.scale_by_adam(b1, b2), optax.add_decayed_weights(decay))


def nadam(rate: Rate = 1e-3, *, b1: float = 0.9, b2: float = 0.999) -> Optimizer:
    """NAdam (Dozat, 2016): Adam with Nesterov momentum."""
    return Optimizer(Transform(_nadam, {"b1": b1, "b2": b2}), Fixed(rate))


def _nadam(b1, b2):
    return _down(optax.scale_by_adam(b1, b2, nesterov=True))


def adabelief(rate: Rate = 1e-3, *, b1: float = 0.9, b2: float = 0.999) -> Optimizer:
    """AdaBelief (Zhuang et al., 2020): Adam by the spread of the gradients around their mean, not their size."""
    return Optimizer(Transform(_adabelief, {"b1": b1, "b2": b2}), Fixed(rate))


def _adabelief(b1, b2):
    return _down(optax.scale_by_belief(b1, b2))


def lion(rate: Rate = 1e-4, *, b1: float = 0.9, b2: float = 0.99, decay: float = 1e-3) -> Optimizer:
    """Lion (Chen et al., 2023): signs of a momentum, with decoupled weight decay. One vector of memory."""
    return Optimizer(Transform(_lion, {"b1": b1, "b2": b2, "decay": decay}), Fixed(rate))


def _lion(b1, b2, decay):
    return _down(optax.scale_by_lion(b1, b2), optax.add_decayed_weights(decay))


def muon(rate: Rate = 1e-3, *, beta: float = 0.95, decay: float = 0.0) -> Optimizer:
    """Muon (Jordan et al., 2024): momentum made orthogonal, matrix by matrix; Adam for all other arrays.

    Steps of matrices are scaled to the size of Adam's (Liu et al., *Muon is scalable for LLM training*, 2025), so that
    one rate serves both.
    """
    return Optimizer(Transform(_muon, {"beta": beta, "decay": decay}), Fixed(rate))


def _muon(beta, decay):
    return optax.contrib.muon(1.0, beta=beta, weight_decay=decay, adam_weight_decay=decay, consistent_rms=0.2)


# ------------------------------------------------------------------------------------------------- variance reduction


def svrg(rate: Rate = 1e-2, *, probability: float | None = None) -> Optimizer:
    """SVRG (Johnson and Zhang, 2013), loopless: batch gradients corrected by the full gradient at an anchor.

    Linear convergence at a constant rate. Needs `Minibatches`.
    """
    return Optimizer(SVRG(probability), Fixed(rate))


def saga(rate: Rate = 1e-2) -> Optimizer:
    """SAGA (Defazio, Bach and Lacoste-Julien, 2014): batch gradients corrected by the last gradient of each sample.

    Linear convergence at a constant rate. Needs `Minibatches`, and N·n numbers.
    """
    return Optimizer(SAGA(), Fixed(rate))


def sarah(rate: Rate = 1e-2, *, probability: float | None = None) -> Optimizer:
    """SARAH (Nguyen et al., 2017), loopless as PAGE: a full gradient followed along by differences on batches.

    Linear convergence at a constant rate. Needs `Minibatches`.
    """
    return Optimizer(SARAH(probability), Fixed(rate))


def storm(rate: Rate = 1e-2, *, momentum: float = 0.1) -> Optimizer:
    """STORM (Cutkosky and Orabona, 2019): momentum corrected on each new batch; any batches, redrawn points too."""
    return Optimizer(STORM(momentum), Fixed(rate))


# ------------------------------------------------------------------------------- rates, batches and means from noise


def adagrad_norm(rate: Rate = 1.0, *, power: float = 0.5, start: float = 1e-2) -> Optimizer:
    """AdaGrad-Norm (Ward, Wu and Bottou, 2019): one rate for all, from the sum of squared norms, and no loss at all."""
    return Optimizer(AdagradNorm(power, start), Fixed(rate))


def growing_batch(rate: Rate = 1e-2, *, tolerance: float = 0.5, most: int = 1000) -> Optimizer:
    """SGD whose batches grow by the norm test (Byrd, Chin, Nocedal and Wu, 2012): gradients add up until one is sure.

    A step of the run is one gradient of one batch; the parameters move once their mean is sure to `tolerance`.
    """
    return Optimizer(Growing(Steepest(), tolerance, most), Fixed(rate))


def averaged(optimizer: Optimizer, *, decay: float | None = None) -> Optimizer:
    """The mean of the iterates of `optimizer` (Polyak and Juditsky, 1992), or with `decay` an exponential one.

    The parameters of the run are the mean at every step; one gradient more. For methods without a search.
    """
    return Optimizer(Averaged(optimizer.direction, decay=decay), optimizer.search)


def asgd(rate: Rate = 1e-2) -> Optimizer:
    """Averaged SGD (Polyak and Juditsky, 1992): the parameters are the mean of all iterates. Two gradients a step."""
    return averaged(Optimizer(Steepest(), Fixed(rate)))


def schedule_free(rate: Rate = 2.5e-3, *, beta: float = 0.9, b2: float = 0.999, decay: float = 0.0) -> Optimizer:
    """Schedule-free AdamW (Defazio et al., 2024): averaging in the place of momentum and of a schedule.

    The parameters are the mean, x in the paper, at every step; two gradients a step.
    """
    return Optimizer(Averaged(Transform(_rms_decay, {"b2": b2, "decay": decay}), beta), Fixed(rate))


def _rms_decay(b2, decay):
    scaled = optax.scale_by_rms(b2, eps_in_sqrt=False, bias_correction=True)
    return _down(scaled, optax.add_decayed_weights(decay))


# ------------------------------------------------------------------------------------------------------ matrices


def shampoo(rate: Rate = 1e-1, *, epsilon: float = 1e-4, refresh: int = 10, largest: int = 2048) -> Optimizer:
    """Shampoo (Gupta, Koren and Singer, 2018): each matrix between inverse fourth roots of its gradients' squares."""
    return Optimizer(Shampoo(epsilon, refresh, largest), Fixed(rate))


def soap(rate: Rate = 3e-3, *, b1: float = 0.95, b2: float = 0.95, refresh: int = 10, largest: int = 2048) -> Optimizer:
    """SOAP (Vyas et al., 2024): Adam in the eigenbasis of Shampoo's matrices."""
    return Optimizer(SOAP(b1, b2, refresh=refresh, largest=largest), Fixed(rate))


_FAMILY = "stochastic first order"

STOCHASTIC = catalogue(
    Method(sgd, _FAMILY, "1 gradient", "0 or n", "Robbins and Monro, 1951"),
    Method(adagrad, _FAMILY, "1 gradient", "n", "Duchi, Hazan and Singer, 2011"),
    Method(rmsprop, _FAMILY, "1 gradient", "n", "Tieleman and Hinton, 2012"),
    Method(amsgrad, _FAMILY, "1 gradient", "3n", "Reddi, Kale and Kumar, 2018"),
    Method(adamw, _FAMILY, "1 gradient", "2n", "Loshchilov and Hutter, 2019"),
    Method(nadam, _FAMILY, "1 gradient", "2n", "Dozat, 2016"),
    Method(adabelief, _FAMILY, "1 gradient", "2n", "Zhuang et al., 2020"),
    Method(lion, _FAMILY, "1 gradient", "n", "Chen et al., 2023"),
    Method(muon, _FAMILY, "1 gradient, 15 products of a matrix", "n to 2n", "Jordan et al., 2024; Liu et al., 2025"),
    Method(
        svrg,
        _FAMILY,
        "2 gradients, now and then all data",
        "2n",
        "Johnson and Zhang, 2013; Kovalev, Horváth and Richtárik, 2020",
        ("samples", "minibatches"),
    ),
    Method(saga, _FAMILY, "2 gradients", "Nn", "Defazio, Bach and Lacoste-Julien, 2014", ("samples", "minibatches")),
    Method(
        sarah,
        _FAMILY,
        "2 gradients, now and then all data",
        "n",
        "Nguyen, Liu, Scheinberg and Takáč, 2017; Li, Bao, Zhang and Richtárik, 2021",
        ("samples", "minibatches"),
    ),
    Method(storm, _FAMILY, "2 gradients", "n", "Cutkosky and Orabona, 2019", ("minibatches",)),
    Method(adagrad_norm, _FAMILY, "1 gradient", "1", "Ward, Wu and Bottou, 2019; Gratton, Jerad and Toint, 2022"),
    Method(growing_batch, _FAMILY, "1 gradient", "n", "Byrd, Chin, Nocedal and Wu, 2012", ("minibatches",)),
    Method(asgd, _FAMILY, "2 gradients", "n", "Polyak and Juditsky, 1992", ("minibatches",)),
    Method(schedule_free, _FAMILY, "2 gradients", "2n", "Defazio et al., 2024", ("minibatches",)),
    Method(
        shampoo, _FAMILY, "1 gradient, 4pq(p + q) flops a p×q matrix", "2(p² + q²)", "Gupta, Koren and Singer, 2018"
    ),
    Method(soap, _FAMILY, "1 gradient, 12pq(p + q) flops a p×q matrix", "2(p² + q² + pq)", "Vyas et al., 2024"),
)
