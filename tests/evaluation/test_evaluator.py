"""Evaluation by hand: made-up completions, one of them repeated to fill the batch."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from r1vl_jax.data.records import Record
from r1vl_jax.evaluation import evaluator
from r1vl_jax.evaluation.evaluator import Evaluator
from r1vl_jax.rewards import Judge

PATH = "### Image Description:\n1\n\n### Rationales:\nr\n\n### Step 1:\n1+1=2\n\n### The final answer is:\n2"
TEXTS = [PATH, "### The final answer is:\n2", PATH[:-1] + "3", "filled up"]
LENGTHS = [7, 2, 6, 9]


def make_record(kind: str) -> Record:
    return Record("r", (), "?", PATH, "2", (), "", kind, "hand")


@pytest.fixture
def drawn(monkeypatch) -> list:
    """What `sample` was given; it returns as many tokens as LENGTHS say, and says that only the first ended."""
    given = []

    @contextlib.contextmanager
    def copied(sampler, params):
        yield lambda: "a copy"

    def sample(sampler, params, prompts, key, *, copy):
        assert copy() == "a copy"
        given.append((sampler, params, prompts))
        mask_BT = np.arange(9)[None] < np.array(LENGTHS)[:, None]
        return SimpleNamespace(completions=SimpleNamespace(mask_BT=mask_BT), has_ended_B=np.array([1, 0, 0, 0], bool))

    monkeypatch.setattr(evaluator, "synced_params", copied)
    monkeypatch.setattr(evaluator, "sample", sample)
    return given


def make_evaluator(reading=None) -> Evaluator:
    records = [make_record("sum"), make_record("sum"), make_record("count")]
    return Evaluator(
        sampler="greedy",  # pyright: ignore[reportArgumentType]
        own_rows=lambda rows: rows,
        texts=lambda completions: TEXTS,
        test=lambda: [(records, "test prompts")],  # pyright: ignore[reportReturnType]
        validation=lambda: [(records[:1], "validation prompts")],  # pyright: ignore[reportReturnType]
        reading=reading,
        judge=Judge(),
        semantics="paper",
    )


def test_results_are_means_over_the_records(drawn):
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
    assert drawn == [("greedy", {"w": 1}, "test prompts")]


def test_reading_is_over_all_that_was_to_be_read(drawn):
    read = iter([(1, 1), (0, 4), (2, 3)])
    results = make_evaluator(reading=lambda text, record: next(read)).on_test({})
    assert results["reading"] == 3 / 8


def test_validation_has_problems_of_its_own(drawn):
    assert make_evaluator().on_validation({})["mean_length"] == 7.0
    assert [prompts for _, _, prompts in drawn] == ["validation prompts"]
