"""Evaluation on held-out problems with greedy decoding, and with several samples of each."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Float

from r1vl_jax import rewards
from r1vl_jax.arrays import Completions, Params, PromptBatch
from r1vl_jax.data.records import Record
from r1vl_jax.evaluation.pass_at_k import pass_at_powers
from r1vl_jax.rewards import Judge
from r1vl_jax.runtime import processes
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import SyncedParams, synced_params

Batches = Callable[[], Iterable[tuple[list[Record], PromptBatch]]]
# (completion, record) -> (digits of the image that the completion names correctly, digits in the image)
DigitRecognitionFn = Callable[[str, Record], tuple[int, int]]
# (step rewards of completions, completions, records) -> the total reward of each, as in training
RewardFn = Callable[[rewards.StepReward, Sequence[str], Sequence[Record]], Float[np.ndarray, " B"]]


@dataclass(frozen=True)
class Evaluator:
    """Evaluates parameters on the test and validation splits.

    Attributes:
        sampler: greedy, one completion per prompt.
        several: at temperature 1, several completions per prompt; None for greedy ones alone.
        process_local_rows: selects the rows of this process from a global batch.
        decode_completions: tokens -> strings.
        test, validation: make the batches of a split; a batch may have more prompts than records (padding).
        digit_recognition: counts recognized digits of the embedded task, whatever the answer; None for other tasks.
        semantics: of the rewards, as in `reward.semantics`.
        hard_kinds: kinds of problem that are also reported together.
        total_reward: where the user's own functions are among the rewards; None reports no reward.
    """

    sampler: Sampler
    several: Sampler | None
    process_local_rows: Callable[[Any], Any]
    decode_completions: Callable[[Completions], list[str]]
    test: Batches
    validation: Batches
    digit_recognition: DigitRecognitionFn | None
    judge: Judge
    semantics: str
    hard_kinds: tuple[str, ...] = ()
    total_reward: RewardFn | None = None

    def on_test(self, params: Params) -> dict[str, float]:
        """Results of `evaluate` on the test split."""
        return self.evaluate(params, self.test())

    def on_validation(self, params: Params) -> dict[str, float]:
        """Results of `evaluate` on the validation split."""
        return self.evaluate(params, self.validation())

    def evaluate(self, params: Params, batches: Iterable[tuple[list[Record], PromptBatch]]) -> dict[str, float]:
        """Decodes greedily, and samples if asked to, and scores the completions.

        Returns:
            Fractions: `accuracy`, `accuracy/KIND`, `well_formed` (complete paths in logical order), `ended` (with an
            end-of-sequence token) and, if the task has it, `digit_recognition`; and `mean_length` in tokens. With
            several samples also `accuracy_sampled`, `accuracy_sampled/KIND` and `pass_at_K`, for powers of two. With
            hard kinds among the records also `accuracy_hard/greedy` and, with samples, `accuracy_hard/sampled`. With
            reward functions of the user's own also `reward`, of greedy completions, and `reward/KIND`.
        """
        local: list[Mapping[str, Any]] = []
        with synced_params(self.sampler, params) as synced:
            for records, prompts in batches:
                outcomes = self._score_batch(params, synced, records, prompts)
                several = self._score_samples(params, synced, records, prompts)
                local += [a | b for a, b in zip(outcomes, several, strict=True)]
        outcomes = [outcome for part in processes.all_gather_objects(local) for outcome in part]
        results = {name: _mean(name, outcomes) for name in _MEANS}
        results |= _by_kind("accuracy", outcomes)
        if self.total_reward is not None:
            results |= {"reward": _mean("reward", outcomes)} | _by_kind("reward", outcomes)
        hard = self._hard(outcomes)
        if hard:
            results["accuracy_hard/greedy"] = _mean("accuracy", hard)
        if self.several is not None:
            results["accuracy_sampled"] = _mean("accuracy_sampled", outcomes)
            results |= _by_kind("accuracy_sampled", outcomes)
            if hard:
                results["accuracy_hard/sampled"] = _mean("accuracy_sampled", hard)
            results |= {f"pass_at_{k}": value for k, value in pass_at_powers([o["samples"] for o in outcomes]).items()}
        if self.digit_recognition is not None:
            num_digits = sum(o["num_digits"] for o in outcomes)
            results["digit_recognition"] = sum(o["num_recognized"] for o in outcomes) / max(num_digits, 1)
        return results

    def _hard(self, outcomes: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        hard = [o for o in outcomes if o["kind"] in self.hard_kinds]
        if self.hard_kinds and not hard:
            kinds = sorted({o["kind"] for o in outcomes})
            logging.warning("eval.hard_kinds=%s: no problem is of these kinds; there are %s", self.hard_kinds, kinds)
        return hard

    def _score_batch(
        self, params: Params, synced: SyncedParams, records: list[Record], prompts: PromptBatch
    ) -> list[dict[str, Any]]:
        completions, has_ended_B = self._sample(self.sampler, params, synced, prompts)
        texts = self.decode_completions(completions)[: len(records)]
        reward = self._score(texts, records)
        length_B = np.asarray(completions.mask_BT).sum(axis=1)
        total_B = self.total_reward(reward, texts, records) if self.total_reward and records else reward.total
        return [
            {
                "kind": record.kind,
                "accuracy": float(reward.answer_correct[row]),
                "well_formed": float(reward.step_validity[row]),
                "ended": float(has_ended_B[row]),
                "mean_length": float(length_B[row]),
                "reward": float(total_B[row]),
            }
            | self._recognize_digits(text, record)
            for row, (text, record) in enumerate(zip(texts, records, strict=True))
        ]

    def _score_samples(
        self, params: Params, synced: SyncedParams, records: list[Record], prompts: PromptBatch
    ) -> list[dict[str, Any]]:
        """Which of the samples of each record are right."""
        if self.several is None:
            return [{} for _ in records]
        completions, _ = self._sample(self.several, params, synced, prompts)
        num_samples = self.several.num_generations
        repeated = [record for record in records for _ in range(num_samples)]
        is_right_B = self._score(self.decode_completions(completions)[: len(repeated)], repeated).answer_correct
        is_right_PG = np.reshape(is_right_B, (len(records), num_samples))
        return [{"accuracy_sampled": float(row.mean()), "samples": row.tolist()} for row in is_right_PG]

    def _sample(
        self, sampler: Sampler, params: Params, synced: SyncedParams, prompts: PromptBatch
    ) -> tuple[Completions, Any]:
        """Completions of this process, and whether they have ended."""
        rollout = sample(sampler, params, prompts, jax.random.key(0), synced=synced)
        return self.process_local_rows((rollout.completions, rollout.has_ended_B))

    def _score(self, texts: list[str], records: list[Record]) -> rewards.StepReward:
        return rewards.score(texts, [asdict(r) for r in records], semantics=self.semantics, judge=self.judge)

    def _recognize_digits(self, text: str, record: Record) -> dict[str, int]:
        num_recognized, num_digits = (0, 0) if self.digit_recognition is None else self.digit_recognition(text, record)
        return {"num_recognized": num_recognized, "num_digits": num_digits}


_MEANS = ("accuracy", "well_formed", "ended", "mean_length")


def _mean(name: str, outcomes: Iterable[Mapping[str, Any]]) -> float:
    return float(np.mean([outcome[name] for outcome in outcomes]))


def _by_kind(name: str, outcomes: list[Mapping[str, Any]]) -> dict[str, float]:
    """The means of an outcome over the records of each kind."""
    of_kind = collections.defaultdict(list)
    for outcome in (each for each in outcomes if each["kind"]):
        of_kind[outcome["kind"]].append(outcome)
    return {f"{name}/{kind}": _mean(name, each) for kind, each in sorted(of_kind.items())}
