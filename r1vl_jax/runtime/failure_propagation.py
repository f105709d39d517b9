"""Failure propagation: when one process of a run raises, every other one exits at once and prints why.

JAX's coordination service covers the other case, a process that is lost (killed, or its machine is gone): it sends no
heartbeats, and JAX aborts all others with SIGABRT. It knows nothing of exceptions. Measured with JAX 0.10.2 on two
processes: the process that raises waits 300 s in JAX's shutdown barrier while the others wait for it in a collective;
then all abort, with the status of a loss, on which launchers restart. With this module all exit in 5 s, with status 1.
"""

import contextlib
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed  # the key-value store of the coordination service has no public name

_POLL_INTERVAL_S = 1.0
# Others exit as soon as they have polled, then the processes that failed, a poll apart, then process 0: it runs the
# coordination service, without which JAX aborts the processes that are left.
_FAILED_EXIT_DELAY_S, _MAIN_EXIT_DELAY_S = 2.5, 4.0
_KEY = "r1vl_jax/failure"
# Statuses of XLA with which a collective fails when another process is gone.
_STATUSES = ("ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION", "INTERNAL", "UNAVAILABLE", "UNKNOWN")
_EXIT_STATUS = 1


@contextlib.contextmanager
def propagate_failures(*, heartbeat_timeout_s: float) -> Iterator[None]:
    """Exits from all processes when an exception leaves the block in one of them.

    Args:
        heartbeat_timeout_s: when JAX declares a process without heartbeats lost, and aborts the others.
    """
    state: Any = distributed.global_state
    is_done, is_exiting = threading.Event(), threading.Event()
    threading.Thread(target=_exit_on_failure, args=(state, is_done, is_exiting), daemon=True).start()
    try:
        yield
    except BaseException as error:
        if is_exiting.is_set():  # collectives with processes that have exited fail, which says nothing new
            threading.Event().wait()
        is_refusal = isinstance(error, SystemExit)  # of the user's settings or data
        print(error if is_refusal else traceback.format_exc(), file=sys.stderr, flush=True)
        if state.num_processes > 1 and _may_come_from_lost_process(error):
            print("Waiting for JAX to report whether a process was lost ...", file=sys.stderr, flush=True)
            time.sleep(heartbeat_timeout_s + 2 * _POLL_INTERVAL_S)  # if one was, JAX aborts this process meanwhile
        is_done.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process failed first
            cause = error if is_refusal else f"{type(error).__name__}: {error}"
            state.client.key_value_set(_KEY, f"process {state.process_id} of {state.num_processes} failed: {cause}")
        time.sleep(_MAIN_EXIT_DELAY_S if state.process_id == 0 else _FAILED_EXIT_DELAY_S)
        _exit()
    is_done.set()


def _may_come_from_lost_process(error: BaseException) -> bool:
    """Whether this is a status of XLA with which a collective with a lost process fails.

    Its Python type does not tell: those of Gloo, on CPU, are ValueErrors.
    """
    return re.match(rf"({'|'.join(_STATUSES)}): ", str(error)) is not None


def _exit_on_failure(state: Any, is_done: threading.Event, is_exiting: threading.Event) -> None:
    """Polls for the failure of another process."""
    while not is_done.wait(_POLL_INTERVAL_S):
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # no failure
            failure = state.client.key_value_try_get(_KEY)
            if not is_done.is_set():
                is_exiting.set()
                advice = "Fix the cause and start all processes again: the run resumes from its newest checkpoint."
                print(f"{failure}; this process exits too. {advice}", file=sys.stderr, flush=True)
                time.sleep(_MAIN_EXIT_DELAY_S if state.process_id == 0 else 0.0)
                _exit()


def _exit() -> None:
    """Exits without Python's shutdown, which would wait for the other processes."""
    sys.stdout.flush()
    os._exit(_EXIT_STATUS)
