"""When one phase hands over to the next, and what it hands over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.train import fit


def rows(losses, *, every=1.0, **columns):
    return [
        {"seconds": every * i, "step": 10 * i, "loss": loss, **{name: values[i] for name, values in columns.items()}}
        for i, loss in enumerate(losses)
    ]


def test_a_plateau_by_seconds_and_by_steps():
    falling = [2.0**-i for i in range(10)]
    flat = [*falling, *[falling[-1] * 0.9] * 6]
    for span in ({"seconds": 4.0}, {"steps": 40}):
        limit = rv.stalled(factor=1.5, **span)
        assert not any(limit(rows(falling)[:k]) for k in range(11))
        # The last real fall, by two, is at row 9: four rows later it is out of the window.
        assert [limit(rows(flat)[: k + 1]) for k in range(11, 16)] == [False, False, True, True, True]
    with pytest.raises(ValueError, match="over which the progress is judged"):
        rv.stalled(factor=2.0)


def test_slowing_compares_with_the_best_rate_of_the_phase():
    """exp(−k) for ten seconds, then exp(−k/20): a twentieth of the rate ends it, a third does not."""
    for slow, over in ((1 / 20, True), (1 / 3, False)):
        losses = [np.exp(-min(k, 10.0) - slow * max(0.0, k - 10.0)) for k in range(25)]
        limit = rv.slowing(seconds=5.0, share=0.1)
        assert not limit(rows(losses)[:11])
        assert limit(rows(losses)) is over
    # A phase that never was fast goes on, and a loss that rises and falls counts by its lowest value so far.
    assert not rv.slowing(seconds=3.0)(rows([0.99**k for k in range(20)]))
    assert rv.slowing(seconds=4.0)(rows([1.0, 0.1, 0.01] + [0.01, 5.0] * 5))


@pytest.mark.parametrize("size, expected", [(400, 4.0), (25, 0.25)])
def test_the_signal_is_the_squared_gradient_over_its_variance(size, expected):
    """½‖x − a‖² with a ~ N(0, I) in 400 dimensions: ‖∇L‖² = ‖x‖² = 4, and the gradient of b of 2,000 samples, drawn
    without replacement, varies by 400/b · (1 − b/2,000)."""
    data = jax.random.normal(jax.random.key(0), (2_000, 400))
    data = data - jnp.mean(data, axis=0, keepdims=True)
    problem = rv.Problem(
        terms=(rv.Term("fit", lambda c, a: c["x"] - a),),
        sampler=rv.Minibatches({"fit": data}, size=size),
        model=lambda key: {"x": jnp.full(400, 0.1)},
    )
    phase = rv.Phase(rv.sgd(1e-12), steps=30, until=rv.noisy(level=1e-9, records=10**9))
    signal = rv.train(problem, phase, key=cases.KEY).history["signal"]
    np.testing.assert_allclose(np.mean(signal), expected / (1 - size / 2_000), rtol=0.2)


def test_noise_ends_a_phase_and_a_phase_with_curvature_goes_on():
    data = jax.random.normal(jax.random.key(1), (200,))
    problem = rv.Problem(
        terms=(rv.Term("fit", lambda c, a: c["x"] - a),),
        sampler=rv.Minibatches({"fit": data}, size=10),
        model=lambda key: {"x": jnp.array(3.0)},
    )
    first = rv.Phase(rv.sgd(0.05), steps=2000, until=rv.noisy(records=5), name="sgd")
    run = rv.train(problem, [first, rv.Phase(rv.adam(1e-3), steps=5, name="adam")], key=cases.KEY)
    of_first = [row for row in run.history if row["method"] == "sgd"]
    assert 20 < of_first[-1]["step"] < 2000
    assert of_first[0]["signal"] > 10 > 1 > np.median([row["signal"] for row in of_first[-5:]])
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**2), jnp.ones(2))
    with pytest.raises(ValueError, match="two samples"):
        fit(objective, theta, rv.Constant(None), first, keys=(cases.KEY, cases.KEY))


def test_memory_is_dropped_between_phases_or_kept_on_demand():
    """Two phases that keep are one phase; without, the second starts from the identity again."""
    problem = cases.PROBLEMS["fit"]()
    phase = lambda steps, **how: rv.Phase(rv.bfgs(), steps=steps, **how)
    whole = rv.train(problem, phase(12), key=cases.KEY).position.carry
    kept = rv.train(problem, [phase(5), phase(7, keep=True)], key=cases.KEY).position.carry
    dropped = rv.train(problem, [phase(5), phase(7)], key=cases.KEY).position.carry
    np.testing.assert_array_equal(kept.theta, whole.theta)
    assert not np.allclose(dropped.theta, whole.theta)
    with pytest.raises(ValueError, match="does not fit"):
        rv.train(problem, [phase(2), rv.Phase(rv.lbfgs(), steps=2, keep=True)], key=cases.KEY)


def test_switches_are_saved_and_made_again():
    from ravine import checkpoint

    for until in (rv.stalled(steps=9, factor=2.0), rv.slowing(seconds=2.0), rv.noisy(level=0.5), rv.below(1e-3)):
        described = checkpoint.describe_plan([rv.Phase(rv.adam(), steps=3, until=until, keep=True, every=2)])
        (again,) = checkpoint.restore_phases({"plan": described})
        assert again.keep
        assert again.every == 2
        assert checkpoint.describe_plan([again]) == described
