"""Key steps in every layout that data sets have, and what rewards they give."""

import json

import numpy as np
import pytest

from r1vl_jax import rewards
from r1vl_jax.rewards.key_steps import parse_key_steps

GROUPS = (("1+1=2",), ("2+3=5", "5=2+3"), ("7>3",))
LAYOUTS = {
    "groups": [["1+1=2"], ["2+3=5", "5=2+3"], ["7>3"]],
    "tuples": GROUPS,
    "text and list": ["1+1=2", ["2+3=5", "5=2+3"], "7>3"],
    "empty ones between": ["1+1=2", "", ["2+3=5", "", "5=2+3", " $\n"], [], [""], "7>3"],
    "R1-VL": {"Steps": ["1+1=2", ["2+3=5", "5=2+3"], ["7>3"]]},
    "R1-VL as JSON": json.dumps({"Steps": ["1+1=2", ["2+3=5", "5=2+3"], ["7>3"]]}),
    "JSON": json.dumps(["1+1=2", ["2+3=5", "5=2+3"], ["7>3"]]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_groups(layout):
    assert parse_key_steps(LAYOUTS[layout]) == GROUPS


@pytest.mark.parametrize("semantics", ["paper", "released"])
def test_empty_spellings_match_nothing(semantics):
    record = {"answer": "5", "key_steps": [[""], ["1+1=2", " "], []]}
    reward = rewards.score(["### Step 1:\nNo.\n\n### The final answer is:\n5"], [record], semantics=semantics)
    assert reward.key_step_match.tolist() == [0]


@pytest.mark.parametrize("key_steps", [{"Step 1": ["1+1=2"]}, '{"Step 1": ["1+1=2"], "Step 2": []}', {}])
def test_a_mapping_without_steps_is_refused_by_the_names_it_has(key_steps):
    with pytest.raises(ValueError, match="expected a list of groups, got .*Step 1|expected a list of groups, got {}"):
        parse_key_steps(key_steps)


def test_spellings_are_not_parsed_as_json():
    assert parse_key_steps(["[1, 2]", '{"Steps": []}']) == (("[1, 2]",), ('{"Steps": []}',))
    assert parse_key_steps([[b"1+1=2"]]) == ((b"1+1=2",),)  # as completions may be


@pytest.mark.parametrize(
    "key_steps", [None, 7, "7", "1+1=2", "{", '{"steps": []}', {"Steps": None}, [None], ["a", [1]], [3], [b"1"]]
)
def test_other_layouts_are_refused(key_steps):
    with pytest.raises(ValueError, match="expected a list of groups, got .*; a group is a text or a list of texts"):
        parse_key_steps(key_steps)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_letters_of_a_key_step_earn_nothing(layout):
    wrong = "### Step 1:\n2 + 1 = 1, say\n\n### The final answer is:\n7"
    texts = [wrong, wrong.replace("2 + 1 = 1", "1 + 1 = 2")]
    reward = rewards.score(texts, [{"answer": "5", "key_steps": LAYOUTS[layout]}] * 2)
    assert reward.key_step_match.tolist() == pytest.approx([0, 1 / 3])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_packed_alike(layout):
    packed, _ = rewards.pack([{"answer": "5", "key_steps": LAYOUTS[layout]}], semantics="paper")
    np.testing.assert_array_equal(packed.num_groups_B, [3])
    assert bytes(packed.byte_BRAL[0, 1, 1]).rstrip(b"\0") == b"5=2+3"
