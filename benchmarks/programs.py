"""How long the programs of a recipe take on the devices at hand, and how near that is to what these allow.

    python -m benchmarks.programs --config=configs/2b.py [--programs=prefill,decode,"reference scores",update]
        [--repeats=5] [--json=FILE] [--config.SECTION.KEY=VALUE ...]

Nothing is read: weights are random and of the size `model.preset` where `model.path` is not there, prompts and
completions as long as the recipe lets them be, pictures as large. By default all that a step of the recipe runs. Beside
the seconds (medians, after one run that is not counted) stand

    MFU         operations that the result needs, by the formulas of `r1vl_jax.aot.flops`, over seconds and
                over what the devices are published to do in bfloat16; nothing that is computed twice counts
    of products the same over what large products reach here
    MBU         bytes that decoding must read, over seconds and over what the devices are published to read: for every
                token all weights of the decoder and its head, and the keys and values so far, a prompt's once for all
                its completions. With `sampling.slots` it depends on lengths, and is left out
    of reading  the same over what reading reaches here
    GiB         arguments, results and temporaries; what else a run holds meanwhile is not there
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

from benchmarks.side_by_side.roofline import Machine, bytes_of_token, measure_machine
from r1vl_jax.aot import shapes
from r1vl_jax.aot.programs import Program, programs
from r1vl_jax.arrays import PackedVision, PromptBatch
from r1vl_jax.checkpoint.model_config import expected_config
from r1vl_jax.config import Config, resolve
from r1vl_jax.models.qwen2_vl.config import Config as Sizes
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.runtime.cli import check_json, run_with_config
from r1vl_jax.sampling.tensor_parallel import device_memory
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.training.components import make_definition, mesh_limits

_GIB = 2**30
_WIDTH = 120  # columns, where nobody looks at a terminal
# Of https://www.nvidia.com/en-us/data-center/h200 and /h100 (SXM): bytes and operations a second, these in bfloat16.
_PUBLISHED = {
    "NVIDIA H200": Machine(4.8e12, 989.5e12, read_bytes=0),
    "NVIDIA H100 80GB HBM3": Machine(3.35e12, 989.5e12, read_bytes=0),
}
# Of compiler and device, and of what JAX cannot lower.
_FAILURES = (jax.errors.JaxRuntimeError, ValueError, NotImplementedError)
_SPREAD = 0.02  # of random weights, which is Hugging Face's `initializer_range`


@dataclass(frozen=True)
class Measured:
    """One program.

    Attributes:
        seconds: of each repeat.
        operations: that its result needs, on all devices.
        read_bytes: that it must read, on each device; None where operations bind.
        memory_gib: arguments, results and temporaries of a device, as the compiler counts them.
    """

    name: str
    seconds: list[float]
    operations: float
    read_bytes: float | None
    memory_gib: float
    compile_s: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Failed:
    """A program that could not be compiled, or not be run."""

    name: str
    reason: str


def measure(config: Config, names: Iterable[str], *, repeats: int) -> Iterator[Measured | Failed]:
    """The programs of these names, or all that a step runs, one after another.

    Raises:
        ValueError: there is no program of a name.
    """
    sizes = expected_config(config.model)
    mesh = make_mesh(config.mesh, jax.devices(), mesh_limits(config, sizes))
    model = make_definition(config, sizes, mesh, platform=mesh.devices.flat[0].platform)
    every = list(programs(config, model, device_memory(mesh)))
    chosen = list(names) or [program.name for program in every if program.is_used and program.runs_per_step]
    if unknown := set(chosen) - {program.name for program in every}:
        raise ValueError(f"--programs: there is no {', '.join(unknown)}; {', '.join(p.name for p in every)}")
    for program in every:
        if program.name in chosen:
            try:
                yield _measured(program, config, model, repeats)
            except _FAILURES as error:
                yield Failed(program.name, str(error).splitlines()[0])


def _measured(program: Program, config: Config, model: Definition, repeats: int) -> Measured:
    start = time.perf_counter()
    compiled = program.lower().compile()
    compile_s = time.perf_counter() - start
    arguments = _filled(program.arguments, model.config)
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        result = jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
        num_steps = int(result.num_steps) if program.name == "decode" else 0
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(arguments[0])):  # what is updated takes its own place
            arguments = (result[0], *arguments[1:])
        del result
    memory: Any = compiled.memory_analysis()
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Measured(
        program.name,
        seconds[1:],
        program.flops.model,
        _bytes_read(num_steps, _mesh(program), config, model) if num_steps else None,
        (total + memory.temp_size_in_bytes) / _GIB,
        compile_s,
    )


def _mesh(program: Program) -> jax.sharding.Mesh:
    """Of the parameters that it takes."""
    return jax.tree.leaves(program.arguments[0])[0].sharding.mesh


def _bytes_read(num_steps: int, mesh: jax.sharding.Mesh, config: Config, model: Definition) -> float | None:
    """That each device must read, where those along the axis `tensor` share the decoder; None with a queue."""
    if config.sampling.slots:
        return None
    num_prompts, tensor = config.train.prompts_per_update, mesh.shape["tensor"]
    rows = num_prompts * config.sampling.num_generations
    past = num_prompts * config.data.max_prompt_length + rows * (num_steps - 1) / 2
    whole = bytes_of_token(model.config, jnp.dtype(model.dtype).itemsize, past * tensor / mesh.size)
    return num_steps * whole / tensor


def _filled(tree: Any, sizes: Sizes) -> Any:
    """Arrays for shapes with places: full batches of random tokens and pictures, and random weights."""

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
    return ((_uniform(shape.shape) - 0.5) * math.sqrt(12) * _SPREAD).astype(shape.dtype)


def _prompts(batch: PromptBatch, sizes: Sizes) -> PromptBatch:
    """Prompts without padding, each with a picture in front."""
    num_prompts, length = batch.token_PS.shape
    rows, slots, width = batch.vision.patch_ZMC.shape
    in_row = -(-num_prompts // rows)
    merged = sizes.vision.merge_length
    patches = min(slots // in_row, length * merged) // merged * merged  # of a picture
    prompt_P1, column_1S = jnp.arange(num_prompts)[:, None], jnp.arange(length)[None]
    first_P1 = (prompt_P1 // in_row * slots + prompt_P1 % in_row * patches) // merged
    picture_M = jnp.arange(slots) // patches
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
            segment_ZM=jnp.broadcast_to(jnp.where(picture_M < in_row, picture_M + 1, 0), (rows, slots)),
            position_ZM2=jnp.broadcast_to(jnp.stack([column_M % patches // 32, column_M % 32], -1), (rows, slots, 2)),
        ),
    )


def _uniform(shape: tuple[int, ...]) -> jax.Array:
    """Numbers in [0, 1) that look random: places, multiplied and cut; made without memory beside the result."""
    place = functools.reduce(
        lambda total, axis: total * shape[axis] + jax.lax.broadcasted_iota(jnp.uint32, shape, axis),
        range(len(shape)),
        jnp.uint32(0),
    )
    mixed = (place + 1) * jnp.uint32(2_654_435_761)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(2_246_822_519)
    return (mixed >> 8).astype(jnp.float32) * 2.0**-24


def figures(measured: Measured, machine: Machine, num_devices: int, published: Machine | None) -> dict[str, Any]:
    """As JSON has them."""
    rate = measured.operations / measured.median / num_devices
    read = measured.read_bytes and measured.read_bytes / measured.median
    return asdict(measured) | {
        "median_s": measured.median,
        "operations_per_s": rate,
        "mfu": published and rate / published.operations_per_s,
        "of_products": rate / machine.operations_per_s,
        "read_bytes_per_s": read,
        "mbu": published and read and read / published.bytes_per_s,
        "of_reading": read and read / machine.bytes_per_s,
    }


def show(rows: list[dict[str, Any]], machine: Machine, console: Console) -> None:
    """Prints the figures for people."""
    console.print(
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}; here products reach"
        f" {machine.operations_per_s / 1e12:,.3g} TFLOP/s, reading {machine.bytes_per_s / 1e9:,.0f} GB/s"
    )
    table = Table("program", box=None, pad_edge=False)
    times, shares = ("median s", "least", "most"), {"mfu": "MFU", "of_products": "of products"}
    shares |= {"mbu": "MBU", "of_reading": "of reading"}
    for heading in (*times, "TFLOP", "TFLOP/s", *shares.values(), "GiB", "compiled in s"):
        table.add_column(heading, justify="right")
    for row in rows:
        if "reason" in row:
            table.add_row(row["name"], "failed")
            continue
        table.add_row(
            row["name"],
            *(f"{seconds:.3g}" for seconds in (row["median_s"], min(row["seconds"]), max(row["seconds"]))),
            f"{row['operations'] / 1e12:,.3g}",
            f"{row['operations_per_s'] / 1e12:,.3g}",
            *("" if row[name] is None else f"{row[name]:.1%}" for name in shares),
            f"{row['memory_gib']:.1f}",
            f"{row['compile_s']:.0f}",
        )
    console.print(table)


def run(config: Config, names: list[str], *, repeats: int, json_file: str | None) -> None:
    check_json(json_file)
    results = []
    for result in measure(config, names, repeats=repeats):
        results.append(result)
        print(f"{result.name}: {result.reason if isinstance(result, Failed) else result.seconds}", file=sys.stderr)
    read = next((each.read_bytes for each in results if isinstance(each, Measured) and each.read_bytes), None)
    token_bytes = read / config.sampling.max_completion_length if read else _GIB
    machine = measure_machine(config.model.dtype, int(token_bytes))
    published = _PUBLISHED.get(jax.devices()[0].device_kind) if config.model.dtype == "bfloat16" else None
    rows = [
        asdict(each) if isinstance(each, Failed) else figures(each, machine, jax.device_count(), published)
        for each in results
    ]
    console = Console(highlight=False)
    show(rows, machine, console if console.is_terminal else Console(width=_WIDTH, highlight=False))
    if json_file:
        device = {"kind": jax.devices()[0].device_kind, "number": jax.device_count(), "jax": jax.__version__}
        result = {"command": sys.argv, "device": device, "machine": asdict(machine), "programs": rows}
        Path(json_file).write_text(json.dumps(result, indent=2) + "\n")
    if failed := [each.name for each in results if isinstance(each, Failed)]:
        raise ValueError(f"failed: {', '.join(failed)}")


def main() -> None:
    flags.DEFINE_list("programs", [], "Only these, by the names that `r1vl_jax.aot` prints.")
    flags.DEFINE_integer("repeats", 5, "Timed runs of each.", lower_bound=1)
    flags.DEFINE_string("json", None, "A file that receives all figures.")

    def start(recipe: ConfigDict) -> None:
        try:
            run(resolve(recipe), flags.FLAGS.programs, repeats=flags.FLAGS.repeats, json_file=flags.FLAGS.json)
        except (ValueError, OSError) as error:
            sys.exit(str(error))

    run_with_config(start)


if __name__ == "__main__":
    main()
