"""The device mesh: its settings, and the sizes of its axes on a given number of devices."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Shape = tuple[int, int, int]  # devices along data, fsdp and tensor


@dataclass(frozen=True)
class Mesh:
    """Sizes of the mesh axes. Each -1 is filled in: the smallest tensor that batches allow, then the smallest data.

    Attributes:
        data: data parallelism: replicas of the model, each with its own rows.
        fsdp: fully sharded data parallelism: rows, and shards of the parameters, which are all-gathered for use.
        tensor: tensor parallelism over heads and MLP columns.
        slices: groups of devices with a slow network (DCN) between them, which only `data` crosses: slices of a TPU
            pod, machines with GPUs. -1: as the devices report; 1: one group.
    """

    data: int = -1
    fsdp: int = -1
    tensor: int = -1
    slices: int = -1


@dataclass(frozen=True)
class MeshLimits:
    """Sizes that mesh axes must divide.

    Attributes:
        batches: setting -> prompts or records of a batch, which are sharded over data x fsdp.
        heads: kind of heads -> number of heads of a layer, which are sharded over tensor.
    """

    batches: Mapping[str, int] = field(default_factory=dict)
    heads: Mapping[str, int] = field(default_factory=dict)


def mesh_shape(mesh: Mesh, num_devices: int, num_slices: int = 1, limits: MeshLimits | None = None) -> Shape:
    """The sizes of (data, fsdp, tensor) for a number of devices and slices.

    Raises:
        ValueError: no mesh satisfies settings, devices and limits; says why, and which meshes do.
    """
    if num_slices < 1 or num_devices % num_slices:
        raise ValueError(
            f"mesh.slices={num_slices} does not divide the {num_devices} devices; set one of {divisors(num_devices)}"
        )
    limits = MeshLimits() if limits is None else limits
    shapes = [
        shape for shape in _shapes(num_devices) if shape[0] % num_slices == 0 and _divides(shape[2], limits.heads)
    ]
    valid = [shape for shape in shapes if _divides(shape[0] * shape[1], limits.batches)]
    if matching := _matching(valid, mesh):
        return matching[0]
    if matching := _matching(shapes, mesh):
        error = _batch_error(matching, limits.batches)
    else:
        error = _mesh_error(mesh, num_devices, num_slices, limits.heads)
    settings = f"mesh.data={mesh.data} x mesh.fsdp={mesh.fsdp} x mesh.tensor={mesh.tensor}"
    raise ValueError(f"{settings} on {num_devices} devices: {error}{_alternatives(valid)}")


def _shapes(num_devices: int) -> list[Shape]:
    """Every mesh of this number of devices, in order of preference."""
    return [
        (data, num_devices // tensor // data, tensor)
        for tensor in divisors(num_devices)
        for data in divisors(num_devices // tensor)
    ]


def _matching(shapes: Iterable[Shape], mesh: Mesh) -> list[Shape]:
    """The shapes that have every size that the settings fix."""
    sizes = (mesh.data, mesh.fsdp, mesh.tensor)
    return [shape for shape in shapes if all(setting in (-1, size) for setting, size in zip(sizes, shape, strict=True))]


def _batch_error(shapes: list[Shape], batches: Mapping[str, int]) -> str:
    """The error if none of these shapes divides the batches."""
    fewest = min(data * fsdp for data, fsdp, _ in shapes)
    indivisible = {name: size for name, size in batches.items() if size % fewest}
    expected = f"expected multiples of {fewest}, the devices that share the rows of a batch (data x fsdp)"
    return f"{_format(indivisible)}: {expected}"


def _mesh_error(mesh: Mesh, num_devices: int, num_slices: int, heads: Mapping[str, int]) -> str:
    """The error if the settings allow no shape, whatever the batches."""
    shapes = _matching(_shapes(num_devices), mesh)
    if not shapes:
        return f"expected sizes that multiply to {num_devices}, or -1"
    if not any(_divides(tensor, heads) for *_, tensor in shapes):
        return f"expected a mesh.tensor that divides the heads ({_format(heads)})"
    return f"expected a mesh.data that is a multiple of the {num_slices} slices (mesh.slices)"


def _alternatives(shapes: list[Shape]) -> str:
    """The valid meshes, as a hint; of several that differ in data and fsdp only, the first."""
    if not shapes:
        return ""
    smallest_data = [shape for shape in shapes if shape[0] == shapes[0][0]]
    return f"; data x fsdp x tensor may be {' or '.join(' x '.join(map(str, shape)) for shape in smallest_data)}"


def _divides(number: int, sizes: Mapping[str, int]) -> bool:
    return all(size % number == 0 for size in sizes.values())


def _format(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def divisors(number: int) -> list[int]:
    """All divisors, 1 and the number itself included."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
