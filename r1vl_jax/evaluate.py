"""Evaluates a model on a data set, or on benchmarks: its answers, which are right and why, and on data its rewards.

    python -m r1vl_jax.evaluate --model=DIR --data=FILE --out=DIR [--split=test] [--limit=500] [--adapter=DIR]
    python -m r1vl_jax.evaluate --run=WORKDIR --out=DIR [--stage=warmup] [--step=100] [--data=FILE]
        [--samples=8 --temperature=1.0] [--max_new_tokens=512] [--batch_size=16] [--semantics=paper] [--dtype=bfloat16]
    python -m r1vl_jax.evaluate --model=DIR --benchmark=chartqa --data=FILE --out=DIR [--rules=2026-08] [--limit=500]
        [--instruction_file=FILE] [--xlsx]
    python -m r1vl_jax.evaluate --model=DIR --benchmark=all --data=DIR --out=DIR ...

`--model` is a directory in Hugging Face's layout or a name on the hub; `--run` the workdir of a run, whose newest
checkpoint, or that of `--step`, is exported into OUT first. `--data` is anything that `data.source` takes, with
`--images`, `--layout`, `--columns` and `--max_frames` as in `data`; for a run, by default, its own data. Interrupted
and started again, it goes on where it stopped. OUT/predictions.parquet has every answer, OUT/summary.json the accuracy
and what it is a fraction of.

With `--benchmark`, `--data` is the benchmark's file, TSV or Parquet, and OUT has what `evaluation.score` writes; for
all, a directory of such files, each of which has results in a directory of its name, and OUT/table.md has the scores
beside the published ones.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from rich.console import Console

from r1vl_jax import config, rewards
from r1vl_jax.chat.generation import Settings
from r1vl_jax.chat.pretrained import Pretrained, load
from r1vl_jax.chat.prompter import Prompter
from r1vl_jax.checkpoint.hf.export import export_once
from r1vl_jax.config import Data, read_instruction
from r1vl_jax.data.pipeline import NO_ANSWER
from r1vl_jax.data.prompts import EncodedPrompt, encode
from r1vl_jax.data.records import Record, UnusableRecord
from r1vl_jax.evaluation.benchmarks import ALL, BENCHMARKS, RULES, Reporting
from r1vl_jax.evaluation.benchmarks.asking import Model, ask_all, ask_and_report, open_questions
from r1vl_jax.evaluation.predictions import Predictions, ask_usable, name_reasons, score_answers, summarize
from r1vl_jax.runtime import compilation_cache, libtpu
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.training.held_out import DataSource, data_of

# Flags that would be ignored.
_OF_RECORDS = ("images", "layout", "columns", "max_frames", "split", "samples", "semantics")
_OF_BENCHMARKS = ("rules", "instruction_file", "xlsx", "timeout_s")


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
    kept = {"data": about, "num_records": num_records, "semantics": semantics, **model.identify(settings)}
    predictions = Predictions(out, kept, batch_size=batch_size, about={"model": name})
    with rewards.Judge() as judge:

        def predict(numbers: range) -> tuple[list[dict[str, Any]], dict[str, str]]:
            records = [split[number] for number in numbers]
            answer = partial(model.answer, settings=settings)
            usable, answers, dropped = ask_usable(records, partial(_encode, model.prompter), answer)
            return score_answers(usable, answers, semantics=semantics, judge=judge), dropped

        rows, dropped = predictions.make(num_records, predict, console=console)
    summary = summarize(rows, num_records=num_records, dropped=dropped) | {"data": about}
    predictions.write_summary(summary)
    return summary


def _encode(prompter: Prompter, record: Record) -> EncodedPrompt:
    """The prompt of a record that has an answer."""
    prompt = encode(record, prompter.processor, instruction=prompter.instruction)
    if not record.answer.strip():
        raise UnusableRecord(record.id, NO_ANSWER)
    return prompt


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
    max_new_tokens = flags.DEFINE_integer(
        "max_new_tokens", None, "Most tokens of an answer; by default 512, of a benchmark 2048.", lower_bound=1
    )
    seed = flags.DEFINE_integer("seed", 0, "Of the random numbers.")
    batch_size = flags.DEFINE_integer("batch_size", 16, "Records that are answered at one time.", lower_bound=1)
    semantics = flags.DEFINE_enum("semantics", "paper", ["paper", "released"], "Of the rewards.")
    dtype = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the weights and the computation.")
    cache = flags.DEFINE_string("compile_cache", "~/.cache/r1vl_jax", "Directory for compiled programs; '' for none.")
    benchmark = flags.DEFINE_enum(
        "benchmark", None, [*BENCHMARKS, ALL], "Ask a benchmark, whose file is --data; for all, a directory of files."
    )
    version = flags.DEFINE_enum("rules", "2026-08", list(RULES), "Version of the benchmark's rules.")
    instruction_file = flags.DEFINE_string(
        "instruction_file", "", "Text with the benchmark's reasoning instruction; by default the model's own."
    )
    xlsx = flags.DEFINE_bool("xlsx", False, "Write a benchmark's predictions.xlsx, too.")
    timeout_s = flags.DEFINE_float(
        "timeout_s", 5.0, "Processor time in seconds of comparing a benchmark's answer.", lower_bound=0.1
    )

    def start(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        compilation_cache.enable_compilation_cache(cache.value)
        directory = Path(out.value)
        try:
            if benchmark.value:
                evaluate_benchmarks(directory, benchmark.value)
            else:
                evaluate_records(directory)
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from None
        except KeyboardInterrupt:
            raise SystemExit(f"interrupted; what was answered is in {directory}, and another call goes on") from None

    def evaluate_records(directory: Path) -> None:
        _refuse(_OF_BENCHMARKS, "expected with --benchmark alone")
        settings = Settings(max_new_tokens.value or 512, temperature.value, samples.value, seed=seed.value)
        check_model()
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
        loaded, name = load_model(directory)
        asking = {"batch_size": batch_size.value, "name": name, "console": Console()}
        _print_summary(evaluate(loaded, source, directory, settings=settings, semantics=semantics.value, **asking))
        print(f"{directory / 'predictions.parquet'}, {directory / 'summary.json'}")

    def evaluate_benchmarks(directory: Path, which: str) -> None:
        _refuse(_OF_RECORDS, "not with --benchmark")
        settings = Settings(max_new_tokens.value or 2048, temperature.value, seed=seed.value)
        check_model()
        reporting = Reporting(RULES[version.value], timeout_s.value, writes_xlsx=xlsx.value)
        instruction = read_instruction(Data(instruction_file=instruction_file.value))
        questions = open_questions(which, data.value, limit=limit.value)
        loaded, name = load_model(directory)
        asked = Model(
            loaded.prompter.encode,
            partial(loaded.answer, settings=settings),
            instruction or loaded.prompter.instruction,
            loaded.identify(settings),
            name,
        )
        asking = {"batch_size": batch_size.value, "console": Console()}
        if which == ALL:
            ask_all(questions, asked, reporting, directory, **asking)
        else:
            ask_and_report(questions[0], asked, reporting, directory, **asking)

    def check_model() -> None:
        if bool(model.value) == bool(run.value) or (adapter.value and run.value):
            raise ValueError("expected --model=DIR, with --adapter or without, or --run=WORKDIR")

    def load_model(directory: Path) -> tuple[Pretrained, str]:
        path = model.value
        if run.value:
            path = export_once(run.value, stage.value, step.value, directory, dtype.value)
        loaded = load(path, dtype=dtype.value, mesh=_mesh(), param_dtype=dtype.value, adapter=adapter.value)
        return loaded, path

    libtpu.skip_without_tpu()
    app.run(start)


def _refuse(names: Sequence[str], reason: str) -> None:
    """Raises ValueError for flags that would be ignored."""
    if given := [f"--{name}" for name in names if flags.FLAGS[name].present]:
        raise ValueError(f"{', '.join(given)}: {reason}")


def _print_summary(summary: Mapping[str, Any]) -> None:
    passes = [f"pass@{k} {value:.3f}" for k, value in summary["pass_at_k"].items() if int(k) > 1]
    print(f"accuracy {summary['accuracy']:.3f} of {summary['num_records']} records", *passes, sep=", ")
    print("\n".join(summary["data"]["notes"]))
    if dropped := summary["dropped"]:
        print(f"dropped {len(dropped)}: {name_reasons(dropped)}")


def _mesh() -> jax.sharding.Mesh:
    """All devices, each with the whole model and rows of its own."""
    return make_mesh(config.Mesh(data=-1, fsdp=1, tensor=1))


if __name__ == "__main__":
    main()
