"""The named model configurations of all architectures."""

from r1vl_jax.models.qwen2_5_vl import config as qwen2_5_vl
from r1vl_jax.models.qwen2_vl import config as qwen2_vl
from r1vl_jax.models.qwen2_vl.config import Config

PRESETS: dict[str, Config] = qwen2_vl.PRESETS | qwen2_5_vl.PRESETS


def preset(name: str) -> Config:
    """The configuration of that name.

    Raises:
        ValueError: there is no such preset; lists those that exist.
    """
    if name not in PRESETS:
        raise ValueError(f"model.preset={name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
