"""The Triton IR of the GPU kernels, lowered without a GPU: the interpreter does not see out-of-bounds accesses."""

import dataclasses
import functools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from r1vl_jax.models import decode_linear_gpu
from r1vl_jax.models.attention import flash_decode_gpu
from r1vl_jax.models.lora import LoRA
from r1vl_jax.models.presets import PRESETS
from r1vl_jax.models.qwen2_vl.cache import PrefixCache
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sampling.loop import Prefilled, decode
from r1vl_jax.sampling.methods import Temperature
from r1vl_jax.sampling.sampler import Sampler

Shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)


def _lowered(function, *inputs):
    return jax.jit(function).trace(*inputs).lower(lowering_platforms=("cuda",))


@pytest.fixture
def operations(monkeypatch, capsys):
    """A function -> the (operation, is masked, type) of its loads, stores and dots in Triton IR."""
    monkeypatch.setattr(pl, "pallas_call", functools.partial(pl.pallas_call, debug=True))  # prints the IR

    def operations_of(function, *inputs) -> list[tuple[str, bool, str]]:
        _lowered(function, *inputs)
        pattern = r"tt\.(load|store|dot) (%[^:]*?)(?:, inputPrecision = \w+)? : (.*?) \""
        found = re.findall(pattern, capsys.readouterr().out)
        unmasked = {"load": 1, "store": 2, "dot": 3}
        return [(name, operands.count("%") > unmasked[name], kind) for name, operands, kind in found]

    return operations_of


@pytest.mark.parametrize(("num_rows", "padded"), [(1, 16), (8, 16), (16, 16), (24, 32), (64, 64)])
@pytest.mark.parametrize("function", [decode_linear_gpu.matmul_split_k, decode_linear_gpu.swiglu])
def test_padded_rows_are_masked(operations, function, num_rows, padded):
    """Weights are loaded without a mask, which would make it element by element; dots accumulate in float32."""
    kernels = [Shape((768, 128))] * (1 if function is decode_linear_gpu.matmul_split_k else 2)
    found = operations(function, Shape((num_rows, 768)), *kernels)
    x, weights = f"tensor<{padded}x64x!tt.ptr<bf16>>", "tensor<64x64x!tt.ptr<bf16>>"
    is_masked = num_rows < padded
    assert {mask for name, mask, kind in found if name == "load" and kind == x} == {is_masked}
    assert {mask for name, mask, _ in found if name == "store"} == {is_masked}
    assert not any(mask for name, mask, kind in found if name == "load" and kind == weights)
    dot = f"tensor<{padded}x64xbf16> * tensor<64x64xbf16> -> tensor<{padded}x64xf32>"
    assert [kind for name, _, kind in found if name == "dot"] == [dot] * len(kernels)


@pytest.mark.parametrize(
    ("num_samples", "num_queries", "prefix_rows", "suffix_rows"), [(4, 6, 32, 16), (2, 16, 32, 16), (1, 17, 32, 32)]
)
def test_padded_queries_are_masked(operations, num_samples, num_queries, prefix_rows, suffix_rows):
    def attend(query, key, value, mask, *caches):
        return flash_decode_gpu.flash_decode(
            query, (key, value), prefix=caches[:2], prefix_mask_PS=mask, suffix=caches[2:], step=jnp.int32(3)
        )

    rows, head_dim = 2 * num_samples, 128
    caches = [Shape((number, 2, *shape)) for number in (2, rows) for shape in ((head_dim, 192), (192, head_dim))]
    new, mask = Shape((rows, 2, head_dim)), Shape((2, 192), dtype=bool)
    found = operations(attend, Shape((rows, 2 * num_queries, head_dim)), new, new, mask, *caches)
    for padded in (prefix_rows, suffix_rows):
        for name, dtype in (("load", "bf16"), ("store", "f32")):
            assert (name, True, f"tensor<{padded}x{head_dim}x!tt.ptr<{dtype}>>") in found
            assert (name, False, f"tensor<{padded}x{head_dim}x!tt.ptr<{dtype}>>") not in found
    for block in (f"{head_dim}x64", f"64x{head_dim}"):
        assert ("load", False, f"tensor<{block}x!tt.ptr<bf16>>") in found
    assert [kind for name, _, kind in found if name == "dot"] == [
        kind
        for padded in (prefix_rows, suffix_rows)
        for kind in (
            f"tensor<{padded}x{head_dim}xbf16> * tensor<{head_dim}x64xbf16> -> tensor<{padded}x64xf32>",
            f"tensor<{padded}x64xbf16> * tensor<64x{head_dim}xbf16> -> tensor<{padded}x{head_dim}xf32>",
        )
    ]


@pytest.mark.parametrize(
    ("lora", "kernels_per_layer"),
    [
        (
            None,
            {
                "matmul_split_k": 3,
                "qkv_heads_with_rope": 1,
                "flash_decode": 2,
                "merge_decode": 1,
                "fused_add_rms_norm": 2,
                "swiglu": 1,
            },
        ),
        (LoRA(4, 8.0, ("q_proj",)), {"flash_decode": 2, "merge_decode": 1}),
    ],
)
def test_a_decoder_layer_is_ten_kernels(lora, kernels_per_layer):
    """In bfloat16; with adapters XLA computes the linear layers."""
    config = dataclasses.replace(PRESETS["2b"], num_hidden_layers=3)
    definition = Definition(config, dtype="bfloat16", platform="gpu", lora=lora)
    params = jax.tree.map(lambda leaf: Shape(leaf.shape), definition.abstract_params()["text"])
    layer = jax.tree.map(lambda leaf: Shape(leaf.shape[1:]), params["layers"])
    integers = Shape((2,), dtype=jnp.int32)
    caches = [[Shape((2, 2, *shape))] * 3 for shape in ((128, 64), (64, 128))]
    prefilled = Prefilled(
        Shape((2, config.hidden_size)), PrefixCache(*caches, Shape((2, 64), dtype=bool)), integers, integers
    )
    sampler = Sampler(definition, Temperature(1.0), 4, 64, (1,), ())
    key = jax.eval_shape(lambda: jax.random.key(0))
    text = decode(sampler).trace(params | {"layers": [layer] * 3}, prefilled, key).lower(lowering_platforms=("cuda",))
    kernels = Counter(re.findall(r'name = "(\w+)"', text.as_text()))
    assert kernels == {name: 3 * number for name, number in kernels_per_layer.items()}
