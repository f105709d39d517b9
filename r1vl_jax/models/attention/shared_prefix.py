"""Several continuations of one beginning, read as one sequence."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array


@dataclass(frozen=True)
class SharedPrefix:
    """What the last columns of a sequence are: continuations, side by side, of all that stands before them.

    A column of a branch sees the stem and its own branch, up to itself; the stem sees itself alone, causally.

        | stem ... | branch 0 | branch 1 | ... |

    Attributes:
        number: of branches.
        length: columns of each.
    """

    num_completions: int
    length: int

    def prefix_length(self, length: int) -> int:
        """Columns before the branches of a sequence of so many columns."""
        return length - self.num_completions * self.length

    def split_completions(self, array_BT: Array) -> Array:
        """Of [B, T, ...], every branch as a row of its own."""
        return array_BT[:, self.prefix_length(array_BT.shape[1]) :].reshape(-1, self.length, *array_BT.shape[2:])

    def repeat_prefix(self, array_BT: Array) -> Array:
        """The same behind the stem, which is repeated."""
        stem = array_BT[:, : self.prefix_length(array_BT.shape[1])]
        return jnp.concatenate(
            [jnp.repeat(stem, self.num_completions, axis=0), self.split_completions(array_BT)], axis=1
        )
