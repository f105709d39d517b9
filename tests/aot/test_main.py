"""The command as users run it: programs compiled for TPUs on a machine without one."""

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
from r1vl_jax.aot.topologies import parse_topology, set_up_compile_only
from r1vl_jax.config import resolve
from r1vl_jax.runtime import libtpu

ROOT = Path(__file__).parent.parent.parent
SMALL = f"--config={Path(__file__).parents[1] / 'helpers' / 'small_pod.py'}"


def aot(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "r1vl_jax.aot", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def flag_values(**given) -> SimpleNamespace:
    """Default flags, except those given."""
    default = {
        "topology": "v5e-4",
        "slices": 1,
        "programs": None,
        "json": None,
        "markdown": None,
        "save": None,
        "search": True,
    }
    return SimpleNamespace(**default | given)


def test_a_program_that_fits(tmp_path):
    pytest.importorskip("libtpu")
    json_file, markdown_file = tmp_path / "report.json", tmp_path / "report.md"
    files = (f"--json={json_file}", f"--markdown={markdown_file}")
    done = aot(SMALL, "--topology=v5e-4", "--programs=reference_logps", *files)
    assert done.returncode == 0, done.stderr
    assert "a model of size tiny on v5e:2x2: 4 devices (data 1 x fsdp 4 x tensor 1)" in done.stdout
    assert "reference_logps: a device receives " in done.stdout
    assert markdown_file.read_text().startswith("`python -m r1vl_jax.aot --config=")
    assert "\n| reference_logps | " in markdown_file.read_text()
    report = json.loads(json_file.read_text())
    assert report["fits"]
    assert report["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
    assert report["stages"]["step_grpo"] == {"step_seconds": None, "mfu": None}  # not all of its programs
    (program,) = report["programs"]
    memory = program["memory"]
    assert memory["peak"] > memory["resident"] > memory["arguments"] > 0
    assert program["collectives"]["all-gather"]["bytes"] > 0
    assert program["flops"]["model"] > 0
    assert program["seconds"][program["bottleneck"]] == max(program["seconds"].values()) > 0


def test_sharded_matrices_are_all_gathered(tmp_path):
    """Not passed around by 42 collective-permutes (windowed einsum), the compiler's own choice for long sequences."""
    pytest.importorskip("libtpu")
    path = tmp_path / "report.json"
    long = "--config.sampling.max_completion_length=1024"
    done = aot(SMALL, long, "--topology=v5e-4", "--programs=reference_logps", f"--json={path}")
    assert done.returncode == 0, done.stderr
    (program,) = json.loads(path.read_text())["programs"]
    assert program["collectives"]["all-gather"]["count"] > 17
    assert "collective-permute" not in program["collectives"]


@pytest.mark.parametrize("flag", ["--topolgy=v5e-4", "--slices=x", "--config.sampling.temprature=1"])
def test_an_unknown_flag_has_its_own_exit_status(flag):
    done = aot(SMALL, flag)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_program_that_does_not_fit():
    pytest.importorskip("libtpu")
    done = aot(SMALL, "--topology=v5e:2x2", "--nosearch", "--config.model.preset=7b")
    assert done.returncode == 1, done.stderr
    assert re.search(r"\nupdate: does not fit: 11\.\d\d GiB over the memory of a device \(arguments and", done.stdout)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"json": "no/such/directory/report.json"},
            "--json=no/such/directory/report.json: expected a file in an existing directory",
        ),
        ({"markdown": "no/such/directory/report.md"}, "--markdown=no/such/directory/report.md: expected a file"),
        ({"json": "/"}, "--json=/: expected a file in an existing directory"),
        ({"save": __file__}, f"--save={__file__}: expected a directory"),
        ({"programs": []}, "--programs=: expected program names"),
    ],
)
def test_unusable_flags_are_rejected_before_anything_is_compiled(monkeypatch, given, expected):
    monkeypatch.setattr(program, "compile_all", lambda *_, **__: pytest.fail("compiled"))
    with pytest.raises(ValueError, match=re.escape(expected)):
        program.run(resolve(get_config()), flag_values(**given))


def test_other_programs_are_reported_when_the_compiler_fails_on_one(monkeypatch, tmp_path, capsys):
    """And nothing is searched for: a larger slice would not help."""
    pytest.importorskip("libtpu")
    lower = Program.lower

    def compile():
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\nlast line")

    monkeypatch.setattr(
        Program,
        "lower",
        lambda self: SimpleNamespace(compile=compile) if self.name == "sync_layers" else lower(self),
    )
    monkeypatch.setattr(program, "first_that_fits", lambda *_: pytest.fail("searched"))
    set_up_compile_only()
    programs, path = ["sync_layers", "sync_non_layer_params"], tmp_path / "report.json"
    report = program.run(resolve(get_config()), flag_values(programs=programs, json=str(path)))
    assert program.exit_status(report) == 2
    printed = capsys.readouterr().out
    assert "sync_layers: the compiler failed, so memory and time are unknown" in printed
    assert "sync_layers: last line\n" in printed
    assert "sync_non_layer_params: a device receives" in printed
    written = json.loads(path.read_text())
    assert (written["fits"], written["failed"]) == (False, ["sync_layers"])
    failed, compiled = written["programs"]
    assert (failed["fits"], failed["reason"]) == (None, "INTERNAL: RET_CHECK failure")
    assert failed["log_tail"][-1] == "last line"
    assert compiled["memory"]["peak"] > 0


def test_a_libtpu_of_another_release_is_warned_of(monkeypatch, capsys):
    monkeypatch.setattr(libtpu, "version_mismatch", lambda: "libtpu 1 is installed")
    monkeypatch.setattr(program, "compile_all", lambda *_, **__: Report(parse_topology("v5e-4"), {}, "a model", ()))
    program.run(resolve(get_config()), flag_values())
    assert capsys.readouterr().err == "warning: libtpu 1 is installed\n"


def test_an_unknown_topology():
    done = aot(SMALL, "--topology=v5e-12")
    assert done.returncode == 2
    assert done.stderr.startswith("--topology=v5e-12: expected one of v5e-1 (v5e:1x1)")
