"""Settings as the editable tree that recipes and the command line change, and back to frozen dataclasses."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict, config_dict

from r1vl_jax.config.settings import Config
from r1vl_jax.config.validation import validate


def default() -> ConfigDict:
    """The default configuration, to be changed by a recipe. Unknown keys are refused with the nearest known one."""
    return _to_config_dict(Config()).lock()


def unknown_settings(arguments: Iterable[str]) -> Iterator[str]:
    """One sentence for each argument `--config.SECTION.KEY=VALUE` that names no setting: what there is instead."""
    for argument in arguments:
        if argument.startswith("--config."):
            name = argument.removeprefix("--config.").split("=")[0].split("[")[0]
            yield from _unknown(Config(), "config", name.split("."))


def _unknown(node: Any, path: str, keys: list[str]) -> Iterator[str]:
    known = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
    if keys and keys[0] in known:
        yield from _unknown(getattr(node, keys[0]), f"{path}.{keys[0]}", keys[1:])
    elif keys:
        near = difflib.get_close_matches(keys[0], known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        yield f"{path}.{keys[0]}: no such setting; {hint}{path} has {', '.join(known) or 'no parts'}"


def resolve(config: ConfigDict) -> Config:
    """The frozen form of a configuration.

    Raises:
        ValueError: lists every setting that is out of range or contradicts another, with what would do.
    """
    resolved = _from_config_dict(Config, config, "config")
    faults = list(validate(resolved))
    if faults:
        raise ValueError("the configuration cannot work:\n  " + "\n  ".join(faults))
    return resolved


def _to_config_dict(node: Any) -> ConfigDict:
    return ConfigDict(
        {
            name: _to_config_dict(value) if dataclasses.is_dataclass(value) else _editable(value, annotation)
            for name, annotation in typing.get_type_hints(type(node)).items()
            for value in [getattr(node, name)]
        }
    )


def _editable(value: Any, annotation: Any) -> Any:
    """The value; for a setting that may be None, a None that remembers which type it may become."""
    return config_dict.placeholder(_not_none(annotation)) if value is None else value


def _not_none(annotation: Any) -> Any:
    """`float` of `float | None`, and every other annotation as it is."""
    if types.NoneType not in typing.get_args(annotation):
        return annotation
    return next(kind for kind in typing.get_args(annotation) if kind is not types.NoneType)


def _from_config_dict(cls: Any, node: Any, path: str) -> Any:
    """Rebuilds a dataclass; a value of another type than the default's is an error that names the setting."""
    values = {}
    for name, annotation in typing.get_type_hints(cls).items():
        value = node[name]
        if dataclasses.is_dataclass(annotation):
            values[name] = _from_config_dict(annotation, value, f"{path}.{name}")
        else:
            values[name] = _typed(value, annotation, f"{path}.{name}")
    return cls(**values)


def _typed(value: Any, annotation: Any, name: str) -> Any:
    if value is None and _not_none(annotation) is not annotation:
        return None
    annotation = _not_none(annotation)
    kind = typing.get_origin(annotation) or annotation
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is tuple and isinstance(value, list):
        return tuple(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name}={value!r}: expected {annotation}, got {type(value).__name__}")
    return value
