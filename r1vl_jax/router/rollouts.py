"""Whole searches as episodes to learn from: `train.rollout_func` of R1-Router.

    train.rollout_func="r1vl_jax.router.rollouts:Searches"
    train.rollout_args='{"bases": "runs/router_task/bases", "prompts": "short", "num_shown": 3}'

The policy's own loop is sampled. What it retrieves is in its prompts, so that nothing of it is learned.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER
from r1vl_jax.data.records import Record
from r1vl_jax.router.answers import normalize
from r1vl_jax.router.datasets import Question
from r1vl_jax.router.golds import ANSWER, read_answer_golds
from r1vl_jax.router.loop import Limits, Router, Trace
from r1vl_jax.router.prompts import load_wording
from r1vl_jax.router.search import NUM_SHOWN, find_bases
from r1vl_jax.router.steps import Lookup
from r1vl_jax.training.multi_turn import Episode, Policy, Turn


class Searches:
    """The rollout function: answers the question of each record by looking things up.

    A record is a question of kind "ans" with its gold answers, so that `rewards.step_reward` rewards the end of a
    search. A response that cannot be read is not sampled again: it ends the search, or counts as no answer.
    """

    def __init__(
        self,
        bases: str,
        prompts: str = "full",
        num_shown: int = NUM_SHOWN,
        max_lookups: int = Limits.max_lookups,
        found_reward: float = 0.0,
    ):
        """Opens the knowledge bases.

        Args:
            bases: directory of knowledge bases, each of a kind of its own.
            prompts: wording, as `load_wording` takes it.
            num_shown: documents of a sub-question that the policy is shown.
            max_lookups: most retrievals of a search.
            found_reward: of the first routing step whose documents have a gold answer, in reward units.

        Raises:
            FileNotFoundError, ValueError: a base or a template is absent, or cannot be read.
        """
        self._searcher, self._wording = find_bases(Path(bases), num_shown), load_wording(prompts)
        self._limits = Limits(max_lookups, route_tries=1, answer_tries=1)
        self._found_reward = found_reward

    def __call__(self, records: Sequence[Record], policy: Policy) -> list[Episode]:
        """A search for each of `policy.num_generations` samples of each record."""
        router = Router(
            policy.encode,
            lambda prompts, _: policy.sample(prompts),  # whose calls have random numbers of their own
            self._wording,
            self._searcher,
            self._limits,
        )
        questions = [make_question(record) for record in records for _ in range(policy.num_generations)]
        return [self._episode(trace) for trace in router.answer(questions)]

    def _episode(self, trace: Trace) -> Episode:
        found = next((lookup for lookup in trace.trajectory.lookups if _has_gold(lookup, trace.trajectory.golds)), None)
        routing = None if found is None else found.routing
        first = next((number for number, turn in enumerate(trace.written) if turn.text == routing), None)
        rewards = [self._found_reward * (number == first) for number in range(len(trace.written))]
        turns = cast(tuple[Turn, ...], trace.written)  # the policy wrote all of it
        return Episode(turns, tuple(rewards), trace.ended, {"retrievals": float(trace.num_retrievals)})


def _has_gold(lookup: Lookup, golds: Sequence[str]) -> bool:
    """Whether the words of a gold answer follow each other in a document that was shown."""
    documents = [f" {normalize(document)} " for document in lookup.documents]
    return any(f" {words} " in document for gold in golds if (words := normalize(gold)) for document in documents)


def make_question(record: Record) -> Question:
    """The question of a record of kind "ans".

    Raises:
        ValueError: its answer is no gold answer; says which record.
    """
    try:
        golds = read_answer_golds(record.answer)
    except ValueError as error:
        raise ValueError(f"record {record.id}: {error}") from None
    if record.kind != ANSWER or len(record.images) > 1 or record.videos or record.history or record.system:
        raise ValueError(
            f"record {record.id}: expected a question of kind {ANSWER!r} with at most one picture, and no video, system"
            " prompt or earlier turns"
        )
    text = record.problem.replace(IMAGE_PLACEHOLDER, "").strip()
    return Question(record.id, text, next(iter(record.images), None), golds, record.source)
