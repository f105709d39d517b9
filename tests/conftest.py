"""Eight virtual CPU devices for every test, and no implicit broadcasting between ranks.

Programs are compiled without optimisation, here and in the processes that tests start: most run once. With
`XLA_FLAGS= pytest` they are optimised. Compiled programs are dropped after each file: each maps many memory areas, and
a process may have 65,530, beyond which XLA's compiler aborts.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # read when JAX looks for devices

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def drop_compiled_programs():
    yield
    jax.clear_caches()


@pytest.fixture
def quick(monkeypatch, tmp_path_factory):
    """One device instead of the tests' eight, and programs compiled once a session."""
    from r1vl_jax.sharding.mesh import make_mesh
    from r1vl_jax.training import components

    monkeypatch.setattr(components, "make_mesh", lambda sizes, limits: make_mesh(sizes, jax.devices()[:1], limits))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], str(tmp_path_factory.getbasetemp() / "compiled"))
    jax.config.update(names[1], 0.0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
