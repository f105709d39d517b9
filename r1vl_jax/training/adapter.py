"""The LoRA adapter that a run starts from, compared with the run's settings."""

import math
from collections.abc import Iterator

from r1vl_jax import config
from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.hf.peft import load_adapter
from r1vl_jax.models.lora import LoRA
from r1vl_jax.models.qwen2_vl.model import Definition


def initial_adapter(model: config.Model, definition: Definition) -> Params | None:
    """The adapter in `model.adapter_path`, on the host in float32; None without one.

    Args:
        model: of `Inputs`, whose paths are local directories.
        definition: with the adapter of the settings.

    Raises:
        FileNotFoundError, ValueError: there is no adapter of this model, or the settings name another; lists what to
            set.
    """
    if not model.adapter_path:
        return None
    found, params = load_adapter(model.adapter_path, definition)
    assert definition.lora is not None  # `config.resolve` refuses adapter_path without lora_r
    if differences := list(_differences(found, definition.lora)):
        listing = "\n  ".join(differences)
        raise ValueError(
            f"config.model.adapter_path={model.adapter_path!r} is an adapter of other settings:\n  {listing}"
        )
    return params


def _differences(found: LoRA, expected: LoRA) -> Iterator[str]:
    if found.r != expected.r:
        yield f"model.lora_r={expected.r}: the adapter has r={found.r}; set model.lora_r={found.r}"
    if not math.isclose(found.scale, expected.scale, rel_tol=1e-4):
        alpha = found.scale * found.r  # with rank-stabilised scaling more than PEFT's lora_alpha
        yield f"model.lora_alpha={expected.alpha:g}: the adapter has {alpha:g}; set model.lora_alpha={alpha:g}"
    if odd := sorted({*found.target_modules} ^ {*expected.target_modules}):
        names = sorted({path.rsplit(".", 1)[-1] for path in found.target_modules})
        yield (
            f"model.lora_target_modules: the adapter and the settings differ in {', '.join(odd)}; the adapter's modules"
            f" are {', '.join(names)}"
        )
