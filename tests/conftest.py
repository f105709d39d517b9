"""Eight virtual CPU devices for every test, and no implicit broadcasting between ranks.

Programs are compiled in haste, here and in the processes that tests start: most run once. `XLA_FLAGS= pytest ...` takes
the time to optimise them. They are forgotten behind each file: every one has many areas of memory mapped, and a process
may have 65,530, beyond which XLA's compiler ends it.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # read when JAX looks for devices

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    yield
    jax.clear_caches()
