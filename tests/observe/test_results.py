"""summary.json and machine.json."""

import json
import subprocess
import sys
import textwrap

import pytest

from r1vl_jax import observe
from r1vl_jax.observe import results


def test_results_are_merged_by_dotted_name(tmp_path):
    observe.update_summary(tmp_path, {"accuracy.start": 0.1, "num_problems": 1000})
    observe.update_summary(tmp_path, {"accuracy.warmup": 0.4, "accuracy.start": 0.2})
    expected = {"accuracy": {"start": 0.2, "warmup": 0.4}, "num_problems": 1000}
    assert json.loads((tmp_path / "summary.json").read_text()) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    with pytest.raises(ValueError, match="'num_problems.test' needs 'num_problems' to be a group, but it is 1000"):
        observe.update_summary(tmp_path, {"num_problems.test": 1})


def test_usage_adds_up_over_resumed_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "peak_memory_gib", lambda: 2.0)
    observe.write_machine(tmp_path, seconds=10.0)
    monkeypatch.setattr(results, "peak_memory_gib", lambda: 1.5)
    written = observe.write_machine(tmp_path, seconds=2.5)
    assert written == json.loads((tmp_path / "machine.json").read_text())
    assert (written["seconds"], written["peak_memory_gib"], written["device"]) == (12.5, 2.0, "8 x cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of children is read from /proc")
def test_peak_memory_counts_living_workers(tmp_path):
    """256 MiB here and 128 MiB in a worker, freed again; a small worker of a large process adds little."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import subprocess
        import sys
        import threading

        from r1vl_jax.observe.results import peak_memory_gib

        WORK = "import sys; bytes(range(256)) * (int(sys.argv[1]) // 256); print(flush=True); input()"

        def work(size):
            command = [sys.executable, "-c", WORK, str(size)]
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE).stdout.readline()

        def added(size):
            before = peak_memory_gib()
            thread = threading.Thread(target=work, args=(size,))
            thread.start()
            thread.join()
            return peak_memory_gib() - before

        start = peak_memory_gib()
        bytes(range(256)) * 2**20
        print(peak_memory_gib() - start, added(256), added(2**27))
        """)
    )
    printed = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True).stdout
    own, small, large = map(float, printed.split())
    assert own == pytest.approx(0.25, abs=0.02)
    assert large - small == pytest.approx(0.125, abs=0.02)
    assert 0 < small < 0.5


def test_usage_is_updated_during_a_run(tmp_path, monkeypatch):
    times = iter([100.0, 107.0, 110.0])
    monkeypatch.setattr(results.time, "monotonic", lambda: next(times))
    usage = observe.ResourceUsage(tmp_path)
    assert usage.write()["seconds"] == 7.0
    assert usage.write()["seconds"] == 10.0
