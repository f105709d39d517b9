"""What a compiled program spends its time on, at best: computing, reading memory, or waiting for other devices.

Each of the three is what the program does of it, divided by what the device can do; the longest binds. Nothing runs
faster, and most things run slower: the times are lower bounds, the utilisation an upper one.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flax.traverse_util import flatten_dict

from r1vl_jax.aot.chips import Chip
from r1vl_jax.aot.compile import Compiled
from r1vl_jax.aot.hlo.collectives import Collective, collectives
from r1vl_jax.aot.hlo.memory_traffic import memory_traffic
from r1vl_jax.aot.hlo.parse import parse
from r1vl_jax.arrays import Params


@dataclass(frozen=True)
class Roofline:
    """Seconds of one run of a program, and what the program exchanges.

    Attributes:
        slow_network_s: of exchanges between slices.
        exchanges: every collective.
    """

    compute_s: float
    memory_s: float
    network_s: float
    slow_network_s: float
    exchanges: tuple[Collective, ...]

    @property
    def times(self) -> dict[str, float]:
        return {
            "compute": self.compute_s,
            "memory": self.memory_s,
            "network": self.network_s,
            "slow network": self.slow_network_s,
        }

    @property
    def bottleneck(self) -> str:
        """What takes longest."""
        return max(self.times, key=lambda name: self.times[name])

    @property
    def seconds(self) -> float:
        return max(self.times.values())


def roofline(compiled: Compiled, chip: Chip, slice_of_device: Sequence[int]) -> Roofline:
    """From the text of the compiled program, and its operations by formula.

    Args:
        slice_of_device: as for `collectives`.
    """
    module, program = parse(compiled.executable.as_text() or ""), compiled.program
    exchanges = collectives(module, slice_of_device)
    return Roofline(
        compute_s=program.flops.total / len(slice_of_device) / chip.flops,
        memory_s=memory_traffic(module) / chip.memory_bandwidth,
        network_s=_bytes(e for e in exchanges if not e.crosses_slices) / chip.network_bandwidth,
        slow_network_s=_bytes(e for e in exchanges if e.crosses_slices) / chip.slow_bandwidth,
        exchanges=tuple(exchanges),
    )


def by_kind(exchanges: Iterable[Collective]) -> dict[str, dict[str, float]]:
    """How many there are of each kind in one run, and how many bytes each device receives by them."""
    kinds: dict[str, dict[str, float]] = {}
    for exchange in exchanges:
        name = exchange.kind + (" between slices" if exchange.crosses_slices else "")
        sums = kinds.setdefault(name, {"count": 0.0, "bytes": 0.0})
        sums["count"] += exchange.times
        sums["bytes"] += exchange.times * exchange.num_bytes
    return kinds


def whole_stacks(exchanges: Iterable[Collective], params: Params, tensor: int) -> list[str]:
    """Paths of stacked matrices that some device gathers whole, all layers at once, against the sense of fsdp.

    Args:
        params: shapes of all parameters.
        tensor: size of the mesh's axis of that name, which may still divide one dimension.
    """
    gathered = {_key(exchange.dims) for exchange in exchanges if exchange.kind == "all-gather"}
    return [path for path, dims in _stacks(params) if any(_key(part) in gathered for part in _parts(dims, tensor))]


def _stacks(params: Params) -> Iterable[tuple[str, tuple[int, ...]]]:
    flat: dict[Any, Any] = flatten_dict(params, sep=".")
    return ((path, leaf.shape) for path, leaf in flat.items() if len(leaf.shape) == 3 and leaf.shape[0] > 1)


def _parts(dims: tuple[int, ...], tensor: int) -> Iterable[tuple[int, ...]]:
    yield dims
    for axis in range(1, len(dims)):
        yield (*dims[:axis], dims[axis] // tensor, *dims[axis + 1 :])


def _key(dims: Iterable[int]) -> tuple[int, ...]:
    """Dimensions that differ in order and ones only are the same: the compiler lays arrays out anew."""
    return tuple(sorted(size for size in dims if size != 1))


def _bytes(exchanges: Iterable[Collective]) -> float:
    return math.fsum(exchange.times * exchange.num_bytes for exchange in exchanges)
