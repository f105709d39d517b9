"""The notebooks run from top to bottom, with few updates."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

QUICK = {"num_records": 200, "num_vision_updates": 2, "num_warmup_updates": 2, "num_step_grpo_updates": 2}
QUICK |= {"num_problems": 8, "num_updates": 500}


def run(name: str, tmp_path: Path) -> list[str]:
    """Runs a notebook in a kernel of this interpreter; returns the text that each code cell printed or showed."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = quick(cell.source, tmp_path)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    return ["\n".join(map(shown, cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"]


def quick(source: str, tmp_path: Path) -> str:
    """Parameters with fewer updates, and with the run elsewhere."""
    for name, value in QUICK.items():
        source = re.sub(rf"^{name} = .*$", f"{name} = {value}", source, flags=re.MULTILINE)
    return re.sub(r'"runs/(\w+)"', lambda path: repr(str(tmp_path / path[1])), source)


def shown(output) -> str:
    if output.output_type == "stream":
        return output.text
    return " ".join(
        f"<{kind}> {text if kind.startswith('text') else ''}" for kind, text in output.get("data", {}).items()
    )


def test_quickstart(tmp_path):
    *_, trained, curves, paths, answer = run("quickstart", tmp_path)
    assert re.search(r"'warmup': \{'greedy': [\d.]+, 'sampled': [\d.]+\},\s+'step_grpo'", trained)
    assert "<image/png>" in curves
    assert paths.count("<image/png>") == 2
    assert paths.count("What is the remainder by 23?") == 2
    assert "<image/png>" in answer
    assert (tmp_path / "quickstart" / "report.html").exists()
    assert (tmp_path / "quickstart_export" / "model.safetensors").exists()


def test_losses_in_your_project(tmp_path):
    *_, formula, differences, texts, _, trained = run("losses_in_your_project", tmp_path)
    assert "gradients differ by at most" in formula
    assert "by finite differences" in differences
    assert re.search(r"total +\[2.067, 1.067, 0.0\]", texts)
    before, after = map(float, re.search(r"reward ([\d.]+) at first, ([\d.]+) at last", trained).groups())
    assert before < 0.3
    assert after > 0.7  # it saturates at 0.8


def test_reward_ablation(tmp_path):
    *_, _, small, full = run("reward_ablation", tmp_path)
    for table in (small, full):
        assert "| answer only |" in table
        assert "<image/png>" in table
    results = json.loads((tmp_path / "reward_ablation" / "results.json").read_text())
    assert list(results) == ["both step rewards", "answer only", "rewards shuffled within groups"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_has_small_real_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert path.stat().st_size < 600_000
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell.outputs) for cell in cells) >= 3
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert cells[0].source == nbformat.read(NOTEBOOKS[0], as_version=4).cells[1].source  # one way to install
