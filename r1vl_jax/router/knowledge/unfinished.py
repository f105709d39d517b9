"""The directory of a build that has not ended: its parts, kept for the next call if that builds the same."""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from r1vl_jax.checkpoint.hf.atomic_directory import swap
from r1vl_jax.router.knowledge.manifest import FILE
from r1vl_jax.router.knowledge.parts import Part

_SETTINGS = "settings.json"


class Unfinished:
    """The directory `.OUT-unfinished` beside OUT. Made by `begin`."""

    def __init__(self, out: Path):
        self._out, self._directory = out, _beside(out, "unfinished")

    @classmethod
    @contextlib.contextmanager
    def begin(cls, out: Path, settings: Mapping[str, Any], *, keep: bool) -> Iterator["Unfinished"]:
        """Goes on with the parts of an earlier call, if there are some and its settings were these.

        Args:
            keep: leave the parts for a later call if this one fails.

        Raises:
            ValueError: another program is building this base.
        """
        unfinished = cls(out)
        with unfinished._locked():
            unfinished._continue_or_clear(settings)
            try:
                yield unfinished
            except BaseException:
                if not keep:
                    unfinished.remove()
                raise

    def parts(self) -> list[Part]:
        """The parts that are whole, in order."""
        found: list[Part] = []
        with contextlib.suppress(OSError, pa.ArrowException):
            while self.part_path(len(found)).exists():
                found.append(Part.open(self.part_path(len(found))))
        return found

    def part_path(self, number: int) -> Path:
        return self._directory / f"part_{number:05d}.arrow"

    def new_base(self) -> Path:
        """An empty directory for the base's files."""
        path = self._directory / "base"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def publish(self) -> None:
        """Puts the base in the place of OUT, and removes everything else."""
        swap(self._directory / "base", self._out, _beside(self._out, "replaced"))
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{self._out}: another program is building it; wait, or name another") from None
            yield

    def _continue_or_clear(self, settings: Mapping[str, Any]) -> None:
        path = self._directory / _SETTINGS
        if not path.exists() or json.loads(path.read_text("utf-8") or "null") != dict(settings):
            for part in self._directory.glob("part_*"):
                part.unlink()
            path.write_text(json.dumps(dict(settings)), "utf-8")


def restore(out: Path) -> None:
    """Brings back a base whose replacement was killed between its two renames."""
    if (replaced := _beside(out, "replaced")).exists():
        shutil.rmtree(replaced) if out.exists() else replaced.rename(out)


def refuse_loss(out: Path, names: set[str]) -> None:
    """Raises FileExistsError if a directory is no knowledge base, or has files that a base does not have."""
    if not out.exists():
        return
    held = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    if (foreign := held - names) or (held and FILE not in held):
        shown = ", ".join(sorted(foreign or held)[:5])
        raise FileExistsError(f"{out}: holds {shown}, which a knowledge base would replace; name another directory")


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f".{out.name}-{what}")
