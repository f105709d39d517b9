"""Exports a run as a checkpoint directory that transformers opens.

    python -m r1vl_jax.checkpoint.hf_export --run=WORKDIR --out=DIR [--stage=warmup] [--step=100] [--dtype=bfloat16]
        [--max_shard_size=5GB]
    python -m r1vl_jax.checkpoint.hf_export --run=WORKDIR --out=DIR --adapter

Exports the latest checkpoint, or that of `--step`, of the last stage that has one, or of `--stage`, one parameter at a
time. For a run with
adapters it writes the whole model with the adapters merged, or with `--adapter` the adapters alone, for PEFT. The other
files are copied from the model that the run started from; a run from random weights gets new ones.
"""

import re

from absl import app, flags, logging

from r1vl_jax.checkpoint.hf.export import export_adapter, export_run
from r1vl_jax.checkpoint.hf.shards import DTYPES
from r1vl_jax.runtime import libtpu


def parse_size(size: str) -> int:
    """Parses a size like 5GB or 500MB, in powers of ten as transformers does.

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
    stage = flags.DEFINE_string("stage", "", "Stage to export; by default the last that has a checkpoint.")
    step = flags.DEFINE_integer("step", 0, "Step to export; 0 is the latest.", lower_bound=0)
    dtype = flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "Of the weights.")
    max_shard_size = flags.DEFINE_string("max_shard_size", "5GB", "Of a weight file.")
    adapter = flags.DEFINE_bool("adapter", False, "Export the adapter alone, for PEFT.")

    def start(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax logs every parameter
        try:
            if adapter.value:
                exported = export_adapter(run.value, out.value, stage=stage.value, step=step.value)
            else:
                size = parse_size(max_shard_size.value)
                exported = export_run(
                    run.value,
                    out.value,
                    stage=stage.value,
                    step=step.value,
                    dtype=dtype.value,
                    max_shard_size=size,
                )
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from None
        print(f"exported step {exported.step} of {exported.stage} to {out.value}")

    libtpu.skip_without_tpu()
    app.run(start)


if __name__ == "__main__":
    main()
