"""Records of the embedded task, written as Mulberry's and R1-VL's published files are: JSON, and pictures beside it."""

import json
from collections.abc import Iterable
from pathlib import Path

from r1vl_jax.data.digits import task
from r1vl_jax.data.record import Record
from r1vl_jax.data.splits import open_split


def write_published_sets(directory: Path, num_records: int) -> list[Record]:
    """Writes `mulberry/` and `r1vl/`; returns the records that they show."""
    task.write(directory / "task", difficulty=1, warmup_records=num_records, train_records=1, eval_records=1, seed=0)
    records = list(open_split(directory / "task", "warmup"))
    _write(directory / "mulberry", records, _mulberry_row)
    _write(directory / "r1vl", records, _r1vl_row)
    return records


def _mulberry_row(record: Record, picture: str) -> dict:
    turns = [{"role": "user", "content": record.problem}, {"role": "assistant", "content": record.response}]
    return {"messages": turns, "images": picture}


def _r1vl_row(record: Record, picture: str) -> dict:
    return {
        "image_path": picture,
        "problem": record.problem.removeprefix("<image>"),
        "solution": record.response,
        "key_steps": {"Steps": [list(group) for group in record.key_steps]},
    }


def _write(directory: Path, records: Iterable[Record], row) -> None:
    (directory / "images").mkdir(parents=True)
    rows = []
    for number, record in enumerate(records):
        picture = f"images/{number}.png"
        (directory / picture).write_bytes(record.images[0])
        rows.append(row(record, picture))
    (directory / f"{directory.name}.json").write_text(json.dumps(rows))
