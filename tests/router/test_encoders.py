"""Encoders: alike texts have alike vectors; the same vectors everywhere; models by name."""

import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from r1vl_jax.router.encoders import load_encoder

TEXTS = ["What does the reading lamp cost?", "the price of reading lamps", "Who drew the first comic?", ""]


def test_vectors_have_norm_one_and_the_size_of_the_name():
    for name, size in (("hashing", 512), ("hashing:64", 64), ("hashing:1", 1)):
        encoder = load_encoder(name)
        vectors = encoder.encode(TEXTS)
        assert (encoder.size, vectors.shape, vectors.dtype) == (size, (len(TEXTS), size), np.float32)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_texts_with_words_in_common_are_more_alike():
    lamp, lamps, comic, empty = load_encoder("hashing").encode(TEXTS)
    assert lamp @ lamps > 0.3 > 0.15 > lamp @ comic
    assert abs(lamp @ empty) < 0.2


@pytest.mark.parametrize("other", ["WHAT does the reading  lamp cost", "cost lamp reading the does What?"])
def test_case_spaces_marks_and_order_do_not_count(other):
    text, changed = load_encoder("hashing").encode([TEXTS[0], other])
    np.testing.assert_allclose(text, changed, atol=1e-6)


def test_a_text_is_encoded_alike_in_any_batch_and_in_any_process():
    vectors = load_encoder("hashing").encode(TEXTS)
    np.testing.assert_array_equal(load_encoder("hashing").encode(TEXTS[1:2])[0], vectors[1])
    program = (
        "from r1vl_jax.router.encoders import load_encoder\n"
        f"print(load_encoder('hashing').encode([{TEXTS[1]!r}])[0].tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(vectors[1].tolist())


def test_no_texts_give_no_vectors():
    assert load_encoder("hashing").encode([]).shape == (0, 512)


def test_fingerprints_tell_encoders_apart():
    names = ("hashing", "hashing:64", "hashing:512")
    fingerprints = [load_encoder(name).fingerprint for name in names]
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


@pytest.mark.parametrize("name", ["hash", "hashing:", "hashing:0", "hashing:x", "bge-m3", ""])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match=r"expected hashing, hashing:SIZE, or sentence-transformers:NAME_OR_DIR"):
        load_encoder(name)


class _Model:
    """As a model of sentence-transformers."""

    def __init__(self, name: str):
        if name == "absent":
            raise OSError("absent is not a local folder and is not a valid model identifier")
        self._scale = float(len(name))

    def state_dict(self):
        return {"weight": torch.full((3, 3), self._scale)}

    def encode(self, texts, *, batch_size, normalize_embeddings, convert_to_numpy, show_progress_bar):
        assert normalize_embeddings
        assert isinstance(texts, list)
        return np.array([[0.6, 0.8] for _ in texts], np.float16)


def test_a_model_of_sentence_transformers_is_an_encoder(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=_Model))
    encoder, other = load_encoder("sentence-transformers:one"), load_encoder("sentence-transformers:other")
    assert encoder.encode(("a", "b")).tolist() == [pytest.approx([0.6, 0.8], abs=1e-3)] * 2
    assert (encoder.encode([]).shape, encoder.size) == ((0, 2), 2)
    assert encoder.fingerprint != other.fingerprint
    with pytest.raises(FileNotFoundError, match="no such directory, and the hub does not give it"):
        load_encoder("sentence-transformers:absent")


def test_without_sentence_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModuleNotFoundError, match="pip install sentence-transformers, or take 'hashing'"):
        load_encoder("sentence-transformers:a-model")
