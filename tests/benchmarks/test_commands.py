"""The benchmarks that README and docs name start from the root of a checkout."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
PROGRAMS = sorted(set(re.findall(r"python -m (benchmarks\.\w+)", "\n".join(path.read_text() for path in PAGES))))


def test_the_programs_are_found_in_the_docs():
    assert {"benchmarks.ablation", "benchmarks.side_by_side", "benchmarks.slots"} <= set(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_starts(program: str):
    ended = subprocess.run([sys.executable, "-m", program, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in ended.stderr
    assert program in ended.stdout  # its usage
