"""Rankings: the best of many scores, and one ranking of several. Of equal scores the lower number comes first."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from r1vl_jax.router.knowledge.document import Hit

_BLOCK = 256
_RANK_OFFSET = 60  # of reciprocal rank fusion, as its authors chose it


def best_positive(score_N: Float[np.ndarray, " N"], k: int) -> list[Hit]:
    """The k greatest scores above zero, or all of them if there are fewer."""
    # The k-th greatest maximum of a block is a lower bound of the k-th greatest score, and cheaper to find.
    num_whole = len(score_N) // _BLOCK * _BLOCK
    largest = score_N[:num_whole].reshape(-1, _BLOCK).max(axis=1) if num_whole else score_N[:0]
    bound = np.partition(largest, -k)[-k] if len(largest) >= k else 0.0
    numbers = np.flatnonzero((score_N >= bound) & (score_N > 0))
    numbers = numbers[np.argsort(-score_N[numbers], kind="stable")[:k]]
    return [Hit(int(number), float(score_N[number])) for number in numbers]


def fuse(rankings: Iterable[Sequence[Hit]], k: int) -> list[Hit]:
    """Reciprocal rank fusion of rankings of one base.

        score[d] = sum over rankings with d of 1 / (60 + rank of d)

    Source:
        Cormack, Clarke and Büttcher, SIGIR 2009, https://doi.org/10.1145/1571941.1572114.
    """
    scores: dict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            scores[hit.number] += 1 / (_RANK_OFFSET + rank)
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return [Hit(number, score) for number, score in ordered[:k]]
