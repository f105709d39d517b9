"""Calls functions of users: what is async is awaited, and an exception is shown with the user's file and line."""

import asyncio
import functools
import importlib
import inspect
import sysconfig
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

_MAX_FRAMES = 5
# Whose lines are between the user's: those that call them, and libraries.
_CALLERS = ("<frozen", *(f"{Path(file).parent}/" for file in (__file__, asyncio.__file__, importlib.__file__)))
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class RewardFunctionError(ValueError):
    """A reward function of the user raised, or returned what is no reward; the message says which, where and why."""


def call_all(calls: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Any], list[str]]:
    """Calls functions one after the other; those that return an awaitable are then awaited, all at the same time.

    Returns:
        What each function returned, by name; and for each that raised a text that says so.
    """
    outcomes = {name: _attempt(call) for name, call in calls.items()}
    awaited = {name: outcome for name, outcome in outcomes.items() if inspect.isawaitable(outcome)}
    if awaited:
        # In a thread of its own, since a notebook has a running loop here; always the same one, since clients and locks
        # of the user belong to the loop that they were first used in.
        together = asyncio.run_coroutine_threadsafe(_await_all(list(awaited.values())), _event_loop())
        try:
            outcomes |= zip(awaited, together.result(), strict=True)
        finally:
            together.cancel()  # where Ctrl+C ended the waiting
    errors = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, BaseException)}
    returned = {name: outcome for name, outcome in outcomes.items() if name not in errors}
    return returned, [f"reward function {name} raised {describe(error)}" for name, error in errors.items()]


def import_by_name(name: str) -> Callable[..., Any]:
    """What a module of the user's has under a name, such as "my_rewards:brevity".

    Raises:
        ValueError: the name is of another form. Whatever the module raises.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise RewardFunctionError('expected "module:function", such as "my_rewards:brevity"')
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def describe(error: BaseException) -> str:
    """Type and message of an exception, and below them the lines of the user's code that led to it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_CALLERS)]
    frames = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)] or frames
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    places = [f'  File "{each.filename}", line {each.lineno}, in {each.name}\n    {each.line}' for each in frames]
    return "\n".join([text, *places[-_MAX_FRAMES:]])


def _attempt(call: Callable[[], Any]) -> Any:
    """What a call returns, or the exception that it raises; iterators, whose code is the user's too, are read here."""
    try:
        returned = call()
        return list(returned) if isinstance(returned, Iterator) else returned
    except (Exception, SystemExit) as error:
        return error


async def _await_all(awaitables: list[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*map(_attempt_to_await, awaitables))


async def _attempt_to_await(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        return error


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """An event loop that runs in the background until the program ends."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="reward-functions", daemon=True).start()
    return loop
