"""Several splits as one: each in its share of an epoch, evenly spread."""

from collections.abc import Sequence

import numpy as np

from r1vl_jax.data.records import Record, Split


class Mixture(Split):
    """The records of several splits.

    With weights, an epoch has as many places as let each source have its share and none of its records be left out:
    the source that is largest for its weight comes once, the others repeat. Without, each record has one place.

    Args:
        splits: with records, each at least one.
        weights: more than 0, in any unit; None for all records once.
        name: of the split.

    Example:
        10 records with weight 0.5 and 2 with weight 0.5 are an epoch of 20: each of the 2 comes 5 times.
    """

    def __init__(self, splits: Sequence[Split], weights: Sequence[float] | None, name: str):
        sizes = np.array([len(split) for split in splits])
        share = sizes / sizes.sum() if weights is None else np.array(weights) / sum(weights)
        places = np.maximum(np.rint(share * (sizes / share).max()).astype(int), sizes)
        # Sorted by the middle of each place in its source, so that every stretch has the shares of the whole.
        middle = np.concatenate([(np.arange(number) + 0.5) / number for number in places])
        order = np.argsort(middle, kind="stable")
        self._splits, self._name = splits, name
        self._source_of = np.repeat(np.arange(len(splits)), places)[order]
        self._index_of = np.concatenate([np.arange(number) % size for number, size in zip(places, sizes, strict=True)])[
            order
        ]

    def __len__(self) -> int:
        return len(self._source_of)

    def __getitem__(self, index: int) -> Record:
        return self._splits[self._source_of[index]][int(self._index_of[index])]
