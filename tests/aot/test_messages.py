"""Output of the compiler is captured, and shown if the process dies."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from r1vl_jax.aot.messages import captured_stderr


def test_output_is_captured_and_not_shown(capfd):
    captured = []
    with captured_stderr(captured):
        os.write(2, b"first\nsecond\n")
    os.write(2, b"third\n")
    assert captured == ["first", "second"]
    assert capfd.readouterr().err == "third\n"


def test_the_log_file_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ZeroDivisionError), captured_stderr([]):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("death", ["os.abort()", "os.kill(os.getpid(), 9)"])
def test_the_log_is_shown_when_the_compiler_kills_the_process(death, tmp_path):
    script = f"""import os
from r1vl_jax.aot.messages import captured_stderr
with captured_stderr([]):
    os.write(2, b"RET_CHECK failure: something\\n" * 100)
    {death}"""
    ended = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert ended.returncode in (-signal.SIGABRT, -signal.SIGKILL)
    (log,) = tmp_path.glob("compiler-log-*")
    shown = ended.stderr.splitlines()
    assert shown[0] == f"the compiler aborted the process; its log is {log}, the last lines are:"
    assert shown[1:] == ["RET_CHECK failure: something"] * 20
    assert len(log.read_text().splitlines()) == 100
