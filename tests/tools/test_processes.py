"""A tool that fails, hangs, ends its process or returns nonsense fails its call; the next call works."""

import time

import pytest
from PIL import Image

from r1vl_jax.tools.processes import Call, Result, ToolProcesses

NAMES = [
    f"helpers.my_tools:{name}"
    for name in ("double", "fail", "hang", "exit_at_once", "nonsense", "unsendable", "invert")
]


@pytest.fixture(scope="module")
def processes():
    tools = ToolProcesses(NAMES, num_processes=2, timeout_s=1.0)
    yield tools
    tools.close()


def call(processes: ToolProcesses, name: str, **arguments) -> Result:
    (result,) = processes.call([Call(f"helpers.my_tools:{name}", arguments)])
    return result


@pytest.mark.parametrize(
    ("name", "arguments", "failure"),
    [
        ("fail", {"number": 3}, "KeyError: 3"),
        ("double", {"numbers": 3}, "unexpected keyword argument 'numbers'"),
        ("hang", {"seconds": 60}, "it took more than 1 seconds"),
        ("exit_at_once", {"code": 0}, "its process ended"),
        ("nonsense", {"number": 1}, "expected texts or pictures, got {'number': 1}"),
        ("unsendable", {"number": 1}, "pickle"),
    ],
)
def test_a_call_that_fails_has_a_reason_and_the_next_one_works(processes, name, arguments, failure):
    result = call(processes, name, **arguments)
    assert failure in result.failure
    assert result.parts == ()
    assert call(processes, "double", number=21) == Result(("42",))


def test_pictures_go_in_and_come_out(processes):
    text, picture = call(processes, "invert", images=[Image.new("RGB", (2, 1), (255, 0, 0))]).parts
    assert text == "inverted:"
    assert picture.getpixel((1, 0)) == (0, 255, 255)


def test_calls_run_side_by_side(processes):
    processes.call([Call("helpers.my_tools:double", {"number": 1})] * 2)  # both processes are there
    start = time.monotonic()
    results = processes.call([Call("helpers.my_tools:hang", {"seconds": 0.6})] * 2)
    assert [result.parts for result in results] == [("awake",)] * 2
    assert time.monotonic() - start < 1.1


def test_a_module_that_cannot_be_imported_is_an_error():
    with pytest.raises(RuntimeError, match="no_such_module:f did not start"):
        ToolProcesses(["no_such_module:f"], num_processes=1, timeout_s=1.0).call([Call("no_such_module:f", {})])
