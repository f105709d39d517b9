"""The vectors of the greatest inner products with queries: exact, or by `approx_max_k`, on one device or over a mesh.

Vectors are taken a block at a time, so that beside them no more than a block of products is held:

    one device   blocks come from the memory map: vectors[0:n], vectors[n:2n], ...
    a mesh       device d holds rows d*R ... d*R + R - 1 for good; each finds its best; the best of all are gathered

Letters here: Q queries, N vectors, D numbers of a vector, K best ones.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

BLOCK = 16_384  # vectors
_RECALL_TARGET = 0.95  # of `approx_max_k`


class Best(NamedTuple):
    """The best vectors of each query so far, best first; of equal scores the lower number.

    Attributes:
        score_QK: inner products; -inf where there is none yet.
        number_QK: of the vectors; meaningless where the score is -inf.
    """

    score_QK: Float[Array | np.ndarray, "Q K"]
    number_QK: Int[Array | np.ndarray, "Q K"]


Vectors = Float[np.ndarray, "N D"]
Nearest = Callable[[Float[np.ndarray, "Q D"], int], Best]  # queries, K -> the best


def search_blocks(vectors: Vectors, *, is_approximate: bool = False) -> Nearest:
    """A search that brings vectors to the default device block by block; they may be a memory map."""

    def search(query_QD: Float[np.ndarray, "Q D"], k: int) -> Best:
        block_size = min(BLOCK, len(vectors))
        best, query_QD = _none(len(query_QD), k), np.asarray(query_QD, np.float32)
        for first in range(0, len(vectors), block_size):
            block_ND = _padded(vectors[first : first + block_size], block_size)
            best = _add_block(best, query_QD, block_ND, first, len(vectors), is_approximate=is_approximate)
        return best

    return search


def search_mesh(vectors: Vectors, mesh: Mesh, *, is_approximate: bool = False) -> Nearest:
    """A search of vectors that lie on the devices of a mesh, each row on one device; a process reads its own rows."""
    block_size = min(BLOCK, -(-len(vectors) // mesh.size))
    rows = -(-len(vectors) // (mesh.size * block_size)) * block_size  # of a device, in whole blocks
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def read_rows(index: Any) -> Vectors:
        return _padded(vectors[index[0]], rows)

    vector_ND = jax.make_array_from_callback((rows * mesh.size, vectors.shape[1]), sharding, read_rows)

    def search(query_QD: Float[np.ndarray, "Q D"], k: int) -> Best:
        sizes = {"k": k, "num_vectors": len(vectors), "block_size": block_size}
        return _search_shards(vector_ND, query_QD, **sizes, is_approximate=is_approximate, mesh=mesh)

    return search


@partial(jax.jit, static_argnames=("k", "num_vectors", "block_size", "is_approximate", "mesh"))
def _search_shards(
    vector_ND: Array,
    query_QD: Array,
    *,
    k: int,
    num_vectors: int,
    block_size: int,
    is_approximate: bool,
    mesh: Mesh,
) -> Best:
    axes = mesh.axis_names

    def search_shard(vector_RD: Array, query_QD: Array) -> Best:
        first = jax.lax.axis_index(axes) * len(vector_RD)

        def add(block: Array, best: Best) -> Best:
            block_ND = jax.lax.dynamic_slice_in_dim(vector_RD, block * block_size, block_size)
            number = first + block * block_size
            return _merge(best, query_QD, block_ND, number, num_vectors, is_approximate=is_approximate)

        best = jax.lax.fori_loop(0, len(vector_RD) // block_size, add, _none(len(query_QD), k))
        # Devices in their order, so that of equal scores the lower number stays first.
        return _top(Best(*(jax.lax.all_gather(each, axes, axis=1, tiled=True) for each in best)), k)

    by_rows, whole = PartitionSpec(axes), PartitionSpec()
    return jax.shard_map(search_shard, mesh=mesh, in_specs=(by_rows, whole), out_specs=whole, check_vma=False)(
        vector_ND, query_QD
    )


def _merge(
    best: Best, query_QD: Array, block_ND: Array, first: Array, num_vectors: Array | int, *, is_approximate: bool
) -> Best:
    """The best ones so far and those of a block, whose first vector has the number `first`."""
    score_QN = jnp.einsum("qd,nd->qn", query_QD, block_ND.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    number_N = first + jnp.arange(len(block_ND))
    score_QN = jnp.where((number_N < num_vectors)[None], score_QN, -jnp.inf)
    k = min(best.score_QK.shape[1], len(block_ND))
    select = partial(jax.lax.approx_max_k, recall_target=_RECALL_TARGET) if is_approximate else jax.lax.top_k
    score_QK, index_QK = select(score_QN, k)
    both = zip(best, (score_QK, number_N[index_QK]), strict=True)
    return _top(Best(*(jnp.concatenate(each, axis=1) for each in both)), best.score_QK.shape[1])


_add_block = partial(jax.jit, static_argnames="is_approximate")(_merge)


def _top(best: Best, k: int) -> Best:
    score_QK, index_QK = jax.lax.top_k(best.score_QK, k)
    return Best(score_QK, jnp.take_along_axis(best.number_QK, index_QK, axis=1))


def _none(num_queries: int, k: int) -> Best:
    return Best(jnp.full((num_queries, k), -jnp.inf), jnp.zeros((num_queries, k), jnp.int32))


def _padded(vectors: Vectors, size: int) -> Vectors:
    """The vectors with rows of zeros behind them."""
    return vectors if len(vectors) == size else np.pad(vectors, ((0, size - len(vectors)), (0, 0)))
