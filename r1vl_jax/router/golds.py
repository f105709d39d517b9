"""What a training record of R1-Router expects, as the JSON in its `answer`.

kind "ret"    {"query": "Who wrote it?", "retriever": ["text retriever"]}; the first retriever counts
kind "ans"    "Jules Verne", or a list of texts of which each is right
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1vl_jax.router.protocol import Retriever, find_retriever

RETRIEVAL, ANSWER = "ret", "ans"  # kinds of records, and types of steps


@dataclass(frozen=True)
class RetrievalGold:
    """What a retrieval step should write.

    Attributes:
        query: the sub-question; "None" to end the search.
        retriever: None for "None".
    """

    query: str
    retriever: Retriever | None


def read_retrieval_gold(answer: str) -> RetrievalGold:
    """The gold of a record of kind "ret".

    Raises:
        ValueError: the text is no such JSON; says what was expected and found.
    """
    return check_retrieval_gold(_from_json(answer))


def read_answer_golds(answer: str) -> tuple[str, ...]:
    """The gold answers of a record of kind "ans".

    Raises:
        ValueError: the text is no such JSON; says what was expected and found.
    """
    return check_answer_golds(_from_json(answer))


def gold_retrieval(sub_question: str, retriever: str) -> str:
    """The `answer` of a record of kind "ret".

    Args:
        sub_question, retriever: "None" both to end the search.

    Raises:
        ValueError: the sub-question is empty, or no retriever has this name.
    """
    value = {"query": sub_question, "retriever": [retriever]}
    check_retrieval_gold(value)
    return json.dumps(value, ensure_ascii=False)


def gold_answer(golds: Sequence[str]) -> str:
    """The `answer` of a record of kind "ans".

    Args:
        golds: answers of which each is right.

    Raises:
        ValueError: there is none, or one is empty.
    """
    return json.dumps(check_answer_golds(list(golds)), ensure_ascii=False)


def check_retrieval_gold(value: Any) -> RetrievalGold:
    """The gold of a retrieval step in the original's layout.

    Raises:
        ValueError: as `read_retrieval_gold`.
    """
    if not isinstance(value, Mapping) or not isinstance(query := value.get("query"), str) or not query.strip():
        raise ValueError(f'expected {{"query": TEXT, "retriever": [NAME]}}, got {value!r:.100}')
    names = value.get("retriever")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"retriever: expected a name or a list of names, got {value.get('retriever')!r:.100}")
    return RetrievalGold(query, [find_retriever(name) for name in names][0])


def check_answer_golds(value: Any) -> tuple[str, ...]:
    """The gold answers of an answer step in the original's layout: a text or a list of texts.

    Raises:
        ValueError: as `read_answer_golds`.
    """
    golds = [value] if isinstance(value, str) else value
    if not isinstance(golds, list | tuple) or not golds:
        raise ValueError(f"expected an answer or a list of answers, got {value!r:.100}")
    if not all(isinstance(gold, str) and gold.strip() for gold in golds):
        raise ValueError(f"expected answers that are texts, none of them empty, got {value!r:.100}")
    return tuple(golds)


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"expected JSON, got {text!r:.100} ({error})") from None
