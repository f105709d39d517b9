"""TPU slices by their usual names, and their devices for compilation without the hardware."""

import math
import os
import re
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.experimental import topologies

from r1vl_jax.aot.chips import CHIPS, Chip
from r1vl_jax.aot.messages import captured_stderr
from r1vl_jax.runtime import libtpu


@dataclass(frozen=True)
class Topology:
    """One TPU slice, or several of the same shape.

    Attributes:
        shape: chips along each axis of a slice, such as "4x4".
    """

    chip: Chip
    shape: str
    num_slices: int = 1

    @property
    def name(self) -> str:
        """Such as "v5e:4x4" or "2 slices of v5e:4x4"."""
        times = f"{self.num_slices} slices of " if self.num_slices > 1 else ""
        return f"{times}{self.chip.name}:{self.shape}"

    @property
    def num_devices(self) -> int:
        return num_chips(self.shape) * self.chip.devices_per_chip * self.num_slices

    def devices(self) -> list[Any]:
        """Compile-only devices: a mesh of them compiles programs, and holds no arrays.

        Raises:
            RuntimeError: there is no TPU compiler, or it does not know the shape.
        """
        options: dict[str, Any] = dict(self.chip.options)
        if self.num_slices > 1:
            options["num_slices"] = self.num_slices
        if self.shape == "1x1":
            options["chips_per_host_bounds"] = (1, 1, 1)
        try:
            with captured_stderr([]):  # libtpu warns that there is no hardware
                name = f"{self.chip.name}:{self.shape}"
                return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
        except Exception as error:
            raise RuntimeError(
                f"{self.name}: the TPU compiler does not know this shape, or is not there ({error}); it comes with"
                " pip install 'r1vl_jax[aot]'"
            ) from error

    def next_larger(self) -> "Topology | None":
        """The next usual shape with more chips; None after the largest."""
        larger = [shape for shape in self.chip.slice_shapes if num_chips(shape) > num_chips(self.shape)]
        return replace(self, shape=larger[0]) if larger else None


def parse_topology(name: str, num_slices: int = 1) -> Topology:
    """The topology of a name: "v5e:4x4" gives chips along each axis, "v5e-16" and "v5p-128" are Google Cloud's names.

    Google Cloud counts chips for v5e and v6e, and TensorCores, two per chip, for the others.

    Raises:
        ValueError: no such topology; lists the valid names.
    """
    if num_slices < 1:
        raise ValueError(f"--slices={num_slices}: expected at least 1")
    generation, separator, size = re.fullmatch(r"([^:-]*)([:-]?)(.*)", name, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    chip = CHIPS.get(generation)
    if chip is None:
        raise ValueError(
            f"--topology={name}: expected one of {', '.join(CHIPS)}, then a size, such as v5e:4x4 or v5e-16"
        )
    if separator == ":" and re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * chip.slice_shapes[0].count("x"), size):
        return Topology(chip, size, num_slices)
    shapes = {str(num_chips(shape) * chip.cores_per_chip): shape for shape in chip.slice_shapes}
    if separator == "-" and size in shapes:
        return Topology(chip, shapes[size], num_slices)
    known = [f"{generation}-{count} ({generation}:{shape})" for count, shape in shapes.items()]
    raise ValueError(f"--topology={name}: expected one of {', '.join(known)}, or any other shape in this form")


def num_chips(shape: str) -> int:
    """Chips of a shape such as "4x4x8"."""
    return math.prod(map(int, shape.split("x")))


def set_up_compile_only() -> None:
    """Sets JAX up to compile for TPUs on any machine; call it before JAX initializes its backends."""
    jax.config.update("jax_platforms", "cpu")
    # No query of the cloud's metadata server, and no waiting for another process that has loaded libtpu.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    libtpu.set_options()  # the same compiler flags as in training
