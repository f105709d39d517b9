"""Templates escape every value."""

import re
from pathlib import Path

import jinja2
import pytest
from markupsafe import Markup

import r1vl_jax.report
from r1vl_jax.report import rendering
from r1vl_jax.report.rendering import render

TEMPLATES = sorted((Path(r1vl_jax.report.__file__).parent / "templates").glob("*.html"))


def rendered(source: str, **values: object) -> str:
    return rendering._environment().from_string(source).render(values)


def test_values_are_escaped_in_text_and_attributes():
    assert rendered('<a title="{{ x }}">{{ x }}</a>', x="<b>'\"&") == (
        '<a title="&lt;b&gt;&#39;&#34;&amp;">&lt;b&gt;&#39;&#34;&amp;</a>'
    )
    assert rendered("{{ x }}{{ y }}", x=Markup("<b>"), y=1.5) == "<b>1.5"


def test_control_characters_and_surrogates_are_shown_as_symbols():
    assert rendered("{{ x }}", x="a\x00\ud800\n") == "a\u2400\ufffd\n"


def test_a_missing_value_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="'chart' is undefined"):
        render("chart.html")


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_attributes_with_values_are_quoted_and_nothing_is_unescaped(template):
    source = template.read_text()
    assert not re.search(r"=\s*\{[{%]", source)
    assert not re.search(r"\|\s*(safe|tojson|xmlattr)|autoescape", source)
