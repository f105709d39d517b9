"""Rollouts: dynamic sampling, and what one generation hands to several updates; the model is made up."""

import contextlib
import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small import DEFINITION, EOS, make_params, make_prompts

from r1vl_jax.arrays import Completions, SampledRows
from r1vl_jax.config import Loss
from r1vl_jax.learner import logprobs
from r1vl_jax.learner.advantages import GroupRewards
from r1vl_jax.learner.learner import Learner
from r1vl_jax.rewards import StepReward
from r1vl_jax.rewards.weighted_sum import RewardOutput
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.methods import Greedy, Temperature
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.training import rollouts
from r1vl_jax.training.rollout_batch import RolloutBatch
from r1vl_jax.training.rollouts import RolloutWorker

P, G, T = 2, 2, 3


def make_batch(first_record: int, reward_PG, width: int = 1) -> RolloutBatch:
    """Rows whose tokens and rewards tell from which record they are."""
    records = [first_record, first_record + 1]
    row = np.repeat(records, G)
    mask = np.arange(T)[None] < (1 + np.arange(P * G) % T)[:, None]
    logp = np.tile(row[:, None], T).astype(np.float32)
    sampled = SampledRows(Completions(np.tile(row[:, None], T), mask), np.ones(P * G, bool), logp, logp, None, None)
    fields = [np.float32(row)] * 4 + [row > 0] * 4
    reward = StepReward(*fields, np.tile(row[:, None], width), np.ones((P * G, width), np.float32))
    rewards = RewardOutput(reward, {"own": np.float32(row)}, np.float32(row), row < 0, row < 0)
    prompts, own = make_prompts(P), (sampled.completions, sampled.has_ended_B)
    group_rewards = GroupRewards(np.float32(reward_PG), None)
    num_tokens = int(prompts.mask_PS.sum())
    return RolloutBatch(records, prompts, sampled, *own, rewards, group_rewards, num_tokens, T)


class PreparedWorker(RolloutWorker):
    """Gives prepared batches, and notes the keys they were asked with."""

    def prepare(self, *batches: RolloutBatch) -> "PreparedWorker":
        object.__setattr__(self, "batches", list(batches))
        object.__setattr__(self, "keys", [])
        return self

    def _roll_out(self, params, keys):
        self.keys.extend(jax.random.key_data(key).tolist() for key in keys)
        return [self.batches.pop(0) for _ in keys]


LOADER = types.SimpleNamespace(
    batch=lambda records: make_prompts(P), process_local_rows=lambda tree: tree, shard_batch=lambda bundle: bundle
)


def make_worker(cls=RolloutWorker, **settings) -> RolloutWorker:
    fields = {
        "learner": types.SimpleNamespace(loss=Loss()),
        "sampler": None,
        "rewarder": None,
        "reference_params": None,
        "stream": None,
        "loader": LOADER,
        "timers": lambda name: contextlib.nullcontext(),
        "seed": 0,
        "completion_bucket": 0,
    }
    return cls(**(fields | settings))


@pytest.fixture
def worker():
    def make(**settings) -> PreparedWorker:
        return make_worker(PreparedWorker, learner=types.SimpleNamespace(loss=Loss(**settings)))

    return make


EQUAL, SPREAD = [1, 1], [0, 1]


def test_zero_std_groups_are_resampled(worker):
    prepared = worker(dynamic_sample=True).prepare(
        make_batch(0, [EQUAL, SPREAD]), make_batch(2, [EQUAL, EQUAL], width=3), make_batch(4, [SPREAD, SPREAD])
    )
    ((batch, metrics, update),) = prepared.generate({}, step=1)
    assert batch.records == [1, 4]
    assert metrics.metrics["sampling/num_rollouts"] == 3
    np.testing.assert_array_equal(batch.rewards.custom["own"], [1, 1, 4, 4])
    np.testing.assert_array_equal(batch.reward_PG, [SPREAD, SPREAD])
    np.testing.assert_array_equal(update.rows.completions.token_BT[:, 0], [1, 1, 4, 4])
    np.testing.assert_array_equal(batch.rewards.reward.section_end_BJ, [[1, -1, -1]] * 2 + [[4, -1, -1]] * 2)
    assert len({tuple(key) for key in prepared.keys}) == 3  # no draw repeats another's noise


def test_after_the_last_resampling_zero_std_groups_fill_up(worker):
    prepared = worker(dynamic_sample=True, max_resample_times=1).prepare(
        make_batch(0, [EQUAL, EQUAL]), make_batch(2, [EQUAL, SPREAD])
    )
    ((batch, _, _),) = prepared.generate({}, step=1)
    assert batch.records == [3, 0]


@pytest.mark.parametrize(("is_dynamic", "rewards"), [(True, [SPREAD, SPREAD]), (False, [EQUAL, EQUAL])])
def test_one_batch_is_enough(worker, is_dynamic, rewards):
    ((batch, _, _),) = worker(dynamic_sample=is_dynamic).prepare(make_batch(0, rewards)).generate({}, step=1)
    assert batch.records == [0, 1]
    assert batch.num_rollouts == 1


@pytest.mark.parametrize(("loss_type", "denominators"), [("grpo", [4, 4]), ("dapo", [14, 14]), ("bnpo", [7, 7])])
def test_a_generation_feeds_several_updates(worker, loss_type, denominators):
    """The spread of rewards is that of the whole generation; so are the tokens that dapo divides by."""
    prepared = worker(steps_per_generation=2, loss_type=loss_type, scale_rewards="batch")
    outputs = prepared.prepare(make_batch(0, [[0, 1], [0, 1]]), make_batch(2, [[0, 9], [0, 9]])).generate({}, step=5)
    spread = np.std([0, 1, 0, 1, 0, 9, 0, 9], ddof=1)
    for (batch, _, update), size, wanted in zip(outputs, (1, 9), denominators, strict=True):
        np.testing.assert_allclose(update.rows.advantage_BT[:2, 0], [-size / 2 / spread, size / 2 / spread], rtol=1e-3)
        np.testing.assert_array_equal(update.rows.completions.token_BT, batch.sampled.completions.token_BT)
        np.testing.assert_array_equal(update.rows.old_logp_BT, batch.sampled.policy_logp_BT)
        assert update.denominator == wanted


def test_an_update_is_as_wide_as_the_longest_completion_needs(worker):
    """What the sum is divided by stays that of the limit of length."""
    narrow = dataclasses.replace(make_batch(0, [SPREAD, SPREAD]), num_columns=2)
    ((batch, _, update),) = worker(loss_type="dr_grpo").prepare(narrow).generate({}, step=1)
    assert {leaf.shape for leaf in jax.tree.leaves(update.rows)} == {(P * G, 2)}
    np.testing.assert_array_equal(update.rows.completions.mask_BT, batch.completions.mask_BT[:, :2])
    assert update.denominator == P * G * T


def test_short_completions_are_scored_without_the_columns_behind_them(monkeypatch):
    params, limit = make_params(scale=0.1), 16
    sampler = Sampler(DEFINITION, Temperature(1.0), G, limit, tuple(range(8)), ())
    prompts, rewards = make_prompts(P), make_batch(0, [SPREAD, SPREAD]).rewards
    rollout = sample(sampler, params, prompts, jax.random.key(0))
    longest = int(np.asarray(rollout.completions.mask_BT).sum(1).max())
    widths = []

    def spy(learner, params, reference, prompts, rollout):
        widths.append(rollout.completions.token_BT.shape[1])
        return logprobs.add_reference_logps(learner, params, reference, prompts, rollout)

    class Rewarder:
        spec, vocabulary = None, None

        def __call__(self, completions, records):
            return rewards

    def scored(bucket: int) -> RolloutBatch:
        learner = Learner(DEFINITION, optax.sgd(0.1), chunk_size=16, loss=Loss(beta=0.1, num_iterations=2))
        worker = make_worker(
            learner=learner, sampler=sampler, rewarder=Rewarder(), reference_params=params, completion_bucket=bucket
        )
        return worker._add_logps_and_rewards(params, rollouts._Prompts([0, 1], prompts, 0), rollout)

    monkeypatch.setattr(rollouts, "add_reference_logps", spy)
    whole, short, coarse = (scored(bucket) for bucket in (0, 4, 10))
    assert 4 < longest <= 8
    assert widths == [whole.num_columns, short.num_columns, coarse.num_columns] == [16, 8, 10]
    assert short.completions.token_BT.shape == (P * G, limit)  # rewards are given for all columns
    for wanted, actual in zip(jax.tree.leaves(whole.sampled), jax.tree.leaves(short.sampled), strict=True):
        assert wanted.shape == actual.shape
    np.testing.assert_array_equal(whole.sampled.completions.mask_BT, short.sampled.completions.mask_BT)
    for name in ("ref_logp_BT", "policy_logp_BT", "entropy_BT"):
        wanted, actual = getattr(whole.sampled, name), getattr(short.sampled, name)
        assert np.abs(wanted).max() > 0
        np.testing.assert_allclose(actual, wanted, atol=1e-5)


def test_the_samplers_parameters_are_freed_before_completions_are_scored(monkeypatch):
    """Several rollouts share one copy, made in the first of them.

    Nothing else with the shape of one layer's matrix is on the devices.
    """
    matrix = DEFINITION.config.hidden_size, DEFINITION.config.intermediate_size
    num_matrices = {"sample": [], "score": []}

    def counting(name, then):
        def count(*arguments, **settings):
            num_matrices[name].append(sum(array.shape == matrix for array in jax.live_arrays()))
            return then(*arguments, **settings)

        return count

    class Scored(Exception):
        pass

    def stop(*_):
        raise Scored

    monkeypatch.setattr(rollouts, "sample", counting("sample", rollouts.sample))
    monkeypatch.setattr(rollouts, "add_reference_logps", counting("score", stop))
    sampler = Sampler(DEFINITION, Greedy(), G, T, (EOS,), ())
    worker = make_worker(sampler=sampler, stream=iter([([], make_prompts(P))] * 2))
    before = sum(array.shape == matrix for array in jax.live_arrays())
    with pytest.raises(Scored):
        worker._roll_out(make_params(), [jax.random.key(0), jax.random.key(1)])
    of_copy = 2 * DEFINITION.config.num_hidden_layers + 1  # gate and up projections; the head is as large
    assert num_matrices == {"sample": [before, before + of_copy], "score": [before]}


def test_prompts_go_to_the_devices_once_an_update():
    """The pictures of the update's batch are the arrays that sampling and scoring read."""
    placed = []

    def shard_batch(bundle):
        placed.append(type(bundle).__name__)
        return jax.tree.map(jnp.asarray, bundle)

    loader = types.SimpleNamespace(process_local_rows=lambda tree: tree, shard_batch=shard_batch)
    worker = make_worker(stream=iter([([0, 1], make_prompts(P))]), loader=loader)
    prompts = worker._next_prompts()
    assert placed == ["PromptBatch"]
    batch = dataclasses.replace(make_batch(0, [SPREAD, SPREAD]), prompts=prompts.batch)
    prepared = make_worker(PreparedWorker, loader=loader).prepare(batch)
    ((_, _, update),) = prepared.generate({}, step=1)
    assert placed == ["PromptBatch", "GroupRewards"]
    assert update.prompts.vision.patch_ZMC is prompts.batch.vision.patch_ZMC
