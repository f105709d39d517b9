"""The program as users start it: compiled for TPUs that are not there, on the machine of the tests."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from helpers.small_pod import get_config

from r1vl_jax.aot import __main__ as program
from r1vl_jax.aot.programs import Program
from r1vl_jax.aot.report import Report
from r1vl_jax.aot.topologies import parse, without_hardware
from r1vl_jax.config import resolve
from r1vl_jax.runtime import libtpu

ROOT = Path(__file__).parent.parent.parent
SMALL = f"--config={Path(__file__).parents[1] / 'helpers' / 'small_pod.py'}"


def aot(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "r1vl_jax.aot", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def options(**given) -> SimpleNamespace:
    """Flags as they are left alone, but these."""
    default = {"topology": "v5e-4", "slices": 1, "programs": None, "json": None, "save": None, "search": True}
    return SimpleNamespace(**default | given)


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


@pytest.mark.parametrize("flag", ["--topolgy=v5e-4", "--slices=x", "--config.sampling.temprature=1"])
def test_a_wrong_word_is_not_mistaken_for_a_program_that_does_not_fit(flag):
    done = aot(SMALL, flag)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_program_that_does_not_fit():
    pytest.importorskip("libtpu")
    done = aot(SMALL, "--topology=v5e:2x2", "--nosearch", "--config.model.preset=7b")
    assert done.returncode == 1, done.stderr
    assert re.search(r"\nupdate: does not fit: a device has 11\.\d\d GiB too few \(what it reads and", done.stdout)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"json": "no/such/directory/report.json"}, "--json=no/such/directory/report.json: expected a file in a dir"),
        ({"json": "/"}, "--json=/: expected a file in a directory that is there"),
        ({"save": __file__}, f"--save={__file__}: expected a directory"),
        ({"programs": []}, "--programs=: expected names of the table"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_compiled(monkeypatch, given, expected):
    monkeypatch.setattr(program, "survey", lambda *_, **__: pytest.fail("compiled"))
    with pytest.raises(ValueError, match=re.escape(expected)):
        program.run(resolve(get_config()), options(**given))


def test_what_is_known_is_told_although_the_compiler_fails_in_one_program(monkeypatch, tmp_path, capsys):
    """And nothing is searched for: larger slices would not help."""
    pytest.importorskip("libtpu")
    lower = Program.lower

    def compile():
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\nat the last")

    monkeypatch.setattr(
        Program,
        "lower",
        lambda self: SimpleNamespace(compile=compile) if self.name == "sync of layers" else lower(self),
    )
    monkeypatch.setattr(program, "first_that_fits", lambda *_: pytest.fail("searched"))
    without_hardware()
    programs, path = ["sync of layers", "sync of the rest"], tmp_path / "report.json"
    report = program.run(resolve(get_config()), options(programs=programs, json=str(path)))
    assert program.exit_status(report) == 2
    printed = capsys.readouterr().out
    assert "sync of layers: the compiler failed, so that nothing is known of this program" in printed
    assert "sync of layers: at the last\n" in printed
    assert "sync of the rest: a device receives" in printed
    written = json.loads(path.read_text())
    assert (written["fits"], written["failed"]) == (False, ["sync of layers"])
    failed, known = written["programs"]
    assert (failed["fits"], failed["reason"]) == (None, "INTERNAL: RET_CHECK failure")
    assert failed["last_lines"][-1] == "at the last"
    assert known["memory"]["peak"] > 0


def test_a_compiler_of_another_release_is_named(monkeypatch, capsys):
    monkeypatch.setattr(libtpu, "mismatch", lambda: "libtpu 1 is installed")
    monkeypatch.setattr(program, "survey", lambda *_, **__: Report(parse("v5e-4"), {}, "a model", ()))
    program.run(resolve(get_config()), options())
    assert capsys.readouterr().err == "warning: libtpu 1 is installed\n"


def test_a_topology_that_there_is_not():
    done = aot(SMALL, "--topology=v5e-12")
    assert done.returncode == 2
    assert done.stderr.startswith("--topology=v5e-12: expected one of v5e-1 (v5e:1x1)")
