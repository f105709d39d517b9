"""Times the reward kernels against the reference on strings, on the same completions.

    python -m benchmarks.rewards

Prints, for 1,024 completions of 1,024 tokens and 16 key steps of 3 spellings each, the seconds from tokens to rewards
without compilation, and CPU seconds, which depend less on other load; the seconds with spellings eight times as long;
and the memory of the compiled program. With `[aot]` installed, `--tpu` compiles the program for one v5e chip instead
and prints its memory; no TPU is needed.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from r1vl_jax import rewards
from r1vl_jax.aot.topologies import parse_topology, set_up_compile_only
from r1vl_jax.data.digits.puzzles import KINDS
from r1vl_jax.data.tokenizer import byte_table, train_tokenizer
from r1vl_jax.observe.markdown import provenance
from r1vl_jax.runtime import libtpu

NUM_ROWS, NUM_TOKENS, BYTES_PER_TOKEN = 1_024, 1_024, 8
NUM_GROUPS, NUM_ALTERNATIVES = 16, 3
_GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tpu", action="store_true", help="compile for one v5e chip and print the memory")
    parser.add_argument("--semantics", default="paper", choices=["paper", "released"])
    arguments = parser.parse_args()
    if arguments.tpu:
        set_up_compile_only()
    else:
        libtpu.skip_without_tpu()
    texts, records = _completions_and_records(np.random.default_rng(0))
    tokenizer = train_tokenizer(texts[:200], vocab_size=1_024)
    rows = [tokenizer(text)["input_ids"][:NUM_TOKENS] for text in texts]
    mask_BT = np.array([[position < len(row) for position in range(NUM_TOKENS)] for row in rows])
    token_BT = np.array([row + [0] * (NUM_TOKENS - len(row)) for row in rows], np.int32)
    inputs = (token_BT, mask_BT, byte_table(tokenizer), *_pack(records, arguments.semantics, max_length=32))
    program = jax.jit(functools.partial(_from_tokens, semantics=arguments.semantics))
    if arguments.tpu:
        _print_memory("v5e", program.lower(*_shapes_on_one_chip(inputs)).compile())
        return

    completions = tokenizer.batch_decode(rows)
    num_bytes = np.mean([len(text) for text in completions])
    print(provenance(["python", "-m", "benchmarks.rewards", *sys.argv[1:]]))
    print(f"{NUM_ROWS} completions of {np.mean(np.sum(mask_BT, 1)):.0f} tokens and {num_bytes:.0f} bytes on average")
    compiled = program.lower(*inputs).compile()
    _print_memory("cpu", compiled)
    reference = _min_seconds(lambda: rewards.score(completions, records, semantics=arguments.semantics))
    kernels = _min_seconds(lambda: jax.block_until_ready(compiled(*inputs)))
    for name, reference_s, kernels_s in zip(("seconds", "CPU seconds"), reference, kernels, strict=True):
        speedup = reference_s / kernels_s
        print(f"{name}: reference {reference_s:.2f}, kernels {kernels_s:.2f}, a speedup of {speedup:.1f}")
    longer = [record | {"key_steps": [[8 * s for s in group] for group in record["key_steps"]]} for record in records]
    inputs = (*inputs[:3], *_pack(longer, arguments.semantics, max_length=256))
    compiled = program.lower(*inputs).compile()
    seconds, _ = _min_seconds(lambda: jax.block_until_ready(compiled(*inputs)))
    print(f"spellings eight times as long: {seconds:.2f} seconds")


def _from_tokens(token_BT, mask_BT, vocabulary, key_steps, answers, *, semantics: str) -> rewards.StepReward:
    byte_BU, length_B, _, _ = rewards.text.token_bytes(
        token_BT, mask_BT, vocabulary, max_bytes=BYTES_PER_TOKEN * NUM_TOKENS
    )
    return rewards.kernels.step_reward(byte_BU, length_B, key_steps, answers, semantics=semantics, alpha=0.1)


def _completions_and_records(rng: np.random.Generator) -> tuple[list[str], list[dict]]:
    """Long reasoning paths, each with the key steps of several questions."""
    puzzles = [kind.draw(rng, 3) for kind in KINDS * 700]
    groups = [group[:NUM_ALTERNATIVES] for puzzle in puzzles for group in puzzle.key_steps]
    texts, records = [], []
    for puzzle in puzzles[:NUM_ROWS]:
        others = [puzzles[index] for index in rng.integers(len(puzzles), size=80)]
        steps = [f"We look again and see that {' and '.join(other.steps)}, as was to be shown." for other in others]
        texts.append(puzzle.path_with(tuple(steps)))
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


def _min_seconds(call: Callable[[], object], repeats: int = 5) -> tuple[float, float]:
    """Minimum wall and CPU time of several calls, after a warm-up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = zip(*times, strict=True)
    return min(wall), min(cpu)


def _shapes_on_one_chip(inputs: tuple) -> tuple:
    """Abstract inputs on one chip, which need not exist."""
    (chip,) = parse_topology("v5e:1x1").devices()
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
