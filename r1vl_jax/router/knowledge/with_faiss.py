"""Dense retrieval by faiss, where it is installed: exact, or by a graph or clusters."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16

from r1vl_jax.router.knowledge.nearest import Best, Nearest

FILE = "vectors.faiss"
_BLOCK = 16_384  # vectors that are added at a time
_TRAINING_VECTORS = 200_000  # of clusters
# Wider than faiss's defaults (40, 16 and 1), by which a graph misses most of documents that are worded alike.
_BUILD_WIDTHS = ("efConstruction=200",)
_SEARCH_WIDTHS = ("efSearch=256", "nprobe=32")


def write_faiss(directory: Path, vectors: Float16[np.ndarray, "N D"], factory: str) -> None:
    """Writes an index of faiss.

    Args:
        factory: faiss's description of an index, such as "Flat", "HNSW32" or "IVF1024,Flat".

    Raises:
        ModuleNotFoundError: faiss is not installed; says how.
        ValueError: faiss does not make such an index of these vectors.
    """
    faiss = import_faiss()
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        _set_widths(index, _BUILD_WIDTHS)
        if not index.is_trained:
            sample = np.unique(np.linspace(0, len(vectors) - 1, _TRAINING_VECTORS).astype(int))
            index.train(vectors[sample].astype(np.float32))
        for start in range(0, len(vectors), _BLOCK):
            index.add(vectors[start : start + _BLOCK].astype(np.float32))
    except RuntimeError as error:
        raise ValueError(
            f"faiss={factory!r}: faiss makes no such index of {len(vectors):,} vectors: {error}"
        ) from error
    faiss.write_index(index, str(directory / FILE))


def open_faiss(directory: Path) -> Nearest:
    """The search of an index that `write_faiss` wrote.

    Raises:
        ModuleNotFoundError: faiss is not installed; says how.
    """
    faiss = import_faiss()
    index = faiss.read_index(str(directory / FILE), faiss.IO_FLAG_MMAP)
    _set_widths(index, _SEARCH_WIDTHS)

    def search(query_QD: Float[np.ndarray, "Q D"], k: int) -> Best:
        score_QK, number_QK = index.search(np.ascontiguousarray(query_QD, np.float32), k)
        return Best(np.where(number_QK < 0, -np.inf, score_QK), number_QK)

    return search


def _set_widths(index: Any, widths: Sequence[str]) -> None:
    """Sets how many candidates are looked at, where an index of this kind has such a parameter."""
    for width in widths:
        with contextlib.suppress(RuntimeError):
            import_faiss().ParameterSpace().set_index_parameters(index, width)


def import_faiss() -> Any:
    """The library.

    Raises:
        ModuleNotFoundError: it is not installed; says how.
    """
    try:
        import faiss  # optional: the search in JAX needs no library
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "faiss is not installed: pip install faiss-cpu (the extra [faiss]), or leave faiss out"
        ) from error
    return faiss
