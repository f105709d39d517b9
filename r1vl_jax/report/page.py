"""Puts the page together from the files of a run."""

import string
from importlib import resources
from typing import Any

from etils import epath

from r1vl_jax.observe import manifest, metrics, results
from r1vl_jax.observe.files import atomic_write, read_json
from r1vl_jax.report.charts import CHARTS, line_chart
from r1vl_jax.report.markup import Markup, element, join, text
from r1vl_jax.report.results import by_stage, headline, settings
from r1vl_jax.report.samples import samples


def write_report(workdir: epath.PathLike) -> epath.Path:
    """Writes `report.html` from what is in the run's directory, also while the run goes on, and returns its path.

    The page loads nothing: no script, style, font or picture from elsewhere.

    Raises:
        FileNotFoundError: the directory holds no run.
    """
    workdir = epath.Path(workdir)
    if not (workdir / manifest.MANIFEST).exists():
        raise FileNotFoundError(f"{workdir} holds no run: expected {manifest.MANIFEST} in it; give a run's workdir")
    path = workdir / "report.html"
    atomic_write(path, _page(workdir.name, read_json(workdir / manifest.MANIFEST), _sections(workdir)).encode())
    return path


def _sections(workdir: epath.Path) -> Markup:
    summary, machine = read_json(workdir / results.SUMMARY), read_json(workdir / results.MACHINE)
    lines = metrics.read_lines(workdir / metrics.METRICS)
    charts = [figure for chart in CHARTS if (figure := line_chart(chart, lines)) is not None]
    return join(
        element("section", headline(summary, machine), by_stage(summary)),
        _section("Curves", "faint: every step; strong: moving mean", element("div", *charts, class_="charts")),
        _section("Samples", "marked: key steps found; best reward first", *samples(workdir)),
        element(
            "details", element("summary", "Settings and versions"), settings(read_json(workdir / manifest.MANIFEST))
        ),
    )


def _section(title: str, note: str, *content: Markup) -> Markup:
    return element("section", element("h2", title, " ", element("span", note, class_="unit")), *content)


def _page(name: str, made_from: dict[str, Any], sections: Markup) -> str:
    """The template with everything in place; the file's own texts are inserted by name."""
    part = {file: resources.files("r1vl_jax.report").joinpath(file).read_text("utf-8") for file in _FILES}
    stages = made_from["configuration"]["train"]["stages"]
    return string.Template(part["page.html"]).substitute(
        name=text(name),
        about=text(f"{' → '.join(stages)} · seed {made_from['seed']}"),
        style=part["style.css"],
        script=part["script.js"],
        sections=sections,
    )


_FILES = ("page.html", "style.css", "script.js")
