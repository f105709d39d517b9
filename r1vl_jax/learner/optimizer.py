"""From the settings of `config.Optim` to one optax transformation: clipping, AdamW, schedule, and who decays."""

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
    """AdamW behind clipping by global norm.

    Args:
        params: arrays or their shapes; they say which leaves decay.
        platform: where it will run; changes memory, not what is computed.
    """
    clip = clip_by_one_factor if platform == "cpu" else optax.clip_by_global_norm
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


def clip_by_one_factor(max_norm: float) -> optax.GradientTransformation:
    """Scales gradients so that their norm is at most `max_norm`, as `optax.clip_by_global_norm`, for CPUs.

    That divides every number; XLA for CPU computes no division twice and keeps a second copy of the whole gradient, for
    the two moments. (With a factor the TPU's compiler needs more: 0.3 GiB a chip for 7B on v6e-8.)
    """

    def clip(gradient: Any, params: Any) -> Any:
        factor = jnp.minimum(1.0, max_norm / optax.global_norm(gradient))
        return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), gradient)

    return optax.stateless(clip)


def schedule(optim: config.Optim, max_steps: int) -> optax.Schedule:
    """Learning rate of each update, counted from 0: up from 0 to the peak, then to 0 at `max_steps` or constant.

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
