"""Rollouts of several turns: the policy writes, something answers, the policy goes on. See docs/multi_turn.md."""

from r1vl_jax.training.multi_turn.episode import Episode, RolloutFunctionError, Turn
from r1vl_jax.training.multi_turn.policy import Policy, RolloutFunction

__all__ = ["Episode", "Policy", "RolloutFunction", "RolloutFunctionError", "Turn"]
