"""The rewards of batches: StepRAR by alpha, sections, invalid records, and properties on arbitrary bytes."""

import time
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from r1vl_jax import response_format, rewards
from r1vl_jax.arrays import check_shapes
from r1vl_jax.rewards.on_device import to_rows

RECORD = {"answer": "7", "key_steps": [["3+4=7", "3 plus 4"], ["two digits"], ["prime"], "zebra"]}


def path(answer="7"):
    return response_format.compose("Two digits.", "Add them.", ["3 + 4 = 7.", "7 is prime."], answer)


def score_one(completion, record=RECORD, **settings):
    reward = check_shapes(rewards.score([completion], [record], **settings))
    return {name: value[0] for name, value in vars(reward).items()}


@pytest.mark.parametrize("alpha", [0.1, 0.4])
@pytest.mark.parametrize(
    ("answer", "paper", "released"),
    # (correct, fraction of key steps that counts)
    [("7", (1, 3 / 4), (1, 1 / 4)), ("8", (0, 3 / 4), (0, 1 / 4)), ("", (0, 0), (0, 1 / 4))],
)
def test_step_accuracy(alpha, answer, paper, released):
    for semantics, (correct, match) in (("paper", paper), ("released", released)):
        reward = score_one(path(answer), semantics=semantics, alpha=alpha)
        assert reward["answer_correct"] == correct
        np.testing.assert_allclose(reward["step_accuracy"], correct + alpha * match, rtol=1e-6)


def test_the_parts_of_a_good_path():
    reward = score_one(path())
    np.testing.assert_allclose(reward["total"], 2.075)
    np.testing.assert_allclose([reward["step_accuracy"], reward["step_validity"]], [1.075, 1.0])
    np.testing.assert_allclose(reward["key_step_match"], 0.75)
    assert reward["complete"]
    assert reward["ordered"]
    assert not reward["undecided"]


def test_rewards_are_assigned_to_sections():
    text = path().replace("Add", "Ädd")  # offsets are in bytes
    reward = score_one(text)
    starts = [text.encode().index(heading) for heading in (b"### Step 1:", b"### Step 2:", b"### The final")]
    np.testing.assert_array_equal(reward["section_end_BJ"], [*starts, len(text.encode())])
    np.testing.assert_allclose(reward["section_reward_BJ"], [0.025, 0.025, 0.025, 2.0])


def test_sections_of_ragged_batches_are_padded():
    texts = [path(), "no structure, 3 plus 4", "### Step 1:\n3 plus 4", ""]
    reward = rewards.score(texts, [RECORD] * 4, semantics="released")
    np.testing.assert_array_equal(reward.section_end_BJ[1:], [[22, -1, -1, -1], [0, 20, -1, -1], [0, -1, -1, -1]])
    np.testing.assert_allclose(reward.section_reward_BJ[1:, :2], [[0, 0], [0, 0.025], [0, 0]])


def test_kernels_give_the_same_rewards_and_strings_decide_the_rest():
    too_many = path() + "\n### Step 1:" * 70
    texts = [path(), too_many, path("7 cm"), path("8").encode(), "### Step 1:\n3 plus 4", ""]
    for judge in (None, rewards.Judge(timeout_s=60.0)):
        expected = rewards.score(texts, [RECORD] * 6, judge=judge)
        actual = rewards.score(texts, [RECORD] * 6, backend="kernels", judge=judge)
        for name, value in vars(expected).items():
            np.testing.assert_allclose(getattr(actual, name), value, atol=1e-6, err_msg=name)


def test_undecided_rows_of_device_arrays_are_replaced_in_a_copy():
    records = [{"answer": "7", "key_steps": []}] * 2
    texts = [b"### The final answer is:\n7 cm", path().encode()]
    step_reward = jax.jit(partial(rewards.kernels.step_reward, semantics="paper", alpha=0.1))
    by_kernels = step_reward(*to_rows(texts), *rewards.pack(records, semantics="paper"))
    np.testing.assert_array_equal(by_kernels.undecided, [True, False])
    with rewards.Judge(timeout_s=60.0) as judge:
        resolved = rewards.resolve_undecided(by_kernels, texts, records, partial(rewards.score, judge=judge))
    np.testing.assert_allclose(resolved.total, [1.0, 2.0])
    np.testing.assert_array_equal(by_kernels.undecided, [True, False])


@pytest.mark.parametrize("semantics", ["paper", "released"])
def test_a_judge_decides_mathematics(semantics):
    record = {"answer": r"\frac{\sqrt{2}}{2}", "key_steps": []}
    right, wrong = path(r"\frac{1}{\sqrt{2}}"), path(r"\frac{1}{\sqrt{3}}")
    assert score_one(right, record, semantics=semantics)["undecided"]
    assert not score_one(right, record, semantics=semantics)["answer_correct"]
    with rewards.Judge(timeout_s=60.0) as judge:
        for text, is_correct in ((right, True), (wrong, False)):
            reward = score_one(text, record, semantics=semantics, judge=judge)
            assert reward["answer_correct"] == is_correct
            assert not reward["undecided"]


def test_released_looks_for_a_box_where_there_is_no_heading():
    for text, is_correct in ((r"7 \boxed{8}", False), (r"8, so \boxed{7}.", True), ("7", True), ("it is 7", False)):
        for backend in ("strings", "kernels"):
            assert score_one(text, semantics="released", backend=backend)["answer_correct"] == is_correct
        assert not score_one(text, semantics="paper")["answer_correct"]


@pytest.mark.parametrize(
    "record",
    [
        {"solution": "7"},
        {"solution": path()},
        {"answer": "", "solution": path()},
        {"answer": b"7"},
    ],
)
def test_fields_of_the_gold_answer(record):
    assert score_one(path(), record | {"key_steps": []})["answer_correct"]


@pytest.mark.parametrize("backend", ["strings", "kernels"])
@pytest.mark.parametrize("semantics", ["paper", "released"])
def test_each_of_several_answers_is_right(semantics, backend):
    answers = ["twelve apples", "12 cm", "grey", "gray", "C", "grey or gray", "13", ""]
    record = {"answer": "grey", "other_answers": ("gray", "12 cm", r"\boxed{C}", "")}
    texts = [f"{response_format.ANSWER}\n{answer}" for answer in answers]
    reward = rewards.score(texts, [record] * len(texts), semantics=semantics, backend=backend)
    assert reward.answer_correct.tolist() == [False, True, True, True, True, False, False, False]
    explained = rewards.explain_completions(texts, [record] * len(texts), semantics=semantics)
    assert [each.is_correct for each in explained] == reward.answer_correct.tolist()
    assert [each.gold for each in explained] == ["grey", "12 cm", "grey", "gray", "C", "grey", "grey", "grey"]
    assert explained[3].reason == "same text (accepted answer 2 of 4)"


def test_the_judge_is_asked_about_each_answer():
    records = [{"answer": "red", "other_answers": [r"\sqrt{3}", r"\frac{2x}{3}"]}] * 3
    texts = [f"{response_format.ANSWER}\n{answer}" for answer in (r"\frac{2}{3}x", "3^{1/2}", r"\sqrt{5}")]
    assert rewards.score(texts, records).undecided.all()
    with rewards.Judge(timeout_s=60.0) as judge:
        reward = rewards.score(texts, records, judge=judge)
        explained = rewards.explain(["red", r"\sqrt{3}"], "3^{1/2}", judge=judge)
    assert reward.answer_correct.tolist() == [True, True, False]
    assert (explained.is_correct, explained.reason) == (True, "math-verify: equal (accepted answer 2 of 2)")


@pytest.mark.parametrize("others", ["6", 6, [6]])
def test_other_answers_that_are_no_texts_are_refused(others):
    with pytest.raises(ValueError, match="record 0: other_answers: expected a list of texts, got"):
        score_one(path(), RECORD | {"other_answers": others})


@pytest.mark.parametrize("backend", ["strings", "kernels"])
@pytest.mark.parametrize(("semantics", "match"), [("paper", 0.75), ("released", 0.25)])
@pytest.mark.parametrize("without", [{}, {"key_steps": None}, {"key_steps": ()}, {"key_steps": {"Steps": []}}])
def test_a_record_without_key_steps_is_scored_beside_others(without, semantics, match, backend):
    reward = rewards.score([path()] * 2, [{"answer": "7"} | without, RECORD], semantics=semantics, backend=backend)
    np.testing.assert_allclose(reward.key_step_match, [0, match])
    np.testing.assert_allclose(reward.total, [2, 2 + 0.1 * match])


def test_key_steps_as_the_published_records_have_them():
    record = RECORD | {"key_steps": {"Steps": RECORD["key_steps"]}}
    np.testing.assert_allclose(score_one(path(), record)["key_step_match"], 0.75)
    assert score_one(path(), RECORD | {"key_steps": []})["key_step_match"] == 0


@pytest.mark.parametrize(
    ("records", "settings", "message"),
    [
        ([RECORD], {"semantics": "papers"}, r"semantics='papers': expected one of \('paper', 'released'\)"),
        ([RECORD], {"backend": "gpu"}, r"backend='gpu': expected one of \('strings', 'kernels'\)"),
        ([RECORD] * 2, {}, "1 completions but 2 records; give each"),
        ([{"key_steps": []}], {}, "record 0 has no answer: .*`answer` or `solution`, got None; leave the record out"),
        ([{"answer": 7, "key_steps": []}], {}, "record 0 has no answer: expected text .* got 7"),
        ([{"solution": response_format.ANSWER, "key_steps": []}], {}, "record 0 has no answer"),
        ([{"answer": "7", "key_steps": "7"}], {}, "record 0: key_steps: expected a list of groups, got '7'"),
    ],
)
def test_invalid_input_is_refused(records, settings, message):
    with pytest.raises(ValueError, match=message):
        rewards.score(["7"], records, **settings)


HEADINGS = [
    response_format.DESCRIPTION,
    response_format.RATIONALE,
    response_format.THINK,
    "### Step 1:",
    "### Step 2:",
    response_format.ANSWER,
]
MESSY = st.lists(
    st.sampled_from([heading.encode() for heading in HEADINGS] + [b"\n", b" ", b"7", b"3 + 4 = 7", b"prime", b"$"])
    | st.binary(max_size=3)
).map(b"".join)


@given(MESSY, st.sampled_from(["paper", "released"]))
@example(b"", "released")
@example(b"\xff\xfe\x00### Step 1:", "paper")
@example(response_format.ANSWER.encode() * 3, "paper")
@example(b"### Step 1:\n### Step 1:\n" * 5, "released")
@example(path().encode()[:-20], "paper")
def test_any_bytes_can_be_scored(completion, semantics):
    record = RECORD | {"key_steps": [*RECORD["key_steps"], "", []]}
    reward = score_one(completion, record, semantics=semantics)
    assert 0 <= reward["total"] <= np.float32(2.1)
    np.testing.assert_allclose(reward["total"], reward["step_accuracy"] + reward["step_validity"])
    np.testing.assert_allclose(reward["section_reward_BJ"].sum(), reward["total"], atol=1e-6)
    assert np.all(np.diff(reward["section_end_BJ"]) >= 0)
    assert reward["section_end_BJ"][-1] == len(completion)


@given(st.text())
def test_a_string_is_its_bytes(text):
    text = path() + text
    of_string, of_bytes = score_one(text), score_one(text.encode())
    for name, value in of_string.items():
        np.testing.assert_array_equal(value, of_bytes[name])


@given(MESSY, MESSY)
def test_a_later_line_cannot_unmatch_a_key_step(text, line):
    before = score_one(text)["key_step_match"]
    assert score_one(text + b"\n" + line)["key_step_match"] >= before


def test_a_batch_of_256_takes_well_under_a_tenth_of_a_second():
    completion = (path() + " filler" * 25)[:300]
    records = [
        {"answer": "7", "key_steps": [[f"{i} + {k} = {row}" for k in range(4)] for i in range(4)]} for row in range(256)
    ]
    for semantics in ("paper", "released"):
        times = []
        for _ in range(3):
            start = time.process_time()
            rewards.score([completion] * 256, records, semantics=semantics)
            times.append(time.process_time() - start)
        assert min(times) < 0.1
