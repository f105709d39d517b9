"""Reinforcement learning of step-by-step reasoning for vision-language models, in JAX.

Use:

    import r1vl_jax
    from r1vl_jax import losses, rewards              # pure functions, for any JAX project

    model = r1vl_jax.load("path/to/Qwen2-VL-2B-Instruct")
    print(model.generate("How many?", "a.png"))       # also model.chat(messages)
"""

from typing import Any

__all__ = ["load"]  # pyright: ignore[reportUnsupportedDunderAll] - made below, when it is first used


def __getattr__(name: str) -> Any:
    """`load` is imported when it is first used: the losses and rewards need no model."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from r1vl_jax.chat.pretrained import load

    return load
