"""Lists that stand in a cell as text, as CSV files and pandas write them."""

import ast
import io
import itertools
import json
import tokenize
from typing import Any


def parse_literal(text: str) -> Any:
    """The value of a text of JSON, or of a Python literal such as `['x', 'y']`.

    Raises:
        ValueError: it is neither, is nested too deep, or has texts without a comma between them, as NumPy prints them.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"expected JSON or a Python literal, got {text[:60]!r} ({reason})") from reason
    if _has_texts_without_comma(text):
        raise ValueError(f"expected commas between the texts of a list, got {text[:60]!r}")
    return value


def parse_list(cell: Any) -> Any:
    """The list that a cell holds as text; any other cell as it is."""
    if not isinstance(cell, str) or not (cell.strip().startswith("[") and cell.strip().endswith("]")):
        return cell
    try:
        value = parse_literal(cell)
    except ValueError:
        return cell
    return value if isinstance(value, list) else cell


def _has_texts_without_comma(text: str) -> bool:
    """Python takes `'a' 'b'` as one text."""
    tokens = tokenize.generate_tokens(io.StringIO(text.strip()).readline)
    kinds = [token.type for token in tokens if token.type != tokenize.NL]
    return (tokenize.STRING, tokenize.STRING) in itertools.pairwise(kinds)
