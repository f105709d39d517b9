"""The report on a configuration's programs on a topology: as tables, and as JSON."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from r1vl_jax.aot.compile import Compiled, Failed, OutOfMemory, Result
from r1vl_jax.aot.hlo.roofline import Roofline, totals_by_kind
from r1vl_jax.aot.programs import EVALUATION
from r1vl_jax.aot.topologies import Topology
from r1vl_jax.observe.markdown import markdown_table

_GIB = 2**30


@dataclass(frozen=True)
class Entry:
    """The report on one program.

    Attributes:
        roofline: None if the program did not compile, or its HLO cannot be printed.
        gathered_stacks: paths of per-layer parameter stacks that are all-gathered for all layers at once.
        unprintable: why the HLO of a compiled program cannot be printed; "" if it can.
    """

    result: Result
    roofline: Roofline | None = None
    gathered_stacks: tuple[str, ...] = ()
    unprintable: str = ""

    @property
    def name(self) -> str:
        return self.result.program.name

    @property
    def blocks_run(self) -> bool:
        """Whether a run of the configuration would fail here."""
        return self.result.program.is_used and not self.result.fits


@dataclass(frozen=True)
class Report:
    """The programs of a configuration on a topology.

    Attributes:
        mesh: axis -> size.
        model: which model the shapes are of.
        is_complete: whether these are all programs of the configuration.
    """

    topology: Topology
    mesh: dict[str, int]
    model: str
    entries: tuple[Entry, ...]
    is_complete: bool = True

    @property
    def fits(self) -> bool:
        """Whether every program that the configuration runs fits."""
        return not any(entry.blocks_run for entry in self.entries)

    @property
    def failed(self) -> list[str]:
        """Programs of the run on which the compiler failed."""
        return [entry.name for entry in self.entries if entry.blocks_run and isinstance(entry.result, Failed)]

    def step_seconds(self, stage: str) -> float:
        """Lower bound on the time of one update with its rollout and log-probs; NaN if a program's bound is missing."""
        if not self.is_complete:
            return math.nan
        return math.fsum(
            entry.roofline.seconds * entry.result.program.runs_per_step if entry.roofline else math.nan
            for entry in self._used(stage)
        )

    def mfu(self, stage: str) -> float:
        """Upper bound on the model FLOPs utilization: FLOPs without recomputation / (seconds x devices x peak)."""
        flops = math.fsum(e.result.program.flops.model * e.result.program.runs_per_step for e in self._used(stage))
        return flops / (self.step_seconds(stage) * self.topology.num_devices * self.topology.chip.flops)

    @property
    def stages(self) -> list[str]:
        """Stages that train; evaluation is none."""
        stages = (entry.result.program.stage for entry in self.entries)
        return [stage for stage in dict.fromkeys(stages) if stage != EVALUATION]

    def _used(self, stage: str) -> Sequence[Entry]:
        programs = [(entry, entry.result.program) for entry in self.entries]
        return [entry for entry, program in programs if program.stage == stage and program.is_used]


def to_json(report: Report, would_fit: str | None = None) -> dict[str, Any]:
    """The report as JSON values: bytes per device, seconds, FLOPs over all devices."""
    chip = report.topology.chip
    return {
        "topology": report.topology.name,
        "num_devices": report.topology.num_devices,
        "mesh": report.mesh,
        "model": report.model,
        "hbm_bytes": chip.hbm_bytes,
        "fits": report.fits,
        "failed": report.failed,
        "would_fit": would_fit,
        "stages": {
            stage: {
                "step_seconds": _finite(report.step_seconds(stage)),
                "mfu": _finite(report.mfu(stage)),
            }
            for stage in report.stages
        },
        "programs": [_entry_to_json(entry) for entry in report.entries],
    }


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    result, program, roofline = entry.result, entry.result.program, entry.roofline
    values: dict[str, Any] = {
        "name": program.name,
        "stage": program.stage,
        "is_used": program.is_used,
        "fits": result.fits,
        "excess_bytes": max(result.excess, 0.0),
        "flops": {"model": program.flops.model, "recompute": program.flops.recompute},
        "runs_per_step": program.runs_per_step,
    }
    if isinstance(result, OutOfMemory):
        return values | {"reason": result.reason}
    if isinstance(result, Failed):
        return values | {"fits": None, "reason": result.reason, "log_tail": list(result.log_tail)}
    memory = result.memory
    values["unprintable"] = entry.unprintable
    values["memory"] = {
        "arguments": memory.arguments,
        "outputs": memory.outputs,
        "aliased": memory.aliased,
        "temporaries": memory.temporaries,
        "resident": memory.resident,
        "peak": memory.peak,
    }
    values |= {
        "warnings": list(result.warnings),
        "compile_seconds": result.seconds,
        "gathered_stacks": list(entry.gathered_stacks),
    }
    if roofline is not None:
        values["collectives"] = totals_by_kind(roofline.collectives)
        values |= {"seconds": roofline.times, "bottleneck": roofline.bottleneck}
    return values


def print_report(report: Report, console: Console) -> None:
    """Prints the memory and time of every program, the sum for each stage, then notes on each program."""
    console.print(_title(report), highlight=False, soft_wrap=True)
    console.print(_memory_table(report.entries))
    console.print(_time_table(report.entries))
    for line in _stage_bounds(report):
        console.print(line, highlight=False)
    for entry in report.entries:
        for line in _notes(entry):
            console.print(f"{entry.name}: {line}", highlight=False, soft_wrap=True)


def to_markdown(report: Report) -> str:
    """Title, tables and the sum for each stage, for a page of docs."""
    tables = [_memory_table(report.entries), _time_table(report.entries)]
    parts = [
        _title(report),
        *(f"{table.title}:\n\n{markdown_table(table)}" for table in tables),
        *_stage_bounds(report),
    ]
    return "\n\n".join(parts) + "\n"


def _title(report: Report) -> str:
    topology, chip = report.topology, report.topology.chip
    axes = " x ".join(f"{name} {size}" for name, size in report.mesh.items())
    return (
        f"{report.model} on {topology.name}: {topology.num_devices} devices ({axes}),"
        f" {_gib(chip.hbm_bytes)} GiB of HBM and {chip.flops / 1e12:.0f} TFLOP/s each"
    )


def _stage_bounds(report: Report) -> list[str]:
    bounds = {stage: report.step_seconds(stage) for stage in report.stages}
    return [
        f"{stage}: at least {seconds:.2f} s per update, MFU at most {100 * report.mfu(stage):.0f} %"
        for stage, seconds in bounds.items()
        if math.isfinite(seconds)
    ]


def _memory_table(entries: Iterable[Entry]) -> Table:
    table = Table(title="memory per device, GiB")
    table.add_column("program", no_wrap=True)
    for name in ("arguments", "outputs", "temporaries", "resident", "peak", "free"):
        table.add_column(name, justify="right")
    for entry in entries:
        name = entry.name if entry.result.program.is_used else f"({entry.name})"
        if isinstance(entry.result, OutOfMemory):
            table.add_row(name, "", "", "", "", _gib(entry.result.required), _gib(-entry.result.excess), style="red")
            continue
        if isinstance(entry.result, Failed):
            table.add_row(name, "", "", "", "", "unknown", "", style="red")
            continue
        memory = entry.result.memory
        outputs = memory.outputs - memory.aliased
        parts = (
            memory.arguments,
            outputs,
            memory.temporaries,
            memory.resident,
            memory.peak,
            memory.available - memory.peak,
        )
        table.add_row(name, *map(_gib, parts), style="" if memory.fits else "red")
    return table


def _time_table(entries: Iterable[Entry]) -> Table:
    table = Table(title="FLOPs over all devices, and lower bounds on the seconds of one run")
    table.add_column("program", no_wrap=True)
    for name in ("TFLOP", "recompute", "compute", "memory", "ICI", "DCN", "bottleneck"):
        table.add_column(name, justify="right")
    for entry in entries:
        if (roofline := entry.roofline) is None:
            continue
        flops = entry.result.program.flops
        counts = (f"{count / 1e12:.1f}" for count in (flops.model, flops.recompute))
        seconds = (f"{seconds:.3g}" for seconds in roofline.times.values())
        table.add_row(entry.name, *counts, *seconds, roofline.bottleneck)
    return table


def _notes(entry: Entry) -> Iterable[str]:
    """What a user should know of a program beside its numbers."""
    result = entry.result
    if isinstance(result, Failed):
        yield f"the compiler failed, so memory and time are unknown ({result.reason}); the end of its log:"
        yield from result.log_tail
    elif not result.fits:
        reason = f" ({result.reason})" if isinstance(result, OutOfMemory) else ""
        yield f"does not fit: {_gib(result.excess)} GiB over the memory of a device{reason}"
    if entry.unprintable:
        yield f"the HLO cannot be printed, so collectives and time are unknown ({entry.unprintable})"
    if not result.program.is_used:
        yield "not used by this configuration"
    if entry.roofline and entry.roofline.collectives:
        kinds = totals_by_kind(entry.roofline.collectives)
        yield "a device receives " + ", ".join(
            f"{sums['bytes'] / 1e9:.3g} GB by {kind}" for kind, sums in kinds.items()
        )
    if isinstance(result, Compiled):
        yield from (f"the compiler warns: {line}" for line in result.warnings)
    if entry.gathered_stacks:
        yield f"all layers at once are gathered of {', '.join(entry.gathered_stacks)}"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / _GIB:.2f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
