"""pass@k: the chance that one of k samples is right. Chen et al. 2021, https://arxiv.org/abs/2107.03374."""

import math
from collections.abc import Sequence

import numpy as np


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The chance that one of k samples is right, if k of the samples are drawn: the unbiased estimate."""
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def pass_at_powers(is_right: Sequence[Sequence[bool]]) -> dict[int, float]:
    """The means of pass@k over records, for the powers of two up to the samples of a record.

    Args:
        is_right: of the samples of each record.
    """
    num_samples = max(map(len, is_right), default=0)
    ks = [2**power for power in range(num_samples.bit_length())]
    return {k: float(np.mean([pass_at_k(len(row), sum(row), k) for row in is_right])) for k in ks}
