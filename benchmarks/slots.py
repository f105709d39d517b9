"""Time and memory of continuous batching with different numbers of slots, on a recipe's shapes and this machine.

    python -m benchmarks.slots --config=configs/tiny.py [--mean=TOKENS] [--repeats=5] [--config.SECTION.KEY=VALUE ...]

Decodes one batch of the recipe, with its initial weights, in a slot for every completion, then in a half, a quarter,
... as many slots, and in the recipe's own number (`sampling.slots`). Completions end at random, after `--mean` tokens
on average and after `sampling.max_completion_length` at the latest; they have the same lengths with any number of
slots. The timed repeats of all numbers of slots are interleaved. Prints for each the decode steps, the slots'
utilisation (the share of their steps that sampled a token), the memory of caches and other temporaries, and seconds.
Set the one with the lowest median, where the ranges do not overlap.
"""

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from r1vl_jax.arrays import Params, PromptBatch
from r1vl_jax.config import resolve
from r1vl_jax.runtime.cli import run_with_config
from r1vl_jax.sampling.loop import decode, prefill
from r1vl_jax.sampling.methods import Method
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import synced_params
from r1vl_jax.training.components import build_components, initial_params

_MIB = 2**20
_MEAN_LENGTH_FRACTION = 0.25  # default of --mean, as a fraction of the length limit


@dataclasses.dataclass(frozen=True)
class RandomEos:
    """Samples as another method does, but an end-of-sequence token with a fixed probability."""

    method: Method
    eos_id: int
    probability: float

    def __call__(self, logits_BV: Float[Array, "B V"], uniform_B2: Float[Array, "B 2"]) -> Int[Array, " B"]:
        is_eos_B = uniform_B2[:, 1] < self.probability
        # Given that a row does not end, its random number is rescaled to be uniform in [0, 1) again.
        rescaled_B = jnp.clip((uniform_B2[:, 1] - self.probability) / (1 - self.probability), 0.0)
        return jnp.where(is_eos_B, self.eos_id, self.method(logits_BV, uniform_B2.at[:, 1].set(rescaled_B)))


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Results for one number of slots.

    Attributes:
        slots: 0 for all rows at one time.
        length_B: tokens of each completion.
        num_steps: decode steps; on several devices the maximum over them.
        utilization: share of the slots' steps that sampled a token; on several devices a lower bound.
        memory_bytes: of the program's temporaries, caches included.
        seconds: of each repeat.
    """

    slots: int
    length_B: Int[np.ndarray, " B"]
    num_steps: int
    utilization: float
    memory_bytes: int
    seconds: list[float]


def with_random_eos(sampler: Sampler, mean: float) -> Sampler:
    """The sampler with completions of this many tokens on average, before the length limit."""
    return dataclasses.replace(
        sampler,
        method=RandomEos(sampler.method, sampler.eos_token_ids[0], 1 / mean),
        forbidden_token_ids=(*sampler.forbidden_token_ids, *sampler.eos_token_ids),
    )


def slots_to_measure(num_rows: int, num_shards: int, recipe_slots: int = 0) -> list[int]:
    """0 for all rows at one time; a half, a quarter, ... of them that shards evenly; and the recipe's number."""
    halves = [num_rows // 2**power for power in range(1, num_rows.bit_length())]
    return [
        0,
        *sorted(
            {slots for slots in (*halves, recipe_slots) if 0 < slots < num_rows and not slots % num_shards},
            reverse=True,
        ),
    ]


def measure(
    sampler: Sampler, slots: Sequence[int], params: Params, prompts: PromptBatch, *, repeats: int
) -> list[Measurement]:
    """Times decoding with every number of slots, interleaved, after one untimed run of each.

    Raises:
        RuntimeError: completions have different lengths with different numbers of slots.
    """
    samplers = [dataclasses.replace(sampler, slots=number) for number in slots]
    prefilled, key = prefill(sampler)(params, prompts), jax.random.key(0)
    seconds: list[list[float]] = [[] for _ in samplers]
    with synced_params(sampler, params) as synced:
        decoder_params = synced()
        programs = [decode(each).lower(decoder_params, prefilled, key).compile() for each in samplers]
        rollouts = [jax.block_until_ready(program(decoder_params, prefilled, key)) for program in programs]
        for _ in range(repeats):
            for times, program in zip(seconds, programs, strict=True):
                start = time.perf_counter()
                jax.block_until_ready(program(decoder_params, prefilled, key))
                times.append(time.perf_counter() - start)
    lengths = [np.asarray(rollout.completions.mask_BT).sum(axis=1) for rollout in rollouts]
    if any((length_B != lengths[0]).any() for length_B in lengths):
        raise RuntimeError(f"completions have different lengths with different numbers of slots: {lengths}")
    steps = [int(rollout.num_steps) for rollout in rollouts]
    return [
        Measurement(
            number,
            length_B,
            num_steps,
            length_B.sum() / (num_steps * (number or len(length_B))),
            program.memory_analysis().temp_size_in_bytes,
            times,
        )
        for number, length_B, num_steps, program, times in zip(slots, lengths, steps, programs, seconds, strict=True)
    ]


def show(measurements: Sequence[Measurement], console: Console) -> None:
    """Prints the measurements as a table."""
    length_B = measurements[0].length_B
    console.print(
        f"{len(length_B)} completions of {length_B.min()} to {length_B.max()} tokens, on average {length_B.mean():.0f};"
        f" {jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    table = Table("sampling.slots", box=None, pad_edge=False)
    for heading in ("steps", "utilization", "MiB", "median s", "min", "max", "tokens/s"):
        table.add_column(heading, justify="right")
    for each in measurements:
        median = statistics.median(each.seconds)
        table.add_row(
            str(each.slots) if each.slots else f"0 ({len(length_B)})",
            *(f"{each.num_steps:,}", f"{each.utilization:.0%}", f"{each.memory_bytes / _MIB:.1f}"),
            *(f"{seconds:.3g}" for seconds in (median, min(each.seconds), max(each.seconds))),
            f"{length_B.sum() / median:,.0f}",
        )
    console.print(table)
    best = min(measurements, key=lambda each: statistics.median(each.seconds))
    as_fast = [each.slots for each in measurements if min(each.seconds) <= max(best.seconds)]
    console.print(f"fastest: sampling.slots={' or '.join(map(str, as_fast))}")


def run(recipe: ConfigDict, *, mean: float | None, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as recipe.workdir:
        config = resolve(recipe)
        components = build_components(config)
        recipe_sampler = components.sampler
        sampler = dataclasses.replace(recipe_sampler, slots=0)
        mean = _MEAN_LENGTH_FRACTION * sampler.max_length if mean is None else mean
        if not 1 < mean <= sampler.max_length:  # false for NaN, too
            raise ValueError(
                f"--mean={mean}: expected more than 1 token, and at most"
                f" sampling.max_completion_length={sampler.max_length}"
            )
        _, prompts = next(components.loader.prompt_batches("train", batch_size=config.train.prompts_per_update))
        num_rows = len(prompts.token_PS) * sampler.num_generations
        num_shards = sampler.num_shards
        slots = slots_to_measure(num_rows, num_shards, recipe_sampler.slots)
        if len(slots) == 1:
            raise ValueError(f"no number of slots below {num_rows} completions is a multiple of {num_shards} shards")
        params = initial_params(config, components.inputs.model, components.definition)
        prompts = components.loader.shard_batch(prompts)
        show(measure(with_random_eos(sampler, mean), slots, params, prompts, repeats=repeats), Console(highlight=False))


def main() -> None:
    flags.DEFINE_float("mean", None, "Mean number of tokens of a completion; by default a quarter of the limit.")
    flags.DEFINE_integer("repeats", 5, "Timed runs of each number of slots.", lower_bound=1)

    def start(recipe: ConfigDict) -> None:
        try:
            run(recipe, mean=flags.FLAGS.mean, repeats=flags.FLAGS.repeats)
        except (ValueError, OSError) as error:
            sys.exit(str(error))

    run_with_config(start)


if __name__ == "__main__":
    main()
