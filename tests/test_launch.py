"""The scripts of launch/, and that of a GPU's figures: short, without faults, and telling how they are called."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(LAUNCH.iterdir())
GPU_FIGURES = LAUNCH.parent / "benchmarks" / "gpu.sh"


@pytest.mark.parametrize("script", [*SCRIPTS, GPU_FIGURES], ids=lambda script: script.name)
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


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a", "b"]])
def test_figures_of_a_gpu_want_one_directory(arguments):
    called = subprocess.run([GPU_FIGURES, *arguments], capture_output=True, text=True, check=False)
    assert called.returncode == 2
    assert called.stderr == f"usage: {GPU_FIGURES} DIRECTORY\n"


@pytest.mark.parametrize("processes", ["0", "two", ""])
def test_processes_are_counted_from_one(processes):
    command = [LAUNCH / "local.sh", f"--processes={processes}", "c.py"]
    called = subprocess.run(command, capture_output=True, text=True, check=False)
    assert called.returncode == 2
    assert called.stderr.startswith("usage: ")


def with_program(directory: Path, name: str, text: str) -> dict[str, str]:
    """An environment in which a program of this name is this script of bash."""
    program = directory / name
    program.write_text(f"#!/usr/bin/env bash\n{text}\n")
    program.chmod(0o755)
    return os.environ | {"PATH": f"{directory}:{os.environ['PATH']}", "VIRTUAL_ENV": str(directory)}


@pytest.mark.parametrize(("statuses", "expected"), [("0 0", 0), ("42 137", 42), ("0 1", 1)])
def test_the_status_is_that_of_the_first_process_that_failed(tmp_path, statuses, expected):
    environment = with_program(tmp_path, "python", f'of_process=({statuses}); exit "${{of_process[JAX_PROCESS_ID]}}"')
    called = subprocess.run([LAUNCH / "local.sh", "--processes=2", "c.py"], env=environment, check=False)
    assert called.returncode == expected


@pytest.mark.parametrize(("given", "expected"), [({}, "glibc.malloc.hugetlb=1"), ({"GLIBC_TUNABLES": ""}, "")])
def test_memory_comes_in_large_pages_unless_something_else_is_asked_for(tmp_path, monkeypatch, given, expected):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    environment = with_program(tmp_path, "python", 'echo "$GLIBC_TUNABLES"') | given
    called = subprocess.run([LAUNCH / "local.sh", "c.py"], env=environment, capture_output=True, text=True, check=True)
    assert called.stdout == f"{expected}\n"


def test_a_script_that_is_stopped_waits_for_its_processes(tmp_path):
    """They need a second to end, and say then with what status."""
    script = f"""trap 'sleep 1; touch {tmp_path}/ended-$JAX_PROCESS_ID; exit 42' TERM
touch {tmp_path}/started-$JAX_PROCESS_ID
while true; do sleep 0.1; done"""
    started = subprocess.Popen(
        [LAUNCH / "local.sh", "--processes=2", "c.py"], env=with_program(tmp_path, "python", script)
    )
    while len(list(tmp_path.glob("started-*"))) < 2:
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    assert started.wait(timeout=60) == 42
    assert sorted(path.name for path in tmp_path.glob("ended-*")) == ["ended-0", "ended-1"]


@pytest.mark.parametrize(
    ("statuses", "state", "expected", "num_starts"),
    [
        ("0", "READY", 0, 1),
        ("1", "READY", 1, 1),  # a configuration that is refused, or a run that failed
        ("42 255 137 0", "READY", 0, 4),
        ("1 0", "PREEMPTED", 0, 2),  # gcloud cannot reach it
        ("42 42 42 42", "READY", 42, 3),
    ],
)
def test_a_pod_is_started_again_only_when_something_may_have_been_lost(tmp_path, statuses, state, expected, num_starts):
    gcloud = f"""statuses=({statuses})
if [[ $4 == describe ]]; then echo {state}; exit; fi
echo >> {tmp_path}/starts
exit "${{statuses[$(($(wc -l < {tmp_path}/starts) - 1))]}}"
"""
    settings = {"TPU": "a", "ZONE": "b", "MAX_RESTARTS": "2" if expected else "9", "SECONDS_BEFORE_RESTART": "0"}
    environment = with_program(tmp_path, "gcloud", gcloud) | settings
    called = subprocess.run([LAUNCH / "tpu_pod.sh", "c.py"], env=environment, check=False)
    assert called.returncode == expected
    assert len((tmp_path / "starts").read_text().splitlines()) == num_starts


@pytest.mark.parametrize(("name", "value"), [("SLICES", "0"), ("SLICES", "two"), ("MAX_RESTARTS", "x")])
def test_slices_are_counted_from_one(tmp_path, name, value):
    environment = with_program(tmp_path, "xpk", f"touch {tmp_path}/started")
    environment |= {"CLUSTER": "a", "NAME": "b", "TPU_TYPE": "c", "IMAGE": "d", name: value}
    called = subprocess.run([LAUNCH / "gke_slices.sh", "c.py"], env=environment, capture_output=True, text=True)
    assert called.returncode == 2
    assert f"{name}={value}" in called.stderr
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("restarts", ["-1", "many"])
def test_restarts_are_counted(tmp_path, restarts):
    environment = with_program(tmp_path, "gcloud", f"touch {tmp_path}/started")
    environment |= {"TPU": "a", "ZONE": "b", "MAX_RESTARTS": restarts}
    called = subprocess.run([LAUNCH / "tpu_pod.sh", "c.py"], env=environment, capture_output=True, text=True)
    assert called.returncode == 2
    assert called.stderr == f"MAX_RESTARTS={restarts}: expected a whole number, at least 0\n"
    assert not (tmp_path / "started").exists()
