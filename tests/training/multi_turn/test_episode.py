"""Episodes: what a rollout function may return, and what of them is shown."""

from types import SimpleNamespace

import numpy as np
import pytest

from r1vl_jax.arrays import Completions
from r1vl_jax.config import Loss
from r1vl_jax.data.collate import IMAGE, TEXT
from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.training.multi_turn import Episode, RolloutFunctionError, Turn
from r1vl_jax.training.multi_turn.episode import check_episodes, shown
from r1vl_jax.training.multi_turn.policy import choose_num_rows
from r1vl_jax.training.multi_turn.worker import EpisodeWorker


def turn(prompt: str, text: str = "ok") -> Turn:
    """A prompt of a token a character; "#" is one of an image."""
    ids = np.array([ord(each) for each in prompt], np.int32)
    types = np.where(ids == ord("#"), IMAGE, TEXT).astype(np.int32)
    return Turn(EncodedPrompt(ids, types, ()), np.zeros(len(text), np.int32), np.zeros(len(text)), text, True)


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([Episode(())], "expected a list of 2 episodes, num_generations of each record, got 1"),
        ([None, None], r"expected a list of 2 episodes, got \[None, None\]"),
        ("ab", "expected a list of 2 episodes, got 'ab'"),
        (None, "expected a list of 2 episodes, got None"),
        (
            [Episode(()), Episode((turn("a"),), (1.0, 2.0))],
            "episode 1: expected a finite reward for each of its 1 turns",
        ),
        ([Episode((turn("a"),), (float("nan"),)), Episode(())], "episode 0: expected a finite reward"),
        ([Episode(()), Episode((), metrics={"calls": 1.0})], "episode 1: expected metrics that are finite numbers"),
        ([Episode(("a",)), Episode(())], "episode 0: expected a tuple of turns that policy.sample gave"),
        ([Episode((turn("a"),), ("1",)), Episode(())], "episode 0: expected a finite reward"),
        ([Episode((turn("a"),), None), Episode(())], "episode 0: expected a finite reward"),
        ([Episode((), metrics={"q": "1"})] * 2, "episode 0: expected metrics that are finite numbers"),
        ([Episode((), metrics=None)] * 2, "episode 0: expected metrics that are finite numbers"),
        ([Episode((), metrics={"mean_turns": 1.0})] * 2, "episode 0: expected metrics of other names than mean_turns"),
        ([Episode((), ended=3)] * 2, "episode 0: expected a word for `ended`, got 3"),
    ],
)
def test_what_are_no_episodes_is_refused(episodes, message):
    with pytest.raises(RolloutFunctionError, match=f"rollout function f: {message}"):
        check_episodes("f", episodes, 2)


def test_rewards_of_turns_are_zero_unless_given():
    assert Episode((turn("a"), turn("b"))).reward_of_turns() == [0.0, 0.0]
    assert Episode((turn("a"), turn("b")), (0.5, -1.0)).reward_of_turns() == [0.5, -1.0]


def test_a_prompt_is_shown_without_what_it_repeats():
    episode = Episode((turn("##Q?", "call"), turn("##Q?call:12", "more"), turn("other#", "end")))
    decode = lambda ids: "".join(map(chr, ids))  # noqa: E731
    assert list(shown(episode, decode)) == [("<image>Q?", "call"), (":12", "more"), ("other<image>", "end")]


@pytest.mark.parametrize(
    ("num_prompts", "max_rows", "multiple", "expected"),
    [
        (128, 128, 1, 128),
        (33, 128, 1, 128),
        (32, 128, 1, 32),
        (1, 128, 1, 2),
        (1, 128, 8, 8),
        (3, 6, 2, 6),
        (1, 4, 2, 4),
    ],
)
def test_rows_are_of_few_numbers_that_devices_divide(num_prompts, max_rows, multiple, expected):
    assert choose_num_rows(num_prompts, max_rows, multiple) == expected


@pytest.mark.parametrize(("loss_type", "expected"), [("grpo", 3.0), ("dr_grpo", 24.0), ("bnpo", 5.0), ("dapo", 5.0)])
def test_padding_is_no_row(loss_type, expected):
    """Of three turns with five tokens, in four rows."""
    mask_BT = np.zeros((4, 6), bool)
    mask_BT[:3] = np.arange(6) < np.array([[2], [2], [1]])
    worker = SimpleNamespace(
        learner=SimpleNamespace(loss=Loss(loss_type=loss_type)), sampler=SimpleNamespace(max_length=8)
    )
    rows = SimpleNamespace(completions=Completions(np.zeros((4, 6), np.int32), mask_BT))
    assert float(EpisodeWorker._denominator(worker, rows, 3)) == expected
