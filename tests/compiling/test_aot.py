"""The program as users start it: compiled for TPUs that are not there, on the machine of the tests."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_pod import get_config

import r1vl_jax.aot
from r1vl_jax.config import resolve

ROOT = Path(__file__).parent.parent.parent
SMALL = f"--config={Path(__file__).parent / 'small_pod.py'}"


def aot(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "r1vl_jax.aot", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_program_that_fits(tmp_path):
    pytest.importorskip("libtpu")
    done = aot(SMALL, "--topology=v5e-4", "--programs=reference scores", f"--json={tmp_path / 'report.json'}")
    assert done.returncode == 0, done.stderr
    assert "a model of size tiny on v5e:2x2: 4 devices (data 1 x fsdp 4 x tensor 1)" in done.stdout
    assert "reference scores: a device receives " in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["fits"]
    assert report["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
    assert report["stages"]["step_grpo"] == {"step_seconds": None, "utilisation": None}  # not all of its programs
    (program,) = report["programs"]
    memory = program["memory"]
    assert memory["peak"] > memory["held"] > memory["arguments"] > 0
    assert program["collectives"]["all-gather"]["bytes"] > 0
    assert program["operations"]["model"] > 0
    assert program["seconds"][program["binds"]] == max(program["seconds"].values()) > 0


def test_divided_matrices_are_gathered_and_not_passed_round(tmp_path):
    """Left to itself the compiler passes pieces of a matrix round where sequences are long: 42 exchanges here."""
    pytest.importorskip("libtpu")
    path = tmp_path / "report.json"
    long = "--config.sampling.max_completion_length=1024"
    done = aot(SMALL, long, "--topology=v5e-4", "--programs=reference scores", f"--json={path}")
    assert done.returncode == 0, done.stderr
    (program,) = json.loads(path.read_text())["programs"]
    assert program["collectives"]["all-gather"]["count"] > 17
    assert "collective-permute" not in program["collectives"]


def test_a_program_that_does_not_fit():
    pytest.importorskip("libtpu")
    done = aot(SMALL, "--topology=v5e:2x2", "--nosearch", "--config.model.preset=7b")
    assert done.returncode == 1, done.stderr
    assert re.search(r"\nupdate: does not fit: a device has 11\.\d\d GiB too few \(what it reads and", done.stdout)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"json": "no/such/directory/report.json"}, "--json=no/such/directory/report.json: expected a file in a dir"),
        ({"json": "/"}, "--json=/: expected a file in a directory that is there"),
        ({"save": __file__}, f"--save={__file__}: expected a directory"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_compiled(monkeypatch, option, expected):
    monkeypatch.setattr(r1vl_jax.aot, "survey", lambda *_, **__: pytest.fail("compiled"))
    options = {"topology": "v5e-4", "slices": 1, "programs": [], "json": None, "save": None, "search": False} | option
    with pytest.raises(ValueError, match=re.escape(expected)):
        r1vl_jax.aot.run(resolve(get_config()), SimpleNamespace(**options))


def test_a_topology_that_there_is_not():
    done = aot(SMALL, "--topology=v5e-12")
    assert done.returncode == 2
    assert done.stderr.startswith("--topology=v5e-12: expected one of v5e-1 (v5e:1x1)")
