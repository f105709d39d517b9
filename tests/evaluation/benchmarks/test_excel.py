"""Predictions as an Excel file: what pandas reads in it, as VLMEvalKit does, and what is said of the rest."""

import io

import pytest
from helpers.benchmark_files import row

from r1vl_jax.evaluation.benchmarks import BENCHMARKS, read_predictions
from r1vl_jax.evaluation.benchmarks.excel import MAX_CHARACTERS, to_xlsx

pytest.importorskip("openpyxl")
pandas = pytest.importorskip("pandas")

TEXTS = ["=4", "=SUM(A1:A9)", "007", "1e5", "TRUE", "#REF!", "2024-01-01", " x ", "a\n\tb", "12", "是", "_x0041_"]
MISSING_TO_PANDAS = ["None", "N/A", "nan", ""]


def rows_of(texts):
    return [{**row("chartqa"), "index": str(number), "prediction": text} for number, text in enumerate(texts)]


def test_pandas_reads_the_texts_that_were_written():
    content, notes = to_xlsx(rows_of(TEXTS))
    table = pandas.read_excel(io.BytesIO(content))
    assert list(table["prediction"]) == TEXTS
    assert list(table["index"]) == list(range(len(TEXTS)))
    assert notes == []


def test_what_pandas_takes_for_missing_is_in_the_file(tmp_path):
    content, _ = to_xlsx(rows_of(MISSING_TO_PANDAS))
    assert pandas.read_excel(io.BytesIO(content))["prediction"].isna().all()
    read = pandas.read_excel(io.BytesIO(content), keep_default_na=False)
    assert list(read["prediction"]) == MISSING_TO_PANDAS
    (tmp_path / "p.xlsx").write_bytes(content)
    ours = read_predictions(tmp_path / "p.xlsx", BENCHMARKS["chartqa"])
    assert [each["prediction"] for each in ours] == MISSING_TO_PANDAS


def test_what_excel_cannot_hold_is_said():
    content, notes = to_xlsx(rows_of(["x" * (MAX_CHARACTERS + 1), "a\x07b", "y" * MAX_CHARACTERS]))
    read = list(pandas.read_excel(io.BytesIO(content))["prediction"])
    assert read == ["x" * MAX_CHARACTERS, "a\ufffdb", "y" * MAX_CHARACTERS]
    assert notes == [
        "predictions.xlsx: cells cut at Excel's 32,767 characters in rows: 1; predictions.parquet has them whole",
        "predictions.xlsx: control characters lost in rows: 1; predictions.parquet has them whole",
    ]


def test_indices_that_are_no_integers_stay_texts():
    rows = [{"index": index, "prediction": "x"} for index in ("VD_a_0_0_0_1", "01")]
    content, _ = to_xlsx(rows)
    assert list(pandas.read_excel(io.BytesIO(content))["index"]) == ["VD_a_0_0_0_1", "01"]
