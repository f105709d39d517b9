"""Progress of a stage and time left: a bar on a terminal, a line every ten seconds in a log."""

import datetime
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from r1vl_jax.runtime import processes

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Progress of one stage, a context manager.

    Args:
        stage: label.
        total: number of steps.
        first: steps already done by the run that this one resumes.
        console: where to print; by default standard output of the main process.
    """

    def __init__(self, stage: str, total: int, *, first: int = 0, console: Console | None = None):
        self._stage, self._total, self._first = stage, total, first
        self._console = console or Console(quiet=not processes.is_main_process())
        self._start = time.monotonic()
        self._last_line = self._start
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[shown]}"))
        # A log gets plain lines instead of the bar's escape sequences.
        self._bar = Bar(*columns, *times, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(stage, total=total, completed=first, shown="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Shows that `step` steps are done, and a few metrics of the last one."""
        shown = "  ".join(f"{name} {value:.3g}" for name, value in (metrics or {}).items())
        self._bar.update(self._task, completed=step, shown=shown)
        if not self._console.is_terminal and self._is_time_for_line(step):
            left = datetime.timedelta(seconds=round(self._seconds_left(step)))
            line = f"{self._stage}  {step}/{self._total}  {left} left  {shown}"
            self._console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
            self._last_line = time.monotonic()

    def _is_time_for_line(self, step: int) -> bool:
        return step == self._total or time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES

    def _seconds_left(self, step: int) -> float:
        done = max(step - self._first, 1)
        return (time.monotonic() - self._start) / done * (self._total - step)
