"""Prompts that begin alike are read once: keys and values of what was read are kept, and the features of pictures.

A conversation that grows, or a question that is asked again with more at its end, is prefilled from where it differs.
Answers are those of reading anew, up to rounding.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from r1vl_jax.arrays import Params, PromptBatch
from r1vl_jax.data.collate import IMAGE
from r1vl_jax.data.images import PATCHES_PER_FEATURE, num_features, pack
from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.models.qwen2_vl.chunked import TOKENS_PER_CHUNK
from r1vl_jax.sampling.chunked_prefill import Places, continued_prefill, empty_pool
from r1vl_jax.sampling.loop import Prefilled
from r1vl_jax.sampling.sampler import Sampler

_MOST_PICTURES = 1_000  # whose features are kept


@dataclass(frozen=True)
class _Picture:
    """A picture of a prompt: its content, and its tokens [start, end)."""

    digest: bytes
    start: int
    end: int


@dataclass(frozen=True)
class _Row:
    """What a row of the pool has read, and when it was last used."""

    token_S: Int[np.ndarray, " S"]
    pictures: tuple[_Picture, ...]
    used: int


class PrefixReuse:
    """Keeps what prompts have read, of one model; for calls with at most `num_prompts` prompts of `width` tokens.

    Attributes:
        num_tokens: of all prompts so far.
        num_reused: of these, tokens whose keys and values were there already.
        num_pictures, num_reused_pictures: likewise, pictures and those that needed no vision tower.
    """

    def __init__(self, num_prompts: int, width: int):
        """Keeps twice as many prompts, the last used ones: (model's layers x key/value heads x head width x 2) a token.

        Args:
            width: a multiple of 128.
        """
        if num_prompts < 1 or width < 1 or width % TOKENS_PER_CHUNK:
            raise ValueError(
                f"expected at least 1 prompt and a multiple of {TOKENS_PER_CHUNK} tokens, got {num_prompts}, {width}"
            )
        self.num_tokens = self.num_reused = self.num_pictures = self.num_reused_pictures = 0
        self._rows: list[_Row | None] = [None] * (2 * num_prompts)
        self._num_prompts, self.width = num_prompts, width
        self._features: dict[bytes, Float[np.ndarray, "F D"]] = {}
        self._pool, self._clock = None, itertools.count(1)

    def describe(self) -> str:
        """The counts as a sentence."""
        return (
            f"{self.num_reused:,} of {self.num_tokens:,} tokens of prompts were not read again, and"
            f" {self.num_reused_pictures:,} of {self.num_pictures:,} pictures not seen again"
        )

    def fits(self, encoded: Sequence[EncodedPrompt]) -> bool:
        """Whether these prompts can be read here; those with videos cannot."""
        return len(encoded) <= self._num_prompts and all(
            len(prompt.token_S) <= self.width and not prompt.videos for prompt in encoded
        )

    def prefill(
        self, sampler: Sampler, params: Params, encoded: Sequence[EncodedPrompt], batch: PromptBatch
    ) -> Prefilled:
        """As `chunked_prefill`.

        Args:
            encoded: the prompts, which `fits` accepts.
            batch: of these prompts, `width` wide, and of further rows that nobody reads.
        """
        if self._pool is None:
            self._pool = empty_pool(sampler, len(self._rows) + 1, self.width)  # the last receives what nobody reads
        pictures = [_find_pictures(prompt) for prompt in encoded]
        found = [self._find(prompt.token_S, of_prompt) for prompt, of_prompt in zip(encoded, pictures, strict=True)]
        offsets = [self.width - len(prompt.token_S) for prompt in encoded]
        first = min(offset + shared for offset, (_, shared) in zip(offsets, found, strict=True))
        first -= first % TOKENS_PER_CHUNK
        targets = self._choose_targets(encoded, found)
        num_fillers = len(batch.prompt_id_P) - len(encoded)
        shifts = [
            0 if (row := self._rows[source]) is None else len(row.token_S) - len(prompt.token_S)
            for prompt, (source, _) in zip(encoded, found, strict=True)
        ]
        places = Places(
            np.array([*(source for source, _ in found), *[0] * num_fillers], np.int32),
            np.array([*shifts, *[0] * num_fillers], np.int32),
            np.array([*targets, *[len(self._rows)] * num_fillers], np.int32),
            np.int32(first),
        )
        batch, given_FD, computed = self._place_features(encoded, pictures, batch, first, sampler)
        prefilled, self._pool, feature_MD = continued_prefill(sampler)(params, batch, given_FD, self._pool, places)
        self._keep(encoded, pictures, targets, found, first)
        for digest, index in computed.items():
            self._features[digest] = np.asarray(feature_MD[index])
        while len(self._features) > _MOST_PICTURES:
            del self._features[next(iter(self._features))]
        return prefilled

    def _find(self, token_S: Int[np.ndarray, " S"], pictures: Sequence[_Picture]) -> tuple[int, int]:
        """The row that a prompt shares most tokens with, and how many; its last token is always read."""
        shared = [0 if row is None else _num_shared(row, token_S, pictures) for row in self._rows]
        best = int(np.argmax(shared))
        return best, min(shared[best], len(token_S) - 1)

    def _choose_targets(self, encoded: Sequence[EncodedPrompt], found: Sequence[tuple[int, int]]) -> list[int]:
        """A row for each prompt: the one that it continues, or else those that were not used for longest."""
        continued: dict[int, int] = {}  # row -> prompt
        for number, (source, shared) in enumerate(found):
            if (row := self._rows[source]) is not None and shared == len(row.token_S):
                continued.setdefault(source, number)
        row_of = {number: row for row, number in continued.items()}
        others = sorted(set(range(len(self._rows))) - continued.keys(), key=self._used)
        rest = iter(others)
        return [row_of[number] if number in row_of else next(rest) for number in range(len(encoded))]

    def _used(self, row: int) -> int:
        return 0 if (kept := self._rows[row]) is None else kept.used

    def _place_features(
        self,
        encoded: Sequence[EncodedPrompt],
        pictures: Sequence[Sequence[_Picture]],
        batch: PromptBatch,
        first: int,
        sampler: Sampler,
    ) -> tuple[PromptBatch, Float[np.ndarray, "F D"], dict[bytes, Int[np.ndarray, " F"]]]:
        """The batch with those pictures that the tower has to see, the features of others, and where the new ones are.

        A picture whose tokens are all known has no features; a picture that several prompts have is seen once.
        """
        offsets = [self.width - len(prompt.token_S) for prompt in encoded]
        needed = [
            (number, place, picture)
            for number, of_prompt in enumerate(pictures)
            for place, picture in enumerate(of_prompt)
            if offsets[number] + picture.end > first
        ]
        image_of = {picture.digest: encoded[number].images[place] for number, place, picture in needed}
        new = {digest: image for digest, image in image_of.items() if digest not in self._features}
        known = [digest for digest in image_of if digest in self._features]
        self.num_pictures += sum(map(len, pictures))
        self.num_reused_pictures += sum(map(len, pictures)) - len(new)

        num_patches = sum(int(np.prod(grid)) for _, grid in new.values())
        vision, starts = pack(list(new.values()), bucket=_bucket(num_patches, self.width * PATCHES_PER_FEATURE))
        num_places = vision.patch_ZMC.shape[1] // PATCHES_PER_FEATURE
        index_of = {
            digest: start + np.arange(num_features(grid))
            for (digest, (_, grid)), start in zip(new.items(), starts, strict=True)
        }
        computed, given, num_given = dict(index_of), [], 0
        for digest in known:
            given.append(self._features[digest])
            index_of[digest] = num_places + num_given + np.arange(len(given[-1]))
            num_given += len(given[-1])
        given_FD = np.zeros((_bucket(num_given, self.width), sampler.definition.config.hidden_size), np.float32)
        given_FD[:num_given] = np.concatenate([given_FD[:0], *given])

        feature_index_PS = np.full(batch.feature_index_PS.shape, -1, np.int32)
        for number, _, picture in needed:
            columns = slice(offsets[number] + picture.start, offsets[number] + picture.end)
            feature_index_PS[number, columns] = index_of[picture.digest]
        return dataclasses.replace(batch, feature_index_PS=feature_index_PS, vision=vision), given_FD, computed

    def _keep(
        self,
        encoded: Sequence[EncodedPrompt],
        pictures: Sequence[tuple[_Picture, ...]],
        targets: Sequence[int],
        found: Sequence[tuple[int, int]],
        first: int,
    ) -> None:
        now = next(self._clock)
        for source, shared in found:
            if shared >= TOKENS_PER_CHUNK and (row := self._rows[source]) is not None:
                self._rows[source] = dataclasses.replace(row, used=now)
        for prompt, of_prompt, target in zip(encoded, pictures, targets, strict=True):
            self._rows[target] = _Row(prompt.token_S, of_prompt, now)
            self.num_tokens += len(prompt.token_S)
            self.num_reused += max(first - (self.width - len(prompt.token_S)), 0)


def _find_pictures(prompt: EncodedPrompt) -> tuple[_Picture, ...]:
    """The pictures of a prompt, whose tokens stand in their order."""
    tokens = np.flatnonzero(prompt.type_S == IMAGE)
    sizes = [num_features(grid) for _, grid in prompt.images]
    starts = np.cumsum([0, *sizes])
    return tuple(
        _Picture(_digest(patches, grid), int(tokens[start]), int(tokens[start]) + size)
        for (patches, grid), start, size in zip(prompt.images, starts, sizes, strict=False)
    )


def _digest(patches: np.ndarray, grid: Sequence[int]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(patches).tobytes() + repr(tuple(grid)).encode()).digest()


def _num_shared(row: _Row, token_S: Int[np.ndarray, " S"], pictures: Sequence[_Picture]) -> int:
    """How many tokens both begin with; it ends where a picture of the two differs."""
    length = min(len(row.token_S), len(token_S))
    differs_S = row.token_S[:length] != token_S[:length]
    shared = int(np.argmax(differs_S)) if differs_S.any() else length
    for one, other in zip(row.pictures, pictures, strict=False):
        if one != other:
            return min(shared, one.start, other.start)
    return shared


def _bucket(size: int, least: int) -> int:
    """The smallest power of two times `least` that is not below a size."""
    while least < size:
        least *= 2
    return least
