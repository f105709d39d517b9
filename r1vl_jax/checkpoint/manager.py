"""Checkpoints of a run: written in the background by Orbax, whole or not at all, restored to the bit.

A checkpoint of step n is the directory `n`, which appears under its name only once every byte of it is written. It
holds the leaves of the state by their path (`params.text.norm.scale`) and, as JSON, the position in the data.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import jax
import orbax.checkpoint.experimental.v1 as ocp
from etils import epath

State = Any  # a pytree of arrays
Position = Mapping[str, Any]  # JSON


class Checkpoints:
    """The checkpoints in one directory, local or of a bucket; a context manager that ends by waiting for them.

    Args:
        directory: where they are; made if absent. What a killed run left half written there is removed.
        keep: how many are kept; older ones are deleted.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int):
        path = epath.Path(directory)
        self._checkpointer = ocp.training.Checkpointer(
            path if path.is_absolute() else path.resolve(),
            preservation_policy=cast(
                Any, ocp.training.preservation_policies.LatestN(keep)
            ),  # its annotation is narrower
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: State, position: Position) -> None:
        """Starts to write a checkpoint and returns as soon as the state may be changed or donated.

        A step that is there already is left as it is: the seed determines what a step holds.
        """
        if step in (checkpoint.step for checkpoint in self._checkpointer.checkpoints):
            return
        self._checkpointer.save_async(step, _by_path(state), custom_metadata=dict(position), force=True)

    def latest_step(self) -> int | None:
        """The newest step that is saved, or being saved; None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def restore(self, abstract_state: State) -> tuple[int, State, Position]:
        """The newest checkpoint: its step, state and position.

        Args:
            abstract_state: the expected state as `jax.ShapeDtypeStruct` with shardings, or as arrays.

        Returns:
            The state has the structure, dtypes and shardings of `abstract_state`, and the values saved, bit by bit.

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
        wanted, saved = _by_path(abstract_state), self._checkpointer.metadata(step)
        faults = list(_faults(wanted, saved.metadata))
        if faults:
            raise ValueError(
                f"checkpoint {self._checkpointer.directory / str(step)} does not fit the state of this configuration;"
                " restore it with the configuration it was saved with, or choose another workdir:\n  "
                + "\n  ".join(faults)
            )
        leaves = self._checkpointer.load(step, wanted)
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), [leaves[path] for path in wanted])
        return step, state, cast(Position, saved.custom_metadata)

    def wait(self) -> None:
        """Returns when all that was saved is on disk.

        Raises:
            Exception: whatever stopped a save in the background.
        """
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits, then releases the background threads."""
        self._checkpointer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def newest_params(directory: epath.PathLike) -> Iterator[Callable[[str], jax.Array]]:
    """Reads the parameters of the newest checkpoint one by one, without the optimizer.

    A run may go on writing there meanwhile: nothing is changed, nor removed.

    Yields:
        A function that gives a parameter by its path, as `text.norm.scale`, in the host's memory.

    Raises:
        FileNotFoundError: there is no checkpoint.
    """
    path = epath.Path(directory)
    with ocp.training.Checkpointer(path if path.is_absolute() else path.resolve()) as checkpointer:
        if checkpointer.latest is None:
            raise FileNotFoundError(f"no checkpoint in {path}; train until one is saved (train.save_steps)")
        step = checkpointer.latest.step
        saved = cast(Mapping[str, Any], checkpointer.metadata(step).metadata)
        device = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])

        def read(name: str) -> jax.Array:
            leaf = saved[f"params.{name}"]
            wanted: dict[str, Any] = dict.fromkeys(saved, ocp.PLACEHOLDER)
            wanted[f"params.{name}"] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
            return checkpointer.load(step, wanted)[f"params.{name}"]

        yield read


def _by_path(state: State) -> dict[str, Any]:
    """The leaves of a pytree by their dotted path, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _faults(wanted: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    """One line for each leaf that the checkpoint lacks, has beyond the expected, or has in another form."""
    yield from (
        f"{path}: expected {_form(wanted[path])}, not in the checkpoint" for path in wanted.keys() - saved.keys()
    )
    yield from (
        f"{path}: in the checkpoint as {_form(saved[path])}, not expected" for path in saved.keys() - wanted.keys()
    )
    for path in wanted.keys() & saved.keys():
        if _form(wanted[path]) != _form(saved[path]):
            yield f"{path}: expected {_form(wanted[path])}, the checkpoint has {_form(saved[path])}"


def _form(leaf: Any) -> str:
    """Dtype and shape as `float32[4, 8]`."""
    return f"{leaf.dtype}{list(leaf.shape)}"
