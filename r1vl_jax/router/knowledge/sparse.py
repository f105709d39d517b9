"""Sparse retrieval: BM25 by bm25s, whose matrix of words and documents lies on disk and is opened by memory map."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from r1vl_jax.router.knowledge.document import Hit
from r1vl_jax.router.knowledge.parts import Part
from r1vl_jax.router.knowledge.ranking import best_positive
from r1vl_jax.router.words import WordSplitter

_K1, _B = 1.5, 0.75  # how soon a further occurrence adds nothing; how much a long document is held back


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
    """Writes the BM25 scores of all words of all documents.

    The scores are bm25s's own (Lucene's formula), computed part by part in place of document by document: four times as
    fast, in a fifth of the memory.
    """
    vocabulary, numbers = _join_vocabularies(parts)
    index = _import_bm25s().BM25(method="lucene", k1=_K1, b=_B)
    index.scores, index.vocab_dict, index.nonoccurrence_array = (
        _score(parts, numbers, len(vocabulary)),
        vocabulary,
        None,
    )
    index.save(directory, show_progress=False)


def _join_vocabularies(parts: Sequence[Part]) -> tuple[dict[str, int], list[Int[np.ndarray, " V"]]]:
    """Word -> number in the base, and for each part the numbers of its words."""
    number_of: defaultdict[str, int] = defaultdict(count().__next__)
    numbers = [np.array([number_of[word] for word in part.vocabulary()], np.int64) for part in parts]
    return dict(number_of), numbers


def _score(parts: Sequence[Part], numbers: Sequence[Int[np.ndarray, " V"]], num_words: int) -> dict[str, Any]:
    """A column for each word: the documents that have it, in order, and its score in each.

        score[d, w] = ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) * f / (f + k1 (1 - b + b |d| / mean |d|))

    of a word that n_w of N documents have, and that document d has f times.

    Source:
        Kamphuis et al., ECIR 2020, table 1, "Lucene (accurate)".
    """
    lengths = [np.diff(part.words()[1]) for part in parts]
    num_documents, mean_length = sum(map(len, lengths)), np.concatenate(lengths).mean()
    frequency = np.zeros(num_words, np.int64)  # n_w
    for part, number in zip(parts, numbers, strict=True):
        frequency += np.bincount(number[_count(part)[0]], minlength=num_words)
    idf = np.log(1 + (num_documents - frequency + 0.5) / (frequency + 0.5))
    starts = np.concatenate([[0], np.cumsum(frequency)])
    scores, documents = np.empty(starts[-1], np.float32), np.empty(starts[-1], np.int32)
    free, first = starts[:-1].copy(), 0  # where the next document of each word goes
    for part, number, length in zip(parts, numbers, lengths, strict=True):
        local, document, times = _count(part)
        word = number[local]
        place = free[word] + _ranks(local)
        scores[place] = idf[word] * times / (times + _K1 * (1 - _B + _B * length[document] / mean_length))
        documents[place] = document + first
        free += np.bincount(word, minlength=num_words)
        first += len(length)
    return {"data": scores, "indices": documents, "indptr": starts, "num_docs": num_documents}


def _count(part: Part) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Each word with each document of a part that has it, and how often; by word, then by document."""
    words, offsets = part.words()
    documents = np.repeat(np.arange(len(part)), np.diff(offsets))
    pair, times = np.unique(words * np.int64(len(part)) + documents, return_counts=True)
    return pair // len(part), pair % len(part), times


def _ranks(sorted_numbers: Int[np.ndarray, " E"]) -> Int[np.ndarray, " E"]:
    """The place of each among those that are equal to it."""
    return np.arange(len(sorted_numbers)) - np.searchsorted(sorted_numbers, sorted_numbers)


def _import_bm25s() -> Any:
    try:
        import bm25s  # an extra; imported late, since its import starts JAX's backend
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "sparse retrieval needs bm25s: pip install bm25s (the extra [router]), or build with the method 'dense'"
        ) from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s
