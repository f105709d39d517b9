"""HTML that is escaped by construction: a plain string is text, only `Markup` is markup."""

import html
import re

from r1vl_jax.observe.completions import visible


class Markup(str):
    """Text that is HTML already."""


_SURROGATES = re.compile("[\ud800-\udfff]")


def text(value: object) -> Markup:
    """Text as HTML, with control characters as visible signs."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(_SURROGATES.sub("\ufffd", visible(str(value)))))


def join(*parts: object) -> Markup:
    """Parts one after another; those that are not markup are escaped."""
    return Markup("".join(text(part) for part in parts))


def element(name: str, *children: object, **attributes: object) -> Markup:
    """An element. Attributes are escaped too; `class_` stands for `class`, `_` for `-`, None leaves one out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    head = "".join(f' {key}="{text(str(value))}"' for key, value in given.items())
    return Markup(f"<{name}{head}>{join(*children)}</{name}>")
