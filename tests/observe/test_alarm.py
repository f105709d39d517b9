"""The alarm on reward hacking: reward up, held-out accuracy down."""

import pytest

from r1vl_jax.observe import EqualGroups, alarm


def lines(rewards: list[float], accuracies: list[float | None], stage: str = "step_grpo") -> list[dict]:
    """An evaluation after every second update."""
    written = []
    for step, reward in enumerate(rewards, start=1):
        written.append({"stage": stage, "step": step, "reward": reward})
        if step % 2 == 0:
            written.append({"stage": stage, "step": step, "eval/accuracy": accuracies[step // 2 - 1]})
    return written


@pytest.mark.parametrize(
    ("rewards", "accuracies", "is_alarm"),
    [
        ([1.0, 1.0, 1.5, 1.5], [0.8, 0.5], True),
        ([1.0, 1.0, 1.5, 1.5], [0.8, 0.79], False),  # within noise, for 200 problems
        ([1.5, 1.5, 1.0, 1.0], [0.8, 0.5], False),  # both fall
        ([1.0, 1.0, 1.5, 1.5], [0.5, 0.8], False),
        ([1.0, 1.0, 1.2, 1.2, 1.5, 1.5], [0.8, 0.9, 0.7], True),
        ([1.0, 1.0, 1.6, 1.6, 1.5, 1.5], [0.8, 0.9, 0.7], False),  # the reward has fallen since the best
        ([1.0, 1.0], [0.8], False),
        ([1.0, 1.0, 1.5, 1.5], [None, 0.5], False),
        ([], [], False),
    ],
)
def test_alarm(rewards, accuracies, is_alarm):
    message = alarm(lines(rewards, accuracies), stage="step_grpo", num_problems=200)
    assert (message is not None) == is_alarm


def test_the_message():
    message = alarm(lines([1.0, 1.0, 1.4, 1.6], [0.8, 0.5]), stage="step_grpo", num_problems=200)
    assert message is not None
    assert (
        "step 4: held-out accuracy fell to 0.500 from 0.800 at step 2, while the reward rose from 1.00 to 1.50"
        in message
    )


def test_other_stages_are_ignored():
    earlier = lines([1.0, 1.0], [0.9], stage="warmup")
    assert alarm(earlier + lines([2.0, 2.0], [0.5]), stage="step_grpo", num_problems=200) is None


def test_the_threshold_depends_on_the_number_of_problems():
    written = lines([1.0, 1.0, 1.5, 1.5], [0.8, 0.75])
    assert alarm(written, stage="step_grpo", num_problems=100) is None
    assert alarm(written, stage="step_grpo", num_problems=1000) is not None


def test_equal_groups_are_warned_of_every_twenty_updates_in_a_row():
    watch = EqualGroups()
    assert [watch.warning(step, 0.75) is not None for step in range(1, 41)] == ([False] * 19 + [True]) * 2
    assert all(watch.warning(step, 0.75) is None for step in range(19))
    assert watch.warning(20, 0.5) is None  # half is not more than half, and ends the row
    fractions = [*[0.6] * 10, *[1.0] * 9]
    assert all(watch.warning(step, fraction) is None for step, fraction in enumerate(fractions))
    message = watch.warning(40, 1.0)
    assert message is not None
    assert message.startswith("step 40: in each of the last 20 updates more than half of the groups (80% on average)")
    assert message.endswith("or loss.dynamic_sample=True (docs/recipes.md)")
