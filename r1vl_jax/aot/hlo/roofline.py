"""Roofline of a compiled program: time bound by compute, HBM, ICI (within a slice) and DCN (between slices).

Each is the program's work divided by the device's peak rate; the longest is the bottleneck. The times are lower bounds,
the MFU that follows is an upper bound.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flax.traverse_util import flatten_dict

from r1vl_jax.aot.chips import Chip
from r1vl_jax.aot.compile import Compiled
from r1vl_jax.aot.hlo.collectives import Collective, find_collectives
from r1vl_jax.aot.hlo.memory_traffic import memory_traffic
from r1vl_jax.aot.hlo.parse import parse_hlo
from r1vl_jax.arrays import Params


@dataclass(frozen=True)
class Roofline:
    """Lower bounds on the seconds of one run of a program, by resource; and its collectives."""

    compute_s: float
    memory_s: float
    ici_s: float
    dcn_s: float
    collectives: tuple[Collective, ...]

    @property
    def times(self) -> dict[str, float]:
        return {
            "compute": self.compute_s,
            "memory": self.memory_s,
            "ici": self.ici_s,
            "dcn": self.dcn_s,
        }

    @property
    def bottleneck(self) -> str:
        """The resource whose bound is longest."""
        return max(self.times, key=lambda name: self.times[name])

    @property
    def seconds(self) -> float:
        return max(self.times.values())


def roofline(compiled: Compiled, chip: Chip, slice_of_device: Sequence[int]) -> Roofline:
    """Bounds from the HLO text of the compiled program, and its FLOPs by formula.

    Args:
        slice_of_device: as in `collectives`.
    """
    module, program = parse_hlo(compiled.executable.as_text() or ""), compiled.program
    collectives = find_collectives(module, slice_of_device)
    return Roofline(
        compute_s=program.flops.total / len(slice_of_device) / chip.flops,
        memory_s=memory_traffic(module) / chip.hbm_bandwidth,
        ici_s=_bytes(each for each in collectives if not each.crosses_slices) / chip.ici_bandwidth,
        dcn_s=_bytes(each for each in collectives if each.crosses_slices) / chip.dcn_bandwidth,
        collectives=tuple(collectives),
    )


def totals_by_kind(collectives: Iterable[Collective]) -> dict[str, dict[str, float]]:
    """Count and bytes received per device in one run, of each kind of collective."""
    kinds: dict[str, dict[str, float]] = {}
    for each in collectives:
        name = each.kind + (" between slices" if each.crosses_slices else "")
        sums = kinds.setdefault(name, {"count": 0.0, "bytes": 0.0})
        sums["count"] += each.times
        sums["bytes"] += each.times * each.num_bytes
    return kinds


def gathered_stacks(collectives: Iterable[Collective], params: Params, tensor: int) -> list[str]:
    """Paths of per-layer parameter stacks that are all-gathered for all layers at once, which defeats FSDP.

    Args:
        params: shapes of all parameters.
        tensor: size of the mesh axis `tensor`, which may still shard one dimension.
    """
    gathered = {_layout_free_dims(each.dims) for each in collectives if each.kind == "all-gather"}
    return [
        path
        for path, dims in _stacks(params)
        if any(_layout_free_dims(part) in gathered for part in _shapes_over_tensor(dims, tensor))
    ]


def _stacks(params: Params) -> Iterable[tuple[str, tuple[int, ...]]]:
    flat: dict[Any, Any] = flatten_dict(params, sep=".")
    return ((path, leaf.shape) for path, leaf in flat.items() if len(leaf.shape) == 3 and leaf.shape[0] > 1)


def _shapes_over_tensor(dims: tuple[int, ...], tensor: int) -> Iterable[tuple[int, ...]]:
    yield dims
    for axis in range(1, len(dims)):
        yield (*dims[:axis], dims[axis] // tensor, *dims[axis + 1 :])


def _layout_free_dims(dims: Iterable[int]) -> tuple[int, ...]:
    """Dimensions without their order and without ones: the compiler may transpose and reshape an array."""
    return tuple(sorted(size for size in dims if size != 1))


def _bytes(collectives: Iterable[Collective]) -> float:
    return math.fsum(each.times * each.num_bytes for each in collectives)
