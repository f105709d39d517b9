"""Sparse retrieval: BM25 by bm25s, whose matrix of words and documents lies on disk and is opened by memory map."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r1vl_jax.router.knowledge.document import Hit
from r1vl_jax.router.knowledge.parts import Part
from r1vl_jax.router.knowledge.ranking import best_positive
from r1vl_jax.router.words import WordSplitter


class SparseIndex:
    """The BM25 scores of a base's words.

    Args:
        directory: that `write_sparse` wrote.
        language: as of `WordSplitter`.
    """

    def __init__(self, directory: Path, language: str):
        self._splitter = WordSplitter(language)
        self._scores = _import_bm25s().BM25.load(directory, mmap=True, show_progress=False)

    def __len__(self) -> int:
        return int(self._scores.scores["num_docs"])

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The documents that have a word of the query, best first; a word counts once, however often it is said."""
        return [self._search(query, k) for query in queries]

    def _search(self, query: str, k: int) -> list[Hit]:
        words = dict.fromkeys(self._splitter.split(query))
        ids = self._scores.get_tokens_ids(list(words))
        return best_positive(self._scores.get_scores_from_ids(ids), k) if ids else []


def write_sparse(directory: Path, parts: Sequence[Part]) -> None:
    """Computes the BM25 scores (Lucene's, k1 1.5, b 0.75) of all words of all documents, and writes them."""
    scores = _import_bm25s().BM25()
    scores.index(_Words(parts), create_empty_token=False, show_progress=False)
    scores.save(directory, show_progress=False)


class _Words:
    """The words of all documents as bm25s takes them, read part by part.

    Attributes:
        vocab: word -> number.
        ids: itself; iterates over the documents' numbers of words.
    """

    def __init__(self, parts: Sequence[Part]):
        self._parts = parts
        self.vocab: dict[str, int] = {}
        for part in parts:
            for word in part.vocabulary():
                self.vocab.setdefault(word, len(self.vocab))
        self.vocab.setdefault("", len(self.vocab))  # bm25s needs one
        self._numbers = np.arange(len(self.vocab)).astype(object)  # the same object for each use of a number

    @property
    def ids(self) -> "_Words":
        return self

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def __iter__(self) -> Iterator[list[int]]:
        for part in self._parts:
            number_of = self._numbers[[self.vocab[word] for word in part.vocabulary()] or [0]]
            local, offsets = part.words()
            numbers = number_of[local].tolist()
            yield from (numbers[start:end] for start, end in zip(offsets[:-1], offsets[1:], strict=True))


def _import_bm25s() -> Any:
    try:
        import bm25s  # an extra; imported late, since its import starts JAX's backend
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "sparse retrieval needs bm25s: pip install bm25s (the extra [router]), or build with the method 'dense'"
        ) from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s
