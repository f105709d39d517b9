"""What a language model replies to prompts: kept on disk, so that nothing is asked twice, and limited in number."""

import contextlib
import hashlib
import itertools
import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BRACKETS = re.compile(r"[\[{]")
_MAX_TRIES = 200  # brackets that may begin JSON
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_COMMAND = re.compile(r"(?<!\\)\\(?=(?!u[0-9a-fA-F]{4})[A-Za-z]{2})")  # a backslash before a word


@dataclass(frozen=True)
class Reply:
    """A reply to a prompt, or why there is none.

    Attributes:
        text: as the model wrote it.
        error: "" where there is a text.
    """

    text: str = ""
    error: str = ""


# different prompts -> each with its reply, as they come
Ask = Callable[[Sequence[str]], Iterable[tuple[str, Reply]]]


def limited(ask: Ask, max_calls: int) -> Ask:
    """Asks no more than so many prompts in all; the others get an error."""
    num_left = max_calls

    def ask_limited(prompts: Sequence[str]) -> Iterator[tuple[str, Reply]]:
        nonlocal num_left
        asked, others = prompts[:num_left], prompts[num_left:]
        num_left -= len(asked)
        if asked:
            yield from ask(asked)
        error = Reply(error=f"the limit of {max_calls:,} calls is reached")
        yield from ((prompt, error) for prompt in others)

    return ask_limited


class Cache:
    """Replies on disk, by everything that decides them; a context manager.

    Args:
        path: an SQLite file; is made.
        made_by: model and settings.

    Raises:
        ValueError: the file is none of this kind.
    """

    def __init__(self, path: Path, made_by: dict[str, Any]):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._prefix = json.dumps(made_by, sort_keys=True)
        try:
            self._connection = sqlite3.connect(path)
            with self._connection:
                self._connection.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT)")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path}: expected a file of replies that this program wrote: {error}") from error

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def cached(self, ask: Ask) -> Ask:
        """Asks only what has no reply yet, and keeps each reply as it comes; errors are not kept."""

        def ask_new(prompts: Sequence[str]) -> Iterator[tuple[str, Reply]]:
            replies = {prompt: self._find(prompt) for prompt in prompts}
            yield from ((prompt, reply) for prompt, reply in replies.items() if reply is not None)
            new = [prompt for prompt, reply in replies.items() if reply is None]
            for prompt, reply in ask(new) if new else ():
                self._keep(prompt, reply)
                yield prompt, reply

        return ask_new

    def forget(self, prompt: str) -> None:
        """Asks this again next time."""
        with self._connection:
            self._connection.execute("DELETE FROM replies WHERE key = ?", (self._key(prompt),))

    def _find(self, prompt: str) -> Reply | None:
        row = self._connection.execute("SELECT text FROM replies WHERE key = ?", (self._key(prompt),)).fetchone()
        return None if row is None else Reply(row[0])

    def _keep(self, prompt: str, reply: Reply) -> None:
        if not reply.error:
            with self._connection:
                self._connection.execute(
                    "INSERT OR REPLACE INTO replies VALUES (?, ?)", (self._key(prompt), reply.text)
                )

    def _key(self, prompt: str) -> str:
        return hashlib.sha256(f"{self._prefix}\n{prompt}".encode("utf-8", "surrogatepass")).hexdigest()


def read_json(text: str) -> Any:
    """The last JSON list or object in a reply, which may stand in a code block or between sentences.

    Backslashes of LaTeX that a model forgot to double are read as such.

    Raises:
        ValueError: there is none.
    """
    answer = _COMMAND.sub(r"\\\\", _THOUGHT.sub("", text))
    decoder, found, end = json.JSONDecoder(), None, 0
    for bracket in itertools.islice(_BRACKETS.finditer(answer), _MAX_TRIES):
        if bracket.start() >= end:
            with contextlib.suppress(ValueError, RecursionError):
                found, end = decoder.raw_decode(answer, bracket.start())
    if found is None:
        raise ValueError(f"expected JSON in the reply, got {text.strip()[:60]!r}")
    return found
