r"""math-verify in worker processes: verdicts, and workers that hang, die or do not start."""

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
def judge():
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
def test_verdicts(judge, gold, prediction, reason):
    verdict = judge.verify([(gold, prediction)])[0]
    assert verdict.reason == reason
    assert verdict.is_correct == (reason == "equal")


def test_the_gold_answer_comes_first(judge):
    """math-verify accepts an interval for a gold inequality, but not the reverse."""
    forward, reverse = judge.verify([("$1<x<2$", "$(1,2)$"), ("$(1,2)$", "$1<x<2$")])
    assert (forward.is_correct, reverse.is_correct) == (True, False)


def test_verdicts_are_in_the_order_of_the_pairs(judge):
    pairs = [(str(n), f"{n % 3} cm") for n in range(12)] * 2
    assert [verdict.is_correct for verdict in judge.verify(pairs)] == [n % 3 == n for n in range(12)] * 2


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
        assert time.monotonic() - start < 3.0, "the verdict is cached"


def stop_for(process: subprocess.Popen, seconds: float) -> None:
    """Stops a worker for a while, as an overloaded machine does."""
    process.send_signal(signal.SIGSTOP)
    threading.Timer(seconds, process.send_signal, [signal.SIGCONT]).start()


def test_an_overloaded_machine_does_not_change_a_verdict():
    with Judge(timeout_s=1.0) as judge:
        judge.verify([("1", "1 cm")])
        stop_for(judge._workers[0]._process, 2.0)
        assert judge.verify([("2", "2 cm")])[0].reason == "equal"


def test_a_worker_that_blocks_is_killed(monkeypatch):
    monkeypatch.setattr(math_verify, "_WALL_TIME_FACTOR", 1.0)
    with Judge(timeout_s=2.0) as judge:
        judge.verify([("1", "1 cm")])
        stop_for(judge._workers[0]._process, 20.0)
        assert judge.verify([("2", "2 cm")])[0].reason == "timeout"


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


def test_an_interpreter_exits_without_close():
    program = "from r1vl_jax.rewards import Judge; print(Judge().verify([('12', '12 cm')])[0].reason)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (run.returncode, run.stdout) == (0, "equal\n")


def test_a_worker_exits_when_its_parent_is_gone():
    our_end, worker_end = Pipe()
    worker = subprocess.Popen(
        [sys.executable, "-P", WORKER, str(worker_end.fileno()), "0.5"], pass_fds=[worker_end.fileno()]
    )
    worker_end.close()
    assert our_end.recv() == "ready"
    our_end.send(HANGS)
    our_end.close()
    assert worker.wait(timeout=30) == -signal.SIGPROF


def test_a_worker_imports_no_heavy_library():
    program = f"import runpy, sys, math_verify; runpy.run_path({str(WORKER)!r}); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True).stdout.split()
    assert "math_verify" in modules
    assert not {"jax", "torch", "tensorflow", "transformers", "r1vl_jax"} & set(modules)


def test_a_worker_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(math_verify.sys, "executable", "/bin/false")
    with Judge() as judge, pytest.raises(RuntimeError, match="did not start.*import math_verify"):
        judge.verify([("1", "1 cm")])
