"""The eight benchmarks, one table: columns, rule, what is reported, how a question is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from r1vl_jax.evaluation.benchmarks import measures
from r1vl_jax.evaluation.benchmarks.letters import score_options
from r1vl_jax.evaluation.benchmarks.mathematics import score_mathverse, score_mathvision
from r1vl_jax.evaluation.benchmarks.measures import MeasureFn, ScoreFn, accuracy, accuracy_by, column, percent_scores
from r1vl_jax.evaluation.benchmarks.numbers import score_chartqa, score_dynamath, score_mathvista
from r1vl_jax.evaluation.benchmarks.outcome import Scorer
from r1vl_jax.evaluation.benchmarks.published import PUBLISHED
from r1vl_jax.evaluation.benchmarks.yes_no import score_yes_no

COMMON_COLUMNS = ("index", "question", "answer")


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name, title: as flags and tables have it.
        num_rows: of the whole benchmark.
        columns: that its files have beside those of all benchmarks.
        score: the rule for one response.
        measure: what is counted, over which groups of questions.
        scores: means -> what is reported, of which "score" is the published figure.
        prompt: how a question is asked: "options" (one a line), "yes_no", "question" as it is, or "query" (of the hub's
            files, with its choices).
        other_names: column -> its names in other layouts.
        note: what has to be said beside a score; "" for nothing.
    """

    name: str
    title: str
    num_rows: int
    columns: tuple[str, ...]
    score: Scorer
    measure: MeasureFn
    scores: ScoreFn = percent_scores
    prompt: str = "question"
    other_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""

    def published(self) -> dict[str, float]:
        """Model -> its published score."""
        return {model: scores[self.name] for model, scores in PUBLISHED.items()}


_TABLE = (
    Benchmark(
        name="mmstar",
        title="MMStar",
        num_rows=1500,
        columns=("A", "B", "C", "D", "category", "l2_category"),
        score=score_options,
        measure=accuracy("category", "l2_category"),
        prompt="options",
    ),
    Benchmark(
        name="chartqa",
        title="ChartQA",
        num_rows=2500,
        columns=("split",),
        score=score_chartqa,
        measure=accuracy("split"),
        other_names={"split": ("type",)},
    ),
    Benchmark(
        name="hallusionbench",
        title="HallusionBench",
        num_rows=951,
        columns=("category", "l2-category"),
        score=score_yes_no,
        measure=measures.hallusionbench,
        scores=measures.hallusionbench_scores,
        prompt="yes_no",
    ),
    Benchmark(
        name="mme",
        title="MME",
        num_rows=2374,
        columns=("image_path", "category"),
        score=score_yes_no,
        measure=measures.mme,
        scores=measures.mme_scores,
        other_names={"image_path": ("question_id",)},
    ),
    Benchmark(
        name="mathvista",
        title="MathVista",
        num_rows=1000,
        columns=("question_type", "answer_type", "choices"),
        score=score_mathvista,
        measure=accuracy("task", "question_type"),
        prompt="query",
        other_names={"index": ("pid",)},
    ),
    Benchmark(
        name="mathvision",
        title="MathVision",
        num_rows=3040,
        columns=("choices", "level", "subject"),
        score=score_mathvision,
        measure=accuracy("subject", "level"),
        prompt="query",
        other_names={"choices": ("options",), "index": ("id",), "subject": ("category",)},
    ),
    Benchmark(
        name="dynamath",
        title="DynaMath",
        num_rows=5010,
        columns=("answer_type", "subject", "knowledge_level", "varid", "qid"),
        score=score_dynamath,
        measure=measures.dynamath,
        other_names={"answer": ("ground_truth",)},
    ),
    Benchmark(
        name="mathverse",
        title="MathVerse",
        num_rows=3940,
        columns=("question_type", "problem_version"),
        score=score_mathverse,
        measure=accuracy_by(
            {"problem_version": column("problem_version"), "subject": measures.subject_in_metadata},
            cluster=measures.problem_of_version,
        ),
        prompt="query",
        other_names={"index": ("sample_index",)},
        note="offline variant: published figures of MathVerse have a language model as judge",
    ),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _TABLE}
ALL = "all"  # in place of a name
