"""HBM traffic of a compiled program: bytes that one device reads and writes in one run.

Every executed instruction reads its operands and writes its results, if they are in HBM. Where a fusion reads or writes
only a slice of an operand (one layer of a stack), the slice counts.
"""

from collections.abc import Iterable

from r1vl_jax.aot.hlo.parse import Array, Computation, HloModule, Instruction

# Opcodes without traffic of their own, and ends of asynchronous operations whose start counts.
_NO_TRAFFIC = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "iota"),
    *("copy-done", "slice-done", "all-gather-done", "all-reduce-done", "collective-permute-done"),
    *("send-done", "recv-done", "async-done", "async-update"),
}
_SLICES = {"dynamic-slice", "slice", "gather"}
_VIEWS = {"bitcast", "reshape"}


def memory_traffic(module: HloModule) -> float:
    """Bytes that one device reads from and writes to HBM."""
    return sum(
        times * _instruction_traffic(module, instruction, computation)
        for instruction, computation, times in module.executed_instructions()
        if instruction.opcode not in _NO_TRAFFIC and 'custom_call_target="AllocateBuffer"' not in instruction.attributes
    )


def _instruction_traffic(module: HloModule, instruction: Instruction, computation: Computation) -> float:
    if instruction.opcode == "fusion" and len(instruction.callees) == 1:
        return _fusion_traffic(module.computations[instruction.callees[0]], instruction, computation)
    operands = [
        array
        for name in instruction.operands
        if name in computation.instructions
        for array in computation.instructions[name].arrays
    ]
    if instruction.opcode in _SLICES:  # reads as much as it returns
        return 2 * _hbm_bytes(instruction.arrays)
    if instruction.opcode == "dynamic-update-slice":  # reads the update and writes it in place
        return 2 * _hbm_bytes(computation.instructions[instruction.operands[1]].arrays)
    if instruction.opcode == "slice-start":  # its tuple has the operand, which it reads only a slice of
        part = instruction.arrays[1]
        return part.num_bytes + _hbm_bytes([part])
    if instruction.opcode == "send":  # returns its operand
        return _hbm_bytes(operands)
    if instruction.opcode.endswith("-start"):  # its tuple has operands and results
        return _hbm_bytes(instruction.arrays)
    return _hbm_bytes(operands) + _hbm_bytes(instruction.arrays)


def _fusion_traffic(inside: Computation, fusion: Instruction, computation: Computation) -> float:
    read = 0.0
    for parameter in inside.instructions.values():
        if parameter.opcode == "parameter":
            operand = computation.instructions.get(fusion.operands[int(parameter.operands[0])])
            if operand is not None and _hbm_bytes(operand.arrays):
                read += _bytes_read(parameter, inside)
    results = inside.root.operands if inside.root.opcode == "tuple" else (inside.root.name,)
    written = sum(
        _bytes_written(inside.instructions[name], array, inside)
        for name, array in zip(results, fusion.arrays, strict=False)
        if array.in_hbm
    )
    return read + written


def _bytes_read(parameter: Instruction, inside: Computation) -> float:
    """Bytes that a fusion reads of an operand: all, or the slices that it takes of it."""
    total = sum(array.num_bytes for array in parameter.arrays)
    read = 0.0
    for user in _users(parameter.name, inside):
        if user.opcode in _SLICES and user.operands[0] == parameter.name:
            read += sum(array.num_bytes for array in user.arrays)
        elif user.opcode in _VIEWS:
            read += _bytes_read(user, inside)
        elif not (user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name):
            return total
    return min(read, total)


def _bytes_written(result: Instruction, array: Array, inside: Computation) -> float:
    while result.opcode in _VIEWS:
        result = inside.instructions[result.operands[0]]
    if result.opcode == "dynamic-update-slice":
        return sum(part.num_bytes for part in inside.instructions[result.operands[1]].arrays)
    return array.num_bytes


def _users(name: str, inside: Computation) -> Iterable[Instruction]:
    return (each for each in inside.instructions.values() if name in each.operands)


def _hbm_bytes(arrays: Iterable[Array]) -> float:
    return sum(array.num_bytes for array in arrays if array.in_hbm)
