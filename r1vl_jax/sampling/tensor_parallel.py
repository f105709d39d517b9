"""How the trainer's devices are laid out for sampling.

Many small samplers beat one wide one: with a copy of the decoder on every device, no device waits for another's numbers
while tokens are drawn. Where a device has no room for it, its heads, MLP columns and vocabulary are divided over
`tensor`.
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

# Of a device's memory, what training state, copy and caches may take; what the programs compute with needs the rest.
_USABLE = 0.9


def choose_tensor(config: Config, definition: Definition, *, memory_bytes: float | None) -> int:
    """How many devices hold one copy of the decoder together: `sampling.mesh.tensor`, or the fewest that have room.

    Args:
        definition: of the trainer, with its mesh.
        memory_bytes: of one device; None where it is not known, and everything is taken to fit.

    Raises:
        ValueError: `sampling.mesh.tensor` does not divide heads, devices or prompts; says which sizes would do.
    """
    mesh, tensor = definition.mesh, config.sampling.mesh.tensor
    assert mesh is not None
    num_devices = mesh.devices.size
    num_heads, prompts = definition.config.num_key_value_heads, _prompts(config)
    sizes = tensor_sizes(num_devices, num_heads=num_heads, num_prompts=prompts.values())
    if tensor not in (-1, *sizes) or not sizes:
        counts = " and ".join(f"{name}={number}" for name, number in prompts.items())
        raise ValueError(
            f"sampling.mesh.tensor={tensor}: expected a divisor of the {num_heads} key/value heads and of the"
            f" {num_devices} devices, so that {num_devices} / tensor divides {counts}; "
            + (f"set one of {sizes}, or -1" if sizes else f"no size does: set multiples of {num_devices}")
        )
    if tensor != -1:
        return tensor
    resident = _training_bytes(config, definition, mesh)
    needed = {size: resident + _sampling_bytes(config, definition, decoding_mesh(mesh, size)) for size in sizes}
    return smallest_that_fits(needed, memory_bytes)


def tensor_sizes(num_devices: int, *, num_heads: int, num_prompts: Iterable[int]) -> list[int]:
    """In ascending order, the sizes of `tensor` that divide heads and devices so that `data` divides the prompts."""
    common = math.gcd(*num_prompts)
    return [
        size
        for size in range(1, num_heads + 1)
        if num_heads % size == 0 and num_devices % size == 0 and common % (num_devices // size) == 0
    ]


def smallest_that_fits(needed_bytes: Mapping[int, int], memory_bytes: float | None) -> int:
    """The smallest size of `tensor` whose need a device has room for; the largest, which needs least, if none has.

    Args:
        needed_bytes: of one device, for each size.
        memory_bytes: of one device; None has room for everything.
    """
    usable = math.inf if memory_bytes is None else _USABLE * memory_bytes
    return min((size for size, needed in needed_bytes.items() if needed <= usable), default=max(needed_bytes))


def device_memory(mesh: jax.sharding.Mesh) -> int | None:
    """Bytes that programs may use on every device of a mesh; None where the platform does not tell.

    All processes must call this: the one whose devices have least decides, so that all choose alike.
    """
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in mesh.local_devices]
    told = [limit for of_process in processes.all_gather_objects(limits) for limit in of_process if limit is not None]
    return min(told, default=None)


def _prompts(config: Config) -> dict[str, int]:
    """How many prompts are sampled together, and by how many slots, by setting."""
    prompts = {"eval.batch_size": config.eval.batch_size}
    if "step_grpo" in config.train.stages:
        prompts["train.prompts_per_update"] = config.train.prompts_per_update
    return prompts | ({"sampling.slots": config.sampling.slots} if config.sampling.slots else {})


def _training_bytes(config: Config, definition: Definition, mesh: jax.sharding.Mesh) -> int:
    """What training keeps on a device: parameters, two moments of the trained ones, and the reference if there is one.

    What is frozen is the policy's and the reference's in one.
    """
    params = jax.eval_shape(lambda params: cast_frozen(params, config.model), definition.abstract_params())
    trained, _ = partition(params, config.model)
    has_reference = "step_grpo" in config.train.stages and config.loss.needs_reference
    reference = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, definition.dtype), trained)
    of_trained = shardings(trained, mesh)
    moments = 2 * bytes_per_device(trained, of_trained)
    kept = has_reference * bytes_per_device(reference, of_trained)
    return bytes_per_device(params, shardings(params, mesh)) + moments + kept


def _sampling_bytes(config: Config, definition: Definition, mesh: jax.sharding.Mesh) -> int:
    """What sampling keeps on a device: the copy of the decoder, and keys and values of prompts and completions."""
    sizes, itemsize = definition.config, jnp.dtype(definition.dtype).itemsize
    prompt, completion = config.data.max_prompt_length, config.sampling.max_completion_length

    def tokens(num_prompts: int, num_rows: int) -> int:
        slots = config.sampling.slots
        if not 0 < slots < num_rows:
            return num_prompts * prompt + num_rows * completion
        return num_prompts * prompt + slots * (prompt + completion)

    num_prompts, batch_size = config.train.prompts_per_update, config.eval.batch_size
    num_tokens = max(tokens(batch_size, batch_size), tokens(num_prompts, num_prompts * config.sampling.num_generations))
    values_of_token = 2 * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_dim
    decoder = {name: part for name, part in definition.abstract_params().items() if name != "visual"}
    copy = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, definition.dtype), decoder)
    caches = num_tokens * values_of_token * itemsize // mesh.devices.size
    return caches + bytes_per_device(copy, sampler_shardings(copy, mesh))
