"""Evaluates a model on a data set: its answers, which of them are right and why, and their rewards.

    python -m r1vl_jax.evaluate --model=DIR --data=FILE --out=DIR [--split=test] [--limit=500] [--adapter=DIR]
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
from etils import epath
from rich.console import Console

from r1vl_jax import config, rewards
from r1vl_jax.chat.generation import Settings
from r1vl_jax.chat.pretrained import Pretrained, load
from r1vl_jax.checkpoint.hf.directory import weights_fingerprint
from r1vl_jax.checkpoint.hf.export import export_run, find_checkpoint, load_settings
from r1vl_jax.config import Data
from r1vl_jax.data.fingerprint import combined_fingerprint
from r1vl_jax.data.pipeline import NO_ANSWER
from r1vl_jax.data.prompts import EncodedPrompt, encode
from r1vl_jax.data.records import Record, Split, UnusableRecord
from r1vl_jax.data.sources.prepare import Prepared
from r1vl_jax.evaluation.predictions import Predictions, score_answers, summarize
from r1vl_jax.observe.progress import Progress
from r1vl_jax.runtime import compilation_cache, libtpu
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.training.sources import open_held_out, prepare_sources


@dataclass(frozen=True)
class DataSource:
    """Where the records are.

    Attributes:
        settings: `source`, with its mixtures and names on the hub, and how its files become records.
        split: of the data; "" is "test", or else the only one.
        limit: the first so many records; 0 for all.
    """

    settings: Data
    split: str = ""
    limit: int = 0

    def open(self, cache: Path) -> tuple[Split, dict[str, Any]]:
        """The split, and what is known of it; files of other formats are prepared in `cache`, or `settings.directory`.

        Raises:
            FileNotFoundError, ValueError: there are no such data, or no such split; says why.
        """
        cache = Path(self.settings.directory or cache)
        is_embedded = self.settings.source == "digits"
        prepared = [Prepared(cache, ())] if is_embedded else prepare_sources(self.settings, cache)
        directories = [each.directory for each in prepared]
        split, name, notes = open_held_out(directories, self.split)
        notes = [*(line for each in prepared for line in each.summary), *notes]
        return split, {"split": name, "sha256": combined_fingerprint(directories), "notes": notes}


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
    for kind, directory in {"weights": model.directory, "adapter": model.adapter}.items():
        kept[kind] = "" if directory is None else weights_fingerprint(str(directory))
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
            prompt = encode(record, model.prompter.processor, instruction=model.prompter.instruction)
            if not record.answer.strip():
                raise UnusableRecord(record.id, NO_ANSWER)
            prompts.append(prompt)
            usable.append(record)
        except UnusableRecord as error:
            dropped[record.id] = error.reason
    return usable, prompts, dropped


def main() -> None:
    model = flags.DEFINE_string("model", "", "Directory of the model, or its name on the hub.")
    adapter = flags.DEFINE_string("adapter", None, "Directory of a LoRA adapter of --model, in PEFT's format.")
    run = flags.DEFINE_string("run", "", "Workdir of a run, in place of --model.")
    stage = flags.DEFINE_string("stage", "", "Stage of the run; by default the last that has a checkpoint.")
    step = flags.DEFINE_integer("step", 0, "Step of the run's checkpoint; 0 is the latest.", lower_bound=0)
    data = flags.DEFINE_string("data", "", "File or directory of records; by default those of the run.")
    images = flags.DEFINE_string("images", "", "Root of relative paths of pictures.")
    layout = flags.DEFINE_string("layout", "", "Layout of the rows; by default it is recognised.")
    columns = flags.DEFINE_string("columns", "", "Columns of other names, as problem=question,answer=label.")
    max_frames = flags.DEFINE_integer(
        "max_frames", Data.max_frames, "Most frames of a video, as data.max_frames.", lower_bound=2
    )
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
            if bool(model.value) == bool(run.value) or (adapter.value and run.value):
                raise ValueError("expected --model=DIR, with --adapter or without, or --run=WORKDIR")
            of_data = (
                data_of(run.value)
                if not data.value
                else Data(
                    source=data.value,
                    images=images.value,
                    layout=layout.value,
                    columns=columns.value,
                    max_frames=max_frames.value,
                )
            )
            source = DataSource(of_data, split.value, limit.value)
            source.open(directory / "data")  # what is not there is said before the weights are read
            path = model.value
            if run.value:
                path = _export(run.value, stage.value, step.value, directory, dtype.value)
            loaded = load(path, dtype=dtype.value, mesh=_mesh(), param_dtype=dtype.value, adapter=adapter.value)
            summary = evaluate(
                loaded,
                source,
                directory,
                settings=settings,
                batch_size=batch_size.value,
                semantics=semantics.value,
                name=path,
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


def data_of(run: str) -> Data:
    """The data settings of a run, with the directory that its prepared data are in.

    Raises:
        FileNotFoundError, ValueError: no run is given, or there is none.
    """
    if not run:
        raise ValueError("--data: expected a file or directory of records")
    settings = load_settings(epath.Path(run)).data
    return replace(settings, directory=settings.directory or str(Path(run) / "data"))


def _export(run: str, stage: str, step: int, out: Path, dtype: str) -> str:
    """Exports the checkpoint of a run into a directory in `out`, unless it was exported before; returns this.

    Raises:
        FileNotFoundError, ValueError: there is no run, or no such checkpoint.
    """
    checkpoint = find_checkpoint(epath.Path(run), load_settings(epath.Path(run)), stage, step)
    directory = out / f"model-{checkpoint.stage}-{checkpoint.step}"
    if not directory.exists():
        export_run(run, directory, stage=checkpoint.stage, step=checkpoint.step, dtype=dtype)
    return str(directory)


def _mesh() -> jax.sharding.Mesh:
    """All devices, each with the whole model and rows of its own."""
    return make_mesh(config.Mesh(data=-1, fsdp=1, tensor=1))


if __name__ == "__main__":
    main()
