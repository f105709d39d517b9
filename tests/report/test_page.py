"""The page shows what is in the run's files, escapes the model's text, and loads nothing."""

import json
import re
import subprocess
import sys

import pytest
from helpers.html_reader import Reader
from helpers.made_up_run import completion_row, make_run

from r1vl_jax import observe
from r1vl_jax.report import charts, write_report


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
    "attack",
    [
        "<script>alert(1)</script>",
        "</script><script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onmouseover='alert(1)",
        "<svg onload=alert(1)>",
        "</pre></main>{{ style }}{% raw %}",
        "\x00\x1b[2J\x7f",
    ],
)
def test_hostile_text_is_escaped(tmp_path, attack):
    run = make_run(tmp_path / "tiny", num_steps=1)
    names = ("prompt", "kind", "answer", "answer_reason", "completion")
    row = {**completion_row(1, is_right=True, advantage=0.0), **dict.fromkeys(names, attack)}
    row |= {"key_steps": json.dumps([[attack]]), "key_step_spans": "[[]]"}
    observe.write_completions(run, 1, [row])
    observe.update_summary(run, {attack: 1, "accuracy_by_kind.start": {attack: 0.5}})
    reader = Reader(write_report(run).read_text())
    assert [name for name, _ in reader.elements].count("script") == 1
    assert not [given for _, given in reader.elements if any(key.startswith("on") for key in given)]
    shown = attack if attack.isprintable() else "␀␛[2J␡"
    assert "".join(reader.texts).count(shown) >= 6
    assert shown in [attributes.get("title") for _, attributes in reader.elements]  # of the key step


def test_surrogates_are_replaced(tmp_path):
    """JSON may hold them, UTF-8 cannot."""
    run = make_run(tmp_path / "tiny", num_steps=1)
    row = completion_row(1, is_right=True, advantage=0.0) | {"key_steps": '[["\\ud800"]]', "key_step_spans": "[[]]"}
    observe.write_completions(run, 1, [row])
    assert "✗ \ufffd" in write_report(run).read_text()


def test_placeholders_of_images_are_not_shown(run):
    page = write_report(run).read_text()
    assert "What is the value of the expression in the picture?" in page
    assert "&lt;image&gt;" not in page


def test_a_run_that_has_just_started_has_a_report(tmp_path):
    begun = make_run(tmp_path / "tiny", num_steps=0)
    for name in ("summary.json", "machine.json", "metrics.jsonl"):
        (begun / name).unlink()
    Reader(write_report(begun).read_text())


def test_a_directory_without_a_run_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run: expected manifest.json in it; give a run's workdir"):
        write_report(tmp_path)


def test_command_writes_the_page(run):
    command = [sys.executable, "-m", "r1vl_jax.report", f"--run={run}"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(run / "report.html")
    assert (run / "report.html").is_file()
