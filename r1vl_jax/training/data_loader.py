"""Batches of a run: each process reads its share of the records, and the devices of all hold the rows together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax

from r1vl_jax.arrays import BATCH_AXES, Bundle, PromptBatch, SFTBatch
from r1vl_jax.data import pipeline
from r1vl_jax.data.collate import round_up
from r1vl_jax.data.pipeline import Encoder
from r1vl_jax.data.process_shards import ProcessStream, to_global_width, to_process_shard
from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.data.records import Record, Split
from r1vl_jax.runtime import processes
from r1vl_jax.sharding.batch import batch_sharding, shard_batch
from r1vl_jax.sharding.global_arrays import Tree, local_shards, process_local_rows


@dataclass(frozen=True)
class DataLoader:
    """Gives the stages their batches. Sizes of batches count the records of all processes.

    Attributes:
        splits: records with random access, by name.
        seed: of the shuffles.
    """

    splits: Mapping[str, Split]
    encoder: Encoder
    mesh: jax.sharding.Mesh
    seed: int

    def sft_batches(
        self, split: str, *, batch_size: int, max_completion_length: int, completion_bucket: int
    ) -> ProcessStream:
        """Endless `SFTBatch`es, on the host; the widths of completions are as in `pipeline.supervised_stream`."""
        stream = pipeline.supervised_stream(
            self.splits[split],
            self.encoder,
            batch_size=batch_size // processes.count(),
            seed=self.seed,
            max_completion_length=max_completion_length,
            completion_bucket=completion_bucket,
        )
        return ProcessStream(
            stream, lambda batch: SFTBatch(self._globalize(batch.prompts), to_global_width(batch.completions))
        )

    def prompt_batches(self, split: str, *, batch_size: int) -> ProcessStream:
        """Endless pairs: records of this process, and their `PromptBatch` on the host."""
        stream = pipeline.prompt_stream(
            self.splits[split], self.encoder, batch_size=batch_size // processes.count(), seed=self.seed
        )
        return ProcessStream(stream, lambda batch: (batch[0], self._globalize(batch[1])))

    def eval_batches(
        self, split: str, *, batch_size: int, num_records: int
    ) -> Iterator[tuple[list[Record], PromptBatch]]:
        """All usable records of the first `num_records` once, in order; prompts are on the devices.

        Args:
            batch_size: fewer where there are fewer records, but for each device one.
        """
        source = self.splits[split]
        size = min(batch_size, round_up(min(num_records, len(source)), self.mesh.size)) // processes.count()
        for records, prompts in pipeline.eval_batches(source, self.encoder, batch_size=size, num_records=num_records):
            yield records, self.shard_batch(self._globalize(prompts))

    def batch(self, records: Sequence[Record]) -> PromptBatch:
        """The prompts of these records of this process, on the host; all processes must call this."""
        return self.collate([self.encoder.prompt(record) for record in records])

    def collate(self, encoded: Sequence[EncodedPrompt]) -> PromptBatch:
        """As `batch`, of encoded prompts, of which all processes have equally many."""
        return self._globalize(self.encoder.batch(encoded))

    @property
    def num_local_shards(self) -> int:
        """What the rows of this process are divided over."""
        return len(local_shards(self.mesh, BATCH_AXES))

    def shard_batch(self, batch: Bundle) -> Bundle:
        """Gives each device its rows of a batch, and its images; what is there already is not copied."""
        return shard_batch(batch, self.mesh)

    def process_local_rows(self, tree: Tree) -> Tree:
        """This process's rows of global arrays whose first axis is rows; all processes must call this."""
        return process_local_rows(tree, batch_sharding("B", self.mesh))

    def _globalize(self, prompts: PromptBatch) -> PromptBatch:
        return to_process_shard(prompts, own_shards=local_shards(self.mesh, BATCH_AXES))
