"""Tables as Markdown."""

import datetime
import os

from rich.table import Table

from r1vl_jax.observe.markdown import markdown_table, provenance


def test_a_table():
    table = Table("program")
    table.add_column("GiB", justify="right")
    table.add_row("update", "1.5", style="red")
    table.add_row("a|b", "")
    assert markdown_table(table) == "| program | GiB |\n| --- | ---: |\n| update | 1.5 |\n| a\\|b |  |"


def test_provenance_names_command_machine_and_date():
    line = provenance(["python", "-m", "x", "--config.a=(1, 2)"], ["jax 0.10.2"])
    assert line.startswith(f"`python -m x '--config.a=(1, 2)'` ({os.cpu_count()} cores of ")
    assert line.endswith(f", jax 0.10.2, {datetime.date.today().isoformat()})")
