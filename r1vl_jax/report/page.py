"""Puts the page together from the files of a run."""

from etils import epath

from r1vl_jax.observe import manifest, metrics, results
from r1vl_jax.observe.files import atomic_write, read_json
from r1vl_jax.report.charts import CHARTS, FRAME, line_chart
from r1vl_jax.report.rendering import render
from r1vl_jax.report.results import accuracy_cards, facts, settings, stage_table, versions
from r1vl_jax.report.samples import samples


def write_report(workdir: epath.PathLike) -> epath.Path:
    """Writes `report.html` from what is in the run's directory, also while the run goes on, and returns its path.

    The page is self-contained: it loads no script, style, font or image.

    Raises:
        FileNotFoundError: the directory holds no run.
    """
    workdir = epath.Path(workdir)
    if not (workdir / manifest.MANIFEST).exists():
        raise FileNotFoundError(f"{workdir} holds no run: expected {manifest.MANIFEST} in it; give a run's workdir")
    path = workdir / "report.html"
    atomic_write(path, _page(workdir).encode())
    return path


def _page(workdir: epath.Path) -> str:
    made_from = read_json(workdir / manifest.MANIFEST)
    summary, machine = read_json(workdir / results.SUMMARY), read_json(workdir / results.MACHINE)
    lines = metrics.read_lines(workdir / metrics.METRICS)
    return render(
        "page.html",
        name=workdir.name,
        stages=made_from["configuration"]["train"]["stages"],
        seed=made_from["seed"],
        cards=accuracy_cards(summary),
        facts=facts(summary, machine),
        table=stage_table(summary),
        charts=[chart for spec in CHARTS if (chart := line_chart(spec, lines)) is not None],
        frame=FRAME,
        samples=list(samples(workdir)),
        settings=settings(made_from),
        versions=versions(made_from),
    )
