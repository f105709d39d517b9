"""From the settings of `config.Optim` to one optax transformation: clipping, AdamW, schedule, weight-decay mask."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from r1vl_jax import config

# Leaves below these keys are stacked: their first axis counts the layers.
_STACKS = ("layers", "blocks")


def optimizer(
    optim: config.Optim, max_steps: int, params: Any, *, platform: str = "cpu"
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW.

    Args:
        params: arrays or their shapes, to tell which leaves get weight decay.
        platform: where it will run; changes memory, not the result.
    """
    clip = clip_by_global_norm_on_cpu if platform == "cpu" else optax.clip_by_global_norm
    return optax.chain(
        clip(optim.max_grad_norm),
        optax.adamw(
            schedule(optim, max_steps),
            b1=optim.adam_b1,
            b2=optim.adam_b2,
            eps=optim.adam_epsilon,
            weight_decay=optim.weight_decay,
            mask=decay_mask(params),
        ),
    )


def clip_by_global_norm_on_cpu(max_norm: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` with one multiplication by a factor in place of a division of every element.

    XLA for CPU does not recompute divisions: both moments read the clipped gradient, so a second copy of the whole
    gradient would be kept. On TPU the factor costs 0.3 GiB a chip (7B, v6e-8), so it is for CPUs only.
    """

    def clip(gradient: Any, params: Any) -> Any:
        factor = jnp.minimum(1.0, max_norm / optax.global_norm(gradient))
        return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), gradient)

    return optax.stateless(clip)


def schedule(optim: config.Optim, max_steps: int) -> optax.Schedule:
    """Learning rate by update, counted from 0: linear warm-up to the peak, then decay to 0 at `max_steps`, or constant.

    Raises:
        ValueError: unknown `lr_scheduler_type`.
    """
    warmup_steps = math.ceil(max_steps * optim.warmup_ratio)
    decay_steps = max(max_steps - warmup_steps, 1)
    if optim.lr_scheduler_type == "linear":
        after = optax.linear_schedule(optim.learning_rate, 0.0, decay_steps)
    elif optim.lr_scheduler_type == "cosine":
        after = optax.cosine_decay_schedule(optim.learning_rate, decay_steps)
    elif optim.lr_scheduler_type == "constant":
        after = optax.constant_schedule(optim.learning_rate)
    else:
        raise ValueError(
            f"optim.lr_scheduler_type={optim.lr_scheduler_type!r}: expected 'linear', 'cosine' or 'constant'"
        )
    if warmup_steps == 0:
        return after
    before = optax.linear_schedule(0.0, optim.learning_rate, warmup_steps)
    return optax.join_schedules([before, after], [warmup_steps])


def decay_mask(params: Any) -> Any:
    """True for the leaves that weight decay pulls to zero: matrices, but neither token embeddings nor biases."""
    return jax.tree_util.tree_map_with_path(_decays, params)


def _decays(path: tuple, leaf: Any) -> bool:
    names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    if names[-1] == "bias" or "embed_tokens" in names:  # a stacked bias of attention heads has three axes
        return False
    is_stacked = any(name in _STACKS for name in names)
    return leaf.ndim - is_stacked >= 2
