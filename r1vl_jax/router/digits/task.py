"""Writes the embedded task of R1-Router: knowledge bases, records for training, and questions for the whole loop.

    python -m r1vl_jax.router.digits.task --out=runs/router_task

OUT/bases/{text,image,table}           knowledge bases
OUT/records                            one record for each step of each question: what `data.source` takes
OUT/searches                           questions of `train` alone, for `train.rollout_func`
OUT/questions/{validation,test}.jsonl  what `router.evaluate` takes

Numbers, and with them all facts, belong to one split alone, and validation and test have scans of their own. In the
responses of `warmup` the retriever is the code book's out of habit, with probability `habit`, wherever it should be
another; what it is good for is learned from rewards.
"""

import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags
from rich.progress import track

from r1vl_jax.data.digits.scans import load_scans, render
from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER
from r1vl_jax.data.records import Record, write_splits
from r1vl_jax.router.datasets import Question, write_questions
from r1vl_jax.router.digits.facts import IMAGE, KINDS, TABLE, TEXT, Facts, documents, draw_facts
from r1vl_jax.router.golds import ANSWER, gold_answer
from r1vl_jax.router.knowledge import build
from r1vl_jax.router.prompts import load_wording
from r1vl_jax.router.protocol import write_answer, write_retrieval
from r1vl_jax.router.search import Searcher, open_bases
from r1vl_jax.router.steps import Lookup, Trajectory, step_records

SPLITS = ("warmup", "train", "validation", "test")
_BASES = {TEXT: "text", TABLE: "table", IMAGE: "image"}
_SOURCE = "router_digits"
NUM_SHOWN = 3  # documents, so that prompts are short


def write(
    directory: Path,
    *,
    num_facts: int = 4_000,
    warmup_questions: int = 6_000,
    train_questions: int = 1_000,
    eval_questions: int = 300,
    vision_pretrain_records: int = 4_000,
    habit: float = 0.7,
    seed: int = 0,
    show_progress: bool = False,
) -> None:
    """Writes the task, unless the directory exists; an interrupted write leaves none.

    Args:
        num_facts: numbers that something is known about.
        warmup_questions, train_questions, eval_questions: of the splits; those for evaluation of each of two.
        vision_pretrain_records: single digits to name.
        habit: see the module.
    """
    if directory.exists():
        return
    unfinished = directory.with_name(f".{directory.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    rng = np.random.default_rng(seed)
    facts = draw_facts(num_facts, rng)
    searcher = _write_bases(unfinished / "bases", facts)
    sizes = dict(zip(SPLITS, (warmup_questions, train_questions, eval_questions, eval_questions), strict=True))
    trajectories = {
        split: list(_draw_trajectories(split, size, facts, searcher, habit, np.random.default_rng([seed, number])))
        for number, (split, size) in enumerate(sizes.items())
    }
    wording = load_wording("short")
    records: dict[str, Iterator[Record]] = {
        split: (record for each in of_split for record in step_records(each, wording, source=_SOURCE))
        for split, of_split in trajectories.items()
    }
    records["vision_pretrain"] = _single_digits(vision_pretrain_records, np.random.default_rng([seed, len(sizes)]))
    tracked = {split: track(each, f"writing {split}", disable=not show_progress) for split, each in records.items()}
    write_splits(unfinished / "records", tracked, settings={"habit": habit, "seed": seed, "num_facts": num_facts})
    searches = (_question_record(each) for each in trajectories["train"])
    write_splits(unfinished / "searches", {"train": searches}, settings={"seed": seed, "num_facts": num_facts})
    for split in ("validation", "test"):
        write_questions(unfinished / "questions" / f"{split}.jsonl", map(_question, trajectories[split]))
    unfinished.rename(directory)


def partition(number: str) -> str:
    """The split that a number belongs to, by a hash."""
    share = zlib.crc32(number.encode()) % 10
    return {0: "validation", 1: "test", 2: "train", 3: "train"}.get(share, "warmup")


def _write_bases(directory: Path, facts: list[Facts]) -> Searcher:
    for retriever, of_base in documents(facts).items():
        name = _BASES[retriever]
        build(of_base, directory / name, name=name, kind=name)
    return open_bases([directory / name for name in _BASES.values()], NUM_SHOWN)


def _draw_trajectories(
    split: str, size: int, facts: Sequence[Facts], searcher: Searcher, habit: float, rng: np.random.Generator
) -> Iterator[Trajectory]:
    """Questions of a split, its kinds in turn, with the look-ups that answer them."""
    facts = [each for each in facts if partition(each.number) == split]
    scans = load_scans(split if split in ("validation", "test") else "train")
    drawn = [(KINDS[index % len(KINDS)], facts[rng.integers(len(facts))]) for index in range(size)]
    asked = [(name, asks.format(**vars(of))) for kind, of in drawn for name, asks, _ in kind.lookups]
    found = iter(searcher.find(asked))
    for index, (kind, of) in enumerate(drawn):
        lookups = []
        known = f"It shows {of.number}."
        for retriever, asks, fact in kind.lookups:
            sub_question, answer = asks.format(**vars(of)), fact.format(**vars(of))
            asked_where = TEXT if rng.random() < habit else retriever
            routing = write_retrieval(known, sub_question, asked_where)
            reading = write_answer("Line 1.", answer)
            lookups.append(Lookup(sub_question, retriever, next(found).lines, answer, routing, reading))
            known = f"Now {answer}."
        yield Trajectory(
            id=f"{split}-{index:05d}",
            question=kind.question,
            image=render((of.number,), scans, rng),
            golds=(answer,),
            lookups=tuple(lookups),
            kind=kind.name,
            stopping=write_retrieval("Enough."),
            answering=write_answer("Enough.", answer),
        )


def _single_digits(size: int, rng: np.random.Generator) -> Iterator[Record]:
    scans = load_scans("train")
    for index in range(size):
        digit = str(rng.integers(10))
        yield Record.make(
            "Which digit is it?\n<image>",
            images=[render([digit], scans, rng)],
            answer=digit,
            response=digit,
            id=f"vision_pretrain-{index:05d}",
            kind="digit",
            source=_SOURCE,
        )


def _question_record(trajectory: Trajectory) -> Record:
    return Record.make(
        f"{trajectory.question}\n{IMAGE_PLACEHOLDER}",
        images=[trajectory.image] if trajectory.image else (),
        answer=gold_answer(trajectory.golds),
        id=trajectory.id,
        kind=ANSWER,
        source=trajectory.kind,
    )


def _question(trajectory: Trajectory) -> Question:
    return Question(
        id=trajectory.id,
        text=trajectory.question,
        image=trajectory.image,
        golds=trajectory.golds,
        source=trajectory.kind,
        retrievers=tuple(each.retriever for each in trajectory.lookups),
    )


def main() -> None:
    out = flags.DEFINE_string("out", None, "Directory of the task; made, unless it is there.", required=True)
    habit = flags.DEFINE_float("habit", 0.7, "Probability of the wrong retriever in the warm-up.", 0.0, 1.0)
    seed = flags.DEFINE_integer("seed", 0, "Of facts, pictures and questions.")

    def start(_: list[str]) -> None:
        write(Path(out.value), habit=habit.value, seed=seed.value, show_progress=True)
        print(out.value)

    app.run(start)


if __name__ == "__main__":
    main()
