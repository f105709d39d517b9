"""`data.source` as text: one source, or several with their weights."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_WEIGHTED = re.compile(r"(.+):(\d+\.?\d*|\.\d+)")


@dataclass(frozen=True)
class Source:
    """One source of a mixture.

    Attributes:
        name: a file, a directory, or a name on the hub.
        weight: its share of the records of an epoch, relative to the other weights; None gives each record one place.
    """

    name: str
    weight: float | None = None


def parse_sources(text: str) -> tuple[Source, ...]:
    """The sources of "a.json", of "a.json:0.7, b.parquet:0.3", or of the text of a tuple of such names."""
    if "," not in text:
        return (Source(text),)
    names = [name.strip(" \t\n\"'") for name in text.strip().removeprefix("(").removesuffix(")").split(",")]
    return tuple(_parse_source(name) for name in names if name)


def source_errors(text: str) -> Iterator[str]:
    """One message for each thing that is wrong with `data.source`."""
    sources = parse_sources(text)
    if not text or not sources:
        yield f"data.source={text!r}: expected a file, a directory, or several with commas between"
    weights = [source.weight for source in sources]
    if None in weights and any(weight is not None for weight in weights):
        yield f"data.source={text!r}: expected a weight for each source, as a.json:0.7, or for none of them"
    if 0 in weights:
        yield f"data.source={text!r}: a weight of 0 leaves its source out; remove the source"
    if len(sources) > 1 and "digits" in [source.name for source in sources]:
        yield f"data.source={text!r}: the embedded task, 'digits', cannot be mixed with other data"


def _parse_source(text: str) -> Source:
    match = _WEIGHTED.fullmatch(text)
    return Source(match[1], float(match[2])) if match else Source(text)
