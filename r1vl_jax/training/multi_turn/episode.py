"""Episodes: what a rollout function makes of a record with the policy, turn by turn.

A turn is a prompt and what the policy wrote to it. Whatever was given, such as documents or the result of a tool, is in
a prompt; so what is learned from, and counted, is the policy's own text alone.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from r1vl_jax.data.collate import TEXT
from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER
from r1vl_jax.data.prompts import EncodedPrompt


@dataclass(frozen=True)
class Turn:
    """A prompt, and a completion of it that the policy sampled.

    Attributes:
        token_T: of the completion, the end-of-sequence token included.
        logp_T: of these tokens under the policy that sampled, in nats.
        text: of the completion, without special tokens.
        has_ended: False if it was cut at the most tokens.
    """

    prompt: EncodedPrompt
    token_T: Int[np.ndarray, " T"]
    logp_T: Float[np.ndarray, " T"]
    text: str
    has_ended: bool

    @property
    def num_tokens(self) -> int:
        """Of the completion."""
        return len(self.token_T)


@dataclass(frozen=True)
class Episode:
    """The turns of one sample of a record, in order.

    Attributes:
        turns: may be none, where not even the first prompt could be written.
        turn_rewards: of each turn, in reward units; () is 0 for all. They are added to the rewards of the
            configuration, which look at the last turn's text.
        ended: why there is no further turn, in a word; `episodes/ended/WORD` is the fraction that ended so.
        metrics: numbers whose means over episodes are logged as `episodes/NAME`; the same names in all episodes.
    """

    turns: tuple[Turn, ...]
    turn_rewards: tuple[float, ...] = ()
    ended: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    def reward_of_turns(self) -> list[float]:
        """`turn_rewards`, with their zeros."""
        return list(self.turn_rewards) or [0.0] * len(self.turns)


class RolloutFunctionError(ValueError):
    """A rollout function raised, or returned what are no episodes; the message says which, where and why."""


def check_episodes(name: str, episodes: Any, num_expected: int) -> list[Episode]:
    """What a rollout function returned, if it is one episode for each sample.

    Raises:
        RolloutFunctionError: it is not; says what was expected and found.
    """
    expected = f"rollout function {name}: expected a list of {num_expected} episodes"
    if not isinstance(episodes, Sequence) or not all(isinstance(episode, Episode) for episode in episodes):
        raise RolloutFunctionError(f"{expected}, got {episodes!r:.200}")
    if len(episodes) != num_expected:
        raise RolloutFunctionError(f"{expected}, num_generations of each record, got {len(episodes)}")
    for number, episode in enumerate(episodes):
        rewards = np.asarray(episode.reward_of_turns(), np.float64)
        if rewards.shape != (len(episode.turns),) or not np.isfinite(rewards).all():
            raise RolloutFunctionError(
                f"rollout function {name}: episode {number}: expected a finite reward for each of its"
                f" {len(episode.turns)} turns, or none, got {episode.turn_rewards!r:.200}"
            )
        if (names := set(episode.metrics)) != (expected_names := set(episodes[0].metrics)):
            raise RolloutFunctionError(
                f"rollout function {name}: episode {number}: expected metrics of the same names as the first,"
                f" {sorted(expected_names)}, got {sorted(names)}"
            )
    return list(episodes)


def shown(episode: Episode, decode: Callable[[Sequence[int]], str]) -> Iterator[tuple[str, str]]:
    """What each turn was given, and what the policy wrote: a prompt without what it repeats of the turn before.

    Args:
        decode: token ids to text.
    """
    before: list[int] = []
    for turn in episode.turns:
        ids = turn.prompt.token_S.tolist()
        num_repeated = len(before) if before and ids[: len(before)] == before else 0
        yield "".join(_spell(ids[num_repeated:], turn.prompt.type_S[num_repeated:], decode)), turn.text
        before = ids


def _spell(ids: Sequence[int], types: np.ndarray, decode: Callable[[Sequence[int]], str]) -> Iterator[str]:
    """The text of a prompt; what takes many tokens, an image, is a placeholder."""
    for kind, group in itertools.groupby(zip(ids, types, strict=True), lambda pair: pair[1]):
        yield decode([token for token, _ in group]) if kind == TEXT else IMAGE_PLACEHOLDER
