"""User-defined reward functions, named in the configuration as "module:function".

There are two kinds, distinguished by the names of their parameters:

    def brevity(prompts, completions, **columns):         on the host, with TRL's signature
        return [-len(text) / 100 for text in completions]  a number for each completion; None: does not apply

    def brevity(byte_BU, length_B, key_steps, answers):   on the device, a pure function of arrays
        return -length_B / 400.0                           a number for each row; NaN: does not apply

A reward that does not apply adds 0 to the total. On the host, `prompts` are the questions, `completions` the texts, and
`columns` the fields of the records (`answer`, `key_steps`, `kind`, ...), each a list as long as the completions. On the
device, the arguments are those of `rewards.kernels.step_reward`.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from r1vl_jax.arrays import Array
from r1vl_jax.rewards.bundles import Answers, KeySteps

_DEVICE_PARAMETERS = ("byte_BU", "length_B", "key_steps", "answers")


@dataclass(frozen=True)
class RewardFunction:
    """A user-defined reward function.

    Attributes:
        name: its name in metrics, kept completions and report.
        weight: of its values in the total reward.
        runs_on_device: whether it is a pure function of arrays, which is compiled and runs on the device.
    """

    name: str
    function: Callable[..., Any]
    weight: float
    runs_on_device: bool

    def call_on_host(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, list[Any]]
    ) -> Float[np.ndarray, " B"]:
        """The unweighted reward of each completion; NaN where the function returns None (does not apply).

        Raises:
            ValueError: it returned something else than one finite number or None for each completion.
        """
        returned = self.function(prompts=list(prompts), completions=list(completions), **columns)
        try:
            reward_B = np.array([np.nan if value is None else value for value in returned], np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"reward function {self.name}: expected numbers or None, got {returned!r}") from error
        if reward_B.shape != (len(completions),) or np.isinf(reward_B).any():
            raise ValueError(
                f"reward function {self.name}: expected one finite number or None for each of {len(completions)}"
                f" completions, got {returned!r}"
            )
        return reward_B

    def call_on_device(
        self, byte_BU: Array, length_B: Array, key_steps: KeySteps, answers: Answers
    ) -> Float[Array, " B"]:
        """The unweighted reward of each row, NaN where it does not apply; may be traced.

        Raises:
            ValueError: it does not return one number for each row.
        """
        reward_B = jax.numpy.asarray(self.function(byte_BU, length_B, key_steps, answers), jax.numpy.float32)
        if reward_B.shape != length_B.shape:
            raise ValueError(
                f"reward function {self.name}: expected one number for each of {length_B.shape[0]} rows, got shape"
                f" {reward_B.shape}"
            )
        return reward_B


def load(names: Sequence[str], weights: Sequence[float], *, taken: Sequence[str] = ()) -> tuple[RewardFunction, ...]:
    """Imports reward functions.

    Args:
        names: each "module:function".
        weights: one for each.
        taken: names that are in use already, of metrics or columns.

    Raises:
        ValueError: lists every function that cannot be imported, has another signature, or a name that is taken.
    """
    functions, errors = [], []
    for name, weight in zip(names, weights, strict=True):
        try:
            function = _import(name)
            runs_on_device = _has_device_signature(function)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            errors.append(f"reward.functions has {name!r}: {error}")
            continue
        functions.append(RewardFunction(name.partition(":")[2].rpartition(".")[2], function, weight, runs_on_device))
    errors += _name_clashes([function.name for function in functions], taken)
    if errors:
        raise ValueError("\n".join(errors))
    return tuple(functions)


def _import(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError('expected "module:function", such as "my_rewards:brevity"')
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def _has_device_signature(function: Callable[..., Any]) -> bool:
    """True for the signature of the device, False for that of the host; any other is an error."""
    parameters = inspect.signature(function).parameters
    takes_columns = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if "completions" in parameters and takes_columns:
        return False
    if tuple(parameters) == _DEVICE_PARAMETERS:
        return True
    raise ValueError(
        f"expected parameters (prompts, completions, **columns) for the host or ({', '.join(_DEVICE_PARAMETERS)}) for"
        f" the device, got {inspect.signature(function)}"
    )


def _name_clashes(names: Sequence[str], taken: Sequence[str]) -> Iterator[str]:
    for name in sorted(set(names)):
        if name in taken or names.count(name) > 1:
            yield f"reward.functions: the name {name!r} is taken; rename the function"
