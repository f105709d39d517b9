"""Chooses the tensor-parallel size of sampling: the smallest with which everything fits into a device's memory.

Many small samplers are faster than one wide one: with a copy of the decoder on every device, decoding needs no
communication. Where a copy does not fit, heads, MLP columns and vocabulary are sharded over the mesh's "tensor" axis.
"""

import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from r1vl_jax.config import Config
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import cast_frozen, partition
from r1vl_jax.runtime import processes
from r1vl_jax.sampling.sampler import decoding_mesh
from r1vl_jax.sampling.weight_sync import sampler_shardings
from r1vl_jax.sharding.rules import bytes_per_device, shardings

# Share of a device's memory for training state, sampler's parameters and caches; the rest is for temporaries.
_USABLE_FRACTION = 0.9


def choose_tensor_parallel_size(config: Config, definition: Definition, *, memory_bytes: float | None) -> int:
    """The setting `sampling.mesh.tensor`, or with -1 the smallest size that fits into memory.

    Args:
        definition: the trainer's, with its mesh.
        memory_bytes: of one device; None where it is unknown, and everything is assumed to fit.

    Raises:
        ValueError: `sampling.mesh.tensor` does not divide heads, devices or prompts; names the sizes that do.
    """
    mesh, tensor = definition.mesh, config.sampling.mesh.tensor
    assert mesh is not None
    num_devices = mesh.devices.size
    num_heads, batch_sizes = definition.config.num_key_value_heads, _batch_sizes(config)
    sizes = valid_tensor_parallel_sizes(num_devices, num_heads=num_heads, batch_sizes=batch_sizes.values())
    if tensor not in (-1, *sizes) or not sizes:
        counts = " and ".join(f"{name}={number}" for name, number in batch_sizes.items())
        raise ValueError(
            f"sampling.mesh.tensor={tensor}: expected a divisor of the {num_heads} key/value heads and of the"
            f" {num_devices} devices, so that {num_devices} / tensor divides {counts}; "
            + (f"set one of {sizes}, or -1" if sizes else f"no size does: set multiples of {num_devices}")
        )
    if tensor != -1:
        return tensor
    # What is resident while tokens are sampled: training state, the sampler's parameters and caches.
    resident = _training_bytes(config, definition, mesh)
    needed = {size: resident + _sampling_bytes(config, definition, decoding_mesh(mesh, size)) for size in sizes}
    return smallest_that_fits(needed, memory_bytes)


def valid_tensor_parallel_sizes(num_devices: int, *, num_heads: int, batch_sizes: Iterable[int]) -> list[int]:
    """In ascending order, the sizes that divide heads and devices, and leave a data-parallel size that divides batches.

    Args:
        num_heads: key/value heads.
        batch_sizes: numbers of prompts, or of slots, that are divided over the devices.
    """
    # A data-parallel size divides all batches if it divides their greatest common divisor.
    common = math.gcd(*batch_sizes)
    return [
        size
        for size in range(1, num_heads + 1)
        if num_heads % size == 0 and num_devices % size == 0 and common % (num_devices // size) == 0
    ]


def smallest_that_fits(needed_bytes: Mapping[int, int], memory_bytes: float | None) -> int:
    """The smallest tensor-parallel size that fits; the largest, which needs least memory, if none does.

    Args:
        needed_bytes: of one device, for each size.
        memory_bytes: of one device; None is unlimited.
    """
    usable = math.inf if memory_bytes is None else _USABLE_FRACTION * memory_bytes
    return min((size for size, needed in needed_bytes.items() if needed <= usable), default=max(needed_bytes))


def device_memory_limit(mesh: jax.sharding.Mesh) -> int | None:
    """Bytes that programs may use on every device of a mesh; None where the platform does not report them.

    A collective of all processes: the device with the least memory decides, so that all processes choose alike.
    """
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in mesh.local_devices]
    known = [limit for of_process in processes.all_gather_objects(limits) for limit in of_process if limit is not None]
    return min(known, default=None)


def _batch_sizes(config: Config) -> dict[str, int]:
    """What is divided over the devices while sampling, by setting: prompts, and slots if there are any."""
    batch_sizes = {"eval.batch_size": config.eval.batch_size} if config.eval.is_used else {}
    if "step_grpo" in config.train.stages:
        batch_sizes["train.prompts_per_update"] = config.train.prompts_per_update
    return batch_sizes | ({"sampling.slots": config.sampling.slots} if config.sampling.slots else {})


def _training_bytes(config: Config, definition: Definition, mesh: jax.sharding.Mesh) -> int:
    """What training keeps on a device: parameters, Adam's two moments of the trained ones, and the reference model.

    Frozen parameters are shared by policy and reference.
    """
    params = jax.eval_shape(lambda params: cast_frozen(params, config.model), definition.abstract_params())
    trained, _ = partition(params, config.model)
    has_reference = "step_grpo" in config.train.stages and config.loss.needs_reference
    reference = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, definition.dtype), trained)
    trained_shardings = shardings(trained, mesh)
    moments_bytes = 2 * bytes_per_device(trained, trained_shardings)
    reference_bytes = has_reference * bytes_per_device(reference, trained_shardings)
    return bytes_per_device(params, shardings(params, mesh)) + moments_bytes + reference_bytes


def _sampling_bytes(config: Config, definition: Definition, mesh: jax.sharding.Mesh) -> int:
    """What sampling keeps on a device: the sampler's parameters, and keys and values of prompts and completions."""
    sizes, itemsize = definition.config, jnp.dtype(definition.dtype).itemsize
    prompt, completion = config.data.max_prompt_length, config.sampling.max_completion_length

    def cached_tokens(num_prompts: int, num_rows: int) -> int:
        slots = config.sampling.slots
        if not 0 < slots < num_rows:
            return num_prompts * prompt + num_rows * completion
        # Each slot has a copy of its prompt's cache, in addition to the prompts' own.
        return num_prompts * prompt + slots * (prompt + completion)

    # Evaluation decodes one completion a prompt, or `eval.num_samples`, training `num_generations`.
    num_prompts, batch_size = config.train.prompts_per_update, config.eval.batch_size
    num_tokens = max(
        cached_tokens(batch_size, batch_size * max(1, config.eval.num_samples)),
        cached_tokens(num_prompts, num_prompts * config.sampling.num_generations),
    )
    numbers_per_token = 2 * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_dim  # keys and values
    decoder = {name: part for name, part in definition.abstract_params().items() if name != "visual"}
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, definition.dtype), decoder)
    cache_bytes = num_tokens * numbers_per_token * itemsize // mesh.devices.size
    return cache_bytes + bytes_per_device(params, sampler_shardings(params, mesh))
