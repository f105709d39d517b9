"""The normal form on the device equals that of `rewards.normal_form`, offset mapping included."""

import jax
import numpy as np
import pytest
from helpers import reward_texts as texts

from r1vl_jax.rewards import normal_form as strings
from r1vl_jax.rewards.kernels import search_text
from r1vl_jax.rewards.on_device import to_rows

NUM_TEXTS, WIDTH = 512, 128
PIECES = (*texts.PIECES, *"+-*/=<>(){}[],:^_|.Zz9", r"\;", r"\:", r"\LEFT", r"\left\right", "$ $", "\\\\")


@pytest.fixture(scope="module")
def pieces():
    rng = np.random.default_rng(0)
    long = [b"".join(PIECES[k].encode() for k in rng.integers(len(PIECES), size=12)) for _ in range(NUM_TEXTS - 2)]
    return [b"", b"$~ " * 40, *(text[: rng.integers(1, WIDTH)] for text in long)]


def test_the_normal_form(pieces):
    byte_BU, length_B = to_rows(pieces)
    form_BU, source_BU, form_length_B = jax.jit(jax.vmap(search_text.normal_form))(byte_BU, length_B)
    for row, text in enumerate(pieces):
        expected = strings.normalise(text)
        length = int(form_length_B[row])
        form = np.asarray(form_BU[row])[:length].tobytes()
        assert form == expected.data, text
        assert not np.any(form_BU[row, length:])
        for index in range(length):
            if form[index] != ord(" "):
                assert source_BU[row, index] == expected.source_span(index, index + 1)[0]
