"""A rollout function: every sample has a first turn, and every second one another, about a text that it is given."""

import dataclasses
from collections.abc import Sequence

from r1vl_jax.data.records import Record
from r1vl_jax.data.turns import make_turn
from r1vl_jax.runtime import processes
from r1vl_jax.training.multi_turn import Episode, Policy

GIVEN = "9 9 9 9"


def roll_out(records: Sequence[Record], policy: Policy) -> list[Episode]:
    asked = [policy.conversation(record) for record in records for _ in range(policy.num_generations)]
    first = policy.sample([policy.encode(each) for each in asked])
    again = policy.sample([policy.encode(each) for each in asked])  # other random numbers
    going_on = [row for row in range(len(asked)) if row % 2]
    second = policy.sample([policy.encode(_given(asked[row], first[row].text)) for row in going_on])
    turns_of = {row: (first[row], turn) for row, turn in zip(going_on, second, strict=True)}
    return [
        Episode(
            turns_of.get(row, (turn,)),
            turn_rewards=(0.0, 0.25) if row in turns_of else (),
            ended="two" if row in turns_of else "one",
            metrics={"sampled_alike": float(turn.text == again[row].text)},
        )
        for row, turn in enumerate(first)
    ]


def _given(conversation, written: str):
    turns = [make_turn("assistant", written.replace("<image>", "")), make_turn("user", GIVEN)]
    return dataclasses.replace(conversation, turns=[*conversation.turns, *turns])


class Fails:
    """Made with arguments, and of no use."""

    def __init__(self, reason: str):
        self.reason = reason

    def __call__(self, records, policy):
        raise KeyError(self.reason)


def nobody(records, policy):
    """No episode has a turn."""
    return [Episode((), ended="prompt")] * len(records) * policy.num_generations


def uneven(records, policy):
    """Process 0 samples three turns of each episode, process 1 a single one."""
    asked = [policy.encode(policy.conversation(record)) for record in records for _ in range(policy.num_generations)]
    rounds = [policy.sample(asked) for _ in range(1 if processes.index() else 3)]
    return [Episode(turns, ended=str(len(turns))) for turns in zip(*rounds, strict=True)]
