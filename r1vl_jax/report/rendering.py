"""Jinja2 templates of the report: every value is escaped, and control characters are shown as visible signs."""

import functools
import re
from typing import Any

import jinja2
from markupsafe import Markup

from r1vl_jax.observe.completions import show_control_characters

_SURROGATES = re.compile("[\ud800-\udfff]")  # which UTF-8 cannot encode


def render(template: str, **values: Any) -> Markup:
    """A file of `templates/` filled with values; a value that it names and that is missing is an error."""
    return Markup(_environment().get_template(template).render(values))


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("r1vl_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: Any) -> str:
    """What a template prints for a value, before it is escaped."""
    return value if isinstance(value, Markup) else _SURROGATES.sub("\ufffd", show_control_characters(str(value)))
