"""Times the programs of a recipe on the available devices, with MFU and memory bandwidth utilization.

    python -m benchmarks.programs --config=configs/2b.py [--programs=prefill,decode,reference_logps,update]
        [--repeats=5] [--json=FILE] [--markdown=FILE] [--config.SECTION.KEY=VALUE ...]

No weights or data are needed: weights are random, of the size `model.preset` if `model.path` does not exist; prompts,
completions and images have the maximal size of the recipe. By default all programs of a step are timed. The columns
beside the seconds (medians, after a warm-up run) are

    MFU         model FLOPs, by the formulas of `r1vl_jax.aot.flops` without recomputation, over seconds and the
                published bfloat16 peak of the devices
    of matmul   the same over the FLOP/s that a large matmul reaches on these devices
    MBU         bytes that decoding has to read, over seconds and the published memory bandwidth: for every token the
                weights of the decoder and the LM head, and the KV cache so far, a prompt's once for all its
                completions. Left out with `sampling.slots`, where it depends on the lengths
    of reads    the same over the bytes/s that reads reach on these devices
    GiB         arguments, outputs and temporaries; arrays that a run keeps beside them are not allocated here
"""

import functools
import json
import math
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.side_by_side.roofline import Machine, decode_step_bytes, measure_machine
from r1vl_jax.aot import shapes
from r1vl_jax.aot.programs import Program, programs
from r1vl_jax.arrays import PackedVision, PromptBatch
from r1vl_jax.checkpoint.model_config import expected_config
from r1vl_jax.config import Config, resolve
from r1vl_jax.models.qwen2_vl.config import Config as Sizes
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.observe.markdown import markdown_table, provenance
from r1vl_jax.runtime.cli import check_output_file, run_with_config
from r1vl_jax.sampling.tensor_parallel import device_memory_limit
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.training.components import make_definition, mesh_limits

_GIB = 2**30
_WIDTH = 120  # columns, if the output is no terminal
# https://www.nvidia.com/en-us/data-center/h200 and /h100 (SXM): bytes/s, and FLOP/s in bfloat16.
_PUBLISHED = {
    "NVIDIA H200": Machine(4.8e12, 989.5e12, read_bytes=0),
    "NVIDIA H100 80GB HBM3": Machine(3.35e12, 989.5e12, read_bytes=0),
}
# From the compiler and the device, and from JAX's lowering.
_FAILURES = (jax.errors.JaxRuntimeError, ValueError, NotImplementedError)
_INITIALIZER_RANGE = 0.02  # standard deviation of random weights; Hugging Face's `initializer_range`


@dataclass(frozen=True)
class Measurement:
    """The measurements of one program.

    Attributes:
        seconds: of each repeat.
        flops: model FLOPs over all devices.
        read_bytes: bytes that each device has to read; None for programs that are compute-bound.
        memory_gib: arguments, outputs and temporaries per device, by the compiler.
    """

    name: str
    seconds: list[float]
    flops: float
    read_bytes: float | None
    memory_gib: float
    compile_s: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Failed:
    """A program that failed to compile or to run."""

    name: str
    reason: str


def measure(config: Config, names: Iterable[str], *, repeats: int) -> Iterator[Measurement | Failed]:
    """Measures the named programs, or all programs of a step, one after another.

    Raises:
        ValueError: a name is unknown.
    """
    sizes = expected_config(config.model)
    mesh = make_mesh(config.mesh, jax.devices(), mesh_limits(config, sizes))
    model = make_definition(config, sizes, mesh, platform=mesh.devices.flat[0].platform)
    available = list(programs(config, model, device_memory_limit(mesh)))
    chosen = list(names) or [program.name for program in available if program.is_used and program.runs_per_step]
    if unknown := set(chosen) - {program.name for program in available}:
        raise ValueError(f"--programs: there is no {', '.join(unknown)}; {', '.join(p.name for p in available)}")
    for program in available:
        if program.name in chosen:
            try:
                yield _measure_program(program, config, model, repeats)
            except _FAILURES as error:
                yield Failed(program.name, str(error).splitlines()[0])


def _measure_program(program: Program, config: Config, model: Definition, repeats: int) -> Measurement:
    start = time.perf_counter()
    compiled = program.lower().compile()
    compile_s = time.perf_counter() - start
    arguments = _random_arrays(program.arguments, model.config)
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        result = jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
        num_steps = int(result.num_steps) if program.name == "decode" else 0
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(arguments[0])):  # donated: the output replaces it
            arguments = (result[0], *arguments[1:])
        del result
    memory: Any = compiled.memory_analysis()
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Measurement(
        program.name,
        seconds[1:],
        program.flops.model,
        _decode_bytes(num_steps, _params_mesh(program), config, model) if num_steps else None,
        (total + memory.temp_size_in_bytes) / _GIB,
        compile_s,
    )


def _params_mesh(program: Program) -> jax.sharding.Mesh:
    """The mesh of its parameters."""
    return jax.tree.leaves(program.arguments[0])[0].sharding.mesh


def _decode_bytes(num_steps: int, mesh: jax.sharding.Mesh, config: Config, model: Definition) -> float | None:
    """Bytes that each device reads while decoding, its shard of the weights and cache; None with slots."""
    if config.sampling.slots:
        return None
    num_prompts, tensor = config.train.prompts_per_update, mesh.shape["tensor"]
    rows = num_prompts * config.sampling.num_generations
    past = num_prompts * config.data.max_prompt_length + rows * (num_steps - 1) / 2
    step_bytes = decode_step_bytes(model.config, jnp.dtype(model.dtype).itemsize, past * tensor / mesh.size)
    return num_steps * step_bytes / tensor


def _random_arrays(tree: Any, sizes: Sizes) -> Any:
    """Arrays for abstract arguments: full batches of random tokens and images, and random weights."""

    def make() -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, node: _prompts(node, sizes) if isinstance(node, PromptBatch) else _leaf(path, node, sizes),
            tree,
            is_leaf=lambda node: isinstance(node, PromptBatch),
        )

    return jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, tree))()


def _leaf(path: tuple[Any, ...], shape: shapes.Shape, sizes: Sizes) -> jax.Array:
    names = [str(getattr(part, "name", getattr(part, "key", ""))) for part in path]
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    if shape.dtype == bool:
        return jnp.ones(shape.shape, bool)
    if jnp.issubdtype(shape.dtype, jnp.integer):
        is_token = shape.ndim > 1
        return (is_token * sizes.vocab_size * _uniform(shape.shape)).astype(shape.dtype)
    if "opt_state" in names:
        return jnp.zeros(shape.shape, shape.dtype)
    if names[-1] == "scale":
        return jnp.ones(shape.shape, shape.dtype)
    if names[-1].endswith("logp_BT"):
        return jnp.full(shape.shape, -math.log(sizes.vocab_size), shape.dtype)
    return ((_uniform(shape.shape) - 0.5) * math.sqrt(12) * _INITIALIZER_RANGE).astype(shape.dtype)


def _prompts(batch: PromptBatch, sizes: Sizes) -> PromptBatch:
    """Prompts without padding, each starting with an image."""
    num_prompts, length = batch.token_PS.shape
    rows, slots, width = batch.vision.patch_ZMC.shape
    images_per_row = -(-num_prompts // rows)
    merged = sizes.vision.merge_length
    patches = min(slots // images_per_row, length * merged) // merged * merged  # per image
    prompt_P1, column_1S = jnp.arange(num_prompts)[:, None], jnp.arange(length)[None]
    first_P1 = (prompt_P1 // images_per_row * slots + prompt_P1 % images_per_row * patches) // merged
    image_M = jnp.arange(slots) // patches
    column_M = jnp.arange(slots)
    return PromptBatch(
        token_PS=(_uniform((num_prompts, length)) * sizes.vocab_size).astype(jnp.int32),
        mask_PS=jnp.ones((num_prompts, length), bool),
        position_3PS=jnp.broadcast_to(column_1S[None], (3, num_prompts, length)),
        feature_index_PS=jnp.where(column_1S < patches // merged, first_P1 + column_1S, -1),
        next_position_P=jnp.full(num_prompts, length),
        prompt_id_P=jnp.arange(num_prompts),
        vision=PackedVision(
            patch_ZMC=_uniform((rows, slots, width)) - 0.5,
            segment_ZM=jnp.broadcast_to(jnp.where(image_M < images_per_row, image_M + 1, 0), (rows, slots)),
            position_ZM2=jnp.broadcast_to(jnp.stack([column_M % patches // 32, column_M % 32], -1), (rows, slots, 2)),
        ),
    )


def _uniform(shape: tuple[int, ...]) -> jax.Array:
    """Pseudo-random numbers in [0, 1): hashed indices, which take no memory beside the result."""
    index = functools.reduce(
        lambda total, axis: total * shape[axis] + jax.lax.broadcasted_iota(jnp.uint32, shape, axis),
        range(len(shape)),
        jnp.uint32(0),
    )
    mixed = (index + 1) * jnp.uint32(2_654_435_761)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(2_246_822_519)
    return (mixed >> 8).astype(jnp.float32) * 2.0**-24


def to_json(measured: Measurement, machine: Machine, num_devices: int, published: Machine | None) -> dict[str, Any]:
    """A measurement with its utilizations, as JSON values."""
    rate = measured.flops / measured.median / num_devices
    read = measured.read_bytes and measured.read_bytes / measured.median
    return asdict(measured) | {
        "median_s": measured.median,
        "flops_per_s": rate,
        "mfu": published and rate / published.flops_per_s,
        "of_matmul": rate / machine.flops_per_s,
        "read_bytes_per_s": read,
        "mbu": published and read and read / published.bytes_per_s,
        "of_reads": read and read / machine.bytes_per_s,
    }


def describe(machine: Machine) -> str:
    """The devices, and their measured peak rates."""
    return (
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}; a large matmul reaches"
        f" {machine.flops_per_s / 1e12:,.3g} TFLOP/s, reads {machine.bytes_per_s / 1e9:,.0f} GB/s"
    )


def make_table(rows: list[dict[str, Any]]) -> Table:
    """A row per program."""
    table = Table("program", box=None, pad_edge=False)
    times, shares = ("median s", "min", "max"), {"mfu": "MFU", "of_matmul": "of matmul"}
    shares |= {"mbu": "MBU", "of_reads": "of reads"}
    for heading in (*times, "TFLOP", "TFLOP/s", *shares.values(), "GiB", "compile s"):
        table.add_column(heading, justify="right")
    for row in rows:
        if "reason" in row:
            table.add_row(row["name"], "failed")
            continue
        table.add_row(
            row["name"],
            *(f"{seconds:.3g}" for seconds in (row["median_s"], min(row["seconds"]), max(row["seconds"]))),
            f"{row['flops'] / 1e12:,.3g}",
            f"{row['flops_per_s'] / 1e12:,.3g}",
            *("" if row[name] is None else f"{row[name]:.1%}" for name in shares),
            f"{row['memory_gib']:.1f}",
            f"{row['compile_s']:.0f}",
        )
    return table


def run(
    config: Config, names: list[str], *, repeats: int, json_file: str | None = None, markdown_file: str | None = None
) -> None:
    check_output_file("--json", json_file)
    check_output_file("--markdown", markdown_file)
    results = []
    for result in measure(config, names, repeats=repeats):
        results.append(result)
        print(f"{result.name}: {result.reason if isinstance(result, Failed) else result.seconds}", file=sys.stderr)
    read = next((each.read_bytes for each in results if isinstance(each, Measurement) and each.read_bytes), None)
    token_bytes = read / config.sampling.max_completion_length if read else _GIB
    machine = measure_machine(config.model.dtype, int(token_bytes))
    published = _PUBLISHED.get(jax.devices()[0].device_kind) if config.model.dtype == "bfloat16" else None
    rows = [
        asdict(each) if isinstance(each, Failed) else to_json(each, machine, jax.device_count(), published)
        for each in results
    ]
    console, table = Console(highlight=False), make_table(rows)
    console = console if console.is_terminal else Console(width=_WIDTH, highlight=False)
    console.print(describe(machine), table, sep="\n")
    if markdown_file:
        command = ["python", "-m", "benchmarks.programs", *sys.argv[1:]]
        Path(markdown_file).write_text(
            "\n\n".join([provenance(command), describe(machine), markdown_table(table)]) + "\n"
        )
    if json_file:
        device = {"kind": jax.devices()[0].device_kind, "number": jax.device_count(), "jax": jax.__version__}
        result = {"command": sys.argv, "device": device, "machine": asdict(machine), "programs": rows}
        Path(json_file).write_text(json.dumps(result, indent=2) + "\n")
    if failed := [each.name for each in results if isinstance(each, Failed)]:
        raise ValueError(f"failed: {', '.join(failed)}")


def main() -> None:
    flags.DEFINE_list("programs", [], "Only these programs, by the names that `r1vl_jax.aot` prints.")
    flags.DEFINE_integer("repeats", 5, "Timed runs of each program.", lower_bound=1)
    flags.DEFINE_string("json", None, "File for all results.")
    flags.DEFINE_string("markdown", None, "File for the table as Markdown.")

    def start(recipe: ConfigDict) -> None:
        try:
            options = flags.FLAGS
            files = {"json_file": options.json, "markdown_file": options.markdown}
            run(resolve(recipe), options.programs, repeats=options.repeats, **files)
        except (ValueError, OSError) as error:
            sys.exit(str(error))

    run_with_config(start)


if __name__ == "__main__":
    main()
