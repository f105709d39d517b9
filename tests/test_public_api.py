"""What the README promises to other projects: every public name imports, and does its work when it is called."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small import CONFIG, VOCAB_SIZE, make_params

import r1vl_jax
from r1vl_jax import losses, rewards
from r1vl_jax.checkpoint.hf.config import to_hf
from r1vl_jax.checkpoint.hf.export import MAX_SHARD_SIZE, write_weights
from r1vl_jax.data.images import load_image_processor
from r1vl_jax.data.processor import Processor
from r1vl_jax.data.tokenizer import train_tokenizer
from r1vl_jax.rewards.text import Vocabulary

MASK = np.array([[True, True, True], [True, True, False]])
LOGP = np.where(MASK, -1.0, 0.0).astype(np.float32)
# name -> a call, and what comes of it
LOSSES = {
    "OVER_GENERATION": (lambda f: sorted(f), ["cispo", "dapo"]),
    "denominator": (lambda f: f(MASK, loss_type="grpo", max_completion_length=3), 2),
    "egsw_weight": (
        lambda f: f(
            np.zeros(2, np.float32),
            LOGP,
            MASK,
            num_generations=2,
            entropy_weight=0.0,
            temperature=1.0,
            level="trajectory",
        ),
        MASK.astype(np.float32),
    ),
    "group_advantage": (lambda f: f(np.float32([[0, 2]])), [[-(0.5**0.5), 0.5**0.5]]),
    "mask_truncated": (lambda f: f(MASK, np.array([True, False])), MASK & [[True], [False]]),
    "section_of_token": (lambda f: f(np.array([[1, 3]]), np.array([[1, 2, 0]]))[0], [[0, 1, 1]]),
    "soft_overlong_penalty": (lambda f: f(np.array([2, 4]), max_completion_length=4, soft_punish_cache=2), [0, -1]),
    "step_advantage": (
        lambda f: f(np.float32([[0], [2]]), np.zeros((2, 1), int), np.ones(2, int), num_generations=2),
        [[-(0.5**0.5)], [0.5**0.5]],
    ),
    "step_grpo": (lambda f: f(LOGP, MASK, np.float32([1, -1]), ref_logp_BT=LOGP, beta=0.04)[0], 0.0),
    "supervised": (lambda f: f(LOGP, MASK)[0], 1.0),
    "token_logp": (
        lambda f: f(np.zeros((1, 1, 4), np.float32), np.zeros((4, 8), np.float32), np.zeros((1, 1), int), chunk_size=1)[
            0
        ],
        [[-np.log(8)]],
    ),
}


def test_all_of_losses_is_listed_here():
    assert set(LOSSES) == set(losses.__all__)


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str):
    call, wanted = LOSSES[name]
    actual = call(getattr(losses, name))
    if isinstance(wanted, list) and isinstance(wanted[0], str):
        assert actual == wanted
    else:
        np.testing.assert_allclose(actual, wanted, atol=1e-3)


def test_rewards_of_strings_and_a_judge():
    with rewards.Judge() as judge:
        reward = rewards.score(["### The final answer is:\n53"], [{"answer": "53", "key_steps": []}], judge=judge)
    assert reward.answer_correct.tolist() == [True]


def test_rewards_of_tokens_by_kernels():
    text = b"### The final answer is:\n53"
    vocabulary = Vocabulary(np.array([0, len(text)]), np.frombuffer(text, np.uint8))
    byte_BU, length_B, _, overflow_B = rewards.text.token_bytes(
        jnp.zeros((1, 1), int), jnp.ones((1, 1), bool), vocabulary, max_bytes=64
    )
    targets = rewards.pack([{"answer": "53", "key_steps": []}], semantics="paper")
    reward = rewards.kernels.step_reward(byte_BU, length_B, *targets, semantics="paper", alpha=0.1)
    assert not overflow_B.any()
    assert np.asarray(reward.answer_correct).tolist() == [True]


def brevity(prompts, completions, **columns) -> list[float]:
    return [-float(len(completion)) for completion in completions]


def test_a_reward_of_ones_own():
    (function,) = rewards.custom.load((f"{__name__}:brevity",), (0.1,))
    assert function.name == "brevity"


def test_a_checkpoint_is_loaded_and_called(tmp_path):
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(make_params())
    }
    (tmp_path / "config.json").write_text(json.dumps(to_hf(CONFIG)))
    write_weights(tmp_path, CONFIG, flat.__getitem__, dtype="float32", max_shard_size=MAX_SHARD_SIZE)
    logits_BTV = r1vl_jax.load(str(tmp_path))(input_ids=np.array([[9, 10, 11]]))
    assert logits_BTV.shape == (1, 3, VOCAB_SIZE)


def test_the_processor_gives_the_models_inputs():
    processor = Processor(train_tokenizer(["1 + 1 = 2"] * 9), load_image_processor(min_pixels=784, max_pixels=784))
    inputs = processor(["1 + 1"])
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape


@pytest.mark.parametrize("program", ["train", "generate", "aot", "checkpoint.hf_export", "report"])
def test_programs_say_how_they_are_called(program: str):
    ended = subprocess.run([sys.executable, "-m", f"r1vl_jax.{program}", "--help"], capture_output=True, text=True)
    assert "Traceback" not in ended.stderr
    assert any(flag in ended.stdout for flag in ("--config", "--run", "--model"))
