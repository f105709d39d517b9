"""User-defined reward functions: import, arguments, and what they may return."""

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


def test_a_device_function_can_be_traced():
    (function,) = load("brevity_on_device")
    targets = rewards.pack([{"answer": "7", "key_steps": []}] * 2, semantics="paper")
    traced = jax.jit(lambda byte_BU, length_B, *targets: function.call_on_device(byte_BU, length_B, *targets))
    reward_B = traced(np.zeros((2, 8), np.uint8), np.array([4, 0]), *targets)
    np.testing.assert_allclose(reward_B, [-0.4, np.nan], rtol=1e-6)


@pytest.mark.parametrize(
    "returned", [[1.0], [1.0, np.inf], 3.0, ["good", "bad"], [[1.0], [2.0]], None], ids=lambda value: repr(value)
)
def test_invalid_return_values_are_refused(returned):
    function = custom.RewardFunction("mine", lambda prompts, completions: returned, 1.0, runs_on_device=False)
    with pytest.raises(ValueError, match=re.escape("reward function mine: expected")):
        function.call_on_host(["q", "q"], ["a", "b"], {})


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
    ],
)
def test_invalid_functions_are_named(name, text):
    with pytest.raises(ValueError, match=re.escape(f"reward.functions has {name!r}: ") + ".*" + re.escape(text)):
        custom.load([name], [1.0])


def test_names_are_unique():
    with pytest.raises(ValueError, match="the name 'brevity' is taken; rename the function"):
        load("brevity", "Rewards.brevity")
    with pytest.raises(ValueError, match="the name 'brevity' is taken"):
        load("brevity", taken=("brevity",))
