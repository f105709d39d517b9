"""Evaluates the loop of R1-Router on questions: answers, routing, retrievals, beside baselines.

    python -m r1vl_jax.router.evaluate --run=WORKDIR --questions=FILE.jsonl --bases=DIR --out=DIR
        [--baselines=all] [--prompts=short] [--temperature=1.0 --top_k=20] [--limit=200] [--records=DIR]

`--bases` is a directory of knowledge bases, as `router.build_index` makes them, each of a kind of its own.
OUT/MODE/ keeps each batch of questions as it is done: started again, the program goes on there. At the end
OUT/MODE.jsonl has a line for each question: its look-ups with what was shown, its answer, and why the search ended;
OUT/MODE.html shows the first of them, OUT/summary.json has the measures. MODE is "router", or a baseline: answering
without any retrieval, every sub-question put to one base, whichever the model names, or to all of them at once.
"""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from absl import app, flags, logging
from etils import epath
from rich.console import Console
from rich.table import Table

from r1vl_jax.chat.generation import Settings
from r1vl_jax.chat.prefix_reuse import PrefixReuse
from r1vl_jax.chat.pretrained import Pretrained, load
from r1vl_jax.checkpoint.hf.export import export_once
from r1vl_jax.evaluation.predictions import Predictions
from r1vl_jax.observe.files import atomic_write, write_json
from r1vl_jax.report.searches import write_searches
from r1vl_jax.router.datasets import Question, read_questions
from r1vl_jax.router.loop import BASELINES, Limits, Response, Router, SampleFn, Trace
from r1vl_jax.router.measures import measure, summarize
from r1vl_jax.router.prompts import load_wording
from r1vl_jax.router.search import NUM_RETRIEVED, NUM_SHOWN, find_bases
from r1vl_jax.router.steps import Lookup, Trajectory
from r1vl_jax.router.teacher import write_teacher_records
from r1vl_jax.runtime import compilation_cache

ROUTER = "router"
_SCHEMA = pa.schema([("search", pa.string())])  # what `trace_row` gives, as JSON
_ON_PAGE = 100  # searches that the page shows
_SHOWN = ("recall", "exact_match", "routing_accuracy", "retrievals", "unreadable")


def sample_with(model: Pretrained, settings: Settings, reuse: PrefixReuse | None = None) -> SampleFn:
    """Completions by a model; each call has random numbers of its own.

    Args:
        reuse: what prompts share with earlier ones is not read again.
    """

    def sample(prompts: Sequence[Any], call: tuple[int, int]) -> list[Response]:
        (seed,) = np.random.SeedSequence((settings.seed, *call)).generate_state(1)
        answers = model.answer(prompts, dataclasses.replace(settings, seed=int(seed)), reuse)
        return [Response(str(answer), len(answer.token_ids)) for (answer,) in answers]

    return sample


def evaluate(
    router: Router,
    questions: Sequence[Question],
    out: Path,
    modes: Sequence[str] = (ROUTER,),
    *,
    settings: Mapping[str, Any] = MappingProxyType({}),
    records: Path | None = None,
    batch_size: int = 64,
    console: Console | None = None,
) -> dict[str, dict[str, Any]]:
    """Answers the questions in each mode, and writes traces, pages and measures; returns the measures by mode.

    Args:
        out: directory of the results.
        modes: "router", and names of `loop.BASELINES`.
        settings: what decides the answers, as JSON values; searches made with the same ones are not made again.
        records: receives the steps of searches whose answer is right, see `teacher`; must not exist.
        batch_size: questions that are asked at one time.
        console: shows the progress.

    Raises:
        FileExistsError, ValueError: `records` exists, or there is nothing to put into it; or `out` has searches of
            other settings.
    """
    if records is not None and records.exists():
        raise FileExistsError(f"--records={records}: exists; name another directory, or delete it")
    out.mkdir(parents=True, exist_ok=True)
    settings = {**settings, "limits": dataclasses.asdict(router.limits), "questions": _digest(questions)}
    summaries, searched = {}, []
    for mode in modes:
        path = epath.Path(out) / mode.replace(" ", "_").lower()
        kept = Predictions(Path(path), settings, batch_size=batch_size, schema=_SCHEMA, file="searches.parquet")
        asking = dataclasses.replace(router, baseline="" if mode == ROUTER else mode)

        def search(numbers: range, asking: Router = asking) -> tuple[list[dict[str, str]], dict[str, str]]:
            asked = [questions[number] for number in numbers]
            traces = asking.answer(asked, number=numbers.start)
            return [{"search": json.dumps(trace_row(*pair))} for pair in zip(asked, traces, strict=True)], {}

        made, _ = kept.make(len(questions), search, stage=mode, console=console)
        rows = [json.loads(row["search"]) for row in made]
        atomic_write(path.with_suffix(".jsonl"), "".join(json.dumps(row) + "\n" for row in rows).encode())
        write_searches(path.with_suffix(".html"), f"Searches: {mode}", rows[:_ON_PAGE])
        traces = list(map(read_trace, rows))
        summaries[mode] = summarize(questions, traces)
        write_json(epath.Path(out) / "summary.json", summaries)
        if mode == ROUTER:
            searched = traces
    if records is not None:  # last: there may be none to keep, and then all else is there
        recalls = [measure(*pair)["recall"] for pair in zip(questions, searched, strict=True)]
        write_teacher_records(records, searched, recalls, router.wording)
    return summaries


def choose_baselines(names: Sequence[str]) -> list[str]:
    """The baselines of these names; ["all"] is all of them.

    Raises:
        ValueError: one is unknown.
    """
    if unknown := [name for name in names if name not in (*BASELINES, "all")]:
        raise ValueError(f"--baselines: expected some of {', '.join(BASELINES)}, or all, got {', '.join(unknown)}")
    return list(BASELINES) if "all" in names else list(names)


def _digest(questions: Sequence[Question]) -> str:
    return hashlib.sha256("".join(map(repr, questions)).encode("utf-8", "surrogatepass")).hexdigest()


def trace_row(question: Question, trace: Trace) -> dict[str, Any]:
    """A trace with its measures as JSON values, its picture in base64."""
    row: dict[str, Any] = dataclasses.asdict(dataclasses.replace(trace, written=()))
    del row["written"]  # the trajectory has it
    row["measures"] = measure(question, trace)
    image = trace.trajectory.image
    row["trajectory"]["image"] = None if image is None else base64.b64encode(image).decode()
    return row


def read_trace(row: Mapping[str, Any]) -> Trace:
    """The trace of a row of `trace_row`."""
    said = dict(row["trajectory"])
    image = said.pop("image")
    lookups = tuple(Lookup(**each | {"documents": tuple(each["documents"])}) for each in said.pop("lookups"))
    golds = tuple(said.pop("golds"))
    trajectory = Trajectory(
        **said, image=None if image is None else base64.b64decode(image), golds=golds, lookups=lookups
    )
    of_trace = {name: row[name] for name in ("prediction", "ended", "num_retrievals")}
    unreadable = tuple((text, reason) for text, reason in row["unreadable"])
    return Trace(trajectory, **of_trace, num_tokens=tuple(row["num_tokens"]), unreadable=unreadable)


def _table(summaries: dict[str, dict[str, Any]]) -> Table:
    table = Table("mode")
    for name in _SHOWN:
        table.add_column(name, justify="right")
    for mode, summary in summaries.items():
        table.add_row(mode, *(f"{summary[name]:.3f}" if name in summary else "" for name in _SHOWN))
    return table


def main() -> None:
    model = flags.DEFINE_string("model", "", "Directory of the model, or its name on the hub.")
    run = flags.DEFINE_string("run", "", "Workdir of a run, in place of --model.")
    stage = flags.DEFINE_string("stage", "", "Stage of the run; by default the last that has a checkpoint.")
    questions = flags.DEFINE_string("questions", None, "Questions, as `router.datasets` reads them.", required=True)
    bases = flags.DEFINE_string("bases", None, "Directory of knowledge bases.", required=True)
    out = flags.DEFINE_string("out", None, "Directory of the results.", required=True)
    records = flags.DEFINE_string("records", "", "Directory for the steps of right searches, to train on.")
    prompts = flags.DEFINE_string("prompts", "full", "Wording: full, short, or a directory of templates.")
    baselines = flags.DEFINE_list("baselines", [], f"Modes beside the model's own: {', '.join(BASELINES)}, or all.")
    temperature = flags.DEFINE_float("temperature", 1.0, "0 takes the likeliest token each time.")
    top_k = flags.DEFINE_integer("top_k", 20, "Sample from so many likeliest tokens; 0 from all.")
    max_new_tokens = flags.DEFINE_integer("max_new_tokens", 2048, "Most tokens of a step.", lower_bound=1)
    max_lookups = flags.DEFINE_integer("max_lookups", 3, "Most retrievals of a question.", lower_bound=1)
    num_shown = flags.DEFINE_integer(
        "num_shown", NUM_SHOWN, f"Documents of a sub-question, of {NUM_RETRIEVED} retrieved.", 1, NUM_RETRIEVED
    )
    seed = flags.DEFINE_integer("seed", 0, "Of the random numbers.")
    limit = flags.DEFINE_integer("limit", 0, "Ask the first so many questions; 0 for all.", lower_bound=0)
    batch_size = flags.DEFINE_integer("batch_size", 64, "Questions that are asked at one time.", lower_bound=1)
    reuse_width = flags.DEFINE_integer(
        "reuse_width", 0, "Keep prompts of up to so many tokens, a multiple of 128, and read what they share once.", 0
    )
    dtype = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the weights and the computation.")
    cache = flags.DEFINE_string("compile_cache", "~/.cache/r1vl_jax", "Directory for compiled programs; '' for none.")

    def start(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        compilation_cache.enable_compilation_cache(cache.value)
        try:
            run_all()
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from None

    def run_all() -> None:
        if bool(model.value) == bool(run.value):
            raise ValueError("expected --model=DIR or --run=WORKDIR")
        modes = [ROUTER, *choose_baselines(baselines.value)]
        directory, wording = Path(out.value), load_wording(prompts.value)
        searcher = find_bases(Path(bases.value), num_shown.value)
        asked = read_questions(Path(questions.value), limit=limit.value)
        path = export_once(run.value, stage.value, 0, directory, dtype.value) if run.value else model.value
        loaded = load(path, dtype=dtype.value, param_dtype=dtype.value)
        sampling = {"temperature": temperature.value, "top_k": top_k.value if temperature.value else 0}
        settings = Settings(max_new_tokens.value, **sampling, seed=seed.value)
        reuse = PrefixReuse(batch_size.value, reuse_width.value) if reuse_width.value else None
        sample = sample_with(loaded, settings, reuse)
        router = Router(loaded.prompter.encode, sample, wording, searcher, Limits(max_lookups.value))
        decides = {
            **loaded.identify(settings),
            "prompts": dataclasses.asdict(wording),
            "bases": {name: [str(Path(bases.value).absolute()), len(base)] for name, base in searcher.bases.items()},
            "num_shown": num_shown.value,
        }
        asking = {"records": Path(records.value) if records.value else None, "batch_size": batch_size.value}
        summaries = evaluate(router, asked, directory, modes, settings=decides, **asking, console=Console())
        Console().print(_table(summaries))
        if reuse is not None:
            print(reuse.describe())

    app.run(start)


if __name__ == "__main__":
    main()
