"""Key steps by a language model: three passes, with replies that are checked, kept and limited in number."""

import json

import pytest
from PIL import Image

from r1vl_jax.data.key_steps.by_model import OWN_PROMPTS, Prompts, key_steps_by_model
from r1vl_jax.data.key_steps.found import KeySteps
from r1vl_jax.data.key_steps.replies import Cache, Reply, limited, read_json
from r1vl_jax.data.records import Record

PROMPTS = Prompts("extract {question} {solution}", "keep {question} {solution} {steps} {max_steps}", "spell {steps}")
SOLUTION = "Each row has 8 * 6 = 48 squares. With the 5 of {the rest} that makes 48 + 5 = 53.\n#### 53"


def record(number=0, **changes) -> Record:
    fields = {"problem": "There are 5 more. How many?", "solution": SOLUTION, "answer": "53", "id": f"r-{number}"}
    return Record.make(**fields | changes)


class Model:
    """A model that replies to each pass, as told; what it was asked is kept."""

    def __init__(self, **replies):
        self.replies = {
            "extract": ["8 * 6 = 48", "48 + 5 = 53", "8 * 6 = 49", "5", "There are 5 more", "53", "x" * 300],
            "keep": ["8 * 6 = 48", "48 + 5 = 53", "of its own"],
            "spell": {"8 * 6 = 48": ["8*6=48", "8 times 6 is 48", "8*7=56", "48 is right"], "48 + 5 = 53": []},
        } | replies
        self.asked: list[str] = []

    def __call__(self, prompts):
        self.asked += prompts
        for prompt in prompts:
            reply = self.replies[prompt.split(" ")[0]]
            text = reply if isinstance(reply, str) else json.dumps(reply, default=str)
            yield prompt, reply if isinstance(reply, Reply) else Reply(text)


def test_what_a_model_names_is_kept_where_the_solution_has_it():
    (found,) = key_steps_by_model([record()], Model(extract=[*Model().replies["extract"], "the rest"]), PROMPTS)
    assert found.groups == (("8 * 6 = 48", "8*6=48", "8 times 6 is 48"), ("48 + 5 = 53",))
    assert found.reasons == dict.fromkeys(("8 * 6 = 48", "48 + 5 = 53"), "of the core, says the model")
    assert found.left_out == {
        "8 * 6 = 49": "not in the solution",
        "5": "so short that it is found by chance",
        "There are 5 more": "not in the solution",
        "53": "the final answer alone",
        "x" * 300: "not in the solution",
        "the rest": "not of the core, says the model",
        "8*7=56": "a spelling that may state something else than '8 * 6 = 48'",
        "48 is right": "a spelling that may state something else than '8 * 6 = 48'",
    }


@pytest.mark.parametrize(
    ("step", "wrong", "right"),
    [
        ("x = 35", ("35", "35!", "x ≠ 35", "there are 35", "y = 35"), ("x=35", "35 = x", "x is 35")),
        ("48 + 5 = 53", ("53 + 5 = 48", "53 - 5 = 48", "5 48 53", "not 48+5=53"), ("5 + 48 = 53", "48 plus 5 is 53")),
        (
            "the radius is five",
            ("the radius is six", "the", "there are five dogs"),
            ("radius is five", "five is the radius"),
        ),
    ],
)
def test_a_spelling_states_the_same(step, wrong, right):
    asked = record(solution=f"We see that {step} holds.\n#### 99", answer="99")
    model = Model(extract=[step], keep=[step], spell={step: [*wrong, *right]})
    (found,) = key_steps_by_model([asked], model, PROMPTS)
    assert found.groups == ((step, *right),)
    assert set(found.left_out) == set(wrong)


@pytest.mark.parametrize(
    ("text", "is_step"),
    [
        *((text, False) for text in ("The total is", "so we get", "The area of the box is", "and the", "the answer")),
        *(
            (text, True)
            for text in ("It is a dog", "The bar is red", "AB is parallel to CD", "红色", "so x = y", "is 12")
        ),
    ],
)
def test_a_fragment_of_function_words_is_no_key_step(text, is_step):
    asked = record(solution=f"{text}\n#### 99", answer="99")
    (found,) = key_steps_by_model([asked], Model(extract=[text], keep=[text], spell={}), PROMPTS)
    assert found.groups == (((text,),) if is_step else ())
    assert found.left_out == ({} if is_step else {text: "words that state nothing"})


def test_half_of_a_surrogate_pair_fails_its_record_alone():
    (found,) = key_steps_by_model([record()], Model(extract='["\\ud800 8 * 6 = 48"]'), PROMPTS)
    assert found.startswith("pass extract: ")


def test_a_reply_that_cannot_be_used_is_asked_for_again(tmp_path):
    model = Model(extract="Sorry.")
    with Cache(tmp_path / "replies", {}) as cache:
        for _ in range(2):
            key_steps_by_model([record()], cache.cached(model), PROMPTS, forget=cache.forget)
    assert len(model.asked) == 2


def test_what_the_question_says_is_no_key_step():
    asked = record(problem="We know 8 * 6 = 48. How many?")
    (found,) = key_steps_by_model([asked], Model(), PROMPTS)
    assert found.groups == (("48 + 5 = 53",),)
    assert found.left_out["8 * 6 = 48"] == "the question says it already"


def test_prompts_have_question_solution_and_steps_as_they_are():
    asked = record(problem="<image>There are 5 more. How many?", images=[Image.new("RGB", (28, 28))])
    key_steps_by_model([asked], model := Model(), PROMPTS)
    extract, keep, spell = model.asked
    assert extract == f"extract There are 5 more. How many? {SOLUTION}"
    assert "{the rest}" in keep
    assert '"8 * 6 = 48"' in keep
    assert keep.endswith(" 8")
    assert "of its own" not in spell


def test_a_record_without_a_worked_solution_is_not_asked_about():
    assert key_steps_by_model([record(solution="53")], model := Model(), PROMPTS) == [KeySteps()]
    assert model.asked == []


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ({"extract": "Sorry, I cannot."}, "pass extract: expected JSON in the reply, got 'Sorry, I cannot.'"),
        ({"extract": {"a": 1}}, "pass extract: expected a list of texts"),
        ({"extract": [1, 2]}, "pass extract: expected a list of texts"),
        ({"keep": Reply(error="status 500")}, "pass keep: status 500"),
        ({"spell": ["8*6=48"]}, "pass spell: expected an object of lists"),
        ({"spell": {"8 * 6 = 48": "8*6=48"}}, "pass spell: expected a list of texts"),
    ],
)
def test_nonsense_fails_a_record_by_name_and_no_other_pass_follows(replies, message):
    (found,) = key_steps_by_model([record()], model := Model(**replies), PROMPTS)
    assert found.startswith(message)
    assert len(model.asked) == 1 + ["extract", "keep", "spell"].index(next(iter(replies)))


def test_one_that_fails_takes_no_other_with_it():
    def ask(prompts):
        return ((prompt, Reply(error="cut") if "two?" in prompt else reply) for prompt, reply in Model()(prompts))

    found = key_steps_by_model([record(1), record(2, problem="two?"), record(3)], ask, PROMPTS)
    assert [isinstance(each, KeySteps) for each in found] == [True, False, True]


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "Here you are:\n```json\n[1, 2]\n```\nDone.",
        "[x], {}, [1, 2].",
        "<think>[3]</think>[1, 2]",
        "[3] [1, 2]",
    ],
)
def test_json_is_found_in_a_reply(text):
    assert read_json(text) == [1, 2]


def test_backslashes_of_latex_need_not_be_doubled():
    assert read_json(r'["8 \times 6 = 48", "\sqrt{25}", "8 \\times 6", "\u00d7", "\n"]') == [
        r"8 \times 6 = 48",
        r"\sqrt{25}",
        r"8 \times 6",
        "×",
        "\n",
    ]


def test_a_megabyte_of_brackets_is_soon_refused():
    with pytest.raises(ValueError, match="expected JSON"):
        read_json("[" * 1_000_000)


def test_our_prompts_have_their_placeholders_and_a_directory_without_one_is_refused(tmp_path):
    assert Prompts.read(OWN_PROMPTS).keep.count("{max_steps}") == 1
    with pytest.raises(ValueError, match=r"--prompts: .*extract.txt cannot be read"):
        Prompts.read(tmp_path)
    for name in ("extract", "keep", "spell"):
        (tmp_path / f"{name}.txt").write_text("{solution} {question}")
    with pytest.raises(ValueError, match=r"keep.txt lacks \{steps\}"):
        Prompts.read(tmp_path)


def test_nothing_is_asked_twice_and_errors_are_asked_again(tmp_path):
    model = Model(extract="a", keep=Reply(error="cut"))
    for _ in range(2):
        with Cache(tmp_path / "replies", {"model": "m"}) as cache:
            assert dict(cache.cached(model)(["extract 1", "keep 1", "extract 1"]))["extract 1"] == Reply("a")
    assert model.asked == ["extract 1", "keep 1", "keep 1"]
    with Cache(tmp_path / "replies", {"model": "another"}) as cache:
        list(cache.cached(model)(["extract 1"]))
    assert model.asked[3:] == ["extract 1"]


def test_replies_are_kept_as_they_come_and_a_batch_that_is_interrupted_loses_none(tmp_path):
    def interrupted(prompts):
        yield prompts[1], Reply("b")
        raise KeyboardInterrupt

    with Cache(tmp_path / "replies", {}) as cache, pytest.raises(KeyboardInterrupt):
        dict(cache.cached(interrupted)(["extract 1", "extract 2"]))
    with Cache(tmp_path / "replies", {}) as cache:
        replies = dict(cache.cached(model := Model(extract="a"))(["extract 1", "extract 2"]))
    assert replies == {"extract 1": Reply("a"), "extract 2": Reply("b")}
    assert model.asked == ["extract 1"]


def test_records_of_the_same_texts_are_asked_about_once():
    found = key_steps_by_model([record(1), record(2)], model := Model(), PROMPTS)
    assert found[0] == found[1]
    assert len(model.asked) == 3


@pytest.mark.parametrize("make", [lambda path: path.write_text("no data base" * 100), lambda path: path.mkdir()])
def test_what_is_no_file_of_replies_is_no_cache(tmp_path, make):
    make(tmp_path / "key_steps.replies")
    with pytest.raises(ValueError, match=r"key_steps\.replies: expected a file of replies that this program wrote"):
        Cache(tmp_path / "key_steps.replies", {})


def test_calls_are_limited():
    ask = limited(model := Model(extract="a"), 3)
    assert [reply.error for _, reply in [*ask(["extract 1", "extract 2"]), *ask(["extract 3", "extract 4"])]] == [
        "",
        "",
        "",
        "the limit of 3 calls is reached",
    ]
    assert len(model.asked) == 3
    assert dict(ask(["extract 5"]))["extract 5"].error
