"""Sets on the Hugging Face hub whose Parquet files lack columns of VLMEvalKit's, which are made of others.

MMStar, https://huggingface.co/datasets/Lin-Chen/MMStar: the options stand in the question.
HallusionBench, https://huggingface.co/datasets/lmms-lab/HallusionBench: a column for each part of the index.
DynaMath, https://huggingface.co/datasets/DynaMath/DynaMath_Sample: a file for each variant.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from r1vl_jax.evaluation.benchmarks.outcome import Row

_OPTIONS = re.compile(r"\s*Options:\s*A: (.*?),\s*B: (.*?)(?:,\s*C: (.*?))?(?:,\s*D: (.*?))?\s*\Z", re.DOTALL)
_INDEX_PARTS = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
_YES_NO = {"1": "Yes", "0": "No"}


@dataclass(frozen=True)
class HubLayout:
    """How rows of the hub become rows of VLMEvalKit.

    Attributes:
        signs: columns by which it is recognised.
        makes: columns that `convert` adds.
    """

    signs: tuple[str, ...]
    makes: tuple[str, ...]
    convert: Callable[[Sequence[Row]], list[Row]]


def find_layout(benchmark: str, columns: Collection[str]) -> HubLayout | None:
    """The layout of a benchmark's file on the hub; None if it has all that VLMEvalKit's has."""
    layout = _LAYOUTS.get(benchmark)
    is_known = layout is not None and set(layout.signs) <= set(columns) and not set(layout.makes) <= set(columns)
    return layout if is_known else None


def _mmstar(rows: Sequence[Row]) -> list[Row]:
    """`...?\\nOptions: A: a car., B: a bus., C: ..., D: ...`; a row of another form keeps it all in the question."""

    def convert(row: Row) -> Row:
        found = _OPTIONS.search(row["question"])
        options = dict(zip("ABCD", found.groups(default="") if found else [""] * 4, strict=True))
        return row | options | {"question": row["question"][: found.start() if found else None]}

    return [convert(row) for row in rows]


def _hallusionbench(rows: Sequence[Row]) -> list[Row]:
    return [
        row
        | {
            "index": "_".join(row[part] for part in _INDEX_PARTS),
            "l2-category": row["subcategory"],
            "answer": _YES_NO.get(row["gt_answer"], row["gt_answer"]),
        }
        for row in rows
    ]


def _dynamath(rows: Sequence[Row]) -> list[Row]:
    """In files of several variants, one after the other, an id stands once for each."""
    seen: Counter[str] = Counter()
    converted = []
    for row in rows:
        seen[row["id"]] += 1
        variant = str(seen[row["id"]])
        converted.append(row | {"index": f"{row['id']}_{variant}", "qid": row["id"], "varid": variant})
    return converted


_LAYOUTS = {
    "mmstar": HubLayout(("question", "meta_info"), ("A", "B", "C", "D"), _mmstar),
    "hallusionbench": HubLayout((*_INDEX_PARTS, "gt_answer"), ("index", "l2-category", "answer"), _hallusionbench),
    "dynamath": HubLayout(("id", "ground_truth"), ("index", "qid", "varid"), _dynamath),
}
