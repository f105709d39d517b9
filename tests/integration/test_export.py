"""A trained run, exported and opened in transformers, gives the same answers to the same prompts."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from helpers import tiny_run
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.hf.export import RunCheckpoint, export_run
from r1vl_jax.checkpoint.manager import open_params
from r1vl_jax.config import resolve
from r1vl_jax.data.processor import Processor
from r1vl_jax.data.records import Record, decode_images
from r1vl_jax.data.tokenizer import VISION_TOKENS
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sampling.loop import sample
from r1vl_jax.train import run
from r1vl_jax.training.components import build_components

pytestmark = pytest.mark.usefixtures("quick")

NUM_PROBLEMS = 6
INSTRUCTION = "Plan first."


def test_the_same_greedy_answers(tmp_path: Path):
    settings = tiny_run.settings(tmp_path / "run", tmp_path / "data")
    settings.train.stages, settings.observe.report = ("warmup",), False
    settings.warmup.max_steps = 20
    settings.data.instruction = INSTRUCTION
    settings.data.max_prompt_length = settings.data.prompt_bucket = 64
    config = resolve(settings)
    run(config)
    checkpoint = export_run(config.workdir, tmp_path / "out", dtype="float32")

    components = build_components(config)
    batches = components.loader.eval_batches("test", batch_size=NUM_PROBLEMS, num_records=NUM_PROBLEMS)
    records, prompts = next(batches)
    params = _params(components.definition, checkpoint)
    completions = sample(components.evaluator.sampler, params, prompts, jax.random.key(0)).completions
    rows = zip(np.asarray(completions.token_BT), np.asarray(completions.mask_BT), strict=True)
    answers = [token_T[mask_T].tolist() for token_T, mask_T in rows]
    assert len({tuple(answer) for answer in answers}) > 1  # they depend on the question
    assert _answers_of_transformers(tmp_path / "out", records, config.sampling.max_completion_length) == answers


def _params(definition: Definition, checkpoint: RunCheckpoint) -> Params:
    with open_params(checkpoint.directory, checkpoint.step) as parameter:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: parameter(jax.tree_util.keystr(path, simple=True, separator=".")),
            definition.abstract_params(),
        )


def _answers_of_transformers(directory: Path, records: list[Record], max_new_tokens: int) -> list[list[int]]:
    """Everything is read from the export: weights, tokenizer, chat format, image processor, end tokens, instruction."""
    torch_model = Qwen2VLForConditionalGeneration.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    processor = Processor(tokenizer, Qwen2VLImageProcessorPil.from_pretrained(directory))
    instruction = (directory / "instruction.txt").read_text().strip()
    assert instruction == INSTRUCTION
    turns = [[{"role": "user", "content": _content(instruction, record)}] for record in records]
    inputs = processor(
        [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns],
        images=[decode_images(record) for record in records],
    )
    with torch.no_grad():
        sequences = torch_model.generate(
            **{name: torch.as_tensor(array) for name, array in inputs.items()},
            max_new_tokens=max_new_tokens,
            suppress_tokens=[tokenizer.get_vocab()[token] for token in VISION_TOKENS],  # as here
        )
    eos = torch_model.generation_config.eos_token_id
    return [_until_end(row, eos) for row in sequences[:, inputs["input_ids"].shape[1] :].tolist()]


def _content(instruction: str, record: Record) -> list[dict[str, str]]:
    question = record.problem.removesuffix("<image>")
    return [{"type": "text", "text": f"{instruction}\n{question}"}, {"type": "image"}]


def _until_end(tokens: list[int], eos: list[int]) -> list[int]:
    end = next((position + 1 for position, token in enumerate(tokens) if token in eos), len(tokens))
    return tokens[:end]
