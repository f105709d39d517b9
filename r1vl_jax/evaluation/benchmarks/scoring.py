"""Scores predictions on a benchmark, and says how sure the scores are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from r1vl_jax.evaluation.benchmarks.bootstrap import bootstrap_interval
from r1vl_jax.evaluation.benchmarks.files import PREDICTION
from r1vl_jax.evaluation.benchmarks.measures import unit_means
from r1vl_jax.evaluation.benchmarks.outcome import Outcome, Row, score_response, unreadable
from r1vl_jax.evaluation.benchmarks.rules import Rules
from r1vl_jax.evaluation.benchmarks.tasks import Benchmark
from r1vl_jax.rewards import Judge
from r1vl_jax.rewards.explain import decide


def score_rows(
    benchmark: Benchmark,
    rows: Sequence[Row],
    rules: Rules,
    judge: Judge,
    *,
    not_asked: Mapping[str, str] = MappingProxyType({}),
) -> list[Outcome]:
    """The outcome of each row's prediction, all decided; one that exceeds the judge's time is wrong.

    Args:
        not_asked: index -> why this question, which is wrong, was not asked.
    """
    outcomes = [
        unreadable(not_asked[row["index"]])
        if row["index"] in not_asked
        else score_response(benchmark.score, row, row[PREDICTION], rules)
        for row in rows
    ]
    decided = decide([outcome.comparison for outcome in outcomes], judge)
    return [Outcome(outcome.extracted, comparison) for outcome, comparison in zip(outcomes, decided, strict=True)]


def summarize(benchmark: Benchmark, rows: Sequence[Row], outcomes: Sequence[Outcome], rules: Rules) -> dict[str, Any]:
    """What a benchmark reports, as JSON values.

    Returns:
        `scores`: name -> `value` with the ends `low` and `high` of its 95 % interval, in percent or MME's points, null
        where there is none; `reasons` and how often each occurred; `num_rows`, `num_missing` of the whole
        benchmark, `num_empty` predictions; `published` scores by model; `notes` to be read with the figures.
    """
    is_right = [outcome.comparison.is_correct is True for outcome in outcomes]
    units = benchmark.measure(rows, is_right)
    intervals = bootstrap_interval(units, benchmark.scores)
    values = benchmark.scores(unit_means(units))
    num_missing = max(benchmark.num_rows - len(rows), 0)
    return {
        "benchmark": benchmark.name,
        "rules": rules.name,
        "num_rows": len(rows),
        "num_missing": num_missing,
        "num_empty": sum(not row[PREDICTION].strip() for row in rows),
        "scores": {
            name: dict(zip(("value", "low", "high"), (value, *intervals.get(name, (None, None))), strict=True))
            for name, value in values.items()
        },
        "reasons": dict(Counter(outcome.comparison.reason for outcome in outcomes).most_common()),
        "published": benchmark.published(),
        "notes": [benchmark.note] * bool(benchmark.note) + _about_size(benchmark, len(rows)),
    }


def _about_size(benchmark: Benchmark, num_rows: int) -> list[str]:
    if num_rows == benchmark.num_rows:
        return []
    return [f"{num_rows:,} rows, where {benchmark.title} has {benchmark.num_rows:,}: scores are of these rows alone"]
