"""How much a compiled program reads from and writes to a device's main memory in one run.

Every executed instruction reads its operands and writes its result, as far as they lie in main memory. Where a fusion
only looks at a slice of an operand (one layer of a stack), or writes one, the slice counts.
"""

from collections.abc import Iterable

from r1vl_jax.aot.hlo.parse import Array, Computation, Instruction, Module

# These move nothing, or stand for something that moved already.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "iota"),
    *("copy-done", "slice-done", "all-gather-done", "all-reduce-done", "collective-permute-done"),
    *("send-done", "recv-done", "async-done", "async-update"),
}
_SLICES = {"dynamic-slice", "slice", "gather"}
_THROUGH = {"bitcast", "reshape"}


def memory_traffic(module: Module) -> float:
    """Bytes read and written by one device."""
    return sum(
        times * _moved(module, instruction, computation)
        for instruction, computation, times in module.executed()
        if instruction.opcode not in _FREE and 'custom_call_target="AllocateBuffer"' not in instruction.attributes
    )


def _moved(module: Module, instruction: Instruction, computation: Computation) -> float:
    if instruction.opcode == "fusion" and len(instruction.called) == 1:
        return _moved_by_fusion(module.computations[instruction.called[0]], instruction, computation)
    operands = [
        array
        for name in instruction.operands
        if name in computation.instructions
        for array in computation.instructions[name].arrays
    ]
    if instruction.opcode in _SLICES:  # reads what it returns
        return 2 * _in_main_memory(instruction.arrays)
    if instruction.opcode == "dynamic-update-slice":  # writes in place what it reads
        return 2 * _in_main_memory(computation.instructions[instruction.operands[1]].arrays)
    if instruction.opcode == "slice-start":  # returns its operand too, of which it reads the slice
        part = instruction.arrays[1]
        return part.num_bytes + _in_main_memory([part])
    if instruction.opcode == "send":  # returns what it reads
        return _in_main_memory(operands)
    if instruction.opcode.endswith("-start"):  # returns its operands, too
        return _in_main_memory(instruction.arrays)
    return _in_main_memory(operands) + _in_main_memory(instruction.arrays)


def _moved_by_fusion(inside: Computation, fusion: Instruction, computation: Computation) -> float:
    read = 0.0
    for parameter in inside.instructions.values():
        if parameter.opcode == "parameter":
            operand = computation.instructions.get(fusion.operands[int(parameter.operands[0])])
            if operand is not None and _in_main_memory(operand.arrays):
                read += _read_of(parameter, inside)
    results = inside.root.operands if inside.root.opcode == "tuple" else (inside.root.name,)
    written = sum(
        _written_of(inside.instructions[name], array, inside)
        for name, array in zip(results, fusion.arrays, strict=False)
        if array.in_main_memory
    )
    return read + written


def _read_of(parameter: Instruction, inside: Computation) -> float:
    """What a fusion reads of an operand: all of it, or what slices take of it."""
    whole = sum(array.num_bytes for array in parameter.arrays)
    read = 0.0
    for user in _users(parameter.name, inside):
        if user.opcode in _SLICES and user.operands[0] == parameter.name:
            read += sum(array.num_bytes for array in user.arrays)
        elif user.opcode in _THROUGH:
            read += _read_of(user, inside)
        elif not (user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name):
            return whole
    return min(read, whole)


def _written_of(result: Instruction, array: Array, inside: Computation) -> float:
    while result.opcode in _THROUGH:
        result = inside.instructions[result.operands[0]]
    if result.opcode == "dynamic-update-slice":
        return sum(part.num_bytes for part in inside.instructions[result.operands[1]].arrays)
    return array.num_bytes


def _users(name: str, inside: Computation) -> Iterable[Instruction]:
    return (each for each in inside.instructions.values() if name in each.operands)


def _in_main_memory(arrays: Iterable[Array]) -> float:
    return sum(array.num_bytes for array in arrays if array.in_main_memory)
