"""StepGRPO's rewards as pure functions of arrays, for any accelerator: the same rewards as `rewards.strings`.

key_steps, answers = rewards.pack(records, semantics="paper")
reward = rewards.kernels.step_reward(byte_BU, length_B, key_steps, answers, semantics="paper", alpha=0.1)

What the kernels cannot decide is `undecided`: answers other than plain numbers, options and words, and rows beyond
bounds (`max_bytes`, 64 headings, answers of more than 128 bytes). The definition on strings has no such bounds.
"""

from r1vl_jax.rewards.kernels.step_reward import step_reward

__all__ = ["step_reward"]
