"""The device mesh, and its layout over a pod's network.

data     data parallelism: replicas of the model, each with its own rows
fsdp     fully sharded data parallelism: rows, and parameters that are all-gathered for use
tensor   tensor parallelism: heads and MLP columns
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
    """Lays devices out along (data, fsdp, tensor), with neighbours on an axis next to each other in the network.

    Args:
        sizes: devices along each axis; `config.mesh_shape` fills in every -1.
        devices: `jax.Device`s, or descriptions of devices that are not attached; by default `jax.devices()`. All are
            used.
        limits: the batches and heads that are to be sharded over the mesh.

    Raises:
        ValueError: no such mesh exists; lists those that do.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=_slice_of)  # stable: keeps the order within a slice
    num_slices = len(set(map(_slice_of, devices))) if sizes.slices == -1 else sizes.slices
    shape = config.mesh_shape(sizes, len(devices), num_slices, limits)
    slice_shape = (shape[0] // num_slices, *shape[1:])
    slices = [_layout(part.tolist(), slice_shape) for part in np.split(np.array(devices), num_slices)]
    return jax.sharding.Mesh(np.concatenate(slices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _slice_of(device: Any) -> int:
    """The index of the device's TPU slice or GPU machine; 0 on platforms that report none."""
    return getattr(device, "slice_index", 0)


def _layout(devices: list[Any], shape: config.Shape) -> np.ndarray:
    """Axes follow the links of a TPU's network, unless tensor then spans processes; otherwise the order given."""
    if len(set(map(_slice_of, devices))) > 1:
        return np.array(devices).reshape(shape)
    topology_aware = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if not _spans_processes(topology_aware):
        return topology_aware
    return np.array(sorted(devices, key=_process_of)).reshape(shape)


def _spans_processes(devices: np.ndarray) -> bool:
    """Whether a tensor group has devices of several processes, which would then share rows."""
    groups = devices.reshape(-1, devices.shape[-1])
    return any(len(set(map(_process_of, group))) > 1 for group in groups)


def _process_of(device: Any) -> int:
    return getattr(device, "process_index", 0)
