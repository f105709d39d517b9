"""HTML that is escaped by construction: a plain string is text, only `Markup` is markup."""

import html
import re


class Markup(str):
    """Text that is HTML already."""


# Characters that a page must not hold as they are; a model may well write them.
_CONTROLS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_SURROGATES = re.compile("[\ud800-\udfff]")


def text(value: object) -> Markup:
    """Text as HTML, with control characters as visible signs."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(_SURROGATES.sub("\ufffd", str(value).translate(_CONTROLS))))


def join(*parts: object) -> Markup:
    """Parts one after another; those that are not markup are escaped."""
    return Markup("".join(text(part) for part in parts))


def element(name: str, *children: object, **attributes: object) -> Markup:
    """An element. Attributes are escaped too; `class_` stands for `class`, `_` for `-`, None leaves one out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    head = "".join(f' {key}="{text(str(value))}"' for key, value in given.items())
    return Markup(f"<{name}{head}>{join(*children)}</{name}>")
