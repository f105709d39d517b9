"""Evaluates a model on a data set: its answers, which of them are right and why, and their rewards.

    python -m r1vl_jax.evaluate --model=DIR --data=FILE --out=DIR [--split=test] [--limit=500]
    python -m r1vl_jax.evaluate --run=WORKDIR --out=DIR [--stage=warmup] [--step=100] [--data=FILE]
        [--samples=8 --temperature=1.0] [--max_new_tokens=512] [--batch_size=16] [--semantics=paper] [--dtype=bfloat16]

`--model` is a directory in Hugging Face's layout or a name on the hub; `--run` the workdir of a run, whose newest
checkpoint, or that of `--step`, is exported into OUT first. `--data` is anything that `data.source` takes, with
`--images`, `--layout`, `--columns` and `--max_frames` as in `data`; for a run, by default, its own data. Interrupted
and started again, it goes on where it stopped. OUT/predictions.parquet has every answer, OUT/summary.json the accuracy
and what it is a fraction of.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from rich.console import Console

from r1vl_jax import config, rewards
from r1vl_jax.chat.generation import Settings
from r1vl_jax.chat.pretrained import Pretrained, load
from r1vl_jax.checkpoint.hf.export import export_run
from r1vl_jax.data.prompts import EncodedPrompt, encode
from r1vl_jax.data.records import (
    Record,
    Split,
    UnusableRecord,
    fingerprint,
    is_record_directory,
    open_split,
    split_names,
)
from r1vl_jax.data.sources.files import local_source
from r1vl_jax.data.sources.preparation import Preparation
from r1vl_jax.data.sources.prepare import prepare
from r1vl_jax.evaluation.predictions import Predictions, score_answers, summarize
from r1vl_jax.observe.progress import Progress
from r1vl_jax.runtime import compilation_cache, libtpu
from r1vl_jax.sharding.mesh import make_mesh


@dataclass(frozen=True)
class DataSource:
    """Where the records are.

    Attributes:
        preparation: a directory of records, or files, here or on the hub, and how they become records.
        split: of the data set; "" is "test", or else the only one.
        limit: the first so many records; 0 for all.
    """

    preparation: Preparation
    split: str = ""
    limit: int = 0

    def open(self, cache: Path) -> tuple[Split, dict[str, Any]]:
        """The split, and what is known of it; files of other formats are prepared in `cache`.

        Raises:
            FileNotFoundError, ValueError: there are no such data, or no such split; says why.
        """
        directory, notes = local_source(self.preparation.source), ()
        if not is_record_directory(directory):
            name = self.preparation.name or self.preparation.source
            prepared = prepare(replace(self.preparation, source=str(directory), name=name), cache)
            directory, notes = prepared.directory, prepared.summary
        names = split_names(directory)
        name = self.split or ("test" if "test" in names or len(names) > 1 else names[0])
        return open_split(directory, name), {"split": name, "sha256": fingerprint(directory), "notes": list(notes)}


def evaluate(
    model: Pretrained,
    data: DataSource,
    out: Path,
    *,
    settings: Settings,
    batch_size: int = 16,
    semantics: str = "paper",
    name: str = "",
    console: Console | None = None,
) -> dict[str, Any]:
    """Predicts and scores; returns the summary that is also written.

    Args:
        out: directory of the results, see `evaluation.predictions`; predictions that are there are not made again.
        settings: how answers are sampled.
        batch_size: records that are answered at one time.
        name: of the model, which is kept with the settings.
        console: shows the progress.

    Raises:
        FileNotFoundError, ValueError: data or settings cannot be used, or `out` has predictions of others.
    """
    split, about = data.open(out / "data")
    num_records = min(data.limit or len(split), len(split))
    kept = {"model": name, "data": about, "num_records": num_records, "semantics": semantics}
    kept |= {"batch_size": batch_size} | vars(settings)
    predictions = Predictions(out, kept)
    starts = range(0, num_records, batch_size)
    with rewards.Judge() as judge, Progress("evaluate", len(starts), console=console) as progress:
        for batch, start in enumerate(starts):
            if not predictions.has(batch):
                records = [split[index] for index in range(start, min(start + batch_size, num_records))]
                usable, prompts, dropped = _encode_usable(model, records)
                answers = model.answer(prompts, settings) if usable else []
                rows = score_answers(usable, answers, semantics=semantics, judge=judge)
                predictions.write(batch, rows, dropped=dropped)
            progress.update(batch + 1)
    rows, dropped = predictions.finish(len(starts))
    summary = summarize(rows, num_records=num_records, dropped=dropped) | {"data": about}
    predictions.write_summary(summary)
    return summary


def _encode_usable(
    model: Pretrained, records: Sequence[Record]
) -> tuple[list[Record], list[EncodedPrompt], dict[str, str]]:
    """The records that can be asked, their prompts, and why the others cannot, by id."""
    usable, prompts, dropped = [], [], {}
    for record in records:
        try:
            prompts.append(encode(record, model.prompter.processor, instruction=model.prompter.instruction))
            usable.append(record)
        except UnusableRecord as error:
            dropped[record.id] = error.reason
    return usable, prompts, dropped


def main() -> None:
    model = flags.DEFINE_string("model", "", "Directory of the model, or its name on the hub.")
    run = flags.DEFINE_string("run", "", "Workdir of a run, in place of --model.")
    stage = flags.DEFINE_string("stage", "", "Stage of the run; by default the last that has a checkpoint.")
    step = flags.DEFINE_integer("step", 0, "Step of the run's checkpoint; 0 is the latest.", lower_bound=0)
    data = flags.DEFINE_string("data", "", "File or directory of records; by default those of the run.")
    images = flags.DEFINE_string("images", "", "Root of relative paths of pictures.")
    layout = flags.DEFINE_string("layout", "", "Layout of the rows; by default it is recognised.")
    columns = flags.DEFINE_string("columns", "", "Columns of other names, as problem=question,answer=label.")
    max_frames = flags.DEFINE_integer("max_frames", 32, "Most frames of a video, as data.max_frames.", lower_bound=2)
    split = flags.DEFINE_string("split", "", "Split of the data; by default test, or the only one.")
    out = flags.DEFINE_string("out", None, "Directory of the results.", required=True)
    limit = flags.DEFINE_integer("limit", 0, "Evaluate the first so many records; 0 for all.", lower_bound=0)
    samples = flags.DEFINE_integer("samples", 1, "Answers to each record.")
    temperature = flags.DEFINE_float("temperature", 0.0, "0 takes the likeliest token each time.")
    max_new_tokens = flags.DEFINE_integer("max_new_tokens", 512, "Most tokens of an answer.")
    seed = flags.DEFINE_integer("seed", 0, "Of the random numbers.")
    batch_size = flags.DEFINE_integer("batch_size", 16, "Records that are answered at one time.", lower_bound=1)
    semantics = flags.DEFINE_enum("semantics", "paper", ["paper", "released"], "Of the rewards.")
    dtype = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the weights and the computation.")
    cache = flags.DEFINE_string("compile_cache", "~/.cache/r1vl_jax", "Directory for compiled programs; '' for none.")

    def start(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        compilation_cache.enable_compilation_cache(cache.value)
        directory = Path(out.value)
        try:
            settings = Settings(max_new_tokens.value, temperature.value, samples.value, seed=seed.value)
            source = DataSource(
                Preparation(
                    data.value or data_of(run.value),
                    images=images.value,
                    layout=layout.value,
                    columns=columns.value,
                    max_frames=max_frames.value,
                ),
                split=split.value,
                limit=limit.value,
            )
            source.open(directory / "data")  # what is not there is said before the weights are read
            path = model.value or _export(run.value, stage.value, step.value, directory, dtype.value)
            loaded = load(path, dtype=dtype.value, mesh=_mesh(), param_dtype=dtype.value)
            summary = evaluate(
                loaded,
                source,
                directory,
                settings=settings,
                batch_size=batch_size.value,
                semantics=semantics.value,
                name=model.value or " ".join([run.value, *_checkpoint_name(stage.value, step.value)]),
                console=Console(),
            )
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from None
        passes = [f"pass@{k} {value:.3f}" for k, value in summary["pass_at_k"].items() if int(k) > 1]
        print(f"accuracy {summary['accuracy']:.3f} of {summary['num_records']} records", *passes, sep=", ")
        print("\n".join(summary["data"]["notes"]))
        if dropped := summary["dropped"]:
            print(f"dropped {len(dropped)}: " + "; ".join(f"{name}: {why}" for name, why in list(dropped.items())[:5]))
        print(f"{directory / 'predictions.parquet'}, {directory / 'summary.json'}")

    libtpu.skip_without_tpu()
    app.run(start)


def data_of(run: str) -> str:
    """The data directory of a run.

    Raises:
        ValueError: no run is given, or it has none.
    """
    directories = sorted(Path(run).glob("data*/**/dataset_info.json")) if run else []
    if not directories:
        known = f"; {run} has none of its own" if run else ""
        raise ValueError(f"--data: expected a file or directory of records{known}")
    return str(directories[0].parent)


def _export(run: str, stage: str, step: int, out: Path, dtype: str) -> str:
    """Exports the checkpoint of a run into a directory in `out`, unless it was exported before; returns this.

    Raises:
        FileNotFoundError, ValueError: neither model nor run is given, or there is no checkpoint.
    """
    if not run:
        raise ValueError("expected --model=DIR or --run=WORKDIR")
    directory = out / "-".join(["model", *_checkpoint_name(stage, step)])
    if not directory.exists():
        export_run(run, directory, stage=stage, step=step, dtype=dtype)
    return str(directory)


def _checkpoint_name(stage: str, step: int) -> list[str]:
    """What was said of the checkpoint: nothing for the latest of all."""
    return [stage] * bool(stage) + [str(step)] * bool(step)


def _mesh() -> jax.sharding.Mesh:
    """All devices, each with the whole model and rows of its own."""
    return make_mesh(config.Mesh(data=-1, fsdp=1, tensor=1))


if __name__ == "__main__":
    main()
