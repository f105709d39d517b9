"""Qwen2-VL or Qwen2.5-VL as one module, and its definition, which binds plain nested parameters to it inside `jit`.

Example:

definition = Definition(PRESETS["tiny"])
params = jax.jit(definition.init)(jax.random.key(0))     # plain nested dict, float32

@jax.jit
def logits(params, prompts):
    model = definition.bind(params)
    hidden_PSD, _ = model.prefill(prompts, model.image_features(prompts.vision))
    return hidden_PSD @ model.head()
"""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from r1vl_jax.arrays import PackedVision, Params, PromptBatch
from r1vl_jax.models.attention.attention import attention
from r1vl_jax.models.attention.shared_prefix import SharedPrefix
from r1vl_jax.models.lora import LoRA, add_adapters
from r1vl_jax.models.qwen2_5_vl import config as qwen2_5_vl
from r1vl_jax.models.qwen2_5_vl.vision import WindowedVision
from r1vl_jax.models.qwen2_vl.cache import PrefixCache
from r1vl_jax.models.qwen2_vl.config import Config, TowerConfig, VisionConfig
from r1vl_jax.models.qwen2_vl.layers import linear, scan
from r1vl_jax.models.qwen2_vl.rope import text_rope_angles
from r1vl_jax.models.qwen2_vl.text import DecoderLayer, Text
from r1vl_jax.models.qwen2_vl.vision import Vision

# The architectures share the text decoder and differ in the vision tower.
_TOWER_OF: dict[type[TowerConfig], type[Vision]] = {VisionConfig: Vision, qwen2_5_vl.VisionConfig: WindowedVision}


@dataclass(frozen=True)
class Definition:
    """A model's architecture and how it is computed; hashable, so it can be a static argument of `jit`.

    Attributes:
        dtype: of the computation; parameters keep their own.
        remat: activation checkpointing: "none", "block", "dots" or "offload" (see `layers.scan`).
        scan_layers: whether layers are compiled as one, in a loop.
        platform: "cpu", "gpu" or "tpu", where the program will run.
        mesh: the devices it will run on, see `sharding`; None is a single device.
        lora: the adapter; None is the base model.
    """

    config: Config
    dtype: str = "float32"
    remat: str = "block"
    scan_layers: bool = True
    platform: str = "cpu"
    mesh: Mesh | None = None
    lora: LoRA | None = None

    @property
    def base(self) -> "Definition":
        """The same model without an adapter."""
        return dataclasses.replace(self, lora=None)

    def init(self, key: Key[Array, ""]) -> Params:
        """Randomly initialised float32 parameters. An adapter adds its own and changes none of the base's."""
        return nnx.to_pure_dict(nnx.state(Qwen2VL(self, rngs=nnx.Rngs(key))))

    def abstract_params(self) -> Params:
        """Shapes and dtypes of what `init` returns, without allocating it."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def bind(self, params: Params) -> "Qwen2VL":
        """The model with these parameters; to be called inside the jitted function that uses it."""
        return nnx.merge(_graphdef(self), params)


# Cached: every trace binds, and the structure of a definition is always the same.
@functools.cache
def _graphdef(definition: Definition) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: Qwen2VL(definition, rngs=nnx.Rngs(0))))


class Qwen2VL(nnx.Module):
    """Vision tower, text decoder and language-model head."""

    def __init__(self, definition: Definition, *, rngs: nnx.Rngs):
        config, dtype = definition.config, jnp.dtype(definition.dtype)
        # Layers are given attention and scan as functions: they know neither the platform nor the mesh.
        attend = functools.partial(attention, platform=definition.platform, mesh=definition.mesh)
        self.definition = definition
        self.scan = functools.partial(scan, remat=definition.remat, is_unrolled=not definition.scan_layers)
        self.visual = _TOWER_OF[type(config.vision)](
            config.vision, config.hidden_size, dtype=dtype, scan=self.scan, attend=attend, rngs=rngs
        )
        self.text = Text(config, dtype=dtype, attend=attend, rngs=rngs)
        # A tied head is the embedding and has no parameters of its own, see `head`.
        if not config.tie_word_embeddings:
            self.lm_head = linear(config.hidden_size, config.vocab_size, use_bias=False, dtype=dtype, rngs=rngs)
        if definition.lora is not None:
            # Last, so that the base's parameters get the same random keys with and without an adapter.
            add_adapters(self, definition.lora, rngs)

    def image_features(self, vision: PackedVision) -> Float[Array, "M D"]:
        """One feature for each 2x2 square of patches, flattened over [Z, M/4] as `feature_index` counts them."""
        return self.visual(vision).reshape(-1, self.definition.config.hidden_size)

    def head(self) -> Float[Array, "D V"]:
        """The language-model head (the transposed embedding if tied), in the dtype of the computation."""
        config = self.definition.config
        head_DV = self.text.embed_tokens.embedding.T if config.tie_word_embeddings else self.lm_head.kernel[...]
        return head_DV.astype(self.definition.dtype)

    def embed(
        self, token_BT: Int[Array, "B T"], feature_index_BT: Int[Array, "B T"], feature_MD: Float[Array, "M D"]
    ) -> Float[Array, "B T D"]:
        """Token embeddings, with image features in the place of image tokens."""
        embedding_BTD = self.text.embed(token_BT)
        # Every token gathers some feature, text tokens the first one, which `where` discards: shapes stay static.
        feature_BTD = feature_MD[jnp.maximum(feature_index_BT, 0)].astype(embedding_BTD.dtype)
        return jnp.where(feature_index_BT[:, :, None] >= 0, feature_BTD, embedding_BTD)

    def hidden_states(
        self,
        token_BT: Int[Array, "B T"],
        *,
        mask_BT: Bool[Array, "B T"],
        position_3BT: Int[Array, "3 B T"],
        feature_index_BT: Int[Array, "B T"],
        feature_MD: Float[Array, "M D"],
        shared_prefix: SharedPrefix | None = None,
    ) -> Float[Array, "B T D"]:
        """Hidden states after the final norm, for whole sequences with padding anywhere.

        Args:
            mask_BT: True where a token is real; elsewhere hidden states are finite but meaningless.
            feature_index_BT: which feature replaces a token's embedding; -1 for text.
            shared_prefix: the layout, if a row holds several completions after one prompt.
        """
        x_BTD = self.embed(token_BT, feature_index_BT, feature_MD)
        angles = text_rope_angles(position_3BT, self.definition.config)

        def apply(layer: DecoderLayer, x_BTD: Float[Array, "B T D"]):
            return layer(x_BTD, angles, mask_BT, shared_prefix)[0], None  # training needs no cache

        x_BTD, _ = self.scan(self.text.layers, apply, x_BTD)
        return self.text.norm(x_BTD)

    def prefill(
        self, prompts: PromptBatch, feature_MD: Float[Array, "M D"]
    ) -> tuple[Float[Array, "P S D"], PrefixCache]:
        """Hidden states of the prompts after the final norm, and the key/value cache that decoding attends to."""
        x_PSD = self.embed(prompts.token_PS, prompts.feature_index_PS, feature_MD)
        angles = text_rope_angles(prompts.position_3PS, self.definition.config)

        def apply(layer: DecoderLayer, x_PSD: Float[Array, "P S D"]):
            return layer(x_PSD, angles, prompts.mask_PS)

        x_PSD, (key_LPSKH, value_LPSKH) = self.scan(self.text.layers, apply, x_PSD)
        # Once to the layouts of the cache, and unstacked, instead of at every decode step (see `cache`).
        key_LPKHS, value_LPKSH = jnp.moveaxis(key_LPSKH, 2, 4), jnp.swapaxes(value_LPSKH, 2, 3)
        return self.text.norm(x_PSD), PrefixCache(list(key_LPKHS), list(value_LPKSH), prompts.mask_PS)
