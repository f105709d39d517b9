"""A model is asked the questions of a benchmark: answers are kept, resumed and scored; broken pictures are named."""

import base64
import dataclasses
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.benchmark_files import row, write_tsv
from PIL import Image

from r1vl_jax.evaluation.benchmarks import ALL, BENCHMARKS, RULES, Reporting, asking
from r1vl_jax.evaluation.benchmarks.asking import Model, Questions, ask_all, ask_and_report, open_questions

REPORTING = Reporting(RULES["2026-08"])


def png(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, 20), 50).save(buffer, "PNG")
    return buffer.getvalue()


def coded(width: int) -> str:
    return base64.b64encode(png(width)).decode()


class Said(str):
    has_ended = True


class Oracle:
    """Answers by the width of the first picture, and keeps what it was asked."""

    def __init__(self, answer=lambda width: str(width), interrupt_at: int = 0):
        self._answer, self._interrupt_at = answer, interrupt_at
        self.conversations, self.num_calls = [], 0

    def model(self, **settings) -> Model:
        return Model(lambda conversation: conversation, self.answer, "Think.", settings)

    def answer(self, conversations):
        self.num_calls += 1
        if self.num_calls == self._interrupt_at:
            raise KeyboardInterrupt
        self.conversations += conversations
        return [[Said(self._answer(each.images[0].width))] for each in conversations]


def run(oracle, path, out, name="chartqa", reporting=REPORTING, limit=0, **settings):
    (questions,) = open_questions(name, str(path), limit=limit)
    return ask_and_report(questions, oracle.model(**settings), reporting, out, batch_size=2)


def predictions(out):
    return pq.read_table(out / "predictions.parquet").to_pylist()


def write_chartqa(tmp_path, *images, **cells):
    """A question for each image, whose answer is 30."""
    rows = [row("chartqa", number, answer="30", image=image, **cells) for number, image in enumerate(images)]
    return write_tsv(tmp_path / "ChartQA.tsv", rows)


def test_a_question_is_asked_with_pictures_instruction_and_its_words(tmp_path):
    oracle = Oracle()
    data = write_chartqa(tmp_path, coded(30), str([coded(40), coded(50)]), question="Which <image> is it?")
    results = run(oracle, data, tmp_path / "out")
    assert [[image.width for image in each.images] for each in oracle.conversations] == [[30], [40, 50]]
    content = [{"type": "image"}] * 2 + [{"type": "text", "text": "Think.\nWhich <image> is it?"}]
    assert oracle.conversations[1].turns == [{"role": "user", "content": content}]
    assert results["scores"]["score"]["value"] == 50.0
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    first, _ = predictions(tmp_path / "out")
    scored = {"prediction": "30", "extracted": "30", "correct": True, "reason": "equal"}
    assert first == row("chartqa", answer="30", question="Which <image> is it?") | {"index": "0"} | scored


def test_pointers_are_pictures_of_other_rows_and_lists_several_references(tmp_path):
    oracle = Oracle()
    data = write_chartqa(tmp_path, "2", coded(30), coded(40))
    text = data.read_text().replace("30", "\"['red', '30']\"", 1)
    data.write_text(text)
    run(oracle, data, tmp_path / "out")
    assert [each.images[0].width for each in oracle.conversations] == [40, 30, 40]
    text = data.read_text().replace("\t2\n", "\t1\n", 1)
    data.write_text(text)
    run(Oracle(), data, tmp_path / "other")
    assert [each["correct"] for each in predictions(tmp_path / "other")] == [True, True, False]


def test_a_broken_picture_is_named_and_wrong_and_not_asked(tmp_path):
    oracle = Oracle()
    no_picture = base64.b64encode(b"no picture" * 10).decode()
    data = write_chartqa(tmp_path, "*" * 100, coded(30), no_picture, "nowhere", coded(30))
    results = run(oracle, data, tmp_path / "out")
    assert len(oracle.conversations) == 2
    assert [each["correct"] for each in predictions(tmp_path / "out")] == [False, True, False, False, True]
    assert results["scores"]["score"]["value"] == 40.0
    assert list(results["not_asked"]) == ["0", "2", "3"]
    assert results["not_asked"]["0"].startswith("its image is broken base64")
    assert results["not_asked"]["2"].startswith("its image (100 bytes) is unreadable: ")
    assert results["not_asked"]["3"] == predictions(tmp_path / "out")[3]["reason"]
    assert results["notes"][-1].startswith(
        "questions that were not asked, and are wrong: 3 (0: its image is broken base64"
    )


def test_texts_that_pandas_would_change_are_kept(tmp_path):
    said = {30: "None", 40: "N/A", 50: "=4", 60: "007"}
    run(Oracle(said.get), write_chartqa(tmp_path, *map(coded, said)), tmp_path / "out")
    assert [each["prediction"] for each in predictions(tmp_path / "out")] == list(said.values())


def test_what_was_interrupted_goes_on_and_what_is_done_is_not_asked_again(tmp_path, monkeypatch):
    data = write_chartqa(tmp_path, *map(coded, (30, 31, 40, 41, 50)))
    whole = run(Oracle(), data, tmp_path / "whole", seed=0)
    with pytest.raises(KeyboardInterrupt):
        run(Oracle(interrupt_at=2), data, tmp_path / "out", seed=0)
    oracle = Oracle()
    assert run(oracle, data, tmp_path / "out", seed=0) == whole
    assert [each.images[0].width for each in oracle.conversations] == [40, 41, 50]
    files = [(tmp_path / name / "predictions.parquet").read_bytes() for name in ("whole", "out")]
    assert files[0] == files[1]
    reporting = Reporting(RULES["2025-03"])
    assert run(oracle, data, tmp_path / "out", reporting=reporting, seed=0)["rules"] == "2025-03"
    assert oracle.num_calls == 2
    with monkeypatch.context() as patched:
        patched.setattr(asking, "Pictures", lambda *_, **__: pytest.fail("the pictures were read again"))
        run(oracle, data, tmp_path / "out", seed=0)
    with pytest.raises(ValueError, match=r"other settings.*\n  seed: 0, now 1"):
        run(oracle, data, tmp_path / "out", seed=1)
    data.write_text(data.read_text().replace("How much?", "How many?"))
    with pytest.raises(ValueError, match=r"other settings.*\n  data: "):
        run(oracle, data, tmp_path / "out", seed=0)


def test_smaller_batches_and_another_name_of_the_model_go_on(tmp_path):
    data = write_chartqa(tmp_path, *map(coded, (30, 31, 40, 41, 50)))
    with pytest.raises(KeyboardInterrupt):
        run(Oracle(interrupt_at=2), data, tmp_path / "out")
    (questions,) = open_questions("chartqa", str(data))
    oracle = Oracle()
    model = dataclasses.replace(oracle.model(), name="./model")
    ask_and_report(questions, model, REPORTING, tmp_path / "out", batch_size=1)
    assert [each.images[0].width for each in oracle.conversations] == [40, 41, 50]
    assert [each["prediction"] for each in predictions(tmp_path / "out")] == ["30", "31", "40", "41", "50"]


def test_sampled_answers_are_of_one_batch_size(tmp_path):
    data = write_chartqa(tmp_path, coded(30))
    run(Oracle(), data, tmp_path / "out", temperature=1.0)
    (questions,) = open_questions("chartqa", str(data))
    model = Oracle().model(temperature=1.0)
    with pytest.raises(ValueError, match=r"other settings; give the same to go on.*\n  batch_size: 2, now 1"):
        ask_and_report(questions, model, REPORTING, tmp_path / "out", batch_size=1)


def test_answers_that_were_cut_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(Said, "has_ended", False)
    results = run(Oracle(), write_chartqa(tmp_path, coded(30), coded(40)), tmp_path / "out", limit=1)
    assert results["num_rows"] == 1
    assert results["notes"][-1] == "answers that were cut at the most new tokens: 1"


def test_a_conversation_that_the_model_cannot_take_is_named(tmp_path):
    def encode(conversation):
        raise ValueError("too narrow")

    oracle = Oracle()
    questions = Questions.open(BENCHMARKS["chartqa"], write_chartqa(tmp_path, coded(30)))
    model = Model(encode, oracle.answer, "", {})
    results = ask_and_report(questions, model, REPORTING, tmp_path / "out")
    assert results["not_asked"] == {"0": "too narrow"}
    assert oracle.num_calls == 0


def test_files_that_cannot_be_asked(tmp_path):
    data = write_chartqa(tmp_path, coded(30), coded(40))
    with pytest.raises(ValueError, match="looks like a file of ChartQA"):
        open_questions("mme", str(data))
    data.write_text(data.read_text().replace("\n1\t", "\n0\t"))
    with pytest.raises(ValueError, match="1 of 1 indices stand on several rows, such as '0' on rows 1, 2; keep one"):
        open_questions("chartqa", str(data))
    with pytest.raises(ValueError, match="lacks image, the pictures"):
        open_questions("chartqa", str(write_tsv(tmp_path / "a.tsv", [row("chartqa")])))
    with pytest.raises(ValueError, match="--data: expected the file of the benchmark; for all, a directory"):
        open_questions(ALL, "")


def test_results_beside_the_data_are_no_data(tmp_path):
    data = write_chartqa(tmp_path, coded(30))
    for _ in range(2):
        ask_all(open_questions(ALL, str(tmp_path)), Oracle().model(), REPORTING, tmp_path)
    (questions,) = open_questions(ALL, str(tmp_path))
    assert questions.path == data


def test_sets_of_the_hub_are_asked(tmp_path):
    parts = {"category": "VS", "subcategory": "chart", "visual_input": "1", "set_id": "2", "figure_id": "3"}
    cells = parts | {"question_id": "4", "question": "Is it?", "gt_answer": "0", "image": {"bytes": png(30)}}
    pq.write_table(pa.Table.from_pylist([cells]), tmp_path / "test.parquet")
    oracle = Oracle(lambda width: "No.")
    results = run(oracle, tmp_path / "test.parquet", tmp_path / "out", "hallusionbench")
    assert oracle.conversations[0].turns[0]["content"][-1]["text"] == "Think.\nIs it?\nA: Yes\nB: No"
    assert results["scores"]["score"]["value"] == 100.0


def test_all_benchmarks_of_a_directory_fill_the_published_table(tmp_path):
    for name in BENCHMARKS:
        write_tsv(tmp_path / f"{BENCHMARKS[name].title}.tsv", [row(name, n, image=coded(30)) for n in range(2)])
    out = tmp_path / "out"
    model = dataclasses.replace(Oracle().model(), name="models/Model-7B")
    scores = ask_all(open_questions(ALL, str(tmp_path)), model, REPORTING, out)
    assert scores == dict.fromkeys(BENCHMARKS, 0.0)
    assert (out / "table.md").read_text().splitlines()[8].startswith("| Model-7B, rules 2026-08 | 0.0 |")
    assert json.loads((out / "table.json").read_text())["scores"] == scores
    assert all((out / name / "results.json").is_file() for name in BENCHMARKS)
