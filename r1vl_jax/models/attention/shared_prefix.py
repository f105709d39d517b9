"""Several continuations of one beginning, read as one sequence."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array


@dataclass(frozen=True)
class Branches:
    """What the last columns of a sequence are: continuations, side by side, of all that stands before them.

    A column of a branch sees the stem and its own branch, up to itself; the stem sees itself alone, causally.

        | stem ... | branch 0 | branch 1 | ... |

    Attributes:
        number: of branches.
        length: columns of each.
    """

    number: int
    length: int

    def stem(self, length: int) -> int:
        """Columns before the branches of a sequence of so many columns."""
        return length - self.number * self.length

    def own(self, array_BT: Array) -> Array:
        """Of [B, T, ...], every branch as a row of its own."""
        return array_BT[:, self.stem(array_BT.shape[1]) :].reshape(-1, self.length, *array_BT.shape[2:])

    def with_stem(self, array_BT: Array) -> Array:
        """The same behind the stem, which is repeated."""
        stem = array_BT[:, : self.stem(array_BT.shape[1])]
        return jnp.concatenate([jnp.repeat(stem, self.number, axis=0), self.own(array_BT)], axis=1)
