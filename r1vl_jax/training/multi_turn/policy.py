"""The policy as a rollout function sees it: prompts go in, sampled turns come out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Key

from r1vl_jax.arrays import Array, Params
from r1vl_jax.data.collate import TEXT
from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.data.records import Record
from r1vl_jax.data.turns import Conversation
from r1vl_jax.rewards.text import Vocabulary
from r1vl_jax.runtime import processes
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import SyncedParams
from r1vl_jax.training.completions import decode_completions
from r1vl_jax.training.data_loader import DataLoader
from r1vl_jax.training.multi_turn.episode import Episode, Turn

_GROWTH = 4  # of the number of rows that are sampled at a time: few sizes, since each is compiled
FILLER = EncodedPrompt(np.zeros(1, np.int32), np.full(1, TEXT, np.int32), ())  # a row that nobody reads


@dataclass
class Policy:
    """Samples turns from the policy of one update.

    With several processes each runs the rollout function on records of its own, and samples as often as it likes; the
    devices sample for all of them together.

    Attributes:
        sampler: of one completion a prompt.
        num_generations: episodes of each record.
        max_rows: prompts of this process that are sampled at a time, a multiple of `row_multiple`.
        row_multiple: what the rows of this process are divided over, in sampling and in learning.
        key: of the update; each call of `sample` has random numbers of its own.
    """

    loader: DataLoader
    sampler: Sampler
    params: Params
    synced: SyncedParams
    vocabulary: Vocabulary
    num_generations: int
    max_rows: int
    row_multiple: int
    key: Key[Array, ""]
    _num_calls: int = field(default=0, init=False)

    def conversation(self, record: Record) -> Conversation:
        """The question of a record as a conversation, with its pictures and `data.instruction`."""
        return self.loader.encoder.conversation(record)

    def encode(self, conversation: Conversation) -> EncodedPrompt:
        """The prompt of a conversation.

        Raises:
            ValueError: it cannot be written, or has more than `data.max_prompt_length` tokens.
        """
        return self.loader.encoder.render(conversation)

    def sample(self, prompts: Sequence[EncodedPrompt]) -> list[Turn]:
        """A turn for each prompt, of at most `sampling.max_completion_length` tokens."""
        starts = range(0, len(prompts), self.max_rows)
        return [turn for start in starts for turn in self._sample_together(prompts[start : start + self.max_rows])]

    def join_others(self) -> None:
        """Samples with the other processes until all are done; to be called once, when this one is."""
        while num_rows := self._agree_on_rows(0):
            self._sample_rows([FILLER], num_rows)

    def _sample_together(self, prompts: Sequence[EncodedPrompt]) -> list[Turn]:
        return self._sample_rows(prompts, self._agree_on_rows(len(prompts)))[: len(prompts)]

    def _agree_on_rows(self, num_prompts: int) -> int:
        """The rows of every process in the next batch; 0 if no process has prompts."""
        (longest,) = processes.all_reduce_max((num_prompts,))
        return choose_num_rows(longest, self.max_rows, self.row_multiple) if longest else 0

    def _sample_rows(self, prompts: Sequence[EncodedPrompt], num_rows: int) -> list[Turn]:
        rows = [*prompts, *[FILLER] * (num_rows - len(prompts))]
        batch = self.loader.shard_batch(self.loader.collate(rows))
        self._num_calls += 1
        key = jax.random.fold_in(self.key, self._num_calls)
        rollout = sample(self.sampler, self.params, batch, key, synced=self.synced)
        own = rollout.completions, rollout.logp_BT, rollout.has_ended_B
        completions, logp_BT, has_ended_B = jax.device_get(self.loader.process_local_rows(own))
        texts = decode_completions(completions, self.vocabulary)
        return [
            Turn(prompt, token_T[mask_T], logp_T[mask_T], text, bool(has_ended))
            for prompt, token_T, mask_T, logp_T, text, has_ended in zip(
                rows, completions.token_BT, completions.mask_BT, logp_BT, texts, has_ended_B, strict=True
            )
        ]


# (records, policy) -> `policy.num_generations` episodes of each record; those of a record are neighbours.
RolloutFunction = Callable[[Sequence[Record], Policy], Sequence[Episode]]


def choose_num_rows(num_prompts: int, max_rows: int, multiple: int) -> int:
    """Rows of a batch of prompts: `max_rows`, or a fourth, a sixteenth, ... of them, while it holds the prompts.

    Args:
        multiple: what the rows are divided over.
    """
    rows = max_rows
    while rows % (_GROWTH * multiple) == 0 and rows // _GROWTH >= num_prompts:
        rows //= _GROWTH
    return rows
