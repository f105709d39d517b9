"""Every setting of the project, with its default, in one place; and their validation.

A recipe in `configs/` calls `default()`, changes what it needs and returns the result. `resolve()` turns that
`ConfigDict` into frozen dataclasses and, before any device is touched, lists every invalid value and contradiction.
"""

from r1vl_jax.config.config_dict import default, resolve, unknown_settings
from r1vl_jax.config.loss import Loss
from r1vl_jax.config.mesh import Mesh, MeshLimits, Shape, mesh_shape
from r1vl_jax.config.settings import (
    Config,
    Data,
    Eval,
    Model,
    Observe,
    Optim,
    Reward,
    Sampling,
    SamplingMesh,
    Supervised,
    Train,
    read_instruction,
)
from r1vl_jax.config.validation import LORA_TARGETS, lora_targets, validate

__all__ = [
    "LORA_TARGETS",
    "Config",
    "Data",
    "Eval",
    "MeshLimits",
    "Loss",
    "Mesh",
    "Model",
    "Observe",
    "Optim",
    "Reward",
    "Sampling",
    "SamplingMesh",
    "Shape",
    "Supervised",
    "Train",
    "default",
    "read_instruction",
    "lora_targets",
    "mesh_shape",
    "resolve",
    "unknown_settings",
    "validate",
]
