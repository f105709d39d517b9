"""A small tokenizer with its processor, and hand-written records."""

import io

import numpy as np
import pytest
from PIL import Image

from r1vl_jax.data.images import load_image_processor
from r1vl_jax.data.pipeline import Encoder
from r1vl_jax.data.processor import Processor
from r1vl_jax.data.records import Record
from r1vl_jax.data.tokenizer import train_tokenizer
from r1vl_jax.response_format import compose


def png(width: int, height: int, value: int = 200) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def path() -> str:
    return compose("3 + 5", "Add the numbers.", ["3 + 5 = 8"], "8")


@pytest.fixture(scope="session")
def tokenizer(path):
    return train_tokenizer([path, "What is the value?", "user assistant"] * 3)


@pytest.fixture(scope="session")
def processor(tokenizer):
    return Processor(tokenizer, load_image_processor(min_pixels=28 * 28, max_pixels=400_000))


@pytest.fixture
def encoder(processor):
    return Encoder(processor, max_prompt_length=64, prompt_bucket=16, patch_bucket=16)


@pytest.fixture
def make_record(path):
    def make(**changes) -> Record:
        fields = {
            "id": "r-0",
            "images": (png(56, 28),),
            "problem": "<image>What is the value?",
            "solution": path,
            "answer": "8",
            "key_steps": (("3 + 5 = 8", "8 = 3 + 5"),),
            "response": path,
            "kind": "sum",
            "source": "hand",
        }
        return Record(**{**fields, **changes})

    return make
