"""Data parallelism over processes: each reads its shard of the records, and the shards form one global batch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from r1vl_jax.arrays import Completions, PromptBatch
from r1vl_jax.data.collate import pad_rows, pad_to_global_shapes
from r1vl_jax.data.pipeline import Stream
from r1vl_jax.runtime import processes


class ProcessStream:
    """This process's shard of each global batch; all processes must call its methods together.

    Args:
        stream: reads this process's records.
        to_shard: turns what the stream yields into a shard of the global batch.
    """

    def __init__(self, stream: Stream, to_shard: Callable[[Any], Any]):
        self._stream, self._to_shard = stream, to_shard

    def __next__(self) -> Any:
        return self._to_shard(next(self._stream))

    def get_state(self) -> list[dict[str, Any]]:
        """The iterator state of every process, by process index."""
        return processes.all_gather_objects(self._stream.get_state())

    def set_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Resumes from the states that `get_state` returned.

        Raises:
            ValueError: the states are of another number of processes.
        """
        if len(states) != processes.count():
            raise ValueError(
                f"the checkpoint is of a run with {len(states)} processes, each of which reads its own shard of the"
                f" data; this one has {processes.count()}. Start as many as before, or choose another workdir"
            )
        self._stream.set_state(states[processes.index()])


def to_process_shard(prompts: PromptBatch, *, own_shards: Sequence[int]) -> PromptBatch:
    """Turns this process's prompts into its shard of the global batch: shapes agreed on by all, global prompt ids.

    Args:
        own_shards: indices of the data shards of the mesh whose devices belong to this process.
    """
    if processes.count() == 1:
        return prompts
    num_prompts, num_rows = len(prompts.prompt_id_P), len(prompts.vision.segment_ZM)
    width, num_patches = processes.all_reduce_max((prompts.token_PS.shape[1], prompts.vision.segment_ZM.shape[1]))
    rows_per_shard = num_rows // len(own_shards)
    return pad_to_global_shapes(
        prompts,
        width=width,
        num_patches=num_patches,
        vision_rows=[shard * rows_per_shard + row for shard in own_shards for row in range(rows_per_shard)],
        prompt_id_P=processes.index() + processes.count() * np.arange(num_prompts, dtype=np.int32),
    )


def to_global_width(completions: Completions) -> Completions:
    """This process's completions, padded to the width of the widest of all processes."""
    (width,) = processes.all_reduce_max((completions.token_BT.shape[1],))
    token_BT, mask_BT = (
        pad_rows(list(array), width, side="right", value=0) for array in (completions.token_BT, completions.mask_BT)
    )
    return Completions(token_BT=token_BT, mask_BT=mask_BT)
