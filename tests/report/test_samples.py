"""Completions with headings and matched key steps marked."""

import base64
import io
import re

import pytest
from helpers.made_up_run import completion_row
from PIL import Image

from r1vl_jax.report import samples
from r1vl_jax.report.rendering import render


def completion_html(row: dict) -> str:
    """The card of one completion."""
    prompt = samples.Prompt("?", "2", "sum", "", (samples.make_completion(row),))
    return render("sample.html", sample=samples.Sample(1, (prompt,)))


def annotated_html(completion: str, spans: list) -> str:
    """A completion's text, with headings and key steps marked."""
    pieces = tuple(samples.split_into_pieces(completion, spans))
    card = samples.Completion(completion_row(1, is_right=True, advantage=0.0), {}, 0.0, pieces, ())
    shown = render("sample.html", sample=samples.Sample(1, (samples.Prompt("?", "2", "sum", "", (card,)),)))
    return re.search("<pre>(.*)</pre>", shown, re.DOTALL)[1]


def test_matched_key_steps_are_marked_where_they_are():
    marked = annotated_html("### Step 1:\na 3+4 = 7 b", [[[14, 21]], []])
    assert marked == '<b class="heading">### Step 1:</b>\na <mark title="key step 1">3+4 = 7</mark><sup>1</sup> b'


def test_overlapping_key_steps_are_both_marked():
    assert annotated_html("abcdef", [[[1, 4]], [[2, 5]]]) == (
        'a<mark title="key step 1">b</mark><mark title="key step 1, 2">cd</mark><sup>1</sup>'
        '<mark title="key step 2">e</mark><sup>2</sup>f'
    )


@pytest.mark.parametrize("spans", [[], [[]], [[[0, 3]]], [[[1, 2], [4, 6]], [[0, 6]]], [[[5, 99]]]])
def test_marking_loses_no_character(spans):
    pieces = re.sub(r"<sup>\d+</sup>|<[^>]*>", "", annotated_html("a<b&c\n", spans))
    assert pieces == "a&lt;b&amp;c\n"


def test_missed_key_steps_are_listed_with_every_spelling():
    row = completion_row(1, is_right=False, advantage=-1.0)
    chips = re.findall(r'<span class="chip (\w+)" title="([^"]*)"><sup>(\d)</sup>(.)', completion_html(row))
    assert chips == [
        ("yes", "4 * 2 = 8  or  4 times 2 is 8", "1", "✓"),
        ("no", "3 + 8 = 11  or  3 plus 8 is 11", "2", "✗"),
    ]


def test_a_question_without_key_steps_has_no_chips():
    row = completion_row(1, is_right=True, advantage=0.0) | {"key_steps": "[]", "key_step_spans": "[]"}
    assert "✗" not in completion_html(row)
    assert not re.findall(r'<span class="chip \w+" title="([^"]*)"><sup>', completion_html(row))


def shown(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF"])
def test_any_picture_is_shown_on_white(kind: str):
    file = io.BytesIO()
    Image.new("RGBA", (8, 4)).save(file, kind)
    url = samples.image_url(file.getvalue())
    assert url.startswith("data:image/png;base64,")
    assert shown(url).convert("RGB").getcolors() == [(32, (255, 255, 255))]


def test_a_photograph_is_shown_upright_and_not_larger_than_the_page():
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (2400, 1200)).save(file, "JPEG", exif=exif)
    url = samples.image_url(file.getvalue())
    assert url.startswith("data:image/jpeg;base64,")
    assert (shown(url).size, dict(shown(url).getexif())) == ((512, 1024), {})


@pytest.mark.parametrize("junk", [b"", b"<svg onload=alert(1)>", b"\xff\xd8\xff"])
def test_what_is_no_picture_is_not_shown(junk: bytes):
    assert samples.image_url(junk) == ""
