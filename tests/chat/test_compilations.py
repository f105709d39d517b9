"""Twenty prompts of all sizes, one at a time, need few programs, and little of what these compute is padding."""

import logging
import re

import jax
import numpy as np
import pytest
from helpers.chat_model import write_chat_model
from PIL import Image

import r1vl_jax
from r1vl_jax.chat.messages import read_messages, read_prompt
from r1vl_jax.models.qwen2_vl.chunked import PATCHES_PER_CHUNK, TOKENS_PER_CHUNK

MOST_COMPILATIONS, MOST_PADDING = 6, 0.4
PROGRAMS = ("chunked_prefill", "decode")  # the first runs vision tower and prompt


@pytest.fixture
def compiled(caplog: pytest.LogCaptureFixture):
    """Returns the names of the programs that were compiled since."""
    jax.config.update("jax_log_compiles", True)
    caplog.set_level(logging.WARNING)
    yield lambda: re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text)
    jax.config.update("jax_log_compiles", False)


def padded_share(real: list[int], chunk: int) -> float:
    """The share of what is computed, whole chunks, that is padding."""
    computed = sum(-(-size // chunk) * chunk for size in real)
    return 1 - sum(real) / computed


def test_few_programs_and_little_padding(tmp_path, compiled):
    write_chat_model(tmp_path)
    model = r1vl_jax.load(str(tmp_path))
    rng = np.random.default_rng(0)
    sides = np.linspace(56, 1000, 20).astype(int)
    num_words, new_tokens = rng.permutation(np.linspace(10, 100, 20).astype(int)), rng.permutation(np.arange(1, 21))
    patches, tokens = [], []
    for side, words, most in zip(sides, num_words, new_tokens, strict=True):
        image = Image.new("RGB", (int(side), int(rng.integers(56, side + 1))), "grey")
        prompt = " ".join(rng.choice(["squares", "value", "1", "+", "?"], words))
        answer = model.generate(prompt, image, max_new_tokens=int(most), instruction="")
        assert answer.has_ended or len(answer.token_ids) == most
        encoded = model.prompter.encode(read_messages(read_prompt(prompt, image)))
        patches.append(sum(len(each) for each, _ in encoded.images))
        tokens.append(len(encoded.token_S))
    assert min(tokens) < 200
    assert max(tokens) > 1000
    names = [name for name in compiled() if name in PROGRAMS]
    assert {*names} == {*PROGRAMS}
    assert len(names) <= MOST_COMPILATIONS, names
    assert padded_share(patches, PATCHES_PER_CHUNK) <= MOST_PADDING
    assert padded_share(tokens, TOKENS_PER_CHUNK) <= MOST_PADDING
