"""Levenshtein's distance, with the columns of its table held as bits: Myers, 1999, https://doi.org/10.1145/316542.316550."""

import numpy as np
from jaxtyping import Bool


def edit_distance(one: str, other: str) -> int:
    """The fewest characters to insert, delete or replace that turn one text into the other.

    The bits of an integer are the longer text, so that a step is made for each character of the shorter one.
    """
    shorter, longer = sorted((one, other), key=len)
    if not shorter:
        return len(longer)
    codes_T = np.frombuffer(longer.encode("utf-32-le", "surrogatepass"), np.uint32)
    places = {character: _places(codes_T == ord(character)) for character in set(shorter)}
    every, last = (1 << len(longer)) - 1, 1 << (len(longer) - 1)
    more, less, distance = every, 0, len(longer)  # where a row is one more, or one less, than the row above it
    for character in shorter:
        equal = places[character]
        down = (((equal & more) + more) ^ more) | equal | less
        right_more, right_less = less | (every & ~(down | more)), down & more
        distance += bool(right_more & last) - bool(right_less & last)
        right_more, right_less = (right_more << 1 | 1) & every, right_less << 1 & every
        more, less = right_less | (every & ~(down | right_more)), down & right_more
    return distance


def _places(is_there_T: Bool[np.ndarray, " T"]) -> int:
    """The places of a text as the bits of an integer, the first one lowest."""
    return int.from_bytes(np.packbits(is_there_T, bitorder="little").tobytes(), "little")
