"""On how many made-up predictions our scorers and VLMEvalKit's own functions agree, by benchmark.

    python -m benchmarks.scorer_agreement --vlmevalkit=DIR [--rules=2026-08] [--examples=3]

DIR is a checkout of https://github.com/open-compass/VLMEvalKit at the revision of the rules: c59d4d88 for 2025-03, and
e8e78f05 for 2026-08. Of its files the functions that decide are run, and nothing else. Where they would ask a language
model to extract an answer, it has none to give. MathVision's evaluate predictions as Python: these are made up here.
"""

import argparse
import ast
import copy
import json
import logging
import os
import random
import re
import string
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Optional

import numpy as np
from latex2sympy2_extended import latex2sympy
from rich.console import Console
from rich.table import Table

from r1vl_jax.evaluation.benchmarks import BENCHMARKS, RULES, Rules, score_rows
from r1vl_jax.observe.markdown import markdown_table, provenance
from r1vl_jax.rewards import Judge

Row = Mapping[str, str]
IsRightFn = Callable[[Row, str], bool]

NUM_PREDICTIONS = 1_000
_UTILS = "vlmeval/dataset/utils"


class Question(NamedTuple):
    """A question with spellings of its answer, and of others."""

    row: dict[str, str]
    right: Sequence[str]
    wrong: Sequence[str]


_OPTIONS = {"A": "a red car", "B": "a blue bus", "C": "a bicycle", "D": "no vehicle"}
_NUMBER = Question({"answer": "14"}, ("14", "14.0", "14 ", "14.3"), ("15", "12%", "1,400", "fourteen"))
_MULTI = {"question_type": "multi_choice", "answer_type": "text", "choices": "['30', '45', '60']"}
_FREE = {"question_type": "free_form", "choices": "", "answer_option": ""}
QUESTIONS: dict[str, tuple[Question, ...]] = {
    "mmstar": (Question(_OPTIONS | {"answer": "B"}, ("B", "(B)", "B.", "a blue bus", "b"), ("C", "D.", "a bicycle")),),
    "chartqa": (
        _NUMBER,
        Question({"answer": "['Red', '2,5']"}, ("red", "Red", "2,5"), ("blue", "2.5", "Red.")),
        Question({"answer": "12%"}, ("12%", "0.12", "11.5%"), ("12", "14%", "0")),
    ),
    "hallusionbench": (Question({"answer": "Yes"}, ("Yes", "yes.", "YES!", "**Yes**"), ("No", "no,", "unsure")),),
    "mathvista": (
        Question(_MULTI | {"answer": "45", "answer_option": "B"}, ("B", "(B)", "45", "(b) 45"), ("A", "60", "(C)")),
        Question(_FREE | {"answer_type": "integer", "answer": "7"}, ("7", "7.0", " 7"), ("8", "7.5", "seven")),
        Question(_FREE | {"answer_type": "float", "answer": "1.2", "precision": "1"}, ("1.2", "1.23"), ("1.3", "2")),
    ),
    "mathvision": (
        Question({"answer": "B", "choices": "['30', '45', '60']"}, ("B", "(B)", "45"), ("A", "C.", "60")),
        Question({"answer": "12", "choices": "[]"}, ("12", "12.0", "\\boxed{12}", "24/2"), ("13", "-12", "twelve")),
        Question({"answer": "\\frac{1}{2}", "choices": "[]"}, ("\\frac{1}{2}", "1/2", "0.5"), ("2", "0.25", "x")),
    ),
    "dynamath": (
        Question({"answer": "2.5", "answer_type": "float"}, ("2.5", "2.500", "2.5005"), ("2.6", "2.5%", "two")),
        Question({"answer": "C", "answer_type": "multiple choice"}, ("C", "c", "(C)"), ("A", "D.", "none")),
        Question({"answer": "even", "answer_type": "text"}, ("even", "Even"), ("odd", "neither", "even or odd")),
    ),
}
_FRAMES = (
    *("{x}",) * 4,
    "The answer is {x}.",
    "**{x}**",
    "答案是 {x}",
    "La respuesta correcta es {x}.",
    "It cannot be {y}, so it is {x}",
    "{x} or {y}",
    "{x}, as a look at the whole picture and at all that is written below it shows at once",
    "Reading the bars from left to right and adding them step by step, one sees the result, which is {x}",
    '{{"solution": "see above", "short answer": "{x}"}}',
)
_HOSTILE = (
    "",
    " ",
    "nan",
    "inf",
    "-inf%",
    "None",
    "[]",
    "{x",
    "A B C D E",
    "yes no",
    "%",
    "\\",
    "\x07",
    "。",
    "1e999",
    "A" * 3000,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vlmevalkit", type=Path, required=True, help="a checkout of VLMEvalKit")
    parser.add_argument("--rules", default="2026-08", choices=list(RULES), help="version of our rules")
    parser.add_argument("--examples", type=int, default=3, help="of predictions that are judged differently")
    arguments = parser.parse_args()
    print(provenance(["python", "-m", "benchmarks.scorer_agreement", *sys.argv[1:]]))
    table = Table("benchmark", "agree", "right for both", "for ours alone", "for theirs alone")
    for name, is_right in their_rules(arguments.vlmevalkit).items():
        predictions = list(made_up(QUESTIONS[name], random.Random(0)))
        ours = judge_ours(name, predictions, RULES[arguments.rules])
        theirs = [_is_right(is_right, *each) for each in predictions]
        pairs = list(zip(ours, theirs, strict=True))
        counts = [pairs.count(each) for each in ((True, True), (True, False), (False, True))]
        agree = sum(one == other for one, other in pairs)
        table.add_row(BENCHMARKS[name].title, f"{agree} of {len(pairs)}", *map(str, counts))
        differing = [each for each, (one, other) in zip(predictions, pairs, strict=True) if one != other]
        for row, text in random.Random(0).sample(differing, min(arguments.examples, len(differing))):
            Console().print(
                f"{name}: answer {row['answer']!r}, prediction {text[:100]!r}", markup=False, highlight=False
            )
    print(markdown_table(table))


def made_up(questions: Sequence[Question], rng: random.Random) -> Iterator[tuple[Row, str]]:
    """Right and wrong predictions, short and verbose ones in several languages, empty and hostile ones."""
    for _ in range(NUM_PREDICTIONS):
        question = rng.choice(questions)
        right, wrong = rng.choice(question.right), rng.choice(question.wrong)
        x, y = (right, wrong) if rng.random() < 0.6 else (wrong, right)
        text = rng.choice(_HOSTILE) if rng.random() < 0.1 else rng.choice(_FRAMES).format(x=x, y=y)
        yield question.row, text


def judge_ours(name: str, predictions: Sequence[tuple[Row, str]], rules: Rules) -> list[bool]:
    """Which predictions are right by our rule."""
    rows = [{"index": str(number), **row, "prediction": text} for number, (row, text) in enumerate(predictions)]
    with Judge() as judge:
        outcomes = score_rows(BENCHMARKS[name], rows, rules, judge)
    return [outcome.comparison.is_correct is True for outcome in outcomes]


def their_rules(root: Path) -> dict[str, IsRightFn]:
    """VLMEvalKit's rule of each benchmark that has one without a language model."""
    misc = _load(root / "vlmeval/smp/misc.py", "process_punctuation", "istype")
    matching = _load(root / "vlmeval/utils/matching_util.py", "can_infer_option", "can_infer_text", "can_infer")
    yes_no = _load(root / _UTILS / "yorn.py", "YOrN_Extraction", **misc)
    vqa = _load(root / _UTILS / "vqa_eval.py", "relaxed_correctness", "process_line", **misc)
    vista = _load(root / _UTILS / "mathvista.py", "list_to_dict", "post_check", **matching)
    vision = _load(root / _UTILS / "mathv.py", "is_equal", "list_to_dict", "post_check", **matching)
    dynamath = _load(root / "vlmeval/dataset/dynamath.py", "preprocess", "transfer", "parse_answer", "DynaMath_auxeval")
    silent = SimpleNamespace(generate=lambda prompt: "")
    return {
        "mmstar": lambda row, text: matching["can_infer"](text, {k: row[k] for k in "ABCD"}) == row["answer"],
        "chartqa": lambda row, text: any(vqa["process_line"](row | {"prediction": text}, "relaxed_accuracy")["match"]),
        "hallusionbench": lambda row, text: yes_no["YOrN_Extraction"](text) == row["answer"],
        "mathvista": lambda row, text: vista["post_check"](row | {"res": text}),
        "mathvision": lambda row, text: vision["post_check"](row | {"res": text}),
        "dynamath": lambda row, text: dynamath["DynaMath_auxeval"](silent, row | {"prediction": text})["correct"],
    }


def _is_right(rule: IsRightFn, row: Row, text: str) -> bool:
    try:
        return bool(rule(row, text))
    except Exception:  # theirs; a prediction that makes the rule fail is not right
        return False


def _load(path: Path, *names: str, **given: Any) -> dict[str, Any]:
    """Functions of a file, with its constants, run without its imports.

    Raises:
        ValueError: the file lacks one of them.
    """
    nodes = ast.parse(path.read_text("utf-8")).body
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name in names]
    if missing := set(names) - {node.name for node in functions}:
        raise ValueError(f"{path}: expected the functions {', '.join(sorted(missing))}; is it another revision?")
    for function in functions:
        function.decorator_list = []  # limits of time, by a package of their own
    constants = [node for node in nodes if isinstance(node, ast.Assign) and "re.compile" in ast.unparse(node)]
    modules = {"re": re, "os": os, "cp": copy, "string": string, "json": json, "np": np, "Optional": Optional}
    namespace = {**modules, "latex2sympy": latex2sympy, "logger": logging.getLogger("vlmevalkit"), **given}
    exec(compile(ast.Module([*constants, *functions], []), str(path), "exec"), namespace)
    return namespace


if __name__ == "__main__":
    main()
