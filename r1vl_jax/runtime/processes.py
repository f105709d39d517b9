"""The processes of a run: one for every host of a pod, or several on one machine, each with devices of its own.

All of them run the same program. Each reads its own share of the data and holds its own rows of a batch; only the first
writes. A program that joined no others is the first of one: nothing here then does anything.
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

from r1vl_jax.runtime import heartbeat

Value = TypeVar("Value")

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_HEARTBEAT_TIMEOUT_S = 50  # the last resort; `peers` tells sooner, and why
_SMALLEST_MESSAGE = 256  # bytes; longer ones are padded to powers of two, so that few programs are compiled


@contextmanager
def initialize_distributed() -> Iterator[None]:
    """Joins the processes that the environment announces, for the time of the block; no device may be in use yet.

    TPU pods, SLURM and Open MPI are recognised by JAX. Anywhere else the variables JAX_COORDINATOR_ADDRESS (host:port
    of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0) announce them. Without any of these the
    program is alone. JAX_LOCAL_DEVICE_IDS says which devices of a machine are this process's.

    An exception that leaves the block ends this process at once, and the others with a sentence that says which ended,
    and why; so does a process that is killed.

    Raises:
        ValueError: variables that contradict each other, or say nothing that can be understood.
    """
    if not _join():
        yield
        return
    with heartbeat.monitor_processes():
        all_gather_objects(
            None
        )  # all meet while all are awake: later one may wait for another longer than a first meeting may
        yield
        all_gather_objects(None)  # or those that are done would be taken for lost by those that are not
    jax.distributed.shutdown()


def _join() -> bool:
    """Whether there is a cluster to join; then it is joined."""
    address, number, place = (os.environ.get(name) for name in _VARIABLES)
    if address is not None and not re.fullmatch(r".+:\d+", address):
        raise ValueError(f"{_VARIABLES[0]}={address}: expected host:port of the first process")
    num_processes, process = (_whole_number(*pair) for pair in zip(_VARIABLES[1:], (number, place), strict=True))
    is_told = None not in (num_processes, process)
    # It would swallow SIGTERM, so that a run could not be stopped.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            num_processes=num_processes,
            process_id=process,
            cluster_detection_method="deactivate" if is_told else None,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT_S,
        )
    except ValueError as error:
        given = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
        if not given and "coordinator_address" in str(error):
            return False  # how JAX says that it recognises no cluster
        raise ValueError(f"{' '.join(given)}: {error} Set all of {', '.join(_VARIABLES)}, or none") from error
    return True


def _whole_number(name: str, value: str | None) -> int | None:
    if value is not None and not value.isdecimal():
        raise ValueError(f"{name}={value}: expected a whole number")
    return None if value is None else int(value)


def count() -> int:
    """How many processes there are."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Which one this is, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this process writes and prints; only the first does."""
    return index() == 0


@contextmanager
def main_process_first() -> Iterator[None]:
    """Lets the first process go through the block before the others do: what it writes, they find."""
    if not is_main_process():
        all_gather_objects(None)
    yield
    if is_main_process():
        all_gather_objects(None)


def all_gather_objects(value: Value) -> list[Value]:
    """What every process gave, in their order; all of them must call this, from the main thread.

    The values travel over the devices, so this waits for what those were asked before.

    Args:
        value: anything that can be pickled.
    """
    if count() == 1:
        return [value]
    message = pickle.dumps(value)
    lengths = _gathered(np.int32(len(message)))
    size = max(_SMALLEST_MESSAGE, 1 << (int(lengths.max()) - 1).bit_length())
    rows = _gathered(np.frombuffer(message.ljust(size, b"\0"), np.uint8))
    return [pickle.loads(row.tobytes()[:length]) for row, length in zip(rows, lengths, strict=True)]


def all_reduce_max(sizes: Sequence[int]) -> tuple[int, ...]:
    """The largest of each of the numbers that every process gives, as many of them everywhere."""
    return tuple(map(max, *all_gather_objects(tuple(sizes)))) if count() > 1 else tuple(sizes)


def broadcast_from_main(value: Value) -> Value:
    """What the first process gave."""
    return all_gather_objects(value)[0]


def check_agreement(seen: Mapping[str, Any]) -> None:
    """Refuses to go on unless every process sees the same; all of them must call this.

    Args:
        seen: by name, what must not differ: anything that can be pickled and compared.

    Raises:
        ValueError: lists what differs, and what each process sees of it.
    """
    everywhere = all_gather_objects(dict(seen))
    names = dict.fromkeys(name for of_process in everywhere for name in of_process)
    views = {name: [repr(own[name]) if name in own else "nothing" for own in everywhere] for name in names}
    if differing := [f"{name}: {_by_process(each)}" for name, each in views.items() if len(set(each)) > 1]:
        raise ValueError(
            f"the {len(everywhere)} processes differ; start all with one command, on the same code, data and weights:"
            "\n  " + "\n  ".join(differing)
        )


def _by_process(values: Sequence[str]) -> str:
    """Which processes have which value: "3 in process 0, 2; 4 in process 1"."""
    owners = {value: [str(process) for process, own in enumerate(values) if own == value] for value in values}
    return "; ".join(f"{value} in process {', '.join(having)}" for value, having in owners.items())


def _gathered(array: Any) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(array))
