"""Final answers: which part of a text is the answer, of which kind it is, and whether two answers are equal."""

from r1vl_jax.rewards.answers.compare import Comparison, compare, compare_any
from r1vl_jax.rewards.answers.parsing import parse_answer
from r1vl_jax.rewards.answers.typography import plain_text

__all__ = ["Comparison", "compare", "compare_any", "parse_answer", "plain_text"]
