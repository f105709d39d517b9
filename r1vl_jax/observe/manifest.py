"""`manifest.json`: a run's configuration, versions, git revision, data and seed. A workdir belongs to one such run."""

import dataclasses
import json
import logging
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from etils import epath

from r1vl_jax.observe.files import read_json, write_json

MANIFEST = "manifest.json"

# Packages whose version can change results.
_PACKAGES = (
    *("r1vl_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn", "pillow"),
    *("transformers", "tokenizers", "safetensors", "grain", "array-record", "tensorflow-datasets", "math-verify"),
)

# Prefixes of settings that a resumed run may change: they affect neither the weights nor the order of the data.
_MAY_CHANGE = ("workdir", "eval.", "observe.", "train.compile_cache", "train.save_")
# Settings of memory and speed, which change rounding: a resumed run may change them, with a warning.
_CHANGES_ROUNDING = (
    *("model.remat", "model.scan_layers", "train.micro_batches", "train.tokens_per_micro_batch"),
    "train.gradient_cosine",
    *("train.completion_bucket", "loss.logp_chunk_size", "sampling.slots", "sampling.mesh."),
)


def write_manifest(
    workdir: epath.PathLike,
    config: Any,
    *,
    data_fingerprint: str,
    weights_fingerprint: str = "",
    adapter_fingerprint: str = "",
) -> None:
    """Writes `manifest.json`; a resumed run keeps the first one, which this checks.

    Args:
        config: the resolved configuration, a dataclass with a `seed`.
        data_fingerprint: digest of the records.
        weights_fingerprint: digest of the initial weights; "" if they are random.
        adapter_fingerprint: digest of the initial adapter; "" without one.

    Raises:
        ValueError: the workdir holds a run of another configuration, of other data, or from other weights; lists what
            differs.
    """
    changed = check_workdir(workdir, config)
    path = epath.Path(workdir) / MANIFEST
    before, versions = read_json(path), dict(_versions())
    fingerprints = {"data": data_fingerprint, "weights": weights_fingerprint, "adapter": adapter_fingerprint}
    if not before:
        write_json(path, _manifest(config, fingerprints, versions))
        return
    for what, fingerprint in fingerprints.items():
        check_fingerprint(workdir, what, fingerprint)
    if changed := [*changed, *_differences(before["versions"], versions)]:
        logging.warning(
            "resuming with changed settings or versions, so results are not bit-exact: %s", "; ".join(changed)
        )


def check_fingerprint(workdir: epath.PathLike, what: str, fingerprint: str) -> None:
    """Checks that `what`, "data", "weights" or "adapter", is what the run started with.

    Raises:
        ValueError: the fingerprints differ.
    """
    path = epath.Path(workdir) / MANIFEST
    # Manifests written before weights or adapters were fingerprinted have none to compare.
    if (before := read_json(path).get(f"{what}_fingerprint", fingerprint)) != fingerprint:
        raise ValueError(
            f"{path}: the {what} changed since this run began (fingerprint {before} -> {fingerprint}); restore the"
            f" {what}, or choose another workdir"
        )


def check_workdir(workdir: epath.PathLike, config: Any) -> list[str]:
    """Checks that the workdir holds no run of another configuration.

    Returns:
        Changed settings that affect rounding only, old -> new.

    Raises:
        ValueError: lists every other changed setting, old -> new.
    """
    path = epath.Path(workdir) / MANIFEST
    before = read_json(path)
    if not before:
        return []
    changed = list(_differences(_flatten(before["configuration"]), settings_by_name(config)))
    if refused := [line for line in changed if not line.startswith((*_MAY_CHANGE, *_CHANGES_ROUNDING))]:
        raise ValueError(
            f"{workdir} holds a run of another configuration; set config.workdir to another directory, or undo:\n  "
            + "\n  ".join(refused)
        )
    return [line for line in changed if line.startswith(_CHANGES_ROUNDING)]


def settings_by_name(config: Any) -> dict[str, Any]:
    """Every setting of a resolved configuration by its dotted name; tuples as lists."""
    return _flatten(_configuration(config))


def _manifest(config: Any, fingerprints: Mapping[str, str], versions: Mapping[str, str]) -> dict[str, Any]:
    return {
        "configuration": _configuration(config),
        "seed": config.seed,
        **{f"{what}_fingerprint": fingerprint for what, fingerprint in fingerprints.items()},
        "versions": versions,
        "git_revision": _git_revision(),
    }


def _configuration(config: Any) -> dict[str, Any]:
    """The settings as JSON reads them back: nested objects, tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    flat = {}
    for name, value in node.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{name}: {old.get(name, 'absent')!r} -> {new.get(name, 'absent')!r}"


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for package in _PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            yield package, "absent"


def _git_revision() -> str | None:
    """The commit of this code, with the suffix `-dirty` if files were changed; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # A checkout that only contains an environment with this package installed does not count.
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], check=True, capture_output=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
