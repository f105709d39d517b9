"""The benchmarks start as README says, from the root of a checkout."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(set(re.findall(r"python -m (benchmarks\.\w+)", (ROOT / "README.md").read_text())))


def test_the_programs_are_found_in_readme():
    assert {"benchmarks.ablation", "benchmarks.side_by_side", "benchmarks.slots"} <= set(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_starts(program: str):
    ended = subprocess.run([sys.executable, "-m", program, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in ended.stderr
    assert program in ended.stdout  # how it is called
