"""The steps of a trajectory as records: each is a prompt of its own, with what it should be answered with.

routing     question and history   -> sub-question and retriever     kind "ret"
reading     documents              -> answer of the sub-question     kind "ans"
stopping    question and history   -> None and None                  kind "ret"
answering   question and history   -> the final answer               kind "ans"
"""

from collections.abc import Iterator
from dataclasses import dataclass

from r1vl_jax.data.records import Record
from r1vl_jax.router.golds import ANSWER, RETRIEVAL, gold_answer, gold_retrieval
from r1vl_jax.router.prompts import Prompt, Wording
from r1vl_jax.router.protocol import NONE

STOP = "stop"  # how the id of a stopping step ends


@dataclass(frozen=True)
class Lookup:
    """A sub-question, where it was looked up, what was found, and what was answered.

    Attributes:
        documents: the lines that were shown.
        routing, reading: what was written to ask and to answer; "" where only the outcome is known.
    """

    sub_question: str
    retriever: str
    documents: tuple[str, ...]
    answer: str
    routing: str = ""
    reading: str = ""


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


def step_records(trajectory: Trajectory, wording: Wording, *, source: str) -> Iterator[Record]:
    """A record for each step, with all earlier ones as they are in the trajectory (teacher forcing).

    Args:
        source: name of the data set.

    Raises:
        UnusableRecord: a record is invalid.
    """
    has_image = trajectory.image is not None

    def record(name: str, prompt: Prompt, kind: str, gold: str, response: str) -> Record:
        return Record.make(
            prompt.text,
            images=[trajectory.image] if trajectory.image else (),
            system=prompt.system,
            answer=gold,
            response=response,
            id=f"{trajectory.id}-{name}",
            kind=kind,
            source=source,
        )

    for number, lookup in enumerate(trajectory.lookups):
        route = wording.route_prompt(trajectory.question, trajectory.history(number), has_image=has_image)
        gold = gold_retrieval(lookup.sub_question, lookup.retriever)
        yield record(f"{number + 1}-route", route, RETRIEVAL, gold, lookup.routing)
        read = wording.answer_prompt(lookup.sub_question, lookup.documents, has_image=has_image)
        yield record(f"{number + 1}-read", read, ANSWER, gold_answer([lookup.answer]), lookup.reading)
    history = trajectory.history(len(trajectory.lookups))
    stop = wording.route_prompt(trajectory.question, history, has_image=has_image)
    yield record(STOP, stop, RETRIEVAL, gold_retrieval(NONE, NONE), trajectory.stopping)
    final = wording.final_prompt(trajectory.question, history, has_image=has_image)
    yield record("final", final, ANSWER, gold_answer(trajectory.golds), trajectory.answering)
