"""`r1vl_jax.load`: a model from a directory or the hub, called with the outputs of a Hugging Face processor."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from r1vl_jax import config
from r1vl_jax.arrays import PromptBatch
from r1vl_jax.checkpoint.hf.load import load_params, read_config
from r1vl_jax.data.prompts import from_inputs
from r1vl_jax.models.qwen2_vl.model import Definition, Params
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.sharding.rules import shardings


@dataclass(frozen=True)
class Pretrained:
    """A model's definition with its parameters; calling it returns logits.

    Attributes:
        params: float32, in the layout that the learner and the sampler use.
    """

    definition: Definition
    params: Params

    def __call__(
        self,
        *,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        mm_token_type_ids: np.ndarray | None = None,
        pixel_values: np.ndarray | None = None,
        image_grid_thw: np.ndarray | None = None,
        pixel_values_videos: np.ndarray | None = None,
        video_grid_thw: np.ndarray | None = None,
        second_per_grid_ts: np.ndarray | None = None,
    ) -> Float[Array, "B T V"]:
        """Float32 logits at every position; those at padding, on either side, are meaningless.

        Args:
            input_ids: token ids [B, T], with one image token for every merged patch.
            attention_mask: [B, T], nonzero where a token is real; by default all are.
            mm_token_type_ids: [B, T], 0 text, 1 image, 2 video; by default derived from the token ids.
            pixel_values, pixel_values_videos: patches of all images, and of all videos, concatenated.
            image_grid_thw, video_grid_thw: frames, rows and columns of each, in patches.
            second_per_grid_ts: seconds from one frame pair to the next, for each video; 1 by default. Qwen2.5-VL only.

        Raises:
            ValueError: token ids are outside the vocabulary, images do not match the image tokens, or
                `second_per_grid_ts` does not match the videos or the model.
        """
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        model = self.definition.config
        if np.min(input_ids) < 0 or np.max(input_ids) >= model.vocab_size:
            raise ValueError(
                f"input_ids: expected ids from 0 to {model.vocab_size - 1}, got {np.min(input_ids)} to"
                f" {np.max(input_ids)}; were they made by the tokenizer of this model?"
            )
        inputs = from_inputs(
            given,
            image_token_id=model.image_token_id,
            video_token_id=model.video_token_id,
            tokens_per_second=model.vision.tokens_per_second,
        )
        return _logits(self.definition, self.params, inputs)


def load(directory_or_hub_name: str, dtype: str = "float32", mesh: jax.sharding.Mesh | None = None) -> Pretrained:
    """Loads a Qwen2-VL or Qwen2.5-VL.

    Args:
        directory_or_hub_name: a directory with config.json and safetensors, or a name like Qwen/Qwen2-VL-2B-Instruct.
        dtype: of the computation; parameters are float32.
        mesh: devices that the parameters are sharded over, by the rules of `sharding`; by default the first device.

    Raises:
        FileNotFoundError: there is no such directory, on this machine or on the hub.
        ValueError: it is another model, or its tensors do not match its configuration.
    """
    mesh = make_mesh(config.Mesh(), jax.devices()[:1]) if mesh is None else mesh
    platform = mesh.devices.flat[0].platform
    definition = Definition(read_config(directory_or_hub_name), dtype, platform=platform, mesh=mesh)
    placement = shardings(definition.abstract_params(), mesh)
    return Pretrained(definition, load_params(directory_or_hub_name, definition, placement=placement))


@partial(jax.jit, static_argnums=0)
def _logits(definition: Definition, params: Params, inputs: PromptBatch) -> Float[Array, "B T V"]:
    model = definition.bind(params)
    hidden_BTD, _ = model.prefill(inputs, model.image_features(inputs.vision))
    return jnp.matmul(hidden_BTD, model.head(), preferred_element_type=jnp.float32)
