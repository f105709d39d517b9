"""Parts of a base that is being built: each has some thousand documents, and is whole or not there.

A build that was interrupted goes on behind its last part.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float16, Int

from r1vl_jax.router.encoders import Encoder
from r1vl_jax.router.knowledge.document import Document
from r1vl_jax.router.words import WordSplitter

MAX_DOCUMENTS = 10_000
MAX_BYTES = 64 << 20
_STORED = {"id": pa.large_string(), "text": pa.large_string(), "image": pa.large_binary()}


@dataclass(frozen=True)
class Part:
    """A file of documents with their words and vectors, opened by memory map.

    Attributes:
        table: columns `id`, `text`, `image`; for sparse retrieval `words`, numbers in a dictionary; for dense `vector`.
    """

    table: pa.Table

    @classmethod
    def open(cls, path: Path) -> "Part":
        with pa.memory_map(str(path)) as file:
            return cls(pa.ipc.open_file(file).read_all())

    def __len__(self) -> int:
        return self.table.num_rows

    def vocabulary(self) -> list[str]:
        """The different words of its documents."""
        return self._words().values.dictionary.to_pylist()

    def words(self) -> tuple[Int[np.ndarray, " W"], Int[np.ndarray, " N"]]:
        """All words in order, by their number in the vocabulary, and where each document's begin and the last's end."""
        words = self._words()
        return words.values.indices.to_numpy(), words.offsets.to_numpy()

    def vectors(self) -> Float16[np.ndarray, "N D"]:
        column = self.table["vector"].chunk(0)
        return column.flatten().to_numpy().reshape(len(self), -1)

    def _words(self) -> pa.ListArray:
        return self.table["words"].chunk(0)


def chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents of each part."""
    held: list[Document] = []
    num_bytes = 0
    for document in documents:
        held.append(document)
        num_bytes += len(document.text) + len(document.image or b"")
        if len(held) >= MAX_DOCUMENTS or num_bytes >= MAX_BYTES:
            yield held
            held, num_bytes = [], 0
    if held:
        yield held


def write_part(
    path: Path, documents: Sequence[Document], splitter: WordSplitter | None, encoder: Encoder | None
) -> None:
    """Writes a part in one move.

    Args:
        splitter: for sparse retrieval.
        encoder: for dense retrieval.
    """
    columns = {
        name: pa.array([getattr(document, name) for document in documents], kind) for name, kind in _STORED.items()
    }
    texts = [document.text for document in documents]
    if splitter is not None:
        columns["words"] = _word_numbers([splitter.split(text) for text in texts])
    if encoder is not None:
        vectors = encoder.encode(texts).astype(np.float16)
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    write_table(path, [pa.table(columns)])


def write_table(path: Path, tables: Iterable[pa.Table]) -> None:
    """Writes tables of the same columns as one Arrow file, in one move."""
    unfinished = path.with_name(f".{path.name}")
    tables = iter(tables)
    first = next(tables)
    with pa.ipc.new_file(str(unfinished), first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)
    unfinished.replace(path)


def stored(part: Part) -> pa.Table:
    """What a base keeps of a part beside its indexes."""
    return part.table.select(list(_STORED))


def _word_numbers(words: Sequence[Sequence[str]]) -> pa.ListArray:
    number_of: defaultdict[str, int] = defaultdict(count().__next__)
    numbers = list(map(number_of.__getitem__, chain.from_iterable(words)))
    offsets = np.cumsum([0, *map(len, words)])
    values = pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), pa.array(list(number_of), pa.string()))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
