"""What the devices send each other in one run of a compiled program, by kind."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from r1vl_jax.aot.hlo.parse import Instruction, Module

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
# Parts of one collective that run beside other work stand in several fusions; the first has a start of -1.
_CONTINUED = re.compile(r'"async_collective_fusion_config":\{"flag_start":"\d')
# Between slices the hosts exchange: what a device gets of it stands in the program as received from its host.
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclass(frozen=True)
class Collective:
    """One exchange among groups of devices.

    Attributes:
        times: how often it runs.
        num_bytes: what each device receives each time.
        dims: of the largest array that results on a device.
        crosses_slices: whether some group has devices of several slices.
    """

    kind: str
    times: float
    num_bytes: float
    dims: tuple[int, ...]
    crosses_slices: bool


def collectives(module: Module, slice_of_device: Sequence[int]) -> list[Collective]:
    """Every exchange of a program.

    Args:
        slice_of_device: the number of the slice of each device, in the order of the mesh.
    """
    return [
        _collective(inner, computation_name, times, np.asarray(slice_of_device))
        for outer, _, times in module.executed(conditions=True)
        for inner, computation_name in _inside(module, outer)
    ]


def _inside(module: Module, instruction: Instruction) -> Iterator[tuple[Instruction, str]]:
    """Collectives among an instruction and the computations that are part of it, with the names of the latter."""
    if _kind(instruction) and not _CONTINUED.search(instruction.attributes):
        yield instruction, ""
    if instruction.opcode == "fusion":
        for name in instruction.called:
            for inner in module.computations[name].instructions.values():
                yield from ((found, name if at == "" else at) for found, at in _inside(module, inner))


def _kind(instruction: Instruction) -> str | None:
    """Of an exchange or the start of one; its end is not counted again."""
    if instruction.opcode == "recv" and (between := _BETWEEN_SLICES.search(instruction.attributes)):
        kind = between[1].lower().replace("_", "-")
        return "collective-permute" if kind == "one-to-one" else kind
    opcode = instruction.opcode.removesuffix("-start")
    return opcode if opcode in _KINDS else None


def _collective(instruction: Instruction, computation_name: str, times: float, slices: np.ndarray) -> Collective:
    kind = _kind(instruction)
    assert kind is not None
    if kind == "all-reduce" and "all-reduce-scatter" in computation_name:
        kind = "reduce-scatter"  # a sum of which every device keeps its part
    is_between = instruction.opcode == "recv"
    groups = _one_of_each(slices) if is_between else _groups(instruction.attributes, len(slices))
    # The start of an exchange returns its operands, too; a gathered array is larger than its operand.
    arrays = instruction.arrays
    if instruction.opcode == "all-gather-start":
        arrays = arrays[len(arrays) // 2 :]
    elif instruction.opcode == "collective-permute-start":
        arrays = arrays[1:2]
    elif is_between:
        arrays = arrays[:1]
    num_bytes = sum(array.num_bytes for array in arrays)
    if instruction.opcode == "reduce-scatter" or (is_between and kind == "reduce-scatter"):
        num_bytes *= groups.shape[1]  # of the operand
    largest = max(arrays, key=lambda array: array.num_bytes)
    return Collective(
        kind=kind,
        times=times,
        num_bytes=num_bytes * _received(kind, groups.shape[1]),
        dims=largest.dims,
        crosses_slices=any(len(set(slices[group])) > 1 for group in groups),
    )


def _received(kind: str, size: int) -> float:
    """How much of its whole array (result of a gather, operand of a sum) each device of a group receives."""
    if kind == "collective-permute":
        return 1.0
    return (2 if kind == "all-reduce" else 1) * (size - 1) / size


def _one_of_each(slices: np.ndarray) -> Int[np.ndarray, "1 slices"]:
    """A device of each slice, all of which exchange with each other; the other devices do likewise."""
    return np.unique(slices, return_index=True)[1][None]


def _groups(attributes: str, num_devices: int) -> Int[np.ndarray, "groups size"]:
    """The devices that exchange with each other, by their places in the mesh."""
    if pairs := re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", attributes):
        return np.array([_numbers(pair) for pair in re.findall(r"\{([\d,]*)\}", pairs[1])])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", attributes):
        return _groups_of_mesh(mesh[1], mesh[2])
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, dims = _numbers(iota[1]), _numbers(iota[2])
        order = _numbers(iota[3]) if iota[3] else list(range(len(dims)))
        return np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(shape)
    if listed := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", attributes):
        return np.array([_numbers(group) for group in re.findall(r"\{([\d,]*)\}", listed[1])])
    return np.arange(num_devices)[None]


def _groups_of_mesh(axes: str, names: str) -> Int[np.ndarray, "groups size"]:
    """Groups along some axes of a mesh, written as  'a'=2, 'b'=4  and  'b', or  'b':(1)2  for a part of b."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    order = re.search(r"device_ids=\(?\[?([\d,]+)", axes)
    ids = np.array(_numbers(order[1])) if order else np.arange(math.prod(sizes.values()))
    dims, is_inside = [], []
    wanted = {name: (before, size) for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", names)}
    for name, whole in sizes.items():
        before, size = wanted.get(name, ("", ""))
        parts = [int(before), int(size), whole // int(before) // int(size)] if size else [whole]
        dims += parts
        is_inside += [False, True, False] if size else [name in wanted]
    outer = [axis for axis, inside in enumerate(is_inside) if not inside]
    inner = [axis for axis, inside in enumerate(is_inside) if inside]
    return ids.reshape(dims).transpose(outer + inner).reshape(-1, math.prod(dims[axis] for axis in inner))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
