"""The scripts of launch/: short, without faults, and telling how they are called."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "launch").iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_short_and_without_faults(script):
    assert len(script.read_text().splitlines()) < 40
    shellcheck = Path(sys.executable).with_name("shellcheck")
    found = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_called_without_a_configuration_tell_their_usage(script):
    called = subprocess.run([script], capture_output=True, text=True, check=False)
    assert called.returncode == 2
    assert called.stderr.startswith("usage: ")
    assert "CONFIG" in called.stderr


@pytest.mark.parametrize("processes", ["0", "two", ""])
def test_processes_are_counted_from_one(processes):
    local = next(script for script in SCRIPTS if script.name == "local.sh")
    called = subprocess.run([local, f"--processes={processes}", "c.py"], capture_output=True, text=True, check=False)
    assert called.returncode == 2
    assert called.stderr.startswith("usage: ")
