"""The device mesh: open sizes filled in, impossible sizes refused with possible ones, slices, and network layout."""

import re
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from r1vl_jax.aot.topologies import parse_topology, set_up_compile_only
from r1vl_jax.config import Config, Eval, Mesh, MeshLimits, Train, mesh_shape
from r1vl_jax.models.presets import preset
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.training.components import mesh_limits


def limits(model: str = "7b", prompts: int = 16) -> MeshLimits:
    train = Train(stages=("step_grpo",), prompts_per_update=prompts)
    return mesh_limits(Config(train=train, eval=Eval(batch_size=128)), preset(model))


@pytest.mark.parametrize(
    ("num_devices", "num_slices", "model", "prompts", "shape"),
    [
        (1, 1, "7b", 16, (1, 1, 1)),
        (4, 1, "7b", 16, (1, 4, 1)),  # v5p-8
        (8, 1, "7b", 16, (1, 8, 1)),  # v6e-8
        (16, 1, "7b", 16, (1, 16, 1)),  # v5e-16
        (64, 1, "7b", 16, (1, 16, 4)),  # v5e-64, v5p-128: more chips than prompts
        (64, 1, "7b", 64, (1, 64, 1)),
        (16, 1, "7b", 4, (1, 4, 4)),  # the paper's 4 prompts
        (16, 1, "2b", 8, (1, 8, 2)),
        (128, 1, "72b", 16, (1, 16, 8)),  # v5p-256
        (128, 2, "7b", 32, (2, 16, 4)),  # two slices of v6e-64
    ],
)
def test_open_sizes_are_filled_in(num_devices, num_slices, model, prompts, shape):
    assert mesh_shape(Mesh(), num_devices, num_slices, limits(model, prompts)) == shape


@pytest.mark.parametrize(
    ("mesh", "shape"),
    [
        (Mesh(), (1, 8, 1)),
        (Mesh(data=2), (2, 4, 1)),
        (Mesh(data=-1, fsdp=1), (8, 1, 1)),
        (Mesh(tensor=2), (1, 4, 2)),
        (Mesh(data=2, tensor=2), (2, 2, 2)),
        (Mesh(fsdp=4), (2, 4, 1)),
    ],
)
def test_sizes_that_are_set_stay(mesh, shape):
    made = make_mesh(mesh)
    assert made.devices.shape == shape
    assert made.axis_names == ("data", "fsdp", "tensor")
    assert set(made.axis_types) == {AxisType.Auto}
    assert {device.id for device in made.devices.flat} == set(range(8))


def test_mesh_of_some_devices():
    mesh = make_mesh(Mesh(fsdp=2), jax.devices()[4:])
    assert mesh.devices.shape == (2, 2, 1)
    assert {device.id for device in mesh.devices.flat} == {4, 5, 6, 7}


SEVEN = "data x fsdp x tensor may be 1 x 8 x 1 or 1 x 4 x 2 or 1 x 2 x 4"


@pytest.mark.parametrize(
    ("mesh", "num_devices", "num_slices", "text"),
    [
        (
            Mesh(1, 3, 1),
            8,
            1,
            "mesh.data=1 x mesh.fsdp=3 x mesh.tensor=1 on 8 devices: expected sizes that multiply to 8, or -1; "
            + SEVEN,
        ),
        (Mesh(tensor=16), 8, 1, "mesh.tensor=16 on 8 devices: expected sizes that multiply to 8, or -1; " + SEVEN),
        (
            Mesh(tensor=8),
            8,
            1,
            "expected a mesh.tensor that divides the heads (num_attention_heads=28, num_key_value_heads=4,"
            " vision.num_heads=16); " + SEVEN,
        ),
        (
            Mesh(tensor=1),
            64,
            1,
            "train.prompts_per_update=16: expected multiples of 64, the devices that share the rows of a batch (data x"
            " fsdp); data x fsdp x tensor may be 1 x 16 x 4",
        ),
        (Mesh(), 128, 1, "train.prompts_per_update=16: expected multiples of 32, the devices that share the rows of a"),
        (
            Mesh(data=1),
            8,
            2,
            "expected a mesh.data that is a multiple of the 2 slices (mesh.slices); data x fsdp x tensor may be"
            " 2 x 4 x 1 or 2 x 2 x 2 or 2 x 1 x 4",
        ),
        (Mesh(), 16, 3, "mesh.slices=3 does not divide the 16 devices; set one of [1, 2, 4, 8, 16]"),
    ],
)
def test_impossible_meshes_are_refused_with_possible_ones(mesh, num_devices, num_slices, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        mesh_shape(mesh, num_devices, num_slices, limits())


@dataclass(frozen=True)
class Chip:
    """A v6e chip: the attributes of a device that a layout depends on."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    core_on_chip: int = 0
    process_index: int = 0


def pod(num_slices: int, rows: int, columns: int) -> list[Chip]:
    """Slices of rows x columns chips, in random order."""
    places = np.random.default_rng(0).permutation(list(np.ndindex(num_slices, rows, columns))).tolist()
    return [Chip(index, part, (row, column, 0)) for index, (part, row, column) in enumerate(places)]


def test_only_the_data_axis_spans_slices():
    mesh = make_mesh(Mesh(data=4), pod(2, 4, 4))
    assert mesh.devices.shape == (4, 8, 1)
    slices = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    assert (slices[:2] == 0).all()
    assert (slices[2:] == 1).all()
    assert make_mesh(Mesh(), pod(2, 4, 4)).devices.shape == (2, 16, 1)


def test_neighbours_on_an_axis_are_neighbours_in_the_network():
    mesh = make_mesh(Mesh(tensor=4), pod(1, 4, 4))
    for group in mesh.devices.reshape(-1, 4):
        rows, columns = (np.ptp([chip.coords[axis] for chip in group]) for axis in (0, 1))
        assert (rows, columns) in {(0, 3), (3, 0), (1, 1)}  # a ring of the torus, or a square


@pytest.mark.parametrize("topology", ["v5e-16", "v5e-64", "v6e-64", "v5p-128"])
def test_a_tensor_group_is_of_one_process(topology):
    """A process loads rows, and a tensor group shares them; on real pods a process has four devices."""
    pytest.importorskip("libtpu")
    set_up_compile_only()
    mesh = make_mesh(Mesh(data=1, fsdp=-1, tensor=4), parse_topology(topology).devices())
    groups = mesh.devices.reshape(-1, 4)
    assert all(len({device.process_index for device in group}) == 1 for group in groups)
    assert len({device.id for device in groups.flat}) == groups.size


def test_slices_may_be_set_where_devices_report_none():
    mesh = make_mesh(Mesh(slices=2))
    assert [[device.id for device in row] for row in mesh.devices[..., 0]] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_slices_may_be_ignored():
    assert make_mesh(Mesh(slices=1), pod(2, 1, 2)).devices.shape == (1, 4, 1)
