"""Evaluation on held-out problems with greedy decoding."""

import collections
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from r1vl_jax import rewards
from r1vl_jax.arrays import Completions, Params, PromptBatch
from r1vl_jax.data.records import Record
from r1vl_jax.rewards import Judge
from r1vl_jax.runtime import processes
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import SyncedParams, synced_params

Batches = Callable[[], Iterable[tuple[list[Record], PromptBatch]]]
# (completion, record) -> (digits of the image that the completion names correctly, digits in the image)
DigitRecognitionFn = Callable[[str, Record], tuple[int, int]]


@dataclass(frozen=True)
class Evaluator:
    """Evaluates parameters on the test and validation splits.

    Attributes:
        sampler: greedy, one completion per prompt.
        process_local_rows: selects the rows of this process from a global batch.
        decode_completions: tokens -> strings.
        test, validation: make the batches of a split; a batch may have more prompts than records (padding).
        digit_recognition: counts recognized digits of the embedded task, whatever the answer; None for other tasks.
        semantics: of the rewards, as in `reward.semantics`.
    """

    sampler: Sampler
    process_local_rows: Callable[[Any], Any]
    decode_completions: Callable[[Completions], list[str]]
    test: Batches
    validation: Batches
    digit_recognition: DigitRecognitionFn | None
    judge: Judge
    semantics: str

    def on_test(self, params: Params) -> dict[str, float]:
        """Results of `evaluate` on the test split."""
        return self.evaluate(params, self.test())

    def on_validation(self, params: Params) -> dict[str, float]:
        """Results of `evaluate` on the validation split."""
        return self.evaluate(params, self.validation())

    def evaluate(self, params: Params, batches: Iterable[tuple[list[Record], PromptBatch]]) -> dict[str, float]:
        """Decodes greedily and scores the completions.

        Returns:
            Fractions: `accuracy`, `accuracy/KIND`, `well_formed` (complete paths in logical order), `ended` (with an
            end-of-sequence token) and, if the task has it, `digit_recognition`; and `mean_length` in tokens.
        """
        with synced_params(self.sampler, params) as synced:
            local = [outcome for batch in batches for outcome in self._score_batch(params, synced, *batch)]
        outcomes = [outcome for part in processes.all_gather_objects(local) for outcome in part]
        results = {name: float(np.mean([o[name] for o in outcomes])) for name in _MEANS}
        by_kind = collections.defaultdict(list)
        for outcome in (each for each in outcomes if each["kind"]):
            by_kind[outcome["kind"]].append(outcome["accuracy"])
        results |= {f"accuracy/{kind}": float(np.mean(values)) for kind, values in sorted(by_kind.items())}
        if self.digit_recognition is not None:
            num_digits = sum(o["num_digits"] for o in outcomes)
            results["digit_recognition"] = sum(o["num_recognized"] for o in outcomes) / max(num_digits, 1)
        return results

    def _score_batch(
        self, params: Params, synced: SyncedParams, records: list[Record], prompts: PromptBatch
    ) -> list[Mapping]:
        rollout = sample(self.sampler, params, prompts, jax.random.key(0), synced=synced)
        completions, has_ended_B = self.process_local_rows((rollout.completions, rollout.has_ended_B))
        texts = self.decode_completions(completions)[: len(records)]
        reward = rewards.score(texts, [asdict(r) for r in records], semantics=self.semantics, judge=self.judge)
        length_B = np.asarray(completions.mask_BT).sum(axis=1)
        return [
            {
                "kind": record.kind,
                "accuracy": float(reward.answer_correct[row]),
                "well_formed": float(reward.step_validity[row]),
                "ended": float(has_ended_B[row]),
                "mean_length": float(length_B[row]),
            }
            | self._recognize_digits(text, record)
            for row, (text, record) in enumerate(zip(texts, records, strict=True))
        ]

    def _recognize_digits(self, text: str, record: Record) -> dict[str, int]:
        num_recognized, num_digits = (0, 0) if self.digit_recognition is None else self.digit_recognition(text, record)
        return {"num_recognized": num_recognized, "num_digits": num_digits}


_MEANS = ("accuracy", "well_formed", "ended", "mean_length")
