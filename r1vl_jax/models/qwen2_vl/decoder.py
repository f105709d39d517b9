"""Decoding: the text decoder with its layers one by one, reading one drawn token per row."""

import functools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from r1vl_jax.arrays import Params
from r1vl_jax.models.qwen2_vl.cache import PrefixCache, SuffixCache
from r1vl_jax.models.qwen2_vl.model import Definition, Qwen2VL
from r1vl_jax.models.qwen2_vl.rope import text_rotation


class Decoder:
    """What decoding needs of a model; to be made inside the jitted function that uses it."""

    def __init__(self, definition: Definition, copy: Params):
        """Binds a copy of `sampling.sync`: `embed_tokens`, `layers` (a list), `norm` and, if it is apart, `lm_head`."""
        layer, norm = _graphdefs(definition)
        self._config, self._dtype = definition.config, jnp.dtype(definition.dtype)
        self._embedding_VD = copy["embed_tokens"]["embedding"]
        self._layers = [nnx.merge(layer, params) for params in copy["layers"]]
        self._norm = nnx.merge(norm, copy["norm"])
        head_DV = self._embedding_VD.T if self._config.tie_word_embeddings else copy["lm_head"]["kernel"]
        self.head_DV: Float[Array, "D V"] = head_DV.astype(self._dtype)

    def __call__(
        self,
        token_B: Int[Array, " B"],
        position_B: Int[Array, " B"],
        *,
        prefix: PrefixCache,
        suffix: SuffixCache,
        step: Int[Array, ""] | Int[Array, " B"],
    ) -> tuple[Float[Array, "B D"], SuffixCache]:
        """Reads one drawn token per row; row p*G + g continues prompt p.

        Args:
            position_B: rope position of the token, the same in time, height and width.
            step: the column of the suffix it is written to, of all rows or of each; columns up to it are attended to.

        Returns:
            Hidden states behind the final norm, for drawing the next token, and the suffix with this one in it.
        """
        x_B1D = self._embedding_VD[token_B[:, None]].astype(self._dtype)
        position_3B1 = jnp.broadcast_to(position_B[None, :, None], (3, *position_B.shape, 1))
        rotation = text_rotation(position_3B1, self._config)
        key_BKTH, value_BKTH = [], []
        for index, layer in enumerate(self._layers):
            x_B1D, (key, value) = layer.decode(
                x_B1D,
                rotation,
                prefix=(prefix.key_PKSH[index], prefix.value_PKSH[index]),
                prefix_mask_PS=prefix.mask_PS,
                suffix=(suffix.key_BKTH[index], suffix.value_BKTH[index]),
                step=step,
            )
            key_BKTH.append(key)
            value_BKTH.append(value)
        return self._norm(x_B1D)[:, 0], SuffixCache(key_BKTH, value_BKTH)


@functools.cache
def _graphdefs(definition: Definition) -> tuple[nnx.GraphDef, nnx.GraphDef]:
    """The structure of a decoder layer and of the final norm, adapters included."""
    text = nnx.eval_shape(lambda: Qwen2VL(definition, rngs=nnx.Rngs(0))).text
    return nnx.graphdef(text.layers), nnx.graphdef(text.norm)
