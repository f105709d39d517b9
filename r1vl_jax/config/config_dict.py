"""Settings as a `ConfigDict`, which recipes and the command line change, and back to frozen dataclasses."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict, config_dict

from r1vl_jax.config.settings import Config, read_instruction
from r1vl_jax.config.validation import validate


def default() -> ConfigDict:
    """The default configuration, for a recipe to change; setting an unknown key is an error that names the nearest."""
    return _to_config_dict(Config()).lock()


def unknown_settings(arguments: Iterable[str]) -> Iterator[str]:
    """One message for each argument `--config.SECTION.KEY=VALUE` that names no setting, with the known ones."""
    for argument in arguments:
        if argument.startswith("--config."):
            name = argument.removeprefix("--config.").split("=")[0].split("[")[0]
            yield from _unknown_key(Config(), "config", name.split("."))


def _unknown_key(node: Any, path: str, keys: list[str]) -> Iterator[str]:
    known = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
    if keys and keys[0] in known:
        yield from _unknown_key(getattr(node, keys[0]), f"{path}.{keys[0]}", keys[1:])
    elif keys:
        closest = difflib.get_close_matches(keys[0], known, n=1)
        hint = f"did you mean {closest[0]}? " if closest else ""
        yield f"{path}.{keys[0]}: no such setting; {hint}{path} has {', '.join(known) or 'no keys'}"


def resolve(config: ConfigDict) -> Config:
    """A configuration as frozen dataclasses, validated; `data.instruction_file` is read into `data.instruction`.

    Raises:
        ValueError: lists every value that is out of range or contradicts another, with what to set instead.
    """
    resolved = _from_config_dict(Config, config, "config")
    errors = list(validate(resolved))
    if errors:
        raise ValueError("the configuration is invalid:\n  " + "\n  ".join(errors))
    # As text, the manifest keeps it: a run is resumed and exported with the instruction that it was trained with.
    data = dataclasses.replace(resolved.data, instruction=read_instruction(resolved.data), instruction_file="")
    return dataclasses.replace(resolved, data=data)


def _to_config_dict(node: Any) -> ConfigDict:
    return ConfigDict(
        {
            name: _to_config_dict(value) if dataclasses.is_dataclass(value) else _or_placeholder(value, annotation)
            for name, annotation in typing.get_type_hints(type(node)).items()
            for value in [getattr(node, name)]
        }
    )


def _or_placeholder(value: Any, annotation: Any) -> Any:
    """The value; for a None, a placeholder of the type that the setting may have."""
    return config_dict.placeholder(_not_none(annotation)) if value is None else value


def _not_none(annotation: Any) -> Any:
    """`float` for `float | None`; any other annotation unchanged."""
    if types.NoneType not in typing.get_args(annotation):
        return annotation
    return next(kind for kind in typing.get_args(annotation) if kind is not types.NoneType)


def _from_config_dict(cls: Any, node: Any, path: str) -> Any:
    """Rebuilds a dataclass; a value of another type than annotated is an error that names the setting."""
    values = {}
    for name, annotation in typing.get_type_hints(cls).items():
        value = node[name]
        if dataclasses.is_dataclass(annotation):
            values[name] = _from_config_dict(annotation, value, f"{path}.{name}")
        else:
            values[name] = _check_type(value, annotation, f"{path}.{name}")
    return cls(**values)


def _check_type(value: Any, annotation: Any, name: str) -> Any:
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
