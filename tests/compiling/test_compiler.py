"""What the compiler says is understood."""

import os

import pytest

from r1vl_jax.compiling.compiler import needed_bytes
from r1vl_jax.compiling.messages import messages_kept

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
    ],
)
def test_the_excess_is_read_from_a_refusal(message, expected):
    assert needed_bytes(message) == expected


def test_messages_are_kept_off_the_screen(capfd):
    kept = []
    with messages_kept(kept):
        os.write(2, b"first\nsecond\n")
    os.write(2, b"third\n")
    assert kept == ["first", "second"]
    assert capfd.readouterr().err == "third\n"
