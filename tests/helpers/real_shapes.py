"""Models of any size with random weights, and programs that load one in a process of its own and say what it took.

    python tests/real_shapes.py ours|transformers DIRECTORY float32|bfloat16 [LOGITS.npy]

loads a model, computes the next-token logits of one prompt with a picture if asked to, and prints figures as JSON.
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

GRID = (1, 16, 20)  # frames, rows and columns of patches: a picture of 224 x 280 pixels
_SHARD_SIZE = 500 * 2**20  # bytes in float32, before rounding


def write_random_model(directory: Path, config: dict[str, Any]) -> int:
    """Writes random bfloat16 weights shard by shard, under the names that transformers gives to the model's parameters.

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
    rng, weight_map, shard, size = np.random.default_rng(0), {}, {}, 0
    for number, (name, shape) in enumerate(shapes.items()):
        shard[name], size = _random(rng, name, shape), size + 4 * math.prod(shape)
        if size > _SHARD_SIZE or number == len(shapes) - 1:
            weight_map |= _write_shard(directory, f"model-{number:05d}.safetensors", shard)
            shard, size = {}, 0
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


def measure(who: str, directory: Path, dtype: str, *logits: Path) -> dict[str, float]:
    """Runs this file in a process of its own."""
    root = Path(__file__).parents[2]
    program = [sys.executable, __file__, who, str(directory), dtype, *map(str, logits)]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def make_inputs(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """A prompt with one picture, as a processor gives it."""
    rng = np.random.default_rng(1)
    words = rng.integers(0, min(config["vocab_size"], config["image_token_id"]), 24)
    num_patches = math.prod(GRID)
    picture = [
        config["vision_start_token_id"],
        *[config["image_token_id"]] * (num_patches // 4),
        config["vision_end_token_id"],
    ]
    token_BT = np.array([[*words[:4], *picture, *words[4:]]])
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
    from r1vl_jax.checkpoint.hf.load import load_params, read_config
    from r1vl_jax.checkpoint.pretrained import Pretrained
    from r1vl_jax.models.qwen2_vl.model import Definition
    from r1vl_jax.sharding import rules

    definition = Definition(read_config(str(directory)), dtype=dtype)
    mesh = make_mesh(config.Mesh(), jax.devices()[:1])
    placement = rules.shardings(definition.abstract_params(), mesh)
    model = Pretrained(definition, load_params(str(directory), definition, placement=placement, dtype=dtype))
    return lambda **inputs: np.asarray(model(**inputs)[0, -1])


def _transformers(directory: Path, dtype: str) -> Callable[..., np.ndarray]:
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    torch_model = Qwen2VLForConditionalGeneration.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()

    def logits(**inputs: np.ndarray) -> np.ndarray:
        given = {name: torch.as_tensor(array) for name, array in inputs.items()}
        with torch.no_grad():
            return torch_model(**given, logits_to_keep=1).logits[0, -1].float().numpy()

    return logits


def main(who: str, directory: str, dtype: str, *logits: str) -> None:
    start = time.perf_counter()
    model = {"ours": _ours, "transformers": _transformers}[who](Path(directory), dtype)
    figures = {"load_s": time.perf_counter() - start, "peak_load_gib": peak_memory_gib()}
    for file in logits:
        inputs = make_inputs(json.loads((Path(directory) / "config.json").read_text()))
        for name in ("first_forward_s", "forward_s"):
            start = time.perf_counter()
            np.save(file, model(**inputs))
            figures[name] = time.perf_counter() - start
    print(json.dumps(figures | {"peak_gib": peak_memory_gib()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
