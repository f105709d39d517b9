"""BM25: the scores are those that bm25s computes itself; words, ties, documents without words."""

import bm25s
import numpy as np
import pytest

from r1vl_jax.router.knowledge import Document, KnowledgeBase, build, parts
from r1vl_jax.router.words import WordSplitter


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MAX_DOCUMENTS", 7)  # so that words meet over several parts

    def make(texts: list[str], language: str = "") -> KnowledgeBase:
        documents = [Document(str(number), text) for number, text in enumerate(texts)]
        build(documents, tmp_path / "base", name="base", kind="table", language=language)
        return KnowledgeBase.open(tmp_path / "base")

    return make


def test_scores_are_those_of_bm25s(make, tmp_path):
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.zipf(1.3, size=rng.integers(1, 30)) % 50) for _ in range(40)]
    make(texts)
    written, expected = bm25s.BM25.load(tmp_path / "base" / "sparse"), bm25s.BM25()
    expected.index([text.split() for text in texts], show_progress=False)
    for word in (f"w{number}" for number in range(50)):
        if word in expected.vocab_dict:
            np.testing.assert_allclose(written.get_scores([word]), expected.get_scores([word]), rtol=1e-5)


def test_rare_words_count_more_and_repeated_queries_change_nothing(make):
    base = make(["red ball", "red box", "red cup", "blue ball", "green box", "brown cup", "red hat", "blue hat"])
    once, often = base.search(["red ball", "red ball " * 50], 3)
    assert once[0].number == 0
    assert once == often


def test_equal_documents_come_in_their_order(make):
    (hits,) = make(["same words"] * 20).search(["words"], 5)
    assert [hit.number for hit in hits] == [0, 1, 2, 3, 4]


def test_only_documents_with_a_word_of_the_query_are_hits(make):
    none, one = make(["a cat", "a dog"]).search(["bird", "dog"], 5)
    assert (none, [hit.number for hit in one]) == ([], [1])


def test_documents_without_a_word_are_held_and_never_found(make):
    base = make(["...", "!?"])
    assert (len(base), base.search(["...", "cat"], 5)) == (2, [[], []])


def test_words_of_a_language_lose_their_endings_and_stop_words(make):
    base = make(["prices of the lamps", "the the the"], language="english")
    found, stop_word = base.search(["What is the price of a lamp?", "the"], 5)
    assert ([hit.number for hit in found], stop_word) == ([0], [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Café №5, x_1!", ["café", "no5", "x_1"]),
        ("東京 tower", ["東", "京", "tower"]),
        ("ＡＢＣ ﬁne", ["abc", "fine"]),
        ("", []),
    ],
)
def test_words_are_runs_of_letters_and_digits(text, words):
    assert WordSplitter("").split(text) == words


def test_a_language_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="language='klingon': expected one of danish"):
        WordSplitter("klingon")
