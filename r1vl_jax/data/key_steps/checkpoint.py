"""A checkpoint as the language model that finds key steps."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from r1vl_jax.data.key_steps.replies import Ask, Reply

_ROWS = 16  # prompts that are answered at one time
_MAX_NEW_TOKENS = 1024


def asks(generate: Callable[..., Any]) -> Ask:
    """Asks a checkpoint, given its `generate`, for its likeliest tokens."""
    return partial(_ask, partial(generate, max_new_tokens=_MAX_NEW_TOKENS, instruction=""))


def _ask(generate: Callable[..., Any], prompts: Sequence[str]) -> Iterator[tuple[str, Reply]]:
    for start in range(0, len(prompts), _ROWS):
        batch = prompts[start : start + _ROWS]
        yield from zip(batch, _replies(generate, batch), strict=True)


def _replies(generate: Callable[..., Any], prompts: Sequence[str]) -> list[Reply]:
    """Of one batch; where a prompt cannot be asked, of each alone."""
    try:
        answers = generate([[{"role": "user", "content": prompt}] for prompt in prompts])
    except ValueError as error:
        if len(prompts) == 1:
            return [Reply(error=str(error))]
        return [reply for prompt in prompts for reply in _replies(generate, [prompt])]
    return [
        Reply(answer) if answer.has_ended else Reply(error=f"longer than {_MAX_NEW_TOKENS:,} tokens")
        for answer in answers
    ]
