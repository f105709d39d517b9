"""Searches that led to a right answer, as records to train on: trajectories of a teacher.

python -m r1vl_jax.router.evaluate --model=TEACHER --questions=FILE --bases=DIR --out=OUT --records=RECORDS
python -m r1vl_jax.train --config=configs/router_7b.py --config.data.source=RECORDS
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from r1vl_jax.data.records import write_splits
from r1vl_jax.router.loop import LIMIT, STOPPED, Trace
from r1vl_jax.router.prompts import Wording
from r1vl_jax.router.steps import step_records


def write_teacher_records(directory: Path, traces: Sequence[Trace], recalls: Sequence[float], wording: Wording) -> int:
    """Writes the steps of each search whose recall is 1, as splits `warmup`, with responses, and `train`, without.

    The sub-questions, retrievers and intermediate answers of the teacher are the golds of its steps; those of the final
    answer are the question's.

    Args:
        directory: is made; must not exist.
        recalls: of the final answers, one for each trace.

    Returns:
        How many searches were kept.

    Raises:
        FileExistsError: the directory exists.
        ValueError: there is nothing to keep.
    """
    kept = [trace for trace, recall in zip(traces, recalls, strict=True) if recall == 1 and _is_whole(trace)]
    if not kept:
        raise ValueError(f"{directory}: none of {len(traces)} searches is right and can be read to its end")
    records = [
        record
        for trace in kept
        for record in step_records(trace.trajectory, wording, source="teacher", has_stopped=trace.ended == STOPPED)
    ]
    without = [dataclasses.replace(record, response="") for record in records]
    write_splits(directory, {"warmup": records, "train": without}, settings={"teacher": True})
    return len(kept)


def _is_whole(trace: Trace) -> bool:
    """Whether each step could be read in the end, and each look-up found something."""
    found_and_read = (lookup.documents and lookup.reading for lookup in trace.trajectory.lookups)
    return trace.ended in (STOPPED, LIMIT) and all(found_and_read)
