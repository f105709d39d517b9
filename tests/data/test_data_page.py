"""The example of docs/data.md runs as it is, and writes splits that a run can read."""

import re
import subprocess
import sys
from pathlib import Path

from r1vl_jax.data.records import invalid_reason, open_split

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_example_of_own_data_runs(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    result = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["[]", "<image>How many squares are there?"]
    sizes = {"warmup": 200, "train": 100, "validation": 20, "test": 20}
    for split, size in sizes.items():
        records = list(open_split(tmp_path / "data" / "squares", split))
        assert len(records) == size
        assert all(record.id.startswith(split) and bool(record.response) == (split == "warmup") for record in records)
        assert [reason for record in records if (reason := invalid_reason(record))] == []
