"""Parses the HLO text of a compiled program, as far as counting needs it: instructions and their trip counts.

An instruction looks like

    %name = bf16[16,128]{1,0:T(8,128)S(1)} fusion(%first, %second), kind=kLoop, calls=%computation, ...

where S(0), the default, is HBM, and S(1) and above are on-chip memories. The backend configuration of a kernel may
continue over several lines, which are skipped.
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
_CALLEES = re.compile(
    r"\b(?:calls|body|to_apply|(?:true|false)_computation|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")


@dataclass(frozen=True)
class Array:
    """An array's shape.

    Attributes:
        in_hbm: False for arrays in on-chip memories.
    """

    dtype: str
    dims: tuple[int, ...]
    in_hbm: bool

    @property
    def num_bytes(self) -> int:
        return math.prod(self.dims) * _num_bits(self.dtype) // 8


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        arrays: of the result; several for a tuple.
        operands: names of instructions, or the literal of a constant.
        attributes: the text after the operands.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @functools.cached_property
    def callees(self) -> tuple[str, ...]:
        """Names of the computations that the instruction calls."""
        return tuple(name for found in _CALLEES.findall(self.attributes) for name in re.findall(r"[\w.\-]+", found))


@dataclass(frozen=True)
class Computation:
    """Instructions by name, in textual order."""

    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next(each for each in reversed(self.instructions.values()) if each.is_root)


@dataclass(frozen=True)
class HloModule:
    """Computations by name, and the name of the entry computation."""

    computations: dict[str, Computation]
    entry: str

    def executed_instructions(self, *, conditions: bool = False) -> Iterator[tuple[Instruction, Computation, float]]:
        """Executed instructions, each with its computation and an upper bound on how often it runs.

        Bodies of fusions are left out; all branches of a conditional count. A loop without a constant in its condition
        is assumed to run once.

        Args:
            conditions: whether the instructions of loop conditions are included.
        """
        yield from self._executed(self.entry, 1.0, conditions)

    def _executed(self, name: str, times: float, conditions: bool) -> Iterator[tuple[Instruction, Computation, float]]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            if instruction.opcode == "while":
                trips = self.num_trips(instruction) or 1
                condition = _CONDITION.search(instruction.attributes) if conditions else None
                for called in (*instruction.callees, *(condition.groups() if condition else ())):
                    yield from self._executed(called, times * trips, conditions)
            elif instruction.opcode in ("call", "conditional", "async-start"):
                for called in instruction.callees:
                    yield from self._executed(called, times, conditions)
            else:
                yield instruction, computation, times

    def num_trips(self, loop: Instruction) -> int | None:
        """Upper bound on a loop's trip count: the compiler's, or the largest integer constant of its condition."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        condition = _CONDITION.search(loop.attributes)
        return max(self._integer_constants(condition[1]), default=None) if condition else None

    def _integer_constants(self, name: str) -> Iterator[int]:
        for instruction in self.computations[name].instructions.values():
            is_number = instruction.opcode == "constant" and instruction.arrays[0].dims == ()
            if is_number and instruction.arrays[0].dtype in ("s32", "u32"):
                yield int(instruction.operands[0])
            for called in instruction.callees:
                yield from self._integer_constants(called)


def parse_hlo(text: str) -> HloModule:
    """Parses `Compiled.as_text()`."""
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
    return HloModule(computations, entry)


def _instruction(start: re.Match[str], rest: str) -> Instruction:
    end = _matching_parenthesis(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _matching_parenthesis(rest, opening)
    inside = rest[opening + 1 : closing]
    operands = re.findall(r"%([\w.\-]+)", inside) or ([inside] if inside else [])
    return Instruction(
        start["name"], rest[:opening], _arrays(shape), tuple(operands), rest[closing + 1 :], bool(start["root"])
    )


def _matching_parenthesis(text: str, opening: int) -> int:
    """Index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for index in range(opening, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    raise ValueError(f"unbalanced parentheses: {text[:200]}")


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
