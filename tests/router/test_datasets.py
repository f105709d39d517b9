"""Questions are read from the layouts of benchmarks, one row of each below, and bad rows are named and counted."""

import base64
import io
import json
import logging

import pytest
from PIL import Image

from r1vl_jax.router.datasets import Question, read_questions, write_questions
from r1vl_jax.router.question_layouts import range_candidates


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


RED, BLUE = png("red"), png("blue")


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    for name, content in {
        "oven_1.png": RED,
        "n2.png": BLUE,
        "set/images/image_1.png": RED,
        "30000001.png": BLUE,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def read(tmp_path, rows, name="dev.jsonl", **arguments):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) if isinstance(rows, list) else json.dumps(rows))
    return read_questions(path, **arguments)


INFOSEEK = {"data_id": "v1", "image_id": "oven_1", "question": "What?", "answer": ["a"], "answer_eval": ["a", "b"]}

ROWS = {
    "InfoSeek": (INFOSEEK, Question("v1", "What?", RED, ("a", "b"), "infoseek")),
    "InfoSeek without answer_eval": (
        {name: cell for name, cell in INFOSEEK.items() if name != "answer_eval"},
        Question("v1", "What?", RED, ("a",), "infoseek"),
    ),
    "Dyn-VQA, by id": (
        {"image_url": "https://x.org/a/image_1.png", "question": "Who?", "question_id": "n2", "answer": ["他", "He"]},
        Question("n2", "Who?", BLUE, ("他", "He"), "dyn-vqa"),
    ),
    "Dyn-VQA, by URL": (
        {
            "image_url": "https://x.org/a/set/images/image_1.png",
            "question": "Who?",
            "question_id": "n3",
            "answer": ["He"],
        },
        Question("n3", "Who?", RED, ("He",), "dyn-vqa"),
    ),
    "WebQA in R1-Router's files": (
        {"question": "Is it?", "answer": ['"Yes, it is "A"."'], "image_id": "30000001"},
        Question("dev-00000", "Is it?", BLUE, ('Yes, it is "A".',), "webqa"),
    ),
    "WebQA": (
        {
            "Guid": "d5",
            "Q": '"What colour?"',
            "A": ['"It is white."'],
            "split": "val",
            "img_posFacts": [{"image_id": 1}],
        },
        Question("d5", "What colour?", None, ("It is white.",), "webqa"),
    ),
    "2WikiMultihopQA": (
        {"_id": "8813", "type": "comparison", "question": "Who?", "answer": "Verne", "context": [["T", ["s"]]]},
        Question("8813", "Who?", None, ("Verne",), "2wikimultihopqa"),
    ),
    "Open-WikiTable": (
        {"question_id": "open_1", "original_table_id": "1-2", "question": "Which?", "answer": ["3", "4-5"], "sql": ""},
        Question("open_1", "Which?", None, ("3 , 4-5",), "open-wikitable"),
    ),
    "TabFact on the hub": (
        {"id": 7, "table_text": "a#b", "statement": "a be b", "label": 0},
        Question("7", "Is it true that a be b?", None, ("no",), "tabfact"),
    ),
    "R1-Router's other files": (
        {"question": " Is it? ", "answer": "yes"},
        Question("dev-00000", "Is it?", None, ("yes",), "dev"),
    ),
    "a number": ({"question": "How many?", "answer": 3}, Question("dev-00000", "How many?", None, ("3",), "dev")),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_layout_is_read(tmp_path, images, name):
    row, expected = ROWS[name]
    assert read(tmp_path, [row], images=images) == [expected]


def test_tabfact_is_read_as_it_is_published(tmp_path):
    held = {
        "1-2.html.csv": [["a #third round;0,2# of b", "c be d"], [1, 0], "caption"],
        "3-4.html.csv": [["e"], [1], ["DT"], "caption"],
    }
    questions = read(tmp_path, held, name="test_examples.json")
    assert [(each.id, each.text, each.golds) for each in questions] == [
        ("1-2.html.csv-0", "Is it true that a third round of b?", ("yes",)),
        ("1-2.html.csv-1", "Is it true that c be d?", ("no",)),
        ("3-4.html.csv-0", "Is it true that e?", ("yes",)),
    ]


def test_webqa_is_read_as_it_is_published(tmp_path):
    held = {guid: {"Q": f'"{guid}?"', "A": ['"yes"'], "split": "val"} for guid in ("a", "b")}
    assert [(each.id, each.text) for each in read(tmp_path, held, name="WebQA_train_val.json")] == [
        ("a", "a?"),
        ("b", "b?"),
    ]


def test_webqas_pictures_are_read_from_its_one_file(tmp_path):
    lines = [f"{30000000 + number}\t{base64.b64encode(image).decode()}\n" for number, image in enumerate([RED, BLUE])]
    (tmp_path / "imgs.tsv").write_text("".join(lines))
    (tmp_path / "imgs.lineidx").write_text(f"0\n{len(lines[0])}\n")
    rows = [{"question": f"{name}?", "answer": ["yes"], "image_id": name} for name in ("30000001", "30000000")]
    assert [question.image for question in read(tmp_path, rows)] == [BLUE, RED]
    with pytest.raises(ValueError, match="picture '30000002': not in line 2 of .*imgs.tsv"):
        read(tmp_path, [rows[0] | {"image_id": "30000002"}])
    with pytest.raises(ValueError, match="picture '10000001': not in line 1 of .*imgs.tsv"):
        read(tmp_path, [rows[0] | {"image_id": "10000001"}])


def test_open_wikitable_is_read_from_columns(tmp_path):
    rows = [ROWS["Open-WikiTable"][0], ROWS["Open-WikiTable"][0] | {"question_id": "open_2", "answer": ["x"]}]
    columns = {name: {str(number): row[name] for number, row in enumerate(rows)} for name in rows[0]}
    questions = read(tmp_path, columns, name="valid.json")
    assert [(each.id, each.golds) for each in questions] == [("open_1", ("3 , 4-5",)), ("open_2", ("x",))]


def test_a_list_and_one_object_are_read_too(tmp_path):
    row = ROWS["2WikiMultihopQA"][0]
    assert [each.id for each in read(tmp_path, {"data": [row]}, name="dev.json")] == ["8813"]
    (tmp_path / "list.json").write_text(json.dumps([row]))
    assert [each.id for each in read_questions(tmp_path / "list.json")] == ["8813"]
    (tmp_path / "lines.json").write_text(f"{json.dumps(row)}\n{json.dumps(row | {'_id': '2'})}\n")
    assert [each.id for each in read_questions(tmp_path / "lines.json")] == ["8813", "2"]


def test_a_range_of_infoseek_becomes_candidates(tmp_path, images):
    row = INFOSEEK | {"answer_eval": [{"wikidata": 6.75, "range": [6.5, 7.0]}]}
    (question,) = read(tmp_path, [row], images=images)
    assert question.golds[0] == "6.75"
    assert {"7", "6.5", "7.0", "6.9", "6.55", "6.505", "6.500", "7.000"} <= set(question.golds)
    assert not {"6", "6.4", "7.1", "7.001"} & set(question.golds)
    assert len(question.golds) == len(set(question.golds))


def test_the_exact_number_is_a_candidate_of_any_range(tmp_path, images):
    row = INFOSEEK | {"answer_eval": [{"wikidata": 1864321.0, "range": [1677600.0, 2050400.4]}]}
    (question,) = read(tmp_path, [row], images=images)
    assert question.golds[:2] == ("1864321", "1677600")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (390.6, 440.6, [str(number) for number in range(391, 441)]),  # 50 wide: whole numbers
        (24.3, 29.700000000000003, ["25", "29", "24.3", "29.7"]),  # one decimal
        (17.009999999999998, 20.79, ["18", "20", "17.1", "20.7", "17.01", "20.79"]),  # two
        (0.9, 1.1, ["1", "0.9", "1.1", "0.90", "1.10", "0.900", "1.100"]),  # three
        (0.9000000000000001, 1.0999999999999999, ["0.9", "1.1", "0.900", "1.100"]),  # as floats have 0.9 and 1.1
        (-1.0, 4.0, ["-1", "4", "-1.0", "4.0"]),
        (4.0, 4.0, ["4", "4.0", "4.00", "4.000"]),
    ],
)
def test_candidates_are_within_the_range(low, high, expected):
    candidates = list(range_candidates(low, high))
    assert set(expected) <= set(candidates)
    assert all(low - 1e-6 <= float(each) <= high + 1e-6 for each in candidates)
    decimals = max(len(each.partition(".")[2]) for each in expected)
    assert {len(each.partition(".")[2]) for each in candidates} == set(range(decimals + 1))


def test_of_a_wide_range_round_numbers_are_taken():
    candidates = list(range_candidates(1_677_600.0, 2_050_400.4))
    assert candidates[:2] == ["1677600", "1677700"]
    assert candidates[-1] == "2050400"
    assert len(list(range_candidates(0.0, 10_000.0))) == 10_001
    assert len(list(range_candidates(0.0, 10_001.0))) == 1_001


@pytest.mark.parametrize("ends", [(2.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0), (0.0, 1e300)])
def test_what_is_no_range_is_refused(ends):
    with pytest.raises(ValueError, match="expected a range of numbers"):
        list(range_candidates(*ends))


BAD_ROWS = {
    "no layout": ({"text": "Who?"}, "expected the columns of a layout (id, question, golds; data_id"),
    "no gold": ({"question": "Who?", "answer": []}, "expected an answer or a list of answers"),
    "an empty gold": ({"question": "Who?", "answer": ["a", " "]}, "expected an answer or a list of answers"),
    "a null gold": ({"question": "Who?", "answer": None}, "expected an answer or a list of answers"),
    "a yes": ({"question": "Who?", "answer": True}, "expected an answer or a list of answers"),
    "no question": ({"question": " ", "answer": "a"}, "question: expected a text, got ' '"),
    "no picture": (INFOSEEK | {"image_id": "oven_2"}, "picture 'oven_2': no such file"),
    "no file of a picture": (
        INFOSEEK | {"image_id": "broken"},
        "its picture (40 bytes) is unreadable",
    ),
    "no id": (INFOSEEK | {"data_id": ""}, "expected an id, got ''"),
    "no range": (INFOSEEK | {"answer_eval": [{"range": [1]}]}, "answer_eval: expected a range of two numbers"),
    "no answer of a test split": (INFOSEEK | {"answer": None, "answer_eval": None}, "expected an answer or a list"),
    "a label": ({"statement": "a", "label": 2}, "label: expected 1 for entailed or 0 for refuted, got 2"),
    "an unknown retriever": (
        {"id": "q", "question": "Who?", "golds": ["a"], "retrievers": ["Video Retriever"]},
        "expected a retriever of",
    ),
    "retrievers": ({"id": "q", "question": "Who?", "golds": ["a"], "retrievers": "x"}, "retrievers: expected a list"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_and_others_are_kept(tmp_path, images, caplog, name):
    (images / "broken.png").write_bytes(RED[:40])
    bad, reason = BAD_ROWS[name]
    with caplog.at_level(logging.WARNING):
        questions = read(tmp_path, [{"question": "Yes?", "answer": "a"}, bad], images=images)
    assert [question.id for question in questions] == ["dev-00000"]
    assert "dev.jsonl: 1 of 2 rows kept, 1 dropped" in caplog.text
    assert f"1 x {reason}" in caplog.text
    assert "(row 1" in caplog.text


def test_a_second_row_of_one_id_is_left_out(tmp_path, caplog):
    row = ROWS["2WikiMultihopQA"][0]
    assert len(read(tmp_path, [row, row])) == 1
    assert "id '8813' is that of an earlier row (row 1, 8813)" in caplog.text


def test_nothing_is_said_of_a_file_without_bad_rows(tmp_path, caplog):
    read(tmp_path, [{"question": "Yes?", "answer": "a"}])
    assert caplog.text == ""


def test_without_a_usable_row_the_reasons_are_given(tmp_path):
    with pytest.raises(ValueError, match=r"dev.jsonl: no usable question\n2 x question: expected a text"):
        read(tmp_path, [{"question": "", "answer": "a"}] * 2)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file of questions"):
        read_questions(tmp_path / "absent.jsonl")


def test_the_first_questions_are_enough(tmp_path):
    rows = [{"question": f"{number}?", "answer": "a"} for number in range(5)]
    assert [each.text for each in read(tmp_path, rows, limit=2)] == ["0?", "1?"]


def test_what_is_written_is_read(tmp_path):
    questions = [
        Question("a", "Wer?", RED, ("Goethe", "J. W. v. Goethe"), "digits", ("Text Retriever", "Table Retriever")),
        Question("b", "Who?", None, ("Verne",), "text"),
    ]
    write_questions(tmp_path / "deep" / "questions.jsonl", iter(questions))
    assert read_questions(tmp_path / "deep" / "questions.jsonl") == questions
