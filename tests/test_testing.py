"""The test kit: every preset passes it, and it finds what it is made to find."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.optim.path import Found
from ravine.testing import check_optimizer

# The first gradients leave SOAP's factors singular, so that rounding chooses the rest of its basis, on which its steps
# depend.
UNORDERED = ("soap",)
# An eigenvalue σ² of JᵀJ is known to rounding times σ₁²: cut off at 1e-6, the curve fit keeps σ = 2e-6 σ₁, along
# which a step has five digits, and the order of the points changes the sixth. Here σ = 6e-4 σ₁ is the last one kept.
KEPT = {"anagram": lambda: rv.anagram(cutoff=1e-4)}


# Those that need to know their samples are tested on data of their own, in test_variance_reduction.
@pytest.mark.parametrize(
    "method", [cases.slow_if(one in cases.TWINS, one) for one in cases.OPTIMIZERS if one not in cases.SAMPLED]
)
def test_every_preset_keeps_the_contract(method):
    optimizer = {**cases.OPTIMIZERS, **KEPT}[method]()
    check_optimizer(optimizer, descends=method in cases.DESCENT, ordered=method not in UNORDERED)


class Downhill(rv.Direction):
    """Steepest descent, to be spoiled."""

    def init(self, objective, theta):
        return jnp.zeros((), jnp.int32)

    def __call__(self, lin, theta, state, previous, *, key):
        return rv.Line(self.bend(lin, key) * lin.grad, lin.grad), self.count(state)

    def bend(self, lin, key):
        return -jnp.ones((), lin.grad.dtype)

    def count(self, state):
        return state + 1


class Widens(Downhill):
    def count(self, state):
        return state.astype(float) + 1.0


class KeepsNames(Downhill):
    def init(self, objective, theta):
        return "so far so good"

    def count(self, state):
        return state


class Draws(Downhill):
    """Numbers that no key explains."""

    def bend(self, lin, key):
        number = jax.pure_callback(lambda: np.random.default_rng().uniform(0.5, 1.0), jnp.zeros(()))
        return -number.astype(lin.grad.dtype)


class Remembers(Downhill):
    """A memory outside its state."""

    def bend(self, lin, key):
        calls = getattr(Remembers, "calls", itertools.count())
        Remembers.calls = calls
        number = jax.pure_callback(lambda: np.float64(next(calls) % 7 + 1.0), jnp.zeros(()))
        return -number.astype(lin.grad.dtype)


class Peeks(Downhill):
    """Knows whether it is being compiled."""

    def bend(self, lin, key):
        return -jnp.asarray(1.0 if isinstance(lin.theta, jax.core.Tracer) else 0.5, lin.grad.dtype)


class LooksAtTheFirstPoint(Downhill):
    def bend(self, lin, key):
        return -(2 + lin.batch["fit"][0][0, 0])


class Generous(rv.Search):
    """A step of one, wherever it leads to that is finite; `honest` work or none."""

    honest: bool = True
    guards: bool = True

    def init(self, dtype):
        return jnp.zeros((), dtype)

    def __call__(self, phi, state):
        step = phi.path(jnp.asarray(1.0, phi.theta.dtype))
        value = phi.objective(phi.theta + step, phi.batch)
        step = jnp.where(jnp.isfinite(value) | (not self.guards), step, 0)
        work = rv.Work(evaluations=1 if self.honest else 0)
        return jnp.ones_like(value), Found(step, value, None, work, jnp.array(False)), state


SPOILED = {
    "widens": (Widens(), rv.Armijo(), "changes the state at .direction"),
    "keeps names": (KeepsNames(), rv.Armijo(), "arrays only"),
    "draws": (Draws(), rv.Armijo(), "the same key did not give the same steps"),
    "remembers": (Remembers(), rv.Armijo(), "the same key did not give the same steps"),
    "peeks": (Peeks(), rv.Armijo(), "a compiled step differs from the same step without jit"),
    "looks": (LooksAtTheFirstPoint(), rv.Fixed(0.1), "the order of the points changed"),
    "goes up": (Downhill(), Generous(), "the loss went up"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_spoiled_is_found(name):
    direction, search, told = SPOILED[name]
    with pytest.raises(AssertionError, match=f"check_optimizer: .*({told})"):
        check_optimizer(rv.Optimizer(direction, search))


def test_lies_about_work_are_found():
    class Short(Downhill):
        def bend(self, lin, key):
            return -1e-4 * jnp.ones((), lin.grad.dtype)

    check_optimizer(rv.Optimizer(Short(), rv.Fixed(1.0)))
    with pytest.raises(
        AssertionError, match=r"info.work says \(1, 1\) evaluations and gradients, but there were \(2, 1\)"
    ):
        check_optimizer(rv.Optimizer(Short(), Generous(honest=False)), descends=False)


def test_trials_that_are_not_finite_must_be_rejected():
    class Far(Downhill):
        def bend(self, lin, key):
            return jnp.where(jnp.isfinite(lin.value), -0.01, jnp.nan).astype(lin.grad.dtype)

    with pytest.raises(AssertionError, match="led to parameters that are NaN"):
        check_optimizer(rv.Optimizer(Far(), Generous(guards=False)), descends=False)
