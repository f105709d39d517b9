"""Windows of words: lengths and starts, the rest, titles, scripts without spaces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1vl_jax.router.knowledge.document import Document
from r1vl_jax.router.knowledge.passages import cut


def _cut(text: str, window: int = 100, stride: int = 50, title: str = "") -> list[Document]:
    return list(cut(Document("a", text, title=title), window_words=window, stride_words=stride))


@pytest.mark.parametrize(
    ("num_words", "starts"), [(1, [0]), (100, [0]), (101, [0, 50]), (150, [0, 50]), (151, [0, 50, 100])]
)
def test_windows_start_every_50_words_and_the_rest_is_the_last(num_words, starts):
    words = [str(number) for number in range(num_words)]
    assert [each.text for each in _cut(" ".join(words))] == [" ".join(words[start : start + 100]) for start in starts]


@given(num_words=st.integers(1, 60), window=st.integers(1, 20), data=st.data())
def test_no_word_is_lost_and_only_the_last_window_is_short(num_words, window, data):
    stride = data.draw(st.integers(1, window))
    words = [str(number) for number in range(num_words)]
    windows = [each.text.split() for each in _cut(" ".join(words), window, stride)]
    assert {word for each in windows for word in each} == set(words)
    assert all(len(each) == window for each in windows[:-1])


def test_windows_are_numbered_and_stand_behind_the_title():
    first, second = _cut("one two three", 2, 1, title="A\n title")
    assert (first.id, first.text) == ("a", "A title: one two")
    assert (second.id, second.text) == ("a#2", "A title: two three")


def test_a_text_is_one_line_and_what_no_file_holds_is_replaced():
    (document,) = _cut("two\n\nlines\t and \ud800")
    assert document.text == "two lines and \ufffd"


def test_characters_of_a_script_without_spaces_are_words():
    assert [each.text for each in _cut("東京タワーは red 333", 4, 3)] == ["東京タワ", "ワーは red", "red 333"]


def test_a_window_of_nothing_leaves_texts_whole():
    assert [len(each.text.split()) for each in _cut("word " * 500, 0, 50)] == [500]


def test_a_title_alone_is_no_text():
    assert [each.text for each in _cut(" ", title="A title")] == [""]
