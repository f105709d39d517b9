"""Architecture configuration of Qwen2-VL models, under Hugging Face's names, and presets."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """What the vision towers of all architectures have in common.

    Attributes:
        depth: number of blocks.
        embed_dim: width E of the residual stream.
        num_heads: attention heads, each of width embed_dim / num_heads.
        patch_size: side of a patch, in pixels.
        temporal_patch_size: frames a patch spans.
        spatial_merge_size: side, in patches, of the square that the merger turns into one feature.
        tokens_per_second: temporal RoPE positions in a second of video; None where time counts pairs of frames instead.
    """

    depth: int
    embed_dim: int
    num_heads: int
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    in_channels: int = 3
    tokens_per_second: int | None = None

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Values C of a flattened patch (channel, frame, row, column)."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merge_length(self) -> int:
        """Patches that become one feature."""
        return self.spatial_merge_size**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig(TowerConfig):
    """Qwen2-VL's vision tower and the merger after it.

    Attributes:
        mlp_ratio: MLP width as a multiple of E.
    """

    mlp_ratio: int = 4


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole model: text decoder, vision tower, special tokens.

    Attributes:
        initializer_range: standard deviation of the embeddings at initialisation; unused with pretrained weights.
        mrope_section: how many of the H/2 RoPE frequencies belong to time, height and width.
        image_token_id, video_token_id, vision_start_token_id, vision_end_token_id: placeholders of images in a prompt;
            never sampled.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vision: TowerConfig
    tie_word_embeddings: bool
    mrope_section: tuple[int, int, int]
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    # Ids of Qwen's tokenizer.
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


_PUBLISHED_VISION = VisionConfig(depth=32, embed_dim=1280, num_heads=16)

# Published sizes: Wang et al., Qwen2-VL, 2024, https://arxiv.org/abs/2409.12191, and the config.json files of the
# weights. "tiny" is this project's, for the embedded task; the tokenizer's vocabulary and token ids replace its own.
PRESETS: dict[str, Config] = {
    "tiny": Config(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vision=VisionConfig(depth=1, embed_dim=96, num_heads=4),
        tie_word_embeddings=True,
        mrope_section=(4, 6, 6),
        # Width uses the lowest frequencies. With a larger theta these would be so low that neighbouring columns of an
        # image have nearly the same angles.
        rope_theta=4.0,
        # With large embeddings tokens are distinguishable, and can be copied, from the first steps on.
        initializer_range=0.5,
    ),
    "2b": Config(
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        vision=_PUBLISHED_VISION,
        tie_word_embeddings=True,
        mrope_section=(16, 24, 24),
    ),
    "7b": Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vision=_PUBLISHED_VISION,
        tie_word_embeddings=False,
        mrope_section=(16, 24, 24),
    ),
    "72b": Config(
        vocab_size=152_064,
        hidden_size=8192,
        intermediate_size=29_568,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vision=_PUBLISHED_VISION,
        tie_word_embeddings=False,
        mrope_section=(16, 24, 24),
    ),
}
