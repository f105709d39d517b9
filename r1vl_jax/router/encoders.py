"""Encoders of texts as vectors, by name: the cosine of two vectors says how alike two texts are.

encoder = load_encoder("hashing")                            # no download
encoder = load_encoder("sentence-transformers:BAAI/bge-m3")  # or a directory in place of the name
vector_ND = encoder.encode(["a text", "another one"])
"""

import functools
import hashlib
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Int

from r1vl_jax.router.words import split_words

HASHING = "hashing"
_SENTENCE_TRANSFORMERS = "sentence-transformers:"
_SIZE = 512  # of the hashing encoder's vectors
_GRAM_LENGTHS = (3, 4)
# English words that say little of what a text is about, and what they weigh.
_FUNCTION_WORDS = frozenset(
    "a an and are as at be but by did do does for from had has have how if in into is it its many much not of on or"
    " that the their them there these they this those to was were what when where which who whom whose why will"
    " with".split()
)
_FUNCTION_WORD_WEIGHT = 0.2
_MAX_KNOWN_WORDS = 200_000
_BATCH = 64  # texts that a model encodes at a time


class Encoder(Protocol):
    """Turns texts into vectors.

    Attributes:
        size: D, numbers of a vector.
        fingerprint: two encoders with one fingerprint give the same vectors.
    """

    size: int
    fingerprint: str

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "N D"]:
        """A row of norm 1 for each text, also for an empty one."""
        ...


@functools.lru_cache(maxsize=4)
def load_encoder(name: str) -> Encoder:
    """The encoder of a name; asked again, the same one.

    Args:
        name: "hashing", "hashing:SIZE", or "sentence-transformers:NAME" of a model on the hub or in a directory.

    Raises:
        ValueError: the name is not known.
        ModuleNotFoundError: sentence-transformers is not installed; says how.
        FileNotFoundError: there is no model of this name.
    """
    if name.startswith(_SENTENCE_TRANSFORMERS):
        return _SentenceEncoder(name.removeprefix(_SENTENCE_TRANSFORMERS))
    kind, _, size = name.partition(":")
    if name == HASHING or (kind == HASHING and size.isdecimal() and int(size) > 0):
        return HashingEncoder(int(size or _SIZE))
    raise ValueError(f"encoder {name!r}: expected {HASHING}, {HASHING}:SIZE, or {_SENTENCE_TRANSFORMERS}NAME_OR_DIR")


class HashingEncoder:
    """Words and n-grams of their characters, hashed to numbers of the vector: no model, no download, no training.

    A word of n occurrences weighs 1 + ln(n), a function word of English a fifth of that, and its n-grams, of 3 and 4
    characters with its borders, as much together. Texts are alike if they share words, or words of one stem; synonyms
    are strangers.
    """

    def __init__(self, size: int = _SIZE):
        self.size = size
        self.fingerprint = f"{HASHING}:{size} version 1"
        self._features = functools.lru_cache(_MAX_KNOWN_WORDS)(self._hash_word)

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "N D"]:
        vector_ND = np.zeros((len(texts), self.size), np.float32)
        for vector_D, text in zip(vector_ND, texts, strict=True):
            vector_D += self._encode(Counter(split_words(text)) or {"": 1})
        norm_N = np.linalg.norm(vector_ND, axis=1, keepdims=True)
        vector_ND[norm_N[:, 0] == 0, 0] = norm_N[norm_N == 0] = 1.0  # features that cancel each other
        return vector_ND / norm_N

    def _encode(self, counts: Mapping[str, int]) -> Float32[np.ndarray, " D"]:
        features = [self._features(word) for word in counts]
        frequency = np.repeat(1 + np.log(list(counts.values())), [len(index) for index, _ in features])
        index, weight = (np.concatenate(each) for each in zip(*features, strict=True))
        return np.bincount(index, weight * frequency, self.size)

    def _hash_word(self, word: str) -> tuple[Int[np.ndarray, " F"], Float32[np.ndarray, " F"]]:
        """The numbers that the features of a word are added to, and how much each adds."""
        bordered = f"<{word}>"
        grams = [bordered[i : i + n] for n in _GRAM_LENGTHS for i in range(len(bordered) - n + 1)]
        hashed = [zlib.crc32(feature.encode("utf-8", "surrogatepass")) for feature in (f"word {word}", *grams)]
        weights = np.array([1.0, *[len(grams) ** -0.5 for _ in grams]], np.float32)
        weights *= _FUNCTION_WORD_WEIGHT if word in _FUNCTION_WORDS else 1.0
        signs = [1 if each >> 31 else -1 for each in hashed]
        return np.array(hashed) % self.size, weights * signs


class _SentenceEncoder:
    """A model of sentence-transformers."""

    def __init__(self, model: str):
        try:
            # Imported here because it brings PyTorch, which nothing else needs.
            from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"encoder {_SENTENCE_TRANSFORMERS}{model} needs sentence-transformers: pip install"
                f" sentence-transformers, or take {HASHING!r}, which needs no model"
            ) from error
        try:
            self._model: Any = SentenceTransformer(model)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"encoder {_SENTENCE_TRANSFORMERS}{model}: no such directory, and the hub does not give it: {error}"
            ) from error
        self.size = self.encode([""]).shape[1]
        self.fingerprint = f"{_SENTENCE_TRANSFORMERS}{self.size} {_digest(self._model.state_dict())}"

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "N D"]:
        if not texts:
            return np.zeros((0, self.size), np.float32)
        vector_ND = self._model.encode(
            list(texts), batch_size=_BATCH, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(vector_ND, np.float32)


def _digest(weights: Mapping[str, Any]) -> str:
    """Of the names and shapes of weights, and the first values of each."""
    facts = [(name, tuple(each.shape), each.flatten()[:8].float().tolist()) for name, each in weights.items()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
