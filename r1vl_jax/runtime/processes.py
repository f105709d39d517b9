"""The processes of a run: one for every host of a pod, or several on one machine, each with devices of its own.

All of them run the same program. Each reads its shard of the data and holds its rows of a batch; only the main process,
process 0, writes and prints. Every function here works in a program of a single process too, without communication.
"""

import os
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1vl_jax.runtime.failure_propagation import propagate_failures

Value = TypeVar("Value")

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# JAX's default is 100, for which a pod would stand still. The threads that send heartbeats need no Python, so that a
# busy process is not taken for lost.
_HEARTBEAT_TIMEOUT_S = 20
_MIN_MESSAGE_BYTES = 256  # longer messages are padded to powers of two, so that few programs are compiled


@contextmanager
def initialize_distributed() -> Iterator[None]:
    """Joins the processes that the environment announces, for the time of the block; no device may be in use yet.

    JAX recognises TPU pods, SLURM and Open MPI. Elsewhere the variables JAX_COORDINATOR_ADDRESS (host:port of process
    0), JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0) announce them. Without any of these the program runs as a single
    process. JAX_LOCAL_DEVICE_IDS selects the devices of a machine that this process uses.

    When an exception leaves the block in one process all exit with status 1 and print it. When one is lost (killed, or
    its machine is gone) JAX aborts the others with SIGABRT.

    Raises:
        ValueError: variables that contradict each other, or are malformed.
    """
    if not _join():
        yield
        return
    with propagate_failures(heartbeat_timeout_s=_HEARTBEAT_TIMEOUT_S):
        all_gather_objects(None)  # connects the devices now: connecting has a timeout, waiting later has none
        yield
        all_gather_objects(None)  # for the slowest: JAX's shutdown barrier, which follows, has a timeout
    jax.distributed.shutdown()


def _join() -> bool:
    """Joins a cluster if there is one; returns whether."""
    address, number, place = (os.environ.get(name) for name in _VARIABLES)
    if address is not None and not re.fullmatch(r".+:\d+", address):
        raise ValueError(f"{_VARIABLES[0]}={address}: expected host:port of process 0")
    num_processes, process_id = (_parse_int(*pair) for pair in zip(_VARIABLES[1:], (number, place), strict=True))
    is_announced = None not in (num_processes, process_id)
    # JAX's preemption service would swallow SIGTERM, so that a run could not be stopped.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            num_processes=num_processes,
            process_id=process_id,
            cluster_detection_method="deactivate" if is_announced else None,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT_S,
        )
    except ValueError as error:
        given = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
        if not given and "coordinator_address" in str(error):
            return False  # JAX's error where it recognises no cluster
        raise ValueError(f"{' '.join(given)}: {error} Set all of {', '.join(_VARIABLES)}, or none") from error
    return True


def _parse_int(name: str, value: str | None) -> int | None:
    if value is not None and not value.isdecimal():
        raise ValueError(f"{name}={value}: expected a whole number")
    return None if value is None else int(value)


def count() -> int:
    """The number of processes."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """The index of this process, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is process 0, the only one that writes and prints."""
    return index() == 0


@contextmanager
def main_process_first() -> Iterator[None]:
    """Runs the block in the main process, then in all others, which see the files that it wrote."""
    if not is_main_process():
        all_gather_objects(None)
    yield
    if is_main_process():
        all_gather_objects(None)


def all_gather_objects(value: Value) -> list[Value]:
    """The values of all processes, in the order of their indices. All must call this, from the main thread.

    The values travel over the devices, so this waits for the computations that were dispatched before.

    Args:
        value: anything that can be pickled.
    """
    if count() == 1:
        return [value]
    message = pickle.dumps(value)
    lengths = _all_gather(np.int32(len(message)))
    size = max(_MIN_MESSAGE_BYTES, 1 << (int(lengths.max()) - 1).bit_length())
    rows = _all_gather(np.frombuffer(message.ljust(size, b"\0"), np.uint8))
    return [pickle.loads(row.tobytes()[:length]) for row, length in zip(rows, lengths, strict=True)]


def all_reduce_max(sizes: Sequence[int]) -> tuple[int, ...]:
    """The elementwise maximum over processes; every process gives as many numbers."""
    return tuple(map(max, *all_gather_objects(tuple(sizes)))) if count() > 1 else tuple(sizes)


def broadcast_from_main(value: Value) -> Value:
    """The value of the main process."""
    return all_gather_objects(value)[0]  # multihost_utils.broadcast_one_to_all takes arrays, whose shape all must know


def check_agreement(values: Mapping[str, Any]) -> None:
    """Refuses to go on unless all processes have equal values; all must call this.

    Args:
        values: by name; anything that can be pickled and compared.

    Raises:
        ValueError: lists every name whose values differ, with the value of each process.
    """
    mappings = all_gather_objects(dict(values))
    names = dict.fromkeys(name for mapping in mappings for name in mapping)
    shown = {name: [repr(each[name]) if name in each else "nothing" for each in mappings] for name in names}
    if differing := [f"{name}: {_by_process(each)}" for name, each in shown.items() if len(set(each)) > 1]:
        raise ValueError(
            f"the {len(mappings)} processes differ; start all with one command, on the same code, data and weights:"
            "\n  " + "\n  ".join(differing)
        )


def _by_process(values: Sequence[str]) -> str:
    """Which processes have which value: "3 in process 0, 2; 4 in process 1"."""
    owners = {value: [str(process) for process, own in enumerate(values) if own == value] for value in values}
    return "; ".join(f"{value} in process {', '.join(having)}" for value, having in owners.items())


def _all_gather(array: Any) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(array))
