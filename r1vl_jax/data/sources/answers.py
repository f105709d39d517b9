r"""The answer of a row: from a response, or from a column as it occurs there.

In a text the answer is what stands below the answer heading, in `<answer>`, in the last `\boxed`, or behind `####`.
"""

import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from r1vl_jax.data.sources.literals import parse_literal
from r1vl_jax.rewards.answers import reading

_MAX_BARE_ANSWER = 100  # characters of a line that is an answer without a mark
_BOXED = re.compile(r"\\boxed\s*\{(.*)\}", re.DOTALL)
_LETTER = re.compile(r"\(?([A-Za-z])[).:]?\s*")
_INDEX = re.compile(r"-?[0-9]+(?:\.0+)?")
_LABEL = re.compile(r"\(?([A-J])[).:]\s+")
_TRUE_OR_FALSE = re.compile(r"true\s+or\s+false|true/false", re.IGNORECASE)


def answer_in_response(response: str) -> str:
    """In a response: where it is marked, else all of it if it is one line of at most 100 characters."""
    if (marked := _marked(response)) is not None:
        return marked
    text = response.strip()
    return text if len(text) <= _MAX_BARE_ANSWER and "\n" not in text else ""


def answer_in_column(cell: Any, *, problem: str = "", choices: Sequence[str] = ()) -> str:
    """The text of an answer of any type, of a list the first; "" for null.

    With choices it is `B: text`, from a letter, the text of a choice, or a whole number that counts choices from 0.

    Args:
        problem: a question of true or false has True and False as answers, any other yes and no, where the cell is a
            boolean.

    Raises:
        ValueError: an object, a number that is not finite, a whole number that could be a choice or count them, or a
            letter or number that no choice has.
    """
    if choices and _is_whole(cell):
        return _from_index(int(cell), choices)
    text = _to_text(cell, problem)
    marked = _marked(text)
    text = text.strip() if marked is None else marked
    return _with_choice(text, choices)


def answers_in_column(cell: Any, *, problem: str = "", choices: Sequence[str] = ()) -> list[str]:
    """The different answers that a cell accepts: each of a list, or the one of another cell; none for null.

    Raises:
        ValueError: as `answer_in_column`.
    """
    cells = cell if isinstance(cell, list | tuple) else [cell]
    answers = (answer_in_column(each, problem=problem, choices=choices) for each in cells)
    return list(dict.fromkeys(filter(None, answers)))


def parse_choices(cell: Any) -> tuple[str, ...]:
    """The texts of a question's choices, without letters; none for null.

    Raises:
        ValueError: it is no list, no mapping from letters, or has more than ten.
    """
    if isinstance(cell, str) and cell.strip().startswith(("[", "{")):
        try:
            cell = parse_literal(cell)
        except ValueError as error:
            raise ValueError(f"choices: {error}") from error
    if isinstance(cell, Mapping):
        cell = [cell[letter] for letter in sorted(cell) if cell[letter] is not None]
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return ()
    if not isinstance(cell, list | tuple) or len(cell) > 10:
        raise ValueError(f"choices: expected a list of at most 10, got {cell!r:.60}")
    texts = [_to_text(each, "").strip() for each in cell]
    labels = [_LABEL.match(text) for text in texts]
    if all(label and label[1] == letter for label, letter in zip(labels, string.ascii_uppercase, strict=False)):
        return tuple(text[label.end() :] for text, label in zip(texts, labels, strict=True) if label)
    return tuple(texts)


def list_choices(problem: str, choices: Sequence[str]) -> str:
    """The problem with its choices, one a line as `A: text`, unless it has a letter of each."""
    letters = string.ascii_uppercase[: len(choices)]
    if not choices or all(re.search(rf"(?<!\w){letter}[).:]", problem) for letter in letters):
        return problem
    lines = [f"{letter}: {text}" for letter, text in zip(letters, choices, strict=True)]
    return "\n".join([problem.rstrip(), *lines])


def _marked(text: str) -> str | None:
    """The answer of a text that marks one; None without a mark."""
    encoded = text.encode(errors="surrogatepass")  # half a surrogate pair stays: the record is refused for it
    found = reading.anywhere(encoded).decode(errors="surrogatepass").strip()
    if found != text.strip() or reading.below_heading(encoded) is not None:
        return _unboxed(found)
    if "####" in text:
        return text.rpartition("####")[2].strip()
    return _unboxed(found) if _BOXED.fullmatch(found) else None


def _unboxed(text: str) -> str:
    r"""The content of one `\boxed` that is all of the text."""
    match = _BOXED.fullmatch(text)
    if match is None:
        return text
    depth = 0
    for bracket in re.findall(r"\\.|[{}]", match[1]):
        depth += {"{": 1, "}": -1}.get(bracket, 0)
        if depth < 0:
            return text
    return match[1].strip()


def _to_text(cell: Any, problem: str) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        names = ("True", "False") if _TRUE_OR_FALSE.search(problem) else ("yes", "no")
        return names[0] if cell else names[1]
    if isinstance(cell, int):
        return str(cell)
    if isinstance(cell, float) and math.isfinite(cell):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 2**53 else repr(cell)
    if isinstance(cell, list | tuple):
        texts = [_to_text(each, problem) for each in cell]
        return texts[0] if texts else ""
    raise ValueError(f"its answer: expected a text, a finite number, a boolean or a list of them, got {cell!r:.60}")


def _is_whole(cell: Any) -> bool:
    """Whether a cell is an integer, or a float without a fraction, as pandas holds integers beside nulls."""
    return (isinstance(cell, int) and not isinstance(cell, bool)) or (isinstance(cell, float) and cell.is_integer())


def _from_index(index: int, choices: Sequence[str]) -> str:
    counted = index if 0 <= index < len(choices) else None
    named = next((number for number, text in enumerate(choices) if text in (str(index), f"{index}.0")), None)
    if counted is None and named is None:
        raise ValueError(f"its answer {index} neither counts the {len(choices)} choices from 0 nor is one of them")
    if counted is not None and named is not None and counted != named:
        raise ValueError(
            f"its answer {index} could be choice {index}, counted from 0, or the choice that reads {index}; use letters"
        )
    number = named if counted is None else counted
    assert number is not None
    return _name_choice(number, choices)


def _name_choice(number: int, choices: Sequence[str]) -> str:
    return f"{string.ascii_uppercase[number]}: {choices[number]}"


def _with_choice(text: str, choices: Sequence[str]) -> str:
    letter = _LETTER.fullmatch(text)
    if letter and (number := string.ascii_uppercase.find(letter[1])) in range(len(choices)):
        return _name_choice(number, choices)
    if list(choices).count(text) == 1:
        return _name_choice(choices.index(text), choices)
    if letter and choices:
        return _name_choice(_number_of_letter(letter[1], len(choices)), choices)
    return _from_index(int(text.partition(".")[0]), choices) if choices and _INDEX.fullmatch(text) else text


def _number_of_letter(letter: str, num_choices: int) -> int:
    if (number := string.ascii_uppercase.index(letter.upper())) >= num_choices:
        raise ValueError(f"its answer {letter!r} is the letter of none of its {num_choices} choices")
    return number
