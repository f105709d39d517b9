"""Dense retrieval: vectors on disk, opened by memory map, and the search for those nearest to a query's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Float16

from r1vl_jax.router.encoders import Encoder
from r1vl_jax.router.knowledge.document import Hit
from r1vl_jax.router.knowledge.nearest import Nearest, search_blocks, search_mesh
from r1vl_jax.router.knowledge.with_faiss import open_faiss

FILE = "vectors.npy"
SEARCHES = ("exact", "approximate", "faiss")
_QUERIES = 64  # at a time


class DenseIndex:
    """The vectors of a base.

    Args:
        directory: with the file of `write_vectors`, and that of `write_faiss` for the search "faiss".
        encoder: the one that gave the vectors.
        search: "exact", "approximate" (`jax.lax.approx_max_k`) or "faiss".
        mesh: devices that share the vectors; by default they stay on disk, and go to one device block by block.

    Raises:
        ModuleNotFoundError: faiss is asked for and not installed; says how.
    """

    def __init__(self, directory: Path, encoder: Encoder, *, search: str, mesh: Mesh | None):
        self._encoder = encoder
        self._vectors = np.load(directory / FILE, mmap_mode="r")
        self._nearest = _open_search(directory, self._vectors, search, mesh)

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The nearest documents, best first; many queries are encoded and compared at a time."""
        starts = range(0, len(queries), _QUERIES)
        return [hits for start in starts for hits in self._search(queries[start : start + _QUERIES], k)]

    def _search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        query_QD = self._encoder.encode(queries)
        num_rows = 1 << (len(queries) - 1).bit_length()  # powers of two: few programs are compiled
        query_QD = np.pad(query_QD, ((0, num_rows - len(queries)), (0, 0)))
        found = self._nearest(query_QD, min(k, len(self._vectors)))
        scores, numbers = (np.asarray(each)[: len(queries)] for each in found)
        return [_hits(*row) for row in zip(scores, numbers, strict=True)]


def _hits(scores: Float[np.ndarray, " K"], numbers: Any) -> list[Hit]:
    hits = (Hit(int(number), float(score)) for score, number in zip(scores, numbers, strict=True) if score > -np.inf)
    return sorted(hits, key=lambda hit: (-hit.score, hit.number))


def _open_search(directory: Path, vectors: np.ndarray, search: str, mesh: Mesh | None) -> Nearest:
    if search == "faiss":
        return open_faiss(directory)
    is_approximate = search == "approximate"
    if mesh is None:
        return search_blocks(vectors, is_approximate=is_approximate)
    return search_mesh(vectors, mesh, is_approximate=is_approximate)


def write_vectors(
    directory: Path, parts: Sequence[Float16[np.ndarray, "N D"]], num_vectors: int
) -> Float16[np.ndarray, "N D"]:
    """Writes the vectors of all parts as one file; returns its map."""
    vectors = np.lib.format.open_memmap(directory / FILE, "w+", np.float16, (num_vectors, parts[0].shape[1]))
    first = 0
    for part in parts:
        vectors[first : first + len(part)] = part
        first += len(part)
    vectors.flush()
    return vectors
