"""Replaces an export directory atomically, and only if no file of the user's is lost."""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

PRODUCER = {"producer": "r1vl_jax"}  # in the metadata of every safetensors file that an export writes
INSTRUCTION = "instruction.txt"  # of an export: the instruction that the model was trained with

# Files that only an export writes, so that a new export may drop them.
_EXPORTED = rf"(model(-\d+-of-\d+)?|adapter_model)\.safetensors(\.index\.json)?|{re.escape(INSTRUCTION)}"
_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """Yields an empty directory beside `out`, which replaces `out` when the block ends without an exception.

    Leftovers of a killed export are removed, or restored, first.

    Raises:
        FileExistsError: `out` was not written by an export, or holds files that the new export does not have.
        OSError: the disk is full; the previous export is unchanged.
    """
    unfinished, replaced = (out.with_name(f".{out.name}-{what}") for what in ("unfinished", "replaced"))
    if replaced.exists() and not out.exists():
        replaced.rename(out)  # killed between the two renames below
    for leftover in (unfinished, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    if out.exists() and any(out.iterdir()) and not _is_export(out):
        raise FileExistsError(f"{out}: the directory is not empty and no export of r1vl_jax; give --out another")
    had_export = out.exists()
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        _refuse_loss(out, unfinished)
        swap(unfinished, out, replaced)
    except (OSError, SafetensorError) as error:
        if not _is_out_of_space(error):
            raise
        kept = "the previous export is unchanged" if had_export else "nothing was written"
        free = shutil.disk_usage(out.parent).free / 2**30
        raise OSError(
            errno.ENOSPC,
            f"{out}: no space left ({error}, {free:.1f} GiB free); {kept}; free some, or give --out another directory",
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def swap(unfinished: Path, out: Path, replaced: Path) -> None:
    """Renames a directory to `out`; one that is there becomes `replaced` meanwhile, and is deleted."""
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
    """Refuses to drop files that may be the user's: those that the new export lacks and exports do not always write."""
    if not out.exists():
        return
    kept = {path.name for path in unfinished.iterdir()}
    names = (path.name for path in out.iterdir())
    lost = sorted(name for name in names if name not in kept and not re.fullmatch(_EXPORTED, name))
    if lost:
        raise FileExistsError(
            f"{out}: {', '.join(lost)} would be lost with the previous export; move them elsewhere, or give --out"
            " another directory"
        )


def _is_export(directory: Path) -> bool:
    """Whether an export wrote the weights of a directory."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        return False
    try:
        with safe_open(files[0], framework="numpy") as reader:
            return PRODUCER.items() <= (reader.metadata() or {}).items()
    except SafetensorError:
        return False


def _is_out_of_space(error: OSError | SafetensorError) -> bool:
    """safetensors gives the operating system's error code only in its message."""
    if isinstance(error, OSError):
        return error.errno in _OUT_OF_SPACE
    return any(f"os error {code}" in str(error) for code in _OUT_OF_SPACE)
