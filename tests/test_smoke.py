"""The few things that must work with the newest Python and JAX: import, losses, rewards, and a run of both stages."""

import jax.numpy as jnp
import numpy as np
from helpers import tiny_run

from r1vl_jax import losses, response_format, rewards
from r1vl_jax.config import resolve
from r1vl_jax.train import run


def test_advantages_compare_within_groups():
    advantage_PG = losses.group_advantage(jnp.array([[0.0, 2.0], [1.0, 1.0]]))
    np.testing.assert_allclose(advantage_PG, [[-(0.5**0.5), 0.5**0.5], [0.0, 0.0]], rtol=1e-3)


def test_a_right_completion_gets_a_higher_reward():
    record = {"problem": "What is 1+2?", "answer": "3", "kind": "expression", "key_steps": [["1+2=3"]]}
    right = response_format.compose("A sum.", "Add them.", ["1 + 2 = 3."], "3")
    reward = rewards.score([right, "I do not know."], [record, record])
    assert reward.answer_correct.tolist() == [True, False]


def test_all_stages_run(quick, tmp_path):
    config = tiny_run.settings(tmp_path / "run", tmp_path / "data")
    config.train.stages = ("vision_pretrain", "warmup", "step_grpo")
    config.data.vision_pretrain_records, config.vision_pretrain.max_steps, config.vision_pretrain.batch_size = 8, 1, 4
    summary = run(resolve(config))
    assert summary["accuracy"].keys() == {"start", "warmup", "step_grpo"}
    assert summary["max_logp_difference"] <= 1e-4
