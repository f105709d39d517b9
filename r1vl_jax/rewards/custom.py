"""Rewards of the user's own, named in the configuration as "module:function".

Two kinds, told apart by the names of their parameters:

    def brevity(prompts, completions, **columns):         on the host, with TRL's signature
        return [-len(text) / 100 for text in completions]  a number a completion; None where it does not apply

    def brevity(byte_BU, length_B, key_steps, answers):   on the device, a pure function of arrays
        return -length_B / 400.0                           a number a row; NaN where it does not apply

On the host, `prompts` are the questions, `completions` the texts, and `columns` the fields of the records (`answer`,
`key_steps`, `kind`, ...), each a list as long as the completions. On the device, they take what
`rewards.kernels.step_reward` takes.
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

_ON_DEVICE = ("byte_BU", "length_B", "key_steps", "answers")


@dataclass(frozen=True)
class Custom:
    """A reward function.

    Attributes:
        name: under which it appears in metrics and completions.
        weight: of what it returns in the total.
        is_pure: whether it is a function of arrays, which runs on the device.
    """

    name: str
    function: Callable[..., Any]
    weight: float
    is_pure: bool

    def on_host(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, list[Any]]
    ) -> Float[np.ndarray, " B"]:
        """What each completion earns, unweighted; NaN where the function says that it does not apply.

        Raises:
            ValueError: it returned something else than a number or None for each completion.
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

    def on_device(self, byte_BU: Array, length_B: Array, key_steps: KeySteps, answers: Answers) -> Float[Array, " B"]:
        """The same of a pure function; may be traced.

        Raises:
            ValueError: it does not return one number a row.
        """
        reward_B = jax.numpy.asarray(self.function(byte_BU, length_B, key_steps, answers), jax.numpy.float32)
        if reward_B.shape != length_B.shape:
            raise ValueError(
                f"reward function {self.name}: expected one number for each of {length_B.shape[0]} rows, got shape"
                f" {reward_B.shape}"
            )
        return reward_B


def load(names: Sequence[str], weights: Sequence[float], *, taken: Sequence[str] = ()) -> tuple[Custom, ...]:
    """Imports reward functions.

    Args:
        names: each "module:function".
        weights: one for each.
        taken: names that are in use already.

    Raises:
        ValueError: lists every one that cannot be imported, has another signature, or a name that is taken.
    """
    loaded, faults = [], []
    for name, weight in zip(names, weights, strict=True):
        try:
            function = _import(name)
            is_pure = _is_pure(function)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            faults.append(f"reward.functions has {name!r}: {error}")
            continue
        loaded.append(Custom(name.partition(":")[2].rpartition(".")[2], function, weight, is_pure))
    faults += _name_clashes([custom.name for custom in loaded], taken)
    if faults:
        raise ValueError("\n".join(faults))
    return tuple(loaded)


def _import(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError('expected "module:function", such as "my_rewards:brevity"')
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def _is_pure(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters
    takes_columns = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if "completions" in parameters and takes_columns:
        return False
    if tuple(parameters) == _ON_DEVICE:
        return True
    raise ValueError(
        f"expected parameters (prompts, completions, **columns) for the host or ({', '.join(_ON_DEVICE)}) for the"
        f" device, got {inspect.signature(function)}"
    )


def _name_clashes(names: Sequence[str], taken: Sequence[str]) -> Iterator[str]:
    for name in sorted(set(names)):
        if name in taken or names.count(name) > 1:
            yield f"reward.functions: the name {name!r} is taken; rename the function"
