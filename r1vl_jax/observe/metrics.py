"""Metrics by step: JSON lines and TensorBoard; and timers."""

import contextlib
import json
import math
import numbers
import time
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from r1vl_jax.observe.files import atomic_write
from r1vl_jax.runtime import processes

METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"


class MetricsWriter:
    """Writes `metrics.jsonl`, which the seed determines, and `timings.jsonl`, which depends on the machine.

    A line is `{"stage": "step_grpo", "step": 3, "reward": 1.25, ...}`, on disk when `write` returns. Only the main
    process writes.

    Args:
        workdir: of the run; lines are appended.
        tensorboard: whether metrics and timings also go to `tensorboard/<stage>`.
    """

    def __init__(self, workdir: epath.PathLike, *, tensorboard: bool):
        self._workdir = epath.Path(workdir)
        if processes.is_main_process():
            self._workdir.mkdir(parents=True, exist_ok=True)
        self._has_tensorboard = tensorboard
        self._boards: dict[str, Any] = {}
        self._resumed: Mapping[str, int] | None = None

    def write(
        self, stage: str, step: int, metrics: Mapping[str, Any], timings: Mapping[str, Any] | None = None
    ) -> None:
        """Appends the line of a step.

        Args:
            stage: "vision_pretrain", "warmup" or "step_grpo".
            step: updates of that stage so far; 0 before the first.
            metrics: numbers that the seed determines; NaN and infinity are written as null.
            timings: seconds and rates.
        """
        if not processes.is_main_process():
            return
        for name, values in ((METRICS, metrics), (TIMINGS, timings or {})):
            if values:
                line = {"stage": stage, "step": step} | {key: _to_json_number(value) for key, value in values.items()}
                with (self._workdir / name).open("a") as file:
                    file.write(json.dumps(line, allow_nan=False) + "\n")
        if self._has_tensorboard:
            for key, value in {**metrics, **(timings or {})}.items():
                self._summary_writer(stage).add_scalar(key, float(value), step)
            self._summary_writer(stage).flush()

    def rewind(self, stage_steps: Mapping[str, int]) -> None:
        """Drops lines after the checkpoint that a run resumes from: those steps are run again.

        Args:
            stage_steps: the step that each stage resumes from; stages that are not named lose all their lines.
        """
        for name in (METRICS, TIMINGS):
            path = self._workdir / name
            if path.exists():
                kept = [text for text in path.read_text().splitlines() if _is_kept(text, stage_steps)]
                atomic_write(path, "".join(f"{text}\n" for text in kept).encode())
        self._resumed = stage_steps

    def close(self) -> None:
        """Closes TensorBoard's files."""
        for board in self._boards.values():
            board.close()
        self._boards.clear()

    def _summary_writer(self, stage: str) -> Any:
        from tensorboardX import SummaryWriter  # imported on demand: it imports PyTorch where that is installed

        if stage not in self._boards:
            first_again = None if self._resumed is None else self._resumed.get(stage, -1) + 1
            directory = str(self._workdir / "tensorboard" / stage)
            self._boards[stage] = SummaryWriter(directory, purge_step=first_again)
        return self._boards[stage]


def read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none without a file. A line cut short by a kill is left out."""
    lines = [_parse_line(text) for text in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line is not None]


def _is_kept(text: str, stage_steps: Mapping[str, int]) -> bool:
    line = _parse_line(text)
    return line is not None and line["step"] <= stage_steps.get(line["stage"], -1)


def _parse_line(text: str) -> dict[str, Any] | None:
    """A line of JSON; None for one that a killed run cut short."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _to_json_number(value: Any) -> int | float | None:
    """An int or float of JSON from a number of Python, NumPy or JAX; None if it is not finite."""
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None


class Timers:
    """Seconds spent in named parts of a step: `with timers("gen"): ...`; repeated parts add up."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Adds the time of its block to the part `name`, also if the block raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """Seconds by part since the last call, as `{"timing_s/gen": 1.5}`."""
        seconds, self._seconds = self._seconds, {}
        return {f"timing_s/{name}": value for name, value in seconds.items()}
