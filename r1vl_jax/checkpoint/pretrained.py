"""A trained model to call, from a directory or the hub, with the inputs that a Hugging Face processor returns."""

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
    """A model's definition with its parameters; call it to get logits.

    Attributes:
        params: float32, as the learner, the sampler and `checkpoint` take them.
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
        """Float32 logits at every position; padding, on either side, gets logits without meaning.

        Args:
            input_ids: token ids [B, T], an image token for every merged patch.
            attention_mask: [B, T], not 0 where a token is real; all are by default.
            mm_token_type_ids: [B, T], 0 text, 1 image, 2 video; by default from the token ids.
            pixel_values, pixel_values_videos: patches of all images, and of all videos, end to end.
            image_grid_thw, video_grid_thw: frames, rows and columns of each, in patches.
            second_per_grid_ts: seconds between the patches' frames, for each video; 1 by default. Qwen2.5-VL only.

        Raises:
            ValueError: token ids outside the vocabulary, images that do not fit the image tokens, or seconds that fit
                neither the videos nor the model.
        """
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        sizes = self.definition.config
        if np.min(input_ids) < 0 or np.max(input_ids) >= sizes.vocab_size:
            raise ValueError(
                f"input_ids: expected ids from 0 to {sizes.vocab_size - 1}, got {np.min(input_ids)} to"
                f" {np.max(input_ids)}; were they made by the tokenizer of this model?"
            )
        inputs = from_inputs(
            given,
            image_token_id=sizes.image_token_id,
            video_token_id=sizes.video_token_id,
            tokens_per_second=sizes.vision.tokens_per_second,
        )
        return _logits(self.definition, self.params, inputs)


def load(directory_or_hub_name: str, dtype: str = "float32", mesh: jax.sharding.Mesh | None = None) -> Pretrained:
    """Loads a Qwen2-VL or Qwen2.5-VL.

    Args:
        directory_or_hub_name: a directory with config.json and safetensors, or a name like Qwen/Qwen2-VL-2B-Instruct.
        dtype: of the computation; parameters stay float32.
        mesh: devices to place the parameters on, by the table of `sharding`; the first device alone by default.

    Raises:
        FileNotFoundError: there is no such directory, on this machine or on the hub.
        ValueError: it is neither, or its tensors are not those of its configuration.
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
