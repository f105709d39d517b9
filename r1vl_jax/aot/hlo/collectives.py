"""Collectives of a compiled program: kind, count, bytes received, and whether they cross slices."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from r1vl_jax.aot.hlo.parse import HloModule, Instruction

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
# An asynchronous collective that overlaps with compute is split over several fusions; only the first, flag_start -1,
# counts.
_CONTINUATION = re.compile(r'"async_collective_fusion_config":\{"flag_start":"\d')
# Between slices the hosts communicate (megascale): a device's HLO only has the receive from its host.
_MEGASCALE_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclass(frozen=True)
class Collective:
    """One collective.

    Attributes:
        times: how often it runs.
        num_bytes: bytes that each device receives per run.
        dims: of the largest result on a device.
        crosses_slices: whether a group has devices of several slices.
    """

    kind: str
    times: float
    num_bytes: float
    dims: tuple[int, ...]
    crosses_slices: bool


def find_collectives(module: HloModule, slice_of_device: Sequence[int]) -> list[Collective]:
    """All collectives of a program.

    Args:
        slice_of_device: slice index of each device, in the order of the mesh.
    """
    return [
        _collective(inner, computation_name, times, np.asarray(slice_of_device))
        for outer, _, times in module.executed_instructions(conditions=True)
        for inner, computation_name in _collective_instructions(module, outer)
    ]


def _collective_instructions(module: HloModule, instruction: Instruction) -> Iterator[tuple[Instruction, str]]:
    """Collectives among an instruction and the computations fused into it; each with the name of its computation."""
    if _kind(instruction) and not _CONTINUATION.search(instruction.attributes):
        yield instruction, ""
    if instruction.opcode == "fusion":
        for name in instruction.callees:
            for inner in module.computations[name].instructions.values():
                nested = _collective_instructions(module, inner)
                yield from ((each, where or name) for each, where in nested)


def _kind(instruction: Instruction) -> str | None:
    """Kind of a collective or of the start of one; None for anything else, its end included."""
    if instruction.opcode == "recv" and (transfer := _MEGASCALE_TRANSFER.search(instruction.attributes)):
        kind = transfer[1].lower().replace("_", "-")
        return "collective-permute" if kind == "one-to-one" else kind
    opcode = instruction.opcode.removesuffix("-start")
    return opcode if opcode in _KINDS else None


def _collective(instruction: Instruction, computation_name: str, times: float, slices: np.ndarray) -> Collective:
    kind = _kind(instruction)
    assert kind is not None
    if kind == "all-reduce" and "all-reduce-scatter" in computation_name:
        kind = "reduce-scatter"  # the compiler's name for a fused reduce-scatter
    is_dcn = instruction.opcode == "recv"
    groups = _one_device_per_slice(slices) if is_dcn else _groups(instruction.attributes, len(slices))
    # The tuple of an asynchronous start has the operands first, then the results.
    arrays = instruction.arrays
    if instruction.opcode == "all-gather-start":
        arrays = arrays[len(arrays) // 2 :]
    elif instruction.opcode == "collective-permute-start":
        arrays = arrays[1:2]
    elif is_dcn:
        arrays = arrays[:1]
    num_bytes = sum(array.num_bytes for array in arrays)
    if instruction.opcode == "reduce-scatter" or (is_dcn and kind == "reduce-scatter"):
        num_bytes *= groups.shape[1]  # bytes of the operand
    largest = max(arrays, key=lambda array: array.num_bytes)
    return Collective(
        kind=kind,
        times=times,
        num_bytes=num_bytes * _received_fraction(kind, groups.shape[1]),
        dims=largest.dims,
        crosses_slices=any(len(set(slices[group])) > 1 for group in groups),
    )


def _received_fraction(kind: str, size: int) -> float:
    """Share of the full array (an all-gather's result, a reduction's operand) that each device receives."""
    if kind == "collective-permute":
        return 1.0
    return (2 if kind == "all-reduce" else 1) * (size - 1) / size


def _one_device_per_slice(slices: np.ndarray) -> Int[np.ndarray, "1 slices"]:
    """One group, of the first device of each slice; the other devices communicate likewise."""
    return np.unique(slices, return_index=True)[1][None]


def _groups(attributes: str, num_devices: int) -> Int[np.ndarray, "groups size"]:
    """The groups of a collective, as positions in the mesh."""
    if pairs := re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", attributes):
        return np.array([_integers(pair) for pair in re.findall(r"\{([\d,]*)\}", pairs[1])])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", attributes):
        return _groups_of_mesh(mesh[1], mesh[2])
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, dims = _integers(iota[1]), _integers(iota[2])
        order = _integers(iota[3]) if iota[3] else list(range(len(dims)))
        return np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(shape)
    if listed := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", attributes):
        return np.array([_integers(group) for group in re.findall(r"\{([\d,]*)\}", listed[1])])
    return np.arange(num_devices)[None]


def _groups_of_mesh(axes: str, names: str) -> Int[np.ndarray, "groups size"]:
    """Groups along mesh axes, written as  'a'=2, 'b'=4  and  'b', or  'b':(1)2  for a sub-axis of b."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    order = re.search(r"device_ids=\(?\[?([\d,]+)", axes)
    ids = np.array(_integers(order[1])) if order else np.arange(math.prod(sizes.values()))
    dims, is_inside = [], []
    wanted = {name: (before, size) for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", names)}
    for name, axis_size in sizes.items():
        before, size = wanted.get(name, ("", ""))
        parts = [int(before), int(size), axis_size // int(before) // int(size)] if size else [axis_size]
        dims += parts
        is_inside += [False, True, False] if size else [name in wanted]
    outer = [axis for axis, inside in enumerate(is_inside) if not inside]
    inner = [axis for axis, inside in enumerate(is_inside) if inside]
    return ids.reshape(dims).transpose(outer + inner).reshape(-1, math.prod(dims[axis] for axis in inner))


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
