"""StepGRPO's rewards of completions (SPEC 1.2, 1.3).

with rewards.Judge() as judge:
    reward = rewards.score(completions, records, judge=judge)
reward.total, reward.answer_correct, reward.key_step_match, ...
"""

from r1vl_jax.rewards.judge import Judge, Verdict
from r1vl_jax.rewards.reference import key_step_spans
from r1vl_jax.rewards.step_reward import StepReward, score

__all__ = ["Judge", "StepReward", "Verdict", "key_step_spans", "score"]
