"""The mathematics of the objective: arrays and numbers in, arrays out, for any JAX project.

    logp_BT, entropy_BT = losses.token_logp(hidden_BTD, head_DV, target_BT, chunk_size=1024)
    advantage_PG = losses.group_advantage(reward_PG)
    loss, metrics = losses.step_grpo(logp_BT, mask_BT, advantage_PG.reshape(-1), ref_logp_BT=ref_logp_BT)

All functions are pure, differentiable where it makes sense, and work under `jax.jit`.
"""

from r1vl_jax.losses.advantage import group_advantage
from r1vl_jax.losses.logprob import token_logp
from r1vl_jax.losses.objective import denominator, step_grpo, supervised

__all__ = ["denominator", "group_advantage", "step_grpo", "supervised", "token_logp"]
