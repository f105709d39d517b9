"""A tool that fails, hangs, ends its process or returns nonsense fails its call; the next call works."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from r1vl_jax.tools.processes import Call, Result, ToolProcesses

TOOLS = "double fail hang exit_at_once nonsense unsendable invert fork start_another power repeat draw leave"
NAMES = [f"helpers.my_tools:{name}" for name in TOOLS.split()]


@pytest.fixture(scope="module")
def processes():
    tools = ToolProcesses(NAMES, num_processes=2, timeout_s=3.0)
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
        ("hang", {"seconds": 60}, "it took more than 3 seconds"),
        ("exit_at_once", {"code": 0}, "its process ended"),
        ("nonsense", {"number": 1}, "expected texts, numbers or pictures, got {'number': 1}"),
        ("unsendable", {"number": 1}, "expected texts, numbers or pictures, got <function"),
        ("start_another", {"seconds": 77}, "it took more than 3 seconds"),
        ("power", {"exponent": 5000}, "Exceeds the limit (4300 digits)"),
        ("repeat", {"text": "x", "times": 10**8}, "a result of 100,000,000 characters; at most 100,000 are taken"),
        ("draw", {"mode": "RGB", "width": 0, "height": 0}, "a picture of 0 x 0 pixels"),
        ("draw", {"mode": "RGB", "width": 1000, "height": 1}, "a side of at most 200 times the other"),
        ("draw", {"mode": "L", "width": 10**4, "height": 10**4}, "a picture of 10000 x 10000 pixels"),
        ("leave", {"reason": "no licence"}, "SystemExit: no licence"),
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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_any_mode_come_out(processes, mode):
    (picture,) = call(processes, "draw", mode=mode, width=30, height=20).parts
    assert (picture.mode, picture.size) == ("RGB", (30, 20))


def test_the_answers_of_a_forked_process_are_not_those_of_later_calls(processes):
    text = call(processes, "fork", number=1).parts[0]
    assert int(text.split()[1]) > 0
    for number in range(4):
        assert call(processes, "double", number=number).parts == (str(2 * number),)


def test_what_a_hung_tool_has_started_ends_with_it(processes):
    seconds = 1234.5 + time.time() % 1
    assert "more than" in call(processes, "start_another", seconds=seconds).failure
    deadline = time.monotonic() + 5
    while (found := _is_running(str(seconds))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not found


def _is_running(argument: str) -> bool:
    return any(argument in path.read_text(errors="ignore") for path in _command_lines())


def _command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            path.read_text(errors="ignore")
            yield path


def test_halves_of_surrogate_pairs_are_replaced(processes):
    assert call(processes, "repeat", text="\ud800", times=2).parts == ("??",)


def test_processes_end_with_the_one_that_started_them(tmp_path):
    tests = str(Path(__file__).parents[1])
    script = (
        f"import os, signal, sys; sys.path.insert(0, {tests!r})\n"
        "from r1vl_jax.tools.processes import Call, ToolProcesses\n"
        "tools = ToolProcesses(['helpers.my_tools:hang'], num_processes=1, timeout_s=60)\n"
        "tools.start(); print(tools._idle.get()._popen.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    pid, deadline = int(killed.stdout), time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()


def test_calls_run_side_by_side(processes):
    processes.call([Call("helpers.my_tools:double", {"number": 1})] * 2)  # both processes are there
    results = processes.call([Call("helpers.my_tools:hang", {"seconds": 0.6})] * 2)
    (start, end), (other_start, other_end) = (map(float, result.parts[0].split()) for result in results)
    assert max(start, other_start) < min(end, other_end)


def test_a_module_that_cannot_be_imported_is_an_error():
    processes = ToolProcesses(["no_such_module:f"], num_processes=1, timeout_s=1.0)
    with pytest.raises(RuntimeError, match="no_such_module:f did not start"):
        processes.start()
    (result,) = processes.call([Call("no_such_module:f", {})])
    assert result.failure == "its process ended, or did not start"
