r"""math-verify in worker processes: verdicts, and what happens to workers that hang, die or never start."""

import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest

from r1vl_jax.rewards import math_verify
from r1vl_jax.rewards.math_verify import Judge

HANGS = ("3", "$99999999!$")
WORKER = Path(math_verify.__file__).with_name("math_verify_worker.py")


@pytest.fixture(scope="module")
def patient():
    with Judge(num_workers=2, timeout_s=30.0) as judge:
        yield judge


@pytest.mark.parametrize(
    ("gold", "prediction", "reason"),
    [
        ("12", "12 cm", "equal"),
        ("12", "The answer is 12.", "equal"),
        ("12", r"\boxed{12}", "equal"),
        ("45", r"\$45", "equal"),
        (r"\frac{1}{2}", r"\dfrac{2}{4}", "equal"),
        (r"3\sqrt{2}", r"\sqrt{18}", "equal"),
        (r"\sqrt{2}", "2", "different"),
        ("12", "13 cm", "different"),
        ("cat", "a dog", "unparsable"),
        ("12", "", "unparsable"),
        ("12", r"$\frac{24}{2", "unparsable"),
    ],
)
def test_verdicts(patient, gold, prediction, reason):
    verdict = patient.verify([(gold, prediction)])[0]
    assert verdict.reason == reason
    assert verdict.is_correct == (reason == "equal")


def test_the_reference_goes_first(patient):
    """math-verify takes an interval for an inequality, but not the other way round."""
    there, back = patient.verify([("$1<x<2$", "$(1,2)$"), ("$(1,2)$", "$1<x<2$")])
    assert (there.is_correct, back.is_correct) == (True, False)


def test_answers_come_in_the_order_of_the_questions(patient):
    questions = [(str(n), f"{n % 3} cm") for n in range(12)] * 2
    assert [verdict.is_correct for verdict in patient.verify(questions)] == [n % 3 == n for n in range(12)] * 2


def test_a_hung_worker_is_killed_and_replaced():
    with Judge(num_workers=1, timeout_s=3.0) as judge:
        judge.verify([("1", "1 cm")])
        start = time.monotonic()
        verdicts = judge.verify([("2", "2 cm"), HANGS, ("4", "4 cm")])
        assert [verdict.reason for verdict in verdicts] == ["equal", "timeout", "equal"]
        assert not verdicts[1].is_correct
        assert judge.reasons == {"equal": 3, "timeout": 1}
        assert time.monotonic() - start > 3.0

        start = time.monotonic()
        assert judge.verify([HANGS])[0].reason == "timeout"
        assert time.monotonic() - start < 3.0, "a verdict is remembered"


def stop_for(process: subprocess.Popen, seconds: float) -> None:
    """Takes the processor away from a worker, as a crowded machine does."""
    process.send_signal(signal.SIGSTOP)
    threading.Timer(seconds, process.send_signal, [signal.SIGCONT]).start()


def test_a_crowded_machine_does_not_change_a_verdict():
    with Judge(timeout_s=1.0) as judge:
        judge.verify([("1", "1 cm")])
        stop_for(judge._workers[0]._process, 2.0)
        assert judge.verify([("2", "2 cm")])[0].reason == "equal"


def test_a_worker_that_waits_for_ever_is_given_up(monkeypatch):
    monkeypatch.setattr(math_verify, "_PATIENCE", 1.0)
    with Judge(timeout_s=2.0) as impatient:
        impatient.verify([("1", "1 cm")])
        stop_for(impatient._workers[0]._process, 20.0)
        assert impatient.verify([("2", "2 cm")])[0].reason == "timeout"


def test_a_worker_that_dies_is_replaced():
    with Judge(timeout_s=30.0) as judge:
        judge.verify([("1", "1 cm")])
        judge._workers[0]._process.kill()
        judge._workers[0]._process.wait()
        verdicts = judge.verify([("2", "2 cm"), ("3", "3 cm")])
        assert [verdict.reason for verdict in verdicts] == ["crashed", "equal"]


def test_workers_start_when_needed_and_end_with_the_judge():
    with Judge(num_workers=2) as judge:
        assert judge.verify([]) == []
        assert judge._workers == []
        judge.verify([("1", "1 cm")])
        process = judge._workers[0]._process
        assert len(judge._workers) == 1
        assert process.poll() is None
    assert process.returncode is not None


def test_an_interpreter_that_forgets_to_close_still_ends():
    program = "from r1vl_jax.rewards import Judge; print(Judge().verify([('12', '12 cm')])[0].reason)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (run.returncode, run.stdout) == (0, "equal\n")


def test_a_worker_whose_parent_is_gone_ends_by_itself():
    ours, theirs = Pipe()
    worker = subprocess.Popen([sys.executable, "-P", WORKER, str(theirs.fileno()), "0.5"], pass_fds=[theirs.fileno()])
    theirs.close()
    assert ours.recv() == "ready"
    ours.send(HANGS)
    ours.close()
    assert worker.wait(timeout=30) == -signal.SIGPROF


def test_a_worker_loads_nothing_heavy():
    program = f"import runpy, sys, math_verify; runpy.run_path({str(WORKER)!r}); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True).stdout.split()
    assert "math_verify" in modules
    assert not {"jax", "torch", "tensorflow", "transformers", "r1vl_jax"} & set(modules)


def test_a_worker_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr(math_verify.sys, "executable", "/bin/false")
    with Judge() as unable, pytest.raises(RuntimeError, match="did not start.*import math_verify"):
        unable.verify([("1", "1 cm")])
