"""`python -m r1vl_jax.evaluation.score`: files in, table and files out; speed; answers that hang."""

import csv
import functools
import json
import random
import re
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from etils import epath
from helpers.benchmark_files import QUESTIONS, row, write_tsv

from r1vl_jax.evaluation.benchmarks import BENCHMARKS, RULES, Reporting, read_predictions, score_rows, summarize
from r1vl_jax.evaluation.score import score_directory, score_file
from r1vl_jax.rewards import Judge

RULES_2026 = Reporting(RULES["2026-08"])
HEADING = "### The final answer is:"


@pytest.fixture(scope="module")
def chartqa(tmp_path_factory):
    predictions = [f"### Step 1:\nx\n{HEADING}\n95", "100", "", "=50*2"]
    rows = [row("chartqa", i, prediction=text, image="A" * 80) for i, text in enumerate(predictions)]
    return write_tsv(tmp_path_factory.mktemp("chartqa") / "predictions.tsv", rows)


@pytest.mark.parametrize(("rules", "right"), [("2026-08", [0, 1]), ("2025-03", [1])])
def test_scores_a_file(chartqa, tmp_path, rules, right):
    results = score_file(BENCHMARKS["chartqa"], chartqa, Reporting(RULES[rules]), out=epath.Path(tmp_path))
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert results["scores"]["score"]["value"] == 25.0 * len(right)
    assert (results["rules"], results["num_rows"], results["num_missing"], results["num_empty"]) == (rules, 4, 2496, 1)
    assert results["notes"] == ["4 rows, where ChartQA has 2,500: scores are of these rows alone"]
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert [i for i, each in enumerate(rows) if each["correct"]] == right
    assert [each["extracted"] for each in rows] == ["95", "100", "", "=50*2"]
    assert rows[0]["prediction"].endswith("95")
    assert rows[2]["reason"] == "no answer"
    assert rows[0].keys() == row("chartqa").keys() | {"prediction", "extracted", "correct", "reason"}


def test_what_was_written_is_scored_again_and_handed_on(chartqa, tmp_path):
    score = functools.partial(score_file, BENCHMARKS["chartqa"], reporting=RULES_2026)
    first = score(chartqa, out=epath.Path(tmp_path))
    with (tmp_path / "predictions.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    assert [each["prediction"] for each in rows][1:] == ["100", "", "=50*2"]
    assert list(rows[0]) == [*row("chartqa"), "prediction"]
    for name in ("predictions.parquet", "predictions.tsv"):
        assert score(tmp_path / name) == first


def test_a_question_without_prediction_is_wrong(tmp_path):
    data = write_tsv(tmp_path / "data.tsv", [row("chartqa", i) for i in range(4)])
    path = write_tsv(tmp_path / "p.tsv", [{"index": 2, "prediction": "100"}])
    results = score_file(BENCHMARKS["chartqa"], path, RULES_2026, data)
    assert results["scores"]["score"]["value"] == 25.0
    assert results["num_empty"] == 3


def test_the_program_prints_a_table_or_one_sentence(chartqa):
    command = [sys.executable, "-m", "r1vl_jax.evaluation.score", f"--predictions={chartqa}"]
    ended = subprocess.run([*command, "--benchmark=chartqa"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "ChartQA, rules 2026-08, 4 rows" in ended.stdout
    assert re.search(r"score\W+50\.0\W+\d+\.0 to \d+\.0", ended.stdout)
    assert re.search(r"R1-VL-7B\W+83\.9", ended.stdout)
    ended = subprocess.run([*command, "--benchmark=mme"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "looks like a file of ChartQA" in ended.stderr


def test_all_files_of_a_directory_fill_the_published_table(tmp_path):
    for name in BENCHMARKS:
        rows = [row(name, i, prediction=QUESTIONS[name]["answer"] if i else "none of it") for i in range(4)]
        write_tsv(tmp_path / f"Model-7B_{BENCHMARKS[name].title}_TEST.tsv", rows)
    out = tmp_path / "out"
    scores = score_directory(tmp_path, RULES_2026, out=epath.Path(out))
    assert scores == dict.fromkeys(BENCHMARKS, 75.0) | {"mme": 75.0, "hallusionbench": pytest.approx((75 + 0 + 75) / 3)}
    published, ours, _, *notes = (out / "table.md").read_text().splitlines()[7:]
    assert "- MathVerse: offline variant: published figures of MathVerse have a language model as judge" in notes
    assert "- MME: 4 rows, where MME has 2,374: scores are of these rows alone" in notes
    assert published == "| R1-VL-7B | 63.5 | 60.0 | 24.7 | 83.9 | 45.2 | 54.7 | 40.0 | 2376 | 57.1 |"
    average = int(10 * (6 * 75 + 50 + 75 / 28) / 8) / 10
    assert ours.endswith(f", rules 2026-08 | 75.0 | 75.0 | 75.0 | 75.0 | 75.0 | 50.0 | 75.0 | 75 | {average} |")
    assert json.loads((out / "table.json").read_text())["scores"] == scores
    again = score_directory(out, RULES_2026)  # what was written
    assert again == scores


def test_a_benchmark_without_file_has_no_figure(tmp_path, chartqa):
    (tmp_path / "chartqa.tsv").write_bytes(chartqa.read_bytes())
    score_directory(tmp_path, RULES_2026, out=epath.Path(tmp_path / "out"))
    *_, ours, _, _, note = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert note == "- no file of MMStar, HallusionBench, MME, MathVista, MathVision, DynaMath, MathVerse"
    assert ours.endswith("| – | – | – | 50.0 | – | – | – | – | – |")


def test_a_directory_of_benchmarks_gives_what_predictions_lack(tmp_path):
    for directory in ("predictions", "data"):
        (tmp_path / directory).mkdir()
    write_tsv(tmp_path / "data" / "MMStar.tsv", [row("mmstar", i) for i in range(2)])
    write_tsv(tmp_path / "predictions" / "x_MMStar.tsv", [{"index": 1, "prediction": "B"}])
    scores = score_directory(tmp_path / "predictions", RULES_2026, tmp_path / "data")
    assert scores == {"mmstar": 50.0}


def test_a_table_of_all_is_whole_in_a_log(tmp_path, chartqa, capsys):
    (tmp_path / "chartqa.tsv").write_bytes(chartqa.read_bytes())
    score_directory(tmp_path, RULES_2026)
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("MathVista", "MathVision", "MathVerse", "Qwen2-VL-2B + GRPO"))


def test_nothing_is_scored_where_a_file_is_refused(tmp_path, chartqa):
    for name in ("chartqa.tsv", "mme.tsv"):
        (tmp_path / name).write_bytes(chartqa.read_bytes())
    with pytest.raises(ValueError, match="mme.tsv: lacks"):
        score_directory(tmp_path, RULES_2026, out=epath.Path(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_categories_are_no_markup(tmp_path, capsys):
    path = write_tsv(tmp_path / "p.tsv", [row("chartqa", split="[/x] [red]", prediction="1")])
    score_file(BENCHMARKS["chartqa"], path, RULES_2026)
    assert "split/[/x] [red]" in capsys.readouterr().out


def test_predictions_of_something_else_are_not_replaced(tmp_path, chartqa):
    rows = [row("mme", prediction="Yes", image="A" * 80)]
    path = write_tsv(tmp_path / "predictions.tsv", rows)  # of the user's
    content = path.read_bytes()
    with pytest.raises(ValueError, match="has predictions.tsv of something else, .* of mme would replace;"):
        score_file(BENCHMARKS["mme"], path, RULES_2026, out=epath.Path(tmp_path))
    assert path.read_bytes() == content
    out = epath.Path(tmp_path / "out")
    score_file(BENCHMARKS["mme"], path, RULES_2026, out=out)
    score_file(BENCHMARKS["mme"], tmp_path / "out" / "predictions.tsv", Reporting(RULES["2025-03"]), out=out)
    with pytest.raises(ValueError, match="predictions.tsv of mme, which the results of chartqa would"):
        score_file(BENCHMARKS["chartqa"], chartqa, RULES_2026, out=out)


def test_a_model_called_after_a_benchmark(tmp_path):
    write_tsv(tmp_path / "Qwen-ChartQA-sft_MMStar.tsv", [row("mmstar", prediction="B")])
    assert score_directory(tmp_path, RULES_2026) == {"mmstar": 100.0}


def test_directories_that_cannot_be_scored(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file here has one of mmstar, chartqa"):
        score_directory(tmp_path, RULES_2026)
    with pytest.raises(FileNotFoundError, match="expected a directory with a file for each benchmark"):
        score_directory(tmp_path / "x", RULES_2026)
    for name in ("a_MME.tsv", "b_mme_result.xlsx", "mmevol.tsv"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="a_MME.tsv, b_mme_result.xlsx are all mme's; keep one"):
        score_directory(tmp_path, RULES_2026)


_WORDS = (
    "so the value is about of a in chart Yes no A B C D E 12 13.5 4% blue red 是 \\frac12 \\sqrt{2} x+1 ) ( **".split()
)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_thousand_predictions_take_less_than_ten_seconds(name, tmp_path):
    """Right ones, wrong ones, long ones without a heading."""
    random.seed(0)
    answer = QUESTIONS[name]["answer"]
    cells = {"choices": "['30', '45', 'None']", "question_type": "multi_choice"} if "choices" in QUESTIONS[name] else {}
    rows = []
    for index in range(1_000):
        words = " ".join(random.choices(_WORDS, k=random.choice((3, 30, 600))))
        said = random.choice((answer, words, f"{words}\n{HEADING}\n{answer}", f"{words} \\boxed{{{words[:20]}}}"))
        rows.append(row(name, index, prediction=said, **cells))
    start = time.process_time()
    read = read_predictions(write_tsv(tmp_path / "p.tsv", rows), BENCHMARKS[name])
    with Judge(num_workers=2, timeout_s=5.0) as judge:
        outcomes = score_rows(BENCHMARKS[name], read, RULES["2026-08"], judge)
    results = summarize(BENCHMARKS[name], read, outcomes, RULES["2026-08"])
    assert sum(results["reasons"].values()) == 1_000
    assert time.process_time() - start < 10.0


def test_formulas_that_math_verify_compares_are_fast():
    rows = [
        row("mathverse", i, question_type="free-form", answer=f"y={i}x+1", prediction=f"y=1+{i}x") for i in range(100)
    ]
    start = time.monotonic()
    with Judge(num_workers=2, timeout_s=5.0) as judge:
        outcomes = score_rows(BENCHMARKS["mathverse"], rows, RULES["2026-08"], judge)
    assert all(outcome.comparison.reason == "math-verify: equal" for outcome in outcomes)
    assert time.monotonic() - start < 30.0


def test_an_answer_that_hangs_is_ended_and_counted():
    rows = [row("mathverse", i, question_type="free-form", answer="x+3") for i in range(2)]
    rows[0]["prediction"], rows[1]["prediction"] = "$x + 99999999!$", "3+x"
    with Judge(num_workers=1, timeout_s=2.0) as judge:
        outcomes = score_rows(BENCHMARKS["mathverse"], rows, RULES["2026-08"], judge)
    assert [outcome.comparison.is_correct for outcome in outcomes] == [False, True]
    results = summarize(BENCHMARKS["mathverse"], rows, outcomes, RULES["2026-08"])
    assert results["reasons"]["math-verify: timeout"] == 1
