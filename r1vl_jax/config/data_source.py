"""`data.source` as text, one source, or several with their weights; and how its files become records."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from r1vl_jax.config.settings import COLUMN_FIELDS, KEY_STEPS, KEY_STEPS_SUFFIX, LAYOUTS

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


def preparation_errors(settings: Any) -> Iterator[str]:
    """One message for each thing that is wrong with how files become records.

    Args:
        settings: the section `data`, or a `data.sources.preparation.Preparation`, whose fields have the same names.
    """
    if settings.layout not in (layouts := ("", *LAYOUTS)):
        yield f"data.layout={settings.layout!r}: expected one of {layouts}"
    if settings.key_steps not in KEY_STEPS and not settings.key_steps.endswith(KEY_STEPS_SUFFIX):
        yield (
            f"data.key_steps={settings.key_steps!r}: expected one of {KEY_STEPS}, or a file of key steps that ends"
            f" in {KEY_STEPS_SUFFIX}"
        )
    yield from _column_errors(settings.columns)
    for name in ("validation_size", "test_size"):
        if not 0 <= (size := getattr(settings, name)) < math.inf:
            yield f"data.{name}={size}: expected at least 0"
        elif size >= 1 and size != int(size):
            yield f"data.{name}={size}: expected a share below 1, or a whole number of records"
    if settings.split_seed < 0:
        yield f"data.split_seed={settings.split_seed}: expected at least 0"
    if settings.max_frames < 2:
        yield f"data.max_frames={settings.max_frames}: expected at least 2, a pair of frames"


def _column_errors(columns: str) -> Iterator[str]:
    pairs = [pair.strip() for pair in columns.split(",") if pair.strip()]
    for pair in pairs:
        name, _, column = (part.strip() for part in pair.partition("="))
        if name not in COLUMN_FIELDS or not column:
            yield (
                f"data.columns={columns!r}: expected FIELD=COLUMN, with commas between, and FIELD one of"
                f" {', '.join(COLUMN_FIELDS)}; got {pair!r}"
            )
    names = [pair.partition("=")[0].strip() for pair in pairs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        yield f"data.columns={columns!r} names {twice[0]} twice"


def _parse_source(text: str) -> Source:
    match = _WEIGHTED.fullmatch(text)
    return Source(match[1], float(match[2])) if match else Source(text)
