"""What fewer slots cost or save on this machine: a recipe's completions, drawn by all at one time and by a queue.

    python -m benchmarks.slots --config=configs/tiny.py [--mean=TOKENS] [--repeats=5] [--config.SECTION.KEY=VALUE ...]

Decodes one batch of the recipe, with the weights it starts from, by a slot for every completion, then by a half, a
quarter, ... as many slots, and by as many as the recipe has (`sampling.slots`). Here a completion ends by chance, after
`--mean` tokens on average and after `sampling.max_completion_length` at the latest; with any number of slots the same
ones have the same lengths. Numbers of slots take turns. Prints for each the steps of the loop, the share of them in
which a slot drew something, the memory of caches and other temporaries, and the seconds; the least median is what to
set, where it is clear of the others' spread.
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
from r1vl_jax.training.components import build_components

_MIB = 2**20
_SHARE_OF_LONGEST = 0.25  # the mean length, where none is given


@dataclasses.dataclass(frozen=True)
class EndsByChance:
    """Draws as another method does, but after every token a completion ends with this probability."""

    method: Method
    end_id: int
    probability: float

    def __call__(self, logits_BV: Float[Array, "B V"], uniform_B2: Float[Array, "B 2"]) -> Int[Array, " B"]:
        ends_B = uniform_B2[:, 1] < self.probability
        # Of those that do not end, the number is spread over [0, 1) again.
        rest_B = jnp.clip((uniform_B2[:, 1] - self.probability) / (1 - self.probability), 0.0)
        return jnp.where(ends_B, self.end_id, self.method(logits_BV, uniform_B2.at[:, 1].set(rest_B)))


@dataclasses.dataclass(frozen=True)
class Measured:
    """One number of slots.

    Attributes:
        slots: 0 for all rows at one time.
        length_B: tokens of each completion.
        num_steps: of the loop; on several devices, of the one with most.
        drawing: share of the slots' steps in which a token was drawn; on several devices, at least.
        memory_bytes: of the program's temporaries, caches included.
        seconds: of each repeat.
    """

    slots: int
    length_B: Int[np.ndarray, " B"]
    num_steps: int
    drawing: float
    memory_bytes: int
    seconds: list[float]


def ending_by_chance(sampler: Sampler, mean: float) -> Sampler:
    """The sampler, whose completions have so many tokens on average, those that reach the limit left aside."""
    return dataclasses.replace(
        sampler,
        method=EndsByChance(sampler.method, sampler.eos_token_ids[0], 1 / mean),
        forbidden_token_ids=(*sampler.forbidden_token_ids, *sampler.eos_token_ids),
    )


def numbers_of_slots(num_rows: int, num_shards: int, own: int = 0) -> list[int]:
    """0, for all rows at one time; a half, a quarter, ... of them, as many on every shard; and the recipe's own."""
    halves = [num_rows // 2**power for power in range(1, num_rows.bit_length())]
    return [
        0,
        *sorted({slots for slots in (*halves, own) if 0 < slots < num_rows and not slots % num_shards}, reverse=True),
    ]


def measure(
    sampler: Sampler, slots: Sequence[int], params: Params, prompts: PromptBatch, *, repeats: int
) -> list[Measured]:
    """Every number of slots in turn, after one decoding that is not counted.

    Raises:
        RuntimeError: two numbers of slots drew completions of other lengths.
    """
    samplers = [dataclasses.replace(sampler, slots=number) for number in slots]
    prefilled, key = prefill(sampler)(params, prompts), jax.random.key(0)
    seconds: list[list[float]] = [[] for _ in samplers]
    with synced_params(sampler, params) as copy:
        decoder = copy()
        programs = [decode(each).lower(decoder, prefilled, key).compile() for each in samplers]
        rollouts = [jax.block_until_ready(program(decoder, prefilled, key)) for program in programs]
        for _ in range(repeats):
            for times, program in zip(seconds, programs, strict=True):
                start = time.perf_counter()
                jax.block_until_ready(program(decoder, prefilled, key))
                times.append(time.perf_counter() - start)
    lengths = [np.asarray(rollout.completions.mask_BT).sum(axis=1) for rollout in rollouts]
    if any((length_B != lengths[0]).any() for length_B in lengths):
        raise RuntimeError(f"completions have other lengths with other numbers of slots: {lengths}")
    steps = [int(rollout.num_steps) for rollout in rollouts]
    return [
        Measured(
            number,
            length_B,
            num_steps,
            length_B.sum() / (num_steps * (number or len(length_B))),
            program.memory_analysis().temp_size_in_bytes,
            times,
        )
        for number, length_B, num_steps, program, times in zip(slots, lengths, steps, programs, seconds, strict=True)
    ]


def show(measured: Sequence[Measured], console: Console) -> None:
    """Prints the figures for people."""
    length_B = measured[0].length_B
    console.print(
        f"{len(length_B)} completions of {length_B.min()} to {length_B.max()} tokens, on average {length_B.mean():.0f};"
        f" {jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    table = Table("sampling.slots", box=None, pad_edge=False)
    for heading in ("steps", "drawing", "MiB", "median s", "least", "most", "tokens/s"):
        table.add_column(heading, justify="right")
    for each in measured:
        median = statistics.median(each.seconds)
        table.add_row(
            str(each.slots) if each.slots else f"0 ({len(length_B)})",
            *(f"{each.num_steps:,}", f"{each.drawing:.0%}", f"{each.memory_bytes / _MIB:.1f}"),
            *(f"{seconds:.3g}" for seconds in (median, min(each.seconds), max(each.seconds))),
            f"{length_B.sum() / median:,.0f}",
        )
    console.print(table)
    best = min(measured, key=lambda each: statistics.median(each.seconds))
    as_fast = [each.slots for each in measured if min(each.seconds) <= max(best.seconds)]
    console.print(f"the fastest: sampling.slots={' or '.join(map(str, as_fast))}")


def run(recipe: ConfigDict, *, mean: float | None, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as recipe.workdir:
        parts = build_components(resolve(recipe))
        own = parts.sampler()
        sampler = dataclasses.replace(own, slots=0)
        mean = _SHARE_OF_LONGEST * sampler.max_length if mean is None else mean
        if not 1 < mean <= sampler.max_length:  # false for NaN, too
            raise ValueError(
                f"--mean={mean}: expected more than 1 token, and at most"
                f" sampling.max_completion_length={sampler.max_length}"
            )
        _, prompts = next(parts.prompt_stream())
        num_rows = len(prompts.token_PS) * sampler.num_generations
        num_shards = sampler.num_shards
        slots = numbers_of_slots(num_rows, num_shards, own.slots)
        if len(slots) == 1:
            raise ValueError(f"there are {num_rows} completions for {num_shards} parts of the devices: none can wait")
        params, prompts = parts.initial_params(), parts.shard_batch(prompts)
        show(
            measure(ending_by_chance(sampler, mean), slots, params, prompts, repeats=repeats), Console(highlight=False)
        )


def main() -> None:
    flags.DEFINE_float("mean", None, "Tokens of a completion on average; by default a quarter of the most.")
    flags.DEFINE_integer("repeats", 5, "Timed decodings of each.", lower_bound=1)

    def start(recipe: ConfigDict) -> None:
        try:
            run(recipe, mean=flags.FLAGS.mean, repeats=flags.FLAGS.repeats)
        except (ValueError, OSError) as error:
            sys.exit(str(error))

    run_with_config(start)


if __name__ == "__main__":
    main()
