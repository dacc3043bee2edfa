"""Settings that every test shares.

This file must not import ravine: the hook that checks shapes (`--jaxtyping-packages`) is installed after it is read.
"""

import gc
import os

# Compiling is most of the suite's time: with the first flag it takes 40 % of what it takes without, with the second a
# fifth less again; the programs of the tests run for microseconds, so that they need not be optimised. Read when JAX
# starts, here and in the processes that tests start: those on two devices take less than half the time so.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax
import jaxtyping
import pytest

# Traced programs are many small objects that live on: looking for garbage every 700 of them takes 6 % of the time.
gc.set_threshold(20_000, 20, 20)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file():
    """Compiled programs are dropped after each file.

    They take gigabytes else, and each a few mappings of memory, of which Linux allows 65,530 by default; when there are
    no more, XLA ends the process while it compiles.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def unchecked():
    """No shape and type checks, as for users: they get the library's own messages, not those of the checker."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
