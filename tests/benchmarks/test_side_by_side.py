"""The side-by-side benchmark does the same work on all sides; speed is not tested."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict

from benchmarks.side_by_side import runner
from benchmarks.side_by_side.__main__ import _arguments
from benchmarks.side_by_side.inputs import SIZES
from benchmarks.side_by_side.roofline import Machine, WorkCost, work_cost
from benchmarks.side_by_side.runner import Measurement
from benchmarks.side_by_side.work import Work
from r1vl_jax.models.qwen2_vl.model import Definition

ROOT = Path(__file__).parents[2]
NEW_TOKENS, REPEATS = 8, 2
SIDES = ("ours", "transformers", "plain")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """The output of the command, and its JSON."""
    file = tmp_path_factory.mktemp("side_by_side") / "results.json"
    flags = ["--size=tiny", f"--new_tokens={NEW_TOKENS}", f"--repeats={REPEATS}", "--max_discarded=0"]
    flags += ["--steps=2", "--devices=2", "--remat=dots"]
    command = [sys.executable, "-m", "benchmarks.side_by_side", *flags, f"--sides={','.join(SIDES)}", f"--json={file}"]
    command.append(f"--markdown={file.with_suffix('.md')}")
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3_000:]
    return done.stdout, json.loads(file.read_text())


def test_every_side_samples_the_requested_tokens(output: tuple[str, dict]):
    _, result = output
    assert list(result["sides"]) == list(SIDES)
    for side in result["sides"].values():
        assert side["num_tokens"] == [2 * 4 * NEW_TOKENS]
        assert len(side["repeats"]) == REPEATS


def test_every_side_computes_the_same_numbers(output: tuple[str, dict]):
    _, result = output
    assert set(result["agreement"]) == {"transformers", "plain"}
    assert all(difference["logp"] < 1e-4 for difference in result["agreement"].values())
    assert result["agreement"]["plain"]["grad_norm"] < 1e-3  # so loss, advantages and KL agree


def test_results_are_complete_and_consistent(output: tuple[str, dict]):
    _, result = output
    parts = {
        "ours": {"step", "generation", "prefill", "weight_sync", "decode", "reference", "update"},
        "transformers": {"generation", "prefill"},
        "plain": {"step", "generation", "prefill", "reference", "update"},
    }
    for name, side in result["sides"].items():
        assert set(side["seconds"]) == parts[name]
        assert all(seconds > 0 for seconds in side["seconds"].values())
        assert 0 < side["memory_gib"]["libraries"] < side["memory_gib"]["peak"]
    ours, transformers = (result["sides"][name]["memory_gib"]["libraries"] for name in ("ours", "transformers"))
    assert ours < transformers  # it does not import torch
    assert set(result["roofline"]["seconds"]) == parts["ours"] - {"weight_sync"}
    assert result["sides"]["ours"]["compile_s"] > 0
    assert {"jax", "torch", "transformers"} <= set(result["versions"])


@pytest.mark.parametrize(
    "flag",
    [
        "--repeats=0",
        "--prompts=0",
        "--generations=1",
        "--new_tokens=x",
        "--steps=0",
        "--devices=0",
        "--devices=3",
        "--remat=x",
        "--sides=ours,x",
        "--sides=ours,ours",
        "--json=no/such.json",
        "--directory=/dev/null/x",
    ],
)
def test_invalid_flags_are_rejected(flag: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        _arguments([flag])
    assert flag.split("=")[0] in capsys.readouterr().err


def test_it_prints_progress_and_removes_the_checkpoint_when_terminated(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.side_by_side", "--size=tiny", "--sides=transformers"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stderr is not None
        assert any(line.startswith("transformers: ready after") for line in benchmark.stderr)
        assert list(tmp_path.rglob("*.safetensors"))
        benchmark.terminate()
    assert benchmark.returncode == 143
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_table_has_every_side(output: tuple[str, dict]):
    text, _ = output
    for word in (*SIDES, "step", "roofline", "peak memory, GiB", "check", f"x {NEW_TOKENS} tokens"):
        assert word in text


@pytest.mark.parametrize(
    ("large_pages", "expected"), [("ours", [True, False]), ("all", [True, True]), ("none", [False] * 2)]
)
def test_huge_pages_are_for_the_named_sides(monkeypatch, large_pages, expected):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    processes = [runner._SideProcess(name, Work(Path(), large_pages=large_pages)) for name in ("ours", "plain")]
    assert ["GLIBC_TUNABLES" in process.environment for process in processes] == expected


def test_a_decode_step_reads_every_matrix_of_the_decoder_and_the_cache():
    work, sizes = Work(Path(), "tiny", new_tokens=3), SIZES["tiny"]
    params = flatten_dict(Definition(sizes).abstract_params()["text"], sep=".")
    matrices = [leaf.size for path, leaf in params.items() if path.endswith(("kernel", "embedding"))]
    past = 2 * 10 + 8 * 1  # two prompts, and of each row's 0, 1, 2 tokens on average one
    keys_and_values = 2 * 2 * 32 * 4  # both, heads, head_dim, layers
    cost = work_cost(work, sizes, prompt_length=10, patches=256)
    assert cost.bytes_per_token == 4 * (sum(matrices) + past * keys_and_values)
    assert cost.decode_bytes == 3 * cost.bytes_per_token
    half = work_cost(dataclasses.replace(work, dtype="bfloat16"), sizes, prompt_length=10, patches=256)
    assert half.bytes_per_token == cost.bytes_per_token / 2


def test_the_slower_resource_bounds_decoding():
    cost = WorkCost(10.0, 20.0, decode_bytes=600.0, bytes_per_token=6.0, reference_flops=30.0, update_flops=90.0)
    memory_bound = cost.roofline_seconds(Machine(bytes_per_s=100.0, flops_per_s=10.0, read_bytes=6))
    assert memory_bound == {
        **{"prefill": 1.0, "decode": 6.0, "generation": 7.0},
        **{"reference": 3.0, "update": 9.0, "step": 19.0},
    }
    compute_bound = cost.roofline_seconds(Machine(bytes_per_s=1_000.0, flops_per_s=10.0, read_bytes=6))
    assert compute_bound["decode"] == 2.0


class _NoisySide:
    """A side whose repeats see this load by other processes."""

    def __init__(self, *other_cpu_share: float | None):
        self._other_cpu_share = list(other_cpu_share)

    def repeat(self) -> tuple[dict, float | None]:
        return {"number": len(self._other_cpu_share)}, self._other_cpu_share.pop(0)


@pytest.mark.parametrize(
    ("other_cpu_share", "num_discarded", "num_noisy"),
    [((0.01,), 0, 0), ((0.2, 0.3, 0.01), 2, 0), ((0.2, 0.3, 0.4, 0.5), 3, 1), ((None,), 0, 0)],
    ids=["quiet", "quiet at last", "never quiet", "unknown"],
)
def test_noisy_repeats_are_repeated(monkeypatch, other_cpu_share, num_discarded, num_noisy):
    monkeypatch.setattr(runner, "_WAIT_S", 0.0)
    measured = Measurement(ready={})
    runner._repeat(_NoisySide(*other_cpu_share), measured, max_discarded=3)  # pyright: ignore[reportArgumentType]
    assert (measured.num_discarded, measured.num_noisy) == (num_discarded, num_noisy)
    assert measured.repeats == [{"number": 1}]
    assert measured.other_cpu_share == [other_cpu_share[-1]]
