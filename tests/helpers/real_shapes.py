"""Writes models of any size with random weights, and measures loading and running one in a separate process.

    python tests/helpers/real_shapes.py ours|transformers DIRECTORY float32|bfloat16 [LOGITS.npy]

loads a model, with LOGITS.npy also computes the next-token logits of one prompt with an image, and prints times and
peak memory as JSON.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from r1vl_jax.observe.results import peak_memory_gib
from r1vl_jax.sharding.mesh import make_mesh

GRID = (1, 16, 20)  # frames, rows and columns of patches: an image of 224 x 280 pixels
_SHARD_BYTES = 500 * 2**20  # in float32, before the cast to bfloat16


def write_random_model(directory: Path, config: dict[str, Any]) -> int:
    """Writes random bfloat16 weights shard by shard, under transformers' parameter names.

    Args:
        config: the content of config.json.

    Returns:
        The number of parameters.
    """
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    with torch.device("meta"):
        torch_model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**config))
    shapes = {name: tuple(parameter.shape) for name, parameter in torch_model.named_parameters()}
    rng, weight_map, shard, shard_bytes = np.random.default_rng(0), {}, {}, 0
    for number, (name, shape) in enumerate(shapes.items()):
        shard[name], shard_bytes = _random(rng, name, shape), shard_bytes + 4 * math.prod(shape)
        if shard_bytes > _SHARD_BYTES or number == len(shapes) - 1:
            weight_map |= _write_shard(directory, f"model-{number:05d}.safetensors", shard)
            shard, shard_bytes = {}, 0
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(config))
    return sum(math.prod(shape) for shape in shapes.values())


def _write_shard(directory: Path, file: str, shard: dict[str, np.ndarray]) -> dict[str, str]:
    from safetensors.numpy import save_file

    save_file(shard, directory / file, metadata={"format": "pt"})
    return dict.fromkeys(shard, file)


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = 0.02 * rng.standard_normal(shape, np.float32)
    is_norm_scale = name.endswith(".weight") and ("norm" in name or ".ln_q." in name)
    return (values + 1 if is_norm_scale else values).astype(ml_dtypes.bfloat16)


def measure(implementation: str, directory: Path, dtype: str, *logits: Path) -> dict[str, float]:
    """Runs this file in a separate process and returns what it printed."""
    root = Path(__file__).parents[2]
    program = [sys.executable, __file__, implementation, str(directory), dtype, *map(str, logits)]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def make_inputs(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """A prompt with one image, as a processor returns it."""
    rng = np.random.default_rng(1)
    text = rng.integers(0, min(config["vocab_size"], config["image_token_id"]), 24)
    num_patches = math.prod(GRID)
    image = [
        config["vision_start_token_id"],
        *[config["image_token_id"]] * (num_patches // 4),
        config["vision_end_token_id"],
    ]
    token_BT = np.array([[*text[:4], *image, *text[4:]]])
    return {
        "input_ids": token_BT,
        "attention_mask": np.ones_like(token_BT),
        "mm_token_type_ids": (token_BT == config["image_token_id"]).astype(np.int64),
        "pixel_values": rng.normal(size=(num_patches, 1176)).astype(np.float32),
        "image_grid_thw": np.array([GRID]),
    }


def _ours(directory: Path, dtype: str) -> Callable[..., np.ndarray]:
    import jax

    from r1vl_jax import config
    from r1vl_jax.chat.pretrained import Pretrained
    from r1vl_jax.checkpoint.hf.load import load_params, read_config
    from r1vl_jax.models.qwen2_vl.model import Definition
    from r1vl_jax.sharding import rules

    definition = Definition(read_config(str(directory)), dtype=dtype)
    mesh = make_mesh(config.Mesh(), jax.devices()[:1])
    shardings = rules.shardings(definition.abstract_params(), mesh)
    model = Pretrained(definition, load_params(str(directory), definition, placement=shardings, dtype=dtype))
    return lambda **inputs: np.asarray(model(**inputs)[0, -1])


def _transformers(directory: Path, dtype: str) -> Callable[..., np.ndarray]:
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    torch_model = Qwen2VLForConditionalGeneration.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()

    def logits(**inputs: np.ndarray) -> np.ndarray:
        tensors = {name: torch.as_tensor(array) for name, array in inputs.items()}
        with torch.no_grad():
            return torch_model(**tensors, logits_to_keep=1).logits[0, -1].float().numpy()

    return logits


def main(implementation: str, directory: str, dtype: str, *logits: str) -> None:
    start = time.perf_counter()
    model = {"ours": _ours, "transformers": _transformers}[implementation](Path(directory), dtype)
    measurements = {"load_s": time.perf_counter() - start, "peak_load_gib": peak_memory_gib()}
    for file in logits:
        inputs = make_inputs(json.loads((Path(directory) / "config.json").read_text()))
        for name in ("first_forward_s", "forward_s"):
            start = time.perf_counter()
            np.save(file, model(**inputs))
            measurements[name] = time.perf_counter() - start
    print(json.dumps(measurements | {"peak_gib": peak_memory_gib()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
