"""A directory that is replaced whole or not at all, and only if nothing of the user's own is lost with it."""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

PRODUCER = {"producer": "r1vl_jax"}  # in the metadata of every safetensors file that is written here

_WEIGHTS = r"(model(-\d+-of-\d+)?|adapter_model)\.safetensors(\.index\.json)?"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """An empty directory beside `out`, which takes its place at the end, unless something goes wrong.

    What a killed export left behind is tidied first.

    Raises:
        FileExistsError: `out` is no export of ours, or holds files that the new export does not have.
        OSError: there is no room; what was there is untouched.
    """
    unfinished, replaced = (out.with_name(f".{out.name}-{what}") for what in ("unfinished", "replaced"))
    if replaced.exists() and not out.exists():
        replaced.rename(out)  # killed between the two renames below
    for leftover in (unfinished, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    if out.exists() and any(out.iterdir()) and not _is_own(out):
        raise FileExistsError(f"{out}: there is something that is no export of ours; give --out another directory")
    had_export = out.exists()
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        _refuse_loss(out, unfinished)
        _swap(unfinished, out, replaced)
    except (OSError, SafetensorError) as error:
        if not _is_lack_of_room(error):
            raise
        kept = "the export that was there is untouched" if had_export else "nothing was left behind"
        free = shutil.disk_usage(out.parent).free / 2**30
        raise OSError(
            errno.ENOSPC, f"{out}: no room ({error}, {free:.1f} GiB free); {kept}; make room, or name another"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _swap(unfinished: Path, out: Path, replaced: Path) -> None:
    if not out.exists():
        unfinished.rename(out)
        return
    out.rename(replaced)
    try:
        unfinished.rename(out)
    except BaseException:
        replaced.rename(out)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _refuse_loss(out: Path, unfinished: Path) -> None:
    """Weight files are ours, whatever their number; any other that the new export has not may be the user's own."""
    if not out.exists():
        return
    kept = {path.name for path in unfinished.iterdir()}
    names = (path.name for path in out.iterdir())
    lost = sorted(name for name in names if name not in kept and not re.fullmatch(_WEIGHTS, name))
    if lost:
        raise FileExistsError(
            f"{out}: {', '.join(lost)} would be lost with the export that is there; move them elsewhere, or give --out"
            " another directory"
        )


def _is_own(directory: Path) -> bool:
    """Whether the weights of a directory were written here."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        return False
    try:
        with safe_open(files[0], framework="numpy") as reader:
            return PRODUCER.items() <= (reader.metadata() or {}).items()
    except SafetensorError:
        return False


def _is_lack_of_room(error: OSError | SafetensorError) -> bool:
    """safetensors tells the system's error in its text alone."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return any(f"os error {code}" in str(error) for code in _NO_ROOM)
