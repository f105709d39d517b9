"""The mesh of devices, and how it is laid out over a pod's network.

data     copies of the model, each with its own rows
fsdp     rows too, and parameters cut into pieces that are gathered for use
tensor   heads and MLP columns
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType

from r1vl_jax import config

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    sizes: config.Mesh, devices: Sequence[Any] | None = None, limits: config.MeshLimits | None = None
) -> jax.sharding.Mesh:
    """Lays devices out along (data, fsdp, tensor), neighbours in the network side by side.

    Args:
        sizes: devices along each axis; see `config.mesh_shape` for those that are left open.
        devices: `jax.Device`s, attached or not; by default all there are. Every one is used.
        limits: what is to be divided over the mesh.

    Raises:
        ValueError: such a mesh cannot be; says which could.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=_slice_of)  # within a slice the order stays
    num_slices = len(set(map(_slice_of, devices))) if sizes.slices == -1 else sizes.slices
    shape = config.mesh_shape(sizes, len(devices), num_slices, limits)
    of_slice = (shape[0] // num_slices, *shape[1:])
    slices = [_laid_out(part.tolist(), of_slice) for part in np.split(np.array(devices), num_slices)]
    return jax.sharding.Mesh(np.concatenate(slices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _slice_of(device: Any) -> int:
    """The slice of a pod, or the machine with GPUs, that a device belongs to; platforms without any have one."""
    return getattr(device, "slice_index", 0)


def _laid_out(devices: list[Any], shape: config.Shape) -> np.ndarray:
    """Axes along the links of a TPU's network, unless tensor then spans processes; elsewhere in the order given."""
    if len(set(map(_slice_of, devices))) > 1:
        return np.array(devices).reshape(shape)
    along_links = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if not _spans_processes(along_links):
        return along_links
    return np.array(sorted(devices, key=_process_of)).reshape(shape)


def _spans_processes(devices: np.ndarray) -> bool:
    """Whether devices of several processes stand along tensor, so that processes would share rows."""
    groups = devices.reshape(-1, devices.shape[-1])
    return any(len(set(map(_process_of, group))) > 1 for group in groups)


def _process_of(device: Any) -> int:
    return getattr(device, "process_index", 0)
