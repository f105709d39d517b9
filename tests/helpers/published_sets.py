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
    """Every second question comes after a system prompt and an earlier one."""
    turns = [{"role": "user", "content": record.problem}, {"role": "assistant", "content": record.response}]
    if int(Path(picture).stem) % 2:
        earlier = [("system", "Be brief."), ("user", "Ready?"), ("assistant", "Yes.")]
        turns = [*({"role": role, "content": text} for role, text in earlier), *turns]
    return {"messages": turns, "images": picture}


def _r1vl_row(record: Record, picture: str) -> dict:
    """Every second picture is shown as a video that stands still."""
    is_video = int(Path(picture).stem) % 2
    return {
        **({"video": [picture] * 3} if is_video else {"image_path": picture}),
        "problem": record.problem.replace("<image>", ""),
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
