"""The format of R1-Router's responses, as data, and the functions that read and write it.

A retrieval step names the next sub-question and the knowledge base to search with it; "None" in both ends the search.
An answer step answers a sub-question, or at the end the question itself:

    <think>...</think>                             <think>...</think>
    <sub-question>Who wrote it?</sub-question>     <answer>Jules Verne</answer>
    <ret>Text Retriever</ret>

Tags and names are read in either case. Text between and around the elements is ignored.

Source:
    Peng et al., R1-Router, 2025, https://arxiv.org/abs/2505.22095.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

THINK, SUB_QUESTION, RETRIEVER, ANSWER = "think", "sub-question", "ret", "answer"  # tags
NONE = "None"  # instead of a sub-question, and of a retriever


@dataclass(frozen=True)
class Retriever:
    """A retriever that a response may name.

    Attributes:
        name: as it stands in responses.
        mark: marks its documents where they are shown, as in "ter-1".
        kind: of its knowledge base: "text", "image" or "table".
    """

    name: str
    mark: str
    kind: str


RETRIEVERS = (
    Retriever("Text Retriever", "ter", "text"),
    Retriever("Text Image Retriever", "tir", "image"),
    Retriever("Table Retriever", "tar", "table"),
)
RETRIEVER_NAMES = (*(retriever.name for retriever in RETRIEVERS), NONE)
_RETRIEVER_BY_NAME = {retriever.name.lower(): retriever for retriever in RETRIEVERS}


@dataclass(frozen=True)
class Retrieval:
    """A retrieval step.

    Attributes:
        think: the reasoning before it.
        sub_question: what to search for; "None" for nothing.
        retriever: where; None for nowhere.
    """

    think: str
    sub_question: str
    retriever: Retriever | None

    @property
    def asks_nothing(self) -> bool:
        """Whether "None" stands in place of the sub-question."""
        return self.sub_question.lower() == NONE.lower()

    @property
    def ends_search(self) -> bool:
        """Whether there is neither a sub-question nor a retriever."""
        return self.asks_nothing and self.retriever is None


@dataclass(frozen=True)
class Malformed:
    """A response that is not in the format; `reason` says what was expected and found."""

    reason: str


class _FormatError(ValueError):
    pass


def parse_retrieval(text: str, *, allow_half_none: bool = False) -> Retrieval | Malformed:
    """Reads a retrieval step.

    Args:
        allow_half_none: whether to accept a sub-question without a retriever, and a retriever without a sub-question.
            The search cannot follow those, whereas the reward grades each of the two by itself.
    """
    try:
        think, rest = _split_think(text)
        sub_question = _only(SUB_QUESTION, rest)
        retrieval = Retrieval(think, sub_question, find_retriever(_only(RETRIEVER, rest)))
    except ValueError as error:
        return Malformed(str(error))
    if not allow_half_none and retrieval.asks_nothing != (retrieval.retriever is None):
        return Malformed(f"expected {NONE!r} in both <{SUB_QUESTION}> and <{RETRIEVER}> or in neither, got it in one")
    return retrieval


def parse_answer(text: str) -> str | Malformed:
    """Reads an answer step: its answer, the last one if there are several."""
    try:
        _, rest = _split_think(text)
        answers = _contents(ANSWER, rest)
        if not answers:
            raise _FormatError(f"expected <{ANSWER}>...</{ANSWER}>, got none")
        return _not_empty(ANSWER, answers[-1])
    except _FormatError as error:
        return Malformed(str(error))


def find_retriever(name: str) -> Retriever | None:
    """The retriever of this name, in either case; None for "None".

    Raises:
        ValueError: there is none of this name, or several are named.
    """
    names = [part.strip() for part in name.split(",")]
    if len(names) > 1:
        raise ValueError(f"expected one retriever, got {len(names)}: {name.strip()!r:.80}")
    if names[0].lower() == NONE.lower():
        return None
    if (retriever := _RETRIEVER_BY_NAME.get(names[0].lower())) is None:
        raise ValueError(f"expected a retriever of {', '.join(RETRIEVER_NAMES)}, got {names[0]!r:.80}")
    return retriever


def write_retrieval(think: str, sub_question: str = NONE, retriever: str = NONE) -> str:
    """A retrieval step that `parse_retrieval` reads; by default one that ends the search.

    Args:
        retriever: its name, in either case.

    Raises:
        ValueError: the step could not be read: a text has tags, the retriever is unknown, or only one of both is None.
    """
    found = find_retriever(retriever)
    name = NONE if found is None else found.name
    text = _write({THINK: think, SUB_QUESTION: sub_question, RETRIEVER: name})
    return _checked(text, parse_retrieval(text), Retrieval(think.strip(), sub_question.strip(), found))


def write_answer(think: str, answer: str) -> str:
    """An answer step that `parse_answer` reads.

    Raises:
        ValueError: the step could not be read: the answer is empty, or a text has tags.
    """
    text = _write({THINK: think, ANSWER: answer})
    return _checked(text, parse_answer(text), answer.strip())


def _split_think(text: str) -> tuple[str, str]:
    """The reasoning, and the text without it, so that tags that it mentions are no elements."""
    found = next(_elements(THINK, text), None)
    if found is None:
        raise _FormatError(f"expected <{THINK}>...</{THINK}>, got none")
    opening, closing = found
    return text[opening.end() : closing.start()].strip(), text[: opening.start()] + text[closing.end() :]


def _only(tag: str, text: str) -> str:
    contents = _contents(tag, text)
    if len(contents) != 1:
        raise _FormatError(f"expected one <{tag}>...</{tag}>, got {len(contents) or 'none'}")
    return _not_empty(tag, contents[0])


def _not_empty(tag: str, content: str) -> str:
    if not content:
        raise _FormatError(f"expected a text in <{tag}>, got an empty one")
    return content


def _contents(tag: str, text: str) -> list[str]:
    return [text[opening.end() : closing.start()].strip() for opening, closing in _elements(tag, text)]


def _elements(tag: str, text: str) -> Iterator[tuple[re.Match[str], re.Match[str]]]:
    """The opening and the closing tag of each element, in one pass however often a model repeats one of them."""
    opening = None
    for mark in re.finditer(f"<(/?){tag}>", text, re.IGNORECASE | re.ASCII):
        if not mark[1]:
            opening = opening or mark
        elif opening:
            yield opening, mark
            opening = None


def _write(content_of_tag: dict[str, str]) -> str:
    return "\n".join(f"<{tag}>{content.strip()}</{tag}>" for tag, content in content_of_tag.items())


def _checked(text: str, parsed: object, expected: object) -> str:
    if parsed != expected:
        reason = parsed.reason if isinstance(parsed, Malformed) else "a text in it has tags of the format"
        raise ValueError(f"a step that cannot be read back: {reason}; got {text!r:.200}")
    return text
