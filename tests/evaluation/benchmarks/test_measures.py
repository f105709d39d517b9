"""What each benchmark reports, counted by hand, and the intervals."""

import numpy as np
import pytest
from helpers.benchmark_files import row

from r1vl_jax.evaluation.benchmarks import BENCHMARKS
from r1vl_jax.evaluation.benchmarks.bootstrap import bootstrap_interval
from r1vl_jax.evaluation.benchmarks.measures import percent_scores, subject_in_metadata, unit_means
from r1vl_jax.evaluation.benchmarks.published import PUBLISHED, average


def scores_of(name, rows, is_right):
    benchmark = BENCHMARKS[name]
    return benchmark.scores(unit_means(benchmark.measure(rows, is_right)))


def test_accuracy_of_all_and_by_category():
    rows = [row("mmstar", i, category=category) for i, category in enumerate(("x", "x", "y", "y"))]
    scores = scores_of("mmstar", rows, [True, False, True, True])
    assert scores == pytest.approx({"score": 75, "category/x": 50, "category/y": 100, "l2_category/code": 75})


def test_hallusionbench_is_the_mean_of_three():
    """Set 1 has three figures, one of them with two questions, set 2 has one question; parts are counted from 0."""
    indices = ["VD_x_0_1_0_0", "VD_x_0_1_0_1", "VD_x_0_1_1_0", "VD_x_0_1_2_0", "VD_x_9_2_0_0"]
    rows = [row("hallusionbench", index) for index in indices]
    scores = scores_of("hallusionbench", rows, [True, False, True, True, False])
    assert scores["accuracy"] == pytest.approx(60)
    assert scores["figure_accuracy"] == pytest.approx(50)  # 1_1 and 1_2 of 1_0, 1_1, 1_2, 2_0
    assert scores["question_accuracy"] == pytest.approx(100 / 3)  # 1_0 of 1_0, 1_1, 2_0
    assert scores["score"] == pytest.approx((60 + 50 + 100 / 3) / 3)


def test_figures_of_different_categories_are_different():
    rows = [row("hallusionbench", "VD_x_0_1_0_0", **{"l2-category": name}) for name in ("x", "y")]
    assert scores_of("hallusionbench", rows, [True, False])["figure_accuracy"] == pytest.approx(50)


def test_mme_sums_accuracy_of_questions_and_of_images():
    cells = [("existence", "a"), ("existence", "a"), ("existence", "b"), ("existence", "b"), ("code_reasoning", "a")]
    rows = [row("mme", i, category=category, image_path=path) for i, (category, path) in enumerate(cells)]
    scores = scores_of("mme", rows, [True, True, True, False, True])
    assert scores["existence"] == pytest.approx(75 + 50)
    assert scores["code_reasoning"] == pytest.approx(100)  # an image with one question has no pair
    assert (scores["perception"], scores["reasoning"], scores["score"]) == pytest.approx((125, 100, 225))


def test_mme_has_14_categories_of_200_points():
    categories = (
        "existence count position color posters celebrity scene landmark artwork OCR commonsense_reasoning"
        " numerical_calculation text_translation code_reasoning"
    ).split()
    rows = [row("mme", f"{category}{i}", category=category) for category in categories for i in range(2)]
    scores = scores_of("mme", rows, [True] * len(rows))
    assert (scores["perception"], scores["reasoning"], scores["score"]) == pytest.approx((2000, 800, 2800))


def test_dynamath_worst_case_needs_every_variant():
    rows = [row("dynamath", i, qid=str(i // 10), varid=str(i % 10 + 1)) for i in range(20)]
    scores = scores_of("dynamath", rows, [True] * 19 + [False])
    assert scores["score"] == pytest.approx(95)
    assert scores["worst_case"] == pytest.approx(50)


def test_mathverse_by_version_and_subject():
    rows = [row("mathverse", i, problem_version=version) for i, version in enumerate(("Text Lite", "Vision Only"))]
    rows.append(row("mathverse", 2, problem_version="Vision Only", metadata="no object"))
    scores = scores_of("mathverse", rows, [True, False, True])
    assert scores["problem_version/Vision Only"] == pytest.approx(50)
    assert scores["subject/Plane Geometry"] == pytest.approx(50)


@pytest.mark.parametrize("metadata", ["", "{", "[1]", "{'x': 1}", "(" * 100_000], ids=range(5))
def test_metadata_without_subject(metadata):
    assert subject_in_metadata(row("mathverse", metadata=metadata)) == ""


def test_the_interval_of_a_share_is_that_of_the_binomial():
    units = {"accuracy": [(str(i), float(i % 4 == 0)) for i in range(400)]}
    low, high = bootstrap_interval(units, percent_scores)["score"]
    half = 196 * np.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((25 - half, 25 + half), abs=0.7)
    assert bootstrap_interval(units, percent_scores)["score"] == (low, high)  # the seed is fixed


def test_clusters_are_drawn_as_wholes():
    """Ten copies of a question are one observation: the interval is wider by the root of ten."""
    alone = {"accuracy": [(str(i), float(i % 2)) for i in range(400)]}
    copies = {"accuracy": [(str(i // 10), float(i // 10 % 2)) for i in range(400)]}
    width = [np.ptp(bootstrap_interval(units, percent_scores)["score"]) for units in (alone, copies)]
    assert width[1] / width[0] == pytest.approx(np.sqrt(10), rel=0.15)


@pytest.mark.parametrize(
    ("name", "cells", "cluster"),
    [
        ("hallusionbench", {"index": "VD_x_0_7_1_2"}, "illusion_7"),
        ("dynamath", {"qid": "7"}, "7"),
        ("mme", {"image_path": "a.png"}, "existence/a.png"),
        ("mathverse", {"problem_index": "7"}, "7"),
        ("mathverse", {"index": "5", "problem_index": ""}, "5"),
        ("mathvision", {"index": "5"}, "5"),
    ],
)
def test_what_is_drawn_together(name, cells, cluster):
    units = BENCHMARKS[name].measure([row(name) | cells], [True])
    assert {each for of_measure in units.values() for each, _ in of_measure} == {cluster}


def test_a_score_that_no_draw_counts_for_has_no_interval():
    """Fourteen categories of an image each: a draw with all of them is one of 127,000."""
    units = {f"acc/{n}": [(str(n), 1.0)] for n in range(14)}
    intervals = bootstrap_interval(units, lambda means: {"sum": sum(means.values()), "one": means["acc/1"]})
    assert intervals == {"one": (1.0, 1.0)}


def test_one_cluster_has_no_interval():
    assert bootstrap_interval({"accuracy": [("a", 1.0), ("a", 0.0)]}, percent_scores) == {}


@pytest.mark.parametrize(("model", "expected"), zip(PUBLISHED, (41.2, 41.4, 45.8, 53.3, 51.4, 57.1), strict=True))
def test_published_averages_are_cut(model, expected):
    assert average(PUBLISHED[model]) == expected


def test_sizes_of_the_benchmarks():
    sizes = {name: benchmark.num_rows for name, benchmark in BENCHMARKS.items()}
    assert sizes == {
        "mmstar": 1500,
        "chartqa": 2 * 1250,
        "hallusionbench": 951,
        "mme": 2374,
        "mathvista": 1000,
        "mathvision": 3040,
        "dynamath": 501 * 10,
        "mathverse": 788 * 5,
    }
