"""Episodes: what a rollout function makes of a record with the policy, turn by turn.

A turn is a prompt and what the policy wrote to it. Whatever was given, such as documents or the result of a tool, is in
a prompt; so what is learned from, and counted, is the policy's own text alone.
"""

import itertools
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from r1vl_jax.data.collate import IMAGE, TEXT, VIDEO
from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
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


_PLACEHOLDERS = {IMAGE: IMAGE_PLACEHOLDER, VIDEO: VIDEO_PLACEHOLDER}
OWN_METRICS = ("mean_turns", "ended")  # names that the trainer uses itself


def check_episodes(name: str, episodes: Any, num_expected: int) -> list[Episode]:
    """What a rollout function returned, if it is one episode for each sample.

    Raises:
        RolloutFunctionError: it is not; says what was expected and found.
    """
    expected = f"rollout function {name}: expected a list of {num_expected} episodes"
    if not isinstance(episodes, list | tuple) or not all(isinstance(episode, Episode) for episode in episodes):
        raise RolloutFunctionError(f"{expected}, got {episodes!r:.200}")
    if len(episodes) != num_expected:
        raise RolloutFunctionError(f"{expected}, num_generations of each record, got {len(episodes)}")
    for number, episode in enumerate(episodes):
        if fault := _fault(episode, set(episodes[0].metrics or ())):
            raise RolloutFunctionError(f"rollout function {name}: episode {number}: expected {fault}")
    return list(episodes)


def _fault(episode: Episode, names: set[str]) -> str:
    """What is wrong with an episode, as what was expected and found; "" if nothing is.

    Args:
        names: of the first episode's metrics.
    """
    if not isinstance(episode.turns, tuple) or not all(isinstance(turn, Turn) for turn in episode.turns):
        return f"a tuple of turns that policy.sample gave, got {episode.turns!r:.200}"
    rewards = episode.turn_rewards
    if not isinstance(rewards, Sequence) or len(rewards) not in (0, len(episode.turns)) or not _are_finite(rewards):
        return f"a finite reward for each of its {len(episode.turns)} turns, or none, got {rewards!r:.200}"
    metrics = episode.metrics
    if not isinstance(metrics, Mapping) or set(metrics) != names or not _are_finite(list(metrics.values())):
        return f"metrics that are finite numbers, of the same names as the first, {sorted(names)}, got {metrics!r:.200}"
    if taken := names.intersection(OWN_METRICS):
        return f"metrics of other names than {', '.join(sorted(taken))}"
    return "" if isinstance(episode.ended, str) else f"a word for `ended`, got {episode.ended!r:.100}"


def _are_finite(values: Sequence[Any]) -> bool:
    return all(isinstance(value, numbers.Real) and math.isfinite(value) for value in values)


def shown(episode: Episode, decode: Callable[[Sequence[int]], str]) -> Iterator[tuple[str, str]]:
    """What each turn was given, and what the policy wrote: a prompt without what it repeats of the turn before.

    What the policy wrote in the turn before is learned from there, so that it is left out, too.

    Args:
        decode: token ids to text.
    """
    before, written = [], ""
    for turn in episode.turns:
        ids = turn.prompt.token_S.tolist()
        goes_on = bool(before) and ids[: len(before)] == before
        start = len(before) if goes_on else 0
        given = "".join(_spell(ids[start:], turn.prompt.type_S[start:], decode))
        yield given.removeprefix(written) if goes_on else given, turn.text
        before, written = ids, turn.text


def _spell(ids: Sequence[int], types: np.ndarray, decode: Callable[[Sequence[int]], str]) -> Iterator[str]:
    """The text of a prompt; what takes many tokens, an image, is a placeholder."""
    for kind, group in itertools.groupby(zip(ids, types, strict=True), lambda pair: pair[1]):
        yield decode([token for token, _ in group]) if kind == TEXT else _PLACEHOLDERS[kind]
