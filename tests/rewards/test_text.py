"""Decoding of tokens to bytes, against bytes joined on the host."""

import jax
import numpy as np

from r1vl_jax.rewards.text import Vocabulary, token_bytes

to_bytes = jax.jit(token_bytes, static_argnames="max_bytes")


def vocabulary_of(tokens: list[bytes]) -> Vocabulary:
    offset = np.cumsum([0, *map(len, tokens)], dtype=np.int32)
    return Vocabulary(offset, np.frombuffer(b"".join(tokens), np.uint8))


def test_every_token_of_a_large_vocabulary():
    rng = np.random.default_rng(0)
    tokens = [rng.bytes(int(length)) for length in rng.integers(0, 12, size=152_064)]
    tokens[77], tokens[-1] = rng.bytes(3_000), rng.bytes(700)
    token_BT = np.arange(152_064, dtype=np.int32).reshape(594, 256)
    mask_BT = rng.random(token_BT.shape) < 0.9
    mask_BT[0, 77] = True
    texts = [
        [tokens[token] if is_real else b"" for token, is_real in zip(*row, strict=True)]
        for row in zip(token_BT, mask_BT, strict=True)
    ]
    decoded = to_bytes(token_BT, mask_BT, vocabulary_of(tokens), max_bytes=4_608)
    byte_BU, length_B, token_of_byte_BU, overflow_B = map(np.asarray, decoded)
    assert not np.any(overflow_B)
    for row, pieces in enumerate(texts):
        text = b"".join(pieces)
        assert byte_BU[row, : length_B[row]].tobytes() == text
        assert not np.any(byte_BU[row, len(text) :])
        expected = np.repeat(np.arange(256), [len(piece) for piece in pieces])
        np.testing.assert_array_equal(token_of_byte_BU[row], np.append(expected, [-1] * (4_608 - len(text))))


def test_a_character_split_over_tokens_is_whole_again():
    euro = "€".encode()
    vocabulary = vocabulary_of([b"a", euro[:1], euro[1:2], euro[2:], b""])
    byte_BU, length_B, token_of_byte_BU, _ = to_bytes(
        np.array([[0, 1, 2, 3, 4, 0]]), np.ones((1, 6), bool), vocabulary, max_bytes=8
    )
    assert np.asarray(byte_BU[0, : length_B[0]]).tobytes().decode() == "a€a"
    np.testing.assert_array_equal(token_of_byte_BU[0], [0, 1, 2, 3, 5, -1, -1, -1])


def test_overflow_is_cut_and_reported():
    vocabulary = vocabulary_of([b"abc", b"defg"])
    tokens = np.array([[0, 1, 0], [0, 1, 0], [1, 1, 1]])
    mask = np.array([[True, True, False], [True, True, True], [False, False, False]])
    byte_BU, length_B, _, overflow_B = to_bytes(tokens, mask, vocabulary, max_bytes=7)
    np.testing.assert_array_equal(length_B, [7, 10, 0])
    np.testing.assert_array_equal(overflow_B, [False, True, False])
    assert np.asarray(byte_BU[1]).tobytes() == b"abcdefg"


def test_ids_beyond_the_vocabulary_have_no_bytes():
    byte_BU, length_B, _, _ = to_bytes(
        np.array([[0, 2, 9, 1]]), np.ones((1, 4), bool), vocabulary_of([b"ab", b"c"]), max_bytes=4
    )
    assert length_B[0] == 3
    assert np.asarray(byte_BU[0]).tobytes() == b"abc\0"
