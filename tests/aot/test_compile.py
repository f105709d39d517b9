"""Results of compiling: memory, out of memory, and failures."""

import os
from types import SimpleNamespace

import jax
import pytest

from r1vl_jax.aot.compile import Failed, OutOfMemory, compile_for, required_bytes
from r1vl_jax.aot.flops import Flops
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
def test_required_memory_is_parsed_from_the_error(message, expected):
    assert required_bytes(message) == expected


def failing_program(message: str) -> Program:
    """A program whose compiler logs two lines and raises this error."""

    def compile():
        os.write(2, b"first\nsecond\n")
        raise jax.errors.JaxRuntimeError(message)

    function = SimpleNamespace(lower=lambda: SimpleNamespace(compile=compile))
    return Program("update", "step_grpo", function, (), (), resident={}, flops=Flops(1.0))


def test_only_hbm_errors_are_out_of_memory():
    failed = compile_for(failing_program("INTERNAL: RET_CHECK failure\nthird\nfourth"), GIB)
    assert isinstance(failed, Failed)
    assert failed.reason == "INTERNAL: RET_CHECK failure"
    assert failed.log_tail == ("first", "second", "INTERNAL: RET_CHECK failure", "third", "fourth")
    assert not failed.fits
    on_chip = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.00M of 16.00M vmem."
    assert isinstance(compile_for(failing_program(on_chip), GIB), Failed)
    large = compile_for(failing_program("RESOURCE_EXHAUSTED: Used 17.50G of 15.75G hbm."), GIB)
    assert isinstance(large, OutOfMemory)
    assert large.required == 17.5 * GIB


def test_an_error_of_lowering_is_reported():
    def lower():
        raise NotImplementedError("no such operation in a kernel")

    function = SimpleNamespace(lower=lower)
    program = Program("update", "step_grpo", function, (), (), resident={}, flops=Flops(1.0))
    failed = compile_for(program, GIB)
    assert isinstance(failed, Failed)
    assert failed.reason == "no such operation in a kernel"


def test_the_end_of_a_long_log_is_kept():
    failed = compile_for(failing_program("INTERNAL\n" + "\n".join(map(str, range(100)))), GIB)
    assert isinstance(failed, Failed)
    assert failed.log_tail == tuple(map(str, range(80, 100)))
