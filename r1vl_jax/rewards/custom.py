"""User-defined reward functions, named in the configuration as "module:function".

There are two kinds, distinguished by the names of their parameters:

    def brevity(prompts, completions, **columns):         on the host, with TRL's signature; may be async
        return [-len(text) / 100 for text in completions]  a number for each completion; None: does not apply

    def brevity(byte_BU, length_B, key_steps, answers):   on the device, a pure function of arrays
        return -length_B / 400.0                           a number for each row; NaN: does not apply

A reward that does not apply adds 0 to the total. On the host, `prompts` are the questions, `completions` the texts, and
`columns` the fields of the records (`answer`, `key_steps`, `kind`, ...), each a list as long as the completions. With
`reward.completions="messages"` questions and texts are conversations, the former with system prompt and earlier turns:
`completion[0]["content"]`. On the device, the
arguments are those of `rewards.kernels.step_reward`.
"""

import functools
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from r1vl_jax.arrays import Array
from r1vl_jax.rewards.bundles import Answers, KeySteps
from r1vl_jax.rewards.user_code import RewardFunctionError, call_all, describe, import_by_name

_DEVICE_PARAMETERS = ("byte_BU", "length_B", "key_steps", "answers")


@dataclass(frozen=True)
class RewardFunction:
    """A user-defined reward function.

    Attributes:
        name: its name in metrics, kept completions and report.
        weight: of its values in the total reward.
        runs_on_device: whether it is a pure function of arrays, which is compiled and runs on the device.
        completions: what a host function gets, as `reward.completions`: "text" or "messages".
    """

    name: str
    function: Callable[..., Any]
    weight: float
    runs_on_device: bool
    completions: str = "text"

    def call_on_host(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, list[Any]]
    ) -> Float[np.ndarray, " B"]:
        """The unweighted reward of each completion; NaN where the function returns None (does not apply).

        Raises:
            RewardFunctionError: it raised, or returned something else than one finite number or None for each
                completion.
        """
        return call_on_host([self], prompts, completions, columns)[self.name]

    def call_on_device(
        self, byte_BU: Array, length_B: Array, key_steps: KeySteps, answers: Answers
    ) -> Float[Array, " B"]:
        """The unweighted reward of each row, NaN where it does not apply; may be traced.

        Raises:
            RewardFunctionError: it raised, or does not return one number for each row.
        """
        try:
            returned = self.function(byte_BU, length_B, key_steps, answers)
        except Exception as error:
            raise RewardFunctionError(f"reward function {self.name} raised {describe(error)}") from error
        expected = f"reward function {self.name}: expected one number for each of {length_B.shape[0]} rows"
        try:
            reward_B = jax.numpy.asarray(returned, jax.numpy.float32)
        except (TypeError, ValueError) as error:
            raise RewardFunctionError(f"{expected}, got {returned!r:.200}") from error
        if reward_B.shape != length_B.shape:
            raise RewardFunctionError(f"{expected}, got shape {reward_B.shape}")
        return reward_B

    def _call(self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, list[Any]]) -> Any:
        """What the function returns for arguments of its own, which it may change."""
        if self.completions == "messages":
            arguments = (_prompts(prompts, columns), [[_message("assistant", text)] for text in completions])
        else:
            arguments = (list(prompts), list(completions))
        return self.function(prompts=arguments[0], completions=arguments[1], **columns)

    def _check_returned(self, returned: Any, num_completions: int) -> Float[np.ndarray, " B"]:
        try:
            if isinstance(returned, str | bytes | Mapping | Set) or any(isinstance(value, str) for value in returned):
                raise TypeError("texts, or values without an order")
            reward_B = np.array([np.nan if value is None else value for value in returned], np.float32)
        except (TypeError, ValueError) as error:
            raise RewardFunctionError(
                f"reward function {self.name}: expected numbers or None, got {returned!r}"
            ) from error
        if reward_B.shape != (num_completions,) or np.isinf(reward_B).any():
            raise RewardFunctionError(
                f"reward function {self.name}: expected one finite number or None for each of {num_completions}"
                f" completions, got {returned!r}"
            )
        return reward_B


def call_on_host(
    functions: Sequence[RewardFunction],
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, list[Any]],
) -> dict[str, Float[np.ndarray, " B"]]:
    """The unweighted rewards of host functions, by name; NaN where one does not apply. Async ones wait together.

    Raises:
        RewardFunctionError: lists the functions that raised, or else names one that returned no rewards.
    """
    calls = {function.name: functools.partial(function._call, prompts, completions, columns) for function in functions}
    returned, errors = call_all(calls)
    if errors:
        raise RewardFunctionError("\n".join(errors))
    return {
        function.name: function._check_returned(returned[function.name], len(completions)) for function in functions
    }


def load(
    names: Sequence[str], weights: Sequence[float], *, taken: Sequence[str] = (), completions: str = "text"
) -> tuple[RewardFunction, ...]:
    """Imports reward functions: functions, `functools.partial` of them, or instances of classes with `__call__`.

    Args:
        names: each "module:function".
        weights: one for each.
        taken: names that are in use already, of metrics or columns.
        completions: as `reward.completions`.

    Raises:
        ValueError: lists every function that cannot be imported, has another signature, or a name that is taken.
    """
    functions, errors = [], []
    for name, weight in zip(names, weights, strict=True):
        try:
            function = import_by_name(name)
            runs_on_device = _has_device_signature(function)
        except RewardFunctionError as error:
            errors.append(f"reward.functions has {name!r}: {error}")
            continue
        except (Exception, SystemExit) as error:  # of the user's module, too
            errors.append(f"reward.functions has {name!r}: {describe(error)}")
            continue
        if not isinstance(function, Hashable):  # as static arguments of compiled functions are
            function = functools.partial(function)
        short_name = name.partition(":")[2].rpartition(".")[2]
        functions.append(RewardFunction(short_name, function, weight, runs_on_device, completions))
    errors += _name_clashes([function.name for function in functions], taken)
    if errors:
        raise ValueError("\n".join(errors))
    return tuple(functions)


def _prompts(questions: Sequence[str], columns: Mapping[str, list[Any]]) -> list[list[dict[str, str]]]:
    """The questions as conversations, each after its system prompt and earlier turns, if any."""
    none = [""] * len(questions)
    rows = zip(columns.get("system", none), columns.get("history", none), questions, strict=True)
    return [list(_turns(*row)) for row in rows]


def _turns(system: str, history: Sequence[Sequence[str]], question: str) -> Iterator[dict[str, str]]:
    if system:
        yield _message("system", system)
    for asked, answered in history:
        yield _message("user", asked)
        yield _message("assistant", answered)
    yield _message("user", question)


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _has_device_signature(function: Callable[..., Any]) -> bool:
    """True for the signature of the device, False for that of the host; any other is an error."""
    parameters = inspect.signature(function).parameters
    takes_columns = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if "completions" in parameters and takes_columns:
        return False
    required = tuple(name for name, parameter in parameters.items() if parameter.default is parameter.empty)
    if required == _DEVICE_PARAMETERS:
        return True
    hint = "; it is a class: name an instance of it" if inspect.isclass(function) else ""
    raise RewardFunctionError(
        f"expected parameters (prompts, completions, **columns) for the host or ({', '.join(_DEVICE_PARAMETERS)}) for"
        f" the device, got {inspect.signature(function)}{hint}"
    )


def _name_clashes(names: Sequence[str], taken: Sequence[str]) -> Iterator[str]:
    for name in sorted(set(names)):
        if name in taken or names.count(name) > 1:
            yield f"reward.functions: the name {name!r} is taken; rename the function"
