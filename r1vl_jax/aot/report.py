"""What is known of the programs of a configuration on a topology: as a table, and as JSON."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from r1vl_jax.aot.compile import Compiled, Failed, OutOfMemory, Result
from r1vl_jax.aot.hlo.roofline import Roofline, by_kind
from r1vl_jax.aot.programs import EVALUATION
from r1vl_jax.aot.topologies import Topology

_GIB = 2**30


@dataclass(frozen=True)
class Entry:
    """One program.

    Attributes:
        roofline: None for a program that was not compiled, or cannot be read.
        gathered: paths of stacked parameters that some device gathers whole.
        unread: why a compiled program cannot be read.
    """

    result: Result
    roofline: Roofline | None = None
    gathered: tuple[str, ...] = ()
    unread: str = ""

    @property
    def name(self) -> str:
        return self.result.program.name

    @property
    def is_fault(self) -> bool:
        """Whether a run would end here."""
        return self.result.program.is_used and not self.result.fits


@dataclass(frozen=True)
class Report:
    """All programs of a configuration on a topology.

    Attributes:
        mesh: size of each axis.
        model: which sizes were taken, in words.
        is_whole: whether these are all programs of the configuration.
    """

    topology: Topology
    mesh: dict[str, int]
    model: str
    entries: tuple[Entry, ...]
    is_whole: bool = True

    @property
    def fits(self) -> bool:
        """Whether every program does that the configuration runs."""
        return not any(entry.is_fault for entry in self.entries)

    @property
    def failed(self) -> list[str]:
        """Programs of the run of which it is not known, for the compiler gave them up."""
        return [entry.name for entry in self.entries if entry.is_fault and isinstance(entry.result, Failed)]

    def step_seconds(self, stage: str) -> float:
        """Of one update with all that belongs to it, at best; NaN while something of the stage is missing."""
        if not self.is_whole:
            return math.nan
        return math.fsum(
            entry.roofline.seconds * entry.result.program.runs_per_step if entry.roofline else math.nan
            for entry in self._used(stage)
        )

    def utilisation(self, stage: str) -> float:
        """Of the devices' peak, at best: operations without recomputation / (seconds x devices x peak)."""
        operations = math.fsum(e.result.program.flops.model * e.result.program.runs_per_step for e in self._used(stage))
        return operations / (self.step_seconds(stage) * self.topology.num_devices * self.topology.chip.flops)

    @property
    def stages(self) -> list[str]:
        """Those that update; evaluation does not."""
        stages = (entry.result.program.stage for entry in self.entries)
        return [stage for stage in dict.fromkeys(stages) if stage != EVALUATION]

    def _used(self, stage: str) -> Sequence[Entry]:
        programs = [(entry, entry.result.program) for entry in self.entries]
        return [entry for entry, program in programs if program.stage == stage and program.is_used]


def to_json(report: Report, would_fit: str | None = None) -> dict[str, Any]:
    """The report as plain values: bytes of one device, seconds, operations over all devices."""
    chip = report.topology.chip
    return {
        "topology": report.topology.name,
        "num_devices": report.topology.num_devices,
        "mesh": report.mesh,
        "model": report.model,
        "memory_bytes": chip.memory_bytes,
        "fits": report.fits,
        "failed": report.failed,
        "would_fit": would_fit,
        "stages": {
            stage: {
                "step_seconds": _finite(report.step_seconds(stage)),
                "utilisation": _finite(report.utilisation(stage)),
            }
            for stage in report.stages
        },
        "programs": [_entry_to_json(entry) for entry in report.entries],
    }


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    result, program, roofline = entry.result, entry.result.program, entry.roofline
    told: dict[str, Any] = {
        "name": program.name,
        "stage": program.stage,
        "is_used": program.is_used,
        "fits": result.fits,
        "excess_bytes": max(result.excess, 0.0),
        "operations": {"model": program.flops.model, "recompute": program.flops.recompute},
        "runs_per_step": program.runs_per_step,
    }
    if isinstance(result, OutOfMemory):
        return told | {"reason": result.reason}
    if isinstance(result, Failed):
        return told | {"fits": None, "reason": result.reason, "last_lines": list(result.last_lines)}
    memory = result.memory
    told["unread"] = entry.unread
    told["memory"] = {
        "arguments": memory.arguments,
        "outputs": memory.outputs,
        "aliased": memory.aliased,
        "temporaries": memory.temporaries,
        "held": memory.resident,
        "peak": memory.peak,
    }
    told |= {"warnings": list(result.warnings), "compile_seconds": result.seconds, "whole_stacks": list(entry.gathered)}
    if roofline is not None:
        told["collectives"] = by_kind(roofline.exchanges)
        told |= {"seconds": roofline.times, "binds": roofline.bottleneck}
    return told


def show(report: Report, console: Console) -> None:
    """Prints memory, time and exchanges of every program, then what each stage comes to, then warnings."""
    topology, chip = report.topology, report.topology.chip
    axes = " x ".join(f"{name} {size}" for name, size in report.mesh.items())
    console.print(f"{report.model} on {topology.name}: {topology.num_devices} devices ({axes}),", highlight=False)
    console.print(f"{_gib(chip.memory_bytes)} GiB each for programs, {chip.flops / 1e12:.0f} TFLOP/s", highlight=False)
    console.print(_memory_table(report.entries))
    console.print(_time_table(report.entries))
    for stage in report.stages:
        if math.isfinite(seconds := report.step_seconds(stage)):
            console.print(
                f"{stage}: at best {seconds:.2f} s an update, utilisation {100 * report.utilisation(stage):.0f} %",
                highlight=False,
            )
    for entry in report.entries:
        for line in _remarks(entry):
            console.print(f"{entry.name}: {line}", highlight=False, soft_wrap=True)


def _memory_table(entries: Iterable[Entry]) -> Table:
    table = Table(title="memory of a device, GiB")
    table.add_column("program", no_wrap=True)
    for name in ("arguments", "results", "temporaries", "held beside", "peak", "left"):
        table.add_column(name, justify="right")
    for entry in entries:
        name = entry.name if entry.result.program.is_used else f"({entry.name})"
        if isinstance(entry.result, OutOfMemory):
            table.add_row(name, "", "", "", "", _gib(entry.result.needed), _gib(-entry.result.excess), style="red")
            continue
        if isinstance(entry.result, Failed):
            table.add_row(name, "", "", "", "", "unknown", "", style="red")
            continue
        memory = entry.result.memory
        results = memory.outputs - memory.aliased
        parts = (memory.arguments, results, memory.temporaries, memory.resident, memory.peak, memory.has - memory.peak)
        table.add_row(name, *map(_gib, parts), style="" if memory.fits else "red")
    return table


def _time_table(entries: Iterable[Entry]) -> Table:
    table = Table(title="operations of all devices, and seconds of one run at best")
    table.add_column("program", no_wrap=True)
    for name in ("TFLOP", "again", "compute", "memory", "network", "slow net", "binds"):
        table.add_column(name, justify="right")
    for entry in entries:
        if (roofline := entry.roofline) is None:
            continue
        operations = entry.result.program.flops
        counts = (f"{count / 1e12:.1f}" for count in (operations.model, operations.recompute))
        seconds = (f"{seconds:.3g}" for seconds in roofline.times.values())
        table.add_row(entry.name, *counts, *seconds, roofline.bottleneck)
    return table


def _remarks(entry: Entry) -> Iterable[str]:
    """What a user should know of a program beside its figures."""
    result = entry.result
    if isinstance(result, Failed):
        yield f"the compiler failed, so that nothing is known of this program ({result.reason}); its last lines:"
        yield from result.last_lines
    elif not result.fits:
        reason = f" ({result.reason})" if isinstance(result, OutOfMemory) else ""
        yield f"does not fit: a device has {_gib(result.excess)} GiB too few{reason}"
    if entry.unread:
        yield f"the compiler cannot print this program, so its exchanges and time are not known ({entry.unread})"
    if not result.program.is_used:
        yield "not run by this configuration"
    if entry.roofline and entry.roofline.exchanges:
        kinds = by_kind(entry.roofline.exchanges)
        yield "a device receives " + ", ".join(
            f"{sums['bytes'] / 1e9:.3g} GB by {kind}" for kind, sums in kinds.items()
        )
    if isinstance(result, Compiled):
        yield from (f"the compiler warns: {line}" for line in result.warnings)
    if entry.gathered:
        yield f"gathers all layers at once of {', '.join(entry.gathered)}"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / _GIB:.2f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
