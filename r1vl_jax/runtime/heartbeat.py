"""Watches over the processes of a run, so that none waits for one that is gone.

All meet at the coordination service that JAX runs in the first process. One that fails says so there. One that is
killed can say nothing, so each gives a sign of life every second, and the first process looks for those that ceased.
Should the first be gone itself, JAX ends the others, with a message of its own.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from jax._src import distributed  # the client of the coordination service has no public name

_SECONDS_BETWEEN_SIGNS = 1.0
_SECONDS_UNTIL_LOST = 20.0
_SECONDS_TO_LISTEN = 3.0  # until every process has heard what was told
_END, _SIGNS = "r1vl_jax/end", "r1vl_jax/signs"  # keys at the service
# Exit statuses. xpk starts a job again after the second, and not after the first.
_FAILED, _LOST_ANOTHER = 1, 42


@contextlib.contextmanager
def monitor_processes() -> Iterator[None]:
    """Ends this process when another ends before the block does, and the others when an exception leaves the block."""
    state, is_done = distributed.global_state, threading.Event()
    threading.Thread(target=_watch, args=(state, is_done), daemon=True).start()
    try:
        yield
    except BaseException as error:
        traceback.print_exc()
        if _may_be_of_a_loss(error, state.num_processes):
            print("Was another process lost? It is waited for ...", file=sys.stderr, flush=True)
            time.sleep(_SECONDS_UNTIL_LOST + _SECONDS_TO_LISTEN)
        is_done.set()
        name = f"process {state.process_id} of {state.num_processes}"
        _tell(state, _FAILED, f"{name} ended with {type(error).__name__}: {error}")
        time.sleep(_SECONDS_TO_LISTEN)  # for the service ends with the first process
        os._exit(_FAILED)  # the usual way out would wait for the others
    is_done.set()


def _may_be_of_a_loss(error: BaseException, num_processes: int) -> bool:
    """Whether the end of another process may be behind this: devices that talk to those that are gone fail too."""
    is_of_devices = isinstance(error, jax.errors.JaxRuntimeError)
    return is_of_devices and num_processes > 1 and "RESOURCE_EXHAUSTED" not in str(error)


def _watch(state: Any, is_done: threading.Event) -> None:
    """Gives signs of life, and ends this process when another has ended."""
    signs = _Signs(state.num_processes)
    while not is_done.wait(_SECONDS_BETWEEN_SIGNS):
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service is gone, or nobody has told an end
            state.client.key_value_set(f"{_SIGNS}/{state.process_id}", str(time.time()), allow_overwrite=True)
            if state.process_id == 0 and (lost := signs.lost(state.client.key_value_dir_get(_SIGNS))):
                _tell(
                    state,
                    _LOST_ANOTHER,
                    f"process {' and '.join(lost)} of {state.num_processes} gave no sign of life for"
                    f" {_SECONDS_UNTIL_LOST:.0f} seconds: it was killed, or its machine is gone",
                )
            end = state.client.key_value_try_get(_END)
            if not is_done.is_set():
                _follow(state, end)


def _tell(state: Any, status: int, end: str) -> None:
    """Says how a process ended, and with what status the others are to end; unless another end was told before."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        state.client.key_value_set(_END, f"{status} {end}")


def _follow(state: Any, end: str) -> NoReturn:
    """Ends this process because another has ended."""
    status, text = end.split(" ", 1)
    advice = "Start all of them again" if int(status) == _LOST_ANOTHER else "Mend that, then start all of them again"
    advice = f"so this one ends too. {advice}: the run resumes from its newest checkpoint."
    print(f"{text}; {advice}", file=sys.stderr, flush=True)
    time.sleep(_SECONDS_TO_LISTEN if state.process_id == 0 else 0.0)
    os._exit(int(status))


class _Signs:
    """When each process last gave a sign of life."""

    def __init__(self, num_processes: int):
        self._last = {str(process): ("", time.monotonic()) for process in range(num_processes)}

    def lost(self, given: list[tuple[str, str]]) -> list[str]:
        """The processes whose sign, among these by key, has not changed for too long."""
        now = time.monotonic()
        for key, sign in given:
            process = key.rpartition("/")[2]
            if sign != self._last[process][0]:
                self._last[process] = sign, now
        return [process for process, (_, seen) in self._last.items() if now - seen > _SECONDS_UNTIL_LOST]
