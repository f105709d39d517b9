"""From what the sides told to figures: medians, ratios, shares of what the machine allows; as a table and as JSON."""

import datetime
import os
import platform
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.side_by_side.runner import DISTURBED, Measured
from benchmarks.side_by_side.work import Work

# What is shown, in this order; parts of another figure are indented.
_SECONDS = {
    "generation": "generation",
    "prefill": "  read pictures, prompts",
    "copy": "  copy the decoder",
    "decode": "  draw tokens",
    "reference": "reference scores",
    "update": "update",
    "step": "whole step",
}
_PACKAGES = ("r1vl_jax", "jax", "jaxlib", "flax", "torch", "transformers", "trl", "accelerate", "numpy")


def results(
    work: Work, measured: Mapping[str, Measured], ceilings: Mapping[str, Any], *, command: list[str]
) -> dict[str, Any]:
    """All figures, as JSON has them."""
    sides = {name: _figures(work, one) for name, one in measured.items()}
    return {
        "work": {name: value for name, value in asdict(work).items() if name != "directory"},
        "sides": sides,
        "least": dict(ceilings),
        "agreement": dict(_agreement(measured)),
        "machine": _machine(),
        "versions": dict(_versions()),
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(command),
    }


def _figures(work: Work, side: Measured) -> dict[str, Any]:
    """Medians of a side, and what they are medians of."""
    names = side.repeats[0]["seconds"]
    seconds = {name: median(repeat["seconds"][name] for repeat in side.repeats) for name in names}
    tokens_per_s = {name: work.num_tokens / seconds[name] for name in ("generation", "step") if name in seconds}
    return {
        "seconds": seconds,
        "tokens_per_s": tokens_per_s,
        "memory_gib": side.memory_gib,
        "ready_s": side.ready["ready_s"],
        "compile_s": side.ready["compile_s"],
        "num_tokens": sorted({count for repeat in side.repeats for count in repeat["num_tokens"]}),
        "repeats": [repeat["seconds"] for repeat in side.repeats],
        "disturbance": side.disturbance,
        "num_discarded": side.num_discarded,
        "num_disturbed": side.num_disturbed,
    }


def _agreement(measured: Mapping[str, Measured]) -> Iterator[tuple[str, dict[str, float]]]:
    """How far each peer's figures of the same completions are from ours, where both have them."""
    ours = measured["ours"].ready["check"] if "ours" in measured else {}
    for name, side in measured.items():
        check = side.ready["check"]
        if name == "ours" or "logp" not in check or not ours:
            continue
        difference = {"logp": float(np.max(np.abs(np.subtract(check["logp"], ours["logp"]))))}
        if "grad_norm" in check:
            difference["grad_norm"] = abs(check["grad_norm"] - ours["grad_norm"]) / ours["grad_norm"]
        yield name, difference


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints the figures for people."""
    console.print(f"\n{_title(result)}\n", highlight=False)
    console.print(_table(result), highlight=False)
    console.print(*_notes(result), sep="\n", highlight=False, soft_wrap=True)


def _title(result: Mapping[str, Any]) -> str:
    work, machine = result["work"], result["machine"]
    versions = result["versions"]
    named = ", ".join(
        f"{name} {versions[name]}" for name in ("jax", "torch", "transformers", "trl") if name in versions
    )
    return (
        f"{work['size']}: {work['num_prompts']} prompts x {work['num_generations']} completions x {work['new_tokens']}"
        f" tokens, {work['dtype']}; steps a repeat: {work['steps']}; ours: devices {work['devices']}, remat"
        f" {work['remat']}; {'with' if work['recompute'] else 'no'} recomputation in torch;"
        f" large pages: {work['large_pages']}."
        f" {machine['device']}, {machine['processors']} processors, {named}, {result['date']}"
    )


def _table(result: Mapping[str, Any]) -> Table:
    sides, least = result["sides"], result["least"]["seconds"]
    peers = [name for name in sides if name != "ours"]
    ours = sides.get("ours", {"seconds": {}, "tokens_per_s": {}, "memory_gib": {}})
    table = Table(box=None, pad_edge=False)
    table.add_column("median seconds", no_wrap=True, min_width=max(map(len, _SECONDS.values())))
    for heading in ("ours", "least", "reached", *(each for peer in peers for each in (peer, "ours is"))):
        table.add_column(heading, justify="right", no_wrap=True)

    def add(
        title: str, section: str, name: str, limits: Sequence[str] = ("", ""), compare: Callable[..., str] = _nothing
    ) -> None:
        own, *others = (_figure(side, section, name) for side in (ours, *(sides[peer] for peer in peers)))
        of_peers = (cell for theirs in others for cell in (_number(theirs), compare(theirs, own)))
        table.add_row(title, _number(own), *limits, *of_peers)

    for name, title in _SECONDS.items():
        bound = least.get(name)
        add(title, "seconds", name, (_number(bound), _share(bound, _figure(ours, "seconds", name))), _times)
    table.add_section()
    for name, title in (("generation", "tokens/s, generation"), ("step", "tokens/s, whole step")):
        add(title, "tokens_per_s", name, (_number(_least_rate(result, name)), ""))
    memory = (
        ("peak", "GiB at most", _part),
        ("libraries", "  of it libraries", _nothing),
        ("device", "GiB of the device", _part),
    )
    for name, title, compare in memory:
        if any(name in side["memory_gib"] for side in sides.values()):
            add(title, "memory_gib", name, compare=compare)
    for name, title in (("ready_s", "seconds before the first"), ("compile_s", "  of it compilation")):
        add(title, "", name)
    return table


def _least_rate(result: Mapping[str, Any], name: str) -> float:
    """Tokens a second that the machine allows."""
    work = result["work"]
    return work["num_prompts"] * work["num_generations"] * work["new_tokens"] / result["least"]["seconds"][name]


def _notes(result: Mapping[str, Any]) -> Iterator[str]:
    machine = result["least"]["machine"]
    yield (
        f"\nleast: at {machine['operations_per_s'] / 1e9:.0f} GFLOP/s in products of large matrices and"
        f" {machine['bytes_per_s'] / 1e9:.0f} GB/s from memory ({machine['read_bytes'] / 2**20:.0f} MiB a token),"
        " measured here; reached: least / ours; ours is: so many times as fast (memory: its share of theirs)"
    )
    for name, difference in result["agreement"].items():
        gradient = f", norms of the gradient by {difference['grad_norm']:.1e}" if "grad_norm" in difference else ""
        yield (
            f"same work: log-probabilities of the same tokens differ between ours and {name} by at most"
            f" {difference['logp']:.1e}{gradient}"
        )
    for name, side in result["sides"].items():
        yield f"{name}: {len(side['repeats'])} repeats; {_quiet(side)}"


def _quiet(side: Mapping[str, Any]) -> str:
    """Whether other programs took part in a side's seconds."""
    if any(share is None for share in side["disturbance"]):
        return "whether others disturbed them is not known here"
    discarded = f"{side['num_discarded']} more discarded because others used over {DISTURBED:.0%} of the processors"
    if not side["num_disturbed"]:
        return discarded
    return (
        f"{discarded}; {side['num_disturbed']} THAT COUNT WERE DISTURBED TOO, by {max(side['disturbance']):.0%} at most"
    )


def _number(value: float | None) -> str:
    """Three digits that matter; "-" for what a side does not do."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _figure(side: Mapping[str, Any], section: str, name: str) -> float | None:
    """What a side has measured; None for what it does not do."""
    return (side[section] if section else side).get(name) or None


def _nothing(theirs: float | None, own: float | None) -> str:
    return ""


def _part(theirs: float | None, own: float | None) -> str:
    return f"{own / theirs:.0%}" if theirs and own else ""


def _share(least: float | None, own: float | None) -> str:
    return f"{least / own:.0%}" if least and own else ""


def _times(theirs: float | None, own: float | None) -> str:
    return f"{theirs / own:.2f}x" if theirs and own else ""


def _machine() -> dict[str, Any]:
    processors, memory = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    model = re.search(r"model name\s*:\s*(.+)", processors.read_text()) if processors.exists() else None
    total = re.search(r"MemTotal:\s*(\d+)", memory.read_text()) if memory.exists() else None
    return {
        "device": model[1] if model else platform.processor(),
        "processors": os.cpu_count(),
        "memory_gib": round(int(total[1]) / 2**20, 1) if total else None,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
