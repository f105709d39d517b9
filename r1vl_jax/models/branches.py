"""Several continuations of one beginning, read as one sequence."""

from dataclasses import dataclass


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
