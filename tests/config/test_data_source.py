"""`data.source` of one source and of several."""

import pytest

from r1vl_jax.config.data_source import Source, parse_sources, source_errors

WEIGHTED = (Source("a.json", 0.7), Source("b c/b.parquet", 3.0))


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("a.json", (Source("a.json"),)),
        ("data:1", (Source("data:1"),)),
        ("a.json:0.7, b c/b.parquet:3", WEIGHTED),
        ("('a.json:.7', \"b c/b.parquet:3.0\")", WEIGHTED),
        ("a.json,b.json", (Source("a.json"), Source("b.json"))),
        ("('a.json',)", (Source("a.json"),)),
    ],
)
def test_the_names_and_weights(text, sources):
    assert parse_sources(text) == sources
    assert list(source_errors(text)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "data.source='': expected a file, a directory, or several"),
        ("a.json:1, b.json", "expected a weight for each source, as a.json:0.7, or for none of them"),
        ("a.json:1, b.json:0", "a weight of 0 leaves its source out"),
        ("digits, b.json", "the embedded task, 'digits', cannot be mixed"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    (error,) = source_errors(text)
    assert message in error
