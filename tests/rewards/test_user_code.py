"""Functions of users: what is async is awaited together, and what is raised names the user's lines."""

import asyncio
import functools
import inspect
import threading
import time

import pytest

from r1vl_jax.rewards.user_code import call_all, describe


def line_of(text: str) -> int:
    """The number of the line of this file that has a text for the first time."""
    return 1 + next(
        number for number, line in enumerate(inspect.getsource(inspect.getmodule(line_of)).split("\n")) if text in line
    )


def inner(value):
    return {"a": 1}[value]  # raises


def outer(value):
    return sorted([value, value], key=inner)


async def fails_later():
    await asyncio.sleep(0)
    return inner("colour")


async def fails_in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(fails_later())


def generates():
    yield 1.0
    yield inner("colour")


FAILING = {
    "sync": lambda: outer("colour"),
    "async": fails_later,
    "in a task group": fails_in_a_group,
    "a generator": generates,
    "partial": functools.partial(outer, "colour"),
}


@pytest.mark.parametrize("kind", FAILING)
def test_an_exception_is_shown_with_the_users_lines_alone(kind):
    returned, errors = call_all({"good": lambda: [1.0], "mine": FAILING[kind]})
    assert returned == {"good": [1.0]}
    (first, *frames) = errors[0].splitlines()
    assert first == "reward function mine raised KeyError: 'colour'"
    assert frames[-2] == f'  File "{__file__}", line {line_of("# raises")}, in inner'
    assert frames[-1] == '    return {"a": 1}[value]  # raises'
    assert len(frames) <= 10
    assert not any("asyncio/" in frame or "/user_code.py" in frame for frame in frames)


def test_an_exception_of_an_installed_function_shows_its_lines():
    """As of a reward function that is installed as a package."""
    import json

    with pytest.raises(json.JSONDecodeError) as error:
        json.loads("{")
    text = describe(error.value.with_traceback(error.tb.tb_next))
    assert text.startswith("JSONDecodeError: Expecting property name")
    assert "json/decoder.py" in text


@pytest.mark.parametrize("error", [SystemExit("bye"), asyncio.CancelledError(), AssertionError()], ids=repr)
def test_what_would_end_the_program_silently_is_shown(error):
    async def ends():
        raise error

    _, errors = call_all({"mine": ends})
    assert errors[0].startswith(f"reward function mine raised {type(error).__name__}")
    assert call_all({"again": lambda: asyncio.sleep(0, [1.0])}) == ({"again": [1.0]}, [])  # the loop still runs


def test_async_functions_wait_together():
    async def slow(number):
        await asyncio.sleep(0.2)
        return [number]

    start = time.perf_counter()
    returned, errors = call_all({str(n): functools.partial(slow, n) for n in range(10)})
    assert time.perf_counter() - start < 1
    assert (returned, errors) == ({str(n): [n] for n in range(10)}, [])


def test_async_functions_keep_one_event_loop():
    """A client or a lock of the user's module belongs to the loop that it was first used in."""

    async def loop():
        return asyncio.get_running_loop()

    loops = [call_all({"mine": loop})[0]["mine"] for _ in range(2)]
    assert loops[0] is loops[1]


def test_async_functions_run_inside_a_running_loop():
    """As in a notebook."""

    async def one():
        return [1.0]

    async def cell():
        return call_all({"mine": one})

    assert asyncio.run(cell()) == ({"mine": [1.0]}, [])


def test_functions_of_the_host_run_in_the_thread_of_the_caller():
    threads = call_all({"mine": lambda: [threading.current_thread()]})[0]["mine"]
    assert threads == [threading.main_thread()]
