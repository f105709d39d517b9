"""What an evaluation of the loop reports: answers, routing, and what they cost."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1vl_jax.router.answers import exact_match, recall_of_best
from r1vl_jax.router.datasets import Question
from r1vl_jax.router.loop import Trace


def measure(question: Question, trace: Trace) -> dict[str, float]:
    """The measures of one question; `summarize` averages them.

    Returns:
        `recall` of words and `exact_match`, from 0 to 1; `retrievals`; `tokens_read` and `tokens_written`;
        `unreadable`, responses that were sampled again; and where the question says which retrievers answer it,
        `routing_accuracy`, the fraction of look-ups that name the right one in its place, of whichever are more.
    """
    measures = {
        "recall": recall_of_best(trace.prediction, question.golds),
        "exact_match": float(exact_match(trace.prediction, question.golds)),
        "retrievals": float(trace.num_retrievals),
        "tokens_read": float(trace.num_tokens[0]),
        "tokens_written": float(trace.num_tokens[1]),
        "unreadable": float(len(trace.unreadable)),
    }
    if question.retrievers:
        named = [each.retriever for each in trace.trajectory.lookups]
        is_right = [a == b for a, b in zip(named, question.retrievers, strict=False)]
        measures["routing_accuracy"] = sum(is_right) / max(len(named), len(question.retrievers))
    return measures


def summarize(questions: Sequence[Question], traces: Sequence[Trace]) -> dict[str, Any]:
    """Means of `measure` over all questions, and `by_source`; `ended`: how many searches ended why."""
    rows = [measure(*pair) for pair in zip(questions, traces, strict=True)]
    of_source = collections.defaultdict(list)
    for question, row in zip(questions, rows, strict=True):
        of_source[question.source].append(row)
    return {
        "num_questions": len(rows),
        **_means(rows),
        "ended": dict(collections.Counter(trace.ended for trace in traces)),
        "by_source": {name: {"num_questions": len(each), **_means(each)} for name, each in sorted(of_source.items())},
    }


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: round(float(np.mean([row[name] for row in rows if name in row])), 4) for name in names}
