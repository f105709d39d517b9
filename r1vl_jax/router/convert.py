"""Writes trajectories in R1-Router's own layout as records of their steps, which `data.source` takes; or back.

    python -m r1vl_jax.router.convert --input=FILE_OR_DIR --out=DIR [--images=DIR]
    python -m r1vl_jax.router.convert --input=RECORDS --out=DIR

Files are JSON, JSON Lines or Parquet; a file whose name has "valid" or "test" in it becomes that split, others `train`.
`--images` is searched for the pictures, whose paths may be those of another machine. A directory of records becomes
OUT/SPLIT.jsonl with OUT/images. What cannot be used is left out, and the program says how much, which and why.
"""

import hashlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import app, flags, logging
from PIL import Image

from r1vl_jax.data.records import (
    Record,
    UnusableRecord,
    is_record_directory,
    open_split,
    split_names,
    write_splits,
)
from r1vl_jax.data.sources.account import Account
from r1vl_jax.data.sources.files import count_rows, find_files, read_rows
from r1vl_jax.observe.progress import Progress
from r1vl_jax.router.picture_files import PictureFiles
from r1vl_jax.router.trajectories import Drop, read_trajectories, write_trajectories


def to_records(source: Path, images: Path, out: Path) -> list[str]:
    """Writes files of trajectories as splits of records.

    Args:
        images: searched for the pictures.
        out: is created; must not exist.

    Returns:
        What was written and what left out, in lines.

    Raises:
        FileExistsError, FileNotFoundError: `out` is there, or `source` is not.
        ValueError: a file cannot be read, or a split has no usable trajectory; says why.
    """
    account, steps, pictures = Account(), Counter[str](), PictureFiles(images)

    def records(split: str, paths: Sequence[Path]) -> Iterator[Record]:
        for path in paths:
            name = path.name.partition(".")[0]
            with Progress(f"reading {path.name}", count_rows(path)) as progress:
                rows = _counted(read_rows(path), lambda number: (account.row(split), progress.update(number)))
                drop = _dropper(account, split)
                for trajectory in read_trajectories(rows, pictures, name=name, source=name, drop=drop):
                    steps.update(record.kind for record in trajectory)
                    yield from trajectory

    by_split = {split: records(split, paths) for split, paths in find_files(source).items()}
    try:
        write_splits(out, by_split, settings={"converted": str(source)})
    except ValueError as error:
        raise ValueError("\n".join([f"{source}: {error}", *account.lines()])) from error
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(steps.items()))
    return [*account.lines(), f"{steps.total():,} steps: {kinds}"]


def to_trajectories(source: Path, out: Path) -> list[str]:
    """Writes a directory of records of steps as files of trajectories, with their pictures.

    Args:
        out: is created; must not exist.

    Returns:
        What was written and what left out, in lines.

    Raises:
        FileExistsError: `out` is there.
        ValueError: a record cannot be read.
    """
    if out.exists():
        raise FileExistsError(f"{out}: data is not overwritten; name a new directory, or delete this one")
    account = Account()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as unfinished:
        directory = Path(unfinished) / "written"
        (directory / "images").mkdir(parents=True)
        for split in split_names(source):
            rows = write_trajectories(
                open_split(source, split), _image_writer(directory), drop=_dropper(account, split, counts=True)
            )
            with (directory / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                for row in rows:
                    account.row(split)
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        directory.rename(out)
    return list(account.lines())


def _counted(rows: Iterator, count: Callable[[int], object]) -> Iterator:
    for number, row in enumerate(rows, start=1):
        count(number)
        yield row


def _dropper(account: Account, split: str, *, counts: bool = False) -> Drop:
    def drop(error: UnusableRecord) -> None:
        if counts:
            account.row(split)
        account.drop(split, error.name, error.reason)

    return drop


def _image_writer(directory: Path) -> Callable[[bytes], str]:
    """Writes a picture below `images` under a digest of it; returns its path within the directory."""

    def write(image: bytes) -> str:
        suffix = (Image.open(io.BytesIO(image)).format or "png").lower()
        name = f"images/{hashlib.sha256(image).hexdigest()[:16]}.{suffix}"
        (directory / name).write_bytes(image)
        return name

    return write


def main() -> None:
    source = flags.DEFINE_string("input", None, "File or directory of trajectories; or records.", required=True)
    images = flags.DEFINE_string("images", "", "Directory of the pictures; by default that of the input.")
    out = flags.DEFINE_string("out", None, "Directory of the result; must not exist.", required=True)

    def start(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        path, directory = Path(source.value).expanduser(), Path(out.value).expanduser()
        try:
            if is_record_directory(path):
                lines = to_trajectories(path, directory)
            else:
                beside = path if path.is_dir() else path.parent
                lines = to_records(path, Path(images.value).expanduser() if images.value else beside, directory)
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from None
        print(*lines, directory, sep="\n")

    app.run(start)


if __name__ == "__main__":
    main()
