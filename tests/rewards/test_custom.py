"""User-defined reward functions: import, arguments, and what they may return."""

import asyncio
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1vl_jax import rewards
from r1vl_jax.rewards import custom


def brevity(prompts, completions, *, answer, **columns):
    return [None if not text else -len(text) / 10 + (text == a) for text, a in zip(completions, answer, strict=True)]


def brevity_on_device(byte_BU, length_B, key_steps, answers):
    return jnp.where(length_B == 0, jnp.nan, -length_B / 10)


def with_another_signature(texts):
    return texts


class Rewards:
    @staticmethod
    def brevity(prompts, completions, **columns):
        return 0


def with_some_parameters(completions, **columns):
    return [0.0] * len(completions)


def without_columns(prompts, completions):
    return [0.0] * len(completions)


@dataclasses.dataclass
class Brevity:
    """Not hashable, as data classes are."""

    scale: float

    def __call__(self, completions, **columns):
        return [-len(text) * self.scale for text in completions]


class AsyncBrevity:
    async def __call__(self, completions, **columns):
        await asyncio.sleep(0)
        return [-len(text) / 10 for text in completions]


async def async_brevity(completions, **columns):
    await asyncio.sleep(0)
    return [-len(text) / 10 for text in completions]


def scaled(completions, scale, **columns):
    return [-len(text) * scale for text in completions]


def scaled_on_device(byte_BU, length_B, key_steps, answers, *, scale):
    return -length_B * scale


def of_conversations(prompts, completions, **columns):
    assert all(prompt == [{"role": "user", "content": "q"}] for prompt in prompts)
    assert all(completion[0]["role"] == "assistant" for completion in completions)
    return [-len(completion[0]["content"]) / 10 for completion in completions]


instance, async_instance = Brevity(0.1), AsyncBrevity()
partial, partial_on_device = functools.partial(scaled, scale=0.1), functools.partial(scaled_on_device, scale=0.1)
wrapped = functools.wraps(brevity)(lambda *arguments, **columns: brevity(*arguments, **columns))
not_a_function = 3
PREFIX = f"{__name__}:"


def load(*names: str, taken: tuple[str, ...] = ()) -> tuple[custom.RewardFunction, ...]:
    return custom.load([PREFIX + name for name in names], [0.5] * len(names), taken=taken)


def test_both_kinds_are_distinguished():
    on_host, on_device = load("brevity", "brevity_on_device")
    assert (on_host.name, on_host.weight, on_host.runs_on_device) == ("brevity", 0.5, False)
    assert (on_device.name, on_device.runs_on_device) == ("brevity_on_device", True)
    assert load("Rewards.brevity")[0].name == "brevity"
    assert not load("with_some_parameters")[0].runs_on_device


def test_a_host_function_gets_columns_and_may_return_none():
    (function,) = load("brevity")
    reward_B = function.call_on_host(["q"] * 3, ["abc", "", "7"], {"answer": ["7"] * 3, "kind": ["sum"] * 3})
    np.testing.assert_allclose(reward_B, [-0.3, np.nan, 0.9], rtol=1e-6)


@pytest.mark.parametrize("name", ["instance", "async_instance", "async_brevity", "partial"])
def test_host_functions_of_every_form(name):
    (function,) = load(name)
    hash(function)  # they are static arguments of compiled functions
    assert not function.runs_on_device
    np.testing.assert_allclose(function.call_on_host(["q"] * 2, ["abc", ""], {}), [-0.3, 0], rtol=1e-6)


def test_a_partial_function_of_the_device():
    (function,) = load("partial_on_device")
    assert function.runs_on_device
    reward_B = function.call_on_device(np.zeros((2, 8), np.uint8), np.array([3, 0]), None, None)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(reward_B, [-0.3, 0], rtol=1e-6)


def test_a_wrapped_function_keeps_its_signature():
    (function,) = load("wrapped")
    np.testing.assert_allclose(function.call_on_host(["q"], ["7"], {"answer": ["7"]}), [0.9], rtol=1e-6)


def test_conversations():
    (function,) = custom.load([f"{PREFIX}of_conversations"], [1.0], completions="messages")
    np.testing.assert_allclose(function.call_on_host(["q"] * 2, ["abc", ""], {}), [-0.3, 0], rtol=1e-6)


def test_conversations_have_system_prompt_and_earlier_turns():
    seen = []

    def reward(prompts, completions, **columns):
        seen.extend(prompts)
        return [0.0] * len(completions)

    function = custom.RewardFunction("reward", reward, 1.0, False, "messages")
    columns = {"system": ["Be brief.", ""], "history": [[("a", "b")], []]}
    function.call_on_host(["q", "r"], ["", ""], columns)
    turns = [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "q")]
    assert seen == [[{"role": role, "content": text} for role, text in turns], [{"role": "user", "content": "r"}]]


def test_several_functions_get_arguments_of_their_own_and_wait_together():
    def spoils(prompts, completions, **columns):
        completions.clear()
        return [1.0, 2.0]

    functions = [custom.RewardFunction("spoils", spoils, 1.0, runs_on_device=False), *load("async_brevity", "instance")]
    custom_rewards = custom.call_on_host(functions, ["q"] * 2, ["abc", ""], {})
    assert list(custom_rewards) == ["spoils", "async_brevity", "instance"]
    np.testing.assert_allclose(custom_rewards["async_brevity"], [-0.3, 0], rtol=1e-6)


def test_all_functions_that_raise_are_shown():
    (first,), (second,) = load("brevity"), load("of_conversations")
    with pytest.raises(custom.RewardFunctionError) as error:
        custom.call_on_host([first, second], ["q"], ["7"], {})
    assert "reward function brevity raised TypeError: brevity() missing 1 required keyword-only argument" in str(
        error.value
    )
    assert "reward function of_conversations raised AssertionError" in str(error.value)
    assert f'File "{__file__}", line ' in str(error.value)


def test_an_exception_on_the_device_is_shown():
    def fails(byte_BU, length_B, key_steps, answers):
        return length_B.nonsense

    function = custom.RewardFunction("mine", fails, 1.0, runs_on_device=True)
    with pytest.raises(
        custom.RewardFunctionError, match="reward function mine raised AttributeError: .*\n.*test_custom.py"
    ):
        jax.eval_shape(function.call_on_device, np.zeros((2, 8), np.uint8), np.array([4, 0]), None, None)


def test_a_device_function_can_be_traced():
    (function,) = load("brevity_on_device")
    targets = rewards.pack([{"answer": "7", "key_steps": []}] * 2, semantics="paper")
    traced = jax.jit(lambda byte_BU, length_B, *targets: function.call_on_device(byte_BU, length_B, *targets))
    reward_B = traced(np.zeros((2, 8), np.uint8), np.array([4, 0]), *targets)
    np.testing.assert_allclose(reward_B, [-0.4, np.nan], rtol=1e-6)


@pytest.mark.parametrize(
    "returned",
    [
        [1.0],
        [1.0, np.inf],
        3.0,
        ["good", "bad"],
        [[1.0], [2.0]],
        None,
        iter([1.0]),
        {1: 1.0, 2: 2.0},
        {1.0, 2.0},
        "12",
        ["1", "2"],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_invalid_return_values_are_refused(returned):
    function = custom.RewardFunction("mine", lambda prompts, completions: returned, 1.0, runs_on_device=False)
    with pytest.raises(ValueError, match=re.escape("reward function mine: expected")):
        function.call_on_host(["q", "q"], ["a", "b"], {})


def test_an_async_function_that_is_not_a_coroutine_is_refused():
    async def generates(prompts, completions, **columns):
        yield 1.0

    function = custom.RewardFunction("mine", generates, 1.0, runs_on_device=False)
    with pytest.raises(custom.RewardFunctionError, match="mine: expected numbers or None, got <async_generator"):
        function.call_on_host(["q"], ["a"], {})


@pytest.mark.parametrize("returned", [None, "good", {"a": 1}, jnp.zeros], ids=["none", "text", "dict", "function"])
def test_a_device_function_of_another_type_is_refused(returned):
    function = custom.RewardFunction("mine", lambda *arrays: returned, 1.0, runs_on_device=True)
    with pytest.raises(custom.RewardFunctionError, match="mine: expected one number for each of 2 rows, got "):
        function.call_on_device(np.zeros((2, 8), np.uint8), np.array([4, 0]), None, None)  # pyright: ignore[reportArgumentType]


def test_a_device_function_with_another_shape_is_refused():
    function = custom.RewardFunction("mine", lambda *arrays: jnp.zeros(3), 1.0, runs_on_device=True)
    with pytest.raises(ValueError, match=re.escape("mine: expected one number for each of 2 rows, got shape (3,)")):
        function.call_on_device(np.zeros((2, 8), np.uint8), np.array([4, 0]), None, None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (PREFIX + "absent", "has no attribute 'absent'"),
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("brevity", 'expected "module:function", such as "my_rewards:brevity"'),
        (
            PREFIX + "with_another_signature",
            "expected parameters (prompts, completions, **columns) for the host or (",
        ),
        (PREFIX + "without_columns", "for the host or ("),
        (PREFIX + "not_a_function", "3 is not a callable object"),
        (PREFIX + "Brevity", "got (scale: float) -> None; it is a class: name an instance of it"),
    ],
)
def test_invalid_functions_are_named(name, text):
    with pytest.raises(ValueError, match=re.escape(f"reward.functions has {name!r}: ") + ".*" + re.escape(text)):
        custom.load([name], [1.0])


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (
            "x = 1\nnonsense",
            "NameError: name 'nonsense' is not defined\n  File \"{file}\", line 2, in <module>\n    nonsense",
        ),
        ("def f(:", "SyntaxError: invalid syntax ({name}.py, line 1)"),
        ("import no_such_module", "No module named 'no_such_module'\n  File \"{file}\", line 1, in <module>"),
        (
            "open('no such file')",
            "FileNotFoundError: [Errno 2] No such file or directory: 'no such file'\n  File \"{file}\"",
        ),
        ("import sys\nsys.exit(3)", 'SystemExit: 3\n  File "{file}", line 2'),
    ],
    ids=["name", "syntax", "import", "file", "exit"],
)
def test_a_module_that_fails_is_shown_with_its_line(tmp_path, monkeypatch, request, code, shown):
    name = f"rewards_of_{request.node.callspec.id}"
    file = tmp_path / f"{name}.py"
    file.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"reward.functions has '{name}:f': ") as error:
        custom.load([f"{name}:f"], [1.0])
    assert shown.format(file=file, name=name) in str(error.value)


def test_names_are_unique():
    with pytest.raises(ValueError, match="the name 'brevity' is taken; rename the function"):
        load("brevity", "Rewards.brevity")
    with pytest.raises(ValueError, match="the name 'brevity' is taken"):
        load("brevity", taken=("brevity",))
