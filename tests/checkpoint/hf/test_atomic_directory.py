"""A directory is replaced whole or not at all, and what the user put there is not lost."""

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
def test_if_the_last_rename_fails_the_old_one_stands_again(tmp_path: Path, monkeypatch, error):
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
    assert isinstance(error, KeyboardInterrupt) or "the export that was there is untouched" in str(raised.value)
    assert contents(tmp_path / "out") == before
    assert names(tmp_path) == ["out"]


def test_what_a_killed_export_left_is_tidied(tmp_path: Path):
    export(tmp_path / "out", 1)
    before = contents(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out-replaced")  # killed between the two renames
    (tmp_path / ".out-unfinished").mkdir()
    (tmp_path / ".out-unfinished" / "half").touch()
    with pytest.raises(RuntimeError, match="stop"), atomic_directory(tmp_path / "out"):
        raise RuntimeError("stop")
    assert contents(tmp_path / "out") == before
    assert names(tmp_path) == ["out"]


def test_files_of_the_users_own_are_not_lost(tmp_path: Path):
    export(tmp_path / "out", 1)
    (tmp_path / "out" / "eval_results.json").write_text("{}")
    before = contents(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"out: eval_results.json would be lost .*; move them elsewhere, or give"):
        export(tmp_path / "out", 2)
    assert contents(tmp_path / "out") == before
    assert names(tmp_path) == ["out"]


def test_lack_of_room_is_told_when_safetensors_notices_it(tmp_path: Path):
    with pytest.raises(OSError, match="no room .*nothing was left behind"), atomic_directory(tmp_path / "out"):
        raise SafetensorError("Error while serializing: IoError(Os { code: 28 }) (os error 28)")
    assert names(tmp_path) == []


def test_another_failure_is_told_as_it_is(tmp_path: Path):
    with pytest.raises(SafetensorError, match="bad tensor"), atomic_directory(tmp_path / "out"):
        raise SafetensorError("bad tensor")
