"""Checkpoints are restored bit for bit with the expected shardings, or refused."""

import os
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1vl_jax import config
from r1vl_jax.checkpoint.manager import Checkpoints, open_params, saved_steps
from r1vl_jax.sharding.batch import replicated
from r1vl_jax.sharding.mesh import make_mesh


class State(NamedTuple):
    params: dict
    opt_state: optax.OptState
    step: jax.Array


@pytest.fixture
def mesh():
    return make_mesh(config.Mesh(fsdp=4))


def make_state(mesh, seed: int = 0) -> State:
    values = np.random.default_rng(seed).integers(0, 2**16, (8, 6), dtype=np.uint16)
    params = {
        "text": {"kernel": jax.device_put(jnp.arange(8.0) / 3 + seed, NamedSharding(mesh, PartitionSpec("fsdp")))},
        # Every bit pattern of bfloat16, NaNs with payload included.
        "norm": jax.lax.bitcast_convert_type(jnp.asarray(values), jnp.bfloat16),
    }
    return State(params, optax.adamw(1e-3).init(params), jnp.int32(seed))


def abstract(state: State) -> State:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same_bits(left: State, right: State) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (x.dtype, x.sharding) == (y.dtype, y.sharding)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_restores_bits_dtypes_shardings_and_data_state(tmp_path, mesh):
    state, data_state = make_state(mesh), {"epoch": 2, "iterator": {"order": [3, 1, 2], "seed": "a"}}
    with Checkpoints(tmp_path / "new" / "directory", keep=1) as checkpoints:
        checkpoints.save(7, state, data_state)
        step, restored, restored_data_state = checkpoints.restore(abstract(state))
    assert (step, restored_data_state) == (7, data_state)
    assert_same_bits(restored, state)


def test_the_abstract_state_determines_the_sharding(tmp_path, mesh):
    state = make_state(mesh)
    other = replicated(make_mesh(config.Mesh(tensor=2)))
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=other), state)
        _, restored, _ = checkpoints.restore(wanted)
    assert restored.params["text"]["kernel"].sharding == other
    np.testing.assert_array_equal(restored.params["text"]["kernel"], state.params["text"]["kernel"])


def test_the_state_may_be_donated_while_it_is_written(tmp_path, mesh):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0, state), donate_argnums=0)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        state = make_state(mesh)
        checkpoints.save(1, state, {})
        overwrite(state)
        _, restored, _ = checkpoints.restore(abstract(make_state(mesh)))
    assert_same_bits(restored, make_state(mesh))


def test_keeps_the_latest_and_does_not_overwrite_a_saved_step(tmp_path, mesh):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (1, 2, 3, 3):
            checkpoints.save(step, make_state(mesh, step), {"step": step})
        checkpoints.wait()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() == 3
        assert_same_bits(checkpoints.restore(abstract(make_state(mesh)))[1], make_state(mesh, 3))


def test_a_relative_directory_is_relative_to_the_working_directory(tmp_path, mesh, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Checkpoints("runs/a", keep=1) as checkpoints:
        checkpoints.save(1, make_state(mesh), {})
    assert (tmp_path / "runs" / "a" / "1").is_dir()


def test_a_killed_save_leaves_the_previous_checkpoint(tmp_path, mesh):
    """Step 2 is large, and the process dies as soon as `save` has returned."""
    program = f"""
        import os
        import jax.numpy as jnp
        from r1vl_jax.checkpoint.manager import Checkpoints

        checkpoints = Checkpoints({str(tmp_path)!r}, keep=2)
        checkpoints.save(1, {{"x": jnp.ones(4)}}, {{"seen": 1}})
        checkpoints.wait()
        checkpoints.save(2, {{"x": jnp.ones(4), "y": jnp.ones(2**25)}}, {{"seen": 2}})
        os._exit(9)
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=False
    )
    assert killed.returncode == 9
    assert [path for path in tmp_path.iterdir() if path.name != "1"]  # it was killed during the save
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        step, state, data_state = checkpoints.restore({"x": jnp.zeros(4)})
    assert (step, data_state, state["x"].tolist()) == (1, {"seen": 1}, [1.0] * 4)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_another_state_is_refused_with_a_list_of_all_differences(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(5, {"a": jnp.ones((2, 3)), "b": jnp.ones(4), "old": jnp.int32(0), "same": jnp.ones(1)}, {})
        wanted = {"a": jnp.ones((2, 4)), "b": jnp.ones(4, jnp.bfloat16), "new": {"c": jnp.ones(2)}, "same": jnp.ones(1)}
        with pytest.raises(ValueError, match="does not fit the state of this configuration") as error:
            checkpoints.restore(wanted)
    assert sorted(str(error.value).split("\n  ")[1:]) == [
        "a: expected float32[2, 4], the checkpoint has float32[2, 3]",
        "b: expected bfloat16[4], the checkpoint has float32[4]",
        "new.c: expected float32[2], not in the checkpoint",
        "old: in the checkpoint as int32[], not expected",
    ]
    assert "choose another workdir" in str(error.value)


def test_an_empty_directory_has_nothing_to_restore(tmp_path):
    with (
        Checkpoints(tmp_path, keep=1) as checkpoints,
        pytest.raises(FileNotFoundError, match="no checkpoint in .*; start the run from its first step"),
    ):
        checkpoints.restore({"a": jnp.ones(1)})


def test_parameters_are_read_while_a_run_keeps_writing(tmp_path, mesh):
    state = make_state(mesh)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(4, state, {})
    unfinished = tmp_path / "5.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert saved_steps(tmp_path) == [4]
    with open_params(tmp_path, 4) as parameter:
        kernel, norm = parameter("text.kernel"), parameter("norm")
    np.testing.assert_array_equal(kernel, state.params["text"]["kernel"])
    assert np.asarray(norm).tobytes() == np.asarray(state.params["norm"]).tobytes()
    assert len(kernel.sharding.device_set) == 1
    assert unfinished.is_dir()  # it is not removed while the run is writing it


def test_a_directory_without_a_complete_step_has_no_steps(tmp_path):
    assert saved_steps(tmp_path / "none") == []
    (tmp_path / "begun" / "1.orbax-checkpoint-tmp").mkdir(parents=True)
    assert saved_steps(tmp_path / "begun") == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1.orbax-checkpoint-tmp", "begun"]
