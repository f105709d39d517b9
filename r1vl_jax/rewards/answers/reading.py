"""Which part of a text is the answer."""

import re

from r1vl_jax import response_format

_HEADING = response_format.ANSWER.encode()
_LEAD_ALONE = re.compile(rb"[*_ ]*(?:the )?(?:final )?answer(?: is)?\s*:?[*_ ]*:?[*_ ]*\n", re.IGNORECASE)
_ELEMENT = re.compile(rb"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_BRACE = re.compile(rb"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_MAX_BOX = 2_000  # bytes of a box that lines may be within
_FENCE = re.compile(rb"(```|~~~)[^\n`]*\n(.*?)(?:(?<=\n)[ \t]*\1|\Z)", re.DOTALL)
_DISPLAY = re.compile(rb"\$\$.*?(?:\$\$|\Z)|\\\[.*?(?:\\\]|\Z)|\\begin\{([a-z]+\*?)\}.*?(?:\\end\{\1\}|\Z)", re.DOTALL)


def first_block(body: bytes) -> bytes:
    r"""The first block of a text, stripped: what a code fence holds, a display (`\[ ... \]`, `$$ ... $$`), or a line.

    A display ends with its line; an empty text has no block, and a fence or display that is not closed ends with the
    text.
    """
    body = _LEAD_ALONE.sub(b"", body.strip(), count=1).strip() if _LEAD_ALONE.match(body.strip()) else body.strip()
    if fence := _FENCE.match(body):
        return fence[2].strip()
    display = _DISPLAY.match(body)
    end = body.find(b"\n", display.end() if display else _end_of_box(body))
    return body[: end if end >= 0 else None].strip()


def below_heading(text: bytes) -> bytes | None:
    """The first block below the first answer heading, at any position of a line; None without a heading."""
    return first_block(text.partition(_HEADING)[2]) if _HEADING in text else None


def answer_element(text: bytes) -> bytes | None:
    """What the last `<answer>` element holds; None in a text without one, or with an answer heading."""
    if _HEADING in text:
        return None
    elements = _ELEMENT.findall(text)
    return first_block(elements[-1]) if elements else None


def think_element(text: bytes) -> tuple[int, int]:
    """The span of the reasoning path of a text with an `<answer>` element: its `<think>` element, or all before."""
    opening = text.find(b"<think>")
    closing = text.find(b"</think>", opening)
    if 0 <= opening < closing:
        return opening + len(b"<think>"), closing
    return 0, text.rfind(b"<answer>")


def anywhere(text: bytes) -> bytes:
    r"""The answer of any text: below the heading, the `<answer>` element, the last `\boxed`, or the whole text."""
    for found in (below_heading(text), answer_element(text), _last_boxed(text)):
        if found is not None:
            return found
    return text.strip()


def _end_of_box(body: bytes) -> int:
    r"""Where a `\boxed{` at the start closes; 0 if there is none."""
    depth = 0
    for token in _BRACE.finditer(body[:_MAX_BOX] if body.startswith(b"\\boxed") else b""):
        depth += {b"{": 1, b"}": -1}.get(token[0][-1:], 0) if token[0][:1] != b"\\" or len(token[0]) > 2 else 0
        if depth == 0:
            return token.end()
    return 0


def _last_boxed(text: bytes) -> bytes | None:
    r"""The `\boxed{...}` that begins last, of those whose braces close; one pass, whatever the text."""
    opened: list[int] = []  # where each open brace's text begins: at its `\boxed`, or -1
    last = (-1, -1)
    for token in _BRACE.finditer(text):
        if token[0].endswith(b"{"):
            opened.append(token.start() if len(token[0]) > 1 else -1)
        elif token[0] == b"}" and opened:
            last = max(last, (opened.pop(), token.end()))
    return text[slice(*last)] if last[0] >= 0 else None
