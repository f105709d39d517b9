"""Batches for the stages of a run: shuffled anew each epoch, prepared on threads, resumable to the record.

A stream is a grain iterator: `next()`, and `get_state()` and `set_state()` for its exact position. Of several processes
each gets every so-manieth record, in the order in which one would get them all.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from r1vl_jax.arrays import Completions, PromptBatch, SFTBatch, check_shapes
from r1vl_jax.data import prompts
from r1vl_jax.data.collate import pad_rows
from r1vl_jax.data.prompts import EncodedPrompt, Processor, RecordRefused
from r1vl_jax.data.records import Record
from r1vl_jax.runtime import processes

Stream = grain.DatasetIterator

_NUM_THREADS = 2
_BATCHES_AHEAD = 2


class Encoder:
    """Turns records into prompts of fixed limits and lays them out; knows which records it had to drop.

    Attributes:
        dropped: reason by id of each record that was refused; logged once.
    """

    def __init__(
        self,
        processor: Processor,
        *,
        max_prompt_length: int,
        prompt_bucket: int,
        patch_bucket: int,
        vision_shards: int = 1,
        instruction: str = "",
    ):
        self.processor = processor
        self.dropped: dict[str, str] = {}
        self._limits = {"max_prompt_length": max_prompt_length, "instruction": instruction}
        self._buckets = {"prompt_bucket": prompt_bucket, "patch_bucket": patch_bucket, "vision_shards": vision_shards}

    def prompt(self, record: Record) -> EncodedPrompt:
        """Raises `RecordRefused` for a record that is unusable or too long."""
        return prompts.encode(record, self.processor, **self._limits)

    def completion(self, record: Record, *, max_completion_length: int) -> Int[np.ndarray, " T"]:
        """The tokens of a record's response, and the one that ends a turn.

        Raises:
            RecordRefused: there is no response, or it is too long; it is never cut.
        """
        tokenizer = self.processor.tokenizer
        token_T = np.array([*tokenizer(record.response)["input_ids"], tokenizer.eos_token_id], np.int32)
        if not record.response:
            raise RecordRefused(f"record {record.id!r}: it has no response to imitate")
        if len(token_T) > max_completion_length:
            raise RecordRefused(
                f"record {record.id!r}: its response has {len(token_T)} tokens, at most"
                f" max_completion_length={max_completion_length} fit; raise it"
            )
        return token_T

    def batch(self, encoded: Sequence[EncodedPrompt]) -> PromptBatch:
        return prompts.batch(encoded, **self._buckets)

    def drop(self, record: Record, error: RecordRefused):
        """Notes a refused record."""
        if record.id not in self.dropped:
            self.dropped[record.id] = str(error)
            logging.getLogger(__name__).warning("dropped (%d so far): %s", len(self.dropped), error)


def prompt_stream(source: Any, encoder: Encoder, *, batch_size: int, seed: int) -> Stream:
    """Endless batches for StepGRPO.

    Args:
        source: records with random access; each is drawn once per epoch, and batches run across epochs.
        batch_size: records of this process in a batch.

    Returns:
        Iterator of pairs: the records of a batch, and their PromptBatch.
    """

    def layout(rows: Sequence[tuple[Record, EncodedPrompt]]) -> tuple[list[Record], PromptBatch]:
        records, encoded = zip(*rows, strict=True)
        return list(records), encoder.batch(encoded)

    def encode(record: Record) -> tuple[Record, EncodedPrompt]:
        return record, encoder.prompt(record)

    return _stream(source, encoder, encode, layout, batch_size=batch_size, seed=seed)


def supervised_stream(
    source: Any, encoder: Encoder, *, batch_size: int, seed: int, max_completion_length: int
) -> Stream:
    """Endless WarmupBatches of records with responses; all completions are padded to `max_completion_length`."""

    def encode(record: Record) -> tuple[EncodedPrompt, np.ndarray]:
        return encoder.prompt(record), encoder.completion(record, max_completion_length=max_completion_length)

    def layout(rows: Sequence[tuple[EncodedPrompt, np.ndarray]]) -> SFTBatch:
        encoded, completions = zip(*rows, strict=True)
        return check_shapes(
            SFTBatch(prompts=encoder.batch(encoded), completions=_completions(completions, max_completion_length))
        )

    return _stream(source, encoder, encode, layout, batch_size=batch_size, seed=seed)


def eval_batches(
    source: Any, encoder: Encoder, *, batch_size: int, num_records: int | None = None
) -> Iterator[tuple[list[Record], PromptBatch]]:
    """All usable records once, in order. The last batch is filled up by repeating a prompt.

    Args:
        source: records with random access.
        batch_size: prompts of this process in a batch.
        num_records: so many from the first on; None is all.

    Yields:
        The records of a batch, and a PromptBatch of `batch_size` prompts; those past the records are repetitions. Every
        process gets as many batches as the others, if need be without records.

    Raises:
        ValueError: no record can be used.
    """
    num_records = len(source) if num_records is None else min(num_records, len(source))

    def usable(numbers: Iterable[int]) -> Iterator[tuple[Record, EncodedPrompt]]:
        return _usable((source[number] for number in numbers), encoder)

    own, filler = usable(range(processes.index(), num_records, processes.count())), None
    while any(processes.all_gather_objects(len(rows := list(itertools.islice(own, batch_size))))):
        encoded = [prompt for _, prompt in rows]
        filler = encoded[-1] if rows else filler or next(usable(range(num_records)))[1]
        yield [record for record, _ in rows], encoder.batch(encoded + [filler] * (batch_size - len(rows)))
    if filler is None:
        last = next(reversed(encoder.dropped.values()), "in another process")
        raise ValueError(f"none of the {num_records} records to evaluate on can be used; the last: {last}")


def _usable(records: Iterable[Record], encoder: Encoder) -> Iterator[tuple[Record, EncodedPrompt]]:
    for record in records:
        try:
            yield record, encoder.prompt(record)
        except RecordRefused as refusal:
            encoder.drop(record, refusal)


def _stream(source: Any, encoder: Encoder, encode: Callable, layout: Callable, *, batch_size: int, seed: int) -> Stream:
    dropped: set[str] = set()  # of this source alone; the encoder knows those of other splits too

    def encode_or_drop(record: Record):
        try:
            return encode(record)
        except RecordRefused as error:
            encoder.drop(record, error)
            dropped.add(record.id)
            if len(dropped) >= len(source):
                raise ValueError(f"none of {len(source)} records can be used; the last: {error}") from error
            return None  # grain passes over it

    order = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    rows = order[processes.index() :: processes.count()].map(encode_or_drop)
    options = grain.ReadOptions(num_threads=_NUM_THREADS, prefetch_buffer_size=_BATCHES_AHEAD * batch_size)
    return iter(rows.to_iter_dataset(options).batch(batch_size, batch_fn=layout))


def _completions(rows: Sequence[np.ndarray], width: int) -> Completions:
    return Completions(
        token_BT=pad_rows(rows, width, side="right", value=0),
        mask_BT=pad_rows([np.ones(len(row), bool) for row in rows], width, side="right", value=0),
    )
