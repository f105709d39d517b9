"""Input pipelines of the training stages and of evaluation.

Training streams are grain iterators: they reshuffle every epoch, encode on background threads, and resume at the exact
record with `get_state()` and `set_state()`. With several processes, process i of n reads records i, i + n, i + 2n, ...
of the order that a single process would read.
"""

import collections
import itertools
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import grain
import numpy as np
from jaxtyping import Int

from r1vl_jax.arrays import Completions, PromptBatch, SFTBatch, check_shapes
from r1vl_jax.data import fields, prompts
from r1vl_jax.data.chat_format import end_of_turn_id
from r1vl_jax.data.collate import pad_rows, round_up
from r1vl_jax.data.processor import Processor
from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.data.records import Record, UnusableRecord
from r1vl_jax.data.turns import Conversation
from r1vl_jax.runtime import processes

Stream = grain.DatasetIterator

Encoded = TypeVar("Encoded")

NO_ANSWER = "it has no answer"  # why a record is neither sampled for nor evaluated

_NUM_THREADS = 2
_PREFETCHED_BATCHES = 2
_MAX_REASONS = 5
# What differs between records that are dropped for one reason: numbers, quoted values, addresses of objects.
_PARTICULARS = re.compile(r"""<[^<>]* at 0x[0-9a-f]+>|'[^']*'|"[^"]*"|\d+""")


class NoUsableRecords(ValueError):
    """Every record of a source is refused; the message counts the reasons."""


class Encoder:
    """Encodes and collates records under fixed length limits, and keeps account of the records that it drops.

    Args:
        max_prompt_length, instruction: as in `prompts.encode`.
        prompt_bucket, patch_bucket, vision_shards: as in `prompts.batch`.

    Attributes:
        dropped: id -> reason of each dropped record; each is logged once.

    Raises:
        ValueError: the instruction contains a placeholder of an image or a video.
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
        self._end = end_of_turn_id(processor.tokenizer)
        self._limits = {"max_prompt_length": max_prompt_length, "instruction": instruction}
        self._buckets = {"prompt_bucket": prompt_bucket, "patch_bucket": patch_bucket, "vision_shards": vision_shards}

    def prompt(self, record: Record) -> EncodedPrompt:
        """The prompt of a record.

        Raises:
            UnusableRecord: the record is invalid or its prompt is too long.
        """
        return prompts.encode(record, self.processor, **self._limits)

    def conversation(self, record: Record) -> Conversation:
        """The conversation of a record, with the instruction. Raises ValueError: a picture cannot be read."""
        return prompts.conversation(record, self._limits["instruction"])

    def render(self, conversation: Conversation) -> EncodedPrompt:
        """The prompt of a conversation. Raises ValueError: it cannot be written, or is too long."""
        return prompts.render_within(conversation, self.processor, self._limits["max_prompt_length"])

    def answerable_prompt(self, record: Record) -> EncodedPrompt:
        """The prompt of a record whose completions are compared with its answer.

        Raises:
            UnusableRecord: as `prompt`, or the record has no answer.
        """
        encoded = self.prompt(record)
        if not record.answer.strip():
            raise UnusableRecord(record.id, NO_ANSWER)
        return encoded

    def completion(self, record: Record, *, max_completion_length: int) -> Int[np.ndarray, " T"]:
        """The tokens of a record's response, followed by the end-of-turn token; special tokens in it stay text.

        Raises:
            UnusableRecord: there is no response, or it is too long; it is never truncated.
        """
        user_text = self.processor.user_text
        try:
            fields.check(record)
            token_ids = user_text.encode(user_text.protect(record.response))
        except ValueError as error:
            raise UnusableRecord(record.id, str(error)) from error
        token_T = np.array([*token_ids, self._end], np.int32)
        if not record.response:
            raise UnusableRecord(record.id, "it has no response to train on")
        if len(token_T) > max_completion_length:
            raise UnusableRecord(
                record.id,
                f"its response has {len(token_T)} tokens, at most max_completion_length={max_completion_length} fit;"
                " raise it",
            )
        return token_T

    def batch(self, encoded: Sequence[EncodedPrompt]) -> PromptBatch:
        """Collates prompts."""
        return prompts.batch(encoded, **self._buckets)

    def drop(self, error: UnusableRecord):
        """Records and logs the reason for dropping a record."""
        if error.name not in self.dropped:
            self.dropped[error.name] = str(error)
            logging.getLogger(__name__).warning("dropped (%d so far): %s", len(self.dropped), error)


def prompt_stream(source: Any, encoder: Encoder, *, batch_size: int, seed: int) -> Stream:
    """Endless batches of prompts, for StepGRPO.

    Args:
        source: records with random access; each comes once per epoch, and batches may span two epochs.
        batch_size: records of this process in a batch.

    Returns:
        Iterator of pairs: the records of a batch, and their PromptBatch.

    Raises:
        NoUsableRecords: there is none; in all processes, since all have the same source.
    """

    def collate(rows: Sequence[tuple[Record, EncodedPrompt]]) -> tuple[list[Record], PromptBatch]:
        records, encoded = zip(*rows, strict=True)
        return list(records), encoder.batch(encoded)

    def encode(record: Record) -> tuple[Record, EncodedPrompt]:
        return record, encoder.answerable_prompt(record)

    return _stream(source, encoder, encode, collate, batch_size=batch_size, seed=seed)


def supervised_stream(
    source: Any,
    encoder: Encoder,
    *,
    batch_size: int,
    seed: int,
    max_completion_length: int,
    completion_bucket: int = 0,
) -> Stream:
    """Endless `SFTBatch`es of records with responses.

    Args:
        max_completion_length: in tokens; a longer response is refused.
        completion_bucket: the width of completions is the smallest multiple of this many tokens that holds the longest
            one, and at most `max_completion_length`; 0 is always that.

    Raises:
        NoUsableRecords: there is none; in all processes.
    """

    def encode(record: Record) -> tuple[EncodedPrompt, np.ndarray]:
        return encoder.prompt(record), encoder.completion(record, max_completion_length=max_completion_length)

    def collate(rows: Sequence[tuple[EncodedPrompt, np.ndarray]]) -> SFTBatch:
        encoded, completions = zip(*rows, strict=True)
        longest = max(map(len, completions))
        width = round_up(longest, completion_bucket) if completion_bucket else max_completion_length
        padded = pad_completions(completions, min(width, max_completion_length))
        return check_shapes(SFTBatch(prompts=encoder.batch(encoded), completions=padded))

    return _stream(source, encoder, encode, collate, batch_size=batch_size, seed=seed)


def eval_batches(
    source: Any, encoder: Encoder, *, batch_size: int, num_records: int | None = None
) -> Iterator[tuple[list[Record], PromptBatch]]:
    """Every usable record once, in order; the last batch is filled up by repeating a prompt.

    Args:
        source: records with random access.
        batch_size: prompts of this process in a batch.
        num_records: reads only the first `num_records`; None reads all.

    Yields:
        The records of a batch, and a PromptBatch of `batch_size` prompts; prompts beyond the records are repetitions.
        All processes get the same number of batches, the last ones possibly without records.

    Raises:
        NoUsableRecords: there is none; in all processes.
    """
    num_records = len(source) if num_records is None else min(num_records, len(source))

    def encode(record: Record) -> tuple[Record, EncodedPrompt]:
        return record, encoder.answerable_prompt(record)

    _, filler = first_usable(source, encoder, encode, num_records=num_records)
    numbers = range(processes.index(), num_records, processes.count())
    local = (row for number in numbers if (row := _encode_or_drop(source, number, encoder, encode)) is not None)
    while any(processes.all_gather_objects(len(rows := list(itertools.islice(local, batch_size))))):
        encoded = [prompt for _, prompt in rows]
        filler = encoded[-1] if rows else filler
        yield [record for record, _ in rows], encoder.batch(encoded + [filler] * (batch_size - len(rows)))


def first_usable(
    source: Any, encoder: Encoder, encode: Callable[[Record], Encoded], *, num_records: int | None = None
) -> Encoded:
    """The first record that can be encoded, encoded.

    Args:
        encode: raises UnusableRecord for those that cannot.
        num_records: looks at the first `num_records` only; None looks at all.

    Raises:
        NoUsableRecords: there is none.
    """
    num_records = len(source) if num_records is None else num_records
    reasons, last = collections.Counter(), ""
    for number in range(num_records):
        try:
            return encode(source[number])
        except UnusableRecord as error:
            encoder.drop(error)
            reasons[_PARTICULARS.sub("...", error.reason)] += 1
            last = str(error)
    if not num_records:
        raise NoUsableRecords("there are no records")
    counts = [f"{count} x {reason}" for reason, count in reasons.most_common(_MAX_REASONS)]
    counts += [f"{len(reasons) - _MAX_REASONS} further reasons"] * (len(reasons) > _MAX_REASONS)
    raise NoUsableRecords(f"none of {num_records} records can be used; the last: {last}\n  " + "\n  ".join(counts))


def _encode_or_drop(source: Any, number: int, encoder: Encoder, encode: Callable[[Record], Encoded]) -> Encoded | None:
    try:
        return encode(source[number])
    except UnusableRecord as error:
        encoder.drop(error)
        return None


def _stream(
    source: Any, encoder: Encoder, encode: Callable, collate: Callable, *, batch_size: int, seed: int
) -> Stream:
    first_usable(source, encoder, encode)  # without one the stream would go on forever
    order = grain.MapDataset.source(range(len(source))).seed(seed).shuffle().repeat()
    share = order[processes.index() :: processes.count()]
    rows = share.map(lambda number: _encode_or_drop(source, number, encoder, encode))  # grain skips None
    options = grain.ReadOptions(num_threads=_NUM_THREADS, prefetch_buffer_size=_PREFETCHED_BATCHES * batch_size)
    return iter(rows.to_iter_dataset(options).batch(batch_size, batch_fn=collate))


def pad_completions(rows: Sequence[np.ndarray], width: int) -> Completions:
    """Completions of these tokens, padded on the right."""
    return Completions(
        token_BT=pad_rows(rows, width, side="right", value=0),
        mask_BT=pad_rows([np.ones(len(row), bool) for row in rows], width, side="right", value=0),
    )
