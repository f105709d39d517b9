"""A trained run, exported and opened in transformers, gives the answers it gives here."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from etils import epath
from helpers import tiny_run
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.hf.export import export_run
from r1vl_jax.checkpoint.manager import open_params
from r1vl_jax.config import resolve
from r1vl_jax.data.prompts import Processor
from r1vl_jax.data.records import Record, decode_images
from r1vl_jax.sampling.loop import sample
from r1vl_jax.train import run
from r1vl_jax.training.components import Components, build_components

pytestmark = pytest.mark.usefixtures("quick")

NUM_PROBLEMS = 6


def test_the_same_greedy_answers(tmp_path: Path):
    settings = tiny_run.settings(tmp_path / "run", tmp_path / "data")
    settings.train.stages, settings.observe.report = ("warmup",), False
    settings.warmup.max_steps = 20
    config = resolve(settings)
    run(config)
    export_run(config.workdir, tmp_path / "out", dtype="float32")

    parts = build_components(config)
    records, prompts = next(parts.eval_batches("test", NUM_PROBLEMS))
    params = _params(parts, tmp_path / "run" / "checkpoints" / "warmup")
    completions = sample(parts.greedy_sampler(), params, prompts, jax.random.key(0)).completions
    rows = zip(np.asarray(completions.token_BT), np.asarray(completions.mask_BT), strict=True)
    answers = [token_T[mask_T].tolist() for token_T, mask_T in rows]
    assert len({tuple(answer) for answer in answers}) > 1  # they depend on the question
    assert _answers_of_transformers(tmp_path / "out", records, config.sampling.max_completion_length) == answers


def _params(parts: Components, directory: Path) -> Params:
    with open_params(epath.Path(directory), 20) as parameter:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: parameter(jax.tree_util.keystr(path, simple=True, separator=".")),
            parts.definition.abstract_params(),
        )


def _answers_of_transformers(directory: Path, records: list[Record], max_new_tokens: int) -> list[list[int]]:
    """All is read from the export: weights, tokenizer, chat template, image processor, end-of-sequence tokens."""
    torch_model = Qwen2VLForConditionalGeneration.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    processor = Processor(tokenizer, Qwen2VLImageProcessorPil.from_pretrained(directory))
    turns = [[{"role": "user", "content": _content(record)}] for record in records]
    inputs = processor(
        [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns],
        images=[decode_images(record) for record in records],
    )
    with torch.no_grad():
        sequences = torch_model.generate(
            **{name: torch.as_tensor(array) for name, array in inputs.items()},
            max_new_tokens=max_new_tokens,
            suppress_tokens=[tokenizer.get_vocab()[token] for token in tokenizer.VISION_TOKENS],  # as here
        )
    eos = torch_model.generation_config.eos_token_id
    return [_until_end(row, eos) for row in sequences[:, inputs["input_ids"].shape[1] :].tolist()]


def _content(record: Record) -> list[dict[str, str]]:
    question = record.problem.removesuffix("<image>")
    return [{"type": "text", "text": question}, {"type": "image"}]


def _until_end(tokens: list[int], eos: list[int]) -> list[int]:
    end = next((position + 1 for position, token in enumerate(tokens) if token in eos), len(tokens))
    return tokens[:end]
