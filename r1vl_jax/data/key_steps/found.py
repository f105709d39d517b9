"""What was found in a worked solution: its key steps, and what is none."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Group = tuple[str, ...]


@dataclass(frozen=True)
class KeySteps:
    """The key steps of a solution.

    Attributes:
        groups: each the equivalent spellings of a key step, in the order of the solution.
        reasons: first spelling of a group -> why it is a key step; of one that was written by hand there is none.
        left_out: what was found and is no key step -> why not.
    """

    groups: tuple[Group, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
