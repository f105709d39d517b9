"""FLOPs of each program by formula: XLA's cost analysis counts the body of a loop once.

A matmul of [m, k] and [k, n] is 2 m k n FLOPs. With W the weights of the linear layers that a token or patch passes,
and `pairs` the (query, key) pairs that attention does not mask,

    linear layers   2 W tokens
    attention       4 (width of all heads) pairs, summed over layers: q k^T, and weights times v
    LM head         2 D V (positions whose logits are computed)

The backward pass repeats this for the gradients of activations, and again for the gradients of trained weights.
Elementwise operations, embeddings, adapters and padding are not counted. Causal attention counts unmasked pairs only;
plain attention computes twice as many.

Source:
    Kaplan et al., Scaling Laws for Neural Language Models, 2020, table 1, https://arxiv.org/abs/2001.08361 (forward);
    Chowdhery et al., PaLM, 2022, appendix B, https://arxiv.org/abs/2204.02311 (MFU counts no recomputation).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax.traverse_util import flatten_dict

from r1vl_jax import config
from r1vl_jax.models.qwen2_5_vl import config as qwen2_5_vl
from r1vl_jax.models.qwen2_vl.config import TowerConfig
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import partition


@dataclass(frozen=True)
class Flops:
    """FLOPs of one run of a program, summed over all devices.

    Attributes:
        model: FLOPs that the result requires, which MFU counts.
        recompute: FLOPs of recomputation, to save memory.
    """

    model: float
    recompute: float = 0.0

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.model + other.model, self.recompute + other.recompute)

    @property
    def total(self) -> float:
        return self.model + self.recompute


@dataclass(frozen=True)
class FlopCounter:
    """FLOPs for batches of equally long prompts, each with one image, and equally long completions.

    Attributes:
        prompt_length, completion_length: tokens.
        patches: per image.
        num_vision_backwards: backward passes of an update through the vision tower; those beyond one are recompute.
    """

    definition: Definition
    model: config.Model
    prompt_length: int
    completion_length: int
    patches: int
    num_vision_backwards: int = 1

    def prefill(self, num_prompts: int) -> Flops:
        """Vision tower and decoder over the prompts; no logits."""
        text = self._text(num_prompts * self.prompt_length, num_prompts * _causal_pairs(self.prompt_length))
        return Flops(sum(text) + sum(self._vision(num_prompts)))

    def decode(self, num_rows: int, *, length: int) -> Flops:
        """Sampling of completions of `length` tokens, one by one."""
        pairs = num_rows * (length * self.prompt_length + _causal_pairs(length))
        return Flops(sum(self._text(num_rows * length, pairs)) + self._head(num_rows * length))

    def logps(self, num_prompts: int, num_rows: int, *, num_sequences: int) -> Flops:
        """Log-probabilities of completions: one forward pass.

        Args:
            num_sequences: prompts that are computed, repetitions included; those beyond `num_prompts` are recompute.
        """
        return _count_repeated_prompts_as_recompute(self._logps, num_prompts, num_rows, num_sequences)

    def update(self, num_prompts: int, num_rows: int, *, num_sequences: int) -> Flops:
        """Forward pass, and the backward pass down to the lowest trained parameter."""
        return _count_repeated_prompts_as_recompute(self._update, num_prompts, num_rows, num_sequences)

    def _logps(self, num_prompts: int, num_rows: int, num_sequences: int) -> Flops:
        head = self._head(num_rows * self.completion_length)
        return Flops(sum(self._sequences(num_sequences, num_rows)) + head + sum(self._vision(num_prompts)))

    def _update(self, num_prompts: int, num_rows: int, num_sequences: int) -> Flops:
        is_trained, remat = self._trained_matcher(), self.definition.remat
        vision_linear, vision_attention, merger = self._vision(num_prompts)
        text_linear, text_attention = self._sequences(num_sequences, num_rows)
        head = self._head(num_rows * self.completion_length)
        in_vision = is_trained("visual.blocks") or is_trained("visual.patch_embed")
        in_merger = in_vision or is_trained("visual.merger")
        in_text = in_merger or is_trained("text")
        vision_backward = (
            in_vision * (vision_linear + 2 * vision_attention)
            + in_merger * merger
            + is_trained("visual.blocks", "kernel") * vision_linear
            + is_trained("visual.merger", "kernel") * merger
        )
        backward = (
            vision_backward
            + in_text * (text_linear + 2 * text_attention)
            + head
            + is_trained("text.layers", "kernel") * text_linear
            + (is_trained("lm_head") or is_trained("text.embed_tokens")) * head
        )
        recomputes_linear = remat in ("block", "offload")
        attention_recompute = 0.5 if remat == "none" else 1.5  # its backward pass recomputes q k^T in any case
        vision_recompute = in_vision * (
            recomputes_linear * self._share_without_last_matmul("visual.blocks") * vision_linear
            + attention_recompute * vision_attention
        )
        recompute = (
            self.num_vision_backwards * vision_recompute
            + (self.num_vision_backwards - 1) * vision_backward
            + in_text
            * (
                recomputes_linear * self._share_without_last_matmul("text.layers") * text_linear
                + attention_recompute * text_attention
            )
            + head  # logits are never kept
        )
        forward = self._logps(num_prompts, num_rows, num_sequences).model
        return Flops(forward + backward, recompute)

    def _share_without_last_matmul(self, stack: str) -> float:
        """Share of a stack's linear layers without each block's last, whose output the backward pass does not need."""
        last = _num_matmul_weights(self.definition, f"{stack}.mlp.down_proj", f"{stack}.mlp.fc2")
        return 1 - last / _num_matmul_weights(self.definition, stack)

    def _sequences(self, num_sequences: int, num_rows: int) -> tuple[float, float]:
        """Linear layers and attention of prompts, and of completions that attend to their prompt and themselves."""
        prompt, completion = self.prompt_length, self.completion_length
        pairs = num_sequences * _causal_pairs(prompt) + num_rows * (completion * prompt + _causal_pairs(completion))
        return self._text(num_sequences * prompt + num_rows * completion, pairs)

    def _text(self, num_tokens: float, num_pairs: float) -> tuple[float, float]:
        """Linear layers and attention of the decoder."""
        sizes = self.definition.config
        linear = 2 * num_tokens * _num_matmul_weights(self.definition, "text.layers")
        return linear, 4 * num_pairs * sizes.hidden_size * sizes.num_hidden_layers

    def _head(self, num_positions: float) -> float:
        sizes = self.definition.config
        return 2 * num_positions * sizes.hidden_size * sizes.vocab_size

    def _vision(self, num_images: float) -> tuple[float, float, float]:
        """Linear layers and attention of the vision tower, and the merger."""
        tower, num_patches = self.definition.config.vision, num_images * self.patches
        blocks = _num_matmul_weights(self.definition, "visual.blocks", "visual.patch_embed")
        merger = _num_matmul_weights(self.definition, "visual.merger")
        attention = 4 * num_images * _patch_pairs(tower, self.patches) * tower.embed_dim
        return 2 * num_patches * blocks, attention, 2 * num_patches / tower.merge_length * merger

    def _trained_matcher(self) -> Callable[..., bool]:
        """A function (path prefix, path suffix) -> whether any parameter that matches is trained."""
        trained, _ = partition(self.definition.abstract_params(), self.model)
        paths = list(flatten_dict(trained, sep="."))
        return lambda prefix, suffix="": any(path.startswith(prefix) and path.endswith(suffix) for path in paths)


def _count_repeated_prompts_as_recompute(
    count: Callable[[int, int, int], Flops], num_prompts: int, num_rows: int, num_sequences: int
) -> Flops:
    required, computed = count(num_prompts, num_rows, num_prompts), count(num_prompts, num_rows, num_sequences)
    return Flops(required.model, computed.total - required.model)


def _causal_pairs(length: int) -> float:
    return length * (length + 1) / 2


def _patch_pairs(tower: TowerConfig, num_patches: int) -> float:
    """Unmasked (query, key) pairs of an image's patches, summed over blocks: full or windowed attention."""
    if not isinstance(tower, qwen2_5_vl.VisionConfig):
        return tower.depth * num_patches**2
    num_full = len(tower.fullatt_block_indexes)
    windowed = num_patches * min(tower.window_patches**2, num_patches)
    return num_full * num_patches**2 + (tower.depth - num_full) * windowed


def _num_matmul_weights(definition: Definition, *prefixes: str) -> int:
    """Weights in the kernels of linear layers below these paths, summed over layers."""
    flat: dict[Any, Any] = flatten_dict(definition.base.abstract_params(), sep=".")
    return sum(
        math.prod(leaf.shape) for path, leaf in flat.items() if path.endswith(".kernel") and path.startswith(prefixes)
    )
