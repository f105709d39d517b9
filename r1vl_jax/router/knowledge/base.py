"""A knowledge base: documents and indexes in a directory, opened by memory map.

DIR/knowledge_base.json   what it is, see `Manifest`
DIR/documents.arrow       id, text and picture of each document
DIR/sparse/               words and BM25 scores, as bm25s writes them
DIR/vectors.npy           a vector for each document, in float16
DIR/vectors.faiss         faiss's index, where it was asked for
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from jax.sharding import Mesh

from r1vl_jax.router.encoders import Encoder, load_encoder
from r1vl_jax.router.knowledge import dense, manifest, with_faiss
from r1vl_jax.router.knowledge.dense import SEARCHES, DenseIndex
from r1vl_jax.router.knowledge.document import Document, Hit
from r1vl_jax.router.knowledge.manifest import Manifest
from r1vl_jax.router.knowledge.parts import Part
from r1vl_jax.router.knowledge.ranking import fuse
from r1vl_jax.router.knowledge.sparse import SparseIndex

DOCUMENTS = "documents.arrow"
SPARSE = "sparse"
FILES = {manifest.FILE, DOCUMENTS, SPARSE, dense.FILE, with_faiss.FILE}
_DEPTH = 100  # of each ranking that is fused
_ATTEMPTS = 3

Index = SparseIndex | DenseIndex


@dataclass(frozen=True)
class _Access:
    """The arguments of `KnowledgeBase.open`."""

    search: str
    mesh: Mesh | None
    encoder: str

    def check(self, path: Path, said: Manifest) -> str:
        """The search to open.

        Raises:
            ValueError: the base does not have it, or it takes no mesh.
        """
        if not said.is_dense and (self.search or self.encoder or self.mesh is not None):
            raise ValueError(
                f"{path}: has no vectors (method 'sparse'); leave `search`, `mesh` and `encoder` out, or build some"
            )
        if self.search and self.search not in SEARCHES:
            raise ValueError(f"search={self.search!r}: expected one of {', '.join(SEARCHES)}")
        if self.search == "faiss" and not said.faiss:
            raise ValueError(f"{path}: has no index of faiss; leave `search` out, or build it with faiss")
        if self.search == "faiss" and self.mesh is not None:
            raise ValueError("search='faiss': faiss searches in this process and takes no mesh; give one of the two")
        return self.search or ("faiss" if said.faiss and self.mesh is None else "exact")


class KnowledgeBase:
    """Documents of one kind, and a search for them. Made by `open`.

    A base that is replaced while it is open stays as it was: its maps keep the files.

    Attributes:
        name: of the base.
        kind: "text", "image" or "table".
    """

    def __init__(self, said: Manifest, documents: pa.Table, indexes: Sequence[Index]):
        self.name, self.kind = said.name, said.kind
        self._documents, self._indexes = documents, indexes

    @classmethod
    def open(
        cls, directory: str | os.PathLike, *, search: str = "", mesh: Mesh | None = None, encoder: str = ""
    ) -> "KnowledgeBase":
        """Opens a base that `build` made.

        Args:
            search: for the nearest vectors: "exact"; "approximate", by `jax.lax.approx_max_k`; "faiss"; by default
                faiss where the base has an index of it, and exact otherwise.
            mesh: devices that share the vectors, each row on one device; by default they stay on disk, and go to one
                device block by block.
            encoder: name of the encoder of the vectors, if its model lies elsewhere now.

        Raises:
            FileNotFoundError: there is no base, or its encoder's model is not there.
            ValueError: the base is of another version or of another encoder, damaged, or has no vectors to search so.
            ModuleNotFoundError: a library that the base needs is not installed; says how.
        """
        path = Path(directory)
        for _ in range(_ATTEMPTS):  # it may be replaced in this moment
            before = _identity(path)
            opened = _open(cls, path, _Access(search, mesh, encoder))
            if _identity(path) == before:
                return opened
        raise ValueError(f"{path}: is replaced again and again; open it when its builds have ended")

    def __len__(self) -> int:
        return self._documents.num_rows

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The best documents of each query, best first; of equal scores the lower number first.

        Args:
            queries: an empty one, or one of spaces alone, has no hits.
            k: most hits of a query. Sparse retrieval gives those only that have a word of it.

        Raises:
            ValueError: k is not positive, or the queries are one text.
        """
        if isinstance(queries, str):
            raise ValueError(f"queries={queries!r:.60}: expected a list of queries, got one text; write [query]")
        if k < 1:
            raise ValueError(f"k={k}: expected at least 1")
        asked = [query for query in queries if query.strip()]
        if len(self._indexes) == 1:
            found = self._indexes[0].search(asked, k)
        else:
            rankings = [index.search(asked, max(k, _DEPTH)) for index in self._indexes]
            found = [fuse(of_query, k) for of_query in zip(*rankings, strict=True)]
        hits = iter(found)
        return [next(hits) if query.strip() else [] for query in queries]

    def document(self, number: int) -> Document:
        """A document by its number, from 0.

        Raises:
            IndexError: there is none of this number.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {self.name!r}: expected a number from 0 to {len(self) - 1}")
        return Document(**{name: self._documents[name][number].as_py() for name in ("id", "text", "image")})


def _open(cls: type[KnowledgeBase], path: Path, access: _Access) -> KnowledgeBase:
    said = Manifest.read(path)
    search = access.check(path, said)
    encoder = _encoder(path, said, access.encoder or said.encoder) if said.is_dense else None
    try:
        documents = Part.open(path / DOCUMENTS).table
        indexes: list[Index] = [SparseIndex(path / SPARSE, said.language)] if said.is_sparse else []
        indexes += [DenseIndex(path, encoder, search=search, mesh=access.mesh)] if encoder else []
    except (pa.ArrowException, OSError, EOFError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged, build it again: {error}") from error
    if wrong := {len(each) for each in (documents, *indexes)} - {said.num_documents}:
        raise ValueError(
            f"{path}: damaged, build it again: expected {said.num_documents:,} documents everywhere, got {wrong}"
        )
    return cls(said, documents, indexes)


def _encoder(path: Path, said: Manifest, name: str) -> Encoder:
    encoder = load_encoder(name)
    if encoder.fingerprint != said.fingerprint:
        raise ValueError(
            f"{path}: its vectors are of another encoder: expected {said.fingerprint!r} ({said.encoder}), got"
            f" {encoder.fingerprint!r} ({name}); build the base again, or name where that encoder is now"
        )
    return encoder


def _identity(path: Path) -> int:
    """The number of the directory, which a replacing one does not have."""
    return path.stat().st_ino if path.is_dir() else 0
