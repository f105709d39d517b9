"""The text decoder for sampling: one token per row a call, with key/value caches and unstacked layers."""

import functools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from r1vl_jax.arrays import Params
from r1vl_jax.models.attention.decode import decode_attention
from r1vl_jax.models.qwen2_vl import decode_gpu
from r1vl_jax.models.qwen2_vl.cache import PrefixCache, SuffixCache
from r1vl_jax.models.qwen2_vl.model import Definition, Qwen2VL
from r1vl_jax.models.qwen2_vl.rope import RopeAngles, text_rope_angles


class Decoder:
    """Embedding, layers, final norm and head with the sampler's parameters; to be made inside a jitted function."""

    def __init__(self, definition: Definition, params: Params, *, is_tensor_parallel: bool = False):
        """Binds the parameters.

        Args:
            params: as `sampling.weight_sync` makes them: `embed_tokens`, `layers` (a list), `norm` and, where the head
                is an array of its own, `lm_head`.
            is_tensor_parallel: whether heads are sharded over the "tensor" axis of the mesh. The decoder is then used
                inside a `shard_map` over rows alone.
        """
        layer, norm = _graphdefs(definition)
        self._definition, self._is_tensor_parallel = definition, is_tensor_parallel
        self._embedding_VD = params["embed_tokens"]["embedding"]
        self._layers = [nnx.merge(layer, layer_params) for layer_params in params["layers"]]
        self._norm = nnx.merge(norm, params["norm"])
        head_DV = params["lm_head"]["kernel"] if "lm_head" in params else self._embedding_VD.T
        self.head_DV: Float[Array, "D V"] = head_DV.astype(definition.dtype)
        # The fused kernels take whole matrices without adapters.
        may_use_kernels = definition.platform == "gpu" and definition.lora is None and not is_tensor_parallel
        self._fused_layers = decode_gpu.fuse_layers(params["layers"], params["norm"]) if may_use_kernels else None

    def rope_angles(self, next_position_B: Int[Array, " B"], length: int) -> RopeAngles:
        """RoPE angles of the first `length` tokens of each completion, [B, T, H/2].

        To be called before the loop over tokens: inside it, XLA would compute them again in every layer.

        Args:
            next_position_B: position of the first token, the same in time, height and width.
        """
        position_BT = next_position_B[:, None] + jnp.arange(length)[None]
        return text_rope_angles(jnp.broadcast_to(position_BT[None], (3, *position_BT.shape)), self._definition.config)

    def __call__(
        self,
        token_B: Int[Array, " B"],
        angles: RopeAngles,
        *,
        prefix: PrefixCache,
        suffix: SuffixCache,
        step: Int[Array, ""] | Int[Array, " B"],
    ) -> tuple[Float[Array, "B D"], SuffixCache]:
        """One decode step: the forward pass of one sampled token per row; row p*G + g continues prompt p.

        Args:
            angles: RoPE angles of the token, [B, 1, H/2].
            step: the suffix column the token is written to, of all rows or of each; columns up to it are attended to.

        Returns:
            Hidden states after the final norm, from which the next token is sampled, and the updated suffix cache.
        """
        definition = self._definition
        # Rows are gathered before the cast, which would otherwise be of the whole table.
        x_B1D = self._embedding_VD[token_B[:, None]].astype(definition.dtype)
        if self._fused_layers is not None and decode_gpu.is_supported(
            definition.config, definition.dtype, num_rows=len(token_B)
        ):
            return decode_gpu.decode_token(
                self._fused_layers,
                x_B1D[:, 0],
                self._layers[0].input_layernorm(x_B1D)[:, 0],
                angles,
                prefix=prefix,
                suffix=suffix,
                step=step,
                config=definition.config,
            )
        attend = functools.partial(
            decode_attention, platform=definition.platform, is_tensor_parallel=self._is_tensor_parallel
        )
        # A Python loop, not a scan: each layer has arrays of its own, whose caches are updated in place (see `cache`).
        key_BKHT, value_BKTH = [], []
        for index, layer in enumerate(self._layers):
            x_B1D, (key, value) = layer.decode(
                x_B1D,
                angles,
                prefix=(prefix.key_PKHS[index], prefix.value_PKSH[index]),
                prefix_mask_PS=prefix.mask_PS,
                suffix=(suffix.key_BKHT[index], suffix.value_BKTH[index]),
                step=step,
                attend=attend,
            )
            key_BKHT.append(key)
            value_BKTH.append(value)
        return self._norm(x_B1D)[:, 0], SuffixCache(key_BKHT, value_BKTH)


@functools.cache
def _graphdefs(definition: Definition) -> tuple[nnx.GraphDef, nnx.GraphDef]:
    """The structure of a decoder layer and of the final norm, adapters included."""
    text = nnx.eval_shape(lambda: Qwen2VL(definition, rngs=nnx.Rngs(0))).text
    return nnx.graphdef(text.layers), nnx.graphdef(text.norm)
