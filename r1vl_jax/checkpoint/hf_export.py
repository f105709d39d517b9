"""Writes a run's model as a directory that transformers opens as it is.

    python -m r1vl_jax.checkpoint.hf_export --run=WORKDIR --out=DIR [--stage=warmup] [--dtype=bfloat16]
        [--max_shard_size=5GB]
    python -m r1vl_jax.checkpoint.hf_export --run=WORKDIR --out=DIR --adapter

Weights are those of the newest checkpoint of the run's last stage, or of `--stage`, read and written one parameter at a
time; a run with adapters gives the whole model with these folded in, or with `--adapter` the adapters alone, for PEFT.
All other files are those of the model that the run started from; a run from random weights gets files of its own.
"""

import re

from absl import app, flags

from r1vl_jax.checkpoint.hf.export import export_adapter, export_run
from r1vl_jax.checkpoint.hf.shards import DTYPES


def num_bytes(size: str) -> int:
    """Reads a size like 5GB or 500MB, in powers of ten as transformers does.

    Raises:
        ValueError: it is no such size.
    """
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
    if not (match := re.fullmatch(r"(\d+)(KB|MB|GB)", size)):
        raise ValueError(f"max_shard_size={size!r}: expected a number of KB, MB or GB, such as 5GB")
    return int(match.group(1)) * units[match.group(2)]


def main() -> None:
    run = flags.DEFINE_string("run", None, "Workdir of the run.", required=True)
    out = flags.DEFINE_string("out", None, "Directory to write.", required=True)
    stage = flags.DEFINE_string("stage", "", "Whose newest checkpoint; the last stage's by default.")
    dtype = flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "Of the weights.")
    max_shard_size = flags.DEFINE_string("max_shard_size", "5GB", "Of a weight file.")
    adapter = flags.DEFINE_bool("adapter", False, "Adapters alone, for PEFT.")

    def start(_: list[str]) -> None:
        if adapter.value:
            export_adapter(run.value, out.value, stage=stage.value)
        else:
            size = num_bytes(max_shard_size.value)
            export_run(run.value, out.value, stage=stage.value, dtype=dtype.value, max_shard_size=size)
        print(f"exported to {out.value}")

    app.run(start)


if __name__ == "__main__":
    main()
