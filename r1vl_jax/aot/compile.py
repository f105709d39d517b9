"""Compiles a program for the devices of a topology: its memory, or why it was refused; saves and loads executables."""

import pickle
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from r1vl_jax.aot import shapes
from r1vl_jax.aot.messages import captured_stderr
from r1vl_jax.aot.programs import Program

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# HBM only: a kernel that exceeds VMEM or SMEM is a failure, which no larger slice mends.
_REQUIRED = re.compile(
    r"\(([\d.]+)([KMGT]?)B?\) exceeds available HBM|[Uu]sed ([\d.]+)([KMGT]?)B? of [\d.]+[KMGT]?B? hbm"
)
# Lines of the compiler's log that the report shows.
_WARNINGS_TO_REPORT = re.compile(r"involuntary full rematerialization|replicat|very slow", re.IGNORECASE)
_LOG_TAIL_LINES = 20
# From the compiler, and from JAX's lowering, of a kernel for instance.
_FAILURES = (jax.errors.JaxRuntimeError, NotImplementedError, ValueError, TypeError)


@dataclass(frozen=True)
class Memory:
    """Bytes of a device's HBM while a program runs.

    Attributes:
        aliased: part of the outputs that reuses the buffers of donated arguments.
        temporaries: peak of intermediate buffers.
        resident: arrays on the device that are no arguments of the program.
        available: HBM for programs.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    resident: int
    available: float

    @property
    def peak(self) -> int:
        """All that is allocated at the same time."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.resident

    @property
    def fits(self) -> bool:
        return self.peak <= self.available


@dataclass(frozen=True)
class Compiled:
    """A program that compiled; it may still not fit beside the resident arrays.

    Attributes:
        warnings: lines of the compiler's log that a user should read.
        seconds: of lowering and compiling.
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
        """Bytes above the available HBM."""
        return max(self.memory.peak - self.memory.available, 0.0)


@dataclass(frozen=True)
class OutOfMemory:
    """A program that the compiler refused for its memory, or whose arguments and resident arrays alone exceed it.

    Attributes:
        required: bytes of arguments, resident arrays and, as far as the compiler says, temporaries.
        reason: one line.
    """

    program: Program
    required: float
    available: float
    reason: str
    fits = False

    @property
    def excess(self) -> float:
        return self.required - self.available


@dataclass(frozen=True)
class Failed:
    """A program that failed to compile for another reason than memory: its memory is unknown.

    Attributes:
        reason: first line of the error.
        log_tail: last lines of the compiler's log and of the error.
    """

    program: Program
    reason: str
    log_tail: tuple[str, ...]
    fits = False
    excess = 0.0


Result = Compiled | OutOfMemory | Failed


def compile_for(program: Program, memory_bytes: float) -> Result:
    """Compiles a program for devices with `memory_bytes` of HBM."""
    resident = shapes.device_bytes(program.resident)
    minimum = shapes.device_bytes(program.arguments) + resident
    if minimum > memory_bytes:
        return OutOfMemory(program, minimum, memory_bytes, "arguments and resident arrays alone exceed the memory")
    start = time.perf_counter()
    log: list[str] = []
    try:
        with captured_stderr(log):
            executable = program.lower().compile()
    except _FAILURES as error:
        message = str(error).splitlines() or [type(error).__name__]
        required = required_bytes(str(error))
        if required is None:
            return Failed(program, message[0], tuple([*log, *message][-_LOG_TAIL_LINES:]))
        return OutOfMemory(program, required + resident, memory_bytes, message[0])
    analysis = executable.memory_analysis()
    assert analysis is not None  # None with some plugins only
    memory = Memory(
        arguments=analysis.argument_size_in_bytes,
        outputs=analysis.output_size_in_bytes,
        aliased=analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        resident=resident,
        available=memory_bytes,
    )
    warnings = tuple(dict.fromkeys(line for line in log if _WARNINGS_TO_REPORT.search(line)))
    return Compiled(program, memory, executable, warnings, time.perf_counter() - start)


def required_bytes(message: str) -> float | None:
    """HBM that an out-of-memory error says the program requires; None for any other error."""
    match = _REQUIRED.search(message)
    if match is None or "RESOURCE_EXHAUSTED" not in message:
        return None
    number, unit = (match[1], match[2]) if match[1] else (match[3], match[4])
    return float(number) * _UNITS[unit]


def save_executable(executable: jax.stages.Compiled, path: Path) -> None:
    """Serializes a compiled program, so that the pod need not compile it; creates the directory.

    The file is tied to the versions of JAX and libtpu that wrote it. It is a pickle: load only files of your own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(serialize_executable.serialize(executable)))


def load_executable(path: Path, devices: Sequence[Any]) -> Callable[..., Any]:
    """A saved program, to be called with all arguments of its function but the static ones.

    Args:
        devices: `jax.Device`s, as many as it was compiled for, in the order of the mesh.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such program; `python -m r1vl_jax.aot --save=DIR` writes them")
    return serialize_executable.deserialize_and_load(*pickle.loads(path.read_bytes()), execution_devices=devices)
