"""Sizes of Qwen2-VL models, with Hugging Face's names."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower and of the merger behind it.

    Attributes:
        depth: number of blocks.
        embed_dim: width E.
        num_heads: attention heads; each is embed_dim / num_heads wide.
        mlp_ratio: MLP width over E.
        patch_size: side of a patch, in pixels.
        temporal_patch_size: frames a patch spans.
        spatial_merge_size: side, in patches, of the square that becomes one feature.
    """

    depth: int
    embed_dim: int
    num_heads: int
    mlp_ratio: int = 4
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    in_channels: int = 3


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and constants of a whole model.

    Attributes:
        mrope_section: how many of the H/2 rope frequencies turn with time, height and width.
        image_token_id, video_token_id, vision_start_token_id, vision_end_token_id: never sampled; they mark images.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vision: VisionConfig
    tie_word_embeddings: bool
    mrope_section: tuple[int, int, int]
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads
