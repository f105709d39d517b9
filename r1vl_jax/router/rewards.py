"""The step-wise rewards of R1-Router.

    reward.functions=("r1vl_jax.router.rewards:step_reward",)

    retrieval step, kind "ret":  0.5 cos(e(q), e(q_gold)) + 0.5 [retriever = gold retriever], from -0.5 to 1
    answer step, kind "ans":     recall of the gold answer of best F1, from 0 to 1; for a single gold answer of at most
                                 5 words, and for several, 1 where that recall is 1 and else 0

A response that is not in the format gets 0. e is the embedding of a text encoder, of norm 1.

Source:
    Peng et al., R1-Router, 2025, https://arxiv.org/abs/2505.22095.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from r1vl_jax.router.answers import recall_of_best
from r1vl_jax.router.encoders import load_encoder
from r1vl_jax.router.golds import ANSWER, RETRIEVAL, RetrievalGold, read_answer_golds, read_retrieval_gold
from r1vl_jax.router.protocol import Malformed, Retrieval, parse_answer, parse_retrieval

_SHORT = 5  # words of a gold answer that only counts whole


@dataclass(frozen=True)
class StepReward:
    """The reward of each step, as a reward function of the configuration.

    Attributes:
        encoder: of sub-questions, as `load_encoder` takes it; it is loaded by the first call that needs it.
    """

    encoder: str = "hashing"

    def __call__(
        self, completions: Sequence[str], *, kind: Sequence[str], answer: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """The reward of each completion; None, does not apply, for records of other kinds.

        Args:
            kind: of each completion's record.
            answer: of each completion's record: its gold as JSON, see `golds`.

        Raises:
            ValueError: a gold cannot be read; the message names the record.
        """
        golds = list(_read_golds(kind, answer, columns.get("id")))
        pairs = {
            row: (step, gold)
            for row, (text, gold) in enumerate(zip(completions, golds, strict=True))
            if isinstance(gold, RetrievalGold)
            and isinstance(step := parse_retrieval(text, allow_half_none=True), Retrieval)
        }
        cosines = self._cosines([(step.sub_question, gold.query) for step, gold in pairs.values()])
        of_retrieval = {
            row: retrieval_reward(*pair, cosine) for (row, pair), cosine in zip(pairs.items(), cosines, strict=True)
        }
        return [
            answer_reward(text, gold)
            if isinstance(gold, tuple)
            else None
            if gold is None
            else of_retrieval.get(row, 0.0)
            for row, (text, gold) in enumerate(zip(completions, golds, strict=True))
        ]

    def _cosines(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The cosine of the two texts of each pair, in lower case."""
        number_of: dict[str, int] = {}
        numbers = [[number_of.setdefault(text.lower(), len(number_of)) for text in pair] for pair in pairs]
        if not pairs:
            return []
        embedding_ND = self._encoder.encode(list(number_of))
        return [float(np.dot(embedding_ND[first], embedding_ND[second])) for first, second in numbers]

    @cached_property
    def _encoder(self) -> Any:
        return load_encoder(self.encoder)


step_reward = StepReward()


def retrieval_reward(step: Retrieval, gold: RetrievalGold, cosine: float) -> float:
    """The reward of a well-formed retrieval step, from -0.5 to 1.

    Args:
        cosine: of the embeddings of both sub-questions, from -1 to 1.
    """
    return 0.5 * cosine + 0.5 * (step.retriever == gold.retriever)


def answer_reward(completion: str, golds: Sequence[str]) -> float:
    """The reward of an answer step, from 0 to 1; 0 if it is malformed."""
    answer = parse_answer(completion)
    if isinstance(answer, Malformed):
        return 0.0
    recall = recall_of_best(answer, golds)
    is_binary = len(golds) > 1 or len(golds[0].split(" ")) <= _SHORT
    return float(recall == 1) if is_binary else recall


def _read_golds(
    kinds: Sequence[str], answers: Sequence[str], ids: Sequence[str] | None
) -> Iterator[RetrievalGold | tuple[str, ...] | None]:
    read = {RETRIEVAL: read_retrieval_gold, ANSWER: read_answer_golds}
    for row, (kind, answer) in enumerate(zip(kinds, answers, strict=True)):
        try:
            yield read[kind](answer) if kind in read else None
        except ValueError as error:
            name = ids[row] if ids is not None else f"in row {row} of the batch"
            raise ValueError(f"record {name}: gold of a step of kind {kind!r}: {error}") from None
