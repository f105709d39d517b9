"""Evaluation of made-up completions, the last of which pads the batch."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from r1vl_jax.data.records import Record
from r1vl_jax.evaluation import evaluator
from r1vl_jax.evaluation.evaluator import Evaluator
from r1vl_jax.rewards import Judge

PATH = "### Image Description:\n1\n\n### Rationales:\nr\n\n### Step 1:\n1+1=2\n\n### The final answer is:\n2"
TEXTS = [PATH, "### The final answer is:\n2", PATH[:-1] + "3", "padding"]
LENGTHS = [7, 2, 6, 9]


def make_record(kind: str) -> Record:
    return Record("r", (), "?", PATH, "2", (), "", kind, "hand")


@pytest.fixture
def calls(monkeypatch) -> list:
    """Arguments of `sample`; it returns completions of LENGTHS tokens, of which only the first has ended."""
    calls = []

    @contextlib.contextmanager
    def synced_params(sampler, params):
        yield lambda: "synced"

    def sample(sampler, params, prompts, key, *, synced):
        assert synced() == "synced"
        calls.append((sampler, params, prompts))
        mask_BT = np.arange(9)[None] < np.array(LENGTHS)[:, None]
        texts = TEXTS if sampler == "greedy" else [PATH, "no", "no", "no", PATH, "no", PATH, "padding"]
        completions = SimpleNamespace(mask_BT=mask_BT, texts=texts)
        return SimpleNamespace(completions=completions, has_ended_B=np.array([1, 0, 0, 0], bool))

    monkeypatch.setattr(evaluator, "synced_params", synced_params)
    monkeypatch.setattr(evaluator, "sample", sample)
    return calls


def make_evaluator(digit_recognition=None, several=None, hard_kinds=(), total_reward=None) -> Evaluator:
    records = [make_record("sum"), make_record("sum"), make_record("count")]
    return Evaluator(
        sampler="greedy",  # pyright: ignore[reportArgumentType]
        several=several,
        process_local_rows=lambda rows: rows,
        decode_completions=lambda completions: completions.texts,
        test=lambda: [(records, "test prompts")],  # pyright: ignore[reportReturnType]
        validation=lambda: [(records[:1], "validation prompts")],  # pyright: ignore[reportReturnType]
        digit_recognition=digit_recognition,
        judge=Judge(),
        semantics="paper",
        hard_kinds=hard_kinds,
        total_reward=total_reward,
    )


def test_rewards_of_the_users_own_are_reported(calls):
    def total_reward(reward, texts, records):
        assert reward.answer_correct.tolist() == [True, True, False]
        return np.array([len(text) for text in texts]) + 10.0 * np.array([r.kind == "count" for r in records])

    results = make_evaluator(total_reward=total_reward).on_test({"w": 1})
    lengths = [len(text) for text in TEXTS[:3]]
    assert results["reward/sum"] == np.mean(lengths[:2])
    assert results["reward/count"] == lengths[2] + 10
    assert results["reward"] == pytest.approx(np.mean(lengths) + 10 / 3)


def test_results_are_means_over_the_records(calls):
    results = make_evaluator().on_test({"w": 1})
    assert results == pytest.approx(
        {
            "accuracy": 2 / 3,
            "accuracy/count": 0.0,
            "accuracy/sum": 1.0,
            "well_formed": 2 / 3,
            "ended": 1 / 3,
            "mean_length": 5.0,
        }
    )
    assert calls == [("greedy", {"w": 1}, "test prompts")]


def test_digit_recognition_is_over_all_digits(calls):
    counts = iter([(1, 1), (0, 4), (2, 3)])
    results = make_evaluator(digit_recognition=lambda text, record: next(counts)).on_test({})
    assert results["digit_recognition"] == 3 / 8


def test_validation_has_its_own_problems(calls):
    assert make_evaluator().on_validation({})["mean_length"] == 7.0
    assert [prompts for _, _, prompts in calls] == ["validation prompts"]


def test_samples_give_their_mean_and_pass_at_k(calls):
    """Two of each record; the first of one kind has one right sample, its second none, that of the other kind one."""
    several = SimpleNamespace(num_generations=2)
    results = make_evaluator(several=several).on_test({})
    assert [sampler for sampler, _, _ in calls] == ["greedy", several]
    sampled = {name: value for name, value in results.items() if name.startswith(("accuracy_sampled", "pass"))}
    expected = {"accuracy_sampled": 1 / 3, "accuracy_sampled/count": 0.5, "accuracy_sampled/sum": 0.25}
    assert sampled == pytest.approx(expected | {"pass_at_1": 1 / 3, "pass_at_2": 2 / 3})
    assert results["accuracy"] == pytest.approx(2 / 3)


def test_hard_kinds_are_reported_together(calls, caplog):
    several = SimpleNamespace(num_generations=2)

    def hard(*kinds: str) -> dict[str, float]:
        results = make_evaluator(several=several, hard_kinds=kinds).on_test({})
        return {name: value for name, value in results.items() if "hard" in name}

    assert hard("count") == {"accuracy_hard/greedy": 0.0, "accuracy_hard/sampled": 0.5}
    assert hard("count", "sum") == pytest.approx({"accuracy_hard/greedy": 2 / 3, "accuracy_hard/sampled": 1 / 3})
    assert not caplog.messages
    assert hard("no such kind") == {}
    assert caplog.messages == [
        "eval.hard_kinds=('no such kind',): no problem is of these kinds; there are ['count', 'sum']"
    ]
