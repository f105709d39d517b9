"""A made-up run whose files look as the trainer's do."""

import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from r1vl_jax import config, observe, response_format


def picture(digits: list[int]) -> bytes:
    """Scans of the digits side by side, as PNG."""
    scans = load_digits()
    chosen = [scans.images[np.flatnonzero(scans.target == digit)[digit]] for digit in digits]
    pixels = np.kron(255 - np.hstack(chosen) * 15.9, np.ones((7, 7))).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return png.getvalue()


def completion_row(step: int, *, is_right: bool, advantage: float) -> dict:
    """What a model wrote about 3 + 4 x 2: one path that finds both key steps, one that finds the first."""
    product, total = ("4 * 2 = 8", "3 + 8 = 11") if is_right else ("4 * 2 = 8", "3 + 8 = 12")
    completion = response_format.compose(
        "The picture shows 3 + 4 x 2.", "The product goes first, then the sum.", [product, total], total.split()[-1]
    )
    key_steps = [["4 * 2 = 8", "4 times 2 is 8"], ["3 + 8 = 11", "3 plus 8 is 11"]]
    starts = [completion.find(spelling) for spelling, *_ in key_steps]
    spans = [[[start, start + 9 + n]] if start >= 0 else [] for n, start in enumerate(starts)]
    match = sum(map(bool, spans)) / 2
    return {
        "step": step,
        "prompt": "What is the value of the expression in the picture?\n<image>",
        "image": picture([3, 4, 2]),
        "kind": "expression",
        "answer": "11",
        "answer_reason": "same number" if is_right else "another value",
        "key_steps": json.dumps(key_steps),
        "completion": completion,
        "key_step_spans": json.dumps(spans),
        "reward": is_right + 0.1 * match + 1,
        "step_accuracy": is_right + 0.1 * match,
        "step_validity": 1.0,
        "answer_correct": float(is_right),
        "key_step_match": match,
        "complete": 1.0,
        "ordered": 1.0,
        "advantage": advantage,
        "turns": "",
    }


def make_run(workdir: Path, *, num_steps: int = 150) -> Path:
    """Manifest, metrics, completions, results and costs of a run of both stages."""
    settings = dataclasses.replace(config.Config(), workdir=str(workdir), train=config.Train(max_steps=num_steps))
    observe.write_manifest(workdir, settings, data_fingerprint="0123abcd")
    writer, noise = observe.MetricsWriter(workdir, tensorboard=False), np.random.default_rng(0)
    for step in range(1, 101):
        writer.write("warmup", step, {"loss": 3 * math.exp(-step / 20) + 0.1 + 0.05 * noise.random()})
    for step in range(1, num_steps + 1):
        writer.write("step_grpo", step, _step_grpo_metrics(step / num_steps, noise))
        if step % 25 == 0:
            accuracy = 0.45 + 0.3 * step / num_steps
            writer.write("step_grpo", step, {"eval/accuracy": accuracy, "eval/accuracy/count": accuracy})
            observe.write_completions(
                workdir, step, [completion_row(step, is_right=r, advantage=2 * r - 1) for r in (0, 1)]
            )
    kinds = {"start": 0.02, "warmup": 0.46, "step_grpo": 0.745}
    by_kind = {stage: {"expression": value - 0.02, "count": value + 0.02} for stage, value in kinds.items()}
    results = {"accuracy": kinds, "accuracy_by_kind": by_kind, "mean_length": {"start": 96.0, "warmup": 71.2}}
    results["accuracy_hard"] = {"warmup": {"greedy": 0.04}}
    observe.update_summary(workdir, {**results, "max_logp_difference": 3.4e-6})
    observe.write_machine(workdir, seconds=583.0)
    return workdir


def _step_grpo_metrics(part: float, noise: np.random.Generator) -> dict[str, float]:
    """Figures `part` of the way through, rising with some noise."""
    correct = 0.4 + 0.4 * part + 0.06 * noise.standard_normal()
    match, valid = 0.6 + 0.25 * part + 0.03 * noise.standard_normal(), 0.95 + 0.04 * part
    return {
        "reward": correct + 0.1 * match + valid,
        "rewards/step_accuracy/mean": correct + 0.1 * match,
        "rewards/answer_correct/mean": correct,
        "rewards/key_step_match/mean": match,
        "rewards/step_validity/mean": valid,
        "rewards/complete/mean": valid + 0.005,
        "rewards/ordered/mean": min(1.0, valid + 0.02),
        "kl": 0.3 * part**0.5 * (1 + 0.1 * noise.standard_normal()),
        "entropy": 0.4 - 0.2 * part + 0.02 * noise.standard_normal(),
        "completions/mean_length": 70 + 5 * noise.standard_normal(),
        "completions/repetition": 0.05,
        "frac_reward_zero_std": 0.2 + 0.2 * part + 0.08 * noise.random(),
        "grad_norm": 1.0,
    }
