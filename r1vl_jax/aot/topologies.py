"""Slices of TPU pods by the names that users know, and their devices without the hardware."""

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
    """One slice of a pod, or several of one shape.

    Attributes:
        shape: chips along each axis of a slice, as "4x4".
    """

    chip: Chip
    shape: str
    num_slices: int = 1

    @property
    def name(self) -> str:
        """As `parse` takes it."""
        times = f"{self.num_slices} slices of " if self.num_slices > 1 else ""
        return f"{times}{self.chip.name}:{self.shape}"

    @property
    def num_devices(self) -> int:
        return num_chips(self.shape) * self.chip.devices_per_chip * self.num_slices

    def devices(self) -> list[Any]:
        """Descriptions of the devices: programs can be compiled for them, and arrays of shapes placed on them.

        Raises:
            RuntimeError: there is no TPU compiler, or it does not know the shape.
        """
        options: dict[str, Any] = dict(self.chip.options)
        if self.num_slices > 1:
            options["num_slices"] = self.num_slices
        if self.shape == "1x1":
            options["chips_per_host_bounds"] = (1, 1, 1)
        try:
            with captured_stderr([]):  # it wonders where the hardware is
                name = f"{self.chip.name}:{self.shape}"
                return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
        except Exception as error:
            raise RuntimeError(
                f"{self.name}: the TPU compiler does not know this shape, or is not there ({error}); it comes with"
                " pip install 'r1vl_jax[aot]'"
            ) from error

    def next_larger(self) -> "Topology | None":
        """The next usual shape with more chips; None behind the largest."""
        larger = [shape for shape in self.chip.slices if num_chips(shape) > num_chips(self.shape)]
        return replace(self, shape=larger[0]) if larger else None


def parse(name: str, num_slices: int = 1) -> Topology:
    """The topology of a name: "v5e:4x4" gives chips along each axis, "v5e-16" and "v5p-128" are a cloud's names.

    A cloud's names count chips for v5e and v6e, and two TensorCores a chip for the others.

    Raises:
        ValueError: no such topology; says which there are.
    """
    if num_slices < 1:
        raise ValueError(f"--slices={num_slices}: expected at least 1")
    kind, sign, size = re.fullmatch(r"([^:-]*)([:-]?)(.*)", name, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    chip = CHIPS.get(kind)
    if chip is None:
        raise ValueError(f"--topology={name}: expected one of {', '.join(CHIPS)} first, as in v5e:4x4 or v5e-16")
    if sign == ":" and re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * chip.slices[0].count("x"), size):
        return Topology(chip, size, num_slices)
    shapes = {str(num_chips(shape) * chip.cores_in_name): shape for shape in chip.slices}
    if sign == "-" and size in shapes:
        return Topology(chip, shapes[size], num_slices)
    known = [f"{kind}-{count} ({kind}:{shape})" for count, shape in shapes.items()]
    raise ValueError(f"--topology={name}: expected one of {', '.join(known)}, or any shape written so")


def num_chips(shape: str) -> int:
    """Of a shape such as "4x4x8"."""
    return math.prod(map(int, shape.split("x")))


def without_hardware() -> None:
    """Lets the TPU compiler run on any machine; to be called before JAX looks for devices."""
    jax.config.update("jax_platforms", "cpu")
    # Not to ask the cloud which pod this is part of, nor to wait for another process that compiles.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    libtpu.set_options()  # the same as in training
