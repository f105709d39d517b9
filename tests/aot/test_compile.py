"""What the compiler says is understood."""

import os
import signal
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import jax
import pytest

from r1vl_jax.aot.compile import Failed, OutOfMemory, compile_for, needed_bytes
from r1vl_jax.aot.flops import Flops
from r1vl_jax.aot.messages import captured_stderr
from r1vl_jax.aot.programs import Program

GIB = 2**30


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO"
            " temporaries (186.30G) exceeds available HBM (15.75G). HLO module: jit_f.",
            186.30 * GIB,
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm.", 17.5 * GIB),
        ("RESOURCE_EXHAUSTED: something else", None),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.00M of 16.00M vmem.", None),
    ],
)
def test_the_excess_is_read_from_a_refusal(message, expected):
    assert needed_bytes(message) == expected


def refused(message: str) -> Program:
    """A program of which the compiler says something, and then that."""

    def compile():
        os.write(2, b"first\nsecond\n")
        raise jax.errors.JaxRuntimeError(message)

    function = SimpleNamespace(lower=lambda: SimpleNamespace(compile=compile))
    return Program("update", "step_grpo", function, (), (), resident={}, flops=Flops(1.0))


def test_only_memory_makes_a_program_too_large():
    failed = compile_for(refused("INTERNAL: RET_CHECK failure\nthird\nfourth"), GIB)
    assert isinstance(failed, Failed)
    assert failed.reason == "INTERNAL: RET_CHECK failure"
    assert failed.last_lines == ("first", "second", "INTERNAL: RET_CHECK failure", "third", "fourth")
    assert not failed.fits
    on_chip = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.00M of 16.00M vmem."
    assert isinstance(compile_for(refused(on_chip), GIB), Failed)
    large = compile_for(refused("RESOURCE_EXHAUSTED: Used 17.50G of 15.75G hbm."), GIB)
    assert isinstance(large, OutOfMemory)
    assert large.needed == 17.5 * GIB


def test_what_jax_cannot_lower_is_named():
    def lower():
        raise NotImplementedError("no such operation in a kernel")

    function = SimpleNamespace(lower=lower)
    program = Program("update", "step_grpo", function, (), (), resident={}, flops=Flops(1.0))
    failed = compile_for(program, GIB)
    assert isinstance(failed, Failed)
    assert failed.reason == "no such operation in a kernel"


def test_of_many_lines_the_last_are_kept():
    failed = compile_for(refused("INTERNAL\n" + "\n".join(map(str, range(100)))), GIB)
    assert isinstance(failed, Failed)
    assert failed.last_lines == tuple(map(str, range(80, 100)))


def test_messages_are_kept_off_the_screen(capfd):
    kept = []
    with captured_stderr(kept):
        os.write(2, b"first\nsecond\n")
    os.write(2, b"third\n")
    assert kept == ["first", "second"]
    assert capfd.readouterr().err == "third\n"


def test_nothing_is_left_of_what_was_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ZeroDivisionError), captured_stderr([]):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("death", ["os.abort()", "os.kill(os.getpid(), 9)"])
def test_a_compiler_that_ends_the_process_is_heard(death, tmp_path):
    script = f"""import os
from r1vl_jax.compiling.messages import messages_kept
with messages_kept([]):
    os.write(2, b"RET_CHECK failure: something\\n" * 100)
    {death}"""
    ended = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert ended.returncode in (-signal.SIGABRT, -signal.SIGKILL)
    (kept,) = tmp_path.glob("messages-*")
    heard = ended.stderr.splitlines()
    assert heard[0] == f"the compiler ended the program; {kept} has all that it said, at last this:"
    assert heard[1:] == ["RET_CHECK failure: something"] * 20
    assert len(kept.read_text().splitlines()) == 100
