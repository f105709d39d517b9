"""Small files of the eight benchmarks, in the columns of VLMEvalKit, with predictions."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]

_OPTIONS = {"A": "a red car", "B": "a blue bus", "C": "a bicycle", "D": "no vehicle"}
# One question of each benchmark, without index and prediction.
QUESTIONS: dict[str, dict[str, Any]] = {
    "mmstar": {"question": "What is it?", **_OPTIONS, "answer": "B", "category": "logic", "l2_category": "code"},
    "chartqa": {"question": "How much?", "answer": "100", "split": "test_human"},
    "hallusionbench": {"question": "Is it?", "answer": "Yes", "category": "VD", "l2-category": "illusion"},
    "mme": {"question": "Is it?", "answer": "Yes", "image_path": "a.png", "category": "existence"},
    "mathvista": {
        "question": "How long?",
        "answer": "1.2",
        "question_type": "free_form",
        "answer_type": "float",
        "choices": "",
        "answer_option": "",
        "task": "geometry",
        "precision": "1.0",
    },
    "mathvision": {"question": "x?", "answer": "12", "choices": "[]", "level": "3", "subject": "algebra"},
    "dynamath": {
        "question": "x?",
        "answer": "2.5",
        "answer_type": "float",
        "subject": "algebra",
        "knowledge_level": "high school",
        "varid": "1",
        "qid": "7",
    },
    "mathverse": {
        "question": "x?\nChoices:\nA: 30°\nB: 60°",
        "answer": "B",
        "question_type": "multi-choice",
        "problem_version": "Text Dominant",
        "metadata": "{'subject': 'Plane Geometry'}",
        "problem_index": "1",
    },
}


def row(benchmark: str, index: Any = 0, **cells: Any) -> dict[str, Any]:
    """A question of a benchmark, with other cells where they are given."""
    name = f"VD_illusion_0_0_0_{index}" if benchmark == "hallusionbench" and isinstance(index, int) else index
    return {"index": name, **QUESTIONS[benchmark], **cells}


def write_tsv(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), dialect="excel-tab")
        writer.writeheader()
        writer.writerows(rows)
    return path
