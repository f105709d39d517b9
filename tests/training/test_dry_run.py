"""What would end a run in its middle ends it before: splits without usable records, reward functions that fail."""

import asyncio
import dataclasses
import io

import jax.numpy as jnp
import pytest
from PIL import Image

from r1vl_jax.config import default, resolve
from r1vl_jax.data.images import load_image_processor
from r1vl_jax.data.pipeline import Encoder, NoUsableRecords
from r1vl_jax.data.processor import Processor
from r1vl_jax.data.records import Record
from r1vl_jax.data.tokenizer import train_tokenizer
from r1vl_jax.training.components import make_reward_spec
from r1vl_jax.training.data_loader import DataLoader
from r1vl_jax.training.dry_run import dry_run

CALLS = []


def keeps_its_arguments(prompts, completions, answer, **columns):
    CALLS.append((prompts, completions, answer, columns))
    return [float(len(text)) for text in completions]


def of_conversations(completions, **columns):
    return [float(len(completion[0]["content"])) for completion in completions]


async def asks_a_service(completions, **columns):
    await asyncio.sleep(0)
    return [None] * len(completions)


def fails_on_an_empty_text(completions, **columns):
    return [ord(text[0]) for text in completions]


def returns_one_number(completions, **columns):
    return 1.0


def on_device(byte_BU, length_B, key_steps, answers):
    return jnp.where(byte_BU[:, 300] == 0, 1.0 * key_steps.num_groups_B, jnp.nan)


def fails_on_device(byte_BU, length_B, key_steps, answers):
    if length_B[0] > 3:
        return length_B
    return -length_B


@pytest.fixture(scope="module")
def encoder():
    processor = Processor(
        train_tokenizer(["What is the value? user assistant"]), load_image_processor(min_pixels=784, max_pixels=784)
    )
    return Encoder(processor, max_prompt_length=64, prompt_bucket=16, patch_bucket=16)


@pytest.fixture(scope="module")
def record():
    file = io.BytesIO()
    Image.new("RGB", (28, 28)).save(file, format="PNG")
    return Record("r-0", (file.getvalue(),), "<image>What?", "8", "8", (("3+5=8",),), "", "sum", "hand")


@pytest.fixture
def try_run(encoder, record):
    def run(*functions: str, splits=None, **settings):
        config = default()
        config.workdir, config.train.stages = "unused", ("step_grpo",)
        config.reward.functions = tuple(f"{__name__}:{name}" for name in functions)
        config.reward.function_weights = (1.0,) * len(functions)
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in settings.items()})
        config = resolve(config)
        splits = {"train": [record], "test": [record]} if splits is None else splits
        dry_run(config, DataLoader(splits, encoder, None, 0), make_reward_spec(config))  # pyright: ignore[reportArgumentType]

    return run


def test_functions_are_called_once_on_a_group_of_made_up_completions(try_run, record):
    CALLS.clear()
    try_run("keeps_its_arguments", "asks_a_service", "on_device", sampling__num_generations=4)
    ((prompts, completions, answers, columns),) = CALLS
    assert prompts == [record.problem] * 4
    assert answers == ["8"] * 4
    assert columns["key_steps"] == [record.key_steps] * 4
    assert [text.endswith("### The final answer is:\n8") for text in completions] == [True, False, True, False]
    assert completions[1] == ""


def test_the_first_usable_record_is_taken(try_run, record):
    CALLS.clear()
    train = [dataclasses.replace(record, answer=""), dataclasses.replace(record, id="second", answer="9")]
    try_run("keeps_its_arguments", splits={"train": train, "test": [record]})
    assert CALLS[0][2] == ["9"] * 4


def test_conversations_are_tried_as_such(try_run):
    try_run("of_conversations", reward__completions="messages")
    with pytest.raises(
        ValueError, match="reward function of_conversations raised TypeError: string indices must be int"
    ):
        try_run("of_conversations")


def test_functions_that_fail_are_all_shown_with_their_lines(try_run):
    names = ("fails_on_an_empty_text", "keeps_its_arguments", "returns_one_number", "fails_on_device")
    with pytest.raises(
        ValueError, match="reward.functions, tried before the run on made-up completions of record 'r-0'"
    ) as e:
        try_run(*names)
    lines = str(e.value).splitlines()
    assert lines[1] == "reward function fails_on_an_empty_text raised IndexError: string index out of range"
    assert "    return [ord(text[0]) for text in completions]" in lines
    assert "    if length_B[0] > 3:" in lines
    assert "reward function returns_one_number: expected numbers or None, got 1.0" in lines
    assert any(line.startswith("reward function fails_on_device raised TracerBoolConversionError") for line in lines)
    assert sum(f'File "{__file__}", line ' in line for line in lines) >= 2


@pytest.mark.parametrize("split", ["train", "test", "warmup"])
def test_a_split_without_usable_records_is_named(try_run, record, split):
    splits = {name: [record] for name in ("train", "test")} | {"warmup": [dataclasses.replace(record, response="8")]}
    splits[split] = [dataclasses.replace(record, answer="", id=str(n)) for n in range(3)]
    with pytest.raises(
        NoUsableRecords, match=rf"split '{split}': none of 3 records can be used; .*\n  3 x it has no answer"
    ):
        try_run(splits=splits, train__stages=("warmup", "step_grpo"), warmup__max_steps=1)


def test_a_supervised_split_needs_a_response(try_run, record):
    splits = {"warmup": [record], "test": [record]}
    with pytest.raises(NoUsableRecords, match="split 'warmup': .*\n  1 x it has no response to train on"):
        try_run(splits=splits, train__stages=("warmup",), warmup__max_steps=1)


def test_a_split_that_only_the_tokenizer_reads_is_not_looked_at(try_run, record):
    try_run(splits={"warmup": [], "train": [record], "test": [record]})


def test_an_evaluation_looks_at_its_first_problems_only(try_run, record):
    splits = {"train": [record], "test": [dataclasses.replace(record, answer="")] * 2 + [record]}
    try_run(splits=splits, eval__num_problems=3)
    with pytest.raises(NoUsableRecords, match="split 'test': none of 2 records can be used"):
        try_run(splits=splits, eval__num_problems=2)
