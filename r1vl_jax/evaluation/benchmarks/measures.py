"""What a benchmark reports: means over questions, or over groups of questions that must all be right.

Each measure is a list of units. A unit has a value, 1.0 or 0.0, and a cluster, which a bootstrap draws as a whole.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1vl_jax.data.sources.literals import parse_literal
from r1vl_jax.evaluation.benchmarks.outcome import Row

Units = dict[str, list[tuple[str, float]]]  # measure -> (cluster, value) of each unit
Means = Mapping[str, Any]  # measure -> its mean, a fraction; or as many means as a bootstrap draws
KeyFn = Callable[[Row], str]
MeasureFn = Callable[[Sequence[Row], Sequence[bool]], Units]
ScoreFn = Callable[[Means], dict[str, Any]]

SCORE = "score"  # the figure of the published table
_PERCEPTION = "existence count position color posters celebrity scene landmark artwork OCR".split()
_REASONING = "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()


def column(name: str) -> KeyFn:
    """A key of the rows: the cell of a column."""
    return lambda row: row.get(name, "").strip()


def _index(row: Row) -> str:
    return row["index"]


def accuracy(*columns: str, cluster: KeyFn = _index) -> MeasureFn:
    """The share of right answers, of all and of each value of some columns."""
    return accuracy_by({name: column(name) for name in columns}, cluster=cluster)


def accuracy_by(keys: Mapping[str, KeyFn], *, cluster: KeyFn = _index) -> MeasureFn:
    """The share of right answers, of all and by keys of the rows; rows without a key count in none of its values."""

    def measure(rows: Sequence[Row], is_right: Sequence[bool]) -> Units:
        units: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
        for row, right in zip(rows, is_right, strict=True):
            named = [f"{name}/{value}" for name, key in keys.items() if (value := key(row))]
            for name in ("accuracy", *named):
                units[name].append((cluster(row), float(right)))
        return dict(units)

    return measure


def dynamath(rows: Sequence[Row], is_right: Sequence[bool]) -> Units:
    """Accuracy, and the share of problems of which every variant is right."""
    by_columns = accuracy("subject", "knowledge_level", "answer_type", cluster=column("qid"))(rows, is_right)
    return by_columns | {"worst_case": _all_right(rows, is_right, column("qid"), column("qid"))}


def hallusionbench(rows: Sequence[Row], is_right: Sequence[bool]) -> Units:
    """Accuracy of questions, of figures and of questions over all their figures.

    Clusters are the sets: a question is asked of several figures, and sets alone hold both as wholes.
    """
    units = accuracy("category", "l2-category", cluster=_part_key(3))(rows, is_right)
    units["figure_accuracy"] = _all_right(rows, is_right, _part_key(3, 4), _part_key(3))
    units["question_accuracy"] = _all_right(rows, is_right, _part_key(3, 5), _part_key(3))
    return units


def hallusionbench_scores(means: Means) -> dict[str, Any]:
    """The mean of the three accuracies, and each measure, in percent."""
    names = ("accuracy", "figure_accuracy", "question_accuracy")
    return {SCORE: 100 * sum(means[name] for name in names) / 3} | percentages(means)


def mme(rows: Sequence[Row], is_right: Sequence[bool]) -> Units:
    """Of each category the accuracy of questions, and that of images, of which both questions have to be right."""
    units: Units = {}
    for category in dict.fromkeys(row["category"] for row in rows):
        pairs = [(row, right) for row, right in zip(rows, is_right, strict=True) if row["category"] == category]
        of_category, right = [row for row, _ in pairs], [right for _, right in pairs]
        units[f"acc/{category}"] = [(_image(row), float(each)) for row, each in pairs]
        units[f"acc+/{category}"] = _all_right(of_category, right, _image, _image, at_least=2)
    return units


def mme_scores(means: Means) -> dict[str, Any]:
    """Points: a category has up to 200; the score is the sum, at most 2800."""
    categories = [name.partition("/")[2] for name in means if name.startswith("acc/")]
    points = {each: 100 * (means[f"acc/{each}"] + means[f"acc+/{each}"]) for each in categories}
    perception, reasoning = (sum(points.get(each, 0.0) for each in names) for names in (_PERCEPTION, _REASONING))
    return {SCORE: perception + reasoning, "perception": perception, "reasoning": reasoning} | points


def percent_scores(means: Means) -> dict[str, Any]:
    """The accuracy, which is the score, and each other measure, in percent."""
    return {SCORE if name == "accuracy" else name: value for name, value in percentages(means).items()}


def percentages(means: Means) -> dict[str, Any]:
    """Each mean in percent."""
    return {name: 100 * mean for name, mean in means.items()}


def subject_in_metadata(row: Row) -> str:
    """The subject that MathVerse's column `metadata` holds; "" for none."""
    try:
        value = parse_literal(row.get("metadata", ""))
    except ValueError:
        return ""
    return str(value.get("subject") or "") if isinstance(value, dict) else ""


def problem_of_version(row: Row) -> str:
    """The problem that MathVerse asks in five versions, where a column tells it; else the question."""
    return row.get("problem_index", "").strip() or row["index"]


def unit_means(units: Units) -> dict[str, float]:
    """The mean of each measure's units, a fraction."""
    return {name: sum(value for _, value in each) / len(each) for name, each in units.items()}


def _image(row: Row) -> str:
    return f"{row['category']}/{row['image_path']}"


def _part_key(*parts: int) -> KeyFn:
    """The `l2-category` and parts of the index, which are counted from 0."""
    return lambda row: "_".join([row["l2-category"], *(row["index"].split("_")[part] for part in parts)])


def _all_right(
    rows: Sequence[Row], is_right: Sequence[bool], unit: KeyFn, cluster: KeyFn, *, at_least: int = 1
) -> list[tuple[str, float]]:
    """A unit for each group of rows, right if it has enough rows and all are."""
    groups: defaultdict[str, list[bool]] = defaultdict(list)
    for row, right in zip(rows, is_right, strict=True):
        groups[unit(row)].append(right)
    cluster_of = {unit(row): cluster(row) for row in rows}
    return [(cluster_of[key], float(len(rights) >= at_least and all(rights))) for key, rights in groups.items()]
