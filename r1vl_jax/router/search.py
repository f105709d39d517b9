"""Looks sub-questions up in knowledge bases, by the names of retrievers, and writes what is found as marked lines."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1vl_jax.router.knowledge import Document, KnowledgeBase
from r1vl_jax.router.protocol import RETRIEVERS

NUM_RETRIEVED, NUM_SHOWN = 10, 5  # documents of a sub-question, as in the original
_MARKS = {retriever.name: retriever.mark for retriever in RETRIEVERS}
_NAMES = {retriever.kind: retriever.name for retriever in RETRIEVERS}
EVERY = "Every Retriever"  # a baseline: all bases at once; no name that a model may write


@dataclass(frozen=True)
class Found:
    """What a retriever found for a sub-question, best first.

    Attributes:
        lines: of the documents that the model is shown, each with the mark of its source and its rank.
        documents: all that were retrieved, with their retrievers.
        nothing: why there are none; "" where there are.
    """

    lines: tuple[str, ...]
    documents: tuple[tuple[str, Document], ...]
    nothing: str = ""


@dataclass(frozen=True)
class Searcher:
    """Knowledge bases by the name of their retriever.

    Attributes:
        num_shown: documents of a sub-question that the model is shown, of `NUM_RETRIEVED`.
    """

    bases: Mapping[str, KnowledgeBase]
    num_shown: int = NUM_SHOWN

    def find(self, asked: Sequence[tuple[str, str]]) -> list[Found]:
        """Looks many sub-questions up at a time.

        Args:
            asked: for each the retriever, or `EVERY`, and the sub-question.
        """
        found: dict[tuple[str, str], list[Document]] = {}
        for retriever, base in self.bases.items():
            queries = [query for name, query in dict.fromkeys(asked) if name in (retriever, EVERY)]
            hits = base.search(queries, NUM_RETRIEVED) if queries else []
            for query, of_query in zip(queries, hits, strict=True):
                found[retriever, query] = [base.document(hit.number) for hit in of_query]
        return [self._found(name, query, found) for name, query in asked]

    def _found(self, name: str, query: str, found: Mapping[tuple[str, str], list[Document]]) -> Found:
        names = self.bases if name == EVERY else [name]
        of_each = [[(each, document) for document in found.get((each, query), [])] for each in names]
        ranked = [pair for rank in itertools.zip_longest(*of_each) for pair in rank if pair is not None]
        return Found(tuple(_lines(ranked[: self.num_shown])), tuple(ranked), "" if ranked else self._reason(name))

    def _reason(self, name: str) -> str:
        """Why a retriever found nothing."""
        is_there = name == EVERY or name in self.bases
        return "no document fits" if is_there else f"there is no knowledge base of the {name}"


def open_bases(directories: Sequence[Path], num_shown: int = NUM_SHOWN) -> Searcher:
    """Opens knowledge bases, which are found by their kind.

    Raises:
        FileNotFoundError, ValueError: there are none, two are of one kind, or one cannot be opened.
    """
    if not directories:
        raise FileNotFoundError("no knowledge bases: expected a directory for each, as router.build_index makes them")
    bases: dict[str, KnowledgeBase] = {}
    for directory in directories:
        base = KnowledgeBase.open(directory)
        if (name := _NAMES[base.kind]) in bases:
            raise ValueError(f"{directory}: a second knowledge base of kind {base.kind}; expected one of each kind")
        bases[name] = base
    return Searcher(bases, num_shown)


def find_bases(directory: Path, num_shown: int = NUM_SHOWN) -> Searcher:
    """The knowledge bases in the directories of a directory.

    Raises:
        FileNotFoundError, ValueError: there is none, or two of one kind.
    """
    return open_bases(sorted(path for path in directory.iterdir() if path.is_dir()), num_shown)


def _lines(documents: Sequence[tuple[str, Document]]) -> Iterator[str]:
    rank = dict.fromkeys(_MARKS, 0)
    for name, document in documents:
        rank[name] += 1
        yield f"{_MARKS[name]}-{rank[name]}: {' '.join(document.text.split())}"
