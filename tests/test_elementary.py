"""Elementary functions that vectorise, against NumPy's and against exact arithmetic."""

import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ravine.elementary import HALF_LOG2, sincos, tanh


@pytest.mark.parametrize("scale", [1e-8, 1.0, 30.0, 1e5])
def test_sine_and_cosine_are_exact_to_rounding(scale):
    x = np.concatenate([np.linspace(-scale, scale, 4001), np.arange(-8, 9) * np.pi / 4])
    sin, cos = sincos(jnp.asarray(x))
    np.testing.assert_allclose(sin, np.sin(x), rtol=0, atol=4e-16)
    np.testing.assert_allclose(cos, np.cos(x), rtol=0, atol=4e-16)


def test_sine_differentiates_as_sine():
    third = jax.grad(jax.grad(jax.grad(lambda x: sincos(x)[0])))
    for x in (-3.0, 0.2, 12.0):
        assert float(third(jnp.asarray(x))) == pytest.approx(-np.cos(x), abs=1e-15)


def test_sine_in_float32_is_left_to_the_compiler():
    x = jnp.linspace(-9, 9, 101, dtype=jnp.float32)
    assert sincos(x)[0].dtype == jnp.float32
    np.testing.assert_allclose(sincos(x)[0], np.sin(np.asarray(x)), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-8, 0.02, 1.0, 25.0])
def test_tanh_is_exact_to_rounding(scale):
    x = scale * np.linspace(-1, 1, 20001)
    exact = np.tanh(x.astype(np.longdouble))  # 64 bits of mantissa where the machine has them
    assert np.max(np.abs(np.asarray(tanh(jnp.asarray(x))) - exact) / np.maximum(np.abs(exact), 1e-305)) < 5e-16


def test_tanh_is_odd_and_keeps_what_is_no_number():
    x = jnp.linspace(0, 40, 4001)
    np.testing.assert_array_equal(tanh(-x), -tanh(x))
    np.testing.assert_array_equal(tanh(jnp.array([jnp.inf, -jnp.inf, jnp.nan, 0.0])), [1, -1, jnp.nan, 0])


def test_tanh_differentiates_as_tanh():
    third = jax.grad(jax.grad(jax.grad(tanh)))
    for x in (-3.0, 0.2, 12.0):
        t = math.tanh(x)
        assert float(third(jnp.asarray(x))) == pytest.approx((1 - t**2) * (6 * t**2 - 2), rel=1e-13)


def test_half_the_logarithm_of_two_is_split_exactly():
    first, rest = map(fractions.Fraction, HALF_LOG2)
    log2 = sum(fractions.Fraction(1, n * 2**n) for n in range(1, 120))
    assert abs(first + rest - log2 / 2) < fractions.Fraction(1, 2**100)
    assert (first * 2**43).denominator == 1  # so that its product with k is exact


def test_tanh_in_float32_is_left_to_the_compiler():
    x = jnp.linspace(-9, 9, 101, dtype=jnp.float32)
    assert tanh(x).dtype == jnp.float32
    np.testing.assert_allclose(tanh(x), np.tanh(np.asarray(x)), atol=1e-6)
