"""How devices are laid out: the settings, and the sizes they come to on so many devices."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Shape = tuple[int, int, int]  # devices along data, fsdp and tensor


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis. Every -1 is filled in: tensor as small as the batches allow, then data, fsdp the rest.

    Attributes:
        data: copies of the model, each with its own rows.
        fsdp: rows too, and parameters cut into pieces that are gathered for use.
        tensor: heads and MLP columns.
        slices: equal parts of the devices with a slow network between them, over which only `data` goes: slices of a
            TPU pod, machines with GPUs. -1 takes those that the devices report; 1 takes all devices as one.
    """

    data: int = -1
    fsdp: int = -1
    tensor: int = -1
    slices: int = -1


@dataclass(frozen=True)
class MeshLimits:
    """What is divided over a mesh. What is not named here is not looked at.

    Attributes:
        batches: setting -> prompts or records of a batch, which are divided over data x fsdp.
        heads: kind of heads -> how many a layer has, which are divided over tensor.
    """

    batches: Mapping[str, int] = field(default_factory=dict)
    heads: Mapping[str, int] = field(default_factory=dict)


def mesh_shape(mesh: Mesh, num_devices: int, num_slices: int = 1, limits: MeshLimits | None = None) -> Shape:
    """The sizes of (data, fsdp, tensor) on so many devices, in so many slices.

    Raises:
        ValueError: no mesh agrees with settings, devices and limits; says why, and which would do.
    """
    if num_slices < 1 or num_devices % num_slices:
        raise ValueError(
            f"mesh.slices={num_slices} does not divide the {num_devices} devices; set one of {divisors(num_devices)}"
        )
    limits = MeshLimits() if limits is None else limits
    shapes = [
        shape for shape in _shapes(num_devices) if shape[0] % num_slices == 0 and _divides(shape[2], limits.heads)
    ]
    fitting = [shape for shape in shapes if _divides(shape[0] * shape[1], limits.batches)]
    if agreeing := _agreeing(fitting, mesh):
        return agreeing[0]
    if agreeing := _agreeing(shapes, mesh):
        fault = _excess(agreeing, limits.batches)
    else:
        fault = _misfit(mesh, num_devices, num_slices, limits.heads)
    settings = f"mesh.data={mesh.data} x mesh.fsdp={mesh.fsdp} x mesh.tensor={mesh.tensor}"
    raise ValueError(f"{settings} on {num_devices} devices: {fault}{_alternatives(fitting)}")


def _shapes(num_devices: int) -> list[Shape]:
    """Every mesh of so many devices, the preferred ones first."""
    return [
        (data, num_devices // tensor // data, tensor)
        for tensor in divisors(num_devices)
        for data in divisors(num_devices // tensor)
    ]


def _agreeing(shapes: Iterable[Shape], mesh: Mesh) -> list[Shape]:
    asked = (mesh.data, mesh.fsdp, mesh.tensor)
    return [shape for shape in shapes if all(want in (-1, size) for want, size in zip(asked, shape, strict=True))]


def _excess(shapes: list[Shape], batches: Mapping[str, int]) -> str:
    """What is wrong with the batches, which none of these shapes divides."""
    fewest = min(data * fsdp for data, fsdp, _ in shapes)
    faults = {name: size for name, size in batches.items() if size % fewest}
    return f"{_named(faults)}: expected multiples of {fewest}, the devices that share the rows of a batch (data x fsdp)"


def _misfit(mesh: Mesh, num_devices: int, num_slices: int, heads: Mapping[str, int]) -> str:
    """What is wrong with the settings, whatever the batches."""
    shapes = _agreeing(_shapes(num_devices), mesh)
    if not shapes:
        return f"expected sizes that multiply to {num_devices}, or -1"
    if not any(_divides(tensor, heads) for *_, tensor in shapes):
        return f"expected a mesh.tensor that divides the heads ({_named(heads)})"
    return f"expected a mesh.data that is a multiple of the {num_slices} slices (mesh.slices)"


def _alternatives(shapes: list[Shape]) -> str:
    """The meshes that would do, but for how data and fsdp share their devices."""
    if not shapes:
        return ""
    least = [shape for shape in shapes if shape[0] == shapes[0][0]]
    return f"; data x fsdp x tensor may be {' or '.join(' x '.join(map(str, shape)) for shape in least)}"


def _divides(number: int, sizes: Mapping[str, int]) -> bool:
    return all(size % number == 0 for size in sizes.values())


def _named(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def divisors(number: int) -> list[int]:
    """All of them, 1 and the number itself included."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
