"""One warm-up and one StepGRPO update of an adapter on a base of the true 2B sizes, with random weights.

python -m pytest -m slow -s tests/integration/test_lora_2b.py
"""

import dataclasses
import resource
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1vl_jax import losses
from r1vl_jax.arrays import Completions, PackedVision, Params, PromptBatch, SFTBatch, TrainBatch, TrainRows
from r1vl_jax.config import Model, Optim
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import compute_logps
from r1vl_jax.learner.optimizer import optimizer
from r1vl_jax.learner.steps import sft_step, step_grpo_step
from r1vl_jax.models.qwen2_vl.config import PRESETS
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import combine, make_lora, partition

MODEL = Model(preset="2b", dtype="bfloat16", lora_r=16, lora_target_modules=("q_proj", "v_proj", "qkv"))
CONFIG = PRESETS["2b"]
BASE = Definition(CONFIG, dtype="bfloat16")
DEFINITION = dataclasses.replace(BASE, lora=make_lora(BASE, MODEL))
NUM_GENERATIONS, LENGTH, ROWS = 2, 16, 16  # a picture of 16 x 16 patches


def make_prompt() -> PromptBatch:
    """A picture of 224 x 224 pixels, which is 64 features, and 16 words behind it."""
    row, column = (axis.reshape(-1) for axis in np.mgrid[:ROWS, :ROWS].reshape(2, ROWS // 2, 2, -1, 2).swapaxes(2, 3))
    num_features = ROWS * ROWS // 4
    token = [CONFIG.vision_start_token_id, *[CONFIG.image_token_id] * num_features, CONFIG.vision_end_token_id]
    token_PS = np.array([token + list(range(1000, 1016))], np.int32)
    feature_index_PS = np.full_like(token_PS, -1)
    feature_index_PS[token_PS == CONFIG.image_token_id] = np.arange(num_features)
    length = token_PS.shape[1]
    return PromptBatch(
        token_PS,
        np.ones_like(token_PS, bool),
        np.broadcast_to(np.arange(length, dtype=np.int32), (3, 1, length)),
        feature_index_PS,
        np.array([length], np.int32),
        np.zeros(1, np.int32),
        PackedVision(
            np.random.default_rng(0).normal(size=(1, ROWS * ROWS, CONFIG.vision.patch_dim)).astype(np.float32),
            np.ones((1, ROWS * ROWS), np.int32),
            np.stack([row, column], axis=-1)[None].astype(np.int32),
        ),
    )


def make_completions(num_rows: int) -> Completions:
    token_BT = np.arange(num_rows * LENGTH, dtype=np.int32).reshape(num_rows, LENGTH)
    return Completions(token_BT, np.ones_like(token_BT, bool))


def make_params() -> tuple[Params, Params]:
    """A fresh adapter, and a base drawn leaf by leaf in bfloat16, so that it is never there in float32."""
    trained = jax.jit(lambda key: partition(DEFINITION.init(key), MODEL)[0])(jax.random.key(0))
    draw = jax.jit(lambda key, shape: 0.02 * jax.random.normal(key, shape, jnp.bfloat16), static_argnums=1)

    def leaf(path: tuple, abstract: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name.endswith((".kernel", ".embedding")):
            return draw(jax.random.key(zlib.crc32(name.encode())), abstract.shape)
        return jnp.full(abstract.shape, name.endswith(".scale"), jnp.bfloat16)

    return trained, jax.tree_util.tree_map_with_path(leaf, BASE.abstract_params())


def report(name: str, start: float) -> None:
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:16} {time.monotonic() - start:7.1f} s   peak {peak_gib:5.2f} GiB", flush=True)


@pytest.mark.slow
def test_updates_of_an_adapter_on_2b_stay_below_20_gib():
    def timed(name, function, *args):
        start = time.monotonic()
        result = jax.block_until_ready(function(*args))
        report(name, start)
        return result

    trained, frozen = timed("initial params", make_params)
    fresh = jax.tree.map(jnp.copy, trained)
    learner = Learner(DEFINITION, optimizer(Optim(learning_rate=1e-3), 10, trained), chunk_size=64)
    prompt = make_prompt()

    state, metrics = timed(
        "warm-up update", sft_step, learner, learner.init(trained), frozen, SFTBatch(prompt, make_completions(1))
    )
    assert np.isfinite(metrics["loss"])

    completions = make_completions(NUM_GENERATIONS)
    ref_logp_BT, _ = timed("reference", compute_logps, learner, combine(fresh, frozen), prompt, completions)
    advantage_B = losses.group_advantage(jnp.array([[0.0, 1.0]]), scale_rewards="group").reshape(-1)
    advantage_BT = jnp.broadcast_to(advantage_B[:, None], ref_logp_BT.shape)
    rows = TrainRows(completions, advantage_BT, ref_logp_BT, ref_logp_BT)
    state, metrics = timed("StepGRPO update", step_grpo_step, learner, state, frozen, TrainBatch(prompt, rows))
    assert np.isfinite(metrics["loss"])
    assert metrics["num_skipped"] == 0
    moved = jax.tree.map(lambda new, old: bool(np.any(new != old)), state.params, fresh)
    assert all(jax.tree.leaves(moved))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 20 * 2**20
