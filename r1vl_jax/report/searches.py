"""A page of searches by R1-Router: what was asked, where it was looked up, what came back, and why it ended."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1vl_jax.observe.files import atomic_write
from r1vl_jax.report.rendering import render
from r1vl_jax.report.samples import image_url


def write_searches(path: epath.Path, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the page.

    Args:
        rows: as `router.evaluate` writes them: a trace with its measures.
    """
    searches = [dict(row) | {"image": _url(row["trajectory"]["image"])} for row in rows]
    atomic_write(path, render("searches.html", title=title, searches=searches).encode())


def _url(encoded: str | None) -> str | None:
    return None if encoded is None else image_url(base64.b64decode(encoded))
