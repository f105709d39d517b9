"""The eight benchmarks of the published table: their files, rules and scores. See docs/evaluate.md."""

from r1vl_jax.evaluation.benchmarks.files import read_benchmark, read_predictions
from r1vl_jax.evaluation.benchmarks.pictures import Pictures, read_pictures
from r1vl_jax.evaluation.benchmarks.prompts import question_text
from r1vl_jax.evaluation.benchmarks.rules import RULES, Rules
from r1vl_jax.evaluation.benchmarks.scoring import score_rows, summarize
from r1vl_jax.evaluation.benchmarks.tasks import BENCHMARKS, Benchmark

__all__ = [
    "BENCHMARKS",
    "RULES",
    "Benchmark",
    "Pictures",
    "Rules",
    "question_text",
    "read_benchmark",
    "read_pictures",
    "read_predictions",
    "score_rows",
    "summarize",
]
