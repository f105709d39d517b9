"""Placeholders as they occur: none, too many, numbered, too few."""

import pytest

from r1vl_jax.data.placeholders import match_placeholders


@pytest.mark.parametrize(
    ("problem", "images", "expected"),
    [
        ("<image>What?", "a", ("<image>What?", ["a"], "")),
        ("What?", "ab", ("<image><image>What?", ["a", "b"], "<image> was put first")),
        ("What?", "", ("What?", [], "")),
        ("Is <image> a <image>?", "a", ("Is <image> a ?", ["a"], "more <image> than images: the first were kept")),
        ("Is <image 2> like <image 1>?", "ab", ("Is <image> like <image>?", ["b", "a"], "")),
        ("<image 1> What is in <image 1>?", "a", ("<image> What is in image 1?", ["a"], "")),
        ("Look at <image_2>.", "abc", ("<image><image>Look at <image>.", ["a", "c", "b"], "")),
    ],
    ids=["as many", "none", "text", "too many", "numbered", "twice", "unnumbered first"],
)
def test_each_image_gets_its_placeholder(problem, images, expected):
    text, *rest = expected
    assert match_placeholders([problem], list(images)) == ([text], *rest)


@pytest.mark.parametrize(
    ("images", "expected", "note"),
    [
        ("abc", ["A <image>", "x <image>", "B <image>"], ""),
        ("a", ["A <image>", "x ", "B "], "more <image> than images: the first were kept"),
    ],
)
def test_placeholders_are_counted_over_a_conversation(images, expected, note):
    texts = ["A <image>", "x <image>", "B <image>"]
    assert match_placeholders(texts, list(images)) == (expected, list(images), note)
    assert match_placeholders(["A", "x", "B"], ["a"]) == (["<image>A", "x", "B"], ["a"], "<image> was put first")
    numbered = ["A <image 2>", "x <image 2>", "B <image 1>"]
    assert match_placeholders(numbered, "ab")[:2] == (["A <image>", "x image 2", "B <image>"], ["b", "a"])


@pytest.mark.parametrize(
    ("problem", "images", "message"),
    [
        ("<image>What?", "", "its problem has 1 <image> and there is no image"),
        ("<image>What?", "ab", "expected one <image> for each of 2 images, or none, got 1"),
        ("<image 3>What?", "ab", "its problem has <image 3> and there are 2 images"),
        ("<image><image 1>What?", "ab", "its problem has both <image> and <image 1>"),
    ],
)
def test_what_cannot_be_matched_is_refused(problem, images, message):
    with pytest.raises(ValueError, match=message):
        match_placeholders([problem], list(images))
