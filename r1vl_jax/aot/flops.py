"""How many floating point operations a program has to do, by formula: the compiler's own count sees a loop once.

A product of matrices [m, k] and [k, n] is 2 m k n operations. With w the numbers in the matrices that a token or patch
meets, and `pairs` the pairs of query and key that see each other,

    linear maps   2 w tokens
    attention     4 (width of all heads) pairs, over all layers: scores, and sums of values
    head          2 D V (scored positions)

The backward pass does the same once more for what flows to the inputs, and once more for the gradients of matrices
that are trained. Elementwise work, embeddings, adapters and padding are left out. Causal attention counts the pairs it
needs; the plain attention computes twice as many.

Source:
    Kaplan et al., Scaling Laws for Neural Language Models, 2020, table 1, https://arxiv.org/abs/2001.08361 (forward);
    Chowdhery et al., PaLM, 2022, appendix B, https://arxiv.org/abs/2204.02311 (utilisation counts no recomputation).
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
    """Of one run of a program, over all devices.

    Attributes:
        model: what the result needs.
        recompute: what is computed a second time, to save memory.
    """

    model: float
    recompute: float = 0.0

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.model + other.model, self.recompute + other.recompute)

    @property
    def total(self) -> float:
        return self.model + self.recompute


@dataclass(frozen=True)
class Counter:
    """Counts for batches of prompts of one length, each with one picture, and completions of one length.

    Attributes:
        prompt_length, completion_length: tokens.
        patches: of a picture.
    """

    definition: Definition
    model: config.Model
    prompt_length: int
    completion_length: int
    patches: int

    def prefill(self, num_prompts: int) -> Flops:
        """Pictures and prompts are read once."""
        text = self._text(num_prompts * self.prompt_length, num_prompts * _causal_pairs(self.prompt_length))
        return Flops(sum(text) + sum(self._vision(num_prompts)))

    def decode(self, num_rows: int) -> Flops:
        """Completions are drawn, token by token, all of full length."""
        length = self.completion_length
        pairs = num_rows * (length * self.prompt_length + _causal_pairs(length))
        return Flops(sum(self._text(num_rows * length, pairs)) + self._head(num_rows * length))

    def score(self, num_prompts: int, num_rows: int, *, num_sequences: int) -> Flops:
        """Completions are read behind their prompts, and scored.

        Args:
            num_sequences: how often a prompt is read; what goes beyond once each counts as computed again.
        """
        return _with_readings(self._score, num_prompts, num_rows, num_sequences)

    def update(self, num_prompts: int, num_rows: int, *, num_sequences: int) -> Flops:
        """Scoring, and the way back as far down as something is trained."""
        return _with_readings(self._update, num_prompts, num_rows, num_sequences)

    def _score(self, num_prompts: int, num_rows: int, num_sequences: int) -> Flops:
        head = self._head(num_rows * self.completion_length)
        return Flops(sum(self._sequences(num_sequences, num_rows)) + head + sum(self._vision(num_prompts)))

    def _update(self, num_prompts: int, num_rows: int, num_sequences: int) -> Flops:
        is_trained, remat = self._is_trained(), self.definition.remat
        vision_linear, vision_attention, merger = self._vision(num_prompts)
        text_linear, text_attention = self._sequences(num_sequences, num_rows)
        head = self._head(num_rows * self.completion_length)
        in_vision = is_trained("visual.blocks") or is_trained("visual.patch_embed")
        in_merger = in_vision or is_trained("visual.merger")
        in_text = in_merger or is_trained("text")
        backward = (
            in_vision * (vision_linear + 2 * vision_attention)
            + in_merger * merger
            + in_text * (text_linear + 2 * text_attention)
            + head
            + is_trained("visual.blocks", "kernel") * vision_linear
            + is_trained("visual.merger", "kernel") * merger
            + is_trained("text.layers", "kernel") * text_linear
            + (is_trained("lm_head") or is_trained("text.embed_tokens")) * head
        )
        again = remat in ("block", "offload")
        again_attention = 0.5 if remat == "none" else 1.5  # its backward pass computes scores again in any case
        recompute = (
            in_vision
            * (again * self._without_last("visual.blocks") * vision_linear + again_attention * vision_attention)
            + in_text * (again * self._without_last("text.layers") * text_linear + again_attention * text_attention)
            + head  # logits are never kept
        )
        forward = self._score(num_prompts, num_rows, num_sequences).model
        return Flops(forward + backward, recompute)

    def _without_last(self, stack: str) -> float:
        """Share of a stack's linear maps without the last of each layer, whose result nothing of the way back needs."""
        last = _num_in_matrices(self.definition, f"{stack}.mlp.down_proj", f"{stack}.mlp.fc2")
        return 1 - last / _num_in_matrices(self.definition, stack)

    def _sequences(self, num_sequences: int, num_rows: int) -> tuple[float, float]:
        """Prompts, and completions that see their prompt and themselves."""
        prompt, completion = self.prompt_length, self.completion_length
        pairs = num_sequences * _causal_pairs(prompt) + num_rows * (completion * prompt + _causal_pairs(completion))
        return self._text(num_sequences * prompt + num_rows * completion, pairs)

    def _text(self, num_tokens: float, num_pairs: float) -> tuple[float, float]:
        """Linear maps and attention of the decoder's layers."""
        sizes = self.definition.config
        linear = 2 * num_tokens * _num_in_matrices(self.definition, "text.layers")
        return linear, 4 * num_pairs * sizes.hidden_size * sizes.num_hidden_layers

    def _head(self, num_positions: float) -> float:
        sizes = self.definition.config
        return 2 * num_positions * sizes.hidden_size * sizes.vocab_size

    def _vision(self, num_pictures: float) -> tuple[float, float, float]:
        """Linear maps and attention of the tower's blocks, and the merger."""
        tower, num_patches = self.definition.config.vision, num_pictures * self.patches
        blocks = _num_in_matrices(self.definition, "visual.blocks", "visual.patch_embed")
        merger = _num_in_matrices(self.definition, "visual.merger")
        attention = 4 * num_pictures * _patch_pairs(tower, self.patches) * tower.embed_dim
        return 2 * num_patches * blocks, attention, 2 * num_patches / tower.merge_length * merger

    def _is_trained(self) -> Callable[..., bool]:
        """Whether any parameter below a path, with the last part of its name if one is given, is trained."""
        trained, _ = partition(self.definition.abstract_params(), self.model)
        paths = list(flatten_dict(trained, sep="."))
        return lambda start, end="": any(path.startswith(start) and path.endswith(end) for path in paths)


def _with_readings(
    count: Callable[[int, int, int], Flops], num_prompts: int, num_rows: int, num_sequences: int
) -> Flops:
    needed, done = count(num_prompts, num_rows, num_prompts), count(num_prompts, num_rows, num_sequences)
    return Flops(needed.model, done.total - needed.model)


def _causal_pairs(length: int) -> float:
    return length * (length + 1) / 2


def _patch_pairs(tower: TowerConfig, num_patches: int) -> float:
    """Pairs of patches that see each other, over all blocks: a whole frame, or windows of it."""
    if not isinstance(tower, qwen2_5_vl.VisionConfig):
        return tower.depth * num_patches**2
    num_full = len(tower.fullatt_block_indexes)
    of_windows = num_patches * min(tower.window_patches**2, num_patches)
    return num_full * num_patches**2 + (tower.depth - num_full) * of_windows


def _num_in_matrices(definition: Definition, *starts: str) -> int:
    """Numbers in the kernels of linear maps below these paths, of all layers."""
    flat: dict[Any, Any] = flatten_dict(definition.base.abstract_params(), sep=".")
    return sum(
        math.prod(leaf.shape) for path, leaf in flat.items() if path.endswith(".kernel") and path.startswith(starts)
    )
