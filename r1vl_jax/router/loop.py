"""The loop of R1-Router: route, retrieve, read, again, and answer; many questions at a time.

Every round samples one prompt for each question that is still searched for. What is not in the format is sampled again;
a search ends when the model says so, at the most look-ups, or when nothing readable was written.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from absl import logging

from r1vl_jax.data.pictures import open_picture
from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.data.turns import Conversation, make_turn
from r1vl_jax.router.datasets import Question
from r1vl_jax.router.prompts import Prompt, Wording
from r1vl_jax.router.protocol import RETRIEVERS, Malformed, Retrieval, parse_answer, parse_retrieval
from r1vl_jax.router.search import EVERY, Searcher
from r1vl_jax.router.steps import Lookup, Trajectory

Parsed = TypeVar("Parsed")

NO_RETRIEVAL = "no retrieval"
# Whom a sub-question is put to, in place of the retriever that the model names.
BASELINES = (NO_RETRIEVAL, *(retriever.name for retriever in RETRIEVERS), EVERY)

# Why a search ended; "unreadable" also where a prompt could not be written.
STOPPED, LIMIT, UNREADABLE, NOT_SEARCHED = "stopped", "limit", "unreadable", "not searched"
_NOTHING = "nothing"  # stands for an answer that could not be read


@dataclass(frozen=True)
class Limits:
    """Of one question, as in the original.

    Attributes:
        max_lookups: retrievals; then the answer is asked for.
        route_tries, answer_tries: how often a step is sampled until it can be read.
    """

    max_lookups: int = 3
    route_tries: int = 5
    answer_tries: int = 3


class Written(Protocol):
    """What was sampled for a prompt."""

    @property
    def text(self) -> str: ...

    @property
    def num_tokens(self) -> int: ...


@dataclass(frozen=True)
class Response:
    """What a model wrote: its text, and how many tokens it has."""

    text: str
    num_tokens: int


@dataclass(frozen=True)
class Trace:
    """How a question was answered.

    Attributes:
        prediction: the final answer; "" if none could be read.
        ended: why the search ended.
        num_retrievals: knowledge bases that were searched.
        num_tokens: read in prompts, and written.
        unreadable: what was written and sampled again, with the reason; "" where a prompt could not be written.
        written: everything that was sampled, in order, as `SampleFn` gave it.
    """

    trajectory: Trajectory
    prediction: str = ""
    ended: str = ""
    num_retrievals: int = 0
    num_tokens: tuple[int, int] = (0, 0)
    unreadable: tuple[tuple[str, str], ...] = ()
    written: tuple[Written, ...] = ()


# (prompts, a number of the questions and one of the call) -> what was written; the numbers decide the random numbers
SampleFn = Callable[[Sequence[EncodedPrompt], tuple[int, int]], Sequence[Written]]


@dataclass
class _Search:
    """What is known about a question so far."""

    question: Question
    lookups: list[Lookup] = field(default_factory=list)
    ended: str = ""
    stopping: str = ""
    answering: str = ""
    prediction: str = ""
    num_retrievals: int = 0
    num_read: int = 0
    num_written: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)

    @property
    def history(self) -> list[tuple[str, str]]:
        return [(each.sub_question, each.answer) for each in self.lookups]

    def trace(self) -> Trace:
        of = self.question
        trajectory = Trajectory(
            id=of.id,
            question=of.text,
            image=of.image,
            golds=of.golds,
            lookups=tuple(self.lookups),
            kind=of.source,
            stopping=self.stopping,
            answering=self.answering,
        )
        return Trace(
            trajectory,
            self.prediction,
            self.ended,
            self.num_retrievals,
            num_tokens=(self.num_read, self.num_written),
            unreadable=tuple(self.unreadable),
            written=tuple(self.written),
        )


@dataclass
class Router:
    """Answers questions by looking things up.

    Attributes:
        encode: the prompt of a conversation.
        sample: completions of prompts.
        baseline: "" or one of `BASELINES`.
    """

    encode: Callable[[Conversation], EncodedPrompt]
    sample: SampleFn
    wording: Wording
    searcher: Searcher
    limits: Limits = Limits()
    baseline: str = ""
    _calls: Iterator[tuple[int, int]] = field(default_factory=lambda: iter(()), init=False)

    def answer(self, questions: Sequence[Question], *, number: int = 0) -> list[Trace]:
        """A trace for each question; all are sampled together.

        A prompt that cannot be written, as one that is too long, counts as a response that cannot be read.

        Args:
            number: of these questions, so that the random numbers of others are others.
        """
        self._calls = zip(itertools.repeat(number), itertools.count())
        searches = [_Search(question) for question in questions]
        if self.baseline == NO_RETRIEVAL:
            for each in searches:
                each.ended = NOT_SEARCHED
        while active := [each for each in searches if not each.ended]:
            self._look_up(active)
        self._finish(searches)
        return [each.trace() for each in searches]

    def _look_up(self, searches: list[_Search]) -> None:
        """One round: each search asks and reads, or ends."""
        routed = self._sample_readable(searches, self._route_prompt, parse_retrieval, self.limits.route_tries)
        asking: list[tuple[_Search, Retrieval, str]] = []
        for each, (retrieval, text) in zip(searches, routed, strict=True):
            if retrieval is None:
                each.ended = UNREADABLE
            elif retrieval.ends_search:
                each.ended, each.stopping = STOPPED, text
            else:
                asking.append((each, retrieval, text))
        self._read(asking)
        for each, _, _ in asking:
            if len(each.lookups) >= self.limits.max_lookups:
                each.ended = LIMIT

    def _read(self, asking: list[tuple[_Search, Retrieval, str]]) -> None:
        """Searches for the sub-questions, and has the model answer them from what is found."""
        names = [
            self.baseline or (retrieval.retriever.name if retrieval.retriever else "") for _, retrieval, _ in asking
        ]
        found = self.searcher.find(
            [(name, each.sub_question) for name, (_, each, _) in zip(names, asking, strict=True)]
        )
        for name, (search, retrieval, text), of_each in zip(names, asking, found, strict=True):
            lookup = Lookup(retrieval.sub_question, name, of_each.lines, _NOTHING, text, found_nothing=of_each.nothing)
            search.lookups.append(lookup)
            search.num_retrievals += len(self.searcher.bases) if name == EVERY else name in self.searcher.bases
        searches = [search for search, _, _ in asking]
        read = self._sample_readable(searches, self._answer_prompt, parse_answer, self.limits.answer_tries)
        for search, (answer, text) in zip(searches, read, strict=True):
            search.lookups[-1] = replace(search.lookups[-1], answer=answer or _NOTHING, reading=text)

    def _finish(self, searches: list[_Search]) -> None:
        answered = self._sample_readable(searches, self._final_prompt, parse_answer, self.limits.answer_tries)
        for search, (answer, text) in zip(searches, answered, strict=True):
            search.prediction, search.answering = answer or "", text

    def _sample_readable(
        self,
        searches: Sequence[_Search],
        make_prompt: Callable[[_Search], Prompt],
        parse: Callable[[str], Parsed | Malformed],
        num_tries: int,
    ) -> list[tuple[Parsed | None, str]]:
        """What is read of a completion for each search, and its text; None where no try could be read."""
        results: list[tuple[Parsed | None, str]] = [(None, "")] * len(searches)
        encoded = [self._encode(each, make_prompt(each)) for each in searches]
        waiting = [index for index, each in enumerate(encoded) if each is not None]
        for _ in range(num_tries):
            if not waiting:
                break
            call = next(self._calls)
            asked = [prompt for index in waiting if (prompt := encoded[index]) is not None]
            unread = []
            for index, prompt, written in zip(waiting, asked, self.sample(asked, call), strict=True):
                search, parsed = searches[index], parse(written.text)
                search.num_read += len(prompt.token_S)
                search.num_written += written.num_tokens
                search.written.append(written)
                if isinstance(parsed, Malformed):
                    search.unreadable.append((written.text, parsed.reason))
                    unread.append(index)
                else:
                    results[index] = (parsed, written.text)
            waiting = unread
        return results

    def _encode(self, search: _Search, prompt: Prompt) -> EncodedPrompt | None:
        """The prompt of a search; None, with a warning and the reason kept, if it cannot be written."""
        question, system = search.question, [{"role": "system", "content": prompt.system}] if prompt.system else []
        try:
            images = [] if question.image is None else [open_picture(question.image, name="its picture")]
            return self.encode(Conversation([*system, make_turn("user", prompt.text)], images))
        except ValueError as error:
            logging.warning("question %s: a prompt that cannot be written: %s", question.id, error)
            search.unreadable.append(("", f"the prompt cannot be written: {error}"))
            return None

    def _route_prompt(self, search: _Search) -> Prompt:
        return self.wording.route_prompt(
            search.question.text, search.history, has_image=search.question.image is not None
        )

    def _answer_prompt(self, search: _Search) -> Prompt:
        last = search.lookups[-1]
        return self.wording.answer_prompt(
            last.sub_question, last.documents, has_image=search.question.image is not None
        )

    def _final_prompt(self, search: _Search) -> Prompt:
        return self.wording.final_prompt(
            search.question.text, search.history, has_image=search.question.image is not None
        )
