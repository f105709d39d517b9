"""An export is made once, and again where its name stands for another checkpoint."""

from types import SimpleNamespace

import pytest
from etils import epath

from r1vl_jax.checkpoint.hf import export as module
from r1vl_jax.checkpoint.hf.export import RunCheckpoint, export_once


@pytest.fixture
def exported(monkeypatch):
    """What was exported; a run is a directory with the checkpoint of step 2."""
    calls = []

    def export_run(run, out, *, stage, step, dtype):
        out.mkdir(parents=True, exist_ok=True)
        calls.append((run, dtype))

    monkeypatch.setattr(module, "load_settings", lambda run: SimpleNamespace())
    monkeypatch.setattr(module, "find_checkpoint", lambda run, *_: RunCheckpoint(run, "warmup", 2))
    monkeypatch.setattr(module, "export_run", export_run)
    return calls


def write_run(directory, saved_at):
    checkpoint = directory / "checkpoints" / "warmup" / "2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "_CHECKPOINT_METADATA").write_text(saved_at)
    return epath.Path(directory)


def test_another_run_is_not_taken_for_the_one_that_was_exported(exported, tmp_path):
    one, other = write_run(tmp_path / "one", "1796"), write_run(tmp_path / "other", "1797")
    out = tmp_path / "out"
    directories = [export_once(run, "", 0, out, "bfloat16") for run in (one, one, other, one)]
    assert directories == [str(out / "model-warmup-2")] * 4
    export_once(one, "", 0, out, "float32")
    assert exported == [(one, "bfloat16"), (other, "bfloat16"), (one, "bfloat16"), (one, "float32")]


def test_an_export_that_was_interrupted_is_made_again(exported, tmp_path, monkeypatch):
    run, out = write_run(tmp_path / "run", "1796"), tmp_path / "out"
    export_once(run, "", 0, out, "bfloat16")

    def interrupted(*_, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "export_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_once(run, "", 0, out, "float32")
    export_once(run, "", 0, out, "bfloat16")
    assert len(exported) == 2
