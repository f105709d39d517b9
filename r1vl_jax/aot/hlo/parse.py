"""Reads the text of a compiled program: its instructions, and how often each is executed.

Only what is needed to count is read. Lines look like

    %name = bf16[16,128]{1,0:T(8,128)S(1)} fusion(%first, %second), kind=kLoop, calls=%computation, ...

where S(1) and above are small memories beside the device's main one. What is told of a kernel goes on over several.
"""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[^ ]+) \(.*-> .*\{$")
_END = re.compile(r"^\}(, execution_thread=.*)?$")
_LINE = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[^ ]+) = ")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|(?:true|false)_computation|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")


@dataclass(frozen=True)
class Array:
    """The shape of an array.

    Attributes:
        in_main_memory: False for arrays in smaller memories beside the main one.
    """

    dtype: str
    dims: tuple[int, ...]
    in_main_memory: bool

    @property
    def num_bytes(self) -> int:
        return math.prod(self.dims) * _num_bits(self.dtype) // 8


@dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
        arrays: of the result; more than one for a tuple.
        operands: names.
        attributes: all behind the operands.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Computations that are part of this instruction."""
        return tuple(name for found in _CALLED.findall(self.attributes) for name in re.findall(r"[\w.\-]+", found))


@dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order of the text."""

    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next(each for each in reversed(self.instructions.values()) if each.is_root)


@dataclass(frozen=True)
class Module:
    """All computations by name."""

    computations: dict[str, Computation]
    entry: str

    def executed(self, *, conditions: bool = False) -> Iterator[tuple[Instruction, Computation, float]]:
        """Instructions that are executed one after another, each with its computation and how often at most.

        What is inside fusions is not among them; of branches all are. A loop whose condition compares with no constant
        is taken to run once.

        Args:
            conditions: whether those of loops are among them.
        """
        yield from self._executed(self.entry, 1.0, conditions)

    def _executed(self, name: str, times: float, conditions: bool) -> Iterator[tuple[Instruction, Computation, float]]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            if instruction.opcode == "while":
                trips = self.num_trips(instruction) or 1
                condition = _CONDITION.search(instruction.attributes) if conditions else None
                for called in (*instruction.called, *(condition.groups() if condition else ())):
                    yield from self._executed(called, times * trips, conditions)
            elif instruction.opcode in ("call", "conditional", "async-start"):
                for called in instruction.called:
                    yield from self._executed(called, times, conditions)
            else:
                yield instruction, computation, times

    def num_trips(self, loop: Instruction) -> int | None:
        """How often a loop runs at most: as the compiler says, or the largest constant that its condition has."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        condition = _CONDITION.search(loop.attributes)
        return max(self._constants(condition[1]), default=None) if condition else None

    def _constants(self, name: str) -> Iterator[int]:
        for instruction in self.computations[name].instructions.values():
            is_number = instruction.opcode == "constant" and instruction.arrays[0].dims == ()
            if is_number and instruction.arrays[0].dtype in ("s32", "u32"):
                yield int(instruction.operands[0])
            for called in instruction.called:
                yield from self._constants(called)


def parse(text: str) -> Module:
    """The module of `Compiled.as_text()`."""
    computations, entry, lines, name = {}, "", {}, ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, lines = header["name"], {}
            entry = name if header["entry"] else entry
        elif _END.match(line):
            computations[name], name = Computation(lines), ""
        elif name and (start := _LINE.match(line)):
            instruction = _instruction(start, line[start.end() :])
            lines[instruction.name] = instruction
    return Module(computations, entry)


def _instruction(start: re.Match[str], rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    operands = re.findall(r"%([\w.\-]+)", inside) or ([inside] if inside else [])
    return Instruction(
        start["name"], rest[:opening], _arrays(shape), tuple(operands), rest[closing + 1 :], bool(start["root"])
    )


def _closing(text: str, opening: int) -> int:
    """Where the bracket that opens there is closed."""
    depth = 0
    for index in range(opening, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    raise ValueError(f"a bracket is never closed: {text[:200]}")


def _arrays(shape: str) -> tuple[Array, ...]:
    return tuple(
        Array(
            dtype,
            tuple(int(size.lstrip("<=")) for size in dims.split(",") if size),
            re.search(r"S\([1-9]\)", layout) is None,
        )
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


def _num_bits(dtype: str) -> int:
    digits = re.search(r"\d+", dtype)
    return _BITS[dtype] if dtype in _BITS else int(digits[0]) if digits else 32
