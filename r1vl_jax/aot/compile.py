"""Compiles a program for the devices of a topology, and keeps what the compiler says about it."""

import re
import time
from dataclasses import dataclass

import jax

from r1vl_jax.aot import shapes
from r1vl_jax.aot.messages import captured_stderr
from r1vl_jax.aot.programs import Program

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Of main memory: a kernel that wants too much of another kind is a failure, which no larger slice mends.
_NEEDED = re.compile(
    r"\(([\d.]+)([KMGT]?)B?\) exceeds available HBM|[Uu]sed ([\d.]+)([KMGT]?)B? of [\d.]+[KMGT]?B? hbm"
)
# What a user should read of the compiler's messages.
_WORRYING = re.compile(r"involuntary full rematerialization|replicat|very slow", re.IGNORECASE)
_NUM_LAST_LINES = 20
# Of the compiler itself, and of what JAX cannot lower, a kernel for instance.
_FAILURES = (jax.errors.JaxRuntimeError, NotImplementedError, ValueError, TypeError)


@dataclass(frozen=True)
class Memory:
    """What a device holds while a program runs, in bytes.

    Attributes:
        aliased: of the outputs, what takes the place of arguments.
        held: of what is no argument but there.
        has: of the device, for programs.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    resident: int
    has: float

    @property
    def peak(self) -> int:
        """All that is there at one time."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.resident

    @property
    def fits(self) -> bool:
        return self.peak <= self.has


@dataclass(frozen=True)
class Compiled:
    """A program that the compiler took.

    Attributes:
        warnings: lines of the compiler that a user should read.
        seconds: that lowering and compiling took.
    """

    program: Program
    memory: Memory
    executable: jax.stages.Compiled
    warnings: tuple[str, ...]
    seconds: float

    @property
    def fits(self) -> bool:
        return self.memory.fits

    @property
    def excess(self) -> float:
        """Bytes a device has too few."""
        return max(self.memory.peak - self.memory.has, 0.0)


@dataclass(frozen=True)
class OutOfMemory:
    """A program that the compiler refused, or that needs not be compiled to see that it does not fit.

    Attributes:
        needed: bytes of a device that arguments and what is held need, and temporaries as far as they are known.
        reason: in words.
    """

    program: Program
    needed: float
    has: float
    reason: str
    fits = False

    @property
    def excess(self) -> float:
        return self.needed - self.has


@dataclass(frozen=True)
class Failed:
    """A program that the compiler gave up for another reason than memory: what it needs is not known.

    Attributes:
        reason: in words of the compiler.
        last_lines: of all that it said.
    """

    program: Program
    reason: str
    last_lines: tuple[str, ...]
    fits = False
    excess = 0.0


Result = Compiled | OutOfMemory | Failed


def compile_for(program: Program, memory_bytes: float) -> Result:
    """Compiles a program for devices of so much memory."""
    held = shapes.resident_bytes(program.resident)
    at_least = shapes.resident_bytes(program.arguments) + held
    if at_least > memory_bytes:
        return OutOfMemory(
            program, at_least, memory_bytes, "what it reads and what is held beside it alone are too large"
        )
    start = time.perf_counter()
    messages: list[str] = []
    try:
        with captured_stderr(messages):
            executable = program.lower().compile()
    except _FAILURES as error:
        said = str(error).splitlines() or ["nothing"]
        needed = needed_bytes(str(error))
        if needed is None:
            return Failed(program, said[0], tuple([*messages, *said][-_NUM_LAST_LINES:]))
        return OutOfMemory(program, needed + held, memory_bytes, said[0])
    analysis = executable.memory_analysis()
    assert analysis is not None  # only some plugins have none
    memory = Memory(
        arguments=analysis.argument_size_in_bytes,
        outputs=analysis.output_size_in_bytes,
        aliased=analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        resident=held,
        has=memory_bytes,
    )
    warnings = tuple(dict.fromkeys(line for line in messages if _WORRYING.search(line)))
    return Compiled(program, memory, executable, warnings, time.perf_counter() - start)


def needed_bytes(message: str) -> float | None:
    """Bytes of main memory that a refusing compiler says a program needs; None if it refuses for another reason."""
    found = _NEEDED.search(message)
    if found is None or "RESOURCE_EXHAUSTED" not in message:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return float(number) * _UNITS[unit]
