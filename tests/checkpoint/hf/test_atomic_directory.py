"""A directory is replaced atomically, and the user's files in it are not lost."""

import errno
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from r1vl_jax.checkpoint.hf.atomic_directory import PRODUCER, atomic_directory


def export(out: Path, value: float, *names: str) -> None:
    with atomic_directory(out) as unfinished:
        for name in names or ("model.safetensors",):
            save_file({"x": np.float32([value])}, unfinished / name, metadata=PRODUCER)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_other_shards_replace_the_old_ones(tmp_path: Path):
    export(tmp_path / "out", 1, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    export(tmp_path / "out", 2)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["model.safetensors"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_rename_restores_the_previous_export(tmp_path: Path, monkeypatch, error):
    export(tmp_path / "out", 1)
    before = contents(tmp_path / "out")
    rename = Path.rename

    def fail(self: Path, target: Path):
        if self.name.endswith("unfinished"):
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(type(error)) as raised:
        export(tmp_path / "out", 2)
    assert isinstance(error, KeyboardInterrupt) or "the previous export is unchanged" in str(raised.value)
    assert contents(tmp_path / "out") == before
    assert names(tmp_path) == ["out"]


def test_leftovers_of_a_killed_export_are_removed(tmp_path: Path):
    export(tmp_path / "out", 1)
    before = contents(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out-replaced")  # killed between the two renames
    (tmp_path / ".out-unfinished").mkdir()
    (tmp_path / ".out-unfinished" / "half").touch()
    with pytest.raises(RuntimeError, match="stop"), atomic_directory(tmp_path / "out"):
        raise RuntimeError("stop")
    assert contents(tmp_path / "out") == before
    assert names(tmp_path) == ["out"]


def test_an_instruction_of_the_previous_export_is_dropped(tmp_path: Path):
    export(tmp_path / "out", 1)
    (tmp_path / "out" / "instruction.txt").write_text("Think.")
    export(tmp_path / "out", 2)
    assert names(tmp_path / "out") == ["model.safetensors"]


def test_files_of_the_user_are_not_lost(tmp_path: Path):
    export(tmp_path / "out", 1)
    (tmp_path / "out" / "eval_results.json").write_text("{}")
    before = contents(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"out: eval_results.json would be lost .*; move them elsewhere, or give"):
        export(tmp_path / "out", 2)
    assert contents(tmp_path / "out") == before
    assert names(tmp_path) == ["out"]


def test_a_full_disk_is_reported_when_safetensors_meets_it(tmp_path: Path):
    with pytest.raises(OSError, match="no space left .*nothing was written"), atomic_directory(tmp_path / "out"):
        raise SafetensorError("Error while serializing: IoError(Os { code: 28 }) (os error 28)")
    assert names(tmp_path) == []


def test_another_error_is_raised_unchanged(tmp_path: Path):
    with pytest.raises(SafetensorError, match="bad tensor"), atomic_directory(tmp_path / "out"):
        raise SafetensorError("bad tensor")
