"""Settings that every test shares.

This file must not import ravine: the hook that checks shapes (`--jaxtyping-packages`) is installed after it is read.
"""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling is most of the suite's time, and these programs run for microseconds.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def key():
    """One key, the same for every test."""
    return jax.random.key(0)
