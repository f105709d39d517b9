"""Greedy accuracy on held-out problems."""

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
# (completion, record) -> how many things of the picture were read right, of how many
ReadingFn = Callable[[str, Record], tuple[int, int]]


@dataclass(frozen=True)
class Evaluator:
    """What an evaluation needs beside the parameters.

    Attributes:
        sampler: greedy, one completion a prompt.
        own_rows: the rows of this process, of a rollout.
        texts: completions as strings.
        test, validation: make the batches of the split; a batch may hold more prompts than records (padding).
        reading: measures whether the picture was read right, apart from what was concluded; None where a task has no
            such measure.
        semantics: of the rewards that are reported.
    """

    sampler: Sampler
    own_rows: Callable[[Any], Any]
    texts: Callable[[Completions], list[str]]
    test: Batches
    validation: Batches
    reading: ReadingFn | None
    judge: Judge
    semantics: str

    def on_test(self, params: Params) -> dict[str, float]:
        """Results on the test split, as `evaluate` gives them."""
        return self.evaluate(params, self.test())

    def on_validation(self, params: Params) -> dict[str, float]:
        """Results on the validation split."""
        return self.evaluate(params, self.validation())

    def evaluate(self, params: Params, batches: Iterable[tuple[list[Record], PromptBatch]]) -> dict[str, float]:
        """Decodes greedily and scores.

        Returns:
            Fractions: `accuracy`, `accuracy/KIND`, `well_formed` (complete paths in logical order), `reading` where the
            task has it, `ended`; and `mean_length` in tokens.
        """
        with synced_params(self.sampler, params) as copy:
            own = [outcome for batch in batches for outcome in self._outcomes(params, copy, *batch)]
        outcomes = [outcome for part in processes.all_gather_objects(own) for outcome in part]
        results = {name: float(np.mean([o[name] for o in outcomes])) for name in _MEANS}
        by_kind = collections.defaultdict(list)
        for outcome in outcomes:
            by_kind[outcome["kind"]].append(outcome["accuracy"])
        results |= {f"accuracy/{kind}": float(np.mean(values)) for kind, values in sorted(by_kind.items())}
        if self.reading is not None:
            results["reading"] = sum(o["read"] for o in outcomes) / max(sum(o["to_read"] for o in outcomes), 1)
        return results

    def _outcomes(
        self, params: Params, copy: SyncedParams, records: list[Record], prompts: PromptBatch
    ) -> list[Mapping]:
        rollout = sample(self.sampler, params, prompts, jax.random.key(0), copy=copy)
        completions, has_ended_B = self.own_rows((rollout.completions, rollout.has_ended_B))
        texts = self.texts(completions)[: len(records)]
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
            | self._read(text, record)
            for row, (text, record) in enumerate(zip(texts, records, strict=True))
        ]

    def _read(self, text: str, record: Record) -> dict[str, int]:
        right, total = (0, 0) if self.reading is None else self.reading(text, record)
        return {"read": right, "to_read": total}


_MEANS = ("accuracy", "well_formed", "ended", "mean_length")
