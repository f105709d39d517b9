"""Scores the predictions on a benchmark, prints and writes what came out; several in the published table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath
from rich.console import Console

from r1vl_jax.evaluation.benchmarks.comparison import comparison_table
from r1vl_jax.evaluation.benchmarks.excel import import_openpyxl
from r1vl_jax.evaluation.benchmarks.measures import SCORE
from r1vl_jax.evaluation.benchmarks.outcome import Row
from r1vl_jax.evaluation.benchmarks.published import PUBLISHED
from r1vl_jax.evaluation.benchmarks.results import check_directory, to_table, write_results
from r1vl_jax.evaluation.benchmarks.rules import Rules
from r1vl_jax.evaluation.benchmarks.scoring import score_rows, summarize
from r1vl_jax.evaluation.benchmarks.tasks import BENCHMARKS, Benchmark
from r1vl_jax.observe.files import atomic_write, write_json
from r1vl_jax.observe.markdown import markdown_table
from r1vl_jax.rewards import Judge

_WIDE = 1_000  # columns of a log, which has no width


@dataclass(frozen=True)
class Reporting:
    """How predictions are scored, and what is written.

    Attributes:
        rules: version of the rules.
        timeout_s: processor time of a comparison by math-verify in seconds, after which the answer is wrong.
        writes_xlsx: whether the predictions are written as an Excel file, too.

    Raises:
        ValueError: Excel files need openpyxl, which is not installed.
    """

    rules: Rules
    timeout_s: float = 5.0
    writes_xlsx: bool = False

    def __post_init__(self) -> None:
        if self.writes_xlsx:
            import_openpyxl()


def report(
    benchmark: Benchmark,
    rows: Sequence[Row],
    reporting: Reporting,
    out: epath.Path | None = None,
    *,
    not_asked: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores rows with predictions, prints the scores, writes them into `out`, and returns what `summarize` does.

    Args:
        not_asked: index -> why this question, which is wrong, was not asked.
        notes: to be read with the figures, besides those of `summarize`.

    Raises:
        ValueError: `out` has predictions of something else.
    """
    if out is not None:
        check_directory(out, benchmark)
    with Judge(num_workers=2, timeout_s=reporting.timeout_s) as judge:
        outcomes = score_rows(benchmark, rows, reporting.rules, judge, not_asked=not_asked or {})
    results = summarize(benchmark, rows, outcomes, reporting.rules)
    results |= {"not_asked": dict(not_asked or {}), "notes": [*results["notes"], *notes]}
    if out is not None:
        write_results(out, rows, outcomes, results, writes_xlsx=reporting.writes_xlsx)
    Console().print(to_table(benchmark, results))
    print(*results["notes"], sep="\n")
    return results


def report_all(
    name: str, results: Mapping[str, Mapping[str, Any]], rules: Rules, out: epath.Path | None = None
) -> dict[str, float]:
    """Prints the scores of several benchmarks beside the published ones; writes `table.md` and `table.json` into `out`.

    Args:
        name: what was scored.
        results: benchmark -> what `report` returned, whose notes stand below the table.

    Returns:
        Benchmark -> score.
    """
    scores = {each: of_each["scores"][SCORE]["value"] for each, of_each in results.items()}
    notes = [f"{BENCHMARKS[each].title}: {note}" for each, of_each in results.items() for note in of_each["notes"]]
    if absent := [benchmark.title for each, benchmark in BENCHMARKS.items() if each not in results]:
        notes.append(f"no file of {', '.join(absent)}")
    table = comparison_table(f"{name}, rules {rules.name}", scores)
    if out is not None:
        lines = "".join(f"- {note}\n" for note in notes)
        atomic_write(out / "table.md", f"{markdown_table(table)}\n\n{lines}".encode())
        as_json = {"rules": rules.name, "scores": scores, "notes": notes, "published": PUBLISHED}
        write_json(out / "table.json", as_json)
    console = Console()
    console.width = max(console.width, console.measure(table, options=console.options.update(width=_WIDE)).maximum)
    console.print(table)
    print(*notes, sep="\n")
    return scores
