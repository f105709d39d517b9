"""The vision tower of Qwen2.5-VL: window attention's segment ids, and the shardings of its parameters."""

import dataclasses
import functools

import jax
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as Spec

from r1vl_jax.arrays import PackedVision
from r1vl_jax.config import Mesh
from r1vl_jax.data.images import pack
from r1vl_jax.models.attention.attention import attention
from r1vl_jax.models.presets import preset
from r1vl_jax.models.qwen2_5_vl.vision import WindowedVision, window_ids
from r1vl_jax.models.qwen2_vl.layers import scan
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.sharding.rules import shardings


def _packed(*grids: tuple[int, int, int], num_shards: int = 1) -> PackedVision:
    rng = np.random.default_rng(0)
    visions = [(rng.normal(size=(np.prod(grid), 1176)).astype(np.float32), grid) for grid in grids]
    return pack(visions, bucket=16, num_shards=num_shards)[0]


def test_windows_tile_every_frame_from_its_corner():
    vision = _packed((2, 4, 6), (1, 2, 2))
    window_M = np.asarray(window_ids(vision, 4))[0]
    is_real_M = vision.segment_ZM[0] != 0
    tile_M3 = np.concatenate([vision.segment_ZM[0][:, None], vision.position_ZM2[0] // 4], axis=1)[is_real_M]
    assert len(np.unique(tile_M3, axis=0)) == 5  # two frames of a whole and a half window each, and a small image
    is_same_tile_MM = np.all(tile_M3[:, None] == tile_M3[None], axis=2)
    np.testing.assert_array_equal(window_M[is_real_M][:, None] == window_M[is_real_M], is_same_tile_MM)
    assert np.all(window_M[is_real_M] > 0)
    assert not np.any(window_M[~is_real_M])


def test_window_ids_do_not_depend_on_other_shards():
    """A large image in one shard does not change the ids in another: computing them needs no communication."""
    alone, with_large = _packed((1, 4, 4)), _packed((1, 4, 8), (1, 4, 4), num_shards=2)
    np.testing.assert_array_equal(
        np.asarray(window_ids(with_large, 4))[1, :16] - window_ids(alone, 4)[0], with_large.segment_ZM[1, :16] - 1
    )


def test_blocks_attend_to_windows_except_full_attention_blocks():
    config = dataclasses.replace(preset("2.5-tiny").vision, depth=3, fullatt_block_indexes=(1,))
    attend = functools.partial(attention, platform="cpu")
    scan_blocks = functools.partial(scan, remat="none", is_unrolled=False)
    make = functools.partial(WindowedVision, config, 8, dtype="float32", scan=scan_blocks, attend=attend)
    vision = _packed((1, 4, 6))
    segment_LZM = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))).segment_ids(vision)
    np.testing.assert_array_equal(segment_LZM, [window_ids(vision, 4), vision.segment_ZM, window_ids(vision, 4)])


def test_shardings_of_the_blocks():
    mesh = make_mesh(Mesh(data=1, fsdp=4, tensor=2))
    params = Definition(preset("2.5-tiny")).abstract_params()
    blocks = jax.tree.map(lambda sharding: sharding.spec, shardings(params, mesh))["visual"]["blocks"]
    assert blocks["mlp"]["gate_proj"] == {"kernel": Spec(None, "fsdp", "tensor"), "bias": Spec(None, "tensor")}
    assert blocks["mlp"]["up_proj"] == {"kernel": Spec(None, "fsdp", "tensor"), "bias": Spec(None, "tensor")}
    assert blocks["mlp"]["down_proj"] == {"kernel": Spec(None, "tensor", "fsdp"), "bias": Spec(None, None)}
    assert blocks["norm1"] == {"scale": Spec(None, None)}
