"""Completions as text: decoded, kept as Parquet and printed with their rewards."""

import itertools
import json

import numpy as np
from jaxtyping import Float

from r1vl_jax import observe, rewards
from r1vl_jax.arrays import Completions
from r1vl_jax.rewards.text import Vocabulary, host_bytes
from r1vl_jax.runtime import processes
from r1vl_jax.training.loop import Run
from r1vl_jax.training.metrics import REWARD_PARTS
from r1vl_jax.training.rewarder import Rewarder
from r1vl_jax.training.rollout_batch import RolloutBatch


def decode_completions(completions: Completions, vocabulary: Vocabulary) -> list[str]:
    """Completions as strings, without special tokens; invalid UTF-8 becomes replacement characters."""
    rows = host_bytes(completions.token_BT, completions.mask_BT, vocabulary)
    return [row.decode("utf-8", "replace") for row in rows]


def keep_completions(
    run: Run, step: int, batch: RolloutBatch, advantage_BT: Float[np.ndarray, "B T"], *, rewarder: Rewarder
) -> None:
    """Writes every completion of a step with its rewards, and prints some of the first prompt's.

    The main process writes those of its own prompts. The advantage that is written is the mean over the completion's
    tokens, or over those of all turns of its episode.
    """
    if not processes.is_main_process():
        return
    advantage_B = batch.mean_advantages(advantage_BT)
    texts = decode_completions(batch.completions, rewarder.vocabulary)
    records = [batch.records[row // batch.reward_PG.shape[1]] for row in range(len(texts))]
    turns = [json.dumps(each) for each in batch.turns.shown()] if batch.turns else [""] * len(texts)
    rows = []
    for row, explanation in enumerate(rewarder.explain(texts, records)):
        text, record = texts[row], records[row]
        spans = rewards.key_step_spans(text, record.key_steps, semantics=run.config.reward.semantics)
        rows.append(
            {
                "step": step,
                "prompt": record.problem,
                "image": next(itertools.chain(record.images, *record.videos), b""),
                "kind": record.kind,
                "answer": record.answer,
                "answer_reason": explanation.reason,
                "key_steps": json.dumps(record.key_steps),
                "completion": text,
                "key_step_spans": json.dumps(spans),
                "reward": batch.reward_PG.flat[row],
                "advantage": advantage_B[row],
                "turns": turns[row],
            }
            | {name: float(getattr(batch.rewards.reward, name)[row]) for name in REWARD_PARTS}
            | {name: float(value_B[row]) for name, value_B in batch.rewards.custom.items()}
        )
    observe.write_completions(run.workdir, step, rows, extra_columns=batch.rewards.custom)
    if run.config.observe.num_completions_to_print:
        observe.print_completions(rows[: run.config.observe.num_completions_to_print])
