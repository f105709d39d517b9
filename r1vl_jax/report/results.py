"""Accuracies and resource usage at the head of the page, and the settings at its end."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from r1vl_jax import config

_BY_KIND = "_by_kind"
# Keys of summary.json's "accuracy", in the order they are measured.
_STAGES = {"start": "start", "warmup": "after warm-up", "step_grpo": "after StepGRPO"}

# Keys of machine.json.
_USAGE = {"seconds": "wall time", "peak_memory_gib": "peak memory", "device": "device", "cpu_count": "processor cores"}


@dataclass(frozen=True)
class Card:
    """The accuracy after a stage and, if one was measured before, the gain since."""

    label: str
    accuracy: str
    gain: str = ""
    is_up: bool = False


@dataclass(frozen=True)
class Cell:
    """A value of a table; a fraction is shown as a percentage over a bar."""

    text: str
    is_fraction: bool = False


@dataclass(frozen=True)
class Row:
    """A measure, and its value after each stage."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Labels of the stages, which are the columns, and a row for each measure."""

    stages: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Setting:
    """A setting, or a version.

    Attributes:
        is_changed: whether it differs from the default.
    """

    name: str
    value: str
    is_changed: bool = False


def accuracy_cards(summary: Mapping[str, Any]) -> list[Card]:
    """Held-out accuracy before, between and after the stages."""
    accuracy = summary.get("accuracy", {})
    measured = [stage for stage in _STAGES if stage in accuracy]
    return [
        _card(stage, accuracy[stage], accuracy[before] if before else None)
        for before, stage in zip([None, *measured], measured, strict=False)
    ]


def _card(stage: str, accuracy: float, before: float | None) -> Card:
    card = Card(_STAGES[stage], f"{accuracy:.1%}")
    if before is None:
        return card
    gain = 100 * (accuracy - before)
    return dataclasses.replace(card, gain=f"{gain:+.1f} points", is_up=gain > 0)


def facts(summary: Mapping[str, Any], machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Results that are single numbers, and the resource usage: name and value."""
    single = [(name, _number(value)) for name, value in summary.items() if not isinstance(value, Mapping)]
    return single + [(label, _usage(name, machine[name])) for name, label in _USAGE.items() if name in machine]


def stage_table(summary: Mapping[str, Any]) -> Table:
    """Accuracy by kind of problem, and all else that an evaluation measured, with a column per stage."""
    tables = {name: values for name, values in summary.items() if isinstance(values, Mapping) and name != "accuracy"}
    nested = {name: values for name, values in tables.items() if any(isinstance(v, Mapping) for v in values.values())}
    measures = {
        f"{name.removesuffix(_BY_KIND)}, {part}": {stage: parts[stage].get(part) for stage in parts}
        for name, parts in nested.items()
        for part in sorted(set().union(*parts.values()))
    }
    measures |= {name: values for name, values in tables.items() if name not in nested}
    stages = [stage for stage in _STAGES if any(stage in values for values in measures.values())]
    if not stages:
        return Table((), ())
    rows = (Row(name, tuple(_cell(values.get(stage)) for stage in stages)) for name, values in measures.items())
    return Table(tuple(_STAGES[stage] for stage in stages), tuple(rows))


def _cell(value: float | None) -> Cell:
    if value is None:
        return Cell("")
    return Cell(f"{value:.1%}", is_fraction=True) if 0 <= value <= 1 else Cell(_number(value))


def settings(manifest: Mapping[str, Any]) -> list[Setting]:
    """Every setting by its dotted name."""
    default = dict(_flat(dataclasses.asdict(config.Config())))
    return [_setting(name, value, default.get(name)) for name, value in _flat(manifest["configuration"])]


def versions(manifest: Mapping[str, Any]) -> list[Setting]:
    """Git revision, fingerprint of the data, and versions of packages."""
    made_with = {name: manifest[name] for name in ("git_revision", "data_fingerprint")} | manifest["versions"]
    return [_setting(name, value, value) for name, value in made_with.items()]


def _setting(name: str, value: Any, default: Any) -> Setting:
    default = list(default) if isinstance(default, tuple) else default
    return Setting(name, value if isinstance(value, str) and value else repr(value), value != default)


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted name."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _usage(name: str, value: Any) -> str:
    if name == "seconds":
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
    return f"{value:.2f} GiB" if name == "peak_memory_gib" else str(value)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
