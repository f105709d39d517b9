"""Completions: the Parquet file and the table on the console."""

import io

import pytest
from pyarrow import parquet
from rich.console import Console

from r1vl_jax import observe
from r1vl_jax.observe.completions import SCHEMA, read_completions


def completion(**changes) -> dict:
    row = {field.name: 0.5 if str(field.type) == "double" else "" for field in SCHEMA}
    return {**row, "step": 7, "image": b"\x89PNG", "prompt": "3 + 4?", "completion": "### Step 1:\n7", **changes}


def test_completions_round_trip(tmp_path):
    rows = [completion(), completion(reward=2.1, completion="é \x00 \N{GRINNING FACE}", image=b"")]
    path = observe.write_completions(tmp_path, 7, rows)
    assert path == tmp_path / "completions" / "completions_00007.parquet"
    assert read_completions(path) == rows
    assert parquet.read_schema(path).names == SCHEMA.names


def test_wrong_columns_are_rejected(tmp_path):
    row = completion(rewrad=1.0)
    del row["reward"]
    with pytest.raises(ValueError, match=r"step 7: missing columns \['reward'\], unknown columns \['rewrad'\]"):
        observe.write_completions(tmp_path, 7, [row])


def test_the_table_shows_model_output_verbatim():
    console = Console(file=io.StringIO(), width=80)
    row = completion(
        completion="[red]a[/red] [b \x1b[31m\x9b",
        prompt="<video>3 + 4?\n<image>",
        answer="7",
        reward=1.25,
        advantage=-0.7,
    )
    observe.print_completions([row], console=console)
    shown = console.file.getvalue()
    assert "<image>" not in shown
    assert "<video>" not in shown
    for text in ("[red]a[/red] [b ␛[31m\ufffd", " 3 + 4?", "answer: 7", "reward     1.25", "advantage -0.70"):
        assert text in shown
