"""The scripts of launch/ and benchmarks/gpu.sh: short, clean by shellcheck, and with a usage message."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(LAUNCH.iterdir())
GPU_BENCHMARKS = LAUNCH.parent / "benchmarks" / "gpu.sh"


@pytest.mark.parametrize("script", [*SCRIPTS, GPU_BENCHMARKS], ids=lambda script: script.name)
def test_scripts_are_short_and_clean(script):
    assert len(script.read_text().splitlines()) < 40
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_without_arguments_print_their_usage(script):
    called = subprocess.run([script], capture_output=True, text=True, check=False)
    assert called.returncode == 2
    assert called.stderr.startswith("usage: ")
    assert ("WORKDIR" if script.name == "geometry3k.sh" else "CONFIG") in called.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a", "b"]])
def test_gpu_benchmarks_take_one_directory(arguments):
    called = subprocess.run([GPU_BENCHMARKS, *arguments], capture_output=True, text=True, check=False)
    assert called.returncode == 2
    assert called.stderr == f"usage: {GPU_BENCHMARKS} DIRECTORY\n"


@pytest.mark.parametrize("processes", ["0", "two", ""])
def test_the_number_of_processes_is_at_least_one(processes):
    command = [LAUNCH / "local.sh", f"--processes={processes}", "c.py"]
    called = subprocess.run(command, capture_output=True, text=True, check=False)
    assert called.returncode == 2
    assert called.stderr.startswith("usage: ")


def with_program(directory: Path, name: str, text: str) -> dict[str, str]:
    """An environment in which this bash script replaces the program."""
    program = directory / name
    program.write_text(f"#!/usr/bin/env bash\n{text}\n")
    program.chmod(0o755)
    return os.environ | {"PATH": f"{directory}:{os.environ['PATH']}", "VIRTUAL_ENV": str(directory)}


@pytest.mark.parametrize(("statuses", "expected"), [("0 0", 0), ("134 137", 134), ("0 1", 1)])
def test_the_exit_status_is_that_of_the_first_process_that_failed(tmp_path, statuses, expected):
    environment = with_program(tmp_path, "python", f'of_process=({statuses}); exit "${{of_process[JAX_PROCESS_ID]}}"')
    called = subprocess.run([LAUNCH / "local.sh", "--processes=2", "c.py"], env=environment, check=False)
    assert called.returncode == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "glibc.malloc.hugetlb=1 0.92"),
        ({"GLIBC_TUNABLES": "", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}, " .5"),
    ],
)
def test_memory_settings_of_the_user_have_precedence(tmp_path, monkeypatch, given, expected):
    for name in ("GLIBC_TUNABLES", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    environment = with_program(tmp_path, "python", 'echo "$GLIBC_TUNABLES $XLA_PYTHON_CLIENT_MEM_FRACTION"') | given
    called = subprocess.run([LAUNCH / "local.sh", "c.py"], env=environment, capture_output=True, text=True, check=True)
    assert called.stdout == f"{expected}\n"


def test_four_processes_have_a_gpu_each_and_as_much_of_its_memory_as_under_slurm(tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    shown = 'echo "$XLA_PYTHON_CLIENT_MEM_FRACTION $JAX_LOCAL_DEVICE_IDS $JAX_PROCESS_ID $JAX_NUM_PROCESSES $*"'
    environment = with_program(tmp_path, "python", shown)
    command = [LAUNCH / "local.sh", "--processes=4", "c.py", "--config.workdir=RUN"]
    local = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    program = "-m r1vl_jax.train --config=c.py --config.workdir=RUN"
    assert sorted(local.stdout.splitlines()) == [f"0.92 {each} {each} 4 {program}" for each in range(4)]

    environment = with_program(tmp_path, "srun", shown) | {"SLURM_GPUS_ON_NODE": "4"}
    slurm = subprocess.run(
        [LAUNCH / "slurm_gpu.sh", "c.py"], env=environment, capture_output=True, text=True, check=True
    )
    assert slurm.stdout.split()[:2] == ["0.92", "0,1,2,3"]


def test_an_interrupted_script_waits_for_its_processes(tmp_path):
    """They take a second to exit, and only then have a status."""
    script = f"""trap 'sleep 1; touch {tmp_path}/ended-$JAX_PROCESS_ID; exit 7' TERM
touch {tmp_path}/started-$JAX_PROCESS_ID
while true; do sleep 0.1; done"""
    started = subprocess.Popen(
        [LAUNCH / "local.sh", "--processes=2", "c.py"], env=with_program(tmp_path, "python", script)
    )
    while len(list(tmp_path.glob("started-*"))) < 2:
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    assert started.wait(timeout=60) == 7
    assert sorted(path.name for path in tmp_path.glob("ended-*")) == ["ended-0", "ended-1"]


@pytest.mark.parametrize(
    ("statuses", "state", "expected", "num_starts"),
    [
        ("0", "READY", 0, 1),
        ("1", "READY", 1, 1),  # a refused configuration, or a failed run
        ("134 255 137 0", "READY", 0, 4),
        ("1 0", "PREEMPTED", 0, 2),  # gcloud could not reach it
        ("134 134 134 134", "READY", 134, 3),
    ],
)
def test_a_pod_restarts_only_if_something_may_have_been_lost(tmp_path, statuses, state, expected, num_starts):
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
def test_malformed_numbers_of_slices_are_refused(tmp_path, name, value):
    environment = with_program(tmp_path, "xpk", f"touch {tmp_path}/started")
    environment |= {"CLUSTER": "a", "NAME": "b", "TPU_TYPE": "c", "IMAGE": "d", name: value}
    called = subprocess.run([LAUNCH / "gke_slices.sh", "c.py"], env=environment, capture_output=True, text=True)
    assert called.returncode == 2
    assert f"{name}={value}" in called.stderr
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("restarts", ["-1", "many"])
def test_malformed_numbers_of_restarts_are_refused(tmp_path, restarts):
    environment = with_program(tmp_path, "gcloud", f"touch {tmp_path}/started")
    environment |= {"TPU": "a", "ZONE": "b", "MAX_RESTARTS": restarts}
    called = subprocess.run([LAUNCH / "tpu_pod.sh", "c.py"], env=environment, capture_output=True, text=True)
    assert called.returncode == 2
    assert called.stderr == f"MAX_RESTARTS={restarts}: expected a whole number, at least 0\n"
    assert not (tmp_path / "started").exists()
