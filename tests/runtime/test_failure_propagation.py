"""How a run of several real processes ends when one of them raises or is killed."""

import signal

import jax
import pytest
from helpers.several_processes import run_processes

from r1vl_jax.runtime import failure_propagation

SCRIPT = """
import os, signal, time
from r1vl_jax.runtime import processes
processes._HEARTBEAT_TIMEOUT_S = 8
with processes.initialize_distributed():
    if processes.index() == {process}:
        {failure}
    if processes.index() == 2:
        time.sleep(300)  # busy on the host
    processes.all_gather_objects(None)  # waits for the others
"""


@pytest.mark.parametrize(
    ("process", "failure", "message"),
    [
        (0, "raise OSError('disk full')", "process 0 of 3 failed: OSError: disk full; this process exits too. Fix the"),
        (1, "raise SystemExit('beta=-1: no')", "process 1 of 3 failed: beta=-1: no; this process exits too. Fix the"),
    ],
)
def test_when_a_process_raises_all_exit_with_status_1_and_its_message(process, failure, message):
    ended = run_processes(SCRIPT.format(process=process, failure=failure), num_processes=3)
    assert [status for status, _ in ended] == [1, 1, 1]
    outputs = [output for _, output in ended]
    assert [message in output for output in outputs] == [other != process for other in range(3)]
    assert not any("Waiting for JAX" in output for output in outputs)
    assert ("Traceback" in outputs[process]) == ("OSError" in failure)  # a refusal is for the user


def test_processes_that_refuse_one_after_the_other_exit_with_status_1():
    """As of data that none can use. JAX aborts those that are left when process 0 exits, as if one was lost."""
    failure = "time.sleep(0.8 * processes.index()); raise SystemExit('no usable records')"
    ended = run_processes(SCRIPT.format(process="processes.index()", failure=failure), num_processes=2)
    assert [status for status, _ in ended] == [1, 1]
    assert all("no usable records" in output for _, output in ended)


def test_when_a_process_is_killed_jax_aborts_the_others():
    """The one that waits in a collective gets an error of its own at once, which must not be taken for the cause."""
    ended = run_processes(SCRIPT.format(process=1, failure="os.kill(os.getpid(), signal.SIGKILL)"), num_processes=3)
    assert [status for status, _ in ended] == [-signal.SIGABRT, -signal.SIGKILL, -signal.SIGABRT]
    assert "Waiting for JAX to report whether a process was lost" in ended[0][1]
    for output in (ended[0][1], ended[2][1]):
        assert "The following tasks are unhealthy (stopped sending heartbeats):\n1\n" in output
        assert "this process exits too" not in output


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (jax.errors.JaxRuntimeError("UNAVAILABLE: peer is gone"), True),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), False),
        (ValueError("UNAVAILABLE"), False),
        (OSError("disk full"), False),
    ],
)
def test_only_errors_of_collectives_may_come_from_a_lost_process(error, expected):
    assert failure_propagation._may_come_from_lost_process(error) == expected
