"""The steps of a trajectory as records: each is a prompt of its own, with what it should be answered with.

routing     question and history   -> sub-question and retriever     kind "ret"
reading     documents              -> answer of the sub-question     kind "ans"
stopping    question and history   -> None and None                  kind "ret"
answering   question and history   -> the final answer               kind "ans"
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from r1vl_jax.data.records import Record
from r1vl_jax.router.golds import ANSWER, RETRIEVAL, gold_answer, gold_retrieval
from r1vl_jax.router.prompts import Prompt, Wording
from r1vl_jax.router.protocol import NONE
from r1vl_jax.router.trajectories import step_id


@dataclass(frozen=True)
class Lookup:
    """A sub-question, where it was looked up, what was found, and what was answered.

    Attributes:
        documents: the lines that were shown.
        routing, reading: what was written to ask and to answer; "" where only the outcome is known.
        found_nothing: why there are no documents; "" where there are.
    """

    sub_question: str
    retriever: str
    documents: tuple[str, ...]
    answer: str
    routing: str = ""
    reading: str = ""
    found_nothing: str = ""


@dataclass(frozen=True)
class Trajectory:
    """A question and how it was answered.

    Attributes:
        golds: right answers to the question.
        stopping, answering: what was written to end the search, and to answer; "" where only the outcome is known.
    """

    id: str
    question: str
    image: bytes | None
    golds: tuple[str, ...]
    lookups: tuple[Lookup, ...]
    kind: str = ""
    stopping: str = ""
    answering: str = ""

    def history(self, num_lookups: int) -> list[tuple[str, str]]:
        """The first look-ups, each as sub-question and answer."""
        return [(each.sub_question, each.answer) for each in self.lookups[:num_lookups]]


def step_records(
    trajectory: Trajectory, wording: Wording, *, source: str, has_stopped: bool = True
) -> Iterator[Record]:
    """A record for each step, with all earlier ones as they are in the trajectory (teacher forcing).

    Args:
        source: name of the data set.
        has_stopped: whether the search was ended by the model, and not by a limit; else no step ends it.

    Raises:
        UnusableRecord: a record is invalid.
    """
    has_image = trajectory.image is not None

    number = itertools.count(1)

    def record(prompt: Prompt, kind: str, gold: str, response: str) -> Record:
        return Record.make(
            prompt.text,
            images=[trajectory.image] if trajectory.image else (),
            system=prompt.system,
            answer=gold,
            response=response,
            id=step_id(trajectory.id, next(number)),
            kind=kind,
            source=source,
        )

    for num_done, lookup in enumerate(trajectory.lookups):
        route = wording.route_prompt(trajectory.question, trajectory.history(num_done), has_image=has_image)
        gold = gold_retrieval(lookup.sub_question, lookup.retriever)
        yield record(route, RETRIEVAL, gold, lookup.routing)
        read = wording.answer_prompt(lookup.sub_question, lookup.documents, has_image=has_image)
        yield record(read, ANSWER, gold_answer([lookup.answer]), lookup.reading)
    history = trajectory.history(len(trajectory.lookups))
    if has_stopped:
        stop = wording.route_prompt(trajectory.question, history, has_image=has_image)
        yield record(stop, RETRIEVAL, gold_retrieval(NONE, NONE), trajectory.stopping)
    final = wording.final_prompt(trajectory.question, history, has_image=has_image)
    yield record(final, ANSWER, gold_answer(trajectory.golds), trajectory.answering)
