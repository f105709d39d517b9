"""StepGRPO's rule-based rewards: StepRAR (step accuracy) and StepRVR (step validity). See docs/rewards.md.

On strings:

    with rewards.Judge() as judge:
        reward = rewards.score(completions, records, judge=judge)
    reward.total, reward.answer_correct, reward.key_step_match, ...

On the device, as pure functions of arrays:

    byte_BU, length_B, token_of_byte_BU, overflow_B = rewards.text.token_bytes(
        token_BT, mask_BT, vocabulary, max_bytes=8_192
    )
    key_steps, answers = rewards.pack(records, semantics="paper")
    reward = rewards.kernels.step_reward(byte_BU, length_B, key_steps, answers, semantics="paper", alpha=0.1)
"""

from r1vl_jax.rewards import custom, kernels, text
from r1vl_jax.rewards.bundles import Answers, KeySteps, StepReward
from r1vl_jax.rewards.explain import Explanation, explain, explain_completions
from r1vl_jax.rewards.math_verify import Judge, Verdict
from r1vl_jax.rewards.pack import pack
from r1vl_jax.rewards.score import resolve_undecided, score
from r1vl_jax.rewards.strings import key_step_spans

__all__ = [
    "Answers",
    "Explanation",
    "Judge",
    "KeySteps",
    "StepReward",
    "Verdict",
    "custom",
    "explain",
    "explain_completions",
    "kernels",
    "key_step_spans",
    "pack",
    "score",
    "resolve_undecided",
    "text",
]
