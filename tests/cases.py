"""Tables that tests are parametrised over: small objectives, small problems, one-dimensional functions."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ravine as rv
from oracles import Dense

KEY = jax.random.key(7)


def points(seed: int, count: int, dimension: int = 2):
    """Uniform points of [−1, 1]ᵈ."""
    return jax.random.uniform(jax.random.key(seed), (count, dimension), minval=-1.0, maxval=1.0)


def network(outputs: Any = "scalar", *, inputs: int = 2, width: int = 3, depth: int = 1, **options):
    """A small network with every bias away from zero, so that no derivative vanishes by symmetry."""
    model = rv.models.MLP(inputs, outputs, width=width, depth=depth, key=KEY, **options)
    shift = lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
    return jax.tree.map(shift, model)


# ------------------------------------------------------------------------------------------------------- objectives


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective with its dense oracle. `count` is the number of points of its largest term."""

    terms: tuple[rv.Term, ...]
    model: Any
    batch: Any
    oracle: Dense
    count: int

    def objective(self, block: int = 512):
        return rv.Objective.from_terms(self.terms, self.model, block=block)


def half(features, point):
    """½‖F‖², written anew."""
    return sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(features)) / 2


def pde(u, z):
    """u_x + sin(x) u²: of first order, since what is tested here is not the calculus but takes derivatives of it."""
    value, slope = rv.partials(u, z, (), 0)
    return slope + jnp.sin(z[0]) * value**2


def pde_dense(u, z):
    """The same by reverse mode."""
    return jax.grad(u)(z)[0] + jnp.sin(z[0]) * u(z) ** 2


def strong() -> Case:
    """A nonlinear equation and a boundary term, with weights of their own."""
    inside, edge = points(1, 11), points(2, 5)
    value = lambda z: z[0] * z[1]
    terms = (rv.residual("pde", pde, weight=0.7), rv.boundary("bc", value, weight=30.0))
    parts = [
        (pde_dense, half, 0.7, inside, None),
        (lambda u, z: u(z) - value(z), half, 30.0, edge, None),
    ]
    model = network()
    return Case(terms, model, {"pde": inside, "bc": edge}, Dense(parts, model, residual=True), 11)


def system() -> Case:
    """Three features a point, in a dictionary."""

    def equations(u, z):
        value = u(z)
        return {"first": value[0] * value[1] - z[0], "others": jnp.stack([value[0] ** 2, jnp.sin(value[1])])}

    inside, model = points(3, 10), network(2)
    parts = [(equations, half, 1.0, inside, None)]
    return Case((rv.residual("system", equations),), model, {"system": inside}, Dense(parts, model, residual=True), 10)


def quadrature() -> Case:
    """Point weights that are no mean, and one of them zero."""
    inside, model = points(4, 9), network()
    scales = jnp.asarray([0.3, 0.0, 1.5, 0.2, 0.1, 2.0, 0.7, 0.4, 0.9])
    batch = {"pde": rv.Weighted(inside, scales)}
    parts = [(pde_dense, half, 2.0, inside, scales)]
    return Case((rv.residual("pde", pde, weight=2.0),), model, batch, Dense(parts, model, residual=True), 9)


def whole() -> Case:
    """A term that sees all its points together, a term without points, and an ordinary one."""

    def pairs(u, batch):
        values = jax.vmap(u)(batch)
        return values[1:] * values[:-1]

    def ridge(u):
        return u.weights[0] ** 2

    inside, others, model = points(5, 8), points(6, 5), network()
    terms = (
        rv.Term("pairs", pairs, weight=0.4, whole=True),
        rv.penalty("ridge", ridge, weight=0.05),
        rv.boundary("bc", 0.3),
    )
    parts = [
        (pairs, half, 0.4, others, "whole"),
        (lambda u, _: ridge(u), half, 0.05, None, "whole"),
        (lambda u, z: u(z) - 0.3, half, 1.0, inside, None),
    ]
    return Case(terms, model, {"pairs": others, "bc": inside}, Dense(parts, model, residual=True), 8)


def logistic() -> Case:
    """One logit a point: φ″ = σ(1 − σ)."""

    def loss(logit, pair):
        return jnp.log(1 + jnp.exp(logit)) - pair[1] * logit

    inside, model = points(8, 9), network()
    data = (inside, (inside[:, 0] > inside[:, 1] ** 2).astype(inside.dtype))
    term = rv.supervised("labels", rv.logistic, weight=1.7)
    parts = [(lambda u, pair: u(pair[0]), loss, 1.7, data, None)]
    return Case((term,), model, {"labels": data}, Dense(parts, model, residual=False), 9)


def softmax() -> Case:
    """Three classes, one-hot labels: φ″ = diag(p) − ppᵀ, which is singular."""

    def loss(logits, label):
        return jnp.log(jnp.sum(jnp.exp(logits))) - jnp.dot(logits, label)

    inside, model = points(9, 10), network(3)
    data = (inside, jnp.eye(3)[jnp.arange(10) % 3])
    terms = (rv.supervised("classes", loss),)
    parts = [(lambda u, pair: u(pair[0]), lambda f, pair: loss(f, pair[1]), 1.0, data, None)]
    return Case(terms, model, {"classes": data}, Dense(parts, model, residual=False), 10)


def ritz() -> Case:
    """½‖∇u‖² − f u, with the features (u, ∇u), and a squared boundary term beside it."""

    def energy(features, z):
        value, slope = features
        return jnp.dot(slope, slope) / 2 - jnp.exp(z[0]) * value

    inside, edge, model = points(10, 11), points(11, 4), network()
    features = lambda u, z: (u(z), rv.gradient(u, z))
    terms = (rv.Term("energy", features, energy, region="interior"), rv.boundary("bc", 0.0, weight=5.0))
    parts = [
        (lambda u, z: (u(z), jax.jacfwd(u)(z)), energy, 1.0, inside, None),
        (lambda u, z: u(z), half, 5.0, edge, None),
    ]
    return Case(terms, model, {"energy": inside, "bc": edge}, Dense(parts, model, residual=False), 11)


OBJECTIVES: dict[str, Callable[[], Case]] = {
    case.__name__: case for case in (strong, system, quadrature, whole, logistic, softmax, ritz)
}
RESIDUAL = ("strong", "system", "quadrature", "whole")


# --------------------------------------------------------------------------------------------------------- walking


@eqx.filter_jit
def step(optimizer, objective, theta, state, batch, key=KEY):
    """One step, compiled once for equal optimizers and objectives."""
    return optimizer.step(objective, theta, state, batch, key=key)


def walk(optimizer, objective, theta, batch, steps: int, *, stop=lambda theta, info: False):
    """Thetas and infos of `steps` compiled steps on one batch (the start included in the thetas)."""
    state = optimizer.init(objective, theta)
    thetas, infos = [np.asarray(theta)], []
    for number in range(steps):
        theta, state, info = step(optimizer, objective, theta, state, batch, jax.random.fold_in(KEY, number))
        thetas.append(np.asarray(theta))
        infos.append(jax.device_get(info))
        if stop(theta, info):
            break
    return thetas, infos


@eqx.filter_jit
def stream(optimizer, objective, theta, sampler, steps: int, key=KEY):
    """The thetas (start included) and infos of `steps` steps, each on the next batch of a sampler; one program."""

    def body(carry, number):
        theta, state, points = carry
        batch, points = sampler.sample(points)
        theta, state, info = optimizer.step(objective, theta, state, batch, key=jax.random.fold_in(key, number))
        return (theta, state, points), (theta, info)

    start = theta, optimizer.init(objective, theta), sampler.init(key)
    _, (thetas, infos) = jax.lax.scan(body, start, jnp.arange(steps))
    return jnp.concatenate([theta[None], thetas]), infos


def bowl(x, a):
    """½ (x − 1)ᵀA(x − 1)."""
    return jnp.dot(x - 1, a @ (x - 1)) / 2


def quadratic(eigenvalues, *, rotation: int | None = None):
    """½ (x − 1)ᵀA(x − 1) from zero, A with these eigenvalues, as an objective; A comes back too."""
    values = np.asarray(eigenvalues, float)
    basis = np.eye(values.size)
    if rotation is not None:
        basis = np.linalg.qr(np.random.default_rng(rotation).normal(size=(values.size,) * 2))[0]
    matrix = basis @ np.diag(values) @ basis.T
    matrix = (matrix + matrix.T) / 2
    objective, theta = rv.Objective.from_loss(bowl, jnp.zeros(values.size))
    return objective, theta, jnp.asarray(matrix)


# ------------------------------------------------------------------------------------------------- small problems


# Made once, so that what is compiled for one method serves the others.


@functools.cache
def _fit() -> rv.Problem:
    x = jnp.linspace(-1, 1, 9)[:, None]
    return rv.Problem(
        terms=(rv.supervised("data"),),
        sampler=rv.Constant({"data": (x, jnp.sin(3 * x[:, 0]))}),
        model=lambda key: rv.models.MLP(1, "scalar", width=5, depth=1, key=key),
    )


@functools.cache
def _classes() -> rv.Problem:
    x = points(12, 20)
    labels = (x[:, 0] * x[:, 1] > 0).astype(x.dtype)
    return rv.Problem(
        terms=(rv.supervised("labels", rv.logistic),),
        sampler=rv.Minibatches({"labels": (x, labels)}, size=20),
        model=lambda key: rv.models.MLP(2, "scalar", width=6, depth=1, key=key),
    )


@functools.cache
def _poisson() -> rv.Problem:
    from ravine.problems.poisson1d import poisson1d

    return poisson1d(points=16, width=5, depth=1)


PROBLEMS: dict[str, Callable[[], rv.Problem]] = {"fit": _fit, "classes": _classes, "poisson": _poisson}

# Methods whose search does not evaluate the point it takes, and those whose search accepts no step that goes up.
BLIND = [
    name
    for name, method in rv.METHODS.items()
    if isinstance(method().search, (rv.Fixed, rv.Capped, rv.Majorisation, rv.Polyak, rv.Sharpness))
]
DESCENT = [
    name for name, method in rv.METHODS.items() if name not in BLIND and not isinstance(method().search, rv.NonMonotone)
]

# Methods that ask for batches which know their samples: not for points of a domain, nor made by hand.
SAMPLED = [name for name, method in rv.METHODS.items() if "samples" in method.needs]

# Rates at which the methods without a search go down on the problems above.
OPTIMIZERS: dict[str, Callable[[], rv.Optimizer]] = {
    **rv.METHODS,
    "adam": lambda: rv.adam(2e-2),
    "pcgrad": lambda: rv.pcgrad(2e-2),
    "conflict_free": lambda: rv.conflict_free(2e-2),
    "sgd": lambda: rv.sgd(5e-2, momentum=0.9),
    "adagrad": lambda: rv.adagrad(0.2),
    "rmsprop": lambda: rv.rmsprop(1e-2),
    "amsgrad": lambda: rv.amsgrad(2e-2),
    "adamw": lambda: rv.adamw(2e-2),
    "nadam": lambda: rv.nadam(2e-2),
    "adabelief": lambda: rv.adabelief(2e-2),
    "lion": lambda: rv.lion(5e-3),
    "muon": lambda: rv.muon(5e-2),
    "svrg": lambda: rv.svrg(0.1),
    "saga": lambda: rv.saga(0.1),
    "sarah": lambda: rv.sarah(0.1),
    "storm": lambda: rv.storm(0.1),
    "growing_batch": lambda: rv.growing_batch(0.2),
    "asgd": lambda: rv.asgd(0.3),
    "schedule_free": lambda: rv.schedule_free(5e-2),
    "soap": lambda: rv.soap(2e-2),
    "sophia": lambda: rv.sophia(2e-2),
    "spring": lambda: rv.spring(ridge=1e-2, longest=0.3),
}

# Presets made of the same classes as another one, with other numbers or another rule inside. The dear tables leave
# them to `make slow`; the others have them all.
TWINS = (
    *("adagrad", "rmsprop", "amsgrad", "adamw", "nadam", "adabelief", "lion", "muon", "conflict_free", "damped_lbfgs"),
    *("bfgs", "ssbfgs", "broyden_class", "saddle_free_newton", "ekfac"),
)


def classes_of(tree: Any) -> tuple[type, ...]:
    """The classes that an optimizer is made of."""
    if isinstance(tree, (tuple, list)):
        return tuple(one for part in tree for one in classes_of(part))
    if not isinstance(tree, eqx.Module):
        return ()
    parts = (getattr(tree, field.name, None) for field in dataclasses.fields(tree))
    return type(tree), *(one for part in parts for one in classes_of(part))


def slow_if(slow: bool, *values: Any):
    """Parameters of a test, left to `make slow` where `slow`."""
    return pytest.param(*values, marks=[pytest.mark.slow] if slow else [])


# --------------------------------------------------------------------------------- one-dimensional test functions


def _more_thuente_1(x, beta=2.0):
    return -x / (x**2 + beta)


def _more_thuente_2(x, beta=0.004):
    return (x + beta) ** 5 - 2 * (x + beta) ** 4


def _more_thuente_3(x, beta=0.01, l=39.0):
    inner = ((x - 1) ** 2 / beta + beta) / 2
    smooth = jnp.where(x <= 1 - beta, 1 - x, jnp.where(x >= 1 + beta, x - 1, inner))
    return smooth + 2 * (1 - beta) / (l * jnp.pi) * jnp.sin(l * jnp.pi / 2 * x)


def _yanai(beta_1, beta_2):
    def gamma(beta):
        return float(np.sqrt(1 + beta**2) - beta)

    def function(x):
        left = gamma(beta_1) * jnp.sqrt((1 - x) ** 2 + beta_2**2)
        return left + gamma(beta_2) * jnp.sqrt(x**2 + beta_1**2)

    return function


# Jorge Moré and David Thuente, *Line search algorithms with guaranteed sufficient decrease*, 1994, section 5.
MORE_THUENTE: dict[str, Callable] = {
    "1": _more_thuente_1,
    "2": _more_thuente_2,
    "3": _more_thuente_3,
    "4": _yanai(0.001, 0.001),
    "5": _yanai(0.01, 0.001),
    "6": _yanai(0.001, 0.01),
}

# Shapes that break careless searches; each decreases at first.
AWKWARD: dict[str, Callable] = {
    "nan_beyond": lambda x: jnp.where(x < 0.3, (x - 0.2) ** 2, jnp.nan),
    "infinite_beyond": lambda x: jnp.where(x < 0.05, -x, jnp.inf),
    "logarithm": lambda x: x - 0.01 * jnp.log(jnp.maximum(0.5 - x, 0.0)) - 2 * x,
    "falls_for_long": lambda x: jnp.where(x < 50, -x, (x - 50) ** 2 / 2 - 50 - (x - 50)),
    "nearly_flat": lambda x: 1.0 - 1e-9 * jnp.sin(x),
    "overflow": lambda x: jnp.exp(200 * x) - 400 * x,
    "kink": lambda x: jnp.abs(x - 0.7),
    "oscillating": lambda x: -x - 0.02 * jnp.sin(40 * x) + x**2,
    # The minimum is a millionth of the first trial away (an issue of JAX's BFGS, 2020).
    "steep": lambda x: (1e6 * x - 1) ** 2,
    # Defined on a small part of the first trial only.
    "narrow": lambda x: -1e9 * x - 0.01 * jnp.log(jnp.maximum(0.5 - 1e9 * x, 0.0)),
    # The interpolating cubic is exact and has its minimum off the bracket (an example from PyTorch's search, 2019).
    "cubic": lambda x: -x * (x - 2) ** 2 * jnp.where(x < 2, 1.0, -1.0),
    # Growing trials land beyond the minimum but lower, so that the bracket is upside down (an error of JAX's, 2023).
    "reversed": lambda x: (x - 7.0) ** 2,
    # Two wells, the first trial in the second, higher one.
    "two_wells": lambda x: (x - 0.2) ** 2 * (x - 1) ** 2 - 0.05 * (1 - x),
    # Curved downwards at first: the parabola through the slopes has no minimum.
    "concave": lambda x: jnp.cos(x + 0.5),
}
