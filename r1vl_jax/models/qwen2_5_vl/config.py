"""Architecture configuration of Qwen2.5-VL models: Qwen2-VL's with another vision tower, and presets."""

from dataclasses import dataclass, replace

from r1vl_jax.models.qwen2_vl import config as qwen2_vl
from r1vl_jax.models.qwen2_vl.config import Config, TowerConfig


@dataclass(frozen=True, kw_only=True)
class VisionConfig(TowerConfig):
    """Qwen2.5-VL's vision tower and the merger after it.

    Attributes:
        intermediate_size: MLP width.
        window_size: side, in pixels, of the square windows within which patches attend to each other.
        fullatt_block_indexes: the blocks with full attention, to the whole frame.
        tokens_per_second: temporal RoPE positions in a second of video.
    """

    intermediate_size: int
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    tokens_per_second: int = 4  # the published models have 2

    @property
    def window_patches(self) -> int:
        """Side of a window, in patches."""
        return self.window_size // (self.patch_size * self.spatial_merge_size) * self.spatial_merge_size


_PUBLISHED_VISION = VisionConfig(depth=32, embed_dim=1280, num_heads=16, intermediate_size=3420, tokens_per_second=2)
_TINY_VISION = VisionConfig(
    depth=2,
    embed_dim=96,
    num_heads=4,
    intermediate_size=256,
    window_size=56,  # two digits of the embedded task's images
    fullatt_block_indexes=(1,),
    tokens_per_second=2,
)

# Published sizes: Bai et al., Qwen2.5-VL, 2025, https://arxiv.org/abs/2502.13923, and the config.json files of the
# weights. At 7B and 72B only the vision tower differs from Qwen2-VL's.
PRESETS: dict[str, Config] = {
    "2.5-tiny": replace(qwen2_vl.PRESETS["tiny"], vision=_TINY_VISION),
    "2.5-3b": Config(
        vocab_size=151_936,
        hidden_size=2048,
        intermediate_size=11_008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
        vision=_PUBLISHED_VISION,
        tie_word_embeddings=True,
        mrope_section=(16, 24, 24),
    ),
    "2.5-7b": replace(qwen2_vl.PRESETS["7b"], vision=_PUBLISHED_VISION),
    "2.5-72b": replace(qwen2_vl.PRESETS["72b"], vision=replace(_PUBLISHED_VISION, intermediate_size=3456)),
}
