r"""The normal form: examples worked out by hand, and properties on arbitrary bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1vl_jax.rewards.normal_form import normal_form, normalise, occurrences_at_boundaries

# The bytes that the rules mention are frequent.
TEXT = st.lists(
    st.sampled_from(
        [b"\\left", b"\\right", b"\\quad", b"\\,", b"\\ ", b"\\", b"$", b"~", b" ", b"\n", b"=", b"(", b"."]
    )
    | st.binary(min_size=1, max_size=2)
).map(b"".join)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (r"3 + 4 = 7", "3+4=7"),
        (r"$\frac {12} {2} = 6$", r"\frac{12}{2}=6"),
        (r"\left( x \right)", "(x)"),
        (r"a\,b\;c\:d\!e\ f\quad g\qquad h~i", "a b c d e f g h i"),
        (r"x \rightarrow y \leftarrow z", r"x \rightarrow y \leftarrow z"),
        (r"\quadx", r"\quadx"),
        ("  The\t\n\v\f\r  Cat  ", "the cat"),
        ("5 $ $ apples", "5 apples"),
        ("12 $", "12"),
        ("US$ 5", "us 5"),
        ("a - b, c : d ^ e _ f | g", "a-b,c:d^e_f|g"),
        ("x . y ; z", "x . y ; z"),
        ("ÄÉ Ω", "ÄÉ Ω"),
        ("a\u00a0b", "a\u00a0b"),
        ("", ""),
        (" $~ ", ""),
    ],
)
def test_examples(text, form):
    assert normal_form(text.encode()) == form.encode()


@given(TEXT)
def test_the_amount_of_white_space_does_not_matter(text):
    assert normal_form(text.replace(b" ", b" \t\r\n")) == normal_form(text)


@given(TEXT)
def test_the_offset_mapping_points_to_the_source_byte(text):
    form = normalise(text)
    for index, byte in enumerate(form.data):
        start, end = form.source_span(index, index + 1)
        assert end == start + 1
        if byte != ord(" "):
            assert text[start:end].lower() == bytes([byte])


@pytest.mark.parametrize(
    ("text", "spelling", "is_found"),
    [
        ("the sum is 12", "12", True),
        ("the sum is 12.", "12", True),
        ("2", "2", True),
        ("12", "2", False),
        ("21", "2", False),
        ("2.5", "2", False),
        ("2.5", "5", False),
        ("2.5", "2.5", True),
        ("x=.5", "5", False),
        ("1, 2, 3", "2", True),
        ("2x", "2", True),
        ("2x", "x", True),
        ("concatenate", "cat", False),
        ("bobcat", "cat", False),
        ("cats", "cat", False),
        ("cats and a cat", "cat", True),
        ("the cat.", "the cat", True),
        (r"\frac{1}{2}=0.5", r"\frac{1}{2}", True),
        ("über", "ber", True),
        ("anything", "", False),
        ("", "x", False),
    ],
)
def test_a_match_splits_neither_words_nor_numbers(text, spelling, is_found):
    spans = list(occurrences_at_boundaries(normal_form(text.encode()), normal_form(spelling.encode())))
    assert bool(spans) == is_found


def test_all_occurrences_are_found():
    assert list(occurrences_at_boundaries(b"2+2=22-2", b"2")) == [(0, 1), (2, 3), (7, 8)]
