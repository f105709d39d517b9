"""What the stage hands to sampler, scorer and learner; these are replaced by spies, so nothing is compiled."""

import contextlib
import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from helpers.small import DEFINITION

from r1vl_jax import observe
from r1vl_jax.arrays import Completions, Rollout
from r1vl_jax.config import default, resolve
from r1vl_jax.data.records import Record
from r1vl_jax.learner import logprobs
from r1vl_jax.learner.learner import TrainState
from r1vl_jax.observe.completions import read_completions
from r1vl_jax.observe.metrics import read_lines
from r1vl_jax.rewards.text import Vocabulary
from r1vl_jax.rewards.weighted_sum import RewardSpec
from r1vl_jax.training import rollouts
from r1vl_jax.training import step_grpo as stages
from r1vl_jax.training.loop import Run, step_key
from r1vl_jax.training.rewarder import Rewarder

PATH = "### Image Description:\n1\n\n### Rationales:\nr\n\n### Step 1:\n1+1=2\n\n### The final answer is:\n2"
RECORD = Record("r", (), "?", PATH, "2", (("1+1=2",),), "", "sum", "hand")
TEXTS = [PATH, PATH[:-1] + "3", "### The final answer is:\n2", ""]  # 2.1, 1.1, 1.0, 0.0
VOCABULARY = Vocabulary(  # a token for each text, and one without any
    np.cumsum([0, *map(len, TEXTS), 0]), np.frombuffer("".join(TEXTS).encode(), np.uint8)
)
COMPLETIONS = Completions(np.array([[0, 4], [1, 4], [2, 4], [3, 4]]), np.ones((4, 2), bool))


W = {"w": jnp.float32(10)}


def step_grpo(run: Run, params: dict) -> dict:
    loader = SimpleNamespace(
        mesh=None,
        splits={"train": [RECORD] * 64},
        prompt_batches=lambda split, batch_size: FakeStream(),
        shard_batch=lambda batch: batch,
        process_local_rows=lambda tree: tree,
    )
    return stages.step_grpo(
        run,
        params,
        definition=DEFINITION,
        loader=loader,  # pyright: ignore[reportArgumentType]
        sampler=None,  # pyright: ignore[reportArgumentType]
        rewarder=Rewarder(RewardSpec(run.config.reward), VOCABULARY, None),
    )


def train(run: Run) -> dict:
    """From the parameters `W`, which stay as they are."""
    return step_grpo(run, jax.tree.map(jnp.copy, W))


class FakeStream:
    """Endless batches of one prompt; its position is how many were drawn."""

    position = 0

    def __next__(self):
        self.position += 1
        return [RECORD], SimpleNamespace(mask_PS=np.ones((1, 3), bool), number=self.position)

    def get_state(self) -> dict:
        return {"drawn": self.position}

    def set_state(self, state: dict):
        self.position = state["drawn"]


@pytest.fixture
def make_run(tmp_path):
    def make(**changes) -> Run:
        config = default()
        config.workdir, config.warmup.max_steps, config.train.max_steps = str(tmp_path), 1, 3
        config.observe.progress, config.observe.log_completions = False, 0
        for name, value in changes.items():
            config.update_from_flattened_dict({name.replace("__", "."): value})
        writer = observe.MetricsWriter(tmp_path, tensorboard=False)
        config = resolve(config)
        return Run(config, None, writer, observe.Timers(), observe.ResourceUsage(tmp_path))  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture
def spies(monkeypatch):
    """Records the calls; the parameter `w` is 10 at first and grows by 1 with every update."""
    calls = SimpleNamespace(prompts=[], sample=[], score=[], update=[], num_skipped=0, completions=COMPLETIONS)

    def sample(sampler, params, prompts, key, *, synced):
        calls.prompts.append(prompts.number)
        calls.sample.append((float(params["w"]), jax.random.key_data(key).tolist()))
        zeros_BT = jnp.zeros(calls.completions.token_BT.shape)
        return Rollout(calls.completions, zeros_BT, zeros_BT, jnp.ones(4, bool), jnp.int32(2))

    def score(learner, params, prompts, completions):
        calls.score.append(float(params["w"]))
        return jnp.full((4, 2), -5.0), None

    def step_grpo_step(learner, state, frozen, batch):
        calls.update.append((learner, batch))
        params = jax.tree.map(lambda leaf: leaf + 1, state.params)
        metrics = {"loss": jnp.zeros(()), "num_skipped": jnp.int32(calls.num_skipped)}
        return TrainState(state.step + 1, params, state.opt_state, state.num_skipped), metrics

    monkeypatch.setattr(rollouts, "sample", sample)
    monkeypatch.setattr(rollouts, "synced_params", lambda sampler, params: contextlib.nullcontext(params))
    monkeypatch.setattr(stages, "shard_state", lambda state, mesh: state)
    monkeypatch.setattr(logprobs, "compute_logps", score)
    monkeypatch.setattr(stages, "step_grpo_step", step_grpo_step)
    return calls


def test_the_key_of_a_step_is_folded_from_the_seed():
    for step in (1, 2, 1_000_003):
        expected = jax.random.fold_in(jax.random.key(7), step)
        np.testing.assert_array_equal(*map(jax.random.key_data, (step_key(7, step), expected)))


def test_the_policy_moves_and_the_reference_stays(make_run, spies):
    params = train(make_run())
    assert [w for w, _ in spies.sample] == [10, 11, 12]
    assert spies.score == [10, 10, 10]
    assert params["w"] == 13


def test_the_reference_is_kept_in_the_dtype_of_the_computation(make_run, spies):
    step_grpo(make_run(model__dtype="bfloat16"), {"w": jnp.float32(10.01)})
    assert spies.sample[0][0] == pytest.approx(10.01)
    assert spies.score == [10, 10, 10]


def test_the_sampling_key_depends_on_seed_and_step(make_run, spies):
    train(make_run())
    keys = [key for _, key in spies.sample]
    assert keys == [jax.random.key_data(step_key(0, step)).tolist() for step in (1, 2, 3)]
    assert len({*map(tuple, keys)}) == 3
    assert jax.random.key_data(step_key(1, 1)).tolist() != keys[0]


def test_the_settings_reach_the_update(make_run, spies):
    changes = {"loss__beta": 0.5, "train__micro_batches": 2, "loss__logp_chunk_size": 7, "sampling__temperature": 0.7}
    train(make_run(**changes, loss__temperature_in_loss=True))
    learner, batch = spies.update[0]
    assert (learner.loss.beta, learner.micro_batches, learner.chunk_size, learner.temperature) == (0.5, 2, 7, 0.7)
    np.testing.assert_array_equal(batch.rows.ref_logp_BT, np.full((4, 2), -5.0))
    assert not learner.gradient_cosine


def test_two_halves_are_two_micro_batches(make_run, spies):
    train(make_run(train__gradient_cosine=True))
    learner, _ = spies.update[0]
    assert (learner.gradient_cosine, learner.micro_batches) == (True, 2)


@pytest.mark.parametrize("scale_rewards", ["group", "none"])
def test_advantages_compare_the_samples_of_a_prompt(make_run, spies, scale_rewards):
    train(make_run(loss__scale_rewards=scale_rewards))
    _, batch = spies.update[0]
    reward = np.array([2.1, 1.1, 1.0, 0.0])
    spread = np.std(reward, ddof=1) + 1e-4 if scale_rewards == "group" else 1.0
    np.testing.assert_allclose(batch.rows.advantage_BT[:, 0], (reward - reward.mean()) / spread, atol=1e-6)


def test_what_is_kept_of_short_completions_is_that_of_long_ones(make_run, spies, tmp_path):
    """Two columns hold all completions; the update sees no more."""
    spies.completions = jax.tree.map(lambda array: np.pad(array, ((0, 0), (0, 3))), COMPLETIONS)
    run = make_run(train__completion_bucket=2, train__max_steps=1, observe__log_completions=1)
    train(run)
    _, batch = spies.update[0]
    assert batch.rows.advantage_BT.shape == (4, 2)
    kept = read_completions(epath.Path(tmp_path) / "completions" / "completions_00001.parquet")
    np.testing.assert_allclose([row["advantage"] for row in kept], batch.rows.advantage_BT[:, 0], rtol=1e-6)


def test_too_many_skipped_updates_stop_the_run(make_run, spies):
    spies.num_skipped = 3
    text = "stage step_grpo, step 1: 3 updates had a loss or gradient that is not finite, more than"
    with pytest.raises(FloatingPointError, match=re.escape(text)):
        train(make_run(train__max_skipped_updates=2))


def test_figures_are_written_under_their_step(make_run, spies, tmp_path):
    train(make_run(optim__learning_rate=0.3))
    lines = read_lines(epath.Path(tmp_path) / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.3, 0.2, 0.1])  # linear, to 0 after the last
    assert [line["epoch"] for line in lines] == [0.25, 0.5, 0.75]  # 16 of 64 records each
    assert [line["num_tokens"] for line in lines] == [11, 22, 33]  # 4 completions of 2 tokens, a prompt of 3


def test_the_learning_rate_that_is_written_is_the_one_that_was_used(make_run, spies, tmp_path):
    spies.num_skipped = 1  # the first update was skipped, so the schedule is one behind from the second on
    train(make_run(optim__learning_rate=0.3))
    lines = read_lines(epath.Path(tmp_path) / "metrics.jsonl")
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.3, 0.3, 0.2])


def test_an_alarm_is_logged_and_written(make_run, spies, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(observe, "alarm", lambda lines, **settings: f"{len(lines)} lines" if len(lines) > 2 else None)
    run = make_run(train__max_steps=2, eval__steps=1)
    evaluator = SimpleNamespace(on_validation=lambda params: {"accuracy": 0.5})
    train(dataclasses.replace(run, evaluator=evaluator))
    evaluations = [line for line in read_lines(epath.Path(tmp_path) / "metrics.jsonl") if "eval/alarm" in line]
    assert [(line["step"], line["eval/alarm"]) for line in evaluations] == [(1, 0), (2, 1)]
    assert "ALARM: 4 lines" in caplog.text  # two updates, the evaluation before, and the one just made


def test_a_stage_goes_on_from_its_checkpoint(make_run, spies):
    train(make_run(train__max_steps=2))
    assert train(make_run(train__max_steps=3))["w"] == 13
    assert [w for w, _ in spies.sample] == [10, 11, 12]
    assert spies.score == [10, 10, 10]
    assert spies.prompts == [1, 2, 3]


def test_what_a_checkpoint_replaces_is_no_longer_in_memory(make_run, spies):
    train(make_run(train__max_steps=2))
    initial = jax.tree.map(jnp.copy, W)
    step_grpo(make_run(train__max_steps=3), initial)
    assert initial["w"].is_deleted()
