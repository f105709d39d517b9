"""Records of files as an iterator, for programs that have a use of their own for them."""

import logging
import os
from collections.abc import Callable, Iterator
from functools import partial

from r1vl_jax.data.records import Record
from r1vl_jax.data.sources.files import find_files
from r1vl_jax.data.sources.layouts import LAYOUTS
from r1vl_jax.data.sources.preparation import Part, Preparation, valid_records


def from_files(
    path: str | os.PathLike,
    images: str | os.PathLike = "",
    *,
    layout: str = "",
    columns: str = "",
    key_steps: str = "rule",
) -> Iterator[Record]:
    """The valid records of a file or a directory of files, split after split, each read when it is asked for.

    Rows that give none are logged, with their reason, and left out. No two records have one id: of the second,
    `#ROW` is added. Pictures are read and not decoded: `write_splits` does that, and leaves out records with
    unreadable ones.

    Args:
        path: as `data.source`.
        images: root of relative paths of pictures; by default the directory of `path`.
        layout: a name in `LAYOUTS`; by default it is recognised.
        columns: as `data.columns`.
        key_steps: as `data.key_steps`.

    Raises:
        FileNotFoundError, ValueError: no data are there, their layout is not known, or an argument is wrong; says why.
    """
    preparation = Preparation(
        os.fspath(path), images=os.fspath(images), layout=layout, columns=columns, key_steps=key_steps
    )
    taken: set[str] = set()
    drop = partial(logging.getLogger(__name__).warning, "left out: %s")
    for split, files in find_files(preparation.source).items():
        part = Part(split, split, files, preparation.reader(files))
        yield from (record for record, _ in valid_records(part, part.rows(), taken, drop))


# `from_mulberry(path, images)` and its like, one for each layout.
READERS: dict[str, Callable[..., Iterator[Record]]] = {
    f"from_{layout.replace('-', '_')}": partial(from_files, layout=layout) for layout in LAYOUTS
}
