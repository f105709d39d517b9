"""Whole searches as episodes: their turns, rewards and ends, with turns written by the test."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.data.records import Record
from r1vl_jax.router.golds import ANSWER, gold_answer
from r1vl_jax.router.knowledge import Document, build
from r1vl_jax.router.protocol import write_answer, write_retrieval
from r1vl_jax.router.rollouts import Searches, make_question
from r1vl_jax.training.multi_turn import Turn

ROUTE = write_retrieval("A book.", "Who wrote Moby Dick?", "Text Retriever")
READ, STOP, FINAL = write_answer("1", "Herman Melville"), write_retrieval("Enough."), write_answer("So", "Melville")
RECORD = Record.make("Who wrote it?", answer=gold_answer(["Herman Melville"]), id="q", kind=ANSWER, source="one")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bases")
    texts = ["Jules Verne wrote Mysterious Island.", "Moby Dick is by Herman Melville, an American."]
    build([Document(str(n), text) for n, text in enumerate(texts)], directory / "text", name="text", kind="text")
    return str(directory)


class Script:
    """A policy that writes what the test says, in order; prompts that have a word cannot be written."""

    def __init__(self, *texts: str, num_generations: int = 1, unwritable: str = "nowhere"):
        self.texts, self.num_generations, self.unwritable, self.asked = list(texts), num_generations, unwritable, []

    def encode(self, conversation) -> EncodedPrompt:
        text = "".join(part["text"] for part in conversation.turns[-1]["content"])
        if self.unwritable in text:
            raise ValueError("its prompt has 9 tokens, at most max_prompt_length=8 fit")
        self.asked.append(text)
        return EncodedPrompt(np.zeros(len(text), np.int32), np.zeros(len(text), np.int32), ())

    def sample(self, prompts: Sequence[EncodedPrompt]) -> list[Turn]:
        empty = np.zeros(1, np.int32), np.zeros(1, np.float32)
        return [Turn(prompt, *empty, self.texts.pop(0), has_ended=True) for prompt in prompts]


def search(bases: str, script: Script, **settings):
    return Searches(bases, prompts="short", **settings)([RECORD], script)


def test_every_response_of_a_search_is_a_turn(bases):
    script = Script(ROUTE, READ, STOP, FINAL)
    (episode,) = search(bases, script, found_reward=0.5)
    assert [turn.text for turn in episode.turns] == [ROUTE, READ, STOP, FINAL]
    assert (episode.ended, episode.metrics) == ("stopped", {"retrievals": 1.0})
    assert episode.turn_rewards == (0.5, 0.0, 0.0, 0.0)  # its document names Herman Melville
    assert "Moby Dick is by Herman Melville" in script.asked[1]


def test_nothing_is_earned_for_documents_without_the_answer(bases):
    route = write_retrieval("A book.", "Who wrote Mysterious Island?", "Text Retriever")
    (episode,) = search(bases, Script(route, READ, STOP, FINAL), found_reward=0.5, num_shown=1)
    assert episode.turn_rewards == (0.0,) * 4


def test_samples_of_a_record_are_searches_of_their_own(bases):
    first, second = search(bases, Script(STOP, ROUTE, READ, STOP, FINAL, "late", num_generations=2))
    assert [turn.text for turn in first.turns] == [STOP, FINAL]
    assert [turn.text for turn in second.turns] == [ROUTE, READ, STOP, "late"]


def test_what_cannot_be_read_is_not_sampled_again(bases):
    (episode,) = search(bases, Script("no format", FINAL))
    assert [turn.text for turn in episode.turns] == ["no format", FINAL]
    assert episode.ended == "unreadable"


def test_a_prompt_that_cannot_be_written_ends_the_search_alone(bases):
    script = Script(ROUTE, STOP, FINAL, unwritable="ter-1")
    (episode,) = search(bases, script)
    assert [turn.text for turn in episode.turns] == [ROUTE, STOP, FINAL]  # there is nothing to read
    (nothing,) = search(bases, Script(unwritable="Who"))
    assert (nothing.turns, nothing.ended) == ((), "unreadable")


def test_records_become_questions():
    record = Record.make("Who wrote it?", answer=gold_answer(["a", "b"]), id="q", kind=ANSWER, source="one")
    question = make_question(record)
    assert (question.text, question.golds, question.source) == ("Who wrote it?", ("a", "b"), "one")
    with pytest.raises(ValueError, match="record q: expected JSON, got 'Melville'"):
        make_question(Record.make("Who?", answer="Melville", id="q"))
    with pytest.raises(ValueError, match="record q: expected a question of kind 'ans' with at most one picture"):
        make_question(dataclasses.replace(record, system="Be brief."))
