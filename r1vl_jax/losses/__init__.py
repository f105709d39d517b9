"""The losses of GRPO's family as pure functions of arrays, for any JAX project. See docs/losses.md.

    logp_BT, entropy_BT = losses.token_logp(hidden_BTD, head_DV, target_BT, chunk_size=1024)
    advantage_PG = losses.group_advantage(reward_PG)
    loss, metrics = losses.step_grpo(logp_BT, mask_BT, advantage_PG.reshape(-1), ref_logp_BT=ref_logp_BT)

    logprob           log-probability and entropy of given tokens, without the logits of a whole batch
    advantage         rewards -> advantages within the group of each prompt
    step_credit       rewards of sections -> advantages of tokens (step-level credit)
    egsw              entropy-guided weights of the policy gradient
    policy_gradient   terms of one token: ratio, clipped surrogate, CISPO, and the k3 estimate of the KL
    objective         adds beta times that KL to the policy term, and aggregates; the supervised loss
    aggregation       what the sum over tokens is divided by: "grpo", "bnpo", "dr_grpo", "dapo", "cispo"
    truncation        DAPO's mask of truncated completions, and its soft overlong penalty
    masked            masked sum and mean

All functions are pure, work under `jax.jit` and `jax.vmap`, and are differentiable where that makes sense. Rows of a
group are adjacent everywhere: row p*G + g is sample g of prompt p.

Objectives of the literature are settings of one function, `step_grpo(...)`:

    StepGRPO    beta=0.04                                                                       (the defaults)
    DAPO        loss_type="dapo", epsilon_high=0.28, beta=0, with a mask from `mask_truncated`, rewards plus
                `soft_overlong_penalty`, and resampling of groups with zero standard deviation by the caller
    Dr. GRPO    loss_type="dr_grpo", max_completion_length=..., and group_advantage(..., scale_rewards="none")
    GSPO        importance_sampling_level="sequence", epsilon=3e-4, epsilon_high=4e-4, beta=0
    CISPO       loss_type="cispo", epsilon_high=5.0
    EGSW        weight_BT=egsw_weight(...)
"""

from r1vl_jax.losses.advantage import group_advantage
from r1vl_jax.losses.aggregation import OVER_GENERATION, denominator
from r1vl_jax.losses.egsw import egsw_weight
from r1vl_jax.losses.logprob import token_logp
from r1vl_jax.losses.objective import step_grpo, supervised
from r1vl_jax.losses.step_credit import section_of_token, step_advantage
from r1vl_jax.losses.truncation import mask_truncated, soft_overlong_penalty

__all__ = [
    "OVER_GENERATION",
    "denominator",
    "egsw_weight",
    "group_advantage",
    "mask_truncated",
    "section_of_token",
    "soft_overlong_penalty",
    "step_advantage",
    "step_grpo",
    "supervised",
    "token_logp",
]
