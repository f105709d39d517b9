"""The rollout function that a configuration names."""

import inspect
import json
from typing import Any, cast

from r1vl_jax.config import Train
from r1vl_jax.rewards.user_code import describe, import_by_name
from r1vl_jax.training.multi_turn.policy import RolloutFunction


def load_rollout_function(train: Train) -> RolloutFunction | None:
    """A function, or an instance of a class that is made with `train.rollout_args`; None if none is named.

    Raises:
        ValueError: it cannot be imported or made; says why.
    """
    if not train.rollout_func:
        return None
    where = f"train.rollout_func={train.rollout_func!r}"
    arguments = _read_arguments(train.rollout_args)
    try:
        function: Any = _make(import_by_name(train.rollout_func), arguments)
    except (Exception, SystemExit) as error:  # of the user's module, too
        raise ValueError(f"{where}: {describe(error)}") from error
    if not callable(function):
        raise ValueError(f"{where}: expected a function of (records, policy), got {type(function).__name__}")
    return cast(RolloutFunction, function)


def _make(named: Any, arguments: dict[str, Any]) -> Any:
    if inspect.isclass(named):
        return named(**arguments)
    if arguments:
        raise ValueError("train.rollout_args are for a class, and this is none; unset them")
    return named


def _read_arguments(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"train.rollout_args: expected a JSON object, got {text!r:.200} ({error})") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"train.rollout_args: expected a JSON object, got {text!r:.200}")
    return arguments
