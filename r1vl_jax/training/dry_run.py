"""Tries the data and the user's reward functions, so that what would fail in the middle of a run fails before it."""

from dataclasses import asdict

import jax
import jax.numpy as jnp

from r1vl_jax import response_format, rewards
from r1vl_jax.config import Config
from r1vl_jax.data.pipeline import NoUsableRecords, first_usable
from r1vl_jax.data.records import Record
from r1vl_jax.rewards.user_code import RewardFunctionError
from r1vl_jax.rewards.weighted_sum import RewardSpec
from r1vl_jax.training.data_loader import DataLoader
from r1vl_jax.training.rewarder import call_host_functions

_NUM_RECORDS = {"test": "num_problems", "validation": "num_validation"}  # of `eval`: what an evaluation looks at


def dry_run(config: Config, loader: DataLoader, spec: RewardSpec) -> None:
    """Encodes the first usable record of every split, and calls the reward functions on made-up completions of one.

    Raises:
        ValueError: a split without usable records, or reward functions that fail; says why.
    """
    first = {
        split: _first_usable(config, loader, split)
        for split in loader.splits
        if _is_trained_or_evaluated(config, split)
    }
    if (record := first.get("train", first.get("test"))) is not None:
        try_reward_functions(config, spec, record)


def try_reward_functions(config: Config, spec: RewardSpec, record: Record) -> None:
    """Calls the functions of the host, and traces those of the device, on a group of made-up completions of a record.

    Every second completion is empty, as those of a policy can be.

    Raises:
        ValueError: shows what each function raised, or returned in place of rewards.
    """
    path = response_format.compose("A picture.", "Look at it.", ["Read the answer."], record.answer)
    completions = [path if row % 2 == 0 else "" for row in range(config.sampling.num_generations)]
    rows = [asdict(record)] * len(completions)
    errors = []
    for function in spec.functions:
        try:
            if function.runs_on_device:
                _trace(config, function, rows)
            else:
                call_host_functions([function], completions, rows)
        except RewardFunctionError as error:
            errors.append(str(error))
    if errors:
        raise ValueError(
            f"reward.functions, tried before the run on made-up completions of record {record.id!r} (a reasoning path,"
            " and an empty text):\n" + "\n".join(errors)
        )


def _trace(config: Config, function: rewards.custom.RewardFunction, rows: list[dict]) -> None:
    """Traces a function of the device with the shapes that a group of completions has."""
    num_bytes = config.reward.max_bytes_per_token * config.sampling.max_completion_length
    byte_BU = jax.ShapeDtypeStruct((len(rows), num_bytes), jnp.uint8)
    length_B = jax.ShapeDtypeStruct((len(rows),), jnp.int32)
    jax.eval_shape(function.call_on_device, byte_BU, length_B, *rewards.pack(rows, semantics=config.reward.semantics))


def _first_usable(config: Config, loader: DataLoader, split: str) -> Record:
    """The first record of a split that its reader can use."""
    encoder, source = loader.encoder, loader.splits[split]
    is_supervised = split in config.train.stages

    def encode(record: Record) -> Record:
        if is_supervised:
            encoder.prompt(record)
            encoder.completion(record, max_completion_length=config.sampling.max_completion_length)
        else:
            encoder.answerable_prompt(record)
        return record

    limit = _NUM_RECORDS.get(split)
    num_records = len(source) if limit is None else min(getattr(config.eval, limit), len(source))
    try:
        return first_usable(source, encoder, encode, num_records=num_records)
    except NoUsableRecords as error:
        raise NoUsableRecords(f"split {split!r}: {error}") from error


def _is_trained_or_evaluated(config: Config, split: str) -> bool:
    """False for a split that only a tokenizer is trained on."""
    return split not in ("vision_pretrain", "warmup") or split in config.train.stages
