"""Several completions of one prompt packed into one sequence, so that the prompt is computed once for all of them."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array


@dataclass(frozen=True)
class SharedPrefix:
    """Layout of a sequence that holds a prefix once, followed by its G completions side by side.

        | prefix ... | completion 0 | completion 1 | ... | completion G-1 |

    The prefix is causal. A completion's token attends to the prefix and, causally, to its own completion; completions
    do not attend to each other. Visible keys (x) for a prefix of 3 and two completions of 2 columns:

                      keys   p p p | a a | b b
        queries   prefix p   x
                         p   x x
                         p   x x x
            completion 0 a   x x x | x
                         a   x x x | x x
            completion 1 b   x x x |     | x
                         b   x x x |     | x x

    Attributes:
        num_completions: completions G after the prefix.
        completion_length: columns of each completion, padding included.
    """

    num_completions: int
    completion_length: int

    def prefix_length(self, sequence_length: int) -> int:
        """Columns of the prefix in a sequence of this total length."""
        return sequence_length - self.num_completions * self.completion_length

    def split_completions(self, array_BT: Array) -> Array:
        """[B, T, ...] -> [B*G, completion_length, ...]: every completion as a row, without the prefix."""
        prefix_length = self.prefix_length(array_BT.shape[1])
        return array_BT[:, prefix_length:].reshape(-1, self.completion_length, *array_BT.shape[2:])

    def repeat_prefix(self, array_BT: Array) -> Array:
        """[B, T, ...] -> [B*G, prefix + completion_length, ...]: every completion after a copy of the prefix."""
        prefix = array_BT[:, : self.prefix_length(array_BT.shape[1])]
        return jnp.concatenate(
            [jnp.repeat(prefix, self.num_completions, axis=0), self.split_completions(array_BT)], axis=1
        )
