"""Line searches on functions that are meant to break them, damping, and learning rates."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.optim.path import Along, Line

SCALES = (1e-3, 1e-1, 1.0, 1e1, 1e3)


class Profile:
    """A function of one number as an objective, searched from zero along a line of any length."""

    def __init__(self, function, dtype=jnp.float64):
        self.function, self.dtype = function, dtype
        self.slope = jax.grad(function)
        self.objective, self.theta = rv.Objective.from_loss(lambda x, _: function(x[0]), jnp.zeros(1, dtype))

    @functools.cached_property
    def _compiled(self):
        @eqx.filter_jit
        def run(search, state, scale):
            lin = self.objective.linearise(self.theta, None)
            path = Line(scale * jnp.ones(1, self.dtype), lin.grad)
            return search(Along(self.objective, self.theta, None, path, lin), state)

        return run

    def search(self, search, scale, state=None):
        """The accepted t, what was found, and the search's next state; `scale` is the first trial."""
        state = search.init(self.dtype) if state is None else state
        return jax.device_get(self._compiled(search, state, jnp.asarray(scale, self.dtype)))


@functools.cache
def profile(table, name, dtype=jnp.float64):
    return Profile((cases.MORE_THUENTE if table == "more_thuente" else cases.AWKWARD)[name], dtype)


def check_wolfe(profile, search, t, found, scale, *, curvature=True):
    """The conditions, with exact values and slopes, in the variable x = t·scale."""
    assert not found.failed
    x = float(found.step[0])
    np.testing.assert_allclose(x, float(t) * scale, rtol=1e-12)
    f, slope = (lambda at: float(profile.function(jnp.asarray(at)))), (lambda at: float(profile.slope(jnp.asarray(at))))
    assert x > 0
    np.testing.assert_allclose(float(found.value), f(x), rtol=1e-12, atol=4e-16 * abs(f(0.0)))
    assert f(x) <= f(0.0) + search.decrease * x * slope(0.0) + 4e-16 * abs(f(0.0))
    if curvature:
        np.testing.assert_allclose(float(found.grad[0]), slope(x), rtol=1e-9, atol=1e-12 * abs(slope(0.0)))
        assert abs(slope(x)) <= search.curvature * abs(slope(0.0)) * (1 + 1e-12)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", cases.MORE_THUENTE)
def test_wolfe_on_more_and_thuente(name, scale):
    search = rv.Wolfe()
    t, found, _ = profile("more_thuente", name).search(search, scale)
    check_wolfe(profile("more_thuente", name), search, t, found, scale)


@pytest.mark.parametrize("name", cases.MORE_THUENTE)
def test_strict_wolfe_on_more_and_thuente(name):
    """A search with small c₂ has to find a minimiser."""
    search = rv.Wolfe(decrease=1e-4, curvature=0.1)
    t, found, _ = profile("more_thuente", name).search(search, 1.0)
    check_wolfe(profile("more_thuente", name), search, t, found, 1.0)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("name", [name for name in cases.AWKWARD if name not in ("infinite_beyond", "kink")])
def test_wolfe_on_awkward_functions(name, scale):
    search = rv.Wolfe()
    t, found, _ = profile("awkward", name).search(search, scale)
    check_wolfe(profile("awkward", name), search, t, found, scale)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("name", ["infinite_beyond", "kink"])
def test_wolfe_takes_a_decrease_where_no_point_is_flat_enough(name, scale):
    """No point satisfies the curvature condition here; the best sufficient decrease is taken instead."""
    search = rv.Wolfe()
    t, found, _ = profile("awkward", name).search(search, scale)
    check_wolfe(profile("awkward", name), search, t, found, scale, curvature=False)


@pytest.mark.parametrize("scale", [0.9, 0.03, 6.5])
def test_wolfe_zooms_into_a_bracket_that_is_upside_down(scale):
    """The growing trials pass the minimum but land lower than before, so that the lower end is the right one."""
    search = rv.Wolfe(curvature=1e-6)
    t, found, _ = profile("awkward", "reversed").search(search, scale)
    check_wolfe(profile("awkward", "reversed"), search, t, found, scale)
    np.testing.assert_allclose(found.step[0], 7.0, rtol=1e-5)


@pytest.mark.parametrize("name", ["2", "3"])
def test_wolfe_returns_the_best_trial_when_trials_run_out(name):
    """No longer a search, no worse a point."""
    values = []
    for trials in (1, 3, 4, 6, 9):
        _, found, _ = profile("more_thuente", name).search(rv.Wolfe(curvature=1e-13, trials=trials), 1e-1)
        assert not found.failed
        values.append(float(found.value))
    assert (np.diff(values) <= 0).all()


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("name", cases.MORE_THUENTE)
def test_wolfe_in_single_precision(name, scale):
    """The conditions, judged in double precision, to the rounding of single: a slope may be what it is at points whose
    losses differ from the least one by rounding, √(2 f″ ε|f|)."""
    function, search = cases.MORE_THUENTE[name], rv.Wolfe(curvature=0.5)
    _, found, _ = profile("more_thuente", name, jnp.float32).search(search, scale)
    assert found.value.dtype == found.step.dtype == jnp.float32
    x = jnp.asarray(float(found.step[0]))
    start, slope = float(function(jnp.zeros(()))), float(jax.grad(function)(jnp.zeros(())))
    assert not found.failed
    assert float(function(x)) <= start + search.decrease * float(x) * slope + 1e-6 * abs(start)
    bend, eps = abs(float(jax.grad(jax.grad(function))(x))), float(jnp.finfo(jnp.float32).eps)
    flat = (2 * bend * eps * abs(float(function(x)))) ** 0.5
    assert abs(float(jax.grad(function)(x))) <= 0.5 * abs(slope) * (1 + 1e-3) + flat


@pytest.mark.parametrize("noise", [1e-7, 1e-4])
@pytest.mark.parametrize("scale", [0.3, 20.0, 1000.0])
def test_wolfe_asks_the_slopes_where_losses_have_lost_their_digits(noise, scale):
    """A parabola of relative depth 10⁻¹⁰ under rounding of 10⁻⁷ or 10⁻⁴ whose slopes are right: few trials, and an
    accepted one between the start and its mirror image, where the parabola is lower."""

    @jax.custom_jvp
    def function(x):
        return 1 + 1e-10 * ((x - 1) ** 2 - 1) + noise * jnp.sin(1e9 * x) / 2

    function.defjvp(lambda x, v: (function(*x), 2e-10 * (x[0] - 1) * v[0]))
    p = Profile(function)
    for start in np.random.default_rng(1).uniform(0.5, 1.5, 8):
        _t, found, state = p.search(rv.Wolfe(), float(start * scale))
        x = float(found.step[0])
        assert not found.failed
        assert 0 < x <= 1.9
        assert int(found.work.evaluations) <= 8
        # The next first trial is guessed from what the slopes say.
        np.testing.assert_allclose(state.decrease, 1e-10 * (1 - (x - 1) ** 2), rtol=1e-6)


def test_slopes_that_are_rounding_too_end_in_a_failed_search():
    """A loss that no step changes, with slopes of no meaning: 299 steps are taken on their word, and no more.

    A lower loss, or a slope halved, begins the count anew.
    """

    @jax.custom_jvp
    def function(x, height, slope):
        return height

    function.defjvp(lambda x, v: (x[1], jnp.where(x[0] < 0.5, -x[2], -0.1 * x[2]) * v[0]))
    search = rv.Wolfe()

    @jax.jit
    def step(state, height, slope):
        objective, theta = rv.Objective.from_loss(lambda x, _: function(x[0], height, slope), jnp.zeros(1))
        lin = objective.linearise(theta, None)
        path = Line(jnp.ones(1), lin.grad)
        return search(Along(objective, theta, None, path, lin), state)[1:]

    def failures(changes):
        state, height, slope, failed = search.init(jnp.dtype(float)), 1.0, 1e-3, []
        for number in range(700):
            height, slope = changes.get(number, (height, slope))
            found, state = step(state, jnp.asarray(height), jnp.asarray(slope))
            if found.failed:
                failed.append(number)
                assert float(found.step[0]) == 0
        return failed

    assert failures({}) == [300, 601]
    assert failures({200: (0.9, 1e-3)}) == [500]
    assert failures({200: (1.0, 4e-4)}) == [500]
    assert failures({200: (1.0, 6e-4)}) == [300, 601]


@pytest.mark.parametrize("decrease,first", [(0.3, 0.6), (1e-9, 2e-9), (40.0, 80.0)])
def test_wolfe_guesses_any_length_for_directions_that_have_none(decrease, first):
    """2·(last decrease)/|slope| is the first trial (and accepted, as −x has no other reason to stop)."""
    search = rv.Wolfe(shortest=0.0, longest=float("inf"), curvature=1.5)
    state = dataclasses.replace(search.init(jnp.dtype(float)), decrease=jnp.asarray(decrease))
    t, _, _ = Profile(lambda x: -x).search(search, 1.0, state)
    assert float(t) == pytest.approx(1.01 * first)


def test_wolfe_on_a_function_without_bound():
    """−x falls for ever: a long step is taken, and the search ends."""
    p = Profile(lambda x: -x)
    _t, found, _ = p.search(rv.Wolfe(trials=10), 1.0)
    assert not found.failed
    assert float(found.value) <= -1
    assert int(found.work.evaluations) <= 10


@pytest.mark.parametrize("search", [rv.Wolfe(), rv.Armijo()])
@pytest.mark.parametrize("function", [lambda x: x, lambda x: jnp.zeros_like(x), lambda x: jnp.abs(x) ** 1.5])
def test_no_descent_is_a_failure_with_a_zero_step(function, search):
    """Uphill, flat, or at the minimum already: the point stays where it is."""
    _t, found, _ = Profile(function).search(search, 1.0)
    assert float(found.step[0]) == 0 or float(found.value) <= float(function(jnp.zeros(())))
    if not found.failed:
        assert float(found.value) == float(function(jnp.asarray(found.step[0])))


@pytest.mark.parametrize("search", [rv.Wolfe(), rv.Armijo()])
def test_uphill_fails(search):
    _, found, _ = Profile(lambda x: x + x**2).search(search, 1.0)
    assert bool(found.failed)
    assert float(found.step[0]) == 0
    assert float(found.value) == 0


def test_wolfe_counts_its_trials():
    """One evaluation and one gradient when the first trial is accepted."""
    p = Profile(lambda x: (x - 1) ** 2)
    _, found, _ = p.search(rv.Wolfe(), 1.0)
    assert found.work.counts() == {"evaluations": 1, "gradients": 1, "rows": 0, "inner": 0, "products": 0}
    _, found, _ = p.search(rv.Wolfe(), 1e-4)
    assert int(found.work.evaluations) == int(found.work.gradients) == int(found.work.inner) + 1 > 1


def test_wolfe_zoom_finds_the_minimiser_of_a_cubic_at_once():
    """The interpolant is exact there, so that one trial after bracketing is enough."""
    p = Profile(lambda x: x**3 / 3 - x)  # minimum at 1
    _t, found, _ = p.search(rv.Wolfe(curvature=1e-6), 1.7)
    assert abs(float(found.step[0]) - 1) < 1e-6
    assert int(found.work.evaluations) == 2


def test_wolfe_near_the_rounding_floor():
    """Where the loss no longer resolves differences, slopes decide (Hager and Zhang)."""
    p = Profile(lambda x: 1.0 + (x - 1e-9) ** 2)
    _, found, _ = p.search(rv.Wolfe(), 1e-9)
    assert not found.failed
    np.testing.assert_allclose(found.step[0], 1e-9, rtol=1e-6)


# --------------------------------------------------------------------------------------------------------- Armijo


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", cases.MORE_THUENTE)
def test_armijo_on_more_and_thuente(name, scale):
    search = rv.Armijo()
    t, found, state = profile("more_thuente", name).search(search, scale)
    check_wolfe(profile("more_thuente", name), search, t, found, scale, curvature=False)
    assert found.grad is None
    # t is the first of 1, ½, ¼, … that decreases enough, and the next trial starts at twice that.
    p = profile("more_thuente", name)
    if float(t) < 1:
        x, f0, slope = 2 * float(t) * scale, float(p.function(jnp.zeros(()))), float(p.slope(jnp.zeros(())))
        assert float(p.function(jnp.asarray(x))) > f0 + search.decrease * x * slope
    assert float(state) == 2 * float(t)


@pytest.mark.parametrize("name", cases.AWKWARD)
def test_armijo_on_awkward_functions(name):
    search = rv.Armijo()
    t, found, _ = profile("awkward", name).search(search, 10.0)
    check_wolfe(profile("awkward", name), search, t, found, 10.0, curvature=False)


def test_armijo_grows_and_is_capped():
    p = Profile(lambda x: -x)
    _, _, state = p.search(rv.Armijo(), 1.0, jnp.asarray(4.0))
    assert float(state) == 8.0
    _, _, state = p.search(rv.Armijo(longest=1.0), 1.0, jnp.asarray(1.0))
    assert float(state) == 1.0


def test_armijo_starts_over_after_a_failure():
    t, found, state = Profile(lambda x: x).search(rv.Armijo(trials=5), 1.0, jnp.asarray(0.25))
    assert bool(found.failed)
    assert (float(t), float(state), int(found.work.evaluations)) == (0.0, 1.0, 5)


# --------------------------------------------------------------------------------------------------------- Damping


class _Curve:
    """A path with a known prediction: displacement 1/(1 + t), predicted decrease as given."""

    work = trial = rv.Work()

    def __init__(self, predicted):
        self.predicted = predicted

    def __call__(self, t):
        return jnp.ones(1) / (1 + t)

    def reduction(self, t, step):
        return jnp.asarray(self.predicted)


def damp(loss, predicted, *, search=None, damping=1e-2, factor=2.0):
    search = rv.Damping() if search is None else search
    objective, theta = rv.Objective.from_loss(lambda x, _: loss(x[0]), jnp.zeros(1))
    state = search.init(jnp.float64)
    state = eqx.tree_at(lambda s: (s.damping, s.factor), state, (jnp.asarray(damping), jnp.asarray(factor)))
    lin = objective.linearise(theta, None)
    return jax.device_get(search(Along(objective, theta, None, _Curve(predicted), lin), state))


@pytest.mark.parametrize("gain", [0.1, 0.5, 0.8, 1.0, 1.5])
def test_damping_after_acceptance(gain):
    """λ ← λ·max(1/5, 1 − (2ρ − 1)³), and the factor starts over at two."""
    t, found, state = damp(lambda x: -gain * x * 1.01, 1.0, damping=1e-2, factor=16.0)
    assert float(t) == 1e-2
    np.testing.assert_allclose(found.step[0], 1 / 1.01)
    np.testing.assert_allclose(state.damping, 1e-2 * max(1 / 5, 1 - (2 * gain - 1) ** 3), rtol=1e-10)
    assert float(state.factor) == 2.0
    assert found.work.counts() == {"evaluations": 1, "gradients": 0, "rows": 0, "inner": 0, "products": 0}


def test_damping_after_rejections():
    """Each rejection multiplies λ by a factor that doubles: 2, 4, 8, …; here the third trial is short enough."""
    barrier = lambda x: jnp.where(x > 1 / (1 + 0.07), 1.0, -x)
    t, found, _state = damp(barrier, 1 / 1.08, damping=1e-2, factor=2.0)
    assert float(t) == pytest.approx(1e-2 * 2 * 4)
    assert found.work.counts() == {"evaluations": 3, "gradients": 0, "rows": 0, "inner": 2, "products": 0}
    assert not found.failed


def test_damping_failure_keeps_the_point_and_the_larger_damping():
    search = rv.Damping(trials=3)
    _t, found, state = damp(lambda x: x, 1.0, search=search)
    assert bool(found.failed)
    assert float(found.step[0]) == 0
    assert float(found.value) == 0
    assert float(state.damping) == pytest.approx(1e-2 * 2 * 4 * 8)
    assert float(state.factor) == 16.0


def test_damping_rejects_nan_and_infinity():
    for bad in (jnp.nan, jnp.inf):
        _t, found, _ = damp(lambda x, bad=bad: jnp.where(x > 0.9, bad, -x), 1.0)
        assert not found.failed
        assert float(found.step[0]) <= 0.9


def test_damping_never_leaves_its_range():
    _, _, state = damp(lambda x: -x, 1.0, damping=1e-16)
    assert float(state.damping) == np.finfo(float).eps
    _, _, state = damp(lambda x: x, 1.0, damping=1e12)
    assert float(state.damping) == 1e12


# ----------------------------------------------------------------------------------------------------------- Fixed


def test_fixed_rate_and_schedule():
    p = Profile(lambda x: -x)
    t, found, count = p.search(rv.Fixed(0.3), 1.0)
    assert float(t) == pytest.approx(0.3)
    assert found.step[0] == pytest.approx(0.3)
    assert found.value is None
    schedule = rv.Fixed(lambda count: 1.0 / (1.0 + count.astype(float)))
    for number in range(3):
        t, _, count = p.search(schedule, 1.0, jnp.int32(number))
        assert float(t) == pytest.approx(1 / (1 + number))
        assert int(count) == number + 1


def test_fixed_rate_does_not_take_a_step_that_is_not_finite():
    p = Profile(lambda x: -x)
    _, found, _ = p.search(rv.Fixed(1.0), jnp.inf)
    assert bool(found.failed)
    assert float(found.step[0]) == 0
