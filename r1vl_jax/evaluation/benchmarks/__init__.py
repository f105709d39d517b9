"""The eight benchmarks of the published table: their files, rules and scores. See docs/evaluate.md."""

from r1vl_jax.evaluation.benchmarks.comparison import find_files
from r1vl_jax.evaluation.benchmarks.files import read_benchmark, read_predictions
from r1vl_jax.evaluation.benchmarks.measures import SCORE
from r1vl_jax.evaluation.benchmarks.prompts import question_text
from r1vl_jax.evaluation.benchmarks.report import Reporting, report, report_all
from r1vl_jax.evaluation.benchmarks.rules import RULES, Rules
from r1vl_jax.evaluation.benchmarks.scoring import score_rows, summarize
from r1vl_jax.evaluation.benchmarks.tasks import ALL, BENCHMARKS, Benchmark

__all__ = [
    "ALL",
    "BENCHMARKS",
    "RULES",
    "SCORE",
    "Benchmark",
    "Reporting",
    "Rules",
    "find_files",
    "question_text",
    "read_benchmark",
    "read_predictions",
    "report",
    "report_all",
    "score_rows",
    "summarize",
]
