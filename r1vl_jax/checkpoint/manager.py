"""Checkpoints of a run, by Orbax: saved asynchronously and atomically, restored bit for bit.

The checkpoint of step n is the directory `n`, which gets this name only when it is complete. It holds the leaves of the
state by their path (`params.text.norm.scale`) and the state of the data iterator as JSON.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import jax
import orbax.checkpoint.experimental.v1 as ocp
from etils import epath

State = Any  # a pytree of arrays
DataState = Mapping[str, Any]  # of the data iterator, as JSON


class Checkpoints:
    """The checkpoints in one directory, local or in a bucket. As a context manager, it waits for saves at the end.

    Args:
        directory: is created if absent. Incomplete checkpoints of a killed run are removed.
        keep: number of checkpoints to keep; older ones are deleted.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int):
        # The annotation of preservation_policy is narrower than what Orbax accepts.
        policy = cast(Any, ocp.training.preservation_policies.LatestN(keep))
        self._checkpointer = ocp.training.Checkpointer(
            _absolute(directory), preservation_policy=policy, cleanup_tmp_directories=True
        )

    def save(self, step: int, state: State, data_state: DataState) -> None:
        """Starts an asynchronous save, and returns once the state may be modified or donated.

        A step that exists is not saved again: the seed determines its content.
        """
        if step in (checkpoint.step for checkpoint in self._checkpointer.checkpoints):
            return
        self._checkpointer.save_async(step, _leaves_by_path(state), custom_metadata=dict(data_state), force=True)

    def latest_step(self) -> int | None:
        """The latest step that is saved or being saved; None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def restore(self, abstract_state: State) -> tuple[int, State, DataState]:
        """Restores the latest checkpoint: its step, state and data state.

        Args:
            abstract_state: the expected state as `jax.ShapeDtypeStruct` with shardings, or as arrays.

        Returns:
            The state has the structure, dtypes and shardings of `abstract_state`, and the saved values bit for bit.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: lists every leaf that is missing, extra, or of another shape or dtype.
        """
        self.wait()
        step = self.latest_step()
        if step is None:
            raise FileNotFoundError(
                f"no checkpoint in {self._checkpointer.directory}; start the run from its first step"
            )
        expected, saved = _leaves_by_path(abstract_state), self._checkpointer.metadata(step)
        faults = list(_faults(expected, saved.metadata))
        if faults:
            raise ValueError(
                f"checkpoint {self._checkpointer.directory / str(step)} does not fit the state of this configuration;"
                " restore it with the configuration it was saved with, or choose another workdir:\n  "
                + "\n  ".join(faults)
            )
        leaves = self._checkpointer.load(step, expected)
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), [leaves[path] for path in expected])
        return step, state, cast(DataState, saved.custom_metadata)

    def wait(self) -> None:
        """Waits until all saves are on disk.

        Raises:
            Exception: a save failed in the background.
        """
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits until all saves are on disk, then stops the background threads."""
        self._checkpointer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def saved_steps(directory: epath.PathLike) -> list[int]:
    """The complete steps in a directory of checkpoints, in order. Changes nothing there."""
    path = _absolute(directory)
    if not path.exists():
        return []
    with ocp.training.Checkpointer(path) as checkpointer:
        return sorted(checkpoint.step for checkpoint in checkpointer.checkpoints)


@contextmanager
def open_params(directory: epath.PathLike, step: int) -> Iterator[Callable[[str], jax.Array]]:
    """Reads the parameters of a checkpoint one at a time, without the optimizer state.

    A run may keep writing to the directory meanwhile: nothing is changed or removed.

    Yields:
        A function from a parameter's path, as `text.norm.scale`, to the parameter in host memory.
    """
    with ocp.training.Checkpointer(_absolute(directory)) as checkpointer:
        saved = cast(Mapping[str, Any], checkpointer.metadata(step).metadata)
        device = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])

        def read(name: str) -> jax.Array:
            leaf = saved[f"params.{name}"]
            requested: dict[str, Any] = dict.fromkeys(saved, ocp.PLACEHOLDER)
            requested[f"params.{name}"] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
            return checkpointer.load(step, requested)[f"params.{name}"]

        yield read


def _absolute(directory: epath.PathLike) -> epath.Path:
    path = epath.Path(directory)
    return path if path.is_absolute() else path.resolve()


def _leaves_by_path(state: State) -> dict[str, Any]:
    """The leaves of a pytree by their dotted path, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _faults(expected: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    """One line for each leaf that is missing in the checkpoint, extra, or of another dtype or shape."""
    for path in expected.keys() - saved.keys():
        yield f"{path}: expected {_dtype_and_shape(expected[path])}, not in the checkpoint"
    for path in saved.keys() - expected.keys():
        yield f"{path}: in the checkpoint as {_dtype_and_shape(saved[path])}, not expected"
    for path in expected.keys() & saved.keys():
        if (wanted := _dtype_and_shape(expected[path])) != (got := _dtype_and_shape(saved[path])):
            yield f"{path}: expected {wanted}, the checkpoint has {got}"


def _dtype_and_shape(leaf: Any) -> str:
    """As `float32[4, 8]`."""
    return f"{leaf.dtype}{list(leaf.shape)}"
