"""Rewards as kernels beside the reference on strings, in one run on the same completions.

    python -m benchmarks.rewards

Prints seconds for 1,024 completions of 1,024 tokens against 16 groups of 3 spellings, from tokens to rewards, after
compilation, and processor seconds, which a busy machine distorts less; once more with spellings eight times as long;
and the memory that the compiled program needs. With `[aot]` installed, `--tpu` compiles the same program for one v5e
chip instead and prints its memory; no TPU is needed.
"""

import argparse
import functools
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from r1vl_jax import response_format, rewards
from r1vl_jax.data.digits.puzzles import MAKERS
from r1vl_jax.data.tokenizer import byte_table, train_tokenizer

NUM_ROWS, NUM_TOKENS, BYTES_PER_TOKEN = 1_024, 1_024, 8
NUM_GROUPS, NUM_ALTERNATIVES = 16, 3
_GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tpu", action="store_true", help="compile for one v5e chip and print the memory")
    parser.add_argument("--semantics", default="paper", choices=["paper", "released"])
    arguments = parser.parse_args()
    if arguments.tpu:
        os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    texts, records = _questions(np.random.default_rng(0))
    tokenizer = train_tokenizer(texts[:200], vocab_size=1_024)
    rows = [tokenizer(text)["input_ids"][:NUM_TOKENS] for text in texts]
    mask_BT = np.array([[place < len(row) for place in range(NUM_TOKENS)] for row in rows])
    token_BT = np.array([row + [0] * (NUM_TOKENS - len(row)) for row in rows], np.int32)
    inputs = (token_BT, mask_BT, byte_table(tokenizer), *_pack(records, arguments.semantics, max_length=32))
    program = jax.jit(functools.partial(_from_tokens, semantics=arguments.semantics))
    if arguments.tpu:
        _print_memory("v5e", program.lower(*_on_one_chip(inputs)).compile())
        return

    completions = tokenizer.batch_decode(rows)
    num_bytes = np.mean([len(text) for text in completions])
    print(f"{NUM_ROWS} completions, on average {np.mean(np.sum(mask_BT, 1)):.0f} tokens and {num_bytes:.0f} bytes")
    compiled = program.lower(*inputs).compile()
    _print_memory("cpu", compiled)
    reference = _seconds(lambda: rewards.score(completions, records, semantics=arguments.semantics))
    kernels = _seconds(lambda: jax.block_until_ready(compiled(*inputs)))
    for name, reference_s, kernels_s in zip(("seconds", "processor seconds"), reference, kernels, strict=True):
        times = reference_s / kernels_s
        print(f"{name}: reference {reference_s:.2f}, kernels {kernels_s:.2f}, which is {times:.1f} times as fast")
    longer = [record | {"key_steps": [[8 * s for s in group] for group in record["key_steps"]]} for record in records]
    inputs = (*inputs[:3], *_pack(longer, arguments.semantics, max_length=256))
    compiled = program.lower(*inputs).compile()
    print(f"spellings eight times as long: {_seconds(lambda: jax.block_until_ready(compiled(*inputs)))[0]:.2f} seconds")


def _from_tokens(token_BT, mask_BT, vocabulary, key_steps, answers, *, semantics: str) -> rewards.StepReward:
    byte_BU, length_B, _, _ = rewards.text.token_bytes(
        token_BT, mask_BT, vocabulary, max_bytes=BYTES_PER_TOKEN * NUM_TOKENS
    )
    return rewards.kernels.step_reward(byte_BU, length_B, key_steps, answers, semantics=semantics, alpha=0.1)


def _questions(rng: np.random.Generator) -> tuple[list[str], list[dict]]:
    """Long paths, and for each the key steps of several questions."""
    puzzles = [make(rng, 3) for make in MAKERS * 400]
    groups = [group[:NUM_ALTERNATIVES] for puzzle in puzzles for group in puzzle.key_steps]
    texts, records = [], []
    for puzzle in puzzles[:NUM_ROWS]:
        others = [puzzles[index] for index in rng.integers(len(puzzles), size=80)]
        steps = [f"We look again and see that {' and '.join(other.steps)}, as was to be shown." for other in others]
        texts.append(response_format.compose(puzzle.description, puzzle.rationale, steps, puzzle.final))
        chosen = [groups[index] for index in rng.integers(len(groups), size=NUM_GROUPS)]
        records.append({"answer": puzzle.answer, "key_steps": chosen})
    return texts, records


def _pack(records: list[dict], semantics: str, max_length: int) -> tuple[rewards.KeySteps, rewards.Answers]:
    return rewards.pack(
        records,
        semantics=semantics,
        max_groups=NUM_GROUPS,
        max_alternatives=NUM_ALTERNATIVES,
        max_length=max_length,
    )


def _seconds(call: Callable[[], object], repeats: int = 5) -> tuple[float, float]:
    """The least wall and processor time of several calls, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, processor = zip(*times, strict=True)
    return min(wall), min(processor)


def _on_one_chip(inputs: tuple) -> tuple:
    """The shapes of the inputs, placed on one chip that need not be there."""
    from jax.experimental import topologies

    chip = topologies.get_topology_desc(
        platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1)
    ).devices[0]
    sharding = jax.sharding.SingleDeviceSharding(chip)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.asarray(x).dtype, sharding=sharding), inputs)


def _print_memory(platform: str, compiled: jax.stages.Compiled) -> None:
    memory = compiled.memory_analysis()
    print(
        f"{platform}: arguments {memory.argument_size_in_bytes / _GIB:.2f} GiB,"
        f" temporaries {memory.temp_size_in_bytes / _GIB:.2f} GiB"
    )


if __name__ == "__main__":
    main()
