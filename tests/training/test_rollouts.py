"""Drawing again for groups of equal rewards, and what one generation hands to several updates; the model is made up."""

import contextlib
import dataclasses
import types

import jax
import numpy as np
import optax
import pytest
from helpers.small import DEFINITION, EOS, make_params, make_prompts

from r1vl_jax.arrays import Completions, SampledRows
from r1vl_jax.config import Loss
from r1vl_jax.learner import logprobs
from r1vl_jax.learner.learner import Learner
from r1vl_jax.rewards import StepReward
from r1vl_jax.rewards.weighted_sum import RewardOutput
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.methods import Greedy, Temperature
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.training import rollouts
from r1vl_jax.training.rollouts import RolloutBatch, RolloutWorker

P, G, T = 2, 2, 3


def made_up_draw(first_record: int, reward_PG, width: int = 1) -> RolloutBatch:
    """Rows whose tokens and rewards tell from which record they are."""
    records = [first_record, first_record + 1]
    row = np.repeat(records, G)
    mask = np.arange(T)[None] < (1 + np.arange(P * G) % T)[:, None]
    logp = np.tile(row[:, None], T).astype(np.float32)
    sampled = SampledRows(Completions(np.tile(row[:, None], T), mask), np.ones(P * G, bool), logp, logp, None, None)
    parts = [np.float32(row)] * 4 + [row > 0] * 4
    reward = StepReward(*parts, np.tile(row[:, None], width), np.ones((P * G, width), np.float32))
    earned = RewardOutput(reward, {"own": np.float32(row)}, np.float32(row), row < 0, row < 0)
    prompts, own = make_prompts(P), (sampled.completions, sampled.has_ended_B)
    return RolloutBatch(records, prompts, sampled, *own, earned, np.float32(reward_PG), T)


class MadeUp(RolloutWorker):
    """Gives prepared draws, and notes the keys they were asked with."""

    def prepare(self, *draws: RolloutBatch) -> "MadeUp":
        object.__setattr__(self, "draws", list(draws))
        object.__setattr__(self, "keys", [])
        return self

    def _draw(self, params, keys):
        self.keys.extend(jax.random.key_data(key).tolist() for key in keys)
        return [self.draws.pop(0) for _ in keys]


@pytest.fixture
def generator():
    def make(**settings) -> MadeUp:
        parts = types.SimpleNamespace(
            encoder=types.SimpleNamespace(prompt=lambda record: record),
            batch=lambda encoded: make_prompts(P),
            own_rows=lambda tree: tree,
            divide=lambda bundle: bundle,
        )
        run = types.SimpleNamespace(
            timers=lambda name: contextlib.nullcontext(),
            parts=parts,
            key=lambda step: jax.random.fold_in(jax.random.key(0), step),
            config=types.SimpleNamespace(train=types.SimpleNamespace(completion_bucket=0)),
        )
        return MadeUp(run, types.SimpleNamespace(loss=Loss(**settings)), None, None, None)

    return make


EQUAL, SPREAD = [1, 1], [0, 1]


def test_groups_without_spread_are_replaced(generator):
    made_up = generator(dynamic_sample=True).prepare(
        made_up_draw(0, [EQUAL, SPREAD]), made_up_draw(2, [EQUAL, EQUAL], width=3), made_up_draw(4, [SPREAD, SPREAD])
    )
    ((draw, figures, batch),) = made_up.generate({}, step=1)
    assert draw.records == [1, 4]
    assert figures.metrics["sampling/num_draws"] == 3
    np.testing.assert_array_equal(draw.rewards.custom["own"], [1, 1, 4, 4])
    np.testing.assert_array_equal(draw.reward_PG, [SPREAD, SPREAD])
    np.testing.assert_array_equal(batch.rows.completions.token_BT[:, 0], [1, 1, 4, 4])
    np.testing.assert_array_equal(draw.rewards.reward.section_end_BJ, [[1, -1, -1]] * 2 + [[4, -1, -1]] * 2)
    assert len({tuple(key) for key in made_up.keys}) == 3  # no draw repeats another's noise


def test_what_is_lacking_in_the_end_has_no_spread(generator):
    made_up = generator(dynamic_sample=True, max_resample_times=1).prepare(
        made_up_draw(0, [EQUAL, EQUAL]), made_up_draw(2, [EQUAL, SPREAD])
    )
    ((draw, _, _),) = made_up.generate({}, step=1)
    assert draw.records == [3, 0]


@pytest.mark.parametrize(("is_dynamic", "rewards"), [(True, [SPREAD, SPREAD]), (False, [EQUAL, EQUAL])])
def test_one_draw_is_enough(generator, is_dynamic, rewards):
    ((draw, _, _),) = generator(dynamic_sample=is_dynamic).prepare(made_up_draw(0, rewards)).generate({}, step=1)
    assert draw.records == [0, 1]
    assert draw.num_draws == 1


@pytest.mark.parametrize(("loss_type", "denominators"), [("grpo", [4, 4]), ("dapo", [14, 14]), ("bnpo", [7, 7])])
def test_a_generation_feeds_several_updates(generator, loss_type, denominators):
    """The spread of rewards is that of the whole generation; so are the tokens that dapo divides by."""
    made_up = generator(steps_per_generation=2, loss_type=loss_type, scale_rewards="batch")
    pairs = made_up.prepare(made_up_draw(0, [[0, 1], [0, 1]]), made_up_draw(2, [[0, 9], [0, 9]])).generate({}, step=5)
    spread = np.std([0, 1, 0, 1, 0, 9, 0, 9], ddof=1)
    for (draw, _, batch), size, wanted in zip(pairs, (1, 9), denominators, strict=True):
        np.testing.assert_allclose(batch.rows.advantage_BT[:2, 0], [-size / 2 / spread, size / 2 / spread], rtol=1e-3)
        np.testing.assert_array_equal(batch.rows.completions.token_BT, draw.sampled.completions.token_BT)
        np.testing.assert_array_equal(batch.rows.old_logp_BT, draw.sampled.policy_logp_BT)
        assert batch.denominator == wanted


def test_an_update_is_as_wide_as_the_longest_completion_needs(generator):
    """What the sum is divided by stays that of the limit of length."""
    narrow = dataclasses.replace(made_up_draw(0, [SPREAD, SPREAD]), width=2)
    ((draw, _, batch),) = generator(loss_type="dr_grpo").prepare(narrow).generate({}, step=1)
    assert {leaf.shape for leaf in jax.tree.leaves(batch.rows)} == {(P * G, 2)}
    np.testing.assert_array_equal(batch.rows.completions.mask_BT, draw.completions.mask_BT[:, :2])
    assert batch.denominator == P * G * T


def test_short_completions_are_scored_without_the_columns_behind_them(generator, monkeypatch):
    params, limit = make_params(scale=0.1), 16
    sampler = Sampler(DEFINITION, Temperature(1.0), G, limit, tuple(range(8)), ())
    prompts, nothing = make_prompts(P), made_up_draw(0, [SPREAD, SPREAD]).rewards
    rollout = sample(sampler, params, prompts, jax.random.key(0))
    longest = int(np.asarray(rollout.completions.mask_BT).sum(1).max())
    widths = []

    def refer(learner, params, reference, prompts, rollout):
        widths.append(rollout.completions.token_BT.shape[1])
        return logprobs.add_reference_logps(learner, params, reference, prompts, rollout)

    def scored(bucket: int) -> RolloutBatch:
        run = generator().run
        run.rewarder = lambda completions, records: nothing
        run.config.train.completion_bucket = bucket
        learner = Learner(DEFINITION, optax.sgd(0.1), chunk_size=16, loss=Loss(beta=0.1, num_iterations=2))
        return RolloutWorker(run, learner, sampler, params, None)._earned(params, [0, 1], prompts, prompts, rollout)

    monkeypatch.setattr(rollouts, "add_reference_logps", refer)
    whole, short, coarse = (scored(bucket) for bucket in (0, 4, 10))
    assert 4 < longest <= 8
    assert widths == [whole.width, short.width, coarse.width] == [16, 8, 10]
    assert short.completions.token_BT.shape == (P * G, limit)  # rewards are given for all columns
    for wanted, actual in zip(jax.tree.leaves(whole.sampled), jax.tree.leaves(short.sampled), strict=True):
        assert wanted.shape == actual.shape
    np.testing.assert_array_equal(whole.sampled.completions.mask_BT, short.sampled.completions.mask_BT)
    for name in ("ref_logp_BT", "policy_logp_BT", "entropy_BT"):
        wanted, actual = getattr(whole.sampled, name), getattr(short.sampled, name)
        assert np.abs(wanted).max() > 0
        np.testing.assert_allclose(actual, wanted, atol=1e-5)


def test_the_copy_of_the_parameters_is_gone_when_completions_are_scored(generator, monkeypatch):
    """Several draws share one copy, made in the first of them.

    Nothing else with the shape of one layer's matrix is on the devices.
    """
    matrix = DEFINITION.config.hidden_size, DEFINITION.config.intermediate_size
    num_matrices = {"sample": [], "refer": []}

    def counting(name, then):
        def count(*arguments, **settings):
            num_matrices[name].append(sum(array.shape == matrix for array in jax.live_arrays()))
            return then(*arguments, **settings)

        return count

    class Scored(Exception):
        pass

    def refer(*_):
        raise Scored

    monkeypatch.setattr(rollouts, "sample", counting("sample", rollouts.sample))
    monkeypatch.setattr(rollouts, "add_reference_logps", counting("refer", refer))
    made_up = generator()
    made_up.run.components.shard_batch = lambda prompts: prompts
    sampler = Sampler(DEFINITION, Greedy(), G, T, (EOS,), ())
    real = RolloutWorker(made_up.run, made_up.learner, sampler, None, iter([([], make_prompts(P))] * 2))
    before = sum(array.shape == matrix for array in jax.live_arrays())
    with pytest.raises(Scored):
        real._draw(make_params(), [jax.random.key(0), jax.random.key(1)])
    of_copy = 2 * DEFINITION.config.num_hidden_layers + 1  # what makes MLP columns: gate and up; the head is as large
    assert num_matrices == {"sample": [before, before + of_copy], "refer": [before]}
