"""Rollouts of several turns in a whole run: what is learned from, with which advantage, and what is kept."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from helpers import tiny_run, two_turns

from r1vl_jax.arrays import Completions
from r1vl_jax.config import resolve
from r1vl_jax.data import prompts
from r1vl_jax.learner.logprobs import compute_logps
from r1vl_jax.models.trainable import combine
from r1vl_jax.observe.completions import read_completions
from r1vl_jax.train import run
from r1vl_jax.training import step_grpo as stages
from r1vl_jax.training.multi_turn import RolloutFunctionError
from r1vl_jax.training.multi_turn.worker import EpisodeWorker


def recipe(tmp_path_factory, name: str = "roll_out"):
    config = tiny_run.settings(tmp_path_factory.mktemp("run"), tmp_path_factory.getbasetemp() / "multi turn data")
    config.data.max_prompt_length = config.data.prompt_bucket = 192
    config.sampling.temperature = 20.0  # at 1 an untrained model repeats one completion
    config.train.rollout_func = f"helpers.two_turns:{name}"
    config.train.completion_bucket = 0
    config.eval.num_problems, config.eval.steps = 0, 0
    config.warmup.max_steps, config.train.max_steps = 1, 2
    return config


@pytest.fixture
def first_update(quick, tmp_path_factory, monkeypatch):
    """A run of two updates, with what the first was computed from."""
    kept = {"episodes": [], "updates": []}
    step, roll_out = stages.step_grpo_step, EpisodeWorker._roll_out

    def spy_on_step(learner, state, frozen, batch):
        kept["learner"], params = learner, combine(jax.tree.map(jnp.copy, state.params), frozen)
        kept["updates"].append((params, batch))
        return step(learner, state, frozen, batch)

    def spy_on_rollout(worker, *arguments):
        kept["episodes"].append(roll_out(worker, *arguments))
        kept["loader"] = worker.loader
        return kept["episodes"][-1]

    monkeypatch.setattr(stages, "step_grpo_step", spy_on_step)
    monkeypatch.setattr(EpisodeWorker, "_roll_out", spy_on_rollout)
    config = recipe(tmp_path_factory)
    kept["workdir"], kept["summary"] = config.workdir, run(resolve(config))
    return kept


def test_each_turn_is_a_row_and_what_was_given_is_learned_nowhere(first_update):
    episodes, (params, batch) = first_update["episodes"][0], first_update["updates"][0]
    turns = [turn for episode in episodes for turn in episode.turns]
    assert len(turns) == 6  # of 2 prompts with 2 samples, every second with another turn
    token_BT, mask_BT = np.asarray(batch.rows.completions.token_BT), np.asarray(batch.rows.completions.mask_BT)
    assert [row[mask].tolist() for row, mask in zip(token_BT, mask_BT, strict=True)] == [
        *(turn.token_T.tolist() for turn in turns),
        *[[]] * 2,  # rows are a multiple of 4
    ]
    tokenizer = first_update["loader"].encoder.processor.tokenizer
    read = [
        tokenizer.decode(row[mask]) for row, mask in zip(batch.prompts.token_PS, batch.prompts.mask_PS, strict=True)
    ]
    assert [two_turns.GIVEN in text for text in read[:6]] == [False, False, True, False, False, True]
    _check_advantages(np.asarray(batch.rows.advantage_BT)[:6], episodes)
    _check_gradient(first_update, params, batch, turns)
    _check_what_is_counted_and_kept(first_update)


def _check_advantages(advantage_BT, episodes):
    """Sample 1 of each group earns 1 of the reward function and 0.25 of its second turn; sample 0 earns nothing."""
    expected = 1.25 / 2 / (1.25 / np.sqrt(2) + 1e-4)
    np.testing.assert_allclose(advantage_BT[:, 0], np.array([-1, 1, 1, -1, 1, 1]) * expected, rtol=1e-5)
    assert (advantage_BT == advantage_BT[:, :1]).all()


def _check_gradient(kept, params, batch, turns):
    """The gradient is that of the turns' own tokens, of each turn by itself: nothing else takes part in the loss."""
    learner, advantage_B = kept["learner"], np.asarray(batch.rows.advantage_BT)[:, 0]

    @jax.jit
    def gradient(params, prompt, completions, advantage):
        def loss(params):
            logp_BT, _ = compute_logps(learner, params, prompt, completions)
            return -advantage * jnp.sum(logp_BT) / completions.mask_BT.sum() / len(turns)

        return jax.grad(loss)(params)

    total = None
    for turn, advantage in zip(turns, advantage_B, strict=False):
        prompt = prompts.batch([turn.prompt], prompt_bucket=192, patch_bucket=512)
        token_BT = np.pad(turn.token_T, (0, 64 - turn.num_tokens))[None]
        completions = Completions(token_BT, (np.arange(64) < turn.num_tokens)[None])
        of_turn = gradient(params, prompt, completions, advantage)
        total = of_turn if total is None else jax.tree.map(jnp.add, total, of_turn)
    lines = _metrics(kept["workdir"])
    assert float(optax.global_norm(total)) == pytest.approx(lines[0]["grad_norm"], rel=1e-3)


def _metrics(workdir) -> list[dict]:
    with open(f"{workdir}/metrics.jsonl") as file:
        lines = [json.loads(line) for line in file]
    return [line for line in lines if line["stage"] == "step_grpo" and "loss" in line]


def _check_what_is_counted_and_kept(first_update):
    (first, _), episodes = _metrics(first_update["workdir"]), first_update["episodes"][0]
    turns = [turn for episode in episodes for turn in episode.turns]
    assert first["episodes/mean_turns"] == 1.5
    assert first["episodes/sampled_alike"] == 0
    assert (first["episodes/ended/one"], first["episodes/ended/two"]) == (0.5, 0.5)
    assert first["completions/mean_length"] == pytest.approx(np.mean([turn.num_tokens for turn in turns]))
    assert first["num_tokens"] == sum(len(turn.prompt.token_S) + turn.num_tokens for turn in turns)
    assert first["reward"] == pytest.approx(0.625)
    assert first_update["summary"]["max_logp_difference"] < 1e-3
    directory = epath.Path(first_update["workdir"]) / "completions"
    rows = read_completions(directory / "completions_00001.parquet")
    assert [len(json.loads(row["turns"])) for row in rows] == [1, 2, 1, 2]
    given, written = json.loads(rows[1]["turns"])[1]
    assert two_turns.GIVEN in given
    assert given.count("<image>") <= 1
    assert written == rows[1]["completion"] == episodes[1].turns[1].text
    assert [row["advantage"] for row in rows] == pytest.approx([-0.707, 0.707] * 2, abs=1e-3)
    page = (epath.Path(first_update["workdir"]) / "report.html").read_text()
    assert page.count("given, not learned from") >= 6


def test_a_rollout_function_that_fails_ends_the_run_with_its_line(quick, tmp_path_factory):
    config = recipe(tmp_path_factory, "Fails")
    config.train.rollout_args = '{"reason": "no luck"}'
    with pytest.raises(RolloutFunctionError, match=r"two_turns:Fails raised KeyError: 'no luck'[^$]*two_turns.py"):
        run(resolve(config))


def test_episodes_without_turns_teach_nothing(quick, tmp_path_factory):
    config = recipe(tmp_path_factory, "nobody")
    run(resolve(config))
    assert [line["grad_norm"] for line in _metrics(config.workdir)] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("absent", "", "train.rollout_func='helpers.two_turns:absent': AttributeError"),
        ("roll_out", '{"a": 1}', "rollout_args are for a class"),
        ("Fails", "", "missing 1 required positional argument: 'reason'"),
        ("Fails", "reason", "expected a JSON object, got 'reason'"),
        ("Fails", "[1]", "expected a JSON object, got '\\[1\\]'"),
        ("GIVEN", "", "expected a function of .records, policy., got str"),
    ],
)
def test_a_rollout_function_that_cannot_be_made_is_refused_at_the_start(tmp_path_factory, name, arguments, message):
    config = recipe(tmp_path_factory, name)
    config.train.rollout_args = arguments
    with pytest.raises(ValueError, match=message):
        run(resolve(config))
