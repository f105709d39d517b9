"""Data: records, pictures, prompts, batches and streams. See docs/data.md.

from r1vl_jax import data

for record in data.from_mulberry("mulberry.json", images="mulberry_images"):
    ...
data.from_files("rows.parquet")                     # the layout is recognised
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`from_files`, and a reader for each layout: `from_mulberry`, ...; imported when first used."""
    if not name.startswith("from_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from r1vl_jax.data.sources import iterate

    if name == "from_files":
        return iterate.from_files
    if name not in iterate.READERS:
        raise AttributeError(f"module {__name__!r} has no {name!r}; it has from_files, {', '.join(iterate.READERS)}")
    return iterate.READERS[name]
