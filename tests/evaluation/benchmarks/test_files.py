"""Files of benchmarks and predictions: TSV, Parquet and Excel; what is refused, and how it is said."""

import re
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.benchmark_files import QUESTIONS, row, write_tsv
from helpers.peak_memory import peak_kib

from r1vl_jax.evaluation.benchmarks import (
    BENCHMARKS,
    RULES,
    read_benchmark,
    read_predictions,
    score_rows,
    summarize,
)
from r1vl_jax.evaluation.benchmarks.tables import MAX_CELL
from r1vl_jax.rewards import Judge


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_xlsx(path, rows):
    openpyxl = pytest.importorskip("openpyxl")
    workbook = openpyxl.Workbook()
    workbook.active.append(list(rows[0]))
    for each in rows:
        workbook.active.append(list(each.values()))
    workbook.save(path)
    return path


WRITERS = {"tsv": write_tsv, "parquet": write_parquet, "xlsx": write_xlsx}


def predictions(tmp_path, name, rows, suffix="tsv", **arguments):
    return read_predictions(WRITERS[suffix](tmp_path / f"p.{suffix}", rows), BENCHMARKS[name], **arguments)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_format_gives_the_same_rows(tmp_path, name, suffix):
    rows = [row(name, index, prediction=f'a "{index}"\n\tb') for index in range(2)]
    expected = [{key: str(cell) for key, cell in each.items()} for each in rows]
    assert predictions(tmp_path, name, rows, suffix) == expected


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("text", ["None", "N/A", "nan", "null", "NULL", "#N/A", "=1+2", "TRUE", "007", "1e5", " x "])
def test_texts_that_pandas_would_change_are_kept(tmp_path, suffix, text):
    (read,) = predictions(tmp_path, "chartqa", [row("chartqa", answer=text, prediction=text)], suffix)
    assert (read["answer"], read["prediction"]) == (text, text)


def test_numbers_are_texts(tmp_path):
    (read,) = predictions(tmp_path, "chartqa", [row("chartqa", 5, answer=14.0, prediction=0.5)], "xlsx")
    assert (read["index"], read["answer"], read["prediction"]) == ("5", "14", "0.5")


def test_whole_numbers_of_a_column_with_nulls_have_no_point(tmp_path):
    rows = [row("chartqa", float(i), answer=answer, prediction="x") for i, answer in enumerate((14.0, 0.5, None))]
    read = predictions(tmp_path, "chartqa", rows, "parquet")
    assert [(each["index"], each["answer"]) for each in read] == [("0", "14"), ("1", "0.5"), ("2", "")]


def test_an_array_formula_is_its_text(tmp_path):
    formula = pytest.importorskip("openpyxl.worksheet.formula").ArrayFormula("F2", "=1+2")
    (read,) = predictions(tmp_path, "chartqa", [row("chartqa", prediction=formula)], "xlsx")
    assert read["prediction"] == "=1+2"


def test_an_excel_file_that_states_wrong_dimensions(tmp_path):
    path = write_xlsx(tmp_path / "p.xlsx", [row("chartqa", prediction="x")])
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1"', content))
    (read,) = read_predictions(path, BENCHMARKS["chartqa"])
    assert read["prediction"] == "x"


def test_nulls_are_empty_and_lists_are_json(tmp_path):
    cells = {"prediction": None, "choices": ["x", 'é"'], "answer": "x"}
    (read,) = predictions(tmp_path, "mathvista", [row("mathvista", **cells)], "parquet")
    assert (read["prediction"], read["choices"]) == ("", '["x", "é\\""]')


def test_other_names_of_columns(tmp_path):
    cells = {k: v for k, v in row("mathvision", prediction="12").items() if k not in ("index", "choices")}
    (read,) = predictions(tmp_path, "mathvision", [{"id": 7, "options": ["a"], **cells}], "parquet")
    assert (read["index"], read["choices"]) == ("7", '["a"]')


def test_a_set_of_the_hub_without_index_is_counted(tmp_path):
    rows = [{"question": "How much?", "answer": ["14"], "type": "human", "image": {"bytes": b"x", "path": None}}] * 2
    read = read_benchmark(write_parquet(tmp_path / "test.parquet", rows), BENCHMARKS["chartqa"])
    assert [each["index"] for each in read] == ["0", "1"]
    assert read[0]["split"] == "human"
    assert "image" not in read[0]


_PICTURE = {"bytes": b"x", "path": None}
_HUB = {  # rows in the layout of the sets' pages on the hub
    "mme": {"question_id": "count/1.png", "image": _PICTURE, "question": "?", "answer": "Yes", "category": "count"},
    "mmstar": {
        "index": 7,
        "question": "What is it?\nOptions: A: a car, red., B: a bus., C: a bicycle., D: none.",
        "image": _PICTURE,
        "answer": "B",
        "category": "logic",
        "l2_category": "code",
        "meta_info": {"source": "x"},
    },
    "hallusionbench": {
        "category": "VS",
        "subcategory": "chart",
        "visual_input": "1",
        "set_id": "2",
        "figure_id": "3",
        "question_id": "4",
        "question": "Is it?",
        "gt_answer": "1",
        "image": _PICTURE,
    },
    "dynamath": {
        "id": "7",
        "question": "?",
        "image": "images/7.png",
        "decoded_image": _PICTURE,
        "ground_truth": "2.5",
        "answer_type": "float",
        "subject": "algebra",
        "knowledge_level": "high school",
    },
    "mathvista": {
        "pid": "7",
        "question": "?",
        "decoded_image": _PICTURE,
        "choices": ["a", "b"],
        "precision": None,
        "answer": "a",
        "question_type": "multi_choice",
        "answer_type": "text",
        "metadata": {"task": "geometry"},
    },
    "mathvision": {
        "id": "7",
        "question": "?",
        "options": ["1", "2", "3"],
        "answer": "B",
        "level": 3,
        "subject": "algebra",
        "decoded_image": _PICTURE,
    },
    "mathverse": {
        "sample_index": "7",
        "problem_index": "2",
        "problem_version": "Vision Only",
        "question": "",
        "question_for_eval": "?\nChoices:\nA:1\nB:2",
        "answer": "B",
        "question_type": "multi-choice",
        "metadata": {"subject": "Plane Geometry"},
        "image": _PICTURE,
    },
}


@pytest.mark.parametrize("name", _HUB)
def test_sets_of_the_hub_are_scored_with_their_answers(tmp_path, name):
    data = write_parquet(tmp_path / "data.parquet", [_HUB[name]])
    index = {"mme": "0", "hallusionbench": "VS_chart_1_2_3_4", "dynamath": "7_1"}.get(name, "7")
    said = {"hallusionbench": "Yes", "dynamath": "2.5"}.get(name) or _HUB[name]["answer"]
    rows = predictions(tmp_path, name, [{"index": index, "prediction": said}], data=data)
    with Judge() as judge:
        outcomes = score_rows(BENCHMARKS[name], rows, RULES["2026-08"], judge)
    assert outcomes[0].comparison.is_correct
    scores = summarize(BENCHMARKS[name], rows, outcomes, RULES["2026-08"])["scores"]
    assert scores["score"]["value"] == 100.0
    if name == "mathverse":
        assert "subject/Plane Geometry" in scores


def test_options_of_the_hubs_mmstar_stand_in_its_questions(tmp_path):
    two = _HUB["mmstar"] | {"index": 8, "question": "Is it?\nOptions: A: Yes, B: No"}
    none = _HUB["mmstar"] | {"index": 9, "question": "Is it?"}
    read = read_benchmark(write_parquet(tmp_path / "t.parquet", [_HUB["mmstar"], two, none]), BENCHMARKS["mmstar"])
    assert [[row[letter] for letter in "ABCD"] for row in read] == [
        ["a car, red.", "a bus.", "a bicycle.", "none."],
        ["Yes", "No", "", ""],
        [""] * 4,
    ]
    assert [row["question"] for row in read] == ["What is it?", "Is it?", "Is it?"]


def test_variants_of_the_hubs_dynamath_are_counted(tmp_path):
    rows = [_HUB["dynamath"] | {"id": name} for name in ("7", "8", "7", "8")]
    read = read_benchmark(write_parquet(tmp_path / "test.parquet", rows), BENCHMARKS["dynamath"])
    assert [(row["index"], row["qid"], row["varid"]) for row in read] == [
        ("7_1", "7", "1"),
        ("8_1", "8", "1"),
        ("7_2", "7", "2"),
        ("8_2", "8", "2"),
    ]


def test_results_of_an_earlier_scoring_are_left_out(tmp_path):
    rows = [row("chartqa", prediction="5", extracted="5", correct=True, reason="equal")]
    assert predictions(tmp_path, "chartqa", rows, "parquet") == [row("chartqa", prediction="5") | {"index": "0"}]


def test_the_benchmark_gives_what_predictions_lack(tmp_path):
    data = write_tsv(tmp_path / "data.tsv", [row("chartqa", index) for index in range(3)])
    read = predictions(tmp_path, "chartqa", [{"index": i, "prediction": f"p{i}"} for i in (2, 0)], data=data)
    assert [(each["index"], each["prediction"]) for each in read] == [("0", "p0"), ("1", ""), ("2", "p2")]
    with pytest.raises(ValueError, match=r"p.tsv: 1 of its 2 predictions are on no question of .*: indices '9'; give"):
        predictions(tmp_path, "chartqa", [{"index": i, "prediction": "p"} for i in (9, 0)], data=data)


def test_duplicate_indices_are_refused(tmp_path):
    rows = [row("chartqa", index, prediction="5") for index in (4, 8, 4, 4)]
    with pytest.raises(ValueError, match="p.tsv: 1 of 2 indices stand on several rows, such as '4' on rows 1, 3, 4;"):
        predictions(tmp_path, "chartqa", rows)


@pytest.mark.parametrize("other", [name for name in BENCHMARKS if name != "chartqa"])
def test_another_benchmarks_file_is_named(tmp_path, other):
    looks = f"lacks split, which ChartQA's files have; it looks like .*--benchmark={other}; its columns are index"
    with pytest.raises(ValueError, match=looks):
        predictions(tmp_path, "chartqa", [row(other, prediction="5")])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_columns_are_named(tmp_path, name):
    columns = {"index": 0, "prediction": "x", "question": "x"}
    with pytest.raises(ValueError, match=f"lacks answer, {', '.join(BENCHMARKS[name].columns)}, which"):
        predictions(tmp_path, name, [columns])


def test_a_file_without_predictions_is_no_file_of_predictions(tmp_path):
    with pytest.raises(ValueError, match="lacks prediction, which MMStar's predictions have; its columns"):
        predictions(tmp_path, "mmstar", [row("mmstar")])


def test_indices_of_another_form_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected indices of six parts joined by _, .* got 'x_1'"):
        predictions(tmp_path, "hallusionbench", [row("hallusionbench", "x_1", prediction="5")])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.tsv", b"", "lacks index"),
        ("a.tsv", b"index\tquestion\tanswer\tsplit\tprediction\n", "has no rows"),
        ("a.tsv", b"index\tquestion\tanswer\tsplit\tprediction\n1\tx\n", "row 1: expected 5 cells, got 2"),
        ("a.tsv", b'index\tquestion\tanswer\tsplit\tprediction\n1\tx\tx\tx\t"x\n', "no whole tsv file"),
        ("a.tsv", b"index\tquestion\tanswer\tsplit\tprediction\n1\tx\tx\tx\t\xff\n", "no whole tsv file"),
        ("a.tsv", b"index\tindex\tquestion\tanswer\tsplit\tprediction\n1\t1\tx\tx\tx\tx\n", "index are there twice"),
        ("a.parquet", b"PAR1", "no whole parquet file"),
        ("a.csv", b"", "expected a file that ends in .tsv, .parquet, .xlsx"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_predictions(tmp_path / name, BENCHMARKS["chartqa"])


def test_a_damaged_excel_file_is_refused(tmp_path):
    pytest.importorskip("openpyxl")
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match="no whole xlsx file"):
        read_predictions(tmp_path / "a.xlsx", BENCHMARKS["chartqa"])


def test_excel_without_openpyxl_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"Excel files need openpyxl: pip install 'r1vl_jax\[xlsx\]', or use TSV"):
        read_predictions(tmp_path / "a.xlsx", BENCHMARKS["chartqa"])


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="expected a file, got a directory; directories are for --benchmark=all"):
        read_predictions(tmp_path, BENCHMARKS["chartqa"])


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_predictions(tmp_path / "a.tsv", BENCHMARKS["chartqa"])


_READ = """
rows = list(Table(Path(sys.argv[1])).rows(lambda name: name != "image"))
print([row["answer"] for row in rows])
"""


def test_a_picture_of_100_mb_is_not_held(tmp_path):
    with (tmp_path / "big.tsv").open("w") as file:
        file.write("index\timage\tanswer\n0\t")
        for _ in range(100):
            file.write("A" * 1_000_000)
        file.write("\tfirst\n1\tAAAA\tsecond\n")
    answers, kib = peak_kib("from r1vl_jax.evaluation.benchmarks.tables import Table", _READ, tmp_path / "big.tsv")
    assert answers == "['first', 'second']"
    assert kib < 160 * 1024  # a reader of whole cells needs 400 MiB


def test_a_prediction_that_would_be_cut_is_refused(tmp_path):
    rows = [row("chartqa", prediction="x" * (MAX_CELL + 100_000))]
    with pytest.raises(ValueError, match="row 1: prediction has more than 16,777,216 characters"):
        predictions(tmp_path, "chartqa", rows)


def test_questions_are_those_of_the_table():
    assert QUESTIONS.keys() == BENCHMARKS.keys()
