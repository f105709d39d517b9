"""What fewer slots cost or save on this machine: a recipe's completions, drawn by all at one time and by a queue.

    python benchmarks/slots.py --config=configs/tiny.py [--mean=TOKENS] [--repeats=5] [--config.SECTION.KEY=VALUE ...]

Decodes one batch of the recipe, with the weights it starts from, by a slot for every completion, then by half as many
slots, and so on (`sampling.slots`). Here a completion ends by chance, after `--mean` tokens on average and after
`sampling.max_completion_length` at the latest; any number of slots draws the same ones. They take turns. Prints for
each the steps of the loop, the share of them in which a slot drew something, the memory that the program needs beside
weights and prompts, and the median seconds; the fastest is what to set.
"""

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from absl import flags
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from r1vl_jax.assembly import assemble
from r1vl_jax.command_line import start_with_recipe
from r1vl_jax.config import resolve
from r1vl_jax.sampling.loop import decode, prefill
from r1vl_jax.sampling.methods import Method
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.sync import copied
from r1vl_jax.sharding import num_batch_shards

_GIB = 2**30
_SHARE_OF_LONGEST = 0.25  # the mean length, where none is given


@dataclasses.dataclass(frozen=True)
class EndsByChance:
    """Draws as another method does, but after every token a completion ends with this probability."""

    method: Method
    end_id: int
    probability: float

    def __call__(self, logits_BV: Float[Array, "B V"], uniform_B2: Float[Array, "B 2"]) -> Int[Array, " B"]:
        return jnp.where(uniform_B2[:, 1] < self.probability, self.end_id, self.method(logits_BV, uniform_B2))


def ending_by_chance(sampler: Sampler, mean: float) -> Sampler:
    """The sampler, whose completions have so many tokens on average, those that reach the limit left aside."""
    return dataclasses.replace(
        sampler,
        method=EndsByChance(sampler.method, sampler.eos_token_ids[0], 1 / mean),
        forbidden_token_ids=(*sampler.forbidden_token_ids, *sampler.eos_token_ids),
    )


def numbers_of_slots(num_rows: int, num_shards: int) -> Iterator[int]:
    """0, for all rows at one time, then half as many slots as rows, and so on, as long as every shard has its own."""
    yield 0
    slots = num_rows
    while slots % 2 == 0 and slots // 2 % num_shards == 0 and slots > 2:
        slots //= 2
        yield slots


def run(recipe: ConfigDict, *, mean: float | None, repeats: int, console: Console) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        recipe.workdir = temporary
        recipe.sampling.slots = 0
        parts = assemble(resolve(recipe))
        _, prompts = next(parts.prompt_stream())
        prompts, params = parts.divide(prompts), parts.initial_params()
        base = ending_by_chance(parts.sampler(), mean or _SHARE_OF_LONGEST * parts.sampler().max_length)
        num_rows = len(prompts.token_PS) * base.num_generations
        samplers = [
            dataclasses.replace(base, slots=n) for n in numbers_of_slots(num_rows, num_batch_shards(parts.mesh))
        ]
        prefilled, key = prefill(base)(params, prompts), jax.random.key(0)
        with copied(base, params) as copy:
            programs = [decode(sampler).lower(copy, prefilled, key).compile() for sampler in samplers]
            rollouts = [jax.block_until_ready(program(copy, prefilled, key)) for program in programs]
            seconds: list[list[float]] = [[] for _ in programs]
            for _ in range(repeats):
                for times, program in zip(seconds, programs, strict=True):
                    start = time.perf_counter()
                    jax.block_until_ready(program(copy, prefilled, key))
                    times.append(time.perf_counter() - start)
        length_B = rollouts[0].completions.mask_BT.sum(axis=1)
        num_tokens = int(length_B.sum())
        assert all(int(rollout.completions.mask_BT.sum()) == num_tokens for rollout in rollouts)
        console.print(
            f"{num_rows} completions of {int(length_B.min())} to {int(length_B.max())} tokens, on average"
            f" {num_tokens / num_rows:.0f}; {parts.mesh.size} x {jax.devices()[0].device_kind}, jax {jax.__version__}",
            highlight=False,
        )
        table = Table("sampling.slots", box=None, pad_edge=False)
        for heading in ("steps", "drawing", "GiB", "seconds", "tokens/s"):
            table.add_column(heading, justify="right")
        medians = [statistics.median(times) for times in seconds]
        for sampler, program, rollout, median in zip(samplers, programs, rollouts, medians, strict=True):
            drawing = num_tokens / (int(rollout.num_steps) * (sampler.slots or num_rows))
            temporaries = program.memory_analysis().temp_size_in_bytes / _GIB
            name = str(sampler.slots) if sampler.slots else f"0 ({num_rows})"
            table.add_row(
                *(name, f"{int(rollout.num_steps):,}", f"{drawing:.0%}", f"{temporaries:.3f}"),
                *(f"{median:.3g}", f"{num_tokens / median:,.0f}"),
            )
        console.print(table, highlight=False)
        best = samplers[medians.index(min(medians))].slots
        console.print(f"the fastest: sampling.slots={best}", highlight=False)


def main() -> None:
    flags.DEFINE_float("mean", None, "Tokens of a completion on average; a quarter of the most.", lower_bound=1.0)
    flags.DEFINE_integer("repeats", 5, "Timed decodings of each.", lower_bound=1)

    def start(recipe: ConfigDict) -> None:
        try:
            run(recipe, mean=flags.FLAGS.mean, repeats=flags.FLAGS.repeats, console=Console())
        except (ValueError, OSError) as error:
            sys.exit(str(error))

    start_with_recipe(start)


if __name__ == "__main__":
    main()
