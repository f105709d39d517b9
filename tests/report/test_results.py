"""Accuracies, tables and settings."""

import json
import re

from helpers.made_up_run import make_run

from r1vl_jax.report import results
from r1vl_jax.report.rendering import render


def test_table_has_a_row_for_each_measure_and_a_column_for_each_stage(tmp_path):
    run = make_run(tmp_path / "tiny")
    table = results.stage_table(json.loads((run / "summary.json").read_text()))
    shown = render("results.html", cards=[], facts=[], table=table)
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)</t", row) for row in shown.split("</tr>")[:-1]]
    assert cells == [
        ["", "start", "after warm-up", "after StepGRPO"],
        ["accuracy, count", "4.0%", "48.0%", "76.5%"],
        ["accuracy, expression", "0.0%", "44.0%", "72.5%"],
        ["accuracy_hard, greedy", "", "4.0%", ""],
        ["mean_length", "96", "71.2", ""],
    ]
    assert results.stage_table({"accuracy": {"start": 0.5}}).rows == ()


def test_gains_have_signs():
    summary = {"accuracy": {"start": 0.5, "warmup": 0.25, "step_grpo": 0.75}}
    shown = render("results.html", cards=results.accuracy_cards(summary), facts=[], table=results.stage_table(summary))
    assert re.findall(r'class="(gain[^"]*)">([^<]*)<', shown) == [("gain", "-25.0 points"), ("gain up", "+50.0 points")]


def test_settings_that_differ_from_the_default_are_marked(tmp_path):
    run = make_run(tmp_path / "tiny")
    settings = results.settings(json.loads((run / "manifest.json").read_text()))
    shown = render("settings.html", settings=settings, versions=[])
    changed = re.findall(r'<div class="changed"><span>([^<]*)</span>', shown)
    assert changed == ["train.max_steps", "workdir"]
