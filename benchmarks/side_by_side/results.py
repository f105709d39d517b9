"""Results of the sides: medians, speedups and shares of the roofline, as a table and as JSON."""

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

from benchmarks.side_by_side.runner import MAX_OTHER_CPU_SHARE, Measurement
from benchmarks.side_by_side.work import Work
from r1vl_jax.observe.markdown import markdown_table, processor

# Rows of the table; parts of another row are indented.
_SECONDS = {
    "generation": "generation",
    "prefill": "  prefill",
    "weight_sync": "  weight sync",
    "decode": "  decode",
    "reference": "reference log-probs",
    "update": "update",
    "step": "step",
}
_PACKAGES = ("r1vl_jax", "jax", "jaxlib", "flax", "torch", "transformers", "trl", "accelerate", "numpy")


def results(
    work: Work, measured: Mapping[str, Measurement], bounds: Mapping[str, Any], *, command: list[str]
) -> dict[str, Any]:
    """All results, as JSON values."""
    sides = {name: _side_results(work, one) for name, one in measured.items()}
    return {
        "work": {name: value for name, value in asdict(work).items() if name != "directory"},
        "sides": sides,
        "roofline": dict(bounds),
        "agreement": dict(_agreement(measured)),
        "machine": _machine(),
        "versions": dict(_versions()),
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(command),
    }


def _side_results(work: Work, side: Measurement) -> dict[str, Any]:
    """Medians of a side's repeats, and the repeats."""
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
        "other_cpu_share": side.other_cpu_share,
        "num_discarded": side.num_discarded,
        "num_noisy": side.num_noisy,
    }


def _agreement(measured: Mapping[str, Measurement]) -> Iterator[tuple[str, dict[str, float]]]:
    """Difference of each side's log-probabilities and gradient norm on the same completions from ours."""
    ours = measured["ours"].ready["check"] if "ours" in measured else {}
    for name, side in measured.items():
        check = side.ready["check"]
        if name == "ours" or "logp" not in check or not ours:
            continue
        difference = {"logp": float(np.max(np.abs(np.subtract(check["logp"], ours["logp"]))))}
        if "grad_norm" in check:
            difference["grad_norm"] = abs(check["grad_norm"] - ours["grad_norm"]) / ours["grad_norm"]
        yield name, difference


def print_results(result: Mapping[str, Any], console: Console) -> None:
    """Prints the results as a table."""
    console.print(f"\n{_title(result)}\n", highlight=False)
    console.print(_table(result), highlight=False)
    console.print("", *_notes(result), sep="\n", highlight=False, soft_wrap=True)


def to_markdown(result: Mapping[str, Any]) -> str:
    """The results for a page of docs: command, machine, versions and date, then the table and its notes."""
    parts = (f"`{result['command']}`", _title(result), markdown_table(_table(result)), *_notes(result))
    return "\n\n".join(parts) + "\n"


def _title(result: Mapping[str, Any]) -> str:
    work, machine = result["work"], result["machine"]
    versions = result["versions"]
    named = ", ".join(
        f"{name} {versions[name]}" for name in ("jax", "torch", "transformers", "trl") if name in versions
    )
    return (
        f"{work['size']}: {work['num_prompts']} prompts x {work['num_generations']} completions x {work['new_tokens']}"
        f" tokens, {work['dtype']}; {work['steps']} steps per repeat; ours: devices {work['devices']}, remat"
        f" {work['remat']}; {'with' if work['recompute'] else 'no'} gradient checkpointing in torch;"
        f" large pages: {work['large_pages']}."
        f" {machine['device']}, {machine['processors']} processors, {named}, {result['date']}"
    )


def _table(result: Mapping[str, Any]) -> Table:
    sides, bounds = result["sides"], result["roofline"]["seconds"]
    peers = [name for name in sides if name != "ours"]
    ours = sides.get("ours", {"seconds": {}, "tokens_per_s": {}, "memory_gib": {}})
    table = Table(box=None, pad_edge=False)
    table.add_column("median seconds", no_wrap=True, min_width=max(map(len, _SECONDS.values())))
    for heading in ("ours", "roofline", "share", *(each for peer in peers for each in (peer, "speedup"))):
        table.add_column(heading, justify="right", no_wrap=True)

    def add(
        title: str,
        section: str,
        name: str,
        bound_cells: Sequence[str] = ("", ""),
        compare: Callable[..., str] = _no_ratio,
    ) -> None:
        our_value, *others = (_value(side, section, name) for side in (ours, *(sides[peer] for peer in peers)))
        peer_cells = (cell for theirs in others for cell in (_number(theirs), compare(theirs, our_value)))
        table.add_row(title, _number(our_value), *bound_cells, *peer_cells)

    for name, title in _SECONDS.items():
        bound = bounds.get(name)
        add(title, "seconds", name, (_number(bound), _roofline_share(bound, _value(ours, "seconds", name))), _speedup)
    table.add_section()
    for name, title in (("generation", "tokens/s, generation"), ("step", "tokens/s, step")):
        add(title, "tokens_per_s", name, (_number(_roofline_tokens_per_s(result, name)), ""))
    memory = (
        ("peak", "peak memory, GiB", _memory_ratio),
        ("libraries", "  after imports", _no_ratio),
        ("device", "device memory, GiB", _memory_ratio),
    )
    for name, title, compare in memory:
        if any(name in side["memory_gib"] for side in sides.values()):
            add(title, "memory_gib", name, compare=compare)
    for name, title in (("ready_s", "startup, s"), ("compile_s", "  compilation")):
        add(title, "", name)
    return table


def _roofline_tokens_per_s(result: Mapping[str, Any], name: str) -> float:
    """Tokens/s of the roofline."""
    work = result["work"]
    return work["num_prompts"] * work["num_generations"] * work["new_tokens"] / result["roofline"]["seconds"][name]


def _notes(result: Mapping[str, Any]) -> Iterator[str]:
    machine = result["roofline"]["machine"]
    yield (
        f"roofline: {machine['flops_per_s'] / 1e9:.0f} GFLOP/s of large matmuls and"
        f" {machine['bytes_per_s'] / 1e9:.0f} GB/s of memory reads ({machine['read_bytes'] / 2**20:.0f} MiB per token),"
        " measured on this machine; share: roofline / ours; speedup: theirs / ours (memory: ours / theirs)"
    )
    for name, difference in result["agreement"].items():
        gradient = f", gradient norms by {difference['grad_norm']:.1e}" if "grad_norm" in difference else ""
        yield (
            f"check: log-probabilities of the same tokens differ between ours and {name} by at most"
            f" {difference['logp']:.1e}{gradient}"
        )
    for name, side in result["sides"].items():
        yield f"{name}: {len(side['repeats'])} repeats; {_noise(side)}"


def _noise(side: Mapping[str, Any]) -> str:
    """How many repeats other processes disturbed."""
    if any(share is None for share in side["other_cpu_share"]):
        return "load by other processes is unknown on this system"
    discarded = (
        f"{side['num_discarded']} more discarded because other processes used over {MAX_OTHER_CPU_SHARE:.0%} of the CPU"
    )
    if not side["num_noisy"]:
        return discarded
    share = max(side["other_cpu_share"])
    return f"{discarded}; {side['num_noisy']} NOISY REPEATS COUNT, with up to {share:.0%} of the CPU used by others"


def _number(value: float | None) -> str:
    """Three significant digits; "-" for a part that a side does not have."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _value(side: Mapping[str, Any], section: str, name: str) -> float | None:
    """A measured value; None for a part that a side does not have."""
    return (side[section] if section else side).get(name) or None


def _no_ratio(theirs: float | None, ours: float | None) -> str:
    return ""


def _memory_ratio(theirs: float | None, ours: float | None) -> str:
    return f"{ours / theirs:.0%}" if theirs and ours else ""


def _roofline_share(bound: float | None, ours: float | None) -> str:
    return f"{bound / ours:.0%}" if bound and ours else ""


def _speedup(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.2f}x" if theirs and ours else ""


def _machine() -> dict[str, Any]:
    memory = Path("/proc/meminfo")
    total = re.search(r"MemTotal:\s*(\d+)", memory.read_text()) if memory.exists() else None
    return {
        "device": processor(),
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
