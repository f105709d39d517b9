"""Every process reads its own share of the records; together their batches are those that one process would read."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from r1vl_jax.arrays import PromptBatch
from r1vl_jax.data.collate import to_process_shard
from r1vl_jax.data.pipeline import Stream
from r1vl_jax.runtime import processes


class ProcessStream:
    """Shares of batches, one after another, drawn by all processes at the same time.

    Args:
        stream: this process's own.
        as_share: makes what it gives fit those of the others.
    """

    def __init__(self, stream: Stream, as_share: Callable[[Any], Any]):
        self._stream, self._as_share = stream, as_share

    def __next__(self) -> Any:
        return self._as_share(next(self._stream))

    def get_state(self) -> list[dict[str, Any]]:
        """The positions of all processes, in their order."""
        return processes.all_gather_objects(self._stream.get_state())

    def set_state(self, positions: Sequence[dict[str, Any]]) -> None:
        """Goes on from there.

        Raises:
            ValueError: the positions are those of more or fewer processes.
        """
        if len(positions) != processes.count():
            raise ValueError(
                f"the checkpoint is of a run with {len(positions)} processes, each of which reads its own share of the"
                f" data; this one has {processes.count()}. Start as many as then, or choose another workdir"
            )
        self._stream.set_state(positions[processes.index()])


def to_global_batch(prompts: PromptBatch, *, own_shards: Sequence[int]) -> PromptBatch:
    """Makes prompts of this process a share of the batch of all: widths are agreed on, numbers count over the batch.

    Args:
        own_shards: which parts of the batch's rows this process holds.
    """
    if processes.count() == 1:
        return prompts
    num_prompts, num_rows = len(prompts.prompt_id_P), len(prompts.vision.segment_ZM)
    width, num_patches = processes.all_reduce_max((prompts.token_PS.shape[1], prompts.vision.segment_ZM.shape[1]))
    rows_a_shard = num_rows // len(own_shards)
    return to_process_shard(
        prompts,
        width=width,
        num_patches=num_patches,
        vision_rows=[shard * rows_a_shard + row for shard in own_shards for row in range(rows_a_shard)],
        prompt_id_P=processes.index() + processes.count() * np.arange(num_prompts, dtype=np.int32),
    )
