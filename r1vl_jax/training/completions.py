"""Completions of a step, kept and printed with what they earned."""

import json

import numpy as np
from jaxtyping import Float

from r1vl_jax import observe, rewards
from r1vl_jax.runtime import processes
from r1vl_jax.training.loop import Run
from r1vl_jax.training.metrics import REWARD_PARTS
from r1vl_jax.training.rollouts import RolloutBatch


def keep_completions(run: Run, step: int, draw: RolloutBatch, advantage_BT: Float[np.ndarray, "B T"]) -> None:
    """Writes every completion of a step with what it earned, and prints some of the first prompt's.

    Of several processes the first writes those of its own prompts. The advantage that is written is the mean over the
    completion's tokens.
    """
    if not processes.is_main_process():
        return
    mask_BT = np.asarray(draw.completions.mask_BT)[:, : advantage_BT.shape[1]]  # there is nothing behind
    advantage_B = (advantage_BT * mask_BT).sum(axis=1, dtype=np.float64) / mask_BT.sum(axis=1)
    rows = []
    for row, text in enumerate(run.components.decode_completions(draw.completions)):
        record = draw.records[row // draw.reward_PG.shape[1]]
        spans = rewards.key_step_spans(text, record.key_steps, semantics=run.config.reward.semantics)
        rows.append(
            {
                "step": step,
                "prompt": record.problem,
                "image": record.images[0] if record.images else b"",
                "kind": record.kind,
                "answer": record.answer,
                "key_steps": json.dumps(record.key_steps),
                "completion": text,
                "key_step_spans": json.dumps(spans),
                "reward": draw.reward_PG.flat[row],
                "advantage": advantage_B[row],
            }
            | {name: float(getattr(draw.rewards.reward, name)[row]) for name in REWARD_PARTS}
            | {name: float(value_B[row]) for name, value_B in draw.rewards.custom.items()}
        )
    observe.write_completions(run.workdir, step, rows, more=draw.rewards.custom)
    if run.config.observe.num_completions_to_print:
        observe.print_completions(rows[: run.config.observe.num_completions_to_print])
