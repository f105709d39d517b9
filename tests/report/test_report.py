"""The report shows what is in the run's files, escapes what the model wrote, and loads nothing."""

import html.parser
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.made_up_run import completion_row, make_run

from r1vl_jax import observe
from r1vl_jax.report import charts, results, samples, write_report
from r1vl_jax.report.markup import element, join, text


class Reader(html.parser.HTMLParser):
    """Checks that elements are closed in order, and collects their names, attributes and text."""

    EMPTY = ("meta", "img")

    def __init__(self, page: str):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in self.EMPTY:
            self.open.append(name)

    def handle_endtag(self, name):
        if name not in self.EMPTY:
            assert self.open.pop() == name

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "tiny")


def test_page_shows_results_curves_and_samples(run):
    reader = Reader(write_report(run).read_text())
    shown = "".join(reader.texts)
    for fact in (
        "2.0%",
        "46.0%",
        "74.5%",
        "+28.5 points",
        "9 min 43 s",
        "max_logp_difference",
        "3.4e-06",
        "warmup → step_grpo",
    ):
        assert fact in shown
    titles = [
        attributes["aria-label"].removesuffix(" by step") for name, attributes in reader.elements if name == "svg"
    ]
    assert titles == [chart.title for chart in charts.CHARTS]
    assert [f"Step {step}" in shown for step in (25, 50, 75, 100, 125, 150)] == [True, False, True, True, False, True]
    assert "train.max_steps" in shown


def test_table_has_a_row_for_each_measure_and_a_column_for_each_stage(run):
    table = results.by_stage(json.loads((run / "summary.json").read_text()))
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)</t", row) for row in table.split("</tr>")[:-1]]
    assert cells == [
        ["", "start", "after warm-up", "after StepGRPO"],
        ["accuracy, count", "4.0%", "48.0%", "76.5%"],
        ["accuracy, expression", "0.0%", "44.0%", "72.5%"],
        ["mean_length", "96", "71.2", ""],
    ]
    assert results.by_stage({"accuracy": {"start": 0.5}}) == ""


def test_page_loads_nothing(run):
    reader = Reader(write_report(run).read_text())
    addresses = [
        value for _, given in reader.elements for key, value in given.items() if key in ("src", "href", "srcset")
    ]
    assert addresses
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert not [name for name, given in reader.elements if name in ("link", "iframe", "object")]
    assert not re.search(r"https?://|@import|url\(", (run / "report.html").read_text())
    assert "default-src 'none'" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    "attack", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</pre></main>$style", "\x00\x1b[2J\x7f"]
)
def test_what_the_model_wrote_stays_text(tmp_path, attack):
    run = make_run(tmp_path / "tiny", num_steps=1)
    names = ("prompt", "kind", "answer", "completion")
    row = {**completion_row(1, is_right=True, advantage=0.0), **dict.fromkeys(names, attack)}
    row |= {"key_steps": json.dumps([[attack]]), "key_step_spans": "[[]]"}
    observe.write_completions(run, 1, [row])
    reader = Reader(write_report(run).read_text())
    assert [name for name, _ in reader.elements].count("script") == 1
    assert not [given for _, given in reader.elements if any(key.startswith("on") for key in given)]
    assert str(text(attack)) in (run / "report.html").read_text()
    if attack.isprintable():
        assert "".join(reader.texts).count(attack) >= 4
    else:
        assert "␀␛[2J␡" in "".join(reader.texts)


def test_placeholders_of_images_are_not_shown(run):
    page = write_report(run).read_text()
    assert "What is the value of the expression in the picture?" in page
    assert "&lt;image&gt;" not in page


def test_a_run_that_has_only_begun_has_a_report(tmp_path):
    begun = make_run(tmp_path / "tiny", num_steps=0)
    for name in ("summary.json", "machine.json", "metrics.jsonl"):
        (begun / name).unlink()
    Reader(write_report(begun).read_text())


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run: expected manifest.json in it; give a run's workdir"):
        write_report(tmp_path)


def test_command_writes_the_page(run):
    command = [sys.executable, "-m", "r1vl_jax.report", f"--run={run}"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(run / "report.html")
    assert (run / "report.html").is_file()


def test_markup_is_escaped_by_construction():
    assert element("a", "<", element("b", "&"), title='"', class_="x", data_y=1, id=None) == (
        '<a title="&quot;" class="x" data-y="1">&lt;<b>&amp;</b></a>'
    )
    assert join("a\ud800", 1.5) == "a\ufffd1.5"


def test_matched_key_steps_are_marked_where_they_are():
    marked = samples.annotated("### Step 1:\na 3+4 = 7 b", [[[14, 21]], []])
    assert marked == '<b class="heading">### Step 1:</b>\na <mark title="key step 1">3+4 = 7</mark><sup>1</sup> b'


def test_overlapping_key_steps_are_both_marked():
    assert samples.annotated("abcdef", [[[1, 4]], [[2, 5]]]) == (
        'a<mark title="key step 1">b</mark><mark title="key step 1, 2">cd</mark><sup>1</sup>'
        '<mark title="key step 2">e</mark><sup>2</sup>f'
    )


@pytest.mark.parametrize("spans", [[], [[]], [[[0, 3]]], [[[1, 2], [4, 6]], [[0, 6]]], [[[5, 99]]]])
def test_marking_loses_no_character(spans):
    pieces = re.sub(r"<sup>\d+</sup>|<[^>]*>", "", samples.annotated("a<b&c\n", spans))
    assert pieces == "a&lt;b&amp;c\n"


def test_missed_key_steps_are_listed_with_every_spelling():
    row = completion_row(1, is_right=False, advantage=-1.0)
    chips = re.findall(r'<span class="chip (\w+)" title="([^"]*)"><sup>(\d)</sup>(.)', samples.completion_card(row))
    assert chips == [
        ("yes", "4 * 2 = 8  or  4 times 2 is 8", "1", "✓"),
        ("no", "3 + 8 = 11  or  3 plus 8 is 11", "2", "✗"),
    ]


def test_only_pictures_are_shown():
    assert samples.picture(b"") == ""
    assert samples.picture(b"<svg onload=alert(1)>") == ""
    assert 'src="data:image/jpeg;base64,/9j/"' in samples.picture(b"\xff\xd8\xff")


def test_points_leave_out_what_was_not_finite_and_average_what_is_too_much():
    lines = [{"stage": "warmup", "step": step, "loss": None if step == 2 else float(step)} for step in range(1, 5)]
    assert charts.points_of(lines, "warmup", "loss") == [(1, 1), (3, 3), (4, 4)]
    assert charts.points_of(lines, "step_grpo", "loss") == []
    many = [{"stage": "warmup", "step": step, "loss": 2.0 * step} for step in range(1000)]
    points = charts.points_of(many, "warmup", "loss")
    assert len(points) == math.ceil(1000 / 3)
    assert points[0] == (1, 2)


def test_moving_mean_keeps_a_straight_line_and_few_points():
    line = [(float(x), 3.0 * x) for x in range(100)]
    np.testing.assert_allclose(charts.smoothed(line)[10:90], line[10:90])
    assert charts.smoothed(line[:5]) == line[:5]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0), (-0.3, 2.1), (1, 13125), (0, 3e-7), (0, 0.99), (7, 7)])
def test_ticks_are_round_and_enclose(low, high):
    found = charts.ticks(low, high)
    assert found[0] <= low
    assert high <= found[-1]
    assert 2 <= len(found) <= 8
    steps = {f"{b - a:.6g}" for a, b in zip(found, found[1:], strict=False)}
    assert len(steps) == 1
    assert re.match(r"^0*\.?0*[125]", steps.pop())


def test_values_of_the_size_of_rounding_are_drawn():
    lines = [{"stage": "warmup", "step": step, "loss": step * 1e-15} for step in (1, 2)]
    assert "<svg" in charts.line_chart(charts.Chart("c", "u", "warmup", {"loss": "l"}), lines)
    assert charts.ticks(0.0, 3e-15)[-1] == pytest.approx(3e-15)


def test_a_chart_draws_values_where_they_belong():
    chart = charts.Chart("c", "u", "warmup", {"loss": "l"})
    lines = [{"stage": "warmup", "step": step, "loss": value} for step, value in ((0, 0.0), (5, 1.0), (10, 2.0))]
    drawn = re.search(r'class="mean" points="([^"]*)"', charts.line_chart(chart, lines)).group(1)
    corners = [tuple(map(float, pair.split(","))) for pair in drawn.split()]
    assert corners == [(52, 184), (219, 97), (386, 10)]


def test_steps_on_the_axis_are_whole_and_gains_have_signs():
    lines = [{"stage": "warmup", "step": step, "loss": 1.0} for step in (1, 2, 3)]
    drawn = charts.line_chart(charts.Chart("c", "u", "warmup", {"loss": "l"}), lines)
    assert re.findall(r'text-anchor="middle">([^<]*)<', drawn) == ["1", "2", "3"]
    shown = results.headline({"accuracy": {"start": 0.5, "warmup": 0.25, "step_grpo": 0.75}}, {})
    assert re.findall(r'class="(gain[^"]*)">([^<]*)<', shown) == [("gain", "-25.0 points"), ("gain up", "+50.0 points")]


def test_settings_that_are_not_the_default_stand_out(run):
    shown = results.settings(json.loads((run / "manifest.json").read_text()))
    changed = re.findall(r'<div class="changed"><span>([^<]*)</span>', shown)
    assert changed == ["train.max_steps", "workdir"]
