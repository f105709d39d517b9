"""Decoding: the text decoder with its layers one by one, reading one drawn token per row."""

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
    """What decoding needs of a model; to be made inside the jitted function that uses it."""

    def __init__(self, definition: Definition, copy: Params, *, is_divided: bool = False):
        """Binds a copy of `sampling.sync`: `embed_tokens`, `layers` (a list), `norm` and, if it is apart, `lm_head`.

        Args:
            is_divided: whether heads lie over the tensor axis of the mesh in whose `shard_map` over rows it is used.
        """
        layer, norm = _graphdefs(definition)
        self._definition, self._is_divided = definition, is_divided
        self._embedding_VD = copy["embed_tokens"]["embedding"]
        self._layers = [nnx.merge(layer, params) for params in copy["layers"]]
        self._norm = nnx.merge(norm, copy["norm"])
        head_DV = copy["lm_head"]["kernel"] if "lm_head" in copy else self._embedding_VD.T
        self.head_DV: Float[Array, "D V"] = head_DV.astype(definition.dtype)
        may_have_kernels = definition.platform == "gpu" and definition.lora is None and not is_divided
        self._gpu_layers = decode_gpu.make_layers(copy["layers"], copy["norm"]) if may_have_kernels else None

    def rope_angles(self, next_position_B: Int[Array, " B"], length: int) -> RopeAngles:
        """Angles of the first `length` tokens behind each prompt, [B, T, H/2].

        To be made before the loop over tokens: inside it, XLA makes them again in every layer.

        Args:
            next_position_B: rope position of the first token, the same in time, height and width.
        """
        position_BT = next_position_B[:, None] + jnp.arange(length)[None]
        return text_rope_angles(jnp.broadcast_to(position_BT[None], (3, *position_BT.shape)), self._definition.config)

    def __call__(
        self,
        token_B: Int[Array, " B"],
        rotation: RopeAngles,
        *,
        prefix: PrefixCache,
        suffix: SuffixCache,
        step: Int[Array, ""] | Int[Array, " B"],
    ) -> tuple[Float[Array, "B D"], SuffixCache]:
        """Reads one drawn token per row; row p*G + g continues prompt p.

        Args:
            rotation: of the token, [B, 1, H/2].
            step: the column of the suffix it is written to, of all rows or of each; columns up to it are attended to.

        Returns:
            Hidden states behind the final norm, for drawing the next token, and the suffix with this one in it.
        """
        definition = self._definition
        x_B1D = self._embedding_VD[token_B[:, None]].astype(definition.dtype)
        if self._gpu_layers is not None and decode_gpu.is_supported(
            definition.config, definition.dtype, num_rows=len(token_B)
        ):
            return decode_gpu.decode_token(
                self._gpu_layers,
                x_B1D[:, 0],
                self._layers[0].input_layernorm(x_B1D)[:, 0],
                rotation,
                prefix=prefix,
                suffix=suffix,
                step=step,
                config=definition.config,
            )
        attend = functools.partial(decode_attention, platform=definition.platform, is_divided=self._is_divided)
        key_BKHT, value_BKTH = [], []
        for index, layer in enumerate(self._layers):
            x_B1D, (key, value) = layer.decode(
                x_B1D,
                rotation,
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
