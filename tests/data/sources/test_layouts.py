"""Published layouts: a row of each, as its data set has it, is recognised and becomes the record that it should."""

import base64
import contextlib
from typing import Any

import pytest

from r1vl_jax.config.settings import LAYOUTS as LAYOUT_NAMES
from r1vl_jax.data.records import UnusableRecord, invalid_reason
from r1vl_jax.data.sources.files import read_rows
from r1vl_jax.data.sources.layouts import LAYOUTS, parse_columns, recognise
from r1vl_jax.data.sources.rows import RowReader
from r1vl_jax.response_format import compose

PATH = compose("Two squares.", "Count them.", ["1 + 1 = 2"], "2")
A = "pictures/a.png"


def turns(question: str, *answer: str, keys: tuple[str, str, str, str] = ("role", "content", "user", "assistant")):
    who, what, user, assistant = keys
    return [{who: user, what: question}, *({who: assistant, what: each} for each in answer)]


SHAREGPT = ("from", "value", "human", "gpt")
STAGES = (
    "<SUMMARY> I count. </SUMMARY>\n\n<CAPTION> Two squares. </CAPTION>\n\n<REASONING> One here.\n\nOne there."
    " </REASONING>\n\n<CONCLUSION> 2 </CONCLUSION>"
)
EXTRA = {"split": "train", "index": 7, "answer": "2"}

# name of the layout, row, fields of the record that differ from those below
ROWS = [
    ("mulberry", {"messages": turns("<image>How many?", PATH), "images": A}, {"response": PATH}),
    ("mulberry", {"messages": turns("<image>How many?", PATH), "images": [A]}, {"response": PATH}),
    ("messages", {"messages": turns("<image>How many?", "2"), "images": [A]}, {"response": "2"}),
    (
        "r1vl",
        {"image_path": A, "problem": "<image>How many?", "solution": PATH, "key_steps": {"Steps": [["1+1=2"]]}},
        {"key_steps": (("1+1=2",),), "solution": PATH},
    ),
    ("trl", {"prompt": turns("<image>How many?"), "image": A, "answer": "2"}, {}),
    (
        "trl",
        {
            "prompt": turns([{"type": "image"}, {"type": "text", "text": "How many?"}]),
            "images": [{"bytes": None, "path": A}],
            "solution": "<think>1 + 1</think><answer>2</answer>",
        },
        {"solution": "<think>1 + 1</think><answer>2</answer>"},
    ),
    (
        "trl",
        {"prompt": turns("<image>How many?"), "completion": [{"role": "assistant", "content": PATH}], "images": [A]},
        {"response": PATH},
    ),
    ("easyr1", {"images": [{"bytes": None, "path": A}], "problem": "<image>How many?", "answer": "2"}, {}),
    ("prompt", {"images": [A], "prompt": "<image>How many?", "answer": "2"}, {}),
    (
        "verl",
        {
            "data_source": "hiyouga/geometry3k",
            "prompt": turns("<image>How many?"),
            "images": [A],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "2"},
            "extra_info": EXTRA,
        },
        {"source": "hiyouga/geometry3k", "kind": "math", "id": "train-7"},
    ),
    (
        "geometry3k",
        {"images": [A], "problem": "<image>How many?", "answer": "B", "choices": ["1", "2"], "ground_truth": "B"},
        {"answer": "B: 2", "problem": "<image>How many?\nA: 1\nB: 2", "solution": "B: 2"},
    ),
    ("llava", {"id": 3, "image": A, "conversations": turns("<image>How many?", PATH, keys=SHAREGPT)}, {"id": "3"}),
    (
        "llava-cot",
        {"id": "3", "image": A, "conversations": turns("<image>How many?", STAGES, keys=SHAREGPT)},
        {"id": "3", "response": compose("Two squares.", "I count.", ["One here.", "One there."], "2")},
    ),
    ("sharegpt", {"images": [A], "conversations": turns("<image>How many?", PATH, keys=SHAREGPT)}, {}),
    ("alpaca", {"instruction": "<image>How many?", "input": "", "output": PATH, "images": [A]}, {"response": PATH}),
    (
        "virl39k",
        {
            "question": "<image>How many?",
            "answer": r"\boxed{2}",
            "image": [A],
            "qid": "q-1",
            "category": "Counting",
            "source": "Made up",
            "PassRate_7B": 0.5,
        },
        {"id": "q-1", "kind": "Counting", "source": "Made up"},
    ),
    (
        "open-r1-8k",
        {"image": A, "problem": "How many?", "solution": "<think>1 + 1</think>\n<answer>2</answer>"}
        | {"original_question": "How many?", "original_answer": "2"},
        {"solution": "<think>1 + 1</think>\n<answer>2</answer>"},
    ),
    ("mmk12", {"id": "k", "question": "<image>How many?", "answer": "2", "subject": "math", "image": A}, {"id": "k"}),
    ("thinklite", {"image": A, "problem": "How many?", "answer": "2"}, {}),
    ("question", {"question": "How many?", "answer": 2, "image": A}, {}),
    ("problem", {"problem": "How many?", "images": [A], "answer": "2", "kind": "count"}, {"kind": "count"}),
]


@pytest.fixture
def read(root):
    def read(row, layout="", columns=""):
        columns = parse_columns(columns)
        layout = layout or recognise([row], columns)
        return RowReader(layout, columns, root, "rows").read(row, split="train", number=5)

    return read


@pytest.mark.parametrize(("layout", "row", "expected"), ROWS, ids=[name for name, _, _ in ROWS])
def test_a_row_is_recognised_and_read(read, png, layout, row, expected):
    # `easyr1` needs all that our own `problem` does
    assert recognise([row]) == ("easyr1" if layout == "problem" else layout)
    record, _ = read(row, layout)
    default = {"id": "rows/train/5", "problem": "<image>How many?", "answer": "2", "source": "rows"}
    for name, value in (default | expected).items():
        assert getattr(record, name) == value, name
    assert record.images == (png,)
    assert invalid_reason(record) is None


def test_every_layout_is_a_choice_of_the_configuration_and_tried_here():
    assert tuple(LAYOUTS) == LAYOUT_NAMES
    assert {name for name, _, _ in ROWS} == set(LAYOUTS)


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"messages": turns("Q", "A"), "conversations": turns("Q", "A", keys=SHAREGPT)}, "messages and sharegpt"),
        ({"image": A, "images": [A], "problem": "Q", "answer": "2"}, "easyr1 and thinklite"),
        ({"question": "Q", "problem": "Q", "answer": "2"}, "question and problem"),
    ],
)
def test_a_row_that_fits_two_layouts_is_refused_with_both_names(row, names):
    with pytest.raises(ValueError, match=f"fit several layouts, {names}; set data.layout"):
        recognise([row])


def test_a_row_that_fits_none_is_refused_with_its_columns():
    with pytest.raises(ValueError, match="the columns label, text fit no layout; set data.columns, as 'problem=COLUMN"):
        recognise([{"text": "Q", "label": "2"}])


def test_columns_are_renamed(read):
    row = {"text": "How many?", "label": 2, "img": A, "answer": "wrong"}
    record, _ = read(row, columns="problem=text, answer=label,images=img")
    assert (record.problem, record.answer, len(record.images)) == ("<image>How many?", "2", 1)
    with pytest.raises(ValueError, match="data.columns: no column 'lable', only text, label"):
        read({"text": "Q", "label": 2}, columns="problem=text,answer=lable")


def test_the_first_of_several_answer_columns_is_the_answer_and_said_so(read):
    row = {"problem": "How many?", "image": A, "answer": "2", "solution": "1 + 1 = 2", "ground_truth": "3"}
    record, notes = read(row)
    assert (record.answer, record.solution) == ("2", "1 + 1 = 2")
    assert "answer from the column answer, not solution or ground_truth" in notes
    record, notes = read(row | {"answer": None, "solution": "A proof.\nIn lines."}, "problem")
    assert record.answer == "3"
    assert "answer from the column ground_truth, not solution" in notes


def test_base64_pictures_within_turns(read, png):
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    part = {"type": "image_url", "image_url": {"url": url}}
    record, _ = read({"messages": turns(["Is ", part, " like ", part, "?"], "yes")})
    assert (record.problem, record.images, record.answer) == ("Is <image> like <image>?", (png, png), "yes")
    with pytest.raises(UnusableRecord, match="pictures stand both in its turns and in a column"):
        read({"messages": turns([part, "What?"], "yes"), "images": [A]})


def test_a_conversation_is_read_with_its_system_prompt_and_earlier_turns(read, png):
    row = {"messages": [{"role": "system", "content": "Be brief."}, *turns("<image>How many?", "2")], "images": A}
    record, notes = read(row)
    assert (record.system, record.problem, record.history) == ("Be brief.", "<image>How many?", ())
    assert "a system prompt" in notes
    row["messages"] += [*turns("Of which colour, and <image>?", "Red.\nAnd so on."), *turns("Sure?", "Yes")]
    record, notes = read(row | {"images": [A, A]})
    history = (("<image>How many?", "2"), ("Of which colour, and <image>?", "Red.\nAnd so on."))
    assert (record.system, record.history, record.problem) == ("Be brief.", history, "Sure?")
    assert (record.response, record.answer, record.images) == ("Yes", "Yes", (png, png))
    assert "earlier turns before the question" in notes
    assert invalid_reason(record) is None


def test_openais_newer_names_of_roles_and_parts_are_read(read, png):
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    question = [{"type": "input_text", "text": "How many?"}, {"type": "input_image", "image_url": url}]
    answer = [{"type": "output_text", "text": "2"}]
    record, _ = read({"messages": [{"role": "developer", "content": "Be brief."}, *turns(question, answer)]})
    assert (record.system, record.problem, record.response) == ("Be brief.", "How many?<image>", "2")
    assert record.images == (png,)


def test_a_question_without_a_response_may_end_a_conversation(read):
    record, _ = read({"prompt": [*turns("A?", "B."), *turns("C?")], "answer": "2"})
    assert (record.history, record.problem, record.response) == ((("A?", "B."),), "C?", "")


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "<image>Q", "output": "A", "images": [A], "history": [["a", "b"]], "system": "S"},
        {"conversations": turns("a", "b", keys=SHAREGPT) + turns("<image>Q", "A", keys=SHAREGPT), "images": [A]}
        | {"system": "S"},
        {"problem": "<image>Q", "answer": "A", "images": [A], "history": [["a", "b"]], "system": "S"},
    ],
    ids=["alpaca", "sharegpt", "problem"],
)
def test_system_and_history_stand_in_columns_too(read, row):
    record, _ = read(row)
    assert (record.system, record.history, record.problem) == ("S", (("a", "b"),), "<image>Q")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": turns("Q", PATH + "\nLet me Rethink it.")}, "its response is a reflective one"),
        ({"messages": [*turns("Q"), *turns("Q", "A")]}, "the user's first, got user, user, assistant"),
        ({"messages": turns("Q", "A")[1:]}, "the user's first, got assistant"),
        ({"messages": [{"role": "system", "content": "S"}]}, "the user's first, got none"),
        ({"messages": [{"role": "tool", "content": "A"}, *turns("Q")]}, "a turn's role: expected one of .* got 'tool'"),
        ({"messages": turns([{"type": "audio", "audio": "a.wav"}], "A")}, "a part of a turn: expected text, image"),
        (
            {"problem": "Q", "answer": "2", "videos": [[A]], "fps": [1, 2]},
            "column 'fps': expected a number, or one for",
        ),
        ({"problem": "Q", "answer": "2", "videos": [[A]], "video": A}, "pictures stand in videos and video; set data"),
        ({"problem": 5}, r"column 'problem': expected text, got 5 \(int\)"),
        ({"problem": "Q", "image": A, "image_path": A, "answer": "2"}, "pictures stand in image and image_path"),
        (
            {"instruction": "Q", "output": "A", "history": [["a"]]},
            r"'history': expected a question and its answer, got",
        ),
        (
            {"problem": "Q", "answer": "A", "history": "a"},
            "'history': expected a tuple of questions with their answers",
        ),
    ],
)
def test_what_no_record_can_hold_is_refused_by_name(read, row, message):
    with pytest.raises(UnusableRecord, match=f"record 'rows/train/5': .*{message}"):
        read(row)


@pytest.mark.parametrize("column", ["id", "history", "images", "choices", "answer", "messages"])
def test_cells_nested_too_deep_are_refused_by_name(read, column):
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    row = {"messages": turns(deep, "A")} if column == "messages" else {"problem": "Q", "answer": "A", column: deep}
    with pytest.raises(UnusableRecord, match="record 'rows/train/5': maximum recursion depth exceeded"):
        read(row)


def test_a_number_of_very_many_digits_is_no_answer(read, root):
    digits = "9" * 5000
    (root / "a.json").write_text(f'[{{"problem": "Q", "answer": {digits}}}, {{"problem": "Q", "answer": 1}}]')
    first, second = read_rows(root / "a.json")
    assert read(second)[0].answer == "1"
    with pytest.raises(UnusableRecord, match="record 'rows/train/5': its answer: expected .* a finite number"):
        read(first)


def test_a_question_without_text_is_noted_with_a_picture_and_refused_without(read):
    record, notes = read({"problem": None, "image": A, "answer": "2"}, "problem")
    assert record.problem == "<image>"
    assert "no text in the question, only pictures" in notes
    record, _ = read({"problem": "", "answer": "2"}, "problem")
    assert str(invalid_reason(record)).startswith("its question is empty: expected a text in `problem`")


JUNK = [None, 5, 0.5, float("nan"), True, "", "x", b"", b"x", [], [None], [[]], ["x", 5], {}, {"x": None}, [{}]]


def _spoiled(cell):
    """A cell with junk in its place, and in the place of each of its parts."""
    yield from JUNK
    parts = cell.items() if isinstance(cell, dict) else enumerate(cell) if isinstance(cell, list) else ()
    for name, part in parts:
        if isinstance(cell, dict):
            yield {other: value for other, value in cell.items() if other != name}
        for junk in _spoiled(part):
            copy = cell.copy()
            copy[name] = junk
            yield copy


@pytest.mark.parametrize(("layout", "row"), [row[:2] for row in ROWS], ids=[name for name, _, _ in ROWS])
def test_any_row_is_a_record_or_refused_by_name(read, layout, row):
    """Whatever stands in a cell, only `UnusableRecord` is raised: no row ends the preparation of the others."""
    for spoiled in _spoiled(row):
        if isinstance(spoiled, dict):
            with contextlib.suppress(UnusableRecord):
                record, _ = read(spoiled, layout)
                invalid_reason(record)
            with contextlib.suppress(ValueError):
                recognise([spoiled])


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        (["2", "two"], ["2", "two"]),
        (["", None, " red ", "red", "dark red", "red"], ["red", "dark red"]),  # ten people asked
        ([2, 2.0, "2"], ["2"]),
        (["2"], ["2"]),
    ],
)
def test_every_answer_of_a_list_is_right(read, cell, answers):
    record, notes = read({"problem": "Q", "answer": cell})
    assert [record.answer, *record.other_answers] == answers
    assert ("several accepted answers" in notes) == (len(answers) > 1)


def test_accepted_answers_may_be_choices(read):
    record, _ = read({"problem": "Q", "answer": ["B", 2], "choices": ["red", "blue", "green"]})
    assert (record.answer, record.other_answers) == ("B: blue", ("C: green",))


def test_half_a_surrogate_pair_in_an_answer_is_not_replaced(read):
    for answer in ("\ud800", "so\n#### \ud800", r"\boxed{\ud800}".replace(r"\ud800", "\ud800")):
        record, _ = read({"problem": "Q", "answer": answer})
        assert "field 'answer': expected text that UTF-8 can write, got '\\ud800'" in str(invalid_reason(record))


def test_what_a_record_lacks_is_noted(read):
    _, notes = read({"messages": turns("Describe it.", "It is large.\nIt is green.")})
    assert notes == ["no key steps", "no answer, so for supervised stages only", "no image"]
    _, notes = read({"problem": "<image> <image>", "image": A, "answer": ["2", "two"]})
    assert notes == [
        "several accepted answers",
        "more <image> than images: the first were kept",
        "no key steps",
        "no text in the question, only pictures",
    ]
