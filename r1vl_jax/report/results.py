"""The head of the page: accuracies, cost, and the settings they were reached with."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from r1vl_jax import config
from r1vl_jax.report.markup import Markup, element, join

# Keys of summary.json's "accuracy", in the order they are measured.
_STAGES = {"start": "start", "warmup": "after warm-up", "step_grpo": "after StepGRPO"}

# Keys of machine.json.
_COSTS = {"seconds": "wall time", "peak_memory_gib": "peak memory", "device": "device", "cpu_count": "processor cores"}


def headline(summary: Mapping[str, Any], machine: Mapping[str, Any]) -> Markup:
    """Held-out accuracy before, between and after the stages, then single results, and what the run cost."""
    accuracy = summary.get("accuracy", {})
    cards = [_accuracy_card(label, accuracy, stage) for stage, label in _STAGES.items() if stage in accuracy]
    facts = [(name, _number(value)) for name, value in summary.items() if not isinstance(value, Mapping)]
    facts += [(label, _cost(name, machine[name])) for name, label in _COSTS.items() if name in machine]
    terms = [element("div", element("dt", name), element("dd", value)) for name, value in facts]
    return join(element("div", *cards, class_="cards"), element("dl", *terms, class_="facts"))


def _accuracy_card(label: str, accuracy: Mapping[str, float], stage: str) -> Markup:
    """The accuracy after one stage and, if one was measured before, the points gained since."""
    stages = [known for known in _STAGES if known in accuracy]
    parts = [element("span", label), element("b", f"{accuracy[stage]:.1%}")]
    for before in stages[: stages.index(stage)][-1:]:
        gain = 100 * (accuracy[stage] - accuracy[before])
        parts.append(element("span", f"{gain:+.1f} points", class_="gain up" if gain > 0 else "gain"))
    return element("div", *parts, class_="card")


def by_stage(summary: Mapping[str, Any]) -> Markup:
    """A table of accuracy by kind of problem, and of all else that an evaluation measured, with a column per stage."""
    kinds = summary.get("accuracy_by_kind", {})
    rows = {
        f"accuracy, {kind}": {stage: kinds[stage].get(kind) for stage in kinds}
        for kind in sorted(set().union(*kinds.values()))
    }
    rows |= {
        name: values
        for name, values in summary.items()
        if isinstance(values, Mapping) and name not in ("accuracy", "accuracy_by_kind")
    }
    stages = [stage for stage in _STAGES if any(stage in values for values in rows.values())]
    if not stages:
        return Markup()
    head = element("tr", element("th", ""), *(element("th", _STAGES[stage]) for stage in stages))
    body = [
        element("tr", element("th", name), *(_cell(values.get(stage)) for stage in stages))
        for name, values in rows.items()
    ]
    return element("div", element("table", head, *body, class_="kinds"), class_="scroll")


def _cell(value: float | None) -> Markup:
    """A fraction as percentage with a bar behind it, another number as it is."""
    if value is None:
        return element("td", "")
    if not 0 <= value <= 1:
        return element("td", _number(value))
    return element("td", f"{value:.1%}", class_="bar", style=f"--part:{value:.1%}")


def settings(manifest: Mapping[str, Any]) -> Markup:
    """Every setting by section, those that differ from the default in bold, and the versions of packages."""
    if not manifest:
        return Markup()
    default = dict(flat(dataclasses.asdict(config.Config())))
    rows = [_setting(name, value, default.get(name)) for name, value in flat(manifest["configuration"])]
    versions = [("git_revision", manifest["git_revision"]), ("data_fingerprint", manifest["data_fingerprint"])]
    versions += list(manifest["versions"].items())
    return join(
        element("h3", "Settings ", element("span", "bold: not the default", class_="unit")),
        element("div", *rows, class_="settings"),
        element("h3", "Made with"),
        element("div", *(_setting(name, value, value) for name, value in versions), class_="settings"),
    )


def _setting(name: str, value: Any, default: Any) -> Markup:
    default = list(default) if isinstance(default, tuple) else default
    shown = element("code", value if isinstance(value, str) and value else repr(value))
    return element("div", element("span", name), shown, class_=None if value == default else "changed")


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted name."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _cost(name: str, value: Any) -> str:
    if name == "seconds":
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
    return f"{value:.2f} GiB" if name == "peak_memory_gib" else str(value)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
